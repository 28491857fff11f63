//! `keyhole-broker probe`: asks a running broker for its health over its socket, for an exec probe.

use std::io;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic_health::pb::HealthCheckResponse;
use tonic_health::pb::health_check_response::ServingStatus;

/// A probe that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait when the queue of connections is full.
const CROWDED: Duration = Duration::from_millis(5);

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

/// Asks the broker at `path`.
pub fn probe(path: &Path) -> Result<(), ProbeError> {
    let connect = |error| ProbeError::Connect { path: path.display().to_string(), error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(connect)?;
    runtime.block_on(async {
        tokio::time::timeout(DEADLINE, async { ask(dial(path).await.map_err(connect)?).await })
            .await
            .unwrap_or(Err(ProbeError::Late))
    })
}

/// Connects; tries again while others crowd the door, since a flood of connections is no sign of a broker that is ill.
async fn dial(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(CROWDED).await,
            dialled => return dialled,
        }
    }
}

async fn ask(mut stream: UnixStream) -> Result<(), ProbeError> {
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [high, middle, low, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let longest = if kind == DATA { ANSWER_BYTES - answer.len() } else { FRAME_BYTES };
        if length > longest {
            return Err(ProbeError::Nonsense);
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        match kind {
            DATA => answer.extend(payload),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a probe makes of an answer, after which the other side hangs up.
    fn ask_one_who_says(answer: &[u8]) -> Result<(), ProbeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer).await.unwrap();
            theirs.shutdown().await.unwrap();
            ask(ours).await
        })
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
}
