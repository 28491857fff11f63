//! The log of broker and exporter: one event per line on standard error, as logfmt or JSON.
//!
//! Logging never blocks. Lines go into a bounded queue, and a thread named `log` writes them. If the log is not read, the
//! disk is full or the pipe is closed, lines are dropped and nothing else happens: [`dropped`] counts them, and a line
//! reports how many as soon as lines can be written again. Only targets that begin with `keyhole` are logged: with
//! libraries' events a peer could fill the log, a line for each frame.
#![forbid(unsafe_code)]

mod format;
mod sink;

use std::io;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter, span};

use format::Fields;
pub use format::Format;
use sink::Sink;

/// The most time that [`flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The stack size of the thread that writes.
const STACK_BYTES: usize = 64 << 10;

static SINK: OnceLock<Sink> = OnceLock::new();

/// Starts logging events of `level` and above. Lines are queued until [`start_thread`]. Further calls do nothing.
pub fn init(level: Level, format: Format) {
    if SINK.set(Sink::new(format)).is_ok() {
        // Fails only if a test has set another subscriber.
        let _ = tracing::subscriber::set_global_default(Log { level });
    }
}

/// Starts the thread that writes, and waits until it needs no more system calls than `futex` and `write`.
///
/// Call it after the sandbox layers that a thread inherits (capabilities, Landlock) and before seccomp. Without [`init`],
/// or if the thread runs already, it does nothing.
pub fn start_thread() -> io::Result<()> {
    let Some(sink) = SINK.get() else { return Ok(()) };
    if !sink.claim_thread() {
        return Ok(());
    }
    let stderr = io::stderr();
    // Without the standard library's lock, which a blocked write would hold.
    let write = move |bytes: &[u8]| rustix::io::write(&stderr, bytes);
    std::thread::Builder::new()
        .name("log".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || sink.run(write))
        .inspect_err(|_| sink.release_thread())?;
    sink.wait_for_thread();
    Ok(())
}

/// The number of lines dropped since the start: above the rate limit, above the queue's, or refused by the kernel.
pub fn dropped() -> u64 {
    SINK.get().map_or(0, Sink::dropped)
}

/// Waits at most a second until every queued line is written. Call it at the end of a process.
pub fn flush() {
    let Some(sink) = SINK.get() else { return };
    // A process that ends during its start has no thread yet: start it, so that its lines are written.
    if start_thread().is_ok() {
        sink.flush(FLUSH_TIMEOUT);
    }
}

/// Writes a line without formatting, such as the error that ends the process, after the queued lines; waits as [`flush`]
/// does.
pub fn print(line: &str) {
    let line = format!("{line}\n");
    match SINK.get() {
        Some(sink) => {
            sink.push_always(line);
            flush();
        }
        // If standard error is closed, the line is lost.
        None => _ = io::Write::write_all(&mut io::stderr(), line.as_bytes()),
    }
}

/// Makes a panic print one line that begins with the name of the program.
///
/// The standard library's hook first asks for the thread's id, a system call for which seccomp would kill the process: the
/// panic would not be reported.
pub fn report_panics(program: &'static str) {
    std::panic::set_hook(Box::new(move |panic| report_panic(program, panic)));
}

fn report_panic(program: &str, panic: &PanicHookInfo<'_>) {
    let line = format!("{program}: {}\n", panic.to_string().replace('\n', " "));
    match SINK.get() {
        // The panicking thread may hold the sink's lock, so do not wait for it.
        Some(sink) if sink.try_push_always(line.clone()) => {
            if !sink.is_own_thread() {
                flush();
            }
        }
        Some(_) => {}
        None => _ = io::Write::write_all(&mut io::stderr(), line.as_bytes()),
    }
}

/// Formats events as lines. Spans are not used, and are ignored.
struct Log {
    level: Level,
}

impl Log {
    fn is_logged(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && is_keyhole(metadata.target()) && *metadata.level() <= self.level
    }
}

/// Whether a target belongs to this project.
fn is_keyhole(target: &str) -> bool {
    target.starts_with("keyhole")
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.is_logged(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.is_logged(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        let Some(sink) = SINK.get() else { return };
        if !sink.admit(Instant::now()) {
            return;
        }
        let mut fields = Fields::new(sink.format());
        event.record(&mut fields);
        let metadata = event.metadata();
        sink.push(fields.line(SystemTime::now(), *metadata.level()));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_libraries_are_not_logged() {
        for target in
            ["h2::codec", "hyper", "tonic::transport", "rustls::conn", "tokio", "tower", "mio::poll", ""]
        {
            assert!(!is_keyhole(target), "{target}");
        }
        assert!(is_keyhole("keyhole_broker::listener") && is_keyhole("keyhole_exporter"));
    }
}
