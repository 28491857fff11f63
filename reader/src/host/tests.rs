//! Reads of fixture trees. Kernel behaviour that a directory does not have (such as ENODEV of a cached descriptor) is
//! tested with the real programs.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use keyhole_os::shared::SharedCells;
use keyhole_policy::pipes::{CHUNK_BYTES, FrameKind, HEADER_BYTES, SKIPPED};
use keyhole_policy::{AccessLevel, TABLE};
use keyhole_proto::v1::{self, file, file_system};
use prost::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::*;
use crate::arguments::ViewMode;
use crate::cache::{CELLS_PER_SLOT, InProgress, RETRY_AFTER_READS, hash};
use crate::mounts::mounts;
use crate::read::{LISTING_LIMIT, NAMES_LIMIT};

/// The descriptor budget of these tests, unless a test sets another.
const CACHED_FILES: u64 = 1024;

/// A directory with `proc`, `sys` and files of a test.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    fn below(dir: &Path) -> Self {
        let tree = Self(tempfile::tempdir_in(dir).unwrap());
        for root in ["proc", "sys"] {
            fs::create_dir(tree.at(root)).unwrap();
        }
        tree
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let tree = Self::new();
        files.iter().for_each(|(path, content)| tree.put(path, content));
        tree
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn arguments(&self) -> Arguments {
        let (procfs, sysfs) = (self.at("proc"), self.at("sys"));
        Arguments { procfs, sysfs, cached_files: CACHED_FILES, ..Arguments::default() }
    }

    fn host(&self) -> Host {
        host(&self.arguments(), ViewMode::Host)
    }
}

/// A host with every row.
fn host(arguments: &Arguments, view: ViewMode) -> Host {
    host_beside(arguments, view, &[])
}

/// The same, while other readers of its class hang in `hung`.
fn host_beside(arguments: &Arguments, view: ViewMode, hung: &[&[u8]]) -> Host {
    let hung: Vec<InProgress> = hung.iter().map(|path| [hash(path), 0, 0]).collect();
    host_beside_readers(arguments, view, &hung)
}

fn host_beside_readers(arguments: &Arguments, view: ViewMode, hung: &[InProgress]) -> Host {
    let shared = SharedState::new(page(hung), 0, arguments.cached_files);
    let roots = Roots::open(arguments, &Class::ALL, &shared).unwrap();
    let view = View::find(&roots, view).unwrap();
    Host::open(TABLE.iter(), arguments, roots, view, shared)
}

/// The shared page of a class, in which the readers of the slots from 1 on hang in `hung`.
fn page(hung: &[InProgress]) -> SharedCells {
    let page = SharedCells::new().unwrap();
    for (slot, asked) in (1..).zip(hung) {
        for (at, hash) in asked.iter().enumerate() {
            page.cells()[slot * CELLS_PER_SLOT + at].store(*hash, std::sync::atomic::Ordering::Relaxed);
        }
    }
    page
}

/// Every root, opened by a first reader.
fn roots(arguments: &Arguments) -> Result<Roots, String> {
    Roots::open(arguments, &Class::ALL, &SharedState::new(page(&[]), 0, 0))
}

/// The result of one read.
#[derive(Debug)]
struct Answer {
    outcome: Outcome,
    /// How many items a limit left out.
    left_out: u64,
    /// Whether something was skipped because another reader hangs in it.
    skipped: bool,
    files: Vec<v1::File>,
    file_systems: Vec<v1::FileSystem>,
}

fn read(host: &mut Host, query: Query) -> Answer {
    read_with(host, query, &mut Scratch::default())
}

/// The same, as one of several queries of a request.
fn read_with(host: &mut Host, query: Query, scratch: &mut Scratch) -> Answer {
    read_into(host, query, scratch, &mut memory())
}

/// The same, with a given output file.
fn read_into(host: &mut Host, query: Query, scratch: &mut Scratch, file: &mut File) -> Answer {
    file.set_len(0).unwrap();
    file.rewind().unwrap();
    let mut out = Output::new(file.as_fd());
    out.begin(query);
    let (outcome, left_out, skipped) = host.read(query, scratch, &mut out).unwrap().unwrap();
    out.end(outcome, Duration::from_nanos(1), left_out, skipped, false).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let answer = answer(query, &bytes);
    assert_eq!((answer.outcome, answer.left_out, answer.skipped), (outcome, left_out as u64, skipped));
    answer
}

/// A file in memory: one on a disk would change the numbers of a file system that a test compares.
fn memory() -> File {
    rustix::fs::memfd_create("answer", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
}

/// Decodes the frames of one answer.
fn answer(query: Query, mut frames: &[u8]) -> Answer {
    let mut answer = Answer {
        outcome: Outcome::Unspecified,
        left_out: 0,
        skipped: false,
        files: vec![],
        file_systems: vec![],
    };
    let mut ended = None;
    while let Some((&[a, b, c, d, kind, about, flags, zero], rest)) =
        frames.split_first_chunk::<HEADER_BYTES>()
    {
        assert_eq!(ended, None, "nothing follows the last chunk");
        assert_eq!((i32::from(about), zero), (query.into(), 0));
        let (payload, rest) = rest.split_at(u32::from_le_bytes([a, b, c, d]) as usize);
        assert!(payload.len() <= keyhole_policy::pipes::PAYLOAD_BYTES);
        let chunk = v1::ReadResponse::decode(payload).unwrap();
        assert_eq!(chunk.query(), query);
        ended = chunk.end;
        let expected = if ended.is_some() { FrameKind::LastChunk } else { FrameKind::Chunk };
        assert_eq!(FrameKind::parse(kind), Some(expected));
        answer.skipped = flags == SKIPPED;
        answer.files.extend(chunk.files);
        answer.file_systems.extend(chunk.file_systems);
        frames = rest;
    }
    let end = ended.expect("an end");
    assert_eq!((frames, end.elapsed_ns), (&[][..], 1));
    (answer.outcome, answer.left_out) = (end.outcome(), end.left_out);
    answer
}

/// Why a query cannot be answered.
fn reason(host: &Host, query: Query) -> Option<String> {
    host.unavailable().find_map(|(unavailable, _, reason)| (unavailable == query).then_some(reason))
}

/// The pipe of a broker that is gone.
fn gone_broker() -> OwnedFd {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap().1
}

fn name(file: &v1::File) -> &[u8] {
    match file.name.as_ref().unwrap() {
        file::Name::Path(path) => path.as_bytes(),
        file::Name::RawPath(path) => path,
    }
}

fn bytes(file: &v1::File) -> &[u8] {
    match file.content.as_ref().unwrap() {
        file::Content::Text(text) => text.as_bytes(),
        file::Content::Raw(bytes) => bytes,
        other => panic!("{other:?} is not a file's bytes"),
    }
}

impl Answer {
    /// The names of the files, each once, in order.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.files.iter().map(|file| name(file).escape_ascii().to_string()).collect();
        names.dedup();
        names
    }

    fn chunks(&self, path: &str) -> Vec<&v1::File> {
        self.files.iter().filter(|file| name(file) == path.as_bytes()).collect()
    }

    /// The content of a file, joined from its chunks; none if it was not sent.
    fn text(&self, path: &str) -> Option<String> {
        let chunks = self.chunks(path);
        let whole = chunks.iter().flat_map(|chunk| bytes(chunk)).copied().collect();
        (!chunks.is_empty()).then(|| String::from_utf8(whole).unwrap())
    }

    fn errno(&self, path: &str) -> Option<Errno> {
        match self.chunks(path)[..] {
            [v1::File { content: Some(file::Content::Errno(errno)), .. }] => {
                Some(Errno::from_raw_os_error(*errno as i32))
            }
            _ => None,
        }
    }
}

/// Runs `act` on a thread without capabilities, to which file modes apply even as root.
fn without_capabilities(act: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        let dropped = keyhole_os::capabilities::drop_all();
        assert!(dropped.in_force, "{}", dropped.detail);
        act();
    });
    thread.join().unwrap();
}

/// Runs `act` in a process of its own, for settings of the whole process; `test` is the name of the caller.
fn alone(test: &str, act: impl FnOnce()) {
    const ALONE: &str = "KEYHOLE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return act();
    }
    let output = this_test(test, ALONE).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{output:?}");
}

/// The command for one of these tests, with a variable set.
fn this_test(test: &str, variable: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("host::tests::{test}"), "--test-threads=1", "--nocapture"]);
    command.env(variable, "1").stdin(Stdio::null());
    command
}

fn soft_nofile(files: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum }).unwrap();
}

/// How many files the host caches below sysfs.
fn cached_files(host: &Host) -> u64 {
    host.shared.cached_files()
}

#[test]
fn an_open_file_is_read_from_its_start_each_time() {
    let tree = Tree::with(&[("proc/loadavg", "1 2 3\n"), ("sys/class/power_supply/AC/online", "1\n")]);
    let mut host = tree.host();
    for (load, online) in [("0.10 0.20 0.30 1/100 4711\n", "1\n"), ("9\n", "0\n"), ("", "")] {
        tree.put("proc/loadavg", load);
        tree.put("sys/class/power_supply/AC/online", online);
        assert_eq!(read(&mut host, Query::Loadavg).text("proc/loadavg").unwrap(), load);
        let supply = read(&mut host, Query::PowerSupply);
        assert_eq!(supply.text("sys/class/power_supply/AC/online").unwrap(), online);
        assert_eq!(supply.outcome, Outcome::Ok);
    }
}

#[test]
fn a_long_file_is_sent_in_chunks_that_concatenate() {
    // A two-byte character is split between the first chunks: these are not UTF-8, but the whole is.
    let text = format!("{}é{}", "x".repeat(CHUNK_BYTES - 1), "y".repeat(2 * CHUNK_BYTES));
    let tree = Tree::with(&[("proc/1/net/dev", &text)]);
    let answer = read(&mut tree.host(), Query::NetDev);
    assert_eq!(answer.outcome, Outcome::Ok);
    let chunks = answer.chunks("proc/1/net/dev");
    assert_eq!(chunks.len(), 4);
    assert!(chunks.iter().all(|chunk| bytes(chunk).len() <= CHUNK_BYTES && !chunk.truncated));
    assert!(answer.text("proc/1/net/dev").unwrap() == text);
}

