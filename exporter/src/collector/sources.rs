//! What families are read from, compared with the policy: a collector can emit nothing that no query of it reads, and
//! every file of the policy is used by a collector.

use keyhole_policy::pattern::overlap;
use keyhole_policy::{Row, Source as PolicySource, TABLE};
use keyhole_proto::v1::Query;

use super::{COLLECTORS, Collector};
use crate::exposition::Source;

/// Files that no family has as its source, and what they are read for.
const OTHER_USES: &[(&str, &str)] = &[
    ("self/mountinfo", "which file system a probe directory lies on"),
    ("sys/class/hwmon/hwmon#", "the name of the chip, by the path of its device"),
    ("sys/class/watchdog/watchdog#", "a watchdog without attributes is reported too"),
    ("sys/fs/cgroup/cgroup.controllers", "whether the hierarchy is that of version 2"),
    ("sys/fs/cgroup/{cpu.stat,memory.stat}", "the families of cgroups, for the root"),
    ("sys/fs/cgroup/*/*/*", "the families of cgroups, for children of the groups above"),
    ("sys/fs/cgroup/*/*/*/*", "the same, one level further down"),
];

/// A source of the policy as a pattern that begins with its root's name.
fn rooted(source: &PolicySource) -> String {
    format!("{}/{}", source.root.name(), source.pattern)
}

/// Each text that the choices of a pattern stand for, wildcards left as they are.
fn alternatives(pattern: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for (at, component) in pattern.split('/').enumerate() {
        let slash = if at == 0 { "" } else { "/" };
        let names = keyhole_policy::pattern::names(component);
        let longer =
            |path: &String| names.iter().map(|name| format!("{path}{slash}{name}")).collect::<Vec<_>>();
        found = found.iter().flat_map(longer).collect();
    }
    found
}

/// The patterns of a family's source that no query of its collector reads.
fn unread(collector: &Collector, source: Source) -> Vec<String> {
    let alternatives = source.patterns().into_iter().flat_map(|pattern| alternatives(&pattern));
    alternatives.filter(|pattern| collector.rows(pattern).next().is_none()).collect()
}

#[test]
fn every_family_has_a_source_that_a_query_of_its_collector_reads() {
    for collector in COLLECTORS {
        for family in (collector.families)() {
            assert_eq!(unread(collector, family.source), [""; 0], "{}: {}", collector.name, family.name);
        }
    }
}

#[test]
fn every_file_of_the_policy_is_the_source_of_a_family_or_has_another_use() {
    let mut sources: Vec<(Query, String)> = Vec::new();
    for collector in COLLECTORS {
        let patterns = (collector.families)().into_iter().flat_map(|family| family.source.patterns());
        let patterns: Vec<String> = patterns.collect();
        for query in collector.queries.iter().chain(collector.optional) {
            sources.extend(patterns.iter().map(|pattern| (*query, pattern.clone())));
        }
    }
    let is_source = |row: &Row, file: &str| {
        sources.iter().any(|(query, pattern)| *query == row.query && overlap(pattern, file))
    };
    let mut unused = Vec::new();
    let mut used = vec![false; OTHER_USES.len()];
    for row in TABLE {
        for file in row.sources.iter().flat_map(|source| alternatives(&rooted(source))) {
            if is_source(row, &file) {
                continue;
            }
            match OTHER_USES.iter().position(|(pattern, _)| overlap(pattern, &file)) {
                Some(at) => used[at] = true,
                None => unused.push(format!("{}: {file}", row.query.as_str_name())),
            }
        }
    }
    assert!(unused.is_empty(), "no family is read from these:\n{}", unused.join("\n"));
    for ((pattern, reason), used) in OTHER_USES.iter().zip(used) {
        assert!(used, "{pattern} is the source of a family, or read no more: {reason}");
    }
}

#[test]
fn a_source_that_no_query_of_its_collector_reads_is_found() {
    let loadavg = &super::processors::loadavg::COLLECTOR;
    assert_eq!(unread(loadavg, Source::File("proc/loadavg")), [""; 0]);
    assert_eq!(unread(loadavg, Source::File("proc/{loadavg,stat}")), ["proc/stat"]);
    assert_eq!(unread(loadavg, Source::FileIn("proc", "loadavgs")), ["proc/loadavgs"]);
}
