//! Large machines: all of their series come, or a limit leaves whole items and says so.
//!
//! The trees are made here. Each is larger than a limit was that cut a real machine's numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        // In memory where that can be: a disk takes a minute to make so many files.
        let tree = Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
        for dir in ["proc/1/net/stat", "proc/spl/kstat/zfs/tank", "proc/sys/net/netfilter", "sys/class/net"] {
            fs::create_dir_all(tree.path().join(dir)).unwrap();
        }
        tree
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path().join(path), text).unwrap();
    }

    /// Replays it with these collectors alone.
    fn replay(&self, collectors: &[&str], flags: &[&str]) -> Replay {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhole-exporter"));
        command.arg("--collector.disable-defaults").stdin(Stdio::null());
        command.args(collectors.iter().map(|name| format!("--collector.{name}")));
        let output = command.args(flags).arg("replay").arg(self.path()).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{log}");
        Replay { text: String::from_utf8(output.stdout).unwrap(), log }
    }
}

struct Replay {
    text: String,
    log: String,
}

impl Replay {
    fn value(&self, series: &str) -> Option<f64> {
        let line = self.text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    fn success(&self, collector: &str) -> bool {
        self.value(&format!("node_scrape_collector_success{{collector=\"{collector}\"}}")) == Some(1.0)
    }

    /// How many series of families with this prefix there are of each value of a label.
    fn series(&self, prefix: &str, label: &str) -> BTreeMap<&str, usize> {
        let mut series = BTreeMap::new();
        let start = format!("{label}=\"");
        for line in self.text.lines().filter(|line| line.starts_with(prefix)) {
            let Some((_, rest)) = line.split_once(&start) else { continue };
            *series.entry(rest.split('"').next().unwrap()).or_default() += 1;
        }
        series
    }

    /// Everything is there: as many items with as many series each, of collectors that say so.
    fn is_all(&self, collectors: &[&str]) {
        for collector in collectors {
            assert!(self.success(collector), "{collector}: {}", self.log);
        }
        assert_eq!(self.log, "");
        assert!(!self.text.contains("\nkeyhole_"), "nothing was left out");
    }
}

fn each_of(series: &BTreeMap<&str, usize>, items: usize, of_each: usize) {
    assert_eq!(series.len(), items);
    let other = series.iter().find(|(_, series)| **series != of_each);
    assert_eq!(other, None, "each has {of_each}");
}

const NET_DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

fn net_dev(interfaces: usize) -> String {
    let line = |n| format!("veth{n:08x}: 1234567890 12345678 0 0 0 0 0 0 1234567890 12345678 0 0 0 0 0 0\n");
    NET_DEV.to_owned() + &(0..interfaces).map(line).collect::<String>()
}

#[test]
fn all_series_of_five_thousand_interfaces_are_there_by_default() {
    let tree = Tree::new();
    tree.put("proc/1/net/dev", net_dev(5000));
    let replay = tree.replay(&["netdev"], &[]);
    replay.is_all(&["netdev"]);
    each_of(&replay.series("node_network_", "device"), 5000, 16);
}

#[test]
fn a_reached_limit_fails_its_collector_and_keeps_whole_items_and_other_collectors() {
    let tree = Tree::new();
    tree.put("proc/1/net/dev", net_dev(10_000));
    tree.put("proc/loadavg", "0.5 1 1.5 1/2 3\n");
    tree.put("proc/vmstat", "oom_kill 7\n");
    tree.put("proc/stat", "cpu0 1 2 3 4 5 6 7 8 9 10\nctxt 5\nbtime 6\nprocesses 7\n");
    let collectors = ["loadavg", "netdev", "stat", "vmstat"];
    for (flag, named) in [
        ("--collector.series-limit=32001", "--collector.series-limit"),
        ("--scrape.memory=16", "--scrape.memory"),
    ] {
        let replay = tree.replay(&collectors, &[flag]);
        assert!(!replay.success("netdev"), "{flag}");
        let series = replay.series("node_network_", "device");
        assert!((1000..9000).contains(&series.len()), "{flag}: {}", series.len());
        each_of(&series, series.len(), 16);
        let dropped = replay.value("keyhole_collector_series_dropped_total{collector=\"netdev\"}").unwrap();
        assert_eq!(dropped as usize, (10_000 - series.len()) * 16, "{flag}");
        assert!(replay.log.contains("netdev: ") && replay.log.contains(named), "{}", replay.log);
        // Those that run after it have their share.
        for collector in ["loadavg", "stat", "vmstat"] {
            assert!(replay.success(collector), "{flag}: {collector}");
        }
        assert_eq!(replay.value("node_vmstat_oom_kill"), Some(7.0), "{flag}");
    }
    for unlimited in ["--collector.series-limit=0", "--scrape.memory=0", "--scrape.memory=64"] {
        tree.replay(&collectors, &[unlimited]).is_all(&collectors);
    }
}

#[test]
fn every_interface_of_a_bond_with_three_thousand_vlans_is_whole() {
    #[rustfmt::skip]
    const ATTRIBUTES: [(&str, &str); 22] = [
        ("addr_assign_type", "1"), ("address", "02:00:00:00:00:01"), ("broadcast", "ff:ff:ff:ff:ff:ff"), ("carrier", "1"),
        ("carrier_changes", "2"), ("carrier_down_count", "1"), ("carrier_up_count", "1"), ("dev_id", "0x0"), ("dormant", "0"),
        ("duplex", "full"), ("flags", "0x1003"), ("ifalias", "uplink"), ("ifindex", "1"), ("iflink", "1"), ("link_mode", "0"),
        ("mtu", "1500"), ("name_assign_type", "4"), ("netdev_group", "0"), ("operstate", "up"), ("speed", "10000"),
        ("tx_queue_len", "1000"), ("type", "1"),
    ];
    let tree = Tree::new();
    for (name, value) in ATTRIBUTES {
        tree.put(name, format!("{value}\n"));
    }
    // More than 65,536 files. Links: they are made faster.
    for vlan in 0..3000 {
        let dir = tree.path().join(format!("sys/class/net/bond0.{vlan}"));
        fs::create_dir(&dir).unwrap();
        for (name, _) in ATTRIBUTES {
            fs::hard_link(tree.path().join(name), dir.join(name)).unwrap();
        }
    }
    let replay = tree.replay(&["netclass"], &[]);
    replay.is_all(&["netclass"]);
    each_of(&replay.series("node_network_", "device"), 3000, 19);
    for vlan in [0, 1, 2999] {
        let labels = "address=\"02:00:00:00:00:01\",adminstate=\"up\",broadcast=\"ff:ff:ff:ff:ff:ff\"";
        let more = "duplex=\"full\",ifalias=\"uplink\",operstate=\"up\"";
        let info = format!("node_network_info{{{labels},device=\"bond0.{vlan}\",{more}}}");
        assert_eq!(replay.value(&info), Some(1.0), "{info}");
    }
}

#[test]
fn numbers_of_thousands_of_cpus_are_all_there() {
    const CPUS: usize = 4096;
    let tree = Tree::new();
    let lines = |line: &dyn Fn(usize) -> String| (0..CPUS).map(line).collect::<String>();
    let stat = lines(&|cpu| format!("cpu{cpu} 1 2 3 4 5 6 7 8 9 10\n"));
    tree.put("proc/stat", format!("cpu  1 2 3 4 5 6 7 8 9 10\n{stat}ctxt 5\nbtime 6\nprocesses 7\n"));
    let schedstat = lines(&|cpu| format!("cpu{cpu} 0 0 0 0 0 0 7000000000 8000000000 9\n"));
    tree.put("proc/schedstat", format!("version 15\ntimestamp 1\n{schedstat}"));
    let row = |cpu| format!("{}{cpu:08x} 00000000 00000000\n", "00000001 ".repeat(12));
    tree.put("proc/1/net/softnet_stat", lines(&row));
    let columns = "entries  searched found new invalid ignore delete deleteList insert insertFailed drop earlyDrop icmpError  expectNew expectCreate expectDelete searchRestart\n";
    let conntrack = format!("{}\n", ["0000002a"; 17].join(" "));
    tree.put("proc/1/net/stat/nf_conntrack", columns.to_owned() + &conntrack.repeat(CPUS));
    tree.put("proc/sys/net/netfilter/nf_conntrack_max", "262144\n");
    let collectors = ["cpu", "conntrack", "schedstat", "softnet", "stat"];
    let replay = tree.replay(&collectors, &[]);
    replay.is_all(&collectors);
    each_of(&replay.series("node_cpu_", "cpu"), CPUS, 10);
    each_of(&replay.series("node_schedstat_", "cpu"), CPUS, 3);
    let softnet = replay.series("node_softnet_", "cpu");
    each_of(&softnet, CPUS, softnet["0"]);
    assert_eq!(replay.value("node_nf_conntrack_stat_found"), Some((42 * CPUS) as f64));
    assert_eq!(replay.value("node_nf_conntrack_entries"), Some(42.0));
    // What follows the lines of the CPUs.
    assert_eq!(replay.value("node_forks_total"), Some(7.0));
}

#[test]
fn every_disk_dataset_and_socket_counts() {
    let tree = Tree::new();
    let disk =
        |n: usize| format!("{} {} sd{n}x 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n", n / 256, n % 256);
    tree.put("proc/diskstats", (0..4000).map(disk).collect::<String>());
    for n in 0..3000 {
        let header = "1 1 0x01 7 2160 1 2\nname                            type data\n";
        let rows = format!(
            "dataset_name                    7    tank/d{n}\nreads                           4    3\n"
        );
        tree.put(&format!("proc/spl/kstat/zfs/tank/objset-0x{:x}", n + 64), header.to_owned() + &rows);
    }
    let socket = "    1: 0100007F:0035 00000000:0000 07 00000001:00000002 00:00000000 00000000   101        0 7 2 0000000000000000 0\n";
    let header = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";
    tree.put("proc/1/net/udp", header.to_owned() + &socket.repeat(100_000));
    let collectors = ["diskstats", "udp_queues", "zfs"];
    let replay = tree.replay(&collectors, &["--collector.diskstats.device-exclude="]);
    replay.is_all(&collectors);
    let disks = replay.series("node_disk_", "device");
    each_of(&disks, 4000, disks["sd0x"]);
    each_of(&replay.series("node_zfs_zpool_dataset_", "dataset"), 3000, 1);
    assert_eq!(replay.value("node_udp_queues{ip=\"v4\",queue=\"rx\"}"), Some(200_000.0));
}

#[test]
fn every_operation_of_a_hundred_mounts_of_nfs_is_there() {
    const OPERATIONS: usize = 70;
    let tree = Tree::new();
    let operation = |n| format!("\tOPERATION_{n}: 1 1 0 1 1 1 1 1 0\n");
    let operations: String = (0..OPERATIONS).map(operation).collect();
    let mount = |n| {
        format!(
            "device server:/v{n} mounted on /mnt/v{n} with fstype nfs4 statvers=1.1\n\topts:\trw,vers=4.2,proto=tcp\n\tage:\t1\n\
             \tevents:\t{events}\n\tbytes:\t1 2 3 4 5 6 7 8\n\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)\n\
             \txprt:\ttcp 700 1 1 0 0 1 1 0 1 0 2 0 0\n\tper-op statistics\n{operations}\n",
            events = ["1"; 27].join(" ")
        )
    };
    tree.put("proc/1/mountstats", (0..100).map(mount).collect::<String>());
    let replay = tree.replay(&["mountstats"], &[]);
    replay.is_all(&["mountstats"]);
    let mounts = replay.series("node_mountstats_nfs_", "export");
    each_of(&mounts, 100, mounts["server:/v0"]);
    let requests = replay.series("node_mountstats_nfs_operations_requests_total", "operation");
    each_of(&requests, OPERATIONS, 100);
}
