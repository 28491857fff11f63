//! One read of one row: following patterns, opening, reading within limits, writing chunks.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use keyhole_policy::pipes::{CHUNK_BYTES, SLOTS_PER_CLASS};
use keyhole_policy::{Component, Kind, Outcome, Root, Row, Source};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatFs, fstatfs, statat};
use rustix::io::Errno;

use crate::cache::{Budget, Cache, Cached, Dir, Known, Shared, hash};
use crate::host::{Fixed, Opened, READ, Roots};
use crate::mounts::{Mount, mounts};
use crate::output::{Content, Gone, Output};

/// The most names taken of one directory.
pub const LISTING_LIMIT: usize = 65_536;

/// The most names taken of all directories in one read.
pub const NAMES_LIMIT: usize = 4 * LISTING_LIMIT;

/// The longest path that a system call takes: PATH_MAX.
const PATH_BYTES: usize = 4096;

/// With so many readers stuck in mounts no other is risked: the one that is left reads what cannot hang.
const HUNG_MOUNTS: usize = SLOTS_PER_CLASS - 2;

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

/// How the files of one read did.
#[derive(Debug, Default)]
pub struct Counters {
    entries: usize,
    names: usize,
    read: bool,
    denied: bool,
    truncated: bool,
    /// Something was not asked, since another reader has not returned from it.
    pub skipped: bool,
}

impl Counters {
    pub fn outcome(&self) -> Outcome {
        match self {
            Self { truncated: true, .. } => Outcome::Truncated,
            Self { read: true, .. } => Outcome::Ok,
            Self { skipped: true, .. } => Outcome::Stuck,
            Self { denied: true, .. } => Outcome::Denied,
            _ => Outcome::Absent,
        }
    }
}

/// What a reader uses again from one query to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Holds a piece of a file.
    buffer: Vec<u8>,
    /// Directories that were listed for an earlier query of the same request: many queries look into the same.
    listings: HashMap<(Root, Vec<u8>), Listing>,
}

#[derive(Debug, Clone)]
struct Listing {
    names: Rc<[Entry]>,
    truncated: bool,
}

impl Scratch {
    /// The end of a request: the next lists directories again.
    pub fn end(&mut self) {
        self.listings = HashMap::new();
    }

    /// The end of a query: a listing of all processes is no reason to keep as much.
    pub fn trim(&mut self) {
        if self.listings.values().map(|listing| listing.names.len()).sum::<usize>() > LISTING_LIMIT {
            self.end();
        }
    }
}

/// One read of one row.
pub struct Read<'r, 'o> {
    pub row: &'static Row,
    pub roots: &'r Roots,
    pub shared: &'r Shared,
    /// What other readers are stuck in.
    pub hung: &'r [u64],
    pub files: &'r Budget,
    pub directories: &'r Budget,
    pub cache: &'r mut Cache,
    pub scratch: &'r mut Scratch,
    pub out: &'r mut Output<'o>,
    pub counters: Counters,
}

impl Read<'_, '_> {
    /// Reads what one source of the row leads to.
    pub fn source(&mut self, source: &Source, opened: &mut Opened) -> Flow {
        match opened {
            Opened::Fixed { files, .. } => files.iter_mut().try_for_each(|file| self.fixed(file)),
            Opened::Below(pattern) => self.below(source, Vec::new(), 0, pattern.components()),
            Opened::Anchors => {
                let roots = self.roots;
                roots.anchors.iter().try_for_each(|(path, dir)| {
                    let numbers = self.ask(path, |_| Ok(fstatfs(dir)))?;
                    self.file_system(path, numbers)
                })
            }
            Opened::Mounts(mountinfo) => self.mounts(mountinfo),
        }
    }

    /// A file that was opened before the seal.
    fn fixed(&mut self, file: &mut Fixed) -> Flow {
        let name = file.name.as_bytes();
        let read = match &file.opened {
            Ok(opened) => self.ask(name, |this| this.text(name, opened.as_fd(), End::Nothing))?,
            Err(errno) => Err(*errno),
        };
        // The kernel takes away what a module had made: the next reader looks for it again.
        file.lost |= file.opened.is_ok() && read.is_err_and(|errno| gone(errno) || errno == Errno::IO);
        read.or_else(|errno| self.errno(name, errno))
    }

