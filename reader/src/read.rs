//! One read of one row: expanding patterns, opening files, reading within limits, writing chunks.
//!
//! A file's name is here what it is on the wire: the name of its root and the path below it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use keyhole_policy::pattern::{Component, matches};
use keyhole_policy::pipes::{CHUNK_BYTES, SLOTS_PER_CLASS};
use keyhole_policy::{Kind, Outcome, Root, Row, Source};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatFs, fstatfs, openat, readlinkat, statat};
use rustix::io::{Errno, pread, retry_on_intr};

use crate::cache::{self, Cache, Device, File, SharedState, hash, retry_after};
use crate::host::{FixedFile, OpenSource, Opened, READ, Roots, exists};
use crate::mounts::{Mount, mounts};
use crate::output::{BrokerGone, Content, Output};
use crate::view::View;

/// The most names that are read of one directory.
pub const LISTING_LIMIT: usize = 65_536;

/// The most names that are read of all directories in one read of a row.
pub const NAMES_LIMIT: usize = 4 * LISTING_LIMIT;

/// The longest path that the kernel takes.
const PATH_MAX: usize = 4096;

/// When this many readers are stuck in mounts, the last one reads only mounts that cannot hang.
const MAX_STUCK_IN_MOUNTS: usize = SLOTS_PER_CLASS - 2;

/// Another reader hangs in it; or this one does, if no further result follows. No system call of a reader fails with this
/// errno or the next two: the API gives them a meaning of their own.
const HANGS: Errno = Errno::INPROGRESS;

/// Not read, because the mount's server or a mount above it hangs.
const SERVER_HANGS: Errno = Errno::ALREADY;

/// Not read, because [`MAX_STUCK_IN_MOUNTS`] readers are stuck in other mounts.
const MANY_HANG: Errno = Errno::TOOMANYREFS;

/// Among how many of the next cached files a name is looked for. Cached files and names have the same order, so it is the
/// first one unless files have disappeared. The limit keeps the search for a new name short; if more files disappear
/// between two reads, those that follow are opened again.
const CACHE_LOOKAHEAD: usize = 64;

/// A name in a directory, and its inode.
type Entry = (Vec<u8>, u64);

/// Why a read ends before its last file.
#[derive(Debug)]
pub enum Stop {
    /// The broker has closed its end of the pipe.
    BrokerGone,
    /// A limit of the row was reached.
    Limit,
}

impl From<BrokerGone> for Stop {
    fn from(_: BrokerGone) -> Self {
        Stop::BrokerGone
    }
}

/// Whether to continue with the next file.
type Flow = Result<(), Stop>;

/// The names in a directory.
type Entries = Result<Rc<[Entry]>, Stop>;

/// The kernel's result for one path, unless the whole read ends.
type ReadResult<T> = Result<Result<T, Errno>, Stop>;

/// Counts of one read, from which its outcome follows.
#[derive(Debug, Default)]
pub struct Counters {
    entries: usize,
    names: usize,
    read: bool,
    denied: bool,
    /// A directory of a wildcard was listed.
    listed: bool,
    truncated: bool,
    /// Devices, or files opened before the sandbox, that the row's limit left out.
    pub left_out: usize,
    /// Something was not read, because another reader hangs in it.
    pub skipped: bool,
}

impl Counters {
    /// The outcome of the query.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self { truncated: true, .. } => Outcome::Truncated,
            Self { read: true, .. } => Outcome::Ok,
            Self { skipped: true, .. } => Outcome::Stuck,
            Self { denied: true, .. } => Outcome::Denied,
            Self { listed: true, .. } => Outcome::Empty,
            _ => Outcome::Absent,
        }
    }
}

/// Memory that a reader reuses from one query to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Holds a chunk of a file.
    buffer: Vec<u8>,
    /// Directories that were listed for an earlier query of the same request: many queries list the same ones.
    listings: HashMap<Vec<u8>, Option<Listing>>,
}

/// The names in a directory, sorted, and whether there were too many.
type Listing = (Rc<[Entry]>, bool);

impl Scratch {
    /// Ends a request: the next one lists directories again.
    pub fn end_request(&mut self) {
        self.listings = HashMap::new();
    }

    /// Ends a query: drops the listings if they are large, as after a query of all processes.
    pub fn trim(&mut self) {
        if self.listings.values().flatten().map(|(names, _)| names.len()).sum::<usize>() > LISTING_LIMIT {
            self.end_request();
        }
    }
}

