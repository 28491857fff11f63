//! What a broker answers, and what the kernel says of its seal.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use keyhole_policy::TABLE;
use keyhole_proto::v1::{Outcome, Query, Rung, View};
use rustix::process::Signal;
use tonic_health::pb::health_check_response::ServingStatus as Health;

use crate::stage::*;

#[test]
fn it_serves_is_healthy_and_says_what_holds_it() {
    let stage = Stage::new();
    let broker = stage.start(&["--log.level=info"]);
    assert_eq!(broker.health(), Health::Serving);
    let probed = probe(&stage, broker_uid());
    assert!(probed.status.success() && probed.stderr.is_empty(), "{probed:?}");

    let described = broker.describe();
    assert_eq!(described.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(described.uid, broker_uid());
    let layers: Vec<_> = described.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(layers, keyhole_broker::sandbox::LAYERS);
    let landlock = kernel_has_landlock();
    for layer in &described.layers {
        assert_eq!(layer.in_force, landlock || layer.name != "landlock", "{layer:?}");
        assert!(!layer.detail.is_empty(), "{layer:?}");
    }
    let queries: Vec<_> = described.queries.iter().map(|described| described.query()).collect();
    assert_eq!(queries, TABLE.iter().map(|row| row.query).collect::<Vec<_>>());
    for query in &described.queries {
        assert!(!query.patterns.is_empty() && !query.stuck);
        assert_eq!(query.available, query.reason.is_empty(), "{query:?}");
    }
    assert!(described.start_time_ms > 1_600_000_000_000);
}

#[test]
fn the_kernel_confirms_the_seal_on_every_thread() {
    let stage = Stage::new();
    let broker = stage.start(&["--log.level=info"]);
    // Threads that have worked.
    broker.read(&[Query::Stat, Query::Meminfo]);
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", broker.pid())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).to_owned()
        };
        assert_eq!((field("Seccomp"), field("NoNewPrivs")), ("2".into(), "1".into()));
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        let uid = broker_uid();
        assert_eq!(field("Uid"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
        threads += 1;
    }
    assert!(threads > 1, "the lanes");
    // Not dumpable: what the kernel lets only its own uid see belongs to root now.
    assert_eq!(fs::metadata(format!("/proc/{}/environ", broker.pid())).unwrap().uid(), 0);
}

#[test]
fn nothing_that_a_parent_left_open_is_kept() {
    if !root() {
        return;
    }
    let stage = Stage::new();
    let secret = File::create(stage.at("secret")).unwrap();
    let fd = secret.as_raw_fd();
    let mut command = stage.command(&["--log.level=info"]);
    // SAFETY: the child only clears a flag of its own copy of a descriptor that lives until it was started.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let broker = stage.run(command);
    let mut kept = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap() {
        kept.push(fs::read_link(entry.unwrap().path()).unwrap());
    }
    assert!(kept.iter().any(|path| path.starts_with("/proc")), "{kept:?}");
    assert!(!kept.contains(&stage.at("secret")), "{kept:?}");
    assert!(!kept.iter().any(|path| path == Path::new("/proc/1/root") || path == Path::new("/")), "{kept:?}");
}

#[test]
fn every_query_is_answered_under_the_seal_again_and_again() {
    let stage = Stage::new();
    stage.put("os-release", "ID=test\n");
    stage.put("udev/b8:0", "E:ID_MODEL=x\n");
    fs::create_dir_all(stage.at("anchor")).unwrap();
    let mut broker = stage.start(&[
        format!("--path.os-release={}", stage.at("os-release").display()),
        format!("--path.udev.data={}", stage.at("udev").display()),
        format!("--filesystem.anchor={}", stage.at("anchor").display()),
        "--path.rootfs=/".to_owned(),
        "--view=host".to_owned(),
        "--allow-processes".to_owned(),
    ]);
    let queries: Vec<Query> = TABLE.iter().map(|row| row.query).collect();
    for _ in 0..3 {
        let answers = broker.read(&queries);
        assert_eq!(answers.iter().map(|answer| answer.query).collect::<Vec<_>>(), queries);
        for answer in &answers {
            assert!(
                matches!(answer.outcome, Outcome::Ok | Outcome::Absent | Outcome::Denied),
                "{:?}: {:?}",
                answer.query,
                answer.outcome
            );
        }
        let outcome = |query| answers.iter().find(|answer| answer.query == query).unwrap().outcome;
        for query in [
            Query::Stat,
            Query::Meminfo,
            Query::NetDev,
            Query::Mounts,
            Query::OwnMounts,
            Query::Anchors,
            Query::RootFileSystems,
            Query::OsRelease,
            Query::Processes,
            Query::ProcessDetails,
            Query::Udev,
            Query::Cpu,
            Query::NetClass,
        ] {
            assert_eq!(outcome(query), Outcome::Ok, "{query:?}");
        }
    }
    assert!(broker.lives());
    assert!(fs::read_to_string(stage.at("log")).unwrap().lines().all(|line| !line.contains("WARN")));
}

#[test]
fn a_long_file_arrives_whole() {
    let stage = Stage::new();
    let text: String = (0..300_000).map(|line| format!("{line:>12}\n")).collect();
    stage.put("proc/1/net/dev", &text);
    let broker = stage.start(&stage.fixtures());
    let answers = broker.read(&[Query::NetDev]);
    assert_eq!(answers[0].outcome, Outcome::Ok);
    assert!(answers[0].text("proc/1/net/dev").unwrap() == text.as_bytes());
}

#[test]
fn the_memory_that_a_long_file_takes_is_given_back() {
    let stage = Stage::new();
    stage.put("proc/1/net/tcp", &"x".repeat(32 << 20));
    let broker = stage.start(&stage.fixtures());
    // More often than there are lanes.
    for _ in 0..8 {
        assert_eq!(broker.read(&[Query::Tcp])[0].outcome, Outcome::Ok);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", broker.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 32 << 10, "{kib} KiB");
}

#[test]
fn the_view_is_what_the_flag_says_and_a_container_is_not_taken_for_the_host() {
    let stage = Stage::new();
    for (flag, view, rung, outcome) in [
        ("--view=container", View::Container, Rung::Own, Outcome::ContainerView),
        ("--view=host", View::Host, Rung::Host, Outcome::Ok),
    ] {
        let broker = stage.start(&[flag]);
        let described = broker.describe();
        assert_eq!((described.proc_view(), described.sys_view()), (view, view));
        if broker_uid() != 0 {
            assert_eq!(described.rung(), rung);
        }
        let answers = broker.read(&[Query::NetDev, Query::Loadavg]);
        assert_eq!(answers[0].outcome, outcome);
        assert_eq!(answers[1].outcome, Outcome::Ok);
    }
}

#[test]
fn a_containers_procfs_that_is_mounted_once_more_is_not_taken_for_the_hosts() {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount", "sh", "-c", script, "sh"]);
        command
    };
    if !root() || !unshare("mount -t proc proc /proc").status().is_ok_and(|status| status.success()) {
        return println!("skipped: needs the right to make namespaces");
    }
    for (mounts, view) in [
        ("mount -t proc proc /proc && mount -t proc proc $1", View::Container),
        ("mount --bind /proc $1 && mount -t proc proc /proc", View::Host),
    ] {
        let stage = Stage::new();
        fs::create_dir(stage.at("proc")).unwrap();
        let become_broker = "setpriv --reuid=$2 --regid=$2 --clear-groups --inh-caps=-all";
        let flags = "--socket.path=$4 --path.procfs=$1";
        // The shell stays: its end is that of its namespace. The broker, which changes its uid, would live on.
        let mut command = unshare(&format!("{mounts} && {become_broker} $3 {flags}; true"));
        command.arg(stage.at("proc")).arg(BROKER.to_string());
        command.arg(stage.at("keyhole-broker")).arg(stage.socket());
        let broker = stage.run(command);
        assert_eq!(broker.describe().proc_view(), view, "{mounts}");
    }
}

#[test]
fn health_fails_while_every_lane_is_stuck() {
    let stage = Stage::new();
    let flags = stage.fixtures();
    let jams = [
        (Query::Thermal, "sys/class/thermal/thermal_zone0/temp"),
        (Query::PowerSupply, "sys/class/power_supply/BAT0/capacity"),
        (Query::Block, "sys/block/sda/queue/rotational"),
        (Query::Clocksource, "sys/devices/system/clocksource/clocksource0/current_clocksource"),
    ];
    for (_, path) in jams {
        let path = stage.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }
    let mut broker = stage.start(&flags);
    assert_eq!(broker.health(), Health::Serving);
    let answers = broker.read(&jams.map(|(query, _)| query));
    assert!(answers.iter().all(|answer| answer.outcome == Outcome::TimedOut), "{answers:?}");
    soon("health to fail", || (broker.health() == Health::NotServing).then_some(()));
    let probed = probe(&stage, broker_uid());
    assert_eq!(probed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&probed.stderr).contains("NOT_SERVING"));
    let described = broker.describe();
    let counters = described.counters.unwrap();
    assert_eq!((counters.lanes_stuck, counters.stuck_queries), (4, 4));
    for query in &described.queries {
        assert_eq!(query.stuck, jams.iter().any(|(jam, _)| *jam == query.query()), "{query:?}");
    }
    // Threads that sleep in the kernel do not keep it from ending.
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait().code(), Some(0));
}
