//! Merging of equal pages: `sys/kernel/mm/ksm/`.
//!
//! <https://docs.kernel.org/admin-guide/mm/ksm.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Kind};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "ksmd",
    default: false,
    help: "Identical pages that the kernel merged (KSM).",
    queries: &[Query::Ksm],
    optional: &[],
    flags: &[],
    families: FAMILIES,
    collect,
};

/// Every family; its source is the file that its value stands in.
#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    Family { name: "node_ksmd_full_scans_total",      help: "Times that all areas that may be merged were scanned.",             source: "sys/kernel/mm/ksm/full_scans",         kind: Kind::Counter, ..GAUGE },
    Family { name: "node_ksmd_general_profit_bytes",  help: "Memory that merging saves, less what it costs; may be negative.",   source: "sys/kernel/mm/ksm/general_profit",     ..GAUGE },
    Family { name: "node_ksmd_merge_across_nodes",    help: "Whether pages of different NUMA nodes may be merged.",              source: "sys/kernel/mm/ksm/merge_across_nodes", ..GAUGE },
    Family { name: "node_ksmd_pages_shared",          help: "Pages that stand for several equal ones.",                          source: "sys/kernel/mm/ksm/pages_shared",       ..GAUGE },
    Family { name: "node_ksmd_pages_sharing",         help: "Pages that were saved by sharing.",                                 source: "sys/kernel/mm/ksm/pages_sharing",      ..GAUGE },
    Family { name: "node_ksmd_pages_to_scan",         help: "Pages that ksmd scans before it sleeps.",                           source: "sys/kernel/mm/ksm/pages_to_scan",      ..GAUGE },
    Family { name: "node_ksmd_pages_unshared",        help: "Pages without an equal that are compared again and again.",         source: "sys/kernel/mm/ksm/pages_unshared",     ..GAUGE },
    Family { name: "node_ksmd_pages_volatile",        help: "Pages that change too fast to be compared.",                        source: "sys/kernel/mm/ksm/pages_volatile",     ..GAUGE },
    Family { name: "node_ksmd_run",                   help: "What ksmd does: 0 stopped, 1 runs, 2 stopped and pages unmerged.",  source: "sys/kernel/mm/ksm/run",                ..GAUGE },
    SLEEP,
];

const GAUGE: Family = Family { name: "", help: "", kind: Kind::Gauge, labels: &[], source: "" };
const SLEEP: Family = Family {
    name: "node_ksmd_sleep_seconds",
    help: "Seconds that ksmd sleeps between scans.",
    source: "sys/kernel/mm/ksm/sleep_millisecs",
    ..GAUGE
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for family in FAMILIES {
        let Some(value) = context.snapshot.value(family.source) else { continue };
        any = true;
        match text::signed(value) {
            Some(milliseconds) if family.name == SLEEP.name => {
                out.add(family, &[], milliseconds as f64 / 1000.0);
            }
            Some(value) => out.add(family, &[], value),
            None => out.skip(|| format!("{}: {}", family.source, value.escape_ascii())),
        }
    }
    // A kernel without CONFIG_KSM has none of them.
    any.then_some(()).ok_or_else(|| CollectError::NoData("sys/kernel/mm/ksm".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{collect, survives};

    #[test]
    fn every_file_is_a_metric() {
        let files: Vec<(&str, &[u8])> =
            FAMILIES.iter().map(|family| (family.source, &b"250\n"[..])).collect();
        assert_eq!(
            collect(&COLLECTOR, &files, &[]).unwrap(),
            "node_ksmd_full_scans_total 250\n\
             node_ksmd_general_profit_bytes 250\n\
             node_ksmd_merge_across_nodes 250\n\
             node_ksmd_pages_shared 250\n\
             node_ksmd_pages_sharing 250\n\
             node_ksmd_pages_to_scan 250\n\
             node_ksmd_pages_unshared 250\n\
             node_ksmd_pages_volatile 250\n\
             node_ksmd_run 250\n\
             node_ksmd_sleep_seconds 0.25\n"
        );
    }

    #[test]
    fn merging_may_cost_more_than_it_saves() {
        let files: &[(&str, &[u8])] = &[("sys/kernel/mm/ksm/general_profit", b"-69632\n")];
        assert_eq!(collect(&COLLECTOR, files, &[]).unwrap(), "node_ksmd_general_profit_bytes -69632\n");
    }

    #[test]
    fn an_old_kernel_lacks_files_and_a_bad_number_costs_only_itself() {
        let files: &[(&str, &[u8])] =
            &[("sys/kernel/mm/ksm/run", b"1\n"), ("sys/kernel/mm/ksm/pages_shared", b"x")];
        assert_eq!(collect(&COLLECTOR, files, &[]).unwrap(), "node_ksmd_run 1\n");
    }

    #[test]
    fn a_kernel_without_it_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_survived() {
        survives(&COLLECTOR, &FAMILIES.iter().map(|family| family.source).collect::<Vec<_>>());
    }
}
