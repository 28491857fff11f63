//! Memory zones of each NUMA node: `proc/zoneinfo`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#kernel-data>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "zoneinfo",
    default: false,
    help: "Pages of each memory zone, by state.",
    queries: &[Query::Zoneinfo],
    optional: &[],
    flags: &[],
    families,
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/zoneinfo";

const PROTECTION: Family = Family {
    name: "node_zoneinfo_protection_<INDEX>",
    help: "Pages of the zone that are reserved from allocations that could use the zone of this index.",
    kind: MetricType::Gauge,
    labels: LABELS,
    source: Source::File(PATH),
};
const LABELS: &[&str] = &["node", "zone"];

/// The first field of a line, and the family that its second is a value of. What the kernel counts by node since
/// Linux 4.8 stands in the first zone of each.
#[rustfmt::skip]
const LINES: &[Line] = &[
    gauge(b"high",                          "node_zoneinfo_high_pages",                    "Free pages of the zone at which the reclaim of memory ends."),
    gauge(b"low",                           "node_zoneinfo_low_pages",                     "Free pages of the zone at which the reclaim of memory begins."),
    gauge(b"managed",                       "node_zoneinfo_managed_pages",                 "Pages of the zone that the page allocator manages."),
    gauge(b"min",                           "node_zoneinfo_min_pages",                     "Free pages of the zone that are reserved for allocations that cannot wait."),
    gauge(b"nr_active_anon",                "node_zoneinfo_nr_active_anon_pages",          "Anonymous pages that were used lately."),
    gauge(b"nr_active_file",                "node_zoneinfo_nr_active_file_pages",          "Pages of files that were used lately."),
    gauge(b"nr_anon_pages",                 "node_zoneinfo_nr_anon_pages",                 "Anonymous pages that are mapped."),
    gauge(b"nr_anon_transparent_hugepages", "node_zoneinfo_nr_anon_transparent_hugepages", "Anonymous transparent huge pages."),
    counter(b"nr_dirtied",                  "node_zoneinfo_nr_dirtied_total",              "Pages that were made dirty since boot."),
    gauge(b"nr_dirty",                      "node_zoneinfo_nr_dirty_pages",                "Pages that wait to be written back."),
    gauge(b"nr_file_pages",                 "node_zoneinfo_nr_file_pages",                 "Pages of files."),
    gauge(b"nr_free_pages",                 "node_zoneinfo_nr_free_pages",                 "Free pages."),
    gauge(b"nr_inactive_anon",              "node_zoneinfo_nr_inactive_anon_pages",        "Anonymous pages that were not used lately."),
    gauge(b"nr_inactive_file",              "node_zoneinfo_nr_inactive_file_pages",        "Pages of files that were not used lately."),
    gauge(b"nr_isolated_anon",              "node_zoneinfo_nr_isolated_anon_pages",        "Anonymous pages that are taken off their list for now."),
    gauge(b"nr_isolated_file",              "node_zoneinfo_nr_isolated_file_pages",        "Pages of files that are taken off their list for now."),
    gauge(b"nr_kernel_stack",               "node_zoneinfo_nr_kernel_stacks",              "Kernel stacks, in KiB since Linux 4.9."),
    gauge(b"nr_mapped",                     "node_zoneinfo_nr_mapped_pages",               "Pages of files that are mapped."),
    gauge(b"nr_mlock_stack",                "node_zoneinfo_nr_mlock_stack_pages",          "Pages that are locked in memory."),
    gauge(b"nr_shmem",                      "node_zoneinfo_nr_shmem_pages",                "Pages of shared memory and of tmpfs."),
    gauge(b"nr_slab_reclaimable",           "node_zoneinfo_nr_slab_reclaimable_pages",     "Pages of slab caches that can be reclaimed."),
    gauge(b"nr_slab_unreclaimable",         "node_zoneinfo_nr_slab_unreclaimable_pages",   "Pages of slab caches that cannot be reclaimed."),
    gauge(b"nr_unevictable",                "node_zoneinfo_nr_unevictable_pages",          "Pages that cannot be evicted."),
    gauge(b"nr_writeback",                  "node_zoneinfo_nr_writeback_pages",            "Pages that are being written back."),
    counter(b"nr_written",                  "node_zoneinfo_nr_written_total",              "Pages that were written back since boot."),
    counter(b"numa_foreign",                "node_zoneinfo_numa_foreign_total",            "Pages that were intended for this node and allocated from another."),
    counter(b"numa_hit",                    "node_zoneinfo_numa_hit_total",                "Pages that were allocated from this node as intended."),
    counter(b"numa_interleave",             "node_zoneinfo_numa_interleave_total",         "Pages that were allocated from this node by interleaving, as intended."),
    counter(b"numa_local",                  "node_zoneinfo_numa_local_total",              "Pages that were allocated from this node for a process on it."),
    counter(b"numa_miss",                   "node_zoneinfo_numa_miss_total",               "Pages that were allocated from this node and intended for another."),
    counter(b"numa_other",                  "node_zoneinfo_numa_other_total",              "Pages that were allocated from this node for a process on another."),
    gauge(b"present",                       "node_zoneinfo_present_pages",                 "Pages of the zone that exist."),
    gauge(b"scanned",                       "node_zoneinfo_scanned_pages",                 "Pages of the zone scanned since the last reclaim."),
    gauge(b"spanned",                       "node_zoneinfo_spanned_pages",                 "Pages from the zone's first to its last, including holes."),
];

