//! Block device counters: `proc/diskstats`, and what udev and sysfs know of each device.
//!
//! <https://docs.kernel.org/admin-guide/iostats.html>

use std::collections::BTreeMap;

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context, SetupError};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{Filter, Options, TypedFlag};
use crate::snapshot::Snapshot;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "diskstats",
    default: true,
    help: "Block device counters.",
    queries: &[Query::Diskstats],
    optional: &[Query::Block, Query::Udev],
    flags: &[EXCLUDE.row, INCLUDE.row, EXCLUDE.alias("collector.diskstats.ignored-devices")],
    families,
    new: |options| Ok(Box::new(Diskstats::new(options)?)),
};

const INCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.diskstats.device-include",
    "",
    "Block devices to include. Mutually exclusive with device-exclude.",
);
const EXCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.diskstats.device-exclude",
    r"^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$",
    "Block devices to exclude. Mutually exclusive with device-include.",
);

const PATH: &str = "proc/diskstats";
const UDEV: &str = "udev/b#:#";

/// The columns before the counters: major, minor and name.
const NAME_COLUMNS: usize = 3;

/// The counters that every kernel since 2.6.25 has; a line with fewer is malformed.
const LEAST_COUNTERS: usize = 11;

/// One counter column.
struct Column {
    family: Family,
    unit: Unit,
}

/// What a column counts, and so what it is multiplied with.
#[derive(Clone, Copy)]
enum Unit {
    /// As it is.
    Count,
    /// Sectors of 512 bytes, independent of the device's sectors; emitted in bytes.
    Sectors,
    /// Emitted in seconds.
    Milliseconds,
}

const fn column(name: &'static str, kind: MetricType, unit: Unit, help: &'static str) -> Column {
    Column { family: Family { name, help, kind, labels: &["device"], source: Source::File(PATH) }, unit }
}

/// The counters, in the order of their columns. The last six came with Linux 4.18 and 5.5.
#[rustfmt::skip]
const COLUMNS: [Column; 17] = {
    use MetricType::{Counter, Gauge};
    use Unit::{Count, Milliseconds, Sectors};
    [
        column("node_disk_reads_completed_total", Counter, Count, "Reads that the device completed."),
        column("node_disk_reads_merged_total", Counter, Count, "Reads that were merged with an adjacent one before they were queued."),
        column("node_disk_read_bytes_total", Counter, Sectors, "Bytes read from the device."),
        column("node_disk_read_time_seconds_total", Counter, Milliseconds, "Time that all reads took, added up."),
        column("node_disk_writes_completed_total", Counter, Count, "Writes that the device completed."),
        column("node_disk_writes_merged_total", Counter, Count, "Writes that were merged with an adjacent one before they were queued."),
        column("node_disk_written_bytes_total", Counter, Sectors, "Bytes written to the device."),
        column("node_disk_write_time_seconds_total", Counter, Milliseconds, "Time that all writes took, added up."),
        column("node_disk_io_now", Gauge, Count, "Requests that the device has not completed yet."),
        column("node_disk_io_time_seconds_total", Counter, Milliseconds, "Time in which the device had at least one request."),
        column("node_disk_io_time_weighted_seconds_total", Counter, Milliseconds, "Time in which the device had requests, times their number."),
        column("node_disk_discards_completed_total", Counter, Count, "Discards that the device completed."),
        column("node_disk_discards_merged_total", Counter, Count, "Discards that were merged with an adjacent one before they were queued."),
        column("node_disk_discarded_sectors_total", Counter, Count, "Sectors of 512 bytes that were discarded."),
        column("node_disk_discard_time_seconds_total", Counter, Milliseconds, "Time that all discards took, added up."),
        column("node_disk_flush_requests_total", Counter, Count, "Flushes that the device completed."),
        column("node_disk_flush_requests_time_seconds_total", Counter, Milliseconds, "Time that all flushes took, added up."),
    ]
};

