//! Statistics of ZFS and of its pools: `proc/spl/kstat/zfs/`.
//!
//! <https://openzfs.github.io/openzfs-docs/man/master/1/arcstat.1.html>
//!
//! Pools and datasets are those that were there when the broker started: nothing of procfs is opened later.

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source, Value};
use crate::snapshot::{Content, Dir};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "zfs",
    default: true,
    help: "Statistics of ZFS, its pools and datasets.",
    queries: &[Query::Zfs],
    optional: &[],
    flags: &[],
    families: || vec![STATISTIC, POOL, DATASET, STATE],
    new: |_| Ok(Box::new(collect)),
};

const DIR: &str = "proc/spl/kstat/zfs";

const STATISTIC: Family = Family {
    name: "node_zfs_<SUBSYSTEM>_<FIELD>",
    help: "A statistic of a part of ZFS.",
    kind: MetricType::Untyped,
    labels: &[],
    source: Source::File("proc/spl/kstat/zfs/*"),
};
const POOL: Family = Family {
    name: "node_zfs_zpool_<FIELD>",
    help: "A statistic of the pool's traffic.",
    labels: &["zpool"],
    source: Source::File("proc/spl/kstat/zfs/*/io"),
    ..STATISTIC
};
const DATASET: Family = Family {
    name: "node_zfs_zpool_dataset_<FIELD>",
    help: "A statistic of the dataset's traffic.",
    labels: &["dataset", "zpool"],
    source: Source::File("proc/spl/kstat/zfs/*/objset-*"),
    ..STATISTIC
};
const STATE: Family = Family {
    name: "node_zfs_zpool_state",
    help: "Whether the pool is in this state.",
    kind: MetricType::Gauge,
    labels: &["state", "zpool"],
    source: Source::File("proc/spl/kstat/zfs/*/state"),
};

/// Files, and the parts of ZFS that they are about.
const SUBSYSTEMS: &[(&str, &str)] = &[
    ("abdstats", "abd"),
    ("arcstats", "arc"),
    ("dbufstats", "dbuf"),
    ("dmu_tx", "dmu_tx"),
    ("dnodestats", "dnode"),
    ("fm", "fm"),
    ("vdev_cache_stats", "vdev_cache"),
    ("vdev_mirror_stats", "vdev_mirror"),
    ("xuio_stats", "xuio"),
    ("zfetchstats", "zfetch"),
    ("zil", "zil"),
];

/// The states that a pool may be in.
const STATES: &[&[u8]] =
    &[b"degraded", b"faulted", b"offline", b"online", b"removed", b"suspended", b"unavail"];

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let zfs = context.snapshot.dir(DIR);
    let mut any = false;
    let mut result = Ok(());
    for (file, subsystem) in SUBSYSTEMS {
        let Some(bytes) = zfs.text(file) else { continue };
        any = true;
        if !has_head(bytes) {
            result = result.and(Err(CollectError::malformed(&format!("{DIR}/{file}"), NO_HEAD)));
        }
        for row in rows(bytes) {
            match row.value() {
                Some(Some(value)) => {
                    let name = format!("node_zfs_{subsystem}_{}", text::printable(row.name));
                    out.add_named(&STATISTIC, &name, &[], value);
                }
                Some(None) => out.skip(|| format!("{DIR}/{file}: {}", row.name.escape_ascii())),
                None => {}
            }
        }
    }
    for pool in zfs.dirs() {
        any |= collect_pool(&pool, &mut result, out);
    }
    if any { result } else { context.no_devices(Query::Zfs, DIR) }
}

