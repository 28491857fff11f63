//! The host's files, as the readers of one class see them: the roots, the files that are opened before the sandbox, and
//! a read of each row. Only this module and `read` open files of the host.
//!
//! Files of procfs are opened once, before the sandbox, and read with `pread` from then on; the few wildcards in procfs
//! are expanded then. Files of sysfs are opened by name below its root. No content is parsed here.

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
use crate::cache::{Cache, SharedState, hash};
use crate::output::{BrokerGone, Output};
use crate::read::{Counters, NAMES_LIMIT, RowRead, Scratch, Stop, below_root, entries, is_absent, walk};
use crate::view::View;

/// Descriptors that are never used for cached files of the host: pipes, roots, and the files that one read opens.
const RESERVED_DESCRIPTORS: u64 = 16;

/// The open roots.
#[derive(Debug)]
pub struct Roots {
    dirs: Vec<(Root, OwnedFd)>,
    /// The paths of the probe directories.
    pub probe_directories: Vec<Vec<u8>>,
    os_release: PathBuf,
    /// RLIMIT_NOFILE; the sandbox forbids asking for it later.
    descriptors: u64,
}

impl Roots {
    /// Opens the roots that readers of these classes need, and /proc and /sys, which [`View::find`] needs. No others,
    /// since an open may hang. The error says what to do about a root that cannot be opened.
    ///
    /// A probe directory may hang or disappear together with its file system, which must not affect other readers. So
    /// only the first reader of a class opens it, to check the flag, and only if no other reader hangs in one.
    pub fn open(arguments: &Arguments, classes: &[Class], shared: &SharedState) -> Result<Self, String> {
        let is_needed = |root: Root| classes.iter().any(|class| class_roots(*class).contains(&root));
        const DIRECTORY: OFlags = OFlags::DIRECTORY;
        const FOR_STATFS: OFlags = OFlags::DIRECTORY.union(OFlags::PATH);
        let open = |flag, path: &Path, flags: OFlags| {
            openat(CWD, path, OFlags::CLOEXEC | flags, Mode::empty()).map_err(|errno| {
                let (what, may) = if flags.is_empty() { ("file", "read") } else { ("directory", "search") };
                let path = path.display();
                format!("{flag}={path}: {errno}: give a {what} that exists and that this uid may {may}")
            })
        };
        let mut dirs = Vec::new();
        for (root, flag, path, flags) in [
            (Root::Proc, "--path.procfs", Some(&arguments.procfs), DIRECTORY),
            (Root::Sys, "--path.sysfs", Some(&arguments.sysfs), DIRECTORY),
            (Root::Udev, "--path.udev.data", arguments.udev.as_ref(), DIRECTORY),
            (Root::Rootfs, "--path.rootfs", arguments.rootfs.as_ref(), FOR_STATFS),
        ] {
            let Some(path) = path else { continue };
            if matches!(root, Root::Proc | Root::Sys) || is_needed(root) {
                dirs.push((root, open(flag, path, flags)?));
            }
        }
        // Only to check the flag: the file that is read is opened with its row.
        let os_release = arguments.os_release.as_ref().filter(|_| is_needed(Root::OsRelease));
        if let Some(path) = os_release {
            open("--path.os-release", path, OFlags::empty())?;
        }
        let probe_directories =
            arguments.probe_directories.iter().filter(|_| is_needed(Root::ProbeDirectories));
        let probe_directories: Vec<_> =
            probe_directories.map(|path| path.as_os_str().as_bytes().to_vec()).collect();
        if !shared.was_ready() && shared.hung().is_empty() {
            for path in &probe_directories {
                let open =
                    || open("--filesystem.probe-directory", Path::new(OsStr::from_bytes(path)), FOR_STATFS);
                shared.while_published([hash(path), 0, 0], open)?;
            }
        }
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Ok(Self { dirs, probe_directories, os_release: os_release.cloned().unwrap_or_default(), descriptors })
    }

    /// Closes the roots that readers of a class do not need once their view is known.
    pub fn retain_class_roots(&mut self, class: Class) {
        self.dirs.retain(|(root, _)| class_roots(class).contains(root));
    }

