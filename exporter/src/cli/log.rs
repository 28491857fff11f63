//! Log lines on standard error: logfmt as node_exporter writes it, or JSON.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::options::Options;

/// Starts logging as `--log.level` and `--log.format` say; the error names what they take.
pub fn start(options: &Options) -> Result<(), String> {
    let level = match options.text("log.level") {
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" => LevelFilter::ERROR,
        other => return Err(format!("--log.level={other:?}: use debug, info, warn or error")),
    };
    // Libraries tell their inner life at debug and info: only ours is of use.
    let filter =
        Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("keyhole_exporter", level);
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    match options.text("log.format") {
        "logfmt" => registry.with(log.event_format(Logfmt).with_filter(filter)).init(),
        "json" => {
            let log = log.json().flatten_event(true).with_target(false);
            registry.with(log.with_filter(filter)).init();
        }
        other => return Err(format!("--log.format={other:?}: use logfmt or json")),
    }
    Ok(())
}

/// `time=... level=INFO msg="..." key=value`
struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "time=")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, " level={}", event.metadata().level())?;
        let mut fields = Fields { message: String::new(), rest: String::new() };
        event.record(&mut fields);
        write!(writer, " msg={}", Quoted(&fields.message))?;
        writeln!(writer, "{}", fields.rest)
    }
}

struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, format!("{value:?}"));
    }
}

impl Fields {
    fn record(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.rest.push_str(&format!(" {name}={}", Quoted(&value))),
        }
    }
}

/// A value as it is when it is one plain word, else in quotes and on one line.
struct Quoted<'v>(&'v str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
        match !self.0.is_empty() && self.0.chars().all(plain) {
            true => f.write_str(self.0),
            false => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_on_its_line_and_in_its_place() {
        assert_eq!(Quoted("plain:1").to_string(), "plain:1");
        assert_eq!(Quoted("a b").to_string(), "\"a b\"");
        assert_eq!(Quoted("x level=ERROR\n\u{1b}[2J").to_string(), "\"x level=ERROR\\n\\u{1b}[2J\"");
        assert_eq!(Quoted("").to_string(), "\"\"");
    }
}
