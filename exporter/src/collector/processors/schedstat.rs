//! What the scheduler did on each CPU: `proc/schedstat`, of kernels built with CONFIG_SCHEDSTATS.
//!
//! <https://docs.kernel.org/scheduler/sched-stats.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "schedstat",
    default: true,
    help: "Time that tasks ran and waited on each CPU.",
    queries: &[Query::Schedstat],
    optional: &[],
    flags: &[],
    families: || vec![RUNNING, WAITING, TIMESLICES],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/schedstat";

const RUNNING: Family = Family {
    name: "node_schedstat_running_seconds_total",
    help: "Time that tasks have run on this CPU.",
    kind: MetricType::Counter,
    labels: &["cpu"],
    source: Source::File(PATH),
};
const WAITING: Family = Family {
    name: "node_schedstat_waiting_seconds_total",
    help: "Time that tasks have waited for this CPU while they were ready to run.",
    ..RUNNING
};
const TIMESLICES: Family = Family {
    name: "node_schedstat_timeslices_total",
    help: "Time slices that have run on this CPU.",
    ..RUNNING
};

/// Numbers of a CPU's line before the columns: how often it yielded, scheduled and woke up.
const BEFORE: usize = 6;
/// The columns after them, and what one unit of each is worth.
const COLUMNS: &[(&Family, f64)] = &[(&RUNNING, NANOSECONDS), (&WAITING, NANOSECONDS), (&TIMESLICES, 1.0)];
/// In a second.
const NANOSECONDS: f64 = 1e9;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for line in out.rows(PATH, context.require(PATH)?) {
        let mut fields = text::fields(line);
        let first = fields.next();
        any |= first == Some(b"version");
        let Some(cpu) = first.and_then(text::cpu_number) else { continue };
        let mut numbers = fields.skip(BEFORE);
        out.item();
        for (family, unit) in COLUMNS {
            match numbers.next().and_then(text::unsigned) {
                Some(number) => out.add(family, &[cpu], number as f64 / unit),
                None => out.skip(|| format!("{PATH}: {}", line.escape_ascii())),
            }
        }
        any = true;
    }
    any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "neither a version nor a line of a CPU"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    const CPU1: &str = "node_schedstat_running_seconds_total{cpu=\"1\"} 1.5\n\
        node_schedstat_timeslices_total{cpu=\"1\"} 4767485306\n\
        node_schedstat_waiting_seconds_total{cpu=\"1\"} 0.25\n";

    #[test]
    fn nanoseconds_become_seconds_under_the_cpus_own_number() {
        // CPU 0 is offline.
        let schedstat = b"version 15\ntimestamp 15819019232\n\
            cpu1 498494191 0 3533438552 2553969831 3853684107 2465731542 1500000000 250000000 4767485306\n\
            domain0 00000000,00000003 212499247 210112015 1861015 1860405436 536440 369895\n";
        assert_eq!(collect(&COLLECTOR, &[(PATH, schedstat)], &[]).unwrap(), CPU1);
    }

    #[test]
    fn a_future_kernels_domain_names_and_columns_change_nothing() {
        let schedstat = b"version 17\ntimestamp 1\ncpu1 1 2 3 4 5 6 1500000000 250000000 4767485306 8 9\n\
            domain0 SMT 00003 1 2 3\ncpus 1 2 3\n";
        assert_eq!(collect(&COLLECTOR, &[(PATH, schedstat)], &[]).unwrap(), CPU1);
    }

    #[test]
    fn the_columns_of_a_short_line_are_reported_and_the_missing_ones_counted() {
        let table = b"cpu0 1 2 3 4 5 6 1000000000 x\n\n";
        let text = collect(&COLLECTOR, &[(PATH, table)], &[]).unwrap();
        assert_eq!(text, "node_schedstat_running_seconds_total{cpu=\"0\"} 1\n");
        assert_eq!(skipped(&COLLECTOR, &[(PATH, table)], &[]), 3);
    }

    #[test]
    fn a_heading_alone_is_no_failure() {
        assert_eq!(collect(&COLLECTOR, &[(PATH, b"version 15\ntimestamp 1\n")], &[]), Ok(String::new()));
    }

    #[test]
    fn a_kernel_that_does_not_count_has_no_data_and_a_file_without_cpus_is_malformed() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
        let result = collect(&COLLECTOR, &[(PATH, b"cpu-1 0\n")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