#[test]
fn a_file_longer_than_its_limit_is_truncated() {
    for (path, query) in [
        ("proc/loadavg", Query::Loadavg),
        ("sys/class/power_supply/AC/online", Query::PowerSupply),
        ("proc/stat", Query::Stat),
        ("proc/diskstats", Query::Diskstats),
    ] {
        let limit = keyhole_policy::row(query).unwrap().file_bytes;
        let tree = Tree::with(&[(path, &"z".repeat(limit))]);
        let whole = read(&mut tree.host(), query);
        assert_eq!(whole.outcome, Outcome::Ok, "{path} of just the limit");
        assert_eq!(whole.text(path).unwrap().len(), limit);
        assert!(whole.files.iter().all(|file| !file.truncated), "{path}");

        tree.put(path, "z".repeat(limit + 1));
        let cut = read(&mut tree.host(), query);
        assert_eq!(cut.outcome, Outcome::Truncated, "{path}");
        assert_eq!(cut.text(path).unwrap().len(), limit);
        let (last, before) = cut.files.split_last().unwrap();
        assert!(
            last.truncated && before.iter().all(|file| !file.truncated),
            "{path}: the last chunk is marked"
        );
    }
}

#[test]
fn an_empty_file_is_a_file() {
    let tree = Tree::with(&[("proc/loadavg", "")]);
    let answer = read(&mut tree.host(), Query::Loadavg);
    assert_eq!((answer.outcome, answer.text("proc/loadavg")), (Outcome::Ok, Some(String::new())));
}

#[test]
fn bytes_that_are_not_utf8_are_sent_raw_and_whole() {
    let tree = Tree::new();
    let supply = Path::new("sys/class/power_supply").join(std::ffi::OsStr::from_bytes(b"a\xff\n\"c"));
    tree.put(supply.join("model_name"), b"\xfe\x00\n");
    let answer = read(&mut tree.host(), Query::PowerSupply);
    assert_eq!(answer.outcome, Outcome::Ok);
    let [file] = &answer.files[..] else { panic!("{answer:?}") };
    assert_eq!(
        file.name,
        Some(file::Name::RawPath(b"sys/class/power_supply/a\xff\n\"c/model_name".to_vec()))
    );
    assert_eq!(file.content, Some(file::Content::Raw(b"\xfe\x00\n".to_vec())));
}

#[test]
fn a_wildcard_finds_new_devices_and_forgets_removed_ones() {
    let tree = Tree::with(&[("sys/class/power_supply/AC/online", "1")]);
    let mut host = tree.host();
    assert_eq!(read(&mut host, Query::PowerSupply).names(), ["sys/class/power_supply/AC/online"]);

    tree.put("sys/class/power_supply/BAT0/capacity", "99");
    let both = read(&mut host, Query::PowerSupply);
    assert_eq!(
        both.names(),
        ["sys/class/power_supply/AC/online", "sys/class/power_supply/BAT0/capacity"],
        "sorted"
    );

    fs::remove_dir_all(tree.at("sys/class/power_supply/AC")).unwrap();
    assert_eq!(read(&mut host, Query::PowerSupply).names(), ["sys/class/power_supply/BAT0/capacity"]);
    assert_eq!(cached_files(&host), 1, "what has gone is not cached");

    fs::remove_dir_all(tree.at("sys/class/power_supply")).unwrap();
    assert_eq!(read(&mut host, Query::PowerSupply).outcome, Outcome::Absent);
    assert_eq!(cached_files(&host), 0);
}

#[test]
fn a_new_attribute_is_read_a_few_reads_later_and_on_a_new_device_at_once() {
    let tree = Tree::with(&[("sys/class/power_supply/BAT0/capacity", "99")]);
    let mut host = tree.host();
    let mut capacities =
        |reads: u64| (0..reads).map(|_| read(&mut host, Query::PowerSupply).names().len()).max();
    assert_eq!(capacities(1), Some(1));
    tree.put("sys/class/power_supply/BAT0/status", "Full");
    assert_eq!(capacities(RETRY_AFTER_READS), Some(2), "looked for again");

    fs::remove_dir_all(tree.at("sys/class/power_supply/BAT0")).unwrap();
    for attribute in ["capacity", "status", "health"] {
        tree.put(Path::new("new").join(attribute), "1");
    }
    fs::rename(tree.at("new"), tree.at("sys/class/power_supply/BAT0")).unwrap();
    assert_eq!(capacities(1), Some(3), "another device under the same name");
}

#[test]
fn a_device_replaced_under_its_name_is_read() {
    let tree = Tree::with(&[("sys/class/power_supply/BAT0/capacity", "old")]);
    let mut host = tree.host();
    let mut capacity =
        || read(&mut host, Query::PowerSupply).text("sys/class/power_supply/BAT0/capacity").unwrap();
    assert_eq!(capacity(), "old");
    tree.put("new/capacity", "new");
    fs::remove_dir_all(tree.at("sys/class/power_supply/BAT0")).unwrap();
    fs::rename(tree.at("new"), tree.at("sys/class/power_supply/BAT0")).unwrap();
    assert_eq!(capacity(), "new");
}

#[test]
fn interfaces_that_swap_names_keep_their_values() {
    let tree = Tree::with(&[("sys/class/net/eth0/mtu", "1400"), ("sys/class/net/eth1/mtu", "1300")]);
    let mut host = tree.host();
    let mtus = |host: &mut Host| {
        let answer = read(host, Query::NetClass);
        ["sys/class/net/eth0/mtu", "sys/class/net/eth1/mtu"].map(|path| answer.text(path).unwrap())
    };
    assert_eq!(mtus(&mut host), ["1400", "1300"]);
    // As by `ip link set name`: an open descriptor still shows the device that was renamed.
    for (from, to) in [("eth0", "tmp"), ("eth1", "eth0"), ("tmp", "eth1")] {
        fs::rename(tree.at("sys/class/net").join(from), tree.at("sys/class/net").join(to)).unwrap();
    }
    assert_eq!(mtus(&mut host), ["1300", "1400"]);
    assert_eq!(cached_files(&host), 2);
    assert_eq!(mtus(&mut host), ["1300", "1400"]);
    assert_eq!(cached_files(&host), 2, "and they are cached again");
}

#[test]
fn a_link_where_a_file_should_be_is_not_followed() {
    let tree = Tree::with(&[("sys/class/power_supply/AC/online", "1"), ("secret", "secret")]);
    symlink(tree.at("secret"), tree.at("sys/class/power_supply/AC/leak")).unwrap();
    symlink("online", tree.at("sys/class/power_supply/AC/near")).unwrap();
    let answer = read(&mut tree.host(), Query::PowerSupply);
    assert_eq!(answer.names(), ["sys/class/power_supply/AC/online"]);
    assert_eq!(answer.outcome, Outcome::Ok);
}

#[test]
fn a_link_on_the_way_is_followed_since_sysfs_is_made_of_them() {
    let tree = Tree::with(&[("sys/devices/virtual/net/lo/mtu", "65536"), ("elsewhere/mtu", "1")]);
    fs::create_dir_all(tree.at("sys/class/net")).unwrap();
    symlink("../../devices/virtual/net/lo", tree.at("sys/class/net/lo")).unwrap();
    // A link out of the root is followed too: only Landlock refuses it (tests/sandbox.rs), and only the kernel makes links
    // in sysfs.
    symlink(tree.at("elsewhere"), tree.at("sys/class/net/out")).unwrap();
    let answer = read(&mut tree.host(), Query::NetClass);
    assert_eq!(answer.text("sys/class/net/lo/mtu").unwrap(), "65536");
    assert_eq!(answer.text("sys/class/net/out/mtu").unwrap(), "1");
}

#[test]
fn the_target_of_a_link_is_returned_where_a_row_asks_for_links() {
    let tree = Tree::with(&[("sys/class/hwmon/hwmon1/name", "not a link")]);
    symlink("../../devices/platform/coretemp.0/hwmon/hwmon0", tree.at("sys/class/hwmon/hwmon0")).unwrap();
    symlink(std::ffi::OsStr::from_bytes(b"../\xff"), tree.at("sys/class/hwmon/hwmon2")).unwrap();
    let answer = read(&mut tree.host(), Query::Hwmon);
    let content = |path| answer.chunks(path)[0].content.clone().unwrap();
    assert_eq!(
        content("sys/class/hwmon/hwmon0"),
        file::Content::Link("../../devices/platform/coretemp.0/hwmon/hwmon0".into())
    );
    assert_eq!(content("sys/class/hwmon/hwmon2"), file::Content::RawLink(b"../\xff".to_vec()));
    assert_eq!(answer.text("sys/class/hwmon/hwmon1/name").unwrap(), "not a link");
}

#[test]
fn a_directory_where_a_file_should_be_is_no_file() {
    let tree = Tree::with(&[("sys/class/power_supply/AC/power/control", "auto"), ("proc/loadavg/x", "")]);
    assert_eq!(read(&mut tree.host(), Query::PowerSupply).outcome, Outcome::Empty);
    let load = read(&mut tree.host(), Query::Loadavg);
    assert_eq!(load.outcome, Outcome::Absent);
    assert_eq!(
        load.errno("proc/loadavg"),
        Some(Errno::ISDIR),
        "a file that is always there says why it is not"
    );
}

