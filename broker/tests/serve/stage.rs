//! Test support: a directory with the programs, a broker that runs in it, and clients of any uid.

#[path = "../../../tests/common/reader.rs"]
mod reader;

use std::fs::{self, File, Permissions};
use std::future::Future;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::rt::TokioIo;
use keyhole_proto::v1::broker_client::BrokerClient;
use keyhole_proto::v1::{
    DescribeRequest, DescribeResponse, File as KernelFile, Outcome, Query, ReadRequest, file,
};
use prost::Message;
use rustix::process::{Pid, Signal, getgid, getuid, kill_process};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Health;
use tonic_health::pb::health_client::HealthClient;

/// The broker's uid and group, a uid that may ask, and one that may not, when the tests run as root.
pub(crate) const BROKER: u32 = 64646;
pub(crate) const ALLOWED: u32 = 64647;
pub(crate) const OTHER_UID: u32 = 64648;

pub(crate) fn is_root() -> bool {
    getuid().is_root()
}

/// Whether tests that need root can run.
pub(crate) fn root() -> bool {
    if !is_root() {
        assert!(
            std::env::var_os("KEYHOLE_REQUIRE_ROOT").is_none(),
            "KEYHOLE_REQUIRE_ROOT is set, and this is not root"
        );
        println!("skipped: needs root");
    }
    is_root()
}

/// The uid that a broker of these tests has.
pub(crate) fn broker_uid() -> u32 {
    if is_root() { BROKER } else { getuid().as_raw() }
}

pub(crate) fn broker_gid() -> u32 {
    if is_root() { BROKER } else { getgid().as_raw() }
}

pub(crate) fn kernel_has_landlock() -> bool {
    // SAFETY: with this flag (version) and no attributes the call only returns a number.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, 1u64) > 0 }
}

pub(crate) fn soon<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The programs, the broker and the reader that it starts: of this build, or of the directory that `KEYHOLE_BINARIES` names.
fn programs() -> [PathBuf; 2] {
    match std::env::var_os("KEYHOLE_BINARIES") {
        Some(directory) => ["keyhole-broker", "keyhole-reader"].map(|name| Path::new(&directory).join(name)),
        None => {
            let broker = PathBuf::from(env!("CARGO_BIN_EXE_keyhole-broker"));
            let reader = reader::beside(&broker).to_owned();
            [broker, reader]
        }
    }
}

/// A directory for one test: the programs where any uid may run them, a place for sockets, and room for fixtures.
pub(crate) struct Stage(pub(crate) TempDir);

impl Stage {
    pub(crate) fn new() -> Self {
        let stage = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(stage.at(""), Permissions::from_mode(0o755)).unwrap();
        for program in programs() {
            let name = program.file_name().unwrap();
            if fs::hard_link(&program, stage.at(name)).is_err() {
                // Copied by another process: if a child of another test inherited a descriptor open for writing, the
                // program could not be executed.
                let copied = Command::new("cp").arg(&program).arg(stage.at(name)).status().unwrap();
                assert!(copied.success(), "cp {}", program.display());
            }
        }
        fs::create_dir(stage.at("run")).unwrap();
        if is_root() {
            chown(stage.at("run"), Some(BROKER), Some(BROKER)).unwrap();
        }
        stage
    }

    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(path)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.at("run/broker.sock")
    }

    pub(crate) fn put(&self, path: &str, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Makes a FIFO without a writer: opening it without O_NONBLOCK hangs.
    pub(crate) fn put_fifo(&self, path: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o644.into()).unwrap();
    }

    /// The flags for a tree of fixtures below this directory.
    pub(crate) fn fixtures(&self) -> [String; 3] {
        ["proc", "sys"].iter().for_each(|root| fs::create_dir_all(self.at(root)).unwrap());
        [
            format!("--path.procfs={}", self.at("proc").display()),
            format!("--path.sysfs={}", self.at("sys").display()),
            "--view=host".to_owned(),
        ]
    }

    /// The program, as the broker's uid, on this stage's socket.
    pub(crate) fn command(&self, arguments: &[impl AsRef<str>]) -> Command {
        let mut command = self.command_as_is(arguments);
        if is_root() {
            command.uid(BROKER).gid(BROKER);
        }
        command
    }

    /// The program, as the uid of the tests.
    pub(crate) fn command_as_is(&self, arguments: &[impl AsRef<str>]) -> Command {
        let mut command = Command::new(self.at("keyhole-broker"));
        command.arg(format!("--socket.path={}", self.socket().display()));
        command.args(arguments.iter().map(AsRef::as_ref));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    pub(crate) fn start(&self, arguments: &[impl AsRef<str>]) -> Broker<'_> {
        self.run(self.command(arguments))
    }

    pub(crate) fn run(&self, mut command: Command) -> Broker<'_> {
        let log = self.0.path().join("log");
        command.stderr(File::create(&log).unwrap());
        let mut broker = Broker { stage: self, child: command.spawn().unwrap() };
        // The last line before it accepts.
        soon("the broker", || {
            let output = fs::read_to_string(&log).unwrap();
            assert!(broker.child.try_wait().unwrap().is_none(), "it ended: {output}");
            output.contains("sysfs view=").then_some(())
        });
        broker
    }
}

