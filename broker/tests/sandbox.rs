//! The broker's sandbox, rule by rule: what each rule allows and what it refuses, asked of the running kernel.
//!
//! Filters are installed in forked children of a separate process; Landlock and capabilities on threads, to which they
//! belong.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyhole_broker::sandbox::{self, DescriptorRules, PASSED_DESCRIPTOR_SYSCALLS, SYSCALLS, SandboxError};
use keyhole_os::landlock::{Grant, Right, restrict};
use keyhole_os::{Layer, ThreadStatus, capabilities, process, seccomp};
use keyhole_test_support::fork::{
    Call, End, KILLED_BY_SECCOMP, assert_other_interfaces_are_killed, call_in_sandbox, in_child,
    in_own_process, returned,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a child exits with when it could not enter its sandbox.
const NOT_IN_SANDBOX: i32 = 99;

/// The broker's table, compiled for a socket directory, with the descriptor that its check reads.
fn table(dir: &OwnedFd) -> (impl Fn() -> bool + use<>, ThreadStatus) {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    let status = ThreadStatus::open().unwrap();
    let descriptor_rules = DescriptorRules::new(&status, Some(dir));
    let filter = seccomp::compile(&sandbox::syscalls(&descriptor_rules)).unwrap();
    (move || seccomp::install(&filter, 0).in_force, status)
}

fn tempdir() -> (tempfile::TempDir, OwnedFd) {
    let dir = tempfile::tempdir().unwrap();
    let opened = File::open(dir.path()).unwrap().into();
    (dir, opened)
}

fn number(name: &str) -> i64 {
    SYSCALLS.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row for {name}")).number
}

#[test]
fn every_row_allows_its_call() {
    in_own_process("every_row_allows_its_call", || {
        let (_dir, dir) = tempdir();
        let (enter_sandbox, _status) = table(&dir);
        for row in SYSCALLS.iter().filter(|row| row.name != "rt_sigreturn") {
            let end = call_in_sandbox(&enter_sandbox, Call::harmless(row));
            assert!(returned(end), "{}: {end:?}", row.name);
        }
    });
}

#[test]
fn a_signal_handler_returns_in_the_sandbox() {
    static HANDLED: AtomicBool = AtomicBool::new(false);
    extern "C" fn handle(_: libc::c_int) {
        HANDLED.store(true, Ordering::Relaxed);
    }
    in_own_process("a_signal_handler_returns_in_the_sandbox", || {
        let (_dir, dir) = tempdir();
        let (enter_sandbox, _status) = table(&dir);
        let end = in_child(|| {
            let soon = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
            let timer =
                libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: soon };
            // SAFETY: the handler only stores to an atomic; the timer is read by the kernel and not kept.
            unsafe {
                libc::signal(libc::SIGALRM, handle as *const () as libc::sighandler_t);
                libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
            }
            if !enter_sandbox() {
                return NOT_IN_SANDBOX;
            }
            // The timer replaces the alarm that would kill a child that hangs.
            let start = Instant::now();
            while !HANDLED.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(5) {
                std::hint::spin_loop();
            }
            i32::from(!HANDLED.load(Ordering::Relaxed))
        });
        assert_eq!(end, End::Exited(0));
    });
}

#[test]
fn every_other_call_kills_the_process() {
    in_own_process("every_other_call_kills_the_process", || {
        let (_dir, dir) = tempdir();
        let (enter_sandbox, _status) = table(&dir);
        let start = Instant::now();
        let allowed = |number: i64| SYSCALLS.iter().any(|row| row.number == number);
        for number in (0..=470).filter(|number| !allowed(*number)) {
            let end = call_in_sandbox(&enter_sandbox, Call(number, [0; 6]));
            // The kernel runs no filter for the calls of its own probes (uretprobe, uprobe), and they do nothing for any
            // other caller.
            let probe = cfg!(target_arch = "x86_64") && [335, 336].contains(&number);
            assert!(end == KILLED_BY_SECCOMP || probe, "system call {number}: {end:?}");
        }
        assert!(start.elapsed() < Duration::from_secs(60));
    });
}

