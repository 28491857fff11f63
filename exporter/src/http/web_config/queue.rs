//! Whose password is checked next.
//!
//! A check takes a core for some 50 ms, and anyone may ask for one. So addresses take turns, and within an address its
//! connections: one that was refused lately comes after those that were not.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::http::Client;

/// Checks that may wait, and those of one address among them.
const WAITING: usize = 256;
const WAITING_OF_ONE: usize = 64;
/// Addresses and connections that were refused and are remembered.
const REFUSED: usize = 1024;
/// How long a connection that was refused comes after the others of its address.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    address: Option<Client>,
    connection: Option<SocketAddr>,
}

impl Asker {
    /// The client at the other end of a connection; those that are not known are one.
    pub(super) fn new(peer: Option<SocketAddr>) -> Self {
        Self { address: peer.map(Client::from), connection: peer }
    }
}

/// The checks that wait.
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: Vec<Waiting<T>>,
    pushed: u64,
    /// The number of the last check of an address that was refused, counted over all.
    refused: Latest<Client, u64>,
    refusals: u64,
    connections: Latest<SocketAddr, Instant>,
}

#[derive(Debug)]
struct Waiting<T> {
    client: Asker,
    number: u64,
    check: T,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            pushed: 0,
            refused: Latest::default(),
            refusals: 0,
            connections: Latest::default(),
        }
    }

    /// Forgets the checks that nobody waits for any more.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.waiting.retain(|waiting| keep(&waiting.check));
    }

    /// Takes the checks out that are like that.
    pub(super) fn take(&mut self, is_like: impl Fn(&T) -> bool) -> Vec<T> {
        self.waiting.extract_if(.., |waiting| is_like(&waiting.check)).map(|waiting| waiting.check).collect()
    }

    /// What waits on a connection.
    pub(super) fn of<'q>(&'q self, client: &'q Asker) -> impl Iterator<Item = &'q T> {
        let of_it = self.waiting.iter().filter(|waiting| client.connection == waiting.client.connection);
        of_it.filter(|_| client.connection.is_some()).map(|waiting| &waiting.check)
    }

    /// Lets a check wait. Returns the one that there is no place for, this one or another.
    pub(super) fn push(&mut self, client: Asker, check: T, now: Instant) -> Option<T> {
        self.pushed += 1;
        self.waiting.push(Waiting { client, number: self.pushed, check });
        let of = |address| self.waiting.iter().filter(|waiting| waiting.client.address == address).count();
        let crowded = if of(client.address) > WAITING_OF_ONE {
            client.address
        } else if self.waiting.len() > WAITING {
            // Of many with as many, the one that was refused last; who has not been refused is no attacker yet.
            let addresses = self.waiting.iter().map(|waiting| waiting.client.address);
            addresses.max_by_key(|address| (of(*address), self.refused_at(*address)))?
        } else {
            return None;
        };
        let of_crowd =
            self.waiting.iter().enumerate().filter(|(_, waiting)| waiting.client.address == crowded);
        let last = of_crowd.max_by_key(|(_, waiting)| self.place(waiting, now)).map(|(at, _)| at)?;
        Some(self.waiting.swap_remove(last).check)
    }

    /// The next check: of the address whose last refusal is the longest ago, if it had one.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Asker, T)> {
        let next =
            self.waiting.iter().enumerate().min_by_key(|(_, waiting)| {
                (self.refused_at(waiting.client.address), self.place(waiting, now))
            });
        let next = next.map(|(at, _)| at)?;
        let waiting = self.waiting.swap_remove(next);
        Some((waiting.client, waiting.check))
    }

    /// A check of this client was refused.
    pub(super) fn refuse(&mut self, client: Asker, now: Instant) {
        self.refusals += 1;
        if let Some(address) = client.address {
            self.refused.set(address, self.refusals);
        }
        if let Some(connection) = client.connection {
            self.connections.set(connection, now);
        }
    }

    /// The number of the last refusal of an address, if there was one.
    fn refused_at(&self, address: Option<Client>) -> Option<u64> {
        address.and_then(|address| self.refused.get(&address))
    }

    /// The place among the checks of one address. In the order in which they came: with the newest first, those who
    /// ask again at once would always be before who waits.
    fn place(&self, waiting: &Waiting<T>, now: Instant) -> (bool, u64) {
        let refused = waiting.client.connection.and_then(|connection| self.connections.get(&connection));
        (refused.is_some_and(|at| now.saturating_duration_since(at) < REFUSED_FOR), waiting.number)
    }
}

/// The last value of each key; of too many keys, the one with the lowest value is forgotten.
#[derive(Debug)]
struct Latest<K, V>(HashMap<K, V>);

