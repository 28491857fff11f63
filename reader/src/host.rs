//! The host's files, as the readers of one class have them: roots, what is opened of them before the seal, and a read
//! of each row. Only here and in `read` is anything of the host opened.
//!
//! Files of procfs are opened once, before the seal, and read by `pread` from then on; the few wildcards in it are
//! followed then. sysfs is opened by name below its root. Nothing that is read is looked into.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use keyhole_policy::pattern::{Component, components, devices, is_wild};
use keyhole_policy::pipes::Change;
use keyhole_policy::{Class, Outcome, Query, Root, Row, Source};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, stat, statat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::arguments::Arguments;
use crate::cache::{Cache, Shared, hash};
use crate::output::{Gone, Output};
use crate::read::{Counters, NAMES_LIMIT, Read, Scratch, Stop, below_root, entries, gone, walk};
use crate::view::View;

/// Descriptors that are never used for files of the host.
const RESERVED_DESCRIPTORS: u64 = 16;

/// The roots, open.
#[derive(Debug)]
pub struct Roots {
    dirs: Vec<(Root, OwnedFd)>,
    /// The paths of the probe directories.
    pub probe_directories: Vec<Vec<u8>>,
    os_release: PathBuf,
    /// How many descriptors there may be: after the seal it cannot be asked.
    descriptors: u64,
}

impl Roots {
    /// Opens those of the given roots that readers of these classes need, and /proc and /sys, which the view needs. No
    /// other, since opening may hang. The error says what to do about a root that cannot be opened.
    ///
    /// A probe directory may hang or vanish with its file system, and this must not affect the others. So only the first
    /// reader opens it, to check the flag, and not after another reader has hung in one.
    pub fn open(arguments: &Arguments, classes: &[Class], shared: &Shared) -> Result<Self, String> {
        let is_needed = |root: Root| classes.iter().any(|class| needed(*class).contains(&root));
        const DIR: OFlags = OFlags::DIRECTORY;
        const ASK: OFlags = OFlags::DIRECTORY.union(OFlags::PATH);
        let open = |flag, path: &Path, flags: OFlags| {
            openat(CWD, path, OFlags::CLOEXEC | flags, Mode::empty()).map_err(|errno| {
                let (what, may) = if flags.is_empty() { ("file", "read") } else { ("directory", "search") };
                let path = path.display();
                format!("{flag}={path}: {errno}: give a {what} that exists and that this uid may {may}")
            })
        };
        let mut dirs = Vec::new();
        for (root, flag, path, flags) in [
            (Root::Proc, "--path.procfs", Some(&arguments.procfs), DIR),
            (Root::Sys, "--path.sysfs", Some(&arguments.sysfs), DIR),
            (Root::Udev, "--path.udev.data", arguments.udev.as_ref(), DIR),
            (Root::Rootfs, "--path.rootfs", arguments.rootfs.as_ref(), ASK),
        ] {
            let Some(path) = path else { continue };
            if matches!(root, Root::Proc | Root::Sys) || is_needed(root) {
                dirs.push((root, open(flag, path, flags)?));
            }
        }
        // It is opened again, as a file to read, with the rest of its row.
        let os_release = arguments.os_release.as_ref().filter(|_| is_needed(Root::OsRelease));
        if let Some(path) = os_release {
            open("--path.os-release", path, OFlags::empty())?;
        }
        let probe_directories =
            arguments.probe_directories.iter().filter(|_| is_needed(Root::ProbeDirectories));
        let probe_directories: Vec<_> =
            probe_directories.map(|path| path.as_os_str().as_bytes().to_vec()).collect();
        if !shared.has_started() && shared.hung().is_empty() {
            for path in &probe_directories {
                let open = || open("--filesystem.probe-directory", Path::new(OsStr::from_bytes(path)), ASK);
                shared.asking([hash(path), 0, 0], open)?;
            }
        }
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Ok(Self { dirs, probe_directories, os_release: os_release.cloned().unwrap_or_default(), descriptors })
    }

    /// Closes what the readers of a class do not need any more.
    pub fn keep_for(&mut self, class: Class) {
        self.dirs.retain(|(root, _)| needed(class).contains(root));
    }

