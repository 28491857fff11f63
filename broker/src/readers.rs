//! The readers of each class: asked by one byte a query, replaced when they are stuck or dead.
//!
//! A read of a kernel file may sleep for ever (a dead network file system, a broken sensor). The reader that sleeps
//! is *stuck*: another one takes over what it has not answered, and it is ended when it comes back. Nothing that one
//! reader wrote is taken for another's: a slot is emptied after its reader has ended and before the next is ordered.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keyhole_policy::pipes::{CHECK, Change, END, Kind, STUCK_READERS};
use keyhole_policy::{Class, TABLE, row};
use keyhole_proto::reader::{Hello, Unavailable};
use keyhole_proto::v1::{Outcome, Query, QueryEnd, ReadResponse};
use prost::Message;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::answer::Answer;
use crate::frames::{Frame, Malformed};
use crate::lock;
use crate::queries::{self, Permits};
use crate::zygote::{self, START_TIMEOUT, Slot, Zygote};

/// The most time that a reader may give nothing of a query that it was asked.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The most time that one query may spend reading, if it goes on giving: 65,536 interfaces have 1.5 million files, of 6 us
/// each.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How old a reader's account of itself may get.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// How long a read waits for a fresh reader before it goes on with the one that there is.
const FRESH_TIMEOUT: Duration = Duration::from_secs(1);

/// The bytes of a file from which on a query is asked alone: when nobody wants its answer any more, no other waits
/// behind it.
const LARGE_FILE: usize = 16 << 20;

/// Deaths within a minute beyond which the broker ends.
pub const DEATHS_PER_MINUTE: usize = 5;

/// What a broker wants of its readers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which queries are read.
    pub permits: Permits,
    /// How often to look whether what was absent has appeared.
    pub reopen_interval: Duration,
    /// Deaths within a minute beyond which [`Readers::failed`] says so.
    pub deaths_per_minute: usize,
}

/// All readers.
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
    /// Whether any of its queries may be asked: without, it has no readers.
    is_used: bool,
    reading: tokio::sync::Mutex<Reading>,
    free: Mutex<Vec<Slot>>,
    status: Mutex<Status>,
}

/// Who is asked. Nothing is lost when a read is cancelled: what was asked stays here.
#[derive(Debug, Default)]
struct Reading {
    active: Option<Reader>,
    /// Ordered, and not ready yet; to take the place of the active one, if there is one.
    starting: Option<(Slot, Instant)>,
    /// When the last was ordered.
    ordered: Option<Instant>,
    reopened: Option<Instant>,
    /// Whether the one that starts replaces the active one only where it has opened other files.
    is_comparison: bool,
}

#[derive(Debug)]
struct Reader {
    slot: Slot,
    /// What it was asked and has not answered.
    asked: VecDeque<Query>,
    /// How long it has been waited for the first of them.
    waited: Duration,
    checked: Option<Instant>,
    /// It was asked for an account of itself, which comes before anything else.
    check_pending: bool,
}

/// What is reported of a class.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// What the last reader that was ready has reported.
    pub hello: Option<Hello>,
    /// Whether there is a reader that can be asked.
    pub available: bool,
    /// Readers that have not returned from the kernel, and those that wrote what is no answer and have not ended.
    pub stuck: usize,
    /// The queries that skip what these are stuck in.
    pub skipping: Vec<Query>,
    /// Readers that ended unasked.
    pub deaths: u64,
    /// Of these, the ones that seccomp killed.
    pub seccomp_kills: u64,
    /// Readers started in the place of one that was stuck or dead.
    pub replacements: u64,
    /// Readers started because something has appeared.
    pub reopenings: u64,
    /// The reader's own /proc/self/stat.
    pub stat: Bytes,
}

/// What comes of a reader next.
#[derive(Debug)]
enum Event {
    Frame(Frame),
    TimedOut,
    /// Its wait status.
    Ended(i32),
    Malformed(Malformed),
}

/// Why a reader is not asked any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retired {
    Stuck,
    /// Another one is ready.
    Replaced,
    /// It wrote what is no answer.
    Malformed,
}

