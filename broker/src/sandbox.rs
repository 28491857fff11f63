//! The broker's sandbox: which system calls it may make, each with its reason, and the check that every layer is in force.
//!
//! None of the calls opens a file, starts a process or makes a socket. It is one list for x86_64 and aarch64 with glibc;
//! rows that differ have a `cfg`.

use std::os::fd::AsRawFd;

use keyhole_os::seccomp::values::*;
use keyhole_os::seccomp::{Argument, Row, Rule, exactly, null, numbers};
use keyhole_os::{Layer, ThreadStatus, allow};

/// All allowed calls except those that are bound to the number of a descriptor: see [`DescriptorRules`].
#[rustfmt::skip]
pub const SYSCALLS: &[Row] = &[
    // The readers.
    allow!(read, "answers of readers; the zygote's reports; the runtime's wake-up descriptor"),
    allow!(write, "requests to readers; log lines; the runtime's wake-up descriptor"),
    allow!(wait4, "how the zygote ended", exactly(2, WNOHANG)),
    // Serving.
    allow!(accept4, "connections", exactly(3, SOCK_CLOEXEC_NONBLOCK)),
    allow!(recvfrom, "requests", exactly(3, 0), null(4), null(5)),
    allow!(sendto, "answers", exactly(3, MSG_NOSIGNAL), null(4), exactly(5, 0)),
    allow!(writev, "answers of several frames; log lines"),
    allow!(shutdown, "the end of a connection", exactly(1, SHUT_WR)),
    allow!(getsockopt, "the peer's uid", exactly(1, SOL_SOCKET), exactly(2, SO_PEERCRED)),
    allow!(close, "connections"),
    #[cfg(target_arch = "x86_64")]
    allow!(epoll_wait, "the runtime's wait"),
    #[cfg(not(target_arch = "x86_64"))]
    allow!(epoll_pwait, "the runtime's wait", null(4)),
    allow!(epoll_ctl, "the runtime's interest in connections", exactly(1, EPOLL_CTL_ADD)),
    allow!(epoll_ctl, "the same, taken back", exactly(1, EPOLL_CTL_DEL)),
    // The process itself.
    allow!(clock_gettime, "time, where the vDSO has none", exactly(0, CLOCK_MONOTONIC)),
    allow!(clock_gettime, "the time of log lines, where the vDSO has none", exactly(0, CLOCK_REALTIME)),
    allow!(brk, "memory"),
    allow!(mmap, "memory", exactly(2, READ_WRITE), exactly(3, PRIVATE_ANONYMOUS), exactly(4, u32::MAX)),
    allow!(mremap, "memory", exactly(3, MREMAP_MAYMOVE)),
    allow!(munmap, "memory"),
    allow!(futex, "the log's thread waits for lines", exactly(1, FUTEX_WAIT_BITSET_PRIVATE)),
    allow!(futex, "two threads wait for the heap they share", exactly(1, FUTEX_WAIT_PRIVATE)),
    allow!(futex, "and wake each other", exactly(1, FUTEX_WAKE_PRIVATE)),
    allow!(rt_sigreturn, "the return from a signal"),
    allow!(sigaltstack, "the end, which gives its signal stack back"),
    allow!(exit_group, "the end"),
    #[cfg(debug_assertions)]
    allow!(fcntl, "F_GETFD: a debug build asserts that what it closes is open", exactly(1, F_GETFD)),
];

/// Further calls on kernels that accept descriptors which peers pass along: see `closers`.
pub const PASSED_DESCRIPTOR_SYSCALLS: &[Row] = &[
    allow!(recvmsg, "peeks at bytes before they are received", exactly(2, MSG_PEEK)),
    allow!(shutdown, "the end of a connection before it is closed", exactly(1, SHUT_RDWR)),
    allow!(setsockopt, "out-of-band bytes stay in order", exactly(1, SOL_SOCKET), exactly(2, SO_OOBINLINE)),
    allow!(timer_settime, "a close that sleeps is interrupted", exactly(1, 0)),
];

/// Calls that are allowed on certain descriptors only, or on certain kernels only.
#[derive(Debug)]
pub struct DescriptorRules {
    check: [Argument; 1],
    remove: Option<[[Argument; 2]; 2]>,
    passed: &'static [Row],
}