    /// The directory below which the sandbox lets the readers of a class open files, if any.
    pub fn landlock_dir(&self, class: Class) -> Option<BorrowedFd<'_>> {
        let root = match class {
            Class::Sysfs | Class::Devices => Root::Sys,
            Class::Files => Root::Udev,
            Class::Processes => Root::Processes,
            Class::Procfs | Class::Mounts => return None,
        };
        self.dir(root).ok()
    }

    /// Returns a file that is to stay open; closes it and returns EMFILE if only the reserved descriptors are left.
    pub fn keep_if_budget_allows(&self, file: OwnedFd) -> Result<OwnedFd, Errno> {
        let number = file.as_raw_fd() as u64;
        if number.saturating_add(RESERVED_DESCRIPTORS) < self.descriptors {
            Ok(file)
        } else {
            Err(Errno::MFILE)
        }
    }

    /// The directory of a root, if it is open.
    pub fn dir(&self, root: Root) -> Result<BorrowedFd<'_>, Errno> {
        let root = if root == Root::Processes { Root::Proc } else { root };
        self.dirs.iter().find(|(open, _)| *open == root).map(|(_, dir)| dir.as_fd()).ok_or(Errno::NOENT)
    }
}

/// The roots below which the readers of a class read.
fn class_roots(class: Class) -> &'static [Root] {
    match class {
        Class::Procfs | Class::Processes => &[Root::Proc],
        Class::Sysfs => &[Root::Sys],
        Class::Devices => &[Root::Proc, Root::Sys],
        Class::Files => &[Root::Udev, Root::OsRelease],
        Class::Mounts => &[Root::Rootfs, Root::ProbeDirectories],
    }
}

/// Everything that a reader may read.
#[derive(Debug)]
pub struct Host {
    /// The roots that its class needs.
    pub roots: Roots,
    /// Whose /proc and /sys these are.
    pub view: View,
    rows: Vec<OpenRow>,
    /// The page that the readers of its class share.
    pub shared: Rc<SharedState>,
    /// The paths of /proc and /sys as given, with device and inode at the start.
    root_inodes: Vec<(PathBuf, (u64, u64))>,
    sees_pid_1: bool,
}

/// A row of the policy table, with its open files.
#[derive(Debug)]
struct OpenRow {
    row: &'static Row,
    /// Why the row cannot be read with this view, if so.
    unavailable: Option<(Outcome, String)>,
    sources: Vec<OpenSource>,
}

/// A source of a row, with its open files.
#[derive(Debug)]
pub struct OpenSource {
    /// The source.
    pub source: &'static Source,
    /// The prefix of its pattern that matches [`devices`], if these are listed at each read.
    pub devices: Option<&'static str>,
    /// Its open files.
    pub opened: Opened,
    /// What is cached of files that are found by name.
    pub cache: Cache,
}

/// How the files of a source are opened.
#[derive(Debug)]
pub enum Opened {
    /// Once, before the sandbox.
    Fixed(Vec<FixedFile>),
    /// By name, at each read.
    ByName(Vec<Component>),
    /// The reader's own mountinfo, to find the file systems of the probe directories.
    ProbeDirectories(Result<OwnedFd, Errno>),
    /// The host's mountinfo, to find the mount points below the host root.
    Mounts(Result<OwnedFd, Errno>),
}

/// A file that was opened once, before the sandbox.
#[derive(Debug)]
pub struct FixedFile {
    /// Its name on the wire.
    pub name: Vec<u8>,
    /// Its descriptor, or why it could not be opened.
    pub opened: Result<OwnedFd, Errno>,
    /// The kernel has removed it since, as when a module is unloaded.
    pub removed: bool,
}

