//! Caches of the network stack, CPU by CPU: `proc/1/net/stat/*`.
//!
//! <https://man7.org/linux/man-pages/man8/lnstat.8.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Content;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "lnstat",
    default: false,
    help: "Caches of the network stack, per CPU.",
    queries: &[Query::Lnstat],
    optional: &[],
    flags: &[],
    families: || vec![COLUMN],
    new: |_| Ok(Box::new(collect)),
};

const DIR: &str = "proc/1/net/stat";

const COLUMN: Family = Family {
    name: "node_lnstat_<COLUMN>_total",
    help: "A column of the cache's statistics.",
    kind: MetricType::Counter,
    labels: &["cpu", "subsystem"],
    source: Source::File("proc/1/net/stat/*"),
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut result = Ok(());
    for (subsystem, content) in context.snapshot.dir(DIR).files() {
        let bytes = match content {
            Content::Bytes { bytes, .. } => bytes,
            _ => {
                let path = [DIR.as_bytes(), b"/", subsystem].concat();
                match context.require(&String::from_utf8_lossy(&path)) {
                    Ok(_) | Err(CollectError::NoData(_)) => {}
                    Err(error) => result = result.and(Err(error)),
                }
                continue;
            }
        };
        let mut lines = out.rows(DIR, bytes).into_iter();
        let names: Vec<String> = text::fields(lines.next().unwrap_or_default())
            .map(|column| format!("node_lnstat_{}_total", text::printable(column)))
            .collect();
        for (cpu, line) in lines.enumerate() {
            out.item();
            let cpu = cpu.to_string();
            for (name, number) in names.iter().zip(text::fields(line)) {
                match text::hexadecimal(number) {
                    Some(value) => out.add_named(&COLUMN, name, &[cpu.as_bytes(), subsystem], value),
                    None => out.skip(|| format!("{DIR}: {} is no number", number.escape_ascii())),
                }
            }
        }
    }
    // That there is none of them is no failure.
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::Snapshot;

    const ARP: &str = "proc/1/net/stat/arp_cache";

    #[test]
    fn each_column_of_each_cpu_is_a_series() {
        let files: [(&str, &[u8]); 2] = [
            (ARP, b"entries  allocs destroys\n00000014  00000001 000000ff\n00000014  0000000d 00000002\n"),
            ("proc/1/net/stat/rt_cache", b"entries  in_hit\nffffffff  00000000\n"),
        ];
        assert_eq!(
            collect(&COLLECTOR, &files, &[]).unwrap().replace("node_lnstat_", ""),
            "allocs_total{cpu=\"0\",subsystem=\"arp_cache\"} 1\nallocs_total{cpu=\"1\",subsystem=\"arp_cache\"} 13\n\
             destroys_total{cpu=\"0\",subsystem=\"arp_cache\"} 255\n\
             destroys_total{cpu=\"1\",subsystem=\"arp_cache\"} 2\n\
             entries_total{cpu=\"0\",subsystem=\"arp_cache\"} 20\n\
             entries_total{cpu=\"0\",subsystem=\"rt_cache\"} 4294967295\n\
             entries_total{cpu=\"1\",subsystem=\"arp_cache\"} 20\nin_hit_total{cpu=\"0\",subsystem=\"rt_cache\"} 0\n"
        );
    }

    #[test]
    fn only_columns_without_a_name_or_a_number_are_skipped() {
        let text = collect(&COLLECTOR, &[(ARP, b"entries  allocs\nx 2 3\n1\n")], &[]).unwrap();
        assert_eq!(
            text,
            "node_lnstat_allocs_total{cpu=\"0\",subsystem=\"arp_cache\"} 2\n\
             node_lnstat_entries_total{cpu=\"1\",subsystem=\"arp_cache\"} 1\n"
        );
    }

    #[test]
    fn a_future_kernels_column_is_reported_under_its_name() {
        let text = collect(&COLLECTOR, &[(ARP, b"new-\xffcolumn\n10\n")], &[]).unwrap();
        assert_eq!(text, "node_lnstat_new____column_total{cpu=\"0\",subsystem=\"arp_cache\"} 16\n");
    }

    #[test]
    fn a_host_without_such_caches_is_no_failure_and_one_that_denies_them_is() {
        assert_eq!(collect(&COLLECTOR, &[], &[]), Ok(String::new()));
        for table in [&b""[..], b"\n", b"entries  allocs\n"] {
            assert_eq!(collect(&COLLECTOR, &[(ARP, table)], &[]), Ok(String::new()));
        }
        let failed = Snapshot::from_files(vec![
            (ARP.into(), Content::Errno(13)),
            (b"proc/1/net/stat/ndisc_cache".to_vec(), Content::Errno(2)),
        ]);
        let error = collect_snapshot(&COLLECTOR, &failed, &[], &local());
        assert_eq!(error.unwrap_err().to_string(), "proc/1/net/stat/arp_cache: errno 13");
    }

    #[test]
    fn the_caches_of_the_policy_are_queried_and_no_others() {
        let row = keyhole_policy::row(Query::Lnstat).unwrap();
        let asked = |name: &str| {
            let path = format!("1/net/stat/{name}");
            row.sources
                .iter()
                .any(|source| keyhole_policy::pattern::matches(source.pattern.as_bytes(), path.as_bytes()))
        };
        for name in [
            "arp_cache",
            "clip_arp_cache",
            "ip_conntrack",
            "ndisc_cache",
            "nf_conntrack",
            "rt_cache",
            "synproxy",
        ] {
            assert!(asked(name), "{name}");
        }
        assert!(!asked("nf_flowtable") && !asked("new"));
    }

    #[test]
    fn a_blank_line_is_no_cpu() {
        let text = collect(&COLLECTOR, &[(ARP, b"\nentries\n\n1\n  \n2\n\n")], &[]).unwrap();
        assert_eq!(
            text,
            "node_lnstat_entries_total{cpu=\"0\",subsystem=\"arp_cache\"} 1\n\
             node_lnstat_entries_total{cpu=\"1\",subsystem=\"arp_cache\"} 2\n"
        );
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[ARP, "proc/1/net/stat/nf_conntrack"]);
    }
}
