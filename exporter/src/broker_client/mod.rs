//! The client of the broker: calls over its Unix socket, each with a deadline and a size limit.
//!
//! The channel connects when it is first used and reconnects after a restart of the broker.

mod access;

use std::collections::HashMap;
use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyhole_os::socket::path_length_error;
use keyhole_proto::v1::{self, Outcome, Query, broker_client};
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use self::access::{SocketAccess, shell_words};
use crate::snapshot::{Report, Snapshot};

/// The default of `--broker.socket`.
pub const DEFAULT_SOCKET: &str = "/run/keyhole/broker.sock";

/// The default limit of the memory for one response, in bytes. Items that do not fit are left out and counted.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// The part of it that is reserved for each query, so that a large query cannot displace small ones.
const RESERVED_QUERY_BYTES: usize = 64 << 10;
/// The most bytes of a response that are received, kept or not: every file of the largest machine within the policy's
/// limits. Only a compromised broker sends more.
const MAX_RECEIVED_BYTES: usize = 512 << 20;
/// The memory overhead of a file, in bytes, so that empty files are limited too.
const FILE_OVERHEAD: usize = 128;
/// The most bytes of one message; the broker's are below 1 MiB.
const MAX_MESSAGE_BYTES: usize = 2 << 20;
/// How often a call is retried after the connection broke, so that a restart of the broker costs no scrape.
const MAX_RETRIES: u32 = 6;
/// The delay before the first retry; it doubles with each. All delays together are about 200 ms.
const RETRY_DELAY: Duration = Duration::from_millis(3);
/// The delay before a call is retried that the broker's rate limit refused.
const BUSY_DELAY: Duration = Duration::from_millis(100);

/// A connection to one broker.
#[derive(Debug, Clone)]
pub struct BrokerClient {
    socket: String,
    access: SocketAccess,
    client: broker_client::BrokerClient<Channel>,
    connections: Arc<AtomicU64>,
    max_response_bytes: usize,
}

/// Connects to the socket and counts connections: a new connection may be to a restarted broker.
#[derive(Debug, Clone)]
struct Connector {
    socket: String,
    connections: Arc<AtomicU64>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { socket, connections } = self.clone();
        Box::pin(async move {
            let stream = UnixStream::connect(socket).await?;
            connections.fetch_add(1, Ordering::Relaxed);
            Ok(TokioIo::new(stream))
        })
    }
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BrokerError {
    /// The socket path is invalid.
    #[error("{socket:?}: {reason}")]
    Address {
        /// The path as configured.
        socket: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Connecting failed, or the connection broke.
    #[error("cannot reach the broker at {socket}: {reason}{advice}")]
    Unreachable {
        /// The socket.
        socket: String,
        /// The system's error message.
        reason: String,
        /// The kind of a system error.
        kind: Option<ErrorKind>,
        /// Advice on who may connect and how, beginning with a separator; may be empty.
        advice: String,
    },
    /// The broker returned an error.
    #[error("the broker refused: {code:?}: {message}")]
    Refused {
        /// The gRPC status code.
        code: Code,
        /// The broker's message, on one line.
        message: String,
    },
    /// No response before the deadline.
    #[error("the broker did not answer in time")]
    Deadline,
}

impl BrokerError {
    /// Whether the broker refused because of its limits for this uid.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Refused { code: Code::ResourceExhausted, .. })
    }
}

/// The path of a socket, with an optional prefix `unix:`. The error says what to do.
fn socket_path(socket: &str) -> Result<&str, String> {
    let path = socket.strip_prefix("unix://").or_else(|| socket.strip_prefix("unix:")).unwrap_or(socket);
    if path.is_empty() || path.contains('\0') {
        return Err(format!("not the path of a socket: use one such as {DEFAULT_SOCKET}"));
    }
    path_length_error(path.len()).map_or(Ok(path), Err)
}

