//! Descriptors that peers pass along, and a log that nobody reads: neither delays the thread that serves.

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

/// How long a socket of the attacker lingers when it is closed.
const LINGER: Duration = Duration::from_secs(40);

/// The longest that anybody else may wait.
const ANSWER: Duration = Duration::from_secs(1);

/// The preface, and settings that change nothing.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A PING.
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pppppppp";

/// A TCP socket with unsent data whose close sleeps, and its other end, which reads nothing.
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

/// Has the broker stop while `act` runs: what it sends is in the broker's sockets before any of it is looked at.
fn while_stopped<T>(broker: &Broker, act: impl FnOnce() -> T) -> T {
    broker.process.signal(Signal::STOP);
    let done = act();
    broker.process.signal(Signal::CONT);
    done
}

/// Runs probes, each with a connection of its own, for this long; each must be answered soon.
fn everyone_is_answered(environment: &Environment, meanwhile: Duration) {
    let start = Instant::now();
    let mut probes = 0;
    while start.elapsed() < meanwhile {
        let begun = Instant::now();
        let output = environment.probe(broker_uid());
        assert!(begun.elapsed() < ANSWER, "a probe waited {:?}, after {probes}", begun.elapsed());
        assert!(output.status.success(), "{output:?}");
        probes += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(probes > 5, "{probes}");
}

/// The attacks, from a uid: as many connections, each of which passes what `descriptors` returns and is then left.
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
            // Nobody else has them: their close would sleep here.
            files.iter().for_each(|file| sockopt::set_socket_linger(file, None).unwrap());
        }
    };
    if is_refused {
        return while_stopped(broker, || batches.into_iter().for_each(|files| pass_all(open(), files)));
    }
    // Refused when it is opened is who has no place yet: one after the other, as places come back.
    for files in batches {
        let mut stream = open();
        stream.write_all(HELLO).unwrap();
        // It is being served.
        assert!(stream.read(&mut [0; 64]).unwrap() > 0);
        while_stopped(broker, || pass_all(stream, files));
    }
}

fn broker_passes(broker: &Broker) -> bool {
    let log = broker.process.log();
    log.contains("sandbox layer MISSING\" process=broker layer=passed_descriptors")
}

/// Runs a test in a process of its own, which lingering sockets end with. A child that another test starts meanwhile
/// would have a copy of each, and its own start would wait for their close.
fn as_attacker(test: &str, act: impl FnOnce()) {
    if root() {
        in_own_process(&format!("passed::{test}"), act);
    }
}

/// What every kernel must hold, as it is or without the option that refuses descriptors.
fn passed_descriptors_delay_nobody(is_old: bool) {
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
        everyone_is_answered(&environment, Duration::from_secs(3));
    }
    // Many in a message, which do not linger.
    let [plain, _peer] = lingering();
    sockopt::set_socket_linger(&plain, None).unwrap();
    for (uid, is_refused) in [(EXPORTER_UID, false), (DENIED_UID, true)] {
        attack(&broker, uid, is_refused, 4, &mut || (0..200).map(|_| plain.try_clone().unwrap()).collect());
        everyone_is_answered(&environment, Duration::from_secs(1));
    }
    // None is left, and the attacker may connect again.
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
fn descriptors_that_peers_pass_delay_nobody() {
    as_attacker("descriptors_that_peers_pass_delay_nobody", || passed_descriptors_delay_nobody(false));
}

#[test]
fn descriptors_that_peers_pass_delay_nobody_where_the_kernel_does_not_refuse_them() {
    as_attacker("descriptors_that_peers_pass_delay_nobody_where_the_kernel_does_not_refuse_them", || {
        passed_descriptors_delay_nobody(true);
    });
}

#[test]
fn sockets_that_wait_to_be_accepted_do_not_delay_the_end() {
    as_attacker("sockets_that_wait_to_be_accepted_do_not_delay_the_end", || {
        let environment = new_environment();
        let mut broker =
            environment.run_broker(without(environment.broker_command(&["--log.level=info"]), &PASS_RIGHTS));
        let mut peers = Vec::new();
        // The end is asked for before anything is accepted.
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
fn a_log_that_nobody_reads_delays_nobody() {
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
        // What is served of it ends with a line of debug; beyond their rate, and for the uid that is not allowed, it is refused.
        for uid in UIDS.chain([DENIED_UID]) {
            let socket = environment.socket();
            scope.spawn(move || run_as(uid, broker_gid(), || garbage(&socket, until)));
        }
        everyone_is_answered(&environment, Duration::from_secs(5));
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

/// Connections of garbage, one after the other.
fn garbage(socket: &std::path::Path, until: Instant) {
    while Instant::now() < until {
        if let Ok(mut stream) = UnixStream::connect(socket) {
            let _ = stream.write_all(&[HELLO, &[0xff; 4096]].concat());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
