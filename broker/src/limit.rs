//! How often one uid may ask: a token bucket each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Requests a second, over time.
const RATE: f64 = 20.0;

/// Requests at once, after a pause.
const BURST: f64 = 40.0;

/// A bucket for each uid that was ever allowed to connect; there are few.
#[derive(Debug, Default)]
pub struct Limiter(Mutex<HashMap<u32, Bucket>>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Limiter {
    /// Takes one token of `uid`; tells whether there was one.
    pub fn take(&self, uid: u32) -> bool {
        self.take_at(uid, Instant::now())
    }

    fn take_at(&self, uid: u32, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(uid).or_insert(Bucket { tokens: BURST, filled: now });
        let gained = now.saturating_duration_since(bucket.filled).as_secs_f64() * RATE;
        bucket.tokens = (bucket.tokens + gained).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_is_answered_and_then_the_rate_holds() {
        let limiter = Limiter::default();
        let start = Instant::now();
        let burst = (0..100).filter(|_| limiter.take_at(1, start)).count();
        assert_eq!(burst, BURST as usize);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| limiter.take_at(1, later)).count(), RATE as usize);
        assert!(limiter.take_at(2, start), "another uid has its own");
    }
}
