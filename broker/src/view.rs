//! Whose /proc and /sys the broker was given: the host's, or a container's own.
//!
//! A container's own files would answer for the container where a query asks for the host; such queries are refused
//! rather than answered wrongly.

use std::os::fd::AsFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

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

/// `--view`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Find out.
    #[default]
    Auto,
    /// The host's, whatever it looks like: for fixture trees.
    Host,
    /// A container's own.
    Container,
}

/// A root that is not what its flag says.
#[derive(Debug, thiserror::Error)]
#[error(
    "{flag}: not a {kind} file system: mount the host's {kind} there, or give --view=host for a fixture tree"
)]
pub struct NotKernelFiles {
    flag: &'static str,
    kind: &'static str,
}

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
const SYSFS_MAGIC: u64 = 0x6265_6572;

impl View {
    /// Finds out whose files `roots` are.
    ///
    /// procfs is the host's when its PID 2 is the kernel's thread daemon, or when it shows the broker under another
    /// PID than the broker's own `/proc` does: then its PID namespace is an outer one. sysfs is the host's when it
    /// is another mount than the broker's own `/sys`, or when the broker stands in the network namespace of a
    /// host's PID 1.
    pub fn find(roots: &Roots, choice: Choice) -> Result<Self, NotKernelFiles> {
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
        check_magic(&roots.procfs, PROC_SUPER_MAGIC, "--path.procfs", "proc")?;
        check_magic(&roots.sysfs, SYSFS_MAGIC, "--path.sysfs", "sysfs")?;
        let (proc_is_hosts, proc_reason) = if pid_2_is_kthreadd(roots) {
            (true, "its PID 2 is the kernel's thread daemon")
        } else if of_outer_pids(roots) {
            (true, "its PID namespace is around the broker's own")
        } else {
            (
                false,
                "its PID namespace is not around the broker's own, and PID 2 is not the kernel's thread daemon",
            )
        };
        let (sys_is_hosts, sys_reason) = if !same_file_system(&roots.sysfs, "/sys") {
            (true, "another sysfs than the broker's own")
        } else if proc_is_hosts && in_network_of_pid_1(roots) {
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

fn check_magic(
    root: impl AsFd,
    magic: u64,
    flag: &'static str,
    kind: &'static str,
) -> Result<(), NotKernelFiles> {
    match rustix::fs::fstatfs(root) {
        Ok(numbers) if numbers.f_type as u64 == magic => Ok(()),
        _ => Err(NotKernelFiles { flag, kind }),
    }
}

/// Whether procfs knows the broker, by another PID than its own. Devices cannot tell: since Linux 5.8 each mount of
/// one namespace's procfs is a file system of its own.
fn of_outer_pids(roots: &Roots) -> bool {
    let pid = |dir, path| rustix::fs::readlinkat(dir, path, Vec::new());
    match (pid(roots.procfs.as_fd(), "self"), pid(CWD, "/proc/self")) {
        (Ok(there), Ok(own)) => there != own,
        _ => false,
    }
}

/// Whether `root` and `path` are one file system. Each network namespace has a sysfs of its own.
fn same_file_system(root: impl AsFd, path: &str) -> bool {
    let device = |stat: Result<rustix::fs::Stat, Errno>| stat.ok().map(|stat| stat.st_dev);
    device(rustix::fs::fstat(root)) == device(rustix::fs::stat(path))
}

fn pid_2_is_kthreadd(roots: &Roots) -> bool {
    const STAT: &[u8] = b"2 (kthreadd) ";
    let mut start = [0; STAT.len()];
    let read = rustix::fs::openat(&roots.procfs, "2/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(file, &mut start));
    read == Ok(STAT.len()) && start == STAT
}

/// One network namespace has one inode for `net/dev`, whichever process it is reached through.
fn in_network_of_pid_1(roots: &Roots) -> bool {
    let inode = |stat: Result<rustix::fs::Stat, Errno>| stat.ok().map(|stat| stat.st_ino);
    let hosts = inode(rustix::fs::statat(&roots.procfs, "1/net/dev", rustix::fs::AtFlags::empty()));
    hosts.is_some()
        && hosts == inode(rustix::fs::statat(CWD, "/proc/self/net/dev", rustix::fs::AtFlags::empty()))
}
