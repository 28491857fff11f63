//! `replay DIR`: the metrics of a captured host, or of any tree with proc/ and sys/, with no broker: what `query
//! --from=DIR --output=prom` shows, within the limits of a scrape.

use std::path::Path;

use super::{Failure, query};
use crate::options::Options;

/// Prints the exposition of the tree below `dir`, and nothing else, to standard output.
pub(super) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    query::query_capture(dir, &query::QueryOptions::for_replay(options)?, options)?.log();
    Ok(())
}
