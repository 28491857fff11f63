//! What a broker answers, and what the kernel confirms of its sandbox.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use keyhole_policy::TABLE;
use keyhole_proto::v1::{AccessLevel, Outcome, Query, View};
use keyhole_test_support::{BROKER_UID, Broker, broker_uid, landlock};
use tonic_health::pb::health_check_response::ServingStatus as Health;

use crate::{new_environment, root};

#[test]
fn it_serves_is_healthy_and_describes_its_sandbox() {
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    assert_eq!(broker.health(), Health::Serving);
    let probed = environment.probe(broker_uid());
    assert!(probed.status.success() && probed.stderr.is_empty(), "{probed:?}");

    let described = broker.describe();
    assert_eq!(described.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(described.uid, broker_uid());
    let layers: Vec<_> =
        described.layers.iter().map(|layer| (layer.process.as_str(), layer.name.as_str())).collect();
    let processes = ["broker", "zygote", "reader-procfs", "reader-sysfs", "reader-devices"];
    // Only the broker has peers.
    let all = processes
        .into_iter()
        .flat_map(|process| keyhole_broker::sandbox::LAYERS.map(|layer| (process, layer)));
    let expected: Vec<_> =
        all.filter(|(process, layer)| *process == "broker" || *layer != "passed_descriptors").collect();
    assert_eq!(layers, expected);
    let readers: Vec<_> = described.readers.iter().map(|reader| (&*reader.name, reader.available)).collect();
    assert_eq!(readers, [("procfs", true), ("sysfs", true), ("devices", true)]);
    let has_landlock = landlock::abi() > 0;
    for layer in &described.layers {
        let is_old = layer.name == "passed_descriptors" && layer.detail.contains("before 6.16");
        assert_eq!(layer.in_force, !is_old && (has_landlock || layer.name != "landlock"), "{layer:?}");
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
fn the_kernel_confirms_the_sandbox_of_every_process() {
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    broker.read(&[Query::Stat, Query::Cpu, Query::NetClass]);
    let processes = broker.process.pids();
    // The broker, the zygote, and readers of procfs, of sysfs and of devices.
    assert_eq!(processes.len(), 5, "{processes:?}");
    for pid in processes {
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
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
        }
        // Not dumpable: files that only its own uid may see belong to root.
        assert_eq!(fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid(), 0);
    }
}

/// The descriptors of a process, without the numbers of pipes and sockets.
fn descriptors(pid: u32) -> Vec<String> {
    let mut descriptors = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        // A connection may just have been closed.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind).to_owned();
        let flags = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
        let mode = u32::from_str_radix(&flags, 8).unwrap() & 3;
        let kind = kind.replace(&format!("/proc/{pid}/"), "/proc/OWN/");
        descriptors.push(format!("{kind} {}", ["read", "write", "both"][mode as usize]));
    }
    descriptors.sort();
    descriptors
}

/// Counts equal lines.
fn counted(lines: Vec<String>) -> Vec<(String, usize)> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for line in lines {
        match counted.last_mut() {
            Some((last, count)) if *last == line => *count += 1,
            _ => counted.push((line, 1)),
        }
    }
    counted
}

