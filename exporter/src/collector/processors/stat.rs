//! What the kernel counts since boot, all CPUs together: `proc/stat`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#miscellaneous-kernel-statistics-in-proc-stat>

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::options::{Options, TypedFlag};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "stat",
    default: true,
    help: "Boot time, forks, context switches, interrupts and running processes.",
    queries: &[Query::Stat],
    optional: &[],
    flags: &[SOFTIRQ_FLAG.row],
    families: || vec![INTERRUPTS, CONTEXT_SWITCHES, BOOT_TIME, FORKS, RUNNING, BLOCKED, SOFTIRQS],
    new: |options| Ok(Box::new(Stat::new(options))),
};

const PATH: &str = "proc/stat";
const SOFTIRQ_FLAG: TypedFlag<bool> =
    TypedFlag::switch("collector.stat.softirq", false, "Report soft interrupts by vector.");

const INTERRUPTS: Family = Family {
    name: "node_intr_total",
    help: "Interrupts served since boot.",
    kind: MetricType::Counter,
    labels: &[],
    source: Source::File(PATH),
};
const CONTEXT_SWITCHES: Family = Family {
    name: "node_context_switches_total",
    help: "Context switches of all CPUs since boot.",
    ..INTERRUPTS
};
const BOOT_TIME: Family = Family {
    name: "node_boot_time_seconds",
    help: "When the host booted, in seconds since the epoch.",
    kind: MetricType::Gauge,
    ..INTERRUPTS
};
const FORKS: Family =
    Family { name: "node_forks_total", help: "Processes and threads created since boot.", ..INTERRUPTS };
const RUNNING: Family =
    Family { name: "node_procs_running", help: "Threads that run or wait for a CPU.", ..BOOT_TIME };
const BLOCKED: Family =
    Family { name: "node_procs_blocked", help: "Threads that wait for I/O to complete.", ..BOOT_TIME };
const SOFTIRQS: Family = Family {
    name: "node_softirqs_total",
    help: "Soft interrupts served since boot, by vector.",
    labels: &["vector"],
    ..INTERRUPTS
};

/// Lines whose first number is a family's value; what follows in `intr` are single interrupts.
const LINES: &[(&[u8], &Family)] = &[
    (b"btime", &BOOT_TIME),
    (b"ctxt", &CONTEXT_SWITCHES),
    (b"intr", &INTERRUPTS),
    (b"processes", &FORKS),
    (b"procs_blocked", &BLOCKED),
    (b"procs_running", &RUNNING),
];

/// The columns of `softirq` after its sum: the kernel's vectors, in their fixed order.
const VECTORS: &[&[u8]] = &[
    b"hi",
    b"timer",
    b"net_tx",
    b"net_rx",
    b"block",
    b"block_iopoll",
    b"tasklet",
    b"sched",
    b"hrtimer",
    b"rcu",
];

/// The values of the flags.
#[derive(Debug)]
struct Stat {
    softirqs: bool,
}

impl Stat {
    fn new(options: &Options) -> Self {
        Self { softirqs: SOFTIRQ_FLAG.get(options) }
    }
}

impl Collect for Stat {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut any = false;
        for line in out.rows(PATH, context.require(PATH)?) {
            let mut fields = text::fields(line);
            let Some(key) = fields.next() else { continue };
            if let Some((_, family)) = LINES.iter().find(|(name, _)| *name == key) {
                any |= add(out, family, &[], key, fields.next());
            } else if key == b"softirq" && self.softirqs {
                for (vector, count) in VECTORS.iter().zip(fields.skip(1)) {
                    add(out, &SOFTIRQS, &[vector], key, Some(count));
                }
            }
        }
        any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "no line that is known"))
    }
}

/// Adds a number of the line `key`, or notes that it is none.
fn add(out: &mut Exposition, family: &Family, labels: &[&[u8]], key: &[u8], number: Option<&[u8]>) -> bool {
    let value = number.and_then(text::unsigned);
    match value {
        Some(value) => out.add(family, labels, value),
        None => out.skip(|| format!("{PATH}: {} without a number", key.escape_ascii())),
    }
    value.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const STAT: &[u8] = b"cpu  21435 0 9630 355029 3637 0 64 164 0 0\n\
        cpu0 10141 0 3279 181093 378 0 6 78 0 0\n\
        intr 193935 0 0 17 22\n\
        ctxt 1042\n\
        btime 1700000000\n\
        processes 2644\n\
        procs_running 3\n\
        procs_blocked 1\n\
        softirq 55 1 2 3 4 5 6 7 8 9 10\n";

    const TOTALS: &str = "node_boot_time_seconds 1700000000\n\
        node_context_switches_total 1042\n\
        node_forks_total 2644\n\
        node_intr_total 193935\n\
        node_procs_blocked 1\n\
        node_procs_running 3\n";

    #[test]
    fn totals_are_reported_and_soft_interrupts_only_if_the_flag_is_on() {
        assert_eq!(collect(&COLLECTOR, &[(PATH, STAT)], &[]).unwrap(), TOTALS);
        let text = collect(&COLLECTOR, &[(PATH, STAT)], &["--collector.stat.softirq"]).unwrap();
        assert_eq!(
            text.strip_prefix(TOTALS).unwrap(),
            "node_softirqs_total{vector=\"block\"} 5\n\
             node_softirqs_total{vector=\"block_iopoll\"} 6\n\
             node_softirqs_total{vector=\"hi\"} 1\n\
             node_softirqs_total{vector=\"hrtimer\"} 9\n\
             node_softirqs_total{vector=\"net_rx\"} 4\n\
             node_softirqs_total{vector=\"net_tx\"} 3\n\
             node_softirqs_total{vector=\"rcu\"} 10\n\
             node_softirqs_total{vector=\"sched\"} 8\n\
             node_softirqs_total{vector=\"tasklet\"} 7\n\
             node_softirqs_total{vector=\"timer\"} 2\n"
        );
    }

    #[test]
    fn a_line_that_is_missing_is_absent_rather_than_zero() {
        let flags = ["--collector.stat.softirq"];
        let text = collect(&COLLECTOR, &[(PATH, b"ctxt 7\nprocesses 2\n")], &flags).unwrap();
        assert_eq!(text, "node_context_switches_total 7\nnode_forks_total 2\n");
    }

    #[test]
    fn a_future_kernels_lines_and_vectors_are_ignored() {
        let stat = b"ctxt 7 8\nfrobs 9\nsoftirq 6 1 2 3 4 5 6 7 8 9 10 11\n";
        let text = collect(&COLLECTOR, &[(PATH, stat)], &["--collector.stat.softirq"]).unwrap();
        assert!(text.starts_with("node_context_switches_total 7\nnode_softirqs_total"), "{text}");
        assert_eq!(text.lines().count(), 11);
    }

    #[test]
    fn only_a_malformed_number_is_skipped_and_a_file_without_any_is_malformed() {
        let text = collect(&COLLECTOR, &[(PATH, b"ctxt -1\nbtime\nprocesses 2\n")], &[]).unwrap();
        assert_eq!(text, "node_forks_total 2\n");
        let result = collect(&COLLECTOR, &[(PATH, b"\xff\xfe\nctxt x\n")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
