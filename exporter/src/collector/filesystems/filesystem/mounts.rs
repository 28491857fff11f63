//! A process' mounts: `proc/<pid>/mountinfo`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::text;

/// A file system's number, as mountinfo has it: that of its superblock. stat(2) returns another one on btrfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DeviceNumber {
    pub(super) major: u64,
    pub(super) minor: u64,
}

/// One mount. Names are as they are, without the file's escapes.
#[derive(Debug)]
pub(super) struct Mount<'a> {
    id: u64,
    parent: u64,
    pub(super) number: DeviceNumber,
    pub(super) mount_point: Cow<'a, [u8]>,
    pub(super) fstype: Cow<'a, [u8]>,
    pub(super) source: Cow<'a, [u8]>,
    /// Nothing can be written at this mount point.
    pub(super) read_only: bool,
    /// Nor at any other of the same file system.
    pub(super) all_read_only: bool,
}

impl<'a> Mount<'a> {
    /// Reads `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        // Not runs of spaces: a source may be empty.
        let mut fields = line.split(|&byte| byte == b' ');
        let id = text::unsigned(fields.next()?)?;
        let parent = text::unsigned(fields.next()?)?;
        let (major, minor) = text::split_first(fields.next()?, b':')?;
        let number = DeviceNumber { major: text::unsigned(major)?, minor: text::unsigned(minor)? };
        let _root = fields.next()?;
        let mount_point = text::unescape_octal(fields.next()?);
        let options = fields.next()?;
        // Any number of optional fields, of which a kernel to come may have more.
        fields.find(|field| field == b"-")?;
        let fstype = text::unescape_octal(fields.next()?);
        let source = text::unescape_octal(fields.next()?);
        let super_options = fields.next().unwrap_or_default();
        let all_read_only = has(super_options, b"ro") || has(super_options, b"emergency_ro");
        let read_only = has(options, b"ro") || all_read_only;
        mount_point.starts_with(b"/").then_some(Self {
            id,
            parent,
            number,
            mount_point,
            fstype,
            source,
            read_only,
            all_read_only,
        })
    }
}

fn has(options: &[u8], option: &[u8]) -> bool {
    options.split(|&byte| byte == b',').any(|other| other == option)
}

/// Mounts by what they are mounted on, to find the one that a path lies on.
///
/// The order of the lines does not show it: a mount that was moved, as an initramfs does with `/run`, keeps its place
/// before the root that it lies on now. So the path is walked as the kernel walks it, from the root down.
#[derive(Debug)]
pub(super) struct Tree<'m, 'a> {
    mounts: &'m [Mount<'a>],
    /// By the parent's number, if the parent is known, and the mount point.
    children: HashMap<(Option<u64>, &'m [u8]), &'m Mount<'a>>,
}

impl<'m, 'a> Tree<'m, 'a> {
    pub(super) fn new(mounts: &'m [Mount<'a>]) -> Self {
        let ids: HashSet<u64> = mounts.iter().map(|mount| mount.id).collect();
        // Of two on one place the last stays, since it was mounted later.
        let children = mounts.iter().map(|mount| {
            let known = mount.parent != mount.id && ids.contains(&mount.parent);
            ((known.then_some(mount.parent), &*mount.mount_point), mount)
        });
        Self { children: children.collect(), mounts }
    }

    /// The mount that `path` lies on, if it holds no symbolic link: the longest prefix, and the topmost there.
    pub(super) fn at(&self, path: &[u8]) -> Option<&'m Mount<'a>> {
        let mut found: Option<&'m Mount<'a>> = None;
        // Parents that go round in a circle must not go on for ever.
        let mut steps = self.mounts.len();
        for prefix in prefixes(path) {
            let over = |mount: Option<&Mount<'_>>| {
                self.children.get(&(mount.map(|mount| mount.id), prefix)).copied()
            };
            let mut next = over(found).or_else(|| over(None));
            while let Some(mount) = next.filter(|_| steps > 0) {
                steps -= 1;
                found = Some(mount);
                next = over(found);
            }
        }
        found
    }

    /// Those mounts that can be reached, and are not mounted over.
    pub(super) fn visible(&self) -> impl Iterator<Item = &'m Mount<'a>> {
        self.mounts
            .iter()
            .filter(|mount| self.at(&mount.mount_point).is_some_and(|top| std::ptr::eq(top, *mount)))
    }
}

