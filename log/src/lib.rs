//! The log of both programs: one event a line on standard error, as logfmt or JSON.
//!
//! Whoever logs never waits. Lines go into a bounded queue, and a thread named `log` writes them. A reader of the
//! log that stops reading, a full disk or a closed pipe costs lines and nothing else: [`dropped`] counts them, and
//! one line reports how many once there is room again. Only targets that begin with `keyhole` are logged: what
//! libraries log is caused by their peers, a line a frame.
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

/// The longest wait for the last lines of a process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The stack of the thread that writes.
const STACK_BYTES: usize = 64 << 10;

static SINK: OnceLock<Sink> = OnceLock::new();

/// Logs events of `level` and above from here on. Lines are queued until [`start_thread`]. Only the first call counts.
pub fn init(level: Level, format: Format) {
    if SINK.set(Sink::new(format)).is_ok() {
        // Fails only where a test has a subscriber of its own.
        let _ = tracing::subscriber::set_global_default(Log { level });
    }
}

/// Starts the thread that writes, and waits until it needs no more system calls than `futex` and `write`.
///
/// Call it after the layers that a thread inherits (capabilities, Landlock) and before seccomp. It does nothing
/// without [`init`], or when the thread runs already.
pub fn start_thread() -> io::Result<()> {
    let Some(sink) = SINK.get() else { return Ok(()) };
    if !sink.claim_thread() {
        return Ok(());
    }
    let stderr = io::stderr();
    // Past the standard library's lock, which a write that blocks would hold.
    let write = move |bytes: &[u8]| rustix::io::write(&stderr, bytes);
    std::thread::Builder::new()
        .name("log".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || sink.run(write))
        .inspect_err(|_| sink.release_thread())?;
    sink.wait_for_thread();
    Ok(())
}

/// Lines that were not written since the start: beyond the rate, beyond the queue, or refused by the kernel.
pub fn dropped() -> u64 {
    SINK.get().map_or(0, Sink::dropped)
}

/// Waits until every line so far is written, for at most a second. Call it at the end of a process.
pub fn flush() {
    let Some(sink) = SINK.get() else { return };
    // A process that ends before its thread was started is not sealed yet: its lines are still to be read.
    if start_thread().is_ok() {
        sink.flush(FLUSH_TIMEOUT);
    }
}

/// Writes a line as it is, such as the error that ends the process, after those before it; waits as [`flush`] does.
pub fn print(line: &str) {
    let line = format!("{line}\n");
    match SINK.get() {
        Some(sink) => {
            sink.push_always(line);
            flush();
        }
        // Nothing is left to do when standard error is closed.
        None => _ = io::Write::write_all(&mut io::stderr(), line.as_bytes()),
    }
}

/// Has a panic reported in one line that begins with the name of the program.
///
/// The standard library's own hook asks for the thread's number first, for which a sealed process is killed: nobody
/// would learn why it ended.
pub fn report_panics(program: &'static str) {
    std::panic::set_hook(Box::new(move |panic| report_panic(program, panic)));
}

fn report_panic(program: &str, panic: &PanicHookInfo<'_>) {
    let line = format!("{program}: {}\n", panic.to_string().replace('\n', " "));
    match SINK.get() {
        // The panic may come from under the sink's own lock: no waiting for that.
        Some(sink) if sink.try_push_always(line.clone()) => {
            if !sink.is_own_thread() {
                flush();
            }
        }
        Some(_) => {}
        None => _ = io::Write::write_all(&mut io::stderr(), line.as_bytes()),
    }
}

/// Turns events into lines. Spans are not used, so they are not kept.
struct Log {
    level: Level,
}

impl Log {
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && is_ours(metadata.target()) && *metadata.level() <= self.level
    }
}

/// Whether a target belongs to this project.
fn is_ours(target: &str) -> bool {
    target.starts_with("keyhole")
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
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
    fn what_libraries_log_is_off() {
        for target in
            ["h2::codec", "hyper", "tonic::transport", "rustls::conn", "tokio", "tower", "mio::poll", ""]
        {
            assert!(!is_ours(target), "{target}");
        }
        assert!(is_ours("keyhole_broker::listener") && is_ours("keyhole_exporter"));
    }
}
