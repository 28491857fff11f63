//! Devices with several paths to their disks: `sys/block/dm-*` of which the uuid begins with `mpath-`.
//!
//! <https://docs.kernel.org/admin-guide/abi-stable.html> (`/sys/block/dm-<num>/dm/`)

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Dir;

pub const COLLECTOR: Collector = Collector {
    name: "dmmultipath",
    default: true,
    help: "Multipath devices and the state of their paths.",
    queries: &[Query::DeviceMapper],
    optional: &[],
    flags: &[],
    families: || vec![INFO, ACTIVE, SIZE, PATHS, PATHS_ACTIVE, PATHS_FAILED, PATH_STATE],
    new: |_| Ok(Box::new(collect)),
};

const INFO: Family = Family {
    name: "node_dmmultipath_device_info",
    help: "Name and uuid of the multipath device; always 1.",
    labels: &["device", "sysfs_name", "uuid"],
    source: Source::File("sys/block/dm-#/dm/{name,uuid}"),
    ..ACTIVE
};
const ACTIVE: Family = Family {
    name: "node_dmmultipath_device_active",
    help: "Whether the multipath device takes requests, rather than being suspended.",
    kind: MetricType::Gauge,
    labels: &["device", "sysfs_name"],
    source: Source::File("sys/block/dm-#/dm/suspended"),
};
const SIZE: Family = Family {
    name: "node_dmmultipath_device_size_bytes",
    help: "Bytes of the multipath device.",
    source: Source::File("sys/block/dm-#/size"),
    ..ACTIVE
};
const PATHS: Family = Family {
    name: "node_dmmultipath_device_paths",
    help: "Paths of the multipath device.",
    source: Source::File("sys/block/dm-#/slaves/*"),
    ..ACTIVE
};
const PATHS_ACTIVE: Family = Family {
    name: "node_dmmultipath_device_paths_active",
    help: "Paths of the multipath device whose disk is running or live.",
    ..PATHS
};
const PATHS_FAILED: Family = Family {
    name: "node_dmmultipath_device_paths_failed",
    help: "Paths of the multipath device whose disk is neither running nor live.",
    ..PATHS
};
const PATH_STATE: Family = Family {
    name: "node_dmmultipath_path_state",
    help: "State of the path's disk as its driver reports it; always 1.",
    labels: &["device", "path", "state"],
    source: Source::File("sys/block/*/device/state"),
    ..ACTIVE
};

/// The unit of a block device's size.
const SECTOR_BYTES: u64 = 512;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let blocks = context.snapshot.dir("sys/block");
    if blocks.is_empty() {
        return context.no_devices(Query::DeviceMapper, "block devices");
    }
    for device in blocks.dirs() {
        out.item();
        if let Some(uuid) = device.value("dm/uuid").filter(|uuid| uuid.starts_with(b"mpath-")) {
            collect_device(&blocks, &device, uuid, out);
        }
    }
    Ok(())
}