/// One read of one row.
pub struct RowRead<'r, 'o> {
    /// The row.
    pub row: &'static Row,
    /// The open roots.
    pub roots: &'r Roots,
    /// Whose /proc and /sys these are.
    pub view: &'r View,
    /// The page that the readers of the class share.
    pub shared: &'r Rc<SharedState>,
    /// What other readers of the class are stuck in.
    pub hung: &'r [cache::InProgress],
    /// Memory that is reused.
    pub scratch: &'r mut Scratch,
    /// Where the answer is written.
    pub out: &'r mut Output<'o>,
    /// Counts so far.
    pub counters: Counters,
}

impl RowRead<'_, '_> {
    /// Reads sources of the row that have [their devices](keyhole_policy::pattern::devices) in common, device by device:
    /// when a limit is reached, the devices before it are complete.
    pub fn read_sources(&mut self, group: &mut [OpenSource]) -> Flow {
        let [OpenSource { source, devices: Some(devices), .. }, ..] = *group else {
            return group.iter_mut().try_for_each(|source| self.read_source(source));
        };
        let (parent, component) = devices.rsplit_once('/').unwrap_or((".", devices));
        let dir = join(source.root.name().as_bytes(), parent.as_bytes());
        let dir = dir.strip_suffix(b"/.").unwrap_or(&dir);
        let listed = self.list(source, dir)?;
        group.iter_mut().for_each(|source| source.cache.round += 1);
        let mut found = listed.iter().filter(|(name, _)| matches(component.as_bytes(), name));
        while let Some((name, inode)) = found.next() {
            let name = join(dir, name);
            for OpenSource { source, opened, cache, .. } in &mut *group {
                let Opened::ByName(components) = opened else { continue };
                let rest = &components[devices.split('/').count()..];
                if let Err(stop) = self.read_device(source, cache, &name, *inode, rest) {
                    self.counters.left_out += 1 + found.count();
                    // Marks the device that the limit cut: the answer has some of its files, or none.
                    self.out.file(&name, Content::Errno(Errno::FBIG), false)?;
                    return Err(stop);
                }
            }
        }
        group.iter_mut().for_each(|source| source.cache.end_round());
        Ok(())
    }

    fn read_source(&mut self, OpenSource { source, opened, cache, .. }: &mut OpenSource) -> Flow {
        match opened {
            Opened::Fixed(files) => {
                let mut files = files.iter_mut();
                while let Some(file) = files.next() {
                    self.read_fixed(file).inspect_err(|_| self.counters.left_out += 1 + files.len())?;
                }
                Ok(())
            }
            Opened::ByName(components) => {
                cache.round += 1;
                self.read_device(source, cache, source.root.name().as_bytes(), 0, components)
            }
            Opened::ProbeDirectories(mountinfo) => self.stat_probe_directories(mountinfo),
            Opened::Mounts(mountinfo) => self.stat_mounts(mountinfo),
        }
    }

    /// Reads a file that was opened before the sandbox.
    fn read_fixed(&mut self, file: &mut FixedFile) -> Flow {
        let read = match &file.opened {
            Ok(opened) => self.unless_hung(&file.name, |this| {
                this.copy_content(&file.name, opened.as_fd(), EndOfFile::EmptyRead)
            })?,
            Err(errno) => Err(*errno),
        };
        // The kernel removes the files of a module that is unloaded: the next reader looks for this one again.
        file.removed |=
            file.opened.is_ok() && read.is_err_and(|errno| is_absent(errno) || errno == Errno::IO);
        read.or_else(|errno| {
            // The kernel returns EIO for an open file that was removed: report it as absent, not as a failed device.
            let removed = errno == Errno::IO && !exists(self.roots, self.view, &file.name);
            self.write_errno(&file.name, if removed { Errno::NOENT } else { errno })
        })
    }

