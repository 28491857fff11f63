//! The host's files, as the readers of one class have them: roots, what is opened of them before the seal, and a read
//! of each row. Only here and in `read` is anything of the host opened.
//!
//! Files of procfs are opened once, before the seal, and read by `pread` from then on; the few wildcards in it are
//! followed then. sysfs is opened by name below its root. Nothing that is read is looked into.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use keyhole_policy::{AccessLevel, Class, Component, Outcome, Pattern, Query, Root, Row, Source};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, stat, statat};
use rustix::io::Errno;

use crate::arguments::Arguments;
use crate::cache::{Budget, Cache, Shared};
use crate::output::{Gone, Output};
use crate::read::{Counters, Read, Scratch, Stop, gone, names};
use crate::view::View;

/// Descriptors that are never used for files of the host.
const RESERVED_DESCRIPTORS: u64 = 16;

/// The most directories below sysfs that are cached: they have no page of the kernel's memory, and serve where no more
/// files may be cached.
const CACHED_DIRECTORIES: u64 = 1024;

/// The roots, open.
#[derive(Debug, Default)]
pub struct Roots {
    pub procfs: Option<OwnedFd>,
    pub sysfs: Option<OwnedFd>,
    pub udev: Option<OwnedFd>,
    pub rootfs: Option<OwnedFd>,
    pub os_release: Option<PathBuf>,
    pub anchors: Vec<(Vec<u8>, OwnedFd)>,
}

impl Roots {
    /// Opens every root that was given. The error says what to do about one that cannot be opened.
    pub fn open(arguments: &Arguments) -> Result<Self, String> {
        const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
        const ASK: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
        let root = |flag, path: &Path, flags: OFlags| {
            rustix::fs::openat(CWD, path, flags.union(OFlags::CLOEXEC), Mode::empty()).map_err(|errno| {
                let (what, may) = match flags.contains(OFlags::DIRECTORY) {
                    true => ("a directory", "search"),
                    false => ("a file", "read"),
                };
                format!(
                    "{flag}={}: {errno}: give {what} that exists and that this uid may {may}",
                    path.display()
                )
            })
        };
        let optional = |flag, path: &Option<PathBuf>, flags| {
            path.as_deref().map(|path| root(flag, path, flags)).transpose()
        };
        let anchor = |path: &PathBuf| {
            let dir = root("--filesystem.anchor", path, ASK)?;
            Ok((path.as_os_str().as_bytes().to_vec(), dir))
        };
        // It is opened again, as a file to read, with the rest of its row.
        optional("--path.os-release", &arguments.os_release, OFlags::RDONLY)?;
        Ok(Self {
            procfs: Some(root("--path.procfs", &arguments.procfs, DIR)?),
            sysfs: Some(root("--path.sysfs", &arguments.sysfs, DIR)?),
            udev: optional("--path.udev.data", &arguments.udev, DIR)?,
            rootfs: optional("--path.rootfs", &arguments.rootfs, ASK)?,
            os_release: arguments.os_release.clone(),
            anchors: arguments.anchors.iter().map(anchor).collect::<Result<_, String>>()?,
        })
    }

    /// Closes what the readers of a class do not need.
    pub fn keep_for(&mut self, class: Class) {
        let keep = |root: &mut Option<OwnedFd>, classes: &[Class]| {
            root.take_if(|_| !classes.contains(&class));
        };
        keep(&mut self.procfs, &[Class::Procfs, Class::Devices, Class::Processes]);
        keep(&mut self.sysfs, &[Class::Sysfs, Class::Devices]);
        keep(&mut self.udev, &[Class::Files]);
        keep(&mut self.rootfs, &[Class::Mounts]);
        if class != Class::Mounts {
            self.anchors.clear();
        }
    }

    /// The directories below which the readers of a class open files once they are sealed.
    pub fn opened_later(&self, class: Class) -> Option<BorrowedFd<'_>> {
        let root = match class {
            Class::Sysfs | Class::Devices => &self.sysfs,
            Class::Files => &self.udev,
            Class::Processes => &self.procfs,
            Class::Procfs | Class::Mounts => &None,
        };
        root.as_ref().map(AsFd::as_fd)
    }
}

/// Everything that the readers of one class may read.
#[derive(Debug)]
pub struct Host {
    pub roots: Roots,
    view: View,
    rows: Vec<OpenRow>,
    shared: Rc<Shared>,
    files: Budget,
    directories: Budget,
    identity: Vec<(PathBuf, u64, u64)>,
    sees_init: bool,
}

/// A row of the table, with what was opened for it.
#[derive(Debug)]
struct OpenRow {
    row: &'static Row,
    /// Why it is never read here, if so.
    unavailable: Option<(Outcome, String)>,
    sources: Vec<Opened>,
    cache: Cache,
}