#[test]
fn more_files_than_the_limit_are_truncated() {
    let tree = Tree::new();
    let limit = keyhole_policy::row(Query::Clocksource).unwrap().entries;
    for number in 0..limit {
        tree.put(format!("sys/devices/system/clocksource/clocksource{number:02}/current_clocksource"), "tsc");
    }
    let just = read(&mut tree.host(), Query::Clocksource);
    assert_eq!((just.outcome, just.files.len()), (Outcome::Ok, limit));
    tree.put("sys/devices/system/clocksource/clocksource99/current_clocksource", "tsc");
    let cut = read(&mut tree.host(), Query::Clocksource);
    assert_eq!((cut.outcome, cut.files.len(), cut.left_out), (Outcome::Truncated, limit + 1, 1));
    assert_eq!(
        cut.errno("sys/devices/system/clocksource/clocksource99"),
        Some(Errno::FBIG),
        "which the limit met"
    );
}

#[test]
fn a_directory_with_too_many_names_is_truncated() {
    // In memory: so many names take long on a disk.
    let memory = Path::new("/dev/shm");
    let tree = if memory.is_dir() { Tree::below(memory) } else { Tree::new() };
    let dir = tree.at("sys/class/power_supply");
    fs::create_dir_all(&dir).unwrap();
    for number in 0..=LISTING_LIMIT {
        symlink("nowhere", dir.join(number.to_string())).unwrap();
    }
    assert_eq!(read(&mut tree.host(), Query::PowerSupply).outcome, Outcome::Truncated);
}

#[test]
fn directories_with_too_many_names_together_are_truncated() {
    let memory = Path::new("/dev/shm");
    let tree = if memory.is_dir() { Tree::below(memory) } else { Tree::new() };
    let (dir, class) = (tree.at("sys/devices/big"), tree.at("sys/class/hwmon"));
    [&dir, &class].iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    for number in 0..LISTING_LIMIT - 1 {
        symlink("nowhere", dir.join(number.to_string())).unwrap();
    }
    for number in 0..=NAMES_LIMIT / LISTING_LIMIT {
        symlink("../../devices/big", class.join(format!("hwmon{number}"))).unwrap();
    }
    assert_eq!(read(&mut tree.host(), Query::Hwmon).outcome, Outcome::Truncated);
}

#[test]
fn a_read_stops_when_the_broker_is_gone_and_the_next_one_is_complete() {
    let tree = Tree::new();
    for number in 0..20 {
        tree.put(format!("sys/class/power_supply/BAT{number:02}/x"), "x".repeat(4096));
    }
    let mut host = tree.host();
    let pipe = gone_broker();
    let mut out = Output::new(pipe.as_fd());
    out.begin(Query::PowerSupply);
    let read_of = host.read(Query::PowerSupply, &mut Scratch::default(), &mut out);
    assert!(matches!(read_of, Err(BrokerGone)), "{read_of:?}");
    assert!((1..20).contains(&cached_files(&host)), "and did not go on");
    assert_eq!(read(&mut host, Query::PowerSupply).files.len(), 20);
}

#[test]
fn every_cached_descriptor_is_counted() {
    alone("every_cached_descriptor_is_counted", || {
        let tree = Tree::new();
        let content = "x".repeat(4000);
        for number in 0..20 {
            tree.put(format!("sys/class/net/eth{number}/mtu"), &content);
            tree.put(format!("sys/class/power_supply/BAT{number}/capacity"), "50");
        }
        let mut host = tree.host();
        let open = || fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let before = open();
        for round in 0..20 {
            match round % 4 {
                0 => fs::remove_dir_all(tree.at(format!("sys/class/net/eth{round}"))).unwrap(),
                1 => tree.put(format!("sys/class/net/new{round}/mtu"), &content),
                2 => fs::remove_file(tree.at(format!("sys/class/power_supply/BAT{round}/capacity"))).unwrap(),
                _ => {
                    let pipe = gone_broker();
                    let mut out = Output::new(pipe.as_fd());
                    out.begin(Query::NetClass);
                    assert!(host.read(Query::NetClass, &mut Scratch::default(), &mut out).is_err());
                }
            }
            let answers =
                [Query::NetClass, Query::PowerSupply].map(|query| read(&mut host, query).files.len() as u64);
            assert_eq!(cached_files(&host), answers.iter().sum());
            assert_eq!(open(), before + cached_files(&host));
        }
    });
}

#[test]
fn files_are_read_without_being_cached_when_descriptors_are_few() {
    alone("files_are_read_without_being_cached_when_descriptors_are_few", || {
        const FILES: usize = 300;
        let tree = Tree::new();
        (0..FILES).for_each(|number| tree.put(format!("sys/class/power_supply/S/{number:03}"), "1"));
        soft_nofile(200);
        let mut host = tree.host();
        let open = || fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let before = open();
        for _ in 0..3 {
            let answer = read(&mut host, Query::PowerSupply);
            assert_eq!((answer.outcome, answer.files.len()), (Outcome::Ok, FILES));
            assert_eq!(open(), before + cached_files(&host), "and nothing else stays open");
            // The directory that is listed to count them is open too.
            assert!(open() - 1 <= 200 - RESERVED_DESCRIPTORS, "{}", open());
            assert!(cached_files(&host) > 100);
        }
    });
}

#[test]
fn files_stay_open_when_others_of_their_device_appear_and_disappear() {
    let tree = Tree::new();
    let path = |number: u32| format!("sys/class/power_supply/S/{number}");
    (10..30).for_each(|number| tree.put(path(number), "1"));
    let mut host = tree.host();
    // Number and path of each descriptor below the tree: one that is opened again gets a number that is free.
    let mut open = || {
        assert_eq!(read(&mut host, Query::PowerSupply).outcome, Outcome::Ok);
        let open = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        let open = open.filter_map(|link| Some((link.clone(), fs::read_link(link).ok()?)));
        open.filter(|(_, file)| file.starts_with(tree.at(path(0)).parent().unwrap())).collect::<Vec<_>>()
    };
    let mut before = open();
    assert_eq!(before.len(), 20);
    [10, 15, 16, 29].iter().for_each(|number| fs::remove_file(tree.at(path(*number))).unwrap());
    [1, 155, 31].iter().for_each(|number| tree.put(path(*number), "1"));
    before.retain(|(_, file)| file.exists());
    let after = open();
    assert_eq!((before.len(), after.len()), (16, 19));
    assert!(before.iter().all(|file| after.contains(file)), "{before:?} {after:?}");
}

#[test]
fn as_many_files_are_cached_as_the_flag_allows() {
    let tree = Tree::with(&[("sys/class/net/eth0/mtu", "1500"), ("sys/class/net/eth0/flags", "1")]);
    for (flag, cached) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
        let mut host = host(&Arguments { cached_files: flag, ..tree.arguments() }, ViewMode::Host);
        assert_eq!(read(&mut host, Query::NetClass).files.len(), 2);
        assert_eq!(cached_files(&host), cached);
    }
}

#[test]
fn files_beyond_the_budget_are_opened_in_cached_directories() {
    alone("files_beyond_the_budget_are_opened_in_cached_directories", || {
        let tree = Tree::new();
        for number in 0..CACHED_FILES / 2 {
            for attribute in ["flags", "mtu", "operstate"] {
                tree.put(format!("sys/class/net/eth{number}/{attribute}"), "1");
            }
        }
        soft_nofile(4096);
        let mut host = tree.host();
        let open = || fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let before = open();
        let files = 3 * (CACHED_FILES / 2) as usize;
        // Two sources read a device's three files, and each caches the directory. Of the first device that is not cached
        // completely, the file of the first source is.
        let devices = 2 * (CACHED_FILES / 2 - CACHED_FILES / 3 - 1) + 1;
        for _ in 0..2 * RETRY_AFTER_READS {
            let answer = read(&mut host, Query::NetClass);
            assert_eq!((answer.outcome, answer.files.len()), (Outcome::Ok, files));
            assert_eq!(cached_files(&host), CACHED_FILES);
            assert_eq!(
                open(),
                before + CACHED_FILES + devices,
                "of each device with a file that is not cached"
            );
        }
        // An open descriptor of a directory also shows the one that was renamed.
        let (last, other) = (tree.at("sys/class/net/eth511"), tree.at("sys/class/net/eth510"));
        fs::write(last.join("mtu"), "2").unwrap();
        fs::remove_dir_all(&other).unwrap();
        fs::rename(&last, &other).unwrap();
        let answer = read(&mut host, Query::NetClass);
        assert_eq!(answer.files.len(), files - 3);
        assert_eq!(answer.text("sys/class/net/eth510/mtu").unwrap(), "2");
    });
}

#[test]
fn a_directory_is_listed_once_for_a_request() {
    let tree = Tree::with(&[("sys/class/net/eth0/mtu", "1500")]);
    let mut host = tree.host();
    let mut scratch = Scratch::default();
    let mut mtus = |scratch: &mut Scratch| read_with(&mut host, Query::NetClass, scratch).files.len();
    assert_eq!(mtus(&mut scratch), 1);
    tree.put("sys/class/net/eth1/mtu", "1500");
    assert_eq!(mtus(&mut scratch), 1, "a query of the same request sees the same devices");
    scratch.end_request();
    assert_eq!(mtus(&mut scratch), 2, "the next request sees what is there");
}

#[test]
fn a_missing_directory_is_opened_once_and_retried_later() {
    let tree = Tree::with(&[("sys/devices/system/cpu/cpu0/topology/core_id", "0")]);
    let mut host = tree.host();
    let throttling = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count";
    assert_eq!(read(&mut host, Query::Cpu).names().len(), 1);
    tree.put(throttling, "7");
    let found = (0..RETRY_AFTER_READS)
        .filter_map(|_| read(&mut host, Query::Cpu).text(throttling))
        .collect::<Vec<_>>();
    assert!((1..RETRY_AFTER_READS as usize).contains(&found.len()), "{found:?}");
}

#[test]
fn a_single_file_of_sysfs_that_appears_is_found_a_few_reads_later() {
    let tree = Tree::with(&[("sys/class/net/eth0/mtu", "1500")]);
    let mut host = tree.host();
    let masters = "sys/class/net/bonding_masters";
    let mut found = |reads: u64| {
        (0..reads).filter_map(|_| read(&mut host, Query::Bonding).text(masters)).collect::<Vec<_>>().len()
    };
    assert_eq!(found(1), 0);
    tree.put(masters, "bond0");
    assert!((1..RETRY_AFTER_READS as usize).contains(&found(RETRY_AFTER_READS)));
}