    /// Reads what the rest of a pattern matches below a device, unless nothing was found there a few reads ago.
    fn read_device(
        &mut self,
        source: &Source,
        cache: &mut Cache,
        name: &[u8],
        inode: u64,
        rest: &[Component],
    ) -> Flow {
        let round = cache.round;
        // Only files below sysfs are cached: udev replaces its files by renaming, and processes come and go.
        let cached = if source.root == Root::Sys { cache.device(name, inode) } else { None };
        let mut uncached = Device::new(name);
        let device = cached.unwrap_or(&mut uncached);
        if round < device.absent_until {
            return Ok(());
        }
        let (before, mut found) = (self.counters.entries, Vec::new());
        let mut list = |dir: &[u8]| match source.kind {
            Kind::TextIfSeveralDirectories if self.has_one_directory(source, dir) => Ok(Rc::default()),
            _ => self.list(source, dir),
        };
        walk(name.to_vec(), inode, rest, usize::MAX, &mut list, &mut found)?;
        let mut files = std::mem::take(&mut device.files).into_iter();
        for (name, inodes) in found {
            // It is most often the next one. Those that are skipped are no longer matched, and are closed.
            let at = files.as_slice().iter().take(CACHE_LOOKAHEAD).position(|(cached, _)| *cached == name);
            let file = at.and_then(|at| Some(files.nth(at)?.1)).filter(|file| file.inodes == inodes);
            self.read_path(source, device, name, File { inodes, ..file.unwrap_or_default() }, round)?;
        }
        if self.counters.entries == before && device.files.iter().all(|(_, file)| round < file.absent_until) {
            (device.absent_until, device.files) = (retry_after(round, name), Vec::new());
        }
        Ok(())
    }

    /// Reads what the source wants of a path, unless it was absent a few reads ago.
    fn read_path(
        &mut self,
        source: &Source,
        device: &mut Device,
        name: Vec<u8>,
        mut file: File,
        round: u64,
    ) -> Flow {
        if file.absent_until <= round {
            let read = self.unless_hung(&name, |this| match source.kind {
                Kind::Text | Kind::TextIfSeveralDirectories => {
                    this.read_file(source, device, &mut file, &name)
                }
                kind => this.read_metadata(source, kind, &name),
            })?;
            match read {
                // A device without a value now may have one at the next read.
                Err(Errno::NODEV) => file.absent_until = round,
                Err(errno) if is_absent(errno) => file.absent_until = retry_after(round, &name),
                read => read.or_else(|errno| self.write_errno(&name, errno))?,
            }
        }
        if file.open.is_some() || round <= file.absent_until {
            device.files.push((name, file));
        }
        Ok(())
    }

    /// Reads a file, and caches its descriptor, or else that of the device's directory.
    fn read_file(
        &mut self,
        source: &Source,
        device: &mut Device,
        file: &mut File,
        name: &[u8],
    ) -> ReadResult<()> {
        if let Some(open) = file.open.take() {
            let read = self.copy_content(name, open.file.as_fd(), EndOfFile::ShortRead)?;
            // If the old file is gone, there may be a new one of the same name: continue below.
            if !read.is_err_and(is_absent) {
                file.open = Some(open);
                return Ok(read);
            }
        }
        let opened = match (&device.dir, name.get(device.name_length + 1..)) {
            (Some(dir), Some(path)) => openat(dir, path, READ | OFlags::NOFOLLOW, Mode::empty()),
            _ => self.open(source, name, OFlags::NOFOLLOW),
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(errno) => return Ok(Err(errno)),
        };
        let read = self.copy_content(name, opened.as_fd(), EndOfFile::ShortRead)?;
        // The descriptor is cached even if the read fails: many attributes of a device that is down fail each time.
        if source.root == Root::Sys && !read.is_err_and(is_absent) {
            file.open = self
                .roots
                .keep_if_budget_allows(opened)
                .ok()
                .and_then(|opened| self.shared.try_cache(opened));
            if file.open.is_none() && device.dir.is_none() {
                let dir = self.open(source, &name[..device.name_length], OFlags::PATH | OFlags::DIRECTORY);
                device.dir = dir.and_then(|dir| self.roots.keep_if_budget_allows(dir)).ok();
            }
        }
        Ok(read)
    }

    /// Reads the target of a link, or the number of entries of a directory.
    fn read_metadata(&mut self, source: &Source, kind: Kind, name: &[u8]) -> ReadResult<()> {
        let (root, path) = (self.root(source), below_root(source, name));
        let (entries, target);
        let content = if kind == Kind::Entries {
            entries = root.and_then(|root| statat(root, path, AtFlags::SYMLINK_NOFOLLOW));
            entries.map(|stat| Content::Entries(stat.st_size as u64))
        } else {
            target = root.and_then(|root| readlinkat(root, path, Vec::new()));
            target.as_ref().map(|target| Content::Link(target.as_bytes())).map_err(|errno| *errno)
        };
        let content = match content {
            Ok(content) => content,
            Err(errno) => return Ok(Err(errno)),
        };
        self.count_entry()?;
        self.counters.read = true;
        Ok(Ok(self.out.file(name, content, false)?))
    }

