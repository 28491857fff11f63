//! bcachefs file systems: `sys/fs/bcachefs/<uuid>/`.
//!
//! <https://www.kernel.org/doc/html/v6.12/filesystems/bcachefs/index.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::{Content, Dir};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "bcachefs",
    default: true,
    help: "bcachefs file systems: compression, errors, counters and devices.",
    queries: &[Query::Bcachefs],
    optional: &[],
    flags: &[],
    families: || {
        vec![
            INFO,
            BTREE_CACHE,
            COMPRESSED,
            UNCOMPRESSED,
            ERRORS,
            WRITES,
            WRITE_SIZE,
            COUNTER,
            DEVICE_INFO,
            BUCKET_SIZE,
            BUCKETS,
            DURABILITY,
            IO_DONE,
            IO_ERRORS,
        ]
    },
    new: |_| Ok(Box::new(collect)),
};

const INFO: Family = Family {
    name: "node_bcachefs_info",
    help: "A file system that is mounted; always 1.",
    kind: MetricType::Gauge,
    labels: &["uuid"],
    source: Source::File("sys/fs/bcachefs/*-*/*"),
};
const BTREE_CACHE: Family = Family {
    name: "node_bcachefs_btree_cache_size_bytes",
    help: "Bytes of memory that hold nodes of the trees.",
    source: Source::File("sys/fs/bcachefs/*-*/btree_cache_size"),
    ..INFO
};
const COMPRESSED: Family = Family {
    name: "node_bcachefs_compression_compressed_bytes",
    help: "Bytes that data takes, by how it is compressed.",
    labels: &["algorithm", "uuid"],
    source: Source::File("sys/fs/bcachefs/*-*/compression_stats"),
    ..INFO
};
const UNCOMPRESSED: Family = Family {
    name: "node_bcachefs_compression_uncompressed_bytes",
    help: "Bytes that data would take without compression, by how it is compressed.",
    ..COMPRESSED
};
const ERRORS: Family = Family {
    name: "node_bcachefs_errors_total",
    help: "Errors found in the file system, by type.",
    kind: MetricType::Counter,
    labels: &["error_type", "uuid"],
    source: Source::File("sys/fs/bcachefs/*-*/errors"),
};
const WRITES: Family = Family {
    name: "node_bcachefs_btree_writes_total",
    help: "Writes of tree nodes, by reason.",
    kind: MetricType::Counter,
    labels: &["type", "uuid"],
    source: Source::File("sys/fs/bcachefs/*-*/btree_write_stats"),
};
const WRITE_SIZE: Family = Family {
    name: "node_bcachefs_btree_write_average_size_bytes",
    help: "Bytes of a write of a tree node on average, by reason.",
    kind: MetricType::Gauge,
    ..WRITES
};
const COUNTER: Family = Family {
    name: "node_bcachefs_<COUNTER>_total",
    help: "A counter of the file system since it was made.",
    kind: MetricType::Counter,
    labels: &["uuid"],
    source: Source::File("sys/fs/bcachefs/*-*/counters/*"),
};
const DEVICE_INFO: Family = Family {
    name: "node_bcachefs_device_info",
    help: "Label and state of the file system's device; always 1.",
    labels: &["device", "label", "state", "uuid"],
    source: Source::File("sys/fs/bcachefs/*-*/dev-#/{label,state}"),
    ..INFO
};
const BUCKET_SIZE: Family = Family {
    name: "node_bcachefs_device_bucket_size_bytes",
    help: "Bytes of a bucket of the device.",
    source: Source::File("sys/fs/bcachefs/*-*/dev-#/bucket_size"),
    ..BUCKETS
};
const BUCKETS: Family = Family {
    name: "node_bcachefs_device_buckets",
    help: "Buckets of the device.",
    labels: &["device", "uuid"],
    source: Source::File("sys/fs/bcachefs/*-*/dev-#/nbuckets"),
    ..INFO
};
const DURABILITY: Family = Family {
    name: "node_bcachefs_device_durability",
    help: "Copies that data on the device counts for.",
    source: Source::File("sys/fs/bcachefs/*-*/dev-#/durability"),
    ..BUCKETS
};
const IO_DONE: Family = Family {
    name: "node_bcachefs_device_io_done_bytes_total",
    help: "Bytes read from and written to the device, by what they hold.",
    kind: MetricType::Counter,
    labels: &["data_type", "device", "operation", "uuid"],
    source: Source::File("sys/fs/bcachefs/*-*/dev-#/io_done"),
};
const IO_ERRORS: Family = Family {
    name: "node_bcachefs_device_io_errors_total",
    help: "Errors of the device since the file system was made, by type.",
    kind: MetricType::Counter,
    labels: &["device", "type", "uuid"],
    source: Source::File("sys/fs/bcachefs/*-*/dev-#/io_errors"),
};

