//! System calls in forked children, and how a seccomp filter ends them.
//!
//! For tests in a process of their own: each test runs in one by [`alone`].
#![allow(dead_code, reason = "each test program uses its part")]

use std::panic::AssertUnwindSafe;
use std::process::{Command, Stdio};

use keyhole_os::seccomp::Row;

/// Runs `act` in a process of its own, with one thread that tests; `test` is the test that calls.
pub fn alone(test: &str, act: impl FnOnce()) {
    // As in the programs: a heap of its own for each thread would need system calls that no table has.
    alone_by(&["env", "MALLOC_ARENA_MAX=1"], test, act);
}

/// The same, as PID 1 of a PID namespace with a /proc of its own: to a program in it, this process is the machine's root,
/// and what it leaves behind ends with it.
pub fn alone_as_init(test: &str, act: impl FnOnce()) {
    alone_by(&["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"], test, act);
}

/// The same, started by another program that takes a command line.
fn alone_by(starter: &[&str], test: &str, act: impl FnOnce()) {
    const ALONE: &str = "KEYHOLE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return act();
    }
    let output = Command::new(starter[0])
        .args(&starter[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(ALONE, "1")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{errors}");
    print!("{said}");
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    Killed(i32),
}

/// SIGSYS: the filter killed it.
pub const REFUSED: End = End::Killed(libc::SIGSYS);

/// What a child exits with when it could not enter its sandbox.
const NOT_IN_SANDBOX: i32 = 99;

/// Forks; the child runs `act` and exits with what that returns. Only for a process that tests [`alone`].
pub fn forked(act: impl FnOnce() -> i32) -> End {
    // SAFETY: no other thread of this process is in the middle of anything, and glibc's allocator survives a fork.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: alarm and _exit take numbers. The alarm ends a child that hangs; _exit leaves the parent's
        // buffers and its test harness alone.
        unsafe {
            libc::alarm(20);
            libc::_exit(std::panic::catch_unwind(AssertUnwindSafe(act)).unwrap_or(101));
        }
    }
    let mut status = 0;
    // SAFETY: `child` is a child of this process that was not waited for, and `status` is ours.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    if libc::WIFEXITED(status) {
        End::Exited(libc::WEXITSTATUS(status))
    } else {
        End::Killed(libc::WTERMSIG(status))
    }
}

/// One system call.
#[derive(Debug, Clone, Copy)]
pub struct Call(pub i64, pub [u64; 6]);

impl Call {
    pub fn make(self) -> i64 {
        let Call(number, [a, b, c, d, e, f]) = self;
        // SAFETY: it runs in a forked child that holds nothing but this test. Where a pointer is passed that the
        // kernel may use, it is null, invalid, or to memory that outlives the child.
        unsafe { libc::syscall(number, a, b, c, d, e, f) }
    }

    /// A call of a row with arguments that its conditions allow, and that do nothing.
    pub fn harmless(row: &Row) -> Self {
        // -1 is no descriptor, no aligned address, no clock.
        let mut arguments = [u64::MAX, 0, 0, 0, 0, 0];
        row.when.iter().for_each(|argument| arguments[argument.index as usize] = argument.value);
        Self(row.number, arguments)
    }

    /// The same with one more bit of an argument changed.
    pub fn flipped(mut self, index: u8, bit: u32) -> Self {
        self.1[index as usize] ^= 1 << bit;
        self
    }

    /// Whether a row allows it.
    pub fn is_allowed_by(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| {
            let holds = |argument: &keyhole_os::seccomp::Argument| {
                self.1[argument.index as usize] & argument.mask == argument.value
            };
            row.number == self.0 && row.when.iter().all(holds)
        })
    }
}

/// What becomes of a process that makes one call in a sandbox.
pub fn call_in_sandbox(enter_sandbox: &impl Fn() -> bool, call: Call) -> End {
    forked(|| {
        if !enter_sandbox() {
            return NOT_IN_SANDBOX;
        }
        call.make();
        0
    })
}

pub fn survived(end: End) -> bool {
    matches!(end, End::Exited(status) if status != NOT_IN_SANDBOX)
}

/// Panics unless a seal kills for numbers that no kernel has, and for calls of the machine's other interfaces.
pub fn assert_other_interfaces_are_refused(process: &str, enter_sandbox: &impl Fn() -> bool) {
    for number in [471, 512, 1023, -1, i64::from(i32::MIN), i64::from(i32::MAX)] {
        assert_eq!(call_in_sandbox(enter_sandbox, Call(number, [0; 6])), REFUSED, "{process}: {number}");
    }
    // x32's numbers are those of x86_64 with a bit set; i386's are others, by another instruction.
    #[cfg(target_arch = "x86_64")]
    {
        let close = Call(0x4000_0000 | keyhole_os::seccomp::numbers::close, [u64::MAX; 6]);
        assert_eq!(call_in_sandbox(enter_sandbox, close), REFUSED, "{process}: x32");
        let end = forked(|| {
            if !enter_sandbox() {
                return NOT_IN_SANDBOX;
            }
            // SAFETY: i386's getpid, which is another call's number here; it takes nothing and changes nothing.
            unsafe {
                std::arch::asm!("int 0x80", inout("rax") 20u64 => _, out("r8") _, out("r9") _,
                    out("r10") _, out("r11") _);
            }
            0
        });
        // Where the kernel has no i386 interface, the instruction itself is refused.
        assert!([REFUSED, End::Killed(libc::SIGSEGV)].contains(&end), "{process}: i386: {end:?}");
    }
}
