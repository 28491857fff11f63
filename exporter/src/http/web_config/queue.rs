//! The order in which passwords are checked.
//!
//! A check takes about 50 ms of CPU time, and any client can cause one. So addresses alternate, and within an address
//! a connection that was refused recently comes after the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::http::Client;

/// The most checks that wait, in total and for one address.
const MAX_WAITING: usize = 256;
const MAX_WAITING_PER_ADDRESS: usize = 64;
/// The most refused addresses and connections that are remembered.
const MAX_REMEMBERED: usize = 1024;
/// How long a refused connection comes after the others of its address.
const REFUSAL_PENALTY: Duration = Duration::from_secs(10);

/// The client and the connection of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientConnection {
    address: Option<Client>,
    connection: Option<SocketAddr>,
}

impl ClientConnection {
    /// The client at `peer`. Unknown peers count as one client.
    pub(super) fn new(peer: Option<SocketAddr>) -> Self {
        Self { address: peer.map(Client::from), connection: peer }
    }
}

/// The waiting checks.
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: Vec<Waiting<T>>,
    pushed: u64,
    /// The sequence number of the last refusal of each address.
    refused: LatestValues<Client, u64>,
    refusals: u64,
    connections: LatestValues<SocketAddr, Instant>,
}

#[derive(Debug)]
struct Waiting<T> {
    client: ClientConnection,
    number: u64,
    check: T,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            pushed: 0,
            refused: LatestValues::default(),
            refusals: 0,
            connections: LatestValues::default(),
        }
    }

    /// Keeps only the checks for which `keep` returns true.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.waiting.retain(|waiting| keep(&waiting.check));
    }

    /// Removes and returns the checks for which `matches` returns true.
    pub(super) fn take_matching(&mut self, matches: impl Fn(&T) -> bool) -> Vec<T> {
        self.waiting.extract_if(.., |waiting| matches(&waiting.check)).map(|waiting| waiting.check).collect()
    }

    /// The checks that wait for a connection.
    pub(super) fn on_connection<'q>(&'q self, client: &'q ClientConnection) -> impl Iterator<Item = &'q T> {
        let checks = self.waiting.iter().filter(|waiting| client.connection == waiting.client.connection);
        checks.filter(|_| client.connection.is_some()).map(|waiting| &waiting.check)
    }

    /// Adds a check. Returns the check that is rejected for lack of space: this one or another.
    pub(super) fn push(&mut self, client: ClientConnection, check: T, now: Instant) -> Option<T> {
        self.pushed += 1;
        self.waiting.push(Waiting { client, number: self.pushed, check });
        let count = |address| self.waiting.iter().filter(|waiting| waiting.client.address == address).count();
        let fullest = if count(client.address) > MAX_WAITING_PER_ADDRESS {
            client.address
        } else if self.waiting.len() > MAX_WAITING {
            // Of several with equally many, the one that was refused last; one without a refusal is no attacker yet.
            let addresses = self.waiting.iter().map(|waiting| waiting.client.address);
            addresses.max_by_key(|address| (count(*address), self.last_refusal(*address)))?
        } else {
            return None;
        };
        let candidates =
            self.waiting.iter().enumerate().filter(|(_, waiting)| waiting.client.address == fullest);
        let last = candidates.max_by_key(|(_, waiting)| self.order(waiting, now)).map(|(at, _)| at)?;
        Some(self.waiting.swap_remove(last).check)
    }

    /// Removes the next check: of an address without a refusal, or of the one whose last refusal is the longest ago.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(ClientConnection, T)> {
        let next =
            self.waiting.iter().enumerate().min_by_key(|(_, waiting)| {
                (self.last_refusal(waiting.client.address), self.order(waiting, now))
            });
        let next = next.map(|(at, _)| at)?;
        let waiting = self.waiting.swap_remove(next);
        Some((waiting.client, waiting.check))
    }

    /// Records that a check of this client was refused.
    pub(super) fn refuse(&mut self, client: ClientConnection, now: Instant) {
        self.refusals += 1;
        if let Some(address) = client.address {
            self.refused.set(address, self.refusals);
        }
        if let Some(connection) = client.connection {
            self.connections.set(connection, now);
        }
    }

    /// The sequence number of the last refusal of an address, if any.
    fn last_refusal(&self, address: Option<Client>) -> Option<u64> {
        address.and_then(|address| self.refused.get(&address))
    }

    /// The sort key among the checks of one address: those without a recent refusal first, then in order of arrival. With
    /// the newest first, clients that retry at once would always overtake those that wait.
    fn order(&self, waiting: &Waiting<T>, now: Instant) -> (bool, u64) {
        let refused = waiting.client.connection.and_then(|connection| self.connections.get(&connection));
        (refused.is_some_and(|at| now.saturating_duration_since(at) < REFUSAL_PENALTY), waiting.number)
    }
}

/// The last value of each key, for at most [`MAX_REMEMBERED`] keys; the key with the lowest value is removed first.
#[derive(Debug)]
struct LatestValues<K, V>(HashMap<K, V>);

