//! A snapshot written as a directory. What the broker says is not trusted: no path of it leaves the directory.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{Access, access};

use super::index::{self, blob, escape, place};
use super::{About, META};
use crate::snapshot::{Content, Snapshot};

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The directory holds something, or is none.
    #[error("{0} exists and is not empty: give a directory that does not exist yet")]
    Exists(PathBuf),
    /// The path has no last component that could be a directory's name.
    #[error("{0}: give a directory that does not exist yet")]
    NoName(PathBuf),
    /// Nothing may be written beside it.
    #[error(
        "cannot write to {path}: {reason}: give a directory below one that this user may write to, such as /tmp"
    )]
    Parent {
        /// The directory that it would lie in.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// It was told to stop.
    #[error("stopped; nothing was written")]
    Stopped,
    /// Anything else that the system says.
    #[error("cannot write {path}: {reason}")]
    System {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
}

/// Writes a snapshot to `dir`, which must not exist or be empty; it is there as a whole or not at all.
pub fn write(snapshot: &Snapshot, about: &About, dir: &Path) -> Result<(), WriteError> {
    write_unless(snapshot, about, dir, &|| false)
}

/// The same, unless it is told to stop, for which it asks before each file.
pub fn write_unless(
    snapshot: &Snapshot,
    about: &About,
    dir: &Path,
    stopped: &dyn Fn() -> bool,
) -> Result<(), WriteError> {
    let name = vacant(dir)?;
    let partial = format!(".{}.partial-{}", name.to_string_lossy(), std::process::id());
    let partial = Partial::create(dir.with_file_name(partial))?;
    Writer { dir: &partial.0, blobs: 0, stopped }.all(snapshot, about)?;
    partial.finish(dir)
}

/// The name of `dir`, when a capture may be written there.
pub fn vacant(dir: &Path) -> Result<&OsStr, WriteError> {
    let name = dir.file_name().ok_or_else(|| WriteError::NoName(dir.to_owned()))?;
    let there = fs::symlink_metadata(dir).is_ok();
    let is_empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    match there && !is_empty() {
        true => Err(WriteError::Exists(dir.to_owned())),
        false => {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            access(parent, Access::WRITE_OK | Access::EXEC_OK)
                .map_err(|errno| WriteError::Parent { path: parent.to_owned(), reason: errno.into() })?;
            Ok(name)
        }
    }
}

/// A directory that is removed unless it is finished.
struct Partial(PathBuf);

impl Partial {
    fn create(path: PathBuf) -> Result<Self, WriteError> {
        // Kernel text names devices, addresses and mounts: it is for its owner.
        let created = fs::DirBuilder::new().mode(0o700).create(&path);
        created.map_err(|reason| WriteError::System { path: path.clone(), reason })?;
        Ok(Self(path))
    }

    fn finish(self, dir: &Path) -> Result<(), WriteError> {
        let renamed = fs::rename(&self.0, dir);
        renamed.map_err(|reason| WriteError::System { path: dir.to_owned(), reason })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After `finish` nothing of this name is there.
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Writer<'w> {
    dir: &'w Path,
    blobs: usize,
    stopped: &'w dyn Fn() -> bool,
}

impl Writer<'_> {
    fn all(&mut self, snapshot: &Snapshot, about: &About) -> Result<(), WriteError> {
        let mut lines = "# path, what it gave, details\n".to_owned();
        for (path, content) in snapshot.files() {
            let path_field = escape(path);
            // Writing to a String cannot fail.
            let _ = match content {
                Content::Bytes { bytes, truncated } => {
                    let stored = self.content(snapshot, path, bytes)?;
                    let truncated = if *truncated { "\ttruncated" } else { "" };
                    writeln!(lines, "{path_field}\ttext{truncated}{stored}")
                }
                Content::Link(target) => writeln!(lines, "{path_field}\tlink\t{}", escape(target)),
                Content::Entries(count) => writeln!(lines, "{path_field}\tentries\t{count}"),
                Content::Errno(errno) => writeln!(lines, "{path_field}\terrno\t{errno}"),
            };
        }
        self.meta(index::FILES, &lines)?;
        self.meta(index::FILE_SYSTEMS, &file_systems(snapshot))?;
        self.meta(index::QUERIES, &queries(snapshot))?;
        self.meta(index::CAPTURED, &captured(about))?;
        // Last, so that nothing is ever written through one of them.
        self.links(snapshot);
        Ok(())
    }

    /// Writes a file under its own path, or as a numbered one where it cannot have that; gives the index's field.
    fn content(&mut self, snapshot: &Snapshot, path: &[u8], bytes: &[u8]) -> Result<String, WriteError> {
        let is_directory = !snapshot.dir(path).is_empty();
        if let Some(place) = place(path).filter(|_| !is_directory)
            && self.file(&place, bytes).is_ok()
        {
            return Ok(String::new());
        }
        let number = self.blobs;
        self.blobs += 1;
        self.file(&blob(number), bytes)?;
        Ok(format!("\tstored={number}"))
    }

    fn meta(&self, name: &str, text: &str) -> Result<(), WriteError> {
        self.file(&Path::new(META).join(name), text.as_bytes())
    }

    fn file(&self, place: &Path, bytes: &[u8]) -> Result<(), WriteError> {
        if (self.stopped)() {
            return Err(WriteError::Stopped);
        }
        let path = self.dir.join(place);
        let write = || {
            self.parent(&path)?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(bytes)
        };
        write().map_err(|reason| WriteError::System { path: path.clone(), reason })
    }

    fn parent(&self, path: &Path) -> std::io::Result<()> {
        match path.parent() {
            Some(parent) => fs::DirBuilder::new().recursive(true).mode(0o700).create(parent),
            None => Ok(()),
        }
    }

    /// Links as links, for whoever looks at the tree; the index has them all, so one that cannot be is no loss.
    fn links(&self, snapshot: &Snapshot) {
        for (path, content) in snapshot.files() {
            let Content::Link(target) = content else { continue };
            let Some(place) = place(path).filter(|_| snapshot.dir(path).is_empty()) else { continue };
            let path = self.dir.join(place);
            if self.parent(&path).is_ok() {
                let _ = std::os::unix::fs::symlink(OsStr::from_bytes(target), path);
            }
        }
    }
}

fn file_systems(snapshot: &Snapshot) -> String {
    let mut lines =
        "# query, path, mode, block size, blocks: all, free, available; inodes: all, free\n".to_owned();
    for row in keyhole_policy::TABLE {
        for file_system in snapshot.file_systems(row.query) {
            let name = row.query.as_str_name();
            let path = escape(&file_system.path);
            let _ = match &file_system.numbers {
                Ok(n) => writeln!(
                    lines,
                    "{name}\t{path}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
                    if n.read_only { "ro" } else { "rw" },
                    n.block_size,
                    n.blocks,
                    n.blocks_free,
                    n.blocks_available,
                    n.files,
                    n.files_free
                ),
                Err(errno) => writeln!(lines, "{name}\t{path}\terrno\t{errno}"),
            };
        }
    }
    lines
}

fn queries(snapshot: &Snapshot) -> String {
    let mut lines =
        "# query, outcome, nanoseconds, bytes, what a limit left out, and why it was not answered\n"
            .to_owned();
    for (query, report) in snapshot.reports() {
        let reason = snapshot.reason(query).map(|reason| format!("\t{}", escape(reason.as_bytes())));
        let (query, outcome) = (query.as_str_name(), report.outcome.as_str_name());
        let (elapsed_ns, bytes) = (report.elapsed_ns, report.bytes);
        let left_out = match report.left_out {
            0 => String::new(),
            items => format!("\t{}{items}", String::from_utf8_lossy(index::LEFT_OUT)),
        };
        let reason = reason.unwrap_or_default();
        let _ = writeln!(lines, "{query}\t{outcome}\t{elapsed_ns}\t{bytes}{left_out}{reason}");
    }
    lines
}

fn captured(about: &About) -> String {
    let time = about.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let node_name = escape(about.node_name.as_bytes());
    format!("time_ms\t{time}\nnode_name\t{node_name}\nversions\t{}\n", escape(about.versions.as_bytes()))
}