/// What was opened for a source.
#[derive(Debug)]
pub enum Opened {
    /// Files that were opened once, before the seal; whether a wildcard found them.
    Fixed { files: Vec<Fixed>, wild: bool },
    /// Found by name each time.
    Below(Pattern),
    /// The anchors' own descriptors serve.
    Anchors,
    /// The host's mountinfo, for the mount points below the host root.
    Mounts(Result<OwnedFd, Errno>),
}

/// A file that was opened once.
#[derive(Debug)]
pub struct Fixed {
    /// Its name on the wire.
    pub name: String,
    pub opened: Result<OwnedFd, Errno>,
    /// The kernel has taken it away since.
    pub lost: bool,
}

impl Host {
    /// Opens the fixed files of rows, with at most so many files cached by all readers that share `shared`.
    pub fn open(
        rows: impl Iterator<Item = &'static Row>,
        arguments: &Arguments,
        roots: Roots,
        view: View,
        shared: Shared,
        cached_files: u64,
    ) -> Self {
        let rows: Vec<OpenRow> = rows
            .map(|row| {
                let unavailable = unavailable(row, &view);
                let open = |source| open_source(row, source, &roots);
                // What cannot be asked is not opened.
                let sources = if unavailable.is_some() { &[] } else { row.sources };
                let sources = sources.iter().map(open).collect();
                OpenRow { row, unavailable, sources, cache: Cache::default() }
            })
            .collect();
        let fixed: u64 = rows.iter().map(OpenRow::fixed).sum();
        let left = descriptors().saturating_sub(RESERVED_DESCRIPTORS + fixed);
        let shared = Rc::new(shared);
        let files = Budget::files(&shared, cached_files.min(left));
        let directories = Budget::directories(&shared, CACHED_DIRECTORIES.min(left - cached_files.min(left)));
        let known = |(path, root): (&PathBuf, &Option<OwnedFd>)| {
            let stat = fstat(root.as_ref()?).ok()?;
            Some((path.clone(), stat.st_dev, stat.st_ino))
        };
        let roots_given = [(&arguments.procfs, &roots.procfs), (&arguments.sysfs, &roots.sysfs)];
        let identity = roots_given.into_iter().filter_map(known).collect();
        let sees_init = sees_init(&roots);
        Self { roots, view, rows, shared, files, directories, identity, sees_init }
    }

    /// Whose files these are.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The queries that cannot be answered, each with the outcome of a read and the reason.
    pub fn unavailable(&self) -> impl Iterator<Item = (Query, Outcome, String)> {
        self.rows.iter().filter_map(|row| {
            let known = row.unavailable.clone().or_else(|| row.unopened());
            known.map(|(outcome, reason)| (row.row.query, outcome, reason))
        })
    }

    /// Reads everything that `query` may read; none when it is no query of these readers. Besides the outcome, whether
    /// something was not asked since another reader hangs in it.
    pub fn read(
        &mut self,
        query: Query,
        scratch: &mut Scratch,
        out: &mut Output<'_>,
    ) -> Result<Option<(Outcome, bool)>, Gone> {
        let Some(open) = self.rows.iter_mut().find(|row| row.row.query == query) else { return Ok(None) };
        if let Some((outcome, _)) = &open.unavailable {
            return Ok(Some((*outcome, false)));
        }
        open.cache.begin(open.sources.len());
        let hung = self.shared.hung();
        let mut read = Read {
            row: open.row,
            roots: &self.roots,
            shared: &self.shared,
            hung: &hung,
            files: &self.files,
            directories: &self.directories,
            cache: &mut open.cache,
            scratch,
            out,
            counters: Counters::default(),
        };
        let mut sources = open.sources.iter_mut().zip(open.row.sources).enumerate();
        let flow = sources.try_for_each(|(number, (opened, source))| {
            read.cache.at_source(number);
            read.source(source, opened)
        });
        let end = (read.counters.outcome(), read.counters.skipped);
        match flow {
            Err(Stop::Gone) => return Err(Gone),
            Err(Stop::Limit) => {}
            Ok(()) => open.cache.end(),
        }
        scratch.trim();
        Ok(Some(end))
    }

