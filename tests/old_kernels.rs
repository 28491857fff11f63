//! Both programs as on older kernels, as the ordinary uids that they run as: what such a kernel missing is answered as it
//! would answer. The broker starts `keyhole-reader` by itself, which inherits the filter.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use keyhole_test_support::old_kernel::{AUXV, Argument, LINUX_5_10, Missing, PASS_RIGHTS, without};
use keyhole_test_support::{BROKER_UID, EXPORTER_UID, Environment, flag, root_for, run_to_end, this_host};

/// A program's command line, as one of the uids, on a kernel that missing all of `missing`.
fn command(environment: &Environment, program: &str, uid: u32, missing: &[Missing]) -> Command {
    without(environment.command(program, uid), missing)
}

/// Starts every program and sees it answer; returns what each process reports of Landlock.
fn every_program_answers(missing: &[Missing]) -> BTreeMap<String, f64> {
    let environment = Environment::new();
    let broker = command(&environment, "keyhole-broker", BROKER_UID, missing);
    // All of the host that can be asked for: every class has a reader then.
    let mut flags = this_host();
    flags.extend(["--allow-processes", "--path.udev.data=/run"].map(Into::into));
    let mut broker = environment.start_broker_from(broker, &flags);

    let mut probe = command(&environment, "keyhole-broker", BROKER_UID, missing);
    probe.arg("probe").arg(flag("--socket.path=", environment.socket()));
    assert_succeeds(probe);
    let mut policy = command(&environment, "keyhole-broker", BROKER_UID, missing);
    policy.arg("policy");
    assert_succeeds(policy);

    let exporter = command(&environment, "keyhole-exporter", EXPORTER_UID, missing);
    let mut exporter = environment
        .start_exporter_from(exporter, &["--scrape.detail", "--collector.processes", "--collector.textfile"]);
    let scrape = exporter.scrape();
    // Those that multiply by the page size and divide by the clock's ticks, and one of each class of readers.
    for family in [
        "node_sockstat_TCP_mem_bytes",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "node_load1",
        "node_network_up",
        "node_filesystem_size_bytes",
        "node_os_info",
        "node_processes_pids",
    ] {
        assert!(scrape.has(family), "{family}");
    }
    assert_eq!(exporter.get("/").status, 200);
    for arguments in [&["query", "loadavg"][..], &["query", "--output=raw", "loadavg"], &["describe"]] {
        let mut query = command(&environment, "keyhole-exporter", EXPORTER_UID, missing);
        query.args(arguments).arg(flag("--broker.socket=", environment.socket()));
        assert_succeeds(query);
    }
    // What the exporter's uid may write to.
    let saved = environment.dir().join("saved");
    fs::create_dir(&saved).unwrap();
    fs::set_permissions(&saved, fs::Permissions::from_mode(0o777)).unwrap();
    let tree = saved.join("tree");
    let mut capture = command(&environment, "keyhole-exporter", EXPORTER_UID, missing);
    capture.arg("capture").arg(&tree).arg(flag("--broker.socket=", environment.socket()));
    let output = run_to_end(capture);
    assert!(matches!(output.status.code(), Some(0 | 3)), "capture: {output:?}");
    let mut replay = command(&environment, "keyhole-exporter", EXPORTER_UID, missing);
    replay.arg("replay").arg(&tree);
    let output = run_to_end(replay);
    assert!(output.status.success(), "replay: {output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("node_load1 "));
    let mut completions = command(&environment, "keyhole-exporter", EXPORTER_UID, missing);
    completions.args(["completions", "bash"]);
    assert_succeeds(completions);

    assert!(exporter.process.terminate().success(), "{}", exporter.process.log());
    assert!(broker.process.terminate().success(), "{}", broker.process.log());
    let layers = |family| scrape.samples(family).filter(|layer| layer.labels["layer"] == "landlock");
    let of_broker =
        layers("keyhole_broker_sandbox_layer").map(|layer| (layer.labels["process"].clone(), layer.value));
    let of_exporter =
        layers("keyhole_exporter_sandbox_layer").map(|layer| ("exporter".to_owned(), layer.value));
    of_broker.chain(of_exporter).collect()
}

/// What the command prints.
fn assert_succeeds(command: Command) -> Vec<u8> {
    let shown = format!("{command:?}");
    let output = run_to_end(command);
    assert!(output.status.success(), "{shown}: {output:?}");
    output.stdout
}

/// As root both uids are others than the user's, and neither may open `/proc/self/auxv` once it is not dumpable.
fn can_run() -> bool {
    root_for("start the programs as ordinary uids")
}

#[test]
fn every_program_starts_and_answers_where_the_kernel_has_no_pr_get_auxv() {
    if can_run() {
        every_program_answers(&[AUXV]);
    }
}

#[test]
fn every_program_starts_and_answers_where_descriptors_cannot_be_refused() {
    if can_run() {
        every_program_answers(&PASS_RIGHTS);
    }
}

#[test]
fn every_program_starts_on_what_linux_5_10_has_and_reports_landlock_as_missing() {
    if can_run() {
        let landlock = every_program_answers(LINUX_5_10);
        let readers = ["procfs", "sysfs", "devices", "files", "processes", "mounts"];
        let processes = ["broker", "zygote", "exporter"].map(str::to_owned);
        for process in processes.into_iter().chain(readers.map(|class| format!("reader-{class}"))) {
            assert_eq!(landlock.get(&process), Some(&0.0), "{process}: {landlock:?}");
        }
        assert!(landlock.values().all(|in_force| *in_force == 0.0), "{landlock:?}");
    }
}

#[test]
fn a_missing_call_fails_and_the_same_call_with_another_argument_does_not() {
    const fn kill(when: &'static [Argument]) -> Missing {
        Missing { numbers: (libc::SYS_kill, libc::SYS_kill), when, errno: libc::EDOM }
    }
    const KILL_0: Missing = kill(&[Argument::Is(1, 0)]);
    const KILL_0_OR_1: Missing = kill(&[Argument::Within(1, 0, 1)]);
    // SIGCONT is 18, 0b1_0010; SIGURG is 23, 0b1_0111.
    const KILL_WITH_BITS: Missing = kill(&[Argument::HasAny(1, 0b101)]);
    const KILL_WITH_ALL_BITS: Missing = kill(&[Argument::HasAll(1, 0b101)]);
    let succeeds = |script: &str, missing: &[Missing]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        run_to_end(without(shell, missing)).status.success()
    };
    assert!(succeeds("kill -0 $$", &[]));
    assert!(!succeeds("kill -0 $$", &[KILL_0]));
    assert!(succeeds("kill -CONT $$", &[KILL_0]));
    assert!(!succeeds("kill -0 $$", &[AUXV, KILL_0]), "the second of two");
    assert!(!succeeds("kill -0 $$", &[KILL_0_OR_1]));
    assert!(succeeds("kill -CONT $$", &[KILL_0_OR_1]));
    assert!(succeeds("kill -CONT $$", &[KILL_WITH_BITS]));
    assert!(!succeeds("kill -URG $$", &[KILL_WITH_BITS]));
    assert!(succeeds("kill -17 $$", &[KILL_WITH_ALL_BITS]), "one of the bits");
    assert!(!succeeds("kill -URG $$", &[KILL_WITH_ALL_BITS]));
}

