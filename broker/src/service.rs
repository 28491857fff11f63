//! The gRPC service: answers Read and Describe with the readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyhole_os::Layer;
use keyhole_policy::{AccessLevel, TABLE, row};
use keyhole_proto::reader::Hello;
use keyhole_proto::server::broker_server;
use keyhole_proto::v1::{
    self, Counters, DescribeRequest, DescribeResponse, Query, QueryDescription, ReadRequest,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::client_limits::ClientLimits;
use crate::readers::Readers;
use crate::response::{ResponseQueue, ResponseStream, TimedOut};

/// The most time from the start of a read to its end, including the time that the client takes.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// The peer of a connection; the listener adds it to each request as an extension.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The limits of its uid, which the kernel reported when it connected.
    pub limits: Arc<ClientLimits>,
    /// One read of a connection at a time waits for its uid's permit.
    pub permit: Arc<Semaphore>,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused: for their peer's uid, or because it had or made too many.
    pub refused_peers: AtomicU64,
    /// Connections that asked nothing in time.
    pub late_handshakes: AtomicU64,
    /// Reads started.
    pub reads: AtomicU64,
    /// Connections that could not be accepted: no descriptors or no memory.
    pub failed_accepts: AtomicU64,
    /// Times that accepting connections paused until refused ones were closed.
    pub paused_accepts: AtomicU64,
    /// Requests answered RESOURCE_EXHAUSTED.
    pub limited_requests: AtomicU64,
}

/// The service; cheap to clone.
#[derive(Debug, Clone)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    readers: Readers,
    layers: Vec<Layer>,
    uid: u32,
    start_time_ms: u64,
    counts: Arc<Counts>,
    /// Held by the one read that runs.
    permit: Semaphore,
    /// A reference is held by each read that waits for another connection's read to end.
    waiting: Arc<()>,
}

impl Service {
    /// A service over `readers`, for a process with these layers and this uid.
    pub fn new(readers: Readers, layers: Vec<Layer>, uid: u32, counts: Arc<Counts>) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(Inner {
            readers,
            layers,
            uid,
            start_time_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            counts,
            permit: Semaphore::new(1),
            waiting: Arc::default(),
        }))
    }

    /// The names of the health service, and whether each is serving: the broker as a whole, which is as long as any class
    /// has a reader, and each class.
    pub fn health(&self) -> Vec<(String, bool)> {
        let class_health = |(class, status): (keyhole_policy::Class, crate::readers::Status)| {
            (format!("keyhole.v1.Broker/{}", class.name()), status.available)
        };
        let classes: Vec<_> = self.0.readers.statuses().map(class_health).collect();
        let any = classes.iter().any(|(_, available)| *available);
        ["", "keyhole.v1.Broker"].map(|name| (name.to_owned(), any)).into_iter().chain(classes).collect()
    }

    /// The peer of a request, or an error if it sent too many requests.
    fn admit<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("the peer's uid is not known"))?;
        if peer.limits.take_request() {
            return Ok(peer.clone());
        }
        self.0.counts.limited_requests.fetch_add(1, Ordering::Relaxed);
        Err(Status::resource_exhausted("too many requests from this uid: ask again later"))
    }

    fn describe_query(&self, row: &keyhole_policy::Row, stuck: &[Query]) -> QueryDescription {
        let unavailable = self.0.readers.unavailable(row.query);
        let (outcome, reason) = unavailable.unwrap_or_default();
        QueryDescription {
            query: row.query.into(),
            patterns: row.sources.iter().map(|s| format!("{}/{}", s.root.name(), s.pattern)).collect(),
            access_level: match row.access_level {
                AccessLevel::Minimal => v1::AccessLevel::Minimal,
                AccessLevel::Host => v1::AccessLevel::Host,
            }
            .into(),
            available: reason.is_empty(),
            reason,
            stuck: stuck.contains(&row.query),
            reader: row.class.name().to_owned(),
            outcome: outcome.into(),
        }
    }
}

fn wire_view(is_host: bool, is_hidden: bool) -> v1::View {
    match (is_host, is_hidden) {
        (false, _) => v1::View::Container,
        (true, true) => v1::View::Hidden,
        (true, false) => v1::View::Host,
    }
}

/// The queries of a request: at least one, each known, none twice.
fn parse(request: ReadRequest) -> Result<Vec<Query>, Status> {
    // A list longer than the table is invalid: refuse it before parsing it.
    if request.queries.is_empty() || request.queries.len() > TABLE.len() {
        return Err(Status::invalid_argument("ask for at least one query, and for each at most once"));
    }
    let mut queries = Vec::with_capacity(request.queries.len());
    for value in request.queries {
        let query = Query::try_from(value).ok().filter(|query| row(*query).is_some());
        let query = query.ok_or_else(|| Status::invalid_argument(format!("{value} is not a query")))?;
        if queries.contains(&query) {
            return Err(Status::invalid_argument(format!("{} is asked twice", query.as_str_name())));
        }
        queries.push(query);
    }
    Ok(queries)
}

