//! One reading: what is shown of it, and what could not be known.

use std::time::{Instant, UNIX_EPOCH};

use keyhole_proto::v1::{Outcome, Query};
use serde_json::{Value, json};

use super::super::screen::{Screen, Style};
use super::choice::{Choice, Format};
use super::rates::Rates;
use super::table::{Cell, Column, Table};
use super::{json, raw, tell};
use crate::collector::{self, CollectError, Context, Own, Run, in_parentheses};
use crate::exposition::{Counters, Exposition, Kind, Limits, Series};
use crate::options::Options;
use crate::self_metrics::{broker, handler};
use crate::snapshot::Snapshot;

/// One reading.
pub(in super::super) struct Frame {
    out: Exposition,
    runs: Vec<Run>,
    raw: Vec<u8>,
    rates: Vec<Option<f64>>,
    has_rates: bool,
    /// Which of the series are shown, in the order of the exposition.
    shown: Vec<bool>,
    /// What could not be known.
    failures: Vec<String>,
    /// What else whoever asked should hear.
    notes: Vec<String>,
    /// What a limit has cut, as in a scrape.
    cuts: Vec<String>,
    pub(super) node_name: Option<String>,
    /// Seconds since the epoch.
    pub(super) time: f64,
}

impl Frame {
    /// Runs the chosen collectors over `snapshot`. Counters are compared with the last reading where `rates` is given.
    pub(super) fn new(
        choice: &Choice,
        snapshot: &Snapshot,
        options: &Options,
        own: &Own,
        rates: Option<&mut Rates>,
    ) -> Self {
        let mut out = Exposition::new();
        out.name_more_items();
        let raw = choice.format == Format::Raw;
        let runs = match raw {
            true => Vec::new(),
            false => {
                let context = Context { snapshot, options, own };
                collector::run(&choice.collectors, &context, choice.limits.unwrap_or(Limits::NONE), &mut out)
            }
        };
        let mut cuts = Vec::new();
        if choice.limits.is_some() {
            cuts = cut(snapshot, &runs);
            let detail = options.switch("scrape.detail");
            for run in runs.iter().filter(|run| detail || run.counters.over_limit > 0) {
                handler::add_dropped_once(run.name, run.counters.over_limit, &mut out);
            }
            broker::add_truncated(snapshot, &mut out);
        }
        let is_shown = |series: &Series<'_>| choice.shows(series.key().as_bytes());
        let series: Vec<Series<'_>> = out.series().collect();
        let rates = match rates {
            Some(rates) => rates.of(Instant::now(), series.iter()),
            None => vec![None; series.len()],
        };
        let shown = series.iter().map(is_shown).collect();
        drop(series);
        let time = own.now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            raw: if raw { raw::text(choice, snapshot) } else { Vec::new() },
            has_rates: choice.interval.is_some(),
            rates,
            shown,
            failures: if raw { unanswered(choice, snapshot) } else { failed(&runs) },
            notes: notes(choice, snapshot, &runs),
            cuts,
            out,
            runs,
            node_name: own.node_name.clone(),
            time: (time.as_secs_f64() * 1000.0).round() / 1000.0,
        }
    }

    /// Whether everything that was asked for is known, or is known not to be there.
    pub(super) fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    /// Says on standard error what is missing.
    pub(super) fn complain(&self) {
        tell(&self.failures);
        tell(&self.notes);
    }

    /// The same for the log, as far as it wants to know.
    pub(in super::super) fn log(&self) {
        self.failures.iter().for_each(|error| tracing::debug!(%error, "collector failed"));
        self.notes.iter().for_each(|note| tracing::info!(%note, "items left out"));
        self.cuts.iter().for_each(|cut| tracing::warn!("{cut}"));
    }

    /// The series that are shown, each with its rate. Those that tell of the collectors themselves are left to scrapes.
    pub(super) fn metrics(&self) -> impl Iterator<Item = (Series<'_>, Option<f64>)> {
        let of_collectors = |name: &str| collector::FAMILIES.iter().any(|family| family.name == name);
        self.out
            .series()
            .zip(&self.rates)
            .zip(&self.shown)
            .filter(move |((series, _), shown)| **shown && !of_collectors(series.family()))
            .map(|((series, rate), _)| (series, *rate))
    }

    /// How each collector did, for JSON.
    pub(super) fn collectors(&self) -> Vec<Value> {
        let one = |run: &Run| {
            let state = match &run.result {
                Ok(()) => "ok",
                Err(error) if is_no_data(error) => "no data",
                Err(_) => "failed",
            };
            let error = run.result.as_ref().err().map(ToString::to_string);
            let Counters { skipped, skipped_items, .. } = &run.counters;
            json!({ "name": run.name, "state": state, "error": error, "skipped": skipped, "skipped_items": skipped_items })
        };
        self.runs.iter().map(one).collect()
    }

    /// What is written; `size` are the columns and rows of a terminal that it must not outgrow.
    pub(super) fn render(&self, choice: &Choice, screen: Screen, size: Option<(usize, usize)>) -> Vec<u8> {
        match choice.format {
            Format::Table => self.table(choice, screen, size),
            Format::Json => json::text(self, choice.interval.is_none()).into_bytes(),
            Format::Prom => screen.of_host(self.exposition(choice)),
            Format::Raw => screen.of_host(self.raw.clone()),
        }
    }

    fn table(&self, choice: &Choice, screen: Screen, size: Option<(usize, usize)>) -> Vec<u8> {
        const METRIC: Column = Column { title: "METRIC", right: false };
        const VALUE: Column = Column { title: "VALUE", right: true };
        const RATE: Column = Column { title: "PER SECOND", right: true };
        const LABELS: Column = Column { title: "LABELS", right: false };
        let columns: &[Column] =
            if self.has_rates { &[METRIC, VALUE, RATE, LABELS] } else { &[METRIC, VALUE, LABELS] };
        let mut table = Table::new(columns);
        let mut left_out = 0;
        let rows = size.map_or(usize::MAX, |(_, rows)| rows.saturating_sub(2));
        for (at, (series, rate)) in self.metrics().enumerate() {
            if at >= rows {
                left_out += 1;
                continue;
            }
            let mut cells = vec![Cell::plain(&series.name()), Cell::plain(&series.value().to_string())];
            if self.has_rates {
                cells.push(Cell::plain(&rate_text(rate, series.kind())));
            }
            cells.push(Cell::new(series.written_labels(), Style::Dim));
            table.row(cells);
        }
        let mut lines = table.lines(screen, choice.headers, size.map(|(columns, _)| columns));
        if left_out > 0 {
            lines.push(format!("{left_out} more: name collectors, or narrow it by --filter"));
        }
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>().into_bytes()
    }

    fn exposition(&self, choice: &Choice) -> Vec<u8> {
        let mut text = Vec::new();
        if choice.filter.is_none() {
            self.out.write(&mut text, |_| true);
            return text;
        }
        let mut last = String::new();
        for (series, _) in self.out.series().zip(&self.shown).filter(|(_, shown)| **shown) {
            if last != series.family() {
                last = series.family().to_owned();
                text.extend_from_slice(format!("# TYPE {last} {}\n", series.kind().as_str()).as_bytes());
            }
            text.extend_from_slice(format!("{} {}\n", series.key(), series.value()).as_bytes());
        }
        text
    }
}

