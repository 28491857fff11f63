//! Whose /proc and /sys a reader was given: the host's, or a container's own.
//!
//! A container's own files would answer for the container where a query asks for the host; such queries are refused
//! rather than answered wrongly.

use std::os::fd::{AsFd, BorrowedFd};

use keyhole_policy::Root;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, fstatfs, openat, readlinkat, stat, statat};

use crate::arguments::Choice;
use crate::host::Roots;

/// Whose files something shows, and why that is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// The host's; else a container's own.
    pub is_hosts: bool,
    /// Why that is believed, as Describe and the log report it.
    pub reason: &'static str,
}

/// Whose the files are, and how that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Whether procfs shows the host.
    pub proc: Whose,
    /// Whether sysfs shows the host's network namespace.
    pub sys: Whose,
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
        let whose = |is_hosts, reason| Whose { is_hosts, reason };
        if choice != Choice::Auto {
            let said = whose(choice == Choice::Host, "--view says so");
            return Ok(Self { proc: said, sys: said });
        }
        let procfs = check_magic(roots, Root::Proc, PROC_SUPER_MAGIC, "--path.procfs", "proc")?;
        let sysfs = check_magic(roots, Root::Sys, SYSFS_MAGIC, "--path.sysfs", "sysfs")?;
        let proc = if pid_2_is_kthreadd(procfs) {
            whose(true, "its PID 2 is the kernel's thread daemon")
        } else if is_of_outer_pids(procfs) {
            whose(true, "its PID namespace is around the broker's own")
        } else {
            whose(
                false,
                "its PID namespace is not around the broker's own, and PID 2 is not the kernel's thread daemon",
            )
        };
        // Each network namespace has a sysfs of its own.
        let device = |stat: rustix::fs::Stat| stat.st_dev;
        let sys = if fstat(sysfs).map(device) != stat("/sys").map(device) {
            whose(true, "another sysfs than the broker's own")
        } else if proc.is_hosts && is_in_network_of_pid_1(procfs) {
            whose(true, "the broker is in the host's network namespace")
        } else {
            whose(false, "it is the broker's own, and the broker is not in the host's network namespace")
        };
        Ok(Self { proc, sys })
    }
}

fn check_magic<'r>(
    roots: &'r Roots,
    root: Root,
    magic: u64,
    flag: &str,
    kind: &str,
) -> Result<BorrowedFd<'r>, String> {
    match roots.dir(root).and_then(|dir| Ok((dir, fstatfs(dir)?))) {
        Ok((dir, numbers)) if numbers.f_type as u64 == magic => Ok(dir),
        _ => Err(format!(
            "{flag}: not a {kind} file system: mount the host's {kind} there, or give --view=host for a fixture tree"
        )),
    }
}

/// Whether procfs knows this process by another PID than its own. Devices cannot tell: since Linux 5.8 each mount of
/// one namespace's procfs is a file system of its own.
fn is_of_outer_pids(procfs: BorrowedFd<'_>) -> bool {
    let (there, own) = (readlinkat(procfs, "self", Vec::new()), readlinkat(CWD, "/proc/self", Vec::new()));
    there.is_ok() && own.is_ok() && there != own
}

fn pid_2_is_kthreadd(procfs: BorrowedFd<'_>) -> bool {
    const STAT: &[u8] = b"2 (kthreadd) ";
    let mut start = [0; STAT.len()];
    let file = openat(procfs, "2/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    file.and_then(|file| rustix::io::read(file, &mut start)) == Ok(STAT.len()) && start == STAT
}

/// One network namespace has one inode for `net/dev`, whichever process it is reached through.
fn is_in_network_of_pid_1(procfs: BorrowedFd<'_>) -> bool {
    let inode = |dir: BorrowedFd<'_>, path| statat(dir, path, AtFlags::empty()).map(|stat| stat.st_ino);
    let hosts = inode(procfs, "1/net/dev");
    hosts.is_ok() && hosts == inode(CWD.as_fd(), "/proc/self/net/dev")
}
