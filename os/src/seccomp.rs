//! seccomp: which system calls a process may make, as a table of rows. seccomp(2)
//!
//! Any call that no row allows kills the process: it is a bug or an attack, and either must be noticed.

use std::collections::BTreeMap;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// A compiled table.
pub use seccompiler::BpfProgram as Program;

use crate::Layer;

/// One row: a system call that is allowed.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The system call's number on this architecture.
    pub number: i64,
    /// The system call's name.
    pub name: &'static str,
    /// Why it is needed.
    pub reason: &'static str,
    /// Conditions on its arguments, all of which must be met; if empty, any arguments are allowed.
    pub when: &'static [Argument],
}

/// The part of a row that the filter needs.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// The system call's number.
    pub number: i64,
    /// Conditions on its arguments.
    pub when: &'a [Argument],
}

impl<'a> From<&'a Row> for Rule<'a> {
    fn from(row: &Row) -> Self {
        Self { number: row.number, when: row.when }
    }
}

/// A condition on one argument: on its lower 32 bits, or on all 64 if the mask has higher ones.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    /// Which argument, from 0.
    pub index: u8,
    /// The bits that are compared.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
}

/// Writes a row: `allow!(openat, "why", arguments...)`.
#[macro_export]
macro_rules! allow {
    ($name:ident, $reason:literal $(, $argument:expr)* $(,)?) => {
        $crate::seccomp::Row {
            number: $crate::seccomp::numbers::$name,
            name: stringify!($name),
            reason: $reason,
            when: &[$($argument),*],
        }
    };
}

