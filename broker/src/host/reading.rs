//! One reading of one row: following patterns, opening, reading within limits, handing over.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Mutex;

use keyhole_policy::{Component, Kind, Root, Row, Source};
use keyhole_proto::v1::{self, Outcome};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatFs, fstatfs};
use rustix::io::Errno;

use super::kept::{Dir, Held, Kept, Known, Spare};
use super::{Content, Item, Opened, PART_BYTES, READ, Roots, Sink};
use crate::lock;
use crate::mounts::{Mount, mounts};

/// The most names taken of one directory.
pub(super) const LISTING_LIMIT: usize = 65_536;

/// The most names taken of all directories in one reading; its request keeps them until its end.
pub(super) const NAMES_LIMIT: usize = 4 * LISTING_LIMIT;

/// Bytes asked of the kernel at a time.
const READ_BYTES: usize = 16 << 10;

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

/// What a lane uses again from one query to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Holds a file while it is read. It stays as long as it was, so that nothing is cleared for each file.
    buffer: Vec<u8>,
    /// Directories that were listed already for the same request: many queries look into the same.
    listings: HashMap<(Root, Vec<u8>), Listing>,
}

#[derive(Debug, Clone)]
struct Listing {
    names: Rc<[Entry]>,
    truncated: bool,
}

impl Scratch {
    /// The end of a request: the next lists directories anew.
    pub fn end(&mut self) {
        self.listings = HashMap::new();
    }

    /// The next query: a table of all TCP sockets, or of all processes, is no reason to keep as much.
    pub(super) fn trim(&mut self) {
        self.buffer.truncate(READ_BYTES);
        self.buffer.shrink_to(READ_BYTES);
        if self.listings.values().map(|listing| listing.names.len()).sum::<usize>() > LISTING_LIMIT {
            self.listings.clear();
        }
    }
}

/// One reading of one row.
pub(super) struct Reading<'r, 's, 't> {
    pub row: &'static Row,
    pub roots: &'r Roots,
    pub asked: &'r Mutex<Vec<Mount>>,
    pub spare_files: &'r Spare,
    pub spare_dirs: &'r Spare,
    pub kept: &'r mut Kept,
    pub scratch: &'r mut Scratch,
    pub sink: &'s mut Sink<'t>,
    pub tally: Tally,
}

