//! Processes and groups of them.

pub mod cgroup;
pub mod cgroups;
mod process;
pub mod processes;
pub mod processgroups;
