//! One connection: TLS, its requests, and when it is closed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::Server;
use super::client::Client;
use super::fair_semaphore::FairSemaphore;
use super::paths::{self, Peer};
use super::routes::{self, App, InFlight};
use super::throttle::Throttle;
use super::web_config::{H2, WebConfig};
use crate::lock;
use crate::self_metrics::server::CloseReason;

/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The same over HTTP/2, where a connection may have several requests at once.
const HTTP2_MAX_HEAD_BYTES: u32 = 8 << 10;
/// Requests with a longer path and query are processed one at a time: parsing them costs as much as a small response.
const LONG_URI_BYTES: usize = 1 << 10;
/// How long a connection may last without a first request, and how long a client may read nothing of a response.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be idle: more than the usual scrape interval, so that Prometheus can reuse its connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);
/// How long a connection must be idle to be evicted while others wait; short, since a waiting probe has one second.
const EVICTION_IDLE_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a client may take to read a response, and how long it may read nothing, while others need the memory.
const EVICTION_UNREAD_TIMEOUT: Duration = Duration::from_secs(2);
const EVICTION_STALL_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a client may take to read a response, however steadily.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The most encrypted bytes that wait for the client. The rest of a response waits unencrypted, in memory that all
/// clients of the same scrape share.
const TLS_BUFFER_BYTES: usize = 16 << 10;
/// How often the timeouts of a connection are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The response of Go's server to plain HTTP on its TLS port.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// The most concurrent requests of an HTTP/2 connection.
const MAX_STREAMS: u32 = 4;
/// The most streams of a connection that may be refused or fail before it is closed. A client may open about a hundred
/// before it learns the limit.
const MAX_REFUSED_STREAMS: usize = 128;

/// Serves a connection until it ends, times out or is evicted, or the server stops.
pub(super) async fn serve(stream: TcpStream, server: &Server, peer: SocketAddr) {
    let client = peer.into();
    let activity = Arc::new(Activity::new());
    let stream = TrackedStream { stream, activity: Arc::clone(&activity) };
    let connection = Connection {
        app: Arc::clone(&server.app),
        connection_permits: Arc::clone(&server.connection_permits),
        client,
        peer: Peer(peer),
        activity: Arc::clone(&activity),
        shutdown: Arc::default(),
    };
    let closed = tokio::select! {
        () = connection.run(stream, server.stopped.clone()) => return,
        closed = close_reason(&activity, server, client) => closed,
    };
    server.app.server_metrics().count_closed(closed);
}

/// Waits until a connection must be closed; returns the reason.
async fn close_reason(activity: &Activity, server: &Server, client: Client) -> CloseReason {
    let mut tick = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            () = server.evict.notified() => {
                let may_evict = server.connection_permits.has_waiters() && server.connection_permits.holds_fair_share(client);
                let unread_for = activity.unread_for();
                let unread = unread_for >= EVICTION_UNREAD_TIMEOUT
                    || unread_for.min(activity.since_last_write()) >= EVICTION_STALL_TIMEOUT;
                if unread && server.app.lacks_response_memory() {
                    return CloseReason::Unread;
                }
                if may_evict && (unread || activity.idle_for() >= EVICTION_IDLE_TIMEOUT) {
                    return CloseReason::Evicted;
                }
            }
            _ = tick.tick() => {
                let waits_for_client = activity.waits_for_client();
                if (waits_for_client && activity.idle_for() >= STALL_TIMEOUT) || activity.unread_for() >= UNREAD_TIMEOUT {
                    return CloseReason::Slow;
                }
                if activity.idle_for() >= IDLE_TIMEOUT {
                    return CloseReason::Idle;
                }
            }
        }
    }
}

/// The state that the requests of a connection share.
#[derive(Clone)]
struct Connection {
    app: Arc<App>,
    connection_permits: Arc<FairSemaphore>,
    client: Client,
    peer: Peer,
    activity: Arc<Activity>,
    /// Notified when the connection is to end after the response in progress.
    shutdown: Arc<Notify>,
}

