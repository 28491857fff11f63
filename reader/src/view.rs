//! Detects whether /proc and /sys are the host's or a container's own, and what the host's /proc does not show to this
//! uid: `hidepid=` hides the processes of other users, `subset=pid` hides everything but processes.
//!
//! A container's own files would describe the container where a query asks about the host: such a query is refused
//! rather than answered wrongly. <https://docs.kernel.org/filesystems/proc.html#mount-options>

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};

use keyhole_policy::{AccessLevel, Namespace, Outcome, Root, Row, Source};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, fstatfs, openat, readlinkat, stat, statat};
use rustix::io::Errno;

use crate::arguments::ViewMode;
use crate::host::Roots;

/// Whether a root shows the host, and how this was detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootView {
    /// Whether it is the host's, not a container's own.
    pub is_host: bool,
    /// How this was detected, for Describe and the log.
    pub reason: &'static str,
}

/// What a reader knows of /proc, /sys and its own namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Whether procfs shows the host.
    pub proc: RootView,
    /// Whether sysfs shows the host's network namespace.
    pub sys: RootView,
    /// Why procfs hides the processes of other users, PID 1 among them; none if it does not.
    pub hidden: Option<&'static str>,
    /// Whether procfs shows processes and nothing else.
    pub only_processes: bool,
    /// Which namespaces of the host this reader is in.
    pub host_namespaces: HostNamespaces,
}

/// Which of the reader's own namespaces are the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HostNamespaces {
    pub net: bool,
    pub mnt: bool,
    pub ipc: bool,
    pub pid: bool,
    pub user: bool,
}

/// The reason if it is unknown whose sysfs it is. It need not be a container's, so the outcome is `denied`.
const SYS_UNKNOWN: &str = "it is the broker's own, and PID 1, which would show the host's network namespace, is hidden from this uid";

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
const SYSFS_MAGIC: u64 = 0x6265_6572;

// The inodes of the namespaces that the kernel starts with, `enum init_ns_ino` of its include/uapi/linux/nsfs.h.
const INITIAL_IPC: u64 = 0xefff_ffff;
const INITIAL_USER: u64 = 0xefff_fffd;
const INITIAL_PID: u64 = 0xefff_fffc;
/// Before Linux 6.18 the first mount namespace had one of the first two numbers that the kernel assigns. Both belong to
/// objects that are never removed, so no other namespace ever has them.
const INITIAL_MNT: [u64; 3] = [0xefff_fff8, 0xf000_0000, 0xf000_0001];

impl View {
    /// Detects whose files `roots` are.
    ///
    /// procfs is the host's when its PID 2 is the kernel's thread daemon, or when it shows the reader under another
    /// PID than the reader's own `/proc` does: then its PID namespace is an outer one. `hidepid=` may hide both: then it
    /// is the host's when the reader is in the initial PID namespace. sysfs is the host's when it is another mount than
    /// the reader's own `/sys`, or when the reader is in the network namespace of the host's PID 1.
    ///
    /// The error says what to do about a root of the wrong file system type.
    pub fn find(roots: &Roots, mode: ViewMode) -> Result<Self, String> {
        let root_view = |is_host, reason| RootView { is_host, reason };
        let by_flag = root_view(mode == ViewMode::Host, "set by --view");
        if mode != ViewMode::Auto && !is_procfs(roots) {
            // A fixture tree: nothing of it is hidden, and no namespace matters.
            let all = by_flag.is_host;
            let host_namespaces = HostNamespaces { net: all, mnt: all, ipc: all, pid: all, user: all };
            return Ok(Self {
                proc: by_flag,
                sys: by_flag,
                hidden: None,
                only_processes: false,
                host_namespaces,
            });
        }
        let procfs = check_magic(roots, Root::Proc, PROC_SUPER_MAGIC, "--path.procfs", "proc")?;
        let hidden = why_pid_1_is_hidden(procfs);
        let proc = if mode != ViewMode::Auto {
            by_flag
        } else if pid_2_is_kthreadd(procfs) {
            root_view(true, "its PID 2 is the kernel's thread daemon")
        } else if is_of_outer_pid_namespace(procfs) {
            root_view(true, "its PID namespace is an outer one of the broker's")
        } else if own_namespace(procfs, "self/ns/pid") == Some(INITIAL_PID) {
            root_view(true, "the broker is in the initial PID namespace")
        } else {
            root_view(
                false,
                "its PID namespace is not an outer one of the broker's, and PID 2 is not the kernel's thread daemon",
            )
        };
        let own = |path| own_namespace(CWD, path);
        // The kernel shows this file in the initial network namespace alone.
        const INITIAL_NETNS_ONLY: &str = "sys/net/core/dev_weight";
        let in_initial_network =
            exists(procfs, INITIAL_NETNS_ONLY) || stat(format!("/proc/{INITIAL_NETNS_ONLY}")).is_ok();
        let is_host_by_flag = mode == ViewMode::Host && !is_of_outer_pid_namespace(procfs);
        let host_namespaces = HostNamespaces {
            net: proc.is_host && (is_in_network_of_pid_1(procfs) || (hidden.is_some() && in_initial_network)),
            mnt: proc.is_host && own("/proc/self/ns/mnt").is_some_and(|inode| INITIAL_MNT.contains(&inode)),
            ipc: proc.is_host && (is_host_by_flag || own("/proc/self/ns/ipc") == Some(INITIAL_IPC)),
            pid: proc.is_host && (is_host_by_flag || own("/proc/self/ns/pid") == Some(INITIAL_PID)),
            user: proc.is_host && (is_host_by_flag || own("/proc/self/ns/user") == Some(INITIAL_USER)),
        };
        let only_processes = !exists(procfs, "stat");
        if mode != ViewMode::Auto {
            return Ok(Self { proc, sys: by_flag, hidden, only_processes, host_namespaces });
        }
        let sysfs = check_magic(roots, Root::Sys, SYSFS_MAGIC, "--path.sysfs", "sysfs")?;
        // Each network namespace has a sysfs of its own.
        let device = |stat: rustix::fs::Stat| stat.st_dev;
        let sys = if fstat(sysfs).map(device) != stat("/sys").map(device) {
            root_view(true, "another sysfs than the broker's own")
        } else if host_namespaces.net {
            root_view(true, "the broker is in the host's network namespace")
        } else if hidden.is_some() && proc.is_host {
            root_view(false, SYS_UNKNOWN)
        } else {
            root_view(false, "it is the broker's own, and the broker is not in the host's network namespace")
        };
        Ok(Self { proc, sys, hidden, only_processes, host_namespaces })
    }

