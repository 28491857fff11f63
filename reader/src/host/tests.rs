//! What is read of trees that look like a host's. Kernel behaviour that a directory cannot show (ENODEV of a held
//! descriptor, reads of a page at a time) is left to the tests with the real binary.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyhole_proto::Encoded;
use keyhole_proto::v1::{file, file_system};
use prost::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::kept::MISSING_READINGS;
use super::reading::{LISTING_LIMIT, NAMES_LIMIT};
use super::*;
use crate::part::Part;
use crate::view::Choice;

/// A directory with `proc` and `sys`, and whatever else a test puts there.
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

    fn paths(&self) -> Paths {
        Paths { procfs: self.at("proc"), sysfs: self.at("sys"), ..Paths::default() }
    }

    fn host(&self) -> Host {
        host(&self.paths(), Choice::Host)
    }
}

fn host(paths: &Paths, view: Choice) -> Host {
    let roots = Roots::open(paths).unwrap();
    let view = View::find(&roots, view).unwrap();
    Host::open(roots, view)
}

/// Everything that one read gave.
#[derive(Debug)]
struct Answer {
    outcome: Outcome,
    files: Vec<v1::File>,
    file_systems: Vec<v1::FileSystem>,
}

fn read(host: &Host, query: Query) -> Answer {
    // As a client has it.
    let mut part = Part::of(query);
    let outcome = host.read(query, &mut Scratch::default(), &mut |item| {
        part.push(&item);
        ControlFlow::Continue(())
    });
    let v1::ReadResponse { files, file_systems, .. } = Message::decode(&*Encoded::from(part).0).unwrap();
    Answer { outcome, files, file_systems }
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
    /// The names of what came, each once, in order.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.files.iter().map(|file| name(file).escape_ascii().to_string()).collect();
        names.dedup();
        names
    }

    fn parts(&self, path: &str) -> Vec<&v1::File> {
        self.files.iter().filter(|file| name(file) == path.as_bytes()).collect()
    }

    /// A file, its parts put together; none when it did not come.
    fn text(&self, path: &str) -> Option<String> {
        let parts = self.parts(path);
        let whole = parts.iter().flat_map(|part| bytes(part)).copied().collect();
        (!parts.is_empty()).then(|| String::from_utf8(whole).unwrap())
    }

    fn errno(&self, path: &str) -> Option<Errno> {
        match self.parts(path)[..] {
            [v1::File { content: Some(file::Content::Errno(errno)), .. }] => {
                Some(Errno::from_raw_os_error(*errno as i32))
            }
            _ => None,
        }
    }
}

/// Runs `act` on a thread without capabilities, to which the modes of its own files apply even as root.
fn without_capabilities(act: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        let dropped = keyhole_os::capabilities::drop_all();
        assert!(dropped.in_force, "{}", dropped.detail);
        act();
    });
    thread.join().unwrap();
}

/// Runs `act` in a process of its own, for what concerns all of a process; `test` is the test that calls.
fn alone(test: &str, act: impl FnOnce()) {
    const ALONE: &str = "KEYHOLE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return act();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("host::tests::{test}"), "--test-threads=1", "--nocapture"])
        .env(ALONE, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{output:?}");
}

fn soft_nofile(files: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum }).unwrap();
}

/// How many files the host holds below sysfs, and how many more it may.
fn held_and_spare(host: &Host) -> (usize, usize) {
    (host.slots.iter().map(|slot| slot.kept.lock().unwrap().held().0).sum(), host.spare_files.left())
}

/// The same of directories.
fn held_and_spare_dirs(host: &Host) -> (usize, usize) {
    (host.slots.iter().map(|slot| slot.kept.lock().unwrap().held().1).sum(), host.spare_dirs.left())
}

#[test]
fn a_held_file_is_read_afresh_from_its_start_each_time() {
    let tree = Tree::with(&[("proc/loadavg", "1 2 3\n"), ("sys/class/power_supply/AC/online", "1\n")]);
    let host = tree.host();
    for (load, online) in [("0.10 0.20 0.30 1/100 4711\n", "1\n"), ("9\n", "0\n"), ("", "")] {
        tree.put("proc/loadavg", load);
        tree.put("sys/class/power_supply/AC/online", online);
        assert_eq!(read(&host, Query::Loadavg).text("proc/loadavg").unwrap(), load);
        let supply = read(&host, Query::PowerSupply);
        assert_eq!(supply.text("sys/class/power_supply/AC/online").unwrap(), online);
        assert_eq!(supply.outcome, Outcome::Ok);
    }
}

#[test]
fn a_long_file_comes_in_parts_that_concatenate() {
    // A two-byte character lies across the first cut: those parts are no text, the whole is.
    let text = format!("{}é{}", "x".repeat(PART_BYTES - 1), "y".repeat(2 * PART_BYTES));
    let tree = Tree::with(&[("proc/1/net/dev", &text)]);
    let answer = read(&tree.host(), Query::NetDev);
    assert_eq!(answer.outcome, Outcome::Ok);
    let parts = answer.parts("proc/1/net/dev");
    assert_eq!(parts.len(), 4);
    assert!(parts.iter().all(|part| bytes(part).len() <= PART_BYTES && !part.truncated));
    assert!(answer.text("proc/1/net/dev").unwrap() == text);
}

