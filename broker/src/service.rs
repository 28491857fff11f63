//! The gRPC service: the contract over lanes and host.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyhole_os::Layer;
use keyhole_policy::{Rung, TABLE, row};
use keyhole_proto::Encoded;
use keyhole_proto::server::broker_server;
use keyhole_proto::v1::{
    self, Counters, DescribeRequest, DescribeResponse, Query, QueryDescription, ReadRequest,
};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::lanes::Lanes;
use crate::limit::Client;
use crate::lock;
use crate::part::Part;

/// The most time from a read's begin to its end, waiting for the client included.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// The most time that a client may take for one batch while it has the only turn.
const BATCH_DEADLINE: Duration = Duration::from_secs(2);

/// The most time in all that others wait for a client that has the turn.
const PATIENCE: Duration = Duration::from_millis(150);

/// How often to look whether others wait.
const LOOK: Duration = Duration::from_millis(50);

/// Who is on the other end of a connection; put into each of its requests by the listener.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What its uid, as the kernel gave it at connect, has taken.
    pub client: Arc<Client>,
    /// One read of a connection stands in its uid's line.
    pub turn: Arc<Semaphore>,
}

/// What is counted since the start.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused: for their peer's uid, or because it had or made too many.
    pub refused_peers: AtomicU64,
    /// Connections that asked nothing in time.
    pub late_handshakes: AtomicU64,
    /// Reads begun.
    pub reads: AtomicU64,
    /// Connections that could not be accepted, for want of descriptors or memory.
    pub failed_accepts: AtomicU64,
    /// Requests answered RESOURCE_EXHAUSTED.
    pub limited_requests: AtomicU64,
}

/// The service; cheap to clone.
#[derive(Debug, Clone)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lanes: Lanes,
    layers: Vec<Layer>,
    uid: u32,
    start_time_ms: u64,
    tally: Arc<Tally>,
    /// One read at a time.
    turn: Semaphore,
    /// Held by each read that waits for the turn of another connection.
    waiting: Arc<()>,
}

impl Service {
    /// A service over `lanes`, for a process with these layers and this uid.
    pub fn new(lanes: Lanes, layers: Vec<Layer>, uid: u32, tally: Arc<Tally>) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(Inner {
            lanes,
            layers,
            uid,
            start_time_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            tally,
            turn: Semaphore::new(1),
            waiting: Arc::default(),
        }))
    }

    /// Whether anything can be read at all.
    pub fn is_healthy(&self) -> bool {
        !self.0.lanes.all_stuck()
    }

    /// Who asks, unless it has asked too often.
    fn admit<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("the peer's uid is not known"))?;
        if peer.client.ask() {
            return Ok(peer.clone());
        }
        self.0.tally.limited_requests.fetch_add(1, Ordering::Relaxed);
        Err(Status::resource_exhausted("too many requests from this uid: ask again later"))
    }

    fn describe_query(&self, row: &keyhole_policy::Row) -> QueryDescription {
        let lanes = &self.0.lanes;
        let reason = lanes.host().reason(row.query);
        QueryDescription {
            query: row.query.into(),
            patterns: row.sources.iter().map(|s| format!("{}/{}", s.root.name(), s.pattern)).collect(),
            rung: wire_rung(row.rung).into(),
            available: reason.is_none(),
            reason: reason.unwrap_or_default(),
            stuck: lanes.is_stuck(row.query),
        }
    }
}

fn wire_rung(rung: Rung) -> v1::Rung {
    match rung {
        Rung::Own => v1::Rung::Own,
        Rung::Host => v1::Rung::Host,
    }
}

fn wire_view(is_hosts: bool) -> v1::View {
    if is_hosts { v1::View::Host } else { v1::View::Container }
}

