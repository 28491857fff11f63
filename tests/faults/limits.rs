//! What runs out: descriptors, memory, the space of a file system; and a clock that is set back.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::namespaces::Namespaces;
use keyhole_test_support::exposition::Exposition;
use keyhole_test_support::usage::{Usage, descendants};
use keyhole_test_support::{
    BROKER_UID, EXPORTER_UID, Environment, flag, root_for, run_to_end, this_host, wait_until,
};

fn starter(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn a_broker_without_its_readers_pipes_reports_it_and_does_not_start() {
    if !root_for("start a program with limits and another uid") {
        return;
    }
    let environment = Environment::new();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=80:80").arg(environment.dir().join("keyhole-broker"));
    command.args(["--allow-root", "--allow-capabilities"]);
    command.arg(flag("--socket.path=", environment.socket())).args(this_host());
    let output = run_to_end(command);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("allow this uid more open files"), "{message}");
    assert!(!environment.socket().exists());
}

#[test]
fn readers_without_descriptors_report_what_they_could_not_read_and_read_it_with_them() {
    if !root_for("start a program with limits and another uid") {
        return;
    }
    let environment = Environment::new();
    let broker = environment.start_broker(&this_host());
    let exporter = environment.start_exporter::<&str>(&[]);
    let truncated = |scrape: &Exposition| {
        let outcomes = scrape.samples("keyhole_query_outcome");
        outcomes.filter(|one| one.labels["outcome"] == "truncated" && one.value == 1.0).count()
    };
    let whole = |scrape: &Exposition| {
        assert_eq!(truncated(scrape), 0);
        for family in
            ["node_memory_MemTotal_bytes", "node_network_receive_bytes_total", "node_network_mtu_bytes"]
        {
            assert!(scrape.has(family), "{family}");
        }
    };
    whole(&exporter.scrape());
    let limit_all = |limit: &str| {
        for pid in descendants(broker.process.pid()) {
            // The kernel lets a uid change the limits of its own processes, and not every root another's.
            let mut command = Command::new("prlimit");
            command
                .gid(BROKER_UID)
                .uid(BROKER_UID)
                .arg(format!("--pid={pid}"))
                .arg(format!("--nofile={limit}:"));
            let output = run_to_end(command);
            assert!(output.status.success(), "{output:?}");
        }
    };
    // The descriptors that they have stay theirs: no number below this one is free.
    limit_all("2");
    for _ in 0..5 {
        let scrape = exporter.scrape();
        assert!(truncated(&scrape) > 5, "what is missing is reported");
        // What was opened at the start.
        assert!(scrape.has("node_memory_MemTotal_bytes") && scrape.has("node_time_seconds"));
    }
    limit_all("1024");
    // What could not be listed was not remembered as empty.
    whole(&exporter.scrape());
    let deaths = environment.start_exporter::<&str>(&[]).scrape();
    let deaths: f64 = deaths.samples("keyhole_broker_reader_deaths_total").map(|one| one.value).sum();
    assert_eq!(deaths, 0.0);
}

#[test]
fn an_exporter_with_few_descriptors_serves_fewer_at_once_and_all_in_the_end() {
    if !root_for("start a program with limits and another uid") {
        return;
    }
    let environment = Environment::new();
    let _broker = environment.start_broker(&this_host());
    let exporter = environment.start_exporter_by::<&str>(&starter(&["prlimit", "--nofile=40:40"]), &[]);
    exporter.scrape();
    let before = Usage::measure(exporter.process.pid());
    let idle: Vec<_> = (0..100).map(|_| TcpStream::connect(exporter.address).unwrap()).collect();
    for _ in 0..5 {
        let answer = exporter.metrics("5");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.elapsed < Duration::from_secs(5), "{:?}", answer.elapsed);
    }
    drop(idle);
    wait_until("descriptors are closed", || {
        Usage::measure(exporter.process.pid()).descriptors <= before.descriptors
    });
    exporter.scrape();
}

/// A memory cgroup of the test's own.
struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// Made where this machine has them: in the hierarchy of version 1, or of version 2.
    fn with_limit(environment: &Environment, bytes: u64) -> Option<Self> {
        let name = environment.dir().file_name().unwrap();
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
    let environment = Environment::new();
    let mut broker = environment.start_broker(&this_host());
    let mut exporter = environment.start_exporter::<&str>(&[]);
    // Not a page more, and before its first scrape: later ones make do with what there is.
    let cgroup =
        MemoryCgroup::with_limit(&environment, 4 << 10).expect("a memory cgroup can be made by root");
    cgroup.take_in(broker.process.pid());
    let mut statuses = Vec::new();
    wait_until("the kernel ends the broker", || {
        statuses.push(exporter.metrics("3").status);
        !broker.process.is_running()
    });
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    assert_eq!(exporter.metrics("3").status, 503, "seen as a broker that is gone");
    assert!(exporter.process.is_running());
    let _broker = environment.start_broker(&this_host());
    exporter.scrape();
}