impl Reading<'_, '_, '_> {
    /// Reads what one source of the row leads to.
    pub(super) fn source(&mut self, source: &Source, opened: &Opened) -> ControlFlow<()> {
        match opened {
            Opened::Fixed(files) => files.iter().try_for_each(|(path, file)| {
                let read = file.as_ref().map_err(|errno| *errno);
                match read.and_then(|file| self.read(file.as_fd(), End::Nothing)) {
                    Ok(text) => self.give_text(path.as_bytes(), text),
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
        let Some((component, rest)) = components.split_first() else { return ControlFlow::Continue(()) };
        match component {
            Component::Fixed(names) if rest.is_empty() => {
                let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
                return self.files(source, &path, identity, &names);
            }
            Component::Fixed(names) if names.len() == 1 => {
                return self.below(source, join(&path, names[0].as_bytes()), identity, rest);
            }
            // A choice among directories is listed as a wildcard is: one that is missing is not asked for each file.
            _ => {}
        }
        // What a class of devices has is looked for each time, what one device has not.
        let a_devices = identity != 0;
        if a_devices && self.kept.is_barren(&path, identity) {
            return ControlFlow::Continue(());
        }
        if a_devices && source.kind == Kind::TextOfSeveral && self.is_alone(source, &path) {
            return ControlFlow::Continue(());
        }
        let names = self.list(source, &path)?;
        let chosen = |name: &[u8]| match component {
            Component::Fixed(names) => names.iter().any(|chosen| chosen.as_bytes() == name),
            Component::Wild(wild) => wild.matches(name),
        };
        let mut matching = names.iter().filter(|(name, _)| chosen(name)).peekable();
        if a_devices && !names.is_empty() && matching.peek().is_none() {
            self.kept.is_now_barren(path, identity);
            return ControlFlow::Continue(());
        }
        if rest.is_empty() {
            let names: Vec<&[u8]> = matching.map(|(name, _)| &**name).collect();
            return self.files(source, &path, identity, &names);
        }
        matching.try_for_each(|(name, inode)| {
            self.below(source, join(&path, name), identity.rotate_left(32) ^ inode, rest)
        })
    }

    /// Whether a directory has one directory in it, as its links tell: its name, its own `.`, and one `..`. A file system
    /// that does not count links has one.
    fn is_alone(&self, source: &Source, path: &[u8]) -> bool {
        let stat =
            self.dir(source).and_then(|root| rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW));
        stat.is_ok_and(|stat| stat.st_nlink == 3)
    }

    /// The names in a directory with their inodes, sorted; none when it cannot be listed.
    fn list(&mut self, source: &Source, path: &[u8]) -> ControlFlow<(), Rc<[Entry]>> {
        let key = (source.root, path.to_vec());
        let listing = match self.scratch.listings.get(&key) {
            Some(listing) => listing.clone(),
            None => {
                // Not held: the kernel lists a directory that went and came back as empty through the old descriptor.
                let listed = self.open(source, path, OFlags::DIRECTORY).and_then(|dir| names(dir.as_fd()));
                let (names, truncated) = match listed {
                    Ok(listed) => listed,
                    Err(errno) if gone(errno) => (Vec::new(), false),
                    Err(errno) => {
                        self.give_errno(&join(source.root.name().as_bytes(), path), errno)?;
                        return ControlFlow::Continue(Rc::default());
                    }
                };
                let listing = Listing { names: names.into(), truncated };
                self.scratch.listings.insert(key, listing.clone());
                listing
            }
        };
        self.tally.truncated |= listing.truncated;
        self.tally.names += listing.names.len();
        if self.tally.names > NAMES_LIMIT {
            self.tally.truncated = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(listing.names)
    }

    /// The files of one directory that a pattern led to.
    fn files(&mut self, source: &Source, path: &[u8], identity: u64, names: &[&[u8]]) -> ControlFlow<()> {
        // udev replaces its files by renaming, and processes come and go: only what is below sysfs is kept.
        let keeps = source.root == Root::Sys;
        let mut dir = if keeps { self.kept.take(path, identity) } else { Dir::default() };
        let several = names.len() > 1;
        let mut name = join(source.root.name().as_bytes(), path);
        if !path.is_empty() {
            name.push(b'/');
        }
        let prefix = name.len();
        let flow = names.iter().try_for_each(|file| {
            name.truncate(prefix);
            name.extend_from_slice(file);
            let read = match source.kind {
                Kind::Text | Kind::TextOfSeveral if keeps => {
                    self.kept_file(source, &mut dir, &name, prefix, several)
                }
                Kind::Text | Kind::TextOfSeveral => {
                    let opened = self.open(source, below_root(source, &name), OFlags::NOFOLLOW);
                    Some(opened.and_then(|file| self.read(file.as_fd(), End::Short)))
                }
                kind => return self.entry(source, kind, &name),
            };
            read.map_or(ControlFlow::Continue(()), |read| self.give_read(&name, read))
        });
        if keeps {
            self.kept.put(path, dir);
        }
        flow
    }

    /// What is taken of a path besides text.
    fn entry(&mut self, source: &Source, kind: Kind, name: &[u8]) -> ControlFlow<()> {
        let path = below_root(source, name);
        let root = self.dir(source);
        let target;
        let content = match kind {
            Kind::Entries => root
                .and_then(|root| rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW))
                .map(|stat| Content::Entries(stat.st_size as u64)),
            _ => {
                target = root.and_then(|root| rustix::fs::readlinkat(root, path, Vec::new()));
                target.as_ref().map(|target| Content::Link(target.as_bytes())).map_err(|errno| *errno)
            }
        };
        match content {
            Ok(content) => {
                self.count()?;
                self.tally.read = true;
                self.send(name, content)
            }
            Err(errno) => self.give_read(name, Err(errno)),
        }
    }

    /// Reads a file, whose name in its directory begins at `at`, and keeps what the next reading can use; none when it
    /// was not there a few readings ago.
    fn kept_file(
        &mut self,
        source: &Source,
        dir: &mut Dir,
        name: &[u8],
        at: usize,
        several: bool,
    ) -> Option<Result<Text, Errno>> {
        let (path, file) = (below_root(source, &name[..at - 1]), &name[at..]);
        let round = self.kept.round();
        match dir.files.get_mut(file) {
            _ if round < dir.missing_until => return None,
            Some(Known::Missing { until }) if round < *until => return None,
            Some(Known::Held { file, round: read_in }) => {
                let read = self.read(file.descriptor.as_fd(), End::Short);
                // A name may stand for something new by now: look again when the old is gone.
                if !read.is_err_and(gone) {
                    *read_in = round;
                    return Some(read);
                }
            }
            _ => {}
        }
        dir.files.remove(file);
        if several && dir.identity != 0 && dir.held.is_none() {
            match self.hold_dir(source, path) {
                // None of its files is there, and each need not be asked for.
                Err(errno) if gone(errno) => {
                    dir.missing_until = self.kept.look_again(path);
                    return None;
                }
                held => dir.held = held.unwrap_or_default(),
            }
        }
        let in_held = dir
            .held
            .as_ref()
            .map(|held| rustix::fs::openat(&held.descriptor, file, READ | OFlags::NOFOLLOW, Mode::empty()));
        let opened = match in_held {
            // Through its old descriptor, nothing is found in a directory that went and came back.
            Some(Err(Errno::NOENT)) | None => {
                let opened = self.open(source, below_root(source, name), OFlags::NOFOLLOW);
                dir.held = dir.held.take().filter(|_| opened.is_err());
                opened
            }
            Some(opened) => opened,
        };
        let read = opened.and_then(|descriptor| {
            let read = self.read(descriptor.as_fd(), End::Short);
            // A read that fails is held too: many attributes of a device that is down fail each time.
            if let Some(permit) = self.spare_files.take().filter(|_| !read.is_err_and(gone)) {
                dir.files
                    .insert(file.to_vec(), Known::Held { file: Held { descriptor, _permit: permit }, round });
            }
            read
        });
        if read == Err(Errno::NOENT) {
            dir.files.insert(file.to_vec(), Known::Missing { until: self.kept.look_again(name) });
        }
        Some(read)
    }

    /// Opens a directory to open files in it; none when no more may be held.
    fn hold_dir(&self, source: &Source, path: &[u8]) -> Result<Option<Held>, Errno> {
        let Some(permit) = self.spare_dirs.take() else { return Ok(None) };
        let descriptor = self.open(source, path, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Some(Held { descriptor, _permit: permit }))
    }

    fn give_read(&mut self, name: &[u8], read: Result<Text, Errno>) -> ControlFlow<()> {
        match read {
            Ok(text) => self.give_text(name, text),
            Err(errno) if gone(errno) => ControlFlow::Continue(()),
            Err(errno) => self.give_errno(name, errno),
        }
    }

    /// statfs of each mount point below the host root.
    fn mounts(&mut self, mountinfo: &Result<OwnedFd, Errno>) -> ControlFlow<()> {
        let read =
            mountinfo.as_ref().map_err(|errno| *errno).and_then(|file| self.read(file.as_fd(), End::Nothing));
        let Text { mut length, truncated } = match read {
            Ok(text) => text,
            Err(errno) => return self.give_errno(b"proc/1/mountinfo", errno),
        };
        let text = std::mem::take(&mut self.scratch.buffer);
        if truncated {
            // Half of a mount point may be another path.
            length = text[..length].iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
            self.tally.truncated = true;
        }
        let hung = lock(self.asked).clone();
        let flow = mounts(&text[..length]).into_iter().try_for_each(|mount| {
            let numbers = match hung.iter().any(|hung| mount.may_hang_with(hung)) {
                true => Err(Errno::INPROGRESS),
                false => self.ask(&mount),
            };
            self.give_file_system(&mount.point, numbers)
        });
        self.scratch.buffer = text;
        flow
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

    /// Fills the buffer with a file from its start.
    fn read(&mut self, file: BorrowedFd<'_>, end: End) -> Result<Text, Errno> {
        let limit = self.row.file_bytes;
        let buffer = &mut self.scratch.buffer;
        let mut length = 0;
        loop {
            // One byte more than the limit tells a file that ends there from one that goes on.
            let room = (limit + 1 - length).min(READ_BYTES);
            if buffer.len() < length + room {
                buffer.resize(length + room, 0);
            }
            let free = &mut buffer[length..length + room];
            let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *free, length as u64))?;
            length += read;
            if length > limit {
                return Ok(Text { length: limit, truncated: true });
            }
            if read == 0 || (end == End::Short && read < room) {
                return Ok(Text { length, truncated: false });
            }
        }
    }

    /// Hands over what the buffer holds, in parts.
    fn give_text(&mut self, name: &[u8], Text { length, truncated }: Text) -> ControlFlow<()> {
        self.count()?;
        self.tally.read = true;
        self.tally.truncated |= truncated;
        let last = length.saturating_sub(1) / PART_BYTES;
        (0..=last).try_for_each(|part| {
            let end = length.min((part + 1) * PART_BYTES);
            let content = Content::Text(&self.scratch.buffer[part * PART_BYTES..end]);
            (self.sink)(Item::File { name, content, truncated: truncated && part == last })
        })
    }

    fn give_errno(&mut self, name: &[u8], errno: Errno) -> ControlFlow<()> {
        self.count()?;
        self.note(errno);
        self.send(name, Content::Errno(errno))
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

    fn send(&mut self, name: &[u8], content: Content<'_>) -> ControlFlow<()> {
        (self.sink)(Item::File { name, content, truncated: false })
    }

    fn give_file_system(&mut self, name: &[u8], numbers: Result<StatFs, Errno>) -> ControlFlow<()> {
        self.count()?;
        let mut answer = v1::FileSystem::default();
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
        (self.sink)(Item::FileSystem { name, numbers: answer })
    }
}

/// A file that was read: what of the buffer is its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Text {
    length: usize,
    /// Whether the row's limit cut it.
    truncated: bool,
}

/// How a file's end is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By a read that gives nothing: procfs gives about a page a read, however much there is.
    Nothing,
    /// By a read that gives less than was asked: an attribute below sysfs, what procfs tells of a process and an ordinary
    /// file, as udev's are, are each shown whole.
    Short,
}

/// A name on the wire as a path below its root.
fn below_root<'n>(source: &Source, name: &'n [u8]) -> &'n [u8] {
    name.get(source.root.name().len() + 1..).unwrap_or_default()
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
