//! Whose /proc and /sys a reader was given: the host's, or a container's own.
//!
//! A container's own files would answer for the container where a query asks for the host; such queries are refused
//! rather than answered wrongly.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::arguments::Choice;
use crate::host::Roots;

/// Whose the files are, and how that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Whether procfs shows the host.
    pub proc_is_hosts: bool,
    /// Why that is believed.
    pub proc_reason: String,
    /// Whether sysfs shows the host's network namespace.
    pub sys_is_hosts: bool,
    /// Why that is believed.
    pub sys_reason: String,
}

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
const SYSFS_MAGIC: u64 = 0x6265_6572;

impl View {
    /// Finds out whose files `roots` are.
    ///
    /// procfs is the host's when its PID 2 is the kernel's thread daemon, or when it shows the reader under another
    /// PID than the reader's own `/proc` does: then its PID namespace is an outer one. sysfs is the host's when it
    /// is another mount than the reader's own `/sys`, or when the reader is in the network namespace of a host's
    /// PID 1.
    ///
    /// The error says what to do about a root that is not what its flag says.
    pub fn find(roots: &Roots, choice: Choice) -> Result<Self, String> {
        if choice != Choice::Auto {
            let hosts = choice == Choice::Host;
            let reason = "--view says so".to_owned();
            return Ok(Self {
                proc_is_hosts: hosts,
                proc_reason: reason.clone(),
                sys_is_hosts: hosts,
                sys_reason: reason,
            });
        }
        let (Some(procfs), Some(sysfs)) = (&roots.procfs, &roots.sysfs) else {
            return Err("no procfs or no sysfs was given".to_owned());
        };
        check_magic(procfs, PROC_SUPER_MAGIC, "--path.procfs", "proc")?;
        check_magic(sysfs, SYSFS_MAGIC, "--path.sysfs", "sysfs")?;
        let (proc_is_hosts, proc_reason) = if pid_2_is_kthreadd(procfs) {
            (true, "its PID 2 is the kernel's thread daemon")
        } else if of_outer_pids(procfs) {
            (true, "its PID namespace is around the broker's own")
        } else {
            (
                false,
                "its PID namespace is not around the broker's own, and PID 2 is not the kernel's thread daemon",
            )
        };
        let (sys_is_hosts, sys_reason) = if !same_file_system(sysfs, "/sys") {
            (true, "another sysfs than the broker's own")
        } else if proc_is_hosts && in_network_of_pid_1(procfs) {
            (true, "the broker is in the host's network namespace")
        } else {
            (false, "it is the broker's own, and the broker is not in the host's network namespace")
        };
        Ok(Self {
            proc_is_hosts,
            proc_reason: proc_reason.into(),
            sys_is_hosts,
            sys_reason: sys_reason.into(),
        })
    }
}

fn check_magic(root: &OwnedFd, magic: u64, flag: &str, kind: &str) -> Result<(), String> {
    match rustix::fs::fstatfs(root) {
        Ok(numbers) if numbers.f_type as u64 == magic => Ok(()),
        _ => Err(format!(
            "{flag}: not a {kind} file system: mount the host's {kind} there, or give --view=host for a fixture tree"
        )),
    }
}

/// Whether procfs knows this process by another PID than its own. Devices cannot tell: since Linux 5.8 each mount of
/// one namespace's procfs is a file system of its own.
fn of_outer_pids(procfs: &OwnedFd) -> bool {
    let pid = |dir, path| rustix::fs::readlinkat(dir, path, Vec::new());
    match (pid(procfs.as_fd(), "self"), pid(CWD, "/proc/self")) {
        (Ok(there), Ok(own)) => there != own,
        _ => false,
    }
}

/// Whether `root` and `path` are one file system. Each network namespace has a sysfs of its own.
fn same_file_system(root: impl AsFd, path: &str) -> bool {
    let device = |stat: Result<rustix::fs::Stat, Errno>| stat.ok().map(|stat| stat.st_dev);
    device(rustix::fs::fstat(root)) == device(rustix::fs::stat(path))
}

fn pid_2_is_kthreadd(procfs: &OwnedFd) -> bool {
    const STAT: &[u8] = b"2 (kthreadd) ";
    let mut start = [0; STAT.len()];
    let read = rustix::fs::openat(procfs, "2/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(file, &mut start));
    read == Ok(STAT.len()) && start == STAT
}

/// One network namespace has one inode for `net/dev`, whichever process it is reached through.
fn in_network_of_pid_1(procfs: &OwnedFd) -> bool {
    let inode = |stat: Result<rustix::fs::Stat, Errno>| stat.ok().map(|stat| stat.st_ino);
    let hosts = inode(rustix::fs::statat(procfs, "1/net/dev", rustix::fs::AtFlags::empty()));
    hosts.is_some()
        && hosts == inode(rustix::fs::statat(CWD, "/proc/self/net/dev", rustix::fs::AtFlags::empty()))
}
