//! Initial inputs: kernel text of fixture trees at the paths of the policy, and hostile content at each of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use keyhole_exporter::capture::{self, CaptureInfo};
use keyhole_exporter::cli;
use keyhole_exporter::collector::{COLLECTORS, Collector};
use keyhole_exporter::options::{Flag, FlagKind};
use keyhole_exporter::snapshot::{Content, Snapshot};
use keyhole_policy::{Kind, Row, TABLE};
use keyhole_proto::v1;
use prost::Message;

use crate::collectors;
use crate::input::{SEPARATOR, record};

/// The most bytes of a file in a seed, and of a seed: larger inputs are slow to mutate.
const MAX_FILE_BYTES: usize = 4 << 10;
const MAX_SEED_BYTES: usize = 12 << 10;

/// Content that kernel files should not have; each is tried at every path.
const HOSTILE_CONTENTS: &[&[u8]] = &[
    b"",
    b"\n",
    b" : ",
    b"0\n",
    b"-1\n",
    b"18446744073709551616\n",
    b"9223372036854775807 18446744073709551615 1e308 -9223372036854775808\n",
    b"a\"b\\c\nd}e{f,g=h:i)j k\xff\xc3",
    b"0-65535,4294967295-0,,-\n",
    b"a: b\na: b\n\na : 1 2 3\n",
    b"cpu0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20\n",
    b"1 (x) R ) 1 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 1 1 1\n",
    b"    sl  a\n 0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n",
    b"1 2 0:3 / /a\\040b\\012 rw,ro shared:1 - ext4 /dev/a rw\n",
];

/// Paths and contents.
type Files = &'static [(&'static [u8], &'static [u8])];

/// Files that collectors need and no tree has: the exporter's local data, and kernel files of rare machines.
const EXTRA_FILES: &[(&str, Files)] = &[
    (
        "drm",
        &[
            (b"sys/class/drm/card0/device/uevent", b"DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_ID=1002:687F\n"),
            (b"sys/class/drm/card0/device/gpu_busy_percent", b"4\n"),
            (b"sys/class/drm/card0/device/mem_info_vram_used", b"1490944\n"),
            (b"sys/class/drm/card0/device/unique_id", b"0123456789abcdef\n"),
        ],
    ),
    (
        "network_route",
        &[
            (
                b"proc/1/net/route",
                b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            *\t0000000A\t00000000\t0201\t0\t0\t0\t000000FF\t0\t0\t0\n",
            ),
            (
                b"proc/1/net/ipv6_route",
                b"fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n",
            ),
        ],
    ),
    ("os", &[(b"own/now", b"6963200000000")]),
    ("time", &[(b"own/zone", b"UTC"), (b"own/now", b"6963200000000000")]),
    ("timex", &[(b"own/timex", b"\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f")]),
    ("uname", &[(b"own/uname", b"Linux\nnode\n6.1\n#1\nx86_64\n(none)"), (b"own/node-name", b"node-1")]),
];

/// What was written.
#[derive(Debug, Default)]
pub struct Summary {
    /// Inputs in all.
    pub seeds: usize,
    /// Collectors for which no input returned a sample.
    pub silent: Vec<&'static str>,
}