#[test]
fn threads_are_read_where_a_process_has_several() {
    let tree = Tree::with(&[
        ("proc/1/task/1/stat", "1 (init) S"),
        ("proc/20/task/20/stat", "20 (many) S"),
        ("proc/20/task/21/stat", "21 (many) R"),
    ]);
    let mut host = tree.host();
    let several = ["proc/20/task/20/stat", "proc/20/task/21/stat"];
    let counts_links = fs::metadata(tree.at("proc/1/task")).unwrap().nlink() == 3;
    let answer = read(&mut host, Query::Threads);
    if counts_links {
        assert_eq!(answer.names(), several);
    } else {
        // If the file system does not count links, no thread is left out.
        assert_eq!(answer.names()[1..], several);
    }
}

#[test]
fn a_directory_that_came_back_below_the_same_device_is_found_again() {
    let tree = Tree::new();
    let files =
        ["core_id", "physical_package_id"].map(|file| format!("sys/devices/system/cpu/cpu0/topology/{file}"));
    let put = || files.iter().for_each(|file| tree.put(file, "1"));
    put();
    // Here a removed file can be read through its descriptor, unlike in sysfs: so none is cached.
    let mut host = host(&Arguments { cached_files: 0, ..tree.arguments() }, ViewMode::Host);
    assert_eq!(read(&mut host, Query::Cpu).names().len(), 2);
    // As when a CPU goes offline and comes back.
    fs::remove_dir_all(tree.at("sys/devices/system/cpu/cpu0/topology")).unwrap();
    assert_eq!(read(&mut host, Query::Cpu).names().len(), 0);
    put();
    let found = (0..RETRY_AFTER_READS).map(|_| read(&mut host, Query::Cpu).names().len()).max();
    assert_eq!(found, Some(2));
    assert_eq!(read(&mut host, Query::Cpu).names().len(), 2, "and stays found");
}

#[test]
fn running_out_of_descriptors_is_reported_and_temporary() {
    alone("running_out_of_descriptors_is_reported_and_temporary", || {
        let tree = Tree::with(&[
            ("sys/class/power_supply/AC/online", "1"),
            ("sys/block/sda/queue/rotational", "0"),
            ("proc/1/mountinfo", "1 2 3:4 / / rw\n"),
            ("root/x", ""),
            ("udev/b8:0", "E:X=1"),
        ]);
        let arguments =
            Arguments { rootfs: Some(tree.at("root")), udev: Some(tree.at("udev")), ..tree.arguments() };
        let mut host = host(&arguments, ViewMode::Host);
        // The directory was listed before the descriptors ran out: only the file cannot be opened.
        let mut file = memory();
        let mut read = |host: &mut Host, query| read_into(host, query, &mut Scratch::default(), &mut file);
        let limit = getrlimit(Resource::Nofile).current.unwrap();
        let lowest_free = File::open("/dev/null").unwrap();
        soft_nofile(lowest_free.as_raw_fd() as u64);
        drop(lowest_free);
        for (query, path) in [
            (Query::PowerSupply, "sys/class/power_supply"),
            (Query::Block, "sys/block"),
            (Query::Udev, "udev"),
        ] {
            let answer = read(&mut host, query);
            assert_eq!(answer.outcome, Outcome::Truncated, "{query:?}");
            assert_eq!(answer.errno(path), Some(Errno::MFILE), "{answer:?}");
        }
        let mounts = read(&mut host, Query::RootFileSystems);
        assert_eq!(mounts.outcome, Outcome::Truncated);
        assert_eq!(mounts.file_systems[0].errno, Errno::MFILE.raw_os_error() as u32);
        assert!(read(&mut host, Query::Mounts).outcome == Outcome::Ok, "open files need none");

        soft_nofile(limit);
        for query in [Query::PowerSupply, Query::Block, Query::Udev, Query::RootFileSystems] {
            assert_eq!(read(&mut host, query).outcome, Outcome::Ok);
        }
    });
}

#[test]
fn a_fixed_file_without_a_descriptor_is_not_reported_as_absent() {
    alone("a_fixed_file_without_a_descriptor_is_not_reported_as_absent", || {
        let tree = Tree::with(&[("proc/loadavg", "1")]);
        let arguments = tree.arguments();
        let roots = roots(&arguments).unwrap();
        let view = View::find(&roots, ViewMode::Host).unwrap();
        let shared = SharedState::new(SharedCells::new().unwrap(), 0, CACHED_FILES);
        let limit = getrlimit(Resource::Nofile).current.unwrap();
        soft_nofile(3);
        let mut host = Host::open(TABLE.iter(), &arguments, roots, view, shared);
        soft_nofile(limit);
        let answer = read(&mut host, Query::Loadavg);
        assert_eq!(answer.outcome, Outcome::Truncated);
        assert_eq!(answer.errno("proc/loadavg"), Some(Errno::MFILE));
        assert!(reason(&host, Query::Loadavg).is_some_and(|reason| reason.contains("proc/loadavg")));
    });
}

#[test]
fn udevs_files_are_never_cached() {
    let tree = Tree::with(&[("udev/b8:0", "old"), ("udev/c1:3", "no block device"), ("udev/b8:0x", "")]);
    let mut host = host(&Arguments { udev: Some(tree.at("udev")), ..tree.arguments() }, ViewMode::Host);
    assert_eq!(read(&mut host, Query::Udev).names(), ["udev/b8:0"]);
    assert_eq!(cached_files(&host), 0);
    tree.put("udev/.#b8:0", "new");
    fs::rename(tree.at("udev/.#b8:0"), tree.at("udev/b8:0")).unwrap();
    assert_eq!(read(&mut host, Query::Udev).text("udev/b8:0").unwrap(), "new");
}

#[test]
fn files_that_this_uid_may_not_read_are_denied() {
    without_capabilities(|| {
        let closed = |tree: &Tree, path: &str| {
            fs::set_permissions(tree.at(path), fs::Permissions::from_mode(0o0)).unwrap();
        };
        let tree = Tree::with(&[
            ("proc/loadavg", "1"),
            ("proc/1/net/udp", "1"),
            ("proc/1/net/udp6", "1"),
            ("sys/class/power_supply/AC/serial", "1"),
            ("sys/class/net/eth0/mtu", "1500"),
            ("sys/class/net/eth0/duplex", "full"),
            ("sys/block/sda/queue/rotational", "0"),
        ]);
        for path in ["proc/loadavg", "proc/1/net/udp", "sys/class/power_supply/AC/serial", "sys/block"] {
            closed(&tree, path);
        }
        closed(&tree, "sys/class/net/eth0/duplex");
        let mut host = tree.host();
        for (query, path) in [
            (Query::Loadavg, "proc/loadavg"),
            (Query::PowerSupply, "sys/class/power_supply/AC/serial"),
            (Query::Block, "sys/block"),
        ] {
            let answer = read(&mut host, query);
            assert_eq!(answer.outcome, Outcome::Denied, "{query:?}");
            assert_eq!(answer.errno(path), Some(Errno::ACCESS), "{answer:?}");
        }
        // If some files can be read the outcome is ok; the others still have their errno.
        for (query, path, other) in [
            (Query::Udp, "proc/1/net/udp", "proc/1/net/udp6"),
            (Query::NetClass, "sys/class/net/eth0/duplex", "sys/class/net/eth0/mtu"),
        ] {
            let answer = read(&mut host, query);
            assert_eq!(answer.outcome, Outcome::Ok, "{query:?}");
            assert_eq!(answer.errno(path), Some(Errno::ACCESS), "{answer:?}");
            assert!(answer.text(other).is_some());
        }
        assert!(reason(&host, Query::Loadavg).is_some_and(|reason| reason.contains("proc/loadavg")));
        assert_eq!(reason(&host, Query::Udp), None, "one of its files can be read");
        fs::set_permissions(tree.at("sys/block"), fs::Permissions::from_mode(0o755)).unwrap();
    });
}

/// Compares the result of `ask` with statfs(2) of `dir`; retries if another process changes it meanwhile.
fn assert_numbers_of(dir: &Path, mut ask: impl FnMut() -> v1::FileSystem) {
    let expect = || {
        let numbers = rustix::fs::statvfs(dir).unwrap();
        v1::FileSystem {
            name: None,
            errno: 0,
            block_size: numbers.f_frsize,
            blocks: numbers.f_blocks,
            blocks_free: numbers.f_bfree,
            blocks_available: numbers.f_bavail,
            files: numbers.f_files,
            files_free: numbers.f_ffree,
            read_only: numbers.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        }
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let (before, numbers, after) = (expect(), ask(), expect());
        if before == after {
            return assert_eq!(v1::FileSystem { name: None, ..numbers }, before);
        }
    }
    panic!("the numbers of {} change all the time", dir.display());
}

#[test]
fn a_probe_directory_has_the_numbers_of_its_file_system() {
    let tree = Tree::with(&[("probe/x", "")]);
    let probe_directories = vec![tree.at("probe"), "/proc".into()];
    let mut host =
        host(&Arguments { probe_directories: probe_directories.clone(), ..tree.arguments() }, ViewMode::Host);
    for (at, dir) in probe_directories.iter().enumerate() {
        assert_numbers_of(dir, || {
            let answer = read(&mut host, Query::ProbeDirectories);
            assert_eq!(answer.outcome, Outcome::Ok);
            let path = dir.to_str().unwrap().to_owned();
            assert_eq!(answer.file_systems[at].name, Some(file_system::Name::Path(path)));
            answer.file_systems[at].clone()
        });
    }
}

