//! Lanes: the threads that read, one at a time, each query within a budget.
//!
//! A read of a kernel file may sleep for ever (a dead network file system, a broken sensor). The thread that sleeps
//! keeps the query it was reading and is reported stuck until it returns; the next lane takes over the rest.
//! Everything a lane gives goes into a bounded batch that the service empties; no lock is held across a send.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::Thread;
use std::time::{Duration, Instant};

use keyhole_proto::v1::{Outcome, Query};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::host::{Host, Item, Scratch};
use crate::lock;
use crate::part::Part;

/// How many threads read. More than one only matters when one is stuck.
const LANES: usize = 4;

/// The most time that one query may spend reading.
const BUDGET: Duration = Duration::from_secs(2);

/// A batch this large is handed over at once, and a lane waits while it is not taken.
const BATCH_BYTES: usize = 128 << 10;

/// A smaller batch is handed over after this time.
const BATCH_TIME: Duration = Duration::from_millis(5);

/// A lane needs no deep stack.
const STACK_BYTES: usize = 256 << 10;

/// Why the threads could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError<E> {
    /// The kernel gave no thread.
    #[error("starting a reader thread: {0}")]
    Spawn(#[from] std::io::Error),
    /// A thread failed what it was to do first.
    #[error("{0}")]
    First(E),
}

/// The reader threads.
#[derive(Debug)]
pub struct Lanes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: Host,
    desk: Mutex<Desk>,
    /// How many lanes are stuck in each query, by its number in the contract.
    stuck: Vec<AtomicUsize>,
    stuck_queries: AtomicU64,
}

/// Where jobs are handed to lanes.
#[derive(Debug, Default)]
struct Desk {
    waiting: Option<Arc<Job>>,
    /// Lanes without a job. The last to come is the first to go: its stack and its buffers are warm.
    idle: Vec<Thread>,
    /// The last job handed out; over when its lane has left it.
    last: Option<Arc<Job>>,
}

/// Queries to be read by one lane, and what came of them.
#[derive(Debug)]
struct Job {
    progress: Mutex<Progress>,
    /// The lane may go on: the batch was taken, or the job abandoned.
    room: Condvar,
    /// The service should look: a batch is full, or the job is over.
    news: Notify,
}

#[derive(Debug, Default)]
struct Progress {
    queue: VecDeque<Query>,
    batch: Vec<Part>,
    batch_bytes: usize,
    batch_since: Option<Instant>,
    /// The query being read.
    current: Option<Query>,
    /// Since when its lane has been in the kernel; none while it waits for room.
    reading_since: Option<Instant>,
    /// What it spent before that.
    spent: Duration,
    /// Nobody wants the rest; the lane leaves at its next step.
    abandoned: bool,
    /// The lane counts as stuck in the current query.
    given_up: bool,
    /// The lane has left.
    over: bool,
}

impl Progress {
    fn time_spent(&self) -> Duration {
        self.spent + self.reading_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether nothing is left to read.
    fn is_read(&self) -> bool {
        self.over || (self.current.is_none() && self.queue.is_empty())
    }

    /// The last part of the batch, when it is of `query` and takes `item`, or else a new one.
    fn part(&mut self, query: Query, item: Option<&Item<'_>>) -> &mut Part {
        let takes = |last: &Part| last.is_of(query) && item.is_none_or(|item| last.has_room_for(item));
        if !self.batch.last().is_some_and(takes) {
            self.batch.push(Part::of(query));
            self.batch_since.get_or_insert_with(Instant::now);
        }
        let last = self.batch.len() - 1;
        &mut self.batch[last]
    }

    fn push(&mut self, query: Query, item: &Item<'_>) {
        let part = self.part(query, Some(item));
        let before = part.encoded_len();
        part.push(item);
        self.batch_bytes += part.encoded_len() - before;
    }

    /// Says how `query` ended, in whatever lane it is.
    fn add_end(&mut self, query: Query, outcome: Outcome) {
        let elapsed_ns = u64::try_from(self.time_spent().as_nanos()).unwrap_or(u64::MAX);
        self.part(query, None).end(outcome, elapsed_ns);
    }

    /// The lane has ended `query`.
    fn end(&mut self, query: Query, outcome: Outcome) {
        self.add_end(query, outcome);
        self.current = None;
        self.reading_since = None;
        self.spent = Duration::ZERO;
    }
}

impl Lanes {
    /// Starts the threads, and waits until each has done `first` and said how that went: nothing of a thread's own
    /// start may be left to do when system calls are taken away.
    pub fn start<E: Send + 'static>(
        host: Host,
        first: impl Fn() -> Result<(), E> + Copy + Send + 'static,
    ) -> Result<Self, StartError<E>> {
        let highest = keyhole_policy::TABLE.iter().map(|row| row.query as usize).max().unwrap_or(0);
        let shared = Arc::new(Shared {
            host,
            desk: Mutex::default(),
            stuck: (0..=highest).map(|_| AtomicUsize::new(0)).collect(),
            stuck_queries: AtomicU64::new(0),
        });
        let (ready, said) = mpsc::channel();
        for number in 0..LANES {
            let (shared, ready) = (shared.clone(), ready.clone());
            std::thread::Builder::new().name(format!("lane-{number}")).stack_size(STACK_BYTES).spawn(
                move || {
                    // Its maps are seeded by a system call that a sealed broker has not.
                    let scratch = Scratch::default();
                    let told = ready.send(first());
                    drop(ready);
                    if told.is_ok() {
                        shared.work(scratch);
                    }
                },
            )?;
        }
        drop(ready);
        said.iter().collect::<Result<(), _>>().map_err(StartError::First)?;
        Ok(Self { shared })
    }