/// Writes a directory of inputs for each target below `out`, from the trees of kernel files, and text files.
pub fn write(trees: &[&Path], texts: &[&Path], out: &Path) -> io::Result<Summary> {
    let mut corpus = Corpus { out, seeds: 0 };
    let snapshots: Vec<Snapshot> =
        trees.iter().map(|tree| capture::read_tree(tree)).collect::<Result<_, _>>()?;
    let mut silent = Vec::new();
    for collector in COLLECTORS {
        let seeds = collector_seeds(collector, &snapshots);
        if !seeds.iter().any(|seed| collectors::returns_samples(seed)) {
            silent.push(collector.name);
        }
        corpus.add("collector", &seeds)?;
    }
    corpus.add("process_groups", &process_groups(&snapshots))?;
    corpus.add("answer", &answers(&snapshots))?;
    let (captures, archives) = captures(&snapshots[0])?;
    corpus.add("capture", &captures)?;
    corpus.add("archive", &archives)?;
    corpus.add("text", &lines(&snapshots))?;
    corpus.add("mountinfo", &files(&snapshots, b"mountinfo"))?;
    corpus.add("go_regex", &expressions())?;
    corpus.add("pattern", &patterns(&snapshots))?;
    let mut expositions: Vec<Vec<u8>> = texts.iter().map(fs::read).collect::<Result<_, _>>()?;
    expositions = expositions.iter().flat_map(|text| families(text)).collect();
    corpus.add("textfile", &expositions)?;
    corpus.add("exposition", &samples())?;
    corpus.add("exporter_flags", &exporter_flags())?;
    corpus.add("broker_flags", &broker_flags())?;
    corpus.add("frames", &frames())?;
    corpus.add(
        "reader_arguments",
        &[b"--slot=3,4\n--path.procfs=/proc\n--view=auto\n--query=1\n--allow-root".to_vec()],
    )?;
    corpus.add("query", HTTP_REQUESTS)?;
    corpus.add("web_config", WEB_CONFIGS)?;
    corpus.add("names", GLOBS)?;
    fs::write(out.join("paths.dict"), dictionary())?;
    Ok(Summary { seeds: corpus.seeds, silent })
}

struct Corpus<'c> {
    out: &'c Path,
    seeds: usize,
}

impl Corpus<'_> {
    fn add(&mut self, target: &str, seeds: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let dir = self.out.join(target);
        fs::create_dir_all(&dir)?;
        for (at, seed) in seeds.iter().enumerate() {
            // Seeds are named after their first bytes.
            let head = seed.as_ref().iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_');
            let head: String = head.take(24).map(|byte| char::from(*byte)).collect();
            fs::write(dir.join(format!("seed-{at:04}-{head}")), seed)?;
            self.seeds += 1;
        }
        Ok(())
    }
}

fn rows(collector: &Collector) -> impl Iterator<Item = &'static Row> {
    collector.queries.iter().chain(collector.optional).filter_map(|query| keyhole_policy::row(*query))
}

/// Kernel text for a collector, with both sets of options; then every hostile content at every path of its queries.
fn collector_seeds(collector: &Collector, snapshots: &[Snapshot]) -> Vec<Vec<u8>> {
    // The first has no files.
    let mut seeds = vec![collector.name.as_bytes().to_vec()];
    for snapshot in snapshots {
        let mut records = own(collector);
        for row in rows(collector) {
            let found = snapshot
                .files()
                .filter(|(path, _)| row.sources.iter().any(|source| matches_source(source, path)));
            records.extend(found.map(|(path, content)| content_record(path, content)));
            for file_system in snapshot.file_systems(row.query) {
                let path = [format!("{} ", row.query as i32).as_bytes(), &file_system.path].concat();
                records.push(record(&path, b'F', b"4096 100 50 40 10 5 0"));
            }
        }
        seeds.extend(pack_records(collector.name, &records));
    }
    let paths: Vec<(String, Kind)> = rows(collector).flat_map(examples).collect();
    for content in HOSTILE_CONTENTS {
        let records: Vec<Vec<u8>> = paths
            .iter()
            .map(|(path, kind)| match kind {
                Kind::Text | Kind::TextIfSeveralDirectories => record(path.as_bytes(), b'T', content),
                Kind::Link => record(path.as_bytes(), b'L', b"../../devices/pci0000:00/0000:00:01.0/a0"),
                Kind::Entries => record(path.as_bytes(), b'E', b"3"),
                Kind::FileSystem => record(format!("1 {path}").as_bytes(), b'F', b"4096 100 50 40 10 5 0"),
            })
            .collect();
        seeds.extend(pack_records(collector.name, &records));
    }
    seeds
}

