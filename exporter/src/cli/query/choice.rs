//! What is to be shown, and how: the flags of `query`, checked before anything is read.

use std::time::Duration;

use keyhole_flags::alternatives;
use keyhole_proto::v1::Query;

use super::super::Failure;
use super::super::flags::NOT_OFFERED;
use crate::budget::Budget;
use crate::collector::{self, COLLECTORS, Collector};
use crate::exposition::Limits;
use crate::go_regex::GoRegex;
use crate::options::{Options, most_similar};
use crate::scrape;

/// The shortest interval: the broker answers 20 requests a second to a uid, and the server's scrapes are among them.
const SHORTEST: Duration = Duration::from_millis(200);

/// What is to be shown.
#[derive(Debug)]
pub(in super::super) struct Choice {
    pub(super) collectors: Vec<&'static Collector>,
    /// What they need.
    pub(super) queries: Vec<Query>,
    /// They were named, so that whoever asks wants to hear when one has nothing.
    pub(super) named: bool,
    pub(super) format: Format,
    pub(super) filter: Option<GoRegex>,
    pub(super) headers: bool,
    pub(super) interval: Option<Duration>,
    /// How many times; none for no end.
    pub(super) count: Option<u64>,
    /// As in a scrape: collectors are cut at this many series, and what was cut is among the metrics.
    pub(super) limits: Option<Limits>,
}

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Format {
    Table,
    Json,
    Prom,
    Raw,
}

impl Choice {
    /// Reads the flags; `names` are collectors, on by default or not.
    pub(in super::super) fn new(names: &[&str], options: &Options) -> Result<Self, Failure> {
        let collectors = match names {
            [] => scrape::enabled(options),
            names => {
                let mut chosen = names.iter().map(|name| collector(name)).collect::<Result<Vec<_>, _>>()?;
                chosen.sort_unstable_by_key(|collector| collector.name);
                chosen.dedup_by_key(|collector| collector.name);
                chosen
            }
        };
        let interval = options.interval("watch");
        if interval.is_some_and(|interval| interval < SHORTEST) {
            return Err(Failure::Usage(
                "--watch: at least 200ms, so that the broker has time for others".into(),
            ));
        }
        if options.was_given("count") && interval.is_none() {
            return Err(Failure::Usage("--count goes with --watch".into()));
        }
        Ok(Self {
            queries: collector::queries(&collectors, options),
            collectors,
            named: !names.is_empty(),
            format: Format::find(options.text("output"), &["table", "json", "prom", "raw"])?,
            filter: options.regexp("filter").cloned(),
            headers: options.switch("headers"),
            interval,
            count: Some(options.number("count")).filter(|count| *count > 0),
            limits: None,
        })
    }

    /// Everything that `options` switch on, in the text format: what a scrape would give.
    pub(in super::super) fn exposition(options: &Options) -> Result<Self, Failure> {
        let limits = Some(Budget::new(options).series);
        Ok(Self { format: Format::Prom, limits, ..Self::new(&[], options)? })
    }

    /// Whether a series or a path is to be shown.
    pub(super) fn shows(&self, text: &[u8]) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.is_match(text))
    }
}

impl Format {
    /// The format of this name, when it is among `offered`.
    pub(in super::super) fn find(name: &str, offered: &[&str]) -> Result<Self, Failure> {
        match name {
            "table" => Some(Format::Table),
            "json" => Some(Format::Json),
            "prom" => Some(Format::Prom),
            "raw" => Some(Format::Raw),
            _ => None,
        }
        .filter(|_| offered.contains(&name))
        .ok_or_else(|| {
            let near = most_similar(offered.iter().copied(), name);
            let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            Failure::Usage(format!("--output={name:?}: use {}{near}", alternatives(offered)))
        })
    }
}

fn collector(name: &str) -> Result<&'static Collector, Failure> {
    if let Some(collector) = COLLECTORS.iter().find(|collector| collector.name == name) {
        return Ok(collector);
    }
    if let Some((_, why)) = NOT_OFFERED.iter().find(|(of, _)| of.strip_prefix("collector.") == Some(name)) {
        return Err(Failure::Usage(format!("the {name} collector is not supported: {why}")));
    }
    let near = most_similar(COLLECTORS.iter().map(|collector| collector.name), name);
    let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    Err(Failure::Usage(format!("unknown collector {name:?}{near}; keyhole-exporter --help lists them")))
}