impl Connection {
    /// Does the TLS handshake if TLS is configured, and serves HTTP.
    async fn run(self, stream: TrackedStream, mut stopped: watch::Receiver<bool>) {
        let tls = match self.app.web_config.as_ref().map(WebConfig::tls_config).transpose() {
            Ok(tls) => tls.flatten(),
            // Already logged; without a certificate there is nothing to respond.
            Err(_) => return,
        };
        let Some(tls) = tls else {
            return self.serve_http1(stream, false, stopped).await;
        };
        let stream = tokio::select! {
            stream = self.handshake(stream, tls) => stream,
            _ = stopped.wait_for(|stop| *stop) => None,
        };
        match stream {
            Some(stream) if stream.get_ref().1.alpn_protocol() == Some(H2) => {
                self.serve_http2(stream, stopped).await;
            }
            Some(stream) => self.serve_http1(stream, true, stopped).await,
            None => {}
        }
    }

    /// Does the TLS handshake. Its expensive part, the key exchange, waits for a complete ClientHello and for a permit,
    /// since any client can cause one.
    async fn handshake(
        &self,
        mut stream: TrackedStream,
        tls: Arc<ServerConfig>,
    ) -> Option<TlsStream<TrackedStream>> {
        // An HTTP method begins with a letter, a TLS handshake with 22.
        let mut first = [0];
        if stream.stream.peek(&mut first).await.is_ok_and(|read| read == 1) && first[0].is_ascii_uppercase() {
            // Read the request first: closing with unread data would reset the connection and lose the response.
            let _ = stream.read(&mut [0; MAX_HEAD_BYTES]).await;
            let _ = stream.write_all(NOT_TLS).await;
            let _ = stream.shutdown().await;
            return None;
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .inspect_err(log_handshake_error)
            .ok()?;
        let accept = || hello.into_stream_with(tls, |tls| tls.set_buffer_limit(Some(TLS_BUFFER_BYTES)));
        // A connection that waits for the permit is not idle.
        let waiting = self.activity.begin();
        let permit = self.app.handshakes.acquire(self.client).await?;
        drop(waiting);
        Throttle::run_first_poll(permit, accept).await.inspect_err(log_handshake_error).ok()
    }

    async fn serve_http1<S>(self, stream: S, encrypted: bool, stopped: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .max_headers(64)
            // A client may close its sending side and still wait for the response.
            .half_close(true)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(|mut request: Request<Incoming>| {
                    if encrypted {
                        request.extensions_mut().insert(OverTls);
                    }
                    self.respond(request)
                }),
            );
        finish(connection, &self.shutdown, stopped).await;
    }

    async fn serve_http2<S>(self, stream: S, stopped: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shutdown = Arc::clone(&self.shutdown);
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(HTTP2_MAX_HEAD_BYTES)
            // Request bodies are never read, so little of them may be buffered.
            .initial_stream_window_size(MAX_HEAD_BYTES as u32)
            .max_send_buf_size(MAX_HEAD_BYTES)
            .max_local_error_reset_streams(MAX_REFUSED_STREAMS)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| {
                    let connection = self.clone();
                    async move { connection.respond(request).await }
                }),
            );
        finish(connection, &shutdown, stopped).await;
    }

    async fn response(&self, request: &Request<Incoming>) -> Response<Bytes> {
        match (paths::reject_malformed(request), &self.app.web_config) {
            // Before authentication: a malformed request may have ambiguous headers.
            (Some(refusal), _) => refusal,
            (None, Some(web_config)) => web_config.respond(&self.app, request).await,
            (None, None) => self.app.respond(request).await,
        }
    }

    async fn respond(&self, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let running = self.activity.begin_request();
        // Lets other connections run: a client may pipeline many requests.
        tokio::task::yield_now().await;
        request.extensions_mut().insert(self.peer);
        let is_long = request.uri().path_and_query().is_some_and(|uri| uri.as_str().len() > LONG_URI_BYTES);
        let response = if is_long {
            match timeout(STALL_TIMEOUT, self.app.long_requests.acquire(self.client)).await {
                Ok(Some(permit)) => {
                    Throttle::run_first_poll(permit, || Box::pin(self.response(&request))).await
                }
                _ => routes::text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "this request was not answered: its path and query are long, and too many such requests came at once; shorten \
                     it, or try again later",
                ),
            }
        } else {
            self.response(&request).await
        };
        if self.connection_permits.has_waiters() && self.connection_permits.holds_fair_share(self.client) {
            self.shutdown.notify_one();
        }
        let (mut head, bytes) = response.into_parts();
        let in_flight = head.extensions.remove::<Arc<InFlight>>();
        let body = Body { bytes, _unread: self.activity.begin_response(), _in_flight: in_flight };
        drop(running);
        Ok(Response::from_parts(head, Full::new(Bytes::from_owner(body))))
    }
}

