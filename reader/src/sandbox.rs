//! The sandboxes: which system calls the zygote and the readers of each class may make, each with its reason.
//!
//! A reader has its own filter and the zygote's, which it inherits: a call must be allowed by both. It is one list for
//! x86_64 and aarch64 with glibc.

use keyhole_os::allow;
use keyhole_os::seccomp::values::*;
use keyhole_os::seccomp::{Argument, Row, exactly, null};
use keyhole_policy::Class;

const STDIN: Argument = exactly(0, 0);
const STDOUT: Argument = exactly(0, 1);
/// mmap(2): readable and writable memory, of no file and of this process alone, at any address.
const WRITABLE: Argument = exactly(2, READ_WRITE);
const ANONYMOUS: Argument = exactly(3, PRIVATE_ANONYMOUS);
const MAY_MOVE: Argument = exactly(3, MREMAP_MAYMOVE);
const NO_FOLLOW: Argument = exactly(3, AT_SYMLINK_NOFOLLOW);
const FOLLOW: Argument = exactly(3, 0);

/// Flags of openat(2): to read a file, to list a directory, to open files in a directory, to call fstatfs(2).
const FILE: Argument = exactly(2, read_flags(O_NOFOLLOW));
const LIST: Argument = exactly(2, read_flags(O_DIRECTORY));
const PARENT: Argument = exactly(2, read_flags(O_PATH | O_DIRECTORY));
const FOR_STATFS: Argument = exactly(2, O_CLOEXEC | O_LARGEFILE | O_PATH | O_NOFOLLOW);

const fn read_flags(others: u32) -> u32 {
    O_CLOEXEC | O_LARGEFILE | O_NOCTTY | others
}

/// The system calls of every reader.
#[rustfmt::skip]
const READER: &[Row] = &[
    allow!(read, "requests, a byte each", STDIN),
    allow!(write, "answers", STDOUT),
    allow!(pread64, "open files, from their start"),
    allow!(newfstatat, "checks whether absent files have appeared", FOLLOW),
    allow!(close, "files"),
    allow!(clock_gettime, "time, where the vDSO has none", exactly(0, 1)),
    allow!(brk, "memory"),
    allow!(mmap, "memory", WRITABLE, ANONYMOUS, exactly(4, u32::MAX)),
    allow!(munmap, "memory"),
    allow!(exit_group, "exit"),
    #[cfg(debug_assertions)]
    allow!(fcntl, "F_GETFD: a debug build asserts that what it closes is open", exactly(1, 1)),
];

const GROW: [Row; 1] = [allow!(mremap, "memory for a long list", MAY_MOVE)];
const LISTING: [Row; 2] =
    [allow!(getdents64, "directories of wildcards"), allow!(openat, "directories of wildcards", LIST)];
const OPEN_FILES: [Row; 1] = [allow!(openat, "files by name", FILE)];
const OPEN_PARENTS: [Row; 1] = [allow!(openat, "directories to open files in", PARENT)];
const READ_LINKS: [Row; 1] = [allow!(readlinkat, "links of devices")];
const STAT_ENTRIES: [Row; 1] =
    [allow!(newfstatat, "how many descriptors or threads a process has", NO_FOLLOW)];
const STATFS_MOUNTS: [Row; 2] =
    [allow!(openat, "mount points for statfs", FOR_STATFS), allow!(fstatfs, "the numbers of a file system")];

/// The system calls of the readers of a class. Rows with the same name are alternatives.
pub fn reader_syscalls(class: Class) -> Vec<Row> {
    let also: &[&[Row]] = match class {
        Class::Procfs => &[],
        Class::Sysfs => &[&GROW, &LISTING, &OPEN_FILES, &OPEN_PARENTS],
        Class::Devices => &[&GROW, &LISTING, &OPEN_FILES, &OPEN_PARENTS, &READ_LINKS],
        Class::Files => &[&GROW, &LISTING, &OPEN_FILES],
        Class::Processes => &[&GROW, &LISTING, &OPEN_FILES, &STAT_ENTRIES],
        Class::Mounts => &[&GROW, &STATFS_MOUNTS],
    };
    READER.iter().chain(also.iter().copied().flatten()).copied().collect()
}

