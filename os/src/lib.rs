//! The sandbox mechanisms that both processes use, one a file, and the few system calls that no library wraps safely.
//!
//! All `unsafe` of the project stands in this crate, each block with its reason.

mod timex;

pub use timex::{Timex, timex};