#[test]
fn every_process_has_the_descriptors_of_its_list_and_no_others() {
    if !root() {
        return;
    }
    use keyhole_policy::pipes::SLOTS;
    let environment = new_environment();
    environment.write("udev/b8:0", "E:ID_MODEL=x\n");
    environment.write("proc/stat", "cpu 1\n");
    environment.write("proc/1/mountinfo", "");
    environment.write("sys/devices/system/cpu/online", "0\n");
    environment.write("sys/class/thermal/thermal_zone0/temp", "1\n");
    let at = |path: &str| environment.path(path).display().to_string();
    let broker = environment.start_broker(
        &[
            &environment.fixture_flags()[..],
            &["--allow-processes".to_owned(), format!("--path.udev.data={}", at("udev"))],
            &[format!("--filesystem.probe-directory={}", at("udev")), "--path.rootfs=/".to_owned()],
        ]
        .concat(),
    );
    let queries: Vec<Query> = TABLE.iter().map(|row| row.query).collect();
    broker.read(&queries);
    let pipes = |kind: &str, count| (format!("pipe {kind}"), count);
    let seen = |pid| counted(descriptors(pid));
    let [this, zygote, readers @ ..] = &broker.process.pids()[..] else { panic!("no zygote") };

    // The broker: pipes, its log, those of the runtime, sockets, the socket's directory. None of the host.
    let of_broker = seen(*this);
    let host: Vec<_> = of_broker
        .iter()
        .filter(|(what, _)| {
            !what.starts_with("pipe") && !what.starts_with("anon_inode") && !what.starts_with("socket")
        })
        .map(|(what, _)| what.clone())
        .collect();
    let expected = [
        "/dev/null read".to_owned(),
        "/dev/null write".to_owned(),
        format!("{} write", at("0.log")),
        format!("{} read", at("run")),
    ];
    assert_eq!(host, expected, "{of_broker:?}");
    assert!(
        of_broker.contains(&pipes("read", SLOTS + 1)) && of_broker.contains(&pipes("write", SLOTS + 1)),
        "{of_broker:?}"
    );

    // The zygote: the readers' ends of pipes, its own two pipes, and one descriptor for each reader.
    let of_zygote = seen(*zygote);
    let expected = [
        ("/dev/null write".to_owned(), 1),
        ("anon_inode both".to_owned(), readers.len()),
        pipes("read", SLOTS + 1),
        pipes("write", SLOTS + 1),
    ];
    let of_zygote: Vec<_> = of_zygote
        .into_iter()
        .map(|(what, count)| (what.replace("anon_inode:[pidfd]", "anon_inode"), count))
        .collect();
    assert_eq!(of_zygote, expected);

    let (proc, sys) = (at("proc"), at("sys"));
    let read = |path: &str| (format!("{path} read"), 1);
    let mut seen_readers: Vec<_> = readers.iter().map(|pid| seen(*pid)).collect();
    seen_readers.iter_mut().for_each(|reader| {
        reader.retain(|(what, _)| !["/dev/null write", "pipe read", "pipe write"].contains(&what.as_str()));
    });
    let own = || [read("/proc/OWN/stat")];
    let with = |more: &[(String, usize)]| {
        let mut list = [&own()[..], more].concat();
        list.sort();
        list
    };
    let mut expected = vec![
        with(&[
            read(&proc),
            read(&format!("{proc}/stat")),
            read(&format!("{proc}/1/mountinfo")),
            read("/proc/OWN/mountinfo"),
        ]),
        with(&[read(&sys), read(&format!("{sys}/devices/system/cpu/online"))]),
        with(&[read(&proc), read(&sys), read(&format!("{sys}/class/thermal/thermal_zone0/temp"))]),
        with(&[read(&at("udev"))]),
        with(&[read(&proc)]),
        // The probe directory is opened by name, and does not stay open.
        with(&[read("/"), read("/proc/OWN/mountinfo"), read(&format!("{proc}/1/mountinfo"))]),
    ];
    seen_readers.sort();
    expected.sort();
    assert_eq!(seen_readers, expected);
}

#[test]
fn descriptors_that_a_parent_left_open_are_closed() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let secret = File::create(environment.path("secret")).unwrap();
    let fd = secret.as_raw_fd();
    let mut command = environment.broker_command(&["--log.level=info"]);
    // SAFETY: the child only clears a flag of its own copy of a descriptor that lives until it was started.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let broker = environment.run_broker(command);
    let mut open = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", broker.process.pid())).unwrap() {
        open.push(fs::read_link(entry.unwrap().path()).unwrap());
    }
    assert!(!open.iter().any(|path| path.starts_with("/proc") || path.starts_with("/sys")), "{open:?}");
    assert!(!open.contains(&environment.path("secret")), "{open:?}");
    assert!(!open.iter().any(|path| path == Path::new("/proc/1/root") || path == Path::new("/")), "{open:?}");
}

