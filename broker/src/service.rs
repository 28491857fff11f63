//! The gRPC service: the contract over lanes and host.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyhole_os::Layer;
use keyhole_policy::{Rung, TABLE, row};
use keyhole_proto::v1::{
    self, Counters, DescribeRequest, DescribeResponse, Query, QueryDescription, ReadRequest, ReadResponse,
    broker_server,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{error::Elapsed, timeout};
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::lanes::Lanes;
use crate::limit::Limiter;

/// The most time from a read's begin to its end, waiting for the client included.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// The most time that a client may take for one batch while it has the only turn.
const BATCH_DEADLINE: Duration = Duration::from_secs(2);

/// Reads that may wait for the one that runs.
const WAITING_READS: usize = 8;

/// Who is on the other end of a connection; put into each of its requests by the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its uid, as the kernel gave it at connect.
    pub uid: u32,
}

/// What is counted since the start.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused for their peer's uid.
    pub refused_peers: AtomicU64,
    /// Connections that asked nothing in time.
    pub late_handshakes: AtomicU64,
    /// Reads begun.
    pub reads: AtomicU64,
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
    limiter: Limiter,
    /// One read at a time.
    reading: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
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
            limiter: Limiter::default(),
            reading: Arc::new(Semaphore::new(1)),
            waiting: Arc::new(Semaphore::new(WAITING_READS)),
        }))
    }

    /// Whether anything can be read at all.
    pub fn is_healthy(&self) -> bool {
        !self.0.lanes.all_stuck()
    }

    fn limit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let uid = request.extensions().get::<Peer>().map(|peer| peer.uid);
        let uid = uid.ok_or_else(|| Status::unauthenticated("the peer's uid is not known"))?;
        match self.0.limiter.take(uid) {
            true => Ok(()),
            false => Err(self.exhausted("too many requests from this uid: ask again later")),
        }
    }

    fn exhausted(&self, message: &'static str) -> Status {
        self.0.tally.limited_requests.fetch_add(1, Ordering::Relaxed);
        Status::resource_exhausted(message)
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

/// The parts of an answer, as their batches come: those of one batch go out in few writes.
#[derive(Debug)]
pub struct Parts {
    batches: mpsc::Receiver<Result<Vec<ReadResponse>, Status>>,
    batch: std::vec::IntoIter<ReadResponse>,
}

impl Stream for Parts {
    type Item = Result<ReadResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(part) = self.batch.next() {
                return Poll::Ready(Some(Ok(part)));
            }
            match ready!(self.batches.poll_recv(context)) {
                Some(Ok(batch)) => self.batch = batch.into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

#[tonic::async_trait]
impl broker_server::Broker for Service {
    type ReadStream = Parts;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        self.limit(&request)?;
        let queries = parse(request.into_inner())?;
        let inner = self.0.clone();
        let place = inner.waiting.clone().try_acquire_owned();
        let place = place.map_err(|_| self.exhausted("too many reads wait already: ask again later"))?;
        inner.tally.reads.fetch_add(1, Ordering::Relaxed);
        let (batches, stream) = mpsc::channel(2);
        // A place kept for the error: a client that takes nothing leaves no other.
        let late =
            batches.clone().try_reserve_owned().map_err(|_| Status::internal("a new channel is full"))?;
        // A task of its own: the stream is not polled while the client does not read, and time must go on.
        tokio::spawn(async move {
            let _place = place;
            let taken = timeout(READ_DEADLINE, inner.answer(queries, batches)).await;
            if !matches!(taken, Ok(Ok(()))) {
                late.send(Err(Status::deadline_exceeded("the answer was not taken in time")));
            }
        });
        Ok(Response::new(Parts { batches: stream, batch: Vec::new().into_iter() }))
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        self.limit(&request)?;
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
            }),
        }))
    }
}

fn wire_layer(layer: &Layer) -> v1::Layer {
    v1::Layer { name: layer.name.to_owned(), in_force: layer.in_force, detail: layer.detail.clone() }
}

impl Inner {
    /// Reads `queries` and sends what comes, until it is done or the client has gone, or takes nothing any more.
    async fn answer(
        &self,
        queries: Vec<Query>,
        batches: mpsc::Sender<Result<Vec<ReadResponse>, Status>>,
    ) -> Result<(), Elapsed> {
        let Ok(_turn) = self.reading.acquire().await else { return Ok(()) };
        let mut reading = self.lanes.begin(queries).await;
        loop {
            let batch = tokio::select! {
                batch = reading.next() => batch,
                () = batches.closed() => return Ok(()),
            };
            let Some(batch) = batch else { return Ok(()) };
            if timeout(BATCH_DEADLINE, batches.send(Ok(batch))).await?.is_err() {
                return Ok(());
            }
        }
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