#[test]
fn more_probe_directories_than_a_row_takes_are_truncated() {
    let tree = Tree::new();
    let limit = keyhole_policy::row(Query::ProbeDirectories).unwrap().entries;
    for (probe_directories, outcome) in [(limit, Outcome::Ok), (limit + 1, Outcome::Truncated)] {
        let arguments =
            Arguments { probe_directories: vec![tree.at("proc"); probe_directories], ..tree.arguments() };
        let answer = read(&mut host(&arguments, ViewMode::Host), Query::ProbeDirectories);
        assert_eq!((answer.outcome, answer.file_systems.len()), (outcome, limit));
    }
}

#[test]
fn the_numbers_of_the_hosts_mounts_are_read_below_its_root() {
    let tree = Tree::with(&[
        ("proc/1/mountinfo", "1 0 8:1 / / rw\n2 1 0:9 / /mnt/a\\040b rw\n3 1 0:10 / /gone rw\n"),
        ("root/mnt/a b/x", ""),
    ]);
    let mut host = host(&Arguments { rootfs: Some(tree.at("root")), ..tree.arguments() }, ViewMode::Host);
    let names = |answer: &Answer| -> Vec<_> {
        answer.file_systems.iter().map(|numbers| numbers.name.clone().unwrap()).collect()
    };
    let answer = read(&mut host, Query::RootFileSystems);
    assert_eq!(answer.outcome, Outcome::Ok);
    assert_eq!(names(&answer), ["/", "/mnt/a b", "/gone"].map(|path| file_system::Name::Path(path.into())));
    assert_eq!(answer.file_systems[2].errno, Errno::NOENT.raw_os_error() as u32);
    for (at, path) in ["root", "root/mnt/a b"].iter().enumerate() {
        assert_numbers_of(&tree.at(path), || {
            read(&mut host, Query::RootFileSystems).file_systems[at].clone()
        });
    }
}

#[test]
fn a_mountinfo_of_many_pages_lists_every_mount() {
    let many: String =
        (0..2000).map(|n| format!("{n} 1 0:{n} / /mnt/volume-{n:04} rw - ext4 x rw\n")).collect();
    let tree = Tree::with(&[("proc/1/mountinfo", &many), ("root/x", "")]);
    let mut host = host(&Arguments { rootfs: Some(tree.at("root")), ..tree.arguments() }, ViewMode::Host);
    assert_eq!(read(&mut host, Query::RootFileSystems).file_systems.len(), 2000);
}

#[test]
fn a_mountinfo_longer_than_its_limit_is_truncated() {
    let limit = keyhole_policy::row(Query::RootFileSystems).unwrap().file_bytes;
    let line = "1 0 8:1 / / rw\n";
    let tree = Tree::with(&[("proc/1/mountinfo", &line.repeat(limit / line.len() + 1)), ("root/x", "")]);
    let mut host = host(&Arguments { rootfs: Some(tree.at("root")), ..tree.arguments() }, ViewMode::Host);
    let answer = read(&mut host, Query::RootFileSystems);
    assert_eq!((answer.outcome, answer.file_systems.len()), (Outcome::Truncated, 1));
}

#[test]
fn a_mount_point_longer_than_any_path_is_truncated() {
    // A parent of the mount that is renamed can make it so.
    let long = "/long".repeat(20_000);
    let text = format!("1 0 8:1 / / rw\n2 1 0:9 / {long} rw\n3 1 0:10 / /gone rw\n");
    let tree = Tree::with(&[("proc/1/mountinfo", &text), ("root/x", "")]);
    let mut host = host(&Arguments { rootfs: Some(tree.at("root")), ..tree.arguments() }, ViewMode::Host);
    let answer = read(&mut host, Query::RootFileSystems);
    assert_eq!((answer.outcome, answer.file_systems.len()), (Outcome::Truncated, 2));
}

#[test]
fn more_mounts_than_a_row_takes_are_truncated() {
    let limit = keyhole_policy::row(Query::RootFileSystems).unwrap().entries;
    let lines: String = (0..=limit).map(|n| format!("1 0 8:1 / /m{n} rw\n")).collect();
    let tree = Tree::with(&[("proc/1/mountinfo", &lines), ("root/x", "")]);
    let mut host = host(&Arguments { rootfs: Some(tree.at("root")), ..tree.arguments() }, ViewMode::Host);
    let answer = read(&mut host, Query::RootFileSystems);
    assert_eq!((answer.outcome, answer.file_systems.len()), (Outcome::Truncated, limit));
}

/// With every root.
fn every_root(tree: &Tree) -> Arguments {
    tree.put("udev/b8:0", "");
    tree.put("os-release", "ID=x\n");
    Arguments {
        rootfs: Some(tree.at("proc")),
        udev: Some(tree.at("udev")),
        os_release: Some(tree.at("os-release")),
        probe_directories: vec![tree.at("proc")],
        ..tree.arguments()
    }
}

#[test]
fn queries_about_the_host_are_unavailable_with_a_containers_view() {
    let tree = Tree::with(&[("proc/1/net/dev", "lo:"), ("proc/1/mountinfo", ""), ("proc/stat", "cpu")]);
    tree.put("sys/class/net/lo/mtu", "65536");
    let mut host = host(&every_root(&tree), ViewMode::Container);
    for row in TABLE {
        let answer = read(&mut host, row.query);
        // The udev directory and os-release are the host's, whatever /proc shows.
        let own_root = row.sources.iter().all(|source| matches!(source.root, Root::Udev | Root::OsRelease));
        if row.access_level == AccessLevel::Host && !own_root {
            assert_eq!(answer.outcome, Outcome::ContainerView, "{:?}", row.query);
            assert!(answer.files.is_empty() && answer.file_systems.is_empty());
            assert!(reason(&host, row.query).is_some_and(|reason| reason.contains("a container's own")));
        } else {
            assert_ne!(answer.outcome, Outcome::ContainerView, "{:?}", row.query);
        }
    }
    assert_eq!(read(&mut host, Query::Stat).text("proc/stat").unwrap(), "cpu");
}

#[test]
fn a_row_is_answered_with_its_root_and_absent_without_it() {
    let tree = Tree::with(&[("proc/1/mountinfo", "1 0 8:1 / / rw\n")]);
    let (mut none, mut all) = (tree.host(), host(&every_root(&tree), ViewMode::Host));
    for query in [Query::Udev, Query::OsRelease, Query::RootFileSystems, Query::ProbeDirectories] {
        assert_eq!(read(&mut none, query).outcome, Outcome::Absent, "{query:?}");
        assert_eq!(read(&mut all, query).outcome, Outcome::Ok, "{query:?}");
        assert_eq!(reason(&all, query), None, "{query:?}");
    }
    assert_eq!(read(&mut all, Query::OsRelease).text("etc/os-release").unwrap(), "ID=x\n");
}

#[test]
fn a_query_of_another_class_is_refused() {
    let tree = Tree::with(&[("proc/stat", "cpu")]);
    let arguments = tree.arguments();
    let roots = roots(&arguments).unwrap();
    let view = View::find(&roots, ViewMode::Host).unwrap();
    let rows = TABLE.iter().filter(|row| row.class == Class::Sysfs);
    let shared = SharedState::new(SharedCells::new().unwrap(), 0, 0);
    let mut host = Host::open(rows, &arguments, roots, view, shared);
    let pipe = gone_broker();
    let mut out = Output::new(pipe.as_fd());
    for query in [Query::Stat, Query::Unspecified] {
        assert_eq!(host.read(query, &mut Scratch::default(), &mut out).unwrap(), None);
    }
    assert_eq!(read(&mut host, Query::Numa).outcome, Outcome::Absent);
}

#[test]
fn nothing_of_procfs_is_opened_after_the_start() {
    let tree = Tree::with(&[("proc/pressure/cpu", "some")]);
    let mut host = tree.host();
    tree.put("proc/pressure/io", "some");
    tree.put("proc/loadavg", "1");
    fs::remove_file(tree.at("proc/pressure/cpu")).unwrap();
    let pressure = read(&mut host, Query::Pressure);
    assert_eq!(pressure.text("proc/pressure/cpu").unwrap(), "some", "it is open");
    assert_eq!(pressure.errno("proc/pressure/io"), Some(Errno::NOENT));
    assert_eq!(read(&mut host, Query::Loadavg).outcome, Outcome::Absent);
}

#[test]
fn processes_are_listed_at_each_read() {
    let tree =
        Tree::with(&[("proc/1/stat", "1 (init) S"), ("proc/1/status", "Name:\tinit\n"), ("proc/1/fd/0", "")]);
    let mut host = tree.host();
    assert_eq!(read(&mut host, Query::Processes).files.len(), 1);
    tree.put("proc/2/stat", "2 (kthreadd) S");
    tree.put("proc/acpi/stat", "not a process");
    let answer = read(&mut host, Query::Processes);
    assert_eq!(answer.files.len(), 2);
    assert_eq!(answer.text("proc/2/stat").unwrap(), "2 (kthreadd) S");
    let details = read(&mut host, Query::ProcessDetails);
    let size = fs::metadata(tree.at("proc/1/fd")).unwrap().len();
    let entries = details.files.iter().find_map(|file| match file.content {
        Some(file::Content::Entries(entries)) => Some(entries),
        _ => None,
    });
    assert_eq!(entries, Some(size), "on procfs the size is the count");
}

#[test]
fn an_empty_tree_has_no_file_for_any_query() {
    let tree = Tree::new();
    let mut host = tree.host();
    for row in TABLE {
        let expected = match row {
            Row { query: Query::OwnMounts, .. } => Outcome::Ok,
            // Their directory is procfs itself.
            Row { class: Class::Processes, .. } => Outcome::Empty,
            _ => Outcome::Absent,
        };
        assert_eq!(read(&mut host, row.query).outcome, expected, "{:?}", row.query);
    }
}

