//! Slab caches of the kernel: `proc/slabinfo`, which only uid 0 may read.
//!
//! <https://man7.org/linux/man-pages/man5/slabinfo.5.html>

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{Filter, Options, TypedFlag};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "slabinfo",
    default: false,
    help: "Slab caches of the kernel; requires a broker that runs as root.",
    queries: &[Query::Slabinfo],
    optional: &[],
    flags: &[EXCLUDE.row, INCLUDE.row],
    families: || COLUMNS.to_vec(),
    new: |options| Ok(Box::new(Slabinfo::new(options))),
};

const PATH: &str = "proc/slabinfo";
const EXCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.slabinfo.slabs-exclude", "", "Slab caches to exclude.");
const INCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.slabinfo.slabs-include", ".*", "Slab caches to include.");

const OBJECTS: Family = Family {
    name: "node_slabinfo_objects",
    help: "Objects of this cache, used or not.",
    kind: MetricType::Gauge,
    labels: &["slab"],
    source: Source::File(PATH),
};

/// The columns behind the name, in their order; all the same since Linux 2.6.10.
#[rustfmt::skip]
const COLUMNS: [Family; 5] = [
    Family { name: "node_slabinfo_active_objects",    help: "Objects of this cache that are used.",     ..OBJECTS },
    OBJECTS,
    Family { name: "node_slabinfo_object_size_bytes", help: "Bytes that an object of this cache takes.", ..OBJECTS },
    Family { name: "node_slabinfo_objects_per_slab",  help: "Objects in a slab of this cache.",         ..OBJECTS },
    Family { name: "node_slabinfo_pages_per_slab",    help: "Pages that a slab of this cache takes.",   ..OBJECTS },
];

/// The values of the flags.
#[derive(Debug)]
struct Slabinfo {
    names: Filter,
}

impl Slabinfo {
    fn new(options: &Options) -> Self {
        Self { names: Filter::new(options, INCLUDE, EXCLUDE) }
    }
}

impl Collect for Slabinfo {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut any = false;
        for line in text::lines(context.require(PATH)?) {
            out.item();
            if line.starts_with(b"slabinfo - ") || line.starts_with(b"# name") {
                any = true;
                continue;
            }
            let Some((name, values)) = parse(line) else {
                out.skip(|| format!("{PATH}: {}", line.escape_ascii()));
                continue;
            };
            any = true;
            if self.names.passes(name) {
                for (family, value) in COLUMNS.iter().zip(values) {
                    out.add(family, &[name], value);
                }
            }
        }
        any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "neither a heading nor a slab cache"))
    }
}

/// `kmalloc-8k   132  148  8192  4  8 : tunables ...`; a cache's name may hold spaces, as modules choose it.
fn parse(line: &[u8]) -> Option<(&[u8], [u64; COLUMNS.len()])> {
    let end = line.windows(BEHIND.len()).rposition(|window| window == BEHIND)?;
    let mut rest = line.get(..end)?;
    let mut values = [0; COLUMNS.len()];
    for value in values.iter_mut().rev() {
        let number;
        (rest, number) = text::split_last(rest.trim_ascii_end(), b' ')?;
        *value = text::unsigned(number)?;
    }
    let name = text::trim(rest);
    (!name.is_empty()).then_some((name, values))
}

/// What stands behind the columns.
const BEHIND: &[u8] = b" : tunables";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::{Content, Snapshot};

    const SLABINFO: &[u8] = b"slabinfo - version: 2.1\n\
        # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n\
        tw_sock_TCP          704    864    256   32    2 : tunables    0    0    0 : slabdata     27     27      0\n\
        kmalloc-8k           132    148   8192    4    8 : tunables    0    0    0 : slabdata     37     37      0\n";
    const TCP: &str = "node_slabinfo_active_objects{slab=\"tw_sock_TCP\"} 704\n\
        node_slabinfo_object_size_bytes{slab=\"tw_sock_TCP\"} 256\n\
        node_slabinfo_objects{slab=\"tw_sock_TCP\"} 864\n\
        node_slabinfo_objects_per_slab{slab=\"tw_sock_TCP\"} 32\n\
        node_slabinfo_pages_per_slab{slab=\"tw_sock_TCP\"} 2\n";

    #[test]
    fn each_cache_reports_its_objects_and_slabs() {
        let text = collect(&COLLECTOR, &[(PATH, SLABINFO)], &[]).unwrap();
        assert_eq!(text.lines().count(), 10);
        for line in TCP.lines() {
            assert!(text.contains(line), "{line}");
        }
    }

    #[test]
    fn caches_are_chosen_by_name() {
        for flag in ["--collector.slabinfo.slabs-include=^tw", "--collector.slabinfo.slabs-exclude=kmalloc"] {
            assert_eq!(collect(&COLLECTOR, &[(PATH, SLABINFO)], &[flag]).unwrap(), TCP, "{flag}");
        }
        let both =
            ["--collector.slabinfo.slabs-include=^(tw|kmalloc)", "--collector.slabinfo.slabs-exclude=k$"];
        assert_eq!(collect(&COLLECTOR, &[(PATH, SLABINFO)], &both).unwrap(), TCP);
    }

    #[test]
    fn a_file_that_is_denied_is_unreadable_and_not_empty() {
        let snapshot = Snapshot::from_files(vec![(PATH.into(), Content::Errno(13))]);
        let refused = CollectError::Unreadable { path: PATH.into(), errno: 13 };
        assert_eq!(collect_snapshot(&COLLECTOR, &snapshot, &[], &local()), Err(refused));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn a_debugging_kernels_statistics_are_ignored_and_a_name_may_have_any_bytes() {
        let slabinfo =
            b"a b: \"\xff  1 2 3 4 5 : tunables 0 0 0 : slabdata 1 1 0 : globalstat 7 : cpustat 8\n\
            short 1 2 3 : tunables\nno tunables 1 2 3 4 5\nx 1 2 y 4 5 : tunables\n1 2 3 4 5 : tunables\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, slabinfo)], &[]).unwrap().lines().next(),
            Some("node_slabinfo_active_objects{slab=\"a b: \\\"\u{fffd}\"} 1")
        );
        assert_eq!(collect(&COLLECTOR, &[(PATH, slabinfo)], &[]).unwrap().lines().count(), 5);
    }

    #[test]
    fn a_heading_alone_is_no_failure() {
        let heading =
            b"slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize> : tunables <limit>\n";
        assert_eq!(collect(&COLLECTOR, &[(PATH, heading)], &[]), Ok(String::new()));
    }

    #[test]
    fn a_file_of_something_else_is_malformed() {
        let result = collect(&COLLECTOR, &[(PATH, b"kmalloc\n")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }

    proptest::proptest! {
        #[test]
        fn any_columns_are_parsed_without_a_panic(columns in "[a-z ]{0,8}[0-9x ]{0,20}") {
            let line = format!("{columns} : tunables 0 0 0\n");
            let _ = collect(&COLLECTOR, &[(PATH, line.as_bytes())], &[]);
        }
    }
}
