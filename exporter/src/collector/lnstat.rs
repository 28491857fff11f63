//! Caches of the network stack, CPU by CPU: `proc/1/net/stat/*`.
//!
//! <https://man7.org/linux/man-pages/man8/lnstat.8.html>

use keyhole_proto::v1::Query;

use super::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Kind};
use crate::snapshot::Content;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "lnstat",
    default: false,
    help: "Caches of the network stack, CPU by CPU.",
    queries: &[Query::Lnstat],
    optional: &[],
    flags: &[],
    families: &[COLUMN],
    collect,
};

const DIR: &str = "proc/1/net/stat";

const COLUMN: Family = Family {
    name: "node_lnstat_<COLUMN>_total",
    help: "A column of the cache's statistics.",
    kind: Kind::Counter,
    labels: &["cpu", "subsystem"],
    source: "proc/1/net/stat/<subsystem>",
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for (subsystem, content) in context.snapshot.dir(DIR).files() {
        let Content::Bytes { bytes, .. } = content else { continue };
        any = true;
        let mut lines = text::lines(bytes);
        let names: Vec<String> = text::fields(lines.next().unwrap_or_default())
            .map(|column| format!("node_lnstat_{}_total", text::printable(column)))
            .collect();
        for (cpu, line) in lines.enumerate() {
            let cpu = cpu.to_string();
            for (name, number) in names.iter().zip(text::fields(line)) {
                match text::hexadecimal(number) {
                    Some(value) => out.add_named(&COLUMN, name, &[cpu.as_bytes(), subsystem], value),
                    None => out.skip(|| format!("{DIR}: {} is no number", number.escape_ascii())),
                }
            }
        }
    }
    any.then_some(()).ok_or_else(|| CollectError::NoData(DIR.into()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{collect, survives};
    use super::*;

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
    fn columns_without_a_name_or_a_number_cost_no_other() {
        let text = collect(&COLLECTOR, &[(ARP, b"entries  allocs\nx 2 3\n1\n")], &[]).unwrap();
        assert_eq!(
            text,
            "node_lnstat_allocs_total{cpu=\"0\",subsystem=\"arp_cache\"} 2\n\
             node_lnstat_entries_total{cpu=\"1\",subsystem=\"arp_cache\"} 1\n"
        );
    }

    #[test]
    fn a_column_of_a_kernel_to_come_is_given_under_its_name() {
        let text = collect(&COLLECTOR, &[(ARP, b"new-\xffcolumn\n10\n")], &[]).unwrap();
        assert_eq!(text, "node_lnstat_new____column_total{cpu=\"0\",subsystem=\"arp_cache\"} 16\n");
    }

    #[test]
    fn a_host_without_such_caches_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_survived() {
        survives(&COLLECTOR, &[ARP, "proc/1/net/stat/nf_conntrack"]);
    }
}
