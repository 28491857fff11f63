//! The exporter's own process, by the names that Prometheus' clients give it.
//!
//! Everything is opened before the exporter enters its sandbox and read by pread(2) from then on. What the kernel says of this
//! process is read by procfs-core; what a broker says of itself by our own parser, which no bytes can make panic.
//! <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use procfs_core::FromRead as _;
use procfs_core::process::Stat;
use rustix::fs::{RawDir, SeekFrom};
use rustix::process::{Resource, getrlimit};

use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text::{self, ProcessStat};

/// The families that [`Process::add`] may give.
pub const FAMILIES: &[Family] =
    &[CPU, MAX_FDS, OPEN_FDS, RESIDENT, START, VIRTUAL, VIRTUAL_MAX, NETWORK_RECEIVED, NETWORK_SENT];

const CPU: Family = Family {
    name: "process_cpu_seconds_total",
    help: "CPU time that the exporter spent in user and system mode.",
    kind: MetricType::Counter,
    labels: &[],
    source: Source::Exporter("proc/self/stat"),
};
const MAX_FDS: Family = Family {
    name: "process_max_fds",
    help: "The most file descriptors that the exporter may hold.",
    kind: MetricType::Gauge,
    source: Source::Exporter("getrlimit(2)"),
    ..CPU
};
const OPEN_FDS: Family = Family {
    name: "process_open_fds",
    help: "File descriptors that the exporter holds.",
    kind: MetricType::Gauge,
    source: Source::Exporter("proc/self/fd"),
    ..CPU
};
const RESIDENT: Family = Family {
    name: "process_resident_memory_bytes",
    help: "Memory of the exporter that is in RAM.",
    kind: MetricType::Gauge,
    ..CPU
};
const START: Family = Family {
    name: "process_start_time_seconds",
    help: "When the exporter started, in seconds since the epoch.",
    kind: MetricType::Gauge,
    ..CPU
};
const VIRTUAL: Family = Family {
    name: "process_virtual_memory_bytes",
    help: "Address space that the exporter has mapped.",
    kind: MetricType::Gauge,
    ..CPU
};
const VIRTUAL_MAX: Family = Family {
    name: "process_virtual_memory_max_bytes",
    help: "The most address space that the exporter may map.",
    kind: MetricType::Gauge,
    source: Source::Exporter("getrlimit(2)"),
    ..CPU
};
const NETWORK_RECEIVED: Family = Family {
    name: "process_network_receive_bytes_total",
    help: "IP traffic that the exporter's network namespace has received.",
    source: Source::Exporter("proc/self/net/netstat"),
    ..CPU
};
const NETWORK_SENT: Family = Family {
    name: "process_network_transmit_bytes_total",
    help: "IP traffic that the exporter's network namespace has sent.",
    source: Source::Exporter("proc/self/net/netstat"),
    ..CPU
};

/// Descriptors of the exporter's own `/proc/self`; what could not be opened is left out of the metrics.
#[derive(Debug)]
pub struct Process {
    stat: Option<File>,
    fds: Option<File>,
    netstat: Option<File>,
    /// Seconds since the epoch.
    started: Option<f64>,
}

impl Process {
    /// Opens what is to be read later.
    pub fn open() -> Self {
        let open = |path| File::open(path).ok();
        let mut process = Self {
            stat: open("/proc/self/stat"),
            fds: open("/proc/self/fd"),
            netstat: open("/proc/self/net/netstat"),
            started: None,
        };
        process.started = process.stat().and_then(|stat| start_time(stat.starttime));
        process
    }

    /// Adds what can be known now.
    pub fn add(&self, out: &mut Exposition) {
        if let Some(stat) = self.stat() {
            let usage = Usage::new(stat.utime, stat.stime, stat.rss);
            out.add(&CPU, &[], usage.cpu_seconds);
            out.add(&VIRTUAL, &[], stat.vsize);
            out.add(&RESIDENT, &[], usage.resident_bytes);
        }
        if let Some(started) = self.started {
            out.add(&START, &[], started);
        }
        if let Some(count) = self.fds.as_ref().and_then(count_entries) {
            out.add(&OPEN_FDS, &[], count);
        }
        for (family, resource) in [(&MAX_FDS, Resource::Nofile), (&VIRTUAL_MAX, Resource::As)] {
            // No limit is the largest number there is, as Go's client has it.
            out.add(family, &[], getrlimit(resource).current.unwrap_or(u64::MAX));
        }
        let octets = self.netstat.as_ref().and_then(read).and_then(|text| ip_octets(&text));
        if let Some((received, sent)) = octets {
            out.add(&NETWORK_RECEIVED, &[], received);
            out.add(&NETWORK_SENT, &[], sent);
        }
    }

