//! An answer on its way to a client: chunks that wait to be taken, a bounded number of bytes of them.

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

/// So many bytes wait for a client at most, and one chunk.
const BYTES: usize = 128 << 10;

/// So many are handed to the client's connection at once: several of its frames go out in one write.
const BATCH_BYTES: usize = 64 << 10;

/// Fewer are handed over after this time.
const BATCH_TIME: Duration = Duration::from_millis(5);

/// How often [`Answer::watch`] looks.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The most time that a client may take for the next of its answer while it has the only permit.
const TAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// The most time in all that others wait for a client that has the permit.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(150);

/// What there is of an answer.
#[derive(Debug, Default)]
pub struct Answer {
    state: Mutex<State>,
    /// The client has taken something, or wants no more.
    progress: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// Since when the oldest of them waits to be handed over.
    since: Option<Instant>,
    /// Counts what the client has taken.
    taken: u64,
    /// How it ended, when it has.
    end: Option<Option<Status>>,
    waker: Option<Waker>,
    abandoned: bool,
}

impl State {
    fn wake(&mut self) {
        self.since = None;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What a chunk takes of the bytes that may wait: an empty one takes memory too.
fn cost(chunk: &Bytes) -> usize {
    const BESIDE_IT: usize = 64;
    chunk.len() + BESIDE_IT
}

/// A client that did not take its answer in time.
#[derive(Debug)]
pub struct TimedOut;

impl Answer {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Adds a chunk; waits while too many bytes have not been taken.
    pub async fn put(&self, chunk: Bytes) {
        loop {
            {
                let mut state = self.state();
                if state.bytes < BYTES {
                    state.bytes += cost(&chunk);
                    state.chunks.push_back(chunk);
                    state.since.get_or_insert_with(Instant::now);
                    if state.bytes >= BATCH_BYTES {
                        state.wake();
                    }
                    return;
                }
            }
            self.progress.notified().await;
        }
    }

    /// Ends it: after what was put, or with an error in its place. What is not taken would keep memory for good.
    pub fn end(&self, error: Option<Status>) {
        let mut state = self.state();
        if error.is_some() {
            (state.chunks, state.bytes) = (VecDeque::new(), 0);
        }
        state.end = Some(error);
        state.wake();
    }

    /// Waits until the client wants no more.
    pub async fn abandoned(&self) {
        while !self.state().abandoned {
            self.progress.notified().await;
        }
    }

    /// Hands over what has waited long enough, for as long as the client takes it. `others` says whether other
    /// clients wait for this one.
    pub async fn watch(&self, others: impl Fn() -> bool) -> TimedOut {
        let (mut taken, mut since, mut others_waited) = (0, Instant::now(), Duration::ZERO);
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let mut state = self.state();
            if state.since.is_some_and(|since| since.elapsed() >= BATCH_TIME) {
                state.wake();
            }
            let progress = state.taken != taken;
            if progress || state.chunks.is_empty() {
                (taken, since) = (state.taken, Instant::now());
            }
            if !state.chunks.is_empty() && others() {
                // A client that takes it, however slowly, may take twice as long.
                others_waited += if progress { POLL_INTERVAL / 2 } else { POLL_INTERVAL };
            }
            if since.elapsed() >= TAKE_TIMEOUT || others_waited >= OTHERS_TIMEOUT {
                return TimedOut;
            }
        }
    }

    /// Waits until everything that was put has been taken.
    pub async fn drained(&self) {
        while !self.state().chunks.is_empty() {
            self.progress.notified().await;
        }
    }
}

/// The client's end of an answer.
#[derive(Debug)]
pub struct Chunks(pub Arc<Answer>);

impl Chunks {
    /// Waits for the first of it, or its end: the head of an answer then goes out with it, in one write.
    pub async fn begun(&self) {
        poll_fn(|context| {
            let mut state = self.0.state();
            let ready = state.since.is_none() && !state.chunks.is_empty();
            if ready || state.end.is_some() {
                return Poll::Ready(());
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Stream for Chunks {
    type Item = Result<Encoded, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state();
        if let Some(chunk) = state.chunks.pop_front() {
            state.bytes -= cost(&chunk);
            state.taken += 1;
            if state.chunks.is_empty() {
                state.since = None;
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

impl Drop for Chunks {
    fn drop(&mut self) {
        self.0.state().abandoned = true;
        self.0.progress.notify_waiters();
    }
}
