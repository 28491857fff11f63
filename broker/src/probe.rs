//! `keyhole-broker probe`: asks a running broker for its health over its socket, for an exec probe.
//!
//! It runs in the broker's container with the broker's rights, and reads what its peer sends. So it connects, sends its
//! request, enters a sandbox, and only then reads. The connection becomes descriptor 0, to which seccomp restricts reads.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use keyhole_os::seccomp::values::{CLOCK_MONOTONIC, PRIVATE_ANONYMOUS, READ_WRITE};
use keyhole_os::seccomp::{self, Row, Rule, exactly};
use keyhole_os::{Layer, allow, capabilities, landlock, process};
use prost::Message;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tonic_health::pb::HealthCheckResponse;
use tonic_health::pb::health_check_response::ServingStatus;

/// The most time that a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait before connecting again when the broker's backlog is full.
const QUEUE_FULL_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// The timeout of one read, after which the deadline is checked: the probe ends at most this much after it.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(100);

/// The system calls that a probe may make when it reads the answer. The connection is descriptor 0.
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

const STDIN: u32 = 0;
const STDERR: u32 = 2;

/// The one request that a probe sends, as bytes of HTTP/2 (RFC 9113). A client library would be a twentieth of the
/// program.
const REQUEST: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x4b\x01\x04\x00\x00\x00\x01\
    \x83\x86\x01\x09localhost\x04\x1c/grpc.health.v1.Health/Check\
    \x0f\x10\x10application/grpc\x00\x02te\x08trailers\
    \x00\x00\x05\x00\x01\x00\x00\x00\x01\
    \x00\x00\x00\x00\x00";

// HTTP/2 frame types, and the flag of the last frame of a stream.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// The longest frame that a client must accept by default.
const MAX_FRAME_BYTES: usize = 16 << 10;

/// The length of the prefix of a gRPC message: whether it is compressed, and its length.
const MESSAGE_HEADER_BYTES: usize = 5;

/// More bytes than a health answer has.
const MAX_ANSWER_BYTES: usize = 1024;

