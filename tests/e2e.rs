//! Both programs on this host, over real sockets: what a scrape has, and what is left when something breaks.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyhole_test_support::exposition::Exposition;
use keyhole_test_support::usage::descendants;
use keyhole_test_support::{
    BROKER_UID, Broker, DENIED_UID, EXPORTER_UID, Environment, Exporter, NODE_NAME, TIMEOUT, flag, http,
    root_for, run_to_end, this_host, wait_until,
};

/// A broker of this host and one exporter.
fn start() -> (Environment, Broker, Exporter) {
    let environment = Environment::new();
    let broker = environment.start_broker(&this_host());
    let exporter = environment.start_exporter::<&str>(&[]);
    (environment, broker, exporter)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The number behind a word at the start of a line.
fn number(text: &str, word: &str) -> f64 {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(word));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.unwrap_or_else(|| panic!("no {word}"))
}

fn set<S: Into<String>>(items: impl IntoIterator<Item = S>) -> BTreeSet<String> {
    items.into_iter().map(Into::into).collect()
}

fn assert_one_line(text: &str) {
    assert!(text.ends_with('\n') && text.trim_end().lines().count() == 1, "not one line: {text:?}");
}

#[test]
fn a_scrape_of_this_host_has_what_dashboards_and_alerts_need() {
    let (_environment, _broker, exporter) = start();
    let scrape = exporter.scrape();
    let missing: Vec<&str> = TIER_1.iter().copied().filter(|family| !scrape.has(family)).collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert!(scrape.len() > 300, "only {} samples", scrape.len());
    if scrape.value("node_scrape_collector_success", &[("collector", "timex")]) == Some(1.0) {
        assert!(scrape.has("node_timex_sync_status") && scrape.has("node_timex_offset_seconds"));
    } else {
        assert_eq!(scrape.samples("node_timex_sync_status").count(), 0, "refused, and yet there");
    }
}

/// The families that node-mixin's alerts and the common dashboards ask of any Linux.
const TIER_1: &[&str] = &[
    "node_boot_time_seconds",
    "node_context_switches_total",
    "node_cpu_seconds_total",
    "node_disk_io_time_seconds_total",
    "node_disk_io_time_weighted_seconds_total",
    "node_disk_read_bytes_total",
    "node_disk_written_bytes_total",
    "node_exporter_build_info",
    "node_filefd_allocated",
    "node_filefd_maximum",
    "node_filesystem_avail_bytes",
    "node_filesystem_files",
    "node_filesystem_files_free",
    "node_filesystem_readonly",
    "node_filesystem_size_bytes",
    "node_intr_total",
    "node_load1",
    "node_load15",
    "node_load5",
    "node_memory_Buffers_bytes",
    "node_memory_Cached_bytes",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemFree_bytes",
    "node_memory_MemTotal_bytes",
    "node_memory_Slab_bytes",
    "node_network_receive_bytes_total",
    "node_network_receive_drop_total",
    "node_network_receive_errs_total",
    "node_network_transmit_bytes_total",
    "node_network_up",
    "node_scrape_collector_duration_seconds",
    "node_time_seconds",
    "node_uname_info",
    "node_vmstat_pgmajfault",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
];