impl DescriptorRules {
    /// Allows to read `thread` to check the sandbox, and to remove the socket from `dir`. Pass `dir` only if Landlock is
    /// in force: seccomp sees the descriptor of the directory, but not whether the name leads out of it.
    pub fn new(thread: &ThreadStatus, dir: Option<&rustix::fd::OwnedFd>) -> Self {
        let remove = |dir: &rustix::fd::OwnedFd| {
            let dir = exactly(0, dir.as_raw_fd().cast_unsigned());
            [[dir, exactly(2, 0)], [dir, exactly(3, AT_SYMLINK_NOFOLLOW)]]
        };
        Self { check: [exactly(0, thread.descriptor())], remove: dir.map(remove), passed: &[] }
    }

    /// Adds the calls for a kernel that accepts descriptors which peers pass along.
    pub fn with_passed_descriptors(self) -> Self {
        Self { passed: PASSED_DESCRIPTOR_SYSCALLS, ..self }
    }
}

/// The whole list: [`SYSCALLS`] and `descriptor_rules`.
pub fn syscalls(descriptor_rules: &DescriptorRules) -> Vec<Rule<'_>> {
    let remove = descriptor_rules.remove.iter().flat_map(|[unlink, stat]| {
        [Rule { number: numbers::unlinkat, when: unlink }, Rule { number: numbers::newfstatat, when: stat }]
    });
    let check = Rule { number: numbers::pread64, when: &descriptor_rules.check };
    let rows = SYSCALLS.iter().chain(descriptor_rules.passed);
    rows.map(|row| -> Rule<'_> { row.into() }).chain([check]).chain(remove).collect()
}

/// The layers, by the names under which they are reported.
pub const LAYERS: [&str; 7] =
    ["not_dumpable", "limits", "passed_descriptors", "no_new_privs", "capabilities", "landlock", "seccomp"];

/// Why the broker does not start: its sandbox is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel does not confirm a layer that was enabled.
    #[error("the kernel does not confirm {0}: the sandbox is incomplete")]
    Unconfirmed(&'static str),
    /// A layer that every kernel has is not in force.
    #[error("{0} could not be enabled: {1}")]
    Missing(&'static str, String),
    /// A layer that the command line requires is not in force.
    #[error("--sandbox.require={0}: not in force in {1}: {2}: {hint}, or do not require it", hint = hint(.0))]
    Required(String, String, String),
    /// A thread's status could not be read.
    #[error("/proc/thread-self/status: {0}: the sandbox cannot be checked")]
    Unreadable(#[from] std::io::Error),
}

/// Checks that the kernel confirms the enabled layers for the thread. Landlock may be missing, since not every kernel has
/// it; no_new_privs, capabilities and seccomp may not.
pub fn confirm_layers(layers: &[Layer], thread: &ThreadStatus) -> Result<(), SandboxError> {
    let required = |layer: &&Layer| matches!(layer.name, "no_new_privs" | "capabilities" | "seccomp");
    if let Some(missing) = layers.iter().filter(required).find(|layer| !layer.in_force) {
        return Err(SandboxError::Missing(missing.name, missing.detail.clone()));
    }
    let unconfirmed = thread.unconfirmed()?;
    let layer = layers.iter().find(|layer| layer.in_force && unconfirmed.contains(&layer.name));
    layer.map_or(Ok(()), |layer| Err(SandboxError::Unconfirmed(layer.name)))
}

/// Checks that the layers that the command line requires are in force in a process.
pub fn require_layers<'l>(
    process: &str,
    mut layers: impl Iterator<Item = (&'l str, bool, &'l str)>,
    required: &[&'static str],
) -> Result<(), SandboxError> {
    let missing = layers.find(|(name, in_force, _)| !in_force && required.contains(name));
    missing.map_or(Ok(()), |(name, _, detail)| {
        Err(SandboxError::Required(name.to_owned(), process.to_owned(), detail.to_owned()))
    })
}

/// What to do about a layer that is missing.
fn hint(layer: &str) -> &'static str {
    match layer {
        "passed_descriptors" => "run a kernel of 6.16 or later",
        "landlock" => "run a kernel of 5.13 or later that has landlock among its lsm= modules",
        _ => "let the container's seccomp profile allow it",
    }
}
