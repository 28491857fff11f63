//! Caches in front of block devices: `sys/fs/bcache/<uuid>/`.
//!
//! <https://docs.kernel.org/admin-guide/bcache.html>

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source};
use crate::options::{Options, TypedFlag};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "bcache",
    default: true,
    help: "Caches of bcache and the devices behind them.",
    queries: &[Query::Bcache],
    optional: &[Query::BcachePriorities],
    flags: &[PRIORITY_STATS.row],
    families: || NUMBERS.iter().map(|number| number.family).collect(),
    new: |options| Ok(Box::new(Bcache::new(options))),
};

const PRIORITY_STATS: TypedFlag<bool> = TypedFlag::switch(
    "collector.bcache.priorityStats",
    false,
    "Report how full caches are. This is expensive: the kernel sorts all their buckets.",
);

/// A number: where it is read, and its family.
struct Number {
    place: Place,
    file: &'static str,
    /// The label of its line, or [`ALONE`].
    line: &'static [u8],
    factor: f64,
    family: Family,
}

/// What a number belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// A cache set.
    Set,
    /// A backing device of a set.
    Backing,
    /// A cache device of a set.
    Cache,
}
use Place::{Backing, Cache, Set};

impl Place {
    const fn directory(self) -> &'static str {
        match self {
            Set => "sys/fs/bcache/*-*",
            Backing => "sys/fs/bcache/*-*/bdev#",
            Cache => "sys/fs/bcache/*-*/cache#",
        }
    }

    const fn labels(self) -> &'static [&'static str] {
        match self {
            Set => &["uuid"],
            Backing => &["backing_device", "uuid"],
            Cache => &["cache_device", "uuid"],
        }
    }
}

/// The number is all of its file.
const ALONE: &[u8] = b"";