#[test]
fn calls_that_linux_5_10_does_not_have_fail() {
    // Python makes each call, and exits with the errno that it got.
    let errno_of = |call: &str| {
        let script = format!(
            "import ctypes,socket; c = ctypes.CDLL(None, use_errno=True); c.syscall.restype = ctypes.c_long\n\
             try: r = {call}; e = ctypes.get_errno() if r == -1 else 0\n\
             except OSError as error: e = error.errno\n\
             raise SystemExit(e)"
        );
        let mut python = Command::new("python3");
        python.args(["-c", &script]);
        run_to_end(without(python, LINUX_5_10)).status.code()
    };
    assert_eq!(errno_of("c.getppid() * 0"), Some(0), "what 5.10 has");
    for (what, call, errno) in [
        ("landlock_create_ruleset", "c.syscall(444, None, 0, 1)", libc::ENOSYS),
        ("epoll_pwait2", "c.syscall(441, 0, 0, 0, 0, 0, 0)", libc::ENOSYS),
        ("PR_GET_AUXV", "c.prctl(0x41555856, 0, 0, 0, 0)", libc::EINVAL),
        ("SO_PEERPIDFD", "socket.socket(socket.AF_UNIX).getsockopt(1, 77, 4)", libc::ENOPROTOOPT),
        ("SO_PASSRIGHTS", "socket.socket(socket.AF_UNIX).setsockopt(1, 83, 0)", libc::ENOPROTOOPT),
        ("CLOSE_RANGE_CLOEXEC", "c.syscall(436, 1000, 1001, 4)", libc::EINVAL),
    ] {
        assert_eq!(errno_of(call), Some(errno), "{what}");
    }
}
