//! What happens when one of the processes exits, and what is logged.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use keyhole_proto::v1::{Outcome, Query, ReaderClass};
use keyhole_test_support::client::read;
use keyhole_test_support::old_kernel::{Missing, without};
use keyhole_test_support::signals::IGNORED;
use keyhole_test_support::{BROKER_UID, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::{new_environment, root, start_error};

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

/// Whether a process has exited; also true for a zombie.
fn has_ended(pid: u32) -> bool {
    let state = |status: String| status.lines().any(|line| line.starts_with("State:\tZ"));
    fs::read_to_string(format!("/proc/{pid}/status")).map_or(true, state)
}

fn all_end(pids: &[u32]) {
    for pid in pids {
        wait_until("the end of every process", || has_ended(*pid));
    }
}

fn reader<'r>(readers: &'r [ReaderClass], name: &str) -> &'r ReaderClass {
    readers.iter().find(|reader| reader.name == name).unwrap()
}

#[test]
fn a_broker_that_is_killed_leaves_no_process_behind() {
    let environment = new_environment();
    let mut broker = environment.start_broker(&["--log.level=info"]);
    let processes = broker.process.pids();
    assert_eq!(processes.len(), 5);
    broker.process.signal(Signal::KILL);
    broker.process.wait();
    all_end(&processes[1..]);
}

#[test]
fn a_broker_that_stops_leaves_no_process_behind() {
    let environment = new_environment();
    let mut broker = environment.start_broker(&["--log.level=info"]);
    let processes = broker.process.pids();
    broker.process.signal(Signal::TERM);
    assert_eq!(broker.process.wait().code(), Some(0));
    all_end(&processes[1..]);
}

#[test]
fn a_reader_that_hangs_in_a_file_is_not_left_behind() {
    for signal in [Signal::KILL, Signal::TERM] {
        let environment = new_environment();
        let flags = environment.fixture_flags();
        environment.mkfifo("sys/devices/system/cpu/vulnerabilities/meltdown");
        let mut broker = environment.start_broker(&flags);
        broker.ask(|mut client| async move {
            let reading = read(&mut client, &[Query::CpuVulnerabilities]);
            assert!(tokio::time::timeout(Duration::from_millis(500), reading).await.is_err(), "it hangs");
        });
        let processes = broker.process.pids();
        broker.process.signal(signal);
        broker.process.wait();
        all_end(&processes[1..]);
    }
}

#[test]
fn only_the_broker_follows_signals_that_stop_a_service() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    let processes = broker.process.pids();
    for signal in
        [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::PIPE]
    {
        for pid in &processes[1..] {
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
        }
    }
    assert_eq!(broker.read(&[Query::Loadavg, Query::Cpu])[0].outcome, Outcome::Ok);
    assert_eq!(broker.process.pids(), processes);
}

#[test]
fn stray_signals_kill_no_process() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let mut broker = environment.start_broker(&["--log.level=info"]);
    let processes = broker.process.pids();
    for signal in IGNORED {
        for pid in &processes {
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
        }
        assert_eq!(broker.read(&[Query::Loadavg, Query::Cpu])[0].outcome, Outcome::Ok, "{signal:?}");
        assert!(broker.process.is_running(), "{signal:?}");
    }
    assert_eq!(broker.process.pids(), processes);
    broker.process.signal(Signal::HUP);
    assert_eq!(broker.process.wait().code(), Some(0));
    all_end(&processes[1..]);
}

#[test]
fn a_log_that_is_not_read_and_a_full_disk_do_not_stop_the_program() {
    let (unread, writer) = std::io::pipe().unwrap();
    // The pipe takes nothing more: every line waits.
    fill(&writer);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let (closed, broken) = std::io::pipe().unwrap();
    drop(closed);
    for stderr in [Stdio::from(writer), full.into(), broken.into()] {
        let environment = new_environment();
        let command = environment.broker_command(&["--log.level=debug"]);
        let mut broker = environment.spawn_broker(command, stderr);
        wait_until("the socket", || environment.socket().exists());
        for _ in 0..5 {
            assert_eq!(broker.read(&[Query::Loadavg])[0].outcome, Outcome::Ok);
        }
        broker.process.signal(Signal::TERM);
        assert_eq!(broker.process.wait().code(), Some(0));
    }
    drop(unread);
}

/// Fills a pipe.
fn fill(pipe: &std::io::PipeWriter) {
    let flags = rustix::fs::fcntl_getfl(pipe).unwrap();
    rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while rustix::io::write(pipe, &[b'x'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(pipe, flags).unwrap();
}

#[test]
fn when_the_zygote_is_killed_the_broker_reports_it_and_exits() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let mut broker = environment.start_broker(&["--log.level=info"]);
    let processes = broker.process.pids();
    kill(processes[1]);
    assert_eq!(broker.process.wait().code(), Some(1));
    let log = broker.process.log();
    let last = log.lines().last().unwrap();
    assert!(last.contains("error: the zygote has exited: killed by signal 9"), "{last}");
    assert!(fs::symlink_metadata(environment.socket()).is_err(), "no stale socket is left");
    all_end(&processes[1..]);
}

#[test]
fn a_reader_that_is_killed_is_replaced_and_counted_by_name() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let broker = environment.start_broker(&["--log.level=info"]);
    assert_eq!(broker.read(&[Query::Loadavg])[0].outcome, Outcome::Ok);
    let before = broker.process.pids();
    kill(before[2]);
    wait_until("a death", || broker.process.log().contains("the reader has died"));
    let answers = broker.read(&[Query::Loadavg, Query::Cpu, Query::NetClass]);
    assert!(answers.iter().all(|answer| answer.outcome == Outcome::Ok), "{answers:?}");
    let described = broker.describe();
    let deaths: u64 = described.readers.iter().map(|reader| reader.deaths).sum();
    let replacements: u64 = described.readers.iter().map(|reader| reader.replacements).sum();
    assert_eq!((deaths, replacements), (1, 1), "{:?}", described.readers);
    assert!(described.readers.iter().all(|reader| reader.available && reader.seccomp_kills == 0));
    let after = broker.process.pids();
    assert!(after.len() == before.len() && !after.contains(&before[2]), "{after:?}");
    let log = broker.process.log();
    let line = log.lines().find(|line| line.contains("the reader has died")).unwrap();
    assert!(line.contains("reader=procfs") && line.contains("killed by signal 9"), "{line}");
    assert_eq!(reader(&described.readers, "procfs").deaths, 1);
}

