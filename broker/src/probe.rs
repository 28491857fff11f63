//! `keyhole-broker probe`: asks a running broker for its health over its socket, for an exec probe.
//!
//! It runs wherever the broker does, with all that the broker is given, and the peer that answers decides what
//! it reads: so it connects, asks, seals itself, and only then reads. The connection takes the place of standard input,
//! which makes its descriptor a number that the table of system calls can hold reads to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use keyhole_os::seccomp::{self, Row, Rule, exactly};
use keyhole_os::{Layer, allow, capabilities, landlock, process};
use prost::Message;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tonic_health::pb::HealthCheckResponse;
use tonic_health::pb::health_check_response::ServingStatus;

/// A probe that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait when the queue of connections is full.
const CROWDED: Duration = Duration::from_millis(5);

/// How long one read waits before the deadline is looked at: a probe ends at most this much after it.
const TICK: Duration = Duration::from_millis(100);

/// What a probe may still ask of the kernel when it reads the answer. The connection is descriptor 0.
#[rustfmt::skip]
pub const PROBE_SYSCALLS: &[Row] = &[
    allow!(read, "the answer", exactly(0, STDIN)),
    allow!(write, "what is wrong, on standard error", exactly(0, STDERR)),
    allow!(clock_gettime, "the deadline, where the vDSO has no time", exactly(0, CLOCK_MONOTONIC)),
    allow!(brk, "memory"),
    allow!(mmap, "memory, where brk has none", exactly(2, READ_WRITE), exactly(3, PRIVATE_ANONYMOUS), exactly(4, u32::MAX)),
    allow!(sigaltstack, "the end, which gives its signal stack back"),
    allow!(munmap, "the same"),
    allow!(exit_group, "the end"),
];

// Constants of the kernel's headers, the same on x86_64 and aarch64.
const STDIN: u32 = 0;
const STDERR: u32 = 2;
const CLOCK_MONOTONIC: u32 = 1;
const READ_WRITE: u32 = 3;
const PRIVATE_ANONYMOUS: u32 = 0x22;

/// The one request that a probe makes, as it goes over the wire (RFC 9113): a library that can make any is a twentieth
/// of the program.
const REQUEST: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x4b\x01\x04\x00\x00\x00\x01\
    \x83\x86\x01\x09localhost\x04\x1c/grpc.health.v1.Health/Check\
    \x0f\x10\x10application/grpc\x00\x02te\x08trailers\
    \x00\x00\x05\x00\x01\x00\x00\x00\x01\
    \x00\x00\x00\x00\x00";

// Types of frames, and the flag of the last of a request or an answer.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// The longest frame for a client that has not allowed for longer ones.
const FRAME_BYTES: usize = 16 << 10;

/// What comes before a message of gRPC: whether it is compressed, and its length.
const MESSAGE_HEAD: usize = 5;

/// A length that no health answer has.
const ANSWER_BYTES: usize = 1024;