/// Numbers that udev's ata_id found, each with its property.
#[rustfmt::skip]
const ATA: [(&[u8], Family); 3] = [
    (b"ID_ATA_ROTATION_RATE_RPM", ata("node_disk_ata_rotation_rate_rpm", "Rotations a minute of an ATA disk, 0 when it does not rotate.")),
    (b"ID_ATA_WRITE_CACHE", ata("node_disk_ata_write_cache", "Whether an ATA disk has a write cache.")),
    (b"ID_ATA_WRITE_CACHE_ENABLED", ata("node_disk_ata_write_cache_enabled", "Whether an ATA disk uses its write cache.")),
];

const fn ata(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: MetricType::Gauge, labels: &["device"], source: Source::File(UDEV) }
}

const INFO: Family = Family {
    name: "node_disk_info",
    help: "The block device, always 1.",
    kind: MetricType::Gauge,
    labels: &["device", "major", "minor", "path", "wwn", "model", "serial", "revision", "rotational"],
    source: Source::Files(&["proc/diskstats", "udev/b#:#", "sys/block/*/queue/rotational"]),
};

const FILESYSTEM_INFO: Family = Family {
    name: "node_disk_filesystem_info",
    help: "The file system that udev found on the device, always 1.",
    kind: MetricType::Gauge,
    labels: &["device", "type", "usage", "uuid", "version"],
    source: Source::File(UDEV),
};

const DEVICE_MAPPER_INFO: Family = Family {
    name: "node_disk_device_mapper_info",
    help: "The device mapper's names for the device, always 1.",
    kind: MetricType::Gauge,
    labels: &["device", "name", "uuid", "vg_name", "lv_name", "lv_layer"],
    source: Source::File(UDEV),
};

fn families() -> Vec<Family> {
    let properties = ATA.iter().map(|(_, family)| *family);
    let columns = COLUMNS.iter().map(|column| column.family);
    [INFO, FILESYSTEM_INFO, DEVICE_MAPPER_INFO].into_iter().chain(properties).chain(columns).collect()
}

/// The values of the flags.
#[derive(Debug)]
struct Diskstats {
    devices: Filter,
}

impl Diskstats {
    fn new(options: &Options) -> Result<Self, SetupError> {
        Ok(Self { devices: Filter::exclusive(options, INCLUDE, EXCLUDE)? })
    }
}

impl Collect for Diskstats {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let content = context.require(PATH)?;
        let mut devices = 0;
        for line in text::lines(content) {
            let Some(disk) = Disk::parse(line) else {
                out.skip(|| format!("{PATH}: {}", line.escape_ascii()));
                continue;
            };
            devices += 1;
            if self.devices.passes(disk.name) {
                out.item();
                disk.add_to(context.snapshot, out);
            }
        }
        match (devices, content) {
            // A kernel without block devices has the file, and nothing in it.
            (0, [_, ..]) => Err(CollectError::malformed(PATH, "no line with a device and its counters")),
            _ => Ok(()),
        }
    }
}

/// A line of the file.
struct Disk<'a> {
    major: &'a [u8],
    minor: &'a [u8],
    name: &'a [u8],
    /// By column; none for one that has run below zero, as requests under way do on some kernels.
    counters: Vec<Option<u64>>,
}

