//! What /proc does not show: processes of others (`hidepid=`), everything but processes (`subset=pid`), and the host to
//! an OS container. Each is mounted for real, and nothing that follows from it is silent.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::namespaces::Namespaces;
use crate::success;
use keyhole_test_support::exposition::Exposition;
use keyhole_test_support::usage::descendants;
use keyhole_test_support::{BROKER_UID, Broker, Environment, Exporter, flag, root_for, this_host};

/// The inode of the PID namespace that the kernel started with.
const FIRST_PID: u64 = 0xefff_fffc;

const COLLECTORS: [&str; 3] =
    ["--collector.processes", "--collector.processgroups", "--collector.mountstats"];

/// A broker of this host with a procfs of its own that has these mount options, and an exporter.
fn with_procfs(environment: &Environment, options: &str) -> (Broker, Exporter) {
    let procfs = environment.dir().join("proc");
    fs::create_dir_all(&procfs).unwrap();
    let mount = format!("mount -t proc -o rw,{options} proc {} && exec \"$@\"", procfs.display());
    let starter =
        ["unshare", "--mount", "--propagation=private", "sh", "-c", &mount, "sh"].map(str::to_owned);
    let flags: [OsString; 3] =
        [flag("--path.procfs=", procfs), "--path.rootfs=/".into(), "--allow-processes".into()];
    let broker = environment.start_broker_by(&starter, &flags);
    (broker, environment.start_exporter(&COLLECTORS))
}

fn failed(scrape: &Exposition) -> BTreeSet<String> {
    let failed = scrape.samples("node_scrape_collector_success").filter(|sample| sample.value == 0.0);
    failed.map(|sample| sample.labels["collector"].clone()).collect()
}

