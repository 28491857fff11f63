//! What there is to be attacked: files, processes and sockets that the test has laid out for one attack.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use keyhole_policy::Class;

use crate::{Process, call};

/// The uid of a process under attack that is no root.
pub const BROKER_UID: u32 = 64646;
/// The uid of somebody else.
pub const OTHER_UID: u32 = 64699;

/// A directory with:
///
/// | name | owner | mode | |
/// |---|---|---|---|
/// | `own` | the process | 0600 | |
/// | `open/` | the process | 0777 | an empty directory |
/// | `world` | root | 0666 | |
/// | `roots` | root | 0644 | |
/// | `other_uid` | somebody else | 0600 | |
/// | `udev/b8:0` | the process | 0644 | a file of udev's data, which readers of class files may read |
/// | `text/x.prom` | the process | 0644 | a file of the exporter's textfile collector |
/// | `udev/leak`, `text/leak` | | | links to /etc/passwd |
/// | `web/key.pem` | the process | 0600 | lies beside the exporter's `--web.config.file` |
/// | `run/broker.sock` | the process | 0660 | the broker's socket |
///
/// One descriptor was left open on `own`, to read; for an attack on a socket it is a TCP socket that is neither bound nor
/// connected.
#[derive(Debug, Clone)]
pub struct Host {
    /// Which process is attacked.
    pub process: Process,
    /// The number of the descriptor that was left open.
    pub left_open: i32,
    /// That directory.
    pub dir: PathBuf,
    /// A process of the broker's uid, without capabilities.
    pub neighbour: i32,
    /// A process of another uid.
    pub other_uid_pid: i32,
    /// A TCP port of 127.0.0.1 on which somebody listens.
    pub port: u16,
    /// An empty cgroup of cgroup2.
    pub cgroup: PathBuf,
    /// Whether seccomp is left out: then any flags will do.
    pub unfiltered: bool,
    /// The zygote, and one of its readers; known to an intruder in the broker alone.
    pub privileged: [i32; 2],
    /// The broker's descriptor of its socket's directory; an intruder reads it from the broker's memory.
    pub socket_dir: i32,
}

impl Host {
    /// The environment variable that has the paths of the host.
    pub const VARIABLE: &str = "KEYHOLE_ATTACKED";

    /// As one line, for the environment.
    pub fn line(&self) -> String {
        let Self { process, left_open, dir, neighbour, other_uid_pid, port, cgroup, unfiltered, .. } = self;
        let process = process.name();
        let (dir, cgroup) = (dir.display(), cgroup.display());
        format!("{process}:{left_open}:{dir}:{neighbour}:{other_uid_pid}:{port}:{cgroup}:{unfiltered}")
    }

    /// Reads [`Self::line`].
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split(':');
        Some(Self {
            process: Process::parse(parts.next()?)?,
            left_open: parts.next()?.parse().ok()?,
            dir: parts.next()?.into(),
            neighbour: parts.next()?.parse().ok()?,
            other_uid_pid: parts.next()?.parse().ok()?,
            port: parts.next()?.parse().ok()?,
            cgroup: parts.next()?.into(),
            unfiltered: parts.next()?.parse().ok()?,
            privileged: [NOBODY; 2],
            socket_dir: -1,
        })
    }

    /// A path below the directory.
    pub(crate) fn at(&self, name: &str) -> CString {
        path(&self.dir.join(name))
    }

    /// A path that leads to what the descriptor that was left open is open on.
    pub(crate) fn of_left_open(&self) -> CString {
        path(Path::new(&format!("/proc/self/fd/{}", self.left_open)))
    }

    /// A path below /proc of a process.
    pub(crate) fn of_process(&self, pid: i32, name: &str) -> CString {
        path(Path::new(&format!("/proc/{pid}/{name}")))
    }

    /// A file of a directory that the process reads, or readers of class files do.
    pub(crate) fn in_granted(&self, name: &str) -> CString {
        let granted = if self.process == Process::Exporter { "text" } else { "udev" };
        self.at(&format!("{granted}/{name}"))
    }

    /// Opens a file of the directory.
    pub(crate) fn open(&self, name: &str, flags: i32) -> i64 {
        open(&self.at(name), flags)
    }

    /// Reads a file below `/proc/<pid>` of the neighbour.
    pub(crate) fn read_neighbours(&self, name: &str) -> i64 {
        read(&self.of_process(self.neighbour, name))
    }

    /// Reads a file below `/proc/<pid>` of the other_uid_pid.
    pub(crate) fn read_of_other_uid(&self, name: &str) -> i64 {
        read(&self.of_process(self.other_uid_pid, name))
    }
}

