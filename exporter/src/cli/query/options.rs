//! The options of `query`, checked before anything is read.

use std::time::Duration;

use keyhole_flags::alternatives;
use keyhole_proto::v1::Query;

use super::super::Failure;
use super::super::flags::{COUNT, FILTER, HEADERS, OUTPUT, SCRAPE_DETAIL, UNSUPPORTED_COLLECTORS, WATCH};
use crate::budget::Budget;
use crate::collector::{self, COLLECTORS, Collector, Instance};
use crate::exposition::Limits;
use crate::go_regex::GoRegex;
use crate::options::{Options, most_similar};

/// What `query` reads and how it prints it.
#[derive(Debug)]
pub(in super::super) struct QueryOptions {
    pub(super) collectors: Vec<Instance>,
    /// The queries that they need.
    pub(super) queries: Vec<Query>,
    /// Whether collectors were named on the command line; then those without data are reported.
    pub(super) is_explicit: bool,
    pub(super) format: Format,
    pub(super) filter: Option<GoRegex>,
    pub(super) headers: bool,
    pub(super) watch_interval: Option<Duration>,
    /// The number of readings with `--watch`; none for no limit.
    pub(super) count: Option<u64>,
    /// Whether each query and collector is reported separately.
    pub(super) detail: bool,
    /// The limits of a scrape, for `replay`; dropped series are counted in the metrics.
    pub(super) limits: Option<Limits>,
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Format {
    Table,
    Json,
    Prom,
    Raw,
}

impl QueryOptions {
    /// The options by the flags; `names` are collectors, enabled by default or not.
    pub(in super::super) fn new(names: &[&str], options: &Options) -> Result<Self, Failure> {
        let collectors = match names {
            [] => collector::enabled(options)?,
            names => {
                let mut selected = names.iter().map(|name| collector(name)).collect::<Result<Vec<_>, _>>()?;
                selected.sort_unstable_by_key(|collector| collector.name);
                selected.dedup_by_key(|collector| collector.name);
                collector::instances(selected, options)?
            }
        };
        let watch_interval = WATCH.get(options);
        if COUNT.is_set(options) && watch_interval.is_none() {
            return Err(Failure::Usage("--count needs --watch".into()));
        }
        Ok(Self {
            queries: collector::queries(&collectors),
            collectors,
            is_explicit: !names.is_empty(),
            format: Format::parse(&OUTPUT.get(options), &["table", "json", "prom", "raw"])?,
            filter: FILTER.get(options),
            headers: HEADERS.get(options),
            watch_interval,
            count: Some(COUNT.get(options)).filter(|count| *count > 0),
            detail: SCRAPE_DETAIL.get(options),
            limits: None,
        })
    }

    /// All enabled collectors in the text format, within the limits of a scrape.
    pub(in super::super) fn for_replay(options: &Options) -> Result<Self, Failure> {
        let limits = Some(Budget::new(options).series);
        Ok(Self { format: Format::Prom, limits, ..Self::new(&[], options)? })
    }

    /// Whether a series or a path matches `--filter`.
    pub(super) fn matches_filter(&self, text: &[u8]) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.is_match(text))
    }
}

impl Format {
    /// Parses the name of a format; it must be one of `supported`.
    pub(in super::super) fn parse(name: &str, supported: &[&str]) -> Result<Self, Failure> {
        match name {
            "table" => Some(Format::Table),
            "json" => Some(Format::Json),
            "prom" => Some(Format::Prom),
            "raw" => Some(Format::Raw),
            _ => None,
        }
        .filter(|_| supported.contains(&name))
        .ok_or_else(|| {
            let near = most_similar(supported.iter().copied(), name);
            let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            Failure::Usage(format!("--output={name:?}: use {}{near}", alternatives(supported)))
        })
    }
}

fn collector(name: &str) -> Result<&'static Collector, Failure> {
    if let Some(collector) = COLLECTORS.iter().find(|collector| collector.name == name) {
        return Ok(collector);
    }
    if let Some((_, why)) =
        UNSUPPORTED_COLLECTORS.iter().find(|(of, _)| of.strip_prefix("collector.") == Some(name))
    {
        return Err(Failure::Usage(format!("the {name} collector is not supported: {why}")));
    }
    let near = most_similar(COLLECTORS.iter().map(|collector| collector.name), name);
    let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    Err(Failure::Usage(format!("unknown collector {name:?}{near}; keyhole-exporter --help lists them")))
}
