//! Soft interrupts that each CPU has served: `proc/softirqs`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#kernel-data>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "softirqs",
    default: false,
    help: "Soft interrupts that each CPU served, by type.",
    queries: &[Query::Softirqs],
    optional: &[],
    flags: &[],
    families: || vec![FUNCTIONS],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/softirqs";

const FUNCTIONS: Family = Family {
    name: "node_softirqs_functions_total",
    help: "Soft interrupts of this type that the CPU has served since boot.",
    kind: MetricType::Counter,
    labels: &["cpu", "type"],
    source: Source::File(PATH),
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut lines = out.rows(PATH, context.require(PATH)?).into_iter();
    let cpus = lines.next().and_then(text::cpu_columns);
    let cpus = cpus.ok_or_else(|| CollectError::malformed(PATH, "no line of CPUs"))?;
    for line in lines {
        out.item();
        let Some((name, counts)) = text::split_first(line, b':') else {
            out.skip(|| format!("{PATH}: {}", line.escape_ascii()));
            continue;
        };
        let name = text::trim(name);
        for (cpu, count) in cpus.iter().zip(text::fields(counts)) {
            match text::unsigned(count) {
                Some(count) => out.add(&FUNCTIONS, &[cpu, name], count),
                None => out.skip(|| format!("{PATH}: {} of {}", count.escape_ascii(), name.escape_ascii())),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    #[test]
    fn each_type_is_counted_by_cpu() {
        let softirqs = b"                    CPU0       CPU1       \n\
                      HI:          7          1\n\
                IRQ_POLL:          0          2\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, softirqs)], &[]).unwrap(),
            "node_softirqs_functions_total{cpu=\"0\",type=\"HI\"} 7\n\
             node_softirqs_functions_total{cpu=\"0\",type=\"IRQ_POLL\"} 0\n\
             node_softirqs_functions_total{cpu=\"1\",type=\"HI\"} 1\n\
             node_softirqs_functions_total{cpu=\"1\",type=\"IRQ_POLL\"} 2\n"
        );
    }

    #[test]
    fn a_type_of_an_old_or_future_kernel_is_reported_under_its_name() {
        let softirqs = b" CPU0\nBLOCK_IOPOLL: 3\n      FROBS: 4 5\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, softirqs)], &[]).unwrap(),
            "node_softirqs_functions_total{cpu=\"0\",type=\"BLOCK_IOPOLL\"} 3\n\
             node_softirqs_functions_total{cpu=\"0\",type=\"FROBS\"} 4\n"
        );
    }

    #[test]
    fn columns_carry_the_numbers_of_their_cpus() {
        let text = collect(&COLLECTOR, &[(PATH, b" CPU0 CPU3\nHI: 1 2\n")], &[]).unwrap();
        assert!(text.ends_with("{cpu=\"3\",type=\"HI\"} 2\n"), "{text}");
    }

    #[test]
    fn only_a_malformed_count_is_skipped() {
        let softirqs = b" CPU0 CPU1\nHI: x 2\nTIMER 3 4\nRCU: 5\n\"\xff: 6 -1\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, softirqs)], &[]).unwrap(),
            "node_softirqs_functions_total{cpu=\"0\",type=\"RCU\"} 5\n\
             node_softirqs_functions_total{cpu=\"0\",type=\"\\\"\u{fffd}\"} 6\n\
             node_softirqs_functions_total{cpu=\"1\",type=\"HI\"} 2\n"
        );
    }

    #[test]
    fn a_file_without_cpus_is_malformed_and_a_missing_one_no_data() {
        for bytes in [&b""[..], b"HI: 1\n"] {
            let result = collect(&COLLECTOR, &[(PATH, bytes)], &[]);
            assert!(matches!(result, Err(CollectError::Malformed { .. })));
        }
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
