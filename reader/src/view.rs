//! Whether the /proc and /sys that a reader was given are the host's or a container's own, and what the host's /proc does
//! not show to this uid: `hidepid=` hides the processes of others, `subset=pid` hides everything but processes.
//!
//! A container's own files would describe the container where a query asks for the host; such queries are refused
//! rather than answered wrongly. <https://docs.kernel.org/filesystems/proc.html#mount-options>

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};

use keyhole_policy::{AccessLevel, Namespace, Outcome, Root, Row, Source};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, fstatfs, openat, readlinkat, stat, statat};
use rustix::io::Errno;

use crate::arguments::Choice;
use crate::host::Roots;

/// Whose files a root shows, and how this was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// The host's; else a container's own.
    pub is_hosts: bool,
    /// How this was found out, as Describe and the log report it.
    pub reason: &'static str,
}

/// What a reader knows of /proc, /sys and its own namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Whether procfs shows the host.
    pub proc: Whose,
    /// Whether sysfs shows the host's network namespace.
    pub sys: Whose,
    /// Why processes of others, PID 1 among them, cannot be seen; none when they can.
    pub hidden: Option<&'static str>,
    /// Whether procfs shows processes and nothing else.
    pub only_processes: bool,
    /// The host's namespaces that this reader is in.
    pub shared: Shared,
}

/// Which of the reader's own namespaces are the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Shared {
    pub net: bool,
    pub mnt: bool,
    pub ipc: bool,
    pub pid: bool,
    pub user: bool,
}

/// Why it is not known whose sysfs it is. It need not be a container's, so queries are denied.
const SYS_UNKNOWN: &str =
    "it is the broker's own, and PID 1, which is in the host's network namespace, is hidden from its uid";

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
const SYSFS_MAGIC: u64 = 0x6265_6572;

// The inodes of the namespaces that the kernel starts with, `enum init_ns_ino` of its include/uapi/linux/nsfs.h.
const FIRST_IPC: u64 = 0xefff_ffff;
const FIRST_USER: u64 = 0xefff_fffd;
const FIRST_PID: u64 = 0xefff_fffc;
/// Before Linux 6.18 the first mount namespace had one of the first two numbers that the kernel assigns. Both belong to
/// objects that are never removed, so no other namespace ever has them.
const FIRST_MNT: [u64; 3] = [0xefff_fff8, 0xf000_0000, 0xf000_0001];

impl View {
    /// Finds out whose files `roots` are.
    ///
    /// procfs is the host's when its PID 2 is the kernel's thread daemon, or when it shows the reader under another
    /// PID than the reader's own `/proc` does: then its PID namespace is an outer one. With hidepid both may be hidden:
    /// then it is the host's when the reader is in the PID namespace that the kernel started with. sysfs is the host's when
    /// it is another mount than the reader's own `/sys`, or when the reader is in the network namespace of a host's PID 1.
    ///
    /// The error says what to do about a root that is not what its flag says.
    pub fn find(roots: &Roots, choice: Choice) -> Result<Self, String> {
        let whose = |is_hosts, reason| Whose { is_hosts, reason };
        let said = whose(choice == Choice::Host, "--view says so");
        if choice != Choice::Auto && !is_procfs(roots) {
            // A fixture tree: nothing of it is hidden, and nothing of it is anyone else's.
            let all = said.is_hosts;
            let shared = Shared { net: all, mnt: all, ipc: all, pid: all, user: all };
            return Ok(Self { proc: said, sys: said, hidden: None, only_processes: false, shared });
        }
        let procfs = check_magic(roots, Root::Proc, PROC_SUPER_MAGIC, "--path.procfs", "proc")?;
        let hidden = hides_pid_1(procfs);
        let proc = if choice != Choice::Auto {
            said
        } else if pid_2_is_kthreadd(procfs) {
            whose(true, "its PID 2 is the kernel's thread daemon")
        } else if is_of_outer_pids(procfs) {
            whose(true, "its PID namespace is around the broker's own")
        } else if own_namespace(procfs, "self/ns/pid") == Some(FIRST_PID) {
            whose(true, "the broker is in the PID namespace that the kernel started with")
        } else {
            whose(
                false,
                "its PID namespace is not around the broker's own, and PID 2 is not the kernel's thread daemon",
            )
        };
        let own = |path| own_namespace(CWD, path);
        // The kernel shows it in the network namespace that it started with, and in no other.
        const OF_FIRST_NETWORK: &str = "sys/net/core/dev_weight";
        let in_first_network =
            is_there(procfs, OF_FIRST_NETWORK) || stat(format!("/proc/{OF_FIRST_NETWORK}")).is_ok();
        let is_said = choice == Choice::Host && !is_of_outer_pids(procfs);
        let shared = Shared {
            net: proc.is_hosts && (is_in_network_of_pid_1(procfs) || (hidden.is_some() && in_first_network)),
            mnt: proc.is_hosts && own("/proc/self/ns/mnt").is_some_and(|inode| FIRST_MNT.contains(&inode)),
            ipc: proc.is_hosts && (is_said || own("/proc/self/ns/ipc") == Some(FIRST_IPC)),
            pid: proc.is_hosts && (is_said || own("/proc/self/ns/pid") == Some(FIRST_PID)),
            user: proc.is_hosts && (is_said || own("/proc/self/ns/user") == Some(FIRST_USER)),
        };
        let only_processes = !is_there(procfs, "stat");
        if choice != Choice::Auto {
            return Ok(Self { proc, sys: said, hidden, only_processes, shared });
        }
        let sysfs = check_magic(roots, Root::Sys, SYSFS_MAGIC, "--path.sysfs", "sysfs")?;
        // Each network namespace has a sysfs of its own.
        let device = |stat: rustix::fs::Stat| stat.st_dev;
        let sys = if fstat(sysfs).map(device) != stat("/sys").map(device) {
            whose(true, "another sysfs than the broker's own")
        } else if shared.net {
            whose(true, "the broker is in the host's network namespace")
        } else if hidden.is_some() && proc.is_hosts {
            whose(false, SYS_UNKNOWN)
        } else {
            whose(false, "it is the broker's own, and the broker is not in the host's network namespace")
        };
        Ok(Self { proc, sys, hidden, only_processes, shared })
    }

