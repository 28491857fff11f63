//! The queue between the threads that log and the one that writes: limited in lines, bytes, and lines per second.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::ThreadId;
use std::time::{Duration, Instant, SystemTime};

use keyhole_rate::TokenBucket;
use rustix::io::Errno;
use tracing::Level;

use crate::format::{Fields, Format};

/// The most lines that wait to be written.
const QUEUE_LINES: usize = 512;

/// The most bytes of lines that wait to be written.
const QUEUE_BYTES: usize = 256 << 10;

/// The cost of a line in the token bucket: a rate of 50 lines per second.
const LINE_COST: Duration = Duration::from_millis(20);

/// The size of the token bucket: a burst of 200 lines.
const BURST: Duration = Duration::from_secs(4);

/// The least time between two reports of dropped lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait when standard error is non-blocking and full.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// How often to try for the lock in a panic; other threads hold it for less than a microsecond.
const LOCK_TRIES: u32 = 1_000_000;

/// The queue, and the state of its thread.
pub(crate) struct Sink {
    format: Format,
    state: Mutex<State>,
    /// Wakes the thread when there is a line.
    filled: Condvar,
    /// Wakes waiting threads when the thread has started, or everything is written.
    drained: Condvar,
    dropped: AtomicU64,
}

struct State {
    lines: VecDeque<String>,
    /// Bytes of `lines`, and of the line that is being written.
    bytes: usize,
    /// Whether a line is being written.
    writing: bool,
    /// Whether the thread waits on `filled`.
    idle: bool,
    /// The number of threads that wait on `drained`.
    waiting: usize,
    /// Whether a thread was started or is being started.
    claimed: bool,
    thread: Option<ThreadId>,
    rate: TokenBucket,
    /// How many dropped lines were reported, and when.
    reported: u64,
    reported_at: Option<Instant>,
    /// Whether the last write failed. If so, dropped lines are reported only with the next line, not in between.
    failing: bool,
}

impl Sink {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            state: Mutex::new(State {
                lines: VecDeque::new(),
                bytes: 0,
                writing: false,
                idle: false,
                waiting: 0,
                claimed: false,
                thread: None,
                rate: TokenBucket::new(BURST, Instant::now()),
                reported: 0,
                reported_at: None,
                failing: false,
            }),
            filled: Condvar::new(),
            drained: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Locks the state, also if the mutex is poisoned: no panic leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the tokens of one line; if there are too few, the line is dropped before it is formatted.
    pub(crate) fn admit(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let admitted = state.rate.take(LINE_COST, now);
        if admitted {
            self.report(&mut state, now);
        } else {
            self.drop_one();
        }
        admitted
    }

    /// Queues a line that was admitted.
    pub(crate) fn push(&self, line: String) {
        self.enqueue(&mut self.lock(), line);
    }

    /// Queues a line without rate limit.
    pub(crate) fn push_always(&self, line: String) {
        self.enqueue(&mut self.lock(), line);
    }

