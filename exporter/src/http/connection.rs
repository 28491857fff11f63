//! One client's connection: its requests, and when it is given up.

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
use super::paths::{self, Peer};
use super::routes::{self, App, InFlight};
use super::turns::{Client, Paced, Turns};
use super::web_config::{Guard, H2};
use crate::lock;
use crate::self_metrics::handler::Closed;

/// The most that a request's head may hold.
const HEAD_BYTES: usize = 16 << 10;
/// The same over HTTP/2, where a connection has several.
const HTTP2_HEAD_BYTES: u32 = 8 << 10;
/// Requests whose path and query are longer are looked at one at a time: it costs as much as a small answer.
const LONG_URI_BYTES: usize = 1 << 10;
/// How long a connection may live without a first request, and how long a client may take nothing of an answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may lie idle; more than the usual scrape interval, so that Prometheus keeps its own.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);
/// How long a connection must have been idle to be given up for another: that one may be a probe with a second's time.
const CROWDED_IDLE_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a client may take for an answer, and how long nothing of it, while others need the room.
const CROWDED_UNREAD_TIMEOUT: Duration = Duration::from_secs(2);
const CROWDED_STALL_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a client may take for an answer, however steadily it takes it.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Encrypted bytes that wait for the client; the rest of an answer waits as it is, for all clients together.
const ENCRYPTED_BYTES: usize = 16 << 10;
/// How often a connection is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What Go's server tells a client that speaks plain HTTP to its TLS port.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// Requests of one HTTP/2 connection that are answered at once.
const STREAMS: u32 = 4;
/// Streams that are refused or fail over a connection's life before it is closed: a client may send about a hundred
/// before it is told how many it may.
const REFUSED_STREAMS: usize = 128;

/// Serves a connection until it ends, or is idle for too long, or others need its place, or the server stops.
pub(super) async fn serve(stream: TcpStream, server: &Server, peer: SocketAddr) {
    let client = peer.into();
    let activity = Arc::new(Activity::new());
    let stream = Tracked { stream, activity: Arc::clone(&activity) };
    let connection = Connection {
        app: Arc::clone(&server.app),
        places: Arc::clone(&server.places),
        client,
        peer: Peer(peer),
        activity: Arc::clone(&activity),
        leave: Arc::default(),
    };
    let closed = tokio::select! {
        () = connection.talk(stream, server.stopped.clone()) => return,
        closed = overdue(&activity, server, client) => closed,
    };
    server.app.handler().closed(closed);
}

/// Waits until a connection is to be closed, and says why.
async fn overdue(activity: &Activity, server: &Server, client: Client) -> Closed {
    let mut tick = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            () = server.pressure.notified() => {
                let crowded = server.places.are_short() && server.places.has_its_share(client);
                let unread_for = activity.unread_for();
                let unread = unread_for >= CROWDED_UNREAD_TIMEOUT
                    || unread_for.min(activity.quiet_for()) >= CROWDED_STALL_TIMEOUT;
                if unread && server.app.is_short_of_room() {
                    return Closed::Unread;
                }
                if crowded && (unread || activity.idle() >= CROWDED_IDLE_TIMEOUT) {
                    return Closed::Crowded;
                }
            }
            _ = tick.tick() => {
                let held_up = activity.is_held_up();
                if (held_up && activity.idle() >= STALL_TIMEOUT) || activity.unread_for() >= UNREAD_TIMEOUT {
                    return Closed::Slow;
                }
                if activity.idle() >= IDLE_TIMEOUT {
                    return Closed::Idle;
                }
            }
        }
    }
}

/// What the requests of a connection have in common.
#[derive(Clone)]
struct Connection {
    app: Arc<App>,
    places: Arc<Turns>,
    client: Client,
    peer: Peer,
    activity: Arc<Activity>,
    /// Notified when the connection shall end with what is being answered.
    leave: Arc<Notify>,
}

impl Connection {
    /// Encrypts the connection, where that is asked for, and speaks HTTP on it.
    async fn talk(self, stream: Tracked, mut stopping: watch::Receiver<bool>) {
        let tls = match self.app.guard.as_ref().map(Guard::accept).transpose() {
            Ok(tls) => tls.flatten(),
            // It is logged; there is no answer to give without a certificate.
            Err(_) => return,
        };
        let Some(tls) = tls else {
            return self.talk_http1(stream, false, stopping).await;
        };
        let stream = tokio::select! {
            stream = self.handshake(stream, tls) => stream,
            _ = stopping.wait_for(|stop| *stop) => None,
        };
        match stream {
            Some(stream) if stream.get_ref().1.alpn_protocol() == Some(H2) => {
                self.talk_http2(stream, stopping).await;
            }
            Some(stream) => self.talk_http1(stream, true, stopping).await,
            None => {}
        }
    }

