//! File systems: the host's mounts from `proc/1/mountinfo`, with the numbers of statfs(2).
//!
//! <https://man7.org/linux/man-pages/man2/statfs.2.html>
//!
//! The numbers come from two places. If the broker has `--path.rootfs`, its readers call statfs on every mount point of
//! the host. Otherwise they call it on empty directories that lie on the host's file systems (probe directories): the
//! readers' own mounts show on which, and their device numbers are the host's. statfs is about the file system as a whole,
//! so an empty directory's numbers are those of every mount of it. Where the host's mounts are not known either, the
//! empty directories' file systems are all there is, at the places where the broker has them.

mod errno;
mod mounts;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use keyhole_proto::v1::{Outcome, Query};

use self::mounts::{DeviceNumber, Mount, Tree};
use crate::collector::{Collect, CollectError, Collector, Context, SetupError};
use crate::exposition::{Exposition, Family, MetricType, Source, Value};
use crate::go_regex::GoRegex;
use crate::options::{DurationRange, Filter, Flag, FlagKind, Options, TypedFlag};
use crate::snapshot::{Content, Snapshot, StatFs};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "filesystem",
    default: true,
    help: "Sizes and free space of file systems.",
    queries: &[Query::Mounts],
    optional: &[Query::OwnMounts, Query::ProbeDirectories, Query::RootFileSystems],
    flags: &FLAGS,
    families,
    new: |options| Ok(Box::new(FilesystemCollector::new(options)?)),
};

const PATH: &str = "proc/1/mountinfo";
const OWN: &str = "self/mountinfo";

const MOUNT_POINTS_EXCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.filesystem.mount-points-exclude",
    "^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)",
    "Mount points to exclude. Mutually exclusive with mount-points-include.",
);
const MOUNT_POINTS_INCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.filesystem.mount-points-include",
    "",
    "Mount points to include. Mutually exclusive with mount-points-exclude.",
);
const FS_TYPES_EXCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.filesystem.fs-types-exclude",
    "^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|\
             nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|erofs|sysfs|tracefs)$",
    "File system types to exclude. Mutually exclusive with fs-types-include.",
);
const FS_TYPES_INCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.filesystem.fs-types-include",
    "",
    "File system types to include. Mutually exclusive with fs-types-exclude.",
);

const FLAGS: [Flag; 8] = [
    MOUNT_POINTS_EXCLUDE.row,
    MOUNT_POINTS_INCLUDE.row,
    FS_TYPES_EXCLUDE.row,
    FS_TYPES_INCLUDE.row,
    MOUNT_POINTS_EXCLUDE.alias("collector.filesystem.ignored-mount-points"),
    FS_TYPES_EXCLUDE.alias("collector.filesystem.ignored-fs-types"),
    Flag {
        name: "collector.filesystem.mount-timeout",
        kind: FlagKind::Duration { default: "5s", range: DurationRange::ANY },
        help: "No effect: the broker has its own timeout for a mount that does not respond.",
    },
    Flag {
        name: "collector.filesystem.stat-workers",
        kind: FlagKind::Number(4),
        help: "No effect: the broker queries one mount at a time.",
    },
];

const DEVICE_ERROR: Family = Family {
    name: "node_filesystem_device_error",
    help: "Whether the file system could not be read; the label device_error has the reason.",
    kind: MetricType::Gauge,
    labels: &["device", "mountpoint", "fstype", "device_error"],
    source: Source::Files(&["probe/*", "rootfs/*"]),
};
const READONLY: Family = Family {
    name: "node_filesystem_readonly",
    help: "Whether the file system cannot be written to at this mount point.",
    source: Source::File(PATH),
    ..DEVICE_ERROR
};
const MOUNT_INFO: Family = Family {
    name: "node_filesystem_mount_info",
    help: "The device number of the mounted file system, always 1.",
    labels: &["device", "major", "minor", "mountpoint"],
    source: Source::File(PATH),
    ..DEVICE_ERROR
};

/// A number of a file system, and how it comes about.
type Number = (Family, fn(&StatFs) -> Value);

