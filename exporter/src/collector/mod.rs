//! Collectors: one kernel subject a file, each a pure function from a snapshot to metric families.
//!
//! A collector's file holds its flags, the queries it needs, its families as rows, its parser and its tests; its row
//! in [`COLLECTORS`] is all that the rest of the exporter knows of it. At the start the row makes an [`Instance`] from the
//! flags. What a collector keeps between scrapes is a field of its own type.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use keyhole_policy::pattern::overlap;
use keyhole_proto::v1::{Outcome, Query};

use crate::cli::flags::DISABLE_DEFAULTS;
use crate::exposition::{Counters, Exposition, Family, Limit, Limits, MetricType, Source};
use crate::options::{Flag, FlagError, Options};
use crate::snapshot::{Content, Snapshot, is_answered};

pub mod files;
pub mod filesystems;
pub mod hardware;
pub mod kernel;
pub mod memory;
pub mod network;
pub mod processors;
#[cfg(test)]
mod sources;
pub mod storage;
pub mod tasks;

/// Every collector, sorted by name.
pub const COLLECTORS: &[&Collector] = &[
    &network::arp::COLLECTOR,
    &storage::bcache::COLLECTOR,
    &filesystems::bcachefs::COLLECTOR,
    &network::bonding::COLLECTOR,
    &filesystems::btrfs::COLLECTOR,
    &memory::buddyinfo::COLLECTOR,
    &tasks::cgroup::COLLECTOR,
    &tasks::cgroups::COLLECTOR,
    &network::conntrack::COLLECTOR,
    &processors::cpu::COLLECTOR,
    &processors::cpu_vulnerabilities::COLLECTOR,
    &processors::cpufreq::COLLECTOR,
    &storage::diskstats::COLLECTOR,
    &hardware::dmi::COLLECTOR,
    &storage::dmmultipath::COLLECTOR,
    &storage::drbd::COLLECTOR,
    &hardware::drm::COLLECTOR,
    &hardware::edac::COLLECTOR,
    &kernel::entropy::COLLECTOR,
    &storage::fibrechannel::COLLECTOR,
    &kernel::filefd::COLLECTOR,
    &filesystems::filesystem::COLLECTOR,
    &hardware::hwmon::COLLECTOR,
    &network::infiniband::COLLECTOR,
    &processors::interrupts::COLLECTOR,
    &network::ipvs::COLLECTOR,
    &kernel::kernel_hung::COLLECTOR,
    &memory::ksmd::COLLECTOR,
    &network::lnstat::COLLECTOR,
    &processors::loadavg::COLLECTOR,
    &storage::mdadm::COLLECTOR,
    &memory::meminfo::COLLECTOR,
    &memory::meminfo_numa::COLLECTOR,
    &filesystems::mountstats::COLLECTOR,
    &network::netclass::COLLECTOR,
    &network::netdev::COLLECTOR,
    &network::netstat::COLLECTOR,
    &network::network_route::COLLECTOR,
    &filesystems::nfs::COLLECTOR,
    &filesystems::nfsd::COLLECTOR,
    &storage::nvme::COLLECTOR,
    &storage::nvmesubsystem::COLLECTOR,
    &kernel::os::COLLECTOR,
    &hardware::pcidevice::COLLECTOR,
    &hardware::powersupplyclass::COLLECTOR,
    &processors::pressure::COLLECTOR,
    &tasks::processes::COLLECTOR,
    &tasks::processgroups::COLLECTOR,
    &hardware::rapl::COLLECTOR,
    &processors::schedstat::COLLECTOR,
    &kernel::selinux::COLLECTOR,
    &memory::slabinfo::COLLECTOR,
    &network::sockstat::COLLECTOR,
    &processors::softirqs::COLLECTOR,
    &network::softnet::COLLECTOR,
    &processors::stat::COLLECTOR,
    &memory::swap::COLLECTOR,
    &kernel::sysctl::COLLECTOR,
    &storage::tapestats::COLLECTOR,
    &network::tcpstat::COLLECTOR,
    &files::textfile::COLLECTOR,
    &hardware::thermal_zone::COLLECTOR,
    &kernel::time::COLLECTOR,
    &kernel::timex::COLLECTOR,
    &network::udp_queues::COLLECTOR,
    &kernel::uname::COLLECTOR,
    &memory::vmstat::COLLECTOR,
    &hardware::watchdog::COLLECTOR,
    &network::xfrm::COLLECTOR,
    &filesystems::xfs::COLLECTOR,
    &filesystems::zfs::COLLECTOR,
    &memory::zoneinfo::COLLECTOR,
];

/// One collector: a row of the registry.
#[derive(Debug)]
pub struct Collector {
    /// Its name, as node_exporter has it in `--collector.<name>`.
    pub name: &'static str,
    /// Whether it runs without being asked for.
    pub default: bool,
    /// One line about its metrics, for `--help`.
    pub help: &'static str,
    /// The queries that it cannot do without: when one of them fails, so does the collector.
    pub queries: &'static [Query],
    /// The queries that add to it where the broker may answer them.
    pub optional: &'static [Query],
    /// Its own flags, besides `--collector.<name>`.
    pub flags: &'static [Flag],
    /// The families that it may emit, in the order of `docs/metrics.md`.
    pub families: fn() -> Vec<Family>,
    /// Resolves its flags, once at the start. A collector without flags is a plain function.
    pub new: fn(&Options) -> Result<Box<dyn Collect>, SetupError>,
}

/// A collector with the values of its flags.
pub trait Collect: Send + Sync {
    /// Turns a snapshot into samples.
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError>;

    /// Whether it needs `query`, one of its row's. Queries that cost more than they are worth on most hosts are asked
    /// only when a flag is on.
    fn wants(&self, _query: Query) -> bool {
        true
    }

    /// Directories in the exporter's own file system that it reads in each scrape: the sandbox leaves them readable.
    fn directories(&self) -> &[PathBuf] {
        &[]
    }

    /// Whether it runs after all others, so that it can leave out what they have.
    fn is_last(&self) -> bool {
        false
    }
}

impl<F> Collect for F
where
    F: Fn(&Context<'_>, &mut Exposition) -> Result<(), CollectError> + Send + Sync,
{
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        self(context, out)
    }
}

/// A collector that runs: its row, and the collector that the row made from the flags.
#[derive(Clone)]
pub struct Instance {
    /// Its row.
    pub row: &'static Collector,
    collect: Arc<dyn Collect>,
}

/// Why a collector cannot do what its flags say.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SetupError {
    /// A flag has a value that it cannot have.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// A file that a flag names cannot be used.
    #[error("--{flag}={path}: {reason}")]
    File {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
}

impl Collector {
    /// The rows of the policy by which files of this pattern are read for the collector. The pattern begins with
    /// the name of a root.
    pub fn rows(&self, pattern: &str) -> impl Iterator<Item = &'static keyhole_policy::Row> {
        let rows = self.queries.iter().chain(self.optional).filter_map(|query| keyhole_policy::row(*query));
        rows.filter(move |row| has_source(row, pattern))
    }
}

/// Whether a row of the policy reads files of this pattern, which begins with the name of a root.
pub fn has_source(row: &keyhole_policy::Row, pattern: &str) -> bool {
    row.sources.iter().any(|source| {
        let below = pattern.strip_prefix(source.root.name()).and_then(|path| path.strip_prefix('/'));
        below.is_some_and(|below| overlap(source.pattern, below))
    })
}

/// What a collector works from.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The host's files.
    pub snapshot: &'a Snapshot,
    /// What the exporter knows without the host.
    pub local: &'a LocalData,
}

