//! Starts a program as on a kernel that lacks something: a seccomp filter answers the calls that it lacks with the errno
//! that such a kernel would answer with.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a kernel lacks: a system call, or one value of one of its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Lack {
    /// The first and the last number of the calls.
    pub numbers: (i64, i64),
    /// The arguments that they are recognized by, as index and value of the lower 32 bits; none for every call.
    pub when: &'static [(u32, u32)],
    /// What the kernel answers.
    pub errno: i32,
}

const fn lack(number: i64, when: &'static [(u32, u32)], errno: i32) -> Lack {
    Lack { numbers: (number, number), when, errno }
}

/// Before Linux 6.4: `prctl(PR_GET_AUXV)`.
pub const AUXV: Lack = lack(libc::SYS_prctl, &[(0, 0x4155_5856)], libc::EINVAL);

/// Before Linux 5.17, or without CONFIG_ANON_VMA_NAME: `prctl(PR_SET_VMA)`.
const VMA_NAMES: Lack = lack(libc::SYS_prctl, &[(0, 0x5356_4d41)], libc::EINVAL);

/// Before Linux 6.5: `getsockopt(SO_PEERPIDFD)`.
const PEER_PIDFD: Lack = lack(libc::SYS_getsockopt, &[(1, 1), (2, 77)], libc::ENOPROTOOPT);

/// Before Linux 6.16: `SO_PASSRIGHTS`.
pub const PASS_RIGHTS: [Lack; 2] = [
    lack(libc::SYS_getsockopt, &[(1, 1), (2, 83)], libc::ENOPROTOOPT),
    lack(libc::SYS_setsockopt, &[(1, 1), (2, 83)], libc::ENOPROTOOPT),
];

/// Before Linux 5.11: every system call from epoll_pwait2 on, Landlock's and mount_setattr among them.
const NEW_CALLS: Lack = Lack { numbers: (441, 600), when: &[], errno: libc::ENOSYS };

/// What Linux 5.10 lacks of what these programs could come upon.
pub const LINUX_5_10: &[Lack] = &[AUXV, VMA_NAMES, PEER_PIDFD, PASS_RIGHTS[0], PASS_RIGHTS[1], NEW_CALLS];

/// The same command on a kernel that lacks all of `lacks`, for its children too.
pub fn lacking(mut command: Command, lacks: &[Lack]) -> Command {
    let filter = filter(lacks);
    // SAFETY: between fork and exec the closure only makes two system calls and reads memory that was allocated before.
    unsafe { command.pre_exec(move || install(&filter)) };
    command
}

// The fields of struct seccomp_data, of which each argument has its lower half first.
const NUMBER: u32 = 0;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

fn filter(lacks: &[Lack]) -> Vec<libc::sock_filter> {
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |k| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, k);
    let answer = |k| statement(libc::BPF_RET | libc::BPF_K, k);
    let jump = |condition: u32, k, jt, jf| {
        let code = (libc::BPF_JMP | condition | libc::BPF_K) as u16;
        libc::sock_filter { code, jt, jf, k }
    };
    let mut filter = Vec::new();
    for Lack { numbers: (first, last), when, errno } in lacks {
        // How far each of these is from the next lack.
        let to_arguments = 2 * when.len() as u8 + 1;
        filter.push(load(NUMBER));
        filter.push(jump(libc::BPF_JGE, *first as u32, 0, to_arguments + 1));
        filter.push(jump(libc::BPF_JGT, *last as u32, to_arguments, 0));
        for (at, (index, value)) in when.iter().enumerate() {
            filter.push(load(argument(*index)));
            filter.push(jump(libc::BPF_JEQ, *value, 0, to_arguments - 2 * at as u8 - 2));
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
