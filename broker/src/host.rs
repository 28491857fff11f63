//! The host's files: roots, held descriptors, bounded reads. The only file that opens anything of the host.
//!
//! procfs is opened once, before the seal, and read by `pread` from then on; the few wildcards in it are followed then
//! and never again. sysfs is opened by name below its root and held while it stays, up to a cap. Nothing that is read
//! is looked into.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keyhole_policy::{Component, Kind, Pattern, Root, Row, Rung, Source, TABLE};
use keyhole_proto::v1::{self, Outcome, Query, file, file_system};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatFs, fstatfs};
use rustix::io::Errno;

use crate::mounts::{Mount, mounts};
use crate::view::View;

/// The largest part of a file in one message.
pub const PART_BYTES: usize = 16 << 10;

/// Descriptors kept back for connections and the runtime.
const RESERVED_DESCRIPTORS: u64 = 64;

/// The most descriptors held for files below sysfs: each keeps a page of kernel memory after its first read.
const HELD_DESCRIPTORS: u64 = 1024;

/// The most names taken of one directory.
const LISTING_LIMIT: usize = 65_536;

/// The most names taken of all directories in one reading, which keeps them until its end.
const NAMES_LIMIT: usize = 4 * LISTING_LIMIT;

/// What was not found is asked for again after this many readings at most: half of what a machine could have, it has not.
const MISSING_READINGS: u64 = 8;

/// The most paths of one pattern that are known to be missing.
const MISSING_LIMIT: usize = 4096;

/// Bytes asked of the kernel at a time.
const READ_BYTES: usize = 32 << 10;

/// How many lanes may be asleep in mounts before no more of them are asked about: one must be left to read the rest.
const HUNG_MOUNTS: usize = 3;

/// statfs(2): mounted read-only.
const ST_RDONLY: u64 = 1;

/// What the command line gave.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// `--path.procfs`.
    pub procfs: PathBuf,
    /// `--path.sysfs`.
    pub sysfs: PathBuf,
    /// `--path.rootfs`.
    pub rootfs: Option<PathBuf>,
    /// `--path.udev.data`.
    pub udev: Option<PathBuf>,
    /// `--path.os-release`.
    pub os_release: Option<PathBuf>,
    /// `--filesystem.anchor`, as often as given.
    pub anchors: Vec<PathBuf>,
    /// `--allow-processes`.
    pub processes: bool,
}

/// The roots, open.
#[derive(Debug)]
pub struct Roots {
    /// procfs.
    pub procfs: OwnedFd,
    /// sysfs.
    pub sysfs: OwnedFd,
    udev: Option<OwnedFd>,
    rootfs: Option<OwnedFd>,
    os_release: Option<PathBuf>,
    anchors: Vec<(Vec<u8>, OwnedFd)>,
    /// Whether procfs is opened after the seal, for processes.
    processes: bool,
}

/// A root that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{flag}={path}: {errno}: {hint}")]
pub struct RootError {
    flag: &'static str,
    path: String,
    errno: Errno,
    hint: &'static str,
}

impl Roots {
    /// Opens every root that was given.
    pub fn open(paths: &Paths) -> Result<Self, RootError> {
        const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
        let root = |flag, path: &Path, flags: OFlags| {
            let opened = rustix::fs::open(path, flags.union(OFlags::CLOEXEC), Mode::empty());
            opened.map_err(|errno| RootError {
                flag,
                path: path.display().to_string(),
                errno,
                hint: match flags.contains(OFlags::DIRECTORY) {
                    true => "give a directory that exists and that this uid may search",
                    false => "give a file that exists and that this uid may read",
                },
            })
        };
        let optional = |flag, path: &Option<PathBuf>, flags| {
            path.as_deref().map(|path| root(flag, path, flags)).transpose()
        };
        let anchors = paths
            .anchors
            .iter()
            .map(|path| {
                let dir = root("--filesystem.anchor", path, OFlags::PATH | OFlags::DIRECTORY)?;
                Ok((path.as_os_str().as_bytes().to_vec(), dir))
            })
            .collect::<Result<_, RootError>>()?;
        // It is opened again, as a file to read, with the rest of its row.
        optional("--path.os-release", &paths.os_release, OFlags::RDONLY)?;
        Ok(Self {
            procfs: root("--path.procfs", &paths.procfs, DIR)?,
            sysfs: root("--path.sysfs", &paths.sysfs, DIR)?,
            udev: optional("--path.udev.data", &paths.udev, DIR)?,
            rootfs: optional("--path.rootfs", &paths.rootfs, OFlags::PATH | OFlags::DIRECTORY)?,
            os_release: paths.os_release.clone(),
            anchors,
            processes: paths.processes,
        })
    }
}

