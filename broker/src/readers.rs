//! The readers of each class: they get one byte per query, and are replaced when they are stuck or dead.
//!
//! A read of a kernel file may sleep forever (a dead network file system, a broken sensor). The reader is then *stuck*:
//! its queries are reassigned to another one, and it is asked to exit when it returns. No bytes of one reader are taken
//! for another's: the pipe of a slot is emptied after its reader has exited and before the next one is ordered.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keyhole_policy::pipes::{CHECK_REQUEST, Change, EXIT_REQUEST, FrameKind, MAX_STUCK_READERS};
use keyhole_policy::{Class, TABLE, row};
use keyhole_proto::reader::{Hello, Unavailable};
use keyhole_proto::v1::{Outcome, Query, QueryEnd, ReadResponse};
use prost::Message;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::frames::{Frame, MalformedFrame};
use crate::lock;
use crate::queries::{self, PermittedQueries};
use crate::response::ResponseQueue;
use crate::zygote::{self, START_TIMEOUT, Slot, Zygote};

/// The most time for which a reader may write nothing while it has a query to answer.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The most time that one query may take while the reader keeps writing: 65,536 interfaces have 1.5 million files, which
/// take 6 us each.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a reader is asked whether files have appeared, and for its own stat.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// How long a read waits for a replacement before it continues with the active reader.
const REPLACEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// A query whose files may be larger than this is sent to the reader alone: if its client leaves, no other query waits
/// behind it.
const LARGE_FILE_BYTES: usize = 16 << 20;

/// The most deaths within a minute; one more ends the broker.
pub const DEATHS_PER_MINUTE: usize = 5;

/// Settings of the readers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which queries are permitted.
    pub permits: PermittedQueries,
    /// How often a reader may be replaced because files have appeared.
    pub reopen_interval: Duration,
    /// The most deaths within a minute; after one more [`Readers::failed`] returns.
    pub deaths_per_minute: usize,
}

/// The readers of all classes.
#[derive(Debug, Clone)]
pub struct Readers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    zygote: Arc<Zygote>,
    options: Options,
    /// In the order of the classes' numbers.
    classes: Vec<ReaderClass>,
    stuck_queries: AtomicU64,
    deaths: Mutex<VecDeque<Instant>>,
    /// Why the broker must end.
    failure: Mutex<Option<String>>,
    failed: Notify,
}

#[derive(Debug)]
struct ReaderClass {
    class: Class,
    /// Whether any of its queries is permitted: else it has no readers.
    is_used: bool,
    state: tokio::sync::Mutex<ClassState>,
    free: Mutex<Vec<Slot>>,
    status: Mutex<Status>,
}

/// The readers of a class, of which one at most is active. It survives a cancelled read: pending queries stay here.
#[derive(Debug, Default)]
struct ClassState {
    active: Option<Reader>,
    /// Ordered and not ready yet; it replaces the active one, if there is one.
    starting: Option<(Slot, Instant)>,
    /// When the last reader was ordered.
    ordered: Option<Instant>,
    reopened: Option<Instant>,
    /// Whether the starting reader replaces the active one only if it has opened other files.
    replace_only_if_changed: bool,
}

#[derive(Debug)]
struct Reader {
    slot: Slot,
    /// The queries that it was sent and has not answered.
    pending: VecDeque<Query>,
    /// How long the first of them has been waited for.
    waited: Duration,
    checked: Option<Instant>,
    /// It was sent a [`CHECK_REQUEST`], whose answer comes next.
    check_pending: bool,
}

/// The status of a class.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The hello of the last reader that was ready.
    pub hello: Option<Hello>,
    /// Whether there is an active reader.
    pub available: bool,
    /// Readers that have not returned from the kernel, and readers that wrote malformed frames and have not exited.
    pub stuck: usize,
    /// The queries that skip what the stuck readers hang in.
    pub skipping: Vec<Query>,
    /// Readers that exited without being asked to.
    pub deaths: u64,
    /// Of these, the readers that seccomp killed.
    pub seccomp_kills: u64,
    /// Readers started in the place of one that was stuck or dead.
    pub replacements: u64,
    /// Readers started because files have appeared.
    pub reopenings: u64,
    /// The reader's own /proc/self/stat.
    pub stat: Bytes,
}

