//! The response to a read: chunks on their way to the client, in a queue of a bounded number of bytes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keyhole_proto::Encoded;
use tokio::sync::Notify;
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

use crate::lock;

/// The most bytes that wait for a client; one more chunk may exceed them.
const MAX_QUEUED_BYTES: usize = 128 << 10;

/// With this many bytes in the queue the client's connection is woken: several HTTP/2 frames go out in one write.
const BATCH_BYTES: usize = 64 << 10;

/// Fewer bytes wait at most this long before the connection is woken.
const BATCH_TIME: Duration = Duration::from_millis(5);

/// How often [`ResponseQueue::watch_client`] checks.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The most time that a client may take for its next chunk while it holds the permit.
const TAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// The most time in total for which other clients wait for one that holds the permit.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(150);

/// The queue between the readers and the client's stream.
#[derive(Debug, Default)]
pub struct ResponseQueue {
    state: Mutex<State>,
    /// Notified when the client has taken a chunk or cancelled the read.
    progress: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// Since when the oldest chunk waits; none if the connection was woken since.
    oldest_since: Option<Instant>,
    /// The number of chunks that the client has taken.
    taken: u64,
    /// Whether the response is finished, and with which error.
    end: Option<Option<Status>>,
    waker: Option<Waker>,
    cancelled: bool,
}

impl State {
    fn wake(&mut self) {
        self.oldest_since = None;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The bytes that a chunk counts for: its content, and the memory around it.
fn cost(chunk: &Bytes) -> usize {
    const OVERHEAD: usize = 64;
    chunk.len() + OVERHEAD
}

/// The client did not take its response in time.
#[derive(Debug)]
pub struct TimedOut;

impl ResponseQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Adds a chunk; waits while the queue is full.
    pub async fn push(&self, chunk: Bytes) {
        loop {
            {
                let mut state = self.state();
                if state.bytes < MAX_QUEUED_BYTES {
                    state.bytes += cost(&chunk);
                    state.chunks.push_back(chunk);
                    state.oldest_since.get_or_insert_with(Instant::now);
                    if state.bytes >= BATCH_BYTES {
                        state.wake();
                    }
                    return;
                }
            }
            self.progress.notified().await;
        }
    }

    /// Ends the response after the chunks in the queue, or replaces these by an error: a client that takes nothing must
    /// not keep their memory.
    pub fn finish(&self, error: Option<Status>) {
        let mut state = self.state();
        if error.is_some() {
            (state.chunks, state.bytes) = (VecDeque::new(), 0);
        }
        state.end = Some(error);
        state.wake();
    }

    /// Waits until the client has cancelled the read.
    pub async fn cancelled(&self) {
        while !self.state().cancelled {
            self.progress.notified().await;
        }
    }

    /// Wakes the connection when chunks have waited for `BATCH_TIME`; returns when the client is too slow.
    /// `others_wait` returns whether other clients wait for this one.
    pub async fn watch_client(&self, others_wait: impl Fn() -> bool) -> TimedOut {
        let (mut taken, mut since, mut others_waited) = (0, Instant::now(), Duration::ZERO);
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let mut state = self.state();
            if state.oldest_since.is_some_and(|since| since.elapsed() >= BATCH_TIME) {
                state.wake();
            }
            let progress = state.taken != taken;
            if progress || state.chunks.is_empty() {
                (taken, since) = (state.taken, Instant::now());
            }
            if !state.chunks.is_empty() && others_wait() {
                // A client that makes progress, however slowly, may take twice as long.
                others_waited += if progress { POLL_INTERVAL / 2 } else { POLL_INTERVAL };
            }
            if since.elapsed() >= TAKE_TIMEOUT || others_waited >= OTHERS_TIMEOUT {
                return TimedOut;
            }
        }
    }

    /// Waits until the client has taken every chunk.
    pub async fn drained(&self) {
        while !self.state().chunks.is_empty() {
            self.progress.notified().await;
        }
    }
}

/// The stream that the gRPC server sends to the client.
#[derive(Debug)]
pub struct ResponseStream(pub Arc<ResponseQueue>);

impl ResponseStream {
    /// Waits for the first chunks, or for the end: so the response headers go out with them in one write.
    pub async fn started(&self) {
        poll_fn(|context| {
            let mut state = self.0.state();
            let ready = state.oldest_since.is_none() && !state.chunks.is_empty();
            if ready || state.end.is_some() {
                return Poll::Ready(());
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Stream for ResponseStream {
    type Item = Result<Encoded, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state();
        if let Some(chunk) = state.chunks.pop_front() {
            state.bytes -= cost(&chunk);
            state.taken += 1;
            if state.chunks.is_empty() {
                state.oldest_since = None;
            }
            self.0.progress.notify_waiters();
            return Poll::Ready(Some(Ok(Encoded(chunk))));
        }
        if let Some(end) = &mut state.end {
            return Poll::Ready(end.take().map(Err));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        self.0.state().cancelled = true;
        self.0.progress.notify_waiters();
    }
}
