//! The one way to the host: calls to the broker over its Unix socket, each with a deadline and a size limit.
//!
//! The channel connects when it is first used and again after a broker's restart, by itself.

use std::collections::HashMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyhole_proto::v1::{self, Outcome, Query, broker_client};
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::snapshot::{Report, Snapshot};

/// Where the broker listens unless `--broker.socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/keyhole/broker.sock";

/// The most that is kept of one answer unless `--scrape.memory` says otherwise. What does not fit is left out item by item,
/// and counted.
const ANSWER_BYTES: usize = 64 << 20;
/// How much of it each query has for itself, so that small ones are answered whatever a large one takes.
const SHARE_BYTES: usize = 64 << 10;
/// The most bytes of an answer that are received, kept or not: every file of the largest machine at the policy's limits.
/// Only a broker that is not one sends more.
const RECEIVED_BYTES: usize = 512 << 20;
/// What a file takes in memory besides its bytes, so that empty files are limited too.
const FILE_COST: usize = 128;
/// The most that one message may hold; the broker cuts its answers below 1 MiB.
const MESSAGE_BYTES: usize = 2 << 20;
/// How often a call is made again when the connection breaks: a broker that restarts costs no scrape.
const RETRIES: u32 = 6;
/// The pause before the first of these, doubled before each: of 200 ms together, and one that only just starts is asked
/// soon.
const RETRY_PAUSE: Duration = Duration::from_millis(3);
/// The pause before a busy broker is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// A connection to one broker.
#[derive(Debug, Clone)]
pub struct BrokerClient {
    socket: String,
    who: Who,
    client: broker_client::BrokerClient<Channel>,
    connections: Arc<AtomicU64>,
    answer_bytes: usize,
}

/// Connects to the socket, and counts: a new connection may lead to another broker.
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

/// Why a call gave nothing.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BrokerError {
    /// The address of the socket is none.
    #[error("{socket:?} is not the path of a socket")]
    Address {
        /// As it was given.
        socket: String,
    },
    /// Nobody listens, or the connection broke.
    #[error("cannot reach the broker at {socket}: {reason}{advice}")]
    Unreachable {
        /// The socket.
        socket: String,
        /// What the system says.
        reason: String,
        /// The same, where it is an error of the system's.
        kind: Option<ErrorKind>,
        /// Who may ask and how, where that may be it; with what separates it from the reason.
        advice: String,
    },
    /// The broker said no.
    #[error("the broker refused: {code:?}: {message}")]
    Refused {
        /// gRPC's code.
        code: Code,
        /// The broker's words, on one line.
        message: String,
    },
    /// No answer in time.
    #[error("the broker did not answer in time")]
    Deadline,
}

impl BrokerClient {
    /// A client of the broker at `socket`, a path with or without `unix:` before it. Needs a runtime; connects later.
    pub fn new(socket: &str) -> Result<Self, BrokerError> {
        let path = socket.strip_prefix("unix://").or_else(|| socket.strip_prefix("unix:")).unwrap_or(socket);
        let address = || BrokerError::Address { socket: socket.to_owned() };
        if path.is_empty() || path.contains('\0') {
            return Err(address());
        }
        let endpoint = Endpoint::from_shared(format!("unix:{path}"))
            .and_then(|endpoint| endpoint.user_agent(concat!("keyhole-exporter/", env!("CARGO_PKG_VERSION"))))
            .map_err(|_| address())?
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(2 << 20)
            .http2_max_header_list_size(8 << 10);
        let connections = Arc::default();
        let connector = Connector { socket: path.to_owned(), connections: Arc::clone(&connections) };
        let client = broker_client::BrokerClient::new(endpoint.connect_with_connector_lazy(connector))
            .max_decoding_message_size(MESSAGE_BYTES);
        Ok(Self {
            socket: path.to_owned(),
            who: Who::find(path),
            client,
            connections,
            answer_bytes: ANSWER_BYTES,
        })
    }

    /// The same, for a command that a person gave: what is said of a refusal repeats it.
    pub fn by_hand(socket: &str) -> Result<Self, BrokerError> {
        let mut client = Self::new(socket)?;
        let command = shell_words(std::env::args_os());
        if !command.contains(char::is_control) {
            client.who.command = command;
        }
        Ok(client)
    }

    /// The client with another limit on what is kept of an answer, in bytes.
    pub fn keeping(self, answer_bytes: usize) -> Self {
        Self { answer_bytes, ..self }
    }

