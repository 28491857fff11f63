//! One read of one row: following patterns, opening, reading within limits, writing chunks.
//!
//! Whatever is read has the name here that it has on the wire: its root's, and its path below it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use keyhole_policy::pattern::{Component, matches};
use keyhole_policy::pipes::{CHUNK_BYTES, SLOTS_PER_CLASS};
use keyhole_policy::{Kind, Outcome, Root, Row, Source};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatFs, fstatfs, openat, readlinkat, statat};
use rustix::io::{Errno, pread, retry_on_intr};

use crate::cache::{self, Cache, Device, File, Shared, hash, retry_after};
use crate::host::{Fixed, OpenSource, Opened, READ, Roots, is_there};
use crate::mounts::{Mount, mounts};
use crate::output::{Content, Gone, Output};
use crate::view::View;

/// The most names taken of one directory.
pub const LISTING_LIMIT: usize = 65_536;

/// The most names taken of all directories in one read.
pub const NAMES_LIMIT: usize = 4 * LISTING_LIMIT;

/// The longest path that a system call takes: PATH_MAX.
const PATH_BYTES: usize = 4096;

/// With so many readers stuck in mounts no other is risked: the one that is left reads what cannot hang.
const HUNG_MOUNTS: usize = SLOTS_PER_CLASS - 2;

/// Another reader hangs in it, or this one does if nothing else follows. These errnos are the contract's own: no system
/// call of a reader fails with them.
const HANGS: Errno = Errno::INPROGRESS;

/// A mount that was not asked, since its server or a mount above it hangs.
const SERVER_HANGS: Errno = Errno::ALREADY;

/// A mount that was not asked, since [`HUNG_MOUNTS`] others hang.
const MANY_HANG: Errno = Errno::TOOMANYREFS;

/// How many cached files a name is looked for among: all but one of them may vanish between two reads, and the others
/// stay cached.
const LOOKAHEAD: usize = 64;

/// A name in a directory, and its inode.
type Entry = (Vec<u8>, u64);

/// Why a read ends before its last file.
#[derive(Debug)]
pub enum Stop {
    /// Nobody takes the answer any more.
    Gone,
    /// A limit of the row.
    Limit,
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Stop::Gone
    }
}

type Flow = Result<(), Stop>;

/// What is in a directory, as far as it is known.
type Entries = Result<Rc<[Entry]>, Stop>;

/// What became of something that was asked, unless the read ends.
type Asked<T> = Result<Result<T, Errno>, Stop>;

/// How the files of one read did.
#[derive(Debug, Default)]
pub struct Counters {
    entries: usize,
    names: usize,
    read: bool,
    denied: bool,
    /// A directory was listed.
    listed: bool,
    truncated: bool,
    /// Devices, or files opened before the seal, that the row's limit left out.
    pub left_out: usize,
    /// Something was not asked, since another reader has not returned from it.
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
    /// Holds a piece of a file.
    buffer: Vec<u8>,
    /// Directories that were listed for an earlier query of the same request: many queries look into the same.
    listings: HashMap<Vec<u8>, Option<Listing>>,
}

/// Names in a directory, sorted, and whether there were too many.
type Listing = (Rc<[Entry]>, bool);

impl Scratch {
    /// The end of a request: the next lists directories again.
    pub fn end(&mut self) {
        self.listings = HashMap::new();
    }

    /// The end of a query: a listing of all processes is no reason to keep as much.
    pub fn trim(&mut self) {
        if self.listings.values().flatten().map(|(names, _)| names.len()).sum::<usize>() > LISTING_LIMIT {
            self.end();
        }
    }
}

/// One read of one row.
pub struct Read<'r, 'o> {
    /// The row.
    pub row: &'static Row,
    /// The open roots.
    pub roots: &'r Roots,
    /// Whose files they are.
    pub view: &'r View,
    /// What the readers of the class share.
    pub shared: &'r Rc<Shared>,
    /// What other readers are stuck in.
    pub hung: &'r [cache::Asked],
    /// Buffers that are used again.
    pub scratch: &'r mut Scratch,
    /// Where the answer is written.
    pub out: &'r mut Output<'o>,
    /// What came of it so far.
    pub counters: Counters,
}

