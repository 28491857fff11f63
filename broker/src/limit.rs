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

/// What one read is charged, at most.
const MAX_CHARGE: Duration = Duration::from_secs(30);

/// What a read is charged for the time that its readers were busy. Forwarding what they read takes the broker about
/// half as much again, so at 3 both together would take half of a CPU; the rest is for what is not counted.
const CHARGE_FACTOR: u32 = 4;

/// Bytes a second that a connection may send, over time. Whatever a client floods with, it comes no faster.
const BYTE_RATE: u32 = 16 << 10;

/// A token bucket. Tokens are counted in the time that it takes to refill them.
#[derive(Debug)]
struct TokenBucket {
    /// When it will be full again.
    full: Instant,
}

impl TokenBucket {
    fn new() -> Self {
        Self { full: Instant::now() }
    }

    /// How long until it is not overdrawn.
    fn wait(&self, now: Instant) -> Duration {
        self.full.saturating_duration_since(now).saturating_sub(BURST)
    }

    /// Takes what there is, and more: it can be overdrawn by up to `overdraft`.
    fn charge(&mut self, cost: Duration, overdraft: Duration, now: Instant) {
        self.full = (self.full.max(now) + cost).min(now + BURST + overdraft);
    }

    /// Takes `cost` if there is as much.
    fn take(&mut self, cost: Duration, now: Instant) -> bool {
        let enough = self.full.saturating_duration_since(now) + cost <= BURST;
        if enough {
            self.full = self.full.max(now) + cost;
        }
        enough
    }
}

/// One uid that may connect, and what it has taken.
#[derive(Debug)]
pub struct Client {
    connections: Arc<Semaphore>,
    arrivals: Mutex<TokenBucket>,
    requests: Mutex<TokenBucket>,
    /// One read of a uid waits for the broker's permit, so that uids take turns however much each asks.
    pub permit: Semaphore,
}

impl Client {
    /// One that has taken nothing.
    pub fn new() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            arrivals: Mutex::new(TokenBucket::new()),
            requests: Mutex::new(TokenBucket::new()),
            permit: Semaphore::new(1),
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

    /// Takes the tokens of one request; returns whether there were enough.
    pub fn ask(&self) -> bool {
        take(&self.requests)
    }

    /// Charges a read whose readers were busy for `busy`, all together, besides its request: in a loop of reads they
    /// and the broker, which forwards what they read, stay below half of a CPU. Time that a reader slept in the kernel
    /// is not the client's fault: the caller leaves it out.
    pub fn charge(&self, busy: Duration) {
        let cost = busy.saturating_mul(CHARGE_FACTOR).saturating_sub(REQUEST).min(MAX_CHARGE);
        lock(&self.requests).charge(cost, MAX_CHARGE, Instant::now());
    }
}

fn take(bucket: &Mutex<TokenBucket>) -> bool {
    lock(bucket).take(REQUEST, Instant::now())
}

/// The receiving half of a connection, read no faster than its token bucket refills: every flood costs the broker bytes to
/// look at, and so every flood is slowed down at its sender.
#[derive(Debug)]
pub struct Metered<R> {
    half: R,
    bucket: TokenBucket,
    pause: Pin<Box<Sleep>>,
}

impl<R> Metered<R> {
    /// Needs a runtime.
    pub fn new(half: R) -> Self {
        Self { half, bucket: TokenBucket::new(), pause: Box::pin(tokio::time::sleep(Duration::ZERO)) }
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
        this.bucket.charge(Duration::from_secs(1) * bytes as u32 / BYTE_RATE, BURST, now);
        let wait = this.bucket.wait(now);
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
        let mut bucket = TokenBucket::new();
        let start = bucket.full;
        assert_eq!((0..100).filter(|_| bucket.take(REQUEST, start)).count(), 40);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| bucket.take(REQUEST, later)).count(), 20);
    }

    #[test]
    fn a_long_read_takes_of_what_may_be_asked_and_a_short_one_is_one_request() {
        let client = Client::new();
        let full = client.requests.lock().unwrap().full;
        client.charge(REQUEST / CHARGE_FACTOR);
        assert!(client.requests.lock().unwrap().full <= full.max(Instant::now()));
        client.charge((Duration::from_millis(500) + REQUEST) / CHARGE_FACTOR);
        // More may have come back meanwhile.
        assert!((30..40).contains(&(0..100).filter(|_| client.ask()).count()));
    }

    #[test]
    fn a_loop_of_reads_stays_below_half_of_a_cpu_however_long_each_is() {
        for busy_ms in [1, 12, 50, 275, 1000, 2500, 7000] {
            let (busy, mut bucket) = (Duration::from_millis(busy_ms), TokenBucket::new());
            let start = bucket.full;
            let (mut now, mut used) = (start, Duration::ZERO);
            while now < start + Duration::from_secs(600) {
                if bucket.take(REQUEST, now) {
                    // The readers work in parallel: the read itself takes no time.
                    let cost = (busy * CHARGE_FACTOR).saturating_sub(REQUEST).min(MAX_CHARGE);
                    bucket.charge(cost, MAX_CHARGE, now);
                    used += busy * 3 / 2;
                } else {
                    now += Duration::from_millis(5);
                }
            }
            // Besides what a burst allows once.
            assert!(used < Duration::from_secs(300), "{busy:?} a read: {used:?} in 600 s");
        }
    }

    #[test]
    fn the_longest_read_is_forgiven_after_half_a_minute() {
        let client = Client::new();
        client.charge(Duration::from_secs(1000));
        let wait = client.requests.lock().unwrap().full.saturating_duration_since(Instant::now());
        assert!(wait <= MAX_CHARGE && wait > MAX_CHARGE - Duration::from_secs(5), "{wait:?}");
    }

    #[test]
    fn what_is_overdrawn_is_back_after_a_burst() {
        let mut bucket = TokenBucket::new();
        let start = bucket.full;
        (0..10).for_each(|_| bucket.charge(BURST, BURST, start));
        assert_eq!(bucket.wait(start), BURST);
        assert!(!bucket.take(REQUEST, start + BURST));
        assert!(bucket.take(REQUEST, start + BURST + REQUEST));
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