impl Readers {
    /// Orders a reader for each class that is used, and waits until each is ready or is late.
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
                reading: tokio::sync::Mutex::default(),
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
            readers.0.order(class, &mut *class.reading.lock().await);
        }
        for class in readers.0.classes.iter().filter(|class| class.is_used) {
            let mut reading = class.reading.lock().await;
            if let Err(why) = readers.0.ready(class, &mut reading, START_TIMEOUT).await {
                return Err(zygote::StartError::Failed(why));
            }
            // Its first account of itself, for the first Describe.
            readers.0.check(class, &mut reading).await;
        }
        Ok(readers)
    }

    /// Waits until the broker must end, and says why.
    pub async fn failed(&self) -> String {
        loop {
            if let Some(why) = lock(&self.0.failure).clone() {
                return why;
            }
            self.0.failed.notified().await;
        }
    }

    /// Notices readers that died while nobody asked them; to be called every now and then.
    pub async fn tend(&self) {
        for class in &self.0.classes {
            self.0.tend(class).await;
        }
    }

    /// What is known of each class that is used.
    pub fn statuses(&self) -> impl Iterator<Item = (Class, Status)> {
        let used = self.0.classes.iter().filter(|class| class.is_used);
        used.map(|class| (class.class, lock(&class.status).clone()))
    }

    /// The sandbox layers of the zygote.
    pub fn zygote_layers(&self) -> &[keyhole_proto::reader::Layer] {
        &self.0.zygote.hello.layers
    }

    /// How often a query did not end in time.
    pub fn stuck_queries(&self) -> u64 {
        self.0.stuck_queries.load(Ordering::Relaxed)
    }

    /// The outcome that a read of `query` would have, and why, where it is known that it cannot be answered.
    pub fn unavailable(&self, query: Query) -> Option<(Outcome, String)> {
        if let Some(flag) = self.0.options.permits.missing(query) {
            return Some((Outcome::NotPermitted, flag));
        }
        let class = self.0.class(query)?;
        let status = lock(&class.status);
        let known = status.hello.as_ref()?.unavailable.iter().find(|known| known.query == query as u32);
        if let Some(known) = known {
            let outcome = Outcome::try_from(known.outcome.cast_signed()).unwrap_or(Outcome::Absent);
            let again = match outcome {
                Outcome::Absent => {
                    format!("; checked again every {} s", self.0.options.reopen_interval.as_secs())
                }
                _ => String::new(),
            };
            return Some((outcome, known.reason.clone() + &again));
        }
        let none_left = || format!("no reader of class {} is left: all are stuck", class.class.name());
        (!status.available && status.stuck >= STUCK_READERS).then(|| (Outcome::Stuck, none_left()))
    }

    /// Reads `queries` into `answer`; how long the readers were busy with it.
    pub async fn read(&self, queries: &[Query], answer: &Answer) -> Duration {
        let of_class = |class: Class| {
            let of_class = |query: &Query| row(*query).is_some_and(|row| row.class == class);
            self.read_class(class, queries.iter().copied().filter(of_class).collect(), answer)
        };
        let [a, b, c, d, e, f] = Class::ALL.map(of_class);
        let (a, b, c, d, e, f) = tokio::join!(a, b, c, d, e, f);
        a + b + c + d + e + f
    }

    async fn read_class(&self, class: Class, queries: VecDeque<Query>, answer: &Answer) -> Duration {
        let mut job = Job { queue: VecDeque::new(), retried: false, answer, busy: Duration::ZERO };
        for query in queries {
            match self.unavailable(query) {
                Some((outcome @ (Outcome::NotPermitted | Outcome::ContainerView), _)) => {
                    answer.put(end(query, outcome, Duration::ZERO)).await;
                }
                _ => job.queue.push_back(query),
            }
        }
        if let Some(class) = self.0.classes.get(class as usize).filter(|_| !job.queue.is_empty()) {
            let mut reading = class.reading.lock().await;
            self.0.read(class, &mut reading, &mut job).await;
        }
        job.busy
    }
}

/// What one read wants of one class.
struct Job<'a> {
    queue: VecDeque<Query>,
    /// Whether a query was asked again since its reader died.
    retried: bool,
    answer: &'a Answer,
    busy: Duration,
}

/// The last chunk of a query that no reader ends.
fn end(query: Query, outcome: Outcome, elapsed: Duration) -> Bytes {
    let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    let end = Some(QueryEnd { outcome: outcome.into(), elapsed_ns, left_out: 0 });
    ReadResponse { query: query.into(), end, ..Default::default() }.encode_to_vec().into()
}

impl Inner {
    fn class(&self, query: Query) -> Option<&ReaderClass> {
        self.classes.get(row(query)?.class as usize)
    }

