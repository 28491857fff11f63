//! Every collector, over any files at any paths.

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use keyhole_exporter::collector::tasks::processgroups::ProcessGroups;
use keyhole_exporter::collector::{self, COLLECTORS, Collector, Context, Own, TextFile, TimeZone, Uname};
use keyhole_exporter::exposition::{Exposition, Family};
use keyhole_exporter::options::{Flag, FlagKind, Options};
use keyhole_exporter::snapshot::Snapshot;
use keyhole_os::Timex;
use keyhole_test_support::exposition as prometheus;

use crate::input;

/// The most series that a collector may give here: fewer than `--collector.series-limit` lets through, so that it is met.
const SERIES: usize = 20_000;

static FLAGS: LazyLock<Vec<Flag>> = LazyLock::new(collector::flags);
static DEFAULTS: LazyLock<Options> = LazyLock::new(|| Options::defaults(&FLAGS));

/// The default options, or those with every switch of the collector turned and every filter on.
fn options(collector: &Collector, turned: bool) -> &'static Options {
    // An expression takes longer to compile than a collector takes to run.
    static TURNED: [OnceLock<Options>; COLLECTORS.len()] = [const { OnceLock::new() }; COLLECTORS.len()];
    let at = COLLECTORS.iter().position(|other| other.name == collector.name);
    match at.filter(|_| turned) {
        Some(at) => TURNED[at].get_or_init(|| turned_options(collector)),
        None => &DEFAULTS,
    }
}

fn turned_options(collector: &Collector) -> Options {
    let turned = collector.flags.iter().filter_map(|flag| match flag.kind {
        FlagKind::Switch(true) => Some(format!("--no-{}", flag.name)),
        FlagKind::Switch(false) => Some(format!("--{}", flag.name)),
        FlagKind::Regexp("") if flag.name.ends_with("include") => Some(format!("--{}=.", flag.name)),
        FlagKind::Number(_) => Some(format!("--{}=2", flag.name)),
        _ => None,
    });
    let texts: &[&str] = match collector.name {
        "sysctl" => &[
            "--collector.sysctl.include=kernel.threads-max",
            "--collector.sysctl.include=fs.file-nr:total,current,max",
            "--collector.sysctl.include-info=kernel.seccomp.actions_avail",
        ],
        "processgroups" => {
            &["--collector.processgroups.name=a{{.Comm}}=^[a-m]", "--collector.processgroups.name=b=."]
        }
        _ => &[],
    };
    let arguments = turned.chain(texts.iter().map(|text| (*text).to_owned()));
    let (turned, _) = Options::parse(&FLAGS, arguments).expect("every flag of a collector can be turned");
    turned
}

/// The first record names the collector, with `+` behind it for the other options; the rest is its snapshot.
///
/// What comes out is a well-formed exposition without duplicates, of families and labels that the collector declares,
/// no larger than its input warrants; and the same again for the same snapshot.
pub fn collector(input: &[u8]) {
    let records = input::records(input);
    let Some((head, records)) = records.split_first() else { return };
    let (name, turned) = match head.strip_suffix(b"+") {
        Some(name) => (name, true),
        None => (*head, false),
    };
    let collector = match COLLECTORS.iter().find(|collector| collector.name.as_bytes() == name) {
        Some(collector) => collector,
        // A head that names none chooses by number, so that no mutation is lost.
        None => COLLECTORS[head.iter().map(|byte| usize::from(*byte)).sum::<usize>() % COLLECTORS.len()],
    };
    let options = options(collector, turned);
    let snapshot = input::snapshot(records);
    let groups = || Arc::new(ProcessGroups::new(options).expect("rules that were tried"));
    let own = own(records, groups());
    let once = check(collector, &snapshot, options, &own, input.len());
    // Groups of processes are kept over scrapes: those of the second begin anew.
    let again = Own { process_groups: groups(), ..own };
    assert_eq!(once, collect(collector, &snapshot, options, &again).0, "{} is no function", collector.name);
}

/// Two snapshots, one after the other, for the one collector that keeps something; the first record is a file of
/// rules, which is used when it is one.
pub fn process_groups(input: &[u8]) {
    let records = input::records(input);
    let Some((rules, records)) = records.split_first() else { return };
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file in memory");
    std::fs::write(file.path(), rules).expect("a file in memory");
    let argument = format!("--collector.processgroups.config={}", file.path().display());
    let collector = &collector::tasks::processgroups::COLLECTOR;
    let (given, _) = Options::parse(collector.flags, [argument]).expect("a flag");
    let groups = match ProcessGroups::new(&given) {
        Ok(groups) => groups,
        Err(reason) => {
            assert!(!reason.is_empty() && !reason.contains('\n'), "an error is one line: {reason:?}");
            ProcessGroups::default()
        }
    };
    let options = options(collector, false);
    let own = own(records, Arc::new(groups));
    let half = records.len() / 2;
    for part in [&records[..half], records, &records[half..]] {
        check(collector, &input::snapshot(part), options, &own, input.len());
    }
}

