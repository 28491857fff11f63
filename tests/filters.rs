//! The seccomp filters that the kernel holds for the running programs are their tables, and nothing else.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::filters::Filters;
use common::lacking::{AUXV, lacking};
use common::{EXPORTER, Home, flag, root_for};
use keyhole_exporter::sandbox::SYSCALLS;

fn can_run() -> bool {
    root_for("read the filters of a process")
}

#[test]
fn the_running_exporter_has_one_filter_and_it_is_the_table() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let filters = Filters::dump(home.start_exporter::<&str>(&[]).process.pid());
    assert_eq!(filters.len(), 1);
    filters.assert_are(SYSCALLS);
}

#[test]
fn every_thread_of_an_exporter_that_checks_passwords_has_the_same_filter() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let config = home.path().join("web.yml");
    // The password is pw.
    let hash = "$2b$05$abcdefghijklmnopqrstuuHIrMEWpUCQe2YqFR3sXwQ75u4od..9q";
    fs::write(&config, format!("basic_auth_users:\n  user: {hash}\n")).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let exporter = home.start_exporter(&[flag("--web.config.file=", &config)]);
    let threads = fs::read_dir(format!("/proc/{}/task", exporter.process.pid())).unwrap().count();
    assert_eq!(threads, 2, "one of them checks passwords");
    Filters::dump(exporter.process.pid()).assert_are(SYSCALLS);
}

#[test]
fn a_table_that_is_not_the_running_one_is_found_out() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let filters = Filters::dump(home.start_exporter::<&str>(&[]).process.pid());
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
    let home = Home::new();
    let command = lacking(home.command("keyhole-exporter", EXPORTER), &[AUXV]);
    let filters = Filters::dump(home.start_exporter_of::<&str>(command, &[]).process.pid());
    assert_eq!(filters.len(), 2);
    // prctl is answered by one filter and killed by the other.
    filters.assert_are(SYSCALLS);
}
