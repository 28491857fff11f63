//! The HTTP server: HTTP/1.1 and, with TLS, HTTP/2 by hyper, with an accept loop and connection limits of its own.

mod client;
mod connection;
mod fair_semaphore;
pub mod listen;
mod page;
pub mod parameters;
pub mod paths;
pub mod routes;
mod throttle;
pub mod web_config;

pub(crate) use page::format::plural;

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

pub use client::Client;
pub use paths::Peer;
pub use routes::{App, SCRAPE_TIMEOUTS};
pub use throttle::Throttle;

pub(crate) use web_config::{RateLimit, RateLimitBucket};

use crate::lock;
use crate::self_metrics::server::CloseReason;
use fair_semaphore::FairSemaphore;

/// The most connections that are served at once.
const MAX_SERVED: usize = 192;
/// The most connections that are open at once, including those that wait to be served.
const MAX_OPEN: usize = 1024;
/// Descriptors that connections may not use: for the broker, textfiles, the runtime and inherited ones.
const RESERVED_DESCRIPTORS: u64 = 32;
/// How long responses in progress may take once the server stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after an accept error that persists, such as EMFILE.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Memory is returned to the system once this many connections were open and most are closed, at most once in a pause.
const TRIM_MIN_OPEN: usize = 64;
const TRIM_PAUSE: Duration = Duration::from_secs(1);
/// While [`MAX_OPEN`] are open, accepting pauses after this many connections, so that rejected clients that reconnect
/// at once cost little CPU time.
const FULL_BATCH: u64 = 4;
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// How often idle connections are evicted while others wait or need memory.
const EVICTION_INTERVAL: Duration = Duration::from_millis(25);
/// How long a connection may wait to be served.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// Accepts on every listener until `stop` completes, then finishes responses in progress. `health` serves the health
/// pages alone, without TLS and users; all limits count the connections of both.
pub async fn serve(
    listeners: Vec<TcpListener>,
    health: Option<TcpListener>,
    app: Arc<App>,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stopping, stopped) = watch::channel(false);
    let open = max_open(rustix::process::getrlimit(rustix::process::Resource::Nofile).current);
    let connection_permits = MAX_SERVED.min(open.div_ceil(2));
    // Each listener has accepted one connection more before the limit of waiting ones rejects any.
    let max_waiting = (open - connection_permits).saturating_sub(listeners.len() + health.iter().len());
    let server = Server {
        app,
        open: Arc::new(Semaphore::new(open)),
        limit: open,
        peak: Arc::new(Mutex::new(Peak { open: 0, trimmed: Instant::now() })),
        connection_permits: FairSemaphore::new(connection_permits, max_waiting),
        evict: Arc::default(),
        stopped,
    };
    let mut tasks = Vec::new();
    for listener in listeners {
        tasks.push(tokio::spawn(server.clone().accept(tokio::net::TcpListener::from_std(listener)?)));
    }
    if let Some(listener) = health {
        let server = Server { app: Arc::new(server.app.health_pages()), ..server.clone() };
        tasks.push(tokio::spawn(server.accept(tokio::net::TcpListener::from_std(listener)?)));
    }
    tasks.push(tokio::spawn(server.clone().run_evictions()));
    stop.await;
    stopping.send_replace(true);
    for task in &tasks {
        // Closes the listener.
        task.abort();
    }
    let all = u32::try_from(open).unwrap_or(u32::MAX);
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, server.open.acquire_many(all)).await.is_err() {
        tracing::warn!("stopped before all responses were sent");
    }
    Ok(())
}

/// The most connections that may be open, given the limit of descriptors: without a descriptor left for the broker, no
/// connection could be served.
fn max_open(limit: Option<u64>) -> usize {
    let room = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX)
    });
    MAX_OPEN.min(room).max(1)
}

/// The most connections that were open since memory was last returned to the system.
#[derive(Debug)]
struct Peak {
    open: usize,
    trimmed: Instant,
}

/// The state that all connections share.
#[derive(Clone)]
struct Server {
    app: Arc<App>,
    open: Arc<Semaphore>,
    /// The most connections that may be open.
    limit: usize,
    peak: Arc<Mutex<Peak>>,
    connection_permits: Arc<FairSemaphore>,
    evict: Arc<Notify>,
    stopped: watch::Receiver<bool>,
}