/// `/a/b` and the directories above it, from the root down.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(at, byte)| *at > 0 && **byte == b'/');
    let above = slashes.filter_map(|(at, _)| path.get(..at));
    std::iter::once(&b"/"[..]).chain(above).chain((path != b"/").then_some(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mounts(lines: &str) -> Vec<Mount<'_>> {
        text::lines(lines.as_bytes()).map(|line| Mount::parse(line).expect("a mount")).collect()
    }

    /// The minor number of the mount that `path` lies on.
    fn minor_at(lines: &str, path: &str) -> Option<u64> {
        let mounts = mounts(lines);
        Tree::new(&mounts).at(path.as_bytes()).map(|mount| mount.number.minor)
    }

    fn visible(lines: &str) -> Vec<u64> {
        let mounts = mounts(lines);
        Tree::new(&mounts).visible().map(|mount| mount.number.minor).collect()
    }

    #[test]
    fn optional_fields_end_at_the_hyphen_and_a_source_may_be_empty() {
        for (line, source) in [
            (r"36 35 98:7 / /mnt\040\134x rw,noatime - ext3 /dev/r\011o rw", &b"/dev/r\to"[..]),
            (r"36 35 98:7 / /mnt\040\134x rw,noatime shared:5 master:1 quux:2 - ext3 - rw", b"-"),
            (r"36 35 98:7 / /mnt\040\134x rw,noatime - ext3  rw", b""),
            (r"36 35 98:7 / /mnt\040\134x rw,noatime - ext3 none", b"none"),
        ] {
            let mount = Mount::parse(line.as_bytes()).unwrap();
            assert_eq!(mount.number, DeviceNumber { major: 98, minor: 7 });
            assert_eq!(&*mount.mount_point, b"/mnt \\x");
            assert_eq!((&*mount.fstype, &*mount.source), (&b"ext3"[..], source));
            assert!(!mount.read_only);
        }
    }

    #[test]
    fn what_is_not_a_mount_is_none() {
        for line in
            ["", "36", "36 35 98 / /m rw - a b c", "36 35 98:0 / /m rw a b c", "x 35 98:0 / /m rw - a b c"]
        {
            assert!(Mount::parse(line.as_bytes()).is_none(), "{line}");
        }
        assert!(Mount::parse(b"36 35 98:0 / m rw - a b c").is_none());
        assert!(Mount::parse(b"36 35 98:0 / /m rw - ext4").is_none());
    }

    #[test]
    fn read_only_is_the_mounts_the_file_systems_or_an_emergency() {
        for (options, super_options, read_only) in [
            ("rw,noatime", "rw", false),
            ("ro,noatime", "rw", true),
            ("rw", "ro,errors=remount-ro", true),
            ("rw", "rw,emergency_ro", true),
            ("rw,norov", "rw,errors=remount-ro,x=ro", false),
        ] {
            let line = format!("1 0 8:1 / / {options} - ext4 /dev/sda1 {super_options}");
            assert_eq!(Mount::parse(line.as_bytes()).unwrap().read_only, read_only, "{line}");
        }
    }

    #[test]
    fn a_path_lies_on_the_longest_prefix_by_whole_components() {
        let lines = "1 0 8:1 / / rw - a a rw\n2 1 8:2 / /var rw - a a rw\n3 2 8:3 / /var/lib rw - a a rw\n";
        for (path, minor) in
            [("/", 1), ("/varnish", 1), ("/var", 2), ("/var/x", 2), ("/var/lib/", 3), ("/var/libx", 2)]
        {
            assert_eq!(minor_at(lines, path), Some(minor), "{path}");
        }
        assert_eq!(minor_at("", "/"), None);
    }

    #[test]
    fn the_last_mount_on_a_path_is_on_top() {
        assert_eq!(
            visible("1 0 8:1 / / rw - a a rw\n2 1 8:2 / /m rw - a a rw\n3 2 8:3 / /m rw - a a rw\n"),
            [1, 3]
        );
        // The same without a right parent, as no kernel writes it.
        assert_eq!(
            visible("1 0 8:1 / / rw - a a rw\n2 1 8:2 / /m rw - a a rw\n3 1 8:3 / /m rw - a a rw\n"),
            [1, 3]
        );
        // The kernel's own root, under the one that the host has.
        assert_eq!(visible("1 1 0:2 / / rw - rootfs rootfs rw\n20 1 8:1 / / rw - a a rw\n"), [1]);
    }

    #[test]
    fn a_moved_mount_precedes_the_root_that_it_lies_on() {
        let lines = "22 27 0:21 / /proc rw - proc proc rw\n24 27 0:6 / /dev rw - devtmpfs devtmpfs rw\n\
                     25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n";
        assert_eq!(visible(lines), [21, 6, 23, 0]);
        assert_eq!(minor_at(lines, "/dev/shm/x"), Some(23));
    }

    #[test]
    fn what_lies_under_a_later_mount_is_hidden() {
        let lines = "1 0 8:1 / / rw - a a rw\n2 1 8:2 / /mnt/a rw - a a rw\n3 2 8:3 / /mnt/a/b rw - a a rw\n\
                     4 1 8:4 / /mnt rw - a a rw\n";
        assert_eq!(visible(lines), [1, 4]);
    }

    #[test]
    fn a_mount_whose_parent_is_not_listed_is_found_by_its_path() {
        assert_eq!(visible("1 0 8:1 / / rw - a a rw\n36 35 8:2 / /mnt rw - a a rw\n"), [1, 2]);
        assert_eq!(visible("36 35 8:2 / /mnt rw - a a rw\n"), [2]);
    }

    proptest! {
        #[test]
        fn any_mounts_are_walked_to_an_end(
            mounts in proptest::collection::vec((0u64..5, 0u64..5, "(/[ab]?){1,3}"), 0..12),
            path in "(/[ab]?){0,4}",
        ) {
            let lines: String = mounts
                .iter()
                .enumerate()
                .map(|(at, (id, parent, point))| format!("{id} {parent} 0:{at} / {point} rw - t s rw\n"))
                .collect();
            let minor = minor_at(&lines, &path);
            prop_assert!(minor.is_none_or(|minor| (minor as usize) < mounts.len()));
            let mut points = visible(&lines).iter().map(|&minor| mounts[minor as usize].2.clone()).collect::<Vec<_>>();
            let all = points.len();
            points.sort();
            points.dedup();
            prop_assert_eq!(points.len(), all, "one mount a place");
        }

        #[test]
        fn any_line_is_a_mount_or_none(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Mount::parse(&line);
        }
    }
}