    /// Orders a reader in a free slot, if there is one and not too many are stuck.
    fn order(&self, class: &ReaderClass, reading: &mut Reading) {
        if reading.starting.is_some() || lock(&class.status).stuck >= STUCK_READERS {
            return;
        }
        let Some(mut slot) = lock(&class.free).pop() else { return };
        slot.frames.clear();
        self.zygote.order(&mut slot);
        let now = Instant::now();
        (reading.starting, reading.ordered) = (Some((slot, now)), Some(now));
    }

    /// Waits for the reader that was ordered, for a while at most; it is then the active one. One that takes longer
    /// than [`START_TIMEOUT`] is stuck. The error is what a reader says that cannot start.
    async fn ready(
        self: &Arc<Self>,
        class: &ReaderClass,
        reading: &mut Reading,
        limit: Duration,
    ) -> Result<(), String> {
        let Some((slot, since)) = &mut reading.starting else { return Ok(()) };
        let left = START_TIMEOUT.saturating_sub(since.elapsed());
        let event = next(slot, left.min(limit)).await;
        if matches!(event, Event::TimedOut) && since.elapsed() < START_TIMEOUT {
            return Ok(());
        }
        let Some((slot, _)) = reading.starting.take() else { return Ok(()) };
        let name = class.class.name();
        match event {
            Event::Frame(Frame { kind: Kind::Hello, payload, .. }) => {
                match zygote::parse_hello(&payload).filter(|hello| hello.generation == slot.generation) {
                    Some(hello) => {
                        let opened = lock(&class.status).hello.as_ref().map(|hello| hello.opened);
                        let is_same =
                            std::mem::take(&mut reading.is_comparison) && opened == Some(hello.opened);
                        if is_same && reading.active.is_some() {
                            self.retire(class, slot, Retired::Replaced);
                            return Ok(());
                        }
                        if let Some(old) = reading.active.take() {
                            self.report_change(class, &hello);
                            lock(&class.status).reopenings += 1;
                            self.retire(class, old.slot, Retired::Replaced);
                        }
                        self.welcome(class, hello);
                        let (checked, check_pending) = (None, false);
                        reading.active = Some(Reader {
                            slot,
                            asked: VecDeque::new(),
                            waited: Duration::ZERO,
                            checked,
                            check_pending,
                        });
                        Ok(())
                    }
                    None => {
                        self.retire(class, slot, Retired::Malformed);
                        Err(format!("a reader of class {name} is not of this broker's version"))
                    }
                }
            }
            Event::Frame(Frame { kind: Kind::Failed, payload, .. }) => {
                let why = zygote::one_line(&payload);
                self.retire(class, slot, Retired::Replaced);
                Err(why)
            }
            Event::TimedOut => {
                tracing::warn!(reader = name, "a reader was not ready in time: it is stuck");
                self.retire(class, slot, Retired::Stuck);
                Ok(())
            }
            Event::Ended(status) => {
                self.count_death(class, slot, status);
                Err(format!(
                    "a reader of class {name} ended while it started: {}",
                    zygote::describe_status(status)
                ))
            }
            Event::Frame(_) | Event::Malformed(_) => {
                self.retire(class, slot, Retired::Malformed);
                Err(format!("a reader of class {name} wrote what is no report"))
            }
        }
    }

    /// A fresh reader takes over: reports what it reads that the last one did not, and the other way round.
    fn report_change(&self, class: &ReaderClass, hello: &Hello) {
        let reader = class.class.name();
        let Some(Changed { appeared, gone }) =
            lock(&class.status).hello.as_ref().and_then(|before| Changed::find(before, hello))
        else {
            return;
        };
        if appeared.is_none() && gone.is_none() {
            tracing::info!(
                reader,
                "a fresh reader reads other files, of queries that were answered before as well"
            );
        } else {
            tracing::info!(
                reader,
                appeared,
                gone,
                "queries whose files have appeared or gone: a fresh reader reads what is there now"
            );
        }
    }