impl BrokerClient {
    /// A client of the broker at `socket`, a path with an optional prefix `unix:`. Needs a runtime; connects later.
    pub fn new(socket: &str) -> Result<Self, BrokerError> {
        let address = |reason| BrokerError::Address { socket: socket.to_owned(), reason };
        let path = socket_path(socket).map_err(address)?;
        let endpoint = Endpoint::from_shared(format!("unix:{path}"))
            .and_then(|endpoint| endpoint.user_agent(concat!("keyhole-exporter/", env!("CARGO_PKG_VERSION"))))
            .map_err(|error| address(error.to_string()))?
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(2 << 20)
            .http2_max_header_list_size(8 << 10);
        let connections = Arc::default();
        let connector = Connector { socket: path.to_owned(), connections: Arc::clone(&connections) };
        let client = broker_client::BrokerClient::new(endpoint.connect_with_connector_lazy(connector))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self {
            socket: path.to_owned(),
            access: SocketAccess::detect(path),
            client,
            connections,
            max_response_bytes: MAX_RESPONSE_BYTES,
        })
    }

    /// A client for a command line: the advice of errors repeats the command.
    pub fn for_command(socket: &str) -> Result<Self, BrokerError> {
        let mut client = Self::new(socket)?;
        let command = shell_words(std::env::args_os());
        if !command.contains(char::is_control) {
            client.access.command = command;
        }
        Ok(client)
    }

    /// Sets the limit of the memory for a response, in bytes.
    pub fn with_max_response_bytes(self, max_response_bytes: usize) -> Self {
        Self { max_response_bytes, ..self }
    }

    /// The number of connections so far. While it does not change, the broker is the same process.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The socket's path.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Reads `queries` until `deadline`. Queries that have not ended by then are marked as timed out; it is an error only
    /// if none has ended.
    pub async fn read(&self, queries: &[Query], deadline: Instant) -> Result<Snapshot, BrokerError> {
        self.read_with_progress(queries, deadline, &mut |_| {}).await
    }

    /// The same; calls `on_query_end` for each query that ends.
    pub async fn read_with_progress(
        &self,
        queries: &[Query],
        deadline: Instant,
        on_query_end: &mut (dyn FnMut(Query) + Send),
    ) -> Result<Snapshot, BrokerError> {
        let mut attempt = 0;
        loop {
            let mut builder = SnapshotBuilder::new(queries, self.max_response_bytes);
            let received = timeout_at(deadline, self.receive(&mut builder, deadline, on_query_end)).await;
            let error = match received {
                Ok(Ok(())) => return Ok(builder.finish(Outcome::Unspecified)),
                Ok(Err(Failure::TooLarge)) => return Ok(builder.finish(Outcome::Truncated)),
                Ok(Err(Failure::Status(status))) => {
                    if self.should_retry(&status, &mut attempt, deadline).await {
                        continue;
                    }
                    self.error(&status)
                }
                Err(_) => BrokerError::Deadline,
            };
            return if error == BrokerError::Deadline && builder.any_ended {
                Ok(builder.finish(Outcome::TimedOut))
            } else {
                Err(error)
            };
        }
    }

    async fn receive(
        &self,
        builder: &mut SnapshotBuilder<'_>,
        deadline: Instant,
        on_query_end: &mut (dyn FnMut(Query) + Send),
    ) -> Result<(), Failure> {
        let queries = builder.queries.iter().map(|&query| query.into()).collect();
        let mut request = Request::new(v1::ReadRequest { queries });
        request.set_timeout(broker_timeout(deadline));
        let mut chunks = self.client.clone().read(request).await?.into_inner();
        while let Some(chunk) = chunks.message().await? {
            let ended = chunk.end.as_ref().map(|_| chunk.query());
            builder.add(chunk)?;
            ended.into_iter().for_each(&mut *on_query_end);
        }
        Ok(())
    }

    /// Requests the broker's description of itself.
    pub async fn describe(&self, deadline: Instant) -> Result<v1::DescribeResponse, BrokerError> {
        let mut attempt = 0;
        loop {
            let mut request = Request::new(v1::DescribeRequest {});
            request.set_timeout(broker_timeout(deadline));
            let mut client = self.client.clone();
            match timeout_at(deadline, client.describe(request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) if self.should_retry(&status, &mut attempt, deadline).await => {}
                Ok(Err(status)) => return Err(self.error(&status)),
                Err(_) => return Err(BrokerError::Deadline),
            }
        }
    }

    /// Whether to retry: the connection broke or the broker's rate limit refused the call, and there is time left. Waits
    /// before the retry.
    async fn should_retry(&self, status: &Status, attempt: &mut u32, deadline: Instant) -> bool {
        let busy = status.code() == Code::ResourceExhausted;
        let broke = !busy && status.source().is_some() && status.code() != Code::DeadlineExceeded;
        let may_retry = busy || (broke && *attempt < MAX_RETRIES);
        if !may_retry || Instant::now() + 2 * BUSY_DELAY > deadline {
            return false;
        }
        tokio::time::sleep(if broke { RETRY_DELAY * (1 << *attempt) } else { BUSY_DELAY }).await;
        *attempt += u32::from(broke);
        true
    }

    fn error(&self, status: &Status) -> BrokerError {
        let timed_out = status.code() == Code::Cancelled && status.message().contains("Timeout expired");
        if status.code() == Code::DeadlineExceeded || timed_out {
            return BrokerError::Deadline;
        }
        match status.source() {
            Some(source) => {
                let cause = root_cause(source);
                let kind = cause.downcast_ref().map(io::Error::kind);
                BrokerError::Unreachable {
                    socket: self.socket.clone(),
                    reason: one_line(&cause.to_string()),
                    kind,
                    advice: self.access.advice(kind),
                }
            }
            None => BrokerError::Refused { code: status.code(), message: one_line(status.message()) },
        }
    }
}

