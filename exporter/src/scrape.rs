//! Scrapes: one read of the broker, the samples of all collectors, and the exporter's own metrics, rendered.
//!
//! Concurrent scrapes of the same collectors share one, so that any number of clients costs the host one read.
//! Selections of collectors have a few reads per second of their own; beyond those they are served from a shared read
//! for all collectors, at most a second old (`docs/adr/0008-prometheus-does-not-wait-for-other-clients.md`).

mod log;
mod response;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use keyhole_proto::v1::{DescribeResponse, Outcome, Query, QueryDescription};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, timeout_at};

use self::log::{ItemChange, ItemLog, LimitLog, Outage};
use self::response::Encoded;
pub use self::response::{Format, Scrape};
use crate::broker_client::{BrokerClient, BrokerError};
use crate::budget::Budget;
use crate::cli::flags::{DISABLE_EXPORTER_METRICS, SCRAPE_DETAIL, UNSUPPORTED_COLLECTORS};
use crate::collector::{self, COLLECTORS, CollectError, Context, Instance, Run};
use crate::exposition::{Counters, Exposition, Written};
use crate::http::{Client, RateLimit, RateLimitBucket, Throttle};
use crate::local::LocalSource;
use crate::lock;
use crate::options::Options;
use crate::sandbox::Layer;
use crate::scrape_history::{ScrapeHistory, ScrapeTotals};
use crate::self_metrics::{self, broker, process::Process, server::ServerMetrics};
use crate::snapshot::Snapshot;
use crate::unread_responses::UnreadResponses;

/// How long the broker's description of itself is cached.
const DESCRIPTION_MAX_AGE: Duration = Duration::from_secs(15);
/// The timeout of the broker's description of itself.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client with less time than this shares any running scrape.
const SHORT_DEADLINE: Duration = Duration::from_secs(1);
/// The time that a running scrape must have left for another client to share it.
const MIN_TIME_LEFT: Duration = Duration::from_millis(500);
/// How much longer than a scrape that timed out a client must be able to wait for a new scrape to be started.
const MIN_EXTRA_TIME: Duration = Duration::from_millis(500);
/// The rate limit of reads for selections of collectors.
const SELECTION_READS: RateLimit = RateLimit { interval: Duration::from_millis(200), burst: 5 };
/// The maximum age of the shared read.
const SHARED_READ_MAX_AGE: Duration = Duration::from_secs(1);
/// How long the shared read is kept after the last request for it.
const SHARED_READ_RETENTION: Duration = Duration::from_secs(2);
/// Memory is returned to the system after this many scrapes: the first ones run code that later ones do not.
const FIRST_TRIM_AFTER: u64 = 4;
/// And again after every this many, for what runs only now and then: the page, TLS handshakes, failures.
const TRIM_INTERVAL: u64 = 256;
/// The largest read that is kept as the shared read, in bytes.
const SHARED_READ_MAX_BYTES: u64 = 16 << 20;

/// Runs scrapes.
#[derive(Debug)]
pub struct Scraper {
    broker: BrokerClient,
    local: LocalSource,
    enabled: Vec<Instance>,
    budget: Budget,
    /// Whether each query and collector is reported separately.
    detail: bool,
    /// Whether the exporter's own metrics are among the others.
    own_metrics: bool,
    process: Process,
    layers: Vec<Layer>,
    /// The exporter's own counters.
    pub server_metrics: ServerMetrics,
    /// The last scrapes.
    pub history: ScrapeHistory,
    running: Mutex<HashMap<Selection, RunningScrape>>,
    /// Reads run one after the other in order of arrival, as at the broker.
    read_lock: AsyncMutex<()>,
    selection_reads: Mutex<RateLimitBucket>,
    shared_read: Mutex<SharedRead>,
    /// Limits the work for selections of collectors and families.
    pub selections: Throttle,
    /// Responses that clients have not read yet.
    pub unread: UnreadResponses,
    description: Mutex<Description>,
    /// The last error of each collector, so that only changes are logged.
    failures: Mutex<HashMap<&'static str, String>>,
    /// Limits the log lines about collectors at their series limit.
    limit_log: LimitLog,
    /// Limits the log lines about skipped items.
    item_log: ItemLog,
    /// Queries that the broker's flag `--queries` excludes and that were logged.
    excluded_queries: Mutex<HashSet<Query>>,
    outage: Mutex<Option<Outage>>,
    /// The number of scrapes rendered.
    rendered: AtomicU64,
}

