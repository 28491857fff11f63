//! The cost of the last scrapes and the last result of each collector, for the page at `/`.
//!
//! Kept in memory only, in a bounded number; lost when the process ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker_client::BrokerError;
use crate::collector::{CollectError, Run};
use crate::exposition::Written;
use crate::lock;
use crate::snapshot::Snapshot;

/// The most scrapes that are kept: one hour at an interval of one minute.
pub const MAX_SCRAPES: usize = 60;
/// The most bytes of an error message that are kept.
const MAX_ERROR_BYTES: usize = 400;

/// The last scrapes, and each collector's last run.
#[derive(Debug, Default)]
pub struct ScrapeHistory(Mutex<ScrapeRecords>);

/// The contents of a [`ScrapeHistory`].
#[derive(Debug, Clone, Default)]
pub struct ScrapeRecords {
    /// At most [`MAX_SCRAPES`], the oldest first.
    pub scrapes: VecDeque<ScrapeRecord>,
    /// The last run of each collector that has run, by name.
    pub collectors: BTreeMap<&'static str, LastRun>,
    /// Duplicate series that the last scrape dropped.
    pub written: Written,
}

/// A finished scrape.
#[derive(Debug, Clone)]
pub struct ScrapeRecord {
    /// When it ended.
    pub ended: Instant,
    /// From its start to its end.
    pub duration: Duration,
    /// Its totals, or the error of a scrape that returned nothing.
    pub outcome: Result<ScrapeTotals, String>,
}

/// Totals of a successful scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrapeTotals {
    /// Time that the broker spent reading, over all queries.
    pub read_duration: Duration,
    /// Bytes of kernel files.
    pub bytes: u64,
    /// Series of all collectors.
    pub series: usize,
    /// Collectors that failed. A collector that has no data on this host has not failed.
    pub failed: usize,
}

/// The last run of a collector.
#[derive(Debug, Clone)]
pub struct LastRun {
    /// When it ended.
    pub ended: Instant,
    /// How long the collector took, without the broker's read.
    pub duration: Duration,
    /// Series that it returned.
    pub series: usize,
    /// Its result.
    pub status: CollectorStatus,
    /// The number of items that it could not parse and skipped.
    pub skipped: usize,
    /// The first `MAX_SKIPPED_ITEMS` of them, with the reasons.
    pub skipped_items: Vec<String>,
    /// When and how it last failed, even if it has succeeded since.
    pub failure: Option<(Instant, String)>,
}

/// The most skipped items of a collector that are kept.
const MAX_SKIPPED_ITEMS: usize = 16;

/// The result of a collector's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectorStatus {
    /// It returned its metrics.
    Succeeded,
    /// The host has no such device or file.
    NoData,
    /// It failed.
    Failed,
}

impl ScrapeTotals {
    /// The read duration and the bytes of a snapshot; series and failures are added later.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let mut totals = Self::default();
        for (_, report) in snapshot.reports() {
            totals.read_duration =
                totals.read_duration.saturating_add(Duration::from_nanos(report.elapsed_ns));
            totals.bytes = totals.bytes.saturating_add(report.bytes);
        }
        totals
    }
}

impl ScrapeHistory {
    /// Records a scrape that began at `start` and returned metrics.
    pub fn record_success(&self, start: Instant, read: ScrapeTotals, runs: &[Run], written: Written) {
        let now = Instant::now();
        let mut totals = read;
        let mut records = lock(&self.0);
        for run in runs {
            let status = match &run.result {
                Ok(()) => CollectorStatus::Succeeded,
                Err(CollectError::NoData(_)) => CollectorStatus::NoData,
                Err(_) => CollectorStatus::Failed,
            };
            totals.series += run.counters.series;
            totals.failed += usize::from(status == CollectorStatus::Failed);
            let failure = match &run.result {
                Err(error) if status == CollectorStatus::Failed => {
                    Some((now, truncate_error(&error.to_string())))
                }
                _ => records.collectors.remove(run.name).and_then(|before| before.failure),
            };
            let last = LastRun {
                ended: now,
                duration: run.duration,
                series: run.counters.series,
                status,
                skipped: run.counters.skipped,
                skipped_items: run.counters.skipped_items.iter().take(MAX_SKIPPED_ITEMS).cloned().collect(),
                failure,
            };
            records.collectors.insert(run.name, last);
        }
        records.written = written;
        records.add(ScrapeRecord { ended: now, duration: now - start, outcome: Ok(totals) });
    }

