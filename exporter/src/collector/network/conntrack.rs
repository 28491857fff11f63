//! Connection tracking: `proc/1/net/stat/nf_conntrack` and `proc/sys/net/netfilter/nf_conntrack_max`.
//!
//! <https://docs.kernel.org/networking/nf_conntrack-sysctl.html>
//!
//! The number of entries is taken from the statistics, which repeat it on every CPU's row. Kernels without
//! CONFIG_NF_CONNTRACK_PROCFS have none, and where something hides them they have no row: then it is `proc/sys/net/netfilter/nf_conntrack_count`, which is that of the
//! reader's own network namespace and so comes only from a broker that is in the host's.

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "conntrack",
    default: true,
    help: "Entries of the connection tracking table.",
    queries: &[Query::Conntrack],
    optional: &[],
    flags: &[],
    families,
    new: |_| Ok(Box::new(collect)),
};

const STAT: &str = "proc/1/net/stat/nf_conntrack";
const COUNT: &str = "proc/sys/net/netfilter/nf_conntrack_count";
const MAX: &str = "proc/sys/net/netfilter/nf_conntrack_max";

/// The counters: the column and its family.
#[rustfmt::skip]
const COLUMNS: &[(&str, Family)] = &[
    column("drop",           "node_nf_conntrack_stat_drop",           "Packets that were dropped because tracking them failed."),
    column("early_drop",     "node_nf_conntrack_stat_early_drop",     "Entries that were dropped to make room for new ones in a full table."),
    column("found",          "node_nf_conntrack_stat_found",          "Searches of the table that found an entry."),
    column("ignore",         "node_nf_conntrack_stat_ignore",         "Packets that were tracked already, or are not to be tracked."),
    column("insert",         "node_nf_conntrack_stat_insert",         "Entries that were put into the table."),
    column("insert_failed",  "node_nf_conntrack_stat_insert_failed",  "Entries that were not put into the table because an equal one was there."),
    column("invalid",        "node_nf_conntrack_stat_invalid",        "Packets that could not be tracked because they belong to no valid connection."),
    column("search_restart", "node_nf_conntrack_stat_search_restart", "Searches of the table that started again because it was resized meanwhile."),
];

const fn column(column: &'static str, name: &'static str, help: &'static str) -> (&'static str, Family) {
    (column, Family::gauge(name, help, &[], Source::File(STAT)))
}

fn families() -> Vec<Family> {
    let columns = COLUMNS.iter().map(|(_, family)| *family);
    [ENTRIES, LIMIT].into_iter().chain(columns).collect()
}

const ENTRIES: Family = Family {
    name: "node_nf_conntrack_entries",
    help: "Connections in the tracking table.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::Files(&[STAT, COUNT]),
};
const LIMIT: Family = Family {
    name: "node_nf_conntrack_entries_limit",
    help: "Connections that the tracking table may hold.",
    source: Source::File(MAX),
    ..ENTRIES
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let limit = context.snapshot.value(MAX).and_then(text::unsigned);
    if let Some(limit) = limit {
        out.add(&LIMIT, &[], limit);
    }
    let missing = match context.require_complete(STAT) {
        Ok(table) => match &*out.rows(STAT, table) {
            [names, cpus @ ..] if !cpus.is_empty() => return collect_table(names, cpus, out),
            _ => CollectError::malformed(STAT, "no row of a CPU"),
        },
        Err(error @ CollectError::NoData(_)) => error,
        Err(error) => return Err(error),
    };
    match (context.snapshot.value(COUNT).map(text::unsigned), &missing) {
        (Some(Some(entries)), CollectError::NoData(_)) => out.add(&ENTRIES, &[], entries),
        (Some(Some(entries)), _) => {
            out.add(&ENTRIES, &[], entries);
            out.skip(|| missing.to_string());
        }
        (Some(None), _) => out.skip(|| format!("{COUNT}: no number")),
        (None, CollectError::NoData(_)) if limit.is_some() => {
            out.skip(|| format!("{STAT}: missing, and {COUNT} is read in the host's network namespace alone"))
        }
        (None, _) => return Err(missing),
    }
    Ok(())
}