    /// Keys are made and signed for when a whole ClientHello has come, one client after the other: anyone can send one.
    async fn handshake(&self, mut stream: Tracked, tls: Arc<ServerConfig>) -> Option<TlsStream<Tracked>> {
        // A request's first letter, where a handshake has 22.
        let mut first = [0];
        if stream.stream.peek(&mut first).await.is_ok_and(|read| read == 1) && first[0].is_ascii_uppercase() {
            // What came is read, lest the end of the connection overtake the answer.
            let _ = stream.read(&mut [0; HEAD_BYTES]).await;
            let _ = stream.write_all(NOT_TLS).await;
            let _ = stream.shutdown().await;
            return None;
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .inspect_err(log_handshake_error)
            .ok()?;
        let accept = || hello.into_stream_with(tls, |tls| tls.set_buffer_limit(Some(ENCRYPTED_BYTES)));
        // Who waits for a turn does not lie idle.
        let waiting = self.activity.busy();
        let turn = self.app.handshakes.turn(self.client).await?;
        drop(waiting);
        Paced::first_step(turn, accept).await.inspect_err(log_handshake_error).ok()
    }

    async fn talk_http1<S>(self, stream: S, encrypted: bool, stopping: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(2 * HEAD_BYTES)
            .max_headers(64)
            // A client that has said all it had to say may still wait for its answer.
            .half_close(true)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(|mut request: Request<Incoming>| {
                    if encrypted {
                        request.extensions_mut().insert(Encrypted);
                    }
                    self.answer(request)
                }),
            );
        finish(connection, &self.leave, stopping).await;
    }

    async fn talk_http2<S>(self, stream: S, stopping: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let leave = Arc::clone(&self.leave);
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HTTP2_HEAD_BYTES)
            // What a client sends besides its head is never read, and shall not be kept either.
            .initial_stream_window_size(HEAD_BYTES as u32)
            .max_send_buf_size(HEAD_BYTES)
            .max_local_error_reset_streams(REFUSED_STREAMS)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| {
                    let connection = self.clone();
                    async move { connection.answer(request).await }
                }),
            );
        finish(connection, &leave, stopping).await;
    }

    async fn respond(&self, request: &Request<Incoming>) -> Response<Bytes> {
        match (paths::refuse(request), &self.app.guard) {
            // Before the password: what is no request has none.
            (Some(refusal), _) => refusal,
            (None, Some(guard)) => guard.answer(&self.app, request).await,
            (None, None) => self.app.answer(request).await,
        }
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let running = self.activity.request();
        // One request of each connection at a time: a client may send many in one breath.
        tokio::task::yield_now().await;
        request.extensions_mut().insert(self.peer);
        let answer =
            match request.uri().path_and_query().is_some_and(|uri| uri.as_str().len() > LONG_URI_BYTES) {
                false => self.respond(&request).await,
                true => match timeout(STALL_TIMEOUT, self.app.long_requests.turn(self.client)).await {
                    Ok(Some(turn)) => Paced::first_step(turn, || Box::pin(self.respond(&request))).await,
                    _ => routes::text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "too many long requests at once; try again later",
                    ),
                },
            };
        if self.places.are_short() && self.places.has_its_share(self.client) {
            self.leave.notify_one();
        }
        let (mut head, bytes) = answer.into_parts();
        let in_flight = head.extensions.remove::<Arc<InFlight>>();
        let body = Body { bytes, _unread: self.activity.unread(), _in_flight: in_flight };
        drop(running);
        Ok(Response::from_parts(head, Full::new(Bytes::from_owner(body))))
    }
}