#[test]
fn unknown_numbers_and_other_system_call_interfaces_kill_the_process() {
    in_own_process("unknown_numbers_and_other_system_call_interfaces_kill_the_process", || {
        let (_dir, dir) = tempdir();
        let (enter_sandbox, _status) = table(&dir);
        assert_other_interfaces_are_killed("broker", &enter_sandbox);
    });
}

#[test]
fn every_condition_of_every_row_is_enforced() {
    in_own_process("every_condition_of_every_row_is_enforced", || {
        let (_dir, dir) = tempdir();
        let (enter_sandbox, _status) = table(&dir);
        let mut refused = 0;
        for row in SYSCALLS {
            for argument in row.when {
                for bit in (0..64).filter(|bit| argument.mask & (1 << bit) != 0) {
                    let call = Call::harmless(row).flipped(argument.index, bit);
                    if !call.is_allowed_by(SYSCALLS) {
                        assert_eq!(
                            call_in_sandbox(&enter_sandbox, call),
                            KILLED_BY_SECCOMP,
                            "{} with {call:x?}",
                            row.name
                        );
                        refused += 1;
                    }
                }
            }
        }
        assert!(refused > 500, "{refused}");
    });
}

#[test]
fn kernels_that_accept_passed_descriptors_get_a_few_more_rows() {
    in_own_process("kernels_that_accept_passed_descriptors_get_a_few_more_rows", || {
        let (_dir, dir) = tempdir();
        let status = ThreadStatus::open().unwrap();
        let descriptor_rules = DescriptorRules::new(&status, Some(&dir)).with_passed_descriptors();
        let filter = seccomp::compile(&sandbox::syscalls(&descriptor_rules)).unwrap();
        let enter_sandbox = || seccomp::install(&filter, 0).in_force;
        let (without, _status) = table(&dir);
        let rows = [SYSCALLS, PASSED_DESCRIPTOR_SYSCALLS].concat();
        for row in PASSED_DESCRIPTOR_SYSCALLS {
            let harmless = Call::harmless(row);
            assert!(returned(call_in_sandbox(&enter_sandbox, harmless)), "{}", row.name);
            assert_eq!(
                call_in_sandbox(&without, harmless),
                KILLED_BY_SECCOMP,
                "{} where nothing is passed",
                row.name
            );
            for argument in row.when {
                for call in (0..32).map(|bit| harmless.flipped(argument.index, bit)) {
                    if !call.is_allowed_by(&rows) {
                        assert_eq!(
                            call_in_sandbox(&enter_sandbox, call),
                            KILLED_BY_SECCOMP,
                            "{} with {call:x?}",
                            row.name
                        );
                    }
                }
            }
        }
        let checked: Vec<_> =
            PASSED_DESCRIPTOR_SYSCALLS.iter().map(|row| (row.name, row.when.len())).collect();
        assert_eq!(checked, [("recvmsg", 1), ("shutdown", 1), ("setsockopt", 2), ("timer_settime", 1)]);
    });
}

/// The checked arguments of each row: adding or removing one is a change of the security boundary.
#[test]
fn the_list_of_checked_arguments() {
    let checked = |row: &seccomp::Row| {
        let indices: Vec<String> = row.when.iter().map(|argument| argument.index.to_string()).collect();
        format!("{} {}", row.name, indices.join(" "))
    };
    let mut expected = vec![
        "wait4 2",
        "accept4 3",
        "recvfrom 3 4 5",
        "sendto 3 4 5",
        "shutdown 1",
        "getsockopt 1 2",
        "epoll_ctl 1",
        "epoll_ctl 1",
        "clock_gettime 0",
        "clock_gettime 0",
        "mmap 2 3 4",
        "mremap 3",
        "futex 1",
        "futex 1",
        "futex 1",
    ];
    if cfg!(not(target_arch = "x86_64")) {
        expected.insert(6, "epoll_pwait 4");
    }
    if cfg!(debug_assertions) {
        expected.push("fcntl 1");
    }
    let rows: Vec<String> = SYSCALLS.iter().filter(|row| !row.when.is_empty()).map(checked).collect();
    assert_eq!(rows, expected);
}