/// The body of a response. Its request counts as in flight until the last byte is written and this is dropped.
struct Body {
    bytes: Bytes,
    _unread: UnreadResponse,
    _in_flight: Option<Arc<InFlight>>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Marks a request that came over TLS, which an HTTP/1.1 request itself does not say.
#[derive(Debug, Clone, Copy)]
pub(super) struct OverTls;

/// Logs a failed handshake, at level debug since any client can cause one.
fn log_handshake_error(error: &std::io::Error) {
    tracing::debug!(%error, "TLS handshake failed");
}

/// Runs a connection to its end, or after `shutdown` or `stopped` to the end of the response in progress.
async fn finish(connection: impl GracefulConnection, shutdown: &Notify, mut stopped: watch::Receiver<bool>) {
    tokio::pin!(connection);
    tokio::select! {
        // Errors of a connection are not ours to report.
        _ = connection.as_mut() => return,
        () = shutdown.notified() => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// When a connection was last used, and its requests in progress.
#[derive(Debug)]
struct Activity {
    start: Instant,
    /// When response bytes were last written, in milliseconds after `start`. Received bytes do not count: a client could
    /// send a request slowly forever, or pings.
    last_use: AtomicU64,
    running: AtomicUsize,
    /// The times of the responses that are not fully written yet.
    unread: Mutex<Vec<Instant>>,
    requests: AtomicUsize,
    /// Whether a write has to wait for the client.
    stalled: AtomicBool,
}

impl Activity {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last_use: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            unread: Mutex::default(),
            requests: AtomicUsize::new(0),
            stalled: AtomicBool::new(false),
        }
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn begin_request(self: &Arc<Self>) -> ActiveRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.begin()
    }

    fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.running.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(Arc::clone(self))
    }

    fn begin_response(self: &Arc<Self>) -> UnreadResponse {
        let since = Instant::now();
        lock(&self.unread).push(since);
        self.touch();
        UnreadResponse { activity: Arc::clone(self), since }
    }

    fn touch(&self) {
        self.last_use.store(self.age_ms(), Ordering::Relaxed);
    }

    fn wrote(&self) {
        if !lock(&self.unread).is_empty() {
            self.touch();
        }
    }

    fn waits_for_client(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
            || self.stalled.load(Ordering::Relaxed)
            || !lock(&self.unread).is_empty()
    }

    /// How long nothing was written; zero while a request is being processed.
    fn idle_for(&self) -> Duration {
        match self.running.load(Ordering::Relaxed) {
            0 => self.since_last_write(),
            _ => Duration::ZERO,
        }
    }

    /// How long no response bytes were written.
    fn since_last_write(&self) -> Duration {
        Duration::from_millis(self.age_ms().saturating_sub(self.last_use.load(Ordering::Relaxed)))
    }

    /// The age of the oldest response that is not fully written.
    fn unread_for(&self) -> Duration {
        lock(&self.unread).iter().min().map_or(Duration::ZERO, Instant::elapsed)
    }
}

