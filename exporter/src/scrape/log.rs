//! Limits the log lines about scrapes: one line per change, and few lines per hour for what changes all the time.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::lock;

/// How often a collector at its series limit is logged.
const LIMIT_LOG_INTERVAL: Duration = Duration::from_secs(600);
/// How often failing scrapes are logged.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How long skipped items of a collector are not logged again: at first, and at most.
const ITEM_LOG_INTERVAL: Duration = Duration::from_secs(60);
const MAX_ITEM_LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// A series of failed scrapes.
#[derive(Debug)]
pub(super) struct Outage {
    /// When it was last logged.
    logged_at: Instant,
    /// Failures since then.
    pub(super) unlogged: u64,
}

impl Outage {
    /// Counts a failure. Returns the number of failures to log, if a log line is due.
    pub(super) fn fail(outage: &mut Option<Self>, now: Instant) -> Option<u64> {
        let Some(cached) = outage else {
            *outage = Some(Self { logged_at: now, unlogged: 0 });
            return Some(1);
        };
        cached.unlogged += 1;
        let is_due = now.saturating_duration_since(cached.logged_at) >= FAILURE_LOG_INTERVAL;
        is_due.then(|| {
            cached.logged_at = now;
            std::mem::take(&mut cached.unlogged)
        })
    }
}

/// When each collector's series limit was last logged.
#[derive(Debug, Default)]
pub(super) struct LimitLog(Mutex<HashMap<&'static str, Instant>>);

/// The skipped items of each collector that were last logged. A file may change with every scrape and have other errors
/// each time, so a collector is logged at increasing intervals.
#[derive(Debug, Default)]
pub(super) struct ItemLog(Mutex<HashMap<&'static str, LoggedItems>>);

/// The skipped items of a collector as last logged.
#[derive(Debug)]
struct LoggedItems {
    items: Vec<String>,
    at: Instant,
    /// The time until other items are logged.
    interval: Duration,
}

/// What to log about a collector's skipped items.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ItemChange {
    Nothing,
    /// Items that were not logged before.
    Items(Vec<String>),
    /// No item is skipped any more.
    Gone,
}

impl ItemLog {
    pub(super) fn change(&self, collector: &'static str, items: &[String]) -> ItemChange {
        self.change_at(collector, items, Instant::now())
    }

    /// What to log about `items`, which then counts as logged. Changes within the interval are logged by a later scrape.
    fn change_at(&self, collector: &'static str, items: &[String], now: Instant) -> ItemChange {
        let mut logged = lock(&self.0);
        let Some(last) = logged.get_mut(collector) else {
            if items.is_empty() {
                return ItemChange::Nothing;
            }
            logged.insert(
                collector,
                LoggedItems { items: items.to_vec(), at: now, interval: ITEM_LOG_INTERVAL },
            );
            return ItemChange::Items(items.to_vec());
        };
        let elapsed = now.saturating_duration_since(last.at);
        if elapsed < last.interval || last.items == items {
            return ItemChange::Nothing;
        }
        let new: Vec<String> = items.iter().filter(|item| !last.items.contains(item)).cloned().collect();
        last.items = items.to_vec();
        if new.is_empty() && !items.is_empty() {
            return ItemChange::Nothing;
        }
        last.interval = if elapsed < 2 * last.interval {
            (2 * last.interval).min(MAX_ITEM_LOG_INTERVAL)
        } else {
            ITEM_LOG_INTERVAL
        };
        last.at = now;
        if items.is_empty() { ItemChange::Gone } else { ItemChange::Items(new) }
    }
}

impl LimitLog {
    /// Whether to log the limit of `collector`; if so, it counts as logged.
    pub(super) fn is_due(&self, collector: &'static str) -> bool {
        let now = Instant::now();
        let mut logged = lock(&self.0);
        let is_due = logged.get(collector).is_none_or(|last| now.duration_since(*last) >= LIMIT_LOG_INTERVAL);
        if is_due {
            logged.insert(collector, now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_item_is_logged_once_and_other_items_again() {
        let (log, start) = (ItemLog::default(), Instant::now());
        let change = |seconds, items: &[&str]| {
            let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
            log.change_at("textfile", &items, start + Duration::from_secs(seconds))
        };
        let items = |items: &[&str]| ItemChange::Items(items.iter().map(|item| (*item).to_owned()).collect());
        assert_eq!(change(0, &[]), ItemChange::Nothing);
        assert_eq!(change(0, &["a"]), items(&["a"]));
        assert_eq!(change(10, &["a"]), ItemChange::Nothing);
        assert_eq!(change(30, &["a", "b"]), ItemChange::Nothing, "too early");
        assert_eq!(change(1000, &["a", "b"]), items(&["b"]), "the one that is new");
        assert_eq!(change(2000, &["a"]), ItemChange::Nothing);
        assert_eq!(change(3000, &[]), ItemChange::Gone);
        assert_eq!(change(4000, &[]), ItemChange::Nothing);
        assert_eq!(change(5000, &["a"]), items(&["a"]));
    }

    #[test]
    fn items_that_change_with_every_scrape_do_not_flood_the_log() {
        let (log, start) = (ItemLog::default(), Instant::now());
        let lines = (0..86_400u64).step_by(15).filter(|&second| {
            let items = vec![format!("line {second}")];
            log.change_at("textfile", &items, start + Duration::from_secs(second)) != ItemChange::Nothing
        });
        let lines = lines.count();
        assert!((20..40).contains(&lines), "{lines} lines a day");
    }

    #[test]
    fn failed_scrapes_are_logged_at_once_and_then_once_a_minute() {
        let (mut outage, start) = (None, Instant::now());
        let logged: Vec<_> = (0..=12)
            .filter_map(|number| Outage::fail(&mut outage, start + Duration::from_secs(10 * number)))
            .collect();
        assert_eq!(logged, [1, 6, 6]);
    }
}