enum Failure {
    Status(Box<Status>),
    TooLarge,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(Box::new(status))
    }
}

/// Builds a snapshot from chunks, within the memory limits.
struct SnapshotBuilder<'q> {
    queries: &'q [Query],
    snapshot: Snapshot,
    /// Bytes left for queries that have used up their reservation.
    unreserved: usize,
    /// Bytes left of each query's reservation; none for a query that has exceeded the limit.
    reserved: HashMap<Query, Option<usize>>,
    /// Bytes that may still be received.
    receivable: usize,
    any_ended: bool,
}

impl<'q> SnapshotBuilder<'q> {
    fn new(queries: &'q [Query], bytes: usize) -> Self {
        let reserved: HashMap<_, _> =
            queries.iter().map(|query| (*query, Some(RESERVED_QUERY_BYTES))).collect();
        let unreserved = bytes.saturating_sub(reserved.len() * RESERVED_QUERY_BYTES);
        Self {
            queries,
            snapshot: Snapshot::default(),
            unreserved,
            reserved,
            receivable: MAX_RECEIVED_BYTES,
            any_ended: false,
        }
    }

    fn add(&mut self, chunk: v1::ReadResponse) -> Result<(), Failure> {
        let memory_cost = memory_cost(&chunk);
        self.receivable = self.receivable.checked_sub(chunk.encoded_len()).ok_or(Failure::TooLarge)?;
        let Some(own) = self.reserved.get_mut(&chunk.query()) else { return Ok(()) };
        self.any_ended |= chunk.end.is_some();
        let unreserved = own.and_then(|left| self.unreserved.checked_sub(memory_cost.saturating_sub(left)));
        *own = own.filter(|_| unreserved.is_some()).map(|left| left.saturating_sub(memory_cost));
        match unreserved {
            Some(unreserved) => {
                self.unreserved = unreserved;
                self.snapshot.add_chunk(chunk);
            }
            None => self.snapshot.skip_chunk(chunk),
        }
        Ok(())
    }

    /// The snapshot, with the outcome `unfinished` for queries that have not ended.
    fn finish(mut self, unfinished: Outcome) -> Snapshot {
        for &query in self.queries {
            let report = match self.snapshot.report(query) {
                Some(report) if report.outcome != Outcome::Unspecified => continue,
                Some(report) => Report { outcome: unfinished, ..*report },
                None => Report { outcome: unfinished, elapsed_ns: 0, bytes: 0, left_out: 0 },
            };
            self.snapshot.set_report(query, report);
        }
        self.snapshot.finish();
        self.snapshot
    }
}

/// The memory that a chunk takes: its bytes and the overhead of its items.
fn memory_cost(chunk: &v1::ReadResponse) -> usize {
    chunk.encoded_len() + (1 + chunk.files.len() + 2 * chunk.file_systems.len()) * FILE_OVERHEAD
}

/// The timeout to send to the broker: a little less than the time left, so that its last chunks still arrive.
fn broker_timeout(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left.saturating_sub((left / 10).min(Duration::from_millis(200)))
}

