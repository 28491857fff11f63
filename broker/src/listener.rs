//! The socket: bind, accept, who may connect, and how much of HTTP/2 they may use.
//!
//! The accept loop is our own: it backs off when descriptors run out, where a plain loop would spin.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keyhole_proto::server::broker_server::BrokerServer;
use rustix::fs::{AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, Uid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codegen::Service as _;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::closers::Closers;
use crate::limit::{Client, Metered};
use crate::service::{Counts, Peer, Service};

/// How long a connection may take to its first request.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long to wait after an accept that failed because descriptors or memory ran out.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Connections refused in a row before a pause: a flood must neither fill the kernel's queue for long nor a CPU.
const REFUSALS: u64 = 32;

/// The same where a thread of its own closes each: that costs several times as much.
const REFUSALS_CLOSED_ELSEWHERE: u64 = 4;

/// Connections that the kernel keeps until they are accepted. In a flood, who comes last waits behind all of them.
const QUEUE: i32 = 128;

/// How often to try for the lock of the socket's directory.
const LOCK_TRIES: u32 = 50;

// What each connection may have of HTTP/2. Answers that are not read weigh what fits into all streams of all connections:
// with a few of each, less than the 8 MiB that the broker promises to stay below.
const STREAMS: u32 = 4;
const HEADER_BYTES: u32 = 8 << 10;
const WINDOW_BYTES: u32 = 16 << 10;
const SEND_BYTES: usize = 32 << 10;
const PENDING_RESETS: usize = 16;
const REQUEST_BYTES: usize = 4 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A broker listens there.
    #[error("--socket.path={0}: another broker is listening there: stop it, or choose another path")]
    Occupied(String),
    /// Something that is not a socket is there.
    #[error("--socket.path={0}: something that is not a socket is there: remove it, or choose another path")]
    NotASocket(String),
    /// The socket cannot be given to the group.
    #[error("--socket.group={0}: {1}: run the broker as a member of that group")]
    Group(u32, rustix::io::Errno),
    /// The kernel refused.
    #[error("--socket.path={path}: {error}: the directory must exist and be writable to this uid")]
    Refused {
        /// The path.
        path: String,
        /// Why.
        error: io::Error,
    },
}

impl SocketError {
    fn refused(path: &Path, error: io::Error) -> Self {
        SocketError::Refused { path: path.display().to_string(), error }
    }
}

/// The bound socket.
#[derive(Debug)]
pub struct Socket {
    /// The listener, known to the runtime already.
    pub listener: UnixListener,
    /// Its directory, held so that the socket can be removed when nothing may be opened any more.
    pub dir: rustix::fd::OwnedFd,
    /// Whether the kernel refuses descriptors that peers pass along; to be reported with the others.
    pub layer: keyhole_os::Layer,
    name: PathBuf,
    inode: u64,
}

impl Socket {
    /// Binds `path` for its owner and group; a socket that nobody listens on is replaced. Needs a runtime.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Self, SocketError> {
        let refused = |error| SocketError::refused(path, error);
        let name = path.file_name().ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())
            .map_err(|errno| refused(errno.into()))?;
        // Of brokers that start at once each must see what the one before it has bound.
        lock(&dir).map_err(|errno| refused(errno.into()))?;
        remove_stale(path)?;
        // No moment at which others could connect: the mode is right from the start.
        let mask = rustix::process::umask(Mode::from_raw_mode(0o117));
        let bound = StdListener::bind(path);
        rustix::process::umask(mask);
        let listener = bound.map_err(refused)?;
        // Accepted sockets inherit it. Nobody else can connect yet: the mode admits the owner alone.
        let layer = keyhole_os::socket::refuse_passed_descriptors(&listener);
        if let Some(group) = group {
            let gid = Some(Gid::from_raw(group));
            rustix::fs::chownat(CWD, path, None::<Uid>, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| SocketError::Group(group, errno))?;
        }
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(0o660), AtFlags::empty())
            .and_then(|()| rustix::net::listen(&listener, QUEUE))
            .and_then(|()| rustix::fs::flock(&dir, FlockOperation::Unlock))
            .map_err(|errno| refused(errno.into()))?;
        listener.set_nonblocking(true).map_err(refused)?;
        let listener = UnixListener::from_std(listener).map_err(refused)?;
        let inode = inode(&dir, name).map_err(|errno| refused(errno.into()))?;
        Ok(Self { listener, dir, layer, name: name.into(), inode })
    }

    /// Takes the socket's name away, so that nobody finds it any more; not when another broker has it by now.
    pub fn remove(&self) -> rustix::io::Result<()> {
        if inode(&self.dir, &self.name)? != self.inode {
            return Ok(());
        }
        rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty())
    }
}

/// Locks a directory for the time of a bind; gives up after a few seconds.
fn lock(dir: &rustix::fd::OwnedFd) -> rustix::io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(BACK_OFF),
            locked => return locked,
        }
    }
    Err(rustix::io::Errno::WOULDBLOCK)
}

fn inode(dir: &rustix::fd::OwnedFd, name: impl rustix::path::Arg) -> rustix::io::Result<u64> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
}

/// Connects without waiting for a place in the queue.
fn connect(path: &Path) -> rustix::io::Result<()> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(socket, &SocketAddrUnix::new(path)?)
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let refused = |error| SocketError::refused(path, error);
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.display().to_string()));
    }
    match connect(path) {
        // The queue of one that listens may be full.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(SocketError::Occupied(path.display().to_string())),
        // Only a refusal says that nobody listens; anything else may be a live broker.
        Err(rustix::io::Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "replacing a socket that nobody listens on");
            std::fs::remove_file(path).map_err(refused)
        }
        Err(errno) => Err(refused(errno.into())),
    }
}

