//! Open files of the whole host: `proc/sys/fs/file-nr`.
//!
//! <https://docs.kernel.org/admin-guide/sysctl/fs.html#file-max-file-nr>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "filefd",
    default: true,
    help: "Open files of the host and their maximum number.",
    queries: &[Query::FileNr],
    optional: &[],
    flags: &[],
    families: || vec![ALLOCATED, MAXIMUM],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/sys/fs/file-nr";

const ALLOCATED: Family = Family {
    name: "node_filefd_allocated",
    help: "File handles that the kernel has allocated.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::File(PATH),
};
const MAXIMUM: Family = Family {
    name: "node_filefd_maximum",
    help: "The most file handles that the kernel will allocate.",
    ..ALLOCATED
};

/// By column. The second, of allocated handles that are free, has been 0 since Linux 2.6.
const COLUMNS: &[Option<&Family>] = &[Some(&ALLOCATED), None, Some(&MAXIMUM)];

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut fields = text::fields(context.require(PATH)?);
    for column in COLUMNS {
        let value = fields.next().and_then(text::unsigned);
        let value = value.ok_or_else(|| CollectError::malformed(PATH, "not three numbers"))?;
        if let Some(family) = column {
            out.add(family, &[], value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    #[test]
    fn the_first_and_the_third_number_are_reported() {
        let text = collect(&COLLECTOR, &[(PATH, b"1024\t0\t1631329\n")], &[]).unwrap();
        assert_eq!(text, "node_filefd_allocated 1024\nnode_filefd_maximum 1631329\n");
    }

    #[test]
    fn no_limit_at_all_is_written_without_loss() {
        let text = collect(&COLLECTOR, &[(PATH, b"582\t0\t9223372036854775807\n")], &[]).unwrap();
        assert!(text.contains("node_filefd_maximum 9223372036854775807\n"), "{text}");
    }

    #[test]
    fn a_fourth_number_of_a_future_kernel_is_ignored() {
        let text = collect(&COLLECTOR, &[(PATH, b"1 0 2 3\n")], &[]).unwrap();
        assert_eq!(text, "node_filefd_allocated 1\nnode_filefd_maximum 2\n");
    }

    #[test]
    fn a_short_file_is_malformed_and_a_missing_one_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[(PATH, b"1 0")], &[]), Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
