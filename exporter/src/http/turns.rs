//! What is scarce, shared fairly: places for connections, and work that anyone can cause.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::lock;

/// Who asks: an IPv4 address or an IPv6 network of 64 bits, since one host may have as many addresses of that as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl Client {
    /// Who asks without an address.
    pub const NOBODY: Self = Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
}

impl From<SocketAddr> for Client {
    fn from(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            ip => Self(ip),
        }
    }
}

/// So many turns at once. The next goes to the client that holds the fewest, then to the one that was served longest
/// ago, then to the one that has waited longest; a client's own wait in order. When more wait than may, the oldest of the
/// client of which the most wait is turned away.
#[derive(Debug)]
pub struct Turns {
    limit: usize,
    may_wait: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    waiting: usize,
    /// Counts turns and waits, so that they can be compared by age.
    time: u64,
    /// Who holds a turn or waits for one.
    clients: HashMap<Client, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    held: usize,
    last: u64,
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
}

/// A turn that is held; released when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    client: Client,
}

impl Turns {
    /// At most `limit` at once, while at most `may_wait` wait.
    pub fn new(limit: usize, may_wait: usize) -> Arc<Self> {
        Arc::new(Self { limit, may_wait, state: Mutex::default() })
    }

    /// Waits for a turn. None: this one was turned away, since more wait than may.
    pub async fn wait(self: &Arc<Self>, client: Client) -> Option<Turn> {
        let granted = {
            let mut state = lock(&self.state);
            if state.held < self.limit {
                state.grant(client);
                return Some(Turn { turns: Arc::clone(self), client });
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting += 1;
            state.time += 1;
            let now = state.time;
            state.clients.entry(client).or_default().waiting.push_back((now, sender));
            if state.waiting > self.may_wait {
                state.turn_away();
            }
            receiver
        };
        granted.await.ok()
    }

    /// Whether the next has to wait.
    pub fn are_all_taken(&self) -> bool {
        lock(&self.state).held >= self.limit
    }

    /// Whether anyone waits.
    pub fn are_short(&self) -> bool {
        lock(&self.state).waiting > 0
    }

    /// Whether a client holds its share of all turns or more.
    pub fn has_its_share(&self, client: Client) -> bool {
        let state = lock(&self.state);
        let held = state.clients.get(&client).map_or(0, |queue| queue.held);
        held * state.clients.len() >= self.limit
    }

    /// Passes on a turn that was released.
    fn pass_on(self: &Arc<Self>, from: Client) {
        let next = {
            let mut state = lock(&self.state);
            state.release(from);
            state.next()
        };
        if let Some((client, sender)) = next {
            // One that has gone meanwhile drops it, and so releases it at once.
            let _ = sender.send(Turn { turns: Arc::clone(self), client });
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
        // Those who gave up waiting.
        self.waiting = 0;
        self.clients.retain(|_, queue| {
            queue.waiting.retain(|(_, sender)| !sender.is_closed());
            self.waiting += queue.waiting.len();
            queue.held > 0 || !queue.waiting.is_empty()
        });
    }

    fn turn_away(&mut self) {
        let oldest = |queue: &Queue| queue.waiting.front().map(|(since, _)| Reverse(*since));
        // Of as many, the one that has waited longest: it will soon come again, and a newcomer has not yet had its time.
        if let Some(queue) =
            self.clients.values_mut().max_by_key(|queue| (queue.waiting.len(), oldest(queue)))
        {
            queue.waiting.pop_front();
            self.waiting -= 1;
        }
    }

    fn next(&mut self) -> Option<(Client, oneshot::Sender<Turn>)> {
        let since = |queue: &Queue| queue.waiting.front().map(|(since, _)| *since);
        let waiting = self.clients.iter_mut().filter(|(_, queue)| !queue.waiting.is_empty());
        let (client, queue) = waiting.min_by_key(|(_, queue)| (queue.held, queue.last, since(queue)))?;
        let (client, (_, sender)) = (*client, queue.waiting.pop_front()?);
        self.waiting -= 1;
        self.grant(client);
        Some((client, sender))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.pass_on(self.client);
    }
}

/// Work that takes CPU time and that anyone can cause: one piece at a time, and a pause after each as long as it took. So
/// one `Paced` takes at most half of the thread's time; two of them do not know of each other.
#[derive(Debug)]
pub struct Paced(Arc<Turns>);

impl Default for Paced {
    fn default() -> Self {
        Self(Turns::new(1, usize::MAX))
    }
}

impl Paced {
    /// Waits for a turn and works; none when no turn can come.
    pub async fn run<T>(&self, client: Client, work: impl FnOnce() -> T) -> Option<T> {
        Some(Self::work(self.turn(client).await?, work))
    }

    /// Waits for a turn.
    pub async fn turn(&self, client: Client) -> Option<Turn> {
        self.0.wait(client).await
    }

    /// Works in a turn.
    pub fn work<T>(turn: Turn, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        Self::rest(turn, begun.elapsed());
        done
    }

    /// Makes a future and does its first step in a turn, with half a rest, since many may come at once that are all
    /// right; what it waits for then is not counted.
    pub async fn first_step<F: Future + Unpin>(turn: Turn, start: impl FnOnce() -> F) -> F::Output {
        let begun = Instant::now();
        let mut work = start();
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut work).poll(cx))).await;
        Self::rest(turn, begun.elapsed() / 2);
        match first {
            Poll::Ready(done) => done,
            Poll::Pending => work.await,
        }
    }

    /// Nobody can be seen to wait yet: on a runtime of one thread the next comes once this has returned.
    fn rest(turn: Turn, worked: Duration) {
        tokio::spawn(async move {
            tokio::time::sleep(worked).await;
            drop(turn);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> Client {
        SocketAddr::from(([10, 0, 0, last], 1)).into()
    }

    #[test]
    fn an_ipv6_network_and_a_mapped_ipv4_address_are_one_client() {
        let of = |text: &str| Client::from(text.parse::<SocketAddr>().unwrap());
        assert_eq!(of("[2001:db8:1:2::1]:80"), of("[2001:db8:1:2:ffff::9]:81"));
        assert_ne!(of("[2001:db8:1:2::1]:80"), of("[2001:db8:1:3::1]:80"));
        assert_eq!(of("[::ffff:10.0.0.7]:80"), client(7));
        assert_ne!(client(7), client(8));
    }

    /// Clients whose turn comes, in order, while each turn is released at once.
    async fn order(turns: &Arc<Turns>, waiting: &[Client]) -> Vec<Client> {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        for &client in waiting {
            let (turns, sender) = (Arc::clone(turns), sender.clone());
            tokio::spawn(async move {
                let turn = turns.wait(client).await.unwrap();
                sender.send(turn.client).unwrap();
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
    async fn a_newcomer_is_not_behind_the_many_of_another() {
        let turns = Turns::new(1, 100);
        let first = turns.wait(client(1)).await.unwrap();
        let waits = [[client(1); 20].as_slice(), &[client(2), client(3), client(2)]].concat();
        let (order, ()) = tokio::join!(order(&turns, &waits), async {
            while lock(&turns.state).waiting < waits.len() {
                tokio::task::yield_now().await;
            }
            drop(first);
        });
        assert_eq!(order[..5], [client(2), client(3), client(1), client(2), client(1)]);
        assert_eq!(order.len(), waits.len());
        assert!(lock(&turns.state).clients.is_empty() && !turns.are_short());
    }

    #[tokio::test]
    async fn who_gave_up_waiting_loses_nobody_a_turn() {
        let turns = Turns::new(1, 100);
        let first = turns.wait(client(1)).await.unwrap();
        for _ in 0..3 {
            assert!(tokio::time::timeout(Duration::from_millis(1), turns.wait(client(2))).await.is_err());
        }
        assert!(turns.are_short(), "found out when a turn is handed over");
        drop(first);
        assert!(!turns.are_short());
        let _second = turns.wait(client(3)).await.unwrap();
        assert_eq!(lock(&turns.state).held, 1);
    }

    #[tokio::test]
    async fn beyond_the_limit_the_oldest_of_who_wants_the_most_is_turned_away() {
        let turns = Turns::new(1, 3);
        let first = turns.wait(client(1)).await.unwrap();
        let waits = [1, 1, 2, 1, 3, 2, 4].map(|last| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.wait(client(last)).await.is_some() })
        });
        while lock(&turns.state).time < 8 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lock(&turns.state).waiting, 3);
        drop(first);
        let mut served = Vec::new();
        for wait in waits {
            served.push(wait.await.unwrap());
        }
        // Of client 1 the first two and of client 2 the first; then, as each has one, the oldest.
        assert_eq!(served, [false, false, false, false, true, true, true]);
        assert!(lock(&turns.state).clients.is_empty() && !turns.are_short());
    }

    #[tokio::test]
    async fn a_share_is_a_part_of_all_by_the_clients_there_are() {
        let turns = Turns::new(4, 0);
        let mut held = Vec::new();
        for last in [1, 1, 1, 2] {
            held.push(turns.wait(client(last)).await.unwrap());
        }
        assert!(turns.has_its_share(client(1)) && !turns.has_its_share(client(2)));
        held.pop();
        assert!(!turns.has_its_share(client(1)), "alone with three of four");
    }

    #[tokio::test]
    async fn work_takes_half_of_the_time_at_most() {
        const WORK: Duration = Duration::from_millis(5);
        let paced = Arc::new(Paced::default());
        let start = Instant::now();
        let work = |_| {
            let paced = Arc::clone(&paced);
            tokio::spawn(async move { paced.run(client(1), || std::thread::sleep(WORK)).await })
        };
        for work in (0..10).map(work).collect::<Vec<_>>() {
            work.await.unwrap().unwrap();
        }
        let took = start.elapsed();
        // Ten pieces and the rests between them.
        assert!(took >= 19 * WORK, "{took:?}");
    }

    #[tokio::test]
    async fn what_a_first_step_waits_for_holds_nobody_up() {
        let paced = Paced::default();
        let (sender, receiver) = oneshot::channel();
        let turn = paced.turn(client(1)).await.unwrap();
        let waits = Paced::first_step(turn, || receiver);
        let other = async {
            tokio::task::yield_now().await;
            paced.run(client(1), || sender.send(7).unwrap()).await
        };
        let (first, second) = tokio::join!(waits, other);
        assert_eq!((first, second), (Ok(7), Some(())));
    }
}