#[test]
fn calls_of_an_intruder_kill_the_process() {
    in_own_process("calls_of_an_intruder_kill_the_process", || {
        let (dir, opened) = tempdir();
        let (enter_sandbox, status) = table(&opened);
        let victim = dir.path().join("victim\0");
        let path = victim.to_str().unwrap().as_ptr() as u64;
        fs::write(dir.path().join("victim"), "x").unwrap();
        let cwd = libc::AT_FDCWD as u64;
        let (read, write, exec) = (libc::PROT_READ as u64, libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
        let (private, anonymous) = (libc::MAP_PRIVATE as u64, libc::MAP_ANONYMOUS as u64);
        let nowhere = u64::from(u32::MAX);
        let me = u64::from(std::process::id());

        let mmap = |prot, flags, fd| Call(number("mmap"), [0, 4096, prot, flags, fd, 0]);
        let sendto =
            |flags: i32, to, length| Call(number("sendto"), [u64::MAX, 0, 0, flags as u64, to, length]);
        let getsockopt = |level: i32, name: i32| {
            Call(number("getsockopt"), [u64::MAX, level as u64, name as u64, 0, 0, 0])
        };
        let descriptor = u64::from(status.descriptor());

        let allowed = [
            ("memory", mmap(read | write, private | anonymous, nowhere)),
            ("the peer's uid", getsockopt(libc::SOL_SOCKET, libc::SO_PEERCRED)),
            ("an answer", sendto(libc::MSG_NOSIGNAL, 0, 0)),
            ("a look at its own status", Call(libc::SYS_pread64, [descriptor, 0, 0, 0, 0, 0])),
        ];
        for (what, call) in allowed {
            assert!(returned(call_in_sandbox(&enter_sandbox, call)), "{what}");
        }

        let refused = [
            ("open to read", Call(libc::SYS_openat, [cwd, path, libc::O_RDONLY as u64, 0, 0, 0])),
            ("open a path", Call(libc::SYS_openat, [cwd, path, libc::O_PATH as u64, 0, 0, 0])),
            ("open by another call", Call(libc::SYS_openat2, [cwd, path, 0, 0, 0, 0])),
            ("read at a place", Call(libc::SYS_pread64, [descriptor + 1, 0, 0, 0, 0, 0])),
            ("list a directory", Call(libc::SYS_getdents64, [opened.as_raw_fd() as u64, 0, 0, 0, 0, 0])),
            ("stat by path", Call(libc::SYS_newfstatat, [cwd, path, 0, 0, 0, 0])),
            ("read a link", Call(libc::SYS_readlinkat, [cwd, path, 0, 0, 0, 0])),
            ("another process", Call(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0])),
            ("another program", Call(libc::SYS_execve, [path, 0, 0, 0, 0, 0])),
            ("a signal", Call(libc::SYS_kill, [me, 0, 0, 0, 0, 0])),
            ("a signal by descriptor", Call(libc::SYS_pidfd_send_signal, [u64::MAX, 0, 0, 0, 0, 0])),
            ("another process' descriptors", Call(libc::SYS_pidfd_getfd, [u64::MAX, 0, 0, 0, 0, 0])),
            ("another process' memory", Call(libc::SYS_process_vm_readv, [me, 0, 0, 0, 0, 0])),
            ("tracing", Call(libc::SYS_ptrace, [libc::PTRACE_ATTACH as u64, me, 0, 0, 0, 0])),
            ("a socket", Call(libc::SYS_socket, [1, 1, 0, 0, 0, 0])),
            ("a connection", Call(libc::SYS_connect, [u64::MAX, 0, 0, 0, 0, 0])),
            ("a descriptor sent along", Call(libc::SYS_sendmsg, [u64::MAX, 0, 0, 0, 0, 0])),
            ("a larger pipe", Call(libc::SYS_fcntl, [u64::MAX, libc::F_SETPIPE_SZ as u64, 0, 0, 0, 0])),
            ("code in memory", mmap(read | exec, private | anonymous, nowhere)),
            ("a file in memory", mmap(read, private, descriptor)),
            ("shared memory", mmap(read | write, libc::MAP_SHARED as u64 | anonymous, nowhere)),
            ("memory made code", Call(libc::SYS_mprotect, [0, 0, read | exec, 0, 0, 0])),
            (
                "memory returned to the kernel",
                Call(libc::SYS_madvise, [0, 0, libc::MADV_DONTNEED as u64, 0, 0, 0]),
            ),
            ("options of TCP", getsockopt(libc::IPPROTO_TCP, libc::SO_PEERCRED)),
            ("the peer's process", getsockopt(libc::SOL_SOCKET, 77)),
            ("a datagram to an address", sendto(libc::MSG_NOSIGNAL, path, 110)),
            ("urgent data", sendto(libc::MSG_NOSIGNAL | libc::MSG_OOB, 0, 0)),
            ("a wait for any child, however long", Call(libc::SYS_wait4, [u64::MAX, 0, 0, 0, 0, 0])),
        ];
        for (what, call) in refused {
            assert_eq!(call_in_sandbox(&enter_sandbox, call), KILLED_BY_SECCOMP, "{what}");
        }
    });
}