impl<K, V> Default for LatestValues<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash, V: Copy + Ord> LatestValues<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        self.0.get(key).copied()
    }

    fn set(&mut self, key: K, value: V) {
        self.0.insert(key, value);
        if self.0.len() > MAX_REMEMBERED
            && let Some(lowest) = self.0.iter().min_by_key(|(_, value)| **value).map(|(key, _)| *key)
        {
            self.0.remove(&lowest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str, port: u16) -> ClientConnection {
        ClientConnection::new(Some(SocketAddr::new(address.parse().unwrap(), port)))
    }

    const ATTACKER: &str = "192.0.2.1";
    const OTHER: &str = "192.0.2.2";

    /// The number of checks up to the client's, while each refused client retries as `again` says.
    fn checks_until(
        queue: &mut Queue<ClientConnection>,
        of: ClientConnection,
        again: impl Fn(ClientConnection) -> ClientConnection,
    ) -> usize {
        let now = Instant::now();
        for checks in 1..1000 {
            let (next, _) = queue.pop(now).unwrap();
            if next == of {
                return checks;
            }
            queue.refuse(next, now);
            let next = again(next);
            queue.push(next, next, now);
        }
        panic!("never");
    }

    fn full(attackers: u16) -> Queue<ClientConnection> {
        let (mut queue, now) = (Queue::new(), Instant::now());
        for port in 0..attackers {
            let attacker = client(ATTACKER, port);
            assert_eq!(queue.push(attacker, attacker, now), None);
        }
        queue
    }

    /// A queue that attackers have kept full for a while.
    fn under_attack(attackers: u16) -> Queue<ClientConnection> {
        let (mut queue, never) = (full(attackers), client("192.0.2.9", 1));
        let now = Instant::now();
        queue.push(never, never, now);
        queue.refuse(never, now);
        (0..attackers).for_each(|_| {
            let (next, _) = queue.pop(now).unwrap();
            queue.refuse(next, now);
            if next != never {
                queue.push(next, next, now);
            }
        });
        queue
    }

    #[test]
    fn an_address_without_a_refusal_comes_before_refused_ones() {
        let (mut queue, now) = (under_attack(60), Instant::now());
        let newcomer = client(OTHER, 1);
        queue.push(newcomer, newcomer, now);
        assert_eq!(checks_until(&mut queue, newcomer, |attacker| attacker), 1);
    }

    #[test]
    fn refused_addresses_alternate() {
        let (mut queue, now) = (full(60), Instant::now());
        let few = client(OTHER, 1);
        let mut checks_of_few = 0;
        for _ in 0..20 {
            queue.push(few, few, now);
            let (next, _) = queue.pop(now).unwrap();
            queue.refuse(next, now);
            checks_of_few += usize::from(next == few);
            queue.retain(|waiting| *waiting != few);
        }
        assert_eq!(checks_of_few, 10);
    }

    #[test]
    fn a_new_connection_comes_before_refused_ones_of_its_address() {
        let (mut queue, now) = (under_attack(60), Instant::now());
        let newcomer = client(ATTACKER, 1000);
        queue.push(newcomer, newcomer, now);
        assert!(checks_until(&mut queue, newcomer, |attacker| attacker) <= 2);
    }

    #[test]
    fn clients_that_reconnect_for_each_attempt_overtake_nobody() {
        let (mut queue, now) = (full(60), Instant::now());
        let newcomer = client(ATTACKER, 1000);
        queue.push(newcomer, newcomer, now);
        let reconnect =
            |attacker: ClientConnection| client(ATTACKER, attacker.connection.unwrap().port() + 2000);
        assert_eq!(checks_until(&mut queue, newcomer, reconnect), 61);
    }

    #[test]
    fn an_address_has_a_limited_share_and_a_new_connection_replaces_a_refused_one() {
        let (mut queue, now) = (full(64), Instant::now());
        let one_more = client(ATTACKER, 500);
        assert_eq!(queue.push(one_more, one_more, now), Some(one_more), "the others came first");
        let refused = client(ATTACKER, 63);
        queue.refuse(refused, now);
        assert_eq!(queue.push(one_more, one_more, now), Some(refused));
        let other = client(OTHER, 1);
        assert_eq!(queue.push(other, other, now), None);
    }

    #[test]
    fn in_a_full_queue_the_address_with_the_most_checks_loses_one() {
        let (mut queue, now) = (full(64), Instant::now());
        for number in 0..192 {
            let attacker = client(&format!("198.51.100.{number}"), 1);
            assert_eq!(queue.push(attacker, attacker, now), None);
        }
        let newcomer = client(OTHER, 1);
        assert_eq!(queue.push(newcomer, newcomer, now), Some(client(ATTACKER, 63)));
        assert_eq!(queue.waiting.len(), MAX_WAITING);
    }

    #[test]
    fn in_a_full_queue_of_single_checks_a_refused_address_loses_its_check() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        let attacker = |number: u8| client(&format!("198.51.100.{number}"), 1);
        for number in 0..=255 {
            queue.refuse(attacker(number), now);
            assert_eq!(queue.push(attacker(number), attacker(number), now), None);
        }
        let newcomer = client(OTHER, 1);
        assert_eq!(queue.push(newcomer, newcomer, now), Some(attacker(255)));
    }

    #[test]
    fn refusals_expire_and_are_bounded() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        let (first, second) = (client(ATTACKER, 1), client(ATTACKER, 2));
        queue.refuse(first, now);
        queue.push(first, first, now);
        queue.push(second, second, now);
        assert_eq!(queue.pop(now + REFUSAL_PENALTY), Some((first, first)), "in the order in which they came");
        for number in 0..5000u16 {
            let address = format!("10.{}.{}.1", number >> 8, number & 255);
            queue.refuse(client(&address, number), now);
        }
        assert_eq!((queue.refused.0.len(), queue.connections.0.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
    }
}
