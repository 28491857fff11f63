//! How the broker starts, when it refuses to, and how it exits.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use keyhole_broker::sandbox::LAYERS;
use keyhole_proto::v1::broker_client::BrokerClient;
use keyhole_proto::v1::{AccessLevel, DescribeRequest, Outcome, Query, file};
use keyhole_test_support::client::{block_on, channel};
use keyhole_test_support::{
    BROKER_UID, ChildProcess, broker_uid, flag, is_root, landlock, run_as, wait_for, wait_until,
};
use rustix::process::{Signal, getgid};

use crate::{new_environment, root, start_error, usage_error};

#[test]
fn the_socket_is_for_its_owner_and_the_group_of_the_flag() {
    let environment = new_environment();
    let group = if is_root() { 64700 } else { getgid().as_raw() };
    let mut command = environment.broker_command_as_self(&[format!("--socket.group={group}")]);
    let become_broker = is_root();
    // SAFETY: the child only makes system calls that take numbers, and one with memory that outlives it.
    unsafe {
        command.pre_exec(move || {
            // The inherited umask has no effect.
            libc::umask(0);
            let became = !become_broker
                || libc::setgroups(1, &group) == 0
                    && libc::setgid(BROKER_UID) == 0
                    && libc::setuid(BROKER_UID) == 0;
            if became { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    let _broker = environment.run_broker(command);
    let metadata = fs::symlink_metadata(environment.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.mode() & 0o7777, 0o660);
    assert_eq!((metadata.uid(), metadata.gid()), (broker_uid(), group));
}

#[test]
fn a_signal_stops_it_and_removes_the_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let environment = new_environment();
        let mut broker = environment.start_broker(&["--log.level=info"]);
        // With an open connection, and one without a request.
        let _idle = broker.connect();
        broker.read(&[Query::Loadavg]);
        broker.process.signal(signal);
        assert_eq!(broker.process.wait().code(), Some(0), "{}", broker.process.log());
        assert!(fs::symlink_metadata(environment.socket()).is_err(), "the socket is removed");
    }
}

#[test]
fn a_json_log_has_one_object_per_line() {
    let environment = new_environment();
    let log = fs::File::create(environment.path("json")).unwrap();
    let command = environment.broker_command(&["--log.level=info", "--log.format=json"]);
    let mut broker = environment.spawn_broker(command, log);
    wait_until("the socket", || environment.socket().exists());
    assert_eq!(broker.read(&[Query::Loadavg])[0].outcome, Outcome::Ok);
    broker.process.signal(Signal::TERM);
    broker.process.wait();
    let log = fs::read_to_string(environment.path("json")).unwrap();
    for line in log.lines() {
        assert!(line.starts_with("{\"time\":\"2") && line.ends_with("\"}"), "{line}");
        assert!(line.contains("\",\"level\":\"INFO\",\"msg\":\""), "{line}");
        assert!(line.matches('"').count() % 2 == 0, "{line}");
    }
    let of = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert!(of("\"msg\":\"sandbox layer in force\"") >= 3, "{log}");
    assert_eq!(of("\"process\":\"broker\",\"layer\":\"seccomp\""), 1, "{log}");
    assert_eq!(of("\"msg\":\"stopping on SIGTERM\""), 1, "{log}");
}

#[test]
fn a_closed_log_does_not_stop_the_program() {
    let environment = new_environment();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut broker = environment.spawn_broker(environment.broker_command(&["--log.level=info"]), full);
    wait_until("the socket", || environment.socket().exists());
    assert_eq!(broker.read(&[Query::Loadavg])[0].outcome, Outcome::Ok);
    broker.process.signal(Signal::TERM);
    assert_eq!(broker.process.wait().code(), Some(0));
    assert!(fs::symlink_metadata(environment.socket()).is_err(), "the socket is removed");
}

#[test]
fn a_socket_left_by_a_crash_is_replaced() {
    let environment = new_environment();
    let mut broker = environment.start_broker(&["--log.level=info"]);
    broker.process.signal(Signal::KILL);
    broker.process.wait();
    assert!(fs::symlink_metadata(environment.socket()).is_ok(), "it had no time to remove it");
    let again = environment.start_broker(&["--log.level=info"]);
    assert_eq!(again.read(&[Query::Loadavg])[0].outcome, Outcome::Ok);
}

#[test]
fn the_socket_of_a_running_broker_is_not_replaced() {
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    let line = start_error(environment.broker_command(&["--log.level=warn"]));
    assert!(line.contains("--socket.path=") && line.contains("stop it, or choose another path"), "{line}");
    assert_eq!(broker.read(&[Query::Loadavg])[0].outcome, Outcome::Ok, "the first one keeps running");

    // Nor is the socket of any other program that listens.
    let other = new_environment();
    let listener = UnixListener::bind(other.socket()).unwrap();
    fs::set_permissions(other.socket(), Permissions::from_mode(0o777)).unwrap();
    let line = start_error(other.broker_command(&["--log.level=warn"]));
    assert!(line.contains("another broker is listening"), "{line}");
    drop(listener);
}

#[test]
fn a_broker_does_not_remove_the_socket_of_its_successor() {
    let environment = new_environment();
    let mut first = environment.start_broker(&["--log.level=info"]);
    fs::rename(environment.socket(), environment.path("aside")).unwrap();
    let second = environment.start_broker(&["--log.level=info"]);
    first.process.signal(Signal::TERM);
    assert_eq!(first.process.wait().code(), Some(0));
    assert_eq!(second.read(&[Query::Loadavg])[0].outcome, Outcome::Ok);
}

#[test]
fn a_path_that_is_not_a_socket_is_not_replaced() {
    let environment = new_environment();
    fs::write(environment.socket(), "precious").unwrap();
    let line = start_error(environment.broker_command(&["--log.level=info"]));
    assert!(line.contains("not a socket") && line.contains("remove it, or choose another path"), "{line}");
    assert_eq!(fs::read(environment.socket()).unwrap(), b"precious");

    let linked = new_environment();
    std::os::unix::fs::symlink(environment.socket(), linked.socket()).unwrap();
    let line = start_error(linked.broker_command(&["--log.level=info"]));
    assert!(line.contains("not a socket"), "{line}");
}

#[test]
fn unexpected_privileges_are_refused() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let line = start_error(environment.broker_command_as_self(&["--allow-capabilities"]));
    assert!(line.contains("uid 0") && line.contains("--allow-root"), "{line}");
    let line = start_error(environment.broker_command_as_self(&["--allow-root"]));
    assert!(line.contains("CAP_SYS_ADMIN") && line.contains("--allow-capabilities"), "{line}");
    assert!(fs::symlink_metadata(environment.socket()).is_err(), "refused before anything was made");
}

#[test]
fn a_broker_that_exec_puts_into_a_running_container_does_not_serve() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let mut container = ChildProcess::spawn(std::process::Command::new("unshare").args([
        "--pid",
        "--fork",
        "--kill-child",
        "sleep",
        "300",
    ]));
    let unshare = container.pid();
    let children = format!("/proc/{unshare}/task/{unshare}/children");
    let first = wait_for("the container's first process", || {
        let pid = fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
        (!pid.is_empty()).then_some(pid)
    });
    let exec = ["nsenter", "--target", &first, "--pid"].map(str::to_owned);
    let command = |argument: &str| {
        let mut command = environment.command_by(&exec, "keyhole-broker", BROKER_UID);
        command.arg(flag("--socket.path=", environment.socket())).arg(argument);
        command
    };
    let line = start_error(command("--allow-processes"));
    assert!(line.contains("kubectl exec") && line.contains("arguments"), "{line}");
    assert!(fs::symlink_metadata(environment.socket()).is_err(), "refused before anything was made");
    let policy = command("policy").stdout(Stdio::piped()).output().unwrap();
    assert!(policy.status.success(), "what only prints still runs");
    // A container's first process has no parent that it sees either, and serves.
    let by = ["unshare", "--pid", "--fork", "--kill-child"].map(str::to_owned);
    let broker = environment.start_broker_by(&by, &["--log.level=info"]);
    assert_eq!(broker.health(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    container.kill();
}

#[test]
fn root_by_flag_has_no_capability() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let broker = environment.run_broker(environment.broker_command_as_self(&[
        "--allow-root",
        "--allow-capabilities",
        "--view=host",
    ]));
    let status = fs::read_to_string(format!("/proc/{}/status", broker.process.pid())).unwrap();
    let sets: Vec<_> = status.lines().filter(|line| line.starts_with("Cap")).collect();
    assert_eq!(sets.len(), 5);
    assert!(sets.iter().all(|set| set.ends_with("\t0000000000000000")), "{sets:?}");
    let described = run_as(0, 0, || {
        block_on(async {
            let mut client = BrokerClient::new(channel(environment.socket()).await);
            client.describe(DescribeRequest {}).await.unwrap().into_inner()
        })
    });
    assert_eq!((described.uid, described.access_level()), (0, AccessLevel::Root));
}

#[test]
fn a_start_that_fails_logs_what_to_do_in_one_line() {
    let environment = new_environment();
    let missing = environment.path("missing");
    let missing = missing.display();
    let cases: &[(String, &[&str])] = &[
        (format!("--path.procfs={missing}"), &["--path.procfs=", "give a directory"]),
        (format!("--path.sysfs={missing}"), &["--path.sysfs=", "give a directory"]),
        (format!("--path.rootfs={missing}"), &["--path.rootfs=", "give a directory"]),
        (format!("--path.udev.data={missing}"), &["--path.udev.data=", "give a directory"]),
        (
            format!("--filesystem.probe-directory={missing}"),
            &["--filesystem.probe-directory=", "give a directory"],
        ),
        (format!("--path.os-release={missing}"), &["--path.os-release=", "give a file"]),
        ("--path.procfs=/tmp".into(), &["--path.procfs", "mount the host's proc there", "--view=host"]),
        ("--path.sysfs=/tmp".into(), &["--path.sysfs", "mount the host's sysfs there", "--view=host"]),
        ("--path.procfs=/etc/passwd".into(), &["--path.procfs=", "give a directory"]),
        ("--collector.cpu".into(), &["unknown flag --collector.cpu", "--help"]),
        ("-x".into(), &["unknown flag -x", "--help"]),
        ("--allow-uid=root".into(), &["--allow-uid", "root", "not a uid or gid"]),
        ("--allow-uid=-1".into(), &["--allow-uid", "-1", "not a uid or gid"]),
        ("--allow-uid=4294967296".into(), &["--allow-uid", "4294967296", "not a uid or gid"]),
        ("--socket.group=wheel".into(), &["--socket.group", "wheel", "not a uid or gid"]),
        ("--allow-uid".into(), &["--allow-uid"]),
        ("--view=guest".into(), &["--view", "auto, host or container"]),
        ("--log.level=loud".into(), &["--log.level", "debug, info, warn or error"]),
        ("--log.format=xml".into(), &["--log.format", "logfmt or json"]),
        ("--allow-root=yes".into(), &["--allow-root"]),
        ("--sandbox.require=apparmor".into(), &["--sandbox.require", "apparmor", "landlock", "seccomp"]),
        (format!("--path.procfs={missing}\nx"), &["--path.procfs=", "missing\\nx", "give a directory"]),
        ("serve".into(), &["probe, policy or completions"]),
    ];
    for (argument, hints) in cases {
        let command = environment.broker_command(&["--log.level=error", argument]);
        let of_the_system =
            hints.iter().any(|hint| hint.starts_with("give a") || hint.starts_with("mount the"));
        let line = if of_the_system { start_error(command) } else { usage_error(command) };
        assert!(hints.iter().all(|hint| line.contains(hint)), "{argument}: {line}");
    }
    for socket in [environment.path("nowhere/broker.sock"), environment.path("broker.sock")] {
        // Unless the uid of the tests may write there.
        if socket == environment.path("broker.sock") && !is_root() {
            continue;
        }
        let mut command = environment.command("keyhole-broker", BROKER_UID);
        command.arg(format!("--socket.path={}", socket.display()));
        let line = start_error(command);
        assert!(line.contains("--socket.path=") && line.contains("must exist and be writable"), "{line}");
    }
    let mut long = environment.command("keyhole-broker", BROKER_UID);
    long.arg(format!("--socket.path=/{}", "x".repeat(107)));
    let line = usage_error(long);
    assert!(line.contains("--socket.path=") && line.contains("107 at most: use a shorter one"), "{line}");
    if is_root() {
        let line = start_error(environment.broker_command(&["--socket.group=0"]));
        assert!(line.contains("--socket.group=0") && line.contains("a member of that group"), "{line}");
    }
    let line = start_error(environment.broker_command(&["probe"]));
    assert!(line.contains("--socket.path=") && line.contains("is the broker running?"), "{line}");
}

#[test]
fn variables_set_how_the_broker_logs_and_none_of_its_permissions() {
    let environment = new_environment();
    let mut command = environment.broker_command(&["--log.format=logfmt"]);
    command.envs([
        ("KEYHOLE_LOG_LEVEL", "debug"),
        ("KEYHOLE_LOG_FORMAT", "json"),
        ("KEYHOLE_ALLOW_PROCESSES", "true"),
        ("KEYHOLE_DESCRIPTOR_CACH", "1"),
        ("A_SECRET", "of another program"),
    ]);
    let broker = environment.run_broker(command);
    let log = broker.process.log();
    let warnings: Vec<&str> =
        log.lines().filter(|line| line.contains("environment variable without effect")).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    assert!(
        warnings[0].contains("KEYHOLE_ALLOW_PROCESSES") && warnings[0].contains("--allow-processes"),
        "{log}"
    );
    assert!(warnings[1].contains("did you mean KEYHOLE_DESCRIPTOR_CACHE?"), "{log}");
    assert!(log.contains("level=INFO"), "the command line overrides the environment: {log}");
    let answer = &broker.read(&[Query::Processes])[0];
    assert_ne!(answer.outcome, Outcome::Ok, "no variable allows the processes");
    if is_root() {
        let environ = fs::read(format!("/proc/{}/environ", broker.process.pid())).unwrap();
        assert!(environ.iter().all(|byte| *byte == 0), "the environment is overwritten");
    }
    drop(broker);
    let mut command = environment.broker_command(&["--log.level=error"]);
    command.env("KEYHOLE_REOPEN_INTERVAL", "soon");
    let line = usage_error(command);
    assert!(
        line.contains("KEYHOLE_REOPEN_INTERVAL=\"soon\" in the environment, for --reopen-interval: "),
        "{line}"
    );
}

#[test]
fn commands_that_only_print_succeed() {
    let environment = new_environment();
    for (argument, expected) in [
        ("policy", keyhole_broker::policy()),
        ("--version", format!("keyhole-broker {}\n", env!("CARGO_PKG_VERSION"))),
        ("--help-man", keyhole_broker::flags::PROGRAM.man_page()),
    ] {
        let output = environment.broker_command(&[argument]).stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
    let help = environment.broker_command(&["--help"]).stdout(Stdio::piped()).output().unwrap();
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("--allow-uid=UID"));
}

/// Makes one system call fail with ENOSYS in the child, as on a kernel without it.
fn without_syscall(command: &mut std::process::Command, number: libc::c_long) {
    const fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    let (load, equal, done) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    let mut program = [
        op(load, 0, 0, 0),
        op(equal, 0, 1, number as u32),
        op(done, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        op(done, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: two prctl calls; the second is given a program that the closure owns and that lives through the call.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
            let installed = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            if installed { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

#[test]
fn a_missing_layer_fails_the_start_only_if_it_is_required() {
    let environment = new_environment();
    let mut required =
        environment.broker_command(&["--log.level=error", "--sandbox.require=limits,landlock"]);
    without_syscall(&mut required, libc::SYS_landlock_create_ruleset);
    let line = start_error(required);
    for text in ["--sandbox.require=landlock", "this kernel has no Landlock", "lsm=", "or do not require it"]
    {
        assert!(line.contains(text), "{line}");
    }
    assert!(fs::symlink_metadata(environment.socket()).is_err(), "no socket is left that nobody listens on");

    let mut anyway = environment.broker_command(&["--sandbox.require=limits,seccomp"]);
    without_syscall(&mut anyway, libc::SYS_landlock_create_ruleset);
    let broker = environment.run_broker(anyway);
    let layers = broker.describe().layers;
    // Before Linux 6.16 that one is missing as well.
    let missing = layers.iter().filter(|layer| !layer.in_force && layer.name != "passed_descriptors");
    let missing: Vec<_> = missing.map(|layer| (&*layer.process, &*layer.name)).collect();
    let processes = ["broker", "zygote", "reader-procfs", "reader-sysfs", "reader-devices"];
    assert_eq!(missing, processes.map(|process| (process, "landlock")));
    let log = broker.process.log();
    let summary = log.lines().find(|line| line.contains("sandbox INCOMPLETE")).expect(&log);
    assert!(summary.contains("missing=") && summary.contains("landlock"), "{summary}");
    let in_force = summary.split("in_force=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    for layer in ["not_dumpable", "limits", "no_new_privs", "capabilities", "seccomp"] {
        assert!(in_force.split(' ').any(|name| name == layer), "{layer}: {summary}");
    }
    assert!(log.contains("msg=\"sandbox layer MISSING\" process=broker layer=landlock"), "{log}");
}

#[test]
fn a_start_with_every_required_layer_logs_one_line() {
    let environment = new_environment();
    let mut required = LAYERS.to_vec();
    if landlock::abi() == 0 {
        required.retain(|layer| *layer != "landlock");
    }
    let broker = environment.start_broker(&[format!("--sandbox.require={}", required.join(","))]);
    let log = broker.process.log();
    let summary = log.lines().find(|line| line.contains(" in_force="));
    assert!(summary.is_some_and(|line| required.iter().all(|layer| line.contains(layer))), "{log}");
}

#[test]
fn a_fifo_in_a_fixture_tree_does_not_delay_the_start() {
    let environment = new_environment();
    let flags = environment.fixture_flags();
    environment.mkfifo("proc/stat");
    environment.write("proc/loadavg", "1");
    let answers = environment.start_broker(&flags).read(&[Query::Stat, Query::Loadavg]);
    let seek = rustix::io::Errno::SPIPE.raw_os_error() as u32;
    assert_eq!(
        answers[0].files[0].content,
        Some(file::Content::Errno(seek)),
        "it cannot be read by position"
    );
    assert_eq!(answers[1].outcome, Outcome::Ok);
}