    /// A reader is ready: reports what changed.
    fn welcome(&self, class: &ReaderClass, hello: Hello) {
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
                    "whose /proc and /sys these are has changed"
                );
            }
        }
        status.hello = Some(hello);
        status.available = true;
    }

    /// Sees to it that there is an active reader, if there can be one; one that sees what has appeared since.
    async fn prepare(self: &Arc<Self>, class: &ReaderClass, reading: &mut Reading) {
        // What an earlier read has left behind.
        if reading.active.as_ref().is_some_and(|reader| !reader.asked.is_empty()) {
            let mut nobody = Job {
                queue: VecDeque::new(),
                retried: false,
                answer: &Answer::default(),
                busy: Duration::ZERO,
            };
            self.take_answers(class, reading, &mut nobody, false).await;
        }
        // Again when the one that there was turns out to have died.
        for _ in 0..2 {
            if reading.starting.is_some() {
                let wait = if reading.active.is_some() { Duration::ZERO } else { START_TIMEOUT };
                self.welcome_next(class, reading, wait).await;
            }
            if reading.active.is_none() {
                self.order(class, reading);
                self.welcome_next(class, reading, START_TIMEOUT).await;
            }
            self.check(class, reading).await;
            if reading.active.is_some() {
                break;
            }
        }
        lock(&class.status).available = reading.active.is_some();
    }

    /// Notices a reader that died while nobody asked it, and one that has become ready; starts one where there is none and
    /// there can be one again: who waits for a class to be served before asking it would wait for ever.
    async fn tend(self: &Arc<Self>, class: &ReaderClass) {
        let Ok(mut reading) = class.reading.try_lock() else { return };
        if let Some(reader) = &reading.active {
            let (ended, status) = *reader.slot.ended.borrow();
            if ended == reader.slot.generation {
                self.lose(class, &mut reading, Event::Ended(status));
                self.order(class, &mut reading);
            }
        }
        let due = reading.ordered.is_some_and(|last| last.elapsed() >= CHECK_INTERVAL);
        if reading.active.is_none() && due {
            self.order(class, &mut reading);
        }
        if reading.starting.is_some() {
            self.welcome_next(class, &mut reading, Duration::ZERO).await;
        }
    }

    /// The same as [`Self::ready`] once the broker serves: the next read tries again.
    async fn welcome_next(self: &Arc<Self>, class: &ReaderClass, reading: &mut Reading, limit: Duration) {
        if let Err(why) = self.ready(class, reading, limit).await {
            tracing::error!(reader = class.class.name(), why, "a reader could not start");
        }
    }

    /// Asks the reader for an account of itself, when the last is old, and starts another one when there is more to see.
    async fn check(self: &Arc<Self>, class: &ReaderClass, reading: &mut Reading) {
        let interval = CHECK_INTERVAL.min(self.options.reopen_interval);
        let Some(reader) = &mut reading.active else { return };
        if !reader.check_pending {
            if reader.checked.is_some_and(|checked| checked.elapsed() < interval) || !reader.send(&[CHECK]) {
                return;
            }
            (reader.checked, reader.check_pending) = (Some(Instant::now()), true);
        }
        let event = next(&mut reader.slot, READ_TIMEOUT).await;
        reader.check_pending = false;
        match event {
            Event::Frame(Frame { kind: Kind::Checked, mut payload, .. }) if !payload.is_empty() => {
                let change = payload.split_to(1)[0];
                // Its own account is short; more is not kept.
                const STAT_BYTES: usize = 1024;
                payload.truncate(STAT_BYTES);
                lock(&class.status).stat = Bytes::copy_from_slice(&payload);
                let due = reading.reopened.is_none_or(|last| last.elapsed() >= self.options.reopen_interval);
                if change != Change::No as u8 && due {
                    reading.reopened = Some(Instant::now());
                    reading.is_comparison = change == Change::Unknown as u8;
                    self.order(class, reading);
                    self.welcome_next(class, reading, FRESH_TIMEOUT).await;
                }
            }
            event => self.lose(class, reading, event),
        }
    }

    /// Asks what is in the queue, and takes what comes, until everything is answered in one way or the other.
    async fn read(self: &Arc<Self>, class: &ReaderClass, reading: &mut Reading, job: &mut Job<'_>) {
        loop {
            if job.queue.is_empty() {
                return;
            }
            self.prepare(class, reading).await;
            let Some(reader) = &mut reading.active else { break };
            let asked = batch(&mut job.queue);
            let bytes: Vec<u8> = asked.iter().map(|query| *query as u8).collect();
            if reader.send(&bytes) {
                reader.asked = asked;
                self.take_answers(class, reading, job, true).await;
            } else {
                // It does not take requests: it has ended, or never read the earlier ones.
                asked.into_iter().rev().for_each(|query| job.queue.push_front(query));
                let event = next(&mut reader.slot, READ_TIMEOUT).await;
                self.lose(class, reading, event);
            }
        }
        for query in std::mem::take(&mut job.queue) {
            job.answer.put(end(query, Outcome::Stuck, Duration::ZERO)).await;
        }
    }

    /// Takes the answers to what the active reader was asked; without `wanted` they are dropped.
    async fn take_answers(
        self: &Arc<Self>,
        class: &ReaderClass,
        reading: &mut Reading,
        job: &mut Job<'_>,
        wanted: bool,
    ) {
        let mut forwarded = false;
        loop {
            let Some(reader) = &mut reading.active else { return };
            let Some(query) = reader.asked.front().copied() else { return };
            let begun = Instant::now();
            let left = READ_TIMEOUT.min(QUERY_TIMEOUT.saturating_sub(reader.waited));
            let event = next(&mut reader.slot, left).await;
            reader.waited += begun.elapsed();
            match event {
                Event::Frame(Frame {
                    kind: kind @ (Kind::Chunk | Kind::LastChunk),
                    about,
                    skipped,
                    payload,
                }) if about == query as u8 => {
                    if kind == Kind::LastChunk {
                        job.busy += reader.waited;
                        (reader.waited, forwarded) = (Duration::ZERO, false);
                        reader.asked.pop_front();
                        self.note_skipped(class, query, skipped);
                    } else {
                        forwarded = true;
                    }
                    if wanted {
                        job.answer.put(payload).await;
                    }
                }
                event => {
                    let waited = reader.waited;
                    let mut rest = std::mem::take(&mut reader.asked);
                    let outcome = match event {
                        Event::TimedOut => Outcome::TimedOut,
                        _ => Outcome::Failed,
                    };
                    self.lose_in(class, reading, event, Some(query));
                    if !wanted {
                        return;
                    }
                    // Which query a stuck reader is in is not known: it may hold back what it has answered. All are asked
                    // again, and what it hangs in is skipped. Once when it died: what kills one may kill the next.
                    let again = outcome == Outcome::TimedOut || !std::mem::replace(&mut job.retried, true);
                    // File systems may come twice, parts of a file may not.
                    let may_repeat = !forwarded || class.class == Class::Mounts;
                    if !(again && may_repeat) {
                        rest.pop_front();
                        job.answer.put(end(query, outcome, waited)).await;
                    }
                    rest.into_iter().rev().for_each(|query| job.queue.push_front(query));
                    return;
                }
            }
        }
    }

    /// Keeps which queries skip what another reader is stuck in.
    fn note_skipped(&self, class: &ReaderClass, query: Query, skipped: bool) {
        let mut status = lock(&class.status);
        let known = status.skipping.iter().position(|known| *known == query);
        match (skipped, known) {
            (true, None) => {
                let (reader, query_name) = (class.class.name(), query.as_str_name());
                tracing::warn!(reader, query = query_name, "a query skips what another reader is stuck in");
                status.skipping.push(query);
            }
            (false, Some(at)) => _ = status.skipping.swap_remove(at),
            _ => {}
        }
    }

    fn lose(self: &Arc<Self>, class: &ReaderClass, reading: &mut Reading, event: Event) {
        self.lose_in(class, reading, event, None);
    }

    /// The active reader is none any more.
    fn lose_in(
        self: &Arc<Self>,
        class: &ReaderClass,
        reading: &mut Reading,
        event: Event,
        query: Option<Query>,
    ) {
        let Some(reader) = reading.active.take() else { return };
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
                    "a query did not end in time: its reader is stuck"
                );
                self.retire(class, reader.slot, Retired::Stuck);
            }
            Event::Ended(status) => {
                tracing::debug!(reader = name, query = query_name, "a reader ended in the middle of a query");
                self.bury(class, reader.slot, status);
            }
            Event::Frame(Frame { kind: Kind::Failed, payload, .. }) => {
                tracing::error!(
                    reader = name,
                    query = query_name,
                    why = zygote::one_line(&payload),
                    "a reader failed"
                );
                self.retire(class, reader.slot, Retired::Replaced);
            }
            Event::Frame(frame) => {
                tracing::error!(reader = name, query = query_name, kind = ?frame.kind, "a reader wrote what is no answer");
                self.retire(class, reader.slot, Retired::Malformed);
            }
            Event::Malformed(error) => {
                tracing::error!(reader = name, query = query_name, %error, "a reader wrote what is no answer");
                self.retire(class, reader.slot, Retired::Malformed);
            }
        }
    }

    /// Asks a reader to end once it comes to it, and takes its slot back when it has.
    fn retire(self: &Arc<Self>, class: &ReaderClass, mut slot: Slot, why: Retired) {
        if why != Retired::Replaced {
            lock(&class.status).stuck += 1;
        }
        // Never by closing its pipe, which is the next reader's too.
        let _ = slot.requests.try_write(&[END]);
        let (inner, number) = (self.clone(), class.class as usize);
        tokio::spawn(async move {
            let status = drain(&mut slot, why).await;
            let Some(class) = inner.classes.get(number) else { return };
            if why != Retired::Replaced {
                let mut status = lock(&class.status);
                status.stuck -= 1;
                if status.stuck == 0 {
                    status.skipping.clear();
                }
                tracing::warn!(reader = class.class.name(), "a stuck reader has returned");
            }
            if status == 0 {
                inner.free(class, slot);
            } else {
                inner.bury(class, slot, status);
            }
        });
    }

    /// A reader has ended that was not asked to, or that ended otherwise than it was asked to.
    fn bury(&self, class: &ReaderClass, slot: Slot, status: i32) {
        if !zygote::was_killed_by_seccomp(status) {
            let how = zygote::describe_status(status);
            tracing::warn!(reader = class.class.name(), how, "a reader has died");
        }
        self.count_death(class, slot, status);
    }

    /// The same where the caller reports it: of a start that fails one line is enough.
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
                "SECURITY: seccomp killed a reader: it made a system call that it never makes"
            );
        }
        self.free(class, slot);
        let mut deaths = lock(&self.deaths);
        let now = Instant::now();
        deaths.retain(|death| now - *death < Duration::from_secs(60));
        deaths.push_back(now);
        if deaths.len() > self.options.deaths_per_minute {
            // Readers share one layout of memory: this limits how fast an attacker can guess it.
            self.fail(format!(
                "{} readers died within a minute, the last one of class {name}: {how}",
                deaths.len()
            ));
        }
    }

    fn free(&self, class: &ReaderClass, mut slot: Slot) {
        // It has ended: what it wrote is all there, and no other has begun.
        slot.frames.clear();
        // More than a pipe holds.
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

/// The queries that a fresh reader can answer and the last one could not, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Changed {
    appeared: Option<String>,
    gone: Option<String>,
}

