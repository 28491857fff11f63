//! The exporter's own sandbox, entered before the first connection is accepted.
//!
//! The exporter has no files of the host but text files, and no capabilities. The sandbox limits what an attacker who
//! takes it over can do: open only files of the textfile directories and of the web configuration, create only Unix
//! sockets, start no process, and map no executable memory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use keyhole_os::landlock::{Grant, Right};
use keyhole_os::seccomp::values::*;
use keyhole_os::seccomp::{Argument, Row, Rule, exactly, flags, null};
use keyhole_os::{ThreadStatus, allow};
use rustix::fs::{Mode, OFlags};

use crate::layers::{capabilities, landlock, process, seccomp};

pub use keyhole_os::Layer;

/// The system calls that are allowed in the sandbox, each with its reason. Rows of the same name are alternatives.
///
/// Flags and operations are those seen in traces from start to end, with glibc on x86_64 and aarch64.
#[rustfmt::skip]
pub const SYSCALLS: &[Row] = &[
    // Prometheus' side.
    allow!(accept4, "scrapes", exactly(3, SOCK_CLOEXEC_NONBLOCK)),
    allow!(recvfrom, "requests, peeked at before TLS begins; the broker's responses", flags(3, 0, MSG_PEEK), null(4), null(5)),
    allow!(sendto, "responses; requests to the broker", exactly(3, MSG_NOSIGNAL), null(4), exactly(5, 0)),
    allow!(writev, "responses in several buffers; log lines"),
    allow!(write, "log lines; the runtime's wake-up descriptor"),
    allow!(read, "textfiles; the web configuration; the runtime's wake-up descriptor"),
    allow!(shutdown, "the end of a connection", exactly(1, SHUT_WR)),
    allow!(setsockopt, "TCP_NODELAY of a connection", exactly(1, SOL_TCP), exactly(2, TCP_NODELAY)),
    allow!(getsockopt, "a connection's error", exactly(1, SOL_SOCKET), exactly(2, SO_ERROR)),
    allow!(getsockname, "the addresses of listening sockets, for the log"),
    // The broker: it may restart, and is reconnected to.
    allow!(socket, "a Unix socket to the broker", exactly(0, AF_UNIX), exactly(1, SOCK_STREAM | SOCK_CLOEXEC_NONBLOCK), exactly(2, 0)),
    allow!(connect, "to the broker: no other kind of socket can be made"),
    // Its own files.
    allow!(openat, "textfiles; the web configuration and its certificates", FROM_THE_WORKING_DIRECTORY, READING),
    allow!(getdents64, "the textfile directories; its own open descriptors, before Linux 6.2"),
    allow!(statx, "when a textfile was changed; the count of its own descriptors", flags(2, 0, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)),
    allow!(newfstatat, "a directory's size, with glibc before 2.39", exactly(3, AT_EMPTY_PATH)),
    allow!(fstat, "the same, with glibc 2.39 and newer"),
    allow!(lseek, "back to the start of a cached directory, before Linux 6.2", exactly(1, 0), exactly(2, SEEK_SET)),
    allow!(pread64, "its own /proc/self, opened before"),
    allow!(close, "files and connections"),
    // The clock and itself.
    allow!(clock_adjtime, "the clock's discipline", exactly(0, CLOCK_REALTIME)),
    allow!(prlimit64, "its own limits", exactly(0, 0), null(2)),
    // Runtime and memory.
    #[cfg(target_arch = "x86_64")]
    allow!(epoll_wait, "the runtime's wait"),
    #[cfg(not(target_arch = "x86_64"))]
    allow!(epoll_pwait, "the runtime's wait", null(4)),
    allow!(epoll_ctl, "the runtime adds a descriptor", exactly(1, EPOLL_CTL_ADD)),
    allow!(epoll_ctl, "the runtime removes a descriptor", exactly(1, EPOLL_CTL_DEL)),
    allow!(futex, "a wait for a lock of the C library", exactly(1, FUTEX_WAIT_PRIVATE)),
    allow!(futex, "a wait for any other lock, and for work", exactly(1, FUTEX_WAIT_BITSET_PRIVATE)),
    allow!(futex, "the end of a wait", exactly(1, FUTEX_WAKE_PRIVATE)),
    allow!(clock_gettime, "the time, where the vDSO has none", exactly(0, CLOCK_REALTIME)),
    allow!(clock_gettime, "deadlines, where the vDSO has no time", exactly(0, CLOCK_MONOTONIC)),
    allow!(getrandom, "seeds of hash maps; TLS", exactly(2, 0)),
    allow!(brk, "memory"),
    allow!(mmap, "memory", exactly(2, READ_WRITE), exactly(3, PRIVATE_ANONYMOUS)),
    allow!(mremap, "memory", exactly(3, MREMAP_MAYMOVE)),
    allow!(munmap, "memory"),
    allow!(madvise, "memory returned to the system", exactly(2, MADV_DONTNEED)),
    allow!(sched_yield, "a channel's short wait for another thread"),
    allow!(rt_sigreturn, "the return from a signal"),
    allow!(sigaltstack, "the exit, which frees the signal stack"),
    allow!(exit_group, "the exit"),
    #[cfg(debug_assertions)]
    allow!(fcntl, "F_GETFD: a debug build asserts that what it closes is open", exactly(1, F_GETFD)),
    #[cfg(debug_assertions)]
    allow!(fcntl, "F_GETFL: a debug build asserts that the runtime's sockets do not block", exactly(1, F_GETFL)),
];