#[test]
fn the_broker_exits_when_readers_die_too_often() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let mut broker = environment.start_broker(&["--log.level=info"]);
    for _ in 0..keyhole_broker::readers::DEATHS_PER_MINUTE {
        let processes = broker.process.pids();
        kill(*processes.last().unwrap());
        wait_until("the end of a reader", || has_ended(*processes.last().unwrap()));
        let answers = broker.read(&[Query::Loadavg, Query::Cpu, Query::NetClass]);
        assert!(answers.iter().all(|answer| answer.outcome == Outcome::Ok), "{answers:?}");
    }
    assert!(broker.process.is_running());
    let processes = broker.process.pids();
    kill(*processes.last().unwrap());
    assert_eq!(broker.process.wait().code(), Some(1));
    let log = broker.process.log();
    let last = log.lines().last().unwrap();
    assert!(last.contains("6 readers died within a minute") && last.contains("killed by signal 9"), "{last}");
    all_end(&processes[1..]);
}

#[test]
fn all_processes_end_with_their_container() {
    if !root() {
        return;
    }
    let environment = new_environment();
    // The broker as PID 1, as in a container.
    let mut command = Command::new("unshare");
    let setpriv = "exec setpriv --reuid=$1 --regid=$1 --clear-groups --inh-caps=-all $2 --socket.path=$3";
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", setpriv, "sh", &BROKER_UID.to_string()]);
    command.arg(environment.path("keyhole-broker")).arg(environment.socket());
    let mut unshare = environment.run_broker(command);
    let processes = unshare.process.pids();
    assert_eq!(processes.len(), 6, "unshare, a broker, a zygote and three readers: {processes:?}");
    kill(processes[1]);
    assert!(!unshare.process.wait().success());
    all_end(&processes[1..]);
}

#[test]
fn a_start_without_the_right_reader_logs_what_to_do_and_leaves_no_socket() {
    let environment = new_environment();
    fs::remove_file(environment.path("keyhole-reader")).unwrap();
    let line = start_error(environment.broker_command(&["--log.level=error"]));
    assert!(
        line.contains("keyhole-reader") && line.contains("must be in the directory of keyhole-broker"),
        "{line}"
    );
    for (program, hint) in [("/bin/true", "of this version"), ("/bin/false", "of this version")] {
        fs::copy(program, environment.path("keyhole-reader")).unwrap();
        let line = start_error(environment.broker_command(&["--log.level=error"]));
        assert!(line.contains("keyhole-reader exited before it was ready") && line.contains(hint), "{line}");
    }
    fs::write(environment.path("keyhole-reader"), "#!/bin/sh\nkill -9 $$\n").unwrap();
    let line = start_error(environment.broker_command(&["--log.level=error"]));
    assert!(line.contains("killed by signal 9") && line.contains("the kernel's log"), "{line}");
    assert!(!line.contains("of this version"), "{line}");
    assert!(fs::symlink_metadata(environment.socket()).is_err());
}

#[test]
fn without_pidfd_open_the_start_fails() {
    for (errno, text) in
        [(libc::ENOSYS, "Function not implemented"), (libc::EPERM, "Operation not permitted")]
    {
        let environment = new_environment();
        let lack = Missing { numbers: (libc::SYS_pidfd_open, libc::SYS_pidfd_open), when: &[], errno };
        let line = start_error(without(environment.broker_command(&["--log.level=error"]), &[lack]));
        assert!(line.contains("pidfd_open") && line.contains(text) && line.contains("Linux 5.3"), "{line}");
        assert!(!line.contains("of this version"), "{line}");
    }
}

#[test]
fn readers_are_waited_for_even_if_sigchld_was_ignored() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let mut command = environment.broker_command(&["--log.level=info"]);
    // SAFETY: the child changes the action of one signal, which is inherited.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            Ok(())
        });
    }
    let broker = environment.run_broker(command);
    let processes = broker.process.pids();
    kill(*processes.last().unwrap());
    wait_until("a death", || broker.process.log().contains("killed by signal 9"));
    let answers = broker.read(&[Query::Loadavg, Query::Cpu, Query::NetClass]);
    assert!(answers.iter().all(|answer| answer.outcome == Outcome::Ok), "{answers:?}");
}

#[test]
fn a_socket_whose_backlog_is_full_is_in_use_and_does_not_delay_the_start() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
    let environment = new_environment();
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let address = SocketAddrUnix::new(environment.socket()).unwrap();
    bind(&listener, &address).unwrap();
    listen(&listener, 0).unwrap();
    fs::set_permissions(environment.socket(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let waiting = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    connect(&waiting, &address).unwrap();
    let line = start_error(environment.broker_command(&["--log.level=error"]));
    assert!(line.contains("another broker is listening there"), "{line}");
}
