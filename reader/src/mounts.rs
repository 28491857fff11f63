//! Parses mount points out of a mountinfo: the only content that a reader parses, in a class of readers of its own.
//! <https://docs.kernel.org/filesystems/proc.html> (section 3.5)

use std::collections::HashSet;

use keyhole_policy::escapes::unescape_octal;

use crate::cache::{InProgress, hash};

/// File systems whose statfs(2) the kernel answers by itself. Any other, and any unknown one, may wait for a server,
/// another process or another file system.
const LOCAL: &[u8] = b"bcachefs binfmt_misc bpf btrfs cgroup cgroup2 configfs cpuset cramfs debugfs devpts devtmpfs \
    efivarfs erofs exfat ext2 ext3 ext4 f2fs fusectl hfs hfsplus hugetlbfs iso9660 jffs2 jfs minix mqueue msdos nfsd \
    nilfs2 nsfs ntfs ntfs3 proc pstore ramfs reiserfs resctrl romfs rootfs rpc_pipefs securityfs selinuxfs smackfs \
    squashfs sysfs tmpfs tracefs ubifs udf vfat xfs zfs zonefs";

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// The mount point.
    pub point: Vec<u8>,
    /// What all mounts that hang together have in common: the server, whatever the type; the ZFS pool; else type and
    /// source of a FUSE file system or the like, or the device. Empty if this mount hangs only because of another one.
    pub server: Vec<u8>,
    /// The server's address, if the kernel shows it: one server may have several names.
    pub address: Vec<u8>,
    /// Whether statfs may hang, of this mount or of one above it.
    pub may_hang: bool,
}

impl Mount {
    /// What a reader publishes while it calls statfs(2): hashes of the mount point, the server and its address.
    pub fn hashes(&self) -> InProgress {
        let hash_of = |name: &[u8]| if name.is_empty() { 0 } else { hash(name) };
        [hash(&self.point), hash_of(&self.server), hash_of(&self.address)]
    }

    /// Whether it is an overlay: a container host has hundreds of them, and few lie on a file server.
    pub fn is_overlay(&self) -> bool {
        self.server.starts_with(b"overlay ")
    }

    /// Its parent directories up to `/`.
    pub fn parents(&self) -> impl Iterator<Item = &[u8]> {
        let slashes = (1..self.point.len()).filter(|at| self.point[*at] == b'/');
        let root = (self.point.len() > 1).then_some(&b"/"[..]);
        slashes.map(|at| &self.point[..at]).chain(root)
    }
}

/// The mounts of a mountinfo, each mount point once, those that cannot hang first. Lines without a mount point, or with
/// a `..` in it, are left out.
pub fn mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let is_plain = |mount: &Mount| {
        let mut components = mount.point.split(|&byte| byte == b'/');
        mount.point.starts_with(b"/") && !mount.point.contains(&0) && !components.any(|name| name == b"..")
    };
    let lines = mountinfo.split(|&byte| byte == b'\n');
    let mut mounts: Vec<Mount> = lines.filter_map(mount).filter(is_plain).collect();
    let hanging = mounts.iter().filter(|mount| mount.may_hang).map(|mount| mount.point.clone());
    let hanging: HashSet<Vec<u8>> = hanging.collect();
    // Of several mounts on one mount point the last one is visible.
    let mut seen = HashSet::new();
    mounts.reverse();
    mounts.retain(|mount| seen.insert(mount.point.clone()));
    mounts.reverse();
    for mount in &mut mounts {
        if !mount.may_hang
            && (hanging.contains(&mount.point) || mount.parents().any(|dir| hanging.contains(dir)))
        {
            (mount.may_hang, mount.server) = (true, Vec::new());
        }
    }
    mounts.sort_by_key(|mount| (mount.point != b"/", mount.may_hang));
    mounts
}

/// A line: the device and the mount point are the third and the fifth field, and type, source and options follow a
/// lone `-`.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let point = unescape_octal(fields.nth(1)?).into_owned();
    if point == b"/" {
        // Everything else lies on it: it is read first, whatever hangs, and no other mount is skipped with it.
        return Some(Mount { point, ..Mount::default() });
    }
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let mut next = || fields.next().unwrap_or_default();
    let (kind, source, mut options) = (next(), next(), next().split(|&byte| byte == b','));
    let may_hang = !kind.is_empty() && !LOCAL.split(|&byte| byte == b' ').any(|local| local == kind);
    let server = match server_name(source) {
        Some(server) if may_hang => server.to_ascii_lowercase(),
        _ if kind == b"zfs" => {
            [kind, b" ", source.split(|&byte| byte == b'/').next().unwrap_or(source)].concat()
        }
        _ if may_hang => [kind, b" ", source].concat(),
        _ => device.to_vec(),
    };
    let address =
        options.find(|option| may_hang && option.starts_with(b"addr=")).unwrap_or_default().to_vec();
    Some(Mount { point, server, address, may_hang })
}