    /// Whether a reader that is started now would see more, or something else.
    pub fn has_changed(&self) -> bool {
        let moved = |(path, device, inode): &(PathBuf, u64, u64)| {
            stat(path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) != (*device, *inode))
        };
        if self.identity.iter().any(moved) {
            return true;
        }
        let Some(procfs) = self.roots.procfs.as_ref() else { return false };
        let appeared = |path: &str| statat(procfs, path, AtFlags::empty()).is_ok();
        let sources = self.rows.iter().flat_map(|row| row.sources.iter().zip(row.row.sources));
        sees_init(&self.roots) != self.sees_init
            || sources.filter(|(_, source)| source.root == Root::Proc).any(|(opened, source)| match opened {
                Opened::Fixed { wild: true, .. } => {
                    source.pattern.split_once("/*").is_some_and(|(dir, _)| appeared(dir))
                }
                Opened::Fixed { files, .. } => files.iter().any(|file| {
                    let absent = file.lost || file.opened.as_ref().is_err_and(|errno| gone(*errno));
                    absent && file.name.split_once('/').is_some_and(|(_, path)| appeared(path))
                }),
                _ => false,
            })
    }
}

/// Whether PID 1 can be seen: not with hidepid, and not before it is there.
fn sees_init(roots: &Roots) -> bool {
    roots.procfs.as_ref().is_some_and(|procfs| statat(procfs, "1/stat", AtFlags::empty()).is_ok())
}

impl OpenRow {
    fn files(&self) -> impl Iterator<Item = &Fixed> {
        self.sources.iter().flat_map(|source| match source {
            Opened::Fixed { files, .. } => &files[..],
            _ => &[],
        })
    }

    /// How many files were opened once and stay open.
    fn fixed(&self) -> u64 {
        self.files().filter(|file| file.opened.is_ok()).count() as u64
    }

    /// Why none of the fixed files could be opened, if there are no others.
    fn unopened(&self) -> Option<(Outcome, String)> {
        let others = self.sources.iter().any(|source| !matches!(source, Opened::Fixed { .. }));
        if others || self.fixed() > 0 {
            return None;
        }
        let (name, errno) = self.files().find_map(|file| Some((&file.name, file.opened.as_ref().err()?)))?;
        let outcome = if gone(*errno) { Outcome::Absent } else { Outcome::Denied };
        Some((outcome, format!("{name}: {errno}")))
    }
}

fn open_source(row: &Row, source: &Source, roots: &Roots) -> Opened {
    let name = |path: &str| format!("{}/{path}", source.root.name());
    let fixed = |path: &str, opened| Opened::Fixed {
        files: vec![Fixed { name: name(path), opened, lost: false }],
        wild: false,
    };
    // Every pattern of the table is tested to parse, and procfs is given wherever one is opened of it.
    let (Ok(pattern), Some(procfs)) =
        (Pattern::parse(source.pattern), roots.procfs.as_ref().map(AsFd::as_fd))
    else {
        return Opened::Fixed { files: Vec::new(), wild: false };
    };
    match source.root {
        Root::Anchors => Opened::Anchors,
        Root::Rootfs => Opened::Mounts(open_file(procfs, b"1/mountinfo")),
        Root::Own => fixed("mountinfo", open_file(CWD, b"/proc/self/mountinfo")),
        Root::OsRelease => {
            let path = roots.os_release.as_deref().unwrap_or(Path::new("")).as_os_str();
            fixed("os-release", open_file(CWD, path.as_bytes()))
        }
        Root::Proc => {
            let open = |path: String| {
                let opened = open_file(procfs, path.as_bytes()).and_then(within_limit);
                Fixed { name: name(&path), opened, lost: false }
            };
            // One path more than may be read says that there are more.
            let paths = procfs_paths(procfs, &pattern, row.entries + 1);
            let mut files: Vec<_> = paths.into_iter().map(open).collect();
            let wild = !pattern.is_fixed();
            if wild {
                // What a wildcard found is not always a directory, and need not have every name.
                files.retain(|file| !file.opened.as_ref().is_err_and(|errno| gone(*errno)));
            }
            Opened::Fixed { files, wild }
        }
        Root::Sys | Root::Udev | Root::Processes => Opened::Below(pattern),
    }
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

/// Why a row is never read with this view: a container's own files would answer for the container.
fn unavailable(row: &Row, view: &View) -> Option<(Outcome, String)> {
    let container = |what: &str, reason: &str| {
        Some((Outcome::ContainerView, format!("{what} is a container's own: {reason}")))
    };
    let of_host = row.access_level == AccessLevel::Host;
    row.sources.iter().find_map(|source| match source.root {
        Root::Proc | Root::Processes | Root::Rootfs if of_host && !view.proc_is_hosts => {
            container("/proc", &view.proc_reason)
        }
        Root::Sys if of_host && !view.sys_is_hosts => container("/sys", &view.sys_reason),
        _ => None,
    })
}

pub const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Opens a file that stays open; a fifo in a fixture tree does not hold up the start.
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