    /// Whether a directory contains exactly one directory. It then has three links: its name, its own `.`, and the `..`
    /// of the other. (A file system that does not count links always has one.)
    fn has_one_directory(&self, source: &Source, name: &[u8]) -> bool {
        let stat = self
            .root(source)
            .and_then(|root| statat(root, below_root(source, name), AtFlags::SYMLINK_NOFOLLOW));
        stat.is_ok_and(|stat| stat.st_nlink == 3)
    }

    /// The names in a directory; none if it cannot be listed.
    fn list(&mut self, source: &Source, name: &[u8]) -> Entries {
        let listing = match self.scratch.listings.get(name) {
            Some(listing) => listing.clone(),
            None => {
                // Its descriptor is not cached: of a directory that was removed and made again the old one lists nothing.
                let listed = self.unless_hung(name, |this| {
                    Ok(this.open(source, name, OFlags::DIRECTORY).and_then(|dir| entries(dir.as_fd())))
                })?;
                let listing = match listed {
                    Ok(listing) => Some(listing),
                    Err(errno) if is_absent(errno) => None,
                    Err(errno) => {
                        self.write_errno(name, errno)?;
                        return Ok(Rc::default());
                    }
                };
                self.scratch.listings.insert(name.to_vec(), listing.clone());
                listing
            }
        };
        self.counters.listed |= listing.is_some();
        let (names, truncated) = listing.unwrap_or_default();
        self.counters.truncated |= truncated;
        self.counters.names += names.len();
        if self.counters.names > NAMES_LIMIT {
            self.counters.truncated = true;
            return Err(Stop::Limit);
        }
        Ok(names)
    }

    /// statfs of each mount point below the host root.
    fn stat_mounts(&mut self, mountinfo: &Result<OwnedFd, Errno>) -> Flow {
        const NAME: &[u8] = b"proc/1/mountinfo";
        let mut mounts = match self.read_mounts(NAME, mountinfo)? {
            Ok(mounts) => mounts,
            Err(errno) => return self.write_errno(NAME, errno),
        };
        let all = mounts.len();
        // The kernel takes no longer path.
        mounts.retain(|mount| mount.point.len() <= PATH_MAX);
        self.counters.truncated |= mounts.len() < all;
        let Ok(root) = self.roots.dir(Root::Rootfs) else { return Ok(()) };
        // "/a" is "./a" below the root.
        self.statfs(mounts.iter().map(|mount| (mount, root, [b".", &*mount.point].concat())))
    }

    /// statfs of each probe directory, opened by name each time: an open one would keep its file system busy.
    fn stat_probe_directories(&mut self, mountinfo: &Result<OwnedFd, Errno>) -> Flow {
        const NAME: &[u8] = b"self/mountinfo";
        let mounts = self.read_mounts(NAME, mountinfo)?.unwrap_or_default();
        let mount_of = |path: &Vec<u8>| {
            let at = Mount { point: path.clone(), may_hang: true, ..Mount::default() };
            let is_on = |mount: &&Mount| mount.point == *path || at.parents().any(|dir| dir == mount.point);
            let mount = mounts.iter().filter(is_on).max_by_key(|mount| mount.point.len()).cloned();
            Mount { point: path.clone(), ..mount.unwrap_or(at) }
        };
        let mut probe_directories: Vec<Mount> = self.roots.probe_directories.iter().map(mount_of).collect();
        probe_directories.sort_by_key(|probe_directory| probe_directory.may_hang);
        // The `.` follows a probe directory that is a symbolic link.
        self.statfs(
            probe_directories
                .iter()
                .map(|probe_directory| (probe_directory, CWD, join(&probe_directory.point, b"."))),
        )
    }

    /// The mounts of a mountinfo.
    fn read_mounts(&mut self, name: &[u8], mountinfo: &Result<OwnedFd, Errno>) -> ReadResult<Vec<Mount>> {
        let read = self.unless_hung(name, |this| match mountinfo {
            Ok(file) => Ok(this.read_whole(file.as_fd())),
            Err(errno) => Ok(Err(*errno)),
        })?;
        Ok(read.map(|(mut text, truncated)| {
            if truncated {
                // A mount point that was cut off could be the path of another one.
                text.truncate(text.iter().rposition(|&byte| byte == b'\n').unwrap_or(0));
            }
            self.counters.truncated |= truncated;
            mounts(&text)
        }))
    }