/// Digits of a time in seconds since 1970, from 2001 to 2286.
const TIME_DIGITS: usize = 10;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for fs in context.snapshot.dir("sys/fs/bcachefs").dirs() {
        any = true;
        out.item();
        let uuid = fs.name();
        out.add(&INFO, &[uuid], 1u64);
        if let Some(size) = fs.text("btree_cache_size") {
            match text::shortened(size) {
                Some(size) => out.add(&BTREE_CACHE, &[uuid], size),
                None => out.skip(|| format!("{}: no number", BTREE_CACHE.source)),
            }
        }
        collect_compression(uuid, fs.text("compression_stats").unwrap_or_default(), out);
        collect_errors(uuid, fs.text("errors").unwrap_or_default(), out);
        collect_writes(uuid, fs.text("btree_write_stats").unwrap_or_default(), out);
        collect_counters(uuid, &fs.dir("counters"), out);
        for device in fs.dirs() {
            if let Some(name) = device.name().strip_prefix(b"dev-") {
                collect_device(uuid, name, &device, out);
            }
        }
    }
    any.then_some(()).ok_or_else(|| CollectError::NoData("mounted bcachefs".into()))
}

/// A head, then lines such as `zstd  226G  603G  115k`.
fn collect_compression(uuid: &[u8], stats: &[u8], out: &mut Exposition) {
    for line in text::lines(stats).skip(1) {
        let mut fields = text::fields(line);
        let Some(algorithm) = fields.next().map(without_colon) else { continue };
        for family in [&COMPRESSED, &UNCOMPRESSED] {
            match fields.next().and_then(text::shortened) {
                Some(bytes) => out.add(family, &[algorithm, uuid], bytes),
                None => out.skip(|| format!("{}: {}", family.source, line.escape_ascii())),
            }
        }
    }
}

/// Lines of a name, a count, and the time of the last such error.
fn collect_errors(uuid: &[u8], errors: &[u8], out: &mut Exposition) {
    for line in text::lines(errors) {
        let mut fields = text::fields(line);
        let (Some(name), Some(count)) = (fields.next(), fields.next()) else { continue };
        // A count that fills its column leaves no space before the time.
        let count = match fields.next() {
            None if count.len() > TIME_DIGITS => &count[..count.len() - TIME_DIGITS],
            _ => count,
        };
        match text::unsigned(count) {
            Some(count) => out.add(&ERRORS, &[name, uuid], count),
            None => out.skip(|| format!("{}: {}", ERRORS.source, line.escape_ascii())),
        }
    }
}

/// A head, then lines such as `initial:  3298401  100k`.
fn collect_writes(uuid: &[u8], stats: &[u8], out: &mut Exposition) {
    for line in text::lines(stats).skip(1) {
        let mut fields = text::fields(line);
        let Some(reason) = fields.next().map(without_colon) else { continue };
        match (fields.next().and_then(text::unsigned), fields.next().and_then(text::shortened)) {
            (Some(writes), Some(size)) => {
                out.add(&WRITES, &[reason, uuid], writes);
                out.add(&WRITE_SIZE, &[reason, uuid], size);
            }
            _ => out.skip(|| format!("{}: {}", WRITES.source, line.escape_ascii())),
        }
    }
}

