//! Every collector, with any files at any paths.

use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use keyhole_exporter::collector::{
    self, COLLECTORS, Collector, Context, Instance, LocalData, TimeZone, Uname,
};
use keyhole_exporter::exposition::{Exposition, Family};
use keyhole_exporter::options::{Flag, FlagKind, Options};
use keyhole_exporter::snapshot::Snapshot;
use keyhole_os::Timex;
use keyhole_test_support::exposition as prometheus;

use crate::input;

/// The series limit of a collector here: lower than the default of `--collector.series-limit`, so that it is reached.
const MAX_SERIES: usize = 20_000;

static FLAGS: LazyLock<Vec<Flag>> = LazyLock::new(collector::flags);
static DEFAULTS: LazyLock<Options> = LazyLock::new(|| Options::defaults(&FLAGS));

/// The default options, or those with every switch of the collector inverted and every filter set.
fn options(collector: &Collector, turned: bool) -> &'static Options {
    // Compiling regular expressions takes longer than running a collector.
    static TURNED: [OnceLock<Options>; COLLECTORS.len()] = [const { OnceLock::new() }; COLLECTORS.len()];
    let at = COLLECTORS.iter().position(|other| other.name == collector.name);
    match at.filter(|_| turned) {
        Some(at) => TURNED[at].get_or_init(|| turned_options(collector)),
        None => &DEFAULTS,
    }
}

/// A new collector with those options: one that keeps state between scrapes begins without any.
fn instance(collector: &'static Collector, turned: bool) -> Instance {
    Instance::new(collector, options(collector, turned)).expect("options that were tried")
}

fn turned_options(collector: &Collector) -> Options {
    let turned = collector.flags.iter().flat_map(|flag| match flag.kind {
        FlagKind::Switch(true) => vec![format!("--no-{}", flag.name)],
        FlagKind::Switch(false) => vec![format!("--{}", flag.name)],
        FlagKind::Regexp("") if flag.name.ends_with("include") => vec![format!("--{}=.", flag.name)],
        FlagKind::Number(_) => vec![format!("--{}=2", flag.name)],
        FlagKind::Texts | FlagKind::ParsedList { .. } => {
            let values = TEXTS.iter().filter(|(name, _)| *name == flag.name);
            values.map(|(name, value)| format!("--{name}={value}")).collect()
        }
        _ => Vec::new(),
    });
    Options::parse(&FLAGS, turned).expect("every flag of a collector can be turned").0
}

/// Values of flags whose values are in a format of the collector's own.
const TEXTS: [(&str, &str); 5] = [
    ("collector.processgroups.name", "a{{.Comm}}=^[a-m]"),
    ("collector.processgroups.name", "b=."),
    ("collector.sysctl.include", "kernel.threads-max"),
    ("collector.sysctl.include", "fs.file-nr:total,current,max"),
    ("collector.sysctl.include-info", "kernel.seccomp.actions_avail"),
];

/// Collectors that make a series of each number in a list such as `0-65535`.
const EXPAND_LISTS: [&str; 1] = ["cpu"];

/// Labels that a flag adds to every family of a collector.
const LABELS_FROM_FLAGS: [(&str, &str); 1] = [("netdev", "ifalias")];

/// The first record is the name of a collector, with a suffix `+` for the inverted options; the other records are its
/// snapshot.
///
/// The output is a well-formed exposition without duplicates, with declared families and labels only, of a size in
/// proportion to the input, and equal for the same snapshot.
pub fn collector(input: &[u8]) {
    let records = input::records(input);
    let Some((head, records)) = records.split_first() else { return };
    let (name, turned) = match head.strip_suffix(b"+") {
        Some(name) => (name, true),
        None => (*head, false),
    };
    let collector = match COLLECTORS.iter().find(|collector| collector.name.as_bytes() == name) {
        Some(collector) => collector,
        // An unknown name selects a collector by its bytes, so that no mutation is wasted.
        None => COLLECTORS[head.iter().map(|byte| usize::from(*byte)).sum::<usize>() % COLLECTORS.len()],
    };
    let snapshot = input::snapshot(records);
    let own = local_data(records);
    let once = check(&instance(collector, turned), &snapshot, &own, input.len());
    let again = collect(&instance(collector, turned), &snapshot, &own).0;
    assert_eq!(once, again, "{} is no function", collector.name);
}

/// Several snapshots in sequence for `processgroups`, the one collector with state. The first record is its file of
/// rules, which is used if it is valid.
pub fn process_groups(input: &[u8]) {
    let records = input::records(input);
    let Some((rules, records)) = records.split_first() else { return };
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file in memory");
    std::fs::write(file.path(), rules).expect("a file in memory");
    let argument = format!("--collector.processgroups.config={}", file.path().display());
    let collector = &collector::tasks::processgroups::COLLECTOR;
    let (options, _) = Options::parse(&FLAGS, [argument]).expect("a flag");
    let groups = Instance::new(collector, &options).unwrap_or_else(|error| {
        let error = error.to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "an error is one line: {error:?}");
        instance(collector, false)
    });
    let own = local_data(records);
    let half = records.len() / 2;
    for part in [&records[..half], records, &records[half..]] {
        check(&groups, &input::snapshot(part), &own, input.len());
    }
}

