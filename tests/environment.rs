//! What a sandboxed program shows of the environment that it was started with.

use std::fs;
use std::process::Command;

use keyhole_test_support::{
    BROKER_UID, EXPORTER_UID, Environment, NODE_NAME, root_for, this_host, wait_until,
};

const VARIABLE: &str = "DATABASE_PASSWORD";
const SECRET: &str = "hunter2-hunter2";

fn with_secret(mut command: Command) -> Command {
    command.env(VARIABLE, SECRET);
    command
}

/// What the kernel shows of a process's environment; root may read any.
fn environ(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).expect("root reads any environment")
}

fn assert_empty(program: &str, environ: &[u8]) {
    // The memory is still there, and shown.
    assert!(environ.len() > VARIABLE.len() + SECRET.len(), "{program}: {} bytes", environ.len());
    let left = String::from_utf8_lossy(environ).replace('\0', " ");
    assert!(environ.iter().all(|byte| *byte == 0), "{program}: {}", left.trim());
}

#[test]
fn the_kernel_shows_nothing_of_the_environment_of_a_sealed_program() {
    if !root_for("read the environment of another uid's process") {
        return;
    }
    let environment = Environment::new();
    let broker = environment
        .start_broker_from(with_secret(environment.command("keyhole-broker", BROKER_UID)), &this_host());
    let exporter = with_secret(environment.command("keyhole-exporter", EXPORTER_UID));
    let exporter = environment.start_exporter_from::<&str>(exporter, &[]);
    assert_empty("keyhole-broker", &environ(broker.process.pid()));
    assert_empty("keyhole-exporter", &environ(exporter.process.pid()));
    // What it needed from there it has read before.
    assert_eq!(exporter.scrape().value("node_uname_info", &[("nodename", NODE_NAME)]), Some(1.0));
}

#[test]
fn the_kernel_shows_the_environment_of_a_program_that_does_not_clear_it() {
    let mut sleep = with_secret(Command::new("sleep")).arg("20").spawn().expect("sleep starts");
    // The kernel sets a program's environment up after it has let its parent go on.
    wait_until("sleep shows its environment", || {
        environ(sleep.id()).windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
    });
    sleep.kill().expect("a child that runs");
    sleep.wait().expect("a child");
}