impl<K, V> Default for Latest<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash, V: Copy + Ord> Latest<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        self.0.get(key).copied()
    }

    fn set(&mut self, key: K, value: V) {
        self.0.insert(key, value);
        if self.0.len() > REFUSED
            && let Some(lowest) = self.0.iter().min_by_key(|(_, value)| **value).map(|(key, _)| *key)
        {
            self.0.remove(&lowest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str, port: u16) -> Asker {
        Asker::new(Some(SocketAddr::new(address.parse().unwrap(), port)))
    }

    const STRANGER: &str = "192.0.2.1";
    const OTHER: &str = "192.0.2.2";

    /// Checks until the client's, with those of `again` asked again as soon as they are refused.
    fn checks_until(queue: &mut Queue<Asker>, of: Asker, again: impl Fn(Asker) -> Asker) -> usize {
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

    fn full(strangers: u16) -> Queue<Asker> {
        let (mut queue, now) = (Queue::new(), Instant::now());
        for port in 0..strangers {
            let stranger = client(STRANGER, port);
            assert_eq!(queue.push(stranger, stranger, now), None);
        }
        queue
    }

    /// A queue that strangers have kept full for a while.
    fn besieged(strangers: u16) -> Queue<Asker> {
        let (mut queue, never) = (full(strangers), client("192.0.2.9", 1));
        let now = Instant::now();
        queue.push(never, never, now);
        queue.refuse(never, now);
        (0..strangers).for_each(|_| {
            let (next, _) = queue.pop(now).unwrap();
            queue.refuse(next, now);
            if next != never {
                queue.push(next, next, now);
            }
        });
        queue
    }

    #[test]
    fn an_address_that_was_not_refused_comes_before_all_that_were() {
        let (mut queue, now) = (besieged(60), Instant::now());
        let newcomer = client(OTHER, 1);
        queue.push(newcomer, newcomer, now);
        assert_eq!(checks_until(&mut queue, newcomer, |stranger| stranger), 1);
    }

    #[test]
    fn addresses_that_were_refused_take_turns() {
        let (mut queue, now) = (full(60), Instant::now());
        let few = client(OTHER, 1);
        let mut of_few = 0;
        for _ in 0..20 {
            queue.push(few, few, now);
            let (next, _) = queue.pop(now).unwrap();
            queue.refuse(next, now);
            of_few += usize::from(next == few);
            queue.retain(|waiting| *waiting != few);
        }
        assert_eq!(of_few, 10);
    }

    #[test]
    fn a_new_connection_comes_before_those_of_its_address_that_were_refused() {
        let (mut queue, now) = (besieged(60), Instant::now());
        let newcomer = client(STRANGER, 1000);
        queue.push(newcomer, newcomer, now);
        assert!(checks_until(&mut queue, newcomer, |stranger| stranger) <= 2);
    }

    #[test]
    fn strangers_who_connect_anew_each_time_are_waited_for_once() {
        let (mut queue, now) = (full(60), Instant::now());
        let newcomer = client(STRANGER, 1000);
        queue.push(newcomer, newcomer, now);
        let anew = |stranger: Asker| client(STRANGER, stranger.connection.unwrap().port() + 2000);
        assert_eq!(checks_until(&mut queue, newcomer, anew), 61);
    }

    #[test]
    fn one_address_has_a_share_of_the_places_and_a_newcomer_of_it_one_of_theirs() {
        let (mut queue, now) = (full(64), Instant::now());
        let one_more = client(STRANGER, 500);
        assert_eq!(queue.push(one_more, one_more, now), Some(one_more), "all came before");
        let refused = client(STRANGER, 63);
        queue.refuse(refused, now);
        assert_eq!(queue.push(one_more, one_more, now), Some(refused));
        let other = client(OTHER, 1);
        assert_eq!(queue.push(other, other, now), None);
    }

    #[test]
    fn when_all_places_are_taken_the_greediest_gives_one_up() {
        let (mut queue, now) = (full(64), Instant::now());
        for number in 0..192 {
            let stranger = client(&format!("198.51.100.{number}"), 1);
            assert_eq!(queue.push(stranger, stranger, now), None);
        }
        let newcomer = client(OTHER, 1);
        assert_eq!(queue.push(newcomer, newcomer, now), Some(client(STRANGER, 63)));
        assert_eq!(queue.waiting.len(), WAITING);
    }

    #[test]
    fn of_as_many_addresses_as_places_one_that_was_refused_gives_its_place_up() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        let stranger = |number: u8| client(&format!("198.51.100.{number}"), 1);
        for number in 0..=255 {
            queue.refuse(stranger(number), now);
            assert_eq!(queue.push(stranger(number), stranger(number), now), None);
        }
        let newcomer = client(OTHER, 1);
        assert_eq!(queue.push(newcomer, newcomer, now), Some(stranger(255)));
    }

    #[test]
    fn a_refusal_is_forgotten_after_a_while_and_memory_has_an_end() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        let (first, second) = (client(STRANGER, 1), client(STRANGER, 2));
        queue.refuse(first, now);
        queue.push(first, first, now);
        queue.push(second, second, now);
        assert_eq!(queue.pop(now + REFUSED_FOR), Some((first, first)), "in the order in which they came");
        for number in 0..5000u16 {
            let address = format!("10.{}.{}.1", number >> 8, number & 255);
            queue.refuse(client(&address, number), now);
        }
        assert_eq!((queue.refused.0.len(), queue.connections.0.len()), (REFUSED, REFUSED));
    }
}