    /// statfs of mounts, except those that hang together with what another reader is stuck in, and those that could hang
    /// the last reader.
    fn statfs<'m>(&mut self, mounts: impl Iterator<Item = (&'m Mount, BorrowedFd<'m>, Vec<u8>)>) -> Flow {
        const FOR_STATFS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
        let mut hung: Vec<u64> = self.hung.iter().flatten().copied().filter(|hash| *hash != 0).collect();
        for (mount, dir, path) in mounts {
            let hashes = mount.hashes();
            let skipped = if hung.contains(&hashes[0]) {
                Some(HANGS)
            } else if hashes.iter().any(|hash| hung.contains(hash))
                || mount.parents().any(|dir| hung.contains(&hash(dir)))
            {
                // Mounts below this one are skipped too.
                hung.push(hashes[0]);
                Some(SERVER_HANGS)
            } else {
                (mount.may_hang && self.hung.len() >= MAX_STUCK_IN_MOUNTS).then_some(MANY_HANG)
            };
            self.counters.skipped |= skipped.is_some();
            let numbers = match skipped {
                Some(errno) => Err(errno),
                None => {
                    if mount.may_hang && !mount.is_overlay() {
                        // If this mount hangs, the broker has the results so far, and knows which mount it is.
                        self.out.file_system(&mount.point, Err(HANGS))?;
                        self.out.flush()?;
                    }
                    self.shared.while_published(hashes, || {
                        openat(dir, &*path, FOR_STATFS, Mode::empty()).and_then(fstatfs)
                    })
                }
            };
            self.write_file_system(&mount.point, numbers)?;
        }
        Ok(())
    }

    /// Runs `act`, which may hang, and publishes the name while it runs; skips it if another reader hangs there.
    fn unless_hung<T>(&mut self, name: &[u8], act: impl FnOnce(&mut Self) -> ReadResult<T>) -> ReadResult<T> {
        let hashes = [hash(name), 0, 0];
        if self.hung.contains(&hashes) {
            self.counters.skipped = true;
            return Ok(Err(HANGS));
        }
        self.shared.while_published(hashes, || act(self))
    }

    fn root(&self, source: &Source) -> Result<BorrowedFd<'_>, Errno> {
        self.roots.dir(source.root)
    }

    fn open(&self, source: &Source, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        openat(self.root(source)?, below_root(source, name), READ | flags, Mode::empty())
    }

    /// Writes the content of a file from its start, chunk by chunk. An error at the start is returned, for the caller to
    /// write or to ignore; a file that fails later ends with its errno.
    fn copy_content(&mut self, name: &[u8], file: BorrowedFd<'_>, end: EndOfFile) -> ReadResult<()> {
        let mut offset = 0;
        loop {
            let chunk = match self.read_chunk(file, offset, end) {
                Ok(chunk) => chunk,
                Err(errno) if offset == 0 => return Ok(Err(errno)),
                Err(errno) => {
                    self.note_errno(errno);
                    self.out.file(name, Content::Errno(errno), false)?;
                    return Ok(Ok(()));
                }
            };
            if offset == 0 {
                self.count_entry()?;
                self.counters.read = true;
            }
            offset += chunk.length;
            self.counters.truncated |= chunk.truncated;
            let text = Content::Text(&self.scratch.buffer[..chunk.length]);
            self.out.file(name, text, chunk.truncated)?;
            if chunk.last {
                return Ok(Ok(()));
            }
        }
    }

    /// Reads at most [`CHUNK_BYTES`] of a file from `offset` on into the buffer.
    fn read_chunk(&mut self, file: BorrowedFd<'_>, offset: usize, end: EndOfFile) -> Result<Chunk, Errno> {
        let left = self.row.file_bytes - offset;
        // One byte more than the limit: whether the file ends there or continues.
        let wanted = CHUNK_BYTES.min(left + 1);
        self.scratch.buffer.resize(CHUNK_BYTES, 0);
        let (mut length, mut last) = (0, false);
        while length < wanted && !last {
            let buffer = &mut self.scratch.buffer[length..wanted];
            let asked = buffer.len();
            let read = retry_on_intr(|| pread(file, &mut *buffer, (offset + length) as u64))?;
            length += read;
            last = read == 0 || (end == EndOfFile::ShortRead && read < asked);
        }
        let truncated = length > left;
        Ok(Chunk { length: length.min(left), last: last || truncated, truncated })
    }

    /// Returns a whole file, and whether the row's limit cut it: for mountinfo, which is parsed.
    fn read_whole(&mut self, file: BorrowedFd<'_>) -> Result<(Vec<u8>, bool), Errno> {
        let mut text = Vec::new();
        loop {
            let chunk = self.read_chunk(file, text.len(), EndOfFile::EmptyRead)?;
            text.extend_from_slice(&self.scratch.buffer[..chunk.length]);
            if chunk.last {
                return Ok((text, chunk.truncated));
            }
        }
    }

    fn write_errno(&mut self, name: &[u8], errno: Errno) -> Flow {
        self.count_entry()?;
        self.note_errno(errno);
        Ok(self.out.file(name, Content::Errno(errno), false)?)
    }

    fn note_errno(&mut self, errno: Errno) {
        match errno {
            Errno::ACCESS | Errno::PERM => self.counters.denied = true,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => self.counters.truncated = true,
            _ => {}
        }
    }

    /// Counts one more entry; an error if the row's limit is reached.
    fn count_entry(&mut self) -> Flow {
        if self.counters.entries >= self.row.entries {
            self.counters.truncated = true;
            return Err(Stop::Limit);
        }
        self.counters.entries += 1;
        Ok(())
    }

    fn write_file_system(&mut self, name: &[u8], numbers: Result<StatFs, Errno>) -> Flow {
        self.count_entry()?;
        match numbers {
            Ok(_) => self.counters.read = true,
            Err(errno) => self.note_errno(errno),
        }
        Ok(self.out.file_system(name, numbers)?)
    }
}

