//! The seals: which system calls a zygote and the readers of each class may make, each with its reason.
//!
//! The readers' filters are stacked on the zygote's, which a reader inherits: what either refuses is refused. One
//! list for x86_64 and aarch64 with glibc.

use keyhole_os::allow;
use keyhole_os::seccomp::{Argument, Row, exactly, null};
use keyhole_policy::Class;

// Constants of the kernel's headers, the same on x86_64 and aarch64 but for the flags of open(2).
const STDIN: Argument = exactly(0, 0);
const STDOUT: Argument = exactly(0, 1);
/// mmap: memory to read and write, of no file, for this process alone, at any address.
const READ_WRITE: Argument = exactly(2, 3);
const PRIVATE_ANONYMOUS: Argument = exactly(3, 0x22);
const MAY_MOVE: Argument = exactly(3, 1);
const NO_FOLLOW: Argument = exactly(3, 0x100);
const FOLLOW: Argument = exactly(3, 0);

/// Flags of openat: a file, a directory to list, a directory to open files in, a mount point to ask.
const FILE: Argument = exactly(2, flags(open::NOFOLLOW));
const LIST: Argument = exactly(2, flags(open::DIRECTORY));
const HOLD: Argument = exactly(2, flags(open::PATH | open::DIRECTORY));
const ASK: Argument = exactly(2, open::CLOEXEC | open::LARGEFILE | open::PATH | open::NOFOLLOW);

mod open {
    pub const NOCTTY: u32 = 0x100;
    pub const NONBLOCK: u32 = 0x800;
    pub const CLOEXEC: u32 = 0x8_0000;
    pub const PATH: u32 = 0x20_0000;
    #[cfg(target_arch = "x86_64")]
    pub const LARGEFILE: u32 = 0x8000;
    #[cfg(target_arch = "x86_64")]
    pub const DIRECTORY: u32 = 0x1_0000;
    #[cfg(target_arch = "x86_64")]
    pub const NOFOLLOW: u32 = 0x2_0000;
    #[cfg(target_arch = "aarch64")]
    pub const LARGEFILE: u32 = 0x2_0000;
    #[cfg(target_arch = "aarch64")]
    pub const DIRECTORY: u32 = 0x4000;
    #[cfg(target_arch = "aarch64")]
    pub const NOFOLLOW: u32 = 0x8000;
}

const fn flags(flags: u32) -> u32 {
    open::CLOEXEC | open::LARGEFILE | open::NOCTTY | flags
}

/// What every reader may do.
#[rustfmt::skip]
const READER: &[Row] = &[
    allow!(read, "requests, a byte each", STDIN),
    allow!(write, "answers", STDOUT),
    allow!(pread64, "open files, from their start"),
    allow!(newfstatat, "whether what was absent has appeared", FOLLOW),
    allow!(close, "files"),
    allow!(clock_gettime, "time, where the vDSO has none", exactly(0, 1)),
    allow!(brk, "memory"),
    allow!(mmap, "memory", READ_WRITE, PRIVATE_ANONYMOUS, exactly(4, u32::MAX)),
    allow!(munmap, "memory"),
    allow!(exit_group, "the end"),
    #[cfg(debug_assertions)]
    allow!(fcntl, "F_GETFD: a debug build asserts that what it closes is open", exactly(1, 1)),
];

const GROW: [Row; 1] = [allow!(mremap, "memory for a long list", MAY_MOVE)];
const LISTING: [Row; 2] =
    [allow!(getdents64, "directories of wildcards"), allow!(openat, "directories of wildcards", LIST)];
const OPEN_FILES: [Row; 1] = [allow!(openat, "files by name", FILE)];
const HOLD_DIRECTORIES: [Row; 1] = [allow!(openat, "directories to open files in", HOLD)];
const READ_LINKS: [Row; 1] = [allow!(readlinkat, "links of devices")];
const STAT_ENTRIES: [Row; 1] =
    [allow!(newfstatat, "how many descriptors or threads a process has", NO_FOLLOW)];
const ASK_MOUNTS: [Row; 2] = [
    allow!(openat, "mount points to ask, not to read", ASK),
    allow!(fstatfs, "the numbers of a file system"),
];

/// What the readers of a class may do once they are sealed. Rows with the same name are alternatives.
pub fn reader_syscalls(class: Class) -> Vec<Row> {
    let also: &[&[Row]] = match class {
        Class::Procfs => &[],
        Class::Sysfs => &[&GROW, &LISTING, &OPEN_FILES, &HOLD_DIRECTORIES],
        Class::Devices => &[&GROW, &LISTING, &OPEN_FILES, &HOLD_DIRECTORIES, &READ_LINKS],
        Class::Files => &[&GROW, &LISTING, &OPEN_FILES],
        Class::Processes => &[&GROW, &LISTING, &OPEN_FILES, &STAT_ENTRIES],
        Class::Mounts => &[&GROW, &ASK_MOUNTS],
    };
    READER.iter().chain(also.iter().copied().flatten()).copied().collect()
}