#[test]
fn constant_values_are_those_of_proc() {
    let (_environment, _broker, exporter) = start();
    let scrape = exporter.scrape();

    let total = number(&read("/proc/meminfo"), "MemTotal:") * 1024.0;
    assert_eq!(scrape.value("node_memory_MemTotal_bytes", &[]), Some(total));

    // The kernel computes it from two clocks each time: a second's difference is its own.
    let boot = scrape.value("node_boot_time_seconds", &[]).expect("a boot time");
    assert!((boot - number(&read("/proc/stat"), "btime")).abs() <= 1.0, "{boot}");

    let stat = read("/proc/stat");
    let cpus = stat.lines().filter_map(|line| line.split(' ').next()?.strip_prefix("cpu"));
    let cpus = set(cpus.filter(|cpu| !cpu.is_empty()));
    assert_eq!(scrape.label_values("node_cpu_seconds_total", "cpu"), cpus);

    let limit: f64 = read("/proc/sys/fs/file-nr").split_whitespace().nth(2).unwrap().parse().unwrap();
    assert_eq!(scrape.value("node_filefd_maximum", &[]), Some(limit));

    let release = read("/proc/sys/kernel/osrelease");
    let uname = [("nodename", NODE_NAME), ("sysname", "Linux"), ("release", release.trim_end())];
    assert_eq!(scrape.value("node_uname_info", &uname), Some(1.0));

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let time = scrape.value("node_time_seconds", &[]).expect("a time");
    assert!((time - now).abs() < 60.0, "{time} is not about {now}");
}

#[test]
fn interfaces_disks_and_mount_points_are_those_of_proc() {
    let (_environment, _broker, exporter) = start();
    let scrape = exporter.scrape();

    let dev = read("/proc/1/net/dev");
    let names = set(dev.lines().skip(2).filter_map(|line| Some(line.rsplit_once(':')?.0.trim())));
    assert_eq!(scrape.label_values("node_network_receive_bytes_total", "device"), names);

    let disks = set(read("/proc/diskstats").lines().filter_map(|line| line.split_whitespace().nth(2)));
    let devices = scrape.label_values("node_disk_read_bytes_total", "device");
    assert!(!devices.is_empty() && devices.is_subset(&disks), "{devices:?} of {disks:?}");

    let mounts = read("/proc/1/mountinfo");
    let shown = set(mounts.lines().filter_map(shown_mount_point));
    assert_eq!(scrape.label_values("node_filesystem_device_error", "mountpoint"), shown);
    let sized = scrape.label_values("node_filesystem_size_bytes", "mountpoint");
    assert!(!sized.is_empty() && sized.is_subset(&shown), "{sized:?} of {shown:?}");
}

/// The mount point of a line of mountinfo, unless node_exporter's defaults leave it out.
fn shown_mount_point(line: &str) -> Option<String> {
    const TYPES: &str = "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs fusectl hugetlbfs \
        iso9660 mqueue nsfs overlay proc procfs pstore rpc_pipefs securityfs selinuxfs squashfs erofs sysfs tracefs";
    const BELOW: &[&str] = &["/run/credentials/", "/var/lib/docker/", "/var/lib/containers/storage/"];
    let point = line.split(' ').nth(4)?.replace("\\040", " ").replace("\\134", "\\");
    let kind = line.rsplit_once(" - ")?.1.split(' ').next()?;
    let inside = |dir: &str| point == dir || point.starts_with(&format!("{dir}/"));
    let hidden = TYPES.split_whitespace().any(|hidden| hidden == kind)
        || ["/dev", "/proc", "/sys"].into_iter().any(inside)
        || BELOW.iter().any(|dir| point.starts_with(dir));
    (!hidden).then_some(point)
}

/// The processes whose sandbox a broker reports.
const PROCESSES: [&str; 8] = [
    "broker",
    "zygote",
    "reader-procfs",
    "reader-sysfs",
    "reader-devices",
    "reader-files",
    "reader-processes",
    "reader-mounts",
];

/// Whether the running kernel lists no Landlock among its security modules.
fn has_no_landlock() -> bool {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").ok();
    modules.is_some_and(|modules| !modules.contains("landlock"))
}