/// A running scrape.
#[derive(Debug)]
struct RunningScrape {
    scrape: watch::Sender<Option<SharedScrape>>,
    /// Its deadline: then it ends with what it has.
    ends: Instant,
}

/// Waits for a running scrape. A scrape of a selection is cancelled when nobody waits for it.
#[derive(Debug)]
struct PendingScrape {
    scrape: watch::Receiver<Option<SharedScrape>>,
    /// Its deadline: then it ends with what it has.
    ends: Instant,
}

/// The broker's response, and its description if it responded.
#[derive(Debug, Clone)]
struct ReadResult {
    snapshot: Arc<Snapshot>,
    description: Option<Arc<DescribeResponse>>,
}

/// The last read for all collectors, kept while selections are served from it.
#[derive(Debug, Default)]
struct SharedRead {
    last_request: Option<Instant>,
    read: Option<(Instant, ReadResult)>,
}

/// A set of enabled collectors, by index.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selection(Vec<usize>);

/// A finished scrape, shared by all clients that waited for it.
pub type SharedScrape = Arc<Result<Scrape, ScrapeError>>;

/// Why a scrape failed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ScrapeError {
    /// The read failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Too many requests for selections.
    #[error(
        "this request was not answered: it asks for single collectors (collect[], exclude[]) or families (name[]), and too \
         many such requests came at once; try again later, or scrape without these parameters, which any number of clients \
         may do"
    )]
    Busy,
    /// Too many responses are unread.
    #[error("too many responses have not been read by their clients; try again later")]
    Unread,
}

#[derive(Debug, Default)]
struct Description {
    response: Option<Arc<DescribeResponse>>,
    /// When it was received; none if it must be requested again.
    at: Option<Instant>,
    /// The number of connections at that time.
    connections: u64,
    start_time_ms: u64,
}

/// Why collectors cannot be selected. The messages are node_exporter's.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum SelectError {
    /// `collect[]` and `exclude[]` together.
    #[error("Combined collect and exclude queries are not allowed.")]
    Combined,
    /// An unknown collector.
    #[error("Couldn't create filtered metrics handler: couldn't create collector: missing collector: {0}")]
    Missing(String),
    /// A collector that is not enabled.
    #[error("Couldn't create filtered metrics handler: couldn't create collector: disabled collector: {0}")]
    Disabled(String),
    /// A collector of node_exporter that is not supported here.
    #[error(
        "Couldn't create filtered metrics handler: couldn't create collector: disabled collector: {name} (not supported: {why})"
    )]
    Unsupported {
        /// Its name.
        name: String,
        /// Why it is not supported.
        why: &'static str,
    },
}