impl Changed {
    /// None where the two have opened the same files and can answer the same queries.
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

/// Takes what can be asked at once: a query of large files alone, the others together.
fn batch(queue: &mut VecDeque<Query>) -> VecDeque<Query> {
    let is_large = |query: Query| {
        row(query).is_some_and(|row| row.file_bytes > LARGE_FILE || row.class == Class::Processes)
    };
    let together = queue.iter().position(|query| is_large(*query)).unwrap_or(queue.len());
    queue.drain(..together.max(1)).collect()
}

impl Reader {
    /// Writes requests; whether the reader's pipe took all of them, which it does unless it has taken none for long.
    fn send(&mut self, requests: &[u8]) -> bool {
        self.slot.requests.try_write(requests).is_ok_and(|written| written == requests.len())
    }
}

/// What a slot's reader writes next, for a while at most. Nothing is lost when this is cancelled.
async fn next(slot: &mut Slot, limit: Duration) -> Event {
    loop {
        match slot.frames.next_frame() {
            Ok(Some(frame)) => return Event::Frame(frame),
            Ok(None) => {}
            Err(malformed) => return Event::Malformed(malformed),
        }
        // Most often it is there already.
        match slot.answers.try_read_buf(slot.frames.space()) {
            Ok(0) => return Event::Ended(0),
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Event::Ended(0),
        }
        let generation = slot.generation;
        if let (ended, status) = *slot.ended.borrow_and_update()
            && ended == generation
        {
            return Event::Ended(status);
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

/// Waits until a reader that is not asked any more has ended; its wait status. What it writes is dropped.
async fn drain(slot: &mut Slot, why: Retired) -> i32 {
    // However fast it writes, others are served; one that writes what it likes least of all.
    let pause = Duration::from_millis(if why == Retired::Malformed { 50 } else { 1 });
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
                // A zygote that followed its order late has dropped the request to end.
                let _ = slot.requests.try_write(&[END]);
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
    fn a_report_of_what_changed_names_queries_or_says_that_only_files_did() {
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
        assert_eq!(find(hello(&[md], 1), hello(&[md], 2)), found("", ""), "further files of other queries");
        assert_eq!(find(hello(&[md], 1), hello(&[md], 1)), None);
    }
}
