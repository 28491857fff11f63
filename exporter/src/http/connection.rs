//! One client's connection: its requests, and when it is given up.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::routes::{Answer, App};
use super::web_config::{Guard, H2};

/// The most that a request's head may hold.
const HEAD_BYTES: usize = 16 << 10;
/// How long a connection may live without a first request, and how long a client may take nothing of an answer.
const HELD_UP: Duration = Duration::from_secs(10);
/// How long a connection may lie idle; more than the usual scrape interval, so that Prometheus keeps its own.
const IDLE: Duration = Duration::from_secs(150);
/// How long a connection must have been idle to be given up for another: that one may be a probe with a second's time.
const IDLE_IN_A_CROWD: Duration = Duration::from_millis(100);
/// How often a connection is looked at.
const TICK: Duration = Duration::from_secs(5);

/// What Go's server tells a client that speaks plain HTTP to its TLS port.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// Requests of one HTTP/2 connection that are answered at once.
const STREAMS: u32 = 16;

/// Serves a connection until it ends, or is idle for too long, or the server stops.
pub(super) async fn serve(
    stream: TcpStream,
    app: Arc<App>,
    crowded: Arc<Notify>,
    stopping: watch::Receiver<bool>,
) {
    let activity = Arc::new(Activity::new());
    let stream = Tracked { stream, activity: Arc::clone(&activity) };
    let talk = talk(stream, app, Arc::clone(&activity), stopping);
    tokio::pin!(talk);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = talk.as_mut() => return,
            () = crowded.notified() => {
                if activity.idle() >= IDLE_IN_A_CROWD {
                    return;
                }
            }
            _ = tick.tick() => {
                let limit = if activity.is_held_up() { HELD_UP } else { IDLE };
                if activity.idle() >= limit {
                    return;
                }
            }
        }
    }
}

/// Encrypts the connection, where that is asked for, and speaks HTTP on it.
async fn talk(
    mut stream: Tracked,
    app: Arc<App>,
    activity: Arc<Activity>,
    mut stopping: watch::Receiver<bool>,
) {
    let tls = match app.guard.as_ref().map(Guard::accept).transpose() {
        Ok(tls) => tls.flatten(),
        // The log has been told; there is no answer to give without a certificate.
        Err(_) => return,
    };
    let Some(tls) = tls else {
        return talk_http1(stream, false, app, activity, stopping).await;
    };
    let handshake = async {
        // A request's first letter, where a handshake has 22.
        let mut first = [0];
        if stream.stream.peek(&mut first).await.is_ok_and(|read| read == 1) && first[0].is_ascii_uppercase() {
            // What came is read, lest the end of the connection overtake the answer.
            let _ = stream.read(&mut [0; HEAD_BYTES]).await;
            let _ = stream.write_all(NOT_TLS).await;
            let _ = stream.shutdown().await;
            return None;
        }
        TlsAcceptor::from(tls).accept(stream).await.inspect_err(told).ok()
    };
    let stream = tokio::select! {
        stream = handshake => stream,
        _ = stopping.wait_for(|stop| *stop) => None,
    };
    match stream {
        Some(stream) if stream.get_ref().1.alpn_protocol() == Some(H2) => {
            talk_http2(stream, app, activity, stopping).await;
        }
        Some(stream) => talk_http1(stream, true, app, activity, stopping).await,
        None => {}
    }
}

/// Marks a request of HTTP/1.1 that came encrypted: its own words do not say so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encrypted;

/// A handshake that failed is told at debug: anyone can cause it.
fn told(error: &std::io::Error) {
    tracing::debug!(%error, "TLS handshake failed");
}

async fn talk_http1<S>(
    stream: S,
    encrypted: bool,
    app: Arc<App>,
    activity: Arc<Activity>,
    stopping: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(4 * HEAD_BYTES)
        .max_headers(64)
        // A client that has said all it had to say may still wait for its answer.
        .half_close(true)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|mut request: Request<Incoming>| {
                if encrypted {
                    request.extensions_mut().insert(Encrypted);
                }
                answer(request, &app, &activity)
            }),
        );
    finish(connection, stopping).await;
}

async fn talk_http2<S>(stream: S, app: Arc<App>, activity: Arc<Activity>, stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        // What a client sends besides its head is never read, and shall not be kept either.
        .initial_stream_window_size(HEAD_BYTES as u32)
        .max_send_buf_size(4 * HEAD_BYTES)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| {
                let (app, activity) = (Arc::clone(&app), Arc::clone(&activity));
                async move { answer(request, &app, &activity).await }
            }),
        );
    finish(connection, stopping).await;
}

async fn answer(
    request: Request<Incoming>,
    app: &Arc<App>,
    activity: &Arc<Activity>,
) -> Result<Answer, Infallible> {
    let _running = activity.request();
    Ok(match &app.guard {
        Some(guard) => guard.answer(app, &request).await,
        None => app.answer(&request).await,
    })
}

/// Drives a connection to its end; when the server stops, to the end of what is being answered.
async fn finish(connection: impl GracefulConnection, mut stopping: watch::Receiver<bool>) {
    tokio::pin!(connection);
    let mut stopped = false;
    loop {
        tokio::select! {
            // A broken connection is the client's business.
            _ = connection.as_mut() => return,
            _ = stopping.wait_for(|stop| *stop), if !stopped => {
                stopped = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// When a connection was last of use, and whether a request of it is being answered.
#[derive(Debug)]
struct Activity {
    start: Instant,
    /// When a byte was last written, in milliseconds after `start`. A byte that is read is no sign of life: anyone can
    /// have a request trickle in for ever.
    last_byte: AtomicU64,
    running: AtomicUsize,
    requests: AtomicUsize,
    /// Whether the client's buffer is full.
    stalled: AtomicBool,
}

impl Activity {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last_byte: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            stalled: AtomicBool::new(false),
        }
    }

    fn touch(&self) {
        self.last_byte.store(self.age_ms(), Ordering::Relaxed);
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn request(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    fn is_held_up(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0 || self.stalled.load(Ordering::Relaxed)
    }

    /// How long nothing has happened; nothing at all while a request is being answered.
    fn idle(&self) -> Duration {
        match self.running.load(Ordering::Relaxed) {
            0 => Duration::from_millis(self.age_ms().saturating_sub(self.last_byte.load(Ordering::Relaxed))),
            _ => Duration::ZERO,
        }
    }
}

/// A request that is being answered.
struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// A stream that notes when bytes are written.
struct Tracked {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Tracked {
    fn note(&self, result: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        if matches!(result, Poll::Ready(Ok(_))) {
            self.activity.touch();
        }
        self.activity.stalled.store(result.is_pending(), Ordering::Relaxed);
        result
    }
}

impl AsyncRead for Tracked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tracked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