/// The bytes of an answer, until the last of them is written: only then its request has ended.
struct Body {
    bytes: Bytes,
    _unread: UnreadAnswer,
    _in_flight: Option<Arc<InFlight>>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Marks a request of HTTP/1.1 that came encrypted: its own words do not say so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encrypted;

/// Logs a handshake that failed, at debug: anyone can cause one.
fn log_handshake_error(error: &std::io::Error) {
    tracing::debug!(%error, "TLS handshake failed");
}

/// Drives a connection to its end; when it shall leave or the server stops, to the end of what is being answered.
async fn finish(connection: impl GracefulConnection, leave: &Notify, mut stopping: watch::Receiver<bool>) {
    tokio::pin!(connection);
    tokio::select! {
        // A broken connection is the client's business.
        _ = connection.as_mut() => return,
        () = leave.notified() => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// When a connection was last of use, and what of its requests is under way.
#[derive(Debug)]
struct Activity {
    start: Instant,
    /// When an answer, or a piece of one, was last written, in milliseconds after `start`. Nothing else is a sign of
    /// life: anyone can have a request trickle in for ever, or be answered pings.
    last_use: AtomicU64,
    running: AtomicUsize,
    /// When the answers were made that are not taken.
    unread: Mutex<Vec<Instant>>,
    requests: AtomicUsize,
    /// Whether the client's buffer is full.
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

    fn request(self: &Arc<Self>) -> Running {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.busy()
    }

    fn busy(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    fn unread(self: &Arc<Self>) -> UnreadAnswer {
        let since = Instant::now();
        lock(&self.unread).push(since);
        self.touch();
        UnreadAnswer { activity: Arc::clone(self), since }
    }

    fn touch(&self) {
        self.last_use.store(self.age_ms(), Ordering::Relaxed);
    }

    fn wrote(&self) {
        if !lock(&self.unread).is_empty() {
            self.touch();
        }
    }

    fn is_held_up(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
            || self.stalled.load(Ordering::Relaxed)
            || !lock(&self.unread).is_empty()
    }

    /// How long nothing has happened; nothing at all while a request is being answered.
    fn idle(&self) -> Duration {
        match self.running.load(Ordering::Relaxed) {
            0 => self.quiet_for(),
            _ => Duration::ZERO,
        }
    }

    /// How long nothing of an answer was written.
    fn quiet_for(&self) -> Duration {
        Duration::from_millis(self.age_ms().saturating_sub(self.last_use.load(Ordering::Relaxed)))
    }

    /// How long the oldest answer has not been taken.
    fn unread_for(&self) -> Duration {
        lock(&self.unread).iter().min().map_or(Duration::ZERO, Instant::elapsed)
    }
}

/// A request that is being answered, or a handshake that waits for its turn.
struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// An answer that is not taken.
struct UnreadAnswer {
    activity: Arc<Activity>,
    since: Instant,
}

impl Drop for UnreadAnswer {
    fn drop(&mut self) {
        let mut unread = lock(&self.activity.unread);
        if let Some(at) = unread.iter().position(|since| *since == self.since) {
            unread.swap_remove(at);
        }
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
            self.activity.wrote();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_those_of_the_document() {
        let document = include_str!("../../../docs/compatibility.md");
        for row in [
            format!("| an idle connection | kept | closed after {} s |", IDLE_TIMEOUT.as_secs()),
            format!("| HTTP/2 | 250 requests at once on a connection | {STREAMS} |"),
            format!(
                "| 1 MiB, and no time | {} KiB and 64 headers, over HTTP/2 {} KiB; ",
                HEAD_BYTES >> 10,
                HTTP2_HEAD_BYTES >> 10
            ),
            format!(
                "given up after {} s without progress or {} s in all; ",
                STALL_TIMEOUT.as_secs(),
                UNREAD_TIMEOUT.as_secs()
            ),
        ] {
            assert!(document.contains(&row), "{row}");
        }
    }

    use super::super::tests::{peer, server};

    /// How long until a connection with such an activity is closed, in milliseconds, and why.
    async fn closed_after(activity: &Activity, server: &Server, client: Client) -> (u128, Closed) {
        let start = Instant::now();
        let closed = overdue(activity, server, client).await;
        (start.elapsed().as_millis(), closed)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_after_its_time_and_one_without_a_request_sooner() {
        let server = server(1);
        let activity = Arc::new(Activity::new());
        let (after, closed) = closed_after(&activity, &server, peer(1).into()).await;
        assert!(closed == Closed::Slow && (10_000..15_000).contains(&after), "{closed:?} after {after} ms");
        let activity = Arc::new(Activity::new());
        drop(activity.request());
        let (after, closed) = closed_after(&activity, &server, peer(1).into()).await;
        assert!(closed == Closed::Idle && (150_000..155_001).contains(&after), "{closed:?} after {after} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn while_others_wait_a_connection_of_who_has_its_share_gives_way_after_200_ms_of_idling() {
        let server = server(1);
        let client = peer(1).into();
        let _held = server.places.wait(client).await.unwrap();
        let activity = Arc::new(Activity::new());
        drop(activity.request());
        let others = Arc::clone(&server.places);
        tokio::spawn(async move { others.wait(peer(2).into()).await.is_some() });
        tokio::spawn(server.clone().press());
        tokio::task::yield_now().await;
        server.app.unread().press();
        let (after, closed) = closed_after(&activity, &server, client).await;
        assert!(closed == Closed::Crowded && (200..250).contains(&after), "{closed:?} after {after} ms");
    }

    #[tokio::test]
    async fn an_http2_client_is_told_how_many_requests_it_may_make_at_once_and_how_long_a_head_may_be() {
        let server = server(1);
        let connection = Connection {
            app: Arc::clone(&server.app),
            places: Arc::clone(&server.places),
            client: peer(1).into(),
            peer: Peer(peer(1)),
            activity: Arc::new(Activity::new()),
            leave: Arc::default(),
        };
        let (mut client, served) = tokio::io::duplex(4096);
        let talk = tokio::spawn(connection.talk_http2(served, server.stopped.clone()));
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
        talk.abort();
    }
}