#[test]
fn a_full_textfile_directory_affects_the_truncated_file_and_nothing_else() {
    if !root_for("mount a small file system") {
        return;
    }
    let environment = Environment::new();
    // Mounted where the exporter sees it, in this test's own mount namespace with a host's network.
    let directory = environment.dir().join("textfiles");
    fs::create_dir(&directory).unwrap();
    let mount = format!("mount -t tmpfs -o size=64k,mode=755 small {0}", directory.display());
    let namespaces = Namespaces::new(&environment, "", &mount);
    let inside = |script: &str| namespaces.run(&format!("cd {}; {script}", directory.display()));
    inside("printf 'good_metric 1\\n' > good.prom");
    let _broker = environment.start_broker(&this_host());
    let exporter = environment.start_exporter_by(
        &namespaces.mounts_starter(),
        &[flag("--collector.textfile.directory=", &directory)],
    );
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

/// A library that shifts the time of a program that loads it, by the seconds in a file. The clock of the whole machine
/// is not this test's to set.
struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    fn build(environment: &Environment, name: &str) -> Self {
        let library = environment.dir().join("clock.so");
        if !library.exists() {
            let mut compile = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
            compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library);
            compile.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/clock.c")).arg("-ldl");
            let output = run_to_end(compile);
            assert!(output.status.success(), "{output:?}");
        }
        let offset = environment.dir().join(name);
        fs::write(&offset, 0_i64.to_ne_bytes()).unwrap();
        Self { library, offset }
    }

    fn shift(&self, by: Duration) {
        // In place: a program has the file mapped.
        let file = fs::OpenOptions::new().write(true).open(&self.offset).unwrap();
        file.write_all_at(&(-(by.as_secs() as i64)).to_ne_bytes(), 0).unwrap();
    }

    fn with(&self, mut command: Command) -> Command {
        command.env("LD_PRELOAD", &self.library).env("CLOCK_OFFSET_FILE", &self.offset);
        command
    }
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_clock_set_back_by_days_changes_the_time_that_is_reported_and_no_deadline() {
    let environment = Environment::new();
    let (of_broker, of_exporter) =
        (Clock::build(&environment, "of-broker"), Clock::build(&environment, "of-exporter"));
    let start_broker = || {
        environment.start_broker_from(
            of_broker.with(environment.command("keyhole-broker", BROKER_UID)),
            &this_host(),
        )
    };
    let mut broker = start_broker();
    let exporter = environment.start_exporter_from::<&str>(
        of_exporter.with(environment.command("keyhole-exporter", EXPORTER_UID)),
        &[],
    );
    let shifted = |scrape: &Exposition| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        scrape.value("node_time_seconds", &[]).unwrap() - now
    };
    let first = exporter.scrape();
    assert!(shifted(&first).abs() < 60.0);
    of_exporter.shift(2 * DAY);
    for _ in 0..10 {
        let answer = exporter.metrics("5");
        assert_eq!(answer.status, 200);
        assert!(answer.elapsed < Duration::from_secs(3), "{:?}", answer.elapsed);
        let scrape = Exposition::parse(&answer.body).unwrap();
        assert!((shifted(&scrape) + 2.0 * DAY.as_secs_f64()).abs() < 60.0, "{}", shifted(&scrape));
    }
    // A broker that starts in the past is a restart like any other.
    broker.process.kill();
    of_broker.shift(3 * DAY);
    let _broker = start_broker();
    wait_until("the restart is seen", || {
        exporter.scrape().value("keyhole_broker_restarts_seen_total", &[]) == Some(1.0)
    });
    let started = |scrape: &Exposition| scrape.value("keyhole_broker_start_time_seconds", &[]).unwrap();
    let earlier = started(&first) - started(&exporter.scrape());
    assert!((earlier - 3.0 * DAY.as_secs_f64()).abs() < 60.0, "{earlier}");
    of_exporter.shift(Duration::ZERO);
    assert!(shifted(&exporter.scrape()).abs() < 60.0);
}
