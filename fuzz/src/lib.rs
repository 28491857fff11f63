//! Fuzz targets: one function each, any bytes in, a panic where a promise is broken.
//!
//! That nothing panics, hangs or runs out of memory is the least of it: each target states what must hold of what
//! comes out. `run.sh` builds the targets for libFuzzer and runs them; `tests/` replays what once fell.
#![forbid(unsafe_code)]

mod answers;
mod captures;
mod collectors;
mod flags;
pub mod input;
mod parsers;
pub mod seeds;
mod writers;

/// The strict reader of expositions that the end-to-end tests use.
#[path = "../../tests/common/exposition.rs"]
#[allow(dead_code, reason = "shared with tests that need more of it")]
mod prometheus;

pub use answers::answer;
pub use captures::capture;
pub use collectors::{collector, process_groups};
pub use flags::{broker_flags, exporter_flags};
pub use parsers::{mountinfo, names, pattern, query, text};
pub use writers::{exposition, textfile};

/// A target: its name and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, sorted by name: one file of `fuzz_targets/` each.
pub const TARGETS: &[Target] = &[
    ("answer", answer),
    ("broker_flags", broker_flags),
    ("capture", capture),
    ("collector", collector),
    ("exporter_flags", exporter_flags),
    ("exposition", exposition),
    ("mountinfo", mountinfo),
    ("names", names),
    ("pattern", pattern),
    ("process_groups", process_groups),
    ("query", query),
    ("text", text),
    ("textfile", textfile),
];