/// What the exporter knows of itself: from records below `own/`, so that hostile values are tried too.
fn own(records: &[&[u8]], process_groups: Arc<ProcessGroups>) -> Own {
    let mut own = Own {
        now: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        node_name: None,
        timex: Err(1),
        uname: None,
        time_zone: None,
        text_files: Vec::new(),
        process_groups,
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
            _ if path.ends_with(b".prom") => own.text_files.push(TextFile {
                path: String::from_utf8_lossy(path).into_owned(),
                modified: UNIX_EPOCH,
                content: Ok(content.to_vec()),
            }),
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
fn collect(collector: &Collector, snapshot: &Snapshot, options: &Options, own: &Own) -> (String, usize) {
    let mut out = Exposition::new();
    out.begin(SERIES);
    // An error is an answer; what was given before it stands.
    let _ = (collector.collect)(&Context { snapshot, options, own }, &mut out);
    let counters = out.end();
    assert!(counters.series <= SERIES);
    (out.to_text(), counters.series)
}

/// Collects, and holds what comes out against what the collector declares.
pub(crate) fn check(
    collector: &Collector,
    snapshot: &Snapshot,
    options: &Options,
    own: &Own,
    input: usize,
) -> String {
    let (text, series) = collect(collector, snapshot, options, own);
    let name = collector.name;
    // A list of CPUs (`0-65535`) is longer than its text.
    let listed = if name == "cpu" { SERIES } else { 0 };
    assert!(series <= 512 + 8 * input + listed, "{name}: {series} series of {input} bytes");
    // A name may stand in each of its series, and an odd byte of it as three.
    assert!(text.len() <= (series + 8) * (1024 + 4 * input), "{name}: {} bytes of {input}", text.len());
    let parsed = match prometheus::Exposition::parse(text.as_bytes()) {
        Ok(parsed) => parsed,
        Err(reason) => panic!("{name}: {reason}"),
    };
    for family in parsed.families().filter(|_| name != "textfile") {
        let kind = parsed.kind(family).unwrap_or_default();
        let declared: Vec<&Family> = collector
            .families
            .iter()
            .filter(|declared| declared.kind.as_str() == kind && stands_for(declared.name, family))
            .collect();
        assert!(!declared.is_empty(), "{name}: {kind} {family} is not declared");
        if let Some(sample) = parsed.samples(family).next() {
            let mut labels: Vec<&str> = sample.labels.keys().map(String::as_str).collect();
            labels.sort_unstable();
            let same = |declared: &&Family| {
                let mut names = declared.labels.to_vec();
                names.sort_unstable();
                // What an information is silent about is no label; a flag may add one to every family of interfaces.
                let of_flag = |label: &&&str| name == "netdev" && **label == "ifalias";
                let known = |label: &&str| names.contains(label) || of_flag(&label);
                names == labels || labels.iter().all(known) && (family.ends_with("_info") || name == "netdev")
            };
            assert!(declared.iter().any(same), "{name}: {family} with labels {labels:?} is not declared");
        }
    }
    text
}

/// Whether a declared name, with `<PLACES>` for what varies, stands for `name`.
fn stands_for(declared: &str, name: &str) -> bool {
    let Some((fixed, rest)) = declared.split_once('<') else { return declared == name };
    let rest = rest.split_once('>').map_or("", |(_, rest)| rest);
    let Some(tail) = name.strip_prefix(fixed) else { return false };
    (0..=tail.len()).any(|at| tail.get(at..).is_some_and(|tail| stands_for(rest, tail)))
}

/// A broker's answer, given to every collector that asks for any of it.
pub(crate) fn check_answer(snapshot: &Snapshot, input: usize) {
    let own = own(&[], Arc::default());
    for collector in COLLECTORS {
        let asked = collector.queries.iter().chain(collector.optional);
        if asked.clone().any(|query| snapshot.report(*query).is_some()) {
            check(collector, snapshot, options(collector, false), &own, input);
        }
    }
}

/// Whether an input reaches as far as a sample of a host's.
pub(crate) fn gives_samples(input: &[u8]) -> bool {
    let records = input::records(input);
    let Some((head, records)) = records.split_first() else { return false };
    let name = head.strip_suffix(b"+").unwrap_or(head);
    let Some(collector) = COLLECTORS.iter().find(|collector| collector.name.as_bytes() == name) else {
        return false;
    };
    let options = options(collector, head.ends_with(b"+"));
    collect(collector, &input::snapshot(records), options, &own(records, Arc::default())).1 > 0
}
