//! One scrape: one read of the broker for all collectors, their samples, and the exporter's own metrics, rendered.
//!
//! Scrapes of the same collectors that come while one is under way share it, so that any number of clients costs the
//! host one read.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use keyhole_proto::v1::{DescribeResponse, Query};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::broker_client::{BrokerClient, BrokerError};
use crate::cli::flags::NOT_OFFERED;
use crate::collector::{self, COLLECTORS, CollectError, Collector, Context, Run};
use crate::exposition::Exposition;
use crate::history::History;
use crate::lock;
use crate::options::Options;
use crate::own::OwnSource;
use crate::protobuf;
use crate::sandbox::Layer;
use crate::self_metrics::{self, broker, handler::Handler, process::Process};
use crate::snapshot::Snapshot;

/// How long what the broker said of itself is taken as true.
const DESCRIPTION_AGE: Duration = Duration::from_secs(15);
/// How often the log tells that a collector is at its limit.
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// How often the log reports that scrapes still fail.
const FAILURE_INTERVAL: Duration = Duration::from_secs(60);
/// How long the broker may take to say it.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes scrapes.
#[derive(Debug)]
pub struct Scraper {
    broker: BrokerClient,
    options: Options,
    own: OwnSource,
    enabled: Vec<&'static Collector>,
    process: Process,
    layers: Vec<Layer>,
    /// Counters that the server adds to.
    pub handler: Handler,
    /// What the last scrapes cost.
    pub history: History,
    running: Mutex<HashMap<Selection, watch::Receiver<Option<Shared>>>>,
    description: Mutex<Description>,
    /// What each collector last failed with, so that the log tells changes and not every scrape.
    failures: Mutex<HashMap<&'static str, String>>,
    /// Collectors at their limit that the log has told of.
    limits_told: Told,
    /// Queries that the broker's flags leave out, once the log has named them.
    left_out: Mutex<HashSet<Query>>,
    outage: Mutex<Option<Outage>>,
}

/// Scrapes that fail, one after the other.
#[derive(Debug)]
struct Outage {
    /// When the log last had a line about them.
    logged_at: Instant,
    /// Failures since that line.
    unlogged: u64,
}

impl Outage {
    /// Counts a failure; returns how many there were since the last line if another is due.
    fn fail(outage: &mut Option<Self>, now: Instant) -> Option<u64> {
        let Some(known) = outage else {
            *outage = Some(Self { logged_at: now, unlogged: 0 });
            return Some(1);
        };
        known.unlogged += 1;
        let is_due = now.saturating_duration_since(known.logged_at) >= FAILURE_INTERVAL;
        is_due.then(|| {
            known.logged_at = now;
            std::mem::take(&mut known.unlogged)
        })
    }
}

/// When the log last told of a collector.
#[derive(Debug, Default)]
struct Told(Mutex<HashMap<&'static str, Instant>>);

/// A set of collectors, by their place in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selection(Vec<usize>);

/// A finished scrape, shared by all who asked for it.
pub type Shared = Arc<Result<Scrape, BrokerError>>;

/// A finished scrape.
#[derive(Debug)]
pub struct Scrape {
    exposition: Exposition,
    text: Encoded,
    protobuf: Encoded,
}

/// One form of a scrape, made when it is first asked for.
#[derive(Debug, Default)]
struct Encoded {
    plain: OnceLock<Bytes>,
    compressed: OnceLock<Bytes>,
}

/// The forms of an exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text format 0.0.4.
    Text,
    /// `io.prometheus.client.MetricFamily` messages, each after its length.
    Protobuf,
}

#[derive(Debug, Default)]
struct Description {
    answer: Option<Arc<DescribeResponse>>,
    /// When it came; none when it has to be asked for again.
    at: Option<Instant>,
    start_time_ms: u64,
}

/// Why collectors cannot be selected; node_exporter's words.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum SelectError {
    /// `collect[]` and `exclude[]` together.
    #[error("Combined collect and exclude queries are not allowed.")]
    Combined,
    /// No such collector.
    #[error("Couldn't create filtered metrics handler: couldn't create collector: missing collector: {0}")]
    Missing(String),
    /// A collector that is not enabled.
    #[error("Couldn't create filtered metrics handler: couldn't create collector: disabled collector: {0}")]
    Disabled(String),
    /// A collector of node_exporter's that is off by default there, and never on here.
    #[error(
        "Couldn't create filtered metrics handler: couldn't create collector: disabled collector: {name} (not offered: {why})"
    )]
    NotOffered {
        /// Its name.
        name: String,
        /// Why it is not offered.
        why: &'static str,
    },
}

