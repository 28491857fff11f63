//! The broker as it ships, from outside: who may connect, what it answers, how it starts, enters its sandbox and ends.
//!
//! As root the broker runs as a uid of its own. Without root, tests that need it are skipped with a note, or fail if
//! `KEYHOLE_REQUIRE_ROOT` is set.

mod answers;
mod clients;
mod ends;
mod passed;
mod probe;
mod raw_grpc;
mod start;

use std::process::Command;

use keyhole_test_support::{Environment, programs, root_for, run_to_end};

fn new_environment() -> Environment {
    Environment::with_programs(programs::broker_and_reader(env!("CARGO_BIN_EXE_keyhole-broker")))
}

/// Whether processes can be run as other uids.
fn root() -> bool {
    root_for("run processes as other uids")
}

/// Runs a command that should fail to start; returns its error, which is one line.
fn start_error(command: Command) -> String {
    error_with_status(command, 1)
}

/// The same, for a mistake on the command line or in the environment.
fn usage_error(command: Command) -> String {
    error_with_status(command, 2)
}

fn error_with_status(command: Command, status: i32) -> String {
    let output = run_to_end(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert_eq!(output.stdout, b"");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let line = stderr.trim_end().strip_prefix("keyhole-broker: error: ");
    line.unwrap_or_else(|| panic!("{stderr}")).to_owned()
}