/// A file a counter, with a line for the time since mount and one for the time since the file system was made.
fn collect_counters(uuid: &[u8], counters: &Dir<'_>, out: &mut Exposition) {
    for (name, content) in counters.files() {
        let Content::Bytes { bytes, .. } = content else { continue };
        let since =
            |line| text::split_first(line, b':').filter(|(of, _)| *of == b"since filesystem creation");
        match text::lines(bytes).find_map(since).and_then(|(_, value)| text::shortened(value)) {
            Some(value) => {
                let name = format!("node_bcachefs_{}_total", text::printable(name));
                out.add_named(&COUNTER, &name, &[uuid], value);
            }
            None => out.skip(|| format!("{}: no number in {}", COUNTER.source, name.escape_ascii())),
        }
    }
}

fn collect_device(uuid: &[u8], name: &[u8], device: &Dir<'_>, out: &mut Exposition) {
    let value = |file: &str| device.value(file).unwrap_or_default();
    match device.labels(["label", "state"]) {
        Some([label, state]) => out.add(&DEVICE_INFO, &[name, label, state, uuid], 1u64),
        None => out.skip_half_read(device.path()),
    }
    for (family, file) in [(&BUCKET_SIZE, "bucket_size"), (&BUCKETS, "nbuckets"), (&DURABILITY, "durability")]
    {
        match device.text(file).map(text::shortened) {
            Some(Some(value)) => out.add(family, &[name, uuid], value),
            Some(None) => out.skip(|| format!("{}: no number", family.source)),
            None => {}
        }
    }

    // `read:` and `write:`, and below each of them lines such as `btree       :     5242880`.
    let mut operation: &[u8] = b"";
    for line in text::lines(value("io_done")) {
        match text::split_first(line, b':').map(|(of, value)| (text::trim(of), text::trim(value))) {
            Some((of, b"")) => operation = of,
            Some((of, bytes)) if !operation.is_empty() => match text::unsigned(bytes) {
                Some(bytes) => out.add(&IO_DONE, &[of, name, operation, uuid], bytes),
                None => out.skip(|| format!("{}: {}", IO_DONE.source, line.escape_ascii())),
            },
            _ => {}
        }
    }
    // The first part is since the file system was made, the next since the errors were reset.
    for line in text::lines(value("io_errors")).skip(1).take_while(|line| !line.starts_with(b"IO errors")) {
        let Some((of, count)) = text::split_first(line, b':') else { continue };
        match text::unsigned(text::trim(count)) {
            Some(count) => out.add(&IO_ERRORS, &[name, text::trim(of), uuid], count),
            None => out.skip(|| format!("{}: {}", IO_ERRORS.source, line.escape_ascii())),
        }
    }
}