    /// Follows the rest of a pattern below `path`; `identity` is made of the inodes that wildcards stood for.
    fn below(&mut self, source: &Source, path: Vec<u8>, identity: u64, components: &[Component]) -> Flow {
        let Some((component, rest)) = components.split_first() else { return Ok(()) };
        match component {
            Component::Fixed(names) if rest.is_empty() => {
                let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
                return self.directory(source, &path, identity, &names);
            }
            Component::Fixed(names) if names.len() == 1 => {
                return self.below(source, join(&path, names[0].as_bytes()), identity, rest);
            }
            // A choice among directories is listed as a wildcard is: one that is missing is not asked for each file.
            _ => {}
        }
        // What a class of devices has is looked for each time, what one device has not.
        let of_device = identity != 0;
        if of_device && self.cache.is_empty(&path, identity) {
            return Ok(());
        }
        if of_device && source.kind == Kind::TextOfSeveral && self.is_alone(source, &path) {
            return Ok(());
        }
        let names = self.list(source, &path)?;
        let chosen = |name: &[u8]| match component {
            Component::Fixed(names) => names.iter().any(|chosen| chosen.as_bytes() == name),
            Component::Wild(wild) => wild.matches(name),
        };
        let mut matching = names.iter().filter(|(name, _)| chosen(name)).peekable();
        if of_device && !names.is_empty() && matching.peek().is_none() {
            self.cache.set_empty(path, identity);
            return Ok(());
        }
        if rest.is_empty() {
            let names: Vec<&[u8]> = matching.map(|(name, _)| &**name).collect();
            return self.directory(source, &path, identity, &names);
        }
        matching.try_for_each(|(name, inode)| {
            self.below(source, join(&path, name), identity.rotate_left(32) ^ inode, rest)
        })
    }

    /// Whether a directory has one directory in it, as its links say: its name, its own `.`, and one `..`. A file
    /// system that does not count links has one.
    fn is_alone(&self, source: &Source, path: &[u8]) -> bool {
        let stat = self.root(source).and_then(|root| statat(root, path, AtFlags::SYMLINK_NOFOLLOW));
        stat.is_ok_and(|stat| stat.st_nlink == 3)
    }

    /// The names in a directory with their inodes, sorted; none when it cannot be listed.
    fn list(&mut self, source: &Source, path: &[u8]) -> Result<Rc<[Entry]>, Stop> {
        let key = (source.root, path.to_vec());
        let listing = match self.scratch.listings.get(&key) {
            Some(listing) => listing.clone(),
            None => {
                // Not cached: the kernel lists a directory that went and came back as empty through the old descriptor.
                let directory = join(source.root.name().as_bytes(), path);
                let listed = self.ask(&directory, |this| {
                    Ok(this.open(source, path, OFlags::DIRECTORY).and_then(|dir| names(dir.as_fd())))
                })?;
                let (names, truncated) = match listed {
                    Ok(listed) => listed,
                    Err(errno) if gone(errno) => (Vec::new(), false),
                    Err(errno) => {
                        self.errno(&directory, errno)?;
                        return Ok(Rc::default());
                    }
                };
                let listing = Listing { names: names.into(), truncated };
                self.scratch.listings.insert(key, listing.clone());
                listing
            }
        };
        self.counters.truncated |= listing.truncated;
        self.counters.names += listing.names.len();
        if self.counters.names > NAMES_LIMIT {
            self.counters.truncated = true;
            return Err(Stop::Limit);
        }
        Ok(listing.names)
    }

    /// The files of one directory that a pattern led to.
    fn directory(&mut self, source: &Source, path: &[u8], identity: u64, names: &[&[u8]]) -> Flow {
        // udev replaces its files by renaming, and processes come and go: only what is below sysfs is cached.
        let cached = source.root == Root::Sys;
        let mut dir = if cached { self.cache.take(path, identity) } else { Dir::default() };
        let mut name = join(source.root.name().as_bytes(), path);
        if !path.is_empty() {
            name.push(b'/');
        }
        let prefix = name.len();
        let flow = names.iter().try_for_each(|file| {
            name.truncate(prefix);
            name.extend_from_slice(file);
            let read = self.ask(&name, |this| match source.kind {
                Kind::Text | Kind::TextOfSeveral if cached => {
                    let read = this.cached_file(source, &mut dir, &name, prefix, names.len() > 1)?;
                    Ok(read.unwrap_or(Ok(())))
                }
                Kind::Text | Kind::TextOfSeveral => {
                    match this.open(source, below_root(source, &name), OFlags::NOFOLLOW) {
                        Ok(file) => this.text(&name, file.as_fd(), End::Short),
                        Err(errno) => Ok(Err(errno)),
                    }
                }
                kind => this.entry(source, kind, &name),
            })?;
            match read {
                Err(errno) if !gone(errno) => self.errno(&name, errno),
                _ => Ok(()),
            }
        });
        if cached {
            self.cache.put(path, dir);
        }
        flow
    }