/// Further system calls of the commands: `query`, `describe`, `replay`, `connect`, and `capture -`.
#[rustfmt::skip]
pub const QUERY_SYSCALLS: &[Row] = &[
    allow!(ioctl, "the size of the terminal", exactly(1, TIOCGWINSZ)),
    #[cfg(target_arch = "x86_64")]
    allow!(readlink, "links of a capture, which may not lead out of it"),
    #[cfg(not(target_arch = "x86_64"))]
    allow!(readlinkat, "links of a capture, which may not lead out of it", FROM_THE_WORKING_DIRECTORY),
    allow!(getcwd, "the absolute path of a capture with a relative path"),
];

/// Paths relative to the working directory, not to a descriptor.
const FROM_THE_WORKING_DIRECTORY: Argument = exactly(0, AT_FDCWD);

/// Opening files and directories read-only and close-on-exec; neither O_PATH nor writing.
const READING: Argument =
    flags(2, OFlags::CLOEXEC.bits(), OFlags::NOCTTY.union(OFlags::NONBLOCK).union(OFlags::DIRECTORY).bits());

/// What the exporter needs in the sandbox.
#[derive(Debug, Clone, Default)]
pub struct SandboxOptions {
    /// Directories that it reads files from: those of the textfile collector and of the web configuration.
    pub readable: Vec<PathBuf>,
    /// The broker's socket.
    pub broker_socket: PathBuf,
    /// System calls in addition to [`SYSCALLS`].
    pub extra_syscalls: &'static [Row],
}

/// Enters the sandbox and returns its layers.
///
/// Called once, with one thread running, after the listening sockets are bound and all files are open that stay open.
/// Afterwards files can only be opened below `readable`. A layer that the kernel does not support is reported, not
/// fatal, since layers are redundant. A layer that is claimed to be in force and is not is an error.
pub fn enter(options: &SandboxOptions) -> Result<Vec<Layer>, String> {
    enter_with_threads(options, || Ok(()))
}

/// The same; `start` starts the threads that are needed later, after the layers that they inherit and before seccomp,
/// which applies to all threads and forbids new ones.
pub fn enter_with_threads(
    options: &SandboxOptions,
    start: impl FnOnce() -> std::io::Result<()>,
) -> Result<Vec<Layer>, String> {
    // All settings have been read from it.
    process::clear_environment();
    let unreadable = |error| format!("/proc/thread-self/status: {error}: the sandbox cannot be checked");
    let status = ThreadStatus::open().map_err(unreadable)?;
    let readable: Vec<OwnedFd> = options.readable.iter().filter_map(|dir| open_dir(dir)).collect();
    let socket_dir = options.broker_socket.ancestors().skip(1).find_map(open_dir);
    let grants: Vec<Grant<'_>> = readable
        .iter()
        .map(|dir| Grant { dir: dir.as_fd(), right: Right::Read })
        .chain(socket_dir.iter().map(|dir| Grant { dir: dir.as_fd(), right: Right::Connect }))
        .collect();
    let rules: Vec<Rule<'_>> = SYSCALLS.iter().chain(options.extra_syscalls).map(Rule::from).collect();
    let filter = seccomp::compile(&rules).map_err(|error| error.to_string())?;
    let mut layers = vec![
        process::not_dumpable(),
        process::limits(),
        capabilities::no_new_privs(),
        capabilities::drop_all(),
        landlock::restrict(&grants),
    ];
    let start = || start().and_then(|()| keyhole_log::start_thread());
    start().map_err(|error| format!("cannot start a thread: {error}"))?;
    layers.push(seccomp::install(&filter, rules.len()));
    let unconfirmed = status.unconfirmed().map_err(unreadable)?;
    match layers.iter().find(|layer| layer.in_force && unconfirmed.contains(&layer.name)) {
        Some(layer) => Err(format!("the kernel does not confirm {}: the sandbox does not hold", layer.name)),
        None => Ok(layers),
    }
}

fn open_dir(path: &Path) -> Option<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_allows_processes_or_network_sockets() {
        for forbidden in ["clone", "clone3", "execve", "execveat", "ptrace", "bind", "listen", "unlinkat"] {
            assert!(SYSCALLS.iter().all(|row| row.name != forbidden), "{forbidden}");
        }
        let socket = SYSCALLS.iter().find(|row| row.name == "socket").unwrap();
        let domain = &socket.when[0];
        assert_eq!((domain.index, domain.mask, domain.value), (0, u32::MAX.into(), AF_UNIX.into()));
    }

    #[test]
    fn rows_of_one_name_are_alternatives_and_each_has_a_reason() {
        for (at, row) in SYSCALLS.iter().enumerate() {
            assert!(row.reason.len() > 3, "{}", row.name);
            let others = SYSCALLS.iter().enumerate().filter(|(other, _)| *other != at);
            let same: Vec<&Row> =
                others.map(|(_, other)| other).filter(|other| other.name == row.name).collect();
            // A row without conditions would make the others useless.
            assert!(same.is_empty() || !row.when.is_empty(), "{}", row.name);
        }
    }
}