/// The numbers of the system calls that the tables name.
pub mod numbers {
    macro_rules! numbers {
        ($($name:ident = $number:ident),* $(,)?) => {
            $(#[allow(missing_docs, non_upper_case_globals)] pub const $name: i64 = libc::$number as i64;)*
        };
    }
    numbers! {
        accept4 = SYS_accept4, adjtimex = SYS_adjtimex, brk = SYS_brk, clock_adjtime = SYS_clock_adjtime,
        clock_gettime = SYS_clock_gettime, clone = SYS_clone, close = SYS_close, close_range = SYS_close_range,
        connect = SYS_connect, epoll_ctl = SYS_epoll_ctl, epoll_pwait = SYS_epoll_pwait, exit_group = SYS_exit_group,
        fcntl = SYS_fcntl, fstat = SYS_fstat, fstatfs = SYS_fstatfs, futex = SYS_futex, getdents64 = SYS_getdents64,
        getcwd = SYS_getcwd, landlock_add_rule = SYS_landlock_add_rule,
        landlock_create_ruleset = SYS_landlock_create_ruleset, landlock_restrict_self = SYS_landlock_restrict_self, getrandom = SYS_getrandom, getrusage = SYS_getrusage,
        getsockname = SYS_getsockname, getpeername = SYS_getpeername, getsockopt = SYS_getsockopt,
        ioctl = SYS_ioctl, lseek = SYS_lseek, madvise = SYS_madvise, mmap = SYS_mmap, mprotect = SYS_mprotect,
        mremap = SYS_mremap, munmap = SYS_munmap, openat = SYS_openat, pidfd_open = SYS_pidfd_open, ppoll = SYS_ppoll, pread64 = SYS_pread64,
        prctl = SYS_prctl, prlimit64 = SYS_prlimit64, read = SYS_read, readlinkat = SYS_readlinkat, recvfrom = SYS_recvfrom, recvmsg = SYS_recvmsg,
        restart_syscall = SYS_restart_syscall, rt_sigaction = SYS_rt_sigaction,
        rt_sigprocmask = SYS_rt_sigprocmask, rt_sigreturn = SYS_rt_sigreturn, sched_yield = SYS_sched_yield, seccomp = SYS_seccomp,
        sendto = SYS_sendto, setsockopt = SYS_setsockopt, shutdown = SYS_shutdown, sigaltstack = SYS_sigaltstack,
        socket = SYS_socket, statx = SYS_statx, timer_settime = SYS_timer_settime, unlinkat = SYS_unlinkat, uname = SYS_uname, wait4 = SYS_wait4, set_robust_list = SYS_set_robust_list, write = SYS_write,
        writev = SYS_writev,
    }
    #[cfg(target_arch = "x86_64")]
    numbers! { dup2 = SYS_dup2, epoll_wait = SYS_epoll_wait, newfstatat = SYS_newfstatat, readlink = SYS_readlink }
    #[cfg(target_arch = "aarch64")]
    numbers! { dup3 = SYS_dup3, newfstatat = SYS_newfstatat }
}

/// Constants of the kernel's headers as arguments of system calls have them, for this architecture.
pub mod values {
    macro_rules! values {
        ($($name:ident),* $(,)?) => {
            $(#[allow(missing_docs)] pub const $name: u32 = libc::$name as u32;)*
        };
    }
    values! {
        AF_UNIX, AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, CLOCK_MONOTONIC, CLOCK_REALTIME, EPOLL_CTL_ADD,
        EPOLL_CTL_DEL, F_GETFD, F_GETFL, MADV_DONTNEED, MREMAP_MAYMOVE, MSG_NOSIGNAL, MSG_PEEK, O_CLOEXEC, O_DIRECTORY,
        O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, RLIMIT_NOFILE,
        SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_SET_MODE_FILTER, SEEK_SET, SHUT_RDWR, SHUT_WR, SIGKILL, SIG_BLOCK, SIG_SETMASK, SOCK_STREAM,
        SOL_SOCKET, SOL_TCP, SO_ERROR, SO_OOBINLINE, SO_PEERCRED, TCP_NODELAY, TIOCGWINSZ, WNOHANG,
    }
    /// The kernel's flag, which system calls have; the C library's constant is 0, since all its files are large.
    pub const O_LARGEFILE: u32 = if cfg!(target_arch = "aarch64") { 0x2_0000 } else { 0x8000 };
    /// `SOCK_CLOEXEC | SOCK_NONBLOCK`, of accept4(2) and socket(2).
    pub const SOCK_CLOEXEC_NONBLOCK: u32 = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32;
    /// `PROT_READ | PROT_WRITE`, of mmap(2).
    pub const READ_WRITE: u32 = (libc::PROT_READ | libc::PROT_WRITE) as u32;
    /// `MAP_PRIVATE | MAP_ANONYMOUS`, of mmap(2).
    pub const PRIVATE_ANONYMOUS: u32 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;
    /// A wait on a lock of this process.
    pub const FUTEX_WAIT_PRIVATE: u32 = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u32;
    /// The same with a bit set.
    pub const FUTEX_WAIT_BITSET_PRIVATE: u32 = (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u32;
    /// The end of such waits.
    pub const FUTEX_WAKE_PRIVATE: u32 = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32;
    /// `CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD`: what fork(3) of glibc passes to clone(2).
    pub const FORK: u32 = (libc::CLONE_CHILD_CLEARTID | libc::CLONE_CHILD_SETTID | libc::SIGCHLD) as u32;
}

/// An argument of 32 bits that must be exactly `value`. For a pointer see [`null`].
pub const fn exactly(index: u8, value: u32) -> Argument {
    Argument { index, mask: u32::MAX as u64, value: value as u64 }
}

/// A pointer that must be null.
pub const fn null(index: u8) -> Argument {
    Argument { index, mask: u64::MAX, value: 0 }
}

/// An argument that must have all bits of `value`, may have those of `optional`, and no others.
pub const fn flags(index: u8, value: u32, optional: u32) -> Argument {
    Argument { index, mask: !optional as u64, value: value as u64 }
}

/// Why a filter cannot be compiled or installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table cannot be compiled.
    #[error("seccomp: {0}")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel refused it.
    #[error("seccomp: {0}")]
    Install(#[from] seccompiler::Error),
}

/// Compiles a table. Rules with the same number are alternatives.
pub fn compile(table: &[Rule<'_>]) -> Result<Program, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for row in table {
        let conditions = row
            .when
            .iter()
            .map(|argument| {
                let whole = argument.mask > u64::from(u32::MAX);
                let length = if whole { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
                let masked = SeccompCmpOp::MaskedEq(argument.mask);
                SeccompCondition::new(argument.index, length, masked, argument.value)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let alternatives = rules.entry(row.number).or_default();
        if !conditions.is_empty() {
            alternatives.push(SeccompRule::new(conditions)?);
        }
    }
    #[cfg(target_arch = "x86_64")]
    let arch = TargetArch::x86_64;
    #[cfg(target_arch = "aarch64")]
    let arch = TargetArch::aarch64;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    Ok(filter.try_into()?)
}

/// Installs a compiled table in every thread of the process.
pub fn install(program: &Program, calls: usize) -> Layer {
    let result = seccompiler::apply_filter_all_threads(program);
    Layer::from_result(
        "seccomp",
        result.map(|()| format!("{calls} system calls allowed, any other kills the process")),
    )
}
