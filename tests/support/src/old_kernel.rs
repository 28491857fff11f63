//! Starts a program as on an older kernel: a seccomp filter makes the calls that such a kernel does not have fail with the
//! errno that it would return.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a kernel does not have: a system call, or some values of one of its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Missing {
    /// The first and the last number of the calls.
    pub numbers: (i64, i64),
    /// What holds for the arguments of a missing call; empty for every call.
    pub when: &'static [Argument],
    /// What the kernel returns.
    pub errno: i32,
}

/// A condition of a missing call: the index of an argument, and what holds for its lower 32 bits.
#[derive(Debug, Clone, Copy)]
pub enum Argument {
    Is(u32, u32),
    /// From the first to the last.
    Within(u32, u32, u32),
    /// Has one of these bits.
    HasAny(u32, u32),
    /// Has all of these bits.
    HasAll(u32, u32),
}

use Argument::{HasAll, HasAny, Is, Within};

pub const fn missing(number: i64, when: &'static [Argument], errno: i32) -> Missing {
    Missing { numbers: (number, number), when, errno }
}

/// Before Linux 6.4: `prctl(PR_GET_AUXV)`.
pub const AUXV: Missing = missing(libc::SYS_prctl, &[Is(0, 0x4155_5856)], libc::EINVAL);

/// Before Linux 6.16: `SO_PASSRIGHTS`.
pub const PASS_RIGHTS: [Missing; 2] = [
    missing(libc::SYS_getsockopt, &[Is(1, libc::SOL_SOCKET as u32), Is(2, 83)], libc::ENOPROTOOPT),
    missing(libc::SYS_setsockopt, &[Is(1, libc::SOL_SOCKET as u32), Is(2, 83)], libc::ENOPROTOOPT),
];

/// The calls that Linux 5.10 does not have and a program or its C library may make, with the version that added each. What
/// an argument only points to cannot be seen here (openat2's RESOLVE_CACHED, 5.12; statx's STATX_MNT_ID_UNIQUE, 6.8, and
/// other bits of its mask, which older kernels leave out of the result without an error).
pub const LINUX_5_10: &[Missing] = &[
    // epoll_pwait2 (5.11, the first number that 5.10 does not know), mount_setattr (5.12), landlock_* (5.13),
    // quotactl_fd and memfd_secret (5.14), process_mrelease (5.15), futex_waitv (5.16), cachestat (6.5), fchmodat2 (6.6),
    // futex_wake and futex_wait (6.7), statmount, listmount and lsm_* (6.8), mseal (6.10), *xattrat (6.13),
    // open_tree_attr (6.15), file_getattr (6.17), and what comes after them.
    Missing { numbers: (441, 600), when: &[], errno: libc::ENOSYS },
    // From PR_SET_SYSCALL_USER_DISPATCH (5.11), with PR_SCHED_CORE (5.14), PR_SET_MDWE (6.3) and PR_SET_MEMORY_MERGE (6.4).
    missing(libc::SYS_prctl, &[Within(0, 59, 1000)], libc::EINVAL),
    AUXV,
    // PR_SET_VMA (5.17, and only with CONFIG_ANON_VMA_NAME).
    missing(libc::SYS_prctl, &[Is(0, 0x5356_4d41)], libc::EINVAL),
    // SO_PREFER_BUSY_POLL (5.11), SO_NETNS_COOKIE (5.14), SO_PASSPIDFD and SO_PEERPIDFD (6.5), SO_PASSRIGHTS (6.16), ...
    missing(libc::SYS_getsockopt, &[Is(1, libc::SOL_SOCKET as u32), Within(2, 69, 200)], libc::ENOPROTOOPT),
    missing(libc::SYS_setsockopt, &[Is(1, libc::SOL_SOCKET as u32), Within(2, 69, 200)], libc::ENOPROTOOPT),
    // TCP_AO_* (6.7), TCP_IS_MPTCP (6.8), TCP_RTO_MAX_MS (6.15).
    missing(libc::SYS_getsockopt, &[Is(1, libc::IPPROTO_TCP as u32), Within(2, 38, 200)], libc::ENOPROTOOPT),
    missing(libc::SYS_setsockopt, &[Is(1, libc::IPPROTO_TCP as u32), Within(2, 38, 200)], libc::ENOPROTOOPT),
    // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (5.19).
    missing(libc::SYS_seccomp, &[Is(0, libc::SECCOMP_SET_MODE_FILTER), HasAny(1, !0x1f)], libc::EINVAL),
    // CLOSE_RANGE_CLOEXEC (5.11).
    missing(libc::SYS_close_range, &[HasAny(2, !libc::CLOSE_RANGE_UNSHARE)], libc::EINVAL),
    // PIDFD_THREAD (6.9); PIDFD_NONBLOCK, which is O_NONBLOCK, came with 5.10.
    missing(libc::SYS_pidfd_open, &[HasAny(1, !(libc::O_NONBLOCK as u32))], libc::EINVAL),
    // PIDFD_SIGNAL_THREAD and its like (6.9).
    missing(libc::SYS_pidfd_send_signal, &[HasAny(3, !0)], libc::EINVAL),
    // PIDFD_GET_INFO (6.13) and the name spaces' PIDFD_GET_* (6.11): the ioctls of type 0xff.
    missing(libc::SYS_ioctl, &[HasAll(1, 0xff00)], libc::ENOTTY),
    // MADV_POPULATE_READ and _WRITE (5.14), MADV_DONTNEED_LOCKED (5.18), MADV_COLLAPSE (6.1), MADV_GUARD_INSTALL (6.13).
    missing(libc::SYS_madvise, &[Within(2, 22, 99)], libc::EINVAL),
    missing(libc::SYS_madvise, &[Within(2, 102, 200)], libc::EINVAL),
    // MAP_DROPPABLE (6.11): as MAP_TYPE it is no type that 5.10 knows.
    missing(libc::SYS_mmap, &[HasAny(3, 0x08)], libc::EINVAL),
    // MFD_NOEXEC_SEAL and MFD_EXEC (6.3).
    missing(libc::SYS_memfd_create, &[HasAny(1, 0x18)], libc::EINVAL),
    // F_DUPFD_QUERY (6.10), F_CREATED_QUERY (6.12).
    missing(libc::SYS_fcntl, &[Within(1, 1027, 1028)], libc::EINVAL),
    // AT_EXECVE_CHECK (6.14).
    missing(libc::SYS_execveat, &[HasAny(4, 0x1_0000)], libc::EINVAL),
    // MEMBARRIER_CMD_GET_REGISTRATIONS (6.3).
    missing(libc::SYS_membarrier, &[Is(0, 1 << 9)], libc::EINVAL),
    // FUTEX_LOCK_PI2 (5.14).
    missing(libc::SYS_futex, &[Is(1, 13)], libc::ENOSYS),
    missing(libc::SYS_futex, &[Is(1, 13 | libc::FUTEX_PRIVATE_FLAG as u32)], libc::ENOSYS),
    // RWF_NOAPPEND (6.9), RWF_ATOMIC (6.11), RWF_DONTCACHE (6.14).
    missing(libc::SYS_preadv2, &[HasAny(5, !0x1f)], libc::EOPNOTSUPP),
    missing(libc::SYS_pwritev2, &[HasAny(5, !0x1f)], libc::EOPNOTSUPP),
    // MOVE_MOUNT_SET_GROUP (5.15), MOVE_MOUNT_BENEATH (6.5).
    missing(libc::SYS_move_mount, &[HasAny(4, 0x300)], libc::EINVAL),
    // CLOCK_AUX (6.17).
    missing(libc::SYS_clock_gettime, &[Within(0, 12, 31)], libc::EINVAL),
    #[cfg(target_arch = "x86_64")]
    // ARCH_GET_XCOMP_SUPP (5.16), ARCH_GET_UNTAG_MASK (6.4), ARCH_SHSTK_ENABLE (6.6).
    missing(libc::SYS_arch_prctl, &[Within(0, 0x1021, 0x1fff)], libc::EINVAL),
    #[cfg(target_arch = "x86_64")]
    missing(libc::SYS_arch_prctl, &[Within(0, 0x4001, 0x5fff)], libc::EINVAL),
];