/// One answer's worth of a path.
#[derive(Debug)]
pub enum Item {
    /// A file, a link, or an errno.
    File(v1::File),
    /// A file system.
    FileSystem(v1::FileSystem),
}

/// A name in a directory, and its inode.
type Entry = (Vec<u8>, u64);

/// Where items go; [`ControlFlow::Break`] means that nobody wants more.
pub type Sink<'s> = dyn FnMut(Item) -> ControlFlow<()> + 's;

/// Everything that may be read, a slot a row of the table.
#[derive(Debug)]
pub struct Host {
    roots: Roots,
    slots: Vec<Slot>,
    view: View,
    /// How many more descriptors below sysfs may be held.
    spare: AtomicUsize,
    /// The mounts that lanes are asking about. All but the newest have not answered in time.
    asked: Mutex<Vec<Mount>>,
}

#[derive(Debug)]
struct Slot {
    row: &'static Row,
    /// Why it is never read here, if so.
    barred: Option<(Outcome, String)>,
    sources: Vec<Opened>,
    /// Taken out by the lane that reads it.
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// Files below sysfs, by path; those not seen in a round are let go.
    held: HashMap<Vec<u8>, Held>,
    /// What each source did not find below sysfs, by path: files, and directories without a name that fits.
    missing: Vec<HashMap<Vec<u8>, Missing>>,
    round: u64,
}

#[derive(Debug)]
struct Missing {
    /// What its path's wildcards stood for.
    identity: u64,
    /// The round in which it is looked for again.
    again: u64,
}

#[derive(Debug)]
struct Held {
    file: OwnedFd,
    /// What its path's wildcards stood for.
    identity: u64,
    round: u64,
}

#[derive(Debug)]
enum Opened {
    /// Opened once, before the seal.
    Fixed(Vec<(String, Result<OwnedFd, Errno>)>),
    /// Found by name each time.
    Below(Pattern),
    /// The anchors' own descriptors serve.
    Anchors,
    /// The host's mountinfo, for the mount points below the host root.
    Mounts(Result<OwnedFd, Errno>),
}

impl Host {
    /// Opens the fixed files of every row.
    pub fn open(roots: Roots, view: View) -> Self {
        let slots: Vec<Slot> = TABLE
            .iter()
            .map(|row| Slot {
                row,
                barred: barred(row, &roots, &view),
                sources: row.sources.iter().map(|source| open_source(row, source, &roots)).collect(),
                files: Mutex::default(),
            })
            .collect();
        let fixed: u64 = slots.iter().map(Slot::fixed).sum();
        let spare = descriptors().saturating_sub(RESERVED_DESCRIPTORS + fixed).min(HELD_DESCRIPTORS);
        Self { roots, slots, view, spare: AtomicUsize::new(spare as usize), asked: Mutex::default() }
    }

