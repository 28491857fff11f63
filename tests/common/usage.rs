//! What a process and those that it started hold, for tests that something is given back.

use std::fs;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// What a process holds, and with it every process that it started: a broker's reader and what that forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub descriptors: usize,
    pub threads: usize,
    pub resident_kib: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Self {
        let mut all = Self::of_process(pid).expect("a process of ours");
        // Others may end while they are looked at.
        for of in descendants(pid).into_iter().filter_map(Self::of_process) {
            all.descriptors += of.descriptors;
            all.threads += of.threads;
            all.resident_kib += of.resident_kib;
        }
        all
    }

    /// What one process holds; nothing when it has ended.
    pub fn of_process(pid: u32) -> Option<Self> {
        let count = |what: &str| Some(fs::read_dir(format!("/proc/{pid}/{what}")).ok()?.count());
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        Some(Self {
            descriptors: count("fd")?,
            threads: count("task")?,
            // A process that has ended and was not waited for has none.
            resident_kib: resident?.parse().expect("VmRSS in KiB"),
        })
    }
}

/// The processes that a process started, and that those started, as long as they live.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found.split_off(1)
}

/// Asks until it is so; panics when that takes too long.
pub fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