#[test]
fn unlink_works_in_the_socket_directory_alone() {
    in_own_process("unlink_works_in_the_socket_directory_alone", || {
        let (dir, opened) = tempdir();
        let (other, other_opened) = tempdir();
        let (enter_sandbox, _status) = table(&opened);
        for dir in [&dir, &other] {
            fs::write(dir.path().join("socket"), "").unwrap();
            fs::create_dir(dir.path().join("dir")).unwrap();
        }
        let absolute = format!("{}\0", other.path().join("socket").display());
        let unlink = |dir: i32, name: &str, flags: i32| {
            let call = [dir as u64, name.as_ptr() as u64, flags as u64, 0, 0, 0];
            call_in_sandbox(&enter_sandbox, Call(seccomp::numbers::unlinkat, call))
        };
        assert_eq!(unlink(other_opened.as_raw_fd(), "socket\0", 0), KILLED_BY_SECCOMP);
        assert_eq!(unlink(libc::AT_FDCWD, &absolute, 0), KILLED_BY_SECCOMP);
        assert_eq!(unlink(opened.as_raw_fd(), "dir\0", libc::AT_REMOVEDIR), KILLED_BY_SECCOMP);
        assert!(other.path().join("socket").exists() && dir.path().join("dir").exists());
        assert!(dir.path().join("socket").exists());
        assert_eq!(unlink(opened.as_raw_fd(), "socket\0", 0), End::Exited(0));
        assert!(!dir.path().join("socket").exists());
    });
}

#[test]
fn the_sandbox_is_on_every_thread_and_is_confirmed() {
    in_own_process("the_sandbox_is_on_every_thread_and_is_confirmed", || {
        let (_dir, dir) = tempdir();
        let (enter_sandbox, _status) = table(&dir);
        let end = in_child(|| {
            let (go, wait) = std::sync::mpsc::channel();
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let status = ThreadStatus::open().unwrap();
                sender.send(true).unwrap();
                wait.recv().unwrap();
                sender.send(!status.unconfirmed().unwrap().contains(&"seccomp")).unwrap();
                Call(libc::SYS_getpid, [0; 6]).make();
            });
            receiver.recv().unwrap();
            let status = ThreadStatus::open().unwrap();
            assert!(status.unconfirmed().unwrap().contains(&"seccomp"));
            if !enter_sandbox() {
                return NOT_IN_SANDBOX;
            }
            let confirmed = !status.unconfirmed().unwrap().contains(&"seccomp");
            go.send(()).unwrap();
            if !confirmed || !receiver.recv().unwrap() {
                return 1;
            }
            // The forbidden call of the other thread kills the whole process.
            loop {
                std::hint::spin_loop();
            }
        });
        assert_eq!(end, KILLED_BY_SECCOMP);
    });
}

#[test]
fn a_layer_that_the_kernel_does_not_confirm_fails_the_start() {
    let status = ThreadStatus::open().unwrap();
    let layer = |name, in_force| Layer { name, in_force, detail: String::new() };
    match sandbox::confirm_layers(&[layer("seccomp", true)], &status) {
        Err(SandboxError::Unconfirmed(name)) => assert_eq!(name, "seccomp"),
        other => panic!("{other:?}"),
    }
    for name in ["no_new_privs", "capabilities", "seccomp"] {
        let missing = sandbox::confirm_layers(&[layer(name, false)], &status);
        assert!(matches!(missing, Err(SandboxError::Missing(..))), "every kernel has {name}: {missing:?}");
    }
    assert!(
        sandbox::confirm_layers(&[layer("landlock", false)], &status).is_ok(),
        "not every kernel has Landlock"
    );
}

