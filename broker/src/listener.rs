//! The socket: binding, accepting, which uids may connect, and limits on HTTP/2.
//!
//! The accept loop is written here because it waits when descriptors run out, where that of a library would spin.

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

use crate::client_limits::{ClientLimits, RateLimitedReader};
use crate::closers::Closers;
use crate::service::{Counts, Peer, Service};

/// How long a connection may take until its first request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after an accept that failed for lack of descriptors or memory.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// After this many refused connections there is a pause: a flood must not use a CPU, nor keep the backlog full for long.
const REFUSALS_BEFORE_PAUSE: u64 = 32;

/// The same if another thread closes each of them, which costs several times as much.
const REFUSALS_BEFORE_PAUSE_WITH_CLOSERS: u64 = 4;

/// Connections that the kernel keeps until they are accepted. It is short: in a flood a new client waits behind them all.
const LISTEN_BACKLOG: i32 = 128;

/// How often to try to lock the socket's directory.
const MAX_LOCK_ATTEMPTS: u32 = 50;

// HTTP/2 limits of each connection. Responses that clients do not read fill the buffers of all streams of all
// connections: with so few of each, that is less than the 8 MiB below which the broker promises to stay.
const MAX_STREAMS: u32 = 4;
const MAX_HEADER_BYTES: u32 = 8 << 10;
const WINDOW_BYTES: u32 = 16 << 10;
const MAX_SEND_BYTES: usize = 32 << 10;
const MAX_PENDING_RESETS: usize = 16;
const MAX_REQUEST_BYTES: usize = 4 << 10;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Why the socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another broker listens on it.
    #[error("--socket.path={0}: another broker is listening there: stop it, or choose another path")]
    InUse(String),
    /// The path is not a socket.
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
    /// The listener, registered with the runtime.
    pub listener: UnixListener,
    /// Its directory, open so that the socket can be removed when the sandbox forbids opening files.
    pub dir: rustix::fd::OwnedFd,
    /// Whether the kernel refuses descriptors that peers pass along: reported as a sandbox layer.
    pub layer: keyhole_os::Layer,
    name: PathBuf,
    inode: u64,
}

impl Socket {
    /// Binds `path` for its owner and group; replaces a socket on which nobody listens. Needs a Tokio runtime.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Self, SocketError> {
        let refused = |error| SocketError::refused(path, error);
        let name = path.file_name().ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())
            .map_err(|errno| refused(errno.into()))?;
        // Of several brokers that start at once, each must see the socket of the one before it.
        lock(&dir).map_err(|errno| refused(errno.into()))?;
        remove_stale(path)?;
        // The socket is made with its final mode, so that at no moment others could connect.
        let umask = rustix::process::umask(Mode::from_raw_mode(0o117));
        let bound = StdListener::bind(path);
        rustix::process::umask(umask);
        let listener = bound.map_err(refused)?;
        // Accepted sockets inherit the option. So far the owner alone can connect.
        let layer = keyhole_os::socket::refuse_passed_descriptors(&listener);
        if let Some(group) = group {
            let gid = Some(Gid::from_raw(group));
            rustix::fs::chownat(CWD, path, None::<Uid>, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| SocketError::Group(group, errno))?;
        }
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(0o660), AtFlags::empty())
            .and_then(|()| rustix::net::listen(&listener, LISTEN_BACKLOG))
            .and_then(|()| rustix::fs::flock(&dir, FlockOperation::Unlock))
            .map_err(|errno| refused(errno.into()))?;
        listener.set_nonblocking(true).map_err(refused)?;
        let listener = UnixListener::from_std(listener).map_err(refused)?;
        let inode = inode(&dir, name).map_err(|errno| refused(errno.into()))?;
        Ok(Self { listener, dir, layer, name: name.into(), inode })
    }

    /// Removes the socket file, unless another broker has replaced it.
    pub fn remove(&self) -> rustix::io::Result<()> {
        if inode(&self.dir, &self.name)? != self.inode {
            return Ok(());
        }
        rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty())
    }
}

/// Locks a directory during a bind; fails after a few seconds.
fn lock(dir: &rustix::fd::OwnedFd) -> rustix::io::Result<()> {
    for _ in 0..MAX_LOCK_ATTEMPTS {
        match rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(ACCEPT_RETRY_INTERVAL),
            locked => return locked,
        }
    }
    Err(rustix::io::Errno::WOULDBLOCK)
}

fn inode(dir: &rustix::fd::OwnedFd, name: impl rustix::path::Arg) -> rustix::io::Result<u64> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
}

/// Connects without waiting if the backlog is full.
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
        // EAGAIN: somebody listens, and the backlog is full.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(SocketError::InUse(path.display().to_string())),
        // Only ECONNREFUSED means that nobody listens; after any other error there may be a broker.
        Err(rustix::io::Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "replacing a socket that nobody listens on");
            std::fs::remove_file(path).map_err(refused)
        }
        Err(errno) => Err(refused(errno.into())),
    }
}