fn root_cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// Makes a message of another process fit for a log line.
fn one_line(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyhole_os::socket::MAX_PATH_BYTES;

    fn chunk(query: Query, bytes: usize, end: bool) -> v1::ReadResponse {
        let file = v1::File {
            name: Some(v1::file::Name::Path("proc/stat".into())),
            content: Some(v1::file::Content::Raw(vec![0; bytes])),
            truncated: false,
        };
        let end = end.then(|| v1::QueryEnd { outcome: Outcome::Ok.into(), elapsed_ns: 7, left_out: 0 });
        v1::ReadResponse { query: query.into(), files: vec![file], file_systems: Vec::new(), end }
    }

    /// A file of a network interface.
    fn attribute(device: u32, file: &str, bytes: usize) -> v1::File {
        v1::File {
            name: Some(v1::file::Name::Path(format!("sys/class/net/eth{device}/{file}"))),
            content: Some(v1::file::Content::Raw(vec![b'1'; bytes])),
            truncated: false,
        }
    }

    fn ended(query: Query) -> v1::ReadResponse {
        v1::ReadResponse { files: Vec::new(), ..chunk(query, 0, true) }
    }

    #[test]
    fn beyond_the_memory_limit_items_are_left_out_and_other_queries_are_not_affected() {
        let queries = [Query::NetClass, Query::Stat, Query::Loadavg];
        let mut builder = SnapshotBuilder::new(&queries, MAX_RESPONSE_BYTES);
        // Each device's two files come in separate chunks.
        for device in 0..40 {
            for file in ["address", "operstate"] {
                let files = vec![attribute(device, file, 1 << 20)];
                let chunk = v1::ReadResponse { files, ..ended(Query::NetClass) };
                assert!(builder.add(v1::ReadResponse { end: None, ..chunk }).is_ok());
            }
        }
        assert!(builder.add(ended(Query::NetClass)).is_ok());
        assert!(builder.add(chunk(Query::Stat, 1000, true)).is_ok(), "it has its reservation");
        let mut long = chunk(Query::Loadavg, 0, false);
        let lines = "a line\n".repeat(RESERVED_QUERY_BYTES / 7 / 4);
        for _ in 0..2000 {
            long.files[0].content = Some(v1::file::Content::Text(lines.clone()));
            assert!(builder.add(long.clone()).is_ok());
        }
        assert!(builder.add(ended(Query::Loadavg)).is_ok());
        let snapshot = builder.finish(Outcome::Unspecified);
        assert!(snapshot.bytes() <= MAX_RESPONSE_BYTES as u64);

        let report = snapshot.report(Query::NetClass).unwrap();
        let devices: Vec<_> = snapshot.dir("sys/class/net").dirs().collect();
        assert_eq!((report.outcome, devices.len() as u64 + report.left_out), (Outcome::Truncated, 40));
        assert!(devices.len() > 25, "{}", devices.len());
        assert!(
            devices
                .iter()
                .all(|device| device.text("address").is_some() && device.text("operstate").is_some())
        );
        assert_eq!(report.bytes, (2 * devices.len() as u64) << 20);
        let reason = snapshot.reason(Query::NetClass).unwrap();
        assert_eq!(
            reason,
            format!(
                "items left out by a limit: at least {} (a file that was cut counts as one)",
                report.left_out
            )
        );

        let stat = snapshot.report(Query::Stat).unwrap();
        assert_eq!((stat.outcome, stat.left_out, stat.bytes), (Outcome::Ok, 0, 1000));
        let long = snapshot.report(Query::Loadavg).unwrap();
        assert_eq!((long.outcome, long.left_out), (Outcome::Truncated, 1), "the rest of one file");
    }

    #[test]
    fn complete_lines_of_a_file_beyond_the_memory_limit_are_parsed() {
        let mut builder = SnapshotBuilder::new(&[Query::Stat], MAX_RESPONSE_BYTES);
        let mut part = chunk(Query::Stat, 0, false);
        part.files[0].content = Some(v1::file::Content::Text(format!("cpu 1\nint{}", "r".repeat(1 << 20))));
        (0..80).for_each(|_| assert!(builder.add(part.clone()).is_ok()));
        assert!(builder.add(ended(Query::Stat)).is_ok());
        let snapshot = builder.finish(Outcome::Unspecified);
        let text = snapshot.text("proc/stat").unwrap();
        assert!(text.len() > 50 << 20 && text.ends_with(b"rcpu 1\n"));
        assert_eq!(snapshot.report(Query::Stat).unwrap().left_out, 1);
    }

    #[test]
    fn an_endless_response_is_refused_and_memory_is_bounded() {
        use v1::file::{Content, Name};
        use v1::file_system::Name as At;
        let (text, bytes) = ("x".repeat(1 << 20), vec![0; 1 << 20]);
        let file = |name: Option<Name>, content: Option<Content>| v1::ReadResponse {
            files: vec![v1::File { name, content, truncated: false }],
            ..chunk(Query::Stat, 0, false)
        };
        let file_system = |name| v1::ReadResponse {
            file_systems: vec![v1::FileSystem { name: Some(name), ..v1::FileSystem::default() }],
            ..chunk(Query::Stat, 0, false)
        };
        let many = |files: usize| v1::ReadResponse {
            files: vec![file(Some(Name::Path("a".into())), Some(Content::Errno(1))).files.remove(0); files],
            ..chunk(Query::Stat, 0, false)
        };
        for large in [
            file(Some(Name::Path(text.clone())), Some(Content::Errno(1))),
            file(Some(Name::RawPath(bytes.clone())), Some(Content::Errno(1))),
            file(Some(Name::Path("a".into())), Some(Content::Text(text.clone()))),
            file(Some(Name::Path("a".into())), Some(Content::Link(text.clone()))),
            file(Some(Name::Path("a".into())), Some(Content::Raw(bytes.clone()))),
            file(Some(Name::Path("a".into())), Some(Content::RawLink(bytes.clone()))),
            file_system(At::Path(text.clone())),
            file_system(At::RawPath(bytes.clone())),
            many(100_000),
        ] {
            let what = format!("{large:?}").chars().take(80).collect::<String>();
            let mut builder = SnapshotBuilder::new(&[Query::Stat], MAX_RESPONSE_BYTES);
            builder.receivable = 2 * MAX_RESPONSE_BYTES;
            let taken = (0..100_000).take_while(|_| builder.add(large.clone()).is_ok()).count();
            assert!((100..2000).contains(&taken), "{what}: {taken}");
            let snapshot = builder.finish(Outcome::Truncated);
            assert_eq!(snapshot.report(Query::Stat).unwrap().outcome, Outcome::Truncated);
            assert!(snapshot.bytes() <= MAX_RESPONSE_BYTES as u64, "{what}: {}", snapshot.bytes());
        }
    }

    #[test]
    fn queries_that_were_not_sent_are_ignored_and_unfinished_ones_are_marked() {
        let queries = [Query::Stat, Query::Loadavg];
        let mut builder = SnapshotBuilder::new(&queries, MAX_RESPONSE_BYTES);
        assert!(builder.add(chunk(Query::Stat, 3, true)).is_ok());
        assert!(builder.add(chunk(Query::Meminfo, 3, true)).is_ok());
        let snapshot = builder.finish(Outcome::TimedOut);
        assert_eq!(snapshot.report(Query::Stat).unwrap().outcome, Outcome::Ok);
        assert_eq!(snapshot.report(Query::Loadavg).unwrap().outcome, Outcome::TimedOut);
        assert_eq!(snapshot.report(Query::Meminfo), None);
    }

    #[tokio::test]
    async fn the_socket_may_have_a_prefix() {
        for socket in ["/run/b.sock", "unix:/run/b.sock", "unix:///run/b.sock"] {
            assert_eq!(BrokerClient::new(socket).unwrap().socket(), "/run/b.sock");
        }
        assert!(BrokerClient::new("unix:").is_err());
        let path = |length: usize| format!("unix:/{}", "x".repeat(length - 1));
        assert!(socket_path(&path(MAX_PATH_BYTES)).is_ok());
        assert!(socket_path(&path(MAX_PATH_BYTES + 1)).unwrap_err().starts_with("108 bytes, and the path"));
    }

    #[tokio::test]
    async fn an_absent_broker_is_reported_with_the_system_error() {
        let client = BrokerClient::new("/nonexistent/b.sock").unwrap();
        let error = client.describe(Instant::now() + Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot reach the broker at /nonexistent/b.sock: No such file or directory (os error 2): start the broker, \
             or set --broker.socket to its --socket.path"
        );
    }
}