#[test]
fn a_byte_limit_cuts_and_says_so() {
    for (path, query, limit) in [
        ("proc/loadavg", Query::Loadavg, 4096),
        ("sys/class/power_supply/AC/online", Query::PowerSupply, 4096),
        ("proc/stat", Query::Stat, 1 << 20),
        ("proc/diskstats", Query::Diskstats, 4 << 20),
    ] {
        let tree = Tree::with(&[(path, &"z".repeat(limit))]);
        let whole = read(&tree.host(), query);
        assert_eq!(whole.outcome, Outcome::Ok, "{path} of just the limit");
        assert_eq!(whole.text(path).unwrap().len(), limit);
        assert!(whole.files.iter().all(|file| !file.truncated), "{path}");

        tree.put(path, "z".repeat(limit + 1));
        let cut = read(&tree.host(), query);
        assert_eq!(cut.outcome, Outcome::Truncated, "{path}");
        assert_eq!(cut.text(path).unwrap().len(), limit);
        let (last, before) = cut.files.split_last().unwrap();
        assert!(last.truncated && before.iter().all(|file| !file.truncated), "{path}: the last part says so");
    }
}

#[test]
fn an_empty_file_is_a_file() {
    let tree = Tree::with(&[("proc/loadavg", "")]);
    let answer = read(&tree.host(), Query::Loadavg);
    assert_eq!((answer.outcome, answer.text("proc/loadavg")), (Outcome::Ok, Some(String::new())));
}

#[test]
fn what_is_not_utf8_comes_raw_and_whole() {
    let tree = Tree::new();
    let supply = Path::new("sys/class/power_supply").join(std::ffi::OsStr::from_bytes(b"a\xff\n\"c"));
    tree.put(supply.join("model_name"), b"\xfe\x00\n");
    let answer = read(&tree.host(), Query::PowerSupply);
    assert_eq!(answer.outcome, Outcome::Ok);
    let [file] = &answer.files[..] else { panic!("{answer:?}") };
    assert_eq!(
        file.name,
        Some(file::Name::RawPath(b"sys/class/power_supply/a\xff\n\"c/model_name".to_vec()))
    );
    assert_eq!(file.content, Some(file::Content::Raw(b"\xfe\x00\n".to_vec())));
}

#[test]
fn a_wildcard_finds_what_has_come_and_forgets_what_has_gone() {
    let tree = Tree::with(&[("sys/class/power_supply/AC/online", "1")]);
    let host = tree.host();
    assert_eq!(read(&host, Query::PowerSupply).names(), ["sys/class/power_supply/AC/online"]);

    tree.put("sys/class/power_supply/BAT0/capacity", "99");
    let both = read(&host, Query::PowerSupply);
    assert_eq!(
        both.names(),
        ["sys/class/power_supply/AC/online", "sys/class/power_supply/BAT0/capacity"],
        "sorted"
    );

    fs::remove_dir_all(tree.at("sys/class/power_supply/AC")).unwrap();
    assert_eq!(read(&host, Query::PowerSupply).names(), ["sys/class/power_supply/BAT0/capacity"]);
    assert_eq!(held_and_spare(&host).0, 1, "what has gone is not held");

    fs::remove_dir_all(tree.at("sys/class/power_supply")).unwrap();
    assert_eq!(read(&host, Query::PowerSupply).outcome, Outcome::Absent);
    assert_eq!(held_and_spare(&host).0, 0);
}

#[test]
fn what_a_device_did_not_have_is_found_a_few_readings_later_and_on_a_new_device_at_once() {
    let tree = Tree::with(&[("sys/class/power_supply/BAT0/capacity", "99")]);
    let host = tree.host();
    let capacities = |readings| (0..readings).map(|_| read(&host, Query::PowerSupply).names().len()).max();
    assert_eq!(capacities(1), Some(1));
    tree.put("sys/class/power_supply/BAT0/status", "Full");
    assert_eq!(capacities(MISSING_READINGS), Some(2), "looked for again");

    fs::remove_dir_all(tree.at("sys/class/power_supply/BAT0")).unwrap();
    for attribute in ["capacity", "status", "health"] {
        tree.put(Path::new("new").join(attribute), "1");
    }
    fs::rename(tree.at("new"), tree.at("sys/class/power_supply/BAT0")).unwrap();
    assert_eq!(capacities(1), Some(3), "another device under the same name");
}

#[test]
fn one_replaced_under_its_name_is_read_anew() {
    let tree = Tree::with(&[("sys/class/power_supply/BAT0/capacity", "old")]);
    let host = tree.host();
    let capacity = || read(&host, Query::PowerSupply).text("sys/class/power_supply/BAT0/capacity").unwrap();
    assert_eq!(capacity(), "old");
    tree.put("new/capacity", "new");
    fs::remove_dir_all(tree.at("sys/class/power_supply/BAT0")).unwrap();
    fs::rename(tree.at("new"), tree.at("sys/class/power_supply/BAT0")).unwrap();
    assert_eq!(capacity(), "new");
}

#[test]
fn interfaces_that_swap_names_keep_their_values() {
    let tree = Tree::with(&[("sys/class/net/eth0/mtu", "1400"), ("sys/class/net/eth1/mtu", "1300")]);
    let host = tree.host();
    let mtus = || {
        let answer = read(&host, Query::NetClass);
        ["sys/class/net/eth0/mtu", "sys/class/net/eth1/mtu"].map(|path| answer.text(path).unwrap())
    };
    assert_eq!(mtus(), ["1400", "1300"]);
    // As `ip link set name` does: the kernel goes on serving a held descriptor of a device that was renamed.
    for (from, to) in [("eth0", "tmp"), ("eth1", "eth0"), ("tmp", "eth1")] {
        fs::rename(tree.at("sys/class/net").join(from), tree.at("sys/class/net").join(to)).unwrap();
    }
    assert_eq!(mtus(), ["1300", "1400"]);
    let (held, spare) = held_and_spare(&host);
    assert_eq!(held, 2);
    assert_eq!(mtus(), ["1300", "1400"]);
    assert_eq!(held_and_spare(&host), (held, spare), "and they are held again");
}

