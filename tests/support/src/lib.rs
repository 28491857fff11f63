//! What the black-box tests of all packages share: the programs, processes that end with their test, clients, and a
//! fake broker that answers from a script.
//!
//! [`Environment`] is where most tests begin: a private directory with the programs and a socket. As root the programs
//! run as the uids that the manifests give them, otherwise as the current user. Everything that is waited for has a
//! deadline.

pub mod client;
pub mod exposition;
pub mod fake_broker;
pub mod filters;
pub mod fork;
pub mod http;
pub mod landlock;
pub mod old_kernel;
pub mod programs;
pub mod signals;
pub mod usage;
pub mod users;

mod broker;
mod environment;
mod exporter;
mod process;
mod terminal;

pub use broker::Broker;
pub use environment::{Environment, NODE_NAME, flag, this_host};
pub use exporter::{Exporter, listening_address};
pub use process::{ChildProcess, Lines, TIMEOUT, run_to_end, wait_for, wait_for_within, wait_until};
pub use terminal::terminal;
pub use users::{BROKER_UID, DENIED_UID, EXPORTER_UID, broker_gid, broker_uid, is_root, root_for, run_as};