/// The queries of a request: at least one, each known, none twice.
fn parse(request: ReadRequest) -> Result<Vec<Query>, Status> {
    // Longer than the table cannot be valid: refuse before looking.
    if request.queries.is_empty() || request.queries.len() > TABLE.len() {
        return Err(Status::invalid_argument("ask for at least one query, and for each at most once"));
    }
    let mut queries = Vec::with_capacity(request.queries.len());
    for value in request.queries {
        let known = Query::try_from(value).ok().filter(|query| row(*query).is_some());
        let query = known.ok_or_else(|| Status::invalid_argument(format!("{value} is not a query")))?;
        if queries.contains(&query) {
            return Err(Status::invalid_argument(format!("{} is asked twice", query.as_str_name())));
        }
        queries.push(query);
    }
    Ok(queries)
}

/// An answer on its way to its client. What the client does not take can be taken back: it would keep memory for good.
#[derive(Debug, Default)]
struct Answer {
    state: Mutex<AnswerState>,
    /// The client has taken everything that was there.
    taken: Notify,
    /// The client wants no more.
    left: Notify,
}

#[derive(Debug, Default)]
struct AnswerState {
    parts: VecDeque<Part>,
    /// How it ended, when it has.
    end: Option<Option<Status>>,
    waker: Option<Waker>,
}

impl Answer {
    fn state(&self) -> MutexGuard<'_, AnswerState> {
        lock(&self.state)
    }

    /// Adds a batch; those of one batch go out in few writes, and so does the end after the last.
    fn put(&self, batch: Vec<Part>, last: bool) {
        let mut state = self.state();
        state.parts.extend(batch);
        if last {
            state.end = Some(None);
        }
        state.wake();
    }

    /// Whether the client has taken everything.
    fn is_empty(&self) -> bool {
        self.state().parts.is_empty()
    }

    /// Ends it: as it is, or with an error in the place of what was not taken.
    fn end(&self, error: Option<Status>) {
        let mut state = self.state();
        if error.is_some() {
            state.parts = VecDeque::new();
        }
        state.end = Some(error);
        state.wake();
    }
}

