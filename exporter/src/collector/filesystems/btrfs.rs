//! Btrfs file systems: `sys/fs/btrfs/<uuid>/`.
//!
//! <https://btrfs.readthedocs.io/en/latest/ch-sysfs.html>
//!
//! Only an ioctl on the mount point returns what a device has left to allocate and its own uuid: they are left out.

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "btrfs",
    default: true,
    help: "Btrfs file systems: allocation, commits, devices and their errors.",
    queries: &[Query::Btrfs],
    optional: &[],
    flags: &[],
    families: || {
        vec![
            INFO,
            GLOBAL_RESERVE,
            RESERVED,
            USED,
            SIZE,
            RATIO,
            COMMITS,
            COMMIT_SECONDS,
            LAST_COMMIT,
            MAX_COMMIT,
            DEVICE_SIZE,
            DEVICE_ERRORS,
        ]
    },
    new: |_| Ok(Box::new(collect)),
};

const INFO: Family = Family {
    name: "node_btrfs_info",
    help: "Label of the file system; always 1.",
    labels: &["label", "uuid"],
    source: Source::File("sys/fs/btrfs/*-*/{label,metadata_uuid}"),
    ..GLOBAL_RESERVE
};
const GLOBAL_RESERVE: Family = Family {
    name: "node_btrfs_global_rsv_size_bytes",
    help: "Bytes that the file system reserves for itself.",
    kind: MetricType::Gauge,
    labels: &["uuid"],
    source: Source::File("sys/fs/btrfs/*-*/allocation/global_rsv_size"),
};
const RESERVED: Family = Family {
    name: "node_btrfs_reserved_bytes",
    help: "Bytes that are reserved for writes under way.",
    labels: &["block_group_type", "uuid"],
    source: Source::File("sys/fs/btrfs/*-*/allocation/*/bytes_reserved"),
    ..GLOBAL_RESERVE
};
const USED: Family = Family {
    name: "node_btrfs_used_bytes",
    help: "Bytes in use, before copies are made of them.",
    labels: &["block_group_type", "mode", "uuid"],
    source: Source::File("sys/fs/btrfs/*-*/allocation/*/*/used_bytes"),
    ..GLOBAL_RESERVE
};
const SIZE: Family = Family {
    name: "node_btrfs_size_bytes",
    help: "Bytes that are allocated, before copies are made of them.",
    source: Source::File("sys/fs/btrfs/*-*/allocation/*/*/total_bytes"),
    ..USED
};
const RATIO: Family = Family {
    name: "node_btrfs_allocation_ratio",
    help: "Bytes on devices for each byte of data.",
    source: Source::File("sys/fs/btrfs/*-*/allocation/*/*/{total_bytes,used_bytes}"),
    ..USED
};
const COMMITS: Family = Family {
    name: "node_btrfs_commits_total",
    help: "Transactions that were committed.",
    kind: MetricType::Counter,
    source: Source::File("sys/fs/btrfs/*-*/commit_stats"),
    ..GLOBAL_RESERVE
};
const COMMIT_SECONDS: Family =
    Family { name: "node_btrfs_commit_seconds_total", help: "Time that all commits took.", ..COMMITS };
const LAST_COMMIT: Family = Family {
    name: "node_btrfs_last_commit_seconds",
    help: "Time that the last commit took.",
    kind: MetricType::Gauge,
    ..COMMITS
};
const MAX_COMMIT: Family = Family {
    name: "node_btrfs_max_commit_seconds",
    help: "Time that the longest commit took.",
    ..LAST_COMMIT
};
const DEVICE_SIZE: Family = Family {
    name: "node_btrfs_device_size_bytes",
    help: "Bytes of a device of the file system.",
    labels: &["device", "uuid"],
    source: Source::File("sys/fs/btrfs/*-*/devices/*/size"),
    ..GLOBAL_RESERVE
};
const DEVICE_ERRORS: Family = Family {
    name: "node_btrfs_device_errors_total",
    help: "Errors of the file system's device; of all its devices together, without a name, when it has several.",
    kind: MetricType::Counter,
    labels: &["btrfs_dev_uuid", "device", "type", "uuid"],
    source: Source::File("sys/fs/btrfs/*-*/devinfo/#/error_stats"),
};

/// Lines of `commit_stats`, their families, and what one of their units is.
const COMMIT_STATS: &[(&[u8], &Family, f64)] = &[
    (b"commits", &COMMITS, 1.0),
    (b"last_commit_ms", &LAST_COMMIT, 1e3),
    (b"max_commit_ms", &MAX_COMMIT, 1e3),
    (b"total_commit_ms", &COMMIT_SECONDS, 1e3),
];
/// Lines of `error_stats`, and their types of error.
const ERROR_STATS: &[(&[u8], &[u8])] = &[
    (b"corruption_errs", b"corruption"),
    (b"flush_errs", b"flush"),
    (b"generation_errs", b"generation"),
    (b"read_errs", b"read"),
    (b"write_errs", b"write"),
];