/// The server of `server:/export`, `user@server:directory` and `//server/share`.
fn server_name(source: &[u8]) -> Option<&[u8]> {
    let at = |what: &[u8]| source.windows(what.len()).position(|window| window == what);
    match source.strip_prefix(b"//") {
        Some(rest) => rest.split(|&byte| byte == b'/').next(),
        None if source.starts_with(b"/") => None,
        None => at(b":/").or_else(|| at(b":")).map(|end| &source[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mount_points(mountinfo: &[u8]) -> Vec<Vec<u8>> {
        mounts(mountinfo).into_iter().map(|mount| mount.point).collect()
    }

    fn one(kind: &str, source: &str, options: &str) -> Mount {
        let line = format!("1 2 0:3 / /x rw shared:1 master:2 - {kind} {source} {options}\n");
        let [mount] = mounts(line.as_bytes()).try_into().unwrap();
        mount
    }

    #[test]
    fn file_systems_of_servers_may_hang_and_those_of_the_kernel_do_not() {
        let others = ["overlay", "virtiofs", "gpfs", "an-unknown-type"];
        let kinds = ["nfs", "nfs4", "fuse", "fuse.sshfs", "fuseblk", "cifs", "smb3", "9p", "ceph", "autofs"];
        for kind in kinds.into_iter().chain(others) {
            assert!(one(kind, "s", "rw").may_hang, "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "zfs", "nfsd", "proc", "efivarfs", "zonefs", ""] {
            assert!(!one(kind, "s", "rw").may_hang, "{kind}");
        }
    }

    #[test]
    fn the_server_of_a_mount_is_found_for_every_type() {
        for (kind, source, server) in [
            ("nfs", "nas:/export/a", "nas"),
            ("nfs4", "NAS:/", "nas"),
            ("nfs4", "[fe80::1%eth0]:/a", "[fe80::1%eth0]"),
            ("nfs4", "fe80::1:/a", "fe80::1"),
            ("cifs", "//nas/share", "nas"),
            ("fuse.sshfs", "me@nas:dir", "me@nas"),
            ("ceph", "a:6789,b:6789:/", "a:6789,b:6789"),
            ("lustre", "10.0.0.1@tcp:/fs", "10.0.0.1@tcp"),
            ("fuse.mergerfs", "/a:/b", "fuse.mergerfs /a:/b"),
            ("fuse.lxcfs", "lxcfs", "fuse.lxcfs lxcfs"),
            ("fuse", "/dev/fuse", "fuse /dev/fuse"),
            ("nfs4", "", "nfs4 "),
            ("zfs", "tank/data/set", "zfs tank"),
            ("zfs", "tank", "zfs tank"),
            ("xfs", "/dev/sda1", "0:3"),
            ("tmpfs", "nas:/not-a-server", "0:3"),
        ] {
            assert_eq!(String::from_utf8(one(kind, source, "rw").server).unwrap(), server, "{kind} {source}");
        }
        let address = |options| String::from_utf8(one("nfs", "nas:/a", options).address).unwrap();
        assert_eq!(address("rw,mountaddr=1.2.3.4,clientaddr=2.3.4.5,addr=10.0.0.1"), "addr=10.0.0.1");
        assert_eq!(address("rw"), "");
        assert_eq!(one("tmpfs", "x", "rw,addr=10.0.0.1").address, b"");
    }

    #[test]
    fn a_mount_below_or_on_one_that_may_hang_may_hang_too_and_has_no_server() {
        let text = b"1 2 0:3 / /nfs rw - nfs4 s:/x rw\n1 2 0:4 / /nfs/a/b rw - tmpfs x rw\n\
            1 2 0:5 / /nfsd rw - tmpfs x rw\n1 2 0:6 / /nfs rw - ext4 /dev/sda1 rw\n1 2 0:7 / / rw - nfs4 s:/x rw\n";
        let found: Vec<_> = mounts(text).into_iter().map(|m| (m.point, m.may_hang, m.server)).collect();
        let mount = |point: &[u8], may_hang, server: &[u8]| (point.to_vec(), may_hang, server.to_vec());
        let expected = [
            mount(b"/", false, b""),
            mount(b"/nfsd", false, b"0:5"),
            mount(b"/nfs/a/b", true, b""),
            mount(b"/nfs", true, b""),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn of_two_mounts_on_one_mount_point_the_upper_one_counts() {
        let text = b"1 2 0:3 / /a rw - autofs systemd-1 rw\n1 2 0:4 / /a rw - nfs4 nas:/a rw,addr=10.0.0.1\n";
        let [mount] = mounts(text).try_into().unwrap();
        assert_eq!((&mount.server[..], &mount.address[..]), (&b"nas"[..], &b"addr=10.0.0.1"[..]));
    }

    #[test]
    fn the_parents_of_a_mount_are_the_directories_on_its_path() {
        let parents = |point: &str| {
            let mount = Mount { point: point.into(), ..Mount::default() };
            mount.parents().map(|dir| String::from_utf8_lossy(dir).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(parents("/a/bc/d"), ["/a", "/a/bc", "/"]);
        assert_eq!(parents("/a"), ["/"]);
        assert!(parents("/").is_empty());
    }

    #[test]
    fn a_mount_point_with_a_space_is_unescaped() {
        let text =
            b"36 35 98:0 /m1 /mnt/a\\040b rw - ext3 /dev/root rw\n37 35 98:0 / /mnt/\xff rw - ext3 x rw\n";
        assert_eq!(mount_points(text), [&b"/mnt/a b"[..], b"/mnt/\xff"]);
    }

    #[test]
    fn a_mount_point_that_could_leave_the_root_is_left_out() {
        let text =
            b"1 2 3:4 / /../etc rw\n1 2 3:4 / relative rw\n1 2 3:4 / /a\\000b rw\n1 2 3\n1 2 3:4 / /ok rw\n";
        assert_eq!(mount_points(text), [b"/ok"]);
        assert_eq!(mount_points(b"1 2 3:4 / /a/\\056\\056/b rw"), Vec::<Vec<u8>>::new());
    }

    proptest! {
        #[test]
        fn any_bytes_result_in_absolute_paths(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            for point in mount_points(&text) {
                prop_assert!(point.starts_with(b"/") && !point.contains(&0));
            }
        }
    }
}