/// What happens next with a reader.
#[derive(Debug)]
enum Event {
    Frame(Frame),
    TimedOut,
    /// It has exited with this wait status.
    Exited(i32),
    Malformed(MalformedFrame),
}

/// Why a reader gets no more queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetireReason {
    Stuck,
    /// Another one is ready.
    Replaced,
    /// It wrote malformed frames.
    Malformed,
}

impl Readers {
    /// Orders a reader for each class that is used, and waits until each is ready or has timed out.
    ///
    /// An error says why a reader cannot start.
    pub async fn start(
        zygote: Arc<Zygote>,
        slots: Vec<Slot>,
        options: Options,
    ) -> Result<Self, zygote::StartError> {
        let mut slots = VecDeque::from(slots);
        let per_class = slots.len() / Class::ALL.len();
        let mut classes = Vec::new();
        for class in Class::ALL {
            let is_used =
                TABLE.iter().any(|row| row.class == class && options.permits.missing(row.query).is_none());
            classes.push(ReaderClass {
                class,
                is_used,
                state: tokio::sync::Mutex::default(),
                free: Mutex::new(slots.drain(..per_class).collect()),
                status: Mutex::default(),
            });
        }
        let readers = Self(Arc::new(Inner {
            zygote,
            options,
            classes,
            stuck_queries: AtomicU64::new(0),
            deaths: Mutex::default(),
            failure: Mutex::default(),
            failed: Notify::new(),
        }));
        for class in readers.0.classes.iter().filter(|class| class.is_used) {
            readers.0.order(class, &mut *class.state.lock().await);
        }
        for class in readers.0.classes.iter().filter(|class| class.is_used) {
            let mut state = class.state.lock().await;
            if let Err(why) = readers.0.wait_until_ready(class, &mut state, START_TIMEOUT).await {
                return Err(zygote::StartError::Failed(why));
            }
            // Describe reports its stat, so ask for it now.
            readers.0.check(class, &mut state).await;
        }
        Ok(readers)
    }

    /// Waits until the readers have failed for good; returns why.
    pub async fn failed(&self) -> String {
        loop {
            if let Some(why) = lock(&self.0.failure).clone() {
                return why;
            }
            self.0.failed.notified().await;
        }
    }

    /// Notices readers that died while no query was running. Call it periodically.
    pub async fn poll_exits(&self) {
        for class in &self.0.classes {
            self.0.poll_exits(class).await;
        }
    }

    /// The status of each class that is used.
    pub fn statuses(&self) -> impl Iterator<Item = (Class, Status)> {
        let used = self.0.classes.iter().filter(|class| class.is_used);
        used.map(|class| (class.class, lock(&class.status).clone()))
    }

    /// The sandbox layers of the zygote.
    pub fn zygote_layers(&self) -> &[keyhole_proto::reader::Layer] {
        &self.0.zygote.hello.layers
    }

    /// How often a query has timed out.
    pub fn stuck_queries(&self) -> u64 {
        self.0.stuck_queries.load(Ordering::Relaxed)
    }

    /// The outcome of a query that cannot be answered, and why; none if it may be answered.
    pub fn unavailable(&self, query: Query) -> Option<(Outcome, String)> {
        if let Some(flag) = self.0.options.permits.missing(query) {
            return Some((Outcome::NotPermitted, flag));
        }
        let class = self.0.class(query)?;
        let status = lock(&class.status);
        let unavailable = status.hello.as_ref()?.unavailable.iter().find(|entry| entry.query == query as u32);
        if let Some(unavailable) = unavailable {
            let outcome = Outcome::try_from(unavailable.outcome.cast_signed()).unwrap_or(Outcome::Absent);
            let retry = match outcome {
                Outcome::Absent => {
                    format!("; checked again every {} s", self.0.options.reopen_interval.as_secs())
                }
                _ => String::new(),
            };
            return Some((outcome, unavailable.reason.clone() + &retry));
        }
        let none_left = || format!("no reader of class {} is left: all are stuck", class.class.name());
        (!status.available && status.stuck >= MAX_STUCK_READERS).then(|| (Outcome::Stuck, none_left()))
    }