#[rustfmt::skip]
const NUMBERS: &[Number] = &[
    gauge(Set,       "internal/active_journal_entries",         ALONE,           1.0,         "node_bcache_active_journal_entries",              "Entries of the journal that are newer than the tree."),
    gauge(Set,       "average_key_size",                        ALONE,           1.0 / 512.0, "node_bcache_average_key_size_sectors",            "Average size of the data of a key in the tree, in sectors."),
    gauge(Set,       "btree_cache_size",                        ALONE,           1.0,         "node_bcache_btree_cache_size_bytes",              "Bytes of memory that hold nodes of the tree."),
    gauge(Set,       "internal/btree_nodes",                    ALONE,           1.0,         "node_bcache_btree_nodes",                         "Nodes of the tree."),
    gauge(Set,       "internal/btree_read_average_duration_us", ALONE,           1e-6,        "node_bcache_btree_read_average_duration_seconds", "Time that it takes on average to read a node of the tree."),
    gauge(Set,       "cache_available_percent",                 ALONE,           1.0,         "node_bcache_cache_available_percent",             "Part of the cache that holds no dirty data, in percent."),
    counter(Set,     "internal/cache_read_races",               ALONE,           1.0,         "node_bcache_cache_read_races_total",              "Reads from the cache whose bucket was used for other data meanwhile."),
    gauge(Set,       "congested",                               ALONE,           1.0,         "node_bcache_congested",                           "How congested the cache is."),
    gauge(Set,       "root_usage_percent",                      ALONE,           1.0,         "node_bcache_root_usage_percent",                  "Part of the tree's root that is in use, in percent."),
    gauge(Set,       "tree_depth",                              ALONE,           1.0,         "node_bcache_tree_depth",                          "Levels of the tree below its root."),
    counter(Backing, "stats_total/bypassed",                    ALONE,           1.0,         "node_bcache_bypassed_bytes_total",                "Bytes of accesses that bypassed the cache."),
    counter(Backing, "stats_total/cache_bypass_hits",           ALONE,           1.0,         "node_bcache_cache_bypass_hits_total",             "Accesses that were to bypass the cache and were in it."),
    counter(Backing, "stats_total/cache_bypass_misses",         ALONE,           1.0,         "node_bcache_cache_bypass_misses_total",           "Accesses that were to bypass the cache and were not in it."),
    counter(Backing, "stats_total/cache_hits",                  ALONE,           1.0,         "node_bcache_cache_hits_total",                    "Accesses that the cache answered."),
    counter(Backing, "stats_total/cache_miss_collisions",       ALONE,           1.0,         "node_bcache_cache_miss_collisions_total",         "Misses whose data was written to before it reached the cache."),
    counter(Backing, "stats_total/cache_misses",                ALONE,           1.0,         "node_bcache_cache_misses_total",                  "Accesses that the cache could not answer."),
    counter(Backing, "stats_total/cache_readaheads",            ALONE,           1.0,         "node_bcache_cache_readaheads_total",              "Times that data was read into the cache ahead of its use."),
    gauge(Backing,   "dirty_data",                              ALONE,           1.0,         "node_bcache_dirty_data_bytes",                    "Bytes in the cache that are not yet on the backing device."),
    gauge(Backing,   "writeback_rate_debug",                    b"target",       1.0,         "node_bcache_dirty_target_bytes",                  "Target of the kernel for dirty data in the cache, in bytes."),
    gauge(Backing,   "writeback_rate_debug",                    b"change",       1.0,         "node_bcache_writeback_change",                    "Last change of the rate at which dirty data is written back."),
    gauge(Backing,   "writeback_rate_debug",                    b"rate",         1.0,         "node_bcache_writeback_rate",                      "Rate at which dirty data is written back, in bytes per second."),
    gauge(Backing,   "writeback_rate_debug",                    b"integral",     1.0,         "node_bcache_writeback_rate_integral_term",        "Integral term of the controller of the writeback rate."),
    gauge(Backing,   "writeback_rate_debug",                    b"proportional", 1.0,         "node_bcache_writeback_rate_proportional_term",    "Proportional term of the controller of the writeback rate."),
    gauge(Cache,     "io_errors",                               ALONE,           1.0,         "node_bcache_io_errors",                           "Errors of the cache device; the count decays over time."),
    counter(Cache,   "metadata_written",                        ALONE,           1.0,         "node_bcache_metadata_written_bytes_total",        "Bytes written to the cache device that are not data."),
    gauge(Cache,     "priority_stats",                          b"Metadata",     1.0,         "node_bcache_priority_stats_metadata_percent",     "Part of the cache device that holds metadata, in percent."),
    gauge(Cache,     "priority_stats",                          b"Unused",       1.0,         "node_bcache_priority_stats_unused_percent",       "Part of the cache device that is unused, in percent."),
    counter(Cache,   "written",                                 ALONE,           1.0,         "node_bcache_written_bytes_total",                 "Bytes of data written to the cache device."),
];

const fn gauge(
    place: Place,
    file: &'static str,
    line: &'static [u8],
    factor: f64,
    name: &'static str,
    help: &'static str,
) -> Number {
    let family = Family::gauge(name, help, place.labels(), Source::FileIn(place.directory(), file));
    Number { place, file, line, factor, family }
}

const fn counter(
    place: Place,
    file: &'static str,
    line: &'static [u8],
    factor: f64,
    name: &'static str,
    help: &'static str,
) -> Number {
    let family = Family::counter(name, help, place.labels(), Source::FileIn(place.directory(), file));
    Number { place, file, line, factor, family }
}

/// The values of the flags.
#[derive(Debug)]
struct Bcache {
    priorities: bool,
}

impl Bcache {
    fn new(options: &Options) -> Self {
        Self { priorities: PRIORITY_STATS.get(options) }
    }
}

