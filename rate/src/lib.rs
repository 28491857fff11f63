//! A token bucket: so much at once, and so much a second over time.
//!
//! Tokens are counted in the time that it takes to refill them. A request that may come 20 times a second costs 50 ms,
//! and a bucket of 2 s holds 40 of them. The callers say what time it is, so that tests need not wait.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// A token bucket.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    /// What it holds when it is full.
    burst: Duration,
    /// When it is full again.
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(burst: Duration, now: Instant) -> Self {
        Self { burst, full_at: now }
    }

    /// What is missing.
    fn missing(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now)
    }

    /// Takes `cost`, if there is as much; returns whether there was.
    pub fn take(&mut self, cost: Duration, now: Instant) -> bool {
        if self.missing(now).saturating_add(cost) > self.burst {
            return false;
        }
        // Beyond what the clock can count, nothing is refilled any more.
        let full_at = self.full_at.max(now).checked_add(cost);
        full_at.inspect(|full_at| self.full_at = *full_at).is_some()
    }

    /// Takes `cost`, whatever there is: the bucket can be overdrawn by up to `overdraft`.
    pub fn charge(&mut self, cost: Duration, overdraft: Duration, now: Instant) {
        let missing = self.missing(now).saturating_add(cost).min(self.burst.saturating_add(overdraft));
        self.full_at = now.checked_add(missing).unwrap_or(self.full_at);
    }

    /// How long until the bucket is no longer overdrawn.
    pub fn time_overdrawn(&self, now: Instant) -> Duration {
        self.missing(now).saturating_sub(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COST: Duration = Duration::from_millis(50);
    const BURST: Duration = Duration::from_secs(2);

    #[test]
    fn a_burst_is_taken_at_once_and_then_the_rate_applies() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(BURST, start);
        let mut taken = |now| (0..100).filter(|_| bucket.take(COST, now)).count();
        assert_eq!(taken(start), 40);
        assert_eq!(taken(start + Duration::from_secs(1)), 20);
        assert_eq!(taken(start + Duration::from_secs(60)), 40, "a pause fills it and no more");
    }

    #[test]
    fn a_deficit_of_tokens_is_bounded_and_refills() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(BURST, start);
        (0..10).for_each(|_| bucket.charge(BURST, BURST, start));
        assert_eq!(bucket.time_overdrawn(start), BURST);
        assert!(!bucket.take(COST, start + BURST));
        assert!(bucket.take(COST, start + BURST + COST));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(Duration::MAX, now);
        assert!(!bucket.take(Duration::MAX, now), "no clock counts so far");
        bucket.charge(Duration::MAX, Duration::MAX, now);
        assert!(bucket.take(COST, now));
        let mut none = TokenBucket::new(Duration::ZERO, now);
        assert!(!none.take(COST, now) && none.take(Duration::ZERO, now));
    }

    proptest! {
        #[test]
        fn at_no_time_more_was_taken_than_the_burst_and_the_rate(gaps in prop::collection::vec(0_u64..200, 1..200)) {
            let start = Instant::now();
            let (mut bucket, mut now, mut taken) = (TokenBucket::new(BURST, start), start, Duration::ZERO);
            for gap in gaps {
                now += Duration::from_millis(gap);
                if bucket.take(COST, now) {
                    taken += COST;
                }
                prop_assert!(taken <= BURST + (now - start));
            }
        }
    }
}