impl Read<'_, '_> {
    /// Reads sources of the row that have [their devices](keyhole_policy::pattern::devices) in common, device by device: if
    /// a limit cuts, the devices before are complete.
    pub fn sources(&mut self, group: &mut [OpenSource]) -> Flow {
        let [OpenSource { source, devices: Some(devices), .. }, ..] = *group else {
            return group.iter_mut().try_for_each(|one| self.source(one));
        };
        let (above, component) = devices.rsplit_once('/').unwrap_or((".", devices));
        let dir = join(source.root.name().as_bytes(), above.as_bytes());
        let dir = dir.strip_suffix(b"/.").unwrap_or(&dir);
        let listed = self.list(source, dir)?;
        group.iter_mut().for_each(|one| one.cache.round += 1);
        let mut found = listed.iter().filter(|(name, _)| matches(component.as_bytes(), name));
        while let Some((name, inode)) = found.next() {
            let name = join(dir, name);
            for OpenSource { source, opened, cache, .. } in &mut *group {
                let Opened::Below(components) = opened else { continue };
                let rest = &components[devices.split('/').count()..];
                if let Err(stop) = self.device(source, cache, &name, *inode, rest) {
                    self.counters.left_out += 1 + found.count();
                    // Marks the device of which the answer has some of its files, or none.
                    self.out.file(&name, Content::Errno(Errno::FBIG), false)?;
                    return Err(stop);
                }
            }
        }
        group.iter_mut().for_each(|one| one.cache.end());
        Ok(())
    }

    fn source(&mut self, OpenSource { source, opened, cache, .. }: &mut OpenSource) -> Flow {
        match opened {
            Opened::Fixed(files) => {
                let mut files = files.iter_mut();
                while let Some(file) = files.next() {
                    self.fixed(file).inspect_err(|_| self.counters.left_out += 1 + files.len())?;
                }
                Ok(())
            }
            Opened::Below(components) => {
                cache.round += 1;
                self.device(source, cache, source.root.name().as_bytes(), 0, components)
            }
            Opened::ProbeDirectories(mountinfo) => self.probe_directories(mountinfo),
            Opened::Mounts(mountinfo) => self.root_file_systems(mountinfo),
        }
    }

    /// A file that was opened before the seal.
    fn fixed(&mut self, file: &mut Fixed) -> Flow {
        let read = match &file.opened {
            Ok(opened) => self.ask(&file.name, |this| this.text(&file.name, opened.as_fd(), End::Nothing))?,
            Err(errno) => Err(*errno),
        };
        // The kernel takes away what a module had made: the next reader looks for it again.
        file.lost |= file.opened.is_ok() && read.is_err_and(|errno| gone(errno) || errno == Errno::IO);
        read.or_else(|errno| {
            // The kernel also returns EIO for a file that was removed: it is absent, and no device has failed.
            let removed = errno == Errno::IO && !is_there(self.roots, self.view, &file.name);
            self.errno(&file.name, if removed { Errno::NOENT } else { errno })
        })
    }

    /// Reads what the rest of a pattern leads to below a device, unless it had nothing of that a few reads ago.
    fn device(
        &mut self,
        source: &Source,
        cache: &mut Cache,
        name: &[u8],
        inode: u64,
        rest: &[Component],
    ) -> Flow {
        let round = cache.round;
        // udev replaces its files by renaming, and processes come and go: only what is below sysfs is cached.
        let cached = if source.root == Root::Sys { cache.device(name, inode) } else { None };
        let mut passing = Device::new(name);
        let device = cached.unwrap_or(&mut passing);
        if round < device.absent_until {
            return Ok(());
        }
        let (before, mut found) = (self.counters.entries, Vec::new());
        let mut list = |dir: &[u8]| match source.kind {
            Kind::TextOfSeveral if self.is_alone(source, dir) => Ok(Rc::default()),
            _ => self.list(source, dir),
        };
        walk(name.to_vec(), inode, rest, usize::MAX, &mut list, &mut found)?;
        let mut known = std::mem::take(&mut device.files).into_iter();
        for (name, inodes) in found {
            // Most often it is the next one; of what is passed over, nothing is there any more.
            let at = known.as_slice().iter().take(LOOKAHEAD).position(|(known, _)| *known == name);
            let file = at.and_then(|at| Some(known.nth(at)?.1)).filter(|file| file.inodes == inodes);
            self.found(source, device, name, File { inodes, ..file.unwrap_or_default() }, round)?;
        }
        if self.counters.entries == before && device.files.iter().all(|(_, file)| round < file.absent_until) {
            (device.absent_until, device.files) = (retry_after(round, name), Vec::new());
        }
        Ok(())
    }