impl Collect for Bcache {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        // A capture may contain files that were not asked for in this scrape.
        let is_wanted = |number: &&Number| self.priorities || number.file != "priority_stats";
        let add = |place: Place, dir: &Dir<'_>, labels: &[&[u8]], out: &mut Exposition| {
            for number in NUMBERS.iter().filter(|number| number.place == place).filter(is_wanted) {
                add_number(number, dir, labels, out);
            }
        };
        for set in context.snapshot.dir("sys/fs/bcache").dirs() {
            out.item();
            add(Set, &set, &[set.name()], out);
            for device in set.dirs() {
                let labels = [device.name(), set.name()];
                if device.name().starts_with(b"bdev") {
                    add(Backing, &device, &labels, out);
                } else if device.name().starts_with(b"cache") {
                    add(Cache, &device, &labels, out);
                }
            }
        }
        // That there is no cache is no failure.
        Ok(())
    }

    fn wants(&self, query: Query) -> bool {
        query != Query::BcachePriorities || self.priorities
    }
}

fn add_number(number: &Number, dir: &Dir<'_>, labels: &[&[u8]], out: &mut Exposition) {
    let Number { file, line, factor, family, .. } = number;
    let Some(text) = dir.text(file) else { return };
    let text = if line.is_empty() { Some(text) } else { labelled_line(text, line) };
    match text.map(parse) {
        Some(Some(value)) => out.add(family, labels, value * factor),
        Some(None) => out.skip(|| format!("{}: no number for {}", family.source, family.name)),
        None => {}
    }
}

/// What stands behind `label:` in a file of such lines.
fn labelled_line<'t>(text: &'t [u8], label: &[u8]) -> Option<&'t [u8]> {
    let mut lines = text::lines(text).filter_map(|line| text::split_first(line, b':'));
    lines.find(|(of, _)| *of == label).map(|(_, value)| value)
}

