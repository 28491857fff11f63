//! A token bucket and its limit: when the configuration is reloaded with the same limit, the tokens stay.

use keyhole_rate::TokenBucket;
use tokio::time::Instant;

use super::file::RateLimit;

/// A token bucket: `burst` requests at once, and one more after each `interval`.
#[derive(Debug)]
pub(crate) struct RateLimitBucket {
    limit: RateLimit,
    tokens: TokenBucket,
}

impl RateLimitBucket {
    /// A full bucket.
    pub(crate) fn new(limit: RateLimit, now: Instant) -> Self {
        let burst = limit.interval.saturating_mul(limit.burst);
        Self { limit, tokens: TokenBucket::new(burst, now.into_std()) }
    }

    /// Whether its limit is `limit`.
    pub(crate) fn has_limit(&self, limit: RateLimit) -> bool {
        self.limit == limit
    }

    /// Takes a token, when there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.tokens.take(self.limit.interval, now.into_std())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_an_interval() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let limit = RateLimit { interval: Duration::from_millis(100), burst: 2 };
        let mut bucket = RateLimitBucket::new(limit, start);
        let taken: Vec<bool> =
            [0, 0, 0, 50, 100, 100, 1000, 1000, 1000].map(|ms| bucket.take(after(ms))).into();
        assert_eq!(taken, [true, true, false, false, true, false, true, true, false]);
    }
}
