//! Metrics that files of the exporter hold.

pub mod textfile;