/// The newest Landlock ABI that the running kernel has; 0 without Landlock.
fn landlock_abi() -> i64 {
    const VERSION: u64 = 1;
    // SAFETY: with this flag and no attributes the call only returns a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, VERSION) };
    abi.max(0)
}

/// Runs `act` on a thread that Landlock restricts to `grants`; does nothing if the kernel has no Landlock.
fn confined(grants: &[Grant<'_>], act: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let confine = || {
            let layer = restrict(grants);
            assert_eq!(layer.in_force, landlock_abi() > 0, "{}", layer.detail);
            if layer.in_force {
                act();
            } else if std::env::var_os("KEYHOLE_REQUIRE_ROOT").is_some() {
                panic!("{}", layer.detail);
            } else {
                println!("skipped: {}", layer.detail);
            }
        };
        scope.spawn(confine).join().unwrap();
    });
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path.as_ref(), flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
}

fn refused<T>(result: Result<T, Errno>, what: &str) {
    match result {
        Err(Errno::ACCESS | Errno::XDEV) => {}
        Err(errno) => panic!("{what}: {errno}"),
        Ok(_) => panic!("{what} went through"),
    }
}

#[test]
fn landlock_without_grants_refuses_every_path() {
    let (dir, _) = tempdir();
    fs::write(dir.path().join("file"), "x").unwrap();
    let opened = File::open(dir.path().join("file")).unwrap();
    let status = ThreadStatus::open().unwrap();
    confined(&[], || {
        for path in ["/etc/passwd", "/proc/self/environ", "/proc/self/status", "/proc/stat", "/dev/null"] {
            refused(open(path, OFlags::RDONLY), path);
        }
        for path in ["/", "/proc/1/root", "/proc/1/cwd", "/proc/self/root", "/proc/self/fd", "/sys"] {
            refused(open(path, OFlags::RDONLY | OFlags::DIRECTORY), path);
        }
        refused(open(dir.path().join("file"), OFlags::RDONLY), "a file that this uid owns");
        refused(open(dir.path().join("new"), OFlags::WRONLY | OFlags::CREATE), "a new file");
        refused(rustix::fs::unlink(dir.path().join("file")), "unlink");

        // Descriptors that were opened before still work: the broker needs that.
        let mut byte = [0];
        assert_eq!(rustix::io::pread(&opened, &mut byte, 0), Ok(1));
        status.unconfirmed().unwrap();
        // A thread that is started later is restricted too.
        std::thread::spawn(|| refused(open("/etc/passwd", OFlags::RDONLY), "a later thread")).join().unwrap();
    });
}

#[test]
fn landlock_refuses_secrets_of_other_processes_even_below_a_grant() {
    // A process of the same uid, and neither has a capability. Since Linux 6.15 CAP_PERFMON alone opens another's
    // `environ`, Landlock or not.
    let without_capabilities = || assert!(capabilities::drop_all().in_force);
    let spawn = || {
        without_capabilities();
        Ended(Command::new("sleep").arg("60").env("SECRET", "1").stdin(Stdio::null()).spawn().unwrap())
    };
    // The thread below could not kill it: Landlock refuses signals too.
    let victim = std::thread::scope(|scope| scope.spawn(spawn).join().unwrap());
    let proc = File::open("/proc").unwrap();
    let act = || {
        without_capabilities();
        let at = |file: &str| format!("/proc/{}/{file}", victim.0.id());
        let secrets = ["environ", "auxv", "maps", "io", "syscall"];
        let read_count = |file: &str| -> usize {
            let opened = open(at(file), OFlags::RDONLY);
            opened.and_then(|file| rustix::io::read(&file, &mut [0; 16])).unwrap_or(0)
        };
        for file in secrets {
            soon(file, || read_count(file) > 0);
        }
        let dir = OFlags::RDONLY | OFlags::DIRECTORY;
        assert!(open(at("root/"), dir).is_ok() && open(at("mem"), OFlags::RDONLY).is_ok());
        assert_eq!(rustix::process::test_kill_process(pid(&victim)), Ok(()));
        let layer = restrict(&[Grant { dir: proc.as_fd(), right: Right::Read }]);
        if !layer.in_force {
            return println!("skipped: {}", layer.detail);
        }
        for file in secrets {
            assert_eq!(read_count(file), 0, "{file} was read");
        }
        assert_eq!(open(at("mem"), OFlags::RDONLY).err(), Some(Errno::ACCESS));
        for link in ["root/", "cwd/", "fd/0"] {
            assert_eq!(open(at(link), OFlags::RDONLY).err(), Some(Errno::ACCESS), "{link}");
        }
        assert!(open("/proc/stat", OFlags::RDONLY).is_ok(), "what is granted is open");
        if landlock_abi() >= 6 {
            assert_eq!(rustix::process::test_kill_process(pid(&victim)), Err(Errno::PERM));
        }
    };
    std::thread::scope(|scope| scope.spawn(act).join().unwrap());
}

