//! What runs out: descriptors, memory, the space of a folder; and a clock that is set back.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::usage::{Usage, descendants, soon};
use crate::common::{BROKER, EXPORTER, Home, flag, root_for, this_host};
use crate::world::World;

fn starter(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn a_broker_without_descriptors_says_what_it_could_not_read_and_is_whole_with_them() {
    if !root_for("start a program with limits and another uid") {
        return;
    }
    let home = Home::new();
    let broker = home.start_broker_by(&starter(&["prlimit", "--nofile=80:80"]), &this_host());
    let exporter = home.start_exporter::<&str>(&[]);
    for _ in 0..5 {
        let scrape = exporter.scrape();
        let told =
            scrape.samples("keyhole_query_outcome").filter(|sample| sample.labels["outcome"] == "truncated");
        assert!(told.filter(|sample| sample.value == 1.0).count() > 5, "what is missing is told");
        assert!(scrape.has("node_time_seconds"));
    }
    // The limit is each process's own.
    for pid in [vec![broker.pid()], descendants(broker.pid())].concat() {
        assert!(Usage::of_process(pid).is_none_or(|usage| usage.descriptors <= 80), "{pid}");
    }
    broker.kill();
    let _broker = home.start_broker(&this_host());
    let scrape = exporter.scrape();
    assert!(scrape.has("node_memory_MemTotal_bytes") && scrape.has("node_network_receive_bytes_total"));
    let told =
        scrape.samples("keyhole_query_outcome").filter(|sample| sample.labels["outcome"] == "truncated");
    assert_eq!(told.filter(|sample| sample.value == 1.0).count(), 0);
}

#[test]
fn an_exporter_with_few_descriptors_serves_fewer_at_once_and_all_in_turn() {
    if !root_for("start a program with limits and another uid") {
        return;
    }
    let home = Home::new();
    let _broker = home.start_broker(&this_host());
    let exporter = home.start_exporter_by::<&str>(&starter(&["prlimit", "--nofile=40:40"]), &[]);
    exporter.scrape();
    let before = Usage::of(exporter.process.pid());
    let idle: Vec<_> = (0..100).map(|_| TcpStream::connect(exporter.address).unwrap()).collect();
    for _ in 0..5 {
        let answer = exporter.metrics("5");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.took < Duration::from_secs(5), "{:?}", answer.took);
    }
    drop(idle);
    soon("descriptors are given back", || {
        Usage::of(exporter.process.pid()).descriptors <= before.descriptors
    });
    exporter.scrape();
}