impl Server {
    async fn accept(self, listener: tokio::net::TcpListener) {
        let (mut failing, mut accepted) = (false, 0_u64);
        loop {
            let Ok(open) = Arc::clone(&self.open).acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_transient(&error) => continue,
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "cannot accept connections; retrying");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            failing = false;
            // A response is one write: delaying it gains nothing.
            let _ = stream.set_nodelay(true);
            let server = self.clone();
            tokio::spawn(async move {
                server.serve(stream, peer).await;
                drop(open);
                server.trim_after_peak();
            });
            accepted += 1;
            if self.open.available_permits() == 0 && accepted % FULL_BATCH == 0 {
                tokio::time::sleep(FULL_PAUSE).await;
            }
        }
    }

    /// Returns the memory of many connections to the system once most of them are closed.
    fn trim_after_peak(&self) {
        let open = self.limit - self.open.available_permits();
        let mut peak = lock(&self.peak);
        peak.open = peak.open.max(open);
        if peak.open >= TRIM_MIN_OPEN && open <= peak.open / 8 && peak.trimmed.elapsed() >= TRIM_PAUSE {
            *peak = Peak { open, trimmed: Instant::now() };
            keyhole_os::memory::release_unused();
        }
    }

    /// Waits for a permit and serves a connection.
    async fn serve(&self, stream: tokio::net::TcpStream, peer: SocketAddr) {
        let client = peer.into();
        let mut stopped = self.stopped.clone();
        let permit = async {
            if self.connection_permits.is_exhausted() {
                self.app.unread().request_eviction();
            }
            self.connection_permits.acquire(client).await
        };
        let permit = tokio::select! {
            permit = tokio::time::timeout(QUEUE_TIMEOUT, permit) => permit,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        match permit {
            // On the heap, so that a waiting connection takes little memory.
            Ok(Some(_permit)) => Box::pin(connection::serve(stream, self, peer)).await,
            Ok(None) | Err(_) => self.app.server_metrics().count_closed(CloseReason::Evicted),
        }
    }

    /// Notifies connections to close if they may, for as long as others wait for a permit or for memory.
    async fn run_evictions(self) {
        loop {
            self.app.unread().eviction_requested().await;
            loop {
                self.evict.notify_waiters();
                tokio::time::sleep(EVICTION_INTERVAL).await;
                if !self.connection_permits.has_waiters() && !self.app.unread().is_full() {
                    break;
                }
            }
        }
    }
}

/// Whether an error is of one connection, not of the listener.
fn is_transient(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker_client::BrokerClient;
    use crate::cli::flags;
    use crate::local::LocalSource;
    use crate::scrape::Scraper;
    use crate::self_metrics::process::Process;

    pub(super) fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1))
    }

    /// A server with `permits` connections at once, while one more may wait.
    pub(super) fn server(connection_permits: usize) -> Server {
        let options = flags::parse(["--collector.disable-defaults".to_owned()]).unwrap();
        let broker = BrokerClient::new("/nonexistent/socket").unwrap();
        let own = LocalSource::from_process().unwrap();
        let scraper = Scraper::new(broker, Vec::new(), &options, own, Process::open(), Vec::new()).unwrap();
        let (stopping, stopped) = watch::channel(false);
        // Never stopped.
        std::mem::forget(stopping);
        Server {
            app: Arc::new(App::new(Arc::new(scraper), &options)),
            open: Arc::new(Semaphore::new(connection_permits + 1)),
            limit: connection_permits + 1,
            peak: Arc::new(Mutex::new(Peak { open: 0, trimmed: Instant::now() })),
            connection_permits: FairSemaphore::new(connection_permits, 1),
            evict: Arc::default(),
            stopped,
        }
    }

    fn stream() -> (tokio::net::TcpStream, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, _) = listener.accept().unwrap();
        served.set_nonblocking(true).unwrap();
        (tokio::net::TcpStream::from_std(served).unwrap(), client)
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_connection_is_closed_after_thirty_seconds_or_when_too_many_wait() {
        let server = server(1);
        let _held = server.connection_permits.acquire(peer(1).into()).await.unwrap();
        let (waiting, _client) = stream();
        let start = Instant::now();
        server.serve(waiting, peer(2)).await;
        assert_eq!(start.elapsed().as_millis() / 100, 300);
        let ((first, _one), (second, _two)) = (stream(), stream());
        let start = Instant::now();
        let first = async {
            server.serve(first, peer(2)).await;
            start.elapsed()
        };
        let second = async {
            server.serve(second, peer(3)).await;
            start.elapsed()
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.as_secs(), second.as_secs()), (0, 30), "the oldest is rejected first");
    }

    #[test]
    fn open_connections_are_limited_by_descriptors() {
        assert_eq!(
            [None, Some(1 << 20), Some(1056), Some(1055), Some(64), Some(8)].map(max_open),
            [1024, 1024, 1024, 1023, 32, 1]
        );
        let document = include_str!("../../../docs/compatibility.md");
        assert_eq!(MAX_OPEN, 1024);
        let row = format!(
            "| {MAX_SERVED} served at once, 1,024 open (or {RESERVED_DESCRIPTORS} fewer than the limit of descriptors)"
        );
        assert!(document.contains(&row), "{row}");
    }
}
