//! The HTTP server: hyper's HTTP/1 and, with TLS, HTTP/2, under an accept loop of its own, so that every limit is ours.

mod connection;
pub mod listen;
mod page;
pub mod paths;
pub mod query;
pub mod routes;
pub mod web_config;

use std::io::{Error, ErrorKind};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

pub use paths::Peer;
pub use routes::App;

/// Connections served at once.
const CONNECTIONS: usize = 256;
/// Descriptors kept back from connections: the broker, textfiles, the runtime and what was inherited.
const OTHER_DESCRIPTORS: u64 = 32;
/// How long answers under way may take once the server is told to stop.
const STOP: Duration = Duration::from_secs(5);
/// How long accepting rests after an error that will not pass by itself, such as EMFILE.
const BACK_OFF: Duration = Duration::from_millis(200);
/// How often idle connections are asked to go while another waits.
const CROWDED: Duration = Duration::from_millis(25);

/// Accepts on every listener until `stop` is done, then finishes what is under way.
pub async fn serve(
    listeners: Vec<TcpListener>,
    app: Arc<App>,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stopping, stopped) = watch::channel(false);
    let connections = connections();
    let permits = Arc::new(Semaphore::new(connections));
    let crowded = Arc::new(Notify::new());
    let mut accepting = Vec::new();
    for listener in listeners {
        let accept = Accept {
            listener: tokio::net::TcpListener::from_std(listener)?,
            app: Arc::clone(&app),
            permits: Arc::clone(&permits),
            crowded: Arc::clone(&crowded),
            stopped: stopped.clone(),
        };
        accepting.push(tokio::spawn(accept.run()));
    }
    stop.await;
    stopping.send_replace(true);
    for task in &accepting {
        // Closes the listener.
        task.abort();
    }
    let all = u32::try_from(connections).unwrap_or(u32::MAX);
    if tokio::time::timeout(STOP, permits.acquire_many(all)).await.is_err() {
        tracing::warn!("stopped with answers under way");
    }
    Ok(())
}

/// As many as there are descriptors for: one that could be accepted and not served would starve the rest.
fn connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let room = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(usize::MAX)
    });
    CONNECTIONS.min(room).max(1)
}

struct Accept {
    listener: tokio::net::TcpListener,
    app: Arc<App>,
    permits: Arc<Semaphore>,
    crowded: Arc<Notify>,
    stopped: watch::Receiver<bool>,
}

impl Accept {
    async fn run(self) {
        let mut failing = false;
        loop {
            let (stream, _) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if passes(&error) => continue,
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "cannot accept connections; trying on");
                    }
                    failing = true;
                    tokio::time::sleep(BACK_OFF).await;
                    continue;
                }
            };
            failing = false;
            let permit = self.permit().await;
            // A scrape's answer is one write: there is nothing to wait for.
            let _ = stream.set_nodelay(true);
            let connection = connection::serve(
                stream,
                Arc::clone(&self.app),
                Arc::clone(&self.crowded),
                self.stopped.clone(),
            );
            tokio::spawn(async move {
                connection.await;
                drop(permit);
            });
        }
    }

    /// Waits for room; connections that lie idle make it.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                return Some(permit);
            }
            self.crowded.notify_waiters();
            let waited = Arc::clone(&self.permits).acquire_owned();
            if let Ok(permit) = tokio::time::timeout(CROWDED, waited).await {
                return permit.ok();
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
