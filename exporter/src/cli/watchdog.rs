//! Ends the process if its streams stall: a pipe that nobody reads would keep it waiting for ever.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::terminal::print_error;

/// Counts reads and writes of streams. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchdog(Arc<AtomicU64>);

impl Watchdog {
    /// Starts the thread that ends the process once no watched stream has moved for `timeout`, or at most twice as long.
    /// `stream` names what it waits for. It waits while nothing was read or written yet.
    pub(super) fn start(&self, timeout: Duration, stream: &'static str) -> std::io::Result<()> {
        let moved = Arc::clone(&self.0);
        let watch = move || {
            wait_for_stall(&moved, timeout);
            print_error(&format!("error: {stream}: nothing moved for {} s; ended", timeout.as_secs()));
            keyhole_log::flush();
            std::process::exit(1);
        };
        start_thread("watchdog", watch)
    }

    /// A stream whose reads and writes are counted.
    pub(super) fn watch<S>(&self, stream: S) -> Watched<S> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Watched { stream, watchdog: self.clone() }
    }
}

/// Starts a thread, and waits until it runs: its start makes system calls that the sandbox forbids, which is entered next.
pub(super) fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    const STACK_BYTES: usize = 128 << 10;
    let (started, start) = mpsc::channel();
    std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || {
        // The allocator sets up the thread's memory with its first allocation.
        drop(std::hint::black_box(Box::new([1u8; 64])));
        let _ = started.send(());
        run();
    })?;
    start.recv().map_err(|_| std::io::Error::other("the thread ended at its start"))
}

/// Returns once the count is not 0 and has not changed for `timeout`.
fn wait_for_stall(moved: &AtomicU64, timeout: Duration) {
    let (_sender, nothing) = mpsc::channel::<()>();
    let mut last = 0;
    loop {
        // A sleep by a system call that the sandbox allows.
        let _ = nothing.recv_timeout(timeout);
        let now = moved.load(Ordering::Relaxed);
        if now != 0 && now == last {
            return;
        }
        last = now;
    }
}

/// A watched stream.
pub(super) struct Watched<S> {
    stream: S,
    watchdog: Watchdog,
}

impl<S> Watched<S> {
    fn count<T>(&self, done: std::io::Result<T>) -> std::io::Result<T> {
        self.watchdog.0.fetch_add(1, Ordering::Relaxed);
        done
    }
}

impl<S: Read> Read for Watched<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buffer);
        self.count(read)
    }
}

impl<S: Write> Write for Watched<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.stream.write(bytes);
        self.count(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_stream_stalls_once_nothing_is_read_or_written_and_not_before_it_is_watched() {
        const TIMEOUT: Duration = Duration::from_millis(100);
        let watchdog = Watchdog::default();
        let moved = Arc::clone(&watchdog.0);
        let start = Instant::now();
        let waiting = std::thread::spawn(move || {
            wait_for_stall(&moved, TIMEOUT);
            start.elapsed()
        });
        std::thread::sleep(3 * TIMEOUT);
        let watched_at = start.elapsed();
        let mut stream = watchdog.watch(std::io::sink());
        stream.write_all(b"x").unwrap();
        let ended = waiting.join().unwrap();
        assert!(ended >= watched_at + TIMEOUT / 2, "{ended:?}, watched at {watched_at:?}");
    }
}