    /// Reads `queries` into `response`; returns how long the readers were busy with it.
    pub async fn read(&self, queries: &[Query], response: &ResponseQueue) -> Duration {
        let read_class = |class: Class| {
            let is_of_class = |query: &Query| row(*query).is_some_and(|row| row.class == class);
            self.read_class(class, queries.iter().copied().filter(is_of_class).collect(), response)
        };
        let [a, b, c, d, e, f] = Class::ALL.map(read_class);
        let (a, b, c, d, e, f) = tokio::join!(a, b, c, d, e, f);
        a + b + c + d + e + f
    }

    async fn read_class(&self, class: Class, queries: VecDeque<Query>, response: &ResponseQueue) -> Duration {
        let mut job = ReadJob { queries: VecDeque::new(), retried: false, response, busy: Duration::ZERO };
        for query in queries {
            match self.unavailable(query) {
                Some((outcome @ (Outcome::NotPermitted | Outcome::ContainerView), _)) => {
                    response.push(end_chunk(query, outcome, Duration::ZERO)).await;
                }
                _ => job.queries.push_back(query),
            }
        }
        if let Some(class) = self.0.classes.get(class as usize).filter(|_| !job.queries.is_empty()) {
            let mut state = class.state.lock().await;
            self.0.read(class, &mut state, &mut job).await;
        }
        job.busy
    }
}

/// The part of a read that one class answers.
struct ReadJob<'a> {
    queries: VecDeque<Query>,
    /// Whether a query was already retried after its reader died.
    retried: bool,
    response: &'a ResponseQueue,
    busy: Duration,
}

/// The last chunk of a query that no reader finishes.
fn end_chunk(query: Query, outcome: Outcome, elapsed: Duration) -> Bytes {
    let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    let end = Some(QueryEnd { outcome: outcome.into(), elapsed_ns, left_out: 0 });
    ReadResponse { query: query.into(), end, ..Default::default() }.encode_to_vec().into()
}

impl Inner {
    fn class(&self, query: Query) -> Option<&ReaderClass> {
        self.classes.get(row(query)?.class as usize)
    }

    /// Orders a reader in a free slot, unless one is starting or too many are stuck.
    fn order(&self, class: &ReaderClass, state: &mut ClassState) {
        if state.starting.is_some() || lock(&class.status).stuck >= MAX_STUCK_READERS {
            return;
        }
        let Some(mut slot) = lock(&class.free).pop() else { return };
        slot.frames.clear();
        self.zygote.order(&mut slot);
        let now = Instant::now();
        (state.starting, state.ordered) = (Some((slot, now)), Some(now));
    }