/// Who may connect where.
#[derive(Debug)]
pub struct Listener<'s> {
    /// The socket.
    pub socket: &'s UnixListener,
    /// The uids that may connect.
    pub allowed: &'s [u32],
    /// What closes connections, where the kernel passes descriptors that peers send along.
    pub closers: Option<Closers>,
}

/// Accepts for ever: peers of allowed uids, each within its limits.
pub async fn accept<H: Health>(
    listener: Listener<'_>,
    service: Service,
    health: HealthServer<H>,
    counts: Arc<Counts>,
) {
    let clients: HashMap<u32, Arc<Client>> =
        listener.allowed.iter().map(|uid| (*uid, Arc::new(Client::new()))).collect();
    let refusals = if listener.closers.is_some() { REFUSALS_CLOSED_ELSEWHERE } else { REFUSALS };
    loop {
        let stream = match listener.socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(count) = count(&counts.failed_accepts) {
                    tracing::warn!(%error, count, "accept failed");
                }
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
        };
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        let client = uid.and_then(|uid| clients.get(&uid));
        match client.ok_or("is not allowed").and_then(|client| Ok((client, client.connect()?))) {
            Ok((client, place)) => {
                counts.connections.fetch_add(1, Ordering::Relaxed);
                let peer = Peer { client: client.clone(), permit: Arc::new(Semaphore::new(1)) };
                let (service, health, counts) = (service.clone(), health.clone(), counts.clone());
                match &listener.closers {
                    None => {
                        let (receive, send) = stream.into_split();
                        let stream = tokio::io::join(Metered::new(receive), send);
                        tokio::spawn(hold(place, serve(stream, uid, peer, service, health, counts)));
                    }
                    Some(closers) => {
                        let Some(kept) = closers.keep(stream, uid, place) else { continue };
                        let stream = tokio::io::join(Metered::new(kept.clone()), kept);
                        tokio::spawn(serve(stream, uid, peer, service, health, counts));
                    }
                }
            }
            Err(why) => {
                if let Some(count) = count(&counts.refused_peers) {
                    tracing::warn!(uid, why, count, "connection refused");
                }
                if let Some(closers) = &listener.closers {
                    let waits = || {
                        if let Some(count) = count(&counts.paused_accepts) {
                            tracing::warn!(uid, count, "too many refused connections take long to close");
                        }
                    };
                    closers.refuse(stream, waits).await;
                }
                if counts.refused_peers.load(Ordering::Relaxed).is_multiple_of(refusals) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }
}

/// Counts one more; gives the count when it is worth a line: a line for each would let a stranger fill the log.
fn count(counter: &AtomicU64) -> Option<u64> {
    Some(counter.fetch_add(1, Ordering::Relaxed) + 1).filter(|count| count.is_power_of_two())
}

/// Serves the contract to clients that have no copy of it; older clients ask by the name of the trial version.
#[cfg(feature = "reflection")]
async fn reflect(
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, std::convert::Infallible> {
    let contract = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(keyhole_proto::DESCRIPTORS);
    let broken =
        |error: tonic_reflection::server::Error| tonic::Status::internal(error.to_string()).into_http();
    match request.uri().path().starts_with("/grpc.reflection.v1alpha.") {
        true => match contract.build_v1alpha() {
            Ok(service) => service.max_decoding_message_size(REQUEST_BYTES).call(request).await,
            Err(error) => Ok(broken(error)),
        },
        false => match contract.build_v1() {
            Ok(service) => service.max_decoding_message_size(REQUEST_BYTES).call(request).await,
            Err(error) => Ok(broken(error)),
        },
    }
}

async fn hold(permit: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(permit);
}

async fn serve<H: Health>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    uid: Option<u32>,
    peer: Peer,
    service: Service,
    health: HealthServer<H>,
    counts: Arc<Counts>,
) {
    let broker = BrokerServer::new(service).max_decoding_message_size(REQUEST_BYTES);
    let asked = Arc::new(AtomicBool::new(false));
    let first = asked.clone();
    let route = service_fn(move |mut request: http::Request<Incoming>| {
        first.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer.clone());
        let (mut broker, mut health) = (broker.clone(), health.clone());
        async move {
            if request.uri().path().starts_with("/keyhole.v1.Broker/") {
                broker.call(request).await
            } else if request.uri().path().starts_with("/grpc.health.v1.Health/") {
                health.call(request).await
            } else {
                #[cfg(feature = "reflection")]
                if request.uri().path().starts_with("/grpc.reflection.") {
                    return reflect(request).await;
                }
                Ok(tonic::Status::unimplemented("no such service").into_http())
            }
        }
    });
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(SEND_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(PENDING_RESETS)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .serve_connection(TokioIo::new(stream), route)
    );
    let early = tokio::time::timeout(HANDSHAKE, connection.as_mut()).await;
    let ended = match early {
        Ok(ended) => ended,
        Err(_) if asked.load(Ordering::Relaxed) => connection.await,
        Err(_) => {
            if let Some(count) = count(&counts.late_handshakes) {
                tracing::warn!(uid, count, "connection closed: no request in time");
            }
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(uid, %error, "connection ended");
    }
}