    /// Why a row cannot be read with this view, and its outcome: `container_view` for a container's own files, and
    /// `denied`, not `absent`, for hidden ones.
    pub fn unavailable(&self, row: &Row) -> Option<(Outcome, String)> {
        let of_host = row.access_level == AccessLevel::Host;
        let not_of_host = |source: &Source| {
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
            (of_host && !whose.is_host).then_some((outcome, reason))
        };
        let refused = |source: &Source| {
            let why = match (source.root, self.hidden) {
                (Root::Processes, Some(hidden)) => format!("other processes are hidden: {hidden}"),
                (Root::Proc | Root::Rootfs, Some(hidden)) if self.path(pid_1_path(source)).is_none() => {
                    let namespace = if source.pattern.starts_with("1/net/") { "network" } else { "mount" };
                    format!("the broker is not known to be in the host's {namespace} namespace, and {hidden}")
                }
                (Root::Proc | Root::ProcIn(_), _)
                    if self.only_processes && !source.pattern.starts_with("1/") =>
                {
                    "procfs is mounted with subset=pid: mount one without that option for the broker"
                        .to_owned()
                }
                _ => return None,
            };
            Some((Outcome::Denied, why))
        };
        let other_namespace = || {
            let namespace = |source: &Source| match source.root {
                Root::ProcIn(namespace) => Some(namespace),
                _ => None,
            };
            let all: Option<Vec<Namespace>> = row.sources.iter().map(namespace).collect();
            // Sources of several namespaces: those of the host's namespaces are read, the others are not opened.
            let all = all.filter(|all| !all.iter().any(|namespace| self.is_in_host_namespace(*namespace)))?;
            let name = all.first()?.name();
            let reason = format!(
                "the broker is not known to be in the host's {name} namespace, and reads its own there"
            );
            Some((Outcome::ContainerView, reason))
        };
        let sources = || row.sources.iter();
        sources().find_map(not_of_host).or_else(|| sources().find_map(refused)).or_else(other_namespace)
    }

    /// Whether the reader is in the host's namespace of a kind.
    pub fn is_in_host_namespace(&self, namespace: Namespace) -> bool {
        match namespace {
            Namespace::Net => self.host_namespaces.net,
            Namespace::Ipc => self.host_namespaces.ipc,
            Namespace::Pid => self.host_namespaces.pid,
            Namespace::User => self.host_namespaces.user,
        }
    }

    /// The path below procfs to open: `self/` instead of `1/` if PID 1 is hidden and the reader is in the same
    /// namespace. None if the file cannot be reached.
    pub fn path<'p>(&self, path: &'p [u8]) -> Option<Cow<'p, [u8]>> {
        let Some(below) = path.strip_prefix(b"1/").filter(|_| self.hidden.is_some()) else {
            return Some(path.into());
        };
        // softnet_stat is the same in every network namespace.
        let is_same = match below.strip_prefix(b"net/") {
            Some(file) => self.host_namespaces.net || file == b"softnet_stat",
            None => self.host_namespaces.mnt,
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
            "{flag}: not a {kind} file system: mount the host's {kind} there, or set --view=host for a fixture tree"
        )),
    }
}

/// Why PID 1 cannot be seen, by the error of opening its stat: a PID namespace has a PID 1 as long as anything runs in it.
fn why_pid_1_is_hidden(procfs: BorrowedFd<'_>) -> Option<&'static str> {
    match openat(procfs, "1/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => None,
        Err(Errno::NOENT | Errno::SRCH) => {
            Some("procfs hides the processes of other users from this uid (hidepid=2 or 4)")
        }
        Err(Errno::PERM) => Some("procfs denies this uid the processes of other users (hidepid=1)"),
        Err(_) => Some("the kernel denies this uid the processes of other users (a security module)"),
    }
}

/// Whether procfs knows this process by another PID than its own. Device numbers do not help: since Linux 5.8 each mount
/// of one namespace's procfs is a file system of its own.
fn is_of_outer_pid_namespace(procfs: BorrowedFd<'_>) -> bool {
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
    let pid_1s = inode(procfs, "1/net/dev");
    pid_1s.is_ok() && pid_1s == inode(CWD.as_fd(), "/proc/self/net/dev")
}

/// The inode of a namespace of this process, by its link.
fn own_namespace(dir: impl AsFd, link: &str) -> Option<u64> {
    statat(dir, link, AtFlags::empty()).ok().map(|stat| stat.st_ino)
}

fn exists(procfs: BorrowedFd<'_>, path: &str) -> bool {
    statat(procfs, path, AtFlags::empty()).is_ok()
}
