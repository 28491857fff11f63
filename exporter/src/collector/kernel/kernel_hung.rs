//! Tasks that hung: `proc/sys/kernel/hung_task_detect_count`, since Linux 6.13.
//!
//! <https://docs.kernel.org/admin-guide/sysctl/kernel.html#hung-task-detect-count>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "kernel_hung",
    default: true,
    help: "Hung tasks that the kernel detected.",
    queries: &[Query::HungTasks],
    optional: &[],
    flags: &[],
    families: || vec![HUNG],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/sys/kernel/hung_task_detect_count";

const HUNG: Family = Family {
    name: "node_kernel_hung_tasks_total",
    help: "Tasks that the kernel found stuck in uninterruptible sleep since boot.",
    kind: MetricType::Counter,
    labels: &[],
    source: Source::File(PATH),
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let tasks = text::unsigned(text::trim(context.require(PATH)?));
    out.add(&HUNG, &[], tasks.ok_or_else(|| CollectError::malformed(PATH, "not a number"))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    #[test]
    fn the_count_is_reported() {
        let text = collect(&COLLECTOR, &[(PATH, b"42\n")], &[]).unwrap();
        assert_eq!(text, "node_kernel_hung_tasks_total 42\n");
    }

    #[test]
    fn a_kernel_that_does_not_count_has_no_data_rather_than_zero() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn what_is_not_a_number_is_malformed() {
        for bytes in [&b""[..], b"\n", b"-1\n", b"1 2\n"] {
            let result = collect(&COLLECTOR, &[(PATH, bytes)], &[]);
            assert!(matches!(result, Err(CollectError::Malformed { .. })), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
