//! One reading of one row: following patterns, opening, reading within limits, handing over.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyhole_policy::{Component, Kind, Root, Row, Source};
use keyhole_proto::v1::{self, Outcome, file, file_system};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatFs, fstatfs};
use rustix::io::Errno;

use super::{Held, Item, Missing, Opened, PART_BYTES, READ, Roots, Sink};
use crate::lock;
use crate::mounts::{Mount, mounts};

/// The most names taken of one directory.
pub(super) const LISTING_LIMIT: usize = 65_536;

/// The most names taken of all directories in one reading, which keeps them until its end.
pub(super) const NAMES_LIMIT: usize = 4 * LISTING_LIMIT;

/// What was not found is asked for again after this many readings at most: half of what a machine could have, it has not.
pub(super) const MISSING_READINGS: u64 = 8;

/// The most paths of one pattern that are known to be missing.
const MISSING_LIMIT: usize = 4096;

/// Bytes asked of the kernel at a time.
const READ_BYTES: usize = 32 << 10;

/// statfs(2): mounted read-only.
const ST_RDONLY: u64 = 1;

/// A name in a directory, and its inode.
type Entry = (Vec<u8>, u64);

/// How the files of one reading did.
#[derive(Debug, Default)]
pub(super) struct Tally {
    entries: usize,
    names: usize,
    read: bool,
    denied: bool,
    truncated: bool,
}

impl Tally {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Tally { truncated: true, .. } => Outcome::Truncated,
            Tally { read: true, .. } => Outcome::Ok,
            Tally { denied: true, .. } => Outcome::Denied,
            _ => Outcome::Absent,
        }
    }
}

/// One reading of one row.
pub(super) struct Reading<'r, 's, 't> {
    pub row: &'static Row,
    pub roots: &'r Roots,
    pub spare: &'r AtomicUsize,
    pub asked: &'r Mutex<Vec<Mount>>,
    pub held: &'r mut HashMap<Vec<u8>, Held>,
    pub missing: &'r mut HashMap<Vec<u8>, Missing>,
    pub round: u64,
    /// Directories that were listed already in this reading.
    pub listings: HashMap<Vec<u8>, Rc<[Entry]>>,
    pub buffer: &'r mut Vec<u8>,
    pub sink: &'s mut Sink<'t>,
    pub tally: Tally,
}

