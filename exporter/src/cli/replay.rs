//! `replay PATH`: prints the metrics of a capture, or of any tree with files of a host, without a broker. The same as
//! `query --from=PATH --output=prom`, within the limits of a scrape.

use super::{Failure, query};
use crate::options::Options;

/// Prints the exposition of the capture or tree at `path` to standard output.
pub(super) fn run(path: &str, options: &Options) -> Result<(), Failure> {
    // A tree need not have what every collector reads: what fails is logged, and is a sample.
    query::query_capture(path, &query::QueryOptions::for_replay(options)?)?.log();
    Ok(())
}
