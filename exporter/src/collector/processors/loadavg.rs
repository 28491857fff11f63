//! Load averages: `proc/loadavg`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#kernel-data>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "loadavg",
    default: true,
    help: "Load averages.",
    queries: &[Query::Loadavg],
    optional: &[],
    flags: &[],
    families: || vec![LOAD1, LOAD5, LOAD15],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/loadavg";

const LOAD1: Family = Family {
    name: "node_load1",
    help: "Load average over one minute.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::File(PATH),
};
const LOAD5: Family = Family { name: "node_load5", help: "Load average over five minutes.", ..LOAD1 };
const LOAD15: Family = Family { name: "node_load15", help: "Load average over fifteen minutes.", ..LOAD1 };

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut fields = text::fields(context.require(PATH)?);
    for family in [&LOAD1, &LOAD5, &LOAD15] {
        let load = fields.next().and_then(text::float);
        let load = load.ok_or_else(|| CollectError::malformed(PATH, "no number for a load average"))?;
        out.add(family, &[], load);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    #[test]
    fn the_three_averages_are_reported_as_the_kernel_writes_them() {
        let text = collect(&COLLECTOR, &[(PATH, b"0.21 0.37 0.39 1/719 19737\n")], &[]).unwrap();
        assert_eq!(text, "node_load1 0.21\nnode_load15 0.39\nnode_load5 0.37\n");
    }

    #[test]
    fn a_short_file_is_malformed_and_a_missing_one_no_data() {
        assert!(matches!(
            collect(&COLLECTOR, &[(PATH, b"0.21 x")], &[]),
            Err(CollectError::Malformed { .. })
        ));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
