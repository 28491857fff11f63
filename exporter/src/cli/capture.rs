//! `capture DIR`: what the broker answers to every query, as a directory.

use std::path::Path;

use super::Failure;
use crate::options::Options;

/// Asks the broker for everything and writes it to `dir`.
pub(super) fn run(_dir: &Path, _options: &Options) -> Result<(), Failure> {
    Err("capture is not there yet".into())
}