/// Why the broker is not healthy, as far as the probe can see.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answers at the socket.
    #[error("--socket.path={path}: {error}: is the broker running?")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It would have to read the answer unsealed.
    #[error("{0} could not be put in force: {1}: let the container's own seccomp profile allow it")]
    Unsealed(&'static str, String),
    /// No answer within the deadline.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Late,
    /// The connection broke.
    #[error("the broker closed the connection: {0}: is this uid allowed?")]
    Broken(#[from] io::Error),
    /// An answer that is not one.
    #[error("the broker's answer is not a health answer")]
    Nonsense,
    /// The broker says that it cannot serve.
    #[error("the broker says {0}")]
    NotServing(&'static str),
}

/// Asks the broker at `path`. The process can do nothing else afterwards: it is sealed, and has no standard input.
pub(crate) fn probe(path: &Path) -> Result<(), ProbeError> {
    keyhole_log::report_panics("keyhole-broker");
    let deadline = Instant::now() + DEADLINE;
    let connection = dial(path, deadline)?;
    set_socket_timeout(&connection, Timeout::Recv, Some(TICK)).map_err(io::Error::from)?;
    // It waits for nobody: a connection that has just been made has room for far more.
    let sent = rustix::net::send(&connection, REQUEST, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    if sent.map_err(io::Error::from)? != REQUEST.len() {
        return Err(io::Error::from(io::ErrorKind::WriteZero).into());
    }
    rustix::stdio::dup2_stdin(&connection).map_err(io::Error::from)?;
    drop(connection);
    seal()?;
    read_answer(rustix::stdio::stdin(), deadline)
}

/// Connects; tries again while others crowd the door, since a flood of connections is no sign of a broker that is ill.
fn dial(path: &Path, deadline: Instant) -> Result<OwnedFd, ProbeError> {
    let failed = |errno: Errno| ProbeError::Connect { path: path.display().to_string(), error: errno.into() };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    // Without waiting, since nothing else bounds the wait for a place in the queue.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let socket = socket.map_err(failed)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(CROWDED),
            Err(Errno::AGAIN) => return Err(ProbeError::Late),
            connected => break connected.map_err(failed)?,
        }
    }
    rustix::io::ioctl_fionbio(&socket, false).map_err(failed)?;
    Ok(socket)
}

/// Gives up everything but [`PROBE_SYSCALLS`]. Not every kernel has Landlock; the rest is as necessary as to a broker.
fn seal() -> Result<(), ProbeError> {
    process::not_dumpable();
    in_force(capabilities::no_new_privs())?;
    in_force(capabilities::drop_all())?;
    landlock::restrict(&[]);
    // A kernel without seccomp; no profile of a container says so.
    if rustix::thread::secure_computing_mode() == Err(Errno::INVAL) {
        return Ok(());
    }
    let rules: Vec<Rule<'_>> = PROBE_SYSCALLS.iter().map(Rule::from).collect();
    let filter =
        seccomp::compile(&rules).map_err(|error| ProbeError::Unsealed("seccomp", error.to_string()))?;
    in_force(seccomp::install(&filter, rules.len()))
}

fn in_force(layer: Layer) -> Result<(), ProbeError> {
    if layer.in_force { Ok(()) } else { Err(ProbeError::Unsealed(layer.name, layer.detail)) }
}

/// Reads frames until the request is answered. Memory is taken for one frame at most.
fn read_answer(stream: impl AsFd, deadline: Instant) -> Result<(), ProbeError> {
    let mut payload = [0; FRAME_BYTES];
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    loop {
        let mut head = [0; 9];
        read_exact(&stream, &mut head, deadline)?;
        let [high, middle, low, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let longest = if kind == DATA { ANSWER_BYTES - answer.len() } else { FRAME_BYTES };
        if length > longest {
            return Err(ProbeError::Nonsense);
        }
        let payload = &mut payload[..length];
        read_exact(&stream, payload, deadline)?;
        match kind {
            DATA => answer.extend_from_slice(payload),
            HEADERS => {}
            RST_STREAM => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
            // Only one stream is open. What is about the connection has the same flag for other things.
            _ => continue,
        }
        if flags & END_STREAM != 0 {
            break;
        }
    }
    let message = answer.get(MESSAGE_HEAD..).ok_or(ProbeError::Nonsense)?;
    match HealthCheckResponse::decode(message).map_err(|_| ProbeError::Nonsense)?.status() {
        ServingStatus::Serving => Ok(()),
        status => Err(ProbeError::NotServing(status.as_str_name())),
    }
}

/// Fills `buffer`. The deadline is looked at before every read: one who sends a byte now and then gains no time by it.
fn read_exact(stream: &impl AsFd, mut buffer: &mut [u8], deadline: Instant) -> Result<(), ProbeError> {
    while !buffer.is_empty() {
        if Instant::now() >= deadline {
            return Err(ProbeError::Late);
        }
        match rustix::io::read(stream, &mut *buffer) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(length) => buffer = &mut buffer[length..],
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// What a probe makes of an answer, after which the other side hangs up.
    fn ask_one_who_says(answer: &[u8]) -> Result<(), ProbeError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answer).unwrap();
        drop(theirs);
        read_answer(ours, Instant::now() + Duration::from_secs(20))
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn an_answer_is_read_whatever_frames_it_is_in() {
        const SETTINGS: u8 = 4;
        let settings = [frame(SETTINGS, 0, &[]), frame(SETTINGS, END_STREAM, &[])].concat();
        let in_pieces =
            [frame(DATA, 0, &[0, 0, 0]), frame(DATA, 0, &[0, 2, 8]), frame(DATA, 0, &[1])].concat();
        let answer = [settings, frame(HEADERS, 4, b"\x88"), in_pieces, frame(HEADERS, 5, b"")].concat();
        assert!(ask_one_who_says(&answer).is_ok());
        let not_serving = frame(DATA, END_STREAM, &[0, 0, 0, 0, 2, 8, 2]);
        assert!(matches!(ask_one_who_says(&not_serving), Err(ProbeError::NotServing("NOT_SERVING"))));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let endless = frame(DATA, 0, &[1; 200]).repeat(10);
        let mut long = frame(DATA, END_STREAM, &[0; 16 << 10]);
        long[1] = (16 << 10 >> 8) as u8;
        let short = frame(DATA, END_STREAM, &[0, 0]);
        for nonsense in [b"HTTP/1.1 400 Bad Request\r\n\r\n", &*short, &long, &endless] {
            assert!(matches!(ask_one_who_says(nonsense), Err(ProbeError::Nonsense)), "{nonsense:?}");
        }
        for broken in [vec![], vec![0; 5], frame(DATA, 0, &[1]), frame(RST_STREAM, 0, &[0; 4])] {
            assert!(matches!(ask_one_who_says(&broken), Err(ProbeError::Broken(_))), "{broken:?}");
        }
    }
    #[test]
    fn silence_and_frames_without_end_are_late() {
        for says in [frame(4, 0, &[]).repeat(1000), vec![0; 3], vec![]] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            theirs.write_all(&says).unwrap();
            let start = Instant::now();
            let asked = read_answer(&ours, start + Duration::from_millis(100));
            assert!(matches!(asked, Err(ProbeError::Late)), "{asked:?}");
            assert!(start.elapsed() >= Duration::from_millis(100));
        }
    }
}
