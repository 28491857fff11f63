//! A gRPC client of a broker, over its Unix socket.

use std::future::Future;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyhole_proto::v1::broker_client::BrokerClient;
use keyhole_proto::v1::{File, Outcome, Query, ReadRequest, file};
use prost::Message;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::TIMEOUT;

/// The longest that one use of a client may take.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a future on a runtime of its own; panics after 60 s.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(CLIENT_TIMEOUT, future).await })
        .unwrap_or_else(|_| panic!("no end within {CLIENT_TIMEOUT:?}"))
}

pub async fn try_channel(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://keyhole").connect_with_connector(connector).await
}

pub async fn channel(socket: PathBuf) -> Channel {
    try_channel(socket).await.unwrap()
}

/// A plain connection, without gRPC, on which no read or write waits for ever.
pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// All chunks of the answer to one query.
#[derive(Debug)]
pub struct Answer {
    pub query: Query,
    pub outcome: Outcome,
    pub files: Vec<File>,
}

impl Answer {
    /// The content of a file, if it is in the answer.
    pub fn text(&self, path: &str) -> Option<Vec<u8>> {
        let name = Some(file::Name::Path(path.to_owned()));
        let mut chunks = self.files.iter().filter(|file| file.name == name).peekable();
        chunks.peek()?;
        let bytes = chunks.flat_map(|chunk| match chunk.content.as_ref().unwrap() {
            file::Content::Text(text) => text.as_bytes().to_vec(),
            file::Content::Raw(bytes) => bytes.clone(),
            _ => Vec::new(),
        });
        Some(bytes.collect())
    }
}

pub async fn read(client: &mut BrokerClient<Channel>, queries: &[Query]) -> Result<Vec<Answer>, Status> {
    read_numbers(client, queries.iter().map(|query| *query as i32).collect()).await
}

/// Reads queries by number, which need not be known ones.
pub async fn read_numbers(
    client: &mut BrokerClient<Channel>,
    queries: Vec<i32>,
) -> Result<Vec<Answer>, Status> {
    let mut stream = client.read(ReadRequest { queries }).await?.into_inner();
    let (mut answers, mut files) = (Vec::new(), Vec::new());
    while let Some(chunk) = stream.message().await? {
        assert!(chunk.encoded_len() < 1 << 20);
        let query = chunk.query();
        files.extend(chunk.files);
        if let Some(end) = chunk.end {
            answers.push(Answer { query, outcome: end.outcome(), files: std::mem::take(&mut files) });
        }
    }
    Ok(answers)
}