/// A memory cgroup of the test's own.
struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// Made where this machine has them: in the hierarchy of version 1, or of version 2.
    fn with_limit(home: &Home, bytes: u64) -> Option<Self> {
        let name = home.path().file_name().unwrap();
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
        let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        places.into_iter().find_map(|(hierarchy, limit)| {
            let cgroup = Path::new(hierarchy).join(name);
            fs::create_dir(&cgroup).ok()?;
            let cgroup = Self(cgroup);
            fs::write(cgroup.0.join(limit), bytes.to_string()).ok()?;
            Some(cgroup)
        })
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_program_that_hits_its_memory_limit_is_ended_by_the_kernel_and_back_one_scrape_after_its_restart() {
    if !root_for("make a memory cgroup") {
        return;
    }
    let home = Home::new();
    let mut broker = home.start_broker(&this_host());
    let mut exporter = home.start_exporter::<&str>(&[]);
    // Not a page more, and before its first scrape: later ones make do with what there is.
    let cgroup = MemoryCgroup::with_limit(&home, 4 << 10).expect("a memory cgroup can be made by root");
    cgroup.take_in(broker.pid());
    let mut statuses = Vec::new();
    soon("the kernel ends the broker", || {
        statuses.push(exporter.metrics("3").status);
        !broker.is_running()
    });
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    assert_eq!(exporter.metrics("3").status, 503, "seen as a broker that is gone");
    assert!(exporter.process.is_running());
    let _broker = home.start_broker(&this_host());
    exporter.scrape();
}

#[test]
fn a_full_textfile_folder_costs_the_file_that_was_cut_and_nothing_else() {
    if !root_for("mount a small file system") {
        return;
    }
    let home = Home::new();
    // Mounted where the exporter sees it, in this test's own mount namespace with a host's network.
    let folder = home.path().join("textfiles");
    fs::create_dir(&folder).unwrap();
    let mount = format!("mount -t tmpfs -o size=64k,mode=755 small {0}", folder.display());
    let world = World::new(&home, "", &mount);
    let inside = |script: &str| world.run(&format!("cd {}; {script}", folder.display()));
    inside("printf 'good_metric 1\\n' > good.prom");
    let _broker = home.start_broker(&this_host());
    let exporter =
        home.start_exporter_by(&world.mounts_starter(), &[flag("--collector.textfile.directory=", &folder)]);
    let scrape = exporter.scrape();
    assert_eq!(scrape.value("node_textfile_scrape_error", &[]), Some(0.0));

    // A writer that finds no room leaves half of a line.
    inside(
        "(i=0; while [ $i -lt 5000 ]; do echo \"cut_metric{n=\\\"$i\\\",x=\\\"yyyyyyyyyyyyyyyyy\\\"} $i\"; i=$((i+1)); done) > cut.prom 2>/dev/null || true",
    );
    let cut = inside("df . | tail -n 1; tail -c 30 cut.prom");
    assert!(cut.contains("100%") && !cut.ends_with('\n'), "{cut}");
    for _ in 0..3 {
        let scrape = exporter.scrape();
        assert_eq!(scrape.value("node_textfile_scrape_error", &[]), Some(1.0));
        assert_eq!(scrape.value("good_metric", &[]), Some(1.0));
        assert!(!scrape.has("cut_metric"), "no half of a file");
        assert!(scrape.has("node_memory_MemTotal_bytes"));
    }
    inside("printf 'cut_metric 2\\n' > cut.prom");
    let scrape = exporter.scrape();
    assert_eq!(scrape.value("node_textfile_scrape_error", &[]), Some(0.0));
    assert_eq!(scrape.value("cut_metric", &[]), Some(2.0));
}

/// The clock of the whole machine is not this test's to set: libfaketime stands between the programs and theirs.
#[test]
fn a_clock_set_back_by_days_changes_the_time_that_is_told_and_no_deadline() {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    if !root_for("start a program with another uid") {
        return;
    }
    let required = std::env::var_os("KEYHOLE_REQUIRE_ROOT").is_some();
    if !fs::exists(LIBRARY).unwrap() {
        assert!(!required, "{LIBRARY} is missing: install libfaketime");
        eprintln!("skipped: {LIBRARY} is missing");
        return;
    }
    let home = Home::new();
    // The only folder that a sealed exporter may read from.
    let folder = home.path().join("textfiles");
    fs::create_dir(&folder).unwrap();
    let offset = folder.join("offset");
    fs::write(&offset, "+0\n").unwrap();
    let faked = |program: &str, uid: u32, (name, value): (&str, &OsStr)| {
        let mut command = home.command(program, uid);
        command.env("LD_PRELOAD", LIBRARY).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.env("FAKETIME_CACHE_DURATION", "1").env(name, value);
        command
    };
    let broker_at = |when: &str| {
        home.start_broker_of(faked("keyhole-broker", BROKER, ("FAKETIME", when.as_ref())), &this_host())
    };
    let broker = broker_at("+0");
    let by_file = faked("keyhole-exporter", EXPORTER, ("FAKETIME_TIMESTAMP_FILE", offset.as_ref()));
    let textfiles: [OsString; 1] = [flag("--collector.textfile.directory=", &folder)];
    let exporter = home.start_exporter_of(by_file, &textfiles);
    let told = || {
        let scrape = exporter.scrape();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        (scrape.value("node_time_seconds", &[]).unwrap() - now, scrape)
    };
    assert!(told().0.abs() < 60.0);
    fs::write(&offset, "-2d\n").unwrap();
    soon("the clock is set back", || (told().0 + 2.0 * 86_400.0).abs() < 60.0);
    for _ in 0..10 {
        let answer = exporter.metrics("5");
        assert_eq!(answer.status, 200);
        assert!(answer.took < Duration::from_secs(3), "{:?}", answer.took);
    }
    // A broker that starts in the past is a restart like any other.
    broker.kill();
    let _broker = broker_at("-3d");
    soon("the restart is seen", || told().1.value("keyhole_broker_restarts_seen_total", &[]) == Some(1.0));
    fs::write(&offset, "+0\n").unwrap();
    soon("the clock is set right", || told().0.abs() < 60.0);
}
