//! Stub.

use super::{CollectError, Collector};

pub const COLLECTOR: Collector = Collector {
    name: "meminfo",
    default: true,
    help: "Stub.",
    queries: &[],
    optional: &[],
    flags: &[],
    families: &[],
    collect: |_, _| Err(CollectError::NoData(String::new())),
};