#[rustfmt::skip]
const NUMBERS: [Number; 6] = [
    (number("node_filesystem_avail_bytes", "Space that is free to unprivileged users."), |n| bytes(n.blocks_available, n)),
    (number("node_filesystem_files", "Total number of inodes."), |n| n.files.into()),
    (number("node_filesystem_files_free", "Inodes that are free."), |n| n.files_free.into()),
    (number("node_filesystem_free_bytes", "Free space, including space that is reserved for the superuser."), |n| bytes(n.blocks_free, n)),
    (number("node_filesystem_purgeable_bytes", "Always 0: Linux has no purgeable space."), |_| 0u64.into()),
    (number("node_filesystem_size_bytes", "Total size of the file system."), |n| bytes(n.blocks, n)),
];

const fn number(name: &'static str, help: &'static str) -> Family {
    Family { name, help, ..DEVICE_ERROR }
}

fn bytes(blocks: u64, numbers: &StatFs) -> Value {
    Value::Float(blocks as f64 * numbers.block_size as f64)
}

fn families() -> Vec<Family> {
    let numbers = NUMBERS.iter().map(|(family, _)| *family);
    [DEVICE_ERROR, READONLY, MOUNT_INFO].into_iter().chain(numbers).collect()
}

/// The values of the flags.
#[derive(Debug)]
struct FilesystemCollector {
    mount_points: Filter,
    fs_types: Filter,
}

impl FilesystemCollector {
    fn new(options: &Options) -> Result<Self, SetupError> {
        Ok(Self {
            mount_points: Filter::exclusive(options, MOUNT_POINTS_INCLUDE, MOUNT_POINTS_EXCLUDE)?,
            fs_types: Filter::exclusive(options, FS_TYPES_INCLUDE, FS_TYPES_EXCLUDE)?,
        })
    }

    /// Adds the file systems that the broker's probe directories lie on, each once. Device, type and numbers are the host's;
    /// the mount point is the broker's, since where the host has it mounted cannot be known. False if there is none.
    fn add_probe_directories(&self, context: &Context<'_>, out: &mut Exposition) -> bool {
        let snapshot = context.snapshot;
        let Some(own) = mounts_of_the_broker(snapshot, out) else { return false };
        let file_systems = FileSystems::new(snapshot, Some(&own));
        let tree = Tree::new(&own);
        let mut found = HashSet::new();
        for probe_directory in snapshot.file_systems(Query::ProbeDirectories) {
            // A directory that is no mount of its own lies on the container's root.
            let mounted = tree
                .at(&probe_directory.path)
                .filter(|mount| mount.mount_point == probe_directory.path.as_slice());
            let Some(mount) = mounted.filter(|mount| !OF_A_CONTAINER.contains(&&*mount.fstype)) else {
                continue;
            };
            if found.insert(mount.number) && self.passes(mount) {
                // Whether the broker may write there is independent of the host.
                add_mount(mount, mount.all_read_only, &file_systems, out);
            }
        }
        !found.is_empty()
    }

    fn passes(&self, mount: &Mount<'_>) -> bool {
        // As text: in an expression a dot stands for a character, which bytes that are not UTF-8 never are.
        let mount_point = text::printable(&mount.mount_point);
        let fstype = text::printable(&mount.fstype);
        self.mount_points.passes(mount_point.as_bytes()) && self.fs_types.passes(fstype.as_bytes())
    }
}

impl Collect for FilesystemCollector {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let snapshot = context.snapshot;
        // The mounts of a container are not the host's, except for the probe directories. The host's
        // own mounts may be hidden from the broker's uid.
        let outcome = snapshot.report(Query::Mounts).map(|report| report.outcome);
        if matches!(outcome, Some(Outcome::ContainerView | Outcome::Denied)) {
            return if self.add_probe_directories(context, out) {
                Ok(())
            } else {
                context.require_answered(Query::Mounts)
            };
        }
        context.require(PATH)?;
        let mounts = mounts(snapshot, PATH, out);
        if mounts.is_empty() {
            return Err(CollectError::malformed(PATH, "no line with a mount"));
        }
        let own = mounts_of_the_broker(snapshot, out);
        let file_systems = FileSystems::new(snapshot, own.as_deref());
        for mount in Tree::new(&mounts).visible() {
            if self.passes(mount) {
                out.item();
                add_mount(mount, mount.read_only, &file_systems, out);
            }
        }
        Ok(())
    }
}

/// File systems that a container runtime makes for a container: their numbers are not the host's.
const OF_A_CONTAINER: [&[u8]; 3] = [b"overlay", b"ramfs", b"tmpfs"];