#[tonic::async_trait]
impl broker_server::Broker for Service {
    type ReadStream = ResponseStream;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let peer = self.admit(&request)?;
        let queries = parse(request.into_inner())?;
        let inner = self.0.clone();
        inner.counts.reads.fetch_add(1, Ordering::Relaxed);
        let response = Arc::new(ResponseQueue::default());
        let stream = ResponseStream(response.clone());
        // In a task of its own: the stream is not polled while the client does not read, but timeouts must run.
        tokio::spawn(async move {
            let read = tokio::select! {
                biased;
                // Nobody waiting for it any more: its permit is for others.
                () = response.cancelled() => return,
                read = timeout(READ_DEADLINE, inner.respond(&peer, &queries, &response)) => read,
            };
            if !matches!(read, Ok(Ok(()))) {
                response
                    .finish(Some(Status::deadline_exceeded("the client did not take the response in time")));
            }
        });
        stream.started().await;
        Ok(Response::new(stream))
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        self.admit(&request)?;
        let Inner { readers, layers, uid, start_time_ms, counts, .. } = &*self.0;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let statuses: Vec<_> = readers.statuses().collect();
        let stuck: Vec<Query> =
            statuses.iter().flat_map(|(_, status)| status.skipping.iter().copied()).collect();
        // Every reader reports the same, except perhaps one that was started later.
        let hello = statuses.iter().find_map(|(_, status)| status.hello.as_ref());
        let hello_says = |is_host: fn(&Hello) -> bool| hello.is_some_and(is_host);
        let proc_is_host = hello_says(|hello| hello.proc_is_host);
        let proc_view = wire_view(proc_is_host, hello_says(|hello| !hello.hidden.is_empty()));
        let access_level = match (proc_is_host, uid) {
            (false, _) => v1::AccessLevel::Minimal,
            (true, 0) => v1::AccessLevel::Root,
            (true, _) => v1::AccessLevel::Host,
        };
        let reader_layers = statuses.iter().flat_map(|(class, status)| {
            let process = format!("reader-{}", class.name());
            let layers = status.hello.iter().flat_map(|hello| &hello.layers);
            layers.map(move |layer| wire_layer(&process, &layer.name, layer.in_force, &layer.detail))
        });
        let broker_layers =
            layers.iter().map(|layer| wire_layer("broker", layer.name, layer.in_force, &layer.detail));
        let zygote_layers = readers
            .zygote_layers()
            .iter()
            .map(|layer| wire_layer("zygote", &layer.name, layer.in_force, &layer.detail));
        Ok(Response::new(DescribeResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uid: *uid,
            access_level: access_level.into(),
            proc_view: proc_view.into(),
            // With PID 1 hidden it is unknown whose /sys it is.
            sys_view: match wire_view(hello_says(|hello| hello.sys_is_host), false) {
                v1::View::Container if proc_view == v1::View::Hidden => v1::View::Unspecified.into(),
                view => view.into(),
            },
            layers: broker_layers.chain(zygote_layers).chain(reader_layers).collect(),
            queries: TABLE.iter().map(|row| self.describe_query(row, &stuck)).collect(),
            start_time_ms: *start_time_ms,
            counters: Some(Counters {
                connections: count(&counts.connections),
                refused_peers: count(&counts.refused_peers),
                late_handshakes: count(&counts.late_handshakes),
                reads: count(&counts.reads),
                limited_requests: count(&counts.limited_requests),
                stuck_queries: readers.stuck_queries(),
                readers_stuck: statuses.iter().map(|(_, status)| status.stuck as u64).sum(),
                failed_accepts: count(&counts.failed_accepts),
                log_lines_dropped: keyhole_log::dropped(),
            }),
            readers: statuses
                .iter()
                .map(|(class, status)| v1::ReaderClass {
                    name: class.name().to_owned(),
                    available: status.available,
                    stuck: status.stuck as u64,
                    deaths: status.deaths,
                    seccomp_kills: status.seccomp_kills,
                    replacements: status.replacements,
                    reopenings: status.reopenings,
                    stat: status.stat.to_vec(),
                })
                .collect(),
        }))
    }
}

fn wire_layer(process: &str, name: &str, in_force: bool, detail: &str) -> v1::Layer {
    v1::Layer { name: name.to_owned(), in_force, detail: detail.to_owned(), process: process.to_owned() }
}

/// Charges the client for the time that readers were busy, however the read ends, also if the client cancels it.
struct ReadTimer<'c> {
    limits: &'c ClientLimits,
    start: Instant,
    busy: Option<Duration>,
}

impl Drop for ReadTimer<'_> {
    fn drop(&mut self) {
        // Readers finish what they have started, so it is unknown how long a cancelled read keeps them busy.
        const SHORTEST: Duration = Duration::from_millis(100);
        const LONGEST: Duration = Duration::from_secs(1);
        self.limits.charge(self.busy.unwrap_or_else(|| self.start.elapsed().clamp(SHORTEST, LONGEST)));
    }
}

impl Inner {
    /// Reads `queries` and sends the response, until the client has all of it or is too slow.
    async fn respond(
        &self,
        peer: &Peer,
        queries: &[Query],
        response: &ResponseQueue,
    ) -> Result<(), TimedOut> {
        // The reads of a connection wait for each other, and so do the connections of a uid, and uids. The permit is held
        // until the client has taken everything: so only one response is in memory at a time.
        let Ok(_connection_permit) = peer.permit.acquire().await else { return Ok(()) };
        let waiting = self.waiting.clone();
        let Ok(_uid_permit) = peer.limits.permit.acquire().await else { return Ok(()) };
        let Ok(_permit) = self.permit.acquire().await else { return Ok(()) };
        drop(waiting);
        let mut timer = ReadTimer { limits: &peer.limits, start: Instant::now(), busy: None };
        let read = async {
            timer.busy = Some(self.readers.read(queries, response).await);
            response.finish(None);
            response.drained().await;
        };
        tokio::select! {
            biased;
            () = read => Ok(()),
            timed_out = response.watch_client(|| Arc::strong_count(&self.waiting) > 1) => Err(timed_out),
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