impl AnswerState {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The client's end of an answer.
#[derive(Debug)]
pub struct Parts(Arc<Answer>);

impl Parts {
    /// Waits for the first of it, or its end: the head of an answer then goes out with it, in one write.
    async fn begun(&self) {
        poll_fn(|context| {
            let mut state = self.0.state();
            if !state.parts.is_empty() || state.end.is_some() {
                return Poll::Ready(());
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Stream for Parts {
    type Item = Result<Encoded, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state();
        if let Some(part) = state.parts.pop_front() {
            if state.parts.is_empty() {
                self.0.taken.notify_one();
            }
            return Poll::Ready(Some(Ok(part.into())));
        }
        if let Some(end) = &mut state.end {
            return Poll::Ready(end.take().map(Err));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.0.left.notify_one();
    }
}

#[tonic::async_trait]
impl broker_server::Broker for Service {
    type ReadStream = Parts;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let peer = self.admit(&request)?;
        let queries = parse(request.into_inner())?;
        let inner = self.0.clone();
        inner.tally.reads.fetch_add(1, Ordering::Relaxed);
        let answer = Arc::new(Answer::default());
        let parts = Parts(answer.clone());
        // A task of its own: the stream is not polled while the client does not read, and time must go on.
        tokio::spawn(async move {
            let read = tokio::select! {
                read = timeout(READ_DEADLINE, inner.answer(&peer, queries, &answer)) => read,
                // Nobody waits for it any more: its turn is for others.
                () = answer.left.notified() => return,
            };
            answer.end(match read {
                Ok(Ok(())) => None,
                _ => Some(Status::deadline_exceeded("the answer was not taken in time")),
            });
        });
        parts.begun().await;
        Ok(Response::new(parts))
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        self.admit(&request)?;
        let Inner { lanes, layers, uid, start_time_ms, tally, .. } = &*self.0;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let view = lanes.host().view();
        let rung = match (view.proc_is_hosts, uid) {
            (false, _) => v1::Rung::Own,
            (true, 0) => v1::Rung::RootFiles,
            (true, _) => v1::Rung::Host,
        };
        Ok(Response::new(DescribeResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uid: *uid,
            rung: rung.into(),
            proc_view: wire_view(view.proc_is_hosts).into(),
            sys_view: wire_view(view.sys_is_hosts).into(),
            layers: layers.iter().map(wire_layer).collect(),
            queries: TABLE.iter().map(|row| self.describe_query(row)).collect(),
            start_time_ms: *start_time_ms,
            counters: Some(Counters {
                connections: count(&tally.connections),
                refused_peers: count(&tally.refused_peers),
                late_handshakes: count(&tally.late_handshakes),
                reads: count(&tally.reads),
                limited_requests: count(&tally.limited_requests),
                stuck_queries: lanes.stuck_queries(),
                lanes_stuck: lanes.stuck_lanes() as u64,
                failed_accepts: count(&tally.failed_accepts),
            }),
        }))
    }
}

fn wire_layer(layer: &Layer) -> v1::Layer {
    v1::Layer { name: layer.name.to_owned(), in_force: layer.in_force, detail: layer.detail.clone() }
}

/// A client that did not take its answer in time.
struct Late;

/// The time that a client's read has taken so far; charged however the read ends, a client's leaving included.
struct Bill<'c> {
    client: &'c Client,
    read: Duration,
    /// Since when it reads; none while it waits for its client.
    since: Option<Instant>,
}

impl<'c> Bill<'c> {
    fn of(client: &'c Client) -> Self {
        Self { client, read: Duration::ZERO, since: Some(Instant::now()) }
    }

    fn pause(&mut self) {
        self.read += self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
    }
}

impl Drop for Bill<'_> {
    fn drop(&mut self) {
        self.pause();
        self.client.charge(self.read);
    }
}

impl Inner {
    /// Reads `queries` and gives what comes, until the client has it all or is too slow.
    async fn answer(&self, peer: &Peer, queries: Vec<Query>, answer: &Answer) -> Result<(), Late> {
        // The reads of a connection take turns, the connections of a uid do, and uids do. The turn is kept until everything
        // was taken: only one answer is in memory at a time.
        let Ok(_of_connection) = peer.turn.acquire().await else { return Ok(()) };
        let waits = self.waiting.clone();
        let Ok(_of_uid) = peer.client.turn.acquire().await else { return Ok(()) };
        let Ok(_turn) = self.turn.acquire().await else { return Ok(()) };
        drop(waits);
        let mut reading = self.lanes.begin(queries).await;
        let (mut bill, mut waited) = (Bill::of(&peer.client), Duration::ZERO);
        while let Some(batch) = reading.next().await {
            bill.pause();
            answer.put(batch, reading.is_over());
            self.taken(answer, &mut waited).await?;
            bill.since = Some(Instant::now());
        }
        Ok(())
    }

    /// Waits until the client has taken what is there; `waited` is how long others have waited for it so far.
    async fn taken(&self, answer: &Answer, waited: &mut Duration) -> Result<(), Late> {
        let begun = Instant::now();
        while !answer.is_empty() {
            if *waited >= PATIENCE || begun.elapsed() >= BATCH_DEADLINE {
                return Err(Late);
            }
            let look = Instant::now();
            let taken = timeout(LOOK, answer.taken.notified()).await.is_ok();
            if Arc::strong_count(&self.waiting) > 1 {
                // Who takes it, however slowly, is borne with for twice as long.
                *waited += if taken { look.elapsed() / 2 } else { LOOK };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(queries: &[i32]) -> bool {
        parse(ReadRequest { queries: queries.to_vec() }).is_err()
    }

    #[test]
    fn a_request_names_known_queries_once() {
        assert_eq!(parse(ReadRequest { queries: vec![1, 2] }).unwrap(), [Query::Stat, Query::Loadavg]);
        for queries in [&[][..], &[0], &[-1], &[1_000_000], &[1, 1]] {
            assert!(refused(queries), "{queries:?}");
        }
        assert!(refused(&[1; 10_000]));
    }
}
