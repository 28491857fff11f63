//! keyhole-exporter: parses the kernel files that a broker returns and serves node_exporter's metrics.
//!
//! The unprivileged side: it parses everything, and opens no file of the host but text files
//! (`--collector.textfile.directory`).
#![forbid(unsafe_code)]

pub mod broker_client;
pub mod budget;
pub mod capture;
pub mod cli;
pub mod collector;
pub mod exposition;
pub mod go_regex;
#[cfg(feature = "hostile-code-for-tests")]
mod hostile;
pub mod http;
pub mod local;
pub mod options;
pub mod protobuf;
pub mod sandbox;
pub mod scrape;
pub mod scrape_history;
pub mod self_metrics;
pub mod snapshot;
pub mod text;
pub mod unread_responses;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The mechanisms of the sandbox; in a build for the attack tests, variants that can be disabled.
mod layers {
    #[cfg(feature = "hostile-code-for-tests")]
    pub(crate) use keyhole_os::hostile::{capabilities, landlock, process, seccomp};
    #[cfg(not(feature = "hostile-code-for-tests"))]
    pub(crate) use keyhole_os::{capabilities, landlock, process, seccomp};
}

/// Locks a mutex, ignoring poisoning: the data behind the locks here is consistent at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