#[test]
fn a_link_where_a_file_should_be_is_not_followed() {
    let tree = Tree::with(&[("sys/class/power_supply/AC/online", "1"), ("secret", "secret")]);
    symlink(tree.at("secret"), tree.at("sys/class/power_supply/AC/leak")).unwrap();
    symlink("online", tree.at("sys/class/power_supply/AC/near")).unwrap();
    let answer = read(&tree.host(), Query::PowerSupply);
    assert_eq!(answer.names(), ["sys/class/power_supply/AC/online"]);
    assert_eq!(answer.outcome, Outcome::Ok);
}

#[test]
fn a_link_on_the_way_is_followed_since_sysfs_is_made_of_them() {
    let tree = Tree::with(&[("sys/devices/virtual/net/lo/mtu", "65536"), ("elsewhere/mtu", "1")]);
    fs::create_dir_all(tree.at("sys/class/net")).unwrap();
    symlink("../../devices/virtual/net/lo", tree.at("sys/class/net/lo")).unwrap();
    // One that leaves the root is followed too: Landlock alone stops it (tests/sandbox.rs), and no one but the
    // kernel makes links in sysfs.
    symlink(tree.at("elsewhere"), tree.at("sys/class/net/out")).unwrap();
    let answer = read(&tree.host(), Query::NetClass);
    assert_eq!(answer.text("sys/class/net/lo/mtu").unwrap(), "65536");
    assert_eq!(answer.text("sys/class/net/out/mtu").unwrap(), "1");
}

#[test]
fn the_target_of_a_link_is_told_where_a_row_asks_for_links() {
    let tree = Tree::with(&[("sys/class/hwmon/hwmon1/name", "not a link")]);
    symlink("../../devices/platform/coretemp.0/hwmon/hwmon0", tree.at("sys/class/hwmon/hwmon0")).unwrap();
    symlink(std::ffi::OsStr::from_bytes(b"../\xff"), tree.at("sys/class/hwmon/hwmon2")).unwrap();
    let answer = read(&tree.host(), Query::Hwmon);
    let content = |path| answer.parts(path)[0].content.clone().unwrap();
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
    assert_eq!(read(&tree.host(), Query::PowerSupply).outcome, Outcome::Absent);
    let load = read(&tree.host(), Query::Loadavg);
    assert_eq!(load.outcome, Outcome::Absent);
    assert_eq!(
        load.errno("proc/loadavg"),
        Some(Errno::ISDIR),
        "a file that is always there says why it is not"
    );
}

#[test]
fn an_entry_limit_cuts_and_says_so() {
    let tree = Tree::new();
    let limit = keyhole_policy::row(Query::Clocksource).unwrap().entries;
    for number in 0..limit {
        tree.put(format!("sys/devices/system/clocksource/clocksource{number:02}/current_clocksource"), "tsc");
    }
    let just = read(&tree.host(), Query::Clocksource);
    assert_eq!((just.outcome, just.files.len()), (Outcome::Ok, limit));
    tree.put("sys/devices/system/clocksource/clocksource99/current_clocksource", "tsc");
    let cut = read(&tree.host(), Query::Clocksource);
    assert_eq!((cut.outcome, cut.files.len()), (Outcome::Truncated, limit));
}

#[test]
fn a_directory_with_too_many_names_is_cut_and_says_so() {
    // Memory makes so many names in a moment; a disk takes its time.
    let memory = Path::new("/dev/shm");
    let tree = if memory.is_dir() { Tree::below(memory) } else { Tree::new() };
    let dir = tree.at("sys/class/power_supply");
    fs::create_dir_all(&dir).unwrap();
    for number in 0..=LISTING_LIMIT {
        symlink("nowhere", dir.join(number.to_string())).unwrap();
    }
    assert_eq!(read(&tree.host(), Query::PowerSupply).outcome, Outcome::Truncated);
}

#[test]
fn directories_with_too_many_names_together_are_cut_and_say_so() {
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
    assert_eq!(read(&tree.host(), Query::Hwmon).outcome, Outcome::Truncated);
}

#[test]
fn a_reader_that_wants_no_more_is_given_no_more() {
    let tree = Tree::with(&[("sys/class/power_supply/A/a", "1"), ("sys/class/power_supply/B/b", "2")]);
    let host = tree.host();
    let mut given = 0;
    host.read(Query::PowerSupply, &mut Scratch::default(), &mut |_| {
        given += 1;
        ControlFlow::Break(())
    });
    assert_eq!(given, 1);
    assert_eq!(read(&host, Query::PowerSupply).files.len(), 2, "the next read is whole");
}