    /// Waits at most `limit` for the reader that was ordered, and makes it the active one. One that takes longer than
    /// [`START_TIMEOUT`] is stuck. The error is the reason of a reader that cannot start.
    async fn wait_until_ready(
        self: &Arc<Self>,
        class: &ReaderClass,
        state: &mut ClassState,
        limit: Duration,
    ) -> Result<(), String> {
        let Some((slot, since)) = &mut state.starting else { return Ok(()) };
        let left = START_TIMEOUT.saturating_sub(since.elapsed());
        let event = next_event(slot, left.min(limit)).await;
        if matches!(event, Event::TimedOut) && since.elapsed() < START_TIMEOUT {
            return Ok(());
        }
        let Some((slot, _)) = state.starting.take() else { return Ok(()) };
        let name = class.class.name();
        match event {
            Event::Frame(Frame { kind: FrameKind::Hello, payload, .. }) => {
                match zygote::parse_hello(&payload).filter(|hello| hello.generation == slot.generation) {
                    Some(hello) => {
                        let opened = lock(&class.status).hello.as_ref().map(|hello| hello.opened);
                        let is_same = std::mem::take(&mut state.replace_only_if_changed)
                            && opened == Some(hello.opened);
                        if is_same && state.active.is_some() {
                            self.retire(class, slot, RetireReason::Replaced);
                            return Ok(());
                        }
                        if let Some(old) = state.active.take() {
                            self.report_change(class, &hello);
                            lock(&class.status).reopenings += 1;
                            self.retire(class, old.slot, RetireReason::Replaced);
                        }
                        self.activate(class, hello);
                        let (checked, check_pending) = (None, false);
                        state.active = Some(Reader {
                            slot,
                            pending: VecDeque::new(),
                            waited: Duration::ZERO,
                            checked,
                            check_pending,
                        });
                        Ok(())
                    }
                    None => {
                        self.retire(class, slot, RetireReason::Malformed);
                        Err(format!("a reader of class {name} has another version than the broker"))
                    }
                }
            }
            Event::Frame(Frame { kind: FrameKind::Failed, payload, .. }) => {
                let why = zygote::one_line(&payload);
                self.retire(class, slot, RetireReason::Replaced);
                Err(why)
            }
            Event::TimedOut => {
                tracing::warn!(reader = name, "the reader was not ready in time: it is stuck");
                self.retire(class, slot, RetireReason::Stuck);
                Ok(())
            }
            Event::Exited(status) => {
                self.count_death(class, slot, status);
                Err(format!(
                    "a reader of class {name} exited while it started: {}",
                    zygote::describe_status(status)
                ))
            }
            Event::Frame(_) | Event::Malformed(_) => {
                self.retire(class, slot, RetireReason::Malformed);
                Err(format!("a reader of class {name} wrote an unexpected or malformed frame"))
            }
        }
    }

    /// Logs what a replacement reads that the last reader did not, and the other way round.
    fn report_change(&self, class: &ReaderClass, hello: &Hello) {
        let reader = class.class.name();
        let Some(Changed { appeared, gone }) =
            lock(&class.status).hello.as_ref().and_then(|before| Changed::find(before, hello))
        else {
            return;
        };
        if appeared.is_none() && gone.is_none() {
            tracing::info!(reader, "files have appeared or gone: a new reader reads the present ones");
        } else {
            tracing::info!(
                reader,
                appeared,
                gone,
                "queries have become available or absent: a new reader reads the present files"
            );
        }
    }

    /// Takes the hello of a new active reader; logs a change of the view.
    fn activate(&self, class: &ReaderClass, hello: Hello) {
        let mut status = lock(&class.status);
        if let Some(before) = &status.hello {
            let view = |hello: &Hello| (hello.proc_is_host, hello.sys_is_host, hello.hidden.clone());
            if view(before) != view(&hello) {
                let (proc, sys, hidden) = (&hello.proc_reason, &hello.sys_reason, &hello.hidden);
                tracing::warn!(
                    reader = class.class.name(),
                    proc,
                    sys,
                    hidden,
                    "the view of /proc and /sys has changed"
                );
            }
        }
        status.hello = Some(hello);
        status.available = true;
    }

    /// Makes sure that there is an active reader, if possible one that sees files that have appeared.
    async fn ensure_active(self: &Arc<Self>, class: &ReaderClass, state: &mut ClassState) {
        // Queries of a cancelled read.
        if state.active.as_ref().is_some_and(|reader| !reader.pending.is_empty()) {
            let mut discarded = ReadJob {
                queries: VecDeque::new(),
                retried: false,
                response: &ResponseQueue::default(),
                busy: Duration::ZERO,
            };
            self.take_answers(class, state, &mut discarded, false).await;
        }
        // Twice, in case the active reader turns out to be dead.
        for _ in 0..2 {
            if state.starting.is_some() {
                let wait = if state.active.is_some() { Duration::ZERO } else { START_TIMEOUT };
                self.activate_next(class, state, wait).await;
            }
            if state.active.is_none() {
                self.order(class, state);
                self.activate_next(class, state, START_TIMEOUT).await;
            }
            self.check(class, state).await;
            if state.active.is_some() {
                break;
            }
        }
        lock(&class.status).available = state.active.is_some();
    }

