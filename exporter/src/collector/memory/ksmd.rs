//! Merging of equal pages: `sys/kernel/mm/ksm/`.
//!
//! <https://docs.kernel.org/admin-guide/mm/ksm.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "ksmd",
    default: false,
    help: "Identical pages that the kernel merged (KSM).",
    queries: &[Query::Ksm],
    optional: &[],
    flags: &[],
    families: || NUMBERS.iter().map(|(.., family)| *family).collect(),
    new: |_| Ok(Box::new(collect)),
};

const KSM: &str = "sys/kernel/mm/ksm";

/// A file, what its number is divided by, and its family.
type Number = (&'static str, f64, Family);

#[rustfmt::skip]
const NUMBERS: &[Number] = &[
    counter("full_scans",       1.0, "node_ksmd_full_scans_total",     "Times that all areas that may be merged were scanned."),
    gauge("general_profit",     1.0, "node_ksmd_general_profit_bytes", "Memory that merging saves, less what it costs; may be negative."),
    gauge("merge_across_nodes", 1.0, "node_ksmd_merge_across_nodes",   "Whether pages of different NUMA nodes may be merged."),
    gauge("pages_shared",       1.0, "node_ksmd_pages_shared",         "Pages in use that each replace several equal ones."),
    gauge("pages_sharing",      1.0, "node_ksmd_pages_sharing",        "Pages that were saved by sharing."),
    gauge("pages_to_scan",      1.0, "node_ksmd_pages_to_scan",        "Pages that ksmd scans before it sleeps."),
    gauge("pages_unshared",     1.0, "node_ksmd_pages_unshared",       "Pages without an equal that are compared again and again."),
    gauge("pages_volatile",     1.0, "node_ksmd_pages_volatile",       "Pages that change too fast to be compared."),
    gauge("run",                1.0, "node_ksmd_run",                  "What ksmd does: 0 stopped, 1 runs, 2 stopped and pages unmerged."),
    gauge("sleep_millisecs",    1e3, "node_ksmd_sleep_seconds",        "Seconds that ksmd sleeps between scans."),
];

const fn gauge(file: &'static str, divisor: f64, name: &'static str, help: &'static str) -> Number {
    (file, divisor, Family::gauge(name, help, &[], Source::FileIn(KSM, file)))
}

const fn counter(file: &'static str, divisor: f64, name: &'static str, help: &'static str) -> Number {
    (file, divisor, Family::counter(name, help, &[], Source::FileIn(KSM, file)))
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let ksm = context.snapshot.dir(KSM);
    let mut any = false;
    for (file, divisor, family) in NUMBERS {
        let Some(value) = ksm.value(file) else { continue };
        any = true;
        match text::signed(value) {
            Some(value) if *divisor != 1.0 => out.add(family, &[], value as f64 / divisor),
            Some(value) => out.add(family, &[], value),
            None => out.skip(|| format!("{KSM}/{file}: {}", value.escape_ascii())),
        }
    }
    // A kernel without CONFIG_KSM has none of them.
    any.then_some(()).ok_or_else(|| CollectError::NoData(KSM.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    fn paths() -> Vec<String> {
        NUMBERS.iter().map(|(file, ..)| format!("{KSM}/{file}")).collect()
    }

    #[test]
    fn every_file_is_a_metric() {
        let paths = paths();
        let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (path.as_str(), &b"250\n"[..])).collect();
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
    fn an_old_kernel_lacks_files_and_only_a_malformed_number_is_skipped() {
        let files: &[(&str, &[u8])] =
            &[("sys/kernel/mm/ksm/run", b"1\n"), ("sys/kernel/mm/ksm/pages_shared", b"x")];
        assert_eq!(collect(&COLLECTOR, files, &[]).unwrap(), "node_ksmd_run 1\n");
    }

    #[test]
    fn a_kernel_without_it_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &paths().iter().map(String::as_str).collect::<Vec<_>>());
    }
}
