//! What happens when one of the processes exits, and what is logged.

use std::fs;
use std::process::Command;
use std::time::Duration;

use keyhole_proto::v1::{Outcome, Query, ReaderClass};
use rustix::process::{Pid, Signal, kill_process};

use crate::lacking::{Lack, lacking};
use crate::stage::*;
use crate::stray::STRAY;

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
        soon("the end of every process", || has_ended(*pid).then_some(()));
    }
}

fn log(stage: &Stage) -> String {
    fs::read_to_string(stage.at("log")).unwrap()
}

fn reader<'r>(readers: &'r [ReaderClass], name: &str) -> &'r ReaderClass {
    readers.iter().find(|reader| reader.name == name).unwrap()
}

#[test]
fn a_broker_that_is_killed_leaves_no_process_behind() {
    let stage = Stage::new();
    let mut broker = stage.start(&["--log.level=info"]);
    let processes = broker.processes();
    assert_eq!(processes.len(), 5);
    broker.signal(Signal::KILL);
    broker.wait();
    all_end(&processes[1..]);
}

#[test]
fn a_broker_that_stops_leaves_no_process_behind() {
    let stage = Stage::new();
    let mut broker = stage.start(&["--log.level=info"]);
    let processes = broker.processes();
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait().code(), Some(0));
    all_end(&processes[1..]);
}

#[test]
fn a_reader_that_hangs_in_a_file_is_not_left_behind() {
    for signal in [Signal::KILL, Signal::TERM] {
        let stage = Stage::new();
        let flags = stage.fixtures();
        stage.put_fifo("sys/devices/system/cpu/vulnerabilities/meltdown");
        let mut broker = stage.start(&flags);
        broker.ask(|mut client| async move {
            let reading = read(&mut client, &[Query::CpuVulnerabilities]);
            assert!(tokio::time::timeout(Duration::from_millis(500), reading).await.is_err(), "it hangs");
        });
        let processes = broker.processes();
        broker.signal(signal);
        broker.wait();
        all_end(&processes[1..]);
    }
}

#[test]
fn only_the_broker_follows_signals_that_stop_a_service() {
    if !root() {
        return;
    }
    let stage = Stage::new();
    let broker = stage.start(&["--log.level=info"]);
    let processes = broker.processes();
    for signal in
        [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::PIPE]
    {
        for pid in &processes[1..] {
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
        }
    }
    assert_eq!(broker.read(&[Query::Loadavg, Query::Cpu])[0].outcome, Outcome::Ok);
    assert_eq!(broker.processes(), processes);
}

#[test]
fn stray_signals_kill_no_process() {
    if !root() {
        return;
    }
    let stage = Stage::new();
    let mut broker = stage.start(&["--log.level=info"]);
    let processes = broker.processes();
    for signal in STRAY {
        for pid in &processes {
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
        }
        assert_eq!(broker.read(&[Query::Loadavg, Query::Cpu])[0].outcome, Outcome::Ok, "{signal:?}");
        assert!(broker.lives(), "{signal:?}");
    }
    assert_eq!(broker.processes(), processes);
    broker.signal(Signal::HUP);
    assert_eq!(broker.wait().code(), Some(0));
    all_end(&processes[1..]);
}