#[test]
fn every_descriptor_is_either_held_or_spare() {
    let tree = Tree::new();
    for number in 0..20 {
        tree.put(format!("sys/class/net/eth{number}/mtu"), "1500");
        tree.put(format!("sys/class/power_supply/BAT{number}/capacity"), "50");
    }
    let host = tree.host();
    let ((_, all), (_, all_dirs)) = (held_and_spare(&host), held_and_spare_dirs(&host));
    for round in 0..20 {
        match round % 4 {
            0 => fs::remove_dir_all(tree.at(format!("sys/class/net/eth{round}"))).unwrap(),
            1 => tree.put(format!("sys/class/net/new{round}/mtu"), "1"),
            2 => fs::remove_file(tree.at(format!("sys/class/power_supply/BAT{round}/capacity"))).unwrap(),
            _ => drop(host.read(Query::NetClass, &mut Scratch::default(), &mut |_| ControlFlow::Break(()))),
        }
        let answers = [Query::NetClass, Query::PowerSupply].map(|query| read(&host, query).files.len());
        let (held, spare) = held_and_spare(&host);
        assert_eq!(held + spare, all);
        assert_eq!(held, answers.iter().sum::<usize>());
        let (held, spare) = held_and_spare_dirs(&host);
        assert_eq!(held + spare, all_dirs);
        assert_eq!(held, answers[0], "each interface has one file here, of which many were asked for");
    }
}

#[test]
fn past_the_cap_files_are_read_without_being_held() {
    alone("past_the_cap_files_are_read_without_being_held", || {
        const FILES: usize = 300;
        let tree = Tree::new();
        (0..FILES).for_each(|number| tree.put(format!("sys/class/power_supply/S/{number:03}"), "1"));
        soft_nofile(200);
        let host = tree.host();
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        for _ in 0..3 {
            let answer = read(&host, Query::PowerSupply);
            assert_eq!((answer.outcome, answer.files.len()), (Outcome::Ok, FILES));
            let (held, spare) = held_and_spare(&host);
            // The one file held from the start is the broker's own mountinfo.
            assert_eq!((held, spare), (200 - RESERVED_DESCRIPTORS as usize - 1, 0));
            assert_eq!(open(), before + held, "and nothing else stays open");
        }
    });
}

#[test]
fn the_cap_holds_however_many_descriptors_may_be_had() {
    alone("the_cap_holds_however_many_descriptors_may_be_had", || {
        let hard = getrlimit(Resource::Nofile).maximum;
        if hard.is_some_and(|hard| hard < 4096) {
            return println!("skipped: the hard limit on open files is {hard:?}");
        }
        soft_nofile(4096);
        let tree = Tree::new();
        let files = HELD_FILES as usize + 100;
        (0..files).for_each(|number| tree.put(format!("sys/class/power_supply/S/{number}"), "1"));
        let host = tree.host();
        let answer = read(&host, Query::PowerSupply);
        assert_eq!((answer.outcome, answer.files.len()), (Outcome::Ok, files));
        assert_eq!(held_and_spare(&host), (HELD_FILES as usize, 0));
    });
}

#[test]
fn as_many_files_are_held_as_was_said() {
    let tree = Tree::with(&[("sys/class/net/eth0/mtu", "1500"), ("sys/class/net/eth0/flags", "1")]);
    for (said, held) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
        let host = host(&Paths { held_files: Some(said), ..tree.paths() }, Choice::Host);
        assert_eq!(read(&host, Query::NetClass).files.len(), 2);
        assert_eq!(held_and_spare(&host).0, held);
    }
}

#[test]
fn past_the_cap_files_are_opened_in_the_directories_that_are_held() {
    alone("past_the_cap_files_are_opened_in_the_directories_that_are_held", || {
        let tree = Tree::new();
        for number in 0..HELD_FILES / 2 {
            for attribute in ["flags", "mtu", "operstate"] {
                tree.put(format!("sys/class/net/eth{number}/{attribute}"), "1");
            }
        }
        soft_nofile(4096);
        let host = tree.host();
        let files = 3 * (HELD_FILES / 2) as usize;
        for _ in 0..2 * MISSING_READINGS {
            let answer = read(&host, Query::NetClass);
            assert_eq!((answer.outcome, answer.files.len()), (Outcome::Ok, files));
            assert_eq!(held_and_spare(&host), (HELD_FILES as usize, 0));
            assert_eq!(held_and_spare_dirs(&host).0, (HELD_FILES / 2) as usize);
        }
        // The kernel goes on serving a directory that was renamed, too.
        let (last, other) = (tree.at("sys/class/net/eth511"), tree.at("sys/class/net/eth510"));
        fs::write(last.join("mtu"), "2").unwrap();
        fs::remove_dir_all(&other).unwrap();
        fs::rename(&last, &other).unwrap();
        let answer = read(&host, Query::NetClass);
        assert_eq!(answer.files.len(), files - 3);
        assert_eq!(answer.text("sys/class/net/eth510/mtu").unwrap(), "2");
    });
}

#[test]
fn a_directory_is_listed_once_for_a_request() {
    let tree = Tree::with(&[("sys/class/net/eth0/mtu", "1500")]);
    let host = tree.host();
    let mut scratch = Scratch::default();
    let mtus = |scratch: &mut Scratch| {
        let mut files = 0;
        host.read(Query::NetClass, scratch, &mut |_| {
            files += 1;
            ControlFlow::Continue(())
        });
        files
    };
    assert_eq!(mtus(&mut scratch), 1);
    tree.put("sys/class/net/eth1/mtu", "1500");
    assert_eq!(mtus(&mut scratch), 1, "a query of the same request sees the same devices");
    scratch.end();
    assert_eq!(mtus(&mut scratch), 2, "the next request sees what is there");
}