    /// How many connections were made so far. While it stays the same, the same broker answers.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The socket's path.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Reads `queries` until `deadline`. What came before it is given; a query that did not end by then is marked
    /// as timed out. Fails only when there is nothing to give.
    pub async fn read(&self, queries: &[Query], deadline: Instant) -> Result<Snapshot, BrokerError> {
        self.read_telling(queries, deadline, &mut |_| {}).await
    }

    /// The same, and tells of each query that ends.
    pub async fn read_telling(
        &self,
        queries: &[Query],
        deadline: Instant,
        tell: &mut (dyn FnMut(Query) + Send),
    ) -> Result<Snapshot, BrokerError> {
        let mut attempt = 0;
        loop {
            let mut answer = Answer::new(queries, self.answer_bytes);
            let received = timeout_at(deadline, self.receive(&mut answer, deadline, tell)).await;
            let late = match received {
                Ok(Ok(())) => return Ok(answer.finish(Outcome::Unspecified)),
                Ok(Err(Failure::TooLarge)) => return Ok(answer.finish(Outcome::Truncated)),
                Ok(Err(Failure::Status(status))) => {
                    if self.again(&status, &mut attempt, deadline).await {
                        continue;
                    }
                    self.error(&status)
                }
                Err(_) => BrokerError::Deadline,
            };
            return match late == BrokerError::Deadline && answer.any_ended {
                true => Ok(answer.finish(Outcome::TimedOut)),
                false => Err(late),
            };
        }
    }

    async fn receive(
        &self,
        answer: &mut Answer<'_>,
        deadline: Instant,
        tell: &mut (dyn FnMut(Query) + Send),
    ) -> Result<(), Failure> {
        let queries = answer.queries.iter().map(|&query| query.into()).collect();
        let mut request = Request::new(v1::ReadRequest { queries });
        request.set_timeout(brokers_share(deadline));
        let mut chunks = self.client.clone().read(request).await?.into_inner();
        while let Some(chunk) = chunks.message().await? {
            let ended = chunk.end.as_ref().map(|_| chunk.query());
            answer.take(chunk)?;
            ended.into_iter().for_each(&mut *tell);
        }
        Ok(())
    }

    /// Asks the broker what it is.
    pub async fn describe(&self, deadline: Instant) -> Result<v1::DescribeResponse, BrokerError> {
        let mut attempt = 0;
        loop {
            let mut request = Request::new(v1::DescribeRequest {});
            request.set_timeout(brokers_share(deadline));
            let mut client = self.client.clone();
            match timeout_at(deadline, client.describe(request)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if self.again(&status, &mut attempt, deadline).await => {}
                Ok(Err(status)) => return Err(self.error(&status)),
                Err(_) => return Err(BrokerError::Deadline),
            }
        }
    }

    /// Whether to call again, after a pause: the connection broke or the broker has had too many calls for the
    /// moment, and there is time left.
    async fn again(&self, status: &Status, attempt: &mut u32, deadline: Instant) -> bool {
        let busy = status.code() == Code::ResourceExhausted;
        let broke = !busy && status.source().is_some() && status.code() != Code::DeadlineExceeded;
        let worth_it = busy || (broke && *attempt < RETRIES);
        if !worth_it || Instant::now() + 2 * BUSY_PAUSE > deadline {
            return false;
        }
        tokio::time::sleep(if broke { RETRY_PAUSE * (1 << *attempt) } else { BUSY_PAUSE }).await;
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
                    advice: self.who.advice(kind),
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

/// An answer as it comes in.
struct Answer<'q> {
    queries: &'q [Query],
    snapshot: Snapshot,
    /// What is left for those that have used up their share.
    room: usize,
    /// What each query has left of its share; none of one of which no more is taken.
    shares: HashMap<Query, Option<usize>>,
    /// How many bytes may still come.
    receivable: usize,
    any_ended: bool,
}

impl<'q> Answer<'q> {
    fn new(queries: &'q [Query], bytes: usize) -> Self {
        let shares: HashMap<_, _> = queries.iter().map(|query| (*query, Some(SHARE_BYTES))).collect();
        let room = bytes.saturating_sub(shares.len() * SHARE_BYTES);
        Self {
            queries,
            snapshot: Snapshot::default(),
            room,
            shares,
            receivable: RECEIVED_BYTES,
            any_ended: false,
        }
    }

