//! Free memory by the size of its blocks: `proc/buddyinfo`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#kernel-data>

use std::collections::BTreeMap;

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "buddyinfo",
    default: false,
    help: "Free memory of each zone, by block size.",
    queries: &[Query::Buddyinfo],
    optional: &[],
    flags: &[],
    families: || vec![BLOCKS],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/buddyinfo";

const BLOCKS: Family = Family {
    name: "node_buddyinfo_blocks",
    help: "Free blocks of 2^size pages in the zone.",
    kind: MetricType::Gauge,
    labels: &["node", "size", "zone"],
    source: Source::File(PATH),
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut rows = Vec::new();
    for line in text::lines(context.require(PATH)?) {
        let mut fields = text::fields(line);
        match text::node_and_zone(&mut fields) {
            Some((node, zone)) => rows.push((line, node, zone, fields.collect::<Vec<_>>())),
            None => out.skip(|| format!("{PATH}: {}", line.escape_ascii())),
        }
    }
    let sizes = sizes(rows.iter().map(|(.., blocks)| blocks.len()));
    for (line, node, zone, blocks) in &rows {
        out.item();
        // Which size is the one that is missing or too many cannot be known.
        if blocks.len() != sizes {
            out.skip(|| format!("{PATH}: more or fewer sizes than in other lines: {}", line.escape_ascii()));
            continue;
        }
        for (size, blocks) in blocks.iter().enumerate() {
            match text::unsigned(blocks) {
                Some(blocks) => out.add(&BLOCKS, &[node, size.to_string().as_bytes(), zone], blocks),
                None => out.skip(|| format!("{PATH}: size {size} of {}", line.escape_ascii())),
            }
        }
    }
    if rows.is_empty() {
        Err(CollectError::malformed(PATH, "no line with a node and a zone"))
    } else {
        Ok(())
    }
}

/// How many sizes the kernel has, which is the same in every line: what most lines have; of equally many, the more.
fn sizes(lines: impl Iterator<Item = usize>) -> usize {
    let mut counts = BTreeMap::<usize, usize>::new();
    lines.for_each(|sizes| *counts.entry(sizes).or_default() += 1);
    counts.into_iter().max_by_key(|&(sizes, lines)| (lines, sizes)).map_or(0, |(sizes, _)| sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    #[test]
    fn a_column_is_a_size() {
        let buddyinfo =
            b"Node 0, zone      DMA      1      0      2 \nNode 1, zone   Normal   4381   1093    185 \n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, buddyinfo)], &[]).unwrap(),
            "node_buddyinfo_blocks{node=\"0\",size=\"0\",zone=\"DMA\"} 1\n\
             node_buddyinfo_blocks{node=\"0\",size=\"1\",zone=\"DMA\"} 0\n\
             node_buddyinfo_blocks{node=\"0\",size=\"2\",zone=\"DMA\"} 2\n\
             node_buddyinfo_blocks{node=\"1\",size=\"0\",zone=\"Normal\"} 4381\n\
             node_buddyinfo_blocks{node=\"1\",size=\"1\",zone=\"Normal\"} 1093\n\
             node_buddyinfo_blocks{node=\"1\",size=\"2\",zone=\"Normal\"} 185\n"
        );
    }

    #[test]
    fn as_many_sizes_are_reported_as_the_kernel_has() {
        let lines = |columns: usize| {
            let line = format!("Node 0, zone Device{}", " 7".repeat(columns));
            collect(&COLLECTOR, &[(PATH, line.as_bytes())], &[]).unwrap().lines().count()
        };
        assert_eq!([lines(0), lines(11), lines(14)], [0, 11, 14]);
    }

    #[test]
    fn only_a_malformed_count_is_skipped_and_a_malformed_prefix_skips_its_line() {
        let buddyinfo = b"Node x, zone DMA 1\nzone DMA 1\n\nNode 0, zone \"\xff 1 x -3 4\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, buddyinfo)], &[]).unwrap(),
            "node_buddyinfo_blocks{node=\"0\",size=\"0\",zone=\"\\\"\u{fffd}\"} 1\n\
             node_buddyinfo_blocks{node=\"0\",size=\"3\",zone=\"\\\"\u{fffd}\"} 4\n"
        );
    }

    #[test]
    fn a_line_with_more_or_fewer_sizes_than_the_others_is_left_out_and_counted() {
        for broken in ["4381 1093", "4381 1093 185 7", ""] {
            let table =
                format!("Node 0, zone DMA 1 0 2\nNode 0, zone Normal {broken}\nNode 1, zone Normal 3 4 5\n");
            let text = collect(&COLLECTOR, &[(PATH, table.as_bytes())], &[]).unwrap();
            assert_eq!(text.lines().count(), 6, "{text}");
            assert!(!text.contains("node=\"0\",size=\"0\",zone=\"Normal\""), "{text}");
            assert_eq!(skipped(&COLLECTOR, &[(PATH, table.as_bytes())], &[]), 1);
        }
        let two = b"Node 0, zone DMA 1 0\nNode 0, zone Normal 3 4 5\n";
        assert!(!collect(&COLLECTOR, &[(PATH, two)], &[]).unwrap().contains("DMA"));
    }

    #[test]
    fn a_file_of_something_else_is_malformed_and_a_missing_one_no_data() {
        let result = collect(&COLLECTOR, &[(PATH, b"fragments\n")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
