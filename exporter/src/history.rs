//! What the last scrapes cost and how each collector did, for the page: kept in memory, bounded, gone with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker_client::BrokerError;
use crate::collector::{CollectError, Run};
use crate::exposition::Written;
use crate::lock;
use crate::snapshot::Snapshot;

/// How many scrapes are kept: an hour's, for who scrapes once a minute.
pub const SCRAPES: usize = 60;
/// Bytes of an error that are kept.
const ERROR_BYTES: usize = 400;

/// The last scrapes, and each collector's last run.
#[derive(Debug, Default)]
pub struct History(Mutex<Kept>);

/// What a [`History`] holds.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// At most [`SCRAPES`], the oldest first.
    pub scrapes: VecDeque<Past>,
    /// The last run of each collector that ever ran, by its name.
    pub collectors: BTreeMap<&'static str, LastRun>,
    /// What the last scrape left out because a series of the same name and labels was there.
    pub written: Written,
}

/// A scrape that has ended.
#[derive(Debug, Clone)]
pub struct Past {
    /// When it ended.
    pub ended: Instant,
    /// What it took in all.
    pub duration: Duration,
    /// What it gave; else why it gave nothing.
    pub outcome: Result<Given, String>,
}

/// What a scrape gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// Time that the broker spent in the kernel, over all queries.
    pub reading: Duration,
    /// Bytes of kernel files.
    pub bytes: u64,
    /// Series of the collectors.
    pub series: usize,
    /// Collectors that failed; those that the host has nothing for are none of them.
    pub failed: usize,
}

/// How a collector did when it last ran.
#[derive(Debug, Clone)]
pub struct LastRun {
    /// When that was.
    pub ended: Instant,
    /// What it took, the broker's part not counted.
    pub duration: Duration,
    /// Series that it gave.
    pub series: usize,
    /// What became of it.
    pub standing: Standing,
    /// Items that it could not read and skipped.
    pub skipped: usize,
    /// The first of them, with the reasons.
    pub skipped_items: Vec<String>,
    /// The last failure, also when it has worked since.
    pub failure: Option<(Instant, String)>,
}

/// The most skipped items of a collector that are kept for the page.
const KEPT_ITEMS: usize = 16;

/// What became of a collector's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It gave its metrics.
    Works,
    /// The host has nothing of the kind.
    NoData,
    /// It failed.
    Failed,
}

impl Given {
    /// What was read for it.
    pub fn read(snapshot: &Snapshot) -> Self {
        let mut given = Self::default();
        for (_, report) in snapshot.reports() {
            given.reading = given.reading.saturating_add(Duration::from_nanos(report.elapsed_ns));
            given.bytes = given.bytes.saturating_add(report.bytes);
        }
        given
    }
}

impl History {
    /// Takes note of a scrape that began at `begun` and gave metrics.
    pub fn scraped(&self, begun: Instant, read: Given, runs: &[Run], written: Written) {
        let now = Instant::now();
        let mut given = read;
        let mut kept = lock(&self.0);
        for run in runs {
            let standing = match &run.result {
                Ok(()) => Standing::Works,
                Err(CollectError::NoData(_)) => Standing::NoData,
                Err(_) => Standing::Failed,
            };
            given.series += run.counters.series;
            given.failed += usize::from(standing == Standing::Failed);
            let failure = match &run.result {
                Err(error) if standing == Standing::Failed => Some((now, short(&error.to_string()))),
                _ => kept.collectors.remove(run.name).and_then(|before| before.failure),
            };
            let last = LastRun {
                ended: now,
                duration: run.duration,
                series: run.counters.series,
                standing,
                skipped: run.counters.skipped,
                skipped_items: run.counters.skipped_items.iter().take(KEPT_ITEMS).cloned().collect(),
                failure,
            };
            kept.collectors.insert(run.name, last);
        }
        kept.written = written;
        kept.add(Past { ended: now, duration: now - begun, outcome: Ok(given) });
    }

    /// Takes note of a scrape that began at `begun` and gave nothing.
    pub fn failed(&self, begun: Instant, error: &BrokerError) {
        let now = Instant::now();
        let outcome = Err(short(&error.to_string()));
        lock(&self.0).add(Past { ended: now, duration: now - begun, outcome });
    }

    /// What is known now.
    pub fn kept(&self) -> Kept {
        lock(&self.0).clone()
    }
}

impl Kept {
    fn add(&mut self, past: Past) {
        if self.scrapes.len() >= SCRAPES {
            self.scrapes.pop_front();
        }
        self.scrapes.push_back(past);
    }
}

/// An error as it is kept: names that the host chose may make it long.
fn short(error: &str) -> String {
    let end = (0..=ERROR_BYTES.min(error.len())).rev().find(|&at| error.is_char_boundary(at)).unwrap_or(0);
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
    fn only_the_last_scrapes_are_kept_whatever_became_of_them() {
        let history = History::default();
        let begun = Instant::now();
        history.failed(begun, &BrokerError::Deadline);
        for _ in 1..SCRAPES {
            history.scraped(begun, Given::default(), &[], Written::default());
        }
        assert_eq!(history.kept().scrapes[0].outcome, Err("the broker did not answer in time".into()));
        history.scraped(begun, Given::default(), &[], Written::default());
        let kept = history.kept();
        assert_eq!(kept.scrapes.len(), SCRAPES);
        assert_eq!(kept.scrapes[0].outcome, Ok(Given::default()), "the oldest went");
    }

    #[test]
    fn a_scrape_adds_up_what_its_queries_and_collectors_gave() {
        let history = History::default();
        let mut snapshot = Snapshot::default();
        for query in [Query::Stat, Query::Loadavg] {
            let report = Report { outcome: Outcome::Ok, elapsed_ns: 500, bytes: 20, left_out: 0 };
            snapshot.set_report(query, report);
        }
        let runs = [run("stat", Ok(())), run("cpu", Err(CollectError::malformed("proc/stat", "x")))];
        history.scraped(Instant::now(), Given::read(&snapshot), &runs, Written::default());
        let given = Given { reading: Duration::from_micros(1), bytes: 40, series: 6, failed: 1 };
        assert_eq!(history.kept().scrapes[0].outcome, Ok(given));
    }

    #[test]
    fn a_collectors_last_failure_stays_when_it_works_again() {
        let history = History::default();
        let scrape = |result| {
            history.scraped(Instant::now(), Given::default(), &[run("stat", result)], Written::default());
            let last = history.kept().collectors["stat"].clone();
            (last.standing, last.failure.map(|(_, text)| text))
        };
        let error = "proc/stat: no cpu line".to_owned();
        assert_eq!(scrape(Err(CollectError::NoData("proc/stat".into()))), (Standing::NoData, None));
        assert_eq!(
            scrape(Err(CollectError::malformed("proc/stat", "no cpu line"))),
            (Standing::Failed, Some(error.clone()))
        );
        assert_eq!(scrape(Ok(())), (Standing::Works, Some(error)));
    }

    #[test]
    fn an_error_is_kept_in_part_when_it_is_long() {
        let long = format!("{}ä", "x".repeat(ERROR_BYTES - 1));
        assert_eq!(short(&long), "x".repeat(ERROR_BYTES - 1));
        assert_eq!(short("x"), "x");
    }
}