/// What a zygote may do: what it does itself, and what a reader does until it is sealed and after.
#[rustfmt::skip]
pub const ZYGOTE: &[Row] = &[
    // Its own work.
    allow!(ppoll, "the wait for orders and for readers that end"),
    allow!(read, "orders; a reader's requests; of one file what its first bytes are"),
    allow!(write, "reports; a reader's answers", STDOUT),
    allow!(clone, "fork(2), with the flags that glibc's has and no others", exactly(0, FORK)),
    allow!(set_robust_list, "a part of fork(2)", exactly(1, ROBUST_LIST_BYTES)),
    allow!(pidfd_open, "to be told when a reader ends", exactly(1, 0)),
    allow!(wait4, "how a reader ended, without waiting", exactly(2, WNOHANG)),
    allow!(brk, "memory"),
    allow!(mmap, "memory", READ_WRITE, PRIVATE_ANONYMOUS, exactly(4, u32::MAX)),
    allow!(mremap, "memory", MAY_MOVE),
    allow!(munmap, "memory; the pages that are another class's"),
    allow!(clock_gettime, "time, where the vDSO has none", exactly(0, 1)),
    allow!(exit_group, "the end"),
    // What a reader does before it is sealed: take its pipes, open its files, seal itself.
    allow!(prctl, "a reader ends with its zygote, also one that hangs", exactly(0, PR_SET_PDEATHSIG), exactly(1, SIGKILL)),
    #[cfg(target_arch = "x86_64")]
    allow!(dup2, "a reader's pipes: requests", exactly(1, 0)),
    #[cfg(target_arch = "x86_64")]
    allow!(dup2, "a reader's pipes: answers", exactly(1, 1)),
    #[cfg(target_arch = "aarch64")]
    allow!(dup3, "a reader's pipes: requests", exactly(1, 0)),
    #[cfg(target_arch = "aarch64")]
    allow!(dup3, "a reader's pipes: answers", exactly(1, 1)),
    allow!(close_range, "all that a zygote holds", exactly(0, 3), exactly(1, u32::MAX), exactly(2, 0)),
    allow!(close, "what is not needed once it is sealed"),
    allow!(openat, "its own status, as the standard library opens files", exactly(2, open::CLOEXEC)),
    allow!(openat, "its own stat", exactly(2, open::CLOEXEC | open::LARGEFILE)),
    allow!(openat, "roots", exactly(2, open::CLOEXEC | open::LARGEFILE | open::DIRECTORY)),
    allow!(openat, "roots that are only asked", exactly(2, open::CLOEXEC | open::LARGEFILE | open::PATH | open::DIRECTORY)),
    allow!(openat, "files that stay open", exactly(2, flags(open::NONBLOCK))),
    allow!(openat, "directories of wildcards", LIST),
    allow!(openat, "files by name", FILE),
    allow!(openat, "directories to open files in", HOLD),
    allow!(openat, "mount points to ask, not to read", ASK),
    allow!(getdents64, "directories of wildcards"),
    allow!(pread64, "open files, from their start"),
    allow!(fstat, "which files the roots are"),
    allow!(fstatfs, "of which type the roots are; mount points"),
    allow!(newfstatat, "what is there, and whose it is", FOLLOW),
    allow!(newfstatat, "directories of processes themselves", NO_FOLLOW),
    allow!(newfstatat, "what Landlock is to allow", exactly(3, AT_EMPTY_PATH)),
    allow!(readlinkat, "under which PID a procfs shows this process; links of devices"),
    allow!(prlimit64, "how many descriptors there may be", exactly(0, 0), exactly(1, RLIMIT_NOFILE), null(2)),
    allow!(landlock_create_ruleset, "the seal"),
    allow!(landlock_add_rule, "the seal", exactly(1, LANDLOCK_RULE_PATH_BENEATH), exactly(3, 0)),
    allow!(landlock_restrict_self, "the seal", exactly(1, 0)),
    allow!(prctl, "the seal: no_new_privs", exactly(0, PR_SET_NO_NEW_PRIVS), exactly(1, 1)),
    allow!(seccomp, "the seal", exactly(0, SECCOMP_SET_MODE_FILTER), exactly(1, SECCOMP_FILTER_FLAG_TSYNC)),
    #[cfg(debug_assertions)]
    allow!(fcntl, "F_GETFD: a debug build asserts that what it closes is open", exactly(1, 1)),
];

/// CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, SIGCHLD.
const FORK: u32 = 0x0120_0011;
const ROBUST_LIST_BYTES: u32 = 24;
const WNOHANG: u32 = 1;
const AT_EMPTY_PATH: u32 = 0x1000;
const RLIMIT_NOFILE: u32 = 7;
const LANDLOCK_RULE_PATH_BENEATH: u32 = 1;
const PR_SET_PDEATHSIG: u32 = 1;
const SIGKILL: u32 = 9;
const PR_SET_NO_NEW_PRIVS: u32 = 38;
const SECCOMP_SET_MODE_FILTER: u32 = 1;
const SECCOMP_FILTER_FLAG_TSYNC: u32 = 1;
