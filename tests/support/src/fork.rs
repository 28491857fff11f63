//! System calls in forked children, and how a seccomp filter ends them.
//!
//! Only for tests in a process of their own, which [`in_own_process`] starts.

use std::panic::AssertUnwindSafe;
use std::process::{Command, Stdio};

use keyhole_os::seccomp::Row;

/// Runs `act` in a process of its own, with one thread for tests; `test` is the name of the calling test.
pub fn in_own_process(test: &str, act: impl FnOnce()) {
    // As in the programs: a heap of its own for each thread would need system calls that no table has.
    in_process_by(&["env", "MALLOC_ARENA_MAX=1"], test, act);
}

/// The same, as PID 1 of a PID namespace with a /proc of its own: to a program in it, this process is the machine's root,
/// and what it leaves behind ends with it.
pub fn as_init(test: &str, act: impl FnOnce()) {
    in_process_by(&["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"], test, act);
}

/// The same, started by another program that takes a command line.
fn in_process_by(starter: &[&str], test: &str, act: impl FnOnce()) {
    const OWN_PROCESS: &str = "KEYHOLE_TEST_OWN_PROCESS";
    if std::env::var_os(OWN_PROCESS).is_some() {
        return act();
    }
    let output = Command::new(starter[0])
        .args(&starter[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(OWN_PROCESS, "1")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
    print!("{stdout}");
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    Killed(i32),
}

/// Killed by the filter: SIGSYS.
pub const KILLED_BY_SECCOMP: End = End::Killed(libc::SIGSYS);

/// The exit status of a child that could not enter its sandbox.
const NOT_IN_SANDBOX: i32 = 99;

/// Forks; the child runs `act` and exits with what that returns. Only within [`in_own_process`].
pub fn in_child(act: impl FnOnce() -> i32) -> End {
    // SAFETY: no other thread of this process is in the middle of anything, and glibc's allocator works after a fork.
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

/// How a process ends that makes one call in a sandbox.
pub fn call_in_sandbox(enter_sandbox: &impl Fn() -> bool, call: Call) -> End {
    in_child(|| {
        if !enter_sandbox() {
            return NOT_IN_SANDBOX;
        }
        call.make();
        0
    })
}

/// Whether the call returned, with whatever result.
pub fn returned(end: End) -> bool {
    matches!(end, End::Exited(status) if status != NOT_IN_SANDBOX)
}

/// Panics unless the filter kills for numbers that no kernel has, and for the machine's other system call interfaces.
pub fn assert_other_interfaces_are_killed(process: &str, enter_sandbox: &impl Fn() -> bool) {
    for number in [471, 512, 1023, -1, i64::from(i32::MIN), i64::from(i32::MAX)] {
        assert_eq!(
            call_in_sandbox(enter_sandbox, Call(number, [0; 6])),
            KILLED_BY_SECCOMP,
            "{process}: {number}"
        );
    }
    // x32's numbers are those of x86_64 with a bit set; i386's are others, by another instruction.
    #[cfg(target_arch = "x86_64")]
    {
        let close = Call(0x4000_0000 | keyhole_os::seccomp::numbers::close, [u64::MAX; 6]);
        assert_eq!(call_in_sandbox(enter_sandbox, close), KILLED_BY_SECCOMP, "{process}: x32");
        let end = in_child(|| {
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
        assert!([KILLED_BY_SECCOMP, End::Killed(libc::SIGSEGV)].contains(&end), "{process}: i386: {end:?}");
    }
}
