//! What one client, that is one uid, may use of the broker: connections, requests, bytes and the permit to read.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use keyhole_rate::TokenBucket;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::Sleep;

use crate::lock;

/// The most connections of one uid.
const MAX_CONNECTIONS: usize = 4;

/// The cost of a request or a connection: a rate of 20 of each per second.
const REQUEST_COST: Duration = Duration::from_millis(50);

/// The size of a full token bucket: a burst of 40 requests, 40 connections or 32 KiB.
const BURST: Duration = Duration::from_secs(2);

/// The most that one read is charged.
const MAX_READ_CHARGE: Duration = Duration::from_secs(30);

/// By how much a read is charged for the time that the readers were busy with it. Forwarding takes the broker about half
/// as much CPU again, so with a factor of 3 both together would use half of a CPU; 4 leaves a margin for what is not
/// counted.
const CHARGE_FACTOR: u32 = 4;

/// The rate at which the broker reads from a connection, whatever the client floods it with.
const BYTES_PER_SECOND: u32 = 16 << 10;

/// The limits of one uid, and what of them is in use.
#[derive(Debug)]
pub struct ClientLimits {
    connections: Arc<Semaphore>,
    connects: Mutex<TokenBucket>,
    requests: Mutex<TokenBucket>,
    /// One read of a uid at a time waits for the broker's permit, so that uids alternate however many reads each asks for.
    pub permit: Semaphore,
}

impl ClientLimits {
    /// The limits of a uid that uses nothing yet.
    pub fn new() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            connects: Mutex::new(TokenBucket::new(BURST, Instant::now())),
            requests: Mutex::new(TokenBucket::new(BURST, Instant::now())),
            permit: Semaphore::new(1),
        }
    }

    /// A permit for one more connection, or why there is none.
    pub fn acquire_connection(&self) -> Result<tokio::sync::OwnedSemaphorePermit, &'static str> {
        let permit = self.connections.clone().try_acquire_owned().map_err(|_| "has too many connections")?;
        if take(&self.connects) { Ok(permit) } else { Err("connects too often") }
    }

    /// Takes the cost of one request; returns whether there was enough.
    pub fn take_request(&self) -> bool {
        take(&self.requests)
    }

    /// Charges a read for `busy`, the time that all readers together were busy with it, beyond the cost of its request.
    /// So a client that reads in a loop keeps the readers and the broker below half of a CPU. The caller leaves out the
    /// time that a stuck reader slept in the kernel, which is not the client's fault.
    pub fn charge(&self, busy: Duration) {
        let cost = busy.saturating_mul(CHARGE_FACTOR).saturating_sub(REQUEST_COST).min(MAX_READ_CHARGE);
        lock(&self.requests).charge(cost, MAX_READ_CHARGE, Instant::now());
    }
}

fn take(bucket: &Mutex<TokenBucket>) -> bool {
    lock(bucket).take(REQUEST_COST, Instant::now())
}

/// The receiving half of a connection, read at most at [`BYTES_PER_SECOND`]: every flood consists of bytes that the broker
/// must process, so this slows every flood down.
#[derive(Debug)]
pub struct RateLimitedReader<R> {
    stream: R,
    bucket: TokenBucket,
    delay: Pin<Box<Sleep>>,
}

impl<R> RateLimitedReader<R> {
    /// Needs a Tokio runtime.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            bucket: TokenBucket::new(BURST, Instant::now()),
            delay: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for RateLimitedReader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        ready!(this.delay.as_mut().poll(context));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let (now, bytes) = (Instant::now(), buffer.filled().len() - before);
        this.bucket.charge(Duration::from_secs(1) * bytes as u32 / BYTES_PER_SECOND, BURST, now);
        let wait = this.bucket.time_overdrawn(now);
        if !wait.is_zero() {
            this.delay.as_mut().reset((now + wait).into());
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn a_long_read_costs_several_requests_and_a_short_one_costs_one() {
        let limits = ClientLimits::new();
        limits.charge(REQUEST_COST / CHARGE_FACTOR);
        assert!(lock(&limits.requests).take(BURST, Instant::now()), "its request was charged before");
        let limits = ClientLimits::new();
        limits.charge((Duration::from_millis(500) + REQUEST_COST) / CHARGE_FACTOR);
        // Some may have been refilled meanwhile.
        assert!((30..40).contains(&(0..100).filter(|_| limits.take_request()).count()));
    }

    #[test]
    fn a_loop_of_reads_stays_below_half_of_a_cpu_however_long_each_is() {
        for busy_ms in [1, 12, 50, 275, 1000, 2500, 7000] {
            let (busy, start) = (Duration::from_millis(busy_ms), Instant::now());
            let mut bucket = TokenBucket::new(BURST, start);
            let (mut now, mut used) = (start, Duration::ZERO);
            while now < start + Duration::from_secs(600) {
                if bucket.take(REQUEST_COST, now) {
                    // The readers work in parallel: the read itself takes no time.
                    let cost = (busy * CHARGE_FACTOR).saturating_sub(REQUEST_COST).min(MAX_READ_CHARGE);
                    bucket.charge(cost, MAX_READ_CHARGE, now);
                    used += busy * 3 / 2;
                } else {
                    now += Duration::from_millis(5);
                }
            }
            // In addition to one burst.
            assert!(used < Duration::from_secs(300), "{busy:?} a read: {used:?} in 600 s");
        }
    }

    #[test]
    fn the_longest_read_is_paid_off_after_half_a_minute() {
        let limits = ClientLimits::new();
        limits.charge(Duration::from_secs(1000));
        // It is overdrawn by what the read costs beyond a burst.
        let wait = lock(&limits.requests).time_overdrawn(Instant::now()) + BURST;
        assert!(wait <= MAX_READ_CHARGE && wait > MAX_READ_CHARGE - Duration::from_secs(5), "{wait:?}");
    }

    #[test]
    fn a_connection_is_read_at_its_rate() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let burst = BYTES_PER_SECOND as usize * BURST.as_secs() as usize;
            let start = Instant::now();
            let flood = tokio::io::repeat(0).take(burst as u64 + 8 * 1024);
            let mut limited = RateLimitedReader::new(flood);
            let mut chunk = [0; 4096];
            let mut received = 0;
            while received < burst {
                received += limited.read(&mut chunk).await.unwrap();
            }
            assert!(start.elapsed() < Duration::from_millis(250), "a burst is not delayed");
            while limited.read(&mut chunk).await.unwrap() > 0 {}
            assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
        });
    }
}
