//! The host's files: roots, held descriptors, bounded reads. Only here and in `reading` is anything of the host opened.
//!
//! procfs is opened once, before the seal, and read by `pread` from then on; the few wildcards in it are followed then
//! and never again. sysfs is opened by name below its root and held while it stays, up to a cap. Nothing that is read
//! is looked into.

mod kept;
mod reading;

use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use keyhole_policy::{Component, Pattern, Root, Row, Rung, Source, TABLE};
use keyhole_proto::v1::{self, Outcome, Query};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use self::kept::{Kept, Spare};
pub use self::reading::Scratch;
use self::reading::{Reading, Tally, gone, names};
use crate::lock;
use crate::mounts::Mount;
use crate::view::View;

/// The largest part of a file in one message.
pub const PART_BYTES: usize = 16 << 10;

/// Descriptors kept back for connections and the runtime.
const RESERVED_DESCRIPTORS: u64 = 64;

/// The most descriptors held for files below sysfs, unless told otherwise: each keeps a page of kernel memory after its
/// first read.
const HELD_FILES: u32 = 1024;

/// The most held for directories below sysfs, which have no page of their own: they serve past the cap of files.
const HELD_DIRECTORIES: u64 = 2048;

/// How many lanes may be asleep in mounts before no more of them are asked about: one must be left to read the rest.
const HUNG_MOUNTS: usize = 3;

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
    /// `--held-files`.
    pub held_files: Option<u32>,
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
    held_files: u32,
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
            held_files: paths.held_files.unwrap_or(HELD_FILES),
        })
    }
}

/// One answer's worth of a path. What it borrows is overwritten by the next.
#[derive(Debug)]
pub enum Item<'i> {
    /// A file or a link: its path on the wire, and whether it has more than is given.
    File { name: &'i [u8], content: Content<'i>, truncated: bool },
    /// A file system: its mount point, and its numbers without that.
    FileSystem { name: &'i [u8], numbers: v1::FileSystem },
}

/// What there is of a path.
#[derive(Debug)]
pub enum Content<'i> {
    /// Bytes of a file, [`PART_BYTES`] at most; what follows comes under the same name.
    Text(&'i [u8]),
    /// Where a link leads.
    Link(&'i [u8]),
    /// How many entries a directory says that it has.
    Entries(u64),
    /// Why it could not be read.
    Errno(Errno),
}

/// Where items go; [`ControlFlow::Break`] means that nobody wants more.
pub type Sink<'s> = dyn FnMut(Item<'_>) -> ControlFlow<()> + 's;

/// Everything that may be read, a slot a row of the table.
#[derive(Debug)]
pub struct Host {
    roots: Roots,
    slots: Vec<Slot>,
    view: View,
    /// How many more descriptors below sysfs may be held, of either kind.
    spare_files: Spare,
    spare_dirs: Spare,
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
    kept: Mutex<Kept>,
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
                kept: Mutex::default(),
            })
            .collect();
        let fixed: u64 = slots.iter().map(Slot::fixed).sum();
        let spare = descriptors().saturating_sub(RESERVED_DESCRIPTORS + fixed);
        let files = spare.min(roots.held_files.into());
        let dirs = (spare - files).min(HELD_DIRECTORIES);
        let asked = Mutex::default();
        Self { roots, slots, view, spare_files: Spare::of(files), spare_dirs: Spare::of(dirs), asked }
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
    pub fn read(&self, query: Query, scratch: &mut Scratch, sink: &mut Sink<'_>) -> Outcome {
        let Some(slot) = self.slot(query) else { return Outcome::NotPermitted };
        if let Some((outcome, _)) = &slot.barred {
            return *outcome;
        }
        // No lock is held over a read: it may sleep for ever.
        let mut kept = std::mem::take(&mut *lock(&slot.kept));
        kept.begin(slot.sources.len());
        let mut reading = Reading {
            row: slot.row,
            roots: &self.roots,
            asked: &self.asked,
            spare_files: &self.spare_files,
            spare_dirs: &self.spare_dirs,
            kept: &mut kept,
            scratch,
            sink,
            tally: Tally::default(),
        };
        let mut sources = slot.sources.iter().zip(slot.row.sources).enumerate();
        let flow = sources.try_for_each(|(number, (opened, source))| {
            reading.kept.at_source(number);
            reading.source(source, opened)
        });
        let outcome = reading.tally.outcome();
        if flow.is_continue() {
            kept.end();
        }
        *lock(&slot.kept) = kept;
        scratch.trim();
        outcome
    }
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

#[cfg(test)]
mod tests;