#[test]
fn a_directory_that_a_device_has_not_is_asked_for_once_and_again_later() {
    let tree = Tree::with(&[("sys/devices/system/cpu/cpu0/topology/core_id", "0")]);
    let host = tree.host();
    let throttling = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count";
    assert_eq!(read(&host, Query::Cpu).names().len(), 1);
    tree.put(throttling, "7");
    let found =
        (0..MISSING_READINGS).filter_map(|_| read(&host, Query::Cpu).text(throttling)).collect::<Vec<_>>();
    assert!((1..MISSING_READINGS as usize).contains(&found.len()), "{found:?}");
}

#[test]
fn threads_are_read_where_a_process_has_several() {
    let tree = Tree::with(&[
        ("proc/1/task/1/stat", "1 (init) S"),
        ("proc/20/task/20/stat", "20 (many) S"),
        ("proc/20/task/21/stat", "21 (many) R"),
    ]);
    let host = host(&Paths { processes: true, ..tree.paths() }, Choice::Host);
    let several = ["proc/20/task/20/stat", "proc/20/task/21/stat"];
    let counts_links = fs::metadata(tree.at("proc/1/task")).unwrap().nlink() == 3;
    match counts_links {
        true => assert_eq!(read(&host, Query::Threads).names(), several),
        // Where the kernel does not tell, none is left out.
        false => assert_eq!(read(&host, Query::Threads).names()[1..], several),
    }
}

#[test]
fn a_directory_that_came_back_below_the_same_device_is_found_again() {
    let tree = Tree::new();
    let files =
        ["core_id", "physical_package_id"].map(|file| format!("sys/devices/system/cpu/cpu0/topology/{file}"));
    let put = || files.iter().for_each(|file| tree.put(file, "1"));
    put();
    // A file that is gone can be read through its descriptor here, and not on sysfs: so none is held.
    let host = host(&Paths { held_files: Some(0), ..tree.paths() }, Choice::Host);
    assert_eq!(read(&host, Query::Cpu).names().len(), 2);
    // As the CPU's going offline and coming back does.
    fs::remove_dir_all(tree.at("sys/devices/system/cpu/cpu0/topology")).unwrap();
    assert_eq!(read(&host, Query::Cpu).names().len(), 0);
    put();
    let found = (0..MISSING_READINGS).map(|_| read(&host, Query::Cpu).names().len()).max();
    assert_eq!(found, Some(2));
    assert_eq!(read(&host, Query::Cpu).names().len(), 2, "and stays found");
}

#[test]
fn running_out_of_descriptors_is_said_and_passes() {
    alone("running_out_of_descriptors_is_said_and_passes", || {
        let tree = Tree::with(&[
            ("sys/class/power_supply/AC/online", "1"),
            ("sys/block/sda/queue/rotational", "0"),
            ("proc/1/mountinfo", "1 2 3:4 / / rw\n"),
            ("root/x", ""),
            ("udev/b8:0", "E:X=1"),
        ]);
        let paths = Paths { rootfs: Some(tree.at("root")), udev: Some(tree.at("udev")), ..tree.paths() };
        let host = host(&paths, Choice::Host);
        // A listing that was done before the descriptors ran out: the file alone cannot be opened.
        let limit = getrlimit(Resource::Nofile).current.unwrap();
        let lowest_free = fs::File::open("/dev/null").unwrap();
        soft_nofile(std::os::fd::AsRawFd::as_raw_fd(&lowest_free) as u64);
        drop(lowest_free);
        for (query, path) in [
            (Query::PowerSupply, "sys/class/power_supply"),
            (Query::Block, "sys/block"),
            (Query::Udev, "udev/"),
        ] {
            let answer = read(&host, query);
            assert_eq!(answer.outcome, Outcome::Truncated, "{query:?}");
            assert_eq!(answer.errno(path), Some(Errno::MFILE), "{answer:?}");
        }
        let mounts = read(&host, Query::RootFileSystems);
        assert_eq!(mounts.outcome, Outcome::Truncated);
        assert_eq!(mounts.file_systems[0].errno, Errno::MFILE.raw_os_error() as u32);
        assert!(read(&host, Query::Mounts).outcome == Outcome::Ok, "held files need none");

        soft_nofile(limit);
        for query in [Query::PowerSupply, Query::Block, Query::Udev, Query::RootFileSystems] {
            assert_eq!(read(&host, query).outcome, Outcome::Ok);
        }
    });
}

#[test]
fn a_fixed_file_for_which_no_descriptor_was_left_is_not_called_absent() {
    alone("a_fixed_file_for_which_no_descriptor_was_left_is_not_called_absent", || {
        let tree = Tree::with(&[("proc/loadavg", "1")]);
        let roots = Roots::open(&tree.paths()).unwrap();
        let view = View::find(&roots, Choice::Host).unwrap();
        let limit = getrlimit(Resource::Nofile).current.unwrap();
        soft_nofile(3);
        let host = Host::open(roots, view);
        soft_nofile(limit);
        let answer = read(&host, Query::Loadavg);
        assert_eq!(answer.outcome, Outcome::Truncated);
        assert_eq!(answer.errno("proc/loadavg"), Some(Errno::MFILE));
        assert!(host.reason(Query::Loadavg).is_some_and(|reason| reason.contains("proc/loadavg")));
    });
}