    /// What is taken of a path besides text.
    fn entry(&mut self, source: &Source, kind: Kind, name: &[u8]) -> Result<Result<(), Errno>, Stop> {
        let path = below_root(source, name);
        let root = self.root(source);
        let target;
        let content = match kind {
            Kind::Entries => root
                .and_then(|root| statat(root, path, AtFlags::SYMLINK_NOFOLLOW))
                .map(|stat| Content::Entries(stat.st_size as u64)),
            _ => {
                target = root.and_then(|root| rustix::fs::readlinkat(root, path, Vec::new()));
                target.as_ref().map(|target| Content::Link(target.as_bytes())).map_err(|errno| *errno)
            }
        };
        match content {
            Ok(content) => {
                self.count()?;
                self.counters.read = true;
                self.out.file(name, content, false)?;
                Ok(Ok(()))
            }
            Err(errno) => Ok(Err(errno)),
        }
    }

    /// Reads a file, whose name in its directory begins at `at`, and caches what the next read can use; none when it was
    /// not there a few reads ago.
    fn cached_file(
        &mut self,
        source: &Source,
        dir: &mut Dir,
        name: &[u8],
        at: usize,
        several: bool,
    ) -> Result<Option<Result<(), Errno>>, Stop> {
        let (path, file) = (below_root(source, &name[..at - 1]), &name[at..]);
        let round = self.cache.round();
        match dir.files.get_mut(file) {
            _ if round < dir.absent_until => return Ok(None),
            Some(Known::Absent { until }) if round < *until => return Ok(None),
            Some(Known::Open { file, round: read_in }) => {
                let read = self.text(name, file.descriptor.as_fd(), End::Short)?;
                // A name may stand for something new by now: look again when the old is gone.
                if !read.is_err_and(gone) {
                    *read_in = round;
                    return Ok(Some(read));
                }
            }
            _ => {}
        }
        dir.files.remove(file);
        if several && dir.identity != 0 && dir.itself.is_none() {
            match self.cached_dir(source, path) {
                // None of its files is there, and each need not be asked for.
                Err(errno) if gone(errno) => {
                    dir.absent_until = self.cache.retry_after(path);
                    return Ok(None);
                }
                cached => dir.itself = cached.unwrap_or_default(),
            }
        }
        let in_cached = dir.itself.as_ref().map(|itself| {
            rustix::fs::openat(&itself.descriptor, file, READ | OFlags::NOFOLLOW, Mode::empty())
        });
        let opened = match in_cached {
            // Through its old descriptor, nothing is found in a directory that went and came back.
            Some(Err(Errno::NOENT)) | None => {
                let opened = self.open(source, below_root(source, name), OFlags::NOFOLLOW);
                dir.itself = dir.itself.take().filter(|_| opened.is_err());
                opened
            }
            Some(opened) => opened,
        };
        let read = match opened {
            Ok(descriptor) => {
                let read = self.text(name, descriptor.as_fd(), End::Short)?;
                // A read that fails is cached too: many attributes of a device that is down fail each time.
                if let Some(permit) = self.files.take().filter(|_| !read.is_err_and(gone)) {
                    let file_of = Cached { descriptor, _permit: permit };
                    dir.files.insert(file.to_vec(), Known::Open { file: file_of, round });
                }
                read
            }
            Err(errno) => Err(errno),
        };
        if read == Err(Errno::NOENT) {
            dir.files.insert(file.to_vec(), Known::Absent { until: self.cache.retry_after(name) });
        }
        Ok(Some(read))
    }

    /// Opens a directory to open files in it; none when no more may be cached.
    fn cached_dir(&self, source: &Source, path: &[u8]) -> Result<Option<Cached>, Errno> {
        let Some(permit) = self.directories.take() else { return Ok(None) };
        let descriptor = self.open(source, path, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Some(Cached { descriptor, _permit: permit }))
    }