    /// The directory below which the readers of a class open files once they are sealed.
    pub fn opened_later(&self, class: Class) -> Option<BorrowedFd<'_>> {
        let root = match class {
            Class::Sysfs | Class::Devices => Root::Sys,
            Class::Files => Root::Udev,
            Class::Processes => Root::Processes,
            Class::Procfs | Class::Mounts => return None,
        };
        self.dir(root).ok()
    }

    /// Returns a file that is to stay open; closes it, with EMFILE, when only the reserved descriptors are left.
    pub fn spare(&self, file: OwnedFd) -> Result<OwnedFd, Errno> {
        let number = file.as_raw_fd() as u64;
        if number.saturating_add(RESERVED_DESCRIPTORS) < self.descriptors {
            Ok(file)
        } else {
            Err(Errno::MFILE)
        }
    }

    /// The directory of a root, where it is one that is open.
    pub fn dir(&self, root: Root) -> Result<BorrowedFd<'_>, Errno> {
        let root = if root == Root::Processes { Root::Proc } else { root };
        self.dirs.iter().find(|(open, _)| *open == root).map(|(_, dir)| dir.as_fd()).ok_or(Errno::NOENT)
    }
}

/// The roots of what the readers of a class read.
fn needed(class: Class) -> &'static [Root] {
    match class {
        Class::Procfs | Class::Processes => &[Root::Proc],
        Class::Sysfs => &[Root::Sys],
        Class::Devices => &[Root::Proc, Root::Sys],
        Class::Files => &[Root::Udev, Root::OsRelease],
        Class::Mounts => &[Root::Rootfs, Root::ProbeDirectories],
    }
}

/// Everything that the readers of one class may read.
#[derive(Debug)]
pub struct Host {
    /// The roots that its class needs.
    pub roots: Roots,
    /// Whose files these are.
    pub view: View,
    rows: Vec<OpenRow>,
    /// What the readers of its class share.
    pub shared: Rc<Shared>,
    /// The paths of the kernel's roots, and which files they are.
    identity: Vec<(PathBuf, (u64, u64))>,
    sees_init: bool,
}

/// A row of the table, with what was opened for it.
#[derive(Debug)]
struct OpenRow {
    row: &'static Row,
    /// Why it is never read here, if so.
    unavailable: Option<(Outcome, String)>,
    sources: Vec<OpenSource>,
}

/// A source, with what was opened for it.
#[derive(Debug)]
pub struct OpenSource {
    /// The source.
    pub source: &'static Source,
    /// What its pattern has of [`devices`], where they are listed each time.
    pub devices: Option<&'static str>,
    /// What was opened.
    pub opened: Opened,
    /// What is known of what is found by name.
    pub cache: Cache,
}

/// What was opened for a source.
#[derive(Debug)]
pub enum Opened {
    /// Files that were opened once, before the seal.
    Fixed(Vec<Fixed>),
    /// Found by name each time.
    Below(Vec<Component>),
    /// The broker's own mountinfo, for the file systems of the probe directories.
    ProbeDirectories(Result<OwnedFd, Errno>),
    /// The host's mountinfo, for the mount points below the host root.
    Mounts(Result<OwnedFd, Errno>),
}

/// A file that was opened once.
#[derive(Debug)]
pub struct Fixed {
    /// Its name on the wire.
    pub name: Vec<u8>,
    /// Its descriptor, or why there is none.
    pub opened: Result<OwnedFd, Errno>,
    /// The kernel has taken it away since.
    pub lost: bool,
}

