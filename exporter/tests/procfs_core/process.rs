//! Types of procfs-core's module `process`, but for `Stat`: files of one process, two of which list all mounts.

use std::path::Path;

use keyhole_exporter::snapshot::{FileSystem, StatFs};
use keyhole_proto::v1::Query;
use procfs_core::FromRead;
use procfs_core::process::{MountInfo, MountInfos, MountStats, Status};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::{OPTIONS, collect, collect_snapshot, collector, count, one, snapshot, words};

/// A mount point as the kernel escapes it. procfs-core leaves the escapes of `mountinfo` as they are.
fn unescaped(path: &Path) -> String {
    path.to_str().unwrap().replace("\\040", " ")
}

/// A file system of 7 free inodes, so that its mount has a device number as labels.
fn file_system(mount: &MountInfo) -> FileSystem {
    let numbers = StatFs {
        block_size: 4096,
        blocks: 1,
        blocks_free: 1,
        blocks_available: 1,
        files: 9,
        files_free: 7,
        read_only: false,
    };
    FileSystem { path: unescaped(&mount.mount_point).into_bytes(), numbers: Ok(numbers) }
}

/// One operation of an NFS mount: eight counters, and the ninth of newer kernels.
type Operations = std::collections::BTreeMap<String, Vec<u64>>;

/// `proc/<pid>/mountstats` with a local mount, and NFS mounts of different servers.
fn mountstats(mounts: &[(u64, Vec<u64>, Vec<u64>, Operations)]) -> String {
    let mut text = "device proc mounted on /proc with fstype proc\n".to_owned();
    for (at, (age, events, bytes, operations)) in mounts.iter().enumerate() {
        text += &format!(
            "device s{at}:/e mounted on /m{at} with fstype nfs4 statvers=1.1\n\
             \topts:\trw,vers=4.2,proto=tcp\n\tage:\t{age}\n\timpl_id:\tname='',domain='',date='0,0'\n\
             \tcaps:\tcaps=0x3ffbffff,wtmult=512,dtsize=1048576,bsize=0,namlen=255\n\
             \tnfsv4:\tbm0=0xfdffafff,acl=0x3\n\tsec:\tflavor=1,pseudoflavor=1\n\
             \tevents:\t{}\n\tbytes:\t{}\n\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)\n\
             \txprt:\ttcp 832 0 1 0 11 6428 6428 0 12154 0 24 26 5726\n\tper-op statistics\n",
            words(events),
            words(bytes),
        );
        let line = |(name, counters): (&String, &Vec<u64>)| format!("\t{name:>12}: {}\n", words(counters));
        text.extend(operations.iter().map(line));
        text += "\n";
    }
    text
}

/// `proc/<pid>/status` of a program, or of a thread of the kernel, which has no memory.
fn status(name: &str, rss: Option<u64>, voluntary: u64, nonvoluntary: u64) -> String {
    let memory = |kib| format!("VmPeak:\t{:8} kB\nVmRSS:\t{kib:8} kB\nRssAnon:\t{:8} kB\n", kib + 1, kib / 2);
    let memory = rss.map_or(String::new(), memory);
    format!(
        "Name:\t{name}\nUmask:\t0022\nState:\tR (running)\nTgid:\t7\nNgid:\t0\nPid:\t7\nPPid:\t1\n\
         TracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t256\nGroups:\t0 \n{memory}Threads:\t1\n\
         SigQ:\t0/127\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n\
         SigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\nCapInh:\t0000000000000000\n\
         CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\n\
         Mems_allowed:\t1\nvoluntary_ctxt_switches:\t{voluntary}\n\
         nonvoluntary_ctxt_switches:\t{nonvoluntary}\n"
    )
}

