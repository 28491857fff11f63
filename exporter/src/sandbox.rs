//! The exporter's own sandbox, entered before the first connection is accepted.

use std::path::PathBuf;

/// One layer of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name: `no_new_privs`, `seccomp`, ...
    pub name: String,
    /// Whether it is in force.
    pub in_force: bool,
    /// How that was checked, or why it is not in force.
    pub detail: String,
}

/// What the exporter still needs once it is sealed.
#[derive(Debug, Clone, Default)]
pub struct SealOptions {
    /// Directories that it reads files from: those of the textfile collector.
    pub readable: Vec<PathBuf>,
    /// The broker's socket, which it connects to.
    pub broker_socket: PathBuf,
}

/// Gives up what the exporter no longer needs, for good, and tells what is in force.
///
/// Called once, with one thread running, after the listening sockets are bound and everything that is held open is
/// open. From here on files are opened below `readable` only.
pub fn seal(_options: &SealOptions) -> Vec<Layer> {
    Vec::new()
}