impl Scraper {
    /// Everything that scrapes need; `layers` are those of the exporter's own sandbox.
    pub fn new(
        broker: BrokerClient,
        options: Options,
        own: OwnSource,
        process: Process,
        layers: Vec<Layer>,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            broker,
            own,
            enabled: enabled(&options),
            options,
            process,
            layers,
            handler: Handler::new()?,
            history: History::default(),
            running: Mutex::default(),
            description: Mutex::default(),
            failures: Mutex::default(),
            limits_told: Told::default(),
            left_out: Mutex::default(),
            outage: Mutex::default(),
        })
    }

    /// The enabled collectors, less or only those that the request names.
    pub fn select(&self, collect: &[String], exclude: &[String]) -> Result<Selection, SelectError> {
        if !collect.is_empty() && !exclude.is_empty() {
            return Err(SelectError::Combined);
        }
        for name in collect {
            if !COLLECTORS.iter().any(|collector| collector.name == name) {
                let not_offered =
                    NOT_OFFERED.iter().find(|(flag, _)| flag.strip_prefix("collector.") == Some(name));
                return Err(match not_offered {
                    Some((_, why)) => SelectError::NotOffered { name: name.clone(), why },
                    None => SelectError::Missing(name.clone()),
                });
            }
            if !self.enabled.iter().any(|collector| collector.name == name) {
                return Err(SelectError::Disabled(name.clone()));
            }
        }
        let named = |names: &[String], collector: &Collector| names.iter().any(|name| name == collector.name);
        let chosen = self.enabled.iter().enumerate().filter(|(_, collector)| match collect.is_empty() {
            true => !named(exclude, collector),
            false => named(collect, collector),
        });
        Ok(Selection(chosen.map(|(at, _)| at).collect()))
    }

    /// The collectors that a scrape runs unless it is told otherwise.
    pub fn collectors(&self) -> &[&'static Collector] {
        &self.enabled
    }

    /// The layers of the exporter's own sandbox.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The node's name, as this process was told.
    pub fn node_name(&self) -> String {
        self.own.nodes_name()
    }

    /// The broker's socket.
    pub fn socket(&self) -> &str {
        self.broker.socket()
    }

    /// A scrape of `selection`: one that is under way, or a new one. Ends by `deadline`.
    pub async fn scrape(self: &Arc<Self>, selection: Selection, deadline: Instant) -> Shared {
        let mut shared = self.join_or_start(selection, deadline);
        // A scrape has its own deadline; a little more lets its partial answer through.
        let finished =
            timeout_at(deadline + Duration::from_millis(100), shared.wait_for(Option::is_some)).await;
        match finished {
            Ok(Ok(scrape)) => scrape.clone(),
            _ => None,
        }
        .unwrap_or_else(|| Arc::new(Err(BrokerError::Deadline)))
    }

    /// Whether a scrape of `selection` is under way.
    pub fn is_running(&self, selection: &Selection) -> bool {
        lock(&self.running).contains_key(selection)
    }

    fn join_or_start(
        self: &Arc<Self>,
        selection: Selection,
        deadline: Instant,
    ) -> watch::Receiver<Option<Shared>> {
        let mut running = lock(&self.running);
        if let Some(scrape) = running.get(&selection) {
            return scrape.clone();
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(selection.clone(), receiver.clone());
        let entry = Entry { scraper: Arc::clone(self), selection };
        tokio::spawn(async move {
            let scrape = entry.scraper.run(&entry.selection, deadline).await;
            drop(entry);
            sender.send_replace(Some(Arc::new(scrape)));
        });
        receiver
    }

    async fn run(&self, selection: &Selection, deadline: Instant) -> Result<Scrape, BrokerError> {
        let begun = Instant::now();
        let collectors: Vec<&'static Collector> =
            selection.0.iter().filter_map(|&at| self.enabled.get(at).copied()).collect();
        let queries = collector::queries(&collectors, &self.options);
        let read = async {
            match queries.is_empty() {
                true => Ok(Snapshot::default()),
                false => self.broker.read(&queries, deadline).await,
            }
        };
        let (snapshot, description) = tokio::join!(read, self.description(deadline));
        let mut snapshot = snapshot.inspect_err(|error| {
            lock(&self.description).at = None;
            self.history.failed(begun, error);
            if let Some(failures) = Outage::fail(&mut lock(&self.outage), begun) {
                tracing::warn!(%error, failures, "scrape failed");
            }
        })?;
        if let Some(description) = &description {
            snapshot.explain(description);
        }
        self.note_left_out(&collectors, &snapshot);
        if let Some(Outage { unlogged, .. }) = lock(&self.outage).take() {
            tracing::info!(failures = unlogged, "scrapes work again");
        }
        Ok(self.render(&collectors, &snapshot, description.as_deref(), begun))
    }

    fn render(
        &self,
        collectors: &[&'static Collector],
        snapshot: &Snapshot,
        description: Option<&DescribeResponse>,
        begun: Instant,
    ) -> Scrape {
        let mut out = Exposition::new();
        let own_metrics = !self.options.switch("web.disable-exporter-metrics");
        let detail = self.options.switch("scrape.detail");
        self_metrics::add_build(&self.layers, &mut out);
        broker::add_description(description, &mut out);
        broker::add_queries(snapshot, detail, &mut out);
        self.handler.add(own_metrics, &mut out);
        if own_metrics {
            self.process.add(&mut out);
        }
        let limit = match self.options.number("collector.series-limit") {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let own = self.own.now();
        let context = Context { snapshot, options: &self.options, own: &own };
        let runs = collector::run(collectors, &context, limit, &mut out);
        for run in &runs {
            if detail || run.tally.over_limit > 0 {
                self.handler.dropped(run.name, run.tally.over_limit);
            }
            self.note(run);
        }
        self.handler.add_dropped(&mut out);
        let mut text = Vec::new();
        let written = out.write(&mut text, |_| true);
        self.handler.duplicates.inc_by(written.duplicates as u64);
        self.history.scraped(begun, snapshot, &runs);
        let text = Encoded { plain: OnceLock::from(Bytes::from(text)), compressed: OnceLock::new() };
        Scrape { exposition: out, text, protobuf: Encoded::default() }
    }

    /// Logs queries that the broker's `--queries` leaves out, each once until it is answered. Those that a collector
    /// cannot do without are in the line of its failure.
    fn note_left_out(&self, collectors: &[&'static Collector], snapshot: &Snapshot) {
        let mut logged = lock(&self.left_out);
        for (query, _) in snapshot.reports() {
            let Some(reason) = snapshot.left_out(query) else {
                logged.remove(&query);
                continue;
            };
            let adds_to = collectors.iter().find(|collector| collector.optional.contains(&query));
            if let Some(collector) = adds_to.filter(|_| logged.insert(query)) {
                let (collector, query) = (collector.name, query.as_str_name());
                tracing::warn!(collector, query, %reason, "the broker leaves a query out: the collector reports less");
            }
        }
    }

    /// Logs a collector whose result changed.
    fn note(&self, run: &Run) {
        let mut failures = lock(&self.failures);
        let before = failures.get(run.name);
        match &run.result {
            Ok(()) => {
                if failures.remove(run.name).is_some() {
                    tracing::info!(collector = run.name, "collector works again");
                }
            }
            Err(error) => {
                let text = error.to_string();
                if before == Some(&text) {
                    return;
                }
                match error {
                    CollectError::NoData(_) => {
                        tracing::debug!(collector = run.name, error = %text, "collector has no data");
                    }
                    _ => tracing::error!(collector = run.name, error = %text, "collector failed"),
                }
                failures.insert(run.name, text);
            }
        }
        if let Some(first) = &run.tally.first_skipped {
            tracing::debug!(collector = run.name, skipped = run.tally.skipped, %first, "items left out");
        }
        if run.tally.over_limit > 0 && self.limits_told.is_due(run.name) {
            tracing::warn!(
                collector = run.name,
                series = run.tally.series,
                dropped = run.tally.over_limit,
                "the collector reached --collector.series-limit; narrow it by its flags, or raise the limit"
            );
        }
    }

    /// What the broker says of itself; asked again when that is old or when it did not answer.
    async fn description(&self, deadline: Instant) -> Option<Arc<DescribeResponse>> {
        let fresh = {
            let known = lock(&self.description);
            known.at.filter(|at| at.elapsed() < DESCRIPTION_AGE).map(|_| known.answer.clone())
        };
        match fresh {
            Some(answer) => answer,
            None => self.describe(deadline.min(Instant::now() + DESCRIBE_TIMEOUT)).await.ok(),
        }
    }

    /// Asks the broker what it is.
    pub async fn describe(&self, deadline: Instant) -> Result<Arc<DescribeResponse>, BrokerError> {
        let answer = self.broker.describe(deadline).await;
        let mut known = lock(&self.description);
        match answer {
            Ok(answer) => {
                if known.start_time_ms != 0 && known.start_time_ms != answer.start_time_ms {
                    self.handler.restarts.inc();
                    tracing::info!(version = answer.version, "the broker was restarted");
                }
                known.start_time_ms = answer.start_time_ms;
                known.at = Some(Instant::now());
                let answer = Arc::new(answer);
                known.answer = Some(Arc::clone(&answer));
                Ok(answer)
            }
            Err(error) => {
                *known = Description { start_time_ms: known.start_time_ms, ..Description::default() };
                Err(error)
            }
        }
    }

    /// Whether the broker answers, asked now unless it did a moment ago.
    pub async fn ready(&self) -> Result<(), BrokerError> {
        let lately = lock(&self.description).at.is_some_and(|at| at.elapsed() < DESCRIBE_TIMEOUT);
        match lately {
            true => Ok(()),
            false => self.describe(Instant::now() + DESCRIBE_TIMEOUT).await.map(drop),
        }
    }
}

impl Scrape {
    /// All of it.
    pub fn whole(&self, format: Format) -> Bytes {
        self.encoded(format).plain.get_or_init(|| self.encode(format, |_| true)).clone()
    }

    /// The same, compressed once for all who ask.
    pub fn compressed(&self, format: Format, compress: impl FnOnce(&[u8]) -> Vec<u8>) -> Bytes {
        let compressed = &self.encoded(format).compressed;
        compressed.get_or_init(|| compress(&self.whole(format)).into()).clone()
    }

    /// The families with these names alone.
    pub fn families(&self, format: Format, names: &[String]) -> Bytes {
        self.encode(format, |family| names.iter().any(|name| name == family))
    }

    fn encoded(&self, format: Format) -> &Encoded {
        match format {
            Format::Text => &self.text,
            Format::Protobuf => &self.protobuf,
        }
    }

    fn encode(&self, format: Format, keep: impl Fn(&str) -> bool) -> Bytes {
        match format {
            Format::Text => {
                let mut text = Vec::new();
                self.exposition.write(&mut text, keep);
                text.into()
            }
            Format::Protobuf => protobuf::encode(&self.exposition, keep).into(),
        }
    }
}

/// A scrape under way; whoever comes after its end starts another.
struct Entry {
    scraper: Arc<Scraper>,
    selection: Selection,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.scraper.running).remove(&self.selection);
    }
}

/// The collectors that the flags leave on. Text files come last: where they name a family of the host's, the host's stands.
pub fn enabled(options: &Options) -> Vec<&'static Collector> {
    let defaults = !options.switch("collector.disable-defaults");
    let on = |collector: &&'static Collector| {
        let switch = collector::switch(collector.name);
        options.switch(switch) && (defaults || options.was_given(switch))
    };
    let mut enabled: Vec<&'static Collector> = COLLECTORS.iter().copied().filter(on).collect();
    enabled.sort_by_key(|collector| collector.name == "textfile");
    enabled
}

impl Told {
    /// Whether it is time to tell of `collector`; then it counts as told.
    fn is_due(&self, collector: &'static str) -> bool {
        let now = Instant::now();
        let mut told = lock(&self.0);
        let due = told.get(collector).is_none_or(|last| now.duration_since(*last) >= TELL_AGAIN);
        if due {
            told.insert(collector, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapes_that_fail_are_logged_at_once_and_then_a_minute_at_a_time() {
        let (mut outage, start) = (None, Instant::now());
        let logged: Vec<_> = (0..=12)
            .filter_map(|number| Outage::fail(&mut outage, start + Duration::from_secs(10 * number)))
            .collect();
        assert_eq!(logged, [1, 6, 6]);
    }
}