    fn take(&mut self, chunk: v1::ReadResponse) -> Result<(), Failure> {
        let cost = cost(&chunk);
        self.receivable = self.receivable.checked_sub(chunk.encoded_len()).ok_or(Failure::TooLarge)?;
        let Some(share) = self.shares.get_mut(&chunk.query()) else { return Ok(()) };
        self.any_ended |= chunk.end.is_some();
        let room = share.and_then(|left| self.room.checked_sub(cost.saturating_sub(left)));
        *share = share.filter(|_| room.is_some()).map(|left| left.saturating_sub(cost));
        match room {
            Some(room) => {
                self.room = room;
                self.snapshot.absorb(chunk);
            }
            None => self.snapshot.leave_out(chunk),
        }
        Ok(())
    }

    /// The snapshot, with `unfinished` for the queries that never ended.
    fn finish(mut self, unfinished: Outcome) -> Snapshot {
        for &query in self.queries {
            let report = match self.snapshot.report(query) {
                Some(report) if report.outcome != Outcome::Unspecified => continue,
                Some(report) => Report { outcome: unfinished, ..*report },
                None => Report { outcome: unfinished, elapsed_ns: 0, bytes: 0, left_out: 0 },
            };
            self.snapshot.set_report(query, report);
        }
        self.snapshot.seal();
        self.snapshot
    }
}

/// What a chunk takes: its bytes, whatever field they are in, and what its items take besides.
fn cost(chunk: &v1::ReadResponse) -> usize {
    chunk.encoded_len() + (1 + chunk.files.len() + 2 * chunk.file_systems.len()) * FILE_COST
}

/// The broker gets a little less time than there is, so that what it has by then still arrives.
fn brokers_share(deadline: Instant) -> Duration {
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

/// Who asks, and whose socket it is: to be found out before the sandbox closes.
#[derive(Debug, Clone)]
struct Who {
    uid: u32,
    /// The owner and the group of the socket, or of its directory where that hides the socket.
    owner: Option<(u32, u32)>,
    /// How this program was started, in a shell's words.
    command: String,
    /// Whether every user can execute it.
    is_public: bool,
}

impl Who {
    fn find(socket: &str) -> Self {
        let stat = |path: &Path| rustix::fs::stat(path).ok();
        let socket = Path::new(socket);
        let owner = stat(socket).or_else(|| stat(socket.parent()?));
        let program = std::env::current_exe().unwrap_or_default();
        let is_public =
            program.ancestors().all(|path| stat(path).is_none_or(|stat| stat.st_mode & 0o001 != 0));
        Self {
            uid: rustix::process::geteuid().as_raw(),
            owner: owner.map(|stat| (stat.st_uid, stat.st_gid)),
            command: "keyhole-exporter ...".to_owned(),
            is_public,
        }
    }

    /// As whom to ask and by which command. The broker always answers its own uid, which is the socket's owner.
    fn how(&self) -> String {
        let Self { owner: Some((uid, gid)), command, .. } = self else {
            return "ask as the broker's own user".to_owned();
        };
        let first = match self.is_public {
            true => "",
            false => " (after copying the program to where this user can execute it, such as /usr/local/bin)",
        };
        format!(
            "ask as the broker's own user, uid {uid}; as root: `setpriv --reuid={uid} --regid={gid} --clear-groups {command}`{first}"
        )
    }

    /// What lets root ask as itself, by any command: `capture` keeps root's capabilities and passes any mode, the others need
    /// the group.
    fn how_as_root(&self) -> String {
        let with = match self.owner {
            Some((_, gid)) => format!(": `setpriv --regid={gid} --clear-groups {}`", self.command),
            None => String::new(),
        };
        format!("or start the broker with --allow-uid=0 and ask as root in the socket's group{with}")
    }

    /// Who may ask and how, for an error of the system's that can mean that this uid may not.
    fn advice(&self, kind: Option<ErrorKind>) -> String {
        let (uid, how) = (self.uid, self.how());
        let group = self.owner.map(|(_, gid)| format!(" (gid {gid})")).unwrap_or_default();
        match kind {
            Some(ErrorKind::NotFound) => {
                ": start the broker, or give its --socket.path as --broker.socket".into()
            }
            Some(ErrorKind::ConnectionRefused) => {
                ": no broker listens on this socket any more: start it".into()
            }
            Some(ErrorKind::PermissionDenied) if uid == 0 => format!(
                ": this program drops root's capabilities before it connects, so the modes of the socket and its \
                 directory hold for root too, whatever --allow-uid names: {how}; {}",
                self.how_as_root()
            ),
            Some(ErrorKind::PermissionDenied) => format!(
                ": uid {uid} may not connect to this socket: {how}; or add uid {uid} to the socket's group{group} and \
                 to the broker's --allow-uid"
            ),
            _ if self.owner.is_some_and(|(owner, _)| owner == uid) => String::new(),
            _ => {
                let or = match uid {
                    0 => self.how_as_root(),
                    _ => format!("or start the broker with --allow-uid={uid}"),
                };
                format!(
                    ": the broker closes connections of a uid that is neither its own nor named by its --allow-uid; if \
                     that is why: {how}; {or}"
                )
            }
        }
    }
}

/// Words of a command line, quoted for a shell where they need it.
fn shell_words(words: impl Iterator<Item = OsString>) -> String {
    let quoted = |word: OsString| {
        let word = word.to_string_lossy();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
        match !word.is_empty() && word.chars().all(is_plain) {
            true => word.into_owned(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        }
    };
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

/// A message of another process, fit for a log line.
fn one_line(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(query: Query, bytes: usize, end: bool) -> v1::ReadResponse {
        let file = v1::File {
            name: Some(v1::file::Name::Path("proc/stat".into())),
            content: Some(v1::file::Content::Raw(vec![0; bytes])),
            truncated: false,
        };
        let end = end.then(|| v1::QueryEnd { outcome: Outcome::Ok.into(), elapsed_ns: 7, left_out: 0 });
        v1::ReadResponse { query: query.into(), files: vec![file], file_systems: Vec::new(), end }
    }

    /// An interface's file.
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
    fn what_has_no_room_is_left_out_item_by_item_and_other_queries_are_answered() {
        let queries = [Query::NetClass, Query::Stat, Query::Loadavg];
        let mut answer = Answer::new(&queries, ANSWER_BYTES);
        // Each device's two files come in chunks of their own, as they may.
        for device in 0..40 {
            for file in ["address", "operstate"] {
                let files = vec![attribute(device, file, 1 << 20)];
                let chunk = v1::ReadResponse { files, ..ended(Query::NetClass) };
                assert!(answer.take(v1::ReadResponse { end: None, ..chunk }).is_ok());
            }
        }
        assert!(answer.take(ended(Query::NetClass)).is_ok());
        assert!(answer.take(chunk(Query::Stat, 1000, true)).is_ok(), "it has its share");
        let mut long = chunk(Query::Loadavg, 0, false);
        let lines = "a line\n".repeat(SHARE_BYTES / 7 / 4);
        for _ in 0..2000 {
            long.files[0].content = Some(v1::file::Content::Text(lines.clone()));
            assert!(answer.take(long.clone()).is_ok());
        }
        assert!(answer.take(ended(Query::Loadavg)).is_ok());
        let snapshot = answer.finish(Outcome::Unspecified);
        assert!(snapshot.bytes() <= ANSWER_BYTES as u64);

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
    fn of_a_long_file_without_room_whole_lines_are_left() {
        let mut answer = Answer::new(&[Query::Stat], ANSWER_BYTES);
        let mut part = chunk(Query::Stat, 0, false);
        part.files[0].content = Some(v1::file::Content::Text(format!("cpu 1\nint{}", "r".repeat(1 << 20))));
        (0..80).for_each(|_| assert!(answer.take(part.clone()).is_ok()));
        assert!(answer.take(ended(Query::Stat)).is_ok());
        let snapshot = answer.finish(Outcome::Unspecified);
        let text = snapshot.text("proc/stat").unwrap();
        assert!(text.len() > 50 << 20 && text.ends_with(b"rcpu 1\n"));
        assert_eq!(snapshot.report(Query::Stat).unwrap().left_out, 1);
    }

    #[test]
    fn an_answer_without_end_is_refused_and_what_is_kept_of_any_is_bounded() {
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
            let mut answer = Answer::new(&[Query::Stat], ANSWER_BYTES);
            answer.receivable = 2 * ANSWER_BYTES;
            let taken = (0..100_000).take_while(|_| answer.take(large.clone()).is_ok()).count();
            assert!((100..2000).contains(&taken), "{what}: {taken}");
            let snapshot = answer.finish(Outcome::Truncated);
            assert_eq!(snapshot.report(Query::Stat).unwrap().outcome, Outcome::Truncated);
            assert!(snapshot.bytes() <= ANSWER_BYTES as u64, "{what}: {}", snapshot.bytes());
        }
    }

    #[test]
    fn what_was_not_asked_for_is_left_out_and_what_did_not_end_is_marked() {
        let queries = [Query::Stat, Query::Loadavg];
        let mut answer = Answer::new(&queries, ANSWER_BYTES);
        assert!(answer.take(chunk(Query::Stat, 3, true)).is_ok());
        assert!(answer.take(chunk(Query::Meminfo, 3, true)).is_ok());
        let snapshot = answer.finish(Outcome::TimedOut);
        assert_eq!(snapshot.report(Query::Stat).unwrap().outcome, Outcome::Ok);
        assert_eq!(snapshot.report(Query::Loadavg).unwrap().outcome, Outcome::TimedOut);
        assert_eq!(snapshot.report(Query::Meminfo), None);
    }

    #[tokio::test]
    async fn the_socket_may_be_given_as_an_address() {
        for socket in ["/run/b.sock", "unix:/run/b.sock", "unix:///run/b.sock"] {
            assert_eq!(BrokerClient::new(socket).unwrap().socket(), "/run/b.sock");
        }
        assert!(BrokerClient::new("unix:").is_err());
    }

    #[test]
    fn an_error_that_can_mean_a_refusal_says_who_may_ask_and_how() {
        let who =
            |uid, owner| Who { uid, owner, command: "./keyhole-exporter query stat".into(), is_public: true };
        let owner = Some((64646, 64640));
        let command = "`setpriv --reuid=64646 --regid=64640 --clear-groups ./keyhole-exporter query stat`";
        for (uid, kind, words) in [
            (0, Some(ErrorKind::BrokenPipe), "or start the broker with --allow-uid=0"),
            (0, Some(ErrorKind::PermissionDenied), "hold for root too, whatever --allow-uid names"),
            (1000, Some(ErrorKind::PermissionDenied), "add uid 1000 to the socket's group (gid 64640)"),
            // What HTTP/2 says of a connection that was closed is no error of the system's.
            (1000, None, "or start the broker with --allow-uid=1000"),
            (1000, Some(ErrorKind::ConnectionReset), "named by its --allow-uid"),
        ] {
            let advice = who(uid, owner).advice(kind);
            assert!(advice.contains(words) && advice.contains(command), "{uid} {kind:?}: {advice}");
            assert!(advice.contains("the broker's own user, uid 64646"), "{advice}");
            // The same for commands that drop root's capabilities and for one that does not.
            let as_root = "start the broker with --allow-uid=0 and ask as root in the socket's group: \
                `setpriv --regid=64640 --clear-groups ./keyhole-exporter query stat`";
            assert_eq!(advice.contains(as_root), uid == 0, "{advice}");
        }
        assert_eq!(who(64646, owner).advice(Some(ErrorKind::BrokenPipe)), "", "it may ask");
        let unseen = who(1000, None).advice(Some(ErrorKind::PermissionDenied));
        assert!(unseen.contains("ask as the broker's own user;") && !unseen.contains("gid"), "{unseen}");
        let private = Who { is_public: false, ..who(0, owner) }.advice(Some(ErrorKind::PermissionDenied));
        assert!(private.contains("after copying the program"), "{private}");
    }

    #[test]
    fn a_repeated_command_line_means_the_same_to_a_shell() {
        let words =
            ["/usr/bin/keyhole-exporter", "--broker.socket=/a b", "query", "it's", "", "a;b", "-o=json"];
        assert_eq!(
            shell_words(words.into_iter().map(OsString::from)),
            r"/usr/bin/keyhole-exporter '--broker.socket=/a b' query 'it'\''s' '' 'a;b' -o=json"
        );
    }

    #[tokio::test]
    async fn an_absent_broker_is_named_with_the_systems_reason() {
        let client = BrokerClient::new("/nonexistent/b.sock").unwrap();
        let error = client.describe(Instant::now() + Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot reach the broker at /nonexistent/b.sock: No such file or directory (os error 2): start the broker, \
             or give its --socket.path as --broker.socket"
        );
    }
}