/// What the exporter knows without the host's files, taken once a scrape.
#[derive(Debug, Clone)]
pub struct LocalData {
    /// The wall clock.
    pub now: SystemTime,
    /// The node's name, from the environment variable `NODE_NAME`.
    pub node_name: Option<String>,
    /// The kernel's clock discipline, or the errno of adjtimex(2).
    pub timex: Result<keyhole_os::Timex, i32>,
    /// The exporter's uname(2); none when a snapshot of another host is looked at.
    pub uname: Option<Uname>,
    /// The exporter's time zone, where it has but one offset.
    pub time_zone: Option<TimeZone>,
}

/// What uname(2) returns to the exporter. The kernel is the host's; the names are those of its own UTS namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Uname {
    pub sysname: Vec<u8>,
    pub nodename: Vec<u8>,
    pub release: Vec<u8>,
    pub version: Vec<u8>,
    pub machine: Vec<u8>,
    pub domainname: Vec<u8>,
}

/// A time zone without daylight saving time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeZone {
    /// Its abbreviation: `UTC`.
    pub name: String,
    /// Seconds east of UTC.
    pub offset: i32,
}

/// Why a collector emitted less than it should.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CollectError {
    /// The host has nothing of the kind. Not a failure.
    #[error("the host has no {0}")]
    NoData(String),
    /// The host has it, and the broker could not read it.
    #[error("{path}: errno {errno}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        errno: u32,
    },
    /// A file is not as the kernel documents it.
    #[error("{path}: {item}")]
    Malformed {
        /// The file.
        path: String,
        /// What was looked for and where.
        item: String,
    },
    /// A query that the collector needs failed.
    #[error("query {query}: {outcome}{}", in_parentheses(.reason))]
    Query {
        /// The query's name in the API.
        query: &'static str,
        /// How it ended.
        outcome: &'static str,
        /// Why, in the broker's words; may be empty.
        reason: String,
    },
    /// A limit of the exporter's left series out. How many is counted elsewhere: that may change with every scrape.
    #[error("{}", .0.message())]
    OverLimit(Limit),
    /// A system call of the exporter itself was refused.
    #[error("{call}: errno {errno}")]
    Refused {
        /// The system call.
        call: &'static str,
        /// Why.
        errno: i32,
    },
}

/// What follows a statement, with a space before it; nothing when it is empty.
pub(crate) fn in_parentheses(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

impl CollectError {
    /// A file that is not as the kernel documents it.
    pub fn malformed(path: &str, item: impl Into<String>) -> Self {
        CollectError::Malformed { path: path.to_owned(), item: item.into() }
    }
}

impl<'a> Context<'a> {
    /// The bytes of a file that the collector cannot do without.
    pub fn require(&self, path: &str) -> Result<&'a [u8], CollectError> {
        match self.snapshot.content(path) {
            Some(Content::Bytes { bytes, .. }) => Ok(bytes),
            Some(Content::Errno(errno)) if !is_absent(*errno) => {
                Err(CollectError::Unreadable { path: path.to_owned(), errno: *errno })
            }
            _ => Err(CollectError::NoData(path.to_owned())),
        }
    }

    /// The same, for a file that results in wrong numbers if it is truncated.
    pub fn require_complete(&self, path: &str) -> Result<&'a [u8], CollectError> {
        match self.snapshot.content(path) {
            Some(Content::Bytes { truncated: true, .. }) => {
                Err(CollectError::malformed(path, "longer than the broker sends"))
            }
            _ => self.require(path),
        }
    }

    /// The same, for a file whose items have several lines; `begins` recognises the first line of an item. Of a truncated
    /// file, only complete items are returned.
    pub fn require_items(
        &self,
        path: &str,
        begins: impl Fn(&[u8]) -> bool,
    ) -> Result<&'a [u8], CollectError> {
        let bytes = self.require(path)?;
        if !matches!(self.snapshot.content(path), Some(Content::Bytes { truncated: true, .. })) {
            return Ok(bytes);
        }
        let mut last = 0;
        let mut at = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if begins(line.strip_suffix(b"\n").unwrap_or(line)) {
                last = at;
            }
            at += line.len();
        }
        Ok(&bytes[..last])
    }

    /// Fails when `query` failed: its files are then incomplete, and a sum over them would be wrong.
    pub fn require_answered(&self, query: Query) -> Result<(), CollectError> {
        require_answered(self.snapshot, query)
    }

    /// The result for a class without devices: success if its directory is empty, and [`CollectError::NoData`] if the
    /// kernel does not have the class.
    pub fn no_devices(&self, query: Query, what: &str) -> Result<(), CollectError> {
        match self.snapshot.report(query).map(|report| report.outcome) {
            Some(Outcome::Empty) => Ok(()),
            _ => Err(CollectError::NoData(what.to_owned())),
        }
    }

    /// Calls `take` with each of `paths` that the host has. An error if one is truncated or cannot be read, after `take`
    /// was called with the others; [`CollectError::NoData`] if the host has none of them.
    pub fn for_each_complete<'p>(
        &self,
        paths: &[&'p str],
        mut take: impl FnMut(&'p str, &'a [u8]),
    ) -> Result<(), CollectError> {
        let mut taken = false;
        let mut failed = None;
        for path in paths {
            match self.require_complete(path) {
                Ok(bytes) => {
                    take(path, bytes);
                    taken = true;
                }
                Err(CollectError::NoData(_)) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None if taken => Ok(()),
            None => Err(CollectError::NoData(paths.join(" or "))),
        }
    }
}

/// Whether an error number means that the host does not have the file.
fn is_absent(errno: u32) -> bool {
    i32::try_from(errno).is_ok_and(keyhole_policy::errno::is_absent)
}

/// How one collector did in one scrape.
#[derive(Debug, Clone)]
pub struct Run {
    /// The collector's name.
    pub name: &'static str,
    /// How long it took.
    pub duration: Duration,
    /// What became of it.
    pub result: Result<(), CollectError>,
    /// What it added.
    pub counters: Counters,
}

impl Collector {
    /// Whether it runs with these flags, unless a request or a command names others.
    pub fn is_enabled(&self, options: &Options) -> bool {
        let switch = switch(self.name);
        options.switch(switch) && (!DISABLE_DEFAULTS.get(options) || options.is_set(switch))
    }
}

impl Instance {
    /// Resolves the flags of a row.
    pub fn new(row: &'static Collector, options: &Options) -> Result<Self, SetupError> {
        Ok(Self { row, collect: (row.new)(options)?.into() })
    }

    /// Turns a snapshot into samples.
    pub fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        self.collect.collect(context, out)
    }

    /// The queries that it needs, and those that add to it.
    pub fn queries(&self) -> impl Iterator<Item = Query> {
        let all = self.row.queries.iter().chain(self.row.optional).copied();
        all.filter(|query| self.collect.wants(*query))
    }

    /// The directories that it reads itself.
    pub fn directories(&self) -> &[PathBuf] {
        self.collect.directories()
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Instance").field(&self.row.name).finish()
    }
}

/// Resolves the flags of each of `rows`. The result is in the order in which they run.
pub fn instances(
    rows: impl IntoIterator<Item = &'static Collector>,
    options: &Options,
) -> Result<Vec<Instance>, SetupError> {
    let instances = rows.into_iter().map(|row| Instance::new(row, options));
    let mut instances = instances.collect::<Result<Vec<_>, _>>()?;
    instances.sort_by_key(|instance| instance.collect.is_last());
    Ok(instances)
}