    /// Notices a reader that died while no query was running, and one that has become ready. Starts a reader if there is
    /// none: a client that waits for the class to be healthy before it asks would wait forever.
    async fn poll_exits(self: &Arc<Self>, class: &ReaderClass) {
        let Ok(mut state) = class.state.try_lock() else { return };
        if let Some(reader) = &state.active {
            let (ended, status) = *reader.slot.ended.borrow();
            if ended == reader.slot.generation {
                self.drop_active(class, &mut state, Event::Exited(status));
                self.order(class, &mut state);
            }
        }
        let due = state.ordered.is_some_and(|last| last.elapsed() >= CHECK_INTERVAL);
        if state.active.is_none() && due {
            self.order(class, &mut state);
        }
        if state.starting.is_some() {
            self.activate_next(class, &mut state, Duration::ZERO).await;
        }
    }

    /// [`Self::wait_until_ready`] once the broker serves: an error is logged, and the next read tries again.
    async fn activate_next(self: &Arc<Self>, class: &ReaderClass, state: &mut ClassState, limit: Duration) {
        if let Err(why) = self.wait_until_ready(class, state, limit).await {
            tracing::error!(reader = class.class.name(), why, "a reader could not start");
        }
    }

    /// Asks the reader, at most once an interval, whether files have appeared; if so, starts a replacement.
    async fn check(self: &Arc<Self>, class: &ReaderClass, state: &mut ClassState) {
        let interval = CHECK_INTERVAL.min(self.options.reopen_interval);
        let Some(reader) = &mut state.active else { return };
        if !reader.check_pending {
            if reader.checked.is_some_and(|checked| checked.elapsed() < interval)
                || !reader.send(&[CHECK_REQUEST])
            {
                return;
            }
            (reader.checked, reader.check_pending) = (Some(Instant::now()), true);
        }
        let event = next_event(&mut reader.slot, READ_TIMEOUT).await;
        reader.check_pending = false;
        match event {
            Event::Frame(Frame { kind: FrameKind::Checked, mut payload, .. }) if !payload.is_empty() => {
                let change = payload.split_to(1)[0];
                // /proc/self/stat is shorter; a compromised reader could send more.
                const STAT_BYTES: usize = 1024;
                payload.truncate(STAT_BYTES);
                lock(&class.status).stat = Bytes::copy_from_slice(&payload);
                let due = state.reopened.is_none_or(|last| last.elapsed() >= self.options.reopen_interval);
                if change != Change::No as u8 && due {
                    state.reopened = Some(Instant::now());
                    state.replace_only_if_changed = change == Change::Unknown as u8;
                    self.order(class, state);
                    self.activate_next(class, state, REPLACEMENT_TIMEOUT).await;
                }
            }
            event => self.drop_active(class, state, event),
        }
    }

    /// Sends queries and forwards the answers until every query has an outcome.
    async fn read(self: &Arc<Self>, class: &ReaderClass, state: &mut ClassState, job: &mut ReadJob<'_>) {
        loop {
            if job.queries.is_empty() {
                return;
            }
            self.ensure_active(class, state).await;
            let Some(reader) = &mut state.active else { break };
            let asked = take_batch(&mut job.queries);
            let bytes: Vec<u8> = asked.iter().map(|query| *query as u8).collect();
            if reader.send(&bytes) {
                reader.pending = asked;
                self.take_answers(class, state, job, true).await;
            } else {
                // The pipe is full or closed: the reader has exited, or has never read earlier requests.
                asked.into_iter().rev().for_each(|query| job.queries.push_front(query));
                let event = next_event(&mut reader.slot, READ_TIMEOUT).await;
                self.drop_active(class, state, event);
            }
        }
        for query in std::mem::take(&mut job.queries) {
            job.response.push(end_chunk(query, Outcome::Stuck, Duration::ZERO)).await;
        }
    }