impl Scraper {
    /// A scraper; `layers` are those of the exporter's own sandbox.
    pub fn new(
        broker: BrokerClient,
        enabled: Vec<Instance>,
        options: &Options,
        local: LocalSource,
        process: Process,
        layers: Vec<Layer>,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            broker,
            local,
            enabled,
            budget: Budget::new(options),
            detail: SCRAPE_DETAIL.get(options),
            own_metrics: !DISABLE_EXPORTER_METRICS.get(options),
            process,
            layers,
            server_metrics: ServerMetrics::new()?,
            history: ScrapeHistory::default(),
            running: Mutex::default(),
            read_lock: AsyncMutex::default(),
            selection_reads: Mutex::new(RateLimitBucket::new(SELECTION_READS, Instant::now())),
            shared_read: Mutex::default(),
            selections: Throttle::default(),
            unread: UnreadResponses::default(),
            description: Mutex::default(),
            failures: Mutex::default(),
            limit_log: LimitLog::default(),
            item_log: ItemLog::default(),
            excluded_queries: Mutex::default(),
            outage: Mutex::default(),
            rendered: AtomicU64::new(0),
        })
    }

    /// The enabled collectors: only those in `collect`, or all but those in `exclude`.
    pub fn select(&self, collect: &[String], exclude: &[String]) -> Result<Selection, SelectError> {
        if !collect.is_empty() && !exclude.is_empty() {
            return Err(SelectError::Combined);
        }
        // Each name is looked up once: a request may repeat it a thousand times.
        let mut collected = HashSet::new();
        for name in collect {
            if collected.insert(name.as_str()) {
                self.check_selectable(name)?;
            }
        }
        let excluded: HashSet<&str> = exclude.iter().map(String::as_str).collect();
        let selected = self.enabled.iter().enumerate().filter(|(_, collector)| {
            if collected.is_empty() {
                !excluded.contains(collector.row.name)
            } else {
                collected.contains(collector.row.name)
            }
        });
        Ok(Selection(selected.map(|(at, _)| at).collect()))
    }

    /// Checks that a collector can be selected.
    fn check_selectable(&self, name: &str) -> Result<(), SelectError> {
        if self.enabled.iter().any(|collector| collector.row.name == name) {
            return Ok(());
        }
        if COLLECTORS.iter().any(|collector| collector.name == name) {
            return Err(SelectError::Disabled(name.to_owned()));
        }
        let unsupported =
            UNSUPPORTED_COLLECTORS.iter().find(|(flag, _)| flag.strip_prefix("collector.") == Some(name));
        Err(match unsupported {
            Some((_, why)) => SelectError::Unsupported { name: name.to_owned(), why },
            None => SelectError::Missing(name.to_owned()),
        })
    }

    /// The enabled collectors.
    pub fn collectors(&self) -> &[Instance] {
        &self.enabled
    }

    /// The layers of the exporter's own sandbox.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The node's name.
    pub fn node_name(&self) -> String {
        self.local.nodes_name()
    }

    /// The broker's socket.
    pub fn socket(&self) -> &str {
        self.broker.socket()
    }

    /// Whether a selection is all enabled collectors.
    pub fn is_all(&self, selection: &Selection) -> bool {
        selection.0.len() == self.enabled.len()
    }

    fn all(&self) -> Selection {
        Selection((0..self.enabled.len()).collect())
    }

    /// A scrape of `selection`: a running one or a new one. Ends by `deadline`.
    pub async fn scrape(
        self: &Arc<Self>,
        client: Client,
        selection: Selection,
        deadline: Instant,
    ) -> SharedScrape {
        let mut min_end = min_end(deadline);
        loop {
            let running_scrape = self.running(&selection, min_end);
            let running = running_scrape.unwrap_or_else(|| self.start(client, &selection, deadline));
            let ends = running.ends;
            let shared = finished(running, deadline).await;
            let is_cut_short = match shared.as_ref() {
                Ok(scrape) => scrape.is_cut_short,
                Err(error) => *error == BrokerError::Deadline.into(),
            };
            // If the scrape timed out because the client that started it had less time, start another.
            if !is_cut_short || ends + MIN_EXTRA_TIME > deadline || Instant::now() + MIN_EXTRA_TIME > deadline
            {
                return shared;
            }
            min_end = ends + MIN_EXTRA_TIME;
        }
    }

    /// The running scrape of `selection`, if its deadline is not before `min_end`.
    fn running(&self, selection: &Selection, min_end: Instant) -> Option<PendingScrape> {
        let running = lock(&self.running);
        let running = running.get(selection).filter(|running| running.ends >= min_end)?;
        Some(PendingScrape { scrape: running.scrape.subscribe(), ends: running.ends })
    }

    fn start(self: &Arc<Self>, client: Client, selection: &Selection, deadline: Instant) -> PendingScrape {
        if self.is_all(selection) {
            return self.start_all(deadline);
        }
        let may_read = lock(&self.selection_reads).take(Instant::now());
        let (scraper, selected) = (Arc::clone(self), self.selected(selection));
        let scrape = async move { scraper.scrape_some(client, &selected, may_read, deadline).await };
        self.spawn(selection.clone(), deadline, scrape)
    }

    fn start_all(self: &Arc<Self>, deadline: Instant) -> PendingScrape {
        let scraper = Arc::clone(self);
        self.spawn(self.all(), deadline, async move { scraper.scrape_all(deadline).await })
    }

    /// Starts a scrape that other clients can share. A scrape of all collectors continues when every client has
    /// disconnected, since the next client will share it; one of a selection is cancelled.
    fn spawn(
        self: &Arc<Self>,
        selection: Selection,
        deadline: Instant,
        scrape: impl Future<Output = Result<Scrape, ScrapeError>> + Send + 'static,
    ) -> PendingScrape {
        let continues_without_clients = self.is_all(&selection);
        let (sender, receiver) = watch::channel(None);
        lock(&self.running)
            .insert(selection.clone(), RunningScrape { scrape: sender.clone(), ends: deadline });
        let entry = RunningEntry { scraper: Arc::clone(self), selection, ends: deadline };
        tokio::spawn(async move {
            let abandoned = async {
                if continues_without_clients {
                    std::future::pending::<()>().await;
                }
                loop {
                    sender.closed().await;
                    if entry.remove_unless(|| sender.receiver_count() > 0) {
                        return;
                    }
                }
            };
            let scrape = tokio::select! {
                scrape = scrape => scrape,
                () = abandoned => return,
            };
            drop(entry);
            sender.send_replace(Some(Arc::new(scrape)));
        });
        PendingScrape { scrape: receiver, ends: deadline }
    }

    /// A read for all collectors that was at most [`SHARED_READ_MAX_AGE`] old at `requested`: on a slow host the read itself
    /// may take longer than that.
    async fn shared_read(
        self: &Arc<Self>,
        requested: Instant,
        deadline: Instant,
    ) -> Result<ReadResult, ScrapeError> {
        let fresh = || {
            let mut shared_read = lock(&self.shared_read);
            shared_read.last_request = Some(Instant::now());
            shared_read
                .read
                .as_ref()
                .filter(|(at, _)| requested.duration_since(*at) < SHARED_READ_MAX_AGE)
                .map(|(_, read)| read.clone())
        };
        self.server_metrics.shared_reads.inc();
        // The running scrape may have started too long ago; then wait for another.
        for _ in 0..2 {
            if let Some(read) = fresh() {
                return Ok(read);
            }
            let running_scrape = self.running(&self.all(), min_end(deadline));
            let running = running_scrape.unwrap_or_else(|| self.start_all(deadline));
            if let Err(error) = finished(running, deadline).await.as_ref() {
                return Err(error.clone());
            }
        }
        fresh().ok_or(ScrapeError::Busy)
    }

    /// A scrape of all collectors. It waits for at most one read of a selection, the running one.
    async fn scrape_all(&self, deadline: Instant) -> Result<Scrape, ScrapeError> {
        timeout_at(deadline, self.unread.wait_for_full_scrape()).await.map_err(|_| ScrapeError::Unread)?;
        let collectors = &self.enabled;
        let queries = collector::queries(collectors);
        let start = Instant::now();
        // Held until the scrape is rendered, so that only one large response is in memory.
        let _permit = self.read_permit(deadline).await?;
        let read_at = Instant::now();
        let read = self.read(collectors, &queries, start, deadline).await?;
        let mut shared_read = lock(&self.shared_read);
        let is_requested = shared_read
            .last_request
            .is_some_and(|last_request| read_at.duration_since(last_request) < SHARED_READ_RETENTION);
        let is_small = read.snapshot.bytes() <= SHARED_READ_MAX_BYTES;
        shared_read.read = (is_requested && is_small).then(|| (read_at, read.clone()));
        drop(shared_read);
        Ok(self.render(collectors, &queries, read, start))
    }

    /// A scrape of some collectors: with a read of its own, or from the shared read.
    async fn scrape_some(
        self: &Arc<Self>,
        client: Client,
        collectors: &[Instance],
        may_read: bool,
        deadline: Instant,
    ) -> Result<Scrape, ScrapeError> {
        let queries = collector::queries(collectors);
        let start = Instant::now();
        let permit = async {
            loop {
                self.unread.wait_for_selection().await;
                let permit = self.selections.acquire(client).await?;
                if !self.unread.is_full() {
                    return Some(permit);
                }
            }
        };
        let permit = match timeout_at(deadline, permit).await {
            Ok(Some(permit)) => permit,
            _ if self.unread.is_full() => return Err(ScrapeError::Unread),
            _ => return Err(ScrapeError::Busy),
        };
        // Read only now: otherwise each waiting scrape would keep a read in memory.
        let (read, _permit) = if may_read {
            let permit = self.read_permit(deadline).await?;
            (self.read(collectors, &queries, start, deadline).await?, Some(permit))
        } else {
            (self.shared_read(start, deadline).await?, None)
        };
        Ok(Throttle::run_with(permit, || self.render(collectors, &queries, read, start)))
    }

    fn selected(&self, selection: &Selection) -> Vec<Instance> {
        selection.0.iter().filter_map(|&at| self.enabled.get(at).cloned()).collect()
    }

    async fn read_permit(&self, deadline: Instant) -> Result<impl Drop, BrokerError> {
        timeout_at(deadline, self.read_lock.lock()).await.map_err(|_| BrokerError::Deadline)
    }

    /// Reads the queries of `collectors` from the broker.
    async fn read(
        &self,
        collectors: &[Instance],
        queries: &[Query],
        start: Instant,
        deadline: Instant,
    ) -> Result<ReadResult, BrokerError> {
        let read = async {
            if queries.is_empty() {
                Ok(Snapshot::default())
            } else {
                self.broker.read(queries, deadline).await
            }
        };
        let (snapshot, mut description) = tokio::join!(read, self.description(deadline));
        let mut snapshot = snapshot.inspect_err(|error| {
            lock(&self.description).at = None;
            self.history.record_failure(start, error);
            if let Some(failures) = Outage::fail(&mut lock(&self.outage), start) {
                tracing::warn!(%error, failures, "scrape failed");
            }
        })?;
        // The broker may have been restarted between its description and the read.
        if description.is_some() {
            description = self.description(deadline).await;
        }
        if let Some(description) = &description {
            snapshot.add_reasons(description);
        }
        self.log_excluded_queries(collectors, &snapshot);
        if let Some(Outage { unlogged, .. }) = lock(&self.outage).take() {
            tracing::info!(failures = unlogged, "scrapes work again");
        }
        Ok(ReadResult { snapshot: Arc::new(snapshot), description })
    }

    fn render(
        &self,
        collectors: &[Instance],
        queries: &[Query],
        ReadResult { snapshot, description }: ReadResult,
        start: Instant,
    ) -> Scrape {
        let mut out = Exposition::new();
        let Self { detail, own_metrics, budget, .. } = *self;
        self_metrics::add_build(&self.layers, &mut out);
        self_metrics::add_limits(budget, &mut out);
        broker::add_description(description.as_deref(), &mut out);
        broker::add_queries(&snapshot, queries, detail, &mut out);
        self.server_metrics.add(own_metrics, &mut out);
        if own_metrics {
            self.process.add(&mut out);
        }
        let local = self.local.now();
        let context = Context { snapshot: &snapshot, local: &local };
        let runs = collector::run(collectors, &context, budget.series, detail, &mut out);
        for run in &runs {
            if detail || run.counters.over_limit > 0 {
                self.server_metrics.count_dropped_series(run.name, run.counters.over_limit);
            }
            self.log_run(run);
        }
        self.server_metrics.add_dropped(&mut out);
        let timed_out =
            |query: &Query| snapshot.report(*query).is_some_and(|report| report.outcome == Outcome::TimedOut);
        let is_cut_short = queries.iter().any(timed_out);
        let read = ScrapeTotals::from_snapshot(&snapshot);
        let is_large = snapshot.bytes() > SHARED_READ_MAX_BYTES;
        // The encoded response needs about as much memory as the series.
        drop(snapshot);
        if is_large {
            keyhole_os::memory::release_unused();
        }
        let mut text = Vec::new();
        let written = out.write(&mut text, |_| true);
        self.server_metrics.duplicates.inc_by(written.duplicates as u64);
        self.log_duplicates(&written);
        self.history.record_success(start, read, &runs, written);
        self.trim();
        let text = Encoded { plain: OnceLock::from(self.unread.track(text)), compressed: OnceLock::new() };
        Scrape {
            unread: self.unread.clone(),
            _charge: self.unread.charge(out.bytes()),
            is_cut_short,
            exposition: out,
            text,
            protobuf: Encoded::default(),
        }
    }

    /// Returns unused memory to the system now and then.
    fn trim(&self) {
        let rendered = self.rendered.fetch_add(1, Ordering::Relaxed) + 1;
        if rendered == FIRST_TRIM_AFTER || rendered.is_multiple_of(TRIM_INTERVAL) {
            keyhole_os::memory::release_unused();
        }
    }

    /// Logs optional queries that the broker's `--queries` excludes, once each. An excluded query that a collector requires
    /// is in the log line of its failure.
    fn log_excluded_queries(&self, collectors: &[Instance], snapshot: &Snapshot) {
        let mut logged = lock(&self.excluded_queries);
        for (query, _) in snapshot.reports() {
            let Some(reason) = snapshot.exclusion_reason(query) else {
                logged.remove(&query);
                continue;
            };
            let optional_for = collectors.iter().find(|collector| collector.row.optional.contains(&query));
            if let Some(collector) = optional_for.filter(|_| logged.insert(query)) {
                let (collector, query) = (collector.row.name, query.as_str_name());
                tracing::warn!(collector, query, %reason, "query excluded by the broker's --queries: the collector returns fewer metrics");
            }
        }
    }

    /// Logs a collector's result if it changed, its skipped items and its series limit.
    fn log_run(&self, run: &Run) {
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
        let Counters { skipped, skipped_items, unnamed, .. } = &run.counters;
        match self.item_log.change(run.name, skipped_items) {
            ItemChange::Nothing => {}
            ItemChange::Items(items) => {
                for item in &items {
                    tracing::warn!(collector = run.name, %item, skipped, "item skipped");
                }
                if *unnamed > 0 {
                    tracing::warn!(
                        collector = run.name,
                        unnamed,
                        skipped,
                        "more items skipped; `keyhole-exporter query {}` with the same flags lists them",
                        run.name
                    );
                }
            }
            ItemChange::Gone => tracing::info!(collector = run.name, "no items skipped any more"),
        }
        if let Some(limit) = run.counters.limit
            && self.limit_log.is_due(run.name)
        {
            let (series, dropped) = (run.counters.series, run.counters.over_limit);
            tracing::warn!(collector = run.name, series, dropped, "{}", limit.message());
        }
    }

    /// Logs duplicate series; which collectors returned them is not known here.
    fn log_duplicates(&self, written: &Written) {
        match self.item_log.change("", &written.duplicate_series) {
            ItemChange::Nothing => {}
            ItemChange::Items(items) => {
                let duplicates = written.duplicates;
                for series in &items {
                    tracing::warn!(%series, duplicates, "duplicate sample dropped");
                }
            }
            ItemChange::Gone => tracing::info!("no duplicate samples any more"),
        }
    }

    /// The broker's description of itself, requested again if it is old or the last request failed.
    async fn description(&self, deadline: Instant) -> Option<Arc<DescribeResponse>> {
        match self.recent_description(DESCRIPTION_MAX_AGE) {
            Some(response) => Some(response),
            None => self.describe(deadline.min(Instant::now() + DESCRIBE_TIMEOUT)).await.ok(),
        }
    }

    /// The cached description, if it is of the connected broker and not older than `age`.
    fn recent_description(&self, age: Duration) -> Option<Arc<DescribeResponse>> {
        let cached = lock(&self.description);
        let same_broker = cached.connections == self.broker.connections();
        cached.response.clone().filter(|_| same_broker && cached.at.is_some_and(|at| at.elapsed() < age))
    }

    /// Requests the broker's description of itself.
    pub async fn describe(&self, deadline: Instant) -> Result<Arc<DescribeResponse>, BrokerError> {
        let response = self.broker.describe(deadline).await;
        let mut cached = lock(&self.description);
        match response {
            Ok(response) => {
                if cached.start_time_ms != 0 && cached.start_time_ms != response.start_time_ms {
                    self.server_metrics.restarts.inc();
                    tracing::info!(version = response.version, "the broker was restarted");
                }
                cached.start_time_ms = response.start_time_ms;
                cached.at = Some(Instant::now());
                cached.connections = self.broker.connections();
                let response = Arc::new(response);
                cached.response = Some(Arc::clone(&response));
                Ok(response)
            }
            Err(error) if error.is_busy() => Err(error),
            Err(error) => {
                *cached = Description { start_time_ms: cached.start_time_ms, ..Description::default() };
                Err(error)
            }
        }
    }

    /// Checks that the broker responds, or has done so in the last second, and has readers for the queries of the enabled
    /// collectors. The error says what is missing.
    pub async fn ready(&self) -> Result<(), String> {
        let broker = match self.recent_description(DESCRIBE_TIMEOUT) {
            Some(response) => response,
            None => match self.describe(Instant::now() + DESCRIBE_TIMEOUT).await {
                Ok(response) => response,
                // It responds: other clients with this uid use up its rate limit. What it last described holds.
                Err(error) if error.is_busy() => {
                    self.recent_description(Duration::MAX).ok_or_else(|| error.to_string())?
                }
                Err(error) => return Err(error.to_string()),
            },
        };
        let queries = collector::queries(&self.enabled).into_iter().collect();
        missing_readers(&broker, &queries).map_or(Ok(()), Err)
    }
}