/// A running broker; killed when it is dropped.
pub(crate) struct Broker<'s> {
    pub(crate) stage: &'s Stage,
    pub(crate) child: Child,
}

impl Drop for Broker<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The broker, the zygote, and its readers.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.pid()];
        let mut at = 0;
        while let Some(pid) = all.get(at) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
            at += 1;
        }
        all
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        soon("the broker's end", || self.child.try_wait().unwrap())
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Runs `act` with a client of the broker's own uid.
    pub(crate) fn ask<T: Send, F: Future<Output = T>>(
        &self,
        act: impl FnOnce(BrokerClient<Channel>) -> F + Send,
    ) -> T {
        self.ask_as(broker_uid(), act)
    }

    /// Runs `act` with a client of a uid, which is in the socket's group.
    pub(crate) fn ask_as<T: Send, F: Future<Output = T>>(
        &self,
        uid: u32,
        act: impl FnOnce(BrokerClient<Channel>) -> F + Send,
    ) -> T {
        as_uid(uid, broker_gid(), || {
            block_on(async { act(BrokerClient::new(channel(self.stage.socket()).await)).await })
        })
    }

    pub(crate) fn describe(&self) -> DescribeResponse {
        self.ask(|mut client| async move { client.describe(DescribeRequest {}).await.unwrap().into_inner() })
    }

    /// Reads; retries on RESOURCE_EXHAUSTED.
    pub(crate) fn read(&self, queries: &[Query]) -> Vec<Answer> {
        self.ask(|mut client| async move {
            loop {
                match read(&mut client, queries).await {
                    Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    answers => return answers.unwrap(),
                }
            }
        })
    }

    pub(crate) fn health(&self) -> Health {
        as_uid(broker_uid(), broker_gid(), || {
            block_on(async {
                let mut client = HealthClient::new(channel(self.stage.socket()).await);
                let service = "keyhole.v1.Broker".to_owned();
                client.check(HealthCheckRequest { service }).await.unwrap().into_inner().status()
            })
        })
    }

    /// A plain connection of the broker's own uid, with time-outs.
    pub(crate) fn connect(&self) -> UnixStream {
        as_uid(broker_uid(), broker_gid(), || connect(&self.stage.socket()))
    }
}