#[test]
fn every_sandbox_layer_of_every_process_is_in_force_here() {
    let environment = Environment::new();
    // With it, every class has a reader.
    let flags = [this_host(), vec!["--allow-processes".into()]].concat();
    let _broker = environment.start_broker(&flags);
    let scrape = environment.start_exporter::<&str>(&[]).scrape();
    assert_eq!(scrape.value("keyhole_broker_up", &[]), Some(1.0));
    let no_landlock = has_no_landlock();
    let broker = PROCESSES.map(|process| ("keyhole_broker_sandbox_layer", Some(process)));
    for (family, process) in broker.into_iter().chain([("keyhole_exporter_sandbox_layer", None)]) {
        for layer in ["capabilities", "landlock", "limits", "no_new_privs", "not_dumpable", "seccomp"] {
            let labels: Vec<_> =
                [("layer", layer)].into_iter().chain(process.map(|process| ("process", process))).collect();
            let expected = if layer == "landlock" && no_landlock { 0.0 } else { 1.0 };
            assert_eq!(scrape.value(family, &labels), Some(expected), "{family} {labels:?}");
        }
    }
    let known: BTreeSet<String> = set(PROCESSES);
    assert_eq!(scrape.label_values("keyhole_broker_sandbox_layer", "process"), known);
}

#[test]
fn the_kernel_confirms_what_every_process_reports_of_its_sandbox() {
    let (_environment, broker, exporter) = start();
    let children = descendants(broker.process.pid());
    // The zygote, and a reader for each class whose queries may be asked: not for processes.
    assert_eq!(children.len(), 1 + 5, "{children:?}");
    for pid in children.into_iter().chain([broker.process.pid(), exporter.process.pid()]) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        for task in tasks {
            let status = read(task.unwrap().path().join("status").to_str().unwrap());
            assert_eq!(number(&status, "Seccomp:"), 2.0, "a filter on every thread");
            assert_eq!(number(&status, "NoNewPrivs:"), 1.0);
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                assert!(status.contains(&format!("{set}\t0000000000000000\n")), "{set} {status}");
            }
        }
    }
}

#[test]
fn a_dead_broker_is_503_with_a_reason_while_the_exporter_keeps_running() {
    let (environment, mut broker, mut exporter) = start();
    assert_eq!(exporter.metrics("10").status, 200);
    broker.process.kill();

    let scrape = exporter.metrics("10");
    assert_eq!(scrape.status, 503);
    assert_one_line(&scrape.text());
    assert!(scrape.text().contains("broker"), "{}", scrape.text());
    let landing = exporter.get("/");
    assert_eq!(landing.status, 200);
    assert!(landing.elapsed < Duration::from_secs(1), "{:?}", landing.elapsed);
    assert_eq!(exporter.get("/-/healthy").status, 200);
    let ready = exporter.get("/-/ready");
    assert_eq!(ready.status, 503);
    assert_one_line(&ready.text());

    let _broker = environment.start_broker(&this_host());
    assert_eq!(exporter.metrics("10").status, 200, "the first scrape after the restart");
    assert_eq!(exporter.get("/-/ready").status, 200);
    assert_eq!(exporter.scrape().value("keyhole_broker_restarts_seen_total", &[]), Some(1.0));
    assert!(exporter.process.is_running());
}

#[test]
fn requests_that_the_broker_refuses_because_there_were_too_many_are_counted() {
    let (environment, broker, exporter) = start();
    let before = exporter.scrape();
    assert_eq!(before.value("keyhole_broker_limited_requests_total", &[]), Some(0.0));
    assert_eq!(before.value("keyhole_broker_restarts_seen_total", &[]), Some(0.0));
    // Faster than a uid may ask; the exporter asks again, so that each is answered. (Selections would share a read.)
    for _ in 0..70 {
        assert_eq!(exporter.get("/metrics").status, 200);
    }
    // The broker is asked for its counts now and then: an exporter that has just started asks at once.
    let counts = environment.start_exporter::<&str>(&[]).scrape();
    let limited = counts.value("keyhole_broker_limited_requests_total", &[]);
    assert!(limited >= Some(1.0), "{limited:?}");
    drop(broker);
}

