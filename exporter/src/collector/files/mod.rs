//! Collectors of files that the exporter itself opens.

pub mod textfile;