impl Reading<'_, '_, '_> {
    /// Reads what one source of the row leads to.
    pub(super) fn source(&mut self, source: &Source, opened: &Opened) -> ControlFlow<()> {
        match opened {
            Opened::Fixed(files) => files.iter().try_for_each(|(path, file)| {
                let read = file.as_ref().map_err(|errno| *errno);
                let read = read.and_then(|file| self.read(file.as_fd(), Size::Any));
                match read {
                    Ok(truncated) => self.give_text(path.as_bytes(), truncated),
                    Err(errno) => self.give_errno(path.as_bytes(), errno),
                }
            }),
            Opened::Below(pattern) => self.below(source, Vec::new(), 0, pattern.components()),
            Opened::Anchors => {
                let anchors = self.roots.anchors.iter();
                anchors.into_iter().try_for_each(|(path, dir)| self.give_file_system(path, fstatfs(dir)))
            }
            Opened::Mounts(mountinfo) => self.mounts(mountinfo),
        }
    }

    /// Follows the rest of a pattern below `path`; `identity` is made of the inodes that wildcards stood for.
    fn below(
        &mut self,
        source: &Source,
        path: Vec<u8>,
        identity: u64,
        components: &[Component],
    ) -> ControlFlow<()> {
        let Some((component, rest)) = components.split_first() else {
            return self.entry(source, path, identity);
        };
        let chosen = |name: &[u8]| match component {
            Component::Fixed(names) => names.iter().any(|chosen| chosen.as_bytes() == name),
            Component::Wild(wild) => wild.matches(name),
        };
        match component {
            Component::Fixed(names) if names.len() == 1 || rest.is_empty() => names
                .iter()
                .try_for_each(|name| self.below(source, join(&path, name.as_bytes()), identity, rest)),
            // A choice among directories is listed as a wildcard is: one that is missing is not asked for each file.
            _ => {
                // What a class of devices has is looked for each time, what one device has not.
                let a_devices = identity != 0;
                if a_devices && self.is_missing(&path, identity) {
                    return ControlFlow::Continue(());
                }
                let names = self.list(source, &path)?;
                let mut matching = names.iter().filter(|(name, _)| chosen(name)).peekable();
                if a_devices && !names.is_empty() && matching.peek().is_none() {
                    self.miss(source, path, identity);
                    return ControlFlow::Continue(());
                }
                matching.try_for_each(|(name, inode)| {
                    self.below(source, join(&path, name), identity.rotate_left(32) ^ inode, rest)
                })
            }
        }
    }

    /// The names in a directory with their inodes, sorted; none when it cannot be listed.
    fn list(&mut self, source: &Source, path: &[u8]) -> ControlFlow<(), Rc<[Entry]>> {
        if let Some(names) = self.listings.get(path) {
            return ControlFlow::Continue(names.clone());
        }
        // Not held: the kernel lists a directory that went and came back as empty through the old descriptor.
        let listed = self.open(source, path, OFlags::DIRECTORY).and_then(|dir| names(dir.as_fd()));
        let (names, truncated) = match listed {
            Ok(listed) => listed,
            Err(errno) if gone(errno) => (Vec::new(), false),
            Err(errno) => {
                let name = join(source.root.name().as_bytes(), path);
                self.give_errno(&name, errno)?;
                (Vec::new(), false)
            }
        };
        self.tally.truncated |= truncated;
        self.tally.names += names.len();
        if self.tally.names > NAMES_LIMIT {
            self.tally.truncated = true;
            return ControlFlow::Break(());
        }
        let names: Rc<[_]> = names.into();
        self.listings.insert(path.to_vec(), names.clone());
        ControlFlow::Continue(names)
    }

    /// One path that a pattern led to.
    fn entry(&mut self, source: &Source, path: Vec<u8>, identity: u64) -> ControlFlow<()> {
        if self.is_missing(&path, identity) {
            return ControlFlow::Continue(());
        }
        let name = join(source.root.name().as_bytes(), &path);
        let content = self.dir(source).and_then(|root| match source.kind {
            Kind::Link => {
                Ok(Some(link_content(rustix::fs::readlinkat(root, &*path, Vec::new())?.into_bytes())))
            }
            Kind::Entries => {
                let stat = rustix::fs::statat(root, &*path, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(Some(file::Content::Entries(stat.st_size as u64)))
            }
            Kind::Text | Kind::FileSystem => Ok(None),
        });
        match content {
            Ok(Some(content)) => {
                self.count()?;
                self.tally.read = true;
                return self.send(&name, content, false);
            }
            Err(errno) => return self.give_read(&name, Err(errno)),
            Ok(None) => {}
        }
        let size = if source.root == Root::Sys { Size::Page } else { Size::Any };
        if let Some(held) = self.held.remove(&path) {
            // The kernel goes on serving a device that was renamed, through what was held under its old name.
            let same = held.identity == identity;
            let read = if same { self.read(held.file.as_fd(), size) } else { Err(Errno::NODEV) };
            // A name may stand for something new by now: look again when the old is gone.
            if !read.is_err_and(gone) {
                self.held.insert(path, Held { round: self.round, ..held });
                return self.give_read(&name, read);
            }
            self.spare.fetch_add(1, Ordering::Relaxed);
        }
        let read = self.open(source, &path, OFlags::NOFOLLOW).and_then(|file| {
            let read = self.read(file.as_fd(), size);
            // A read that fails is held too: many attributes of a device that is down fail each time.
            if !read.is_err_and(gone) {
                self.hold(source, path.clone(), identity, file);
            }
            read
        });
        let flow = self.give_read(&name, read);
        if read == Err(Errno::NOENT) {
            self.miss(source, path, identity);
        }
        flow
    }

    /// Whether `path` was not there a few readings ago, below the same devices.
    fn is_missing(&self, path: &[u8], identity: u64) -> bool {
        let known = |missing: &Missing| missing.identity == identity && self.round < missing.again;
        self.missing.get(path).is_some_and(known)
    }

    /// Remembers that `path` is not there. Not all are looked for again in the same reading.
    fn miss(&mut self, source: &Source, path: Vec<u8>, identity: u64) {
        if source.root == Root::Sys && self.missing.len() < MISSING_LIMIT {
            let spread: u64 = path.iter().map(|&byte| u64::from(byte)).sum();
            let again = self.round + MISSING_READINGS - spread % (MISSING_READINGS / 2);
            self.missing.insert(path, Missing { identity, again });
        }
    }

    fn give_read(&mut self, name: &[u8], read: Result<bool, Errno>) -> ControlFlow<()> {
        match read {
            Ok(truncated) => self.give_text(name, truncated),
            Err(errno) if gone(errno) => ControlFlow::Continue(()),
            Err(errno) => self.give_errno(name, errno),
        }
    }

    /// statfs of each mount point below the host root.
    fn mounts(&mut self, mountinfo: &Result<OwnedFd, Errno>) -> ControlFlow<()> {
        let read = mountinfo.as_ref().map_err(|errno| *errno).and_then(|file| {
            let truncated = self.read(file.as_fd(), Size::Any)?;
            Ok((std::mem::take(self.buffer), truncated))
        });
        let (mut text, truncated) = match read {
            Ok(read) => read,
            Err(errno) => return self.give_errno(b"proc/1/mountinfo", errno),
        };
        if truncated {
            // Half of a mount point may be another path.
            text.truncate(text.iter().rposition(|&byte| byte == b'\n').unwrap_or(0));
            self.tally.truncated = true;
        }
        let hung = lock(self.asked).clone();
        for mount in mounts(&text) {
            let numbers = match hung.iter().any(|hung| mount.may_hang_with(hung)) {
                true => Err(Errno::INPROGRESS),
                false => self.ask(&mount),
            };
            self.give_file_system(&mount.point, numbers)?;
        }
        ControlFlow::Continue(())
    }

    /// statfs of a mount point; whoever comes while it sleeps knows what it sleeps in.
    fn ask(&self, mount: &Mount) -> Result<StatFs, Errno> {
        let root = self.roots.rootfs.as_ref().ok_or(Errno::NOENT)?;
        let below = mount.point.strip_prefix(b"/").filter(|path| !path.is_empty()).unwrap_or(b".");
        lock(self.asked).push(mount.clone());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let numbers = rustix::fs::openat(root, below, flags, Mode::empty()).and_then(fstatfs);
        lock(self.asked).retain(|asked| asked != mount);
        numbers
    }

    fn dir(&self, source: &Source) -> Result<BorrowedFd<'_>, Errno> {
        match source.root {
            Root::Sys => Ok(self.roots.sysfs.as_fd()),
            Root::Processes => Ok(self.roots.procfs.as_fd()),
            Root::Udev => self.roots.udev.as_ref().map(AsFd::as_fd).ok_or(Errno::NOENT),
            _ => Err(Errno::NOENT),
        }
    }

    fn open(&self, source: &Source, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat(self.dir(source)?, path, READ | flags, Mode::empty())
    }

    /// Keeps a descriptor for the next reading, while there is room.
    fn hold(&mut self, source: &Source, path: Vec<u8>, identity: u64, file: OwnedFd) {
        // udev replaces its files by renaming: a held descriptor would go on giving the old one.
        let room = |spare: usize| spare.checked_sub(1);
        if source.root == Root::Sys
            && self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
            && self.held.insert(path, Held { file, identity, round: self.round }).is_some()
        {
            self.spare.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Fills the buffer with a file from its start; tells whether the row's limit cut it.
    fn read(&mut self, file: BorrowedFd<'_>, size: Size) -> Result<bool, Errno> {
        let limit = self.row.file_bytes;
        self.buffer.clear();
        loop {
            let at = self.buffer.len();
            // One byte more than the limit tells a file that ends there from one that goes on.
            let room = (limit + 1 - at).min(READ_BYTES);
            self.buffer.resize(at + room, 0);
            let read =
                rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut self.buffer[at..], at as u64))?;
            self.buffer.truncate(at + read);
            // procfs gives about a page a read, however much there is: only an empty read is the end.
            let ended = read == 0 || (size == Size::Page && read < room);
            if self.buffer.len() > limit {
                self.buffer.truncate(limit);
                return Ok(true);
            }
            if ended {
                return Ok(false);
            }
        }
    }

    /// Hands over what the buffer holds, in parts.
    fn give_text(&mut self, name: &[u8], truncated: bool) -> ControlFlow<()> {
        self.count()?;
        self.tally.read = true;
        self.tally.truncated |= truncated;
        let bytes = std::mem::take(self.buffer);
        let last = bytes.len().saturating_sub(1) / PART_BYTES;
        let mut flow = ControlFlow::Continue(());
        for part in 0..=last {
            let end = bytes.len().min((part + 1) * PART_BYTES);
            let content = text_content(bytes[part * PART_BYTES..end].to_vec());
            flow = self.send(name, content, truncated && part == last);
            if flow.is_break() {
                break;
            }
        }
        *self.buffer = bytes;
        flow
    }

    fn give_errno(&mut self, name: &[u8], errno: Errno) -> ControlFlow<()> {
        self.count()?;
        self.note(errno);
        self.send(name, file::Content::Errno(errno.raw_os_error() as u32), false)
    }

    fn note(&mut self, errno: Errno) {
        match errno {
            Errno::ACCESS | Errno::PERM => self.tally.denied = true,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => self.tally.truncated = true,
            _ => {}
        }
    }

    /// Counts one more entry, while the row takes more.
    fn count(&mut self) -> ControlFlow<()> {
        if self.tally.entries >= self.row.entries {
            self.tally.truncated = true;
            return ControlFlow::Break(());
        }
        self.tally.entries += 1;
        ControlFlow::Continue(())
    }

    fn send(&mut self, name: &[u8], content: file::Content, truncated: bool) -> ControlFlow<()> {
        let name = match String::from_utf8(name.to_vec()) {
            Ok(path) => file::Name::Path(path),
            Err(error) => file::Name::RawPath(error.into_bytes()),
        };
        (self.sink)(Item::File(v1::File { name: Some(name), content: Some(content), truncated }))
    }

    fn give_file_system(&mut self, path: &[u8], numbers: Result<StatFs, Errno>) -> ControlFlow<()> {
        self.count()?;
        let name = match String::from_utf8(path.to_vec()) {
            Ok(path) => file_system::Name::Path(path),
            Err(error) => file_system::Name::RawPath(error.into_bytes()),
        };
        let mut answer = v1::FileSystem { name: Some(name), ..Default::default() };
        match numbers {
            Ok(numbers) => {
                self.tally.read = true;
                answer.block_size = numbers.f_bsize as u64;
                answer.blocks = numbers.f_blocks;
                answer.blocks_free = numbers.f_bfree;
                answer.blocks_available = numbers.f_bavail;
                answer.files = numbers.f_files;
                answer.files_free = numbers.f_ffree;
                answer.read_only = numbers.f_flags as u64 & ST_RDONLY != 0;
            }
            Err(errno) => {
                self.note(errno);
                answer.errno = errno.raw_os_error() as u32;
            }
        }
        (self.sink)(Item::FileSystem(answer))
    }
}

