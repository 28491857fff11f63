//! What there is to be attacked: files, processes and sockets that the test has laid out for one attack.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::call;

/// The uid of the broker that is no root.
pub const BROKER: u32 = 64646;
/// The uid of somebody else.
pub const STRANGER: u32 = 64699;

/// A directory that holds:
///
/// | name | owner | mode | |
/// |---|---|---|---|
/// | `own` | the broker | 0600 | |
/// | `open/` | the broker | 0777 | an empty directory |
/// | `world` | root | 0666 | |
/// | `roots` | root | 0644 | |
/// | `strangers` | somebody else | 0600 | |
/// | `udev/leak` | | | a link to /etc/passwd, below a root that the broker may read |
/// | `run/broker.sock` | the broker | 0660 | its socket |
///
/// Descriptor 0 of the broker is `own`, open to read; descriptor 1 is a TCP socket that is neither bound nor connected.
#[derive(Debug, Clone)]
pub struct Host {
    /// That directory.
    pub dir: PathBuf,
    /// A process of the broker's uid, without capabilities.
    pub neighbour: i32,
    /// A process of another uid.
    pub stranger: i32,
    /// A TCP port of 127.0.0.1 on which somebody listens.
    pub port: u16,
    /// An empty cgroup of cgroup2.
    pub cgroup: PathBuf,
}

impl Host {
    /// The environment variable in which the host is handed over.
    pub const VARIABLE: &str = "KEYHOLE_ATTACKED";

    /// As one line, for the environment.
    pub fn line(&self) -> String {
        let Self { dir, neighbour, stranger, port, cgroup } = self;
        format!("{}:{neighbour}:{stranger}:{port}:{}", dir.display(), cgroup.display())
    }

    /// Reads [`Self::line`].
    pub fn of(line: &str) -> Option<Self> {
        let mut parts = line.split(':');
        Some(Self {
            dir: parts.next()?.into(),
            neighbour: parts.next()?.parse().ok()?,
            stranger: parts.next()?.parse().ok()?,
            port: parts.next()?.parse().ok()?,
            cgroup: parts.next()?.into(),
        })
    }

    /// A path below the directory.
    pub(crate) fn at(&self, name: &str) -> CString {
        path(&self.dir.join(name))
    }

    /// A path below /proc of a process.
    pub(crate) fn of_process(&self, pid: i32, name: &str) -> CString {
        path(Path::new(&format!("/proc/{pid}/{name}")))
    }

    /// Opens a file of the directory.
    pub(crate) fn open(&self, name: &str, flags: i32) -> i64 {
        open(&self.at(name), flags)
    }

    /// Reads a file below /proc/<pid> of the neighbour.
    pub(crate) fn read_neighbours(&self, name: &str) -> i64 {
        read(&self.of_process(self.neighbour, name))
    }

    /// Reads a file below /proc/<pid> of the stranger.
    pub(crate) fn read_strangers(&self, name: &str) -> i64 {
        read(&self.of_process(self.stranger, name))
    }
}

fn path(path: &Path) -> CString {
    // Nothing that is joined here holds a zero.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// Opens a path.
pub(crate) fn open(path: &std::ffi::CStr, flags: i32) -> i64 {
    call!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o600)
}

/// Opens a file to read, and reads its first bytes: some files are refused only then.
pub(crate) fn read(path: &std::ffi::CStr) -> i64 {
    let opened = open(path, libc::O_RDONLY);
    if opened < 0 {
        return opened;
    }
    let mut bytes = [0u8; 64];
    call!(SYS_pread64, opened, bytes.as_mut_ptr(), bytes.len(), 0)
}

/// Opens a directory and lists it.
pub(crate) fn list(path: &std::ffi::CStr) -> i64 {
    let opened = open(path, libc::O_RDONLY | libc::O_DIRECTORY);
    if opened < 0 {
        return opened;
    }
    let mut names = [0u8; 1024];
    call!(SYS_getdents64, opened, names.as_mut_ptr(), names.len())
}