type Line = (&'static [u8], Family);

const fn gauge(key: &'static [u8], name: &'static str, help: &'static str) -> Line {
    (key, Family::gauge(name, help, LABELS, Source::File(PATH)))
}

const fn counter(key: &'static [u8], name: &'static str, help: &'static str) -> Line {
    (key, Family::counter(name, help, LABELS, Source::File(PATH)))
}

fn families() -> Vec<Family> {
    LINES.iter().map(|(_, family)| *family).chain([PROTECTION]).collect()
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut zone = None;
    for line in out.rows(PATH, context.require_items(PATH, |line| line.starts_with(b"Node"))?) {
        if line.starts_with(b"Node") {
            out.item();
            zone = text::node_and_zone(&mut text::fields(line));
            if zone.is_none() {
                out.skip(|| format!("{PATH}: {}", line.escape_ascii()));
            }
            continue;
        }
        let Some((node, zone)) = zone else { continue };
        let mut fields = text::fields(line);
        let Some(key) = fields.next() else { continue };
        if key == b"protection:" {
            add_protection(line, &[node, zone], out);
        } else if let Some((_, family)) = LINES.iter().find(|(name, _)| *name == key) {
            match fields.next().and_then(text::unsigned) {
                Some(value) => out.add(family, &[node, zone], value),
                None => out.skip(|| format!("{PATH}: {}", line.escape_ascii())),
            }
        }
    }
    zone.map(|_| ()).ok_or_else(|| CollectError::malformed(PATH, "no zone"))
}

/// `protection: (0, 2039, 31932)`: a number for each zone, in their order.
fn add_protection(line: &[u8], labels: &[&[u8]], out: &mut Exposition) {
    let numbers = text::split_first(line, b'(').and_then(|(_, rest)| text::split_first(rest, b')'));
    let Some((numbers, _)) = numbers else {
        return out.skip(|| format!("{PATH}: {}", line.escape_ascii()));
    };
    for (index, number) in numbers.split(|&byte| byte == b',').enumerate() {
        match text::unsigned(text::trim(number)) {
            Some(pages) => {
                let name = PROTECTION.name_of(&index.to_string());
                out.add_named(&PROTECTION, &name, labels, pages);
            }
            None => out.skip(|| format!("{PATH}: {}", line.escape_ascii())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    #[test]
    fn counters_of_a_node_are_in_its_first_zone() {
        let zoneinfo = b"Node 0, zone      DMA\n  \
          per-node stats\n      \
              nr_inactive_anon 95612\n      \
              nr_kernel_stack 1448\n      \
              workingset_nodes 0\n      \
              nr_written   1181554\n  \
          pages free     2949\n        \
                boost    0\n        \
                min      8\n        \
                high     14\n        \
                protection: (0, 2039, 31932)\n      \
              nr_free_pages 2949\n      \
              numa_hit     1\n  \
          pagesets\n    \
            cpu: 0\n              \
                      count: 0\n              \
                      high:  7\n  \
          vm stats threshold: 8\n  \
          node_unreclaimable:  0\n\
        Node 0, zone    DMA32\n  \
          pages free     528427\n        \
                min      1078\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, zoneinfo)], &[]).unwrap(),
            "node_zoneinfo_high_pages{node=\"0\",zone=\"DMA\"} 14\n\
             node_zoneinfo_min_pages{node=\"0\",zone=\"DMA\"} 8\n\
             node_zoneinfo_min_pages{node=\"0\",zone=\"DMA32\"} 1078\n\
             node_zoneinfo_nr_free_pages{node=\"0\",zone=\"DMA\"} 2949\n\
             node_zoneinfo_nr_inactive_anon_pages{node=\"0\",zone=\"DMA\"} 95612\n\
             node_zoneinfo_nr_kernel_stacks{node=\"0\",zone=\"DMA\"} 1448\n\
             node_zoneinfo_nr_written_total{node=\"0\",zone=\"DMA\"} 1181554\n\
             node_zoneinfo_numa_hit_total{node=\"0\",zone=\"DMA\"} 1\n\
             node_zoneinfo_protection_0{node=\"0\",zone=\"DMA\"} 0\n\
             node_zoneinfo_protection_1{node=\"0\",zone=\"DMA\"} 2039\n\
             node_zoneinfo_protection_2{node=\"0\",zone=\"DMA\"} 31932\n"
        );
    }

    #[test]
    fn every_row_of_the_table_is_a_line_of_some_kernel() {
        for (key, family) in LINES {
            let zoneinfo = [&b"Node 3, zone Movable\n        "[..], key, b"  42\n"].concat();
            let text = collect(&COLLECTOR, &[(PATH, &zoneinfo)], &[]).unwrap();
            assert_eq!(text, format!("{}{{node=\"3\",zone=\"Movable\"}} 42\n", family.name));
        }
    }

    #[test]
    fn an_old_kernel_counts_everything_by_zone() {
        let zoneinfo = b"Node 0, zone DMA\n  pages free 1\n        scanned 2\n    nr_active_anon 3\n\
            Node 0, zone Normal\n  pages free 4\n        scanned 5\n    nr_active_anon 6\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, zoneinfo)], &[]).unwrap(),
            "node_zoneinfo_nr_active_anon_pages{node=\"0\",zone=\"DMA\"} 3\n\
             node_zoneinfo_nr_active_anon_pages{node=\"0\",zone=\"Normal\"} 6\n\
             node_zoneinfo_scanned_pages{node=\"0\",zone=\"DMA\"} 2\n\
             node_zoneinfo_scanned_pages{node=\"0\",zone=\"Normal\"} 5\n"
        );
    }

    #[test]
    fn only_a_malformed_number_is_skipped_and_a_malformed_zone_with_its_lines() {
        let zoneinfo = b"min 1\nNode x, zone DMA\n  min 2\nNode 0, zone a\"\xff\n  min x\n  low\n  high 3\n\
            protection: 1\n  protection: (1, x, 2\n  protection: (4, -1, 5)\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, zoneinfo)], &[]).unwrap(),
            "node_zoneinfo_high_pages{node=\"0\",zone=\"a\\\"\u{fffd}\"} 3\n\
             node_zoneinfo_protection_0{node=\"0\",zone=\"a\\\"\u{fffd}\"} 4\n\
             node_zoneinfo_protection_2{node=\"0\",zone=\"a\\\"\u{fffd}\"} 5\n"
        );
        assert_eq!(skipped(&COLLECTOR, &[(PATH, zoneinfo)], &[]), 6);
    }

    #[test]
    fn a_file_without_zones_is_malformed_and_a_missing_one_no_data() {
        let result = collect(&COLLECTOR, &[(PATH, b"min 1\n")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }

    proptest::proptest! {
        #[test]
        fn any_lines_of_a_zone_are_parsed_without_a_panic(lines in "([a-z_]{0,5}|min|protection:)( [0-9(),x]{0,12}){0,3}\n?") {
            let zoneinfo = format!("Node 0, zone DMA\n{lines}");
            let text = collect(&COLLECTOR, &[(PATH, zoneinfo.as_bytes())], &[]).unwrap();
            proptest::prop_assert!(text.len() <= 100 * (lines.len() + 1));
        }
    }
}