fn add_mount(mount: &Mount<'_>, read_only: bool, file_systems: &FileSystems<'_>, out: &mut Exposition) {
    let numbers = file_systems.numbers(mount);
    let device_error = numbers.as_ref().err().map_or("", |why| why);
    let labels = [&*mount.source, &mount.mount_point, &mount.fstype, device_error.as_bytes()];
    out.add(&DEVICE_ERROR, &labels, numbers.is_err());
    out.add(&READONLY, &labels, read_only);
    if let Ok(numbers) = &numbers {
        for (family, number) in &NUMBERS {
            out.add(family, &labels, number(numbers));
        }
        let (major, minor) = (mount.number.major.to_string(), mount.number.minor.to_string());
        let labels = [&*mount.source, major.as_bytes(), minor.as_bytes(), &mount.mount_point];
        out.add(&MOUNT_INFO, &labels, 1u64);
    }
}

/// The mounts of a mountinfo file; none where there is no such file.
fn mounts<'a>(snapshot: &'a Snapshot, path: &str, out: &mut Exposition) -> Vec<Mount<'a>> {
    let content = match snapshot.content(path) {
        // A line that was cut may end in the middle of a name.
        Some(Content::Bytes { bytes, truncated: true }) => {
            text::split_last(bytes, b'\n').map_or(&[][..], |(whole, _)| whole)
        }
        Some(Content::Bytes { bytes, .. }) => bytes,
        _ => &[],
    };
    let mut mounts = Vec::new();
    for line in text::lines(content) {
        match Mount::parse(line) {
            Some(mount) => mounts.push(mount),
            None => out.skip(|| format!("{path}: {}", line.escape_ascii())),
        }
    }
    mounts
}

/// The broker's own mounts, where they are known, all of them.
fn mounts_of_the_broker<'a>(snapshot: &'a Snapshot, out: &mut Exposition) -> Option<Vec<Mount<'a>>> {
    let whole = matches!(snapshot.content(OWN), Some(Content::Bytes { truncated: false, .. }));
    Some(mounts(snapshot, OWN, out)).filter(|mounts| whole && !mounts.is_empty())
}

/// The numbers that the broker found, or why it did not.
type Found<'a> = Result<&'a StatFs, u32>;

/// What the broker sent of file systems.
struct FileSystems<'a> {
    /// By mount point, below the host's root.
    mount_points: HashMap<&'a [u8], Found<'a>>,
    /// By device number, from empty directories.
    devices: HashMap<DeviceNumber, Found<'a>>,
    /// The file systems that the broker has mounted anywhere, where that is known.
    reachable: Option<HashSet<DeviceNumber>>,
    /// Why a file system that is in neither is not known.
    unknown: &'static str,
}

impl<'a> FileSystems<'a> {
    fn new(snapshot: &'a Snapshot, own: Option<&[Mount<'_>]>) -> Self {
        let mut mount_points = HashMap::new();
        for file_system in snapshot.file_systems(Query::RootFileSystems) {
            better(&mut mount_points, file_system.path.as_slice(), file_system.numbers.as_ref());
        }
        let mut devices = HashMap::new();
        if let Some(own) = own {
            let tree = Tree::new(own);
            for probe_directory in snapshot.file_systems(Query::ProbeDirectories) {
                if let Some(mount) = tree.at(&probe_directory.path) {
                    better(&mut devices, mount.number, probe_directory.numbers.as_ref());
                }
            }
        }
        let reachable = own.map(|own| own.iter().map(|mount| mount.number).collect());
        // What was asked is there, with a number or an error: of the rest it is only known that nobody came to it.
        let not_asked = |query| match snapshot.report(query)?.outcome {
            Outcome::TimedOut => Some("not asked: out of time"),
            Outcome::Stuck => Some("not asked: no reader is left"),
            Outcome::Failed => Some("not asked: the reader failed"),
            Outcome::Truncated => Some("not asked: too many mounts"),
            _ => None,
        };
        let unknown = not_asked(Query::RootFileSystems).or_else(|| not_asked(Query::ProbeDirectories));
        Self { mount_points, devices, reachable, unknown: unknown.unwrap_or("no probe directory") }
    }

    /// A mount's numbers, or why they are not known.
    fn numbers(&self, mount: &Mount<'_>) -> Result<&'a StatFs, Cow<'static, str>> {
        // A directory of the broker's where the host has mounted something since lies on another file system.
        let reached = self.reachable.as_ref().is_none_or(|reachable| reachable.contains(&mount.number));
        let at_mount_point = self.mount_points.get(&*mount.mount_point).copied();
        let by_device = self.devices.get(&mount.number).copied();
        match (at_mount_point, by_device) {
            (Some(Ok(numbers)), _) if reached => Ok(numbers),
            (_, Some(Ok(numbers))) => Ok(numbers),
            (Some(Err(errno)), _) | (None, Some(Err(errno))) => Err(errno::text(errno)),
            (Some(Ok(_)), _) => Err("not mounted in the broker".into()),
            (None, None) => Err(self.unknown.into()),
        }
    }
}