    /// Forwards the answers to the pending queries of the active reader; drops them unless `is_wanted`.
    async fn take_answers(
        self: &Arc<Self>,
        class: &ReaderClass,
        state: &mut ClassState,
        job: &mut ReadJob<'_>,
        is_wanted: bool,
    ) {
        let mut forwarded = false;
        loop {
            let Some(reader) = &mut state.active else { return };
            let Some(query) = reader.pending.front().copied() else { return };
            let start = Instant::now();
            let left = READ_TIMEOUT.min(QUERY_TIMEOUT.saturating_sub(reader.waited));
            let event = next_event(&mut reader.slot, left).await;
            reader.waited += start.elapsed();
            match event {
                Event::Frame(Frame {
                    kind: kind @ (FrameKind::Chunk | FrameKind::LastChunk),
                    query: number,
                    skipped,
                    payload,
                }) if number == query as u8 => {
                    if kind == FrameKind::LastChunk {
                        job.busy += reader.waited;
                        (reader.waited, forwarded) = (Duration::ZERO, false);
                        reader.pending.pop_front();
                        self.record_skipped(class, query, skipped);
                    } else {
                        forwarded = true;
                    }
                    if is_wanted {
                        job.response.push(payload).await;
                    }
                }
                event => {
                    let waited = reader.waited;
                    let mut rest = std::mem::take(&mut reader.pending);
                    let outcome = match event {
                        Event::TimedOut => Outcome::TimedOut,
                        _ => Outcome::Failed,
                    };
                    self.drop_active_during(class, state, event, Some(query));
                    if !is_wanted {
                        return;
                    }
                    // It is unknown in which query a stuck reader hangs, since it may not have written finished answers
                    // yet. So all pending queries are retried; the new reader skips what the stuck one hangs in. After a
                    // death there is one retry only: what kills one reader may kill the next.
                    let retry = outcome == Outcome::TimedOut || !std::mem::replace(&mut job.retried, true);
                    // File systems may be sent twice, chunks of a file may not.
                    let may_repeat = !forwarded || class.class == Class::Mounts;
                    if !(retry && may_repeat) {
                        rest.pop_front();
                        job.response.push(end_chunk(query, outcome, waited)).await;
                    }
                    rest.into_iter().rev().for_each(|query| job.queries.push_front(query));
                    return;
                }
            }
        }
    }

    /// Records which queries skip what another reader is stuck in.
    fn record_skipped(&self, class: &ReaderClass, query: Query, skipped: bool) {
        let mut status = lock(&class.status);
        let at = status.skipping.iter().position(|skipping| *skipping == query);
        match (skipped, at) {
            (true, None) => {
                let (reader, query_name) = (class.class.name(), query.as_str_name());
                tracing::warn!(
                    reader,
                    query = query_name,
                    "the query is answered without a file in which another reader is stuck, until that read returns"
                );
                status.skipping.push(query);
            }
            (false, Some(at)) => _ = status.skipping.swap_remove(at),
            _ => {}
        }
    }

    fn drop_active(self: &Arc<Self>, class: &ReaderClass, state: &mut ClassState, event: Event) {
        self.drop_active_during(class, state, event, None);
    }