/// How a file's end is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// By a read that gives nothing.
    Any,
    /// By a read that gives less than was asked: a sysfs attribute is shown whole.
    Page,
}

/// The kernel no longer has it, or it was never a file.
pub(super) fn gone(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::NODEV | Errno::SRCH | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::SPIPE
    )
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir {
        b"" => name.to_vec(),
        dir => [dir, b"/", name].concat(),
    }
}

/// The names in an open directory with their inodes, sorted, and whether there were too many.
pub(super) fn names(dir: BorrowedFd<'_>) -> Result<(Vec<Entry>, bool), Errno> {
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes().to_vec();
        if names.len() >= LISTING_LIMIT {
            return Ok((names, true));
        }
        if name != b"." && name != b".." {
            names.push((name, entry.ino()));
        }
    }
    names.sort_unstable();
    Ok((names, false))
}

fn text_content(bytes: Vec<u8>) -> file::Content {
    match String::from_utf8(bytes) {
        Ok(text) => file::Content::Text(text),
        Err(error) => file::Content::Raw(error.into_bytes()),
    }
}

fn link_content(target: Vec<u8>) -> file::Content {
    match String::from_utf8(target) {
        Ok(target) => file::Content::Link(target),
        Err(error) => file::Content::RawLink(error.into_bytes()),
    }
}