    /// Takes what a row takes of a path, unless it was not there a few reads ago.
    fn found(
        &mut self,
        source: &Source,
        device: &mut Device,
        name: Vec<u8>,
        mut file: File,
        round: u64,
    ) -> Flow {
        if file.absent_until <= round {
            let read = self.ask(&name, |this| match source.kind {
                Kind::Text | Kind::TextOfSeveral => this.file(source, device, &mut file, &name),
                kind => this.entry(source, kind, &name),
            })?;
            match read {
                // A device that has no value now may have one at any time.
                Err(Errno::NODEV) => file.absent_until = round,
                Err(errno) if gone(errno) => file.absent_until = retry_after(round, &name),
                read => read.or_else(|errno| self.errno(&name, errno))?,
            }
        }
        if file.open.is_some() || round <= file.absent_until {
            device.files.push((name, file));
        }
        Ok(())
    }

    /// Reads a file, and keeps it open for the next read, or else the device's directory.
    fn file(&mut self, source: &Source, device: &mut Device, file: &mut File, name: &[u8]) -> Asked<()> {
        if let Some(open) = file.open.take() {
            let read = self.text(name, open.file.as_fd(), End::Short)?;
            // A name may stand for something new by now: look again when the old is gone.
            if !read.is_err_and(gone) {
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
        let read = self.text(name, opened.as_fd(), End::Short)?;
        // A read that fails is cached too: many attributes of a device that is down fail each time.
        if source.root == Root::Sys && !read.is_err_and(gone) {
            file.open = self.roots.spare(opened).ok().and_then(|opened| self.shared.cache(opened));
            if file.open.is_none() && device.dir.is_none() {
                let dir = self.open(source, &name[..device.name_length], OFlags::PATH | OFlags::DIRECTORY);
                device.dir = dir.and_then(|dir| self.roots.spare(dir)).ok();
            }
        }
        Ok(read)
    }

    /// What is taken of a path besides text.
    fn entry(&mut self, source: &Source, kind: Kind, name: &[u8]) -> Asked<()> {
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
        self.count()?;
        self.counters.read = true;
        Ok(Ok(self.out.file(name, content, false)?))
    }

    /// Whether a directory has one directory in it, as its links say: its name, its own `.`, and one `..`. A file
    /// system that does not count links has one.
    fn is_alone(&self, source: &Source, name: &[u8]) -> bool {
        let stat = self
            .root(source)
            .and_then(|root| statat(root, below_root(source, name), AtFlags::SYMLINK_NOFOLLOW));
        stat.is_ok_and(|stat| stat.st_nlink == 3)
    }

    /// The names in a directory; none when it cannot be listed.
    fn list(&mut self, source: &Source, name: &[u8]) -> Entries {
        let listing = match self.scratch.listings.get(name) {
            Some(listing) => listing.clone(),
            None => {
                // Not cached: the kernel lists a directory that went and came back as empty through the old descriptor.
                let listed = self.ask(name, |this| {
                    Ok(this.open(source, name, OFlags::DIRECTORY).and_then(|dir| entries(dir.as_fd())))
                })?;
                let listing = match listed {
                    Ok(listing) => Some(listing),
                    Err(errno) if gone(errno) => None,
                    Err(errno) => {
                        self.errno(name, errno)?;
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
    fn root_file_systems(&mut self, mountinfo: &Result<OwnedFd, Errno>) -> Flow {
        const NAME: &[u8] = b"proc/1/mountinfo";
        let mut mounts = match self.mounts(NAME, mountinfo)? {
            Ok(mounts) => mounts,
            Err(errno) => return self.errno(NAME, errno),
        };
        let all = mounts.len();
        // No call takes a longer path, and no chunk has room for any.
        mounts.retain(|mount| mount.point.len() <= PATH_BYTES);
        self.counters.truncated |= mounts.len() < all;
        let Ok(root) = self.roots.dir(Root::Rootfs) else { return Ok(()) };
        // "/a" is "./a" below the root.
        self.statfs(mounts.iter().map(|mount| (mount, root, [b".", &*mount.point].concat())))
    }

    /// statfs of each probe directory, opened by name each time: an open one would keep its file system mounted.
    fn probe_directories(&mut self, mountinfo: &Result<OwnedFd, Errno>) -> Flow {
        const NAME: &[u8] = b"self/mountinfo";
        let mounts = self.mounts(NAME, mountinfo)?.unwrap_or_default();
        let mount_of = |path: &Vec<u8>| {
            let at = Mount { point: path.clone(), may_hang: true, ..Mount::default() };
            let is_on = |mount: &&Mount| mount.point == *path || at.above().any(|dir| dir == mount.point);
            let on = mounts.iter().filter(is_on).max_by_key(|mount| mount.point.len()).cloned();
            Mount { point: path.clone(), ..on.unwrap_or(at) }
        };
        let mut probe_directories: Vec<Mount> = self.roots.probe_directories.iter().map(mount_of).collect();
        probe_directories.sort_by_key(|probe_directory| probe_directory.may_hang);
        // A probe directory may be given as a symbolic link.
        self.statfs(
            probe_directories
                .iter()
                .map(|probe_directory| (probe_directory, CWD, join(&probe_directory.point, b"."))),
        )
    }

    /// The mounts of a mountinfo.
    fn mounts(&mut self, name: &[u8], mountinfo: &Result<OwnedFd, Errno>) -> Asked<Vec<Mount>> {
        let read = self.ask(name, |this| match mountinfo {
            Ok(file) => Ok(this.whole(file.as_fd())),
            Err(errno) => Ok(Err(*errno)),
        })?;
        Ok(read.map(|(mut text, truncated)| {
            if truncated {
                // A mount point that is cut may be another path.
                text.truncate(text.iter().rposition(|&byte| byte == b'\n').unwrap_or(0));
            }
            self.counters.truncated |= truncated;
            mounts(&text)
        }))
    }

    /// statfs of mounts, except of those that would wait for what another reader waits for, or risk the last reader.
    fn statfs<'m>(&mut self, asked: impl Iterator<Item = (&'m Mount, BorrowedFd<'m>, Vec<u8>)>) -> Flow {
        const ASK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
        let mut hung: Vec<u64> = self.hung.iter().flatten().copied().filter(|hash| *hash != 0).collect();
        for (mount, dir, path) in asked {
            let names = mount.asked();
            let refused = if hung.contains(&names[0]) {
                Some(HANGS)
            } else if names.iter().any(|name| hung.contains(name))
                || mount.above().any(|dir| hung.contains(&hash(dir)))
            {
                // What lies below this one is not asked either.
                hung.push(names[0]);
                Some(SERVER_HANGS)
            } else {
                (mount.may_hang && self.hung.len() >= HUNG_MOUNTS).then_some(MANY_HANG)
            };
            self.counters.skipped |= refused.is_some();
            let numbers = match refused {
                Some(errno) => Err(errno),
                None => {
                    if mount.may_hang && !mount.is_overlay() {
                        // The broker gets the results so far, and which mount is asked now, even if this one hangs.
                        self.out.file_system(&mount.point, Err(HANGS))?;
                        self.out.flush()?;
                    }
                    self.shared.asking(names, || openat(dir, &*path, ASK, Mode::empty()).and_then(fstatfs))
                }
            };
            self.file_system(&mount.point, numbers)?;
        }
        Ok(())
    }

    /// Does something that may sleep, known to other readers while it does; not what another one sleeps in.
    fn ask<T>(&mut self, name: &[u8], act: impl FnOnce(&mut Self) -> Asked<T>) -> Asked<T> {
        let asked = [hash(name), 0, 0];
        if self.hung.contains(&asked) {
            self.counters.skipped = true;
            return Ok(Err(HANGS));
        }
        self.shared.asking(asked, || act(self))
    }

    fn root(&self, source: &Source) -> Result<BorrowedFd<'_>, Errno> {
        self.roots.dir(source.root)
    }

    fn open(&self, source: &Source, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        openat(self.root(source)?, below_root(source, name), READ | flags, Mode::empty())
    }

    /// Writes what a file holds, from its start, a chunk at a time. An error that the caller is to write or to ignore
    /// comes before anything was; a file that fails later ends with its errno here.
    fn text(&mut self, name: &[u8], file: BorrowedFd<'_>, end: End) -> Asked<()> {
        let mut begun = 0;
        loop {
            let piece = match self.piece(file, begun, end) {
                Ok(piece) => piece,
                Err(errno) if begun == 0 => return Ok(Err(errno)),
                Err(errno) => {
                    self.note(errno);
                    self.out.file(name, Content::Errno(errno), false)?;
                    return Ok(Ok(()));
                }
            };
            if begun == 0 {
                self.count()?;
                self.counters.read = true;
            }
            begun += piece.length;
            self.counters.truncated |= piece.truncated;
            let text = Content::Text(&self.scratch.buffer[..piece.length]);
            self.out.file(name, text, piece.truncated)?;
            if piece.last {
                return Ok(Ok(()));
            }
        }
    }

    /// Reads at most [`CHUNK_BYTES`] of a file from `begun` on into the buffer.
    fn piece(&mut self, file: BorrowedFd<'_>, begun: usize, end: End) -> Result<Piece, Errno> {
        let left = self.row.file_bytes - begun;
        // One byte more than the limit tells a file that ends there from one that goes on.
        let wanted = CHUNK_BYTES.min(left + 1);
        self.scratch.buffer.resize(CHUNK_BYTES, 0);
        let (mut length, mut last) = (0, false);
        while length < wanted && !last {
            let free = &mut self.scratch.buffer[length..wanted];
            let room = free.len();
            let read = retry_on_intr(|| pread(file, &mut *free, (begun + length) as u64))?;
            length += read;
            last = read == 0 || (end == End::Short && read < room);
        }
        let truncated = length > left;
        Ok(Piece { length: length.min(left), last: last || truncated, truncated })
    }

    /// A whole file, and whether the row's limit cut it: for mountinfo alone, which is looked into.
    fn whole(&mut self, file: BorrowedFd<'_>) -> Result<(Vec<u8>, bool), Errno> {
        let mut text = Vec::new();
        loop {
            let piece = self.piece(file, text.len(), End::Nothing)?;
            text.extend_from_slice(&self.scratch.buffer[..piece.length]);
            if piece.last {
                return Ok((text, piece.truncated));
            }
        }
    }

    fn errno(&mut self, name: &[u8], errno: Errno) -> Flow {
        self.count()?;
        self.note(errno);
        Ok(self.out.file(name, Content::Errno(errno), false)?)
    }

    fn note(&mut self, errno: Errno) {
        match errno {
            Errno::ACCESS | Errno::PERM => self.counters.denied = true,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => self.counters.truncated = true,
            _ => {}
        }
    }

    /// Counts one more entry, while the row takes more.
    fn count(&mut self) -> Flow {
        if self.counters.entries >= self.row.entries {
            self.counters.truncated = true;
            return Err(Stop::Limit);
        }
        self.counters.entries += 1;
        Ok(())
    }

    fn file_system(&mut self, name: &[u8], numbers: Result<StatFs, Errno>) -> Flow {
        self.count()?;
        match numbers {
            Ok(_) => self.counters.read = true,
            Err(errno) => self.note(errno),
        }
        Ok(self.out.file_system(name, numbers)?)
    }
}

/// A part of a file that lies in the buffer.
struct Piece {
    length: usize,
    /// Whether the file ends with it, or the row's limit does.
    last: bool,
    /// Whether the row's limit cut it.
    truncated: bool,
}

/// How a file's end is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By a read that returns nothing: procfs returns about a page a read, however much there is.
    Nothing,
    /// By a read that returns less than was asked: an attribute below sysfs, what procfs shows of a process and an
    /// ordinary file, as udev's are, are each returned whole.
    Short,
}

/// A name on the wire as a path below its root.
pub fn below_root<'n>(source: &Source, name: &'n [u8]) -> &'n [u8] {
    name.get(source.root.name().len() + 1..).unwrap_or(b".")
}

/// The kernel no longer has it, or it was never a file.
pub fn gone(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::NODEV | Errno::SRCH | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::SPIPE
    )
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, b"/", name].concat()
}

/// Follows components of a pattern below `name`, to at most `limit` names, whether or not they are there. Each has a
/// number made of `inodes` and of the inodes that wildcards stood for.
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

/// What is in an open directory.
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
