//! Cgroup controllers of the kernel: `proc/cgroups`.
//!
//! <https://man7.org/linux/man-pages/man7/cgroups.7.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "cgroups",
    default: false,
    help: "Cgroup controllers: whether they are enabled, and their number of cgroups.",
    queries: &[Query::CgroupControllers],
    optional: &[],
    flags: &[],
    families: || vec![CGROUPS, ENABLED],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/cgroups";

const CGROUPS: Family = Family {
    name: "node_cgroups_cgroups",
    help: "Cgroups in the hierarchy of this controller.",
    kind: MetricType::Gauge,
    labels: &["subsys_name"],
    source: Source::File(PATH),
};
const ENABLED: Family =
    Family { name: "node_cgroups_enabled", help: "Whether this controller is enabled.", ..CGROUPS };

/// By column, behind the controller's name and the number of its hierarchy.
const COLUMNS: &[(usize, &Family)] = &[(2, &CGROUPS), (3, &ENABLED)];

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let table = context.require_complete(PATH)?;
    let mut known = table.is_empty();
    for line in out.rows(PATH, table) {
        known = true;
        let Some(name) = text::fields(line).next().filter(|_| !line.starts_with(b"#")) else { continue };
        out.item();
        for (column, family) in COLUMNS {
            match text::fields(line).nth(*column).and_then(text::unsigned) {
                Some(value) => out.add(family, &[name], value),
                None => out.skip(|| format!("{PATH}: column {column} of {}", line.escape_ascii())),
            }
        }
    }
    known.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "blank lines alone"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    #[test]
    fn each_controller_reports_its_cgroups_and_whether_it_is_enabled() {
        let cgroups = b"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t5\t47\t1\nrdma\t4\t1\t0\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, cgroups)], &[]).unwrap(),
            "node_cgroups_cgroups{subsys_name=\"cpuset\"} 47\n\
             node_cgroups_cgroups{subsys_name=\"rdma\"} 1\n\
             node_cgroups_enabled{subsys_name=\"cpuset\"} 1\n\
             node_cgroups_enabled{subsys_name=\"rdma\"} 0\n"
        );
    }

    #[test]
    fn a_future_kernels_column_is_ignored_and_a_missing_one_absent() {
        let text = collect(&COLLECTOR, &[(PATH, b"cpu\t0\t9\t1\t7\nio\t0\t8\n")], &[]).unwrap();
        assert_eq!(
            text,
            "node_cgroups_cgroups{subsys_name=\"cpu\"} 9\n\
             node_cgroups_cgroups{subsys_name=\"io\"} 8\n\
             node_cgroups_enabled{subsys_name=\"cpu\"} 1\n"
        );
    }

    #[test]
    fn only_a_malformed_number_and_a_blank_line_are_skipped_and_counted() {
        let table = b"\ncpu\t0\tx\t1\n\"\xff\t0\t1\t-1\n";
        let text = collect(&COLLECTOR, &[(PATH, table)], &[]).unwrap();
        assert_eq!(skipped(&COLLECTOR, &[(PATH, table)], &[]), 3);
        assert_eq!(
            text,
            "node_cgroups_cgroups{subsys_name=\"\\\"\u{fffd}\"} 1\nnode_cgroups_enabled{subsys_name=\"cpu\"} 1\n"
        );
    }

    #[test]
    fn a_kernel_without_cgroups_has_no_data_and_a_file_of_blank_lines_is_malformed() {
        assert!(matches!(collect(&COLLECTOR, &[(PATH, b"\n")], &[]), Err(CollectError::Malformed { .. })));
        assert_eq!(collect(&COLLECTOR, &[(PATH, b"#subsys_name\thierarchy\n")], &[]), Ok(String::new()));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