#[test]
fn a_log_that_is_not_read_and_a_full_disk_stop_nothing() {
    let (unread, writer) = std::io::pipe().unwrap();
    // The pipe takes nothing more: every line waits.
    fill(&writer);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let (closed, broken) = std::io::pipe().unwrap();
    drop(closed);
    for stderr in [writer.into(), full.into(), broken.into()] {
        let stage = Stage::new();
        let mut command = stage.command(&["--log.level=debug"]);
        command.stderr::<std::process::Stdio>(stderr);
        let mut broker = Broker { stage: &stage, child: command.spawn().unwrap() };
        soon("the socket", || stage.socket().exists().then_some(()));
        for _ in 0..5 {
            assert_eq!(broker.read(&[Query::Loadavg])[0].outcome, Outcome::Ok);
        }
        broker.signal(Signal::TERM);
        assert_eq!(broker.wait().code(), Some(0));
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
    let stage = Stage::new();
    let mut broker = stage.start(&["--log.level=info"]);
    let processes = broker.processes();
    kill(processes[1]);
    assert_eq!(broker.wait().code(), Some(1));
    let log = log(&stage);
    let last = log.lines().last().unwrap();
    assert!(last.contains("error: the zygote has exited: killed by signal 9"), "{last}");
    assert!(fs::symlink_metadata(stage.socket()).is_err(), "no stale socket is left");
    all_end(&processes[1..]);
}

#[test]
fn a_reader_that_is_killed_is_replaced_and_counted_by_name() {
    if !root() {
        return;
    }
    let stage = Stage::new();
    let broker = stage.start(&["--log.level=info"]);
    assert_eq!(broker.read(&[Query::Loadavg])[0].outcome, Outcome::Ok);
    let before = broker.processes();
    kill(before[2]);
    soon("a death", || log(&stage).contains("the reader has died").then_some(()));
    let answers = broker.read(&[Query::Loadavg, Query::Cpu, Query::NetClass]);
    assert!(answers.iter().all(|answer| answer.outcome == Outcome::Ok), "{answers:?}");
    let described = broker.describe();
    let deaths: u64 = described.readers.iter().map(|reader| reader.deaths).sum();
    let replacements: u64 = described.readers.iter().map(|reader| reader.replacements).sum();
    assert_eq!((deaths, replacements), (1, 1), "{:?}", described.readers);
    assert!(described.readers.iter().all(|reader| reader.available && reader.seccomp_kills == 0));
    let after = broker.processes();
    assert!(after.len() == before.len() && !after.contains(&before[2]), "{after:?}");
    let log = log(&stage);
    let line = log.lines().find(|line| line.contains("the reader has died")).unwrap();
    assert!(line.contains("reader=procfs") && line.contains("killed by signal 9"), "{line}");
    assert_eq!(reader(&described.readers, "procfs").deaths, 1);
}

#[test]
fn the_broker_exits_when_readers_die_too_often() {
    if !root() {
        return;
    }
    let stage = Stage::new();
    let mut broker = stage.start(&["--log.level=info"]);
    for _ in 0..keyhole_broker::readers::DEATHS_PER_MINUTE {
        let processes = broker.processes();
        kill(*processes.last().unwrap());
        soon("the end of a reader", || has_ended(*processes.last().unwrap()).then_some(()));
        let answers = broker.read(&[Query::Loadavg, Query::Cpu, Query::NetClass]);
        assert!(answers.iter().all(|answer| answer.outcome == Outcome::Ok), "{answers:?}");
    }
    assert!(broker.lives());
    let processes = broker.processes();
    kill(*processes.last().unwrap());
    assert_eq!(broker.wait().code(), Some(1));
    let log = log(&stage);
    let last = log.lines().last().unwrap();
    assert!(last.contains("6 readers died within a minute") && last.contains("killed by signal 9"), "{last}");
    all_end(&processes[1..]);
}

#[test]
fn all_processes_end_with_their_container() {
    if !root() {
        return;
    }
    let stage = Stage::new();
    // The broker as PID 1, as in a container.
    let mut command = Command::new("unshare");
    let setpriv = "exec setpriv --reuid=$1 --regid=$1 --clear-groups --inh-caps=-all $2 --socket.path=$3";
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", setpriv, "sh", &BROKER.to_string()]);
    command.arg(stage.at("keyhole-broker")).arg(stage.socket());
    let mut unshare = stage.run(command);
    let processes = unshare.processes();
    assert_eq!(processes.len(), 6, "unshare, a broker, a zygote and three readers: {processes:?}");
    kill(processes[1]);
    assert!(!unshare.wait().success());
    all_end(&processes[1..]);
}

#[test]
fn a_start_without_the_right_reader_says_what_to_do_and_leaves_no_socket() {
    let stage = Stage::new();
    fs::remove_file(stage.at("keyhole-reader")).unwrap();
    let line = refusal(&mut stage.command(&["--log.level=error"]));
    assert!(
        line.contains("keyhole-reader") && line.contains("must be in the directory of keyhole-broker"),
        "{line}"
    );
    for (program, hint) in [("/bin/true", "of this version"), ("/bin/false", "of this version")] {
        fs::copy(program, stage.at("keyhole-reader")).unwrap();
        let line = refusal(&mut stage.command(&["--log.level=error"]));
        assert!(line.contains("keyhole-reader exited before it was ready") && line.contains(hint), "{line}");
    }
    fs::write(stage.at("keyhole-reader"), "#!/bin/sh\nkill -9 $$\n").unwrap();
    let line = refusal(&mut stage.command(&["--log.level=error"]));
    assert!(line.contains("killed by signal 9") && line.contains("the kernel's log"), "{line}");
    assert!(!line.contains("of this version"), "{line}");
    assert!(fs::symlink_metadata(stage.socket()).is_err());
}

#[test]
fn without_pidfd_open_the_start_fails() {
    for (errno, text) in
        [(libc::ENOSYS, "Function not implemented"), (libc::EPERM, "Operation not permitted")]
    {
        let stage = Stage::new();
        let lack = Lack { numbers: (libc::SYS_pidfd_open, libc::SYS_pidfd_open), when: &[], errno };
        let line = refusal(&mut lacking(stage.command(&["--log.level=error"]), &[lack]));
        assert!(line.contains("pidfd_open") && line.contains(text) && line.contains("Linux 5.3"), "{line}");
        assert!(!line.contains("of this version"), "{line}");
    }
}

#[test]
fn readers_are_waited_for_even_if_sigchld_was_ignored() {
    if !root() {
        return;
    }
    let stage = Stage::new();
    let mut command = stage.command(&["--log.level=info"]);
    // SAFETY: the child changes the action of one signal, which is inherited.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            Ok(())
        });
    }
    let broker = stage.run(command);
    let processes = broker.processes();
    kill(*processes.last().unwrap());
    soon("a death", || log(&stage).contains("killed by signal 9").then_some(()));
    let answers = broker.read(&[Query::Loadavg, Query::Cpu, Query::NetClass]);
    assert!(answers.iter().all(|answer| answer.outcome == Outcome::Ok), "{answers:?}");
}

#[test]
fn a_socket_whose_backlog_is_full_is_in_use_and_does_not_delay_the_start() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
    let stage = Stage::new();
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let address = SocketAddrUnix::new(stage.socket()).unwrap();
    bind(&listener, &address).unwrap();
    listen(&listener, 0).unwrap();
    fs::set_permissions(stage.socket(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let waiting = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    connect(&waiting, &address).unwrap();
    let line = refusal(&mut stage.command(&["--log.level=error"]));
    assert!(line.contains("another broker is listening there"), "{line}");
}