    /// Whose files these are.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The directories of which files are opened after the seal.
    pub fn opened_later(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let procfs = self.roots.processes.then_some(&self.roots.procfs);
        [Some(&self.roots.sysfs), self.roots.udev.as_ref(), procfs].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Why a query cannot be answered here; none when it can.
    pub fn reason(&self, query: Query) -> Option<String> {
        let slot = self.slot(query)?;
        match &slot.barred {
            Some((_, reason)) => Some(reason.clone()),
            None => slot.unopened(),
        }
    }

    /// How many lanes may be asleep in `query` while it is still read: each in a mount of its own, since one dead file
    /// server must not hide every file system.
    pub fn lanes(&self, query: Query) -> usize {
        let mounts = |slot: &Slot| slot.sources.iter().any(|source| matches!(source, Opened::Mounts(_)));
        if self.slot(query).is_some_and(mounts) { HUNG_MOUNTS } else { 1 }
    }

    fn slot(&self, query: Query) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.row.query == query)
    }

    /// Reads everything that `query` may read into `sink`.
    pub fn read(&self, query: Query, buffer: &mut Vec<u8>, sink: &mut Sink<'_>) -> Outcome {
        let Some(slot) = self.slot(query) else { return Outcome::NotPermitted };
        if let Some((outcome, _)) = &slot.barred {
            return *outcome;
        }
        // No lock is held over a read: it may sleep for ever.
        let mut files = std::mem::take(&mut *lock(&slot.files));
        let Files { held, missing, round } = &mut files;
        *round += 1;
        missing.resize_with(slot.sources.len(), HashMap::new);
        let mut reading = Reading {
            row: slot.row,
            roots: &self.roots,
            spare: &self.spare,
            asked: &self.asked,
            held,
            missing: &mut HashMap::new(),
            round: *round,
            listings: HashMap::new(),
            buffer,
            sink,
            tally: Tally::default(),
        };
        let flow = slot.sources.iter().zip(slot.row.sources).zip(&mut *missing).try_for_each(
            |((opened, source), missing)| {
                reading.missing = missing;
                reading.source(source, opened)
            },
        );
        let outcome = reading.tally.outcome();
        if flow.is_continue() {
            for missing in missing {
                missing.retain(|_, missing| missing.again > *round);
            }
            let before = held.len();
            held.retain(|_, held| held.round == *round);
            self.spare.fetch_add(before - held.len(), Ordering::Relaxed);
        }
        *lock(&slot.files) = files;
        outcome
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    /// How many files were opened once and stay open.
    fn fixed(&self) -> u64 {
        let count = |source: &Opened| match source {
            Opened::Fixed(files) => files.iter().filter(|(_, file)| file.is_ok()).count() as u64,
            _ => 0,
        };
        self.sources.iter().map(count).sum()
    }

    /// Why none of the fixed files could be opened at the start.
    fn unopened(&self) -> Option<String> {
        let mut first = None;
        for source in &self.sources {
            let Opened::Fixed(files) = source else { return None };
            for (path, file) in files {
                let errno = file.as_ref().err()?;
                first = first.or(Some((path, *errno)));
            }
        }
        first.map(|(path, errno)| format!("{path}: {errno}"))
    }
}

fn open_source(row: &Row, source: &Source, roots: &Roots) -> Opened {
    let fixed = |path: &str, file| Opened::Fixed(vec![(wire_path(source, path), file)]);
    let pattern = match Pattern::parse(source.pattern) {
        Ok(pattern) => pattern,
        // Every pattern of the table is tested to parse.
        Err(_) => return Opened::Fixed(Vec::new()),
    };
    match source.root {
        Root::Anchors => Opened::Anchors,
        Root::Rootfs => Opened::Mounts(open_file(roots.procfs.as_fd(), b"1/mountinfo")),
        Root::Own => fixed("mountinfo", open_file(CWD, b"/proc/self/mountinfo")),
        Root::OsRelease => {
            let path = roots.os_release.as_deref().unwrap_or(Path::new("")).as_os_str();
            fixed("os-release", open_file(CWD, path.as_bytes()))
        }
        Root::Proc => {
            let open = |path: String| {
                let file = open_file(roots.procfs.as_fd(), path.as_bytes()).and_then(within_limit);
                (wire_path(source, &path), file)
            };
            // One path more than may be given says that there are more.
            let paths = procfs_paths(roots.procfs.as_fd(), &pattern, row.entries + 1);
            let mut files: Vec<_> = paths.into_iter().map(open).collect();
            if !pattern.is_fixed() {
                // What a wildcard found is not always a directory, and need not have every name.
                files.retain(|(_, file)| !matches!(file, Err(errno) if gone(*errno)));
            }
            Opened::Fixed(files)
        }
        Root::Sys | Root::Udev | Root::Processes => Opened::Below(pattern),
    }
}

fn wire_path(source: &Source, path: &str) -> String {
    format!("{}/{path}", source.root.name())
}