#[test]
fn every_query_is_answered_repeatedly_in_the_sandbox() {
    let environment = new_environment();
    environment.write("os-release", "ID=test\n");
    environment.write("udev/b8:0", "E:ID_MODEL=x\n");
    fs::create_dir_all(environment.path("probe")).unwrap();
    let mut broker = environment.start_broker(&[
        format!("--path.os-release={}", environment.path("os-release").display()),
        format!("--path.udev.data={}", environment.path("udev").display()),
        format!("--filesystem.probe-directory={}", environment.path("probe").display()),
        "--path.rootfs=/".to_owned(),
        "--view=host".to_owned(),
        "--allow-processes".to_owned(),
    ]);
    let queries: Vec<Query> = TABLE.iter().map(|row| row.query).collect();
    for _ in 0..3 {
        let answers = broker.read(&queries);
        // In any order.
        let mut answered: Vec<_> = answers.iter().map(|answer| answer.query as i32).collect();
        answered.sort_unstable();
        let mut asked: Vec<_> = queries.iter().map(|query| *query as i32).collect();
        asked.sort_unstable();
        assert_eq!(answered, asked);
        for answer in &answers {
            assert!(
                matches!(answer.outcome, Outcome::Ok | Outcome::Empty | Outcome::Absent | Outcome::Denied),
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
            Query::ProbeDirectories,
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
    assert!(broker.process.is_running());
    assert!(broker.process.log().lines().all(|line| !line.contains("WARN")));
}

#[test]
fn a_long_file_arrives_completely() {
    let environment = new_environment();
    let text: String = (0..300_000).map(|line| format!("{line:>12}\n")).collect();
    environment.write("proc/1/net/dev", &text);
    let broker = environment.start_broker(&environment.fixture_flags());
    let answers = broker.read(&[Query::NetDev]);
    assert_eq!(answers[0].outcome, Outcome::Ok);
    assert!(answers[0].text("proc/1/net/dev").unwrap() == text.as_bytes());
}

#[test]
fn no_process_has_a_whole_long_file_in_memory() {
    let environment = new_environment();
    environment.write("proc/1/net/tcp", &"x".repeat(32 << 20));
    let broker = environment.start_broker(&environment.fixture_flags());
    for _ in 0..8 {
        assert_eq!(broker.read(&[Query::Tcp])[0].outcome, Outcome::Ok);
    }
    for pid in broker.process.pids() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 16 << 10, "{kib} KiB");
    }
}

#[test]
fn the_view_is_that_of_the_flag_and_a_container_is_not_taken_for_the_host() {
    let environment = new_environment();
    for (flag, view, level, outcome) in [
        ("--view=container", View::Container, AccessLevel::Minimal, Outcome::ContainerView),
        ("--view=host", View::Host, AccessLevel::Host, Outcome::Ok),
    ] {
        let broker = environment.start_broker(&[flag]);
        let described = broker.describe();
        assert_eq!((described.proc_view(), described.sys_view()), (view, view));
        if broker_uid() != 0 {
            assert_eq!(described.access_level(), level);
        }
        let answers = broker.read(&[Query::NetDev, Query::Loadavg]);
        let of = |query| answers.iter().find(|answer| answer.query == query).unwrap().outcome;
        assert_eq!((of(Query::NetDev), of(Query::Loadavg)), (outcome, Outcome::Ok));
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
        let environment = new_environment();
        fs::create_dir(environment.path("proc")).unwrap();
        let become_broker = "setpriv --reuid=$2 --regid=$2 --clear-groups --inh-caps=-all";
        let flags = "--socket.path=$4 --path.procfs=$1";
        // The shell stays PID 1: when it exits, so does the broker, which has changed its uid.
        let mut command = unshare(&format!("{mounts} && {become_broker} $3 {flags}; true"));
        command.arg(environment.path("proc")).arg(BROKER_UID.to_string());
        command.arg(environment.path("keyhole-broker")).arg(environment.socket());
        let broker = environment.run_broker(command);
        assert_eq!(broker.describe().proc_view(), view, "{mounts}");
    }
}

/// The outcomes of a broker whose procfs is mounted with these options, in new namespaces of these kinds.
struct Mounted {
    options: &'static str,
    namespaces: &'static [&'static str],
    proc_view: View,
    sys_view: View,
    /// Of NET_DEV, of PROCESSES, of MOUNTS, of NET_SYSCTL, and of SOFTNET.
    outcomes: [Outcome; 5],
    /// Why PROCESSES cannot be answered, in part.
    why: &'static str,
}