/// Keeps what was found first, unless that was an error and this is not.
fn better<'a, K: std::hash::Hash + Eq>(
    all: &mut HashMap<K, Found<'a>>,
    key: K,
    found: Result<&'a StatFs, &u32>,
) {
    let found = found.map_err(|errno| *errno);
    let kept = all.entry(key).or_insert(found);
    if kept.is_err() {
        *kept = found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::{FileSystem, Report};

    /// What PID 1 of a Talos node has mounted, shortened.
    const HOST: &str = "\
21 1 7:0 / / ro,relatime shared:1 - squashfs /dev/loop0 ro,errors=continue
22 21 0:6 / /dev rw,nosuid,relatime shared:2 - devtmpfs devtmpfs rw,mode=755
23 21 0:22 / /proc rw,relatime shared:6 - proc proc rw
25 21 0:24 / /run rw,nosuid,nodev shared:8 - tmpfs tmpfs rw,mode=755
40 21 259:4 / /system/state ro,noatime shared:20 - xfs /dev/nvme0n1p4 ro,noquota
41 21 259:6 / /var rw,noatime shared:21 - xfs /dev/nvme0n1p6 rw,noquota
42 41 259:6 /lib/kubelet /var/lib/kubelet rw,noatime shared:21 - xfs /dev/nvme0n1p6 rw,noquota
50 42 0:99 / /var/lib/kubelet/pods/5c6/volumes/x rw,relatime shared:30 - tmpfs tmpfs rw,size=64k
51 25 0:100 / /run/containerd/x/rootfs rw shared:31 - overlay overlay rw,lowerdir=/a:/b
";

    /// What the broker's container has mounted: an empty directory on the host's /var.
    const OWN_MOUNTS: &str = "\
900 800 0:100 / / ro,relatime master:31 - overlay overlay rw,lowerdir=/a:/b
901 900 0:120 / /proc rw - proc proc rw
902 900 259:6 /lib/kubelet/pods/5c6/volumes/kubernetes.io~empty-dir/var /probe/var rw,noatime master:21 - xfs /dev/nvme0n1p6 rw
";

    const NUMBERS: StatFs = StatFs {
        block_size: 4096,
        blocks: 1000,
        blocks_free: 500,
        blocks_available: 400,
        files: 64,
        files_free: 32,
        read_only: false,
    };

    /// What a broker sends.
    #[derive(Default)]
    struct Sent<'a> {
        host: &'a str,
        own: &'a str,
        probe_directories: &'a [(&'a str, Result<u64, u32>)],
        roots: &'a [(&'a str, Result<u64, u32>)],
        roots_outcome: Option<Outcome>,
    }

    impl Sent<'_> {
        /// File systems differ by their number of blocks.
        fn snapshot(&self) -> Snapshot {
            let files = [(PATH, self.host), (OWN, self.own)]
                .into_iter()
                .filter(|(_, text)| !text.is_empty())
                .map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.as_bytes().to_vec())))
                .collect();
            let mut snapshot = Snapshot::from_files(files);
            for (query, found) in
                [(Query::ProbeDirectories, self.probe_directories), (Query::RootFileSystems, self.roots)]
            {
                for (path, blocks) in found {
                    let numbers = blocks.map(|blocks| StatFs { blocks, ..NUMBERS });
                    snapshot.add_file_system(query, FileSystem { path: path.as_bytes().to_vec(), numbers });
                }
            }
            if let Some(outcome) = self.roots_outcome {
                let report = Report { outcome, elapsed_ns: 0, bytes: 0, left_out: 0 };
                snapshot.set_report(Query::RootFileSystems, report);
            }
            snapshot
        }

        fn text(&self, flags: &[&str]) -> String {
            collect_snapshot(&COLLECTOR, &self.snapshot(), flags, &local()).unwrap()
        }

        /// `mount point blocks`, or `mount point: why not`, for each mount.
        fn short(&self, flags: &[&str]) -> Vec<String> {
            let text = self.text(flags);
            let label = |line: &str, name: &str| {
                let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
                rest.split_once('"').unwrap().0.to_owned()
            };
            let mut short: Vec<String> = text
                .lines()
                .filter_map(|line| {
                    let mount_point = label(line, "mountpoint");
                    if let Some(size) = line.strip_prefix("node_filesystem_size_bytes") {
                        let size: u64 = size.rsplit(' ').next()?.parse().unwrap();
                        Some(format!("{mount_point} {}", size / 4096))
                    } else if line.starts_with("node_filesystem_device_error") && line.ends_with(" 1") {
                        Some(format!("{mount_point}: {}", label(line, "device_error")))
                    } else {
                        None
                    }
                })
                .collect();
            short.sort();
            short
        }
    }

    const ALL: &str = "--collector.filesystem.fs-types-exclude=";

    #[test]
    fn a_mount_has_the_numbers_of_statfs_in_bytes() {
        let host = "40 21 259:4 / /system/state ro,noatime - xfs /dev/nvme0n1p4 rw\n";
        let answer = Sent { host, roots: &[("/system/state", Ok(1000))], ..Sent::default() };
        let labels =
            "{device=\"/dev/nvme0n1p4\",device_error=\"\",fstype=\"xfs\",mountpoint=\"/system/state\"}";
        assert_eq!(
            answer.text(&[]),
            format!(
                "node_filesystem_avail_bytes{labels} 1638400\n\
                 node_filesystem_device_error{labels} 0\n\
                 node_filesystem_files{labels} 64\n\
                 node_filesystem_files_free{labels} 32\n\
                 node_filesystem_free_bytes{labels} 2048000\n\
                 node_filesystem_mount_info{{device=\"/dev/nvme0n1p4\",major=\"259\",minor=\"4\",mountpoint=\"/system/state\"}} 1\n\
                 node_filesystem_purgeable_bytes{labels} 0\n\
                 node_filesystem_readonly{labels} 1\n\
                 node_filesystem_size_bytes{labels} 4096000\n"
            )
        );
    }

    #[test]
    fn every_mount_of_a_file_system_that_the_filters_pass_reports_its_probe_directorys_numbers() {
        let answer = Sent {
            host: HOST,
            own: OWN_MOUNTS,
            probe_directories: &[("/probe/var", Ok(7))],
            ..Sent::default()
        };
        assert_eq!(
            answer.short(&[]),
            [
                "/run: no probe directory",
                "/system/state: no probe directory",
                "/var 7",
                "/var/lib/kubelet 7",
                "/var/lib/kubelet/pods/5c6/volumes/x: no probe directory",
            ]
        );
        let exclude = "--collector.filesystem.mount-points-exclude=^/(run|system|var/lib/kubelet/.+)($|/)";
        assert_eq!(answer.short(&[exclude]), ["/var 7", "/var/lib/kubelet 7"]);
        // A directory under a project quota has less, which is emitted, independent of the file system.
        let under_quota = Sent { probe_directories: &[("/probe/var", Ok(3))], ..answer };
        assert_eq!(under_quota.short(&[exclude]), ["/var 3", "/var/lib/kubelet 3"]);
    }

    #[test]
    fn a_probe_directory_that_is_no_mount_shows_the_containers_root() {
        let answer = Sent {
            host: HOST,
            own: OWN_MOUNTS,
            probe_directories: &[("/probe/other", Ok(7))],
            ..Sent::default()
        };
        let known: Vec<_> = answer.short(&[ALL]).into_iter().filter(|mount| !mount.contains(':')).collect();
        assert_eq!(known, ["/run/containerd/x/rootfs 7"]);
    }

    #[test]
    fn a_probe_directory_lies_on_the_last_of_two_mounts_on_one_path() {
        let own = format!("{OWN_MOUNTS}903 902 259:4 / /probe/var rw - xfs /dev/nvme0n1p4 rw\n");
        let answer =
            Sent { host: HOST, own: &own, probe_directories: &[("/probe/var", Ok(7))], ..Sent::default() };
        let known: Vec<_> = answer.short(&[]).into_iter().filter(|mount| !mount.contains(':')).collect();
        assert_eq!(known, ["/system/state 7"]);
    }

    #[test]
    fn without_any_numbers_every_mount_reports_an_error() {
        let answer = Sent { host: HOST, ..Sent::default() };
        let mounts = answer.short(&[]);
        assert_eq!(mounts.len(), 5);
        assert!(mounts.iter().all(|mount| mount.ends_with(": no probe directory")), "{mounts:?}");
        assert!(!answer.text(&[]).contains("_bytes") && !answer.text(&[]).contains("mount_info"));
        assert!(answer.text(&[]).contains(
            "node_filesystem_readonly{device=\"/dev/nvme0n1p4\",device_error=\"no probe directory\",fstype=\"xfs\",mountpoint=\"/system/state\"} 1\n"
        ));
    }

    #[test]
    fn a_mount_that_failed_reports_its_error_unless_a_probe_directory_has_the_numbers() {
        let answer = Sent {
            host: HOST,
            own: &format!("{OWN_MOUNTS}904 900 0:24 / /host/run rw - tmpfs tmpfs rw\n"),
            probe_directories: &[("/probe/var", Ok(7)), ("/elsewhere", Err(116))],
            roots: &[
                ("/run", Ok(8)),
                ("/system/state", Err(13)),
                ("/var", Ok(9)),
                ("/var/lib/kubelet", Err(13)),
                ("/var/lib/kubelet/pods/5c6/volumes/x", Err(9999)),
                ("/run/containerd/x/rootfs", Ok(10)),
            ],
            ..Sent::default()
        };
        assert_eq!(
            answer.short(&[]),
            [
                "/run 8",
                "/system/state: permission denied",
                "/var 9",
                "/var/lib/kubelet 7",
                "/var/lib/kubelet/pods/5c6/volumes/x: errno 9999",
            ]
        );
    }

    #[test]
    fn a_directory_on_another_file_system_than_the_mounts_is_not_believed() {
        // The host mounted its state after the broker had started, and statfs saw what lies below.
        let answer = Sent {
            host: HOST,
            own: "900 800 0:100 / / ro - overlay overlay rw\n902 900 259:6 / /host/var rw - xfs /dev/nvme0n1p6 rw\n",
            roots: &[("/var", Ok(9)), ("/system/state", Ok(9))],
            ..Sent::default()
        };
        let mounts = answer.short(&[]);
        assert!(mounts.contains(&"/var 9".to_owned()), "{mounts:?}");
        assert!(mounts.contains(&"/system/state: not mounted in the broker".to_owned()), "{mounts:?}");
    }

    #[test]
    fn a_mount_that_was_read_is_a_timeout_and_one_that_was_not_reports_why() {
        let roots = [
            ("/var", Ok(9)),
            ("/run", Err(115)),
            ("/var/lib/kubelet", Err(114)),
            ("/system/state", Err(109)),
        ];
        for (outcome, why) in [
            (Outcome::TimedOut, "not asked: out of time"),
            (Outcome::Stuck, "not asked: no reader is left"),
            (Outcome::Failed, "not asked: the reader failed"),
            (Outcome::Truncated, "not asked: too many mounts"),
            (Outcome::Ok, "no probe directory"),
        ] {
            let answer = Sent { host: HOST, roots: &roots, roots_outcome: Some(outcome), ..Sent::default() };
            let unknown = format!("/var/lib/kubelet/pods/5c6/volumes/x: {why}");
            let expected = [
                "/run: mountpoint timeout",
                "/system/state: not asked: too many mounts hang",
                "/var 9",
                &unknown,
                "/var/lib/kubelet: not asked: its server hangs",
            ];
            assert_eq!(answer.short(&[]), expected);
        }
    }

    #[test]
    fn numbers_that_arrive_after_the_report_that_a_read_started_are_used() {
        let roots = [("/var", Err(115)), ("/var", Ok(9)), ("/run", Err(115)), ("/run", Err(5))];
        let answer = Sent { host: HOST, roots: &roots, ..Sent::default() };
        let mounts = answer.short(&[]);
        for expected in ["/var 9", "/run: input/output error"] {
            assert!(mounts.contains(&expected.to_owned()), "{mounts:?}");
        }
    }

    #[test]
    fn of_mounts_on_one_path_the_topmost_is_reported_and_a_repeated_one_once() {
        let host = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /m rw - ext4 /dev/sdb1 rw\n\
                    3 2 8:3 / /m rw - xfs /dev/sdc1 rw\n4 1 8:4 / /n rw - ext4 /dev/sdd1 rw\n\
                    5 4 8:4 / /n ro - ext4 /dev/sdd1 rw\n";
        let answer = Sent { host, roots: &[("/", Ok(1)), ("/m", Ok(3)), ("/n", Ok(4))], ..Sent::default() };
        assert_eq!(answer.short(&[]), ["/ 1", "/m 3", "/n 4"]);
        let text = answer.text(&[]);
        assert!(
            text.contains(
                "_size_bytes{device=\"/dev/sdc1\",device_error=\"\",fstype=\"xfs\",mountpoint=\"/m\"}"
            ),
            "{text}"
        );
        assert!(text.contains(
            "_readonly{device=\"/dev/sdd1\",device_error=\"\",fstype=\"ext4\",mountpoint=\"/n\"} 1\n"
        ));
    }

    #[test]
    fn types_and_mount_points_are_filtered_by_new_and_old_flags() {
        let host = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /dev/shm rw - tmpfs tmpfs rw\n\
                    3 1 0:9 / /o rw - overlay overlay rw\n4 1 0:10 / /var/lib/docker/a\\377b rw - ext4 x rw\n";
        let answer = Sent { host, ..Sent::default() };
        let given = |flags: &[&str]| {
            let mounts = answer.short(flags);
            mounts
                .iter()
                .map(|mount| mount.split(':').next().unwrap_or_default())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(given(&[]), "/");
        assert_eq!(given(&["--collector.filesystem.fs-types-include=^overlay$"]), "/o");
        assert_eq!(given(&["--collector.filesystem.ignored-fs-types=^ext4$"]), "/o");
        assert_eq!(given(&["--collector.filesystem.mount-points-include=^/dev"]), "/dev/shm");
        assert_eq!(
            given(&["--collector.filesystem.ignored-mount-points=^/$"]),
            "/dev/shm /var/lib/docker/a\u{fffd}b"
        );
        assert_eq!(
            given(&["--collector.filesystem.mount-timeout=1s", "--collector.filesystem.stat-workers=1"]),
            "/"
        );
    }

    #[test]
    fn hostile_names_stay_labels() {
        let host = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                    2 1 8:2 / /a\\040-\\040\"b\\012c\\134 rw - ext4 \"}\\0401 rw\nnonsense\n\
                    3 1 8:3 / /\u{fffd} rw shared:1 - fuse.x\\011y - rw\n";
        let answer = Sent { host, roots: &[("/a - \"b\nc\\", Ok(2))], ..Sent::default() };
        let text = answer.text(&[]);
        assert!(
            text.contains(
                "node_filesystem_files{device=\"\\\"} 1\",device_error=\"\",fstype=\"ext4\",mountpoint=\"/a - \\\"b\\nc\\\\\"} 64\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("fstype=\"fuse.x\ty\",mountpoint=\"/\u{fffd}\"}")
                && text.contains("{device=\"-\","),
            "{text}"
        );
    }

    #[test]
    fn a_containers_mounts_are_never_the_hosts() {
        let snapshot = container_view(&Sent { host: HOST, ..Sent::default() });
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap_err().to_string(),
            "query MOUNTS: CONTAINER_VIEW"
        );
        let own_only =
            Sent { own: OWN_MOUNTS, probe_directories: &[("/probe/var", Ok(7))], ..Sent::default() };
        assert!(matches!(
            collect_snapshot(&COLLECTOR, &own_only.snapshot(), &[], &local()),
            Err(CollectError::NoData(_))
        ));
    }

    /// What a broker without the host's /proc answers.
    fn container_view(answer: &Sent<'_>) -> Snapshot {
        let mut snapshot = answer.snapshot();
        let report = Report { outcome: Outcome::ContainerView, elapsed_ns: 0, bytes: 0, left_out: 0 };
        snapshot.set_report(Query::Mounts, report);
        snapshot
    }

    #[test]
    fn without_the_hosts_mounts_a_probe_directory_has_the_brokers_mount_point() {
        let probe_directories =
            [("/probe/var", Ok(7)), ("/probe/twice", Ok(7)), ("/", Ok(8)), ("/probe/var/below", Ok(9))];
        let own_mounts = OWN_MOUNTS.replace(" rw,noatime master:21", " ro,noatime master:21")
            + "903 900 259:6 /x /probe/twice rw - xfs /dev/nvme0n1p6 rw\n";
        let answer = Sent { own: &own_mounts, probe_directories: &probe_directories, ..Sent::default() };
        let text = collect_snapshot(&COLLECTOR, &container_view(&answer), &[ALL], &local()).unwrap();
        let labels = "{device=\"/dev/nvme0n1p6\",device_error=\"\",fstype=\"xfs\",mountpoint=\"/probe/var\"}";
        assert!(text.contains(&format!("node_filesystem_size_bytes{labels} 28672\n")), "{text}");
        // It is the broker's mount that is read-only, and not the file system.
        assert!(text.contains(&format!("node_filesystem_readonly{labels} 0\n")), "{text}");
        assert!(text.contains("major=\"259\",minor=\"6\",mountpoint=\"/probe/var\"} 1\n"), "{text}");
        assert_eq!(text.lines().count(), families().len(), "{text}");
        let failed = own_mounts.replace("/dev/nvme0n1p6 rw", "/dev/nvme0n1p6 ro,emergency_ro");
        let answer = Sent { own: &failed, ..answer };
        let text = collect_snapshot(&COLLECTOR, &container_view(&answer), &[], &local()).unwrap();
        assert!(text.contains(&format!("node_filesystem_readonly{labels} 1\n")), "{text}");
    }

    #[test]
    fn without_the_hosts_mounts_what_is_the_containers_own_is_left_out() {
        let refused = |answer: &Sent<'_>| {
            let error = collect_snapshot(&COLLECTOR, &container_view(answer), &[ALL], &local()).unwrap_err();
            assert_eq!(error.to_string(), "query MOUNTS: CONTAINER_VIEW");
        };
        let probe_directories = [("/probe/var", Ok(7))];
        for fstype in ["tmpfs", "ramfs", "overlay"] {
            let own = OWN_MOUNTS.replace("- xfs", &format!("- {fstype}"));
            refused(&Sent { own: &own, probe_directories: &probe_directories, ..Sent::default() });
        }
        // No directory was given, or it is not mounted, or the broker's mounts are not known.
        refused(&Sent { own: OWN_MOUNTS, ..Sent::default() });
        refused(&Sent { own: OWN_MOUNTS, probe_directories: &[("/other", Ok(7))], ..Sent::default() });
        refused(&Sent { probe_directories: &probe_directories, ..Sent::default() });
        // The same where PID 1 is hidden.
        let mut hidden =
            Sent { own: OWN_MOUNTS, probe_directories: &probe_directories, ..Sent::default() }.snapshot();
        let denied = Report { outcome: Outcome::Denied, elapsed_ns: 0, bytes: 0, left_out: 0 };
        hidden.set_report(Query::Mounts, denied);
        let text = collect_snapshot(&COLLECTOR, &hidden, &[ALL], &local()).unwrap();
        assert_eq!(text.lines().count(), families().len(), "{text}");
        // The mounts of PID 1 are never believed.
        refused(&Sent { host: HOST, probe_directories: &probe_directories, ..Sent::default() });
    }

    #[test]
    fn a_line_that_a_limit_cut_is_not_believed() {
        let bytes = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /mnt rw - ext4 /dev/sd".to_vec();
        let files = vec![(PATH.as_bytes().to_vec(), Content::Bytes { bytes, truncated: true })];
        let text = collect_snapshot(&COLLECTOR, &Snapshot::from_files(files), &[], &local()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn no_file_is_no_data_and_a_strange_one_malformed() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
        assert!(matches!(collect(&COLLECTOR, &[(PATH, b"x\n")], &[]), Err(CollectError::Malformed { .. })));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH, OWN]);
    }
}