/// The collectors that the flags leave on.
pub fn enabled(options: &Options) -> Result<Vec<Instance>, SetupError> {
    instances(COLLECTORS.iter().copied().filter(|row| row.is_enabled(options)), options)
}

/// The queries that `collectors` need, each once.
pub fn queries(collectors: &[Instance]) -> Vec<Query> {
    let mut queries: Vec<Query> = collectors.iter().flat_map(Instance::queries).collect();
    queries.sort_unstable();
    queries.dedup();
    queries
}

/// Runs `collectors` over one snapshot, within `limits`. One that reached a limit has failed: it emitted complete items,
/// but not all of them. With `detail`, the series of each are counted among the metrics.
pub fn run(
    collectors: &[Instance],
    context: &Context<'_>,
    limits: Limits,
    detail: bool,
    out: &mut Exposition,
) -> Vec<Run> {
    out.set_limit(limits.bytes, collectors.len());
    let runs: Vec<Run> = collectors
        .iter()
        .map(|collector| {
            let start = Instant::now();
            out.begin(limits.series);
            let result = collector.collect(context, out);
            let counters = out.end();
            let result = failed_query(collector.row, context.snapshot).map_or(result, Err);
            let result =
                result.and(counters.limit.map_or(Ok(()), |limit| Err(CollectError::OverLimit(limit))));
            Run { name: collector.row.name, duration: start.elapsed(), result, counters }
        })
        .collect();
    for run in &runs {
        let name = [run.name.as_bytes()];
        out.add(&DURATION, &name, run.duration.as_secs_f64());
        out.add(&SUCCESS, &name, run.result.is_ok());
        if detail {
            out.add(&SERIES, &name, run.counters.series);
        }
        if run.counters.skipped > 0 {
            out.add(&SKIPPED, &name, run.counters.skipped);
        }
    }
    runs
}

/// The error of a query that the collector needs and that failed. It explains more than a missing file would.
fn failed_query(collector: &Collector, snapshot: &Snapshot) -> Option<CollectError> {
    collector.queries.iter().find_map(|&query| require_answered(snapshot, query).err())
}

fn require_answered(snapshot: &Snapshot, query: Query) -> Result<(), CollectError> {
    let outcome = snapshot.report(query).map_or(Outcome::Ok, |report| report.outcome);
    if is_answered(outcome) {
        return Ok(());
    }
    Err(CollectError::Query {
        query: short(query.as_str_name(), "QUERY_"),
        outcome: short(outcome.as_str_name(), "OUTCOME_"),
        reason: snapshot.reason(query).unwrap_or_default().to_owned(),
    })
}

fn short(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// The families that [`run`] adds itself.
pub const FAMILIES: &[Family] = &[DURATION, SUCCESS, SERIES, SKIPPED];

const DURATION: Family = Family {
    name: "node_scrape_collector_duration_seconds",
    help: "Time that the collector took to turn kernel files into samples.",
    kind: MetricType::Gauge,
    labels: &["collector"],
    source: Source::Exporter("exporter"),
};
const SUCCESS: Family = Family {
    name: "node_scrape_collector_success",
    help: "Whether the collector succeeded.",
    kind: MetricType::Gauge,
    labels: &["collector"],
    source: Source::Exporter("exporter"),
};
const SERIES: Family = Family {
    name: "keyhole_collector_series",
    help: "Series that the collector emitted in this scrape; with --scrape.detail.",
    kind: MetricType::Gauge,
    labels: &["collector"],
    source: Source::Exporter("exporter"),
};
const SKIPPED: Family = Family {
    name: "keyhole_collector_skipped",
    help: "Items in the collector's kernel files that could not be read in this scrape, and were left out.",
    kind: MetricType::Gauge,
    labels: &["collector"],
    source: Source::Exporter("exporter"),
};

/// The flags of all collectors, their switches among them, sorted by name.
pub fn flags() -> Vec<Flag> {
    use crate::options::FlagKind;
    let mut flags = Vec::new();
    for collector in COLLECTORS {
        let name: &'static str = switch(collector.name);
        flags.push(Flag { name, kind: FlagKind::Switch(collector.default), help: collector.help });
        flags.extend_from_slice(collector.flags);
    }
    flags.sort_by_key(|flag| flag.name);
    flags
}

/// The name of a collector's switch: `collector.<name>`.
pub fn switch(name: &str) -> &'static str {
    use std::sync::OnceLock;
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    let names = NAMES.get_or_init(|| COLLECTORS.iter().map(|c| format!("collector.{}", c.name)).collect());
    names.iter().find(|switch| switch.strip_prefix("collector.") == Some(name)).map_or("", String::as_str)
}

#[cfg(test)]
pub mod testing {
    //! What the collectors' tests share: kernel text in, exposition text out.

    use std::sync::LazyLock;

    use super::*;

    /// What the exporter knows of itself in tests: nothing, at the epoch.
    pub fn local() -> LocalData {
        LocalData {
            now: SystemTime::UNIX_EPOCH,
            node_name: Some("node-1".into()),
            timex: Err(1),
            uname: None,
            time_zone: None,
        }
    }

    /// Runs one collector over `files` with the given flags; returns its samples without HELP and TYPE lines.
    pub fn collect(
        collector: &'static Collector,
        files: &[(&str, &[u8])],
        flags: &[&str],
    ) -> Result<String, CollectError> {
        collect_snapshot(collector, &snapshot_of(files), flags, &local())
    }

    fn snapshot_of(files: &[(&str, &[u8])]) -> Snapshot {
        let content = |bytes: &[u8]| Content::bytes(bytes.to_vec());
        Snapshot::from_files(
            files.iter().map(|(path, bytes)| (path.as_bytes().to_vec(), content(bytes))).collect(),
        )
    }

    /// The same as [`collect`], over a snapshot.
    pub fn collect_snapshot(
        collector: &'static Collector,
        snapshot: &Snapshot,
        flags: &[&str],
        local: &LocalData,
    ) -> Result<String, CollectError> {
        let (text, _, result) = run_one(&instance(collector, flags), snapshot, local);
        result.map(|()| text)
    }

    /// The same, of a collector that may have run before.
    pub fn collect_again(
        instance: &Instance,
        snapshot: &Snapshot,
        local: &LocalData,
    ) -> Result<String, CollectError> {
        let (text, _, result) = run_one(instance, snapshot, local);
        result.map(|()| text)
    }

    /// How many things of `files` a collector skips: the value of `keyhole_collector_skipped`.
    pub fn skipped(collector: &'static Collector, files: &[(&str, &[u8])], flags: &[&str]) -> usize {
        skipped_of(collector, &snapshot_of(files), flags)
    }

    /// The same, of a snapshot.
    pub fn skipped_of(collector: &'static Collector, snapshot: &Snapshot, flags: &[&str]) -> usize {
        let (_, skipped, result) = run_one(&instance(collector, flags), snapshot, &local());
        result.expect("a collector that does not fail");
        skipped
    }

    /// What the collector emitted, also if it failed.
    pub fn collect_with_result(
        collector: &'static Collector,
        snapshot: &Snapshot,
        flags: &[&str],
        local: &LocalData,
    ) -> (String, Result<(), CollectError>) {
        let (text, _, result) = run_one(&instance(collector, flags), snapshot, local);
        (text, result)
    }