/// A rate with as many digits as tell something; a dash for a counter that has none yet.
fn rate_text(rate: Option<f64>, kind: Kind) -> String {
    match rate {
        None if kind == Kind::Counter => "-".to_owned(),
        None => String::new(),
        Some(rate) if rate == 0.0 || rate >= 1000.0 => format!("{rate:.0}"),
        Some(rate) if rate >= 1.0 => format!("{rate:.2}"),
        Some(rate) => format!("{rate:.4}"),
    }
}

/// Whether there is nothing to know: a capture holds no clock discipline (ENODATA), a host no tape drive.
fn is_no_data(error: &CollectError) -> bool {
    matches!(error, CollectError::NoData(_) | CollectError::Refused { errno: 61, .. })
}

fn failed(runs: &[Run]) -> Vec<String> {
    let failure = |run: &Run| {
        let error = run.result.as_ref().err().filter(|error| !is_no_data(error))?;
        Some(format!("{}: {error}", run.name))
    };
    runs.iter().filter_map(failure).collect()
}

fn cut(snapshot: &Snapshot, runs: &[Run]) -> Vec<String> {
    let truncated = snapshot.reports().filter(|(_, report)| report.outcome == Outcome::Truncated);
    let mut cuts: Vec<String> = truncated
        .map(|(query, report)| match report.left_out {
            0 => format!("{}: cut by a limit: there is more", query.as_str_name()),
            items => {
                format!(
                    "{}: cut by a limit, which left out at least {items} (a file that was cut counts as one)",
                    query.as_str_name()
                )
            }
        })
        .collect();
    for run in runs {
        let Some(limit) = run.counters.limit else { continue };
        let Counters { series, over_limit, .. } = run.counters;
        cuts.push(format!("{}: {series} series, and {over_limit} more: {}", run.name, limit.words()));
    }
    cuts
}

fn notes(choice: &Choice, snapshot: &Snapshot, runs: &[Run]) -> Vec<String> {
    let mut notes = left_out(choice, snapshot);
    for run in runs {
        let error = run.result.as_ref().err().filter(|error| choice.named && is_no_data(error));
        notes.extend(error.map(|error| format!("{}: {error}", run.name)));
        let Counters { skipped, skipped_items, .. } = &run.counters;
        notes.extend(skipped_items.iter().map(|item| format!("{}: left out: {item}", run.name)));
        if *skipped > skipped_items.len() {
            notes.push(format!("{}: {skipped} items left out in all", run.name));
        }
    }
    notes
}

/// Queries that would add to the chosen collectors, and that the broker's `--queries` leaves out.
fn left_out(choice: &Choice, snapshot: &Snapshot) -> Vec<String> {
    let mut notes = Vec::new();
    for collector in choice.collectors.iter().filter(|_| choice.named) {
        for query in collector.optional.iter().filter(|query| choice.queries.contains(query)) {
            notes.extend(snapshot.left_out(*query).map(|reason| {
                format!("{}: without {}{}", collector.name, query.as_str_name(), in_parentheses(reason))
            }));
        }
    }
    notes
}

/// Queries that the chosen collectors cannot do without and that did not end well, for a reading that no collector
/// looks at.
fn unanswered(choice: &Choice, snapshot: &Snapshot) -> Vec<String> {
    let needed = |query: &Query| choice.collectors.iter().any(|collector| collector.queries.contains(query));
    let failure = |(query, outcome): (Query, Outcome)| match outcome {
        Outcome::Ok | Outcome::Absent | Outcome::Empty => None,
        outcome => {
            let reason = in_parentheses(snapshot.reason(query).unwrap_or_default());
            Some(format!("{}: {}{reason}", query.as_str_name(), outcome.as_str_name()))
        }
    };
    let reports = snapshot.reports().map(|(query, report)| (query, report.outcome));
    reports.filter(|(query, _)| needed(query)).filter_map(failure).collect()
}
