//! Descriptors that peers pass along, and a log that is not read: neither delays the serving thread.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use keyhole_proto::v1::Query;
use keyhole_test_support::client::{connect, read};
use keyhole_test_support::fork::in_own_process;
use keyhole_test_support::old_kernel::{PASS_RIGHTS, without};
use keyhole_test_support::{
    Broker, DENIED_UID, EXPORTER_UID, Environment, broker_gid, broker_uid, run_as, wait_until,
};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};
use rustix::process::Signal;

use crate::{new_environment, root};

/// The SO_LINGER time of the attacker's sockets.
const LINGER: Duration = Duration::from_secs(40);

/// The most time that other clients may wait.
const ANSWER: Duration = Duration::from_secs(1);

/// The preface and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A PING.
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pppppppp";

/// A TCP socket with unsent data, whose close sleeps, and its peer, which reads nothing.
fn lingering() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let peer = listener.accept().unwrap().0;
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 64 << 10]).is_ok() {}
    stream.set_nonblocking(false).unwrap();
    sockopt::set_socket_linger(&stream, Some(LINGER)).unwrap();
    [stream, peer]
}

/// Sends bytes with descriptors.
fn pass(stream: &UnixStream, passed: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(passed)));
    sendmsg(stream, &[IoSlice::new(PING)], &mut control, SendFlags::NOSIGNAL)
}

/// Stops the broker while `act` runs: everything that it sends is in the broker's sockets before the broker reads any.
fn while_stopped<T>(broker: &Broker, act: impl FnOnce() -> T) -> T {
    broker.process.signal(Signal::STOP);
    let done = act();
    broker.process.signal(Signal::CONT);
    done
}