proptest! {
    #[test]
    fn mounts(
        mounts in btree_map(
            r"/[a-z]{1,6}(\\040[a-z]{1,6})?",
            (
                [0..4096u32, 0..1u32 << 20],
                "(|/dev/[a-z]{3}|[a-z]{1,5}:/[a-z]{1,5})",
                "r[ow](,noatime)?(,errors=ro)?",
                "r[ow](,seclabel)?(,mode=755)?",
                "( shared:[1-9]| master:[1-9]| unbindable| a_field_to_come:7)?",
            ),
            1..8,
        ),
    ) {
        let mut text = "1 0 8:1 / / rw - ext4 /dev/root rw\n".to_owned();
        for (id, (point, ([major, minor], source, options, super_options, optional))) in (2..).zip(&mounts) {
            text += &format!(
                "{id} 1 {major}:{minor} /r {point} {options}{optional} - xfs {source} {super_options}\n"
            );
        }
        let MountInfos(theirs) = MountInfos::from_read(text.as_bytes()).unwrap();
        let mut snapshot = snapshot(&[("proc/1/mountinfo", &text)]);
        theirs.iter().map(file_system).for_each(|numbers| {
            snapshot.add_file_system(Query::RootFileSystems, numbers);
        });
        let ours = collect_snapshot(&*collector(&OPTIONS, "filesystem"), &snapshot);
        prop_assert_eq!(ours.len(), 9 * theirs.len());
        for mount in theirs {
            let device = mount.mount_source.unwrap_or_default();
            let point = unescaped(&mount.mount_point);
            let read_only = mount.mount_options.contains_key("ro") || mount.super_options.contains_key("ro");
            let key = |name: &str| format!(
                "node_filesystem_{name}{{device=\"{device}\",device_error=\"\",fstype=\"{}\",\
                 mountpoint=\"{point}\"}}",
                mount.fs_type
            );
            prop_assert_eq!(one(&ours, &key("readonly")), f64::from(u8::from(read_only)), "{}", point);
            prop_assert_eq!(one(&ours, &key("files_free")), 7.0);
            let (major, minor) = mount.majmin.split_once(':').unwrap();
            let key = format!(
                "node_filesystem_mount_info{{device=\"{device}\",major=\"{major}\",minor=\"{minor}\",\
                 mountpoint=\"{point}\"}}"
            );
            prop_assert_eq!(one(&ours, &key), 1.0);
        }
    }

    #[test]
    fn nfs_mounts(
        mounts in vec(
            (
                0..1u64 << 40,
                vec(count(), 27),
                vec(count(), 8),
                btree_map("[A-Z]{4,9}", vec(0..1u64 << 53, 8..=9), 0..4),
            ),
            0..4,
        ),
    ) {
        let text = mountstats(&mounts);
        let MountStats(theirs) = MountStats::from_read(text.as_bytes()).unwrap();
        prop_assert_eq!(theirs.len(), 1 + mounts.len());
        let ours = collect("mountstats", &[("proc/1/mountstats", &text)]);
        let mut found = 0;
        for mount in theirs {
            let Some(nfs) = mount.statistics else { continue };
            let export = mount.device.unwrap();
            let labels = format!("export=\"{export}\",mountaddr=\"\",");
            let point = mount.mount_point.display();
            let key = format!("mountpoint_info{{{labels}mountpoint=\"{point}\",protocol=\"tcp\"}}");
            prop_assert_eq!(one(&ours, &format!("node_mountstats_nfs_{key}")), 1.0);
            let (events, bytes) = (&nfs.events, &nfs.bytes);
            for (name, value) in [
                ("age_seconds", nfs.age.as_secs()),
                ("read_bytes", bytes.normal_read),
                ("write_bytes", bytes.normal_write),
                ("direct_read_bytes", bytes.direct_read),
                ("direct_write_bytes", bytes.direct_write),
                ("total_read_bytes", bytes.server_read),
                ("total_write_bytes", bytes.server_write),
                ("read_pages", bytes.pages_read),
                ("write_pages", bytes.pages_write),
                ("event_inode_revalidate", events.inode_revalidate),
                ("event_dnode_revalidate", events.dentry_revalidate),
                ("event_data_invalidate", events.data_invalidate),
                ("event_attribute_invalidate", events.attr_invalidate),
                ("event_vfs_open", events.vfs_open),
                ("event_vfs_lookup", events.vfs_lookup),
                ("event_vfs_access", events.vfs_access),
                ("event_vfs_update_page", events.vfs_update_page),
                ("event_vfs_read_page", events.vfs_read_page),
                ("event_vfs_read_pages", events.vfs_read_pages),
                ("event_vfs_write_page", events.vfs_write_page),
                ("event_vfs_write_pages", events.vfs_write_pages),
                ("event_vfs_getdents", events.vfs_get_dents),
                ("event_vfs_setattr", events.vfs_set_attr),
                ("event_vfs_flush", events.vfs_flush),
                ("event_vfs_fsync", events.vfs_fs_sync),
                ("event_vfs_lock", events.vfs_lock),
                ("event_vfs_file_release", events.vfs_release),
                ("event_truncation", events.set_attr_trunc),
                ("event_write_extension", events.extend_write),
                ("event_silly_rename", events.silly_rename),
                ("event_short_read", events.short_read),
                ("event_short_write", events.short_write),
                ("event_jukebox_delay", events.delay),
                ("event_pnfs_read", events.pnfs_read),
                ("event_pnfs_write", events.pnfs_write),
            ] {
                let key = format!("node_mountstats_nfs_{name}_total{{{labels}protocol=\"tcp\"}}");
                prop_assert_eq!(one(&ours, &key), value as f64, "{}", key);
                found += 1;
            }
            for (operation, counters) in &nfs.per_op_stats {
                let seconds = |time: &std::time::Duration| time.as_millis() as f64 / 1e3;
                for (name, value) in [
                    ("requests", counters.operations as f64),
                    ("transmissions", counters.transmissions as f64),
                    ("major_timeouts", counters.major_timeouts as f64),
                    ("sent_bytes", counters.bytes_sent as f64),
                    ("received_bytes", counters.bytes_recv as f64),
                    ("queue_time_seconds", seconds(&counters.cum_queue_time)),
                    ("response_time_seconds", seconds(&counters.cum_resp_time)),
                    ("request_time_seconds", seconds(&counters.cum_total_req_time)),
                ] {
                    let key = format!(
                        "node_mountstats_nfs_operations_{name}_total{{{labels}operation=\"{operation}\",\
                         protocol=\"tcp\"}}"
                    );
                    prop_assert_eq!(one(&ours, &key), value, "{}", key);
                    found += 1;
                }
            }
        }
        // Those of transports are not in procfs-core.
        let others = ours.keys().filter(|key| !key.contains("_transport_") && !key.contains("_info{"));
        prop_assert_eq!(others.count(), found);
    }

    #[test]
    fn memory_and_context_switches_of_a_process(
        name in "[a-z:() ]{1,15}",
        rss in proptest::option::of(0..1u64 << 40),
        switches in [0..1u64 << 50, 0..1u64 << 50],
        more in [0..1u64 << 50, 0..1u64 << 50],
    ) {
        let texts = [switches, [switches[0] + more[0], switches[1] + more[1]]]
            .map(|[voluntary, nonvoluntary]| status(&name, rss, voluntary, nonvoluntary));
        let [earlier, later] = texts.each_ref().map(|text| Status::from_read(text.as_bytes()).unwrap());
        let collector = collector(&OPTIONS, "processgroups");
        let stat = "7 (x) R 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 9 0 0\n";
        // The collector counts what a process has done since the first scrape.
        let [_, ours] = texts.each_ref().map(|text| {
            collect_snapshot(&*collector, &snapshot(&[("proc/7/stat", stat), ("proc/7/status", text)]))
        });
        let key = "namedprocess_namegroup_memory_bytes{groupname=\"x\",memtype=\"resident\"}";
        prop_assert_eq!(one(&ours, key), later.vmrss.unwrap_or(0) as f64 * 1024.0);
        for (kind, earlier, later) in [
            ("voluntary", earlier.voluntary_ctxt_switches, later.voluntary_ctxt_switches),
            ("nonvoluntary", earlier.nonvoluntary_ctxt_switches, later.nonvoluntary_ctxt_switches),
        ] {
            let key = format!(
                "namedprocess_namegroup_context_switches_total{{ctxswitchtype=\"{kind}\",groupname=\"x\"}}"
            );
            prop_assert_eq!(one(&ours, &key), (later.unwrap() - earlier.unwrap()) as f64, "{}", key);
        }
    }
}
