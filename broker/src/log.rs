//! Log lines on standard error: one an event, as text or as JSON.
//!
//! The JSON is written here: a library for it would be six crates more in the process that is trusted.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging.
pub(crate) fn start(level: Level, json: bool) {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level);
    // What reads the log may go away: a line that cannot be written is lost, and no reason to panic.
    let log = log.log_internal_errors(false);
    let text = tracing_subscriber::fmt::format().with_target(false);
    log.with_ansi(false).event_format(Lines { json, text }).init();
}

/// Says where a panic was, in one line. The standard library's own hook asks for the thread's number first, for which the
/// seal kills the process: nobody would learn why.
pub(crate) fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        let line = format!("keyhole-broker: {}\n", panic.to_string().replace('\n', " "));
        // Nothing is left to do when standard error is closed.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }));
}

/// Text as the library has it, or
/// `{"timestamp":"...","level":"INFO","target":"...","fields":{"message":"...","key":"value"}}`.
/// One type for both, since the library's code is compiled once for each.
struct Lines {
    json: bool,
    text: Format,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !self.json {
            return self.text.format_event(context, writer, event);
        }
        let metadata = event.metadata();
        write!(writer, "{{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let (level, target) = (metadata.level(), metadata.target());
        writeln!(writer, "\",\"level\":\"{level}\",\"target\":\"{target}\",\"fields\":{{{}}}}}", fields.0)
    }
}

/// Members of a JSON object, with commas between them. Writing to a String cannot fail.
struct Fields(String);

impl Fields {
    fn member(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let comma = if self.0.is_empty() { "" } else { "," };
        let _ = write!(self.0, "{comma}\"{}\":{value}", field.name());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, format_args!("\"{}\"", escaped(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, format_args!("{value}"));
    }
}

/// `text` as it stands between the quotes of a JSON string.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // The formats of Rust's escapes and of JSON's differ.
            c if c < ' ' => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_escaped_as_json_has_it() {
        assert_eq!(escaped("a\"b\\c\nd\u{1}\u{e9}"), "a\\\"b\\\\c\\u000ad\\u0001\u{e9}");
    }
}
