//! `replay DIR`: prints the metrics of a capture, or of any tree with files of a host, without a broker. The same as
//! `query --from=DIR --output=prom`, within the limits of a scrape.

use std::path::Path;

use super::{Failure, query};
use crate::options::Options;

/// Prints the exposition of the tree below `dir` to standard output.
pub(super) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    // A tree need not have what every collector reads: what fails is logged, and is a sample.
    query::query_capture(dir, &query::QueryOptions::for_replay(options)?)?.log();
    Ok(())
}
