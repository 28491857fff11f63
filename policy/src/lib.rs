//! What may be read of a host: [`TABLE`], one row per query, and the pattern language of its rows; and what reader and
//! exporter both know of the kernel: which errors mean that a file is absent, and how mount points are escaped.
//!
//! Data only, without dependencies. The readers enforce the table, the broker knows its rows by their numbers, and the
//! exporter uses it to replay a captured tree and to generate documents. Nothing here reads a file
//! (`docs/adr/0002-the-policy-is-a-crate.md`).
#![forbid(unsafe_code)]

#[rustfmt::skip]
#[path = "generated/enums.rs"]
mod enums;
pub mod errno;
pub mod escapes;
pub mod pattern;
pub mod pipes;
mod table;

pub use enums::{Outcome, Query};
pub use table::{AccessLevel, Class, Kind, Namespace, Root, Row, Source, TABLE, digest, row};

/// A number that is no value of an enum of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownNumber(pub i32);
