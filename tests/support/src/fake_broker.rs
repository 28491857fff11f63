//! A broker that answers as its script says, over a real Unix socket.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyhole_proto::Encoded;
use keyhole_proto::server::broker_server::{Broker, BrokerServer};
use keyhole_proto::v1::{
    self, DescribeRequest, DescribeResponse, Outcome, Query, QueryEnd, ReadRequest, ReadResponse,
};
use prost::Message;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

/// What the fake broker answers.
#[derive(Debug, Clone)]
pub struct Script {
    /// Every file it returns, with the query it belongs to.
    pub files: Vec<(Query, &'static str, Vec<u8>)>,
    /// Queries with another outcome than `ok`.
    pub outcomes: Vec<(Query, Outcome)>,
    /// How long a read takes before its first chunk.
    pub delay: Duration,
    /// A query that never ends.
    pub hangs_at: Option<Query>,
    /// The status of a refused read.
    pub refuses: Option<tonic::Code>,
    /// How many reads it refuses before it answers.
    pub refusals: usize,
    pub start_time_ms: u64,
    /// What Describe returns, instead of the default.
    pub description: Option<DescribeResponse>,
    /// How long Describe takes.
    pub describe_delay: Duration,
    /// How many times Describe answers before the limit of requests refuses it.
    pub describes: usize,
}

impl Default for Script {
    fn default() -> Self {
        let files = vec![(Query::Loadavg, "proc/loadavg", b"0.5 1 1.5 1/2 3\n".to_vec())];
        Self {
            files,
            outcomes: Vec::new(),
            delay: Duration::ZERO,
            hangs_at: None,
            refuses: None,
            refusals: usize::MAX,
            start_time_ms: 1,
            description: None,
            describe_delay: Duration::ZERO,
            describes: usize::MAX,
        }
    }
}

#[derive(Debug, Default)]
pub struct Calls {
    pub reads: AtomicUsize,
    pub describes: AtomicUsize,
    /// The queries of the last read.
    pub queries: Mutex<Vec<Query>>,
}

struct Service {
    script: Script,
    calls: Arc<Calls>,
}

type Chunks = Pin<Box<dyn tokio_stream::Stream<Item = Result<Encoded, Status>> + Send>>;

#[tonic::async_trait]
impl Broker for Service {
    type ReadStream = Chunks;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Chunks>, Status> {
        let before = self.calls.reads.fetch_add(1, Ordering::SeqCst);
        let queries: Vec<Query> = request.get_ref().queries().collect();
        *self.calls.queries.lock().unwrap() = queries.clone();
        if let Some(code) = self.script.refuses.filter(|_| before < self.script.refusals) {
            return Err(Status::new(code, "as the test says\nin two lines"));
        }
        tokio::time::sleep(self.script.delay).await;
        let script = self.script.clone();
        let mut remaining: VecDeque<Query> = queries.into();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(query) = remaining.pop_front() {
                if script.hangs_at == Some(query) {
                    std::future::pending::<()>().await;
                }
                let answer = Encoded(answer(&script, query).encode_to_vec().into());
                if sender.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        if self.calls.describes.fetch_add(1, Ordering::SeqCst) >= self.script.describes {
            return Err(Status::resource_exhausted("too many requests from this uid"));
        }
        tokio::time::sleep(self.script.describe_delay).await;
        if let Some(description) = &self.script.description {
            return Ok(Response::new(description.clone()));
        }
        Ok(Response::new(DescribeResponse {
            version: "fake".into(),
            start_time_ms: self.script.start_time_ms,
            layers: vec![v1::Layer {
                name: "seccomp".into(),
                in_force: true,
                detail: String::new(),
                process: "broker".into(),
            }],
            counters: Some(v1::Counters { reads: 7, ..Default::default() }),
            ..Default::default()
        }))
    }
}

fn answer(script: &Script, query: Query) -> ReadResponse {
    let files =
        script.files.iter().filter(|(files_query, _, _)| *files_query == query).map(|(_, path, bytes)| {
            v1::File {
                name: Some(v1::file::Name::Path((*path).into())),
                content: Some(v1::file::Content::Raw(bytes.clone())),
                truncated: false,
            }
        });
    let files: Vec<v1::File> = files.collect();
    let default = if files.is_empty() { Outcome::Absent } else { Outcome::Ok };
    let outcome = script.outcomes.iter().find(|(other, _)| *other == query);
    let outcome = outcome.map_or(default, |(_, outcome)| *outcome);
    ReadResponse {
        query: query.into(),
        files,
        file_systems: Vec::new(),
        end: Some(QueryEnd { outcome: outcome.into(), elapsed_ns: 1000, left_out: 0 }),
    }
}

/// A running fake broker. Dropping it is as if a broker were killed.
pub struct FakeBroker {
    pub calls: Arc<Calls>,
    socket: PathBuf,
    _tasks: JoinSet<()>,
}

impl FakeBroker {
    pub fn start(socket: &Path, script: Script) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let calls = Arc::new(Calls::default());
        let service = BrokerServer::new(Service { script, calls: Arc::clone(&calls) });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(service.clone());
                connections.spawn(async move {
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let _ = hyper::server::conn::http2::Builder::new(executor)
                        .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { calls, socket: socket.to_owned(), _tasks: tasks }
    }

    pub fn reads(&self) -> usize {
        self.calls.reads.load(Ordering::SeqCst)
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}
