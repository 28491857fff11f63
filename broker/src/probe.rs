//! `keyhole-broker probe`: asks a running broker for its health over its socket, for an exec probe.

use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::Message;
use tonic_health::pb::HealthCheckResponse;
use tonic_health::pb::health_check_response::ServingStatus;

/// A probe that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait when the queue of connections is full.
const CROWDED: Duration = Duration::from_millis(5);

/// A gRPC message that holds nothing: uncompressed, length 0.
const EMPTY_MESSAGE: [u8; 5] = [0; 5];

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
        error: std::io::Error,
    },
    /// No answer within the deadline.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Late,
    /// The connection broke.
    #[error("the broker closed the connection: {0}: is this uid allowed?")]
    Broken(#[from] h2::Error),
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
async fn dial(path: &Path) -> std::io::Result<tokio::net::UnixStream> {
    loop {
        match tokio::net::UnixStream::connect(path).await {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => tokio::time::sleep(CROWDED).await,
            dialled => return dialled,
        }
    }
}

async fn ask(stream: tokio::net::UnixStream) -> Result<(), ProbeError> {
    let (client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let request = http::Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|_| ProbeError::Nonsense)?;
    let (answer, mut body) = client.ready().await?.send_request(request, false)?;
    body.send_data(Bytes::from_static(&EMPTY_MESSAGE), true)?;
    let mut stream = answer.await?.into_body();
    let mut message = Vec::new();
    while let Some(data) = stream.data().await {
        message.extend_from_slice(&data?);
        if message.len() > ANSWER_BYTES {
            return Err(ProbeError::Nonsense);
        }
    }
    let mut message = &message[..];
    if message.len() < EMPTY_MESSAGE.len() {
        return Err(ProbeError::Nonsense);
    }
    message.advance(EMPTY_MESSAGE.len());
    match HealthCheckResponse::decode(message).map_err(|_| ProbeError::Nonsense)?.status() {
        ServingStatus::Serving => Ok(()),
        status => Err(ProbeError::NotServing(status.as_str_name())),
    }
}
