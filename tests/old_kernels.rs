//! Both programs as on older kernels, as the ordinary uids that they run as: what such a kernel lacks is answered as it
//! would answer. The broker starts `keyhole-reader` by itself, which inherits the filter.

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use common::lacking::{AUXV, LINUX_5_10, Lack, PASS_RIGHTS, lacking};
use common::{BROKER, EXPORTER, Home, finish, flag, root_for, this_host};

/// A program's command line, as one of the uids, on a kernel that lacks all of `lacks`.
fn command(home: &Home, program: &str, uid: u32, lacks: &[Lack]) -> Command {
    lacking(home.command(program, uid), lacks)
}

/// Starts every program and sees it answer; returns what each process reports of Landlock.
fn every_program_answers(lacks: &[Lack]) -> BTreeMap<String, f64> {
    let home = Home::new();
    let broker = command(&home, "keyhole-broker", BROKER, lacks);
    let mut broker = home.start_broker_of(broker, &this_host());

    let mut probe = command(&home, "keyhole-broker", BROKER, lacks);
    probe.arg("probe").arg(flag("--socket.path=", home.socket()));
    let output = finish(probe);
    assert!(output.status.success(), "probe: {output:?}");

    let exporter = command(&home, "keyhole-exporter", EXPORTER, lacks);
    let mut exporter = home.start_exporter_of::<&str>(exporter, &[]);
    let scrape = exporter.scrape();
    // Those that multiply by the page size and divide by the clock's ticks.
    for family in
        ["node_sockstat_TCP_mem_bytes", "process_resident_memory_bytes", "process_cpu_seconds_total"]
    {
        assert!(scrape.has(family), "{family}");
    }
    let mut query = command(&home, "keyhole-exporter", EXPORTER, lacks);
    query.arg("query").arg("loadavg").arg(flag("--broker.socket=", home.socket()));
    let output = finish(query);
    assert!(output.status.success(), "query: {output:?}");

    assert!(exporter.process.terminate().success(), "{}", exporter.process.log());
    assert!(broker.terminate().success(), "{}", broker.log());
    let layers = |family| scrape.samples(family).filter(|layer| layer.labels["layer"] == "landlock");
    let of_broker =
        layers("keyhole_broker_sandbox_layer").map(|layer| (layer.labels["process"].clone(), layer.value));
    let of_exporter =
        layers("keyhole_exporter_sandbox_layer").map(|layer| ("exporter".to_owned(), layer.value));
    of_broker.chain(of_exporter).collect()
}

/// As root both uids are others than the user's, and neither may open `/proc/self/auxv` once it is not dumpable.
fn can_run() -> bool {
    root_for("start the programs as ordinary uids")
}

#[test]
fn every_program_starts_and_answers_where_the_kernel_does_not_give_the_auxiliary_vector() {
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
        for process in ["broker", "reader-procfs", "exporter"] {
            assert_eq!(landlock.get(process), Some(&0.0), "{landlock:?}");
        }
        assert!(landlock.values().all(|in_force| *in_force == 0.0), "{landlock:?}");
    }
}

#[test]
fn a_call_that_is_lacking_fails_and_the_same_call_with_another_argument_does_not() {
    const KILL_0: Lack =
        Lack { numbers: (libc::SYS_kill, libc::SYS_kill), when: &[(1, 0)], errno: libc::EDOM };
    let succeeds = |script: &str, lacks: &[Lack]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        finish(lacking(shell, lacks)).status.success()
    };
    assert!(succeeds("kill -0 $$", &[]));
    assert!(!succeeds("kill -0 $$", &[KILL_0]));
    assert!(succeeds("kill -CONT $$", &[KILL_0]));
    assert!(!succeeds("kill -0 $$", &[AUXV, KILL_0]), "the second of two");
}