fn own(collector: &Collector) -> Vec<Vec<u8>> {
    let given = EXTRA_FILES.iter().find(|(name, _)| *name == collector.name);
    given
        .into_iter()
        .flat_map(|(_, files)| *files)
        .map(|(path, content)| record(path, b'T', content))
        .collect()
}

fn content_record(path: &[u8], content: &Content) -> Vec<u8> {
    match content {
        Content::Bytes { bytes, .. } => record(path, b'T', &bytes[..bytes.len().min(MAX_FILE_BYTES)]),
        Content::Link(target) => record(path, b'L', target),
        Content::Entries(count) => record(path, b'E', count.to_string().as_bytes()),
        Content::Errno(errno) => record(path, b'N', errno.to_string().as_bytes()),
    }
}

/// Packs records into as few seeds as possible, each with both sets of options.
fn pack_records(head: &str, records: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    let mut room = 0;
    for record in records {
        if room < record.len() || seeds.is_empty() {
            let other = if seeds.len() % 2 == 1 { "+" } else { "" };
            seeds.push(format!("{head}{other}").into_bytes());
            room = MAX_SEED_BYTES;
        }
        let Some(seed) = seeds.last_mut() else { continue };
        seed.extend_from_slice(SEPARATOR);
        seed.extend_from_slice(record);
        room = room.saturating_sub(record.len());
    }
    let turned = |seed: &Vec<u8>| match seed.strip_prefix(format!("{head}+").as_bytes()) {
        Some(rest) => [head.as_bytes(), rest].concat(),
        None => [head.as_bytes(), b"+", &seed[head.len()..]].concat(),
    };
    let others: Vec<Vec<u8>> = seeds.iter().map(turned).collect();
    seeds.into_iter().chain(others).collect()
}

/// Whether a source's pattern matches a path.
fn matches_source(source: &keyhole_policy::Source, path: &[u8]) -> bool {
    let below = path.strip_prefix(source.root.name().as_bytes()).and_then(|path| path.strip_prefix(b"/"));
    below.is_some_and(|below| keyhole_policy::pattern::matches(source.pattern.as_bytes(), below))
}

/// A path for each alternative of a row's patterns.
fn examples(row: &Row) -> Vec<(String, Kind)> {
    let of = |source: &keyhole_policy::Source| {
        let path = format!("{}/{}", source.root.name(), source.pattern);
        let kind = source.kind;
        alternatives(&path)
            .into_iter()
            .map(move |path| (path.replace('*', "a").replace(['#', '%'], "0"), kind))
    };
    row.sources.iter().flat_map(of).collect()
}

fn alternatives(text: &str) -> Vec<String> {
    let Some((head, rest)) = text.split_once('{') else { return vec![text.to_owned()] };
    let (choices, tail) = rest.split_once('}').unwrap_or((rest, ""));
    let tails = alternatives(tail);
    choices
        .split(',')
        .flat_map(|choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}")))
        .collect()
}

/// A libFuzzer dictionary of paths and the separator.
fn dictionary() -> String {
    let mut words: BTreeSet<Vec<u8>> =
        TABLE.iter().flat_map(examples).map(|(path, _)| record(path.as_bytes(), b'T', b"")).collect();
    words.extend([SEPARATOR.to_vec(), b"18446744073709551615".to_vec(), b"\\040".to_vec()]);
    let quoted = |word: &Vec<u8>| {
        let escaped: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("\"{escaped}\"\n")
    };
    words.iter().map(quoted).collect()
}

