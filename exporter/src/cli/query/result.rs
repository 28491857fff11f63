//! The result of one reading: metrics or kernel text to print, and what failed.

use std::time::{Instant, UNIX_EPOCH};

use keyhole_proto::v1::{Outcome, Query};
use serde_json::{Value, json};

use super::super::Failure;
use super::super::terminal::{Style, Terminal};
use super::options::{Format, QueryOptions};
use super::rates::Rates;
use super::table::{Cell, Column, Table};
use super::{json, print_lines, raw};
use crate::collector::{self, CollectError, Context, LocalData, Run, in_parentheses};
use crate::exposition::{Counters, Exposition, Limits, MetricType, Series};
use crate::self_metrics::{broker, server};
use crate::snapshot::{Snapshot, is_answered};

/// The result of one reading.
pub(in super::super) struct QueryResult {
    out: Exposition,
    runs: Vec<Run>,
    raw: Vec<u8>,
    rates: Vec<Option<f64>>,
    has_rates: bool,
    /// Whether each series is printed, in the order of the exposition.
    is_shown: Vec<bool>,
    /// Collectors or queries that failed.
    failures: Vec<String>,
    /// Other messages for the user.
    notes: Vec<String>,
    /// What limits have cut, as in a scrape.
    cuts: Vec<String>,
    pub(super) node_name: Option<String>,
    /// Seconds since the epoch.
    pub(super) time: f64,
}

impl QueryResult {
    /// Runs the collectors on `snapshot`. With `rates`, counters are compared with the last reading.
    pub(super) fn new(
        query_options: &QueryOptions,
        snapshot: &Snapshot,
        local: &LocalData,
        rates: Option<&mut Rates>,
    ) -> Self {
        let mut out = Exposition::new();
        out.describe_more_items();
        let raw = query_options.format == Format::Raw;
        let runs = if raw {
            Vec::new()
        } else {
            let context = Context { snapshot, local };
            let limits = query_options.limits.unwrap_or(Limits::NONE);
            collector::run(&query_options.collectors, &context, limits, query_options.detail, &mut out)
        };
        let mut cuts = Vec::new();
        if query_options.limits.is_some() {
            cuts = truncations(snapshot, &runs);
            for run in runs.iter().filter(|run| query_options.detail || run.counters.over_limit > 0) {
                server::add_dropped_once(run.name, run.counters.over_limit, &mut out);
            }
            broker::add_truncated(snapshot, &mut out);
        }
        let is_shown = |series: &Series<'_>| query_options.matches_filter(series.key().as_bytes());
        let series: Vec<Series<'_>> = out.series().collect();
        let rates = match rates {
            Some(rates) => rates.update(Instant::now(), series.iter()),
            None => vec![None; series.len()],
        };
        let is_shown = series.iter().map(is_shown).collect();
        drop(series);
        let time = local.now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            raw: if raw { raw::text(query_options, snapshot) } else { Vec::new() },
            has_rates: query_options.watch_interval.is_some(),
            rates,
            is_shown,
            failures: if raw { unanswered(query_options, snapshot) } else { failures_of(&runs) },
            notes: notes(query_options, snapshot, &runs),
            cuts,
            out,
            runs,
            node_name: local.node_name.clone(),
            time: (time.as_secs_f64() * 1000.0).round() / 1000.0,
        }
    }

    /// Whether nothing failed.
    pub(super) fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// The exit status, as a result: partial if something failed.
    pub(in super::super) fn status(&self) -> Result<(), Failure> {
        if self.is_complete() { Ok(()) } else { Err(Failure::Partial) }
    }

    /// Prints failures and notes on standard error.
    pub(super) fn print_errors(&self) {
        print_lines(&self.failures);
        print_lines(&self.notes);
    }

    /// Logs failures, notes and cuts.
    pub(in super::super) fn log(&self) {
        self.failures.iter().for_each(|error| tracing::warn!(%error, "collector failed"));
        self.notes.iter().for_each(|note| tracing::info!(%note, "items skipped"));
        self.cuts.iter().for_each(|cut| tracing::warn!("{cut}"));
    }

    /// The series to print, each with its rate, without metrics about the collectors themselves.
    pub(super) fn metrics(&self) -> impl Iterator<Item = (Series<'_>, Option<f64>)> {
        let of_collectors = |name: &str| collector::FAMILIES.iter().any(|family| family.name == name);
        self.out
            .series()
            .zip(&self.rates)
            .zip(&self.is_shown)
            .filter(move |((series, _), is_shown)| **is_shown && !of_collectors(series.family()))
            .map(|((series, rate), _)| (series, *rate))
    }

    /// The state of each collector, for JSON.
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
    pub(super) fn render(
        &self,
        query_options: &QueryOptions,
        terminal: Terminal,
        size: Option<(usize, usize)>,
    ) -> Vec<u8> {
        match query_options.format {
            Format::Table => self.table(query_options, terminal, size),
            Format::Json => json::text(self, query_options.watch_interval.is_none()).into_bytes(),
            Format::Prom => terminal.sanitize(self.exposition(query_options)),
            Format::Raw => terminal.sanitize(self.raw.clone()),
        }
    }

    fn table(
        &self,
        query_options: &QueryOptions,
        terminal: Terminal,
        size: Option<(usize, usize)>,
    ) -> Vec<u8> {
        const METRIC: Column = Column { title: "METRIC", right: false };
        const VALUE: Column = Column { title: "VALUE", right: true };
        const RATE: Column = Column { title: "PER SECOND", right: true };
        const LABELS: Column = Column { title: "LABELS", right: false };
        let columns: &[Column] =
            if self.has_rates { &[METRIC, VALUE, RATE, LABELS] } else { &[METRIC, VALUE, LABELS] };
        let mut table = Table::new(columns);
        let mut omitted = 0;
        let rows = size.map_or(usize::MAX, |(_, rows)| rows.saturating_sub(2));
        for (at, (series, rate)) in self.metrics().enumerate() {
            if at >= rows {
                omitted += 1;
                continue;
            }
            let mut cells = vec![Cell::plain(&series.name()), Cell::plain(&series.value().to_string())];
            if self.has_rates {
                cells.push(Cell::plain(&rate_text(rate, series.kind())));
            }
            cells.push(Cell::new(series.written_labels(), Style::Dim));
            table.row(cells);
        }
        let mut lines = table.lines(terminal, query_options.headers, size.map(|(columns, _)| columns));
        if omitted > 0 {
            lines.push(format!("{omitted} more: name collectors, or use --filter"));
        }
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>().into_bytes()
    }

    fn exposition(&self, query_options: &QueryOptions) -> Vec<u8> {
        let mut text = Vec::new();
        if query_options.filter.is_none() {
            self.out.write(&mut text, |_| true);
            return text;
        }
        let mut last = String::new();
        for (series, _) in self.out.series().zip(&self.is_shown).filter(|(_, is_shown)| **is_shown) {
            if last != series.family() {
                last = series.family().to_owned();
                text.extend_from_slice(format!("# TYPE {last} {}\n", series.kind().as_str()).as_bytes());
            }
            text.extend_from_slice(format!("{} {}\n", series.key(), series.value()).as_bytes());
        }
        text
    }
}

