//! New programs, new processes and threads, and memory that can be run.

use libc::{MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE};

use crate::process::EVERY;
use crate::{Attack, L, MINUS_ONE, R, S, U, WENT_THROUGH, attack, call, child};

const PAGE: usize = 4096;
const UFFD_USER_MODE_ONLY: i32 = 1;

#[rustfmt::skip]
pub(super) static ATTACKS: &[Attack] = &[
    attack("run a program", "execve", S | L, |_| call!(SYS_execve, SHELL.as_ptr(), arguments().as_ptr(), [0usize].as_ptr())),
    attack("run a program by another call", "execveat", S | L, |_| {
        call!(SYS_execveat, libc::AT_FDCWD, SHELL.as_ptr(), arguments().as_ptr(), [0usize].as_ptr(), 0)
    }),
    attack("fork", "clone", S, |_| child(call!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0))),
    attack("fork by the newer call", "clone3", S, |_| {
        let mut arguments = [0u64; 8];
        arguments[4] = libc::SIGCHLD as u64;
        child(call!(SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)))
    }),
    attack("start a thread", "clone", S, |_| thread()),
    attack("map memory that can be written and run", "mmap", S, |_| {
        call!(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, MINUS_ONE, 0)
    }),
    attack("make its memory runnable", "mprotect", S, |_| call!(SYS_mprotect, own_page(), PAGE, PROT_READ | PROT_EXEC)),
    attack("make its memory runnable by a key", "pkey_mprotect", S, |_| call!(SYS_pkey_mprotect, own_page(), PAGE, PROT_READ | PROT_EXEC, MINUS_ONE)),
    attack("map a file to run it", "mmap", S, |host| call!(SYS_mmap, 0, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, host.left_open, 0)),
    attack("map a file to read it", "mmap", S, |host| call!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, host.left_open, 0)),
    attack("make a file in memory", "memfd_create", S, |_| call!(SYS_memfd_create, c"code".as_ptr(), 0)),
    attack("make shared memory", "shmget", S, |_| call!(SYS_shmget, libc::IPC_PRIVATE, PAGE, 0o600)),
    attack("make a message queue", "mq_open", S | L | U | R, |_| call!(SYS_mq_open, c"keyhole-attack".as_ptr(), libc::O_RDONLY | libc::O_CREAT, 0o600, 0)),
    attack("handle its own page faults", "userfaultfd", S, |_| call!(SYS_userfaultfd, UFFD_USER_MODE_ONLY)),
    attack("handle the kernel's page faults", "userfaultfd", S | U | R, |_| call!(SYS_userfaultfd, 0)),
    attack("lock memory", "mlock", S | U | R, |_| call!(SYS_mlock, own_page(), PAGE)),
    attack("handle a signal", "rt_sigaction", S, |_| {
        let ignore = [1u64, 0, 0, 0];
        call!(SYS_rt_sigaction, libc::SIGUSR1, ignore.as_ptr(), 0, 8)
    }),
    attack("take memory without end", "mmap", 0, |_| {
        call!(SYS_mmap, 0, 1usize << 28, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, MINUS_ONE, 0)
    }).residual(&[(EVERY, "The container's memory limit ends it, and it is started again.")]),
];

const SHELL: &std::ffi::CStr = c"/bin/sh";

fn arguments() -> [*const libc::c_char; 4] {
    [SHELL.as_ptr(), c"-c".as_ptr(), WENT_THROUGH.as_ptr(), std::ptr::null()]
}

/// A page of memory as the broker may have it.
fn own_page() -> i64 {
    call!(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, MINUS_ONE, 0)
}

/// Starts a thread that ends at once, as the C library does it.
fn thread() -> i64 {
    const FLAGS: i32 = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    extern "C" fn end(_: *mut libc::c_void) -> i32 {
        call!(SYS_exit, 0);
        0
    }
    let stack =
        call!(SYS_mmap, 0, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, MINUS_ONE, 0);
    if stack < 0 {
        return stack;
    }
    let top = (stack as usize + 16 * PAGE) as *mut libc::c_void;
    // SAFETY: the stack is fresh memory that nobody else uses, its top is aligned, and `end` returns to nobody.
    let started = unsafe { libc::clone(end, top, FLAGS, std::ptr::null_mut()) };
    match started {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
        started => started.into(),
    }
}
