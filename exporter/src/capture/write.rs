//! Writes a snapshot as a directory or an archive. Paths of the broker are not trusted and cannot leave the directory.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{Access, access};

use super::index::{self, blob, escape, safe_path};
use super::{CaptureInfo, INDEX_DIR};
use crate::snapshot::{Content, Snapshot};

/// Why writing failed; then nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The directory is not empty or not a directory.
    #[error("{0} exists and is not empty: use a directory that does not exist yet")]
    Exists(PathBuf),
    /// The path has no last component.
    #[error("{0}: use a directory that does not exist yet")]
    NoName(PathBuf),
    /// The parent directory is not writable.
    #[error(
        "cannot write to {path}: {reason}: use a directory below one that this user may write to, such as /tmp"
    )]
    Parent {
        /// The parent directory.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// It was stopped.
    #[error("stopped; nothing was written")]
    Stopped,
    /// The archive could not be written as a whole.
    #[error("cannot write the archive: {0}; what was written of it is not a whole one")]
    Archive(std::io::Error),
    /// Any other error of the system.
    #[error("cannot write {path}: {reason}")]
    System {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
}

/// What a capture consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Files with the content of files of the host.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Symbolic links. Links below which there are files are in the index alone.
    pub links: usize,
    /// Files of the index.
    pub index_files: usize,
}

/// Writes a snapshot to `dir`, which must not exist or be empty: completely or not at all.
pub fn write(snapshot: &Snapshot, about: &CaptureInfo, dir: &Path) -> Result<Written, WriteError> {
    write_unless_stopped(snapshot, about, dir, &|| false)
}

/// The same; calls `stopped` before each file and stops if it returns true.
pub fn write_unless_stopped(
    snapshot: &Snapshot,
    about: &CaptureInfo,
    dir: &Path,
    stopped: &dyn Fn() -> bool,
) -> Result<Written, WriteError> {
    let name = check_target(dir)?;
    let partial = format!(".{}.partial-{}", name.to_string_lossy(), std::process::id());
    let partial = Partial::create(dir.with_file_name(partial))?;
    let written = write_to(&mut Directory { dir: &partial.0, stopped }, snapshot, about)?;
    partial.finish(dir)?;
    Ok(written)
}

/// Writes a snapshot to a target.
pub(super) fn write_to(
    target: &mut dyn Target,
    snapshot: &Snapshot,
    about: &CaptureInfo,
) -> Result<Written, WriteError> {
    let mut writer = Writer { target, blobs: 0, written: Written::default() };
    writer.all(snapshot, about)?;
    Ok(writer.written)
}

/// What a capture is written to. Paths are relative and have no `..`.
pub(super) trait Target {
    /// Writes a file at a path that no other file or link has.
    fn file(&mut self, path: &Path, bytes: &[u8]) -> Result<(), WriteError>;

    /// Writes a symbolic link.
    fn link(&mut self, path: &Path, target: &[u8]) -> Result<(), WriteError>;
}

/// Checks that a capture can be written to `dir`; returns the last component.
pub fn check_target(dir: &Path) -> Result<&OsStr, WriteError> {
    let name = dir.file_name().ok_or_else(|| WriteError::NoName(dir.to_owned()))?;
    let there = fs::symlink_metadata(dir).is_ok();
    let is_empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if there && !is_empty() {
        return Err(WriteError::Exists(dir.to_owned()));
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    access(parent, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|errno| WriteError::Parent { path: parent.to_owned(), reason: errno.into() })?;
    Ok(name)
}

/// A directory that is removed unless it is finished.
struct Partial(PathBuf);

impl Partial {
    fn create(path: PathBuf) -> Result<Self, WriteError> {
        // Kernel files contain names of devices, addresses and mounts: readable by the owner only.
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
        // After `finish` it does not exist any more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A directory that is a target.
struct Directory<'d> {
    dir: &'d Path,
    stopped: &'d dyn Fn() -> bool,
}

impl Target for Directory<'_> {
    fn file(&mut self, path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
        if (self.stopped)() {
            return Err(WriteError::Stopped);
        }
        let path = self.dir.join(path);
        let write = || {
            parent(&path)?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(bytes)
        };
        write().map_err(|reason| WriteError::System { path: path.clone(), reason })
    }

    fn link(&mut self, path: &Path, target: &[u8]) -> Result<(), WriteError> {
        let path = self.dir.join(path);
        let link = || {
            parent(&path)?;
            std::os::unix::fs::symlink(OsStr::from_bytes(target), &path)
        };
        link().map_err(|reason| WriteError::System { path: path.clone(), reason })
    }
}

fn parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => fs::DirBuilder::new().recursive(true).mode(0o700).create(parent),
        None => Ok(()),
    }
}

struct Writer<'w> {
    target: &'w mut dyn Target,
    blobs: usize,
    written: Written,
}

impl Writer<'_> {
    fn all(&mut self, snapshot: &Snapshot, about: &CaptureInfo) -> Result<(), WriteError> {
        let mut lines = "# path, kind, details\n".to_owned();
        for (path, content) in snapshot.files() {
            let path_field = escape(path);
            // Writing to a String cannot fail.
            let _ = match content {
                Content::Bytes { bytes, truncated } => {
                    let stored = self.content(snapshot, path, bytes)?;
                    self.written.files += 1;
                    self.written.bytes += bytes.len() as u64;
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

    /// Writes a file under its own path, or as a numbered file if that is not possible; returns the field for the index.
    fn content(&mut self, snapshot: &Snapshot, path: &[u8], bytes: &[u8]) -> Result<String, WriteError> {
        let is_directory = !snapshot.dir(path).is_empty();
        if let Some(safe_path) = safe_path(path).filter(|_| !is_directory)
            && self.target.file(&safe_path, bytes).is_ok()
        {
            return Ok(String::new());
        }
        let number = self.blobs;
        self.blobs += 1;
        self.target.file(&blob(number), bytes)?;
        Ok(format!("\tstored={number}"))
    }

    fn meta(&mut self, name: &str, text: &str) -> Result<(), WriteError> {
        self.written.index_files += 1;
        self.target.file(&Path::new(INDEX_DIR).join(name), text.as_bytes())
    }

    /// Writes links as symbolic links for people who look at the tree. The index has them all, so errors are ignored.
    fn links(&mut self, snapshot: &Snapshot) {
        for (path, content) in snapshot.files() {
            let Content::Link(target) = content else { continue };
            let Some(safe_path) = safe_path(path).filter(|_| snapshot.dir(path).is_empty()) else { continue };
            self.written.links += usize::from(self.target.link(&safe_path, target).is_ok());
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

fn captured(about: &CaptureInfo) -> String {
    let time = about.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let node_name = escape(about.node_name.as_bytes());
    format!("time_ms\t{time}\nnode_name\t{node_name}\nversions\t{}\n", escape(about.versions.as_bytes()))
}