/// What the names of families that are in `whole` alone begin with, such as `node_filesystem`.
fn lost(whole: &Exposition, scrape: &Exposition) -> BTreeSet<String> {
    let subject = |family: &str| family.split('_').take(2).collect::<Vec<_>>().join("_");
    let is_lost = |family: &&str| !family.starts_with("keyhole_") && !scrape.has(family);
    whole.families().filter(is_lost).map(subject).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_restricted_procfs_fails_the_hidden_queries_with_the_reason_and_no_others() {
    if !root_for("mount a procfs") {
        return;
    }
    if fs::metadata("/proc/self/ns/pid").unwrap().ino() != FIRST_PID {
        return println!(
            "skipped: in a container --view=host would be needed, and nothing is found out then"
        );
    }
    let environment = Environment::new();
    let whole = with_procfs(&environment, "hidepid=0").1.scrape();
    let refused = "procfs denies this uid the processes of other users (hidepid=1)";
    let unseen = "procfs hides the processes of other users from this uid (hidepid=2 or 4)";
    let of_others = ["filesystem", "processes", "processgroups"];
    let group = format!("gid={BROKER_UID}");
    for (options, hidden) in [
        ("hidepid=1", Some(refused)),
        ("hidepid=2", Some(unseen)),
        ("hidepid=4", Some(unseen)),
        // The kernel has no exception for a group there.
        (&format!("hidepid=4,{group}"), Some(unseen)),
        (&format!("hidepid=1,{group}"), None),
        (&format!("hidepid=2,{group}"), None),
    ] {
        let (broker, exporter) = with_procfs(&environment, options);
        let (scrape, log) = (exporter.scrape(), broker.process.log());
        let view = if hidden.is_some() { "hidden" } else { "host" };
        assert_eq!(scrape.value("keyhole_broker_info", &[("proc_view", view)]), Some(1.0), "{options}");
        let more: BTreeSet<_> = &failed(&scrape) - &failed(&whole);
        let lost = lost(&whole, &scrape);
        let Some(hidden) = hidden else {
            assert_eq!((more, lost), (set(&[]), set(&[])), "{options}");
            assert!(!log.contains("processes are hidden"), "{log}");
            continue;
        };
        assert_eq!(more, set(&of_others), "{options}");
        assert_eq!(lost, set(&["namedprocess_namegroup", "node_filesystem", "node_processes"]), "{options}");
        assert!(log.contains(hidden) && log.contains("with hidepid=4 the kernel ignores gid="), "{log}");
        for collector in of_others {
            let log = exporter.process.log();
            let line = log.lines().find(|line| line.contains(&format!("collector={collector} ")));
            assert!(line.is_some_and(|line| line.contains("DENIED") && line.contains(hidden)), "{log}");
        }
    }

    let (_broker, exporter) = with_procfs(&environment, "subset=pid");
    let scrape = exporter.scrape();
    assert_eq!(scrape.value("keyhole_broker_info", &[("proc_view", "host")]), Some(1.0));
    // What is read below /proc/1, in /proc/<pid> and in /sys.
    for collector in ["netdev", "netstat", "filesystem", "netclass", "processgroups"] {
        assert_eq!(success(&scrape, collector), Some(1.0), "{collector}");
    }
    let log = exporter.process.log();
    for collector in ["cpu", "diskstats", "loadavg", "meminfo", "stat", "vmstat", "processes"] {
        assert_eq!(success(&scrape, collector), Some(0.0), "{collector}");
        let line = log.lines().find(|line| line.contains(&format!("collector={collector} ")));
        assert!(line.is_some_and(|line| line.contains("mounted with subset=pid")), "{collector}: {log}");
    }
    // It is not known when the host booted.
    assert!(!scrape.has("namedprocess_namegroup_oldest_start_time_seconds"));
    assert!(log.contains("item=\"proc/stat: no boot time"), "{log}");
    let reported =
        ["boot", "cpu", "disk", "memory", "load1", "vmstat", "processes"].map(|word| format!("node_{word}"));
    let lost = lost(&whole, &scrape);
    assert!(reported.iter().all(|subject| lost.contains(subject)), "{lost:?}");
}

#[test]
fn an_os_container_gets_a_hint_at_view_host_and_is_a_host_with_it() {
    if !root_for("make a PID namespace") {
        return;
    }
    let environment = Environment::new();
    let namespaces =
        Namespaces::new(&environment, "hidepid=0", "mount -t proc proc /proc; mount -t sysfs sysfs /sys");
    // By a shell in there, as a service of the container: a broker refuses what looks like `kubectl exec`.
    let service = ["sh", "-c", "\"$@\"; exit", "sh"].map(str::to_owned);
    let starter =
        [&["nsenter".to_owned(), "--pid".to_owned()], &namespaces.starter()[1..], &service].concat();
    let flags: [OsString; 2] = ["--path.rootfs=/".into(), "--allow-processes".into()];
    let of_host = ["filesystem", "netclass", "netdev", "netstat", "processes", "sockstat"];

    let broker = environment.start_broker_by(&starter, &flags);
    let scrape = environment.start_exporter(&COLLECTORS).scrape();
    assert_eq!(scrape.value("keyhole_broker_info", &[("proc_view", "container")]), Some(1.0));
    for collector in of_host {
        assert_eq!(success(&scrape, collector), Some(0.0), "{collector}");
    }
    let hint = "to monitor an OS container (LXC) as a host, set --view=host";
    assert!(broker.process.log().contains(hint), "{}", broker.process.log());

    let environment = Environment::new();
    let broker = environment.start_broker_by(&starter, &[&flags[..], &["--view=host".into()]].concat());
    let scrape = environment.start_exporter(&COLLECTORS).scrape();
    assert_eq!(scrape.value("keyhole_broker_info", &[("proc_view", "host")]), Some(1.0));
    for collector in of_host {
        assert_eq!(success(&scrape, collector), Some(1.0), "{collector}: {}", broker.process.log());
    }
    assert!(!broker.process.log().contains("--view=host"), "{}", broker.process.log());
    // Of its network namespace alone, and of its few processes.
    let devices: BTreeSet<_> =
        scrape.samples("node_network_receive_bytes_total").map(|sample| &sample.labels["device"]).collect();
    assert_eq!(devices, BTreeSet::from([&"lo".to_owned()]));
    assert!(scrape.value("node_processes_pids", &[]).is_some_and(|pids| pids < 20.0));
}

#[test]
fn mountstats_of_the_brokers_own_is_refused_even_to_itself() {
    if !root_for("start a broker under a uid of its own") {
        return;
    }
    let environment = Environment::new();
    let broker = environment.start_broker(&this_host());
    // Programs that are not dumpable belong to root in procfs, and mountstats has the mode 0400: reading the broker's own
    // instead of PID 1's would help nobody, even where both have the same mounts.
    for pid in descendants(broker.process.pid()) {
        let file = fs::metadata(format!("/proc/{pid}/mountstats")).unwrap();
        assert_eq!((file.uid(), file.mode() & 0o777), (0, 0o400), "{pid}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{BROKER_UID}\t")), "{status}");
    }
}
