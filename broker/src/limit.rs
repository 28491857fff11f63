//! What one uid may take of the broker: connections, requests, bytes, and its turn to read.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::Sleep;

use crate::lock;

/// Connections that one uid may hold.
const CONNECTIONS: usize = 4;

/// What a request or a connection costs: 20 of each a second, over time.
const REQUEST: Duration = Duration::from_millis(50);

/// How much may be taken at once after a pause: 40 requests, 40 connections, 32 KiB.
const BURST: Duration = Duration::from_secs(2);

/// The longest that a token bucket stays overdrawn. Longer than what a read may charge: a wide host's reads are charged whole.
const MOST_OVERDRAWN: Duration = Duration::from_secs(32);

/// What one read is charged, at most.
const MOST_CHARGED: Duration = Duration::from_secs(30);

/// What a read is charged for each second that its readers were busy. The broker forwards what they read, for about half as
/// much again: at 3, both together stay at half of a CPU.
const CHARGE_FACTOR: u32 = 3;

/// Bytes a second that a connection may send, over time. Whatever a client floods with, it comes no faster.
const BYTE_RATE: u32 = 16 << 10;

/// An allowance that comes back with time: what is taken is counted in the time that it takes to come back.
#[derive(Debug)]
struct Allowance {
    /// When all of it will be back.
    full: Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { full: Instant::now() }
    }

    /// How long until it is not overdrawn.
    fn wait(&self, now: Instant) -> Duration {
        self.full.saturating_duration_since(now).saturating_sub(BURST)
    }

    /// Takes what there is, and more: it can be overdrawn, by as much as a burst.
    fn spend(&mut self, cost: Duration, now: Instant) {
        self.full = (self.full.max(now) + cost).min(now + BURST + MOST_OVERDRAWN);
    }

    /// Takes `cost` if there is as much.
    fn take(&mut self, cost: Duration, now: Instant) -> bool {
        let enough = self.full.saturating_duration_since(now) + cost <= BURST;
        if enough {
            self.spend(cost, now);
        }
        enough
    }
}

/// One uid that may connect, and what it has taken.
#[derive(Debug)]
pub struct Client {
    connections: Arc<Semaphore>,
    arrivals: Mutex<Allowance>,
    requests: Mutex<Allowance>,
    /// One read of a uid stands in line for the broker's turn, so that uids take turns however much each asks.
    pub turn: Semaphore,
}

impl Client {
    /// One that has taken nothing.
    pub fn new() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            arrivals: Mutex::new(Allowance::new()),
            requests: Mutex::new(Allowance::new()),
            turn: Semaphore::new(1),
        }
    }

    /// A place for one more connection, or why there is none.
    pub fn connect(&self) -> Result<tokio::sync::OwnedSemaphorePermit, &'static str> {
        let place = self.connections.clone().try_acquire_owned().map_err(|_| "has too many connections")?;
        match take(&self.arrivals) {
            true => Ok(place),
            false => Err("connects too often"),
        }
    }

    /// Takes the allowance of one request; tells whether there was as much.
    pub fn ask(&self) -> bool {
        take(&self.requests)
    }

    /// Takes the allowance of a read, besides that of its request: in a loop, one uid keeps the host's files busy for at most
    /// half of the time. A read that slept in the kernel is not the client's fault: it takes at most half of a burst.
    pub fn spend(&self, reading: Duration) {
        let mut requests = lock(&self.requests);
        requests.spend((2 * reading).saturating_sub(REQUEST).min(BURST / 2), Instant::now());
    }
}

fn take(allowance: &Mutex<Allowance>) -> bool {
    lock(allowance).take(REQUEST, Instant::now())
}

/// The receiving half of a connection, read no faster than its allowance: every flood costs the broker bytes to
/// look at, and so every flood is slowed down at its sender.
#[derive(Debug)]
pub struct Metered<R> {
    half: R,
    allowance: Allowance,
    pause: Pin<Box<Sleep>>,
}

impl<R> Metered<R> {
    /// Needs a runtime.
    pub fn new(half: R) -> Self {
        Self { half, allowance: Allowance::new(), pause: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        ready!(this.pause.as_mut().poll(context));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.half).poll_read(context, buffer))?;
        let (now, bytes) = (Instant::now(), buffer.filled().len() - before);
        this.allowance.spend(Duration::from_secs(1) * bytes as u32 / BYTE_RATE, now);
        let wait = this.allowance.wait(now);
        if !wait.is_zero() {
            this.pause.as_mut().reset((now + wait).into());
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn a_burst_is_answered_and_then_the_rate_holds() {
        let mut allowance = Allowance::new();
        let start = allowance.full;
        assert_eq!((0..100).filter(|_| allowance.take(REQUEST, start)).count(), 40);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| allowance.take(REQUEST, later)).count(), 20);
    }

    #[test]
    fn a_long_read_takes_of_what_may_be_asked_and_a_short_one_is_one_request() {
        let client = Client::new();
        let full = client.requests.lock().unwrap().full;
        client.spend(REQUEST / 2);
        assert!(client.requests.lock().unwrap().full <= full.max(Instant::now()));
        client.spend(Duration::from_millis(275));
        // More may have come back meanwhile.
        assert!((30..40).contains(&(0..100).filter(|_| client.ask()).count()));
        let slept = Client::new();
        slept.spend(Duration::from_secs(1000));
        assert!((20..30).contains(&(0..100).filter(|_| slept.ask()).count()));
    }

    #[test]
    fn what_is_overdrawn_is_back_after_a_burst() {
        let mut allowance = Allowance::new();
        let start = allowance.full;
        (0..10).for_each(|_| allowance.spend(BURST, start));
        assert_eq!(allowance.wait(start), BURST);
        assert!(!allowance.take(REQUEST, start + BURST));
        assert!(allowance.take(REQUEST, start + BURST + REQUEST));
    }

    #[test]
    fn what_a_connection_sends_comes_no_faster_than_its_rate() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let burst = BYTE_RATE as usize * BURST.as_secs() as usize;
            let start = Instant::now();
            let flood = tokio::io::repeat(0).take(burst as u64 + 8 * 1024);
            let mut metered = Metered::new(flood);
            let mut chunk = [0; 4096];
            let mut came = 0;
            while came < burst {
                came += metered.read(&mut chunk).await.unwrap();
            }
            assert!(start.elapsed() < Duration::from_millis(250), "a burst waits for nothing");
            while metered.read(&mut chunk).await.unwrap() > 0 {}
            assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
        });
    }
}