/// The unit of a block device's size.
const SECTOR_BYTES: u64 = 512;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    for fs in context.snapshot.dir("sys/fs/btrfs").dirs() {
        collect_file_system(&fs, out);
    }
    // That no such file system is mounted is no failure.
    Ok(())
}

fn collect_file_system(fs: &Dir<'_>, out: &mut Exposition) {
    // Every series has the uuid.
    let Some([label, uuid]) = fs.labels(["label", "metadata_uuid"]) else {
        return out.skip_half_read(fs.path());
    };
    let uuid = if uuid.is_empty() { fs.name() } else { uuid };
    out.item();
    out.add(&INFO, &[label, uuid], 1u64);
    if let Some(size) = fs.unsigned("allocation/global_rsv_size") {
        out.add(&GLOBAL_RESERVE, &[uuid], size);
    }
    for line in text::lines(fs.text("commit_stats").unwrap_or_default()) {
        let mut fields = text::fields(line);
        let key = fields.next().unwrap_or_default();
        let Some((_, family, unit)) = COMMIT_STATS.iter().find(|(of, ..)| *of == key) else { continue };
        match fields.next().and_then(text::unsigned) {
            Some(value) => out.add(family, &[uuid], value as f64 / unit),
            None => out.skip(|| format!("{}: {}", COMMITS.source, line.escape_ascii())),
        }
    }

    let mut devices = Vec::new();
    for device in fs.dir("devices").dirs() {
        if let Some(bytes) = device.unsigned("size").and_then(|sectors| sectors.checked_mul(SECTOR_BYTES)) {
            out.add(&DEVICE_SIZE, &[device.name(), uuid], bytes);
        }
        devices.push(device.name().to_vec());
    }
    for of in fs.dir("allocation").dirs() {
        if let Some(bytes) = of.unsigned("bytes_reserved") {
            out.add(&RESERVED, &[of.name(), uuid], bytes);
        }
        for mode in of.dirs() {
            let labels = [of.name(), mode.name(), uuid];
            for (family, file) in [(&USED, "used_bytes"), (&SIZE, "total_bytes")] {
                if let Some(bytes) = mode.unsigned(file) {
                    out.add(family, &labels, bytes);
                }
            }
            if let Some(ratio) = allocation_ratio(mode.name(), devices.len() as f64) {
                out.add(&RATIO, &labels, ratio);
            }
        }
    }
    collect_errors(fs, uuid, &devices, out);
}

/// Bytes of devices that a byte takes; with parity it takes as many devices as there are.
fn allocation_ratio(mode: &[u8], devices: f64) -> Option<f64> {
    Some(match mode {
        b"single" | b"raid0" => 1.0,
        b"dup" | b"raid1" | b"raid10" => 2.0,
        b"raid1c3" => 3.0,
        b"raid1c4" => 4.0,
        b"raid5" if devices > 1.0 => devices / (devices - 1.0),
        b"raid6" if devices > 2.0 => devices / (devices - 2.0),
        _ => return None,
    })
}

