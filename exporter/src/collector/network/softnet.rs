//! Packets that each CPU took off the network: `proc/1/net/softnet_stat`, the same in every network namespace.
//!
//! <https://docs.kernel.org/networking/scaling.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "softnet",
    default: true,
    help: "Packets that each CPU processed or dropped.",
    queries: &[Query::Softnet],
    optional: &[],
    flags: &[],
    families: || vec![PROCESSED, DROPPED, SQUEEZED, COLLISIONS, RECEIVED_RPS, FLOW_LIMIT, BACKLOG],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/1/net/softnet_stat";

const PROCESSED: Family = Family {
    name: "node_softnet_processed_total",
    help: "Packets that this CPU has processed.",
    kind: MetricType::Counter,
    labels: &["cpu"],
    source: Source::File(PATH),
};
const DROPPED: Family = Family {
    name: "node_softnet_dropped_total",
    help: "Packets that this CPU has dropped because its backlog was full.",
    ..PROCESSED
};
const SQUEEZED: Family = Family {
    name: "node_softnet_times_squeezed_total",
    help: "Times that this CPU ran out of budget with packets left to process.",
    ..PROCESSED
};
const COLLISIONS: Family = Family {
    name: "node_softnet_cpu_collision_total",
    help: "Times that this CPU found a device locked by another when it had to transmit.",
    ..PROCESSED
};
const RECEIVED_RPS: Family = Family {
    name: "node_softnet_received_rps_total",
    help: "Times that another CPU has woken this one to process packets.",
    ..PROCESSED
};
const FLOW_LIMIT: Family = Family {
    name: "node_softnet_flow_limit_count_total",
    help: "Packets that this CPU has dropped because their flow was over its limit.",
    ..PROCESSED
};
const BACKLOG: Family = Family {
    name: "node_softnet_backlog_len",
    help: "Packets that wait in this CPU's backlog.",
    kind: MetricType::Gauge,
    ..PROCESSED
};

/// By column; all are hexadecimal. Older kernels have fewer, and newer ones count no collisions any more.
const COLUMNS: &[(usize, &Family)] = &[
    (0, &PROCESSED),
    (1, &DROPPED),
    (2, &SQUEEZED),
    (8, &COLLISIONS),
    (9, &RECEIVED_RPS),
    (10, &FLOW_LIMIT),
    (11, &BACKLOG),
];
/// The column with the CPU's number.
const CPU: usize = 12;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for (position, line) in out.rows(PATH, context.require(PATH)?).into_iter().enumerate() {
        let column = |at: usize| text::fields(line).nth(at);
        // Kernels without this column have a line for each CPU that is online.
        let cpu = column(CPU).map_or(Some(position as u64), text::hexadecimal);
        let (Some(cpu), Some(_)) = (cpu, column(0)) else {
            out.skip(|| format!("{PATH}: {}", line.escape_ascii()));
            continue;
        };
        let cpu = cpu.to_string();
        out.item();
        for (at, family) in COLUMNS {
            match column(*at).map(text::hexadecimal) {
                Some(Some(count)) => {
                    out.add(family, &[cpu.as_bytes()], count);
                    any = true;
                }
                Some(None) => out.skip(|| format!("{PATH}: column {at} of {}", line.escape_ascii())),
                None => {}
            }
        }
    }
    any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "no hexadecimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    #[test]
    fn columns_are_hexadecimal_and_the_cpus_number_is_their_own() {
        // CPU 0 is offline.
        let softnet =
            b"00000e03 0000000a 00000001 00000000 00000000 00000000 00000000 00000000 00000002 00000003 00000004 \
            00000005 00000011 00000006 00000007\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, softnet)], &[]).unwrap(),
            "node_softnet_backlog_len{cpu=\"17\"} 5\n\
             node_softnet_cpu_collision_total{cpu=\"17\"} 2\n\
             node_softnet_dropped_total{cpu=\"17\"} 10\n\
             node_softnet_flow_limit_count_total{cpu=\"17\"} 4\n\
             node_softnet_processed_total{cpu=\"17\"} 3587\n\
             node_softnet_received_rps_total{cpu=\"17\"} 3\n\
             node_softnet_times_squeezed_total{cpu=\"17\"} 1\n"
        );
    }

    #[test]
    fn a_kernel_without_backlog_and_number_counts_lines() {
        let softnet = b"1 0 0 0 0 0 0 0 0 0 0\n2 0 0 0 0 0 0 0 0 0 0\n";
        let text = collect(&COLLECTOR, &[(PATH, softnet)], &[]).unwrap();
        assert!(text.contains("node_softnet_processed_total{cpu=\"1\"} 2\n"), "{text}");
        assert!(!text.contains("backlog"), "absent rather than zero: {text}");
    }

    #[test]
    fn an_old_kernels_columns_are_reported_and_no_others() {
        let names = |line: &[u8]| {
            let text = collect(&COLLECTOR, &[(PATH, line)], &[]).unwrap();
            let names = text.lines().map(|line| line.split('{').next().unwrap().replace("node_softnet_", ""));
            names.collect::<Vec<_>>().join(" ")
        };
        let oldest = "cpu_collision_total dropped_total processed_total times_squeezed_total";
        assert_eq!(names(b"1 2 3 0 0 0 0 0 4\n"), oldest);
        let later = oldest.replace(" times", " received_rps_total times");
        assert_eq!(names(b"1 2 3 0 0 0 0 0 4 5\n"), later);
    }

    #[test]
    fn a_future_kernels_columns_are_ignored() {
        let softnet = b"1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 ffff frobs\n";
        assert_eq!(collect(&COLLECTOR, &[(PATH, softnet)], &[]).unwrap().lines().count(), 7);
    }

    #[test]
    fn only_a_malformed_column_is_skipped_and_a_malformed_cpu_number_skips_its_line() {
        let softnet = b"1 x 3\n1 0 0 0 0 0 0 0 0 0 0 0 x\n\n4\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, softnet)], &[]).unwrap(),
            "node_softnet_processed_total{cpu=\"0\"} 1\n\
             node_softnet_processed_total{cpu=\"2\"} 4\n\
             node_softnet_times_squeezed_total{cpu=\"0\"} 3\n"
        );
    }

    #[test]
    fn a_file_without_numbers_is_malformed_and_a_missing_one_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[(PATH, b"xyz\n")], &[]), Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
