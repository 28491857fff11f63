//! One process, parsed from two files, and the sums of the living processes of a group.
//!
//! <https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>

use crate::snapshot::Content;
use crate::text::{self, ProcessStat};

/// The names of states; the last is for every letter that has none.
pub(super) const STATE_NAMES: [(u8, &[u8]); 5] =
    [(b'R', b"Running"), (b'S', b"Sleeping"), (b'D', b"Waiting"), (b'Z', b"Zombie"), (b'?', b"Other")];

/// One process of a snapshot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process<'a> {
    pub(super) pid: u32,
    pub(super) stat: ProcessStat<'a>,
    pub(super) voluntary_switches: Option<u64>,
    pub(super) nonvoluntary_switches: Option<u64>,
    /// In bytes.
    pub(super) resident: Measured,
    pub(super) descriptors: Measured,
}

/// A number of a process from another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measured {
    /// The file was not there any more.
    Absent,
    /// It could not be read.
    Unknown,
    Value(u64),
}

impl<'a> Process<'a> {
    pub(super) fn new(pid: u32, stat: ProcessStat<'a>) -> Self {
        Self {
            pid,
            stat,
            voluntary_switches: None,
            nonvoluntary_switches: None,
            resident: Measured::Absent,
            descriptors: Measured::Absent,
        }
    }

    /// `proc/<pid>/status`.
    pub(super) fn read_status(&mut self, status: &Content) {
        let Content::Bytes { bytes, truncated: false } = status else {
            self.resident = Measured::Unknown;
            return;
        };
        // The kernel's own threads, and what is left of a process that ended, have no memory and no such line.
        self.resident = Measured::Value(0);
        for line in text::lines(bytes) {
            let Some((key, value)) = text::split_first(line, b':') else { continue };
            let number = text::fields(value).next().and_then(text::unsigned);
            match key {
                b"VmRSS" => {
                    let bytes = number.map(|kib| Measured::Value(kib.saturating_mul(1024)));
                    self.resident = bytes.unwrap_or(Measured::Unknown);
                }
                b"voluntary_ctxt_switches" => self.voluntary_switches = number,
                b"nonvoluntary_ctxt_switches" => self.nonvoluntary_switches = number,
                _ => {}
            }
        }
    }
}

/// The living processes of a group, summed up.
#[derive(Debug)]
pub(super) struct LiveTotals {
    pub(super) processes: u64,
    pub(super) threads: u64,
    pub(super) states: [u64; STATE_NAMES.len()],
    pub(super) virtual_bytes: u64,
    /// None if that of a process is unknown.
    pub(super) resident: Option<u64>,
    /// None if that of a process is unknown.
    pub(super) descriptors: Option<u64>,
    pub(super) oldest_start: Option<u64>,
}

impl Default for LiveTotals {
    fn default() -> Self {
        Self {
            processes: 0,
            threads: 0,
            states: [0; STATE_NAMES.len()],
            virtual_bytes: 0,
            resident: Some(0),
            descriptors: Some(0),
            oldest_start: None,
        }
    }
}

impl LiveTotals {
    pub(super) fn add(&mut self, process: &Process<'_>) {
        let Process { stat, resident, descriptors, .. } = process;
        self.processes += 1;
        self.threads = self.threads.saturating_add(stat.threads);
        self.virtual_bytes = self.virtual_bytes.saturating_add(stat.virtual_bytes);
        let named = STATE_NAMES.iter().position(|(letter, _)| *letter == stat.state);
        if let Some(count) = self.states.get_mut(named.unwrap_or(STATE_NAMES.len() - 1)) {
            *count += 1;
        }
        let add = |sum: Option<u64>, reading: &Measured| match reading {
            Measured::Absent => sum,
            Measured::Unknown => None,
            Measured::Value(number) => Some(sum?.saturating_add(*number)),
        };
        self.resident = add(self.resident, resident);
        self.descriptors = add(self.descriptors, descriptors);
        let oldest = self.oldest_start.unwrap_or(stat.start_ticks);
        self.oldest_start = Some(oldest.min(stat.start_ticks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_that_failed_makes_the_sum_unknown() {
        let line = b"1 (a) S 0 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 0 0";
        let process = Process::new(1, ProcessStat::parse(line).unwrap());
        let mut live = LiveTotals::default();
        live.add(&Process { resident: Measured::Value(5), ..process });
        live.add(&Process { resident: Measured::Absent, ..process });
        assert_eq!(live.resident, Some(5));
        live.add(&Process { resident: Measured::Unknown, ..process });
        live.add(&Process { resident: Measured::Value(5), ..process });
        assert_eq!(live.resident, None);
    }
}