/// A rate with a reasonable number of digits; a dash for a counter without a rate yet.
fn rate_text(rate: Option<f64>, kind: MetricType) -> String {
    match rate {
        None if kind == MetricType::Counter => "-".to_owned(),
        None => String::new(),
        Some(rate) if rate == 0.0 || rate >= 1000.0 => format!("{rate:.0}"),
        Some(rate) if rate >= 1.0 => format!("{rate:.2}"),
        Some(rate) => format!("{rate:.4}"),
    }
}

/// Whether a collector has no data: a host has no tape drive, a capture has no clock discipline (ENODATA).
fn is_no_data(error: &CollectError) -> bool {
    matches!(error, CollectError::NoData(_) | CollectError::Refused { errno: 61, .. })
}

fn failures_of(runs: &[Run]) -> Vec<String> {
    let failure = |run: &Run| {
        let error = run.result.as_ref().err().filter(|error| !is_no_data(error))?;
        Some(format!("{}: {error}", run.name))
    };
    runs.iter().filter_map(failure).collect()
}

fn truncations(snapshot: &Snapshot, runs: &[Run]) -> Vec<String> {
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
        cuts.push(format!("{}: {series} series, and {over_limit} more: {}", run.name, limit.message()));
    }
    cuts
}

fn notes(query_options: &QueryOptions, snapshot: &Snapshot, runs: &[Run]) -> Vec<String> {
    let mut notes = excluded_queries(query_options, snapshot);
    for run in runs {
        let error = run.result.as_ref().err().filter(|error| query_options.is_explicit && is_no_data(error));
        notes.extend(error.map(|error| format!("{}: {error}", run.name)));
        let Counters { skipped, skipped_items, .. } = &run.counters;
        notes.extend(skipped_items.iter().map(|item| format!("{}: left out: {item}", run.name)));
        if *skipped > skipped_items.len() {
            notes.push(format!("{}: {skipped} items left out in all", run.name));
        }
    }
    notes
}

/// Optional queries of the selected collectors that the broker's `--queries` excludes.
fn excluded_queries(query_options: &QueryOptions, snapshot: &Snapshot) -> Vec<String> {
    let mut notes = Vec::new();
    for collector in query_options.collectors.iter().filter(|_| query_options.is_explicit) {
        for query in collector.row.optional.iter().filter(|query| query_options.queries.contains(query)) {
            notes.extend(snapshot.exclusion_reason(*query).map(|reason| {
                format!("{}: without {}{}", collector.row.name, query.as_str_name(), in_parentheses(reason))
            }));
        }
    }
    notes
}

/// Required queries of the selected collectors that failed, for raw output, which runs no collector.
fn unanswered(query_options: &QueryOptions, snapshot: &Snapshot) -> Vec<String> {
    let needed = |query: &Query| {
        query_options.collectors.iter().any(|collector| collector.row.queries.contains(query))
    };
    let failure = |(query, outcome): (Query, Outcome)| {
        let reason = in_parentheses(snapshot.reason(query).unwrap_or_default());
        (!is_answered(outcome)).then(|| format!("{}: {}{reason}", query.as_str_name(), outcome.as_str_name()))
    };
    let reports = snapshot.reports().map(|(query, report)| (query, report.outcome));
    reports.filter(|(query, _)| needed(query)).filter_map(failure).collect()
}