/// Every path that a pattern below procfs leads to now: fixed names whether or not they exist, wildcards by listing
/// their directory. At most `limit` of each component.
fn procfs_paths(procfs: BorrowedFd<'_>, pattern: &Pattern, limit: usize) -> Vec<String> {
    pattern.components().iter().fold(vec![String::new()], |paths, component| {
        let below = |path: &String| match component {
            Component::Fixed(names) => names.clone(),
            Component::Wild(wild) => {
                let dir = if path.is_empty() { "." } else { path };
                let listed = rustix::fs::openat(procfs, dir, READ | OFlags::DIRECTORY, Mode::empty())
                    .and_then(|dir| names(dir.as_fd()));
                let names = listed.map(|(names, _)| names).unwrap_or_default();
                let matching = names.into_iter().filter(|(name, _)| wild.matches(name));
                matching.filter_map(|(name, _)| String::from_utf8(name).ok()).collect()
            }
        };
        let join = |path: &str, name: String| if path.is_empty() { name } else { format!("{path}/{name}") };
        let children =
            paths.iter().flat_map(|path| below(path).into_iter().map(move |name| join(path, name)));
        children.take(limit).collect()
    })
}

/// Why a row is never read with these roots and this view.
fn barred(row: &Row, roots: &Roots, view: &View) -> Option<(Outcome, String)> {
    let missing =
        |flag: &str| Some((Outcome::NotPermitted, format!("the broker was started without {flag}")));
    for source in row.sources {
        let given = match source.root {
            Root::Processes if !roots.processes => missing("--allow-processes"),
            Root::Udev if roots.udev.is_none() => missing("--path.udev.data"),
            Root::OsRelease if roots.os_release.is_none() => missing("--path.os-release"),
            Root::Rootfs if roots.rootfs.is_none() => missing("--path.rootfs"),
            Root::Anchors if roots.anchors.is_empty() => missing("--filesystem.anchor"),
            Root::Proc | Root::Processes if row.rung == Rung::Host && !view.proc_is_hosts => {
                container("/proc", &view.proc_reason)
            }
            Root::Sys if row.rung == Rung::Host && !view.sys_is_hosts => container("/sys", &view.sys_reason),
            Root::Rootfs if !view.proc_is_hosts => container("/proc", &view.proc_reason),
            _ => None,
        };
        if given.is_some() {
            return given;
        }
    }
    None
}

fn container(what: &str, reason: &str) -> Option<(Outcome, String)> {
    Some((Outcome::ContainerView, format!("{what} is a container's own: {reason}")))
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Opens a file that is held; a fifo in a fixture tree does not hold up the start.
fn open_file(dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, path, READ.union(OFlags::NONBLOCK), Mode::empty())
}

/// How many descriptors there may be.
fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A file that is to stay open; not when only the descriptors kept back are left.
fn within_limit(file: OwnedFd) -> Result<OwnedFd, Errno> {
    let number = file.as_raw_fd() as u64;
    if number.saturating_add(RESERVED_DESCRIPTORS) < descriptors() { Ok(file) } else { Err(Errno::MFILE) }
}

/// How the files of one reading did.
#[derive(Debug, Default)]
struct Tally {
    entries: usize,
    names: usize,
    read: bool,
    denied: bool,
    truncated: bool,
}

impl Tally {
    fn outcome(&self) -> Outcome {
        match self {
            Tally { truncated: true, .. } => Outcome::Truncated,
            Tally { read: true, .. } => Outcome::Ok,
            Tally { denied: true, .. } => Outcome::Denied,
            _ => Outcome::Absent,
        }
    }
}

/// One reading of one row.
struct Reading<'r, 's, 't> {
    row: &'static Row,
    roots: &'r Roots,
    spare: &'r AtomicUsize,
    asked: &'r Mutex<Vec<Mount>>,
    held: &'r mut HashMap<Vec<u8>, Held>,
    missing: &'r mut HashMap<Vec<u8>, Missing>,
    round: u64,
    /// Directories that were listed already in this reading.
    listings: HashMap<Vec<u8>, Rc<[Entry]>>,
    buffer: &'r mut Vec<u8>,
    sink: &'s mut Sink<'t>,
    tally: Tally,
}

impl Reading<'_, '_, '_> {
    fn source(&mut self, source: &Source, opened: &Opened) -> ControlFlow<()> {
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
fn gone(errno: Errno) -> bool {
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
fn names(dir: BorrowedFd<'_>) -> Result<(Vec<Entry>, bool), Errno> {
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

#[cfg(test)]
mod tests;