#[test]
fn hidden_processes_do_not_make_a_container_and_other_files_are_read() {
    use Outcome::{ContainerView, Denied, Ok as Read};
    const IN_HOSTS_NETWORK: [Outcome; 5] = [Read, Denied, Denied, Read, Read];
    const ELSEWHERE: [Outcome; 5] = [Denied, Denied, Denied, ContainerView, Read];
    let mounted = |options, outcomes, why| {
        let (proc_view, sys_view, namespaces) = (View::Hidden, View::Host, &[][..]);
        Mounted { options, namespaces, proc_view, sys_view, outcomes, why }
    };
    let everything = |options| Mounted { proc_view: View::Host, ..mounted(options, [Read; 5], "") };
    let cases = [
        mounted("hidepid=1", IN_HOSTS_NETWORK, "(hidepid=1)"),
        mounted("hidepid=2", IN_HOSTS_NETWORK, "(hidepid=2 or 4)"),
        mounted("hidepid=noaccess", IN_HOSTS_NETWORK, "(hidepid=1)"),
        mounted("hidepid=invisible", IN_HOSTS_NETWORK, "(hidepid=2 or 4)"),
        mounted("hidepid=ptraceable", IN_HOSTS_NETWORK, "(hidepid=2 or 4)"),
        // The mount option gid= has no effect with the last.
        mounted("hidepid=4,gid=64646", IN_HOSTS_NETWORK, "(hidepid=2 or 4)"),
        everything("hidepid=0"),
        everything("hidepid=1,gid=64646"),
        everything("hidepid=2,gid=64646"),
        Mounted { outcomes: [Read, Read, Read, Denied, Read], ..everything("subset=pid") },
        // In a network namespace of its own, with PID 1 hidden, nothing shows which the host's is.
        Mounted {
            namespaces: &["--net"],
            sys_view: View::Unspecified,
            ..mounted("hidepid=2", ELSEWHERE, "(hidepid=2 or 4)")
        },
        Mounted {
            namespaces: &["--net"],
            sys_view: View::Container,
            outcomes: [Read, Read, Read, ContainerView, Read],
            ..everything("hidepid=2,gid=64646")
        },
    ];
    if !hosts_first_namespaces() {
        return println!("skipped: needs root in the namespaces that the kernel started with");
    }
    for case in &cases {
        let script = "mount -t proc -o $1 proc /proc";
        let mut command = unshare(case.namespaces, script);
        let environment = new_environment();
        command.arg(case.options).arg(environment.path("keyhole-broker")).arg(environment.socket());
        let broker = environment.run_broker(command);
        check_mounted(case, &broker);
    }
}

/// A command that runs a shell script in new namespaces of these kinds: `$1` is the script's argument, `$2` the broker's
/// program and `$3` its socket.
fn unshare(namespaces: &[&str], script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount").args(namespaces).args(["sh", "-c"]);
    let broker = format!(
        "{script} && exec setpriv --reuid={BROKER_UID} --regid={BROKER_UID} --clear-groups --inh-caps=-all $2 --socket.path=$3 \
         --allow-processes"
    );
    command.arg(broker).arg("sh");
    command
}

/// Whether the tests run where the host's own services do, with the right to mount.
fn hosts_first_namespaces() -> bool {
    let first_pid = fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.ends_with("pid:[4026531836]"));
    let first_net = Path::new("/proc/sys/net/core/dev_weight").exists();
    root()
        && first_pid
        && first_net
        && Command::new("unshare")
            .args(["--mount", "--net", "true"])
            .status()
            .is_ok_and(|status| status.success())
}