#[test]
fn a_root_that_cannot_be_opened_names_its_flag() {
    let tree = Tree::new();
    let missing = tree.at("missing");
    let cases: [(&str, Arguments); 6] = [
        ("--path.procfs", Arguments { procfs: missing.clone(), ..tree.arguments() }),
        ("--path.sysfs", Arguments { sysfs: missing.clone(), ..tree.arguments() }),
        ("--path.rootfs", Arguments { rootfs: Some(missing.clone()), ..tree.arguments() }),
        ("--path.udev.data", Arguments { udev: Some(missing.clone()), ..tree.arguments() }),
        ("--path.os-release", Arguments { os_release: Some(missing.clone()), ..tree.arguments() }),
        ("--filesystem.probe-directory", Arguments { probe_directories: vec![missing], ..tree.arguments() }),
    ];
    for (flag, arguments) in cases {
        let error = roots(&arguments).unwrap_err();
        assert!(
            error.starts_with(flag)
                && error.contains(if flag == "--path.os-release" {
                    "give a file"
                } else {
                    "give a directory"
                }),
            "{error}"
        );
    }
}

#[test]
fn a_tree_that_is_not_the_kernels_needs_the_view_flag() {
    let tree = Tree::new();
    let opened = roots(&tree.arguments()).unwrap();
    let error = View::find(&opened, ViewMode::Auto).unwrap_err();
    assert!(error.starts_with("--path.procfs") && error.contains("--view=host"), "{error}");
    let arguments = Arguments { procfs: "/proc".into(), ..tree.arguments() };
    let error = View::find(&roots(&arguments).unwrap(), ViewMode::Auto).unwrap_err();
    assert!(error.starts_with("--path.sysfs"), "{error}");
}

#[test]
fn wildcards_in_procfs_are_expanded_at_the_start_only() {
    let tree = Tree::with(&[
        ("proc/spl/kstat/zfs/fm", "counters"),
        ("proc/spl/kstat/zfs/tank/objset-0x36", "dataset"),
        ("proc/spl/kstat/zfs/tank/state", "ONLINE\n"),
        ("proc/spl/kstat/zfs/tank/txgs", "not asked for"),
    ]);
    let mut host = tree.host();
    tree.put("proc/spl/kstat/zfs/late/state", "ONLINE\n");
    tree.put("proc/spl/kstat/zfs/tank/state", "DEGRADED\n");
    let answer = read(&mut host, Query::Zfs);
    assert_eq!(answer.outcome, Outcome::Ok);
    let zfs = |file: &str| format!("proc/spl/kstat/zfs/{file}");
    assert_eq!(answer.text(&zfs("tank/state")).as_deref(), Some("DEGRADED\n"), "read again each time");
    assert_eq!(answer.text(&zfs("tank/objset-0x36")).as_deref(), Some("dataset"));
    let names = answer.names();
    for absent in ["late/state", "tank/io", "tank/txgs", "fm/io", "fm/state"] {
        assert!(!names.contains(&zfs(absent)), "{absent}: {names:?}");
    }
}

#[test]
fn wildcards_in_procfs_match_entries_and_keep_fixed_names() {
    let tree = Tree::with(&[("proc/a/1/b", ""), ("proc/a/2/b", ""), ("proc/a/3/b", "")]);
    let roots = roots(&tree.arguments()).unwrap();
    let names = |pattern: &'static str| {
        let source = Source { root: Root::Proc, pattern, kind: keyhole_policy::Kind::Text };
        let names = procfs_names(&roots, &source);
        names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
    };
    let both = ["proc/a/1/b", "proc/a/1/c", "proc/a/2/b", "proc/a/2/c", "proc/a/3/b", "proc/a/3/c"];
    assert_eq!(names("a/#/{b,c}"), both);
    assert_eq!(names("a/#/*"), ["proc/a/1/b", "proc/a/2/b", "proc/a/3/b"]);
    assert!(names("none/*").is_empty());
    assert_eq!(names("none/{x,y}"), ["proc/none/x", "proc/none/y"], "fixed names need not exist");
}

/// The answer of a row with a lower limit of entries.
fn read_at_most(tree: &Tree, query: Query, entries: usize) -> Answer {
    let row: &'static Row = Box::leak(Box::new(Row { entries, ..*keyhole_policy::row(query).unwrap() }));
    let roots = roots(&tree.arguments()).unwrap();
    let view = View::find(&roots, ViewMode::Host).unwrap();
    let shared = SharedState::new(SharedCells::new().unwrap(), 0, CACHED_FILES);
    read(&mut Host::open([row].into_iter(), &tree.arguments(), roots, view, shared), query)
}

#[test]
fn a_limit_leaves_whole_devices_and_counts_the_others() {
    let tree = Tree::new();
    for device in ["a", "b", "c", "d"] {
        for file in ["mtu", "operstate", "statistics/rx_nohandler"] {
            tree.put(format!("sys/class/net/{device}/{file}"), "1");
        }
    }
    let whole = read_at_most(&tree, Query::NetClass, 12);
    assert_eq!((whole.outcome, whole.left_out, whole.files.len()), (Outcome::Ok, 0, 12));
    for (entries, left_out) in [(11, 1), (9, 1), (8, 2), (7, 2), (1, 4)] {
        let cut = read_at_most(&tree, Query::NetClass, entries);
        assert_eq!((cut.outcome, cut.left_out, cut.files.len()), (Outcome::Truncated, left_out, entries + 1));
        let met = ["a", "b", "c", "d"][4 - left_out as usize];
        assert_eq!(cut.errno(&format!("sys/class/net/{met}")), Some(Errno::FBIG), "{entries}");
        let whole_ones = 4 - left_out as usize;
        let expected: Vec<String> = whole.names().into_iter().take(3 * whole_ones).collect();
        assert_eq!(
            cut.names()[..3 * whole_ones],
            expected,
            "device by device, whatever pattern names a file"
        );
    }
}

#[test]
fn datasets_beyond_the_limit_are_counted_and_not_opened() {
    let tree = Tree::new();
    (0..9).for_each(|number| tree.put(format!("proc/spl/kstat/zfs/tank/objset-{number}"), "1"));
    let cut = read_at_most(&tree, Query::Zfs, 17);
    // The eleven files of ZFS itself are reported as absent.
    assert_eq!((cut.outcome, cut.left_out, cut.files.len()), (Outcome::Truncated, 3, 17));
    assert_eq!(read_at_most(&tree, Query::Zfs, 20).left_out, 0);
}

#[test]
fn a_directory_without_entries_is_empty_and_a_missing_one_absent() {
    let tree = Tree::with(&[("proc/1/stat", "")]);
    fs::create_dir_all(tree.at("sys/class/hwmon")).unwrap();
    fs::create_dir_all(tree.at("sys/class/nvme/nvme-fabrics")).unwrap();
    fs::write(tree.at("sys/class/thermal"), "no directory").unwrap();
    let mut host = tree.host();
    for _ in 0..2 {
        assert_eq!(read(&mut host, Query::Hwmon).outcome, Outcome::Empty);
        assert_eq!(
            read(&mut host, Query::Nvme).outcome,
            Outcome::Empty,
            "what is in it is none of its devices"
        );
        assert_eq!(read(&mut host, Query::Tape).outcome, Outcome::Absent);
        assert_eq!(read(&mut host, Query::Thermal).outcome, Outcome::Absent);
    }
    let mut scratch = Scratch::default();
    for _ in 0..2 {
        assert_eq!(read_with(&mut host, Query::Hwmon, &mut scratch).outcome, Outcome::Empty, "listed once");
        assert_eq!(read_with(&mut host, Query::Tape, &mut scratch).outcome, Outcome::Absent);
    }
    tree.put("sys/class/nvme/nvme0/model", "m");
    assert_eq!(read(&mut host, Query::Nvme).outcome, Outcome::Ok);
}

#[test]
fn procfs_leaves_the_reserved_descriptors() {
    alone("procfs_leaves_the_reserved_descriptors", || {
        let tree = Tree::new();
        let path = |number| format!("proc/spl/kstat/zfs/tank/objset-{number}");
        (0..300).for_each(|number| tree.put(path(number), "1"));
        soft_nofile(200);
        let mut host = tree.host();
        let answer = read(&mut host, Query::Zfs);
        assert_eq!(answer.outcome, Outcome::Truncated, "not a shorter answer");
        let opened = (0..300).filter(|number| answer.errno(&path(*number)) != Some(Errno::MFILE)).count();
        assert!((100..200 - RESERVED_DESCRIPTORS as usize).contains(&opened), "{opened}");
    });
}

/// A process with many threads, so that its list of memory mappings is long.
struct Many(Child);

impl Many {
    const VARIABLE: &str = "KEYHOLE_TEST_MANY_THREADS";

    /// Starts it; `test` is the name of the caller, which calls [`Self::be`] first.
    fn start(test: &str) -> Self {
        let many = Self(this_test(test, Self::VARIABLE).stdout(Stdio::null()).spawn().unwrap());
        let tasks = || fs::read_dir(format!("/proc/{}/task", many.0.id())).map_or(0, Iterator::count);
        soon("many threads", || tasks() > 100);
        many
    }