impl Host {
    /// Opens the files of `rows` that are opened once.
    pub fn open(
        rows: impl Iterator<Item = &'static Row>,
        arguments: &Arguments,
        roots: Roots,
        view: View,
        shared: SharedState,
    ) -> Self {
        let open_row = |row: &'static Row| {
            let unavailable = view.unavailable(row);
            // What cannot be read is not opened.
            let sources = if unavailable.is_some() { &[] } else { row.sources };
            let sources = sources.iter().map(|source| open_source(row, source, &roots, &view)).collect();
            OpenRow { row, unavailable, sources }
        };
        let rows = rows.map(open_row).collect();
        let inode = |(path, root): (&PathBuf, Root)| {
            let stat = fstat(roots.dir(root).ok()?).ok()?;
            Some((path.clone(), (stat.st_dev, stat.st_ino)))
        };
        let kernel_roots = [(&arguments.procfs, Root::Proc), (&arguments.sysfs, Root::Sys)];
        let root_inodes = kernel_roots.into_iter().filter_map(inode).collect();
        let sees_pid_1 = sees_pid_1(&roots);
        Self { roots, view, rows, shared: Rc::new(shared), root_inodes, sees_pid_1 }
    }

    /// The queries that cannot be answered, each with the outcome of a read and the reason.
    pub fn unavailable(&self) -> impl Iterator<Item = (Query, Outcome, String)> {
        self.rows.iter().filter_map(|row| {
            let unavailable = row.unavailable.clone().or_else(|| row.why_none_is_open());
            unavailable.map(|(outcome, reason)| (row.row.query, outcome, reason))
        })
    }

    /// A hash of the names of the files that were opened before the sandbox: whether two readers opened the same.
    pub fn opened_hash(&self) -> u64 {
        let opened = self.rows.iter().flat_map(OpenRow::files).filter(|file| file.opened.is_ok());
        opened.map(|file| hash(&file.name)).fold(0, u64::wrapping_add)
    }

    /// Reads everything that `query` may read; none if it is not a query of this class. Returns the outcome, how many
    /// items a limit left out, and whether something was skipped because another reader hangs in it.
    pub fn read(
        &mut self,
        query: Query,
        scratch: &mut Scratch,
        out: &mut Output<'_>,
    ) -> Result<Option<(Outcome, usize, bool)>, BrokerGone> {
        let Some(open) = self.rows.iter_mut().find(|row| row.row.query == query) else { return Ok(None) };
        if let Some((outcome, _)) = &open.unavailable {
            return Ok(Some((*outcome, 0, false)));
        }
        let hung = self.shared.hung();
        let (row, roots, shared) = (open.row, &self.roots, &self.shared);
        let view = &self.view;
        let mut read =
            RowRead { row, roots, view, shared, hung: &hung, scratch, out, counters: Counters::default() };
        let mut groups = open.sources.chunk_by_mut(|a, b| a.devices.is_some() && a.devices == b.devices);
        if let Err(Stop::BrokerGone) = groups.try_for_each(|group| read.read_sources(group)) {
            return Err(BrokerGone);
        }
        let end = (read.counters.outcome(), read.counters.left_out, read.counters.skipped);
        scratch.trim();
        Ok(Some(end))
    }

    /// Whether a reader that starts now would see other files.
    pub fn changed_since_start(&self) -> Change {
        let replaced = |(path, inode): &(PathBuf, (u64, u64))| {
            stat(path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) != *inode)
        };
        if self.root_inodes.iter().any(replaced) {
            return Change::Yes;
        }
        // Readers of classes that do not need procfs have closed it.
        let has_procfs = self.roots.dir(Root::Proc).is_ok();
        if has_procfs && sees_pid_1(&self.roots) != self.sees_pid_1 {
            return Change::Yes;
        }
        // To the next reader a file that was removed is absent, or there again.
        let appeared = |file: &FixedFile| {
            file.removed
                || (file.opened.as_ref().is_err_and(|errno| is_absent(*errno))
                    && exists(&self.roots, &self.view, &file.name))
        };
        if self.rows.iter().flat_map(OpenRow::files).any(appeared) {
            return Change::Yes;
        }
        let listed = |source: &Source| {
            let dir = source.pattern.split_once("/*").filter(|_| source.root == Root::Proc);
            dir.is_some_and(|(dir, _)| exists(&self.roots, &self.view, format!("proc/{dir}").as_bytes()))
        };
        let is_listed = self.rows.iter().flat_map(|row| row.row.sources).any(listed);
        if is_listed { Change::Unknown } else { Change::No }
    }
}

/// Whether procfs shows PID 1: not with `hidepid=`, and not before PID 1 exists.
fn sees_pid_1(roots: &Roots) -> bool {
    roots.dir(Root::Proc).and_then(|procfs| statat(procfs, "1/stat", AtFlags::empty())).is_ok()
}