/// Adds the samples of a pool; false if there are none.
fn collect_pool(pool: &Dir<'_>, result: &mut Result<(), CollectError>, out: &mut Exposition) -> bool {
    let mut any = false;
    let is_of_pool = |file: &[u8]| matches!(file, b"io" | b"state");
    // What is of the pool itself is one item, and comes before its datasets.
    out.item();
    let files = pool.files().filter(|(file, _)| is_of_pool(file));
    for (file, content) in files.chain(pool.files().filter(|(file, _)| !is_of_pool(file))) {
        if !is_of_pool(file) {
            out.item();
        }
        // A pool that was exported leaves errors in its place.
        let Content::Bytes { bytes, .. } = content else { continue };
        any = true;
        match file {
            b"io" => collect_io(pool.name(), bytes, out),
            b"state" => {
                let now = text::trim(bytes).to_ascii_lowercase();
                for state in STATES {
                    out.add(&STATE, &[state, pool.name()], *state == now);
                }
            }
            _ if !has_head(bytes) => {
                let path = format!("{DIR}/{}/{}", pool.name().escape_ascii(), file.escape_ascii());
                if result.is_ok() {
                    *result = Err(CollectError::malformed(&path, NO_HEAD));
                }
            }
            _ => collect_dataset(pool.name(), bytes, out),
        }
    }
    any
}

/// A line of the kstat itself, one with the names of columns, and one with their values.
fn collect_io(pool: &[u8], io: &[u8], out: &mut Exposition) {
    let mut lines = text::lines(io).skip_while(|line| text::fields(line).next() != Some(b"nread"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    for (name, value) in text::fields(names).zip(text::fields(values)) {
        match text::unsigned(value) {
            Some(value) => {
                let name = format!("node_zfs_zpool_{}", text::printable(name));
                out.add_named(&POOL, &name, &[pool], value);
            }
            None => out.skip(|| format!("{}: {}", POOL.source, name.escape_ascii())),
        }
    }
}

fn collect_dataset(pool: &[u8], objset: &[u8], out: &mut Exposition) {
    let Some(dataset) = rows(objset).find(|row| row.name == b"dataset_name") else {
        out.skip(|| format!("{}: no name", DATASET.source));
        return;
    };
    for row in rows(objset).filter(|row| row.name != b"dataset_name") {
        match row.value() {
            Some(Some(value)) => {
                let name = format!("node_zfs_zpool_dataset_{}", text::printable(row.name));
                out.add_named(&DATASET, &name, &[dataset.data, pool], value);
            }
            Some(None) => out.skip(|| format!("{}: {}", DATASET.source, row.name.escape_ascii())),
            None => {}
        }
    }
}

/// A row of a kstat: `hits                            4    7067992`.
struct Row<'t> {
    name: &'t [u8],
    kind: &'t [u8],
    /// All that stands behind the kind: a dataset's name may hold spaces.
    data: &'t [u8],
}

impl Row<'_> {
    /// The row's number; outer none for what is no number of 64 bits, inner for one that cannot be read.
    fn value(&self) -> Option<Option<Value>> {
        match self.kind {
            b"3" => Some(text::signed(self.data).map(Value::from)),
            b"4" => Some(text::unsigned(self.data).map(Value::from)),
            _ => None,
        }
    }
}

/// What is wrong with a kstat without its head, which no kernel leaves out: something hides the file's content.
const NO_HEAD: &str = "no line `name type data`";

fn is_head(line: &[u8]) -> bool {
    text::fields(line).eq([&b"name"[..], b"type", b"data"])
}

fn has_head(kstat: &[u8]) -> bool {
    text::lines(kstat).any(is_head)
}