    /// The collector with the given flags.
    pub fn instance(collector: &'static Collector, flags: &[&str]) -> Instance {
        // Compiling every flag's expression takes longer than any test; most tests run with the defaults.
        static DEFAULTS: LazyLock<Options> = LazyLock::new(|| Options::defaults(&super::flags()));
        let given = (!flags.is_empty()).then(|| {
            let arguments = flags.iter().map(|flag| (*flag).to_owned());
            Options::parse(&super::flags(), arguments).expect("valid flags").0
        });
        Instance::new(collector, given.as_ref().unwrap_or(&DEFAULTS)).expect("valid flags")
    }

    /// The samples, how many items were skipped, and what became of it.
    fn run_one(
        instance: &Instance,
        snapshot: &Snapshot,
        local: &LocalData,
    ) -> (String, usize, Result<(), CollectError>) {
        let mut out = Exposition::new();
        out.begin(usize::MAX);
        let result = instance.collect(&Context { snapshot, local }, &mut out);
        let skipped = out.end().skipped;
        let families = (instance.row.families)();
        // The textfile collector emits what the files say.
        for series in out.series().filter(|_| instance.row.name != "textfile") {
            let name = series.family();
            let is_declared = families.iter().any(|family| family.has_name(name));
            assert!(is_declared, "{name} is not in the families of {}", instance.row.name);
        }
        let text = out.to_text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        (samples.map(|line| format!("{line}\n")).collect(), skipped, result)
    }

