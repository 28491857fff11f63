//! A semaphore that shares its permits fairly between clients.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::client::Client;
use crate::lock;

/// A semaphore whose next permit goes to the client that holds the fewest; of several such clients to the one that
/// received its last permit longest ago, then to the one that has waited longest. Requests of one client are served in
/// order. If more requests wait than `max_waiting`, the oldest request of the client with the most is rejected.
#[derive(Debug)]
pub struct FairSemaphore {
    limit: usize,
    max_waiting: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    waiting: usize,
    /// Counts permits and waits, to compare their age.
    time: u64,
    /// Clients that hold a permit or wait for one.
    clients: HashMap<Client, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    held: usize,
    /// The time of the last permit.
    last: u64,
    waiting: VecDeque<(u64, oneshot::Sender<FairPermit>)>,
}

/// A permit; released when it is dropped.
#[derive(Debug)]
pub struct FairPermit {
    semaphore: Arc<FairSemaphore>,
    client: Client,
}

impl FairSemaphore {
    /// A semaphore with `limit` permits, for which at most `max_waiting` requests may wait.
    pub fn new(limit: usize, max_waiting: usize) -> Arc<Self> {
        Arc::new(Self { limit, max_waiting, state: Mutex::default() })
    }

    /// Waits for a permit. None if the request was rejected because too many wait.
    pub async fn acquire(self: &Arc<Self>, client: Client) -> Option<FairPermit> {
        let granted = {
            let mut state = lock(&self.state);
            if state.held < self.limit {
                state.grant(client);
                return Some(FairPermit { semaphore: Arc::clone(self), client });
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting += 1;
            state.time += 1;
            let now = state.time;
            state.clients.entry(client).or_default().waiting.push_back((now, sender));
            if state.waiting > self.max_waiting {
                state.reject_oldest();
            }
            receiver
        };
        granted.await.ok()
    }

    /// Whether the next request has to wait.
    pub fn is_exhausted(&self) -> bool {
        lock(&self.state).held >= self.limit
    }

    /// Whether any request waits.
    pub fn has_waiters(&self) -> bool {
        lock(&self.state).waiting > 0
    }

    /// Whether a client holds its fair share of all permits or more.
    pub fn holds_fair_share(&self, client: Client) -> bool {
        let state = lock(&self.state);
        let held = state.clients.get(&client).map_or(0, |queue| queue.held);
        held * state.clients.len() >= self.limit
    }

    /// Gives a released permit to the next request.
    fn release(self: &Arc<Self>, from: Client) {
        let next = {
            let mut state = lock(&self.state);
            state.release(from);
            state.next()
        };
        if let Some((client, sender)) = next {
            // If the receiver was dropped meanwhile, so is the permit, which releases it again.
            let _ = sender.send(FairPermit { semaphore: Arc::clone(self), client });
        }
    }
}

impl State {
    fn grant(&mut self, client: Client) {
        self.held += 1;
        self.time += 1;
        let queue = self.clients.entry(client).or_default();
        queue.held += 1;
        queue.last = self.time;
    }

    fn release(&mut self, client: Client) {
        self.held -= 1;
        if let Some(queue) = self.clients.get_mut(&client) {
            queue.held -= 1;
        }
        // Remove requests that were cancelled.
        self.waiting = 0;
        self.clients.retain(|_, queue| {
            queue.waiting.retain(|(_, sender)| !sender.is_closed());
            self.waiting += queue.waiting.len();
            queue.held > 0 || !queue.waiting.is_empty()
        });
    }

    fn reject_oldest(&mut self) {
        let oldest = |queue: &Queue| queue.waiting.front().map(|(since, _)| Reverse(*since));
        // Of clients with equally many, the one that has waited longest: it will retry soon, and a new one has had no chance yet.
        if let Some(queue) =
            self.clients.values_mut().max_by_key(|queue| (queue.waiting.len(), oldest(queue)))
        {
            queue.waiting.pop_front();
            self.waiting -= 1;
        }
    }