    /// What the lanes read.
    pub fn host(&self) -> &Host {
        &self.shared.host
    }

    /// Whether a read of `query` has outstayed its budget and not returned.
    pub fn is_stuck(&self, query: Query) -> bool {
        self.shared.stuck(query).load(Ordering::Relaxed) > 0
    }

    /// How many threads have not returned.
    pub fn stuck_lanes(&self) -> usize {
        self.shared.stuck_lanes()
    }

    /// Whether no thread is left to read with.
    pub fn all_stuck(&self) -> bool {
        self.stuck_lanes() >= LANES
    }

    /// How often a query outstayed its budget.
    pub fn stuck_queries(&self) -> u64 {
        self.shared.stuck_queries.load(Ordering::Relaxed)
    }

    /// Begins to read `queries`, once the lane of an earlier reading has left it or is stuck.
    pub async fn begin(&self, queries: Vec<Query>) -> Reading {
        let mut reading = Reading { shared: self.shared.clone(), job: Arc::new(Job::of(VecDeque::new())) };
        let earlier = lock(&self.shared.desk).last.clone();
        if let Some(earlier) = earlier {
            self.shared.wait_out(&earlier).await;
        }
        reading.hand_over(queries.into());
        reading
    }
}

impl Shared {
    fn stuck(&self, query: Query) -> &AtomicUsize {
        &self.stuck[query as usize]
    }

    fn stuck_lanes(&self) -> usize {
        self.stuck.iter().map(|stuck| stuck.load(Ordering::Relaxed)).sum()
    }

    /// Whether another lane may read `query` beside those that are stuck in it.
    fn is_open(&self, query: Query) -> bool {
        self.stuck(query).load(Ordering::Relaxed) < self.host.lanes(query)
    }

    /// Waits until an abandoned job's lane has left it, or has used up its budget.
    async fn wait_out(&self, job: &Job) {
        loop {
            let left = {
                let mut progress = lock(&job.progress);
                if progress.over || progress.given_up {
                    return;
                }
                match BUDGET.checked_sub(progress.time_spent()) {
                    Some(left) if !left.is_zero() => left,
                    _ => return self.give_up(&mut progress),
                }
            };
            let _ = timeout(left, job.news.notified()).await;
        }
    }

    /// Marks the query that a lane is in as stuck; the lane takes the mark away when it returns.
    fn give_up(&self, progress: &mut Progress) {
        if let Some(query) = progress.current {
            progress.given_up = true;
            self.stuck(query).fetch_add(1, Ordering::Relaxed);
            self.stuck_queries.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(query = query.as_str_name(), "query outstayed its budget: its lane is stuck");
        }
    }

    /// A lane's life.
    fn work(&self, mut scratch: Scratch) {
        #[cfg(feature = "hostile-code-for-tests")]
        crate::hostile::on_lane();
        loop {
            let job = self.next_job();
            while let Some(query) = job.next_query() {
                if !self.is_open(query) {
                    lock(&job.progress).end(query, Outcome::Stuck);
                    continue;
                }
                let outcome = self.host.read(query, &mut scratch, &mut |item| job.push(query, &item));
                let mut progress = lock(&job.progress);
                if std::mem::take(&mut progress.given_up) {
                    self.stuck(query).fetch_sub(1, Ordering::Relaxed);
                    tracing::warn!(query = query.as_str_name(), "stuck lane has returned");
                }
                progress.end(query, outcome);
            }
            scratch.end();
            lock(&job.progress).over = true;
            job.news.notify_one();
        }
    }

