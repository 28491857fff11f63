//! A token bucket: `burst` requests at once, and one more after each `interval`.

use std::time::Duration;

use tokio::time::Instant;

use super::file::RateLimit;

/// The tokens that are left.
#[derive(Debug)]
pub(crate) struct Bucket {
    limit: RateLimit,
    /// Each token is an `interval`.
    tokens: Duration,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(limit: RateLimit, now: Instant) -> Self {
        Self { limit, tokens: limit.interval.saturating_mul(limit.burst), at: now }
    }

    /// Whether its limit is `limit`.
    pub(crate) fn is_of(&self, limit: RateLimit) -> bool {
        self.limit == limit
    }

    /// Takes a token, when there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let full = self.limit.interval.saturating_mul(self.limit.burst);
        self.tokens = self.tokens.saturating_add(now.saturating_duration_since(self.at)).min(full);
        self.at = now;
        match self.tokens.checked_sub(self.limit.interval) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_an_interval() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let limit = RateLimit { interval: Duration::from_millis(100), burst: 2 };
        let mut bucket = Bucket::new(limit, start);
        let taken: Vec<bool> =
            [0, 0, 0, 50, 100, 100, 1000, 1000, 1000].map(|ms| bucket.take(after(ms))).into();
        assert_eq!(taken, [true, true, false, false, true, false, true, true, false]);
    }
}