fn process_groups(snapshots: &[Snapshot]) -> Vec<Vec<u8>> {
    let rules: &[&str] = &[
        "process_names:\n  - name: \"{{.Comm}}\"\n    comm:\n    - sh\n    - bash\n",
        "process_names:\n- {name: \"a{{.Comm}}b\", comm: [init]}\n- name: other\n  comm: [\"x y\", kthreadd]\n",
        "process_names: [{exe: [/bin/sh]}, {cmdline: [a], name: b}]\n",
        "a: &a [1, 2]\nb: [*a, *a]\n",
        "",
    ];
    let of = &keyhole_exporter::collector::tasks::processgroups::COLLECTOR;
    let living = [
        record(b"proc/stat", b'T', b"btime 1700000000\n"),
        record(b"proc/2/fd", b'E', b"0"),
        record(b"proc/2/stat", b'T', b"2 (kthreadd) I 0 0 0 0 -1 2129984 0 0 0 0 0 4 0 0 20 0 1 0 3 0 0\n"),
        record(b"proc/812/fd", b'E', b"41"),
        record(
            b"proc/812/stat",
            b'T',
            b"812 (sh) S 1 812 812 0 -1 4194560 900 0 12 0 4000 2000 0 0 20 0 14 0 2050 2000000000\n",
        ),
        record(b"proc/812/status", b'T', b"Name:\tsh\nVmRSS:\t  100000 kB\nvoluntary_ctxt_switches:\t700\n"),
    ];
    let twice = [&living[..], &living[..]].concat();
    let found = snapshots.iter().flat_map(|snapshot| collector_seeds(of, std::slice::from_ref(snapshot)));
    rules.iter().flat_map(|rules| pack_records(rules, &twice)).chain(found.take(16)).collect()
}

/// One message per query, as a broker sends them.
fn answers(snapshots: &[Snapshot]) -> Vec<Vec<u8>> {
    use v1::file::{Content as Wire, Name};
    let mut seeds = Vec::new();
    for (snapshot, row) in snapshots.iter().flat_map(|snapshot| TABLE.iter().map(move |row| (snapshot, row)))
    {
        let file = |(path, content): (&[u8], &Content)| {
            let (content, truncated) = match content {
                Content::Bytes { bytes, truncated } => {
                    let bytes = &bytes[..bytes.len().min(MAX_FILE_BYTES)];
                    let text = std::str::from_utf8(bytes).map(|text| Wire::Text(text.to_owned()));
                    (text.unwrap_or_else(|_| Wire::Raw(bytes.to_vec())), *truncated)
                }
                Content::Link(target) => (Wire::RawLink(target.clone()), false),
                Content::Entries(count) => (Wire::Entries(*count), false),
                Content::Errno(errno) => (Wire::Errno(*errno), false),
            };
            v1::File { name: Some(Name::RawPath(path.to_vec())), content: Some(content), truncated }
        };
        let found = snapshot
            .files()
            .filter(|(path, _)| row.sources.iter().any(|source| matches_source(source, path)));
        let files: Vec<v1::File> = found.take(24).map(file).collect();
        let end = v1::QueryEnd { outcome: v1::Outcome::Ok.into(), elapsed_ns: 5, left_out: 0 };
        let file_systems = vec![v1::FileSystem { block_size: 4096, blocks: 9, ..Default::default() }];
        let chunk = v1::ReadResponse { query: row.query.into(), files, file_systems, end: Some(end) };
        seeds.push(chunk.encode_length_delimited_to_vec());
        // Interleaved chunks of two queries, and a file that fails in the middle.
        if let Some(file) = chunk.files.first().cloned() {
            let failed = v1::File { content: Some(Wire::Errno(5)), ..file.clone() };
            let chunk = |query: v1::Query, file: &v1::File| {
                let files = vec![file.clone()];
                let chunk = v1::ReadResponse { query: query.into(), files, ..Default::default() };
                chunk.encode_length_delimited_to_vec()
            };
            let other = v1::Query::Loadavg;
            let chunks = [(row.query, &file), (other, &file), (row.query, &failed), (other, &file)];
            seeds.push(chunks.map(|(query, file)| chunk(query, file)).concat());
        }
    }
    seeds.retain(|seed| seed.len() <= 4 * MAX_SEED_BYTES);
    seeds
}