    fn stat(&self) -> Option<Stat> {
        Stat::from_read(&read(self.stat.as_ref()?)?[..]).ok()
    }
}

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// In user and system mode.
    pub(super) cpu_seconds: f64,
    /// In RAM.
    pub(super) resident_bytes: u64,
}

/// The usage in the text of a reader's `/proc/self/stat`; none when it is empty or not as the kernel writes it.
pub(super) fn usage(stat: &[u8]) -> Option<Usage> {
    let stat = ProcessStat::parse(stat)?;
    Some(Usage::new(stat.user_ticks, stat.system_ticks, stat.resident_pages?))
}

impl Usage {
    fn new(user_ticks: u64, system_ticks: u64, resident_pages: u64) -> Self {
        Self {
            cpu_seconds: user_ticks.saturating_add(system_ticks) as f64 / ticks_per_second(),
            resident_bytes: resident_pages.saturating_mul(rustix::param::page_size() as u64),
        }
    }
}

/// All of a small procfs file, from its beginning.
fn read(file: &File) -> Option<Vec<u8>> {
    const LIMIT: usize = 64 << 10;
    let mut text = vec![0; 8 << 10];
    let mut filled = 0;
    while filled < LIMIT {
        if filled == text.len() {
            text.resize(LIMIT, 0);
        }
        match file.read_at(text.get_mut(filled..)?, filled as u64).ok()? {
            0 => break,
            count => filled += count,
        }
    }
    text.truncate(filled);
    Some(text)
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second().max(1) as f64
}

fn start_time(start_ticks: u64) -> Option<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since_boot = boot.tv_sec as f64 + boot.tv_nsec as f64 / 1e9;
    let started = now - since_boot + start_ticks as f64 / ticks_per_second();
    Some((started * 100.0).round() / 100.0)
}

/// How many descriptors a held `/proc/self/fd` lists, itself among them.
fn count_entries(fds: &File) -> Option<u64> {
    // Linux 6.2 and newer give the count as the directory's size.
    match fds.metadata().ok()?.len() {
        0 => {}
        count => return Some(count),
    }
    rustix::fs::seek(fds, SeekFrom::Start(0)).ok()?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(fds, &mut buffer);
    let mut count = 0;
    while let Some(entry) = entries.next() {
        if !matches!(entry.ok()?.file_name().to_bytes(), b"." | b"..") {
            count += 1;
        }
    }
    Some(count)
}

/// `InOctets` and `OutOctets` of the pair of lines that begins with `IpExt:`.
fn ip_octets(text: &[u8]) -> Option<(u64, u64)> {
    let mut lines = text::lines(text).filter(|line| line.starts_with(b"IpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted: &[u8]| {
        let (_, value) = text::fields(names).zip(text::fields(values)).find(|(name, _)| *name == wanted)?;
        text::unsigned(value)
    };
    Some((value(b"InOctets")?, value(b"OutOctets")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_process_is_measured_from_open_descriptors() {
        let process = Process::open();
        let mut out = Exposition::new();
        process.add(&mut out);
        let text = out.to_text();
        for family in FAMILIES {
            assert!(text.contains(&format!("\n{} ", family.name)), "{} is missing in {text}", family.name);
        }
        let started = process.started.unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - 600.0..=now + 1.0).contains(&started), "{started} against {now}");
    }

    #[test]
    fn open_descriptors_are_counted_as_they_open_and_close() {
        let process = Process::open();
        let count = || count_entries(process.fds.as_ref().unwrap()).unwrap();
        let before = count();
        let more: Vec<File> = (0..50).map(|_| File::open("/proc/self/stat").unwrap()).collect();
        assert!(count() >= before + 25, "tests run side by side, so only the trend is sure");
        drop(more);
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_moves_no_field() {
        let text = b"7 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 21 34 0 0 20 0 1 0 900 4096 3 18446744073709551615\n";
        assert_eq!(usage(text), Some(Usage::new(21, 34, 3)));
    }

    #[test]
    fn a_stat_that_is_empty_or_cut_has_no_usage() {
        assert_eq!(usage(b""), None);
        assert_eq!(usage(b"7 (a) R 1 2 3 4 5 6 7 8 9 10 21"), None);
    }

    #[test]
    fn octets_are_found_by_name() {
        let text = b"TcpExt: A\nTcpExt: 1\nIpExt: InNoRoutes InOctets OutOctets New\nIpExt: 0 70 80 9\n";
        assert_eq!(ip_octets(text), Some((70, 80)));
        assert_eq!(ip_octets(b"IpExt: InOctets\nIpExt: 1\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (usage(&text), ip_octets(&text));
        }
    }
}