    fn next_job(&self) -> Arc<Job> {
        let this = std::thread::current();
        loop {
            let mut desk = lock(&self.desk);
            if let Some(job) = desk.waiting.take() {
                desk.idle.retain(|lane| lane.id() != this.id());
                return job;
            }
            // It may have woken for nothing.
            if desk.idle.iter().all(|lane| lane.id() != this.id()) {
                desk.idle.push(this.clone());
            }
            drop(desk);
            std::thread::park();
        }
    }
}

impl Job {
    fn of(queue: VecDeque<Query>) -> Self {
        Self {
            progress: Mutex::new(Progress { queue, ..Default::default() }),
            room: Condvar::new(),
            news: Notify::new(),
        }
    }

    fn next_query(&self) -> Option<Query> {
        let mut progress = lock(&self.progress);
        if progress.abandoned {
            return None;
        }
        let query = progress.queue.pop_front()?;
        progress.current = Some(query);
        progress.reading_since = Some(Instant::now());
        Some(query)
    }

    /// Adds to the batch; waits while it is full.
    fn push(&self, query: Query, item: &Item<'_>) -> ControlFlow<()> {
        let mut progress = lock(&self.progress);
        if progress.abandoned {
            return ControlFlow::Break(());
        }
        progress.push(query, item);
        if progress.batch_bytes >= BATCH_BYTES {
            progress.spent = progress.time_spent();
            progress.reading_since = None;
            self.news.notify_one();
            while progress.batch_bytes >= BATCH_BYTES && !progress.abandoned {
                progress = self.room.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
            progress.reading_since = Some(Instant::now());
        }
        ControlFlow::Continue(())
    }
}

/// A reading under way. Dropping it makes its lane leave at the next file.
#[derive(Debug)]
pub struct Reading {
    shared: Arc<Shared>,
    job: Arc<Job>,
}

impl Reading {
    /// The next batch; none when everything was handed over.
    pub async fn next(&mut self) -> Option<Vec<Part>> {
        loop {
            let job = self.job.clone();
            let wait = {
                let mut progress = lock(&job.progress);
                let over = progress.is_read();
                let age = progress.batch_since.map_or(Duration::ZERO, |since| since.elapsed());
                if over || progress.batch_bytes >= BATCH_BYTES || age >= BATCH_TIME {
                    let batch = std::mem::take(&mut progress.batch);
                    progress.batch_bytes = 0;
                    progress.batch_since = None;
                    job.room.notify_one();
                    if !batch.is_empty() {
                        return Some(batch);
                    }
                    if over {
                        return None;
                    }
                }
                let left = BUDGET.saturating_sub(progress.time_spent());
                if left.is_zero() && progress.current.is_some() {
                    return Some(self.take_over(progress));
                }
                match progress.batch_since {
                    Some(since) => left.min(BATCH_TIME.saturating_sub(since.elapsed())),
                    None => left.min(BATCH_TIME),
                }
            };
            // A millisecond at least: timers are no finer.
            let _ = timeout(wait.max(Duration::from_millis(1)), job.news.notified()).await;
        }
    }

    /// Whether everything was handed over.
    pub fn is_over(&self) -> bool {
        let progress = lock(&self.job.progress);
        progress.is_read() && progress.batch.is_empty()
    }

    /// Leaves the stuck lane with its query, and gives the rest to the next. A query that may go on without what the
    /// lane is stuck in comes last, from its start.
    fn take_over(&mut self, mut progress: MutexGuard<'_, Progress>) -> Vec<Part> {
        self.shared.give_up(&mut progress);
        let mut rest = std::mem::take(&mut progress.queue);
        if let Some(query) = progress.current {
            match self.shared.is_open(query) {
                true => rest.push_back(query),
                false => progress.add_end(query, Outcome::TimedOut),
            }
        }
        let batch = std::mem::take(&mut progress.batch);
        progress.abandoned = true;
        drop(progress);
        self.hand_over(rest);
        batch
    }

    /// Gives `queries` to a lane; all of them end stuck at once when none is free.
    fn hand_over(&mut self, queries: VecDeque<Query>) {
        let mut desk = lock(&self.shared.desk);
        let job = Arc::new(Job::of(queries));
        {
            let mut progress = lock(&job.progress);
            // A lane that has just left its job may not be back yet: only stuck lanes count as gone.
            if self.shared.stuck_lanes() >= LANES {
                for query in std::mem::take(&mut progress.queue) {
                    progress.end(query, Outcome::Stuck);
                }
            }
            progress.over = progress.queue.is_empty();
        }
        self.job = job.clone();
        if !lock(&job.progress).over {
            desk.last = Some(job.clone());
            desk.waiting = Some(job);
            // Where none is idle, one that has left its job looks before it rests.
            if let Some(lane) = desk.idle.pop() {
                lane.unpark();
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        lock(&self.job.progress).abandoned = true;
        self.job.room.notify_one();
    }
}
