//! One scrape: one read of the broker for all collectors, their samples, and the exporter's own metrics, rendered.
//!
//! Scrapes of the same collectors that come while one is under way share it, so that any number of clients costs the
//! host one read. Selections of collectors have a few reads of their own a second; beyond those they are answered from
//! one read of everything, which is at most a second old (`docs/adr/0008-who-waits-for-whom.md`).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use keyhole_proto::v1::{DescribeResponse, Outcome, Query, QueryDescription};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, timeout_at};

use crate::broker_client::{BrokerClient, BrokerError};
use crate::budget::Budget;
use crate::cli::flags::NOT_OFFERED;
use crate::collector::{self, COLLECTORS, CollectError, Collector, Context, Run};
use crate::exposition::{Counters, Exposition, Written};
use crate::http::{Bucket, Client, RateLimit, Throttle};
use crate::lock;
use crate::options::Options;
use crate::own::OwnSource;
use crate::protobuf;
use crate::sandbox::Layer;
use crate::scrape_history::{ScrapeHistory, ScrapeTotals};
use crate::self_metrics::{self, broker, process::Process, server::ServerMetrics};
use crate::snapshot::Snapshot;
use crate::unread_responses::{Charge, UnreadResponses};

/// How long the broker's description of itself is used before it is asked for again.
const DESCRIPTION_AGE: Duration = Duration::from_secs(15);
/// How often the log reports that a collector is at its limit.
const LIMIT_LOG_INTERVAL: Duration = Duration::from_secs(600);
/// How often the log reports that scrapes still fail.
const FAILURE_INTERVAL: Duration = Duration::from_secs(60);
/// How long the log is silent about a collector's left-out items after a line about them, first and at most.
const ITEM_INTERVAL: Duration = Duration::from_secs(60);
const LONGEST_ITEM_INTERVAL: Duration = Duration::from_secs(3600);
/// How long the broker may take to describe itself.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client with less time than this shares any scrape that is under way.
const SHORT_DEADLINE: Duration = Duration::from_secs(1);
/// How much time a scrape under way must have left for another to share it.
const NEEDED_TIME: Duration = Duration::from_millis(500);
/// How much more time a client must have than a scrape that was cut short had, for another to be worth it.
const WORTH_ANOTHER: Duration = Duration::from_millis(500);
/// Reads for selections of collectors alone.
const OWN_READS: RateLimit = RateLimit { interval: Duration::from_millis(200), burst: 5 };
/// How old the read may be that other selections are answered from.
const SHARED_READ_AGE: Duration = Duration::from_secs(1);
/// How long a read is kept after the last selection that would have been answered from it.
const SHARED_READ_RETENTION: Duration = Duration::from_secs(2);
/// Memory is given back after this scrape: the first ones run code that no later one does.
const FIRST_TRIM: u64 = 4;
/// And after every so many, of what was run now and then: the page, a handshake, a failure.
const TRIM_INTERVAL: u64 = 256;
/// The largest read that is kept for selections, in bytes.
const SHARED_READ_BYTES: u64 = 16 << 20;

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
    pub server_metrics: ServerMetrics,
    /// What the last scrapes cost.
    pub history: ScrapeHistory,
    running: Mutex<HashMap<Selection, Running>>,
    /// Reads wait for each other in order, as at the broker: a client that asks more is not served earlier.
    turn: AsyncMutex<()>,
    own_reads: Mutex<Bucket>,
    shared_read: Mutex<SharedRead>,
    /// What is done for selections of collectors and of families.
    pub selections: Throttle,
    /// Pages that are not taken yet.
    pub unread: UnreadResponses,
    description: Mutex<Description>,
    /// What each collector last failed with, so that the log tells changes and not every scrape.
    failures: Mutex<HashMap<&'static str, String>>,
    /// When the log last reported each collector that is at its limit.
    limits_logged: LogTimes,
    /// The items that each collector left out, as the log last had them.
    items_logged: ItemLog,
    /// Queries that the broker's flags leave out, once the log has named them.
    left_out: Mutex<HashSet<Query>>,
    outage: Mutex<Option<Outage>>,
    /// How many scrapes were rendered.
    rendered: AtomicU64,
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

/// A scrape under way.
#[derive(Debug)]
struct Running {
    scrape: watch::Sender<Option<Shared>>,
    /// When it ends with what has come.
    ends: Instant,
}