/// An error message with the classes of readers that `queries` need and that have no available reader; none if there are
/// no such classes.
fn missing_readers(broker: &DescribeResponse, queries: &HashSet<Query>) -> Option<String> {
    // Queries that are not permitted or of a container's view need no reader.
    let needs_reader = |query: &&QueryDescription| {
        queries.contains(&query.query()) && matches!(query.outcome(), Outcome::Unspecified | Outcome::Stuck)
    };
    let needed: HashSet<&str> =
        broker.queries.iter().filter(needs_reader).map(|query| &*query.reader).collect();
    let missing = broker.readers.iter().filter(|class| !class.available && needed.contains(&*class.name));
    let missing: Vec<_> = missing.map(|class| format!("{} ({} stuck)", class.name, class.stuck)).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the broker has no available reader of class {}: the metrics of these classes are missing, all others are served; \
             see the broker's log and keyhole-exporter describe for what hangs",
            missing.join(", ")
        )
    })
}

/// The earliest deadline of a running scrape that a client with `deadline` shares. If it were `deadline` itself, clients
/// with slightly increasing timeouts could each start a scrape.
fn min_end(deadline: Instant) -> Instant {
    let now = Instant::now();
    if deadline < now + SHORT_DEADLINE { now } else { now + MIN_TIME_LEFT }
}