fn check_mounted(case: &Mounted, broker: &Broker) {
    let what = format!("{} {:?}", case.options, case.namespaces);
    let described = broker.describe();
    assert_eq!((described.proc_view(), described.sys_view()), (case.proc_view, case.sys_view), "{what}");
    let asked = [Query::NetDev, Query::Processes, Query::Mounts, Query::NetSysctl, Query::Softnet];
    let answers = broker.read(&asked);
    let answer = |query| answers.iter().find(|answer| answer.query == query).unwrap();
    assert_eq!(asked.map(|query| answer(query).outcome), case.outcomes, "{what}");
    let described = described.queries.iter().find(|described| described.query() == Query::Processes).unwrap();
    assert!(
        described.reason.contains(case.why) && described.available == case.why.is_empty(),
        "{described:?}"
    );
    if case.outcomes[1] == Outcome::Ok {
        assert!(answer(Query::Processes).text("proc/1/stat").is_some(), "{what}");
    } else {
        assert!(answer(Query::Processes).files.is_empty(), "{what}: not even its own process is read");
    }
    // Of the network namespace it is the host's, under the name that it has everywhere.
    if case.outcomes[0] == Outcome::Ok {
        let text = String::from_utf8(answer(Query::NetDev).text("proc/1/net/dev").unwrap()).unwrap();
        let devices = |text: &str| {
            text.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(devices(&text), devices(&fs::read_to_string("/proc/net/dev").unwrap()), "{what}");
    }
    assert!(answer(Query::Softnet).text("proc/1/net/softnet_stat").is_some(), "{what}");
}

#[test]
fn a_pod_whose_host_procfs_hides_processes_is_denied_and_gets_no_numbers_of_its_own() {
    if !hosts_first_namespaces() {
        return println!("skipped: needs root in the namespaces that the kernel started with");
    }
    let environment = new_environment();
    fs::create_dir(environment.path("proc")).unwrap();
    let case = Mounted {
        options: "a pod",
        namespaces: &["--net", "--pid"],
        proc_view: View::Hidden,
        sys_view: View::Unspecified,
        outcomes: [Outcome::Denied, Outcome::Denied, Outcome::Denied, Outcome::ContainerView, Outcome::Ok],
        why: "(hidepid=2 or 4)",
    };
    // The pod's procfs is mounted in its PID namespace, the host's outside of it. The shell stays PID 1 of the namespace.
    let mount = "mount -t proc -o hidepid=2 proc $1";
    let become_broker =
        format!("setpriv --reuid={BROKER_UID} --regid={BROKER_UID} --clear-groups --inh-caps=-all");
    let pod = format!(
        "mount -t proc proc /proc && {become_broker} $2 --socket.path=$3 --path.procfs=$1 --allow-processes; true"
    );
    let script =
        format!("{mount} && exec unshare --net --pid --fork --kill-child --mount sh -c '{pod}' sh $1 $2 $3");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command.arg(environment.path("proc")).arg(environment.path("keyhole-broker")).arg(environment.socket());
    let broker = environment.run_broker(command);
    check_mounted(&case, &broker);
}

#[test]
fn an_os_container_gets_a_hint_of_the_view_flag_and_is_a_host_with_it() {
    if !hosts_first_namespaces() {
        return println!("skipped: needs root in the namespaces that the kernel started with");
    }
    for (flag, view, outcome) in
        [("--view=auto", View::Container, Outcome::ContainerView), ("--view=host", View::Host, Outcome::Ok)]
    {
        let environment = new_environment();
        let become_broker =
            format!("setpriv --reuid={BROKER_UID} --regid={BROKER_UID} --clear-groups --inh-caps=-all");
        let script = format!(
            "mount -t proc proc /proc && mount -t sysfs sysfs /sys && {become_broker} $2 --socket.path=$3 --allow-processes $1; true"
        );
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            &script,
            "sh",
        ]);
        command.arg(flag).arg(environment.path("keyhole-broker")).arg(environment.socket());
        let broker = environment.run_broker(command);
        assert_eq!(broker.describe().proc_view(), view, "{flag}");
        let asked = [Query::NetDev, Query::Processes, Query::NetSysctl, Query::NamespaceSysctl];
        for answer in broker.read(&asked) {
            assert_eq!(answer.outcome, outcome, "{flag} {:?}", answer.query);
        }
        let log = broker.process.log();
        assert_eq!(log.contains("set --view=host"), outcome == Outcome::ContainerView, "{log}");
    }
}