fn path(path: &Path) -> CString {
    // Nothing that is joined here holds a zero.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// A pid that no process has.
const NOBODY: i32 = i32::MAX;

// Flags of open(2) as the rows of the readers have them.
const CLOEXEC: i32 = libc::O_CLOEXEC;
#[cfg(target_arch = "x86_64")]
const LARGEFILE: i32 = 0x8000;
#[cfg(target_arch = "aarch64")]
const LARGEFILE: i32 = 0x2_0000;
const NAMED: i32 = CLOEXEC | LARGEFILE | libc::O_NOCTTY;
const LIST: i32 = libc::O_RDONLY | libc::O_DIRECTORY;
const HOLD: i32 = libc::O_PATH | libc::O_DIRECTORY;

/// The flags of calls that seccomp allows in a process; where it allows a call with none, any that do.
#[derive(Debug)]
struct Flags {
    /// openat(2) of a file to read it.
    read: i32,
    /// openat(2) of a directory to list it.
    list: i32,
    /// openat(2) of a directory to open files below it.
    hold: i32,
    /// newfstatat(2), besides a path.
    stat: i32,
    /// socket(2) of a Unix socket.
    unix: i32,
}

static FLAGS: OnceLock<Flags> = OnceLock::new();

/// An intruder knows where it is, and uses the flags that are allowed there.
pub(crate) fn here(host: &Host) {
    let mut flags = Flags { read: CLOEXEC, list: NAMED | LIST, hold: NAMED | HOLD, stat: 0, unix: 0 };
    match host.process {
        Process::Broker | Process::Zygote => {}
        Process::Exporter => {
            flags.list = CLOEXEC | LIST;
            flags.stat = libc::AT_EMPTY_PATH;
            flags.unix = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        }
        Process::Reader(class) => {
            if !host.unfiltered {
                flags.read = NAMED | libc::O_NOFOLLOW;
            }
            if class == Class::Mounts {
                flags.hold = CLOEXEC | LARGEFILE | libc::O_PATH | libc::O_NOFOLLOW;
            }
        }
    }
    FLAGS.get_or_init(|| flags);
}

fn allowed(which: fn(&Flags) -> i32) -> i32 {
    FLAGS.get().map_or(0, which)
}

/// Opens a path; to read, with the flags that the process may use for it.
pub(crate) fn open(path: &std::ffi::CStr, flags: i32) -> i64 {
    open_at(libc::AT_FDCWD.into(), path, flags)
}

/// Opens a path below a descriptor.
pub(crate) fn open_at(dir: i64, path: &std::ffi::CStr, flags: i32) -> i64 {
    let flags = match flags {
        libc::O_RDONLY => allowed(|flags| flags.read),
        LIST => allowed(|flags| flags.list),
        HOLD => allowed(|flags| flags.hold),
        flags => flags,
    };
    call!(SYS_openat, dir, path.as_ptr(), flags, 0o600)
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

/// Asks for the attributes of a file.
pub(crate) fn stat(path: &std::ffi::CStr) -> i64 {
    let mut stat = [0u8; 144];
    call!(SYS_newfstatat, libc::AT_FDCWD, path.as_ptr(), stat.as_mut_ptr(), allowed(|flags| flags.stat))
}

/// Makes a Unix socket of a stream.
pub(crate) fn unix_socket() -> i64 {
    call!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM | allowed(|flags| flags.unix), 0)
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