    /// [`Self::push_always`] in a panic, whose thread may hold the lock; returns whether the line was queued or counted.
    pub(crate) fn try_push_always(&self, line: String) -> bool {
        for _ in 0..LOCK_TRIES {
            let mut state = match self.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(state)) => state.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    std::hint::spin_loop();
                    continue;
                }
            };
            self.enqueue(&mut state, line);
            return true;
        }
        false
    }

    fn enqueue(&self, state: &mut State, line: String) {
        if state.lines.len() >= QUEUE_LINES || state.bytes + line.len() > QUEUE_BYTES {
            return self.drop_one();
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        if std::mem::take(&mut state.idle) {
            self.filled.notify_one();
        }
    }

    /// Queues a line about dropped lines, if there are any that were not reported, and none were reported just now.
    fn report(&self, state: &mut State, now: Instant) {
        let dropped = self.dropped();
        let is_due = state.reported_at.is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL);
        if dropped == state.reported || !is_due || state.lines.len() >= QUEUE_LINES {
            return;
        }
        let mut fields = Fields::new(self.format);
        fields.text("message", "log lines dropped");
        fields.member("count", dropped - state.reported);
        (state.reported, state.reported_at) = (dropped, Some(now));
        self.enqueue(state, fields.line(SystemTime::now(), Level::WARN));
    }

    /// Whether the caller is to start the thread: true once.
    pub(crate) fn claim_thread(&self) -> bool {
        !std::mem::replace(&mut self.lock().claimed, true)
    }

    /// The thread could not be started.
    pub(crate) fn release_thread(&self) {
        self.lock().claimed = false;
    }

    pub(crate) fn wait_for_thread(&self) {
        let mut state = self.lock();
        while state.thread.is_none() {
            state.waiting += 1;
            state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// Whether the caller is the thread that writes.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.lock().thread == Some(std::thread::current().id())
    }

    /// Waits at most `timeout` until everything is written.
    pub(crate) fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while state.writing || !state.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state.waiting += 1;
            state = self.drained.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// Writes lines forever.
    pub(crate) fn run(&self, mut write: impl FnMut(&[u8]) -> rustix::io::Result<usize>) {
        let mut state = self.lock();
        state.thread = Some(std::thread::current().id());
        self.drained.notify_all();
        loop {
            let Some(line) = state.lines.pop_front() else {
                state = self.idle(state);
                continue;
            };
            state.writing = true;
            drop(state);
            let is_written = self.write_line(&mut write, line.as_bytes());
            state = self.lock();
            state.writing = false;
            state.bytes -= line.len();
            state.failing = !is_written;
            if !is_written {
                self.drop_one();
            }
            if state.lines.is_empty() && state.waiting > 0 {
                self.drained.notify_all();
            }
        }
    }

    /// Waits for a line, or until dropped lines may be reported.
    fn idle<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let is_report_due = self.dropped() != state.reported && !state.failing;
        if is_report_due {
            self.report(&mut state, Instant::now());
            if !state.lines.is_empty() {
                return state;
            }
        }
        state.idle = true;
        let mut state = if is_report_due {
            self.filled.wait_timeout(state, REPORT_INTERVAL).unwrap_or_else(PoisonError::into_inner).0
        } else {
            self.filled.wait(state).unwrap_or_else(PoisonError::into_inner)
        };
        state.idle = false;
        state
    }

    /// Writes one line; returns whether all of it was written. If the kernel refuses it, it is lost.
    fn write_line(
        &self,
        write: &mut impl FnMut(&[u8]) -> rustix::io::Result<usize>,
        mut line: &[u8],
    ) -> bool {
        while !line.is_empty() {
            match write(line) {
                Ok(0) => return false,
                Ok(written) => line = line.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // Standard error may be non-blocking: its flags are shared with every process that has it open.
                Err(Errno::AGAIN) => {
                    let state = self.lock();
                    // Nobody wakes this wait, since `idle` is not set. A sleep would need one more system call.
                    drop(self.filled.wait_timeout(state, RETRY_INTERVAL));
                }
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    fn start(sink: &Arc<Sink>, write: impl FnMut(&[u8]) -> rustix::io::Result<usize> + Send + 'static) {
        let own = sink.clone();
        assert!(sink.claim_thread());
        std::thread::spawn(move || own.run(write));
        sink.wait_for_thread();
    }

    /// A sink, and everything that it writes.
    fn sink() -> (Arc<Sink>, Arc<Mutex<String>>) {
        let sink = Arc::new(Sink::new(Format::Logfmt));
        let text = write_out(&sink);
        (sink, text)
    }

    fn write_out(sink: &Arc<Sink>) -> Arc<Mutex<String>> {
        let text = Arc::new(Mutex::new(String::new()));
        let written = text.clone();
        start(sink, move |bytes| {
            // In pieces, as a pipe may take them.
            let piece = &bytes[..bytes.len().min(7)];
            written.lock().unwrap().push_str(std::str::from_utf8(piece).unwrap());
            Ok(piece.len())
        });
        text
    }

    fn log(sink: &Sink, line: &str) {
        if sink.admit(Instant::now()) {
            sink.push(format!("{line}\n"));
        }
    }

    #[test]
    fn lines_are_written_in_their_order_and_a_flush_waits_for_them() {
        let (sink, text) = sink();
        (0..100).for_each(|number| log(&sink, &number.to_string()));
        sink.flush(Duration::from_secs(20));
        let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
        assert_eq!(*text.lock().unwrap(), expected);
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn a_burst_is_written_and_then_the_rate_applies() {
        let sink = Sink::new(Format::Logfmt);
        let start = Instant::now() + Duration::from_secs(60);
        assert_eq!((0..1000).filter(|_| sink.admit(start)).count(), 200);
        assert_eq!(sink.dropped(), 800);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| sink.admit(later)).count(), 50);
        assert_eq!(sink.dropped(), 1750);
    }

    #[test]
    fn one_line_reports_how_many_were_dropped() {
        let sink = Arc::new(Sink::new(Format::Logfmt));
        (0..1000).for_each(|number| log(&sink, &number.to_string()));
        // Written only then: what is dropped after a report waits for the next.
        let text = write_out(&sink);
        let dropped = sink.dropped();
        assert!((700..=800).contains(&dropped), "{dropped}");
        let deadline = Instant::now() + Duration::from_secs(20);
        let reports = loop {
            let text = text.lock().unwrap().clone();
            let count =
                |line: &str| line.split(" msg=\"log lines dropped\" count=").nth(1)?.parse::<u64>().ok();
            let reports: Vec<u64> = text.lines().filter_map(count).collect();
            if reports.iter().sum::<u64>() == sink.dropped() {
                break reports;
            }
            assert!(Instant::now() < deadline, "{text}");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(reports.len() <= 2, "{reports:?}");
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().unwrap()
    }

    #[test]
    fn a_log_that_is_not_read_blocks_nobody() {
        let (reader, writer) = pipe();
        let sink = Arc::new(Sink::new(Format::Logfmt));
        start(&sink, move |bytes| rustix::io::write(&writer, bytes));
        let begun = Instant::now();
        let line = "x".repeat(100);
        for _ in 0..100_000 {
            log(&sink, &line);
            sink.push_always(format!("{line}\n"));
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        // All but what the pipe (64 KiB) and the queue hold.
        assert!(sink.dropped() > 200_000 - 650 - 512 - 5, "{}", sink.dropped());
        let lines = sink.lock().lines.len();
        let bytes = sink.lock().bytes;
        assert!(lines <= QUEUE_LINES && bytes <= QUEUE_BYTES, "{lines} lines, {bytes} bytes");
        let begun = Instant::now();
        sink.flush(Duration::from_millis(200));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

        // When it is read again, every queued line comes, and the number of dropped ones.
        let mut buffer = [0; 4096];
        let mut text = String::new();
        while !text.contains("log lines dropped") {
            let length = rustix::io::read(&reader, &mut buffer).unwrap();
            text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        assert!(text.lines().filter(|text| *text == line).count() >= 512);
    }

    #[test]
    fn long_lines_fill_the_queue_by_their_bytes() {
        let sink = Sink::new(Format::Logfmt);
        (0..10).for_each(|_| sink.push_always("x".repeat(100 << 10)));
        assert_eq!((sink.lock().lines.len(), sink.dropped()), (2, 8));
    }

    #[test]
    fn a_full_disk_and_a_closed_pipe_only_lose_lines() {
        let full: OwnedFd = std::fs::File::options().write(true).open("/dev/full").unwrap().into();
        let (reader, writer) = pipe();
        drop(reader);
        for stderr in [full, writer] {
            let sink = Arc::new(Sink::new(Format::Logfmt));
            start(&sink, move |bytes| rustix::io::write(&stderr, bytes));
            (0..100).for_each(|number| log(&sink, &number.to_string()));
            sink.flush(Duration::from_secs(20));
            assert!((100..=103).contains(&sink.dropped()), "{}", sink.dropped());
            assert!(sink.lock().lines.is_empty());
        }
    }

    #[test]
    fn a_nonblocking_pipe_gets_every_line() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let sink = Arc::new(Sink::new(Format::Logfmt));
        start(&sink, move |bytes| rustix::io::write(&writer, bytes));
        (0..100).for_each(|_| sink.push_always(format!("{}\n", "x".repeat(999))));
        let mut buffer = [0; 4096];
        let (mut bytes, deadline) = (0, Instant::now() + Duration::from_secs(20));
        while bytes < 100_000 && Instant::now() < deadline {
            match rustix::io::read(&reader, &mut buffer) {
                Ok(length) => bytes += length,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        assert_eq!((bytes, sink.dropped()), (100_000, 0));
    }

    #[test]
    fn a_panic_under_the_lock_does_not_wait_for_it() {
        let sink = Sink::new(Format::Logfmt);
        let held = sink.lock();
        assert!(!sink.try_push_always("line\n".to_owned()));
        drop(held);
        assert!(sink.try_push_always("line\n".to_owned()));
    }

    proptest! {
        #[test]
        fn no_second_has_more_lines_than_the_burst_and_the_rate(gaps in prop::collection::vec(0_u64..100, 1..2000)) {
            let sink = Sink::new(Format::Logfmt);
            let mut now = Instant::now() + Duration::from_secs(60);
            let (start, mut admitted, events) = (now, 0_u64, gaps.len() as u64);
            for gap in gaps {
                now += Duration::from_millis(gap);
                admitted += u64::from(sink.admit(now));
                let most = 200 + (now - start).as_millis() as u64 / 20;
                prop_assert!(admitted <= most, "{} of at most {}", admitted, most);
            }
            prop_assert_eq!(sink.dropped(), events - admitted);
        }
    }
}