    /// Drops the active reader after an event that it does not survive, and logs why.
    fn drop_active_during(
        self: &Arc<Self>,
        class: &ReaderClass,
        state: &mut ClassState,
        event: Event,
        query: Option<Query>,
    ) {
        let Some(reader) = state.active.take() else { return };
        let name = class.class.name();
        {
            let mut status = lock(&class.status);
            status.replacements += 1;
            status.available = false;
        }
        let query_name = query.map_or("none", |query| query.as_str_name());
        match event {
            Event::TimedOut => {
                self.stuck_queries.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    reader = name,
                    query = query_name,
                    "the query timed out: its reader is stuck in a file or mount that does not answer; a new reader answers \
                     other queries"
                );
                self.retire(class, reader.slot, RetireReason::Stuck);
            }
            Event::Exited(status) => {
                tracing::debug!(reader = name, query = query_name, "the reader exited during a query");
                self.record_death(class, reader.slot, status);
            }
            Event::Frame(Frame { kind: FrameKind::Failed, payload, .. }) => {
                tracing::error!(
                    reader = name,
                    query = query_name,
                    why = zygote::one_line(&payload),
                    "the reader failed"
                );
                self.retire(class, reader.slot, RetireReason::Replaced);
            }
            Event::Frame(frame) => {
                tracing::error!(reader = name, query = query_name, kind = ?frame.kind, "the reader wrote an unexpected or malformed frame");
                self.retire(class, reader.slot, RetireReason::Malformed);
            }
            Event::Malformed(error) => {
                tracing::error!(reader = name, query = query_name, %error, "the reader wrote an unexpected or malformed frame");
                self.retire(class, reader.slot, RetireReason::Malformed);
            }
        }
    }

    /// Asks a reader to exit, and releases its slot when it has.
    fn retire(self: &Arc<Self>, class: &ReaderClass, mut slot: Slot, why: RetireReason) {
        if why != RetireReason::Replaced {
            lock(&class.status).stuck += 1;
        }
        // Not by closing its pipe, which belongs to the slot.
        let _ = slot.requests.try_write(&[EXIT_REQUEST]);
        let (inner, number) = (self.clone(), class.class as usize);
        tokio::spawn(async move {
            let status = drain(&mut slot, why).await;
            let Some(class) = inner.classes.get(number) else { return };
            if why != RetireReason::Replaced {
                let mut status = lock(&class.status);
                status.stuck -= 1;
                if status.stuck == 0 {
                    status.skipping.clear();
                }
                tracing::warn!(reader = class.class.name(), "the stuck reader has returned");
            }
            if status == 0 {
                inner.release_slot(class, slot);
            } else {
                inner.record_death(class, slot, status);
            }
        });
    }

    /// Logs and counts a reader that exited without being asked to, or with an error.
    fn record_death(&self, class: &ReaderClass, slot: Slot, status: i32) {
        if !zygote::was_killed_by_seccomp(status) {
            let how = zygote::describe_status(status);
            tracing::warn!(reader = class.class.name(), how, "the reader has died");
        }
        self.count_death(class, slot, status);
    }

    /// Counts a death that the caller logs, and releases the slot.
    fn count_death(&self, class: &ReaderClass, slot: Slot, status: i32) {
        let how = zygote::describe_status(status);
        let by_seccomp = zygote::was_killed_by_seccomp(status);
        {
            let mut status = lock(&class.status);
            status.deaths += 1;
            status.seccomp_kills += u64::from(by_seccomp);
        }
        let name = class.class.name();
        if by_seccomp {
            tracing::error!(
                reader = name,
                "SECURITY: seccomp killed the reader: it made a system call that is not allowed"
            );
        }
        self.release_slot(class, slot);
        let mut deaths = lock(&self.deaths);
        let now = Instant::now();
        deaths.retain(|death| now - *death < Duration::from_secs(60));
        deaths.push_back(now);
        if deaths.len() > self.options.deaths_per_minute {
            // All readers have the address space layout of their zygote: this limits how often an attacker can guess it.
            self.fail(format!(
                "{} readers died within a minute, the last one of class {name}: {how}",
                deaths.len()
            ));
        }
    }

    fn release_slot(&self, class: &ReaderClass, mut slot: Slot) {
        // The reader has exited, and no other has started: the pipe holds all that it wrote. Discard it.
        slot.frames.clear();
        // Enough reads for more than a pipe holds.
        const READS: usize = 64;
        for _ in 0..READS {
            if !matches!(slot.answers.try_read_buf(slot.frames.space()), Ok(1..)) {
                break;
            }
            slot.frames.clear();
        }
        lock(&class.free).push(slot);
    }

    fn fail(&self, why: String) {
        lock(&self.failure).get_or_insert(why);
        self.failed.notify_waiters();
    }
}

/// The queries that a replacement can answer and the last reader could not, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Changed {
    appeared: Option<String>,
    gone: Option<String>,
}

impl Changed {
    /// None if both have opened the same files and can answer the same queries.
    fn find(before: &Hello, now: &Hello) -> Option<Self> {
        let without = |these: &[Unavailable], others: &[Unavailable]| {
            let new = |this: &&Unavailable| !others.iter().any(|other| other.query == this.query);
            let name = |this: &Unavailable| Query::try_from(this.query.cast_signed()).ok().map(queries::name);
            let names = these.iter().filter(new).filter_map(name).collect::<Vec<_>>().join(",");
            Some(names).filter(|names| !names.is_empty())
        };
        let appeared = without(&before.unavailable, &now.unavailable);
        let gone = without(&now.unavailable, &before.unavailable);
        let has_changed = appeared.is_some() || gone.is_some() || before.opened != now.opened;
        has_changed.then_some(Self { appeared, gone })
    }
}

