//! Hosts that are not as this one: another kernel's files, a procfs that hides, a file that sleeps.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::namespaces::Namespaces;
use crate::success;
use keyhole_test_support::exposition::{Exposition, Sample};
use keyhole_test_support::usage::Usage;
use keyhole_test_support::{Environment, Exporter, flag, root_for, wait_until};

fn flags_of(tree: &Path) -> [OsString; 3] {
    [flag("--path.procfs=", tree.join("proc")), flag("--path.sysfs=", tree.join("sys")), "--view=host".into()]
}

/// Files of this host that many collectors read, copied to a tree.
fn tree(environment: &Environment) -> PathBuf {
    let tree = environment.dir().join("tree");
    fs::create_dir_all(tree.join("sys/class/thermal/thermal_zone0")).unwrap();
    for path in FILES {
        let copy = tree.join(path);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::write(copy, fs::read(Path::new("/").join(path)).unwrap_or_default()).unwrap();
    }
    fs::write(tree.join("sys/class/thermal/thermal_zone0/type"), "x86_pkg_temp\n").unwrap();
    tree
}

const FILES: &[&str] = &[
    "proc/1/mountinfo",
    "proc/1/net/arp",
    "proc/1/net/dev",
    "proc/1/net/netstat",
    "proc/1/net/snmp",
    "proc/1/net/sockstat",
    "proc/1/net/softnet_stat",
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/mdstat",
    "proc/meminfo",
    "proc/pressure/cpu",
    "proc/schedstat",
    "proc/stat",
    "proc/sys/fs/file-nr",
    "proc/vmstat",
];

fn well_formed(exporter: &Exporter) -> Exposition {
    let answer = exporter.metrics("5");
    assert_eq!(answer.status, 200, "{}", answer.text());
    Exposition::parse(&answer.body).unwrap_or_else(|error| panic!("{error}"))
}