/// Whether a file of procfs exists, by its name on the wire.
pub fn exists(roots: &Roots, view: &View, name: &[u8]) -> bool {
    let (Ok(procfs), Some(path)) = (roots.dir(Root::Proc), name.strip_prefix(b"proc/")) else { return false };
    view.path(path).is_some_and(|path| statat(procfs, &*path, AtFlags::empty()).is_ok())
}

impl OpenRow {
    fn files(&self) -> impl Iterator<Item = &FixedFile> {
        self.sources.iter().flat_map(|source| match &source.opened {
            Opened::Fixed(files) => &files[..],
            _ => &[],
        })
    }

    /// Why none of the row's files could be opened, if all of them are opened once.
    fn why_none_is_open(&self) -> Option<(Outcome, String)> {
        let has_others = self.sources.iter().any(|source| !matches!(source.opened, Opened::Fixed(_)));
        if has_others || self.files().any(|file| file.opened.is_ok()) {
            return None;
        }
        let (name, errno) = self.files().find_map(|file| Some((&file.name, file.opened.as_ref().err()?)))?;
        let outcome = if is_absent(*errno) { Outcome::Absent } else { Outcome::Denied };
        Some((outcome, format!("{}: {errno}", String::from_utf8_lossy(name))))
    }
}

fn open_source(row: &Row, source: &'static Source, roots: &Roots, view: &View) -> OpenSource {
    let opened = open_files(row, source, roots, view);
    let devices = devices(source.pattern).filter(|_| matches!(opened, Opened::ByName(_)));
    OpenSource { source, devices, opened, cache: Cache::default() }
}

fn open_files(row: &Row, source: &Source, roots: &Roots, view: &View) -> Opened {
    let fixed = |name: Vec<u8>, opened| FixedFile { name, opened, removed: false };
    let single_file = |opened| {
        let name = format!("{}/{}", source.root.name(), source.pattern);
        Opened::Fixed(vec![fixed(name.into(), opened)])
    };
    let own_mountinfo = || open_file(CWD, b"/proc/self/mountinfo");
    let open_in_procfs =
        |path: &[u8]| open_file(roots.dir(Root::Proc)?, &view.path(path).ok_or(Errno::PERM)?);
    match source.root {
        Root::ProbeDirectories => Opened::ProbeDirectories(own_mountinfo()),
        Root::Rootfs => Opened::Mounts(open_in_procfs(b"1/mountinfo")),
        Root::ProcSelf => single_file(own_mountinfo()),
        Root::OsRelease => single_file(open_file(CWD, roots.os_release.as_os_str().as_bytes())),
        // The value would be that of the reader's own namespace.
        Root::ProcIn(namespace) if !view.is_in_host_namespace(namespace) => Opened::Fixed(Vec::new()),
        Root::Proc | Root::ProcIn(_) => {
            // Files beyond the row's limit are counted, and not opened.
            let open = |(number, name): (usize, Vec<u8>)| {
                let within = if number < row.entries { Ok(()) } else { Err(Errno::MFILE) };
                let opened = within.and_then(|()| open_in_procfs(below_root(source, &name)));
                let opened = opened.and_then(|file| roots.keep_if_budget_allows(file));
                fixed(name, opened)
            };
            let mut files: Vec<FixedFile> =
                procfs_names(roots, source).into_iter().enumerate().map(open).collect();
            if is_wild(source.pattern) {
                // What a wildcard matches need not be a directory, and need not hold every name.
                files.retain(|file| !file.opened.as_ref().is_err_and(|errno| is_absent(*errno)));
            }
            Opened::Fixed(files)
        }
        Root::Sys | Root::Udev | Root::Processes => Opened::ByName(components(source.pattern)),
    }
}

/// Every path that a pattern below procfs matches now: names without wildcards whether or not they exist, wildcards by
/// listing their directory.
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

/// The flags with which files and directories are opened. NOCTTY, since a file of the host may be a terminal.
pub const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Opens a file that stays open. NONBLOCK, so that the open of a FIFO in a fixture tree does not wait for a writer.
fn open_file(dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    openat(dir, path, READ | OFlags::NONBLOCK, Mode::empty())
}

#[cfg(test)]
mod tests;
