//! Memory of each NUMA node: `sys/devices/system/node/node<node>/{meminfo,numastat}`.
//!
//! <https://docs.kernel.org/admin-guide/numastat.html>
//!
//! Every line is a metric, so that a counter of a new kernel needs no new exporter.

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "meminfo_numa",
    default: false,
    help: "Memory of each NUMA node, by use.",
    queries: &[Query::Numa],
    optional: &[],
    flags: &[],
    families: || vec![MEMORY, COUNT],
    new: |_| Ok(Box::new(collect)),
};

const NODES: &str = "sys/devices/system/node";

const MEMORY: Family = Family {
    name: "node_memory_numa_<FIELD>",
    help: "What the kernel counts under this name on the node, in bytes or, for huge pages, pages.",
    kind: MetricType::Gauge,
    labels: &["node"],
    source: Source::File("sys/devices/system/node/node#/meminfo"),
};
const COUNT: Family = Family {
    name: "node_memory_numa_<FIELD>_total",
    help: "Pages that the kernel has counted under this name on the node since boot.",
    kind: MetricType::Counter,
    labels: &["node"],
    source: Source::File("sys/devices/system/node/node#/numastat"),
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut result = Ok(());
    for dir in context.snapshot.dir(NODES).dirs() {
        out.item();
        let Some(node) = dir.name().strip_prefix(b"node").filter(|node| text::unsigned(node).is_some())
        else {
            continue;
        };
        if !add_meminfo(&dir, node, out) {
            let path = format!("{NODES}/{}/meminfo", dir.name().escape_ascii());
            result = result.and(Err(CollectError::malformed(&path, "no line that is known")));
        }
        add_numastat(&dir, node, out);
    }
    result
}

/// `Node 0 Active(anon):  1552 kB`.
fn add_meminfo(dir: &Dir<'_>, node: &[u8], out: &mut Exposition) -> bool {
    let Some(meminfo) = dir.text("meminfo") else { return true };
    let mut any = false;
    for line in text::lines(meminfo) {
        let of_node = text::trim(line)
            .strip_prefix(b"Node ")
            .and_then(|line| line.strip_prefix(node)?.strip_prefix(b" "));
        match of_node.and_then(text::meminfo_line) {
            Some(line) => {
                out.add_named(&MEMORY, &MEMORY.name_of(&line.name), &[node], line.value);
                any = true;
            }
            // Old kernels begin with an empty line.
            None if line.is_empty() => {}
            None => out.skip(|| format!("{}: {}", MEMORY.source, line.escape_ascii())),
        }
    }
    any
}

/// `numa_hit 1934603`.
fn add_numastat(dir: &Dir<'_>, node: &[u8], out: &mut Exposition) {
    for line in text::lines(dir.text("numastat").unwrap_or_default()) {
        let mut fields = text::fields(line);
        match (fields.next(), fields.next().and_then(text::unsigned), fields.next()) {
            (Some(name), Some(count), None) => {
                let name = COUNT.name_of(&text::printable(name));
                out.add_named(&COUNT, &name, &[node], count);
            }
            _ => out.skip(|| format!("{}: {}", COUNT.source, line.escape_ascii())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_with_result, local, skipped};
    use crate::snapshot::{Content, Snapshot};

    const MEMINFO: &str = "sys/devices/system/node/node0/meminfo";
    const NUMASTAT: &str = "sys/devices/system/node/node0/numastat";

    #[test]
    fn each_node_reports_its_memory_and_where_pages_came_from() {
        let files: &[(&str, &[u8])] = &[
            (MEMINFO, b"Node 0 MemTotal:       134182340 kB\nNode 0 Active(anon):     691324 kB\nNode 0 HugePages_Free:      3\n"),
            (NUMASTAT, b"numa_hit 193460335812\nother_node 18179487\n"),
            ("sys/devices/system/node/node12/meminfo", b"Node 12 MemTotal:       8 kB\n"),
        ];
        assert_eq!(
            collect(&COLLECTOR, files, &[]).unwrap(),
            "node_memory_numa_Active_anon{node=\"0\"} 707915776\n\
             node_memory_numa_HugePages_Free{node=\"0\"} 3\n\
             node_memory_numa_MemTotal{node=\"0\"} 137402716160\n\
             node_memory_numa_MemTotal{node=\"12\"} 8192\n\
             node_memory_numa_numa_hit_total{node=\"0\"} 193460335812\n\
             node_memory_numa_other_node_total{node=\"0\"} 18179487\n"
        );
    }

    #[test]
    fn a_future_kernels_line_is_reported_under_its_name() {
        let files: &[(&str, &[u8])] =
            &[(MEMINFO, b"\nNode 0 Frobs(far): 3 kB\n"), (NUMASTAT, b"numa_frob 4\n")];
        assert_eq!(
            collect(&COLLECTOR, files, &[]).unwrap(),
            "node_memory_numa_Frobs_far{node=\"0\"} 3072\nnode_memory_numa_numa_frob_total{node=\"0\"} 4\n"
        );
    }

    #[test]
    fn only_a_malformed_line_is_skipped() {
        let files: &[(&str, &[u8])] = &[
            (MEMINFO, b"Node 0 MemFree: x kB\nNode 1 MemFree: 1 kB\nNode 01 Slab: 1 kB\nMemFree: 1 kB\nNode 0 Dirty: 1 kB\n"),
            (NUMASTAT, b"numa_hit\nnuma_miss -1\nnuma_a 1 2\nlocal\"\xff 5\n"),
        ];
        assert_eq!(
            collect(&COLLECTOR, files, &[]).unwrap(),
            "node_memory_numa_Dirty{node=\"0\"} 1024\nnode_memory_numa_local_____total{node=\"0\"} 5\n"
        );
        assert_eq!(skipped(&COLLECTOR, files, &[]), 7);
    }

    #[test]
    fn a_node_whose_memory_is_hidden_fails_and_the_others_are_reported() {
        let other = "sys/devices/system/node/node1/meminfo";
        for hidden in [&b""[..], b"\n", b"Node 1 MemFree: 1 kB\n"] {
            let files = [(MEMINFO, hidden), (other, &b"Node 1 MemFree: 1 kB\n"[..])];
            let files = files.map(|(path, text)| (path.into(), Content::bytes(text)));
            let (text, result) =
                collect_with_result(&COLLECTOR, &Snapshot::from_files(files.into()), &[], &local());
            assert_eq!(text, "node_memory_numa_MemFree{node=\"1\"} 1024\n");
            assert_eq!(result.unwrap_err().to_string(), format!("{MEMINFO}: no line that is known"));
        }
    }

    #[test]
    fn a_kernel_without_numa_has_no_series_and_succeeds() {
        assert_eq!(collect(&COLLECTOR, &[], &[]).unwrap(), "");
        assert_eq!(collect(&COLLECTOR, &[("sys/devices/system/node/nodeX/meminfo", b"")], &[]).unwrap(), "");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[MEMINFO, NUMASTAT]);
    }
}
