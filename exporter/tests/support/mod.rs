//! A broker that answers as it is told, over a real Unix socket, and an exporter before it over real HTTP.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyhole_exporter::broker_client::BrokerClient;
use keyhole_exporter::cli::flags;
use keyhole_exporter::collector;
use keyhole_exporter::http::{self, App, listen};
use keyhole_exporter::local::LocalSource;
use keyhole_exporter::scrape::Scraper;
use keyhole_exporter::self_metrics::process::Process;
use keyhole_proto::Encoded;
use keyhole_proto::server::broker_server::{Broker, BrokerServer};
use keyhole_proto::v1::{
    self, DescribeRequest, DescribeResponse, Outcome, Query, QueryEnd, ReadRequest, ReadResponse,
};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

/// What the fake answers.
#[derive(Debug, Clone)]
pub struct Script {
    /// Every file it gives, with the query it belongs to.
    pub files: Vec<(Query, &'static str, Vec<u8>)>,
    /// Queries that end otherwise than well.
    pub outcomes: Vec<(Query, Outcome)>,
    /// How long a read takes before its first chunk.
    pub delay: Duration,
    /// A query that never ends.
    pub hangs_at: Option<Query>,
    /// What a read is refused with.
    pub refuses: Option<tonic::Code>,
    /// How many reads it refuses before it answers.
    pub refusals: usize,
    pub start_time_ms: u64,
    /// What it says of itself, when that is not the usual.
    pub description: Option<DescribeResponse>,
    /// How long it takes to say it.
    pub describe_delay: Duration,
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
        }
    }
}

#[derive(Debug, Default)]
pub struct Calls {
    pub reads: AtomicUsize,
    pub describes: AtomicUsize,
    pub asked: Mutex<Vec<Query>>,
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
        *self.calls.asked.lock().unwrap() = queries.clone();
        if let Some(code) = self.script.refuses.filter(|_| before < self.script.refusals) {
            return Err(Status::new(code, "as the test says\nin two lines"));
        }
        tokio::time::sleep(self.script.delay).await;
        let script = self.script.clone();
        let mut left: VecDeque<Query> = queries.into();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(query) = left.pop_front() {
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
        self.calls.describes.fetch_add(1, Ordering::SeqCst);
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
    let files = script.files.iter().filter(|(of, _, _)| *of == query).map(|(_, path, bytes)| v1::File {
        name: Some(v1::file::Name::Path((*path).into())),
        content: Some(v1::file::Content::Raw(bytes.clone())),
        truncated: false,
    });
    let files: Vec<v1::File> = files.collect();
    let well = if files.is_empty() { Outcome::Absent } else { Outcome::Ok };
    let outcome = script.outcomes.iter().find(|(of, _)| *of == query).map_or(well, |(_, outcome)| *outcome);
    ReadResponse {
        query: query.into(),
        files,
        file_systems: Vec::new(),
        end: Some(QueryEnd { outcome: outcome.into(), elapsed_ns: 1000, left_out: 0 }),
    }
}

/// A running fake; dropped, it is a broker that was killed.
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

/// An exporter that serves on a port of its own; `loadavg` and `time` are on unless flags say more.
pub struct Exporter {
    pub address: SocketAddr,
    pub scraper: Arc<Scraper>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    pub served: JoinSet<std::io::Result<()>>,
}

impl Exporter {
    pub fn start(socket: &Path, more: &[&str]) -> Self {
        let base = ["--collector.disable-defaults", "--collector.loadavg", "--collector.time"];
        let arguments = base.iter().chain(more).map(|argument| (*argument).to_owned());
        let (options, _) = flags::parse(arguments).unwrap();
        let broker = BrokerClient::new(socket.to_str().unwrap()).unwrap();
        let own = LocalSource::from_process();
        let collectors = collector::enabled(&options).unwrap();
        let scraper = Scraper::new(broker, collectors, &options, own, Process::open(), Vec::new()).unwrap();
        let scraper = Arc::new(scraper);
        let listeners = listen::bind(&["127.0.0.1:0".into()]).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let app = Arc::new(App::new(Arc::clone(&scraper), &options));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let mut served = JoinSet::new();
        served.spawn(http::serve(listeners, app, async {
            let _ = stopped.await;
        }));
        Self { address, scraper, stop: Some(stop), served }
    }

    pub fn stop(&mut self) {
        self.stop.take();
    }

    /// One request on a connection of its own.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        Answer::parse(&bytes)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[]).await
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn has(&self, line: &str) -> bool {
        self.text().lines().any(|other| other == line)
    }
}