#[test]
fn a_broker_killed_and_restarted_amid_scrapes_hangs_none_of_them() {
    const CLIENTS: usize = 4;
    const SCRAPES: usize = 12;
    let (environment, mut broker, exporter) = start();
    let address = exporter.address;
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(move || {
                    let mut statuses = Vec::new();
                    for _ in 0..SCRAPES {
                        let timeout = [("X-Prometheus-Scrape-Timeout-Seconds", "3")];
                        let answer = http::get(address, "/metrics", &timeout);
                        assert!(answer.elapsed < Duration::from_secs(4), "{:?}", answer.elapsed);
                        if answer.status == 200 {
                            Exposition::parse(&answer.body).unwrap();
                        }
                        statuses.push(answer.status);
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    statuses
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(400));
        broker.process.kill();
        std::thread::sleep(Duration::from_millis(400));
        let restarted = environment.start_broker(&this_host());
        let statuses = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert_eq!(exporter.metrics("10").status, 200, "once it is back");
        drop(restarted);
        statuses
    });
    assert_eq!(statuses.len(), CLIENTS * SCRAPES);
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");
}

#[test]
fn two_exporters_and_many_clients_share_one_broker() {
    let (environment, _broker, first) = start();
    let second = environment.start_exporter(&["--collector.disable-defaults", "--collector.loadavg"]);
    std::thread::scope(|scope| {
        for address in [first.address, second.address] {
            for _ in 0..6 {
                scope.spawn(move || {
                    let answer = http::get(address, "/metrics", &[]);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let scrape = Exposition::parse(&answer.body).unwrap();
                    assert!(scrape.has("node_load1"));
                });
            }
        }
    });
    assert!(first.scrape().has("node_memory_MemTotal_bytes"));
    assert!(!second.scrape().has("node_memory_MemTotal_bytes"), "not asked for");
}

/// A copy of the files of this host that a few collectors need, as a fixture tree.
fn fixture_tree(environment: &Environment) -> [OsString; 3] {
    let tree = environment.dir().join("tree");
    for path in [
        "proc/stat",
        "proc/meminfo",
        "proc/loadavg",
        "proc/vmstat",
        "proc/diskstats",
        "proc/1/net/dev",
        "proc/1/mountinfo",
        "proc/sys/fs/file-nr",
    ] {
        let copy = tree.join(path);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::write(copy, fs::read(Path::new("/").join(path)).unwrap()).unwrap();
    }
    fs::create_dir_all(tree.join("sys/class/thermal/thermal_zone0")).unwrap();
    fs::write(tree.join("sys/class/thermal/thermal_zone0/type"), "x86_pkg_temp\n").unwrap();
    [flag("--path.procfs=", tree.join("proc")), flag("--path.sysfs=", tree.join("sys")), "--view=host".into()]
}

fn success(scrape: &Exposition, collector: &str) -> Option<f64> {
    scrape.value("node_scrape_collector_success", &[("collector", collector)])
}

/// Puts a fifo below the tree that nobody ever writes to: a read of it never returns.
fn jam(environment: &Environment, path: &str) -> PathBuf {
    let fifo = environment.dir().join("tree").join(path);
    fs::create_dir_all(fifo.parent().unwrap()).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    fifo
}

/// Puts an ordinary file in the place of a fifo, and wakes the readers that sleep in it.
fn release(fifo: &Path, content: &str) {
    let aside = fifo.with_file_name("aside");
    fs::rename(fifo, &aside).unwrap();
    fs::write(fifo, content).unwrap();
    // Opening its other end wakes every reader that sleeps in it.
    wait_until("a reader of the fifo", || {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::open(&aside, flags, rustix::fs::Mode::empty()).is_ok()
    });
    fs::remove_file(aside).unwrap();
}