impl<'a> Disk<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = text::fields(line);
        let [major, minor, name]: [&[u8]; NAME_COLUMNS] = [fields.next()?, fields.next()?, fields.next()?];
        text::unsigned(major)?;
        text::unsigned(minor)?;
        // A newer kernel's columns follow those that are known, and need not be numbers.
        let number = |field| text::signed(field).map(|number| u64::try_from(number).ok());
        let counter = |field| text::unsigned(field).map(Some).or_else(|| number(field));
        let counters: Vec<Option<u64>> = fields.take(COLUMNS.len()).map_while(counter).collect();
        (counters.len() >= LEAST_COUNTERS).then_some(Self { major, minor, name, counters })
    }

    fn add_to(&self, snapshot: &Snapshot, out: &mut Exposition) {
        let name = self.name;
        for (Column { family, unit }, counter) in COLUMNS.iter().zip(&self.counters) {
            let Some(counter) = *counter else {
                out.skip(|| format!("{PATH}: {} of {} is below zero", family.name, name.escape_ascii()));
                continue;
            };
            match unit {
                Unit::Count => out.add(family, &[name], counter),
                Unit::Sectors => out.add(family, &[name], counter as f64 * 512.0),
                Unit::Milliseconds => out.add(family, &[name], counter as f64 * 0.001),
            }
        }

        let path = [&b"udev/b"[..], self.major, b":", self.minor].concat();
        let udev = Udev::parse(snapshot.text(path).unwrap_or_default());
        let serial = [&b"SCSI_IDENT_SERIAL"[..], b"ID_SERIAL_SHORT", b"ID_SERIAL"]
            .into_iter()
            .map(|property| udev.text(property))
            .find(|serial| !serial.is_empty());
        let info = [
            name,
            self.major,
            self.minor,
            udev.text(b"ID_PATH"),
            udev.text(b"ID_WWN"),
            udev.text(b"ID_MODEL"),
            serial.unwrap_or_default(),
            udev.text(b"ID_REVISION"),
            self.rotational(snapshot),
        ];
        out.add(&INFO, &info, 1u64);

        if !udev.text(b"ID_FS_TYPE").is_empty() {
            let properties: [&[u8]; 4] = [b"ID_FS_TYPE", b"ID_FS_USAGE", b"ID_FS_UUID", b"ID_FS_VERSION"];
            udev.add_info(&FILESYSTEM_INFO, name, &properties, out);
        }
        if !udev.text(b"DM_NAME").is_empty() {
            let properties: [&[u8]; 5] =
                [b"DM_NAME", b"DM_UUID", b"DM_VG_NAME", b"DM_LV_NAME", b"DM_LV_LAYER"];
            udev.add_info(&DEVICE_MAPPER_INFO, name, &properties, out);
        }
        if udev.text(b"ID_ATA").is_empty() {
            return;
        }
        for (property, family) in &ATA {
            if let Some(value) = text::float(udev.text(property)) {
                out.add(family, &[name], value);
            }
        }
    }

    /// `1` when the device rotates. Partitions have no queue of their own: they are emitted as `0`, as in node_exporter.
    fn rotational<'s>(&self, snapshot: &'s Snapshot) -> &'s [u8] {
        // sysfs has `!` where a device's name has a slash: cciss/c0d0.
        let directory: Vec<u8> = self.name.iter().map(|&b| if b == b'/' { b'!' } else { b }).collect();
        let path = [&b"sys/block/"[..], &directory, b"/queue/rotational"].concat();
        snapshot.value(path).filter(|value| text::unsigned(value).is_some()).unwrap_or(b"0")
    }
}

/// The properties of a device in udev's database: its `E:NAME=value` lines.
struct Udev<'a>(BTreeMap<&'a [u8], &'a [u8]>);

impl<'a> Udev<'a> {
    fn parse(content: &'a [u8]) -> Self {
        let properties =
            text::lines(content).filter_map(|line| text::split_first(line.strip_prefix(b"E:")?, b'='));
        Self(properties.collect())
    }