/// Waits for a scrape under way. One of a selection ends when nobody waits for it.
#[derive(Debug)]
struct Waiting {
    scrape: watch::Receiver<Option<Shared>>,
    /// When it ends with what has come.
    ends: Instant,
}

/// What a scrape is made of.
#[derive(Debug, Clone)]
struct Gathered {
    snapshot: Arc<Snapshot>,
    description: Option<Arc<DescribeResponse>>,
}

/// The last read for all collectors, as long as selections are to be answered from it.
#[derive(Debug, Default)]
struct SharedRead {
    wanted: Option<Instant>,
    read: Option<(Instant, Gathered)>,
}

/// When the log last had a line about a collector.
#[derive(Debug, Default)]
struct LogTimes(Mutex<HashMap<&'static str, Instant>>);

/// The items that each collector left out, as the log last had them. A file may change with every scrape and in each
/// hold other mistakes: the log has lines about a collector once in a while, at longer and longer intervals.
#[derive(Debug, Default)]
struct ItemLog(Mutex<HashMap<&'static str, Logged>>);

/// What the log last had about a collector's items.
#[derive(Debug)]
struct Logged {
    items: Vec<String>,
    at: Instant,
    /// How long the log is silent about others.
    interval: Duration,
}

/// What the log should have about a collector's items.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// Items that it did not have before.
    Items(Vec<String>),
    /// None is left out any more.
    Gone,
}

/// A set of collectors, by their place in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selection(Vec<usize>);

/// A finished scrape, shared by all who asked for it.
pub type Shared = Arc<Result<Scrape, ScrapeError>>;

/// Why a scrape returns nothing.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ScrapeError {
    /// The broker returned nothing.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Too many clients want something of their own.
    #[error(
        "too many requests for selections of collectors at once; try again later, or ask for all collectors, which any number of clients can share"
    )]
    Busy,
    /// Clients do not take what they have asked for.
    #[error("too many answers are not taken by those who asked for them; try again later")]
    Unread,
}