/// The files of a capture with a little of each kind, and of trees without an index; and archives of the capture.
#[expect(clippy::type_complexity, reason = "the seeds of two targets")]
fn captures(snapshot: &Snapshot) -> io::Result<(Vec<Vec<u8>>, Vec<Vec<u8>>)> {
    let mut files: Vec<(Vec<u8>, Content)> = vec![
        (b"proc/loadavg".to_vec(), Content::bytes(&b"1 2 3 4/5 6\n"[..])),
        (b"sys/class/hwmon/hwmon0".to_vec(), Content::Link(b"../../devices/x".to_vec())),
        (b"sys/class/hwmon/hwmon0/name".to_vec(), Content::Bytes { bytes: b"x\n".to_vec(), truncated: true }),
        (b"proc/7/fd".to_vec(), Content::Entries(3)),
        (b"proc/8/fd".to_vec(), Content::Errno(13)),
        (b"../odd\\\n".to_vec(), Content::bytes(&b"stored elsewhere"[..])),
    ];
    files.extend(snapshot.files().take(8).map(|(path, content)| (path.to_vec(), content.clone())));
    let mut snapshot = Snapshot::from_files(files);
    for line in [v1::Outcome::Ok, v1::Outcome::Stuck] {
        let report =
            keyhole_exporter::snapshot::Report { outcome: line, elapsed_ns: 5, bytes: 7, left_out: 0 };
        snapshot.set_report(v1::Query::Loadavg, report);
    }
    let numbers = Ok(keyhole_exporter::snapshot::StatFs { block_size: 4096, ..Default::default() });
    for numbers in [numbers, Err(13)] {
        let file_system = keyhole_exporter::snapshot::FileSystem { path: b"/a b".to_vec(), numbers };
        snapshot.add_file_system(v1::Query::ProbeDirectories, file_system);
    }
    let dir = tempfile::tempdir()?;
    let about = CaptureInfo { time: std::time::UNIX_EPOCH, node_name: "a\tb".into(), versions: "1".into() };
    let root = dir.path().join("capture");
    capture::write(&snapshot, &about, &root).map_err(io::Error::other)?;
    let mut archive = Vec::new();
    capture::write_archive(&snapshot, &about, &mut archive).map_err(io::Error::other)?;
    let archives = vec![keyhole_exporter::http::routes::compress(&archive), archive];
    let mut records = Vec::new();
    walk(&root, &root, &mut records)?;
    let tree: &[(&[u8], u8, &[u8])] = &[
        (b"proc/loadavg", b'T', b"1 2 3 4/5 6\n"),
        (b"proc/stat", b'L', b"../../out"),
        (b"proc/meminfo", b'L', b"loadavg"),
        (b"proc/vmstat", b'L', b""),
        (b"sys/class/net/a/mtu", b'T', b"1\n"),
    ];
    let tree: Vec<Vec<u8>> =
        tree.iter().map(|(path, letter, content)| record(path, *letter, content)).collect();
    Ok((vec![records.join(SEPARATOR), tree.join(SEPARATOR)], archives))
}

fn walk(root: &Path, dir: &Path, records: &mut Vec<Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.strip_prefix(root).unwrap_or(&path).as_os_str().as_encoded_bytes();
        if path.is_symlink() {
            records.push(record(name, b'L', fs::read_link(&path)?.as_os_str().as_encoded_bytes()));
        } else if path.is_dir() {
            walk(root, &path, records)?;
        } else {
            records.push(record(name, b'T', &fs::read(&path)?));
        }
    }
    Ok(())
}

/// Some lines and the beginning of every file, without duplicates.
fn lines(snapshots: &[Snapshot]) -> Vec<Vec<u8>> {
    let texts = snapshots.iter().flat_map(Snapshot::files).filter_map(|(_, content)| match content {
        Content::Bytes { bytes, .. } => Some(bytes),
        _ => None,
    });
    let some = texts
        .flat_map(|text| text.split(|byte| *byte == b'\n').take(3).chain([&text[..text.len().min(200)]]));
    let shapes = HOSTILE_CONTENTS.iter().copied();
    some.chain(shapes).map(<[u8]>::to_vec).collect::<BTreeSet<_>>().into_iter().step_by(4).collect()
}