fn collect_device(blocks: &Dir<'_>, device: &Dir<'_>, uuid: &[u8], out: &mut Exposition) {
    let Some([name]) = device.labels(["dm/name"]) else { return out.skip_half_read(device.path()) };
    let sysfs_name = device.name();
    let labels: [&[u8]; 2] = [name, sysfs_name];
    out.add(&INFO, &[name, sysfs_name, uuid], 1u64);
    if let Some(suspended) = device.unsigned("dm/suspended") {
        out.add(&ACTIVE, &labels, suspended != 1);
    }
    if let Some(bytes) = device.unsigned("size").and_then(|sectors| sectors.checked_mul(SECTOR_BYTES)) {
        out.add(&SIZE, &labels, bytes);
    }

    let (mut active, mut failed) = (0u64, 0u64);
    // Only the names count, not where the links lead.
    for (path, _) in device.dir("slaves").files() {
        let state = blocks.dir(path).value("device/state").unwrap_or(b"unknown");
        match state {
            // SCSI's word and NVMe's.
            b"running" | b"live" => active += 1,
            _ => failed += 1,
        }
        out.add(&PATH_STATE, &[name, path, state], 1u64);
    }
    out.add(&PATHS, &labels, active + failed);
    out.add(&PATHS_ACTIVE, &labels, active);
    out.add(&PATHS_FAILED, &labels, failed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect_snapshot, local};
    use crate::snapshot::{Content, Snapshot};

    const DEVICE: &[(&str, &str)] = &[
        ("dm-5/dm/name", "mpathA\n"),
        ("dm-5/dm/suspended", "0\n"),
        ("dm-5/dm/uuid", "mpath-3600508b1001c\n"),
        ("dm-5/size", "104857600\n"),
        ("dm-7/dm/uuid", "LVM-abcdef\n"),
        ("nvme1n1/device/state", "live\n"),
        ("sdi/device/state", "running\n"),
        ("sdl/device/state", "transport-offline\n"),
    ];

    fn multipath(files: &[(&str, &str)], slaves: &[&str]) -> Result<String, CollectError> {
        let path = |file: &str| format!("sys/block/{file}").into_bytes();
        let files = files.iter().map(|(file, text)| (path(file), Content::bytes(text.as_bytes().to_vec())));
        let slaves = slaves.iter().map(|slave| (path(slave), Content::Link(b"../../../x".to_vec())));
        let snapshot = Snapshot::from_files(files.chain(slaves).collect());
        let text = collect_snapshot(&COLLECTOR, &snapshot, &[], &local())?;
        Ok(text.replace("node_dmmultipath_", ""))
    }

    #[test]
    fn a_device_and_its_paths_are_reported() {
        let slaves = ["dm-5/slaves/nvme1n1", "dm-5/slaves/sdi", "dm-5/slaves/sdl", "dm-7/slaves/sdx"];
        assert_eq!(
            multipath(DEVICE, &slaves).unwrap(),
            "device_active{device=\"mpathA\",sysfs_name=\"dm-5\"} 1\n\
             device_info{device=\"mpathA\",sysfs_name=\"dm-5\",uuid=\"mpath-3600508b1001c\"} 1\n\
             device_paths{device=\"mpathA\",sysfs_name=\"dm-5\"} 3\n\
             device_paths_active{device=\"mpathA\",sysfs_name=\"dm-5\"} 2\n\
             device_paths_failed{device=\"mpathA\",sysfs_name=\"dm-5\"} 1\n\
             device_size_bytes{device=\"mpathA\",sysfs_name=\"dm-5\"} 53687091200\n\
             path_state{device=\"mpathA\",path=\"nvme1n1\",state=\"live\"} 1\n\
             path_state{device=\"mpathA\",path=\"sdi\",state=\"running\"} 1\n\
             path_state{device=\"mpathA\",path=\"sdl\",state=\"transport-offline\"} 1\n"
        );
    }

    #[test]
    fn a_path_without_a_state_of_its_disk_is_unknown_and_failed() {
        let text = multipath(DEVICE, &["dm-5/slaves/sdz"]).unwrap();
        assert!(text.contains("path_state{device=\"mpathA\",path=\"sdz\",state=\"unknown\"} 1\n"), "{text}");
        assert!(text.contains("paths_failed{device=\"mpathA\",sysfs_name=\"dm-5\"} 1\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_absent_and_names_may_have_any_bytes() {
        let text =
            multipath(&[("dm-5/dm/uuid", "mpath-1"), ("dm-5/dm/name", "a\"\nb"), ("dm-5/size", "x")], &[])
                .unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("device_info{device=\"a\\\"\\nb\""), "{text}");
    }

    #[test]
    fn a_host_without_multipath_devices_has_none_and_one_without_block_devices_no_data() {
        assert_eq!(multipath(&[("sda/device/state", "running\n")], &[]).unwrap(), "");
        assert!(matches!(multipath(&[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let paths: Vec<String> = DEVICE.iter().map(|(file, _)| format!("sys/block/{file}")).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