/// The socket to accept from, and who may connect.
#[derive(Debug)]
pub struct Listener<'s> {
    /// The socket.
    pub socket: &'s UnixListener,
    /// The uids that may connect.
    pub allowed: &'s [u32],
    /// The threads that close connections, on kernels that accept descriptors which peers pass along.
    pub closers: Option<Closers>,
}

/// Accepts connections forever: from allowed uids, each within its limits.
pub async fn accept<H: Health>(
    listener: Listener<'_>,
    service: Service,
    health: HealthServer<H>,
    counts: Arc<Counts>,
) {
    let limits_by_uid: HashMap<u32, Arc<ClientLimits>> =
        listener.allowed.iter().map(|uid| (*uid, Arc::new(ClientLimits::new()))).collect();
    let refusals_before_pause =
        if listener.closers.is_some() { REFUSALS_BEFORE_PAUSE_WITH_CLOSERS } else { REFUSALS_BEFORE_PAUSE };
    loop {
        let stream = match listener.socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(count) = count_for_log(&counts.failed_accepts) {
                    tracing::warn!(%error, count, "accept failed");
                }
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                continue;
            }
        };
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        let limits = uid.and_then(|uid| limits_by_uid.get(&uid));
        match limits.ok_or("is not allowed").and_then(|limits| Ok((limits, limits.acquire_connection()?))) {
            Ok((limits, permit)) => {
                counts.connections.fetch_add(1, Ordering::Relaxed);
                let peer = Peer { limits: limits.clone(), permit: Arc::new(Semaphore::new(1)) };
                let (service, health, counts) = (service.clone(), health.clone(), counts.clone());
                match &listener.closers {
                    None => {
                        let (receive, send) = stream.into_split();
                        let stream = tokio::io::join(RateLimitedReader::new(receive), send);
                        tokio::spawn(hold_permit(permit, serve(stream, uid, peer, service, health, counts)));
                    }
                    Some(closers) => {
                        let Some(stream) = closers.wrap(stream, uid, permit) else { continue };
                        let stream = tokio::io::join(RateLimitedReader::new(stream.clone()), stream);
                        tokio::spawn(serve(stream, uid, peer, service, health, counts));
                    }
                }
            }
            Err(why) => {
                if let Some(count) = count_for_log(&counts.refused_peers) {
                    tracing::warn!(uid, why, count, "connection refused");
                }
                if let Some(closers) = &listener.closers {
                    let on_wait = || {
                        if let Some(count) = count_for_log(&counts.paused_accepts) {
                            tracing::warn!(
                                uid,
                                count,
                                "accepting paused: too many refused connections wait to be closed"
                            );
                        }
                    };
                    closers.refuse(stream, on_wait).await;
                }
                if counts.refused_peers.load(Ordering::Relaxed).is_multiple_of(refusals_before_pause) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }
}

/// Increments a counter; returns the count if it is a power of two, so that nobody can fill the log with events.
fn count_for_log(counter: &AtomicU64) -> Option<u64> {
    Some(counter.fetch_add(1, Ordering::Relaxed) + 1).filter(|count| count.is_power_of_two())
}

/// gRPC reflection, for clients without the .proto file; older clients use v1alpha.
#[cfg(feature = "reflection")]
async fn reflect(
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, std::convert::Infallible> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(keyhole_proto::DESCRIPTORS);
    let failed =
        |error: tonic_reflection::server::Error| tonic::Status::internal(error.to_string()).into_http();
    if request.uri().path().starts_with("/grpc.reflection.v1alpha.") {
        match builder.build_v1alpha() {
            Ok(service) => service.max_decoding_message_size(MAX_REQUEST_BYTES).call(request).await,
            Err(error) => Ok(failed(error)),
        }
    } else {
        match builder.build_v1() {
            Ok(service) => service.max_decoding_message_size(MAX_REQUEST_BYTES).call(request).await,
            Err(error) => Ok(failed(error)),
        }
    }
}

async fn hold_permit(permit: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
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
    let broker = BrokerServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
    let has_request = Arc::new(AtomicBool::new(false));
    let on_request = has_request.clone();
    let route = service_fn(move |mut request: http::Request<Incoming>| {
        on_request.store(true, Ordering::Relaxed);
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
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(MAX_SEND_BYTES)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_PENDING_RESETS)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_INTERVAL)
            .serve_connection(TokioIo::new(stream), route)
    );
    let early = tokio::time::timeout(HANDSHAKE_TIMEOUT, connection.as_mut()).await;
    let ended = match early {
        Ok(ended) => ended,
        Err(_) if has_request.load(Ordering::Relaxed) => connection.await,
        Err(_) => {
            if let Some(count) = count_for_log(&counts.late_handshakes) {
                tracing::warn!(uid, count, "connection closed: no request in time");
            }
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(uid, %error, "connection ended");
    }
}