/// Runs probes, each with a new connection, for `meanwhile`; each must be answered in time.
fn assert_everyone_is_answered(environment: &Environment, meanwhile: Duration) {
    let start = Instant::now();
    let mut probes = 0;
    while start.elapsed() < meanwhile {
        let start = Instant::now();
        let output = environment.probe(broker_uid());
        assert!(start.elapsed() < ANSWER, "a probe waited {:?}, after {probes}", start.elapsed());
        assert!(output.status.success(), "{output:?}");
        probes += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(probes > 5, "{probes}");
}

/// Attacks from a uid: `connections` connections, each of which passes the descriptors of `descriptors`.
fn attack(
    broker: &Broker,
    uid: u32,
    is_refused: bool,
    connections: usize,
    descriptors: &mut dyn FnMut() -> Vec<TcpStream>,
) {
    let socket = broker.socket.clone();
    let open = || run_as(uid, broker_gid(), || connect(&socket));
    let batches: Vec<_> = (0..connections).map(|_| descriptors()).collect();
    let pass_all = |stream: UnixStream, files: Vec<TcpStream>| {
        let passed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let passed = pass(&stream, &passed);
        let refuses = !broker_passes(broker);
        assert_eq!(passed.err(), refuses.then_some(Errno::PERM));
        if refuses {
            // If the broker does not have them, their close would sleep here.
            files.iter().for_each(|file| sockopt::set_socket_linger(file, None).unwrap());
        }
    };
    if is_refused {
        return while_stopped(broker, || batches.into_iter().for_each(|files| pass_all(open(), files)));
    }
    // A connection without a permit is refused: one after the other, as permits are released.
    for files in batches {
        let mut stream = open();
        stream.write_all(HELLO).unwrap();
        // It is served.
        assert!(stream.read(&mut [0; 64]).unwrap() > 0);
        while_stopped(broker, || pass_all(stream, files));
    }
}

fn broker_passes(broker: &Broker) -> bool {
    let log = broker.process.log();
    log.contains("sandbox layer MISSING\" process=broker layer=passed_descriptors")
}

/// Runs a test in a process of its own. Otherwise a child that another test starts would inherit the lingering sockets, and
/// its start would wait until they are closed.
fn as_attacker(test: &str, act: impl FnOnce()) {
    if root() {
        in_own_process(&format!("passed::{test}"), act);
    }
}

/// For every kernel, with and without the socket option that refuses descriptors.
fn assert_passed_descriptors_delay_nobody(is_old: bool) {
    let environment = new_environment();
    let command = environment.broker_command(&[format!("--allow-uid={EXPORTER_UID}")]);
    let mut broker = environment.run_broker(if is_old { without(command, &PASS_RIGHTS) } else { command });
    assert!(!is_old || broker_passes(&broker));
    let open = || std::fs::read_dir(format!("/proc/{}/fd", broker.process.pid())).unwrap().count();
    let before = open();
    let mut peers = Vec::new();
    for (uid, is_refused, connections) in [(EXPORTER_UID, false, 4), (DENIED_UID, true, 12)] {
        attack(&broker, uid, is_refused, connections, &mut || {
            (0..2)
                .map(|_| {
                    let [stream, peer] = lingering();
                    peers.push(peer);
                    stream
                })
                .collect()
        });
        assert_everyone_is_answered(&environment, Duration::from_secs(3));
    }
    // Many in one message, which do not linger.
    let [plain, _peer] = lingering();
    sockopt::set_socket_linger(&plain, None).unwrap();
    for (uid, is_refused) in [(EXPORTER_UID, false), (DENIED_UID, true)] {
        attack(&broker, uid, is_refused, 4, &mut || (0..200).map(|_| plain.try_clone().unwrap()).collect());
        assert_everyone_is_answered(&environment, Duration::from_secs(1));
    }
    // None stays open, and the attacker's permits are released.
    wait_until("the sockets' end", || open() <= before);
    let answers =
        broker.ask_as(EXPORTER_UID, |mut client| async move { read(&mut client, &[Query::Loadavg]).await });
    assert!(answers.is_ok(), "{answers:?}");
    broker.process.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(broker.process.wait().code(), Some(0), "{}", broker.process.log());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn passed_descriptors_delay_nobody() {
    as_attacker("passed_descriptors_delay_nobody", || assert_passed_descriptors_delay_nobody(false));
}

#[test]
fn passed_descriptors_delay_nobody_on_kernels_that_accept_them() {
    as_attacker("passed_descriptors_delay_nobody_on_kernels_that_accept_them", || {
        assert_passed_descriptors_delay_nobody(true);
    });
}

#[test]
fn sockets_in_the_backlog_do_not_delay_the_exit() {
    as_attacker("sockets_in_the_backlog_do_not_delay_the_exit", || {
        let environment = new_environment();
        let mut broker =
            environment.run_broker(without(environment.broker_command(&["--log.level=info"]), &PASS_RIGHTS));
        let mut peers = Vec::new();
        // It is asked to stop before anything is accepted.
        broker.process.signal(Signal::STOP);
        for _ in 0..4 {
            let [lingers, peer] = lingering();
            let stream = run_as(DENIED_UID, broker_gid(), || connect(&environment.socket()));
            assert!(pass(&stream, &[lingers.as_fd()]).is_ok());
            peers.push(peer);
        }
        broker.process.signal(Signal::TERM);
        broker.process.signal(Signal::CONT);
        let start = Instant::now();
        assert_eq!(broker.process.wait().code(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    });
}

#[test]
fn a_log_that_is_not_read_delays_nobody() {
    if !root() {
        return;
    }
    const UIDS: std::ops::Range<u32> = 64700..64712;
    let environment = new_environment();
    let allowed = UIDS.map(|uid| format!("--allow-uid={uid}"));
    let command = environment
        .broker_command(&[&["--log.level=debug".to_owned()][..], &allowed.collect::<Vec<_>>()].concat());
    let (unread, log) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let room = rustix::pipe::fcntl_setpipe_size(&log, 4096).unwrap();
    let mut broker = environment.spawn_broker(command, log);
    wait_until("the broker", || environment.probe(broker_uid()).status.success());
    let until = Instant::now() + Duration::from_secs(5);
    std::thread::scope(|scope| {
        // Connections that are served log a line at level debug; beyond their rate, and for the other uid, they are
        // refused.
        for uid in UIDS.chain([DENIED_UID]) {
            let socket = environment.socket();
            scope.spawn(move || run_as(uid, broker_gid(), || garbage(&socket, until)));
        }
        assert_everyone_is_answered(&environment, Duration::from_secs(5));
    });
    let counters = broker.describe().counters.unwrap();
    assert!(counters.log_lines_dropped > 0 && counters.refused_peers > 100, "{counters:?}");
    let full = rustix::io::ioctl_fionread(&unread).unwrap();
    assert!(full > room as u64 / 2, "the log is not full: {full} of {room}");
    broker.process.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(broker.process.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// Sends garbage, one connection after another.
fn garbage(socket: &std::path::Path, until: Instant) {
    while Instant::now() < until {
        if let Ok(mut stream) = UnixStream::connect(socket) {
            let _ = stream.write_all(&[HELLO, &[0xff; 4096]].concat());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