/// What `keyhole-exporter describe` prints, in JSON.
fn describe(environment: &Environment) -> String {
    let mut command = environment.command("keyhole-exporter", EXPORTER_UID);
    command.arg("describe").args(["-o", "json"]).arg(flag("--broker.socket=", environment.socket()));
    let output = run_to_end(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The queries that `describe` calls stuck: in its pretty JSON a query's name comes before that.
fn stuck_queries(described: &str) -> Vec<String> {
    let mut name = "";
    let mut stuck = Vec::new();
    for line in described.lines().map(str::trim) {
        name = line.strip_prefix("\"name\": ").unwrap_or(name);
        if line.trim_end_matches(',') == "\"stuck\": true" {
            stuck.push(name.trim_matches(|c| c == '"' || c == ',').to_owned());
        }
    }
    stuck
}

/// How a query of a scrape ended, if not as it should.
fn outcome(scrape: &Exposition, query: &str) -> Option<String> {
    let mut of_query = scrape.samples("keyhole_query_outcome").filter(|one| one.labels["query"] == query);
    of_query.next().map(|one| one.labels["outcome"].clone())
}

#[test]
fn a_stuck_file_delays_the_first_scrape_by_two_seconds_and_affects_nothing_else() {
    let environment = Environment::new();
    let flags = fixture_tree(&environment);
    let other = environment.dir().join("tree/sys/class/thermal/thermal_zone1");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("type"), "acpitz\n").unwrap();
    fs::write(other.join("temp"), "31000\n").unwrap();
    let fifo = jam(&environment, "sys/class/thermal/thermal_zone0/temp");
    let broker = environment.start_broker(&flags);
    let exporter = environment.start_exporter::<&str>(&[]);

    let whole = |timeout: &str| {
        let answer = exporter.metrics(timeout);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let limit = Duration::from_secs_f64(timeout.parse().unwrap());
        assert!(answer.elapsed < limit, "{:?} of {limit:?}", answer.elapsed);
        let scrape = Exposition::parse(&answer.body).unwrap();
        for collector in
            ["cpu", "diskstats", "filefd", "loadavg", "meminfo", "netdev", "stat", "thermal_zone", "vmstat"]
        {
            assert_eq!(success(&scrape, collector), Some(1.0), "{collector}");
        }
        assert_eq!(outcome(&scrape, "thermal"), None, "its query is ok");
        let temperature = |zone| scrape.value("node_thermal_zone_temp", &[("zone", zone)]);
        assert_eq!(temperature("1"), Some(31.0));
        (temperature("0"), answer.elapsed)
    };
    let (hanging, took) = whole("6");
    assert!(hanging.is_none() && took >= Duration::from_secs(2), "{hanging:?} {took:?}");
    // From now on the broker knows, and a scrape with hardly any time is whole.
    for _ in 0..5 {
        let (hanging, took) = whole("1.5");
        assert!(hanging.is_none() && took < Duration::from_secs(1), "{hanging:?} {took:?}");
    }
    let counts = environment.start_exporter::<&str>(&[]).scrape();
    assert_eq!(counts.value("keyhole_broker_stuck_queries_total", &[]), Some(1.0));
    assert_eq!(counts.value("keyhole_broker_readers_stuck", &[]), Some(1.0));
    let of_class = |family, class| counts.value(family, &[("reader", class)]);
    for class in ["procfs", "sysfs", "devices"] {
        let stuck = if class == "devices" { 1.0 } else { 0.0 };
        assert_eq!(of_class("keyhole_broker_reader_stuck", class), Some(stuck), "{class}");
        assert_eq!(of_class("keyhole_broker_reader_available", class), Some(1.0), "{class}");
        assert_eq!(of_class("keyhole_broker_reader_deaths_total", class), Some(0.0), "{class}");
    }
    assert_eq!(stuck_queries(&describe(&environment)), ["QUERY_THERMAL"]);

    release(&fifo, "42000\n");
    wait_until("the reader returns", || broker.process.log().contains("the stuck reader has returned"));
    assert_eq!(whole("5").0, Some(42.0));
    let counts = environment.start_exporter::<&str>(&[]).scrape();
    assert_eq!(counts.value("keyhole_broker_readers_stuck", &[]), Some(0.0));
    assert_eq!(stuck_queries(&describe(&environment)), Vec::<String>::new());
}

#[test]
fn a_class_without_a_reader_fails_its_collectors_at_once_and_no_others() {
    let environment = Environment::new();
    let flags = fixture_tree(&environment);
    let fifos = [
        "sys/class/thermal/thermal_zone0/temp",
        "sys/class/power_supply/BAT0/capacity",
        "sys/class/nvme/nvme0/model",
        "sys/class/watchdog/watchdog0/status",
    ]
    .map(|path| jam(&environment, path));
    let broker = environment.start_broker(&flags);
    let exporter = environment.start_exporter::<&str>(&[]);
    wait_until("every reader of the class is stuck", || {
        exporter.metrics("10");
        broker.process.log().matches("its reader is stuck").count() == fifos.len()
    });
    for _ in 0..3 {
        let answer = exporter.metrics("5");
        assert!(answer.elapsed < Duration::from_secs(1), "{:?}", answer.elapsed);
        let scrape = Exposition::parse(&answer.body).unwrap();
        for (collector, query) in [("thermal_zone", "thermal"), ("hwmon", "hwmon"), ("nvme", "nvme")] {
            assert_eq!(success(&scrape, collector), Some(0.0), "{collector}");
            assert_eq!(outcome(&scrape, query).as_deref(), Some("stuck"), "{query}");
        }
        for collector in ["cpu", "diskstats", "filefd", "loadavg", "meminfo", "stat", "vmstat"] {
            assert_eq!(success(&scrape, collector), Some(1.0), "{collector}");
        }
    }
    let counts = environment.start_exporter::<&str>(&[]).scrape();
    assert_eq!(counts.value("keyhole_broker_reader_available", &[("reader", "devices")]), Some(0.0));
    assert_eq!(counts.value("keyhole_broker_readers_stuck", &[]), Some(4.0));
    fifos.iter().for_each(|fifo| release(fifo, "1\n"));
    wait_until("every reader returns", || {
        broker.process.log().matches("the stuck reader has returned").count() == fifos.len()
    });
    let scrape = exporter.scrape();
    assert_eq!(success(&scrape, "thermal_zone"), Some(1.0));
    assert_eq!(scrape.value("node_thermal_zone_temp", &[]), Some(0.001));
}

#[test]
fn a_stuck_file_does_not_delay_a_scrape_with_less_time_than_the_brokers_timeout() {
    let environment = Environment::new();
    let flags = fixture_tree(&environment);
    jam(&environment, "sys/class/thermal/thermal_zone0/temp");
    let _broker = environment.start_broker(&flags);
    let exporter = environment.start_exporter::<&str>(&[]);
    let answer = exporter.metrics("1");
    assert!(answer.elapsed < Duration::from_secs(1), "{:?}", answer.elapsed);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let scrape = Exposition::parse(&answer.body).unwrap();
    assert_eq!(success(&scrape, "thermal_zone"), Some(0.0));
    assert_eq!(success(&scrape, "meminfo"), Some(1.0), "what came before is there");
}

#[test]
fn a_containers_own_files_are_left_out_and_reported_never_shown_as_the_hosts() {
    let environment = Environment::new();
    let _broker = environment.start_broker(&["--view=container"]);
    let exporter = environment.start_exporter::<&str>(&[]);
    let scrape = exporter.scrape();
    assert_eq!(scrape.value("keyhole_broker_info", &[("access_level", "minimal")]), Some(1.0));
    assert!(scrape.has("node_cpu_seconds_total") && scrape.has("node_memory_MemTotal_bytes"));
    for (prefix, collector, query) in
        [("node_network_", "netdev", "net_dev"), ("node_filesystem_", "filesystem", "mounts")]
    {
        let there: Vec<_> = scrape.families().filter(|family| family.starts_with(prefix)).collect();
        assert_eq!(there, Vec::<&str>::new());
        assert_eq!(success(&scrape, collector), Some(0.0), "{collector}");
        let labels = [("query", query), ("outcome", "container_view")];
        assert_eq!(scrape.value("keyhole_query_outcome", &labels), Some(1.0), "{query}");
    }
}

#[test]
fn a_uid_that_is_not_allowed_gets_nothing() {
    if !root_for("run an exporter as a uid of its own") {
        return;
    }
    let (environment, _broker, allowed) = start();
    let denied = environment.start_exporter_as::<&str>(DENIED_UID, &[]);
    let answer = denied.metrics("3");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_one_line(&answer.text());
    let refused = allowed.scrape().value("keyhole_broker_refused_peers_total", &[]);
    assert!(refused >= Some(1.0), "{refused:?}");
}

#[test]
fn an_exporter_without_a_broker_starts_and_waits_for_one() {
    let environment = Environment::new();
    let exporter = environment.start_exporter::<&str>(&[]);
    let answer = exporter.metrics("5");
    assert_eq!(answer.status, 503);
    assert_one_line(&answer.text());
    assert_eq!(exporter.get("/").status, 200);
    let _broker = environment.start_broker(&this_host());
    assert_eq!(exporter.metrics("10").status, 200);
}

#[test]
fn an_unreadable_textfile_directory_is_reported_and_affects_nothing_else() {
    let environment = Environment::new();
    let _broker = environment.start_broker(&this_host());
    let directory = environment.dir().join("textfiles");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a.prom"), "unreachable_metric 1\n").unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o0)).unwrap();
    let exporter = environment.start_exporter(&[flag("--collector.textfile.directory=", &directory)]);
    let scrape = exporter.scrape();
    assert_eq!(scrape.value("node_textfile_scrape_error", &[]), Some(1.0));
    assert!(!scrape.has("unreachable_metric"));
    assert!(scrape.has("node_memory_MemTotal_bytes"));
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn text_files_are_shown_beside_the_hosts_families() {
    let environment = Environment::new();
    let _broker = environment.start_broker(&this_host());
    let directory = environment.dir().join("textfiles");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("a.prom"), "# TYPE own_jobs_total counter\nown_jobs_total{job=\"a b\"} 3\n")
        .unwrap();
    let exporter = environment.start_exporter(&[flag("--collector.textfile.directory=", &directory)]);
    let scrape = exporter.scrape();
    assert_eq!(scrape.value("own_jobs_total", &[("job", "a b")]), Some(3.0));
    assert_eq!(scrape.kind("own_jobs_total"), Some("counter"));
    assert_eq!(scrape.value("node_textfile_scrape_error", &[]), Some(0.0));
}

/// Starts the exporter, which must fail; returns its message.
fn refused(environment: &Environment, flags: &[OsString]) -> String {
    let mut command = environment.command("keyhole-exporter", EXPORTER_UID);
    command.args(flags);
    let output = run_to_end(command);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    // 2 is a mistake of the command line, 1 what only the system knows.
    let of_the_system = ["in use", "/nonexistent"].iter().any(|part| message.contains(part));
    assert_eq!(output.status.code(), Some(if of_the_system { 1 } else { 2 }), "{flags:?}: {message}");
    assert_one_line(&message);
    assert!(message.starts_with("keyhole-exporter: error: "), "{message}");
    message
}

#[test]
fn bad_input_fails_the_exporters_start_with_one_line_that_has_a_hint() {
    let environment = Environment::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("--web.listen-address={}", listener.local_addr().unwrap());
    let cases: &[(&[&str], &[&str])] = &[
        (&["--colector.cpu"], &["unknown flag --colector.cpu", "did you mean --collector.cpu?"]),
        (
            &["--collector.netdev.device-exclude=("],
            &["--collector.netdev.device-exclude", "regular expression"],
        ),
        (&[&taken], &["in use", "--web.listen-address"]),
        (
            &["--collector.netdev.device-include=a", "--collector.netdev.device-exclude=b"],
            &["--collector.netdev.device-include", "--collector.netdev.device-exclude", "exclude each other"],
        ),
        (&["--web.listen-address=nowhere"], &["--web.listen-address", "127.0.0.1:9100"]),
        (&["--log.level=loud"], &["--log.level", "debug, info, warn or error"]),
        (&["--web.config.file=/nonexistent/tls.yml"], &["--web.config.file"]),
        (&["--scrape.timeout=soon"], &["--scrape.timeout", "5s"]),
        (&["--collector.cpu=yes"], &["--collector.cpu", "--no-collector.cpu"]),
        (&["serve"], &["serve", "--help"]),
        (&["replay"], &["directory", "--help"]),
        (&["replay", "/nonexistent"], &["/nonexistent", "directory"]),
    ];
    for (flags, hint) in cases {
        let flags: Vec<OsString> = flags.iter().map(Into::into).collect();
        let message = refused(&environment, &flags);
        for hint in *hint {
            assert!(message.contains(hint), "{flags:?}: {hint:?} is not in {message:?}");
        }
    }
    drop(listener);
}

#[test]
fn an_argument_that_is_not_utf_8_is_refused_like_any_other() {
    use std::os::unix::ffi::OsStringExt;
    let environment = Environment::new();
    let message = refused(&environment, &[OsString::from_vec(b"--collector.\xff".to_vec())]);
    assert!(message.contains("--collector."), "{message}");
}

#[test]
fn bad_input_fails_the_brokers_start_with_one_line_that_has_a_hint() {
    let environment = Environment::new();
    let _broker = environment.start_broker(&this_host());
    let live = flag("--socket.path=", environment.socket());
    let free = flag("--socket.path=", environment.dir().join("socket/other.sock"));
    let cases: &[(&[&str], &OsString, &str)] = &[
        (&["--path.sysroot=/"], &free, "unknown flag --path.sysroot"),
        (&["--path.procfs=/nonexistent"], &free, "--path.procfs"),
        (&["--path.procfs=/etc"], &free, "--view=host"),
        (&["--path.sysfs=/etc"], &free, "--view=host"),
        (&["--view=mine"], &free, "auto, host or container"),
        (&[], &live, "broker.sock"),
    ];
    for (flags, socket, hint) in cases {
        let mut command = environment.command("keyhole-broker", BROKER_UID);
        command.arg(socket).args(*flags);
        let output = run_to_end(command);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        let of_the_command_line = ["unknown flag", "auto, host"].iter().any(|part| hint.contains(part));
        let status = if of_the_command_line { 2 } else { 1 };
        assert_eq!(output.status.code(), Some(status), "{flags:?}: {message}");
        assert_one_line(&message);
        assert!(message.starts_with("keyhole-broker: error: "), "{message}");
        assert!(message.contains(hint), "{flags:?}: {hint:?} is not in {message:?}");
    }
    assert_eq!(
        environment.start_exporter::<&str>(&[]).metrics("10").status,
        200,
        "the live broker still serves"
    );
}

#[test]
fn both_programs_stop_on_sigterm_with_status_0_and_leave_no_socket() {
    let (environment, mut broker, mut exporter) = start();
    assert_eq!(exporter.metrics("10").status, 200);
    assert_eq!(exporter.process.terminate().code(), Some(0));
    assert!(environment.socket().exists());
    assert_eq!(broker.process.terminate().code(), Some(0));
    assert!(!environment.socket().exists());
}

#[test]
fn a_running_scrape_is_finished_when_the_exporter_is_asked_to_stop() {
    let environment = Environment::new();
    let flags = fixture_tree(&environment);
    jam(&environment, "sys/class/thermal/thermal_zone0/temp");
    let _broker = environment.start_broker(&flags);
    let mut exporter = environment.start_exporter::<&str>(&[]);
    let address = exporter.address;
    let asked = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scrape = scope.spawn(|| {
            asked.store(true, Ordering::SeqCst);
            http::get(address, "/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", "2")])
        });
        let deadline = Instant::now() + TIMEOUT;
        while !asked.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        // The stuck file keeps the scrape running for its whole time.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(exporter.process.terminate().code(), Some(0));
        assert_eq!(scrape.join().unwrap().status, 200);
    });
}
