//! What a process and its descendants use, for tests that it is released.

use std::fs;

/// What a process and its descendants use: of a broker, with the zygote and the readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub descriptors: usize,
    pub threads: usize,
    pub resident_kib: u64,
}

impl Usage {
    pub fn measure(pid: u32) -> Self {
        let mut total = Self::measure_process(pid).expect("a process of ours");
        // Descendants may end meanwhile.
        for usage in descendants(pid).into_iter().filter_map(Self::measure_process) {
            total.descriptors += usage.descriptors;
            total.threads += usage.threads;
            total.resident_kib += usage.resident_kib;
        }
        total
    }

    /// What one process uses; `None` when it has ended.
    pub fn measure_process(pid: u32) -> Option<Self> {
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

/// The processes that a process has started, and those that they have, without the ones that have ended.
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