/// A finished scrape.
#[derive(Debug)]
pub struct Scrape {
    unread: UnreadResponses,
    _charge: Charge,
    /// Whether a query did not end in time.
    is_cut_short: bool,
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
    /// How many connections there were by then.
    connections: u64,
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
        "Couldn't create filtered metrics handler: couldn't create collector: disabled collector: {name} (not supported: {why})"
    )]
    NotOffered {
        /// Its name.
        name: String,
        /// Why it is not supported.
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
            server_metrics: ServerMetrics::new()?,
            history: ScrapeHistory::default(),
            running: Mutex::default(),
            turn: AsyncMutex::default(),
            own_reads: Mutex::new(Bucket::new(OWN_READS, Instant::now())),
            shared_read: Mutex::default(),
            selections: Throttle::default(),
            unread: UnreadResponses::default(),
            description: Mutex::default(),
            failures: Mutex::default(),
            limits_logged: LogTimes::default(),
            items_logged: ItemLog::default(),
            left_out: Mutex::default(),
            outage: Mutex::default(),
            rendered: AtomicU64::new(0),
        })
    }

    /// The enabled collectors, less or only those that the request names.
    pub fn select(&self, collect: &[String], exclude: &[String]) -> Result<Selection, SelectError> {
        if !collect.is_empty() && !exclude.is_empty() {
            return Err(SelectError::Combined);
        }
        // Each name is looked up once: a request may repeat one a thousand times.
        let mut collected = HashSet::new();
        for name in collect {
            if collected.insert(name.as_str()) {
                self.offered(name)?;
            }
        }
        let excluded: HashSet<&str> = exclude.iter().map(String::as_str).collect();
        let chosen = self.enabled.iter().enumerate().filter(|(_, collector)| match collected.is_empty() {
            true => !excluded.contains(collector.name),
            false => collected.contains(collector.name),
        });
        Ok(Selection(chosen.map(|(at, _)| at).collect()))
    }

    /// Whether a collector can be selected; if not, why.
    fn offered(&self, name: &str) -> Result<(), SelectError> {
        if self.enabled.iter().any(|collector| collector.name == name) {
            return Ok(());
        }
        if COLLECTORS.iter().any(|collector| collector.name == name) {
            return Err(SelectError::Disabled(name.to_owned()));
        }
        let not_offered = NOT_OFFERED.iter().find(|(flag, _)| flag.strip_prefix("collector.") == Some(name));
        Err(match not_offered {
            Some((_, why)) => SelectError::NotOffered { name: name.to_owned(), why },
            None => SelectError::Missing(name.to_owned()),
        })
    }

    /// The collectors that a scrape runs unless a request names others.
    pub fn collectors(&self) -> &[&'static Collector] {
        &self.enabled
    }

    /// The layers of the exporter's own sandbox.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The node's name, as this process was given it.
    pub fn node_name(&self) -> String {
        self.own.nodes_name()
    }

    /// The broker's socket.
    pub fn socket(&self) -> &str {
        self.broker.socket()
    }

    /// Whether a selection is of all collectors.
    pub fn is_whole(&self, selection: &Selection) -> bool {
        selection.0.len() == self.enabled.len()
    }

    fn whole(&self) -> Selection {
        Selection((0..self.enabled.len()).collect())
    }

    /// A scrape of `selection`: one that is under way, or a new one. Ends by `deadline`.
    pub async fn scrape(self: &Arc<Self>, client: Client, selection: Selection, deadline: Instant) -> Shared {
        let mut needed = needed(deadline);
        loop {
            let under_way = self.running(&selection, needed);
            let running = under_way.unwrap_or_else(|| self.start(client, &selection, deadline));
            let ends = running.ends;
            let shared = finished(running, deadline).await;
            let is_cut_short = match shared.as_ref() {
                Ok(scrape) => scrape.is_cut_short,
                Err(error) => *error == BrokerError::Deadline.into(),
            };
            // The client that began it had less time.
            if !is_cut_short || ends + WORTH_ANOTHER > deadline || Instant::now() + WORTH_ANOTHER > deadline {
                return shared;
            }
            needed = ends + WORTH_ANOTHER;
        }
    }

    /// The scrape of `selection` that is under way, if it goes on until `needed`.
    fn running(&self, selection: &Selection, needed: Instant) -> Option<Waiting> {
        let running = lock(&self.running);
        let running = running.get(selection).filter(|running| running.ends >= needed)?;
        Some(Waiting { scrape: running.scrape.subscribe(), ends: running.ends })
    }

    fn start(self: &Arc<Self>, client: Client, selection: &Selection, deadline: Instant) -> Waiting {
        if self.is_whole(selection) {
            return self.start_whole(deadline);
        }
        let has_own_read = lock(&self.own_reads).take(Instant::now());
        let (scraper, chosen) = (Arc::clone(self), self.chosen(selection));
        let scrape = async move { scraper.scrape_some(client, &chosen, has_own_read, deadline).await };
        self.spawn(selection.clone(), deadline, scrape)
    }

    fn start_whole(self: &Arc<Self>, deadline: Instant) -> Waiting {
        let scraper = Arc::clone(self);
        self.spawn(self.whole(), deadline, async move { scraper.scrape_all(deadline).await })
    }

    /// Runs a scrape that others who ask for the same can wait for. A scrape of everything goes on when every client has
    /// left, since the next client will share it; one of a selection is cancelled.
    fn spawn(
        self: &Arc<Self>,
        selection: Selection,
        deadline: Instant,
        scrape: impl Future<Output = Result<Scrape, ScrapeError>> + Send + 'static,
    ) -> Waiting {
        let outlives_clients = self.is_whole(&selection);
        let (sender, receiver) = watch::channel(None);
        lock(&self.running).insert(selection.clone(), Running { scrape: sender.clone(), ends: deadline });
        let entry = Entry { scraper: Arc::clone(self), selection, ends: deadline };
        tokio::spawn(async move {
            let abandoned = async {
                if outlives_clients {
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
        Waiting { scrape: receiver, ends: deadline }
    }

    /// A read for all collectors that was at most [`SHARED_READ_AGE`] old when the client asked: on a slow host the read
    /// itself may take longer.
    async fn shared_read(
        self: &Arc<Self>,
        asked: Instant,
        deadline: Instant,
    ) -> Result<Gathered, ScrapeError> {
        let fresh = || {
            let mut shared_read = lock(&self.shared_read);
            shared_read.wanted = Some(Instant::now());
            shared_read
                .read
                .as_ref()
                .filter(|(at, _)| asked.duration_since(*at) < SHARED_READ_AGE)
                .map(|(_, read)| read.clone())
        };
        self.server_metrics.shared_reads.inc();
        // The first that is waited for may have begun too long ago.
        for _ in 0..2 {
            if let Some(read) = fresh() {
                return Ok(read);
            }
            let under_way = self.running(&self.whole(), needed(deadline));
            let running = under_way.unwrap_or_else(|| self.start_whole(deadline));
            if let Err(error) = finished(running, deadline).await.as_ref() {
                return Err(error.clone());
            }
        }
        fresh().ok_or(ScrapeError::Busy)
    }

    /// A scrape of all collectors. It waits for one read of a selection at most, the one that is under way.
    async fn scrape_all(&self, deadline: Instant) -> Result<Scrape, ScrapeError> {
        timeout_at(deadline, self.unread.wait_for_full_scrape()).await.map_err(|_| ScrapeError::Unread)?;
        let collectors = &self.enabled;
        let queries = collector::queries(collectors, &self.options);
        let begun = Instant::now();
        // Until it is rendered: of answers as large as a broker can make them there are never many.
        let _turn = self.turn(deadline).await?;
        let read_at = Instant::now();
        let gathered = self.gather(collectors, &queries, begun, deadline).await?;
        let mut shared_read = lock(&self.shared_read);
        shared_read.read = match shared_read
            .wanted
            .is_some_and(|wanted| read_at.duration_since(wanted) < SHARED_READ_RETENTION)
        {
            true if gathered.snapshot.bytes() <= SHARED_READ_BYTES => Some((read_at, gathered.clone())),
            _ => None,
        };
        drop(shared_read);
        Ok(self.render(collectors, &queries, gathered, begun))
    }

    /// A scrape of some collectors: with a read of its own, or from one of all of them.
    async fn scrape_some(
        self: &Arc<Self>,
        client: Client,
        collectors: &[&'static Collector],
        has_own_read: bool,
        deadline: Instant,
    ) -> Result<Scrape, ScrapeError> {
        let queries = collector::queries(collectors, &self.options);
        let begun = Instant::now();
        let turn = async {
            loop {
                self.unread.wait_for_selection().await;
                let turn = self.selections.acquire(client).await?;
                if !self.unread.is_full() {
                    return Some(turn);
                }
            }
        };
        let turn = match timeout_at(deadline, turn).await {
            Ok(Some(turn)) => turn,
            _ if self.unread.is_full() => return Err(ScrapeError::Unread),
            _ => return Err(ScrapeError::Busy),
        };
        // Only now: those that wait for their turn would keep a read each.
        let (gathered, _turn) = match has_own_read {
            true => {
                let turn = self.turn(deadline).await?;
                (self.gather(collectors, &queries, begun, deadline).await?, Some(turn))
            }
            false => (self.shared_read(begun, deadline).await?, None),
        };
        Ok(Throttle::run_with(turn, || self.render(collectors, &queries, gathered, begun)))
    }

    fn chosen(&self, selection: &Selection) -> Vec<&'static Collector> {
        selection.0.iter().filter_map(|&at| self.enabled.get(at).copied()).collect()
    }

    async fn turn(&self, deadline: Instant) -> Result<impl Drop, BrokerError> {
        timeout_at(deadline, self.turn.lock()).await.map_err(|_| BrokerError::Deadline)
    }

    /// Asks the broker for everything that collectors need.
    async fn gather(
        &self,
        collectors: &[&'static Collector],
        queries: &[Query],
        begun: Instant,
        deadline: Instant,
    ) -> Result<Gathered, BrokerError> {
        let read = async {
            match queries.is_empty() {
                true => Ok(Snapshot::default()),
                false => self.broker.read(queries, deadline).await,
            }
        };
        let (snapshot, mut description) = tokio::join!(read, self.description(deadline));
        let mut snapshot = snapshot.inspect_err(|error| {
            lock(&self.description).at = None;
            self.history.record_failure(begun, error);
            if let Some(failures) = Outage::fail(&mut lock(&self.outage), begun) {
                tracing::warn!(%error, failures, "scrape failed");
            }
        })?;
        // The read may have found that the broker was restarted, after the old one's description was taken.
        if description.is_some() {
            description = self.description(deadline).await;
        }
        if let Some(description) = &description {
            snapshot.add_reasons(description);
        }
        self.note_left_out(collectors, &snapshot);
        if let Some(Outage { unlogged, .. }) = lock(&self.outage).take() {
            tracing::info!(failures = unlogged, "scrapes work again");
        }
        Ok(Gathered { snapshot: Arc::new(snapshot), description })
    }

    fn render(
        &self,
        collectors: &[&'static Collector],
        queries: &[Query],
        Gathered { snapshot, description }: Gathered,
        begun: Instant,
    ) -> Scrape {
        let mut out = Exposition::new();
        let own_metrics = !self.options.switch("web.disable-exporter-metrics");
        let detail = self.options.switch("scrape.detail");
        self_metrics::add_build(&self.layers, &mut out);
        let budget = Budget::new(&self.options);
        self_metrics::add_limits(budget, &mut out);
        broker::add_description(description.as_deref(), &mut out);
        broker::add_queries(&snapshot, queries, detail, &mut out);
        self.server_metrics.add(own_metrics, &mut out);
        if own_metrics {
            self.process.add(&mut out);
        }
        let own = self.own.now();
        let context = Context { snapshot: &snapshot, options: &self.options, own: &own };
        let runs = collector::run(collectors, &context, budget.series, &mut out);
        for run in &runs {
            if detail || run.counters.over_limit > 0 {
                self.server_metrics.count_dropped_series(run.name, run.counters.over_limit);
            }
            self.note(run);
        }
        self.server_metrics.add_dropped(&mut out);
        let timed_out =
            |query: &Query| snapshot.report(*query).is_some_and(|report| report.outcome == Outcome::TimedOut);
        let is_cut_short = queries.iter().any(timed_out);
        let read = ScrapeTotals::from_snapshot(&snapshot);
        let was_large = snapshot.bytes() > SHARED_READ_BYTES;
        // The page is as large again as the series are.
        drop(snapshot);
        if was_large {
            keyhole_os::memory::release_unused();
        }
        let mut text = Vec::new();
        let written = out.write(&mut text, |_| true);
        self.server_metrics.duplicates.inc_by(written.duplicates as u64);
        self.note_duplicates(&written);
        self.history.record_success(begun, read, &runs, written);
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

    /// Gives memory back now and then that no later scrape needs.
    fn trim(&self) {
        let rendered = self.rendered.fetch_add(1, Ordering::Relaxed) + 1;
        if rendered == FIRST_TRIM || rendered.is_multiple_of(TRIM_INTERVAL) {
            keyhole_os::memory::release_unused();
        }
    }

    /// Logs queries that the broker's `--queries` leaves out, each once until it is answered. Those that a collector
    /// cannot do without are in the line of its failure.
    fn note_left_out(&self, collectors: &[&'static Collector], snapshot: &Snapshot) {
        let mut logged = lock(&self.left_out);
        for (query, _) in snapshot.reports() {
            let Some(reason) = snapshot.exclusion_reason(query) else {
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
        let Counters { skipped, skipped_items, unnamed, .. } = &run.counters;
        match self.items_logged.due(run.name, skipped_items) {
            Due::Nothing => {}
            Due::Items(items) => {
                for item in &items {
                    tracing::warn!(collector = run.name, %item, skipped, "item left out");
                }
                if *unnamed > 0 {
                    tracing::warn!(
                        collector = run.name,
                        unnamed,
                        skipped,
                        "more items left out; `keyhole-exporter query {}` with the same flags names them",
                        run.name
                    );
                }
            }
            Due::Gone => tracing::info!(collector = run.name, "no item is left out any more"),
        }
        if let Some(limit) = run.counters.limit
            && self.limits_logged.is_due(run.name)
        {
            let (series, dropped) = (run.counters.series, run.counters.over_limit);
            tracing::warn!(collector = run.name, series, dropped, "{}", limit.words());
        }
    }

    /// Logs series of which there were two; which collectors gave them is not known here.
    fn note_duplicates(&self, written: &Written) {
        match self.items_logged.due("", &written.duplicate_series) {
            Due::Nothing => {}
            Due::Items(items) => {
                let duplicates = written.duplicates;
                for series in &items {
                    tracing::warn!(%series, duplicates, "a second sample of a series was left out");
                }
            }
            Due::Gone => tracing::info!("no series has a second sample any more"),
        }
    }

    /// The broker's description of itself; asked for again when that is old or when it did not answer.
    async fn description(&self, deadline: Instant) -> Option<Arc<DescribeResponse>> {
        match self.recent_description(DESCRIPTION_AGE) {
            Some(answer) => Some(answer),
            None => self.describe(deadline.min(Instant::now() + DESCRIBE_TIMEOUT)).await.ok(),
        }
    }

    /// The last description, if it is of the broker that answers now and not older than `age`.
    fn recent_description(&self, age: Duration) -> Option<Arc<DescribeResponse>> {
        let known = lock(&self.description);
        let same_broker = known.connections == self.broker.connections();
        known.answer.clone().filter(|_| same_broker && known.at.is_some_and(|at| at.elapsed() < age))
    }

    /// Asks the broker what it is.
    pub async fn describe(&self, deadline: Instant) -> Result<Arc<DescribeResponse>, BrokerError> {
        let answer = self.broker.describe(deadline).await;
        let mut known = lock(&self.description);
        match answer {
            Ok(answer) => {
                if known.start_time_ms != 0 && known.start_time_ms != answer.start_time_ms {
                    self.server_metrics.restarts.inc();
                    tracing::info!(version = answer.version, "the broker was restarted");
                }
                known.start_time_ms = answer.start_time_ms;
                known.at = Some(Instant::now());
                known.connections = self.broker.connections();
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

    /// Whether the broker answers, asked now unless it did a moment ago, and has readers for what the collectors need; if
    /// not, why.
    pub async fn ready(&self) -> Result<(), String> {
        let broker = match self.recent_description(DESCRIBE_TIMEOUT) {
            Some(answer) => answer,
            None => {
                let answer = self.describe(Instant::now() + DESCRIBE_TIMEOUT).await;
                answer.map_err(|error| error.to_string())?
            }
        };
        let queries =
            self.enabled.iter().flat_map(|collector| collector.queries.iter().chain(collector.optional));
        missing_readers(&broker, &queries.copied().collect()).map_or(Ok(()), Err)
    }
}

/// Which classes of readers have none that could be asked for any of `queries`, in words; none where each has.
fn missing_readers(broker: &DescribeResponse, queries: &HashSet<Query>) -> Option<String> {
    // What is not permitted or not the host's needs no reader.
    let could_be_asked = |query: &&QueryDescription| {
        queries.contains(&query.query()) && matches!(query.outcome(), Outcome::Unspecified | Outcome::Stuck)
    };
    let needed: HashSet<&str> =
        broker.queries.iter().filter(could_be_asked).map(|query| &*query.reader).collect();
    let missing = broker.readers.iter().filter(|class| !class.available && needed.contains(&*class.name));
    let missing: Vec<_> = missing.map(|class| format!("{} ({} stuck)", class.name, class.stuck)).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the broker has no reader of class {} that could be asked: what these read is missing, the rest is served; see \
             the broker's log and keyhole-exporter describe for what hangs",
            missing.join(", ")
        )
    })
}

impl Scrape {
    /// All of it.
    pub fn whole(&self, format: Format) -> Bytes {
        self.encoded(format).plain.get_or_init(|| self.encode(format, |_| true)).clone()
    }

    /// The same, compressed once for all who ask.
    pub fn compressed(&self, format: Format, compress: impl FnOnce(&[u8]) -> Vec<u8>) -> Bytes {
        let compressed = &self.encoded(format).compressed;
        compressed.get_or_init(|| self.unread.track(compress(&self.whole(format)))).clone()
    }

    /// The families with these names alone.
    pub fn families(&self, format: Format, names: &[String]) -> Bytes {
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        self.encode(format, |family| names.contains(family))
    }

    fn encoded(&self, format: Format) -> &Encoded {
        match format {
            Format::Text => &self.text,
            Format::Protobuf => &self.protobuf,
        }
    }

    fn encode(&self, format: Format, keep: impl Fn(&str) -> bool) -> Bytes {
        self.unread.track(match format {
            Format::Text => {
                let mut text = Vec::new();
                self.exposition.write(&mut text, keep);
                text
            }
            Format::Protobuf => protobuf::encode(&self.exposition, keep),
        })
    }
}

/// Until when a scrape under way must go on for one who is due at `deadline` to share it. Were it only until then, one
/// after the other could begin a scrape by giving itself a little more time than the last.
fn needed(deadline: Instant) -> Instant {
    let now = Instant::now();
    if deadline < now + SHORT_DEADLINE { now } else { now + NEEDED_TIME }
}

/// Waits for a scrape under way.
async fn finished(mut running: Waiting, deadline: Instant) -> Shared {
    // A scrape has its own deadline; a little more lets its partial answer through.
    let deadline = deadline + Duration::from_millis(100);
    let finished = timeout_at(deadline, running.scrape.wait_for(Option::is_some)).await;
    match finished {
        Ok(Ok(scrape)) => scrape.clone(),
        _ => None,
    }
    .unwrap_or_else(|| Arc::new(Err(BrokerError::Deadline.into())))
}

/// A scrape under way; whoever comes after its end starts another.
struct Entry {
    scraper: Arc<Scraper>,
    selection: Selection,
    ends: Instant,
}

impl Entry {
    /// Takes the scrape from those that others can wait for, unless `is_wanted`; returns whether it did.
    fn remove_unless(&self, is_wanted: impl FnOnce() -> bool) -> bool {
        let mut running = lock(&self.scraper.running);
        if is_wanted() {
            return false;
        }
        // Another that goes on for longer may have taken its place.
        if running.get(&self.selection).is_some_and(|running| running.ends == self.ends) {
            running.remove(&self.selection);
        }
        true
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.remove_unless(|| false);
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

impl ItemLog {
    fn due(&self, collector: &'static str, items: &[String]) -> Due {
        self.due_at(collector, items, Instant::now())
    }

    /// What is to be logged of `items`; it counts as logged. What comes too early is looked at again in later scrapes.
    fn due_at(&self, collector: &'static str, items: &[String], now: Instant) -> Due {
        let mut logged = lock(&self.0);
        let Some(last) = logged.get_mut(collector) else {
            if items.is_empty() {
                return Due::Nothing;
            }
            logged.insert(collector, Logged { items: items.to_vec(), at: now, interval: ITEM_INTERVAL });
            return Due::Items(items.to_vec());
        };
        let elapsed = now.saturating_duration_since(last.at);
        if elapsed < last.interval || last.items == items {
            return Due::Nothing;
        }
        let new: Vec<String> = items.iter().filter(|item| !last.items.contains(item)).cloned().collect();
        last.items = items.to_vec();
        if new.is_empty() && !items.is_empty() {
            return Due::Nothing;
        }
        last.interval = match elapsed < 2 * last.interval {
            true => (2 * last.interval).min(LONGEST_ITEM_INTERVAL),
            false => ITEM_INTERVAL,
        };
        last.at = now;
        if items.is_empty() { Due::Gone } else { Due::Items(new) }
    }
}

impl LogTimes {
    /// Whether a line about `collector` is due; if so, it counts as logged.
    fn is_due(&self, collector: &'static str) -> bool {
        let now = Instant::now();
        let mut logged = lock(&self.0);
        let due = logged.get(collector).is_none_or(|last| now.duration_since(*last) >= LIMIT_LOG_INTERVAL);
        if due {
            logged.insert(collector, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_is_left_out_is_logged_once_and_again_when_it_is_another() {
        let (log, start) = (ItemLog::default(), Instant::now());
        let due = |seconds, items: &[&str]| {
            let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
            log.due_at("textfile", &items, start + Duration::from_secs(seconds))
        };
        let items = |items: &[&str]| Due::Items(items.iter().map(|item| (*item).to_owned()).collect());
        assert_eq!(due(0, &[]), Due::Nothing);
        assert_eq!(due(0, &["a"]), items(&["a"]));
        assert_eq!(due(10, &["a"]), Due::Nothing);
        assert_eq!(due(30, &["a", "b"]), Due::Nothing, "too early");
        assert_eq!(due(1000, &["a", "b"]), items(&["b"]), "the one that is new");
        assert_eq!(due(2000, &["a"]), Due::Nothing);
        assert_eq!(due(3000, &[]), Due::Gone);
        assert_eq!(due(4000, &[]), Due::Nothing);
        assert_eq!(due(5000, &["a"]), items(&["a"]));
    }

    #[test]
    fn items_that_change_with_every_scrape_do_not_flood_the_log() {
        let (log, start) = (ItemLog::default(), Instant::now());
        let lines = (0..86_400u64).step_by(15).filter(|&second| {
            let items = vec![format!("line {second}")];
            log.due_at("textfile", &items, start + Duration::from_secs(second)) != Due::Nothing
        });
        let lines = lines.count();
        assert!((20..40).contains(&lines), "{lines} lines a day");
    }

    #[test]
    fn scrapes_that_fail_are_logged_at_once_and_then_a_minute_at_a_time() {
        let (mut outage, start) = (None, Instant::now());
        let logged: Vec<_> = (0..=12)
            .filter_map(|number| Outage::fail(&mut outage, start + Duration::from_secs(10 * number)))
            .collect();
        assert_eq!(logged, [1, 6, 6]);
    }
}