/// The system calls of the zygote: those that it makes itself, and those of readers before and in their sandboxes.
#[rustfmt::skip]
pub const ZYGOTE: &[Row] = &[
    // The zygote itself.
    allow!(ppoll, "waits for orders and for readers to exit"),
    allow!(read, "orders; a reader's requests; the first bytes of one file"),
    allow!(write, "reports; a reader's answers", STDOUT),
    allow!(clone, "fork(2) with exactly glibc's flags", exactly(0, FORK)),
    allow!(set_robust_list, "part of fork(2)", exactly(1, ROBUST_LIST_BYTES)),
    allow!(rt_sigprocmask, "part of fork(2) since glibc 2.41: blocks signals", exactly(0, SIG_BLOCK), exactly(3, SIGNAL_SET_BYTES)),
    allow!(rt_sigprocmask, "and restores them", exactly(0, SIG_SETMASK), exactly(3, SIGNAL_SET_BYTES)),
    allow!(pidfd_open, "notices when a reader exits", exactly(1, 0)),
    allow!(wait4, "how a reader exited, without waiting", exactly(2, WNOHANG)),
    allow!(brk, "memory"),
    allow!(mmap, "memory", WRITABLE, ANONYMOUS, exactly(4, u32::MAX)),
    allow!(mremap, "memory", MAY_MOVE),
    allow!(munmap, "memory; the shared pages of other classes"),
    allow!(clock_gettime, "time, where the vDSO has none", exactly(0, 1)),
    allow!(exit_group, "exit"),
    // A reader before its sandbox: it takes its pipes, opens its files and enters the sandbox.
    allow!(prctl, "a reader is killed when its zygote exits, even if it hangs", exactly(0, PR_SET_PDEATHSIG), exactly(1, SIGKILL)),
    #[cfg(target_arch = "x86_64")]
    allow!(dup2, "a reader's pipes: requests", exactly(1, 0)),
    #[cfg(target_arch = "x86_64")]
    allow!(dup2, "a reader's pipes: answers", exactly(1, 1)),
    #[cfg(target_arch = "aarch64")]
    allow!(dup3, "a reader's pipes: requests", exactly(1, 0)),
    #[cfg(target_arch = "aarch64")]
    allow!(dup3, "a reader's pipes: answers", exactly(1, 1)),
    allow!(close_range, "all descriptors of the zygote", exactly(0, 3), exactly(1, u32::MAX), exactly(2, 0)),
    allow!(close, "files that are not needed in the sandbox"),
    allow!(openat, "its own status, as the standard library opens files", exactly(2, O_CLOEXEC)),
    allow!(openat, "its own stat", exactly(2, O_CLOEXEC | O_LARGEFILE)),
    allow!(openat, "roots", exactly(2, O_CLOEXEC | O_LARGEFILE | O_DIRECTORY)),
    allow!(openat, "roots for statfs", exactly(2, O_CLOEXEC | O_LARGEFILE | O_PATH | O_DIRECTORY)),
    allow!(openat, "files that stay open", exactly(2, read_flags(O_NONBLOCK))),
    allow!(openat, "directories of wildcards", LIST),
    allow!(openat, "files by name", FILE),
    allow!(openat, "directories to open files in", PARENT),
    allow!(openat, "mount points for statfs", FOR_STATFS),
    allow!(getdents64, "directories of wildcards"),
    allow!(pread64, "open files, from their start"),
    allow!(fstat, "device and inode of the roots"),
    allow!(fstatfs, "file system types of the roots; mount points"),
    allow!(newfstatat, "which files exist, and the namespaces", FOLLOW),
    allow!(newfstatat, "directories of processes", NO_FOLLOW),
    allow!(newfstatat, "the directory that Landlock allows", exactly(3, AT_EMPTY_PATH)),
    allow!(readlinkat, "the PID of this process in a procfs; links of devices"),
    allow!(prlimit64, "the limit of descriptors", exactly(0, 0), exactly(1, RLIMIT_NOFILE), null(2)),
    allow!(landlock_create_ruleset, "the sandbox"),
    allow!(landlock_add_rule, "the sandbox", exactly(1, LANDLOCK_RULE_PATH_BENEATH), exactly(3, 0)),
    allow!(landlock_restrict_self, "the sandbox", exactly(1, 0)),
    allow!(prctl, "the sandbox: no_new_privs", exactly(0, PR_SET_NO_NEW_PRIVS), exactly(1, 1)),
    allow!(seccomp, "the sandbox", exactly(0, SECCOMP_SET_MODE_FILTER), exactly(1, SECCOMP_FILTER_FLAG_TSYNC)),
    #[cfg(debug_assertions)]
    allow!(fcntl, "F_GETFD: a debug build asserts that what it closes is open", exactly(1, 1)),
];

const ROBUST_LIST_BYTES: u32 = 24;
/// The kernel's own set of signals has 64 of them.
const SIGNAL_SET_BYTES: u32 = 8;
const LANDLOCK_RULE_PATH_BENEATH: u32 = 1;