/// The part of a file that is in the buffer.
struct Chunk {
    length: usize,
    /// Whether the file ends with it, or the row's limit does.
    last: bool,
    /// Whether the row's limit cut it.
    truncated: bool,
}

/// How the end of a file is detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndOfFile {
    /// By a read that returns nothing: a read of procfs returns about a page, even if more follows.
    EmptyRead,
    /// By a read that returns less than was asked for: one read returns the whole of a sysfs attribute, of a procfs file
    /// of a process, and of an ordinary file such as udev's.
    ShortRead,
}

/// The path below its root of a name on the wire.
pub fn below_root<'n>(source: &Source, name: &'n [u8]) -> &'n [u8] {
    name.get(source.root.name().len() + 1..).unwrap_or(b".")
}

/// Whether an errno means that there is no such file: none of this name, none any more, or something else than a file.
pub fn is_absent(errno: Errno) -> bool {
    let is_no_file = matches!(errno, Errno::ISDIR | Errno::LOOP | Errno::SPIPE);
    is_no_file || keyhole_policy::errno::is_absent(errno.raw_os_error())
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, b"/", name].concat()
}

/// Expands components of a pattern below `name`, to at most `limit` names, whether or not they exist. With each comes a
/// combination of `inodes` and the inodes that the wildcards matched.
pub fn walk(
    name: Vec<u8>,
    inodes: u64,
    components: &[Component],
    limit: usize,
    list: &mut dyn FnMut(&[u8]) -> Entries,
    found: &mut Vec<Entry>,
) -> Flow {
    let Some((component, rest)) = components.split_first() else {
        found.extend((found.len() < limit).then_some((name, inodes)));
        return Ok(());
    };
    if component.names.is_empty() {
        let listed = list(&name)?;
        let mut entries = listed.iter().filter(|(entry, _)| matches(component.text.as_bytes(), entry));
        return entries.try_for_each(|(entry, inode)| {
            walk(join(&name, entry), inodes.rotate_left(32) ^ inode, rest, limit, list, found)
        });
    }
    component
        .names
        .iter()
        .try_for_each(|fixed| walk(join(&name, fixed.as_bytes()), inodes, rest, limit, list, found))
}

/// Lists an open directory.
pub fn entries(dir: BorrowedFd<'_>) -> Result<Listing, Errno> {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    let mut listed = RawDir::new(dir, buffer.spare_capacity_mut());
    let (mut entries, mut truncated) = (Vec::new(), false);
    while let Some(entry) = listed.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        truncated = entries.len() >= LISTING_LIMIT;
        if truncated {
            break;
        }
        entries.push((name.to_vec(), entry.ino()));
    }
    entries.sort_unstable();
    Ok((entries.into(), truncated))
}