fn without_colon(name: &[u8]) -> &[u8] {
    name.strip_suffix(b":").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    fn bcachefs(files: &[(&str, &str)]) -> String {
        let files: Vec<(String, &[u8])> = files
            .iter()
            .map(|(file, text)| (format!("sys/fs/bcachefs/u-1/{file}"), text.as_bytes()))
            .collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let text = collect(&COLLECTOR, &files, &[]).unwrap();
        text.replace("node_bcachefs_", "").replace("info{uuid=\"u-1\"} 1\n", "").replace("uuid=\"u-1\"", "U")
    }

    #[test]
    fn a_mounted_file_system_is_reported() {
        let text = collect(&COLLECTOR, &[("sys/fs/bcachefs/u-1/btree_cache_size", b"2.05G\n")], &[]).unwrap();
        assert_eq!(
            text,
            "node_bcachefs_btree_cache_size_bytes{uuid=\"u-1\"} 2201170739\nnode_bcachefs_info{uuid=\"u-1\"} 1\n"
        );
    }

    #[test]
    fn compression_is_reported_by_algorithm() {
        let stats = "typetype          compressed    uncompressed     average extent size\n\
            lz4_old                    0               0                       0\n\
            zstd                    226G            603G                    115k\nnone 1\n";
        assert_eq!(
            bcachefs(&[("compression_stats", stats)]),
            "compression_compressed_bytes{algorithm=\"lz4_old\",U} 0\n\
             compression_compressed_bytes{algorithm=\"none\",U} 1\n\
             compression_compressed_bytes{algorithm=\"zstd\",U} 242665652224\n\
             compression_uncompressed_bytes{algorithm=\"lz4_old\",U} 0\n\
             compression_uncompressed_bytes{algorithm=\"zstd\",U} 647466319872\n"
        );
    }

    #[test]
    fn a_count_of_errors_may_run_into_the_time_behind_it() {
        let errors = "bset_bad_csum                                   2       1767112063\n\
            extent_io_opts_not_set                          11299659571772285102\n\
            extent_ptrs_all_invalid_but_cached              44612   177\nodd x 1\nshort 12\nalone\n";
        assert_eq!(
            bcachefs(&[("errors", errors)]),
            "errors_total{error_type=\"bset_bad_csum\",U} 2\n\
             errors_total{error_type=\"extent_io_opts_not_set\",U} 1129965957\n\
             errors_total{error_type=\"extent_ptrs_all_invalid_but_cached\",U} 44612\n\
             errors_total{error_type=\"short\",U} 12\n"
        );
    }

    #[test]
    fn writes_of_nodes_are_reported_by_reason() {
        let stats = "                   nr        size\ninitial:           3298401   100k\nfuture: many 1\n";
        assert_eq!(
            bcachefs(&[("btree_write_stats", stats)]),
            "btree_write_average_size_bytes{type=\"initial\",U} 102400\n\
             btree_writes_total{type=\"initial\",U} 3298401\n"
        );
    }

    #[test]
    fn each_counter_is_a_family_and_counts_since_the_file_system_was_made() {
        let of = |value: &str| {
            format!("since mount:                   1\nsince filesystem creation:     {value}\n")
        };
        let files =
            [("counters/data_read", &*of("44.5T")), ("counters/new-one", &of("7")), ("counters/odd", "1\n")];
        assert_eq!(bcachefs(&files), "data_read_total{U} 48928267436032\nnew_one_total{U} 7\n");
    }

    #[test]
    fn a_device_is_reported_with_its_traffic_and_errors() {
        let files = [
            ("dev-4/bucket_size", "2.00M\n"),
            ("dev-4/durability", "1\n"),
            (
                "dev-4/io_done",
                "read:\nsb          :       86016\nbtree       :  x\nwrite:\nsb          :           5\n",
            ),
            (
                "dev-4/io_errors",
                "IO errors since filesystem creation\n  read:    197416\n  write:   205\n  checksum:0\n\
                 IO errors since 8 y ago\n  read:    1\n",
            ),
            ("dev-4/label", "a \"b\"\n"),
            ("dev-4/nbuckets", "7629824\n"),
            ("dev-4/state", "[rw] ro evacuating spare \n"),
        ];
        assert_eq!(
            bcachefs(&files),
            "device_bucket_size_bytes{device=\"4\",U} 2097152\ndevice_buckets{device=\"4\",U} 7629824\n\
             device_durability{device=\"4\",U} 1\n\
             device_info{device=\"4\",label=\"a \\\"b\\\"\",state=\"[rw] ro evacuating spare\",U} 1\n\
             device_io_done_bytes_total{data_type=\"sb\",device=\"4\",operation=\"read\",U} 86016\n\
             device_io_done_bytes_total{data_type=\"sb\",device=\"4\",operation=\"write\",U} 5\n\
             device_io_errors_total{device=\"4\",type=\"checksum\",U} 0\n\
             device_io_errors_total{device=\"4\",type=\"read\",U} 197416\n\
             device_io_errors_total{device=\"4\",type=\"write\",U} 205\n"
        );
    }

    #[test]
    fn a_host_without_bcachefs_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let files = [
            "btree_cache_size",
            "btree_write_stats",
            "compression_stats",
            "counters/a",
            "dev-1/bucket_size",
            "dev-1/io_done",
            "dev-1/io_errors",
            "dev-1/label",
            "errors",
        ];
        let paths: Vec<String> = files.iter().map(|file| format!("sys/fs/bcachefs/a/{file}")).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
