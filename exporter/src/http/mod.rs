//! The HTTP server: hyper's HTTP/1 and, with TLS, HTTP/2, under an accept loop of its own, so that every limit is ours.

mod connection;
pub mod listen;
mod page;
pub mod paths;
pub mod query;
pub mod routes;
mod turns;
pub mod web_config;

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

pub use paths::Peer;
pub use routes::App;
pub use turns::{Client, Paced};

pub(crate) use web_config::{Bucket, RateLimit};

use crate::lock;
use crate::self_metrics::handler::Closed;
use turns::Turns;

/// Connections served at once.
const MAX_SERVED: usize = 192;
/// Connections that are open at once, those that wait for a place with them.
const MAX_OPEN: usize = 1024;
/// Descriptors kept back from connections: the broker, textfiles, the runtime and what was inherited.
const OTHER_DESCRIPTORS: u64 = 32;
/// How long answers under way may take once the server is told to stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long accepting rests after an error that will not pass by itself, such as EMFILE.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Once so many connections were open and most of them have gone, memory is given back; at most so often.
const TRIM_MIN_OPEN: usize = 64;
const TRIM_PAUSE: Duration = Duration::from_secs(1);
/// While [`MAX_OPEN`] are open, accepting rests after so many connections: who is turned away and comes back at once
/// costs little CPU time.
const FULL_BATCH: u64 = 4;
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// How often connections are asked to give way while others need what they hold.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(25);
/// How long a connection may wait for a place.
const PLACE_TIMEOUT: Duration = Duration::from_secs(30);

/// Accepts on every listener until `stop` is done, then finishes what is under way.
pub async fn serve(
    listeners: Vec<TcpListener>,
    app: Arc<App>,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stopping, stopped) = watch::channel(false);
    let open = open(rustix::process::getrlimit(rustix::process::Resource::Nofile).current);
    let places = MAX_SERVED.min(open.div_ceil(2));
    // Each listener's next connection is accepted, and only then it is seen whose is one too many.
    let may_wait = (open - places).saturating_sub(listeners.len());
    let server = Server {
        app,
        open: Arc::new(Semaphore::new(open)),
        limit: open,
        peak: Arc::new(Mutex::new(Peak { open: 0, trimmed: Instant::now() })),
        places: Turns::new(places, may_wait),
        pressure: Arc::default(),
        stopped,
    };
    let mut tasks = Vec::new();
    for listener in listeners {
        tasks.push(tokio::spawn(server.clone().accept(tokio::net::TcpListener::from_std(listener)?)));
    }
    tasks.push(tokio::spawn(server.clone().press()));
    stop.await;
    stopping.send_replace(true);
    for task in &tasks {
        // Closes the listener.
        task.abort();
    }
    let all = u32::try_from(open).unwrap_or(u32::MAX);
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, server.open.acquire_many(all)).await.is_err() {
        tracing::warn!("stopped with answers under way");
    }
    Ok(())
}

/// As many as there are descriptors for: one that could be accepted and not served would starve the rest.
fn open(limit: Option<u64>) -> usize {
    let room = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(usize::MAX)
    });
    MAX_OPEN.min(room).max(1)
}

/// The most connections that were open since memory was last given back.
#[derive(Debug)]
struct Peak {
    open: usize,
    trimmed: Instant,
}

/// Where connections come in.
#[derive(Clone)]
struct Server {
    app: Arc<App>,
    open: Arc<Semaphore>,
    /// How many may be open.
    limit: usize,
    peak: Arc<Mutex<Peak>>,
    places: Arc<Turns>,
    pressure: Arc<Notify>,
    stopped: watch::Receiver<bool>,
}

impl Server {
    async fn accept(self, listener: tokio::net::TcpListener) {
        let (mut failing, mut accepted) = (false, 0_u64);
        loop {
            let Ok(open) = Arc::clone(&self.open).acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if passes(&error) => continue,
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "cannot accept connections; trying on");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            failing = false;
            // A scrape's answer is one write: there is nothing to wait for.
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

    /// Gives back the memory that many connections have taken, once most of them have gone.
    fn trim_after_peak(&self) {
        let open = self.limit - self.open.available_permits();
        let mut peak = lock(&self.peak);
        peak.open = peak.open.max(open);
        if peak.open >= TRIM_MIN_OPEN && open <= peak.open / 8 && peak.trimmed.elapsed() >= TRIM_PAUSE {
            *peak = Peak { open, trimmed: Instant::now() };
            keyhole_os::memory::release_unused();
        }
    }

    /// Waits for a place and serves a connection.
    async fn serve(&self, stream: tokio::net::TcpStream, peer: SocketAddr) {
        let client = peer.into();
        let mut stopped = self.stopped.clone();
        let place = async {
            if self.places.are_all_taken() {
                self.app.unread().press();
            }
            self.places.wait(client).await
        };
        let place = tokio::select! {
            place = tokio::time::timeout(PLACE_TIMEOUT, place) => place,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        match place {
            // On the heap: one that waits for its place takes little.
            Ok(Some(_place)) => Box::pin(connection::serve(stream, self, peer)).await,
            Ok(None) | Err(_) => self.app.handler().closed(Closed::Crowded),
        }
    }

    /// Asks connections to give way for as long as others need what they hold.
    async fn press(self) {
        loop {
            self.app.unread().pressed().await;
            loop {
                self.pressure.notify_waiters();
                tokio::time::sleep(PRESSURE_INTERVAL).await;
                if !self.places.are_short() && !self.app.unread().is_full() {
                    break;
                }
            }
        }
    }
}

/// Errors of one connection, not of the listener.
fn passes(error: &Error) -> bool {
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
    use crate::own::OwnSource;
    use crate::scrape::Scraper;
    use crate::self_metrics::process::Process;

    pub(super) fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1))
    }

    /// A server that serves so many at once, while one may wait.
    pub(super) fn server(places: usize) -> Server {
        let (options, _) = flags::parse(["--collector.disable-defaults".to_owned()]).unwrap();
        let broker = BrokerClient::new("/nonexistent/socket").unwrap();
        let own = OwnSource::new(&options);
        let scraper = Scraper::new(broker, options.clone(), own, Process::open(), Vec::new()).unwrap();
        let (stopping, stopped) = watch::channel(false);
        // It is never told to stop.
        std::mem::forget(stopping);
        Server {
            app: Arc::new(App::new(Arc::new(scraper), &options)),
            open: Arc::new(Semaphore::new(places + 1)),
            limit: places + 1,
            peak: Arc::new(Mutex::new(Peak { open: 0, trimmed: Instant::now() })),
            places: Turns::new(places, 1),
            pressure: Arc::default(),
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
    async fn who_waits_for_a_place_is_closed_after_thirty_seconds_or_at_once_where_more_come() {
        let server = server(1);
        let _held = server.places.wait(peer(1).into()).await.unwrap();
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
        assert_eq!((first.as_secs(), second.as_secs()), (0, 30), "the oldest goes first");
    }

    #[test]
    fn as_many_are_open_as_there_are_descriptors_for() {
        assert_eq!(
            [None, Some(1 << 20), Some(1056), Some(1055), Some(64), Some(8)].map(open),
            [1024, 1024, 1024, 1023, 32, 1]
        );
        let document = include_str!("../../../docs/compatibility.md");
        assert_eq!(MAX_OPEN, 1024);
        let row = format!(
            "| {MAX_SERVED} served at once, 1,024 open (or {OTHER_DESCRIPTORS} fewer than the limit of descriptors)"
        );
        assert!(document.contains(&row), "{row}");
    }
}