/// A number as bcache writes it: perhaps with a sign, a fraction and a prefix, and what it counts behind it.
fn parse(text: &[u8]) -> Option<f64> {
    let text = text::trim(text);
    let text = text.strip_suffix(b"/sec").or_else(|| text.strip_suffix(b"%")).unwrap_or(text);
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let (number, factor) = text::binary_prefix(text);
    // The fraction counts 1/1024 in hundreds, so that .10 comes after .9.
    let (whole, fraction) = text::split_first(number, b'.').unwrap_or((number, b"0"));
    let value = text::unsigned(whole)? as f64 + text::unsigned(fraction)? as f64 / 10.24;
    let value = (value * factor).trunc();
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, instance};

    const SET: &[(&str, &str)] = &[
        ("average_key_size", "64.0k\n"),
        ("bdev0/dirty_data", "1.10k\n"),
        ("bdev0/stats_total/bypassed", "4.0M\n"),
        ("bdev0/stats_total/cache_bypass_hits", "1\n"),
        ("bdev0/stats_total/cache_bypass_misses", "2\n"),
        ("bdev0/stats_total/cache_hits", "546\n"),
        ("bdev0/stats_total/cache_miss_collisions", "3\n"),
        ("bdev0/stats_total/cache_misses", "5\n"),
        ("bdev0/stats_total/cache_readaheads", "13\n"),
        (
            "bdev0/writeback_rate_debug",
            "rate:\t\t1.1M/sec\ndirty:\t\t20.4G\ntarget:\t\t20.4G\nproportional:\t-427.5k\nintegral:\t790.0k\n\
             change:\t\t321.5k/sec\nnext io:\t17ms\n",
        ),
        ("btree_cache_size", "16.0M\n"),
        ("cache0/io_errors", "0\n"),
        ("cache0/metadata_written", "512\n"),
        ("cache0/priority_stats", "Unused:\t\t99%\nMetadata:\t1%\nAverage:\t10473\nQuantiles:\t[0 20946]\n"),
        ("cache0/written", "7\n"),
        ("cache_available_percent", "100\n"),
        ("congested", "0\n"),
        ("internal/active_journal_entries", "1\n"),
        ("internal/btree_nodes", "4\n"),
        ("internal/btree_read_average_duration_us", "1305\n"),
        ("internal/cache_read_races", "6\n"),
        ("root_usage_percent", "8\n"),
        ("tree_depth", "2\n"),
    ];

    fn bcache(files: &[(&str, &str)]) -> String {
        let files: Vec<(String, &[u8])> =
            files.iter().map(|(file, text)| (format!("sys/fs/bcache/u-1/{file}"), text.as_bytes())).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let flags = ["--collector.bcache.priorityStats"];
        collect(&COLLECTOR, &files, &flags).unwrap().replace("node_bcache_", "")
    }

    #[test]
    fn a_set_its_caches_and_its_backing_devices_are_reported() {
        assert_eq!(
            bcache(SET)
                .replace("{uuid=\"u-1\"}", "")
                .replace("{backing_device=\"bdev0\",uuid=\"u-1\"}", "")
                .replace("{cache_device=\"cache0\",uuid=\"u-1\"}", ""),
            "active_journal_entries 1\naverage_key_size_sectors 128\nbtree_cache_size_bytes 16777216\nbtree_nodes 4\n\
             btree_read_average_duration_seconds 0.001305\nbypassed_bytes_total 4194304\n\
             cache_available_percent 100\ncache_bypass_hits_total 1\ncache_bypass_misses_total 2\n\
             cache_hits_total 546\ncache_miss_collisions_total 3\ncache_misses_total 5\n\
             cache_read_races_total 6\ncache_readaheads_total 13\ncongested 0\ndirty_data_bytes 2024\n\
             dirty_target_bytes 21894266880\nio_errors 0\nmetadata_written_bytes_total 512\n\
             priority_stats_metadata_percent 1\npriority_stats_unused_percent 99\nroot_usage_percent 8\n\
             tree_depth 2\nwriteback_change 329204\nwriteback_rate 1150976\n\
             writeback_rate_integral_term 808960\nwriteback_rate_proportional_term -437748\n\
             written_bytes_total 7\n"
        );
    }

    #[test]
    fn a_fraction_counts_in_1024ths() {
        assert_eq!(parse(b"1.9k"), Some(1924.0));
        assert_eq!(parse(b"1.10k"), Some(2024.0), "more than .9");
        assert_eq!(parse(b"-1.0k"), Some(-1024.0));
        for odd in [&b""[..], b"k", b"1.", b".5", b"1.x", b"--1", b"1.2.3"] {
            assert_eq!(parse(odd), None, "{}", odd.escape_ascii());
        }
    }

    #[test]
    fn missing_new_and_malformed_files_affect_no_other() {
        let files =
            [("bdev0/writeback_rate_debug", "rate: fast\nshiny: 1\n"), ("tree_depth", "2"), ("shiny", "1")];
        assert_eq!(bcache(&files), "tree_depth{uuid=\"u-1\"} 2\n");
    }

    #[test]
    fn nothing_read_ahead_is_zero_and_not_absent() {
        let text = bcache(&[("bdev0/stats_total/cache_readaheads", "0\n")]);
        assert_eq!(text, "cache_readaheads_total{backing_device=\"bdev0\",uuid=\"u-1\"} 0\n");
    }

    #[test]
    fn priority_statistics_are_queried_only_if_the_flag_is_on() {
        let asked = |arguments: &[&str]| instance(&COLLECTOR, arguments).queries().collect::<Vec<_>>();
        assert_eq!(asked(&[]), [Query::Bcache]);
        assert_eq!(asked(&["--collector.bcache.priorityStats"]), [Query::Bcache, Query::BcachePriorities]);
        let files: [(&str, &[u8]); 1] = [("sys/fs/bcache/u-1/cache0/priority_stats", b"Unused: 9%\n")];
        assert_eq!(collect(&COLLECTOR, &files, &[]).unwrap(), "");
    }

    #[test]
    fn a_host_without_bcache_has_no_data() {
        assert_eq!(collect(&COLLECTOR, &[], &[]).unwrap(), "");
    }

    #[test]
    fn any_bytes_are_accepted() {
        let paths: Vec<String> = SET.iter().map(|(file, _)| format!("sys/fs/bcache/a/{file}")).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