fn pid(child: &Ended) -> rustix::process::Pid {
    rustix::process::Pid::from_child(&child.0)
}

fn soon(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child that is killed when it is dropped.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn landlock_allows_a_granted_directory_to_be_read_and_no_more() {
    let (dir, opened) = tempdir();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "x").unwrap();
    fs::create_dir(at("dir")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at("leak")).unwrap();
    std::os::unix::fs::symlink("/etc", at("away")).unwrap();
    let grants = [Grant { dir: opened.as_fd(), right: Right::Read }];
    confined(&grants, || {
        assert!(open(at("file"), OFlags::RDONLY).is_ok());
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 4);
        for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR | OFlags::APPEND] {
            refused(open(at("file"), flags), "write");
        }
        refused(open(at("new"), OFlags::WRONLY | OFlags::CREATE), "create");
        refused(rustix::fs::unlink(at("file")), "unlink");
        refused(rustix::fs::rmdir(at("dir")), "rmdir");
        refused(rustix::fs::mkdir(at("new"), Mode::RWXU), "mkdir");
        refused(rustix::fs::symlink("x", at("new")), "symlink");
        refused(rustix::fs::rename(at("file"), at("dir/file")), "rename");
        refused(rustix::fs::link(at("file"), at("dir/file")), "link");
        refused(open(at("leak"), OFlags::RDONLY), "a link that leads out");
        refused(open(at("away/passwd"), OFlags::RDONLY), "a path that leads out");
        refused(open(at("../"), OFlags::RDONLY | OFlags::DIRECTORY), "the way up");
        if landlock_abi() >= 3 {
            let path = std::ffi::CString::new(at("file").to_str().unwrap()).unwrap();
            // SAFETY: the path is a C string that lives through the call.
            let truncated = unsafe { libc::truncate(path.as_ptr(), 0) };
            assert_eq!((truncated, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EACCES)));
        }
    });
    assert_eq!(fs::read(at("file")).unwrap(), b"x");
}

#[test]
fn landlock_allows_sysfs_to_be_read_and_not_written() {
    let sys = File::open("/sys").unwrap();
    confined(&[Grant { dir: sys.as_fd(), right: Right::Read }], || {
        let online = "/sys/devices/system/cpu/online";
        assert!(!fs::read(online).unwrap().is_empty());
        assert!(fs::read_dir("/sys/class/net").unwrap().count() > 0);
        refused(open("/sys/kernel/uevent_helper", OFlags::WRONLY).map_err(absent_is_refused), "write");
        refused(open("/sys/power/state", OFlags::WRONLY).map_err(absent_is_refused), "write");
        refused(open(online, OFlags::RDWR), "write");
    });
}

/// Treats a file that this kernel does not have as refused.
fn absent_is_refused(errno: Errno) -> Errno {
    if errno == Errno::NOENT { Errno::ACCESS } else { errno }
}

#[test]
fn landlock_allows_unlink_in_the_socket_directory_alone() {
    let (dir, opened) = tempdir();
    let (other, other_opened) = tempdir();
    for dir in [&dir, &other] {
        fs::write(dir.path().join("socket"), "x").unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
    }
    confined(&[Grant { dir: opened.as_fd(), right: Right::Unlink }], || {
        refused(open(dir.path().join("socket"), OFlags::RDONLY), "read");
        refused(open(dir.path().join("socket"), OFlags::WRONLY), "write");
        refused(open(dir.path().join("new"), OFlags::WRONLY | OFlags::CREATE), "create");
        refused(rustix::fs::rmdir(dir.path().join("dir")), "rmdir");
        refused(rustix::fs::unlinkat(&other_opened, "socket", AtFlags::empty()), "unlink elsewhere");
        refused(rustix::fs::unlinkat(CWD, other.path().join("socket"), AtFlags::empty()), "unlink by path");
        assert_eq!(rustix::fs::unlinkat(&opened, "socket", AtFlags::empty()), Ok(()));
    });
    assert!(other.path().join("socket").exists());
}