pub(crate) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Runs `act` on a thread with another uid and group, if the tests may change them.
pub(crate) fn as_uid<T: Send>(uid: u32, gid: u32, act: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let act = || {
        if is_root() && uid != 0 {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
        }
        act()
    };
    std::thread::scope(|scope| {
        scope.spawn(act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) fn block_on<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let what =
        async { tokio::time::timeout(Duration::from_secs(60), what).await.expect("an end within 60 s") };
    runtime.block_on(what)
}

pub(crate) async fn channel(socket: PathBuf) -> Channel {
    try_channel(socket).await.unwrap()
}

pub(crate) async fn try_channel(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://keyhole").connect_with_connector(connector).await
}

/// The answer to one query.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) query: Query,
    pub(crate) outcome: Outcome,
    pub(crate) files: Vec<KernelFile>,
}

impl Answer {
    pub(crate) fn text(&self, path: &str) -> Option<Vec<u8>> {
        let name = Some(file::Name::Path(path.to_owned()));
        let mut parts = self.files.iter().filter(|file| file.name == name).peekable();
        parts.peek()?;
        Some(
            parts
                .flat_map(|part| match part.content.as_ref().unwrap() {
                    file::Content::Text(text) => text.as_bytes().to_vec(),
                    file::Content::Raw(bytes) => bytes.clone(),
                    _ => Vec::new(),
                })
                .collect(),
        )
    }
}

pub(crate) async fn read(
    client: &mut BrokerClient<Channel>,
    queries: &[Query],
) -> Result<Vec<Answer>, Status> {
    read_numbers(client, queries.iter().map(|query| *query as i32).collect()).await
}

pub(crate) async fn read_numbers(
    client: &mut BrokerClient<Channel>,
    queries: Vec<i32>,
) -> Result<Vec<Answer>, Status> {
    let mut stream = client.read(ReadRequest { queries }).await?.into_inner();
    let (mut answers, mut files) = (Vec::new(), Vec::new());
    while let Some(part) = stream.message().await? {
        assert!(part.encoded_len() < 1 << 20);
        let query = part.query();
        files.extend(part.files);
        if let Some(end) = part.end {
            answers.push(Answer { query, outcome: end.outcome(), files: std::mem::take(&mut files) });
        }
    }
    Ok(answers)
}

/// Runs a command that should refuse to start, and returns its one line.
pub(crate) fn refusal(command: &mut Command) -> String {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let status = soon("a refusal", || child.0.try_wait().unwrap());
    let (mut output, mut printed) = (String::new(), String::new());
    child.0.stderr.take().unwrap().read_to_string(&mut output).unwrap();
    child.0.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(status.code(), Some(1), "{output}");
    assert_eq!(printed, "");
    assert_eq!(output.lines().count(), 1, "{output}");
    let line = output.trim_end().strip_prefix("keyhole-broker: error: ");
    line.unwrap_or_else(|| panic!("{output}")).to_owned()
}

/// A child that is killed when it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn probe(stage: &Stage, uid: u32) -> std::process::Output {
    let mut command = stage.command_as_is(&["probe"]);
    if is_root() {
        command.uid(uid).gid(BROKER);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

/// Makes a gRPC call on a new connection; returns the status and the number of bytes received.
pub(crate) async fn call(socket: &Path, path: &str, body: &[u8]) -> (Option<i32>, usize) {
    finish(start_call(socket, path, body).await).await
}

/// Receives the rest of an answer.
pub(crate) async fn finish((mut answer, _client, driver): StartedCall) -> (Option<i32>, usize) {
    let mut status = answer.headers().get("grpc-status").cloned();
    let mut bytes = 0;
    while let Some(data) = answer.body_mut().data().await {
        let data = data.unwrap();
        let _ = answer.body_mut().flow_control().release_capacity(data.len());
        bytes += data.len();
    }
    if let Some(trailers) = answer.body_mut().trailers().await.unwrap() {
        status = status.or(trailers.get("grpc-status").cloned());
    }
    driver.abort();
    (status.map(|status| status.to_str().unwrap().parse().unwrap()), bytes)
}

/// Sends a gRPC call and waits for the response headers.
pub(crate) async fn start_call(socket: &Path, path: &str, body: &[u8]) -> StartedCall {
    let (mut client, driver) = dial(socket).await;
    (send(&mut client, path, body).await.await.unwrap(), client, driver)
}

async fn dial(socket: &Path) -> (Sender, tokio::task::JoinHandle<()>) {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    (client, driver)
}

/// Sends gRPC calls on one connection, and waits for no answer.
pub(crate) async fn begin_many(socket: &Path, path: &str, body: &[u8], calls: usize) -> impl Sized {
    let (mut client, driver) = dial(socket).await;
    let mut answers = Vec::new();
    for _ in 0..calls {
        answers.push(send(&mut client, path, body).await);
    }
    (answers, client, driver)
}

async fn send(client: &mut Sender, path: &str, body: &[u8]) -> h2::client::ResponseFuture {
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    std::future::poll_fn(|context| client.poll_ready(context)).await.unwrap();
    let (answer, mut send) = client.send_request(request, false).unwrap();
    send.send_data(bytes::Bytes::copy_from_slice(body), true).unwrap();
    answer
}

type Sender = h2::client::SendRequest<bytes::Bytes>;

pub(crate) type StartedCall = (http::Response<h2::RecvStream>, Sender, tokio::task::JoinHandle<()>);

pub(crate) fn grpc(message: &impl Message) -> Vec<u8> {
    let mut body = vec![0];
    body.extend((message.encoded_len() as u32).to_be_bytes());
    body.extend(message.encode_to_vec());
    body
}