    /// statfs of each mount point below the host root, local file systems first: they answer whatever hangs.
    fn mounts(&mut self, mountinfo: &Result<OwnedFd, Errno>) -> Flow {
        const NAME: &[u8] = b"proc/1/mountinfo";
        let read = self.ask(NAME, |this| {
            Ok(mountinfo.as_ref().map_err(|errno| *errno).and_then(|file| this.whole(file.as_fd())))
        })?;
        let (text, truncated) = match read {
            Ok(read) => read,
            Err(errno) => return self.errno(NAME, errno),
        };
        // Half of a mount point may be another path.
        let end =
            if truncated { text.iter().rposition(|&byte| byte == b'\n').unwrap_or(0) } else { text.len() };
        self.counters.truncated |= truncated;
        let mut mounts = mounts(&text[..end]);
        let all = mounts.len();
        // No call takes a longer path, and no chunk has room for any.
        mounts.retain(|mount| mount.point.len() <= PATH_BYTES);
        self.counters.truncated |= mounts.len() < all;
        mounts.sort_by_key(Mount::may_hang);
        let hung: Vec<Mount> =
            mounts.iter().filter(|mount| self.hung.contains(&hash(&mount.point))).cloned().collect();
        mounts.iter().try_for_each(|mount| {
            let risky = mount.may_hang() && self.hung.len() >= HUNG_MOUNTS;
            let numbers = match risky || hung.iter().any(|hung| mount.may_hang_with(hung)) {
                true => {
                    self.counters.skipped = true;
                    Err(Errno::INPROGRESS)
                }
                false => {
                    if mount.may_hang() {
                        // What has answered reaches the broker whatever this one does.
                        self.out.flush()?;
                    }
                    self.ask(&mount.point, |this| Ok(this.statfs(mount)))?
                }
            };
            self.file_system(&mount.point, numbers)
        })
    }

    fn statfs(&self, mount: &Mount) -> Result<StatFs, Errno> {
        let root = self.roots.rootfs.as_ref().ok_or(Errno::NOENT)?;
        let below = mount.point.strip_prefix(b"/").filter(|path| !path.is_empty()).unwrap_or(b".");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(root, below, flags, Mode::empty()).and_then(fstatfs)
    }

    /// Does something that may sleep, known to other readers while it does; not what another one sleeps in.
    fn ask<T>(
        &mut self,
        path: &[u8],
        act: impl FnOnce(&mut Self) -> Result<Result<T, Errno>, Stop>,
    ) -> Result<Result<T, Errno>, Stop> {
        let asked = hash(path);
        if self.hung.contains(&asked) {
            self.counters.skipped = true;
            return Ok(Err(Errno::INPROGRESS));
        }
        self.shared.ask(asked);
        let answer = act(self);
        self.shared.ask(0);
        answer
    }

    fn root(&self, source: &Source) -> Result<BorrowedFd<'_>, Errno> {
        let root = match source.root {
            Root::Sys => &self.roots.sysfs,
            Root::Processes => &self.roots.procfs,
            Root::Udev => &self.roots.udev,
            _ => &None,
        };
        root.as_ref().map(AsFd::as_fd).ok_or(Errno::NOENT)
    }

    fn open(&self, source: &Source, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat(self.root(source)?, path, READ | flags, Mode::empty())
    }

    /// Writes what a file holds, from its start, a chunk at a time. An error that the caller is to write or to ignore
    /// comes before anything was; a file that fails later ends with its errno here.
    fn text(&mut self, name: &[u8], file: BorrowedFd<'_>, end: End) -> Result<Result<(), Errno>, Stop> {
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
        self.scratch.buffer.resize(CHUNK_BYTES, 0);
        let wanted = CHUNK_BYTES.min(self.row.file_bytes - begun);
        let mut length = 0;
        while length < wanted {
            let free = &mut self.scratch.buffer[length..wanted];
            let room = free.len();
            let read = read_at(file, free, begun + length)?;
            length += read;
            if read == 0 || (end == End::Short && read < room) {
                return Ok(Piece { length, last: true, truncated: false });
            }
        }
        if begun + length < self.row.file_bytes {
            return Ok(Piece { length, last: false, truncated: false });
        }
        // One byte more than the limit tells a file that ends there from one that goes on.
        let truncated = read_at(file, &mut [0], begun + length)? > 0;
        Ok(Piece { length, last: true, truncated })
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

fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: usize) -> Result<usize, Errno> {
    rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *buffer, offset as u64))
}

/// A name on the wire as a path below its root.
fn below_root<'n>(source: &Source, name: &'n [u8]) -> &'n [u8] {
    name.get(source.root.name().len() + 1..).unwrap_or_default()
}

/// The kernel no longer has it, or it was never a file.
pub fn gone(errno: Errno) -> bool {
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
pub fn names(dir: BorrowedFd<'_>) -> Result<(Vec<Entry>, bool), Errno> {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes().to_vec();
        if names.len() >= LISTING_LIMIT {
            names.sort_unstable();
            return Ok((names, true));
        }
        if name != b"." && name != b".." {
            names.push((name, entry.ino()));
        }
    }
    names.sort_unstable();
    Ok((names, false))
}