    /// Runs a collector over any bytes in any of `paths`; all that is asked is that it ends.
    pub fn accepts_any_bytes(collector: &'static Collector, paths: &[&str]) {
        use proptest::prelude::*;
        let arbitrary = proptest::collection::vec(any::<u8>(), 0..200);
        // Random bytes seldom look like kernel text: letters, digits and separators do more often.
        let texty = "[a-zA-Z0-9_:.()\\[\\]/ \\t\\n-]{0,200}".prop_map(String::into_bytes);
        let content = prop_oneof![arbitrary, texty];
        let files = proptest::collection::vec(proptest::option::of(content), paths.len());
        let mut runner = proptest::test_runner::TestRunner::default();
        let (instance, local_data) = (instance(collector, &[]), local());
        runner
            .run(&files, |files| {
                let present: Vec<(&str, &[u8])> = paths
                    .iter()
                    .zip(&files)
                    .filter_map(|(path, bytes)| Some((*path, bytes.as_deref()?)))
                    .collect();
                let _ = run_one(&instance, &snapshot_of(&present), &local_data);
                Ok(())
            })
            .expect("the collector accepts any bytes");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::exposition::Series;

    #[test]
    fn every_collector_in_the_sources_is_registered() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/collector");
        let mut missing = Vec::new();
        for subsystem in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            for path in std::fs::read_dir(subsystem).into_iter().flatten().map(|entry| entry.unwrap().path())
            {
                // A collector is a file, or a directory with a mod.rs.
                let file = if path.is_dir() { path.join("mod.rs") } else { path };
                let source = std::fs::read_to_string(&file).unwrap_or_default();
                let Some((_, row)) = source.split_once("pub const COLLECTOR: Collector = Collector {") else {
                    continue;
                };
                let name = row.split('"').nth(1).unwrap();
                if COLLECTORS.iter().all(|collector| collector.name != name) {
                    missing.push(name.to_owned());
                }
            }
        }
        assert!(missing.is_empty(), "not in COLLECTORS: {missing:?}");
    }

    #[test]
    fn collectors_are_sorted_and_named_once() {
        assert!(COLLECTORS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    /// No kernel writes the first ones empty: something masks them. The others are as in node_exporter.
    #[test]
    fn an_empty_file_fails_where_no_kernel_has_it_empty() {
        for (name, path, fails) in [
            ("buddyinfo", "proc/buddyinfo", true),
            ("conntrack", "proc/1/net/stat/nf_conntrack", true),
            ("entropy", "proc/sys/kernel/random/entropy_avail", true),
            ("filefd", "proc/sys/fs/file-nr", true),
            ("interrupts", "proc/interrupts", true),
            ("ipvs", "proc/1/net/ip_vs_stats", true),
            ("loadavg", "proc/loadavg", true),
            ("mdadm", "proc/mdstat", true),
            ("meminfo", "proc/meminfo", true),
            ("meminfo_numa", "sys/devices/system/node/node0/meminfo", true),
            ("netdev", "proc/1/net/dev", true),
            ("netstat", "proc/1/net/netstat", true),
            ("netstat", "proc/1/net/snmp", true),
            ("nfs", "proc/1/net/rpc/nfs", true),
            ("nfsd", "proc/1/net/rpc/nfsd", true),
            ("pressure", "proc/pressure/cpu", true),
            ("schedstat", "proc/schedstat", true),
            ("slabinfo", "proc/slabinfo", true),
            ("softirqs", "proc/softirqs", true),
            ("softnet", "proc/1/net/softnet_stat", true),
            ("stat", "proc/stat", true),
            ("vmstat", "proc/vmstat", true),
            ("xfrm", "proc/1/net/xfrm_stat", true),
            ("zfs", "proc/spl/kstat/zfs/arcstats", true),
            ("zfs", "proc/spl/kstat/zfs/tank/objset-0x36", true),
            ("zfs", "proc/spl/kstat/zfs/zil", true),
            ("zoneinfo", "proc/zoneinfo", true),
            ("arp", "proc/1/net/arp", false),
            ("cgroups", "proc/cgroups", false),
            ("diskstats", "proc/diskstats", false),
            ("drbd", "proc/drbd", false),
            ("ipvs", "proc/1/net/ip_vs", false),
            ("lnstat", "proc/1/net/stat/arp_cache", false),
            ("mountstats", "proc/1/mountstats", false),
            ("netstat", "proc/1/net/snmp6", false),
            ("network_route", "proc/1/net/route", false),
            ("sockstat", "proc/1/net/sockstat", false),
            ("swap", "proc/swaps", false),
            ("tcpstat", "proc/1/net/tcp", false),
            ("udp_queues", "proc/1/net/udp", false),
            ("xfs", "sys/fs/xfs/sda1/stats/stats", false),
            ("zfs", "proc/spl/kstat/zfs/tank/io", false),
            ("zfs", "proc/spl/kstat/zfs/tank/state", false),
        ] {
            let collector = COLLECTORS.iter().copied().find(|collector| collector.name == name).unwrap();
            let files = [&[(path, &b""[..])], &beside(path)[..]].concat();
            let result = testing::collect(collector, &files, &[]);
            assert_eq!(result.is_err(), fails, "{path}: {result:?}");
        }
    }

    /// The collectors whose items have several series, and the labels that identify an item.
    const ITEMS: &[(&str, &[&str])] = &[
        ("bcache", &["uuid"]),
        ("bcachefs", &["uuid"]),
        ("bonding", &["master"]),
        ("btrfs", &["uuid"]),
        ("buddyinfo", &["node", "zone"]),
        ("cgroup", &["cgroup"]),
        ("cgroups", &["subsys_name"]),
        ("cpu", &["cpu"]),
        ("cpufreq", &["cpu"]),
        ("diskstats", &["device"]),
        ("dmmultipath", &["device"]),
        ("drbd", &["device"]),
        ("drm", &["card"]),
        ("edac", &["controller"]),
        ("fibrechannel", &["fc_host"]),
        ("filesystem", &["device", "mountpoint"]),
        ("hwmon", &["chip"]),
        ("infiniband", &["device"]),
        ("interrupts", &["type", "info", "devices"]),
        ("ipvs", &["local_address", "local_port", "remote_address", "remote_port", "proto", "local_mark"]),
        ("lnstat", &["cpu", "subsystem"]),
        ("mdadm", &["device"]),
        ("meminfo_numa", &["node"]),
        ("mountstats", &["export", "mountaddr", "protocol"]),
        ("netclass", &["device"]),
        ("netdev", &["device"]),
        ("nfs", &["proto"]),
        ("nfsd", &["proto"]),
        ("nvme", &["device"]),
        ("nvmesubsystem", &["subsystem"]),
        ("pcidevice", &["segment", "bus", "device", "function"]),
        ("powersupplyclass", &["power_supply"]),
        ("processgroups", &["groupname"]),
        ("schedstat", &["cpu"]),
        ("slabinfo", &["slab"]),
        ("softirqs", &["type"]),
        ("softnet", &["cpu"]),
        ("swap", &["device"]),
        ("tapestats", &["device"]),
        ("thermal_zone", &["name", "type"]),
        ("time", &["device"]),
        ("udp_queues", &["ip"]),
        ("watchdog", &["name"]),
        ("xfs", &["device"]),
        ("zfs", &["zpool", "dataset"]),
        ("zoneinfo", &["node", "zone"]),
    ];
    /// The others: each series is an item of its own, all are about the host, or no set of labels identifies an item.
    const NO_ITEMS: &[&str] = &[
        "arp",
        "conntrack",
        "cpu_vulnerabilities",
        "dmi",
        "entropy",
        "filefd",
        "kernel_hung",
        "ksmd",
        "loadavg",
        "meminfo",
        "netstat",
        "network_route",
        "os",
        "pressure",
        "processes",
        "rapl",
        "selinux",
        // An item is a protocol, which is part of a metric's name.
        "sockstat",
        "stat",
        // An item is a metric's name, not a label's value; its own tests check items.
        "sysctl",
        "tcpstat",
        // An item is a file, which no label names; its own tests check items.
        "textfile",
        "timex",
        "uname",
        "vmstat",
        "xfrm",
    ];
    /// Those of [`ITEMS`] of which neither the snapshots of the test nor a tree has two items, one with several series.
    const NOT_IN_TREES: &[&str] =
        &["bcache", "bcachefs", "drm", "mountstats", "nvmesubsystem", "processgroups"];

    /// The values of a sample's labels of those names; none unless it has all.
    fn item_of(series: &Series<'_>, names: &[&str]) -> Option<String> {
        let value = |name: &&str| series.labels().find(|(other, _)| other == name).map(|(_, value)| value);
        names.iter().map(value).collect::<Option<Vec<_>>>().map(|values| values.join("\n"))
    }

    /// How many series each item has within a limit, and how many there are in all.
    fn items_within(
        limit: usize,
        collector: &Instance,
        names: &[&str],
        context: &Context<'_>,
    ) -> (BTreeMap<String, usize>, usize) {
        let mut out = Exposition::new();
        out.begin(limit);
        let _ = collector.collect(context, &mut out);
        out.end();
        let mut items = BTreeMap::new();
        let mut all = 0;
        for series in out.series() {
            all += 1;
            if let Some(item) = item_of(&series, names) {
                *items.entry(item).or_default() += 1;
            }
        }
        (items, all)
    }

    #[test]
    fn at_any_series_limit_each_item_of_each_collector_is_whole_or_absent() {
        let known: BTreeSet<&str> =
            ITEMS.iter().map(|(name, _)| *name).chain(NO_ITEMS.iter().copied()).collect();
        assert_eq!(
            known,
            COLLECTORS.iter().map(|collector| collector.name).collect(),
            "a collector is not listed"
        );

        let files = |files: &[(&str, &str)]| {
            Snapshot::from_files(
                files
                    .iter()
                    .map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.as_bytes().to_vec())))
                    .collect(),
            )
        };
        let mut trees = vec![
            files(&[
                ("proc/swaps", "Filename Type Size Used Priority\n/a file 1 2 -3\n/b file 1 2 -4\n"),
                ("proc/1/net/udp", "  sl  local rem st tx_queue:rx_queue\n 0: 0:1 0:0 07 5:6\n"),
                ("proc/1/net/udp6", "  sl  local rem st tx_queue:rx_queue\n 0: 0:1 0:0 07 5:6\n"),
                ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet\n"),
                ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
                ("sys/devices/system/clocksource/clocksource1/available_clocksource", "tsc hpet\n"),
                ("sys/devices/system/clocksource/clocksource1/current_clocksource", "hpet\n"),
                ("sys/class/thermal/cooling_device0/type", "Fan\n"),
                ("sys/class/thermal/cooling_device0/cur_state", "1\n"),
                ("sys/class/thermal/cooling_device0/max_state", "2\n"),
                ("sys/class/thermal/cooling_device1/type", "Fan\n"),
                ("sys/class/thermal/cooling_device1/cur_state", "1\n"),
                ("sys/class/thermal/cooling_device1/max_state", "2\n"),
                ("proc/cgroups", "#subsys_name hierarchy num_cgroups enabled\ncpu 1 2 1\nio 1 3 1\n"),
            ]),
            files(&[
                ("proc/stat", "cpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 8 9 10\ncpu2 1 2 3 4 5 6 7\n"),
                (
                    "proc/cpuinfo",
                    "processor: 0\nvendor_id: a\ncpu MHz: 1\nflags: b c\nbugs: d e\n\nprocessor: 1\ncpu MHz: 2\n",
                ),
                ("sys/devices/system/cpu/online", "0-2\n"),
                ("sys/devices/system/cpu/isolated", "1-2\n"),
                ("sys/devices/system/cpu/cpu1/online", "1\n"),
                ("sys/devices/system/cpu/cpu1/topology/core_id", "1\n"),
                ("sys/devices/system/cpu/cpu1/topology/physical_package_id", "0\n"),
                ("sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "3\n"),
                ("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "4\n"),
                ("sys/devices/system/cpu/cpu2/online", "1\n"),
                ("sys/devices/system/cpu/cpu3/online", "0\n"),
            ]),
        ];
        let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
        let mut dirs: Vec<_> = std::fs::read_dir(tests.join("kernels/trees"))
            .expect("the trees of kernels")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        dirs.push(tests.join("golden/host/tree"));
        trees.extend(dirs.iter().map(|dir| crate::capture::read_tree(dir).expect("a tree")));

        let flags = [
            "--collector.cpu.info",
            "--collector.cpu.info.flags-include=.",
            "--collector.cpu.info.bugs-include=.",
        ];
        let (options, _) = Options::parse(&super::flags(), flags.map(str::to_owned)).expect("valid flags");
        let instances: Vec<(Instance, &[&str])> = ITEMS
            .iter()
            .map(|(name, labels)| {
                let collector = COLLECTORS.iter().copied().find(|collector| collector.name == *name).unwrap();
                (Instance::new(collector, &options).unwrap(), *labels)
            })
            .collect();
        let local = testing::local();
        let (mut seen, mut halves) = (BTreeSet::new(), BTreeMap::new());
        for snapshot in &trees {
            let context = Context { snapshot, local: &local };
            for (collector, labels) in &instances {
                let name = collector.row.name;
                let (whole, all) = items_within(usize::MAX, collector, labels, &context);
                if whole.len() > 1 && whole.values().any(|series| *series > 1) {
                    seen.insert(name);
                }
                // Every limit at which the first items are cut, and some of the others.
                for limit in (1..=all).filter(|limit| *limit <= 100 || limit % (all / 20) == 0) {
                    for (item, series) in items_within(limit, collector, labels, &context).0 {
                        if whole.get(&item) != Some(&series) {
                            halves.entry(name).or_insert_with(|| format!("at {limit} of {all}: {item:?}"));
                        }
                    }
                }
            }
        }
        assert_eq!(halves, BTreeMap::new(), "items of which a limit left a part");
        let unseen: Vec<&str> =
            ITEMS.iter().map(|(name, _)| *name).filter(|name| !seen.contains(name)).collect();
        assert_eq!(unseen, NOT_IN_TREES);
    }

    /// The other files that a collector needs beside that of `path`, without any values.
    fn beside(path: &str) -> Vec<(&'static str, &'static [u8])> {
        const PAIR: &[u8] = b"None:\nNone:\n";
        let others: &[(&str, &[u8])] = match path {
            "proc/1/net/netstat" => &[("proc/1/net/snmp", PAIR)],
            "proc/1/net/snmp" => &[("proc/1/net/netstat", PAIR)],
            "proc/1/net/snmp6" => &[("proc/1/net/netstat", PAIR), ("proc/1/net/snmp", PAIR)],
            "proc/1/net/ip_vs" => &[("proc/1/net/ip_vs_stats", b"Total\nConns\n 1 2 3 4 5\n")],
            "proc/1/net/ip_vs_stats" => &[("proc/1/net/ip_vs", b"")],
            _ => &[],
        };
        others.to_vec()
    }

    #[test]
    fn only_a_blank_or_malformed_line_is_skipped() {
        let sockets = "  sl  local rem st tx_queue:rx_queue\n 0: 0:1 0:0 07 5:6\n 1: 0:1 0:0 07 5:6\n";
        // Whether a line of something else leaves all others as they are; then it would be another thing's heading.
        for (name, path, table, broken) in [
            (
                "arp",
                "proc/1/net/arp",
                "IP HW Flags HWa Mask Device\n10.0.0.1 0x1 0x2 00 * a\n10.0.0.2 0x1 0x2 00 * b\n",
                true,
            ),
            ("buddyinfo", "proc/buddyinfo", "Node 0, zone DMA 1 2\nNode 0, zone Normal 3 4\n", true),
            (
                "cgroups",
                "proc/cgroups",
                "#subsys_name hierarchy num_cgroups enabled\ncpu 1 2 1\nio 1 3 1\n",
                true,
            ),
            ("conntrack", "proc/1/net/stat/nf_conntrack", "entries found\n1 2\n1 3\n", true),
            (
                "diskstats",
                "proc/diskstats",
                "8 0 a 1 2 3 4 5 6 7 8 9 10 11\n8 1 b 1 2 3 4 5 6 7 8 9 10 11\n",
                true,
            ),
            ("interrupts", "proc/interrupts", " CPU0 CPU1\n 1: 1 2 a b\nNMI: 3 4 Non-maskable\n", true),
            ("ipvs", "proc/1/net/ip_vs_stats", "Total\nConns\n 1 2 3 4 5\n", false),
            ("lnstat", "proc/1/net/stat/arp_cache", "entries\n1\n2\n", false),
            (
                "mdadm",
                "proc/mdstat",
                "Personalities : [raid1]\nmd0 : active raid1 a[0] b[1]\n  5 blocks [2/2] [UU]\n",
                false,
            ),
            ("meminfo", "proc/meminfo", "MemTotal: 2 kB\nMemFree: 1 kB\n", true),
            (
                "meminfo_numa",
                "sys/devices/system/node/node0/meminfo",
                "Node 0 MemTotal: 2 kB\nNode 0 MemFree: 1 kB\n",
                true,
            ),
            ("netdev", "proc/1/net/dev", "I|Receive|Transmit\nface|bytes|bytes\n a: 1 2\n b: 3 4\n", true),
            (
                "netstat",
                "proc/1/net/snmp",
                "Tcp: InSegs ActiveOpens\nTcp: 1 2\nUdp: InDatagrams\nUdp: 3\n",
                true,
            ),
            (
                "network_route",
                "proc/1/net/route",
                "Iface\na 00000000 0100000A 3 0 0 5 00000000 0 0 0\nb 0000000A 0 1 0 0 0 00FFFFFF 0 0 0\n",
                true,
            ),
            ("nfs", "proc/1/net/rpc/nfs", "net 1 2 3 4\nrpc 5 6 7\n", true),
            (
                "schedstat",
                "proc/schedstat",
                "version 15\ncpu0 1 2 3 4 5 6 7 8 9\ncpu1 1 2 3 4 5 6 7 8 9\n",
                true,
            ),
            (
                "slabinfo",
                "proc/slabinfo",
                "slabinfo - version: 2.1\na 1 2 3 4 5 : tunables 0 0 0\nb 1 2 3 4 5 : tunables 0 0 0\n",
                true,
            ),
            ("sockstat", "proc/1/net/sockstat", "sockets: used 5\nTCP: inuse 1 mem 2\nUDP: inuse 3\n", true),
            ("softirqs", "proc/softirqs", " CPU0 CPU1\nHI: 1 2\nTIMER: 3 4\n", true),
            (
                "softnet",
                "proc/1/net/softnet_stat",
                "1 2 3 0 0 0 0 0 0 0 0 0 0\n4 5 6 0 0 0 0 0 0 0 0 0 1\n",
                true,
            ),
            ("softnet", "proc/1/net/softnet_stat", "1 2 3 0 0 0 0 0 0\n4 5 6 0 0 0 0 0 0\n", false),
            ("stat", "proc/stat", "cpu 1 2 3\nctxt 5\nbtime 6\n", true),
            (
                "swap",
                "proc/swaps",
                "Filename Type Size Used Priority\n/a file 1 2 -3\n/b file 1 2 -4\n",
                true,
            ),
            ("tcpstat", "proc/1/net/tcp", sockets, true),
            ("udp_queues", "proc/1/net/udp", sockets, true),
            ("vmstat", "proc/vmstat", "pgfault 1\noom_kill 2\n", true),
            ("xfrm", "proc/1/net/xfrm_stat", "XfrmInError 1\nXfrmOutError 2\n", true),
            (
                "zoneinfo",
                "proc/zoneinfo",
                "Node 0, zone DMA\n  nr_free_pages 1\nNode 0, zone Normal\n  nr_free_pages 2\n",
                true,
            ),
        ] {
            let collector = COLLECTORS.iter().copied().find(|collector| collector.name == name).unwrap();
            let collect = |lines: &[&str]| {
                let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
                let files = [&[(path, text.as_bytes())], &beside(path)[..]].concat();
                (testing::collect(collector, &files, &[]), testing::skipped(collector, &files, &[]))
            };
            let lines: Vec<&str> = table.lines().collect();
            let (whole, none) = collect(&lines);
            assert_eq!(none, 0, "{name}");
            assert!(whole.as_ref().is_ok_and(|text| text.lines().count() > 1), "{name}: {whole:?}");
            for at in 0..=lines.len() {
                for line in ["", "   ", "broken"] {
                    if line == "broken" && (at == 0 || !broken) {
                        continue;
                    }
                    let with = [&lines[..at], &[line], &lines[at..]].concat();
                    let (text, skipped) = collect(&with);
                    assert_eq!(text, whole, "{name}: {line:?} before line {at}");
                    // A line of another name may be a newer kernel's, and some files have blank lines of their own.
                    let is_counted = !matches!(
                        (name, line),
                        ("ipvs" | "mdadm", _)
                            | ("meminfo_numa", "")
                            | ("schedstat" | "stat" | "zoneinfo", "broken")
                    );
                    assert_eq!(skipped > 0, is_counted, "{name}: {line:?} before line {at}");
                }
            }
        }
    }

    #[test]
    fn a_number_of_another_form_is_left_out_and_counted() {
        for (name, path) in [
            ("drm", "sys/class/drm/card0/device/gpu_busy_percent"),
            ("edac", "sys/devices/system/edac/mc/mc0/ce_count"),
            ("pcidevice", "sys/bus/pci/devices/0000:00:01.0/numa_node"),
            ("vmstat", "proc/vmstat"),
        ] {
            let collector = COLLECTORS.iter().copied().find(|collector| collector.name == name).unwrap();
            let of = |number: &str| {
                let (dir, _) = path.rsplit_once('/').unwrap();
                let uevent = format!("{dir}/uevent");
                let text = if name == "vmstat" {
                    format!("pgfault {number}\noom_kill 1\n")
                } else {
                    format!("{number}\n")
                };
                let files: &[(&str, &[u8])] = &[(path, text.as_bytes()), (&uevent, b"DRIVER=amdgpu\n")];
                let samples = testing::collect(collector, files, &[]).unwrap();
                (samples, testing::skipped(collector, files, &[]))
            };
            let (seven, skipped) = of(" 7 ");
            assert!(seven.contains('7') && skipped == 0, "{name}: {seven}");
            for form in ["0x10", "1_000", "NaN", "Inf", "18446744073709551616", "x"] {
                let (text, skipped) = of(form);
                assert_eq!((text.lines().count() + 1, skipped), (seven.lines().count(), 1), "{name}: {form}");
            }
        }
    }

    #[test]
    fn every_flag_is_named_once_and_its_default_is_valid() {
        let flags = flags();
        for pair in flags.windows(2) {
            assert_ne!(pair[0].name, pair[1].name);
        }
        for flag in &flags {
            if let crate::options::FlagKind::Regexp(text) = flag.kind {
                assert!(
                    text.is_empty() || Options::defaults(&flags).regexp(flag.name).is_some(),
                    "{}",
                    flag.name
                );
            }
        }
    }

    #[test]
    fn families_are_declared_once_with_valid_names() {
        let mut families = Vec::new();
        for collector in COLLECTORS {
            for family in (collector.families)() {
                let plain = family.name.replace(['<', '>'], "");
                assert_eq!(crate::exposition::metric_name(&plain), plain);
                assert!(family.help.ends_with('.'), "{}: a help text is a sentence", family.name);
                families.push((family.name, family.labels, family.kind));
            }
        }
        families.sort_unstable_by_key(|&(name, labels, _)| (name, labels));
        for pair in families.windows(2) {
            // node_cpu_frequency_hertz comes from two files, with the labels that each can give.
            assert_ne!((pair[0].0, pair[0].1), (pair[1].0, pair[1].1));
            assert!(pair[0].0 != pair[1].0 || pair[0].2 == pair[1].2, "{} has two types", pair[0].0);
        }
    }

    #[test]
    fn a_query_on_demand_is_sent_if_its_flag_is_on_and_its_collector_is_enabled() {
        for (query, flag) in [
            (Query::BcachePriorities, "--collector.bcache.priorityStats"),
            (Query::Cpuinfo, "--collector.cpu.info"),
            (Query::Cpuinfo, "--collector.cpu.info.bugs-include=."),
            (Query::Cpuinfo, "--collector.cpu.info.flags-include=."),
            (Query::NetAddresses, "--collector.netdev.address-info"),
            (Query::NetStatistics, "--collector.netdev.enable-detailed-metrics"),
            (Query::Sysctl, "--collector.sysctl.include=vm.swappiness"),
        ] {
            let asked = |collectors: &[&'static Collector], options: &Options| {
                let collectors = instances(collectors.iter().copied(), options).unwrap();
                queries(&collectors).contains(&query)
            };
            let (on, _) = Options::parse(&flags(), [flag.to_owned()]).unwrap();
            assert!(asked(COLLECTORS, &on), "{flag}");
            assert!(!asked(COLLECTORS, &Options::defaults(&flags())), "{flag}");
            assert!(!asked(&[&processors::loadavg::COLLECTOR], &on), "{flag}");
        }
    }

    #[test]
    fn text_files_are_collected_last_so_that_the_hosts_series_win() {
        let enabled = enabled(&Options::defaults(&flags())).unwrap();
        assert_eq!(enabled.last().unwrap().row.name, "textfile");
        assert!(enabled[..enabled.len() - 1].is_sorted_by_key(|instance| instance.row.name));
    }

    #[test]
    fn an_include_and_an_exclude_exclude_each_other_where_they_do_in_node_exporter() {
        let both = |stem: &str, more: &[&str]| {
            let both = [format!("--{stem}-include=x"), format!("--{stem}-exclude=y")];
            let arguments = both.into_iter().chain(more.iter().map(|flag| (*flag).to_owned()));
            enabled(&Options::parse(&flags(), arguments).unwrap().0)
        };
        for (collector, stem) in [
            ("diskstats", "collector.diskstats.device"),
            ("filesystem", "collector.filesystem.fs-types"),
            ("filesystem", "collector.filesystem.mount-points"),
            ("netdev", "collector.netdev.device"),
        ] {
            let error = both(stem, &[]).unwrap_err();
            assert!(matches!(error, SetupError::Flag(FlagError::Exclusive { .. })), "{stem}: {error}");
            assert!(
                both(stem, &[&format!("--no-collector.{collector}")]).is_ok(),
                "{stem}, and it does not run"
            );
        }
        for stem in ["arp.device", "hwmon.chip", "interrupts.name", "slabinfo.slabs"] {
            let on = ["--collector.interrupts", "--collector.slabinfo"];
            assert!(both(&format!("collector.{stem}"), &on).is_ok(), "{stem}");
        }
    }

    #[test]
    fn a_class_without_devices_is_no_failure_and_a_class_that_is_not_there_has_no_data() {
        // As node_exporter: an error for a directory that does not exist, and no samples for an empty one.
        for (name, query) in [
            ("dmmultipath", Query::DeviceMapper),
            ("fibrechannel", Query::FibreChannel),
            ("hwmon", Query::Hwmon),
            ("infiniband", Query::Infiniband),
            ("netclass", Query::NetClass),
            ("nvme", Query::Nvme),
            ("nvmesubsystem", Query::NvmeSubsystem),
            ("pcidevice", Query::Pci),
            ("powersupplyclass", Query::PowerSupply),
            ("rapl", Query::Powercap),
            ("tapestats", Query::Tape),
            ("watchdog", Query::Watchdog),
            ("zfs", Query::Zfs),
        ] {
            let collector = COLLECTORS.iter().copied().find(|collector| collector.name == name).unwrap();
            let collect = |outcome| {
                let mut snapshot = Snapshot::default();
                let report = crate::snapshot::Report { outcome, elapsed_ns: 0, bytes: 0, left_out: 0 };
                snapshot.set_report(query, report);
                testing::collect_snapshot(collector, &snapshot, &[], &testing::local())
            };
            assert_eq!(collect(Outcome::Empty), Ok(String::new()), "{name}");
            assert!(matches!(collect(Outcome::Absent), Err(CollectError::NoData(_))), "{name}");
        }
    }

    #[test]
    fn a_series_whose_labels_were_not_all_read_is_left_out_and_no_other() {
        for (name, dir, read, label, others) in [
            ("btrfs", "sys/fs/btrfs/a-b", "allocation/global_rsv_size", "metadata_uuid", false),
            ("drm", "sys/class/drm/card0/device", "gpu_busy_percent", "unique_id", true),
            ("fibrechannel", "sys/class/fc_host/host0", "statistics/rx_words", "speed", true),
            ("infiniband", "sys/class/infiniband/a", "ports/1/counters/port_rcv_data", "fw_ver", true),
            ("netclass", "sys/class/net/eth0", "mtu", "ifalias", true),
            ("nvme", "sys/class/nvme/nvme0", "nvme0n1/size", "serial", true),
            ("nvmesubsystem", "sys/class/nvme-subsystem/nvme-subsys0", "nvme0/state", "model", true),
            ("pcidevice", "sys/bus/pci/devices/0000:00:01.0", "numa_node", "vendor", true),
            ("powersupplyclass", "sys/class/power_supply/BAT0", "capacity", "model_name", true),
            ("thermal_zone", "sys/class/thermal/thermal_zone0", "temp", "type", false),
            ("watchdog", "sys/class/watchdog/watchdog0", "timeout", "identity", true),
        ] {
            let collector = COLLECTORS.iter().copied().find(|collector| collector.name == name).unwrap();
            let path = |file: &str| format!("{dir}/{file}").into_bytes();
            let of = |errno| {
                let mut files =
                    vec![(path(read), Content::bytes(&b"1\n"[..])), (path(label), Content::Errno(errno))];
                files.push((path("uevent"), Content::bytes(&b"DRIVER=amdgpu\n"[..])));
                let snapshot = Snapshot::from_files(files);
                let text = testing::collect_snapshot(collector, &snapshot, &[], &testing::local()).unwrap();
                (text, testing::skipped_of(collector, &snapshot, &[]))
            };
            // EINPROGRESS: another reader hangs in it. EINVAL: the device has no such thing.
            let ((unread, skipped), (none, skipped_of_none)) = (of(115), of(22));
            assert_eq!(skipped, skipped_of_none + 1, "{name}");
            let info = |text: &str| text.replace("namespace_info", "").contains("_info{");
            assert!(!info(&unread), "{name}: {unread}");
            assert_eq!(!unread.is_empty(), others, "{name}: {unread}");
            assert!(!none.is_empty() && none.lines().count() > unread.lines().count(), "{name}: {none}");
        }
    }

    #[test]
    fn of_a_truncated_file_complete_items_are_reported() {
        let cut = |path: &str, text: &str| {
            let content = Content::Bytes { bytes: text.as_bytes().to_vec(), truncated: true };
            Snapshot::from_files(vec![(path.as_bytes().to_vec(), content)])
        };
        let collect = |name: &str, snapshot: &Snapshot| {
            let collector = COLLECTORS.iter().copied().find(|collector| collector.name == name).unwrap();
            testing::collect_snapshot(collector, snapshot, &[], &testing::local())
        };
        let zones =
            "Node 0, zone DMA\n  pages free 1\n        min 2\nNode 0, zone Normal\n  pages free 3\n  mi";
        let text = collect("zoneinfo", &cut("proc/zoneinfo", zones)).unwrap();
        assert!(text.contains("zone=\"DMA\"") && !text.contains("Normal"), "{text}");
        let mount = |at: &str| {
            format!(
                "device s:/{at} mounted on /{at} with fstype nfs4 statvers=1.1\n\txprt: tcp 1 2 3 4 5 6 7 8 9 10\n"
            )
        };
        let mounts = format!("{}{}\tbyt", mount("a"), mount("b"));
        let text = collect("mountstats", &cut("proc/1/mountstats", &mounts)).unwrap();
        assert!(text.contains("export=\"s:/a\"") && !text.contains("s:/b"), "{text}");
        let header = "Inter-| Receive | Transmit\n face |bytes packets|bytes packets\n";
        let devices = format!("{header} a: 1 2 3 4\n b: 1 2 3 4\n c: 1 2 3");
        let text = collect("netdev", &cut("proc/1/net/dev", &devices)).unwrap();
        assert!(text.contains("device=\"b\"") && !text.contains("device=\"c\""), "{text}");
        // A sum over a part would be wrong.
        let sockets = "  sl\n 1: 0:1 0:0 07 5:6\n 2: 0:1 0:0 07 5:";
        assert!(collect("udp_queues", &cut("proc/1/net/udp", sockets)).is_err());
    }

    #[test]
    fn each_of_several_files_is_read_and_a_failed_one_reported() {
        let files = vec![
            (b"a".to_vec(), Content::bytes(&b"1"[..])),
            (b"b".to_vec(), Content::Errno(5)),
            (b"c".to_vec(), Content::Bytes { bytes: b"2\n3".to_vec(), truncated: true }),
            (b"d".to_vec(), Content::bytes(&b"3"[..])),
        ];
        let context = Context { snapshot: &Snapshot::from_files(files), local: &testing::local() };
        let each = |paths: &[&str]| {
            let mut taken = String::new();
            let result = context.for_each_complete(paths, |path, _| taken.push_str(path));
            (taken, result.map_err(|error| error.to_string()))
        };
        assert_eq!(each(&["a", "none", "d"]), ("ad".into(), Ok(())));
        assert_eq!(each(&["a", "b", "d"]), ("ad".into(), Err("b: errno 5".into())));
        assert_eq!(each(&["c"]), (String::new(), Err("c: longer than the broker sends".into())));
        assert_eq!(each(&["x", "y"]), (String::new(), Err("the host has no x or y".into())));
    }

    #[test]
    fn a_query_that_failed_fails_the_collectors_that_need_it() {
        let report = |outcome| crate::snapshot::Report { outcome, elapsed_ns: 0, bytes: 0, left_out: 0 };
        let mut snapshot = Snapshot::default();
        snapshot.set_report(Query::Loadavg, report(Outcome::Stuck));
        assert_eq!(
            failed_query(&processors::loadavg::COLLECTOR, &snapshot).unwrap().to_string(),
            "query LOADAVG: STUCK"
        );
        snapshot.set_report(Query::Loadavg, report(Outcome::Absent));
        assert_eq!(failed_query(&processors::loadavg::COLLECTOR, &snapshot), None);
        snapshot.set_report(Query::Tcp, report(Outcome::NotPermitted));
        snapshot.set_reason(Query::Tcp, "--queries=default leaves it out: add +tcp");
        assert_eq!(
            failed_query(&network::tcpstat::COLLECTOR, &snapshot).unwrap().to_string(),
            "query TCP: NOT_PERMITTED (--queries=default leaves it out: add +tcp)"
        );
    }

    /// The queries of a scrape of the collectors that are on by default, with no flag given.
    fn default_queries() -> Vec<Query> {
        let options = crate::cli::flags::parse([]).unwrap();
        queries(&enabled(&options).unwrap())
    }

    #[test]
    fn a_scrape_without_flags_queries_the_default_rows_of_the_policy_and_no_other() {
        let rows = keyhole_policy::TABLE.iter().filter(|row| row.default).map(|row| row.query);
        let names = |queries: &mut dyn Iterator<Item = Query>| {
            let mut names: Vec<&str> = queries.map(|query| query.as_str_name()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&mut default_queries().into_iter()), names(&mut rows.into_iter()));
    }

    #[test]
    fn a_default_deployment_refuses_queries_for_tcp_sockets_routes_mountstats_and_processes() {
        let withheld = [
            Query::Tcp,
            Query::Routes,
            Query::MountStats,
            Query::Processes,
            Query::ProcessDetails,
            Query::Threads,
        ];
        for query in withheld {
            assert!(!keyhole_policy::row(query).unwrap().default, "{}", query.as_str_name());
        }
        for row in keyhole_policy::TABLE.iter().filter(|row| row.default) {
            assert_ne!(row.class, keyhole_policy::Class::Processes, "{}", row.query.as_str_name());
        }
    }
}