    /// Records a scrape that began at `start` and failed.
    pub fn record_failure(&self, start: Instant, error: &BrokerError) {
        let now = Instant::now();
        let outcome = Err(truncate_error(&error.to_string()));
        lock(&self.0).add(ScrapeRecord { ended: now, duration: now - start, outcome });
    }

    /// A copy of all records.
    pub fn records(&self) -> ScrapeRecords {
        lock(&self.0).clone()
    }
}

impl ScrapeRecords {
    fn add(&mut self, scrape: ScrapeRecord) {
        if self.scrapes.len() >= MAX_SCRAPES {
            self.scrapes.pop_front();
        }
        self.scrapes.push_back(scrape);
    }
}

/// Cuts an error message to [`MAX_ERROR_BYTES`]: names from the host can make it long.
fn truncate_error(error: &str) -> String {
    let end =
        (0..=MAX_ERROR_BYTES.min(error.len())).rev().find(|&at| error.is_char_boundary(at)).unwrap_or(0);
    error[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::Counters;
    use crate::snapshot::Report;
    use keyhole_proto::v1::{Outcome, Query};

    fn run(name: &'static str, result: Result<(), CollectError>) -> Run {
        let counters = Counters { series: 3, ..Counters::default() };
        Run { name, duration: Duration::from_millis(2), result, counters }
    }

    #[test]
    fn only_the_last_scrapes_are_listed_whether_they_succeeded_or_failed() {
        let history = ScrapeHistory::default();
        let start = Instant::now();
        history.record_failure(start, &BrokerError::Deadline);
        for _ in 1..MAX_SCRAPES {
            history.record_success(start, ScrapeTotals::default(), &[], Written::default());
        }
        assert_eq!(history.records().scrapes[0].outcome, Err("the broker did not answer in time".into()));
        history.record_success(start, ScrapeTotals::default(), &[], Written::default());
        let records = history.records();
        assert_eq!(records.scrapes.len(), MAX_SCRAPES);
        assert_eq!(records.scrapes[0].outcome, Ok(ScrapeTotals::default()), "the oldest was removed");
    }

    #[test]
    fn a_scrape_has_the_totals_of_its_queries_and_collectors() {
        let history = ScrapeHistory::default();
        let mut snapshot = Snapshot::default();
        for query in [Query::Stat, Query::Loadavg] {
            let report = Report { outcome: Outcome::Ok, elapsed_ns: 500, bytes: 20, left_out: 0 };
            snapshot.set_report(query, report);
        }
        let runs = [run("stat", Ok(())), run("cpu", Err(CollectError::malformed("proc/stat", "x")))];
        history.record_success(
            Instant::now(),
            ScrapeTotals::from_snapshot(&snapshot),
            &runs,
            Written::default(),
        );
        let totals =
            ScrapeTotals { read_duration: Duration::from_micros(1), bytes: 40, series: 6, failed: 1 };
        assert_eq!(history.records().scrapes[0].outcome, Ok(totals));
    }

    #[test]
    fn the_last_failure_of_a_collector_is_shown_after_it_succeeds() {
        let history = ScrapeHistory::default();
        let scrape = |result| {
            history.record_success(
                Instant::now(),
                ScrapeTotals::default(),
                &[run("stat", result)],
                Written::default(),
            );
            let last = history.records().collectors["stat"].clone();
            (last.status, last.failure.map(|(_, text)| text))
        };
        let error = "proc/stat: no cpu line".to_owned();
        assert_eq!(scrape(Err(CollectError::NoData("proc/stat".into()))), (CollectorStatus::NoData, None));
        assert_eq!(
            scrape(Err(CollectError::malformed("proc/stat", "no cpu line"))),
            (CollectorStatus::Failed, Some(error.clone()))
        );
        assert_eq!(scrape(Ok(())), (CollectorStatus::Succeeded, Some(error)));
    }

    #[test]
    fn a_long_error_is_cut() {
        let long = format!("{}ä", "x".repeat(MAX_ERROR_BYTES - 1));
        assert_eq!(truncate_error(&long), "x".repeat(MAX_ERROR_BYTES - 1));
        assert_eq!(truncate_error("x"), "x");
    }
}