/// The rows below the line `name type data`.
fn rows(kstat: &[u8]) -> impl Iterator<Item = Row<'_>> {
    text::lines(kstat).skip_while(|line| !is_head(line)).skip(1).filter_map(|line| {
        let (name, rest) = text::split_first(text::trim(line), b' ')?;
        let (kind, data) = text::split_first(text::trim(rest), b' ')?;
        Some(Row { name, kind, data: text::trim(data) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::Snapshot;

    const HEAD: &str =
        "7 1 0x01 21 5712 73163810083184 309946154984654\nname                            type data\n";

    fn zfs(files: &[(&str, &str)]) -> String {
        let files: Vec<(String, &[u8])> =
            files.iter().map(|(file, text)| (format!("{DIR}/{file}"), text.as_bytes())).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        collect(&COLLECTOR, &files, &[]).unwrap().replace("node_zfs_", "")
    }

    #[test]
    fn each_numeric_row_is_a_family_under_its_component_of_zfs() {
        let rows = "erpt-dropped                    4    18\nneeded                          3    -5\n\
            text                            7    words and more\nchar                            0    x\n";
        for (file, subsystem) in SUBSYSTEMS {
            assert_eq!(
                zfs(&[(file, &format!("{HEAD}{rows}"))]),
                format!("{subsystem}_erpt_dropped 18\n{subsystem}_needed -5\n")
            );
        }
    }

    #[test]
    fn a_pools_traffic_is_reported_by_column() {
        let io = "12 3 0x00 1 80 79205351707403 395818011156865\nnread    nwritten reads\n1884160  3206144  22       7\n";
        assert_eq!(
            zfs(&[("tank/io", io)]),
            "zpool_nread{zpool=\"tank\"} 1884160\nzpool_nwritten{zpool=\"tank\"} 3206144\n\
             zpool_reads{zpool=\"tank\"} 22\n"
        );
    }

    #[test]
    fn a_datasets_name_may_have_spaces() {
        let rows = "dataset_name                    7    tank/with  \"space\nwrites                          4    10\n";
        assert_eq!(
            zfs(&[("tank/objset-0x36", &format!("{HEAD}{rows}"))]),
            "zpool_dataset_writes{dataset=\"tank/with  \\\"space\",zpool=\"tank\"} 10\n"
        );
        assert_eq!(zfs(&[("tank/objset-0x36", &format!("{HEAD}writes 4 10\n"))]), "");
    }

    #[test]
    fn a_pool_is_in_one_state_or_in_one_that_is_not_known() {
        let text = zfs(&[("tank/state", "DEGRADED\n")]);
        assert!(text.contains("zpool_state{state=\"degraded\",zpool=\"tank\"} 1\n"), "{text}");
        assert_eq!(text.matches("} 0\n").count(), 6);
        assert_eq!(zfs(&[("tank/state", "NAPPING\n")]).matches("} 0\n").count(), 7);
    }

    #[test]
    fn an_exported_pool_is_left_out() {
        let path = |file: &str| format!("{DIR}/{file}").into_bytes();
        let snapshot = Snapshot::from_files(vec![
            (path("gone/state"), Content::Errno(5)),
            (path("zil"), Content::bytes(format!("{HEAD}a 4 1\n").into_bytes())),
        ]);
        assert_eq!(collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(), "node_zfs_zil_a 1\n");
    }

    #[test]
    fn only_a_malformed_row_is_skipped() {
        let rows = "a 4\nb 4 -1\nc 3 x\n\nd 4 18446744073709551615\n";
        assert_eq!(zfs(&[("zil", &format!("{HEAD}{rows}"))]), "zil_d 18446744073709551615\n");
    }

    #[test]
    fn a_file_without_its_head_fails() {
        for file in ["arcstats", "zil", "tank/objset-0x36"] {
            for text in ["", "\n", "no head\na 4 1\n"] {
                let path = format!("{DIR}/{file}");
                let error = collect(&COLLECTOR, &[(&path, text.as_bytes())], &[]).unwrap_err().to_string();
                assert_eq!(error, format!("{path}: no line `name type data`"));
            }
            assert_eq!(
                zfs(&[(file, &format!("{HEAD}dataset_name 7 a\n"))]),
                "",
                "a head alone is no failure"
            );
        }
    }

    #[test]
    fn a_host_without_zfs_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let files = ["arcstats", "fm", "a/io", "a/objset-1", "a/state"];
        let paths: Vec<String> = files.iter().map(|file| format!("{DIR}/{file}")).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }

    proptest::proptest! {
        #[test]
        fn any_rows_below_a_header_result_in_at_most_one_sample_per_row(rows in "([a-z-]{0,4} [0-9]? ?[0-9a-z -]{0,24}\n?){0,6}") {
            let text = zfs(&[("zil", &format!("{HEAD}{rows}"))]);
            proptest::prop_assert!(text.lines().count() <= rows.lines().count());
        }
    }
}
