//! Log lines on standard error: logfmt as node_exporter writes it, or JSON.

use keyhole_log::Format;
use tracing::Level;

use crate::options::Options;

/// Starts logging as `--log.level` and `--log.format` say; the error names what they take.
pub fn start(options: &Options) -> Result<(), String> {
    // As in node_exporter, a level may be written in capitals, and a format may not.
    let level = match options.text("log.level").to_ascii_lowercase().as_str() {
        "debug" => Level::DEBUG,
        "info" => Level::INFO,
        "warn" => Level::WARN,
        "error" => Level::ERROR,
        other => return Err(format!("--log.level={other:?}: use debug, info, warn or error")),
    };
    let format = match options.text("log.format") {
        "logfmt" => Format::Logfmt,
        "json" => Format::Json,
        other => return Err(format!("--log.format={other:?}: use logfmt or json")),
    };
    keyhole_log::init(level, format);
    keyhole_log::report_panics("keyhole-exporter");
    Ok(())
}
