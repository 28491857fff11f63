//! `replay DIR`: the metrics of a captured host, or of any tree with proc/ and sys/, with no broker.

use std::path::Path;

use super::{Failure, print};
use crate::capture;
use crate::collector::processgroups::ProcessGroups;
use crate::collector::{self, Context};
use crate::exposition::Exposition;
use crate::options::Options;
use crate::own::OwnSource;
use crate::scrape;

/// Prints the exposition of the tree below `dir`, and nothing else, to standard output.
pub(super) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    let capture = capture::read(dir).map_err(|error| {
        format!("cannot replay {}: {error}; give a capture or a tree with proc/", dir.display())
    })?;
    let groups = ProcessGroups::new(options)?;
    let own = OwnSource::of_capture(options, capture.about).with_process_groups(groups).now();
    let mut out = Exposition::new();
    let context = Context { snapshot: &capture.snapshot, options, own: &own };
    for run in collector::run(&scrape::enabled(options), &context, usize::MAX, &mut out) {
        if let Err(error) = &run.result {
            tracing::debug!(collector = run.name, %error, "collector failed");
        }
        if let Some(first) = &run.tally.first_skipped {
            tracing::info!(collector = run.name, skipped = run.tally.skipped, %first, "items left out");
        }
    }
    print(&out.to_text())
}