#[test]
fn landlock_refuses_the_network_abstract_sockets_and_signals() {
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let name = format!("keyhole-test-{}", std::process::id());
    let abstract_address = SocketAddr::from_abstract_name(name).unwrap();
    let _unix = UnixListener::bind_addr(&abstract_address).unwrap();
    let parent = rustix::process::getppid().unwrap();
    confined(&[], || {
        if landlock_abi() >= 4 {
            let kind = |error: std::io::Error| error.kind();
            assert_eq!(
                TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(kind).err(),
                Some(ErrorKind::PermissionDenied)
            );
            assert_eq!(
                TcpListener::bind("127.0.0.1:0").map_err(kind).err(),
                Some(ErrorKind::PermissionDenied)
            );
        }
        if landlock_abi() >= 6 {
            let connected = UnixStream::connect_addr(&abstract_address).map_err(|error| error.kind());
            assert_eq!(connected.err(), Some(ErrorKind::PermissionDenied));
            assert_eq!(rustix::process::test_kill_process(parent), Err(Errno::PERM));
        }
    });
}

/// The lines of the calling thread's status that begin with `Cap`, without `CapBnd` if so asked.
fn capability_sets() -> Vec<(String, u64)> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let sets =
        status.lines().filter_map(|line| line.split_once(":\t")).filter(|(name, _)| name.starts_with("Cap"));
    sets.map(|(name, bits)| (name.to_owned(), u64::from_str_radix(bits, 16).unwrap())).collect()
}

#[test]
fn after_the_drop_every_capability_set_is_empty() {
    let before = capability_sets();
    let root = rustix::process::getuid().is_root();
    let (dir, _) = tempdir();
    let act = || {
        let layer = capabilities::drop_all();
        assert!(layer.in_force, "{}", layer.detail);
        assert_eq!(capabilities::held().unwrap(), Vec::<String>::new());
        for (name, bits) in capability_sets() {
            if root || name != "CapBnd" {
                assert_eq!(bits, 0, "{name}");
            } else {
                assert!(layer.detail.contains("bounding set not dropped"), "{}", layer.detail);
            }
        }
        assert!(!ThreadStatus::open().unwrap().unconfirmed().unwrap().contains(&"capabilities"));
        // uid 0 without capabilities has no privilege.
        let owner = Some(rustix::fs::Uid::from_raw(64646));
        assert_eq!(rustix::fs::chown(dir.path(), owner, None), Err(Errno::PERM));
    };
    std::thread::scope(|scope| scope.spawn(act).join().unwrap());
    assert_eq!(capability_sets(), before, "other threads keep theirs: drop before starting any");
}

#[test]
fn no_new_privs_is_set_and_read_back() {
    let act = || {
        let unconfirmed = || ThreadStatus::open().unwrap().unconfirmed().unwrap();
        let before = rustix::thread::no_new_privs().unwrap();
        assert_eq!(unconfirmed().contains(&"no_new_privs"), !before);
        let layer = capabilities::no_new_privs();
        assert!(layer.in_force, "{}", layer.detail);
        assert!(!unconfirmed().contains(&"no_new_privs"));
    };
    std::thread::scope(|scope| scope.spawn(act).join().unwrap());
}

#[test]
fn the_process_leaves_no_core_and_may_open_every_descriptor() {
    in_own_process("the_process_leaves_no_core_and_may_open_every_descriptor", || {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: hard }).unwrap();
        let layer = process::limits();
        assert!(layer.in_force, "{}", layer.detail);
        for resource in [Resource::Core, Resource::Memlock, Resource::Msgqueue] {
            assert_eq!(getrlimit(resource), Rlimit { current: Some(0), maximum: Some(0) });
        }
        assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: hard, maximum: hard });
        assert!(process::not_dumpable().in_force);
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
    });
}