/// Errors by device. The kernel names devices by their number in the file system alone, which no file maps to a name:
/// when there is one device it is that one, else only their sum is certain.
fn collect_errors(fs: &Dir<'_>, uuid: &[u8], devices: &[Vec<u8>], out: &mut Exposition) {
    let mut sums = [None::<u64>; ERROR_STATS.len()];
    for device in fs.dir("devinfo").dirs() {
        for line in text::lines(device.text("error_stats").unwrap_or_default()) {
            let mut fields = text::fields(line);
            let key = fields.next().unwrap_or_default();
            let of = ERROR_STATS.iter().zip(&mut sums).find(|((of, _), _)| *of == key);
            let count = fields.next().and_then(text::unsigned);
            if let (Some((_, sum)), Some(count)) = (of, count) {
                *sum = Some(sum.unwrap_or(0).saturating_add(count));
            }
        }
    }
    let device = match devices {
        [device] => device,
        _ => &b""[..],
    };
    for ((_, kind), sum) in ERROR_STATS.iter().zip(sums) {
        if let Some(sum) = sum {
            out.add(&DEVICE_ERRORS, &[b"", device, kind, uuid], sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const FS: &[(&str, &str)] = &[
        ("allocation/data/bytes_reserved", "7\n"),
        ("allocation/data/raid5/total_bytes", "644087808\n"),
        ("allocation/data/raid5/used_bytes", "5\n"),
        ("allocation/global_rsv_size", "16777216\n"),
        ("allocation/metadata/raid6/total_bytes", "429391872\n"),
        (
            "commit_stats",
            "commits 258051\nlast_commit_ms 1000\nmax_commit_ms 51462\ntotal_commit_ms 47836090\n",
        ),
        ("devices/loop22/size", "20971520\n"),
        ("devices/loop23/size", "20971520\n"),
        ("devices/loop24/size", "20971520\n"),
        ("devices/loop25/size", "20971520\n"),
        ("label", "fix\"ture\n"),
        ("metadata_uuid", "u-1\n"),
    ];
    const ERRORS: &str =
        "write_errs 1\nread_errs 2\nflush_errs 3\ncorruption_errs 4\ngeneration_errs 5\nshiny 6\n";

    fn btrfs(files: &[(&str, &str)]) -> String {
        let files: Vec<(String, &[u8])> =
            files.iter().map(|(file, text)| (format!("sys/fs/btrfs/u-0/{file}"), text.as_bytes())).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        collect(&COLLECTOR, &files, &[]).unwrap().replace("node_btrfs_", "")
    }

    #[test]
    fn allocation_commits_and_devices_are_reported() {
        assert_eq!(
            btrfs(FS).replace("uuid=\"u-1\"", "U"),
            "allocation_ratio{block_group_type=\"data\",mode=\"raid5\",U} 1.3333333333333333\n\
             allocation_ratio{block_group_type=\"metadata\",mode=\"raid6\",U} 2\ncommit_seconds_total{U} 47836.09\n\
             commits_total{U} 258051\ndevice_size_bytes{device=\"loop22\",U} 10737418240\n\
             device_size_bytes{device=\"loop23\",U} 10737418240\ndevice_size_bytes{device=\"loop24\",U} 10737418240\n\
             device_size_bytes{device=\"loop25\",U} 10737418240\nglobal_rsv_size_bytes{U} 16777216\n\
             info{label=\"fix\\\"ture\",U} 1\nlast_commit_seconds{U} 1\nmax_commit_seconds{U} 51.462\n\
             reserved_bytes{block_group_type=\"data\",U} 7\n\
             size_bytes{block_group_type=\"data\",mode=\"raid5\",U} 644087808\n\
             size_bytes{block_group_type=\"metadata\",mode=\"raid6\",U} 429391872\n\
             used_bytes{block_group_type=\"data\",mode=\"raid5\",U} 5\n"
        );
    }

    #[test]
    fn without_commit_statistics_no_commits_are_reported_and_without_a_uuid_the_directorys_name_is_used() {
        assert_eq!(btrfs(&[("label", "\n")]), "info{label=\"\",uuid=\"u-0\"} 1\n");
    }

    #[test]
    fn a_future_kernels_mode_has_no_ratio_nor_has_parity_on_one_device() {
        let text =
            btrfs(&[("allocation/data/raid9/total_bytes", "1"), ("allocation/data/raid5/total_bytes", "1")]);
        assert!(!text.contains("ratio") && text.contains("mode=\"raid9\""), "{text}");
    }

    #[test]
    fn errors_of_the_only_device_have_its_name() {
        let text = btrfs(&[("devices/sda/size", "8"), ("devinfo/1/error_stats", ERRORS)]);
        for (kind, count) in [("write", 1), ("read", 2), ("flush", 3), ("corruption", 4), ("generation", 5)] {
            let line = format!(
                "device_errors_total{{btrfs_dev_uuid=\"\",device=\"sda\",type=\"{kind}\",uuid=\"u-0\"}} {count}\n"
            );
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn errors_of_several_devices_are_summed_since_their_names_are_not_known() {
        let text = btrfs(&[
            ("devices/sda/size", "8"),
            ("devices/sdb/size", "8"),
            ("devinfo/1/error_stats", ERRORS),
            ("devinfo/2/error_stats", ERRORS),
            ("devinfo/3/error_stats", "invalid\n"),
        ]);
        let line =
            "device_errors_total{btrfs_dev_uuid=\"\",device=\"\",type=\"generation\",uuid=\"u-0\"} 10\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(text.matches("device_errors_total").count(), 5);
    }

    #[test]
    fn only_a_malformed_number_is_skipped() {
        let text = btrfs(&[("commit_stats", "commits x\nlast_commit_ms 5\n\n"), ("devices/sda/size", "-1")]);
        assert_eq!(text, "info{label=\"\",uuid=\"u-0\"} 1\nlast_commit_seconds{uuid=\"u-0\"} 0.005\n");
    }

    #[test]
    fn a_host_without_btrfs_has_no_data() {
        assert_eq!(collect(&COLLECTOR, &[], &[]).unwrap(), "");
    }

    #[test]
    fn any_bytes_are_accepted() {
        let files = FS.iter().map(|(file, _)| *file).chain(["devinfo/1/error_stats"]);
        let paths: Vec<String> = files.map(|file| format!("sys/fs/btrfs/a/{file}")).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