    /// Why a row cannot be read with this view, and its outcome: a container's own files would describe the container, and
    /// a hidden file is denied, not absent.
    pub fn unavailable(&self, row: &Row) -> Option<(Outcome, String)> {
        let of_host = row.access_level == AccessLevel::Host;
        let not_hosts = |source: &Source| {
            let (what, whose) = match source.root {
                Root::Proc | Root::Processes | Root::ProcIn(_) | Root::Rootfs => ("/proc", &self.proc),
                Root::Sys => ("/sys", &self.sys),
                _ => return None,
            };
            let (outcome, is) = match whose.reason {
                SYS_UNKNOWN => (Outcome::Denied, "not known to be the host's"),
                _ => (Outcome::ContainerView, "a container's own"),
            };
            let reason = format!("{what} is {is}: {}", whose.reason);
            (of_host && !whose.is_hosts).then_some((outcome, reason))
        };
        let refused = |source: &Source| {
            let why = match (source.root, self.hidden) {
                (Root::Processes, Some(hidden)) => format!("no process but its own is seen: {hidden}"),
                (Root::Proc | Root::Rootfs, Some(hidden)) if self.path(pid_1_path(source)).is_none() => {
                    let namespace = if source.pattern.starts_with("1/net/") { "network" } else { "mount" };
                    format!("the broker is not known to be in the host's {namespace} namespace, and {hidden}")
                }
                (Root::Proc | Root::ProcIn(_), _)
                    if self.only_processes && !source.pattern.starts_with("1/") =>
                {
                    "procfs is mounted with subset=pid: give the broker one that is not".to_owned()
                }
                _ => return None,
            };
            Some((Outcome::Denied, why))
        };
        let elsewhere = || {
            let namespace = |source: &Source| match source.root {
                Root::ProcIn(namespace) => Some(namespace),
                _ => None,
            };
            let all: Option<Vec<Namespace>> = row.sources.iter().map(namespace).collect();
            // Of several namespaces each counts for itself: what lies in another's is not opened.
            let all = all.filter(|all| !all.iter().any(|namespace| self.shares(*namespace)))?;
            let name = all.first()?.name();
            let reason = format!(
                "the broker is not known to be in the host's {name} namespace, and reads its own there"
            );
            Some((Outcome::ContainerView, reason))
        };
        let sources = || row.sources.iter();
        sources().find_map(not_hosts).or_else(|| sources().find_map(refused)).or_else(elsewhere)
    }

    /// Whether the reader is in the host's namespace of a kind.
    pub fn shares(&self, namespace: Namespace) -> bool {
        match namespace {
            Namespace::Net => self.shared.net,
            Namespace::Ipc => self.shared.ipc,
            Namespace::Pid => self.shared.pid,
            Namespace::User => self.shared.user,
        }
    }

    /// Where below procfs to open a path: `self/` for `1/` if PID 1 is hidden and the reader is in the same namespace. None
    /// if the file cannot be reached.
    pub fn path<'p>(&self, path: &'p [u8]) -> Option<Cow<'p, [u8]>> {
        let Some(below) = path.strip_prefix(b"1/").filter(|_| self.hidden.is_some()) else {
            return Some(path.into());
        };
        // The one file of a network namespace that is the same in all.
        let is_same = match below.strip_prefix(b"net/") {
            Some(file) => self.shared.net || file == b"softnet_stat",
            None => self.shared.mnt,
        };
        is_same.then(|| [b"self/", below].concat().into())
    }
}

/// The path that a source opens first: statfs of mounts needs PID 1's mountinfo for the mount points.
fn pid_1_path(source: &Source) -> &[u8] {
    match source.root {
        Root::Rootfs => b"1/mountinfo",
        _ => source.pattern.as_bytes(),
    }
}

fn is_procfs(roots: &Roots) -> bool {
    let magic = roots.dir(Root::Proc).and_then(fstatfs);
    magic.is_ok_and(|numbers| numbers.f_type as u64 == PROC_SUPER_MAGIC)
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

/// Why PID 1 cannot be seen, by the error of opening its stat: a PID namespace has a PID 1 as long as anything runs in it.
fn hides_pid_1(procfs: BorrowedFd<'_>) -> Option<&'static str> {
    match openat(procfs, "1/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => None,
        Err(Errno::NOENT | Errno::SRCH) => {
            Some("procfs hides others' processes from its uid (hidepid=2 or 4)")
        }
        Err(Errno::PERM) => Some("procfs refuses its uid others' processes (hidepid=1)"),
        Err(_) => Some("the kernel refuses its uid others' processes (a security module)"),
    }
}

/// Whether procfs knows this process by another PID than its own. Device numbers do not help: since Linux 5.8 each mount
/// of one namespace's procfs is a file system of its own.
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

/// The number of a namespace of this process, by its link.
fn own_namespace(dir: impl AsFd, link: &str) -> Option<u64> {
    statat(dir, link, AtFlags::empty()).ok().map(|stat| stat.st_ino)
}

fn is_there(procfs: BorrowedFd<'_>, path: &str) -> bool {
    statat(procfs, path, AtFlags::empty()).is_ok()
}