/// Adds the counters of all CPUs up, each a row of hexadecimal numbers below the columns' names.
fn collect_table(names: &[u8], cpus: &[&[u8]], out: &mut Exposition) -> Result<(), CollectError> {
    let names: Vec<&[u8]> = text::fields(names).collect();
    let mut rows: Vec<Vec<Option<u64>>> = Vec::new();
    for line in cpus {
        let mut fields = text::fields(line);
        let row: Vec<_> = names.iter().map(|_| fields.next().and_then(text::hexadecimal)).collect();
        // A line of which not even the first column is a number is no CPU's.
        match row.first() {
            Some(Some(_)) => rows.push(row),
            _ => out.skip(|| format!("{STAT}: {}", line.escape_ascii())),
        }
    }
    let position = |name: &str| names.iter().position(|other| *other == name.as_bytes());
    let value = |row: &[Option<u64>], at: usize| row.get(at).copied().flatten();

    let entries = position("entries").ok_or_else(|| CollectError::malformed(STAT, "no column of entries"))?;
    match rows.iter().find_map(|row| value(row, entries)) {
        Some(entries) => out.add(&ENTRIES, &[], entries),
        None => out.skip(|| format!("{STAT}: no number of entries")),
    }
    for (name, family) in COLUMNS {
        let Some(at) = position(name) else { continue };
        // A CPU that cannot be read leaves the sum unknown.
        let sum = rows.iter().try_fold(0u64, |sum, row| Some(sum.wrapping_add(value(row, at)?)));
        match sum {
            Some(sum) if !rows.is_empty() => out.add(family, &[], sum),
            _ => out.skip(|| format!("{STAT}: a counter that is no number on every CPU")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    const OLD: &[u8] = b"\
entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
00000021  00000000 00000001 00000000 00000003 0000588a 00000000 00000000 00000004 00000005 00000006 00000007 00000000  00000000 00000000 00000000 00000008
00000021  00000000 00000010 00000000 0000002f 000056a4 00000000 00000000 00000040 00000050 00000060 00000070 00000000  00000000 00000000 00000000 00000080
";
    const OLD_TEXT: &str = "\
node_nf_conntrack_entries 33
node_nf_conntrack_entries_limit 65536
node_nf_conntrack_stat_drop 102
node_nf_conntrack_stat_early_drop 119
node_nf_conntrack_stat_found 17
node_nf_conntrack_stat_ignore 44846
node_nf_conntrack_stat_insert 68
node_nf_conntrack_stat_insert_failed 85
node_nf_conntrack_stat_invalid 50
node_nf_conntrack_stat_search_restart 136
";

    #[test]
    fn counters_are_summed_over_cpus_and_entries_are_not() {
        assert_eq!(collect(&COLLECTOR, &[(STAT, OLD), (MAX, b"65536\n")], &[]).unwrap(), OLD_TEXT);
    }

    #[test]
    fn columns_are_found_by_name_wherever_a_kernel_puts_them() {
        let new =
            b"entries  clashres found chaintoolong invalid\n0000000a  1 2 3 4 ff\n0000000b  1 2 3 4 ff\n";
        assert_eq!(
            collect(&COLLECTOR, &[(STAT, new)], &[]).unwrap(),
            "node_nf_conntrack_entries 10\nnode_nf_conntrack_stat_found 4\nnode_nf_conntrack_stat_invalid 8\n"
        );
    }

    #[test]
    fn a_sum_that_lacks_a_cpu_is_absent() {
        let cut = b"entries found invalid\n0a 02 03\n0a 02 x\n0a 02\n";
        assert_eq!(
            collect(&COLLECTOR, &[(STAT, cut)], &[]).unwrap(),
            "node_nf_conntrack_entries 10\nnode_nf_conntrack_stat_found 6\n"
        );
    }

    #[test]
    fn a_line_of_no_cpu_changes_no_counter() {
        let with = |old: &str, new: &str| {
            let table = String::from_utf8_lossy(OLD).replacen(old, new, 1);
            collect(&COLLECTOR, &[(STAT, table.as_bytes()), (MAX, b"65536\n")], &[]).unwrap()
        };
        let end = "00000080\n";
        for (old, new) in [
            (end, "00000080\n\n"),
            (end, "00000080\n   \n\n"),
            (end, "00000080\ngarbage\n"),
            (end, "00000080"),
            ("search_restart\n", "search_restart\n\n"),
            ("entries", "\nentries"),
        ] {
            assert_eq!(with(old, new), OLD_TEXT, "{new:?}");
        }
    }

    #[test]
    fn where_no_cpu_has_a_row_the_count_of_the_hosts_namespace_is_taken() {
        let head = OLD.split_inclusive(|byte| *byte == b'\n').next().unwrap();
        for table in [b"", head, &b"\n"[..], b"entries found"] {
            let files: &[(&str, &[u8])] = &[(STAT, table), (COUNT, b"33\n"), (MAX, b"65536\n")];
            let text = "node_nf_conntrack_entries 33\nnode_nf_conntrack_entries_limit 65536\n";
            assert_eq!(collect(&COLLECTOR, files, &[]).unwrap(), text);
            assert_eq!(skipped(&COLLECTOR, files, &[]), 1, "{}", table.escape_ascii());
            for files in [&[(STAT, table)][..], &[(STAT, table), (MAX, b"65536\n")]] {
                assert!(matches!(collect(&COLLECTOR, files, &[]), Err(CollectError::Malformed { .. })));
            }
        }
    }

    #[test]
    fn a_kernel_without_the_statistics_reports_the_limit_alone() {
        assert_eq!(
            collect(&COLLECTOR, &[(MAX, b"65536\n")], &[]).unwrap(),
            "node_nf_conntrack_entries_limit 65536\n"
        );
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn without_the_statistics_the_count_of_the_hosts_namespace_is_taken_and_beside_them_it_is_not() {
        let files: &[(&str, &[u8])] = &[(COUNT, b"385\n"), (MAX, b"262144\n")];
        let text = "node_nf_conntrack_entries 385\nnode_nf_conntrack_entries_limit 262144\n";
        assert_eq!(collect(&COLLECTOR, files, &[]).unwrap(), text);
        assert_eq!(collect(&COLLECTOR, &[(COUNT, b"x")], &[]).unwrap(), "");
        let both = collect(&COLLECTOR, &[(COUNT, b"385"), (STAT, OLD), (MAX, b"65536")], &[]);
        assert_eq!(both.unwrap(), OLD_TEXT);
    }

    #[test]
    fn a_table_of_something_else_is_malformed() {
        assert!(matches!(
            collect(&COLLECTOR, &[(STAT, b"destroyed allocs\n1 2\n")], &[]),
            Err(CollectError::Malformed { .. })
        ));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[STAT, COUNT, MAX]);
    }

    proptest::proptest! {
        #[test]
        fn any_rows_result_in_at_most_one_sample_per_column(rows in "([0-9a-fx ]{0,40}\\n?){0,5}") {
            let table = format!("entries found drop found\n0 1 2 3\n{rows}");
            let text = collect(&COLLECTOR, &[(STAT, table.as_bytes())], &[]).unwrap();
            proptest::prop_assert!(text.lines().count() <= 3, "{text}");
        }
    }
}