#[test]
fn udevs_files_are_never_held() {
    let tree = Tree::with(&[("udev/b8:0", "old"), ("udev/c1:3", "no block device"), ("udev/b8:0x", "")]);
    let host = host(&Paths { udev: Some(tree.at("udev")), ..tree.paths() }, Choice::Host);
    assert_eq!(read(&host, Query::Udev).names(), ["udev/b8:0"]);
    assert_eq!(held_and_spare(&host).0, 0);
    tree.put("udev/.#b8:0", "new");
    fs::rename(tree.at("udev/.#b8:0"), tree.at("udev/b8:0")).unwrap();
    assert_eq!(read(&host, Query::Udev).text("udev/b8:0").unwrap(), "new");
}

#[test]
fn what_this_uid_may_not_read_is_denied() {
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
        let host = tree.host();
        for (query, path) in [
            (Query::Loadavg, "proc/loadavg"),
            (Query::PowerSupply, "sys/class/power_supply/AC/serial"),
            (Query::Block, "sys/block"),
        ] {
            let answer = read(&host, query);
            assert_eq!(answer.outcome, Outcome::Denied, "{query:?}");
            assert_eq!(answer.errno(path), Some(Errno::ACCESS), "{answer:?}");
        }
        // Some that can be read make it an answer; the others still say why they are missing.
        for (query, path, other) in [
            (Query::Udp, "proc/1/net/udp", "proc/1/net/udp6"),
            (Query::NetClass, "sys/class/net/eth0/duplex", "sys/class/net/eth0/mtu"),
        ] {
            let answer = read(&host, query);
            assert_eq!(answer.outcome, Outcome::Ok, "{query:?}");
            assert_eq!(answer.errno(path), Some(Errno::ACCESS), "{answer:?}");
            assert!(answer.text(other).is_some());
        }
        assert!(host.reason(Query::Loadavg).is_some_and(|reason| reason.contains("proc/loadavg")));
        assert_eq!(host.reason(Query::Udp), None, "one of its files can be read");
        fs::set_permissions(tree.at("sys/block"), fs::Permissions::from_mode(0o755)).unwrap();
    });
}

