//! The seccomp filters that the kernel has for the running programs are their tables, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use keyhole_broker::sandbox::{PASSED_DESCRIPTOR_SYSCALLS, SYSCALLS as SYSCALLS_OF_BROKER};
use keyhole_exporter::sandbox::SYSCALLS;
use keyhole_os::seccomp::{Argument, Row, exactly, numbers};
use keyhole_policy::Class;
use keyhole_reader::sandbox::{ZYGOTE, reader_syscalls};
use keyhole_test_support::filters::Filters;
use keyhole_test_support::fork::Call;
use keyhole_test_support::old_kernel::{AUXV, PASS_RIGHTS, without};
use keyhole_test_support::{BROKER_UID, EXPORTER_UID, Environment, flag, root_for, this_host};

fn can_run() -> bool {
    root_for("read the filters of a process")
}

#[test]
fn the_running_exporter_has_one_filter_and_it_is_the_table() {
    if !can_run() {
        return;
    }
    let environment = Environment::new();
    let filters = Filters::dump(environment.start_exporter::<&str>(&[]).process.pid());
    assert_eq!(filters.len(), 1);
    filters.assert_are(SYSCALLS);
}

/// The children of a process, oldest first.
fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn the_running_zygote_has_its_table_and_each_reader_that_of_its_class_on_top() {
    if !can_run() {
        return;
    }
    let environment = Environment::new();
    let flags =
        [&this_host()[..], &["--allow-processes".into(), "--filesystem.probe-directory=/".into()]].concat();
    let broker = environment.start_broker(&flags);
    let [zygote] = children(broker.process.pid())[..] else { panic!("a broker starts one process") };
    let filters = Filters::dump(zygote);
    assert_eq!(filters.len(), 1);
    filters.assert_are(ZYGOTE);
    let readers = children(zygote);
    assert_eq!(readers.len(), Class::ALL.len());
    for (pid, class) in readers.into_iter().zip(Class::ALL) {
        let filters = Filters::dump(pid);
        assert_eq!(filters.len(), 2, "{class:?}");
        filters.assert_are(&reader_syscalls(class));
    }
}

#[test]
fn the_running_broker_has_one_filter_and_it_is_the_table() {
    if !can_run() {
        return;
    }
    let environment = Environment::new();
    let broker = environment.start_broker(&this_host());
    assert_eq!(Filters::dump(broker.process.pid()).len(), 1);
    let passes =
        broker.process.log().contains("sandbox layer MISSING\" process=broker layer=passed_descriptors");
    assert_is_the_table(
        &environment,
        broker.process.pid(),
        &broker.process.log(),
        if passes { PASSED_DESCRIPTOR_SYSCALLS } else { &[] },
    );
}

#[test]
fn where_descriptors_cannot_be_refused_each_thread_of_the_broker_has_a_few_rows_more() {
    if !can_run() {
        return;
    }
    let environment = Environment::new();
    let command = without(environment.command("keyhole-broker", BROKER_UID), &PASS_RIGHTS);
    let broker = environment.start_broker_from(command, &this_host());
    assert_eq!(Filters::dump(broker.process.pid()).len(), 2);
    let threads = fs::read_dir(format!("/proc/{}/task", broker.process.pid())).unwrap().count();
    assert!(threads > 5, "{threads}: some of them close connections");
    // What the other filter answers with an errno is killed by this one.
    assert_is_the_table(
        &environment,
        broker.process.pid(),
        &broker.process.log(),
        PASSED_DESCRIPTOR_SYSCALLS,
    );
}

/// Checks the filters of a broker against its table and `more` rows.
fn assert_is_the_table(environment: &Environment, pid: u32, log: &str, more: &[Row]) {
    let filters = Filters::dump(pid);
    // Three calls are restricted to descriptors: the socket's directory, which is still open, and what checked the sandbox.
    let dir = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().find_map(|entry| {
        let is_dir = fs::read_link(entry.path()).ok()? == environment.socket_dir();
        is_dir.then(|| entry.file_name().to_str().unwrap().parse::<u32>().unwrap())
    });
    let dir = dir.expect("the socket's directory is open");
    let pinned =
        |name, number, when: Vec<Argument>| Row { name, number, reason: "", when: Box::leak(when.into()) };
    let mut rows = [SYSCALLS_OF_BROKER, more].concat();
    if landlock_is_in_force(log) {
        rows.push(pinned("unlinkat", numbers::unlinkat, vec![exactly(0, dir), exactly(2, 0)]));
        rows.push(pinned("newfstatat", numbers::newfstatat, vec![exactly(0, dir), exactly(3, 0x100)]));
    }
    let checked =
        (0..1024_u32).find(|fd| filters.allows(Call(numbers::pread64, [u64::from(*fd), 0, 0, 0, 0, 0])));
    rows.push(pinned("pread64", numbers::pread64, vec![exactly(0, checked.expect("one descriptor"))]));
    filters.assert_are(&rows);
}

fn landlock_is_in_force(log: &str) -> bool {
    log.contains("sandbox layer in force\" process=broker layer=landlock")
}

#[test]
fn every_thread_of_an_exporter_that_checks_passwords_has_the_same_filter() {
    if !can_run() {
        return;
    }
    let environment = Environment::new();
    let config = environment.dir().join("web.yml");
    // The password is pw.
    let hash = "$2b$05$abcdefghijklmnopqrstuuHIrMEWpUCQe2YqFR3sXwQ75u4od..9q";
    fs::write(&config, format!("basic_auth_users:\n  user: {hash}\n")).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let exporter = environment.start_exporter(&[flag("--web.config.file=", &config)]);
    let threads = fs::read_dir(format!("/proc/{}/task", exporter.process.pid())).unwrap().count();
    assert_eq!(threads, 3, "one of them checks passwords, one writes the log");
    Filters::dump(exporter.process.pid()).assert_are(SYSCALLS);
}

#[test]
fn a_difference_from_the_running_filter_is_detected() {
    if !can_run() {
        return;
    }
    let environment = Environment::new();
    let filters = Filters::dump(environment.start_exporter::<&str>(&[]).process.pid());
    let differs = |rows: &[_]| catch_unwind(AssertUnwindSafe(|| filters.assert_are(rows))).is_err();
    assert!(!differs(SYSCALLS));
    assert!(differs(&SYSCALLS[1..]), "a call more than the table has");
    let mut looser = SYSCALLS.to_vec();
    looser.iter_mut().find(|row| row.name == "sendto").unwrap().when = &[];
    assert!(differs(&looser), "a condition that the table does not have");
    let mut stricter = SYSCALLS.to_vec();
    const CLOSED: &[keyhole_os::seccomp::Argument] = &[keyhole_os::seccomp::exactly(0, 7)];
    stricter.iter_mut().find(|row| row.name == "close").unwrap().when = CLOSED;
    assert!(differs(&stricter), "a condition that only the table has");
}

#[test]
fn of_two_filters_the_strictest_counts() {
    if !can_run() {
        return;
    }
    let environment = Environment::new();
    let command = without(environment.command("keyhole-exporter", EXPORTER_UID), &[AUXV]);
    let filters = Filters::dump(environment.start_exporter_from::<&str>(command, &[]).process.pid());
    assert_eq!(filters.len(), 2);
    // prctl is answered by one filter and killed by the other.
    filters.assert_are(SYSCALLS);
}
