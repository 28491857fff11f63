//! Starts logging on standard error, in node_exporter's logfmt or as JSON.

use keyhole_log::Format;
use tracing::Level;

use super::flags::{LOG_FORMAT, LOG_LEVEL};
use crate::options::Options;

/// Starts logging as `--log.level` and `--log.format` say.
pub fn start(options: &Options) {
    // Both are among the flag's choices, which are levels and formats.
    let level = LOG_LEVEL.get(options).parse().unwrap_or(Level::INFO);
    let format = if LOG_FORMAT.get(options) == "json" { Format::Json } else { Format::Logfmt };
    keyhole_log::init(level, format);
    keyhole_log::report_panics("keyhole-exporter");
}