    fn next(&mut self) -> Option<(Client, oneshot::Sender<FairPermit>)> {
        let since = |queue: &Queue| queue.waiting.front().map(|(since, _)| *since);
        let waiting = self.clients.iter_mut().filter(|(_, queue)| !queue.waiting.is_empty());
        let (client, queue) = waiting.min_by_key(|(_, queue)| (queue.held, queue.last, since(queue)))?;
        let (client, (_, sender)) = (*client, queue.waiting.pop_front()?);
        self.waiting -= 1;
        self.grant(client);
        Some((client, sender))
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        self.semaphore.release(self.client);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;

    fn client(last: u8) -> Client {
        SocketAddr::from(([10, 0, 0, last], 1)).into()
    }

    /// The order in which clients receive permits, while each permit is released at once.
    async fn order(semaphore: &Arc<FairSemaphore>, waiting: &[Client]) -> Vec<Client> {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        for &client in waiting {
            let (semaphore, sender) = (Arc::clone(semaphore), sender.clone());
            tokio::spawn(async move {
                let permit = semaphore.acquire(client).await.unwrap();
                sender.send(permit.client).unwrap();
            });
            tokio::task::yield_now().await;
        }
        drop(sender);
        let mut order = Vec::new();
        while let Some(client) = receiver.recv().await {
            order.push(client);
        }
        order
    }

    #[tokio::test]
    async fn a_client_does_not_wait_behind_all_requests_of_another() {
        let semaphore = FairSemaphore::new(1, 100);
        let first = semaphore.acquire(client(1)).await.unwrap();
        let waits = [[client(1); 20].as_slice(), &[client(2), client(3), client(2)]].concat();
        let (order, ()) = tokio::join!(order(&semaphore, &waits), async {
            while lock(&semaphore.state).waiting < waits.len() {
                tokio::task::yield_now().await;
            }
            drop(first);
        });
        assert_eq!(order[..5], [client(2), client(3), client(1), client(2), client(1)]);
        assert_eq!(order.len(), waits.len());
        assert!(lock(&semaphore.state).clients.is_empty() && !semaphore.has_waiters());
    }

    #[tokio::test]
    async fn a_cancelled_request_uses_no_permit() {
        let semaphore = FairSemaphore::new(1, 100);
        let first = semaphore.acquire(client(1)).await.unwrap();
        for _ in 0..3 {
            assert!(
                tokio::time::timeout(Duration::from_millis(1), semaphore.acquire(client(2))).await.is_err()
            );
        }
        assert!(semaphore.has_waiters(), "noticed when a permit is released");
        drop(first);
        assert!(!semaphore.has_waiters());
        let _second = semaphore.acquire(client(3)).await.unwrap();
        assert_eq!(lock(&semaphore.state).held, 1);
    }

    #[tokio::test]
    async fn beyond_the_limit_the_oldest_request_of_the_client_with_the_most_is_rejected() {
        let semaphore = FairSemaphore::new(1, 3);
        let first = semaphore.acquire(client(1)).await.unwrap();
        let waits = [1, 1, 2, 1, 3, 2, 4].map(|last| {
            let semaphore = Arc::clone(&semaphore);
            tokio::spawn(async move { semaphore.acquire(client(last)).await.is_some() })
        });
        while lock(&semaphore.state).time < 8 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lock(&semaphore.state).waiting, 3);
        drop(first);
        let mut served = Vec::new();
        for wait in waits {
            served.push(wait.await.unwrap());
        }
        // Of client 1 the first two and of client 2 the first; then, as each has one, the oldest.
        assert_eq!(served, [false, false, false, false, true, true, true]);
        assert!(lock(&semaphore.state).clients.is_empty() && !semaphore.has_waiters());
    }

    #[tokio::test]
    async fn the_fair_share_is_the_limit_divided_by_the_number_of_clients() {
        let semaphore = FairSemaphore::new(4, 0);
        let mut held = Vec::new();
        for last in [1, 1, 1, 2] {
            held.push(semaphore.acquire(client(last)).await.unwrap());
        }
        assert!(semaphore.holds_fair_share(client(1)) && !semaphore.holds_fair_share(client(2)));
        held.pop();
        assert!(!semaphore.holds_fair_share(client(1)), "alone with three of four");
    }
}
