//! Interfaces, disks, cgroups and processes that come, go and change their names while scrapes run.

use std::time::{Duration, Instant};

use crate::namespaces::Namespaces;
use crate::success;
use keyhole_test_support::exposition::Exposition;
use keyhole_test_support::usage::Usage;
use keyhole_test_support::{Environment, root_for, wait_until};

/// How long scrapes run beside the churn.
const CHURN: Duration = Duration::from_secs(6);

#[test]
fn devices_that_appear_and_disappear_during_scrapes_fail_none_and_duplicate_nothing() {
    if !root_for("make interfaces, disks and cgroups") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "mount -t cgroup2 none $dir/sys/fs/cgroup");
    let flags = [namespaces.flags(), vec!["--allow-processes".into()]].concat();
    let broker = environment.start_broker_by(&namespaces.starter(), &flags);
    let exporter =
        environment.start_exporter(&["--collector.processes", "--collector.diskstats.device-exclude=^$"]);
    let first = exporter.scrape();
    for collector in ["netdev", "netclass", "diskstats", "processes", "cgroup"] {
        assert_eq!(success(&first, collector), Some(1.0), "{collector}");
    }
    let before = [broker.process.pid(), exporter.process.pid()].map(Usage::measure);

    let disks = namespaces.run("echo $(ls sys/block | grep zram)").trim().to_owned();
    // Each loop takes away what it made; what the last round left goes with the namespaces or is taken away below.
    let churns = [
        "for i in $(seq 400); do ip link add a$i type ifb; ip link set a$i name b$i; ip link set b$i up; ip link del b$i; done",
        "for i in $(seq 400); do n=$(cat /sys/class/zram-control/hot_add); sleep 0.02; echo $n >/sys/class/zram-control/hot_remove; done",
        "d=sys/fs/cgroup/system.slice; mkdir -p $d; for i in $(seq 2000); do mkdir $d/keyhole-$i.service; sleep 0.01; rmdir $d/keyhole-$i.service; done",
        "for i in $(seq 2000); do (true) & done; wait",
    ];
    let workers: Vec<_> = churns.iter().map(|churn| namespaces.start(churn)).collect();
    let start = Instant::now();
    let (mut scrapes, mut met) = (0, [0; 3]);
    while start.elapsed() < CHURN {
        let answer = exporter.metrics("5");
        assert_eq!(answer.status, 200, "{}", answer.text());
        // A series that occurs twice is an error of the format.
        let scrape = Exposition::parse(&answer.body).unwrap_or_else(|error| panic!("{error}"));
        for collector in ["netdev", "netclass", "diskstats", "processes", "cgroup", "meminfo"] {
            assert_eq!(success(&scrape, collector), Some(1.0), "{collector} {}", exporter.process.log());
        }
        assert_eq!(scrape.value("keyhole_duplicate_samples_total", &[]), Some(0.0));
        let seen = |family: &str, label: &str, part: &str| {
            usize::from(scrape.label_values(family, label).iter().any(|value| value.contains(part)))
        };
        met[0] += usize::from(scrape.label_values("node_network_receive_bytes_total", "device").len() > 1);
        met[1] += seen("node_disk_read_bytes_total", "device", "zram");
        met[2] += seen("keyhole_cgroup_cpu_usage_seconds_total", "cgroup", "keyhole-");
        scrapes += 1;
    }
    eprintln!("{scrapes} scrapes beside the churn; interfaces, disks and cgroups seen in {met:?}");
    drop(workers);
    let clean = "for l in $(ls sys/class/net | grep '^[ab][0-9]'); do ip link del $l; done; \
         for d in $(ls sys/block | grep zram); do case $disks in *\" $d \"*) ;; \
         *) echo ${d#zram} >/sys/class/zram-control/hot_remove;; esac; done; \
         cd sys/fs/cgroup/system.slice && { rmdir keyhole-*.service; cd ..; rmdir system.slice; } || true";
    namespaces.run(&format!("disks=' {disks} '; {clean}"));
    wait_until("descriptors of removed devices are closed", || {
        let devices = exporter.scrape().label_values("node_network_receive_bytes_total", "device");
        let now = [broker.process.pid(), exporter.process.pid()].map(Usage::measure);
        let given_back = now
            .iter()
            .zip(&before)
            .all(|(now, before)| now.descriptors <= before.descriptors && now.threads == before.threads);
        devices.iter().map(String::as_str).eq(["lo"]) && given_back
    });
    let last = exporter.scrape();
    assert_eq!(
        last.label_values("node_network_mtu_bytes", "device"),
        first.label_values("node_network_mtu_bytes", "device")
    );
}

#[test]
fn interfaces_that_swap_their_names_keep_their_own_values() {
    if !root_for("make interfaces") {
        return;
    }
    let environment = Environment::new();
    let namespaces = Namespaces::new(&environment, "", "");
    namespaces.run("ip link add x type ifb; ip link add y type ifb; ip link set x mtu 1111 txqueuelen 11; ip link set y mtu 1222 txqueuelen 22");
    let _broker = environment.start_broker_by(&namespaces.starter(), &namespaces.flags());
    let exporter = environment.start_exporter::<&str>(&[]);
    for round in 0..20 {
        let scrape = exporter.scrape();
        let [one, two] = if round % 2 == 0 { ["x", "y"] } else { ["y", "x"] };
        for (device, mtu, queue) in [(one, 1111.0, 11.0), (two, 1222.0, 22.0)] {
            let value = |family| scrape.value(family, &[("device", device)]);
            assert_eq!(value("node_network_mtu_bytes"), Some(mtu), "{device}, round {round}");
            assert_eq!(value("node_network_transmit_queue_length"), Some(queue), "{device}, round {round}");
        }
        namespaces
            .run("ip link set dev x name aside; ip link set dev y name x; ip link set dev aside name y");
    }
}
