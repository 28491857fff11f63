//! keyhole-exporter: turns a broker's answers into node_exporter's metrics and serves them.
//!
//! The unprivileged side: it parses everything and opens nothing of the host.
#![forbid(unsafe_code)]

pub mod capture;
pub mod cli;
pub mod collector;
pub mod exposition;
pub mod options;
pub mod snapshot;
pub mod text;