/// A change of a line of a kernel file.
type Change = (&'static str, fn(&str) -> String);

/// What other kernels have made of files, or might.
const CHANGES: &[Change] = &[
    ("empty", |_| String::new()),
    ("a line only", |text| text.lines().next().unwrap_or("").to_owned()),
    ("cut in the middle", |text| text[..text.len() / 2].to_owned()),
    ("columns more", |text| text.lines().map(|line| format!("{line} 7 8 9\n")).collect()),
    ("columns less", |text| {
        let shorter =
            |line: &str| line.rsplit_once(' ').map_or(line, |(start, _)| start).trim_end().to_owned() + "\n";
        text.lines().map(shorter).collect()
    }),
    ("each line twice", |text| text.lines().flat_map(|line| [line, "\n", line, "\n"]).collect()),
    ("lines in reverse", |text| text.lines().rev().flat_map(|line| [line, "\n"]).collect()),
    ("no digits", |text| text.replace(|c: char| c.is_ascii_digit(), "x")),
    ("numbers beyond 64 bits", |text| text.replace(|c: char| c.is_ascii_digit(), "99999999")),
    ("negative", |text| text.replace(' ', " -")),
    ("tabs", |text| text.replace(' ', "\t")),
    ("one long line", |text| text.replace('\n', " ")),
];

#[test]
fn malformed_files_affect_their_collectors_and_the_next_scrape_is_right_again() {
    let environment = Environment::new();
    let tree = tree(&environment);
    let _broker = environment.start_broker(&flags_of(&tree));
    let exporter = environment.start_exporter::<&str>(&[]);
    let collectors = |scrape: &Exposition| -> Vec<(String, f64)> {
        let of = |sample: &Sample| (sample.labels["collector"].clone(), sample.value);
        scrape.samples("node_scrape_collector_success").map(of).collect()
    };
    let before = collectors(&well_formed(&exporter));
    let works =
        |scrape: &Exposition| scrape.has("node_time_seconds") && scrape.has("node_exporter_build_info");
    for (what, change) in CHANGES {
        let originals: Vec<_> =
            FILES.iter().map(|path| fs::read_to_string(tree.join(path)).unwrap()).collect();
        // Written in place: fixed files stay open.
        FILES
            .iter()
            .zip(&originals)
            .for_each(|(path, text)| fs::write(tree.join(path), change(text)).unwrap());
        assert!(works(&well_formed(&exporter)), "{what}");
        FILES.iter().zip(&originals).for_each(|(path, text)| fs::write(tree.join(path), text).unwrap());
        assert_eq!(collectors(&well_formed(&exporter)), before, "after: {what}");
    }
}

#[test]
fn a_kernel_without_a_file_affects_its_collector_alone() {
    let environment = Environment::new();
    let tree = tree(&environment);
    for (missing, collector) in [
        ("proc/vmstat", "vmstat"),
        ("proc/loadavg", "loadavg"),
        ("proc/1/net/dev", "netdev"),
        ("proc/diskstats", "diskstats"),
    ] {
        let aside = environment.dir().join("aside");
        fs::rename(tree.join(missing), &aside).unwrap();
        let _broker = environment.start_broker(&flags_of(&tree));
        let exporter = environment.start_exporter::<&str>(&[]);
        let scrape = well_formed(&exporter);
        assert_eq!(success(&scrape, collector), Some(0.0), "{missing}");
        for other in ["stat", "meminfo", "filefd", "vmstat", "loadavg", "netdev", "diskstats"] {
            assert_eq!(
                success(&scrape, other),
                Some(f64::from(u8::from(other != collector))),
                "{missing}: {other}"
            );
        }
        fs::rename(&aside, tree.join(missing)).unwrap();
    }
}

/// Stands for a sysfs attribute whose read sleeps: a fifo that nobody writes to.
#[test]
fn a_file_that_sleeps_blocks_one_reader_and_is_right_one_scrape_after_it_wakes() {
    let environment = Environment::new();
    let tree = tree(&environment);
    let temp = tree.join("sys/class/thermal/thermal_zone0/temp");
    rustix::fs::mkfifoat(rustix::fs::CWD, &temp, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    let broker = environment.start_broker(&flags_of(&tree));
    let exporter = environment.start_exporter::<&str>(&[]);
    let temperature = |scrape: &Exposition| scrape.value("node_thermal_zone_temp", &[("zone", "0")]);
    // The scrape that meets it waits for it; its replacement skips it.
    let begun = Instant::now();
    assert_eq!(temperature(&well_formed(&exporter)), None);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    let before = Usage::measure(broker.process.pid());
    for _ in 0..20 {
        let begun = Instant::now();
        let scrape = well_formed(&exporter);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let thermal: Vec<_> =
            scrape.samples("keyhole_query_outcome").filter(|one| one.labels["query"] == "thermal").collect();
        assert!(thermal.is_empty(), "its query is ok: {thermal:?}");
        assert_eq!(temperature(&scrape), None);
        assert_eq!(success(&scrape, "meminfo"), Some(1.0));
    }
    let counts = environment.start_exporter::<&str>(&[]).scrape();
    assert_eq!(counts.value("keyhole_broker_readers_stuck", &[]), Some(1.0));
    wait_until("no more readers are lost", || {
        let after = Usage::measure(broker.process.pid());
        (before.descriptors, before.threads) == (after.descriptors, after.threads)
    });
    let aside = environment.dir().join("aside");
    fs::rename(&temp, &aside).unwrap();
    fs::write(&temp, "42000\n").unwrap();
    // Opening its other end wakes the reader that sleeps in it.
    wait_until("a reader of the fifo", || {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::open(&aside, flags, rustix::fs::Mode::empty()).is_ok()
    });
    wait_until("the reader returns", || broker.process.log().contains("the stuck reader has returned"));
    let scrape = well_formed(&exporter);
    assert_eq!(scrape.value("node_thermal_zone_temp", &[]), Some(42.0));
    assert_eq!(success(&scrape, "thermal_zone"), Some(1.0));
}

#[test]
fn a_procfs_that_hides_other_users_processes_loses_what_it_hides_and_reports_it() {
    if !root_for("mount a procfs") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "hidepid=2", "");
    let _broker = environment.start_broker_by(&namespaces.starter(), &namespaces.flags());
    let exporter = environment.start_exporter::<&str>(&[]);
    let scrape = well_formed(&exporter);
    for collector in ["cpu", "stat", "meminfo", "loadavg", "vmstat", "diskstats", "netclass"] {
        assert_eq!(success(&scrape, collector), Some(1.0), "{collector}");
    }
    // PID 1 belongs to another user: what is read through it is not there, and must not be made up.
    for (collector, family) in
        [("netdev", "node_network_receive_bytes_total"), ("filesystem", "node_filesystem_size_bytes")]
    {
        assert_eq!(success(&scrape, collector), Some(0.0), "{collector}");
        assert!(!scrape.has(family), "{family}");
    }
    well_formed(&exporter);
}