impl Host {
    /// Opens the fixed files of rows.
    pub fn open(
        rows: impl Iterator<Item = &'static Row>,
        arguments: &Arguments,
        roots: Roots,
        view: View,
        shared: Shared,
    ) -> Self {
        let open_row = |row: &'static Row| {
            let unavailable = view.unavailable(row);
            // What cannot be asked is not opened.
            let sources = if unavailable.is_some() { &[] } else { row.sources };
            let sources = sources.iter().map(|source| open_source(row, source, &roots, &view)).collect();
            OpenRow { row, unavailable, sources }
        };
        let rows = rows.map(open_row).collect();
        let known = |(path, root): (&PathBuf, Root)| {
            let stat = fstat(roots.dir(root).ok()?).ok()?;
            Some((path.clone(), (stat.st_dev, stat.st_ino)))
        };
        let given = [(&arguments.procfs, Root::Proc), (&arguments.sysfs, Root::Sys)];
        let identity = given.into_iter().filter_map(known).collect();
        let sees_init = sees_init(&roots);
        Self { roots, view, rows, shared: Rc::new(shared), identity, sees_init }
    }

    /// The queries that cannot be answered, each with the outcome of a read and the reason.
    pub fn unavailable(&self) -> impl Iterator<Item = (Query, Outcome, String)> {
        self.rows.iter().filter_map(|row| {
            let known = row.unavailable.clone().or_else(|| row.unopened());
            known.map(|(outcome, reason)| (row.row.query, outcome, reason))
        })
    }

    /// A hash of the names of the files that were opened before the seal, to compare readers.
    pub fn opened(&self) -> u64 {
        let opened = self.rows.iter().flat_map(OpenRow::files).filter(|file| file.opened.is_ok());
        opened.map(|file| hash(&file.name)).fold(0, u64::wrapping_add)
    }

    /// Reads everything that `query` may read; none if it is not a query of this class. Returns the outcome, how many items
    /// a limit left out, and whether something was skipped since another reader hangs in it.
    pub fn read(
        &mut self,
        query: Query,
        scratch: &mut Scratch,
        out: &mut Output<'_>,
    ) -> Result<Option<(Outcome, usize, bool)>, Gone> {
        let Some(open) = self.rows.iter_mut().find(|row| row.row.query == query) else { return Ok(None) };
        if let Some((outcome, _)) = &open.unavailable {
            return Ok(Some((*outcome, 0, false)));
        }
        let hung = self.shared.hung();
        let (row, roots, shared) = (open.row, &self.roots, &self.shared);
        let view = &self.view;
        let mut read =
            Read { row, roots, view, shared, hung: &hung, scratch, out, counters: Counters::default() };
        let mut groups = open.sources.chunk_by_mut(|a, b| a.devices.is_some() && a.devices == b.devices);
        if let Err(Stop::Gone) = groups.try_for_each(|group| read.sources(group)) {
            return Err(Gone);
        }
        let end = (read.counters.outcome(), read.counters.left_out, read.counters.skipped);
        scratch.trim();
        Ok(Some(end))
    }

    /// Whether a reader that is started now would see other files.
    pub fn change(&self) -> Change {
        let moved = |(path, known): &(PathBuf, (u64, u64))| {
            stat(path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) != *known)
        };
        if self.identity.iter().any(moved) {
            return Change::Yes;
        }
        // Readers of other classes have closed it.
        let has_procfs = self.roots.dir(Root::Proc).is_ok();
        if has_procfs && sees_init(&self.roots) != self.sees_init {
            return Change::Yes;
        }
        // What was lost is absent for the next reader, or there again.
        let appeared = |file: &Fixed| {
            file.lost
                || (file.opened.as_ref().is_err_and(|errno| gone(*errno))
                    && is_there(&self.roots, &self.view, &file.name))
        };
        if self.rows.iter().flat_map(OpenRow::files).any(appeared) {
            return Change::Yes;
        }
        let listed = |source: &Source| {
            let dir = source.pattern.split_once("/*").filter(|_| source.root == Root::Proc);
            dir.is_some_and(|(dir, _)| is_there(&self.roots, &self.view, format!("proc/{dir}").as_bytes()))
        };
        match self.rows.iter().flat_map(|row| row.row.sources).any(listed) {
            true => Change::Unknown,
            false => Change::No,
        }
    }
}

/// Whether PID 1 can be seen: not with hidepid, and not before it is there.
fn sees_init(roots: &Roots) -> bool {
    roots.dir(Root::Proc).and_then(|procfs| statat(procfs, "1/stat", AtFlags::empty())).is_ok()
}

/// Whether a file of procfs, by its name on the wire, is there.
pub fn is_there(roots: &Roots, view: &View, name: &[u8]) -> bool {
    let (Ok(procfs), Some(path)) = (roots.dir(Root::Proc), name.strip_prefix(b"proc/")) else { return false };
    view.path(path).is_some_and(|path| statat(procfs, &*path, AtFlags::empty()).is_ok())
}

