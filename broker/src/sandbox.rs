//! The seal: which system calls the broker may make, each with its reason, and the check that the seal holds.
//!
//! One list for x86_64 and aarch64 with glibc; where they differ, the row says so by `cfg`.

use std::os::fd::AsRawFd;

use keyhole_os::seccomp::{ANONYMOUS, Argument, NOT_EXECUTABLE, READ_ONLY, Row, Rule, exactly, numbers};
use keyhole_os::{Layer, ThreadStatus, allow};
use rustix::fs::{CWD, Mode, OFlags};

/// Everything that is allowed but `unlinkat`, which depends on a descriptor's number.
#[rustfmt::skip]
pub const SYSCALLS: &[Row] = &[
    // Reading the host.
    allow!(openat, "files below sysfs, mount points to statfs", READ_ONLY),
    allow!(pread64, "held files, from their start"),
    allow!(getdents64, "directories of wildcards"),
    allow!(readlinkat, "links of hardware monitoring chips"),
    allow!(newfstatat, "the number of a process's descriptors or threads; whether the socket is still its own"),
    allow!(fstatfs, "anchors and mount points"),
    allow!(close, "files and connections"),
    // Serving.
    allow!(accept4, "connections"),
    allow!(recvfrom, "requests"),
    allow!(sendto, "answers", exactly(5, 0)),
    allow!(writev, "answers of several frames; log lines"),
    allow!(write, "log lines; the runtime's wake-up descriptor"),
    allow!(shutdown, "the end of a connection"),
    allow!(getsockopt, "the peer's uid; a connection's error", SOL_SOCKET),
    #[cfg(target_arch = "x86_64")]
    allow!(epoll_wait, "the runtime's wait"),
    #[cfg(not(target_arch = "x86_64"))]
    allow!(epoll_pwait, "the runtime's wait"),
    allow!(epoll_ctl, "the runtime's interest in connections"),
    // Living.
    allow!(futex, "locks between lanes and service"),
    allow!(clock_gettime, "time, where the vDSO has none"),
    allow!(brk, "memory"),
    allow!(mmap, "memory", NOT_EXECUTABLE, ANONYMOUS),
    allow!(mremap, "memory"),
    allow!(munmap, "memory"),
    allow!(rt_sigreturn, "the return from a signal"),
    allow!(sigaltstack, "the end, which gives its signal stack back"),
    allow!(exit_group, "the end"),
    #[cfg(debug_assertions)]
    allow!(fcntl, "F_GETFD: a debug build asserts that what it closes is open", exactly(1, 1)),
];

// A constant of the kernel's headers, the same on x86_64 and aarch64.
const SOL_SOCKET: Argument = exactly(1, 1);

/// What `unlinkat` is held to: the one call that changes a file system removes the socket from its own directory,
/// by that directory's descriptor. seccomp cannot see that the name leads nowhere else: only Landlock can.
pub fn unlink_arguments(dir: &rustix::fd::OwnedFd) -> [Argument; 2] {
    [exactly(0, dir.as_raw_fd() as u32), exactly(2, 0)]
}

/// The whole list; with `unlinkat` only for a socket directory that Landlock keeps it to.
pub fn syscalls<'u>(unlink: Option<&'u [Argument; 2]>) -> Vec<Rule<'u>> {
    let unlinkat = unlink.map(|when| Rule { number: numbers::unlinkat, when });
    SYSCALLS.iter().map(|row| -> Rule<'u> { row.into() }).chain(unlinkat).collect()
}

/// The layers, by the names under which they are reported.
pub const LAYERS: [&str; 6] =
    ["not_dumpable", "limits", "no_new_privs", "capabilities", "landlock", "seccomp"];

/// Why the broker does not start: the seal does not hold.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The kernel does not confirm a layer that was put in force.
    #[error("the kernel does not confirm {0}: the sandbox does not hold")]
    Unconfirmed(&'static str),
    /// A layer that every kernel has is not in force.
    #[error("{0} could not be put in force: {1}")]
    Missing(&'static str, String),
    /// A layer that the command line requires is not in force.
    #[error("--sandbox.require={0}: not in force here: {1}: {hint}, or do not require it", hint = hint(.0))]
    Required(&'static str, String),
    /// A thread's status could not be read.
    #[error("/proc/thread-self/status: {0}: the sandbox cannot be checked")]
    Unreadable(#[from] std::io::Error),
    /// A forbidden open went through.
    #[error(
        "opening the root directory is not refused although Landlock is in force: the sandbox does not hold"
    )]
    Open,
}

/// Checks what the kernel says of the thread against the layers that were put in force. Landlock may be missing, since
/// not every kernel has it; these three may not.
pub fn confirm(layers: &[Layer], thread: &ThreadStatus) -> Result<(), SealError> {
    let needed = |layer: &&Layer| matches!(layer.name, "no_new_privs" | "capabilities" | "seccomp");
    if let Some(missing) = layers.iter().filter(needed).find(|layer| !layer.in_force) {
        return Err(SealError::Missing(missing.name, missing.detail.clone()));
    }
    let unconfirmed = thread.unconfirmed()?;
    let claimed = layers.iter().find(|layer| layer.in_force && unconfirmed.contains(&layer.name));
    claimed.map_or(Ok(()), |layer| Err(SealError::Unconfirmed(layer.name)))
}

/// Checks that the layers that the command line requires are in force.
pub fn require(layers: &[Layer], required: &[&'static str]) -> Result<(), SealError> {
    let missing = layers.iter().find(|layer| !layer.in_force && required.contains(&layer.name));
    missing.map_or(Ok(()), |layer| Err(SealError::Required(layer.name, layer.detail.clone())))
}

/// What to do about a layer that is missing.
fn hint(layer: &str) -> &'static str {
    match layer {
        "landlock" => "run a kernel of 5.13 or later that has landlock among its lsm= modules",
        _ => "let the container's own seccomp profile allow it",
    }
}

/// Tries what Landlock must refuse to the calling thread.
pub fn root_is_closed() -> Result<(), SealError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, "/", flags, Mode::empty()) {
        Err(rustix::io::Errno::ACCESS) => Ok(()),
        _ => Err(SealError::Open),
    }
}