/// The same command on a kernel without any of `missing`, for its children too.
pub fn without(mut command: Command, missing: &[Missing]) -> Command {
    let filter = filter(missing);
    // SAFETY: between fork and exec the closure only makes two system calls and reads memory that was allocated before.
    unsafe { command.pre_exec(move || install(&filter)) };
    command
}

// The fields of struct seccomp_data, of which each argument has its lower half first.
const NUMBER: u32 = 0;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

fn filter(missing: &[Missing]) -> Vec<libc::sock_filter> {
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |k| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, k);
    let answer = |k| statement(libc::BPF_RET | libc::BPF_K, k);
    let jump = |condition: u32, k, jt, jf| {
        let code = (libc::BPF_JMP | condition | libc::BPF_K) as u16;
        libc::sock_filter { code, jt, jf, k }
    };
    let mut filter = Vec::new();
    for Missing { numbers: (first, last), when, errno } in missing {
        // Each condition as what is loaded, and what must hold for it: the jump's condition, its constant, and whether
        // the jump is taken when it holds.
        let mut conditions =
            vec![(NUMBER, libc::BPF_JGE, *first as u32, true), (NUMBER, libc::BPF_JGT, *last as u32, false)];
        for condition in *when {
            match *condition {
                Is(index, value) => conditions.push((argument(index), libc::BPF_JEQ, value, true)),
                HasAny(index, bits) => conditions.push((argument(index), libc::BPF_JSET, bits, true)),
                HasAll(index, bits) => {
                    let bits = (0..u32::BITS).map(|bit| 1 << bit).filter(|bit| bits & bit != 0);
                    conditions.extend(bits.map(|bit| (argument(index), libc::BPF_JSET, bit, true)));
                }
                Within(index, first, last) => {
                    conditions.push((argument(index), libc::BPF_JGE, first, true));
                    conditions.push((argument(index), libc::BPF_JGT, last, false));
                }
            }
        }
        for (at, (field, condition, constant, taken)) in conditions.iter().enumerate() {
            // To the next missing call: over the conditions that are left, two instructions each, and the answer.
            let next = 2 * (conditions.len() - at - 1) as u8 + 1;
            filter.push(load(*field));
            let (holds, fails) = if *taken { (0, next) } else { (next, 0) };
            filter.push(jump(*condition, *constant, holds, fails));
        }
        filter.push(answer(libc::SECCOMP_RET_ERRNO | *errno as u32));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    filter
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: prctl takes numbers here; seccomp reads `program` and what it points to, which outlive the call.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