/// Compares what `ask` gives with the numbers of `dir`, at a moment when no other process changes them.
fn assert_numbers_of(dir: &Path, ask: impl Fn() -> v1::FileSystem) {
    let expect = || {
        let numbers = rustix::fs::statvfs(dir).unwrap();
        v1::FileSystem {
            name: None,
            errno: 0,
            block_size: numbers.f_bsize,
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
    panic!("{} never rests", dir.display());
}

#[test]
fn an_anchors_numbers_are_those_of_its_file_system() {
    let tree = Tree::with(&[("anchor/x", "")]);
    let anchors = vec![tree.at("anchor"), "/proc".into()];
    let host = host(&Paths { anchors: anchors.clone(), ..tree.paths() }, Choice::Host);
    for (at, dir) in anchors.iter().enumerate() {
        assert_numbers_of(dir, || {
            let answer = read(&host, Query::Anchors);
            assert_eq!(answer.outcome, Outcome::Ok);
            let path = dir.to_str().unwrap().to_owned();
            assert_eq!(answer.file_systems[at].name, Some(file_system::Name::Path(path)));
            answer.file_systems[at].clone()
        });
    }
}

#[test]
fn more_anchors_than_a_row_takes_are_cut_and_it_says_so() {
    let tree = Tree::new();
    let limit = keyhole_policy::row(Query::Anchors).unwrap().entries;
    for (anchors, outcome) in [(limit, Outcome::Ok), (limit + 1, Outcome::Truncated)] {
        let paths = Paths { anchors: vec![tree.at("proc"); anchors], ..tree.paths() };
        let answer = read(&host(&paths, Choice::Host), Query::Anchors);
        assert_eq!((answer.outcome, answer.file_systems.len()), (outcome, limit));
    }
}

#[test]
fn the_numbers_of_the_hosts_mounts_are_read_below_its_root() {
    let tree = Tree::with(&[
        ("proc/1/mountinfo", "1 0 8:1 / / rw\n2 1 0:9 / /mnt/a\\040b rw\n3 1 0:10 / /gone rw\n"),
        ("root/mnt/a b/x", ""),
    ]);
    let host = host(&Paths { rootfs: Some(tree.at("root")), ..tree.paths() }, Choice::Host);
    let names = |answer: &Answer| -> Vec<_> {
        answer.file_systems.iter().map(|numbers| numbers.name.clone().unwrap()).collect()
    };
    let answer = read(&host, Query::RootFileSystems);
    assert_eq!(answer.outcome, Outcome::Ok);
    assert_eq!(names(&answer), ["/", "/mnt/a b", "/gone"].map(|path| file_system::Name::Path(path.into())));
    assert_eq!(answer.file_systems[2].errno, Errno::NOENT.raw_os_error() as u32);
    for (at, path) in ["root", "root/mnt/a b"].iter().enumerate() {
        assert_numbers_of(&tree.at(path), || read(&host, Query::RootFileSystems).file_systems[at].clone());
    }
}

#[test]
fn a_mountinfo_of_many_pages_gives_every_mount() {
    let many: String =
        (0..2000).map(|n| format!("{n} 1 0:{n} / /mnt/volume-{n:04} rw - ext4 x rw\n")).collect();
    let tree = Tree::with(&[("proc/1/mountinfo", &many), ("root/x", "")]);
    let host = host(&Paths { rootfs: Some(tree.at("root")), ..tree.paths() }, Choice::Host);
    assert_eq!(read(&host, Query::RootFileSystems).file_systems.len(), 2000);
}

#[test]
fn a_mountinfo_past_its_limit_says_that_mounts_are_missing() {
    let limit = keyhole_policy::row(Query::RootFileSystems).unwrap().file_bytes;
    let line = "1 0 8:1 / / rw\n";
    let tree = Tree::with(&[("proc/1/mountinfo", &line.repeat(limit / line.len() + 1)), ("root/x", "")]);
    let host = host(&Paths { rootfs: Some(tree.at("root")), ..tree.paths() }, Choice::Host);
    let answer = read(&host, Query::RootFileSystems);
    assert_eq!((answer.outcome, answer.file_systems.len()), (Outcome::Truncated, 1));
}

#[test]
fn more_mounts_than_a_row_takes_are_cut_and_it_says_so() {
    let limit = keyhole_policy::row(Query::RootFileSystems).unwrap().entries;
    let lines: String = (0..=limit).map(|n| format!("1 0 8:1 / /m{n} rw\n")).collect();
    let tree = Tree::with(&[("proc/1/mountinfo", &lines), ("root/x", "")]);
    let host = host(&Paths { rootfs: Some(tree.at("root")), ..tree.paths() }, Choice::Host);
    let answer = read(&host, Query::RootFileSystems);
    assert_eq!((answer.outcome, answer.file_systems.len()), (Outcome::Truncated, limit));
}

/// Every root but the host's and its own files, given.
fn every_root(tree: &Tree) -> Paths {
    tree.put("udev/b8:0", "");
    tree.put("os-release", "ID=x\n");
    Paths {
        rootfs: Some(tree.at("proc")),
        udev: Some(tree.at("udev")),
        os_release: Some(tree.at("os-release")),
        anchors: vec![tree.at("proc")],
        processes: true,
        ..tree.paths()
    }
}

#[test]
fn a_containers_view_bars_what_asks_for_the_host() {
    let tree = Tree::with(&[("proc/1/net/dev", "lo:"), ("proc/1/mountinfo", ""), ("proc/stat", "cpu")]);
    tree.put("sys/class/net/lo/mtu", "65536");
    let host = host(&every_root(&tree), Choice::Container);
    for row in TABLE {
        let answer = read(&host, row.query);
        // What was given for itself is the host's whatever /proc shows.
        let given = row.sources.iter().all(|source| matches!(source.root, Root::Udev | Root::OsRelease));
        if row.rung == Rung::Host && !given {
            assert_eq!(answer.outcome, Outcome::ContainerView, "{:?}", row.query);
            assert!(answer.files.is_empty() && answer.file_systems.is_empty());
            assert!(host.reason(row.query).is_some_and(|reason| reason.contains("a container's own")));
        } else {
            assert_ne!(answer.outcome, Outcome::ContainerView, "{:?}", row.query);
        }
    }
    assert_eq!(read(&host, Query::Stat).text("proc/stat").unwrap(), "cpu");
}

#[test]
fn a_row_whose_root_was_not_given_is_not_permitted_and_names_the_flag() {
    let tree = Tree::with(&[("proc/1/mountinfo", "1 0 8:1 / / rw\n")]);
    let (none, all) = (tree.host(), host(&every_root(&tree), Choice::Host));
    for (query, flag) in [
        (Query::Udev, "--path.udev.data"),
        (Query::OsRelease, "--path.os-release"),
        (Query::RootFileSystems, "--path.rootfs"),
        (Query::Anchors, "--filesystem.anchor"),
    ] {
        assert_eq!(read(&none, query).outcome, Outcome::NotPermitted, "{query:?}");
        assert!(none.reason(query).is_some_and(|reason| reason.contains(flag)), "{query:?}");
        assert_eq!(read(&all, query).outcome, Outcome::Ok, "{query:?}");
        assert_eq!(all.reason(query), None, "{query:?}");
    }
    assert_eq!(read(&all, Query::OsRelease).text("etc/os-release").unwrap(), "ID=x\n");
}

#[test]
fn nothing_of_procfs_is_opened_after_the_start() {
    let tree = Tree::with(&[("proc/pressure/cpu", "some")]);
    let host = tree.host();
    tree.put("proc/pressure/io", "some");
    tree.put("proc/loadavg", "1");
    fs::remove_file(tree.at("proc/pressure/cpu")).unwrap();
    let pressure = read(&host, Query::Pressure);
    assert_eq!(pressure.text("proc/pressure/cpu").unwrap(), "some", "it is held");
    assert_eq!(pressure.errno("proc/pressure/io"), Some(Errno::NOENT));
    assert_eq!(read(&host, Query::Loadavg).outcome, Outcome::Absent);
}

#[test]
fn processes_are_read_anew_each_time_and_only_where_they_are_allowed() {
    let tree =
        Tree::with(&[("proc/1/stat", "1 (init) S"), ("proc/1/status", "Name:\tinit\n"), ("proc/1/fd/0", "")]);
    for query in [Query::Processes, Query::ProcessDetails, Query::Threads] {
        assert!(tree.host().reason(query).is_some_and(|reason| reason.contains("--allow-processes")));
    }
    let host = host(&Paths { processes: true, ..tree.paths() }, Choice::Host);
    assert_eq!(read(&host, Query::Processes).files.len(), 1);
    tree.put("proc/2/stat", "2 (kthreadd) S");
    tree.put("proc/acpi/stat", "not a process");
    let answer = read(&host, Query::Processes);
    assert_eq!(answer.files.len(), 2);
    assert_eq!(answer.text("proc/2/stat").unwrap(), "2 (kthreadd) S");
    let details = read(&host, Query::ProcessDetails);
    let size = fs::metadata(tree.at("proc/1/fd")).unwrap().len();
    let entries = details.files.iter().find_map(|file| match file.content {
        Some(file::Content::Entries(entries)) => Some(entries),
        _ => None,
    });
    assert_eq!(entries, Some(size), "the size that the kernel gives is the count on procfs");
}

#[test]
fn an_empty_tree_answers_every_query_with_nothing() {
    let tree = Tree::new();
    let host = tree.host();
    for row in TABLE {
        let expected = match row.query {
            Query::Udev | Query::OsRelease | Query::RootFileSystems | Query::Anchors => Outcome::NotPermitted,
            Query::Processes | Query::ProcessDetails | Query::Threads => Outcome::NotPermitted,
            Query::OwnMounts => Outcome::Ok,
            _ => Outcome::Absent,
        };
        assert_eq!(read(&host, row.query).outcome, expected, "{:?}", row.query);
    }
    assert_eq!(read(&host, Query::Unspecified).outcome, Outcome::NotPermitted);
}

#[test]
fn a_root_that_cannot_be_opened_names_its_flag() {
    let tree = Tree::new();
    let missing = tree.at("missing");
    let cases: [(&str, Paths); 6] = [
        ("--path.procfs", Paths { procfs: missing.clone(), ..tree.paths() }),
        ("--path.sysfs", Paths { sysfs: missing.clone(), ..tree.paths() }),
        ("--path.rootfs", Paths { rootfs: Some(missing.clone()), ..tree.paths() }),
        ("--path.udev.data", Paths { udev: Some(missing.clone()), ..tree.paths() }),
        ("--path.os-release", Paths { os_release: Some(missing.clone()), ..tree.paths() }),
        ("--filesystem.anchor", Paths { anchors: vec![missing], ..tree.paths() }),
    ];
    for (flag, paths) in cases {
        let error = Roots::open(&paths).unwrap_err().to_string();
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
fn a_tree_that_is_not_the_kernels_needs_to_be_told_so() {
    let tree = Tree::new();
    let roots = Roots::open(&tree.paths()).unwrap();
    let error = View::find(&roots, Choice::Auto).unwrap_err().to_string();
    assert!(error.starts_with("--path.procfs") && error.contains("--view=host"), "{error}");
    let paths = Paths { procfs: "/proc".into(), ..tree.paths() };
    let error = View::find(&Roots::open(&paths).unwrap(), Choice::Auto).unwrap_err().to_string();
    assert!(error.starts_with("--path.sysfs"), "{error}");
}

#[test]
fn wildcards_in_procfs_are_followed_at_the_start_and_never_again() {
    let tree = Tree::with(&[
        ("proc/spl/kstat/zfs/fm", "counters"),
        ("proc/spl/kstat/zfs/tank/objset-0x36", "dataset"),
        ("proc/spl/kstat/zfs/tank/state", "ONLINE\n"),
        ("proc/spl/kstat/zfs/tank/txgs", "not asked for"),
    ]);
    let host = tree.host();
    tree.put("proc/spl/kstat/zfs/late/state", "ONLINE\n");
    tree.put("proc/spl/kstat/zfs/tank/state", "DEGRADED\n");
    let answer = read(&host, Query::Zfs);
    assert_eq!(answer.outcome, Outcome::Ok);
    let zfs = |file: &str| format!("proc/spl/kstat/zfs/{file}");
    assert_eq!(answer.text(&zfs("tank/state")).as_deref(), Some("DEGRADED\n"), "read anew each time");
    assert_eq!(answer.text(&zfs("tank/objset-0x36")).as_deref(), Some("dataset"));
    let names = answer.names();
    for absent in ["late/state", "tank/io", "tank/txgs", "fm/io", "fm/state"] {
        assert!(!names.contains(&zfs(absent)), "{absent}: {names:?}");
    }
}

#[test]
fn wildcards_in_procfs_lead_to_no_more_paths_than_may_be_given() {
    let tree = Tree::with(&[("proc/a/1/b", ""), ("proc/a/2/b", ""), ("proc/a/3/b", "")]);
    let procfs = rustix::fs::open(tree.at("proc"), READ | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let paths = |pattern: &str, limit| procfs_paths(procfs.as_fd(), &Pattern::parse(pattern).unwrap(), limit);
    assert_eq!(paths("a/#/{b,c}", 3), ["a/1/b", "a/1/c", "a/2/b"]);
    assert_eq!(paths("a/#/*", 9), ["a/1/b", "a/2/b", "a/3/b"]);
    assert!(paths("none/*", 9).is_empty());
    assert_eq!(paths("none/{x,y}", 9), ["none/x", "none/y"], "fixed names need not exist");
}

#[test]
fn procfs_leaves_the_descriptors_that_are_kept_back() {
    alone("procfs_leaves_the_descriptors_that_are_kept_back", || {
        let tree = Tree::new();
        let path = |number| format!("proc/spl/kstat/zfs/tank/objset-{number}");
        (0..300).for_each(|number| tree.put(path(number), "1"));
        soft_nofile(200);
        let host = tree.host();
        let answer = read(&host, Query::Zfs);
        assert_eq!(answer.outcome, Outcome::Truncated, "not a shorter answer");
        let given = (0..300).filter(|number| answer.errno(&path(*number)) != Some(Errno::MFILE)).count();
        assert!((100..200 - RESERVED_DESCRIPTORS as usize).contains(&given), "{given}");
    });
}
