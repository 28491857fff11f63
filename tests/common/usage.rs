//! What a process holds, for tests that something is given back.

use std::fs;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub descriptors: usize,
    pub threads: usize,
    pub resident_kib: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Self {
        let count =
            |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).expect("a process of ours").count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            resident_kib: resident.and_then(|kib| kib.parse().ok()).expect("VmRSS"),
        }
    }
}

/// Asks until it is so; panics when that takes too long.
pub fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
