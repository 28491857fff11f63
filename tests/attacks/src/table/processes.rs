//! Other processes: signals, ptrace(2), and what else a process may do to another of its uid.

use crate::host::open;
use crate::process::{BROKER, ZYGOTE};
use crate::{Attack, L, R, S, U, attack, call};

const PTRACE_SEIZE: i32 = 0x4206;

#[rustfmt::skip]
pub(super) static ATTACKS: &[Attack] = &[
    attack("signal a neighbour", "kill", S | L, |host| call!(SYS_kill, host.neighbour, 0)),
    attack("signal a neighbour's thread", "tgkill", S | L, |host| call!(SYS_tgkill, host.neighbour, host.neighbour, 0)),
    attack("signal a process of another uid", "kill", S | L | U | R, |host| call!(SYS_kill, host.other_uid_pid, 0)),
    attack("signal everyone", "kill", S | L, |host| call!(SYS_kill, -host.neighbour, 0)),
    attack("take hold of a neighbour", "pidfd_open", S, |host| call!(SYS_pidfd_open, host.neighbour, 0))
        .residual(&[(ZYGOTE, "It waits for readers so. No call that does more with a pidfd is allowed.")]),
    attack("trace a neighbour", "ptrace", S | L, |host| call!(SYS_ptrace, PTRACE_SEIZE, host.neighbour, 0, 0)),
    attack("trace a process of another uid", "ptrace", S | L | U | R, |host| call!(SYS_ptrace, PTRACE_SEIZE, host.other_uid_pid, 0, 0)),
    attack("let its parent trace it", "ptrace", S, |_| call!(SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0)),
    attack("read a neighbour's memory by a call", "process_vm_readv", S | L, |host| over_memory(libc::SYS_process_vm_readv, host.neighbour)),
    attack("write a neighbour's memory by a call", "process_vm_writev", S | L, |host| over_memory(libc::SYS_process_vm_writev, host.neighbour)),
    attack("write a neighbour's memory by its file", "openat", S | L, |host| open(&host.of_process(host.neighbour, "mem"), libc::O_RDWR)),
    attack("write its own memory by its file", "openat", S | L | U, |_| open(c"/proc/self/mem", libc::O_RDWR)),
    attack("write to a neighbour's root", "openat", S | L, |host| {
        open(&host.of_process(host.neighbour, &format!("root{}", host.dir.join("world").display())), libc::O_WRONLY)
    }),
    attack("steal a neighbour's descriptor", "pidfd_getfd", S | L, |host| {
        let pidfd = call!(SYS_pidfd_open, host.neighbour, 0);
        call!(SYS_pidfd_getfd, pidfd, 0, 0)
    }),
    attack("compare what it shares with a neighbour", "kcmp", S | L, |host| {
        call!(SYS_kcmp, std::process::id(), host.neighbour, 1, 0, 0)
    }),
    attack("limit a neighbour", "prlimit64", S, |host| {
        let limit = [0u64; 2];
        call!(SYS_prlimit64, host.neighbour, libc::RLIMIT_CORE, limit.as_ptr(), 0)
    }),
    attack("starve a neighbour", "setpriority", S, |host| call!(SYS_setpriority, libc::PRIO_PROCESS, host.neighbour, 1)),
    attack("pin a neighbour to a processor", "sched_setaffinity", S, |host| {
        let all = [u8::MAX; 128];
        call!(SYS_sched_setaffinity, host.neighbour, all.len(), all.as_ptr())
    }),
    attack("offer a neighbour to the out-of-memory killer", "openat", S | L, |host| {
        open(&host.of_process(host.neighbour, "oom_score_adj"), libc::O_WRONLY)
    }),

    // The processes that hold the host's descriptors, for a broker that has none. They are not dumpable either.
    attack("signal the zygote", "kill", S | L, |host| call!(SYS_kill, host.privileged[0], 0)).within(BROKER),
    attack("signal a reader", "kill", S | L, |host| call!(SYS_kill, host.privileged[1], 0)).within(BROKER),
    attack("trace the zygote", "ptrace", S | L | U | R, |host| call!(SYS_ptrace, PTRACE_SEIZE, host.privileged[0], 0, 0))
        .within(BROKER),
    attack("trace a reader", "ptrace", S | L | U | R, |host| call!(SYS_ptrace, PTRACE_SEIZE, host.privileged[1], 0, 0))
        .within(BROKER),
    attack("read the zygote's memory by a call", "process_vm_readv", S | L | U | R, |host| {
        over_memory(libc::SYS_process_vm_readv, host.privileged[0])
    })
    .within(BROKER),
    attack("read a reader's memory by a call", "process_vm_readv", S | L | U | R, |host| {
        over_memory(libc::SYS_process_vm_readv, host.privileged[1])
    })
    .within(BROKER),
    attack("write a reader's memory by its file", "openat", S | L | U | R, |host| {
        open(&host.of_process(host.privileged[1], "mem"), libc::O_RDWR)
    })
    .within(BROKER),
    attack("open a reader's descriptor of the host", "openat", S | L | U | R, |host| {
        let opened = (3..256).map(|fd| open(&host.of_process(host.privileged[1], &format!("fd/{fd}")), libc::O_RDONLY));
        opened.filter(|result| *result != -i64::from(libc::ENOENT)).max().unwrap_or(-i64::from(libc::ENOENT))
    })
    .within(BROKER),
    attack("steal a reader's descriptor of the host", "pidfd_getfd", S | L | U | R, |host| {
        let pidfd = call!(SYS_pidfd_open, host.privileged[1], 0);
        let taken = (3..256).map(|fd| call!(SYS_pidfd_getfd, pidfd, fd, 0));
        taken.filter(|result| *result != -i64::from(libc::EBADF)).max().unwrap_or(-i64::from(libc::EBADF))
    })
    .within(BROKER),
];

/// Reads or writes a byte of the neighbour's memory, where its address space has any: at address 0 nobody has.
fn over_memory(number: i64, pid: i32) -> i64 {
    let mut byte = 0u8;
    let ours = [&raw mut byte as usize, 1];
    let theirs = [4096usize, 1];
    // Allowed to look, it finds nothing mapped there.
    crate::past(
        libc::EFAULT,
        crate::raw(number, &[pid as usize, ours.as_ptr() as usize, 1, theirs.as_ptr() as usize, 1, 0]),
    )
}