/// A request that is being processed, or a handshake that waits for its permit.
struct ActiveRequest(Arc<Activity>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// A response that is not fully written.
struct UnreadResponse {
    activity: Arc<Activity>,
    since: Instant,
}

impl Drop for UnreadResponse {
    fn drop(&mut self) {
        let mut unread = lock(&self.activity.unread);
        if let Some(at) = unread.iter().position(|since| *since == self.since) {
            unread.swap_remove(at);
        }
    }
}

/// A stream that records when bytes are written.
struct TrackedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl TrackedStream {
    fn note(&self, result: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        if matches!(result, Poll::Ready(Ok(_))) {
            self.activity.wrote();
        }
        self.activity.stalled.store(result.is_pending(), Ordering::Relaxed);
        result
    }
}

impl AsyncRead for TrackedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TrackedStream {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_documented() {
        let document = include_str!("../../../docs/compatibility.md");
        for row in [
            format!("| an idle connection | kept | closed after {} s |", IDLE_TIMEOUT.as_secs()),
            format!("| HTTP/2 | 250 requests at once on a connection | {MAX_STREAMS} |"),
            format!(
                "| 1 MiB, and no time | {} KiB and 64 headers, over HTTP/2 {} KiB; ",
                MAX_HEAD_BYTES >> 10,
                HTTP2_MAX_HEAD_BYTES >> 10
            ),
            format!(
                "closed after {} s without progress or {} s in all; ",
                STALL_TIMEOUT.as_secs(),
                UNREAD_TIMEOUT.as_secs()
            ),
        ] {
            assert!(document.contains(&row), "{row}");
        }
    }

    use super::super::tests::{peer, server};

    /// After how many milliseconds a connection with this activity is closed, and why.
    async fn closed_after(activity: &Activity, server: &Server, client: Client) -> (u128, CloseReason) {
        let start = Instant::now();
        let closed = close_reason(activity, server, client).await;
        (start.elapsed().as_millis(), closed)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_after_150_s_and_one_without_a_request_after_10_s() {
        let server = server(1);
        let activity = Arc::new(Activity::new());
        let (after, closed) = closed_after(&activity, &server, peer(1).into()).await;
        assert!(
            closed == CloseReason::Slow && (10_000..15_000).contains(&after),
            "{closed:?} after {after} ms"
        );
        let activity = Arc::new(Activity::new());
        drop(activity.begin_request());
        let (after, closed) = closed_after(&activity, &server, peer(1).into()).await;
        assert!(
            closed == CloseReason::Idle && (150_000..155_001).contains(&after),
            "{closed:?} after {after} ms"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn while_others_wait_an_idle_connection_of_a_client_with_its_fair_share_is_evicted_after_200_ms() {
        let server = server(1);
        let client = peer(1).into();
        let _held = server.connection_permits.acquire(client).await.unwrap();
        let activity = Arc::new(Activity::new());
        drop(activity.begin_request());
        let others = Arc::clone(&server.connection_permits);
        tokio::spawn(async move { others.acquire(peer(2).into()).await.is_some() });
        tokio::spawn(server.clone().run_evictions());
        tokio::task::yield_now().await;
        server.app.unread().request_eviction();
        let (after, closed) = closed_after(&activity, &server, client).await;
        assert!(closed == CloseReason::Evicted && (200..250).contains(&after), "{closed:?} after {after} ms");
    }

    #[tokio::test]
    async fn http2_settings_announce_the_limits_of_concurrent_streams_and_header_size() {
        let server = server(1);
        let connection = Connection {
            app: Arc::clone(&server.app),
            connection_permits: Arc::clone(&server.connection_permits),
            client: peer(1).into(),
            peer: Peer(peer(1)),
            activity: Arc::new(Activity::new()),
            shutdown: Arc::default(),
        };
        let (mut client, served) = tokio::io::duplex(4096);
        let run = tokio::spawn(connection.serve_http2(served, server.stopped.clone()));
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // RFC 9113 6.5: the length of the frame, its type, flags and stream; then each setting and its value.
        let mut head = [0; 9];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], 4, "SETTINGS");
        let mut settings = vec![0; usize::from(head[2])];
        client.read_exact(&mut settings).await.unwrap();
        let value = |id: u8| {
            let setting = settings.chunks_exact(6).find(|setting| setting[..2] == [0, id]);
            setting.map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()))
        };
        assert_eq!((value(3), value(6)), (Some(4), Some(8 << 10)));
        run.abort();
    }
}