/// The exporter's local data: from records below `own/`, so that hostile values are tried too.
fn local_data(records: &[&[u8]]) -> LocalData {
    let mut own = LocalData {
        now: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        node_name: None,
        timex: Err(1),
        uname: None,
        time_zone: None,
    };
    for (path, _, content) in records.iter().filter_map(|record| input::split(record)) {
        let text = || String::from_utf8_lossy(content).into_owned();
        match path {
            b"own/node-name" => own.node_name = Some(text()),
            b"own/zone" => {
                own.time_zone = Some(TimeZone { name: text(), offset: content.len() as i32 - 40_000 })
            }
            b"own/now" => own.now = UNIX_EPOCH + Duration::from_millis(input::number(content) >> 12),
            b"own/timex" => own.timex = Ok(timex(content)),
            b"own/uname" => {
                let part = |at| content.split(|byte| *byte == b'\n').nth(at).unwrap_or_default().to_vec();
                own.uname = Some(Uname {
                    sysname: part(0),
                    nodename: part(1),
                    release: part(2),
                    version: part(3),
                    machine: part(4),
                    domainname: part(5),
                });
            }
            _ => {}
        }
    }
    own
}

fn timex(content: &[u8]) -> Timex {
    let mut bytes = content.chunks(8).map(|chunk| {
        let mut whole = [0; 8];
        whole[..chunk.len()].copy_from_slice(chunk);
        i64::from_le_bytes(whole)
    });
    let mut next = || bytes.next().unwrap_or(0);
    Timex {
        state: next() as i32,
        offset: next(),
        frequency: next(),
        max_error: next(),
        estimated_error: next(),
        status: next() as i32,
        constant: next(),
        tick: next(),
        pps_frequency: next(),
        pps_jitter: next(),
        pps_shift: next() as i32,
        pps_stability: next(),
        pps_jitter_count: next(),
        pps_calibration_count: next(),
        pps_error_count: next(),
        pps_stability_count: next(),
        tai: next() as i32,
    }
}

/// What a collector gives, and how many series that is.
fn collect(collector: &Instance, snapshot: &Snapshot, local: &LocalData) -> (String, usize) {
    let mut out = Exposition::new();
    out.begin(MAX_SERIES);
    // An error is a valid result, and the samples before it count.
    let _ = collector.collect(&Context { snapshot, local }, &mut out);
    let counters = out.end();
    assert!(counters.series <= MAX_SERIES);
    (out.to_text(), counters.series)
}

/// Collects, and holds what comes out against what the collector declares.
fn check(collector: &Instance, snapshot: &Snapshot, local: &LocalData, input: usize) -> String {
    let (text, series) = collect(collector, snapshot, local);
    let collector = collector.row;
    let name = collector.name;
    let listed = if EXPAND_LISTS.contains(&name) { MAX_SERIES } else { 0 };
    assert!(series <= 512 + 8 * input + listed, "{name}: {series} series of {input} bytes");
    // A name may be in each of its series, and an invalid byte becomes three.
    assert!(text.len() <= (series + 8) * (1024 + 4 * input), "{name}: {} bytes of {input}", text.len());
    let parsed = match prometheus::Exposition::parse(text.as_bytes()) {
        Ok(parsed) => parsed,
        Err(reason) => panic!("{name}: {reason}"),
    };
    let label_from_flag = LABELS_FROM_FLAGS.iter().find(|(other, _)| *other == name).map(|(_, label)| *label);
    for family in parsed.families() {
        let kind = parsed.kind(family).unwrap_or_default();
        let declared: Vec<Family> = (collector.families)()
            .into_iter()
            .filter(|declared| declared.kind.as_str() == kind && declared.has_name(family))
            .collect();
        assert!(!declared.is_empty(), "{name}: {kind} {family} is not declared");
        if let Some(sample) = parsed.samples(family).next() {
            let mut labels: Vec<&str> = sample.labels.keys().map(String::as_str).collect();
            labels.sort_unstable();
            let same = |declared: &Family| {
                let mut names = declared.labels.to_vec();
                names.sort_unstable();
                let mut labels = labels.clone();
                labels.retain(|label| Some(*label) != label_from_flag);
                // An info metric may omit labels.
                names == labels
                    || family.ends_with("_info") && labels.iter().all(|label| names.contains(label))
            };
            assert!(declared.iter().any(same), "{name}: {family} with labels {labels:?} is not declared");
        }
    }
    text
}

/// Runs every collector that uses any query of a broker's response.
pub(crate) fn check_answer(snapshot: &Snapshot, input: usize) {
    let own = local_data(&[]);
    for collector in COLLECTORS {
        let asked = collector.queries.iter().chain(collector.optional);
        if asked.clone().any(|query| snapshot.report(*query).is_some()) {
            check(&instance(collector, false), snapshot, &own, input);
        }
    }
}

/// Whether an input makes its collector return samples.
pub(crate) fn returns_samples(input: &[u8]) -> bool {
    let records = input::records(input);
    let Some((head, records)) = records.split_first() else { return false };
    let name = head.strip_suffix(b"+").unwrap_or(head);
    let Some(collector) = COLLECTORS.iter().find(|collector| collector.name.as_bytes() == name) else {
        return false;
    };
    let instance = instance(collector, head.ends_with(b"+"));
    collect(&instance, &input::snapshot(records), &local_data(records)).1 > 0
}