fn files(snapshots: &[Snapshot], name: &[u8]) -> Vec<Vec<u8>> {
    let named = snapshots.iter().flat_map(Snapshot::files).filter(|(path, _)| path.ends_with(name));
    let text = named.filter_map(|(_, content)| match content {
        Content::Bytes { bytes, .. } => Some(bytes[..bytes.len().min(MAX_FILE_BYTES)].to_vec()),
        _ => None,
    });
    text.chain(HOSTILE_CONTENTS.iter().map(|content| content.to_vec())).collect()
}

/// The default expressions of flags and examples of Go's syntax, with names to match.
fn expressions() -> Vec<Vec<u8>> {
    let flags = keyhole_exporter::collector::flags();
    let defaults = flags.iter().filter_map(|flag| match flag.kind {
        FlagKind::Regexp(pattern) if !pattern.is_empty() => Some(pattern),
        _ => None,
    });
    let syntax = [
        r"(?i)[a-z&&[^b]]--\Qx.*\E\101\x{e9}\pN\P{^Greek}[[:^alpha:]\w-]{2,5}?$",
        r"(?s-m:\A.(?P<n>\b|\B)\z)|(?mU)^x{,2}{\s\D$",
    ];
    let names = "\neth0\n/var/lib/x\nsda1\n\u{e9}K\n\n";
    defaults.chain(syntax).map(|pattern| [pattern.as_bytes(), names.as_bytes(), b"a\xff"].concat()).collect()
}

/// Each component of the policy's patterns with names to match.
fn patterns(snapshots: &[Snapshot]) -> Vec<Vec<u8>> {
    let paths = snapshots.iter().flat_map(Snapshot::files);
    let names: BTreeSet<&[u8]> = paths.flat_map(|(path, _)| path.split(|byte| *byte == b'/')).collect();
    let some: Vec<&[u8]> = names.into_iter().step_by(17).take(60).collect();
    let sources = TABLE.iter().flat_map(|row| row.sources);
    let components: BTreeSet<&str> = sources.flat_map(|source| source.pattern.split('/')).collect();
    components.into_iter().map(|pattern| [pattern.as_bytes(), &some.join(&b'\n')].join(&b'\n')).collect()
}

/// An exposition in pieces of a few families.
fn families(text: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(text);
    let pieces: Vec<&str> = text.split_inclusive("# HELP ").collect();
    let whole =
        |pieces: &[&str]| format!("# HELP {}", pieces.concat().trim_end_matches("# HELP ")).into_bytes();
    let small = pieces.chunks(3).map(whole).filter(|piece| piece.len() < MAX_SEED_BYTES);
    small.chain([text.as_bytes()[..text.len().min(MAX_FILE_BYTES)].to_vec()]).collect()
}

fn samples() -> Vec<Vec<u8>> {
    let values = [0.0, -1.5, 1e300, f64::NAN, f64::INFINITY, 5e-324, 9.3e15];
    let names =
        ["node_a", "node_a(b)-c", "", "0", "keyhole_x", "a_sum", "\"\n\\", "node_textfile_mtime_seconds"];
    let one = |(name, value): (&&str, f64)| {
        let labelled = [&value.to_le_bytes()[..], b"x\"y\\z\n\xff"].concat();
        [b'C', b'G', b'U'].map(|kind| record(name.as_bytes(), kind, &labelled)).join(SEPARATOR)
    };
    let each =
        |value: f64| names.iter().map(move |name| one((name, value))).collect::<Vec<_>>().join(SEPARATOR);
    values.into_iter().map(each).collect()
}