/// Takes the queries to send at once: a query of large files alone, others together.
fn take_batch(queue: &mut VecDeque<Query>) -> VecDeque<Query> {
    let is_large = |query: Query| {
        row(query).is_some_and(|row| row.file_bytes > LARGE_FILE_BYTES || row.class == Class::Processes)
    };
    let together = queue.iter().position(|query| is_large(*query)).unwrap_or(queue.len());
    queue.drain(..together.max(1)).collect()
}

impl Reader {
    /// Writes requests; returns whether the reader's pipe took all of them. It does unless the reader has read none for
    /// long.
    fn send(&mut self, requests: &[u8]) -> bool {
        self.slot.requests.try_write(requests).is_ok_and(|written| written == requests.len())
    }
}

/// Waits at most `limit` for the next event of a slot's reader. Cancelling it loses nothing.
async fn next_event(slot: &mut Slot, limit: Duration) -> Event {
    loop {
        match slot.frames.next_frame() {
            Ok(Some(frame)) => return Event::Frame(frame),
            Ok(None) => {}
            Err(malformed) => return Event::Malformed(malformed),
        }
        // Most often the bytes are there already.
        match slot.answers.try_read_buf(slot.frames.space()) {
            Ok(0) => return Event::Exited(0),
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Event::Exited(0),
        }
        let generation = slot.generation;
        if let (ended, status) = *slot.ended.borrow_and_update()
            && ended == generation
        {
            return Event::Exited(status);
        }
        let (answers, ended) = (&slot.answers, &mut slot.ended);
        let more = async {
            tokio::select! {
                _ = answers.readable() => {}
                _ = ended.changed() => {}
            }
        };
        if timeout(limit, more).await.is_err() {
            return Event::TimedOut;
        }
    }
}

/// Waits until a retired reader has exited, and drops what it writes; returns its wait status.
async fn drain(slot: &mut Slot, why: RetireReason) -> i32 {
    // The pause lets others be served however fast it writes. It is longer for a reader that may be compromised.
    let pause = Duration::from_millis(if why == RetireReason::Malformed { 50 } else { 1 });
    loop {
        let generation = slot.generation;
        if let (ended, status) = *slot.ended.borrow_and_update()
            && ended == generation
        {
            return status;
        }
        let (answers, ended) = (&slot.answers, &mut slot.ended);
        tokio::select! {
            readable = answers.readable() => {
                slot.frames.clear();
                if readable.is_err() || matches!(slot.answers.try_read_buf(slot.frames.space()), Ok(0)) {
                    return 0;
                }
                // A zygote that followed its order late has discarded the request to exit.
                let _ = slot.requests.try_write(&[EXIT_REQUEST]);
                tokio::time::sleep(pause).await;
            }
            changed = ended.changed() => {
                if changed.is_err() {
                    return 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_the_queries_unless_only_files_changed() {
        let hello = |unavailable: &[Query], opened| Hello {
            unavailable: unavailable
                .iter()
                .map(|query| Unavailable { query: *query as u32, ..Unavailable::default() })
                .collect(),
            opened,
            ..Hello::default()
        };
        let find = |before, now| {
            let changed = Changed::find(&before, &now);
            changed.map(|changed| [changed.appeared, changed.gone].map(Option::unwrap_or_default))
        };
        let found = |appeared: &str, gone: &str| Some([appeared.to_owned(), gone.to_owned()]);
        let (md, zfs, drbd) = (Query::Md, Query::Zfs, Query::Drbd);
        assert_eq!(find(hello(&[md, zfs], 1), hello(&[drbd], 2)), found("md,zfs", "drbd"));
        assert_eq!(find(hello(&[md], 1), hello(&[], 2)), found("md", ""));
        assert_eq!(find(hello(&[], 1), hello(&[md], 2)), found("", "md"));
        assert_eq!(find(hello(&[md], 1), hello(&[md], 2)), found("", ""), "only files changed");
        assert_eq!(find(hello(&[md], 1), hello(&[md], 1)), None);
    }
}