/// Waits for a running scrape.
async fn finished(mut running: PendingScrape, deadline: Instant) -> SharedScrape {
    // A scrape ends at its own deadline; a little more time lets its partial result arrive.
    let deadline = deadline + Duration::from_millis(100);
    let finished = timeout_at(deadline, running.scrape.wait_for(Option::is_some)).await;
    match finished {
        Ok(Ok(scrape)) => scrape.clone(),
        _ => None,
    }
    .unwrap_or_else(|| Arc::new(Err(BrokerError::Deadline.into())))
}

/// The entry of a running scrape; removed when it is dropped, so that later clients start another.
struct RunningEntry {
    scraper: Arc<Scraper>,
    selection: Selection,
    ends: Instant,
}

impl RunningEntry {
    /// Removes the entry unless `is_wanted`; returns whether it did.
    fn remove_unless(&self, is_wanted: impl FnOnce() -> bool) -> bool {
        let mut running = lock(&self.scraper.running);
        if is_wanted() {
            return false;
        }
        // Another scrape with a later deadline may have replaced it.
        if running.get(&self.selection).is_some_and(|running| running.ends == self.ends) {
            running.remove(&self.selection);
        }
        true
    }
}

impl Drop for RunningEntry {
    fn drop(&mut self) {
        self.remove_unless(|| false);
    }
}