impl OpenRow {
    fn files(&self) -> impl Iterator<Item = &Fixed> {
        self.sources.iter().flat_map(|source| match &source.opened {
            Opened::Fixed(files) => &files[..],
            _ => &[],
        })
    }

    /// Why none of the fixed files could be opened, if there are no others.
    fn unopened(&self) -> Option<(Outcome, String)> {
        let others = self.sources.iter().any(|source| !matches!(source.opened, Opened::Fixed(_)));
        if others || self.files().any(|file| file.opened.is_ok()) {
            return None;
        }
        let (name, errno) = self.files().find_map(|file| Some((&file.name, file.opened.as_ref().err()?)))?;
        let outcome = if gone(*errno) { Outcome::Absent } else { Outcome::Denied };
        Some((outcome, format!("{}: {errno}", String::from_utf8_lossy(name))))
    }
}

fn open_source(row: &Row, source: &'static Source, roots: &Roots, view: &View) -> OpenSource {
    let opened = open_files(row, source, roots, view);
    let devices = devices(source.pattern).filter(|_| matches!(opened, Opened::Below(_)));
    OpenSource { source, devices, opened, cache: Cache::default() }
}

fn open_files(row: &Row, source: &Source, roots: &Roots, view: &View) -> Opened {
    let fixed = |name: Vec<u8>, opened| Fixed { name, opened, lost: false };
    let alone = |opened| {
        let name = format!("{}/{}", source.root.name(), source.pattern);
        Opened::Fixed(vec![fixed(name.into(), opened)])
    };
    let own_mountinfo = || open_file(CWD, b"/proc/self/mountinfo");
    let of_procfs = |path: &[u8]| open_file(roots.dir(Root::Proc)?, &view.path(path).ok_or(Errno::PERM)?);
    match source.root {
        Root::ProbeDirectories => Opened::ProbeDirectories(own_mountinfo()),
        Root::Rootfs => Opened::Mounts(of_procfs(b"1/mountinfo")),
        Root::ProcSelf => alone(own_mountinfo()),
        Root::OsRelease => alone(open_file(CWD, roots.os_release.as_os_str().as_bytes())),
        // It would answer for a namespace of the reader's own.
        Root::ProcIn(namespace) if !view.shares(namespace) => Opened::Fixed(Vec::new()),
        Root::Proc | Root::ProcIn(_) => {
            // What a read would not reach is counted, and not opened.
            let open = |(number, name): (usize, Vec<u8>)| {
                let within = if number < row.entries { Ok(()) } else { Err(Errno::MFILE) };
                let opened = within.and_then(|()| of_procfs(below_root(source, &name)));
                let opened = opened.and_then(|file| roots.spare(file));
                fixed(name, opened)
            };
            let mut files: Vec<Fixed> =
                procfs_names(roots, source).into_iter().enumerate().map(open).collect();
            if is_wild(source.pattern) {
                // What a wildcard found is not always a directory, and need not have every name.
                files.retain(|file| !file.opened.as_ref().is_err_and(|errno| gone(*errno)));
            }
            Opened::Fixed(files)
        }
        Root::Sys | Root::Udev | Root::Processes => Opened::Below(components(source.pattern)),
    }
}

/// Every name that a pattern below procfs leads to now: fixed ones whether or not they exist, wildcards by listing
/// their directory.
fn procfs_names(roots: &Roots, source: &Source) -> Vec<Vec<u8>> {
    let mut list = |name: &[u8]| {
        let dir = roots.dir(Root::Proc).and_then(|procfs| {
            openat(procfs, below_root(source, name), READ | OFlags::DIRECTORY, Mode::empty())
        });
        Ok(dir.and_then(|dir| entries(dir.as_fd())).unwrap_or_default().0)
    };
    let components = components(source.pattern);
    let (root, mut found) = (source.root.name().into(), Vec::new());
    match walk(root, 0, &components, NAMES_LIMIT, &mut list, &mut found) {
        Ok(()) | Err(_) => found.into_iter().map(|(name, _)| name).collect(),
    }
}

/// The flags with which files and directories are opened to read. A file of a host may be a terminal's.
pub const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Opens a file that stays open; a fifo in a fixture tree does not hold up the start.
fn open_file(dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    openat(dir, path, READ | OFlags::NONBLOCK, Mode::empty())
}

#[cfg(test)]
mod tests;