/// A flag in one of the ways that it can be written, with a value that it takes.
fn flag(flag: Flag) -> String {
    match flag.kind {
        FlagKind::Switch(_) => format!("--no-{}\nword", flag.name),
        FlagKind::Regexp(default) => {
            format!("--{}={}", flag.name, if default.is_empty() { "^a|b$" } else { default })
        }
        FlagKind::Text(default)
        | FlagKind::Duration { default, .. }
        | FlagKind::File(default)
        | FlagKind::Directory(default)
        | FlagKind::Choice { default, .. } => format!("--{}\n{default}", flag.name),
        FlagKind::Parsed { default, .. } => {
            format!("--{}={}", flag.name, if default.is_empty() { "0" } else { default })
        }
        FlagKind::ParsedList { placeholder: "LAYERS" } => format!("--{}=limits,landlock", flag.name),
        FlagKind::Texts | FlagKind::ParsedList { .. } | FlagKind::Directories => {
            format!("--{0}=64647\n--{0}\n0", flag.name)
        }
        FlagKind::Number(default) => format!("--{}={default}", flag.name),
        FlagKind::Interval { alone, .. } => format!("--{0}\n--{0}={alone}", flag.name),
        FlagKind::Alias(target) | FlagKind::FormerName(target) => format!("--{}=a\n--{target}=b", flag.name),
    }
}

fn exporter_flags() -> Vec<Vec<u8>> {
    let literal =
        [":9100\n127.0.0.1:9100\n[::1]:9100\nvsock:1", "--scrape.timeout=1m0.5s250ms", "--nope\n-h\n--"];
    cli::flags::all()
        .into_iter()
        .map(flag)
        .chain(literal.map(str::to_owned))
        .map(String::into_bytes)
        .collect()
}

fn broker_flags() -> Vec<Vec<u8>> {
    let literal = ["--queries=default,+tcp", "probe\n-h", "completions\nbash", "--view=host\n--view=auto"];
    let rows = keyhole_broker::flags::PROGRAM.flags().into_iter().map(flag);
    rows.chain(literal.map(str::to_owned)).map(String::into_bytes).collect()
}

/// Frames of a reader, for several lengths of pieces.
fn frames() -> Vec<Vec<u8>> {
    use keyhole_policy::pipes::{FrameKind, header};
    let frame = |kind, payload: &[u8]| [&header(payload.len(), kind, 1, 0), payload].concat();
    let whole =
        [frame(FrameKind::Hello, b"x"), frame(FrameKind::Chunk, &[7; 300]), frame(FrameKind::LastChunk, b"")]
            .concat();
    [0, 6, 254].map(|length| [&[length], &*whole].concat()).to_vec()
}

const HTTP_REQUESTS: &[&[u8]] = &[
    b"collect%5B%5D=cpu&collect[]=net%64ev&exclude[]=a+b&name[]=x",
    b"gzip;q=0.5, identity;q=0, *",
    b"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5,text/plain;version=0.0.4;escaping=dots",
    b"[::1]:9100",
    b"localhost:9100",
    b"/metrics/%20x",
    b"10.5",
    b"%=%41&=&&collect[]=%ff",
];

const WEB_CONFIGS: &[&[u8]] = &[
    b"tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n  \
      client_allowed_sans: [a, 10.0.0.1]\n  min_version: TLS12\n  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n  curve_preferences: [X25519]\n",
    b"basic_auth_users:\n  a: $2y$10$abcdefghijklmnopqrstuuM0N8gQY0mVbV9rHBTY6XlR9cJ2mXEyC\n",
    b"http_server_config:\n  http2: false\n  headers:\n    Strict-Transport-Security: max-age=1\nrate_limit:\n  interval: 1s\n  burst: 20\n",
    b"Basic YTpi",
];
const GLOBS: &[&[u8]] = &[
    b"*.prom\na.prom",
    b"?*?\nabc",
    b"TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\0\0\0\0UTC\0TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\x0e\x10\0\0CET\0",
];