    /// In the process itself: waits to be killed.
    fn be() {
        if std::env::var_os(Self::VARIABLE).is_some() {
            (0..120).for_each(|_| drop(thread::spawn(|| thread::sleep(Duration::from_secs(60)))));
            thread::sleep(Duration::from_secs(60));
        }
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn soon(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_file_that_fails_midway_ends_with_its_errno() {
    const TEST: &str = "a_file_that_fails_midway_ends_with_its_errno";
    Many::be();
    let many = Many::start(TEST);
    let tree = Tree::new();
    symlink(format!("/proc/{}/smaps", many.0.id()), tree.at("proc/stat")).unwrap();
    let (mut broker, pipe) = io::pipe().unwrap();
    let reader = thread::spawn(move || {
        let mut host = tree.host();
        let mut out = Output::new(pipe.as_fd());
        out.begin(Query::Stat);
        let (outcome, left_out, skipped) =
            host.read(Query::Stat, &mut Scratch::default(), &mut out).unwrap().unwrap();
        out.end(outcome, Duration::from_nanos(1), left_out, skipped, false).unwrap();
    });
    // The pipe is full before the end of the file, and the process is killed before the rest is read.
    let mut written = vec![0];
    broker.read_exact(&mut written).unwrap();
    thread::sleep(Duration::from_millis(50));
    drop(many);
    broker.read_to_end(&mut written).unwrap();
    reader.join().unwrap();
    let answer = answer(Query::Stat, &written);
    let [chunks @ .., last] = &answer.files[..] else { panic!("{answer:?}") };
    assert!(!chunks.is_empty() && chunks.iter().all(|chunk| bytes(chunk).len() == CHUNK_BYTES));
    let errno = Errno::SRCH.raw_os_error() as u32;
    assert_eq!((name(last), &last.content), (&b"proc/stat"[..], &Some(file::Content::Errno(errno))));
    assert_eq!(answer.outcome, Outcome::Ok);
}

#[test]
fn files_that_another_reader_hangs_in_are_skipped_and_the_others_read() {
    let tree = Tree::with(&[
        ("proc/1/net/udp", "4"),
        ("proc/1/net/udp6", "6"),
        ("sys/class/power_supply/AC/online", "1"),
        ("sys/class/power_supply/BAT0/capacity", "99"),
        ("sys/block/sda/queue/rotational", "0"),
    ]);
    let hung: [&[u8]; 3] = [b"proc/1/net/udp", b"sys/class/power_supply/BAT0/capacity", b"sys/block"];
    let mut host = host_beside(&tree.arguments(), ViewMode::Host, &hung);
    for (query, path, other) in [
        (Query::Udp, "proc/1/net/udp", Some("proc/1/net/udp6")),
        (
            Query::PowerSupply,
            "sys/class/power_supply/BAT0/capacity",
            Some("sys/class/power_supply/AC/online"),
        ),
        (Query::Block, "sys/block", None),
    ] {
        let answer = read(&mut host, query);
        assert!(answer.skipped, "{query:?}");
        assert_eq!(answer.errno(path), Some(Errno::INPROGRESS), "{answer:?}");
        assert!(other.is_none_or(|other| answer.text(other).is_some()), "{answer:?}");
    }
    assert!(!read(&mut host, Query::OwnMounts).skipped);
}

/// The mount points of an answer with the errno of each, in order. For one that may hang, EINPROGRESS comes first.
fn numbers(answer: &Answer) -> Vec<(String, Option<Errno>)> {
    let name = |numbers: &v1::FileSystem| match numbers.name.as_ref().unwrap() {
        file_system::Name::Path(path) => path.clone(),
        file_system::Name::RawPath(path) => panic!("{path:?}"),
    };
    let errno = |errno: u32| (errno != 0).then(|| Errno::from_raw_os_error(errno as i32));
    let all = answer.file_systems.iter().map(|numbers| (name(numbers), errno(numbers.errno)));
    let mut numbers: Vec<_> = all.collect();
    numbers.dedup_by(|later, first| {
        let is_same = later.0 == first.0;
        if is_same {
            assert_eq!(first.1, Some(Errno::INPROGRESS));
            first.1 = later.1;
        }
        is_same
    });
    numbers
}

/// Mounts of two servers, of two FUSE programs and of the kernel, below and above each other.
const MOUNTINFO: &str = "\
1 0 0:31 / /nfs/a rw - nfs4 nas:/a rw,addr=10.0.0.1
2 0 0:32 / / rw - overlay overlay rw
3 0 0:33 / /nfs/b rw - nfs NAS:/b rw,mountaddr=10.0.0.9,addr=10.0.0.1
4 0 0:34 / /nfs/alias rw - nfs4 nas.example.org:/c rw,addr=10.0.0.1
5 0 0:35 / /other rw - nfs4 other:/a rw,addr=10.0.0.2
6 0 0:36 / /fuse rw - fuse.x x rw
7 0 0:37 / /nfs/a/local rw - tmpfs x rw
8 0 8:1 / /var rw - xfs /dev/sda1 rw
9 0 0:38 / /covered rw - nfs4 third:/a rw
10 0 8:2 / /covered rw - ext4 /dev/sdb1 rw
11 0 0:39 / /tank rw - zfs tank/data rw
12 0 8:3 / /boot rw - ext4 /dev/sda2 rw
13 0 8:2 /sub /bind rw - ext4 /dev/sdb1 rw
";
const MOUNT_POINTS: [&str; 12] = [
    "/",
    "/var",
    "/tank",
    "/boot",
    "/bind",
    "/nfs/a",
    "/nfs/b",
    "/nfs/alias",
    "/other",
    "/fuse",
    "/nfs/a/local",
    "/covered",
];

#[test]
fn local_file_systems_are_read_first_and_a_hung_server_is_skipped_under_all_its_names() {
    let tree = Tree::with(&[("proc/1/mountinfo", MOUNTINFO)]);
    MOUNT_POINTS.iter().for_each(|dir| fs::create_dir_all(tree.at(format!("root{dir}"))).unwrap());
    let arguments = Arguments { rootfs: Some(tree.at("root")), ..tree.arguments() };
    let asked = |point: &str| {
        mounts(MOUNTINFO.as_bytes()).iter().find(|mount| mount.point == point.as_bytes()).unwrap().hashes()
    };
    let (hangs, server, many) = (Errno::INPROGRESS, Errno::ALREADY, Errno::TOOMANYREFS);
    let above_all = [hash(b"/"), 0, 0];
    let may_hang = &MOUNT_POINTS[5..];
    for (hanging, expected) in [
        (vec![], vec![]),
        (
            vec![asked("/nfs/a")],
            vec![(hangs, vec!["/nfs/a"]), (server, vec!["/nfs/b", "/nfs/alias", "/nfs/a/local"])],
        ),
        // It was unmounted meanwhile, but its server is the same.
        (vec![[1, asked("/nfs/b")[1], 0]], vec![(server, vec!["/nfs/a", "/nfs/b", "/nfs/a/local"])]),
        // If a local file system hangs, others of its type are still read.
        (vec![asked("/boot")], vec![(hangs, vec!["/boot"])]),
        (vec![asked("/nfs/a/local")], vec![(hangs, vec!["/nfs/a/local"])]),
        (vec![asked("/covered")], vec![(hangs, vec!["/covered"])]),
        (vec![asked("/bind")], vec![(hangs, vec!["/bind"])]),
        // So many readers hang that the last one reads only local file systems.
        (vec![[1, 0, 0], [2, 0, 0], [3, 0, 0]], vec![(many, may_hang.to_vec())]),
        (vec![asked("/fuse"), [2, 0, 0], [3, 0, 0]], vec![(hangs, vec!["/fuse"]), (many, may_hang.to_vec())]),
        (vec![above_all], vec![(hangs, vec!["/"]), (server, MOUNT_POINTS.to_vec())]),
    ] {
        let mut host = host_beside_readers(&arguments, ViewMode::Host, &hanging);
        let answer = read(&mut host, Query::RootFileSystems);
        let why = |point: &str| {
            expected.iter().find(|(_, points)| points.contains(&point)).map(|(errno, _)| *errno)
        };
        let expected: Vec<_> = MOUNT_POINTS.map(|point| (point.to_owned(), why(point))).into();
        assert_eq!(numbers(&answer), expected, "while {hanging:?} hangs");
        assert_eq!(answer.skipped, !hanging.is_empty());
        assert_eq!(answer.outcome, if hanging == [above_all] { Outcome::Stuck } else { Outcome::Ok });
    }
}

#[test]
fn a_mount_that_may_hang_is_reported_before_its_statfs() {
    let mountinfo =
        "1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / /nfs rw - nfs4 s:/ rw\n3 1 0:9 / /o rw - overlay overlay rw\n";
    let tree = Tree::with(&[("proc/1/mountinfo", mountinfo), ("root/nfs/x", ""), ("root/o/x", "")]);
    let mut host = host(&Arguments { rootfs: Some(tree.at("root")), ..tree.arguments() }, ViewMode::Host);
    let answer = read(&mut host, Query::RootFileSystems);
    let errnos: Vec<u32> = answer.file_systems.iter().map(|numbers| numbers.errno).collect();
    assert_eq!(
        errnos,
        [0, Errno::INPROGRESS.raw_os_error() as u32, 0, 0],
        "of the overlay it would be too much"
    );
}

#[test]
fn a_probe_directory_that_disappears_or_hangs_affects_no_other() {
    let tree = Tree::with(&[("a/x", ""), ("b/x", "")]);
    let (a, b) = (tree.at("a"), tree.at("b"));
    let arguments = Arguments { probe_directories: vec![a.clone(), b.clone()], ..tree.arguments() };
    let mut host = host(&arguments, ViewMode::Host);
    fs::remove_dir_all(&a).unwrap();
    let name = |path: &PathBuf| path.to_str().unwrap().to_owned();
    assert_eq!(
        numbers(&read(&mut host, Query::ProbeDirectories)),
        [(name(&a), Some(Errno::NOENT)), (name(&b), None)]
    );
    // The first reader refuses to start with it. A later one starts, and so does one while another reader hangs.
    assert!(roots(&arguments).is_err());
    let later = SharedState::new(page(&[]), 0, 0);
    later.set_ready();
    for shared in [later, SharedState::new(page(&[[1, 0, 0]]), 0, 0)] {
        assert!(Roots::open(&arguments, &[Class::Mounts], &shared).is_ok());
    }
    // Only readers of the class mounts open it.
    let first = SharedState::new(page(&[]), 0, 0);
    assert!(Roots::open(&arguments, &[Class::Procfs], &first).is_ok());
    assert!(Roots::open(&arguments, &[Class::Mounts], &first).is_err());
}

#[test]
fn a_probe_directory_may_be_a_symbolic_link() {
    let tree = Tree::new();
    symlink("/proc", tree.at("link")).unwrap();
    let arguments = Arguments { probe_directories: vec![tree.at("link")], ..tree.arguments() };
    let mut host = host(&arguments, ViewMode::Host);
    assert_numbers_of(Path::new("/proc"), || {
        read(&mut host, Query::ProbeDirectories).file_systems.pop().unwrap()
    });
}

#[test]
fn a_probe_directory_in_which_another_reader_hangs_is_skipped() {
    let tree = Tree::with(&[("a/x", ""), ("b/x", "")]);
    let (a, b) = (tree.at("a"), tree.at("b"));
    let arguments = Arguments { probe_directories: vec![a.clone(), b.clone()], ..tree.arguments() };
    let mut host = host_beside(&arguments, ViewMode::Host, &[a.as_os_str().as_bytes()]);
    let answer = read(&mut host, Query::ProbeDirectories);
    let name = |path: PathBuf| path.to_str().unwrap().to_owned();
    assert_eq!(numbers(&answer), [(name(a), Some(Errno::INPROGRESS)), (name(b), None)]);
    assert!(answer.skipped);
}

#[test]
fn a_file_that_appears_is_a_change_and_one_that_was_there_is_none() {
    let tree = Tree::with(&[("proc/stat", "cpu")]);
    let host = tree.host();
    assert_eq!(host.changed_since_start(), Change::No);
    for unrelated in ["proc/nothing-asked-for", "sys/class/net/eth0/mtu", "proc/20/stat"] {
        tree.put(unrelated, "");
        assert_eq!(host.changed_since_start(), Change::No, "{unrelated}");
    }
    fs::remove_file(tree.at("proc/stat")).unwrap();
    assert_eq!(host.changed_since_start(), Change::No, "what has gone brings nothing new");
    tree.put("proc/sys/net/netfilter/nf_conntrack_max", "1");
    assert_eq!(host.changed_since_start(), Change::Yes);
    assert_eq!(tree.host().changed_since_start(), Change::No);
}

#[test]
fn a_change_is_visible_to_the_readers_of_every_class() {
    for class in Class::ALL {
        let tree = Tree::with(&[("proc/1/stat", "1 (init) S")]);
        let arguments = every_root(&tree);
        let roots = roots(&arguments).unwrap();
        let view = View::find(&roots, ViewMode::Host).unwrap();
        let rows = TABLE.iter().filter(|row| row.class == class);
        let shared = SharedState::new(SharedCells::new().unwrap(), 0, 0);
        let mut host = Host::open(rows, &arguments, roots, view, shared);
        host.roots.retain_class_roots(class);
        assert_eq!(host.changed_since_start(), Change::No, "{class:?}");
        // As if something was mounted over it.
        fs::rename(tree.at("sys"), tree.at("old")).unwrap();
        fs::create_dir(tree.at("sys")).unwrap();
        assert_eq!(host.changed_since_start(), Change::Yes, "{class:?}");
    }
}

#[test]
fn a_replaced_root_is_a_change_and_a_missing_one_is_not() {
    for root in ["proc", "sys"] {
        let tree = Tree::new();
        let host = tree.host();
        fs::rename(tree.at(root), tree.at("old")).unwrap();
        assert_eq!(host.changed_since_start(), Change::No, "a fresh reader of {root} could not start");
        fs::create_dir(tree.at(root)).unwrap();
        assert_eq!(host.changed_since_start(), Change::Yes, "{root}");
    }
}

#[test]
fn pid_1_becoming_visible_is_a_change() {
    let tree = Tree::new();
    let host = tree.host();
    tree.put("proc/1/stat", "1 (init) S");
    assert_eq!(host.changed_since_start(), Change::Yes);
    assert_eq!(tree.host().changed_since_start(), Change::No);
}

#[test]
fn a_directory_of_a_wildcard_may_always_have_changed() {
    let tree = Tree::new();
    let host = tree.host();
    assert_eq!(host.changed_since_start(), Change::No);
    fs::create_dir_all(tree.at("proc/spl/kstat/zfs")).unwrap();
    assert_eq!(host.changed_since_start(), Change::Unknown);
    assert_eq!(tree.host().changed_since_start(), Change::Unknown, "a sandboxed reader cannot list it");
}

/// Replaces an open file by one whose reads fail with EIO, as after its module was unloaded: this process' memory, whose
/// first page is not mapped.
fn remove_from_kernel(host: &mut Host, name: &str) {
    let files = host.rows.iter_mut().flat_map(|row| &mut row.sources);
    let fixed = files.filter_map(|source| match &mut source.opened {
        Opened::Fixed(files) => files.iter_mut().find(|file| file.name == name.as_bytes()),
        _ => None,
    });
    fixed.for_each(|file| file.opened = Ok(File::open("/proc/self/mem").unwrap().into()));
}

#[test]
fn a_file_that_the_kernel_removed_is_absent_and_one_that_fails_is_an_error() {
    for (query, path) in [
        (Query::Ipvs, "proc/1/net/ip_vs"),
        (Query::Conntrack, "proc/1/net/stat/nf_conntrack"),
        (Query::Drbd, "proc/drbd"),
        (Query::Md, "proc/mdstat"),
        (Query::Zfs, "proc/spl/kstat/zfs/arcstats"),
    ] {
        let tree = Tree::with(&[(path, "1\n")]);
        let mut host = tree.host();
        assert_eq!(read(&mut host, query).outcome, Outcome::Ok, "{path}");
        assert!(host.changed_since_start() != Change::Yes, "{path}");
        remove_from_kernel(&mut host, path);
        let failed = read(&mut host, query);
        assert_eq!((failed.errno(path), failed.outcome), (Some(Errno::IO), Outcome::Absent), "{path}");

        fs::remove_file(tree.at(path)).unwrap();
        let removed = read(&mut host, query);
        assert_eq!((removed.errno(path), removed.outcome), (Some(Errno::NOENT), Outcome::Absent), "{path}");
        // The next reader reports it as absent, and checks whether it appears.
        assert_eq!(host.changed_since_start(), Change::Yes, "{path}");
        assert_ne!(tree.host().changed_since_start(), Change::Yes, "{path}");
        tree.put(path, "2\n");
        assert_eq!(read(&mut tree.host(), query).text(path).unwrap(), "2\n", "{path}");
    }
}

#[test]
fn files_of_a_namespace_are_read_only_in_the_hosts() {
    const COUNT: &str = "proc/sys/net/netfilter/nf_conntrack_count";
    let tree = Tree::with(&[
        (COUNT, "7\n"),
        ("proc/1/net/stat/nf_conntrack", "entries\n"),
        ("proc/sys/net/core/somaxconn", "4096\n"),
        ("proc/sys/kernel/pid_max", "32768\n"),
        ("proc/sys/kernel/sem", "32000 1024000000 500 32000\n"),
        ("proc/sys/kernel/threads-max", "7801\n"),
        ("proc/sys/user/max_user_namespaces", "3900\n"),
        ("proc/sys/vm/swappiness", "60\n"),
    ]);
    let arguments = tree.arguments();
    let all = View::find(&roots(&arguments).unwrap(), ViewMode::Host).unwrap();
    let none = crate::view::HostNamespaces { net: false, mnt: false, ipc: false, pid: false, user: false };
    let answers = |host_namespaces| {
        let opened = roots(&arguments).unwrap();
        let page = SharedState::new(SharedCells::new().unwrap(), 0, CACHED_FILES);
        let mut host = Host::open(TABLE.iter(), &arguments, opened, View { host_namespaces, ..all }, page);
        let queries = [Query::Conntrack, Query::NetSysctl, Query::NamespaceSysctl, Query::Sysctl];
        let answers = queries.map(|query| read(&mut host, query));
        (answers[0].text(COUNT), answers.map(|answer| answer.outcome), reason(&host, Query::NetSysctl))
    };
    use Outcome::{ContainerView, Ok};
    assert_eq!(answers(all.host_namespaces), (Some("7\n".into()), [Ok; 4], None));
    let (count, outcomes, reason) = answers(none);
    assert_eq!((count, outcomes), (None, [Ok, ContainerView, ContainerView, Ok]));
    assert!(reason.unwrap().contains("not known to be in the host's net namespace"));
    // Sources of several namespaces: only those of the host's namespaces are read.
    let namespaced = |host_namespaces| {
        let opened = roots(&arguments).unwrap();
        let page = SharedState::new(SharedCells::new().unwrap(), 0, CACHED_FILES);
        let mut host = Host::open(TABLE.iter(), &arguments, opened, View { host_namespaces, ..all }, page);
        let answer = read(&mut host, Query::NamespaceSysctl);
        let files = ["kernel/pid_max", "kernel/sem", "user/max_user_namespaces"];
        (answer.outcome, files.map(|file| answer.text(&format!("proc/sys/{file}")).is_some()))
    };
    assert_eq!(namespaced(all.host_namespaces), (Ok, [true; 3]));
    assert_eq!(
        namespaced(crate::view::HostNamespaces { user: false, ..all.host_namespaces }),
        (Ok, [true, true, false])
    );
    assert_eq!(namespaced(crate::view::HostNamespaces { user: true, ..none }), (Ok, [false, false, true]));
    assert_eq!(namespaced(none).0, ContainerView);

    // One of the two limits of processes depends on the namespace.
    let limits = |host_namespaces| {
        let opened = roots(&arguments).unwrap();
        let page = SharedState::new(SharedCells::new().unwrap(), 0, CACHED_FILES);
        let mut host = Host::open(TABLE.iter(), &arguments, opened, View { host_namespaces, ..all }, page);
        let answer = read(&mut host, Query::ProcessLimits);
        (answer.text("proc/sys/kernel/pid_max"), answer.text("proc/sys/kernel/threads-max"))
    };
    let threads = || Some("7801\n".to_owned());
    assert_eq!(limits(all.host_namespaces), (Some("32768\n".into()), threads()));
    assert_eq!(limits(crate::view::HostNamespaces { pid: false, ..all.host_namespaces }), (None, threads()));
}