/// Why a probe fails.
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
    /// The probe could not enter its sandbox.
    #[error("{0} could not be enabled: {1}: let the container's seccomp profile allow it")]
    Sandbox(&'static str, String),
    /// No answer within the deadline.
    #[error("no answer within {} s", PROBE_TIMEOUT.as_secs())]
    TimedOut,
    /// The connection was closed.
    #[error("the broker closed the connection: {0}: is this uid allowed?")]
    Closed(#[from] io::Error),
    /// The answer is malformed.
    #[error("the broker's answer is not a health answer")]
    Malformed,
    /// The broker reports that it does not serve.
    #[error("the broker reports {0}")]
    NotServing(&'static str),
}

/// Probes the broker at `path`. Afterwards the process is in a sandbox and has no standard input.
pub(crate) fn probe(path: &Path) -> Result<(), ProbeError> {
    keyhole_log::report_panics("keyhole-broker");
    let deadline = Instant::now() + PROBE_TIMEOUT;
    let connection = connect(path, deadline)?;
    set_socket_timeout(&connection, Timeout::Recv, Some(RECEIVE_TIMEOUT)).map_err(io::Error::from)?;
    // DONTWAIT: a new connection has buffer space for far more.
    let sent = rustix::net::send(&connection, REQUEST, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    if sent.map_err(io::Error::from)? != REQUEST.len() {
        return Err(io::Error::from(io::ErrorKind::WriteZero).into());
    }
    rustix::stdio::dup2_stdin(&connection).map_err(io::Error::from)?;
    drop(connection);
    enter_sandbox()?;
    read_answer(rustix::stdio::stdin(), deadline)
}

/// Connects; tries again while the backlog is full: a flood of connections does not mean that the broker is unhealthy.
fn connect(path: &Path, deadline: Instant) -> Result<OwnedFd, ProbeError> {
    let failed = |errno: Errno| ProbeError::Connect { path: path.display().to_string(), error: errno.into() };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    // NONBLOCK, since a blocking connect would wait for the backlog without a timeout.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let socket = socket.map_err(failed)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(QUEUE_FULL_RETRY_INTERVAL),
            Err(Errno::AGAIN) => return Err(ProbeError::TimedOut),
            connected => break connected.map_err(failed)?,
        }
    }
    rustix::io::ioctl_fionbio(&socket, false).map_err(failed)?;
    Ok(socket)
}

/// Restricts the process to [`PROBE_SYSCALLS`]. Landlock may be missing, since not every kernel has it; the other layers
/// are required as in the broker.
fn enter_sandbox() -> Result<(), ProbeError> {
    process::not_dumpable();
    require(capabilities::no_new_privs())?;
    require(capabilities::drop_all())?;
    landlock::restrict(&[]);
    // EINVAL means a kernel without seccomp; a container's profile would return another error.
    if rustix::thread::secure_computing_mode() == Err(Errno::INVAL) {
        return Ok(());
    }
    let rules: Vec<Rule<'_>> = PROBE_SYSCALLS.iter().map(Rule::from).collect();
    let filter =
        seccomp::compile(&rules).map_err(|error| ProbeError::Sandbox("seccomp", error.to_string()))?;
    require(seccomp::install(&filter, rules.len()))
}

fn require(layer: Layer) -> Result<(), ProbeError> {
    if layer.in_force { Ok(()) } else { Err(ProbeError::Sandbox(layer.name, layer.detail)) }
}

/// Reads frames until the request is answered. One frame at most is in memory.
fn read_answer(stream: impl AsFd, deadline: Instant) -> Result<(), ProbeError> {
    let mut payload = [0; MAX_FRAME_BYTES];
    let mut answer = Vec::with_capacity(MAX_ANSWER_BYTES);
    loop {
        let mut header = [0; 9];
        read_exact(&stream, &mut header, deadline)?;
        let [high, middle, low, kind, flags, ..] = header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let longest = if kind == DATA { MAX_ANSWER_BYTES - answer.len() } else { MAX_FRAME_BYTES };
        if length > longest {
            return Err(ProbeError::Malformed);
        }
        let payload = &mut payload[..length];
        read_exact(&stream, payload, deadline)?;
        match kind {
            DATA => answer.extend_from_slice(payload),
            HEADERS => {}
            RST_STREAM => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
            // Frames of the connection, in which the same flag means something else.
            _ => continue,
        }
        if flags & END_STREAM != 0 {
            break;
        }
    }
    let message = answer.get(MESSAGE_HEADER_BYTES..).ok_or(ProbeError::Malformed)?;
    match HealthCheckResponse::decode(message).map_err(|_| ProbeError::Malformed)?.status() {
        ServingStatus::Serving => Ok(()),
        status => Err(ProbeError::NotServing(status.as_str_name())),
    }
}

/// Fills `buffer`. The deadline is checked before every read: a peer that sends single bytes gains no time.
fn read_exact(stream: &impl AsFd, mut buffer: &mut [u8], deadline: Instant) -> Result<(), ProbeError> {
    while !buffer.is_empty() {
        if Instant::now() >= deadline {
            return Err(ProbeError::TimedOut);
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

    /// The result of a probe whose peer sends `answer` and closes the connection.
    fn probe_result(answer: &[u8]) -> Result<(), ProbeError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answer).unwrap();
        drop(theirs);
        read_answer(ours, Instant::now() + Duration::from_secs(20))
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn an_answer_may_be_split_into_frames_in_any_way() {
        const SETTINGS: u8 = 4;
        let settings = [frame(SETTINGS, 0, &[]), frame(SETTINGS, END_STREAM, &[])].concat();
        let in_pieces =
            [frame(DATA, 0, &[0, 0, 0]), frame(DATA, 0, &[0, 2, 8]), frame(DATA, 0, &[1])].concat();
        let answer = [settings, frame(HEADERS, 4, b"\x88"), in_pieces, frame(HEADERS, 5, b"")].concat();
        assert!(probe_result(&answer).is_ok());
        let not_serving = frame(DATA, END_STREAM, &[0, 0, 0, 0, 2, 8, 2]);
        assert!(matches!(probe_result(&not_serving), Err(ProbeError::NotServing("NOT_SERVING"))));
    }

    #[test]
    fn a_malformed_answer_is_an_error() {
        let endless = frame(DATA, 0, &[1; 200]).repeat(10);
        let mut long = frame(DATA, END_STREAM, &[0; 16 << 10]);
        long[1] = (16 << 10 >> 8) as u8;
        let short = frame(DATA, END_STREAM, &[0, 0]);
        for malformed in [b"HTTP/1.1 400 Bad Request\r\n\r\n", &*short, &long, &endless] {
            assert!(matches!(probe_result(malformed), Err(ProbeError::Malformed)), "{malformed:?}");
        }
        for closed in [vec![], vec![0; 5], frame(DATA, 0, &[1]), frame(RST_STREAM, 0, &[0; 4])] {
            assert!(matches!(probe_result(&closed), Err(ProbeError::Closed(_))), "{closed:?}");
        }
    }

    #[test]
    fn silence_and_endless_frames_time_out() {
        for sent in [frame(4, 0, &[]).repeat(1000), vec![0; 3], vec![]] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            theirs.write_all(&sent).unwrap();
            let start = Instant::now();
            let asked = read_answer(&ours, start + Duration::from_millis(100));
            assert!(matches!(asked, Err(ProbeError::TimedOut)), "{asked:?}");
            assert!(start.elapsed() >= Duration::from_millis(100));
        }
    }
}
