//! Mount points out of a mountinfo: the one thing that a reader looks for inside a file, in a class of its own, and
//! only with `--path.rootfs`. <https://docs.kernel.org/filesystems/proc.html> (section 3.5)

/// File systems of network servers and of other processes; the rest answers from the kernel.
const MAY_HANG: &[u8] = b"9p afs autofs beegfs ceph cifs coda fuse gfs glusterfs lustre nfs ocfs smb";

/// A mount, as far as a reader looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub point: Vec<u8>,
    /// The type of its file system, as it is written; empty where there is none.
    pub kind: Vec<u8>,
}

impl Mount {
    /// Whether its numbers come from a server that may be away. Types have suffixes: `nfs4`, `fuse.sshfs`.
    pub fn may_hang(&self) -> bool {
        MAY_HANG.split(|byte| *byte == b' ').any(|kind| self.kind.starts_with(kind)) && self.kind != b"nfsd"
    }

    /// Whether asking about this one may sleep for what `hung` sleeps for: its file system is of the same type, most
    /// likely served by the same server, or the way to it leads through the other.
    pub fn may_hang_with(&self, hung: &Mount) -> bool {
        let below = || self.point.strip_prefix(&*hung.point).is_some_and(|rest| rest.starts_with(b"/"));
        self.kind == hung.kind || below()
    }
}

/// The mounts of a mountinfo, in its order, each mount point once. Lines without one are left out, as is any with a `..`.
pub fn mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let mut seen = std::collections::HashSet::new();
    mountinfo
        .split(|&byte| byte == b'\n')
        .filter_map(mount)
        .filter(|mount| mount.point.starts_with(b"/") && !mount.point.contains(&0))
        .filter(|mount| !mount.point.split(|&byte| byte == b'/').any(|component| component == b".."))
        .filter(|mount| seen.insert(mount.point.clone()))
        .collect()
}

/// A line: the mount point is the fifth field, and the type follows a lone `-`.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let point = unescape(fields.nth(4)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1).unwrap_or_default();
    Some(Mount { point, kind: kind.to_vec() })
}

/// Undoes `\040` and its kin.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mount_points(mountinfo: &[u8]) -> Vec<Vec<u8>> {
        mounts(mountinfo).into_iter().map(|mount| mount.point).collect()
    }

    #[test]
    fn a_type_is_found_behind_any_number_of_tags() {
        let text = b"1 2 0:3 / /a rw - nfs4 s:/x rw\n1 2 0:4 / /b rw shared:1 master:2 - fuse.x y rw\n1 2 0:5 / /c rw";
        let kinds: Vec<_> = mounts(text).into_iter().map(|mount| mount.kind).collect();
        assert_eq!(kinds, [&b"nfs4"[..], b"fuse.x", b""]);
    }

    #[test]
    fn what_a_server_answers_may_hang_and_what_the_kernel_answers_does_not() {
        let may_hang = |kind: &str| Mount { point: b"/x".into(), kind: kind.into() }.may_hang();
        for kind in ["nfs", "nfs4", "fuse", "fuse.sshfs", "fuseblk", "cifs", "smb3", "9p", "ceph", "autofs"] {
            assert!(may_hang(kind), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "nfsd", "proc", ""] {
            assert!(!may_hang(kind), "{kind}");
        }
    }

    #[test]
    fn a_mount_hangs_with_its_kind_and_with_what_it_lies_below() {
        let mount = |point: &str, kind: &str| Mount { point: point.into(), kind: kind.into() };
        let hung = mount("/mnt/a", "nfs4");
        assert!(mount("/b", "nfs4").may_hang_with(&hung));
        assert!(mount("/mnt/a/b", "ext4").may_hang_with(&hung));
        assert!(!mount("/mnt/ab", "ext4").may_hang_with(&hung));
        assert!(!mount("/mnt", "ext4").may_hang_with(&hung));
    }

    #[test]
    fn a_mount_point_with_a_space_is_one() {
        let text =
            b"36 35 98:0 /m1 /mnt/a\\040b rw - ext3 /dev/root rw\n37 35 98:0 / /mnt/\xff rw - ext3 x rw\n";
        assert_eq!(mount_points(text), [&b"/mnt/a b"[..], b"/mnt/\xff"]);
    }

    #[test]
    fn what_could_leave_the_root_is_left_out() {
        let text =
            b"1 2 3:4 / /../etc rw\n1 2 3:4 / relative rw\n1 2 3:4 / /a\\000b rw\n1 2 3\n1 2 3:4 / /ok rw\n";
        assert_eq!(mount_points(text), [b"/ok"]);
        assert_eq!(mount_points(b"1 2 3:4 / /a/\\056\\056/b rw"), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_mount_point_mounted_over_is_asked_once() {
        assert_eq!(mount_points(b"1 2 3:4 / /a rw\n2 3 4:5 / /a rw\n").len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_give_absolute_paths(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            for point in mount_points(&text) {
                prop_assert!(point.starts_with(b"/") && !point.contains(&0));
            }
        }
    }
}