    /// A property's value, empty when the device has none.
    fn text(&self, property: &[u8]) -> &'a [u8] {
        self.0.get(property).copied().unwrap_or_default()
    }

    /// Adds an info sample whose labels are the device's name and `properties`.
    fn add_info(&self, family: &Family, device: &[u8], properties: &[&[u8]], out: &mut Exposition) {
        let labels: Vec<&[u8]> =
            std::iter::once(device).chain(properties.iter().map(|property| self.text(property))).collect();
        out.add(family, &labels, 1u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    const OLD: &[u8] = b"   8       0 sda 25354637 34367663 1003346126 18492372 28444756 11134226 505697032 63877960 0 9653880 82621804\n";
    const ROTATIONAL: (&str, &[u8]) = ("sys/block/sda/queue/rotational", b"1\n");

    fn lines_of(text: &str, part: &str) -> Vec<String> {
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    #[test]
    fn a_line_of_fourteen_columns_reports_reads_writes_and_times_in_base_units() {
        let text = collect(&COLLECTOR, &[(PATH, OLD), ROTATIONAL], &[]).unwrap();
        assert_eq!(
            text,
            "node_disk_info{device=\"sda\",major=\"8\",minor=\"0\",model=\"\",path=\"\",revision=\"\",rotational=\"1\",serial=\"\",wwn=\"\"} 1\n\
             node_disk_io_now{device=\"sda\"} 0\n\
             node_disk_io_time_seconds_total{device=\"sda\"} 9653.880000000001\n\
             node_disk_io_time_weighted_seconds_total{device=\"sda\"} 82621.804\n\
             node_disk_read_bytes_total{device=\"sda\"} 513713216512\n\
             node_disk_read_time_seconds_total{device=\"sda\"} 18492.372\n\
             node_disk_reads_completed_total{device=\"sda\"} 25354637\n\
             node_disk_reads_merged_total{device=\"sda\"} 34367663\n\
             node_disk_write_time_seconds_total{device=\"sda\"} 63877.96\n\
             node_disk_writes_completed_total{device=\"sda\"} 28444756\n\
             node_disk_writes_merged_total{device=\"sda\"} 11134226\n\
             node_disk_written_bytes_total{device=\"sda\"} 258916880384\n"
        );
    }

    #[test]
    fn only_a_negative_number_is_skipped() {
        let line = b" 8 16 sdb 326552 841 9657779 84 41822 2895 1972905 5007 -1 60730 67070\n";
        let text = collect(&COLLECTOR, &[(PATH, line)], &[]).unwrap();
        assert_eq!(skipped(&COLLECTOR, &[(PATH, line)], &[]), 1);
        assert!(!text.contains("node_disk_io_now") && text.lines().count() == 11, "{text}");
        assert!(text.contains("node_disk_io_time_seconds_total{device=\"sdb\"} 60.73"), "{text}");
    }

    #[test]
    fn newer_kernels_add_discards_then_flushes_then_unknown_columns() {
        let line = |tail: &str| {
            let line =
                format!(" 8 16 sdb 326552 841 9657779 84 41822 2895 1972905 5007 0 60730 67070{tail}\n");
            let text = collect(&COLLECTOR, &[(PATH, line.as_bytes())], &[]).unwrap();
            (lines_of(&text, "discard"), lines_of(&text, "flush"), text.lines().count())
        };
        let (discards, flushes, lines) = line(" 68851 0 1925173784 11130");
        assert_eq!(
            discards,
            [
                "node_disk_discard_time_seconds_total{device=\"sdb\"} 11.13",
                "node_disk_discarded_sectors_total{device=\"sdb\"} 1925173784",
                "node_disk_discards_completed_total{device=\"sdb\"} 68851",
                "node_disk_discards_merged_total{device=\"sdb\"} 0",
            ]
        );
        assert_eq!((flushes.len(), lines), (0, 16));
        let (_, flushes, lines) = line(" 0 0 0 0 1555 1944");
        assert_eq!(
            flushes,
            [
                "node_disk_flush_requests_time_seconds_total{device=\"sdb\"} 1.944",
                "node_disk_flush_requests_total{device=\"sdb\"} 1555",
            ]
        );
        assert_eq!(lines, 18);
        assert_eq!(line(" 0 0 0 0 1 2 3 word").2, 18);
    }

    #[test]
    fn partitions_and_ram_are_left_out_by_default_and_an_include_replaces_the_default() {
        let names = ["sda", "sda1", "loop0", "zram0", "fd0", "nvme0n1", "nvme0n1p1", "dm-0", "md0"];
        let file: String = names.iter().map(|name| format!("8 0 {name} 1 2 3 4 5 6 7 8 9 10 11\n")).collect();
        let given = |flags: &[&str]| {
            let text = collect(&COLLECTOR, &[(PATH, file.as_bytes())], flags).unwrap();
            lines_of(&text, "node_disk_io_now")
                .iter()
                .map(|line| line.split('"').nth(1).unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(given(&[]), ["dm-0", "md0", "nvme0n1", "sda"]);
        assert_eq!(given(&["--collector.diskstats.device-include=^(loop0|sda1)$"]), ["loop0", "sda1"]);
        assert_eq!(given(&["--collector.diskstats.ignored-devices=[^d]"]).len(), 0);
    }

    #[test]
    fn udev_names_the_disk_its_file_system_and_its_ata_features() {
        let udev = b"S:disk/by-id/x\nE:ID_ATA=1\nE:ID_MODEL=TOSHIBA_KSDB4U86\nE:ID_REVISION=0102\nE:ID_SERIAL=long\n\
            E:ID_SERIAL_SHORT=2160A0D5FVGG\nE:ID_ATA_WRITE_CACHE=1\nE:ID_ATA_WRITE_CACHE_ENABLED=x\n\
            E:ID_ATA_ROTATION_RATE_RPM=7200\nE:ID_WWN=0x7c72382b8de36a64\nE:ID_PATH=pci-0000:3b:00.0-sas\n\
            E:ID_FS_TYPE=LVM2_member\nE:ID_FS_USAGE=raid\nE:ID_FS_UUID=a=b\nE:ID_FS_VERSION=LVM2 001\n\
            E:DM_NAME=vg-\"lv\nG:systemd\n";
        let text = collect(&COLLECTOR, &[(PATH, OLD), ("udev/b8:0", udev)], &[]).unwrap();
        for sample in [
            "node_disk_ata_rotation_rate_rpm{device=\"sda\"} 7200\nnode_disk_ata_write_cache{device=\"sda\"} 1\n\
             node_disk_device_mapper_info{device=\"sda\",lv_layer=\"\",lv_name=\"\",name=\"vg-\\\"lv\",uuid=\"\",vg_name=\"\"} 1\n\
             node_disk_filesystem_info{device=\"sda\",type=\"LVM2_member\",usage=\"raid\",uuid=\"a=b\",version=\"LVM2 001\"} 1\n",
            "model=\"TOSHIBA_KSDB4U86\",path=\"pci-0000:3b:00.0-sas\",revision=\"0102\",rotational=\"0\",\
             serial=\"2160A0D5FVGG\",wwn=\"0x7c72382b8de36a64\"} 1\n",
        ] {
            assert!(text.contains(sample), "{text}");
        }
    }

    #[test]
    fn a_virtio_disk_has_its_only_serial() {
        let text = collect(&COLLECTOR, &[(PATH, OLD), ("udev/b8:0", b"E:ID_SERIAL=vol-1\n")], &[]).unwrap();
        assert!(text.contains("serial=\"vol-1\""), "{text}");
    }

    #[test]
    fn a_name_with_a_slash_is_found_in_sysfs() {
        let files: [(&str, &[u8]); 2] = [
            (PATH, b"104 0 cciss/c0d0 1 2 3 4 5 6 7 8 9 10 11\n"),
            ("sys/block/cciss!c0d0/queue/rotational", b"1\n"),
        ];
        let text = collect(&COLLECTOR, &files, &[]).unwrap();
        assert!(
            text.contains("device=\"cciss/c0d0\",major=\"104\"") && text.contains("rotational=\"1\""),
            "{text}"
        );
    }

    #[test]
    fn a_line_that_is_not_a_device_is_skipped_and_the_rest_reported() {
        // An array can be named so that its name holds a space, which shifts the columns.
        let hostile = b"9 0 md_a b 1 2 3 4 5 6 7 8 9 10 11\n8 1 sda1 250 2000 0 0\n8 0 sd\xff\" 1 2 3 4 5 6 7 8 9 10 11\n";
        let text = collect(&COLLECTOR, &[(PATH, hostile)], &[]).unwrap();
        assert_eq!(lines_of(&text, "io_now"), ["node_disk_io_now{device=\"sd\u{fffd}\\\"\"} 9"]);
    }

    #[test]
    fn no_file_is_no_data_an_empty_one_no_device_and_a_strange_one_malformed() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
        assert_eq!(collect(&COLLECTOR, &[(PATH, b"")], &[]).unwrap(), "");
        assert!(matches!(collect(&COLLECTOR, &[(PATH, b"x\n")], &[]), Err(CollectError::Malformed { .. })));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH, "udev/b8:0", ROTATIONAL.0]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_of_udev_leave_the_counters(udev in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let files: [(&str, &[u8]); 3] = [(PATH, OLD), ("udev/b8:0", &udev), (ROTATIONAL.0, &udev)];
            let text = collect(&COLLECTOR, &files, &[]).unwrap();
            proptest::prop_assert_eq!(lines_of(&text, "node_disk_io_now").len(), 1);
        }
    }
}
