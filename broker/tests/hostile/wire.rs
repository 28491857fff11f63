//! HTTP/2 frames as bytes, valid and invalid ones, and a connection that sends them. RFC 9113, RFC 7541.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keyhole_proto::v1::ReadRequest;
use prost::Message;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// END_STREAM; of SETTINGS and PING, ACK.
pub(crate) const END: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The setting of how much a stream may be sent at first.
const INITIAL_WINDOW_SIZE: u16 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const READ: &str = "/keyhole.v1.Broker/Read";
pub(crate) const DESCRIBE: &str = "/keyhole.v1.Broker/Describe";
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The preface with settings for an initial stream window of `window` bytes.
pub(crate) fn hello(window: u32) -> Vec<u8> {
    let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    setting.extend(window.to_be_bytes());
    [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat()
}

/// A literal header field, neither indexed nor compressed. Short ones only.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend(name.bytes());
    field.push(value.len() as u8);
    field.extend(value.bytes());
    field
}

/// The header block of a gRPC call.
pub(crate) fn block(path: &str) -> Vec<u8> {
    // From the static table: POST, http.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.extend(literal(name, value));
    }
    block
}

/// A whole gRPC call.
pub(crate) fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let headers = frame(HEADERS, END_HEADERS, stream, &block(path));
    [headers, frame(DATA, END, stream, &body)].concat()
}

pub(crate) fn read(stream: u32, queries: Vec<i32>) -> Vec<u8> {
    call(stream, READ, &ReadRequest { queries }.encode_to_vec())
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// A connection of a hostile client, on which everything ends with the flood.
pub(crate) struct Connection {
    pub(crate) socket: PathBuf,
    /// How many there were before it.
    pub(crate) number: u64,
    pub(crate) stream: UnixStream,
    pub(crate) until: Instant,
    /// The number of frames sent, approximately.
    pub(crate) sent: u64,
    next: u32,
}

impl Connection {
    pub(crate) fn open(socket: &Path, until: Instant, number: u64) -> Option<Self> {
        if Instant::now() >= until {
            return None;
        }
        let stream = UnixStream::connect(socket).ok()?;
        // Blocking, with a time-out: a flood waits for buffer space, and checks the deadline.
        stream.set_write_timeout(Some(Duration::from_millis(20))).ok()?;
        Some(Self { socket: socket.into(), number, stream, until, sent: 0, next: 1 })
    }

    /// The number of a new stream.
    pub(crate) fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Sends bytes that contain `frames` frames; false if the broker has closed the connection or the flood is over.
    pub(crate) fn send(&mut self, mut bytes: &[u8], frames: u64) -> bool {
        while !bytes.is_empty() {
            if Instant::now() >= self.until {
                return false;
            }
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return false,
            }
        }
        self.sent += frames;
        true
    }

    /// Sends the same bytes repeatedly.
    pub(crate) fn repeat(&mut self, bytes: &[u8], frames: u64) {
        while self.send(bytes, frames) {}
    }

    /// Discards received bytes; false if the broker has closed the connection.
    pub(crate) fn drain(&mut self, wait: Duration) -> bool {
        let mut bytes = [0; 64 << 10];
        self.stream.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).unwrap();
        match self.stream.read(&mut bytes) {
            Ok(length) => length > 0,
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Keeps the connection open and reads nothing.
    pub(crate) fn hold(&self) {
        std::thread::sleep(self.until.saturating_duration_since(Instant::now()));
    }
}
