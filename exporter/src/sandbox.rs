//! The exporter's own sandbox, entered before the first connection is accepted.
//!
//! It holds no host file and no capability to begin with; the seal makes sure that what breaks into it gains
//! nothing either: no file but the textfile folders and those of the web configuration, no socket but Unix ones, no process, no executable memory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use keyhole_os::landlock::{Grant, Right};
use keyhole_os::seccomp::{ANONYMOUS, NOT_EXECUTABLE, READ_ONLY, Row, Rule, exactly};
use keyhole_os::{ThreadStatus, allow, capabilities, landlock, process, seccomp};
use rustix::fs::{Mode, OFlags};

pub use keyhole_os::Layer;

/// Every system call that the exporter may make once it is sealed, each with its reason.
#[rustfmt::skip]
pub const SYSCALLS: &[Row] = &[
    // Prometheus' side.
    allow!(accept4, "scrapes"),
    allow!(recvfrom, "requests; the broker's answers"),
    allow!(sendto, "answers; requests to the broker"),
    allow!(writev, "answers in several parts; log lines"),
    allow!(write, "log lines; the runtime's wake-up descriptor"),
    allow!(read, "textfiles; the web configuration; the runtime's wake-up descriptor"),
    allow!(shutdown, "the end of a connection"),
    allow!(setsockopt, "no delay on a connection"),
    allow!(getsockopt, "a connection's error"),
    allow!(getsockname, "the address a connection came in by"),
    allow!(getpeername, "the address a connection came from"),
    // The broker's side: it may restart, and is connected to anew.
    allow!(socket, "a Unix socket to the broker", exactly(0, AF_UNIX)),
    allow!(connect, "to the broker: no other kind of socket can be made"),
    // Its own files.
    allow!(openat, "textfiles; the web configuration and its certificates", READ_ONLY),
    allow!(getdents64, "the textfile folders; its own open descriptors"),
    allow!(statx, "when a textfile was changed"),
    allow!(fstat, "a textfile's size; the count of its own descriptors"),
    allow!(newfstatat, "the same, as another C library asks it"),
    allow!(lseek, "back to the start of a held folder"),
    allow!(pread64, "its own /proc/self, held open"),
    allow!(close, "files and connections"),
    allow!(fcntl, "flags of a new connection"),
    allow!(ioctl, "a new connection made non-blocking", exactly(1, FIONBIO)),
    // The clock and itself.
    allow!(adjtimex, "the clock's discipline", ),
    allow!(clock_adjtime, "the same, as the C library asks it"),
    allow!(getrusage, "its own CPU time"),
    allow!(prlimit64, "its own limits", exactly(2, 0)),
    allow!(uname, "the kernel's name"),
    // Living.
    #[cfg(target_arch = "x86_64")]
    allow!(epoll_wait, "the runtime's wait"),
    allow!(epoll_pwait, "the runtime's wait where epoll_wait is not there"),
    allow!(epoll_ctl, "the runtime's interest in connections"),
    allow!(futex, "locks"),
    allow!(clock_gettime, "time, where the vDSO has none"),
    allow!(getrandom, "seeds of hash maps"),
    allow!(brk, "memory"),
    allow!(mmap, "memory", NOT_EXECUTABLE, ANONYMOUS),
    allow!(mremap, "memory"),
    allow!(munmap, "memory"),
    allow!(mprotect, "memory of another thread's heap", NOT_EXECUTABLE),
    allow!(madvise, "memory given back"),
    allow!(sched_yield, "the runtime's short waits"),
    allow!(rt_sigprocmask, "signals around the end"),
    allow!(rt_sigreturn, "the return from a signal"),
    allow!(rt_sigaction, "signal handlers put back"),
    allow!(sigaltstack, "the end of a thread"),
    allow!(restart_syscall, "a wait that was stopped and goes on"),
    allow!(exit_group, "the end"),
];

/// What a query from the command line may do besides.
#[rustfmt::skip]
pub const QUERY_SYSCALLS: &[Row] = &[
    allow!(ioctl, "the size of the terminal", exactly(1, TIOCGWINSZ)),
    #[cfg(target_arch = "x86_64")]
    allow!(readlink, "links of a saved tree, of which none may lead out of it"),
    allow!(readlinkat, "the same, as another C library asks it"),
    allow!(getcwd, "a saved tree that was named without a leading /"),
];

// Constants of the kernel's headers, the same on x86_64 and aarch64.
const AF_UNIX: u32 = 1;
const FIONBIO: u32 = 0x5421;
const TIOCGWINSZ: u32 = 0x5413;

/// What the exporter still needs once it is sealed.
#[derive(Debug, Clone, Default)]
pub struct SealOptions {
    /// Directories that it reads files from: those of the textfile collector and of the web configuration.
    pub readable: Vec<PathBuf>,
    /// The broker's socket, which it connects to.
    pub broker_socket: PathBuf,
    /// System calls besides [`SYSCALLS`].
    pub also: &'static [Row],
}

/// Gives up what the exporter no longer needs, for good, and tells what is in force.
///
/// Called once, with one thread running, after the listening sockets are bound and everything that is held open is
/// open. From here on files are opened below `readable` only. A layer that cannot be put in force is reported, not
/// fatal: what it would add is a second wall. A layer that claims to be in force and is not ends the start.
pub fn seal(options: &SealOptions) -> Result<Vec<Layer>, String> {
    seal_with_threads(options, || Ok(()))
}

/// The same; `start` starts the threads that will be needed, after the layers that they inherit and before seccomp,
/// which is put on all of them and lets none begin.
pub fn seal_with_threads(
    options: &SealOptions,
    start: impl FnOnce() -> std::io::Result<()>,
) -> Result<Vec<Layer>, String> {
    // Looked up once and kept: the first look is a system call that the filter refuses.
    let _ = (rustix::param::clock_ticks_per_second(), rustix::param::page_size());
    let unreadable = |error| format!("/proc/thread-self/status: {error}: the sandbox cannot be checked");
    let status = ThreadStatus::open().map_err(unreadable)?;
    let readable: Vec<OwnedFd> = options.readable.iter().filter_map(|dir| open_dir(dir)).collect();
    let socket_dir = options.broker_socket.ancestors().skip(1).find_map(open_dir);
    let grants: Vec<Grant<'_>> = readable
        .iter()
        .map(|dir| Grant { dir: dir.as_fd(), right: Right::Read })
        .chain(socket_dir.iter().map(|dir| Grant { dir: dir.as_fd(), right: Right::Connect }))
        .collect();
    let rules: Vec<Rule<'_>> = SYSCALLS.iter().chain(options.also).map(Rule::from).collect();
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
    fn no_row_lets_a_process_or_a_network_socket_be_made() {
        for forbidden in ["clone", "clone3", "execve", "execveat", "ptrace", "bind", "listen", "unlinkat"] {
            assert!(SYSCALLS.iter().all(|row| row.name != forbidden), "{forbidden}");
        }
        let socket = SYSCALLS.iter().find(|row| row.name == "socket").unwrap();
        let domain = &socket.when[0];
        assert_eq!((domain.index, domain.mask, domain.value), (0, u32::MAX, AF_UNIX));
    }

    #[test]
    fn rows_are_named_once_and_each_has_a_reason() {
        let mut names: Vec<_> = SYSCALLS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        assert!(SYSCALLS.iter().all(|row| row.reason.len() > 3));
    }
}
