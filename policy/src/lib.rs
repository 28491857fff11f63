//! What a broker may read: [`TABLE`], one row a query, and the pattern language of its rows.
//!
//! Pure data. The broker enforces the table; the exporter uses the same table to replay a captured tree and to write
//! documents. Nothing here touches a file (`docs/adr/0002-the-policy-is-a-crate.md`).
#![forbid(unsafe_code)]

mod pattern;
mod table;

pub use pattern::{Component, InvalidPattern, Pattern};
pub use table::{Kind, Root, Row, Rung, Source, TABLE, row};
