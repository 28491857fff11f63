//! The sandboxes of the zygote and of the readers of each class, rule by rule: what each rule allows and what it refuses,
//! asked of the running kernel.
//!
//! Filters are put in force in forked children of a process of their own; Landlock on threads, to which it belongs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keyhole_os::landlock::{Grant, Right, restrict};
use keyhole_os::seccomp::{self, Program, Row, Rule, numbers};
use keyhole_os::shared::SharedCells;
use keyhole_policy::{Class, Outcome, Query, Root, TABLE};
use keyhole_reader::arguments::{Arguments, ViewMode};
use keyhole_reader::cache::SharedState;
use keyhole_reader::host::{Host, READ, Roots};
use keyhole_reader::output::Output;
use keyhole_reader::read::Scratch;
use keyhole_reader::sandbox::{ZYGOTE, reader_syscalls};
use keyhole_reader::view::View;
use keyhole_test_support::fork::{
    Call, End, KILLED_BY_SECCOMP, assert_other_interfaces_are_killed, call_in_sandbox, in_child,
    in_own_process, returned,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

fn compiled(rows: &[Row]) -> Program {
    let rules: Vec<Rule<'_>> = rows.iter().map(Rule::from).collect();
    seccomp::compile(&rules).unwrap()
}

/// A function that installs the filters of tables, one after another.
fn sandbox(tables: &[&[Row]]) -> impl Fn() -> bool + use<> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    let filters: Vec<Program> = tables.iter().map(|rows| compiled(rows)).collect();
    move || filters.iter().all(|filter| seccomp::install(filter, 0).in_force)
}

/// Installs filters; returns whether they are in force.
type EnterSandbox = Box<dyn Fn() -> bool>;

/// Each process, its table, and a function that enters its sandbox: a reader's filter is stacked on the zygote's.
fn processes() -> Vec<(&'static str, Vec<Row>, EnterSandbox)> {
    let zygote: (_, _, EnterSandbox) = ("zygote", ZYGOTE.to_vec(), Box::new(sandbox(&[ZYGOTE])));
    let reader = |class: &Class| {
        let rows = reader_syscalls(*class);
        let enter_sandbox: EnterSandbox = Box::new(sandbox(&[ZYGOTE, &rows]));
        (class.name(), rows, enter_sandbox)
    };
    [zygote].into_iter().chain(Class::ALL.iter().map(reader)).collect()
}

/// A call that meets the conditions of a row, and returns.
fn harmless(row: &Row) -> Call {
    let mut call = Call::harmless(row);
    if row.name == "ppoll" {
        // An invalid address of the time-out: without a time-out it would wait forever.
        call.1[2] = 1;
    }
    call
}

/// The end of a process that opens a file in a sandbox.
fn opening(enter_sandbox: &impl Fn() -> bool, flags: OFlags) -> End {
    const NOT_IN_SANDBOX: i32 = 99;
    in_child(|| {
        if !enter_sandbox() {
            return NOT_IN_SANDBOX;
        }
        let _ = rustix::fs::openat(CWD, "nothing/of/this/name", flags, Mode::empty());
        0
    })
}

#[test]
fn every_row_allows_its_call() {
    in_own_process("every_row_allows_its_call", || {
        for (process, rows, enter_sandbox) in processes() {
            for row in &rows {
                let end = call_in_sandbox(&enter_sandbox, harmless(row));
                assert!(returned(end), "{process}: {} ({}): {end:?}", row.name, row.reason);
            }
        }
    });
}

#[test]
fn the_zygote_forks_with_glibc_2_41_too_which_blocks_signals() {
    in_own_process("the_zygote_forks_with_glibc_2_41_too_which_blocks_signals", || {
        let set = |how: libc::c_int| Call(numbers::rt_sigprocmask, [how as u64, 0, 0, 8, 0, 0]);
        let enter_sandbox = sandbox(&[ZYGOTE]);
        for how in [libc::SIG_BLOCK, libc::SIG_SETMASK] {
            let end = call_in_sandbox(&enter_sandbox, set(how));
            assert!(returned(end), "{how}: {end:?}");
        }
        assert_eq!(call_in_sandbox(&enter_sandbox, set(libc::SIG_UNBLOCK)), KILLED_BY_SECCOMP);
    });
}

#[test]
fn a_reader_makes_at_most_16_system_calls() {
    for (class, calls) in [
        (Class::Procfs, 10),
        (Class::Sysfs, 13),
        (Class::Devices, 14),
        (Class::Files, 13),
        (Class::Processes, 13),
        (Class::Mounts, 13),
    ] {
        // fcntl is allowed only in debug builds.
        let rows = reader_syscalls(class);
        let names: BTreeSet<&str> = rows.iter().map(|row| row.name).filter(|name| *name != "fcntl").collect();
        println!("{}: {} system calls: {names:?}", class.name(), names.len());
        assert!(names.len() <= 16, "{class:?}");
        assert_eq!(names.len(), calls, "{class:?}: a call that comes or goes is a change of the boundary");
        assert!(cfg!(debug_assertions) || rows.iter().all(|row| row.name != "fcntl"));
    }
}

#[test]
fn every_other_call_kills_the_process() {
    in_own_process("every_other_call_kills_the_process", || {
        let start = Instant::now();
        for (process, rows, enter_sandbox) in processes() {
            for number in (0..=470).filter(|number| rows.iter().all(|row| row.number != *number)) {
                let end = call_in_sandbox(&enter_sandbox, Call(number, [0; 6]));
                // The kernel runs no filter for the calls of its own probes (uretprobe, uprobe), and they do nothing for
                // any other caller.
                let probe = cfg!(target_arch = "x86_64") && [335, 336].contains(&number);
                assert!(end == KILLED_BY_SECCOMP || probe, "{process}: system call {number}: {end:?}");
            }
        }
        assert!(start.elapsed() < Duration::from_secs(180));
    });
}

#[test]
fn unknown_numbers_and_other_system_call_interfaces_kill_the_process() {
    in_own_process("unknown_numbers_and_other_system_call_interfaces_kill_the_process", || {
        for (process, _, enter_sandbox) in processes() {
            assert_other_interfaces_are_killed(process, &enter_sandbox);
        }
    });
}

#[test]
fn every_condition_of_every_row_is_enforced() {
    in_own_process("every_condition_of_every_row_is_enforced", || {
        for (process, rows, enter_sandbox) in processes() {
            let mut refused = 0;
            for row in &rows {
                for argument in row.when {
                    for bit in (0..64).filter(|bit| argument.mask & (1 << bit) != 0) {
                        let call = harmless(row).flipped(argument.index, bit);
                        if !call.is_allowed_by(&rows) {
                            assert_eq!(
                                call_in_sandbox(&enter_sandbox, call),
                                KILLED_BY_SECCOMP,
                                "{process}: {} with {call:x?}",
                                row.name
                            );
                            refused += 1;
                        }
                    }
                }
            }
            assert!(refused > 200, "{process}: {refused}");
        }
    });
}

#[test]
fn every_condition_compares_the_whole_argument() {
    for (process, rows, _) in processes() {
        for argument in rows.iter().flat_map(|row| row.when) {
            let pinned = argument.mask == u64::from(u32::MAX) || argument.mask == u64::MAX;
            assert!(pinned, "{process}: argument {}", argument.index);
        }
        // A row without conditions would make its alternatives useless.
        for row in rows.iter().filter(|row| row.when.is_empty()) {
            assert_eq!(
                rows.iter().filter(|other| other.number == row.number).count(),
                1,
                "{process}: {}",
                row.name
            );
        }
    }
}

#[test]
fn readers_open_files_with_the_flags_of_their_class_only() {
    in_own_process("readers_open_files_with_the_flags_of_their_class_only", || {
        let file = READ | OFlags::NOFOLLOW;
        let list = READ | OFlags::DIRECTORY;
        let hold = READ | OFlags::PATH | OFlags::DIRECTORY;
        let ask = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (follow, root) = (READ | OFlags::NONBLOCK, OFlags::DIRECTORY | OFlags::CLOEXEC);
        let ways = [file, list, hold, ask, follow, root, OFlags::CLOEXEC];
        for class in Class::ALL {
            let allowed: &[OFlags] = match class {
                Class::Procfs => &[],
                Class::Sysfs | Class::Devices => &[file, list, hold],
                Class::Files | Class::Processes => &[file, list],
                Class::Mounts => &[ask],
            };
            let enter_sandbox = sandbox(&[ZYGOTE, &reader_syscalls(class)]);
            for flags in ways {
                let expected = if allowed.contains(&flags) { End::Exited(0) } else { KILLED_BY_SECCOMP };
                assert_eq!(opening(&enter_sandbox, flags), expected, "{class:?}: {flags:?}");
            }
        }
    });
}

#[test]
fn nothing_is_opened_for_writing() {
    in_own_process("nothing_is_opened_for_writing", || {
        let write = [
            OFlags::WRONLY,
            OFlags::RDWR,
            OFlags::ACCMODE,
            OFlags::CREATE,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY,
            OFlags::TRUNC,
            OFlags::APPEND,
            OFlags::TMPFILE | OFlags::RDWR,
            OFlags::TMPFILE,
        ];
        let read = [
            READ | OFlags::NOFOLLOW,
            READ | OFlags::DIRECTORY,
            OFlags::CLOEXEC,
            OFlags::CLOEXEC | OFlags::PATH,
        ];
        for (process, _, enter_sandbox) in processes() {
            for flags in write.iter().flat_map(|write| read.map(|read| read | *write)) {
                assert_eq!(opening(&enter_sandbox, flags), KILLED_BY_SECCOMP, "{process}: {flags:?}");
            }
        }
    });
}

#[test]
fn calls_of_an_intruder_kill_the_process() {
    in_own_process("calls_of_an_intruder_kill_the_process", || {
        let path = c"/etc/passwd".as_ptr() as u64;
        let cwd = libc::AT_FDCWD as u64;
        let (read, write, exec) = (libc::PROT_READ as u64, libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
        let (private, anonymous) = (libc::MAP_PRIVATE as u64, libc::MAP_ANONYMOUS as u64);
        let nowhere = u64::from(u32::MAX);
        let me = u64::from(std::process::id());
        let fd = u64::MAX;
        let file = File::open("/dev/null").unwrap();
        let mmap = |prot, flags, fd| Call(numbers::mmap, [0, 4096, prot, flags, fd, 0]);
        let of_all = [
            ("open by another call", Call(libc::SYS_openat2, [cwd, path, 0, 0, 0, 0])),
            ("a file's handle", Call(libc::SYS_open_by_handle_at, [cwd, path, 0, 0, 0, 0])),
            ("another program", Call(libc::SYS_execve, [path, 0, 0, 0, 0, 0])),
            ("a program by descriptor", Call(libc::SYS_execveat, [fd, path, 0, 0, 0, 0])),
            ("a thread", Call(libc::SYS_clone3, [0, 0, 0, 0, 0, 0])),
            ("a process in a namespace", Call(libc::SYS_clone, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0])),
            ("a namespace", Call(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0])),
            ("another's namespace", Call(libc::SYS_setns, [fd, 0, 0, 0, 0, 0])),
            ("a mount", Call(libc::SYS_mount, [path, path, 0, 0, 0, 0])),
            ("a signal", Call(libc::SYS_kill, [me, 0, 0, 0, 0, 0])),
            ("a signal to a thread", Call(libc::SYS_tgkill, [me, me, 0, 0, 0, 0])),
            ("a signal by descriptor", Call(libc::SYS_pidfd_send_signal, [fd, 0, 0, 0, 0, 0])),
            ("another process' descriptors", Call(libc::SYS_pidfd_getfd, [fd, 0, 0, 0, 0, 0])),
            ("another process' memory", Call(libc::SYS_process_vm_readv, [me, 0, 0, 0, 0, 0])),
            ("tracing", Call(libc::SYS_ptrace, [libc::PTRACE_ATTACH as u64, me, 0, 0, 0, 0])),
            ("a socket", Call(libc::SYS_socket, [1, 1, 0, 0, 0, 0])),
            ("a pair of sockets", Call(libc::SYS_socketpair, [1, 1, 0, 0, 0, 0])),
            ("a connection", Call(libc::SYS_connect, [fd, 0, 0, 0, 0, 0])),
            ("a descriptor sent along", Call(libc::SYS_sendmsg, [fd, 0, 0, 0, 0, 0])),
            ("ioctl", Call(libc::SYS_ioctl, [fd, 0, 0, 0, 0, 0])),
            ("a larger pipe", Call(libc::SYS_fcntl, [fd, libc::F_SETPIPE_SZ as u64, 0, 0, 0, 0])),
            ("a write to another descriptor", Call(libc::SYS_write, [2, 0, 0, 0, 0, 0])),
            ("a write at a place", Call(libc::SYS_pwrite64, [1, 0, 0, 0, 0, 0])),
            ("code in memory", mmap(read | exec, private | anonymous, nowhere)),
            ("code in writable memory", mmap(read | write | exec, private | anonymous, nowhere)),
            ("a file in memory", mmap(read, private, file.as_raw_fd() as u64)),
            ("shared memory", mmap(read | write, libc::MAP_SHARED as u64 | anonymous, nowhere)),
            ("memory made code", Call(libc::SYS_mprotect, [0, 0, read | exec, 0, 0, 0])),
            (
                "memory at another's place",
                Call(libc::SYS_mremap, [fd, 0, 0, libc::MREMAP_FIXED as u64, 0, 0]),
            ),
            ("unlink", Call(libc::SYS_unlinkat, [cwd, path, 0, 0, 0, 0])),
            ("rename", Call(libc::SYS_renameat2, [cwd, path, cwd, path, 0, 0])),
            ("another root", Call(libc::SYS_chroot, [path, 0, 0, 0, 0, 0])),
            ("a kernel's keyring", Call(libc::SYS_keyctl, [0, 0, 0, 0, 0, 0])),
            ("a program in the kernel", Call(libc::SYS_bpf, [0, 0, 0, 0, 0, 0])),
            ("io_uring", Call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0])),
        ];
        // Calls of the zygote, and of a reader before its sandbox.
        let of_readers = [
            ("another process", Call(libc::SYS_clone, [0x0120_0011, 0, 0, 0, 0, 0])),
            ("a wait for a process", Call(libc::SYS_wait4, [fd, 0, libc::WNOHANG as u64, 0, 0, 0])),
            ("a read of another descriptor", Call(libc::SYS_read, [3, 0, 0, 0, 0, 0])),
            ("another's limits", Call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE.into(), 0, 0, 0, 0])),
            ("an own process' descriptor", Call(libc::SYS_pidfd_open, [me, 0, 0, 0, 0, 0])),
            ("another filter", Call(libc::SYS_seccomp, [1, 1, 0, 0, 0, 0])),
            ("prctl", Call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0])),
            (
                "a root",
                Call(libc::SYS_openat, [cwd, path, (libc::O_DIRECTORY | libc::O_CLOEXEC) as u64, 0, 0, 0]),
            ),
            ("replacing its own pipes", Call(libc::SYS_dup3, [fd, 0, 0, 0, 0, 0])),
        ];
        for (process, _, enter_sandbox) in processes() {
            for (what, call) in of_all {
                assert_eq!(call_in_sandbox(&enter_sandbox, call), KILLED_BY_SECCOMP, "{process}: {what}");
            }
            for (what, call) in of_readers.iter().filter(|_| process != "zygote") {
                assert_eq!(call_in_sandbox(&enter_sandbox, *call), KILLED_BY_SECCOMP, "{process}: {what}");
            }
        }
        // Calls of one class that others may not make.
        let link = Call(libc::SYS_readlinkat, [fd, path, 0, 0, 0, 0]);
        let numbers = Call(libc::SYS_fstatfs, [fd, 0, 0, 0, 0, 0]);
        let names = Call(libc::SYS_getdents64, [fd, 0, 0, 0, 0, 0]);
        let itself = Call(libc::SYS_newfstatat, [fd, path, 0, libc::AT_SYMLINK_NOFOLLOW as u64, 0, 0]);
        use Class::{Devices, Files, Mounts, Processes, Sysfs};
        for (what, call, classes) in [
            ("a link", link, &[Devices][..]),
            ("a file system's numbers", numbers, &[Mounts]),
            ("names in a directory", names, &[Sysfs, Devices, Files, Processes]),
            ("a directory itself", itself, &[Processes]),
        ] {
            for class in Class::ALL {
                let end = call_in_sandbox(&sandbox(&[ZYGOTE, &reader_syscalls(class)]), call);
                assert_eq!(returned(end), classes.contains(&class), "{class:?}: {what}: {end:?}");
            }
        }
    });
}

/// A tree with every root, and a file in each.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for file in
            ["proc/1/stat", "sys/class/net/lo/mtu", "udev/b8:0", "root/file", "probe/file", "elsewhere/mtu"]
        {
            fs::create_dir_all(tree.at(file).parent().unwrap()).unwrap();
            fs::write(tree.at(file), file).unwrap();
        }
        fs::write(tree.at("os-release"), "ID=x\n").unwrap();
        tree
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(path)
    }

    fn arguments(&self) -> Arguments {
        Arguments {
            procfs: self.at("proc"),
            sysfs: self.at("sys"),
            rootfs: Some(self.at("root")),
            udev: Some(self.at("udev")),
            os_release: Some(self.at("os-release")),
            probe_directories: vec![self.at("probe")],
            ..Arguments::default()
        }
    }
}

/// The newest Landlock ABI that the running kernel has; 0 without Landlock.
fn landlock_abi() -> i64 {
    const VERSION: u64 = 1;
    // SAFETY: with this flag and no attributes the call only returns a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, VERSION) };
    abi.max(0)
}

/// Runs `act` on a thread that Landlock restricts to what the readers of a class open later; not at all where the kernel
/// has no Landlock.
fn confined(roots: &Roots, class: Class, act: impl FnOnce() + Send) {
    let grants: Vec<Grant<'_>> =
        roots.landlock_dir(class).map(|dir| Grant { dir, right: Right::Read }).into_iter().collect();
    std::thread::scope(|scope| {
        let confine = || {
            let layer = restrict(&grants);
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
    rustix::fs::open(path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty())
}

fn open_roots(arguments: &Arguments, classes: &[Class]) -> Roots {
    Roots::open(arguments, classes, &SharedState::new(SharedCells::new().unwrap(), 0, 0)).unwrap()
}

#[test]
fn landlock_allows_the_readers_of_a_class_its_root_and_no_other() {
    let tree = Tree::new();
    let files = ["proc/1/stat", "sys/class/net/lo/mtu", "udev/b8:0", "root/file", "probe/file", "os-release"];
    for class in Class::ALL {
        let mut roots = open_roots(&tree.arguments(), &[class]);
        roots.retain_class_roots(class);
        let granted: &[&str] = match class {
            Class::Procfs | Class::Mounts => &[],
            Class::Sysfs | Class::Devices => &["sys/class/net/lo/mtu"],
            Class::Files => &["udev/b8:0"],
            Class::Processes => &["proc/1/stat"],
        };
        confined(&roots, class, || {
            let readable: Vec<&str> =
                files.into_iter().filter(|file| open(tree.at(file), OFlags::RDONLY).is_ok()).collect();
            assert_eq!(readable, granted, "{class:?}");
            for file in granted {
                assert_eq!(open(tree.at(file), OFlags::RDWR).err(), Some(Errno::ACCESS), "{class:?}: {file}");
            }
            for path in ["/", "/proc", "/sys", "/etc"] {
                assert_eq!(
                    open(path, OFlags::RDONLY | OFlags::DIRECTORY).err(),
                    Some(Errno::ACCESS),
                    "{path}"
                );
            }
            assert_eq!(open("/proc/self/status", OFlags::RDONLY).err(), Some(Errno::ACCESS), "{class:?}");
        });
    }
}

#[test]
fn a_reader_closes_the_roots_that_its_class_does_not_need() {
    let tree = Tree::new();
    for class in Class::ALL {
        let mut roots = open_roots(&tree.arguments(), &[class]);
        roots.retain_class_roots(class);
        let open = [Root::Proc, Root::Sys, Root::Udev, Root::Rootfs].map(|root| roots.dir(root).is_ok());
        let expected = match class {
            Class::Procfs | Class::Processes => [true, false, false, false],
            Class::Sysfs => [false, true, false, false],
            Class::Devices => [true, true, false, false],
            Class::Files => [false, false, true, false],
            Class::Mounts => [false, false, false, true],
        };
        assert_eq!(
            (open, roots.probe_directories.len()),
            (expected, usize::from(class == Class::Mounts)),
            "{class:?}"
        );
    }
}

#[test]
fn a_link_out_of_sysfs_is_refused_under_the_readers_own_grants() {
    let tree = Tree::new();
    std::os::unix::fs::symlink(tree.at("elsewhere"), tree.at("sys/class/net/out")).unwrap();
    let arguments = tree.arguments();
    let roots = open_roots(&arguments, &Class::ALL);
    let grants = open_roots(&arguments, &Class::ALL);
    let view = View::find(&roots, ViewMode::Host).unwrap();
    let memory = rustix::fs::memfd_create("answer", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    confined(&grants, Class::Devices, || {
        let rows = TABLE.iter().filter(|row| row.class == Class::Devices);
        let shared = SharedState::new(SharedCells::new().unwrap(), 0, 0);
        let mut host = Host::open(rows, &arguments, roots, view, shared);
        let mut out = Output::new(memory.as_fd());
        out.begin(Query::NetClass);
        let read = host.read(Query::NetClass, &mut Scratch::default(), &mut out).unwrap();
        assert_eq!(read, Some((Outcome::Ok, 0, false)));
        out.flush().unwrap();
    });
    let mut answer = Vec::new();
    let mut memory = File::from(memory);
    memory.rewind().unwrap();
    memory.read_to_end(&mut answer).unwrap();
    if landlock_abi() > 0 {
        let has = |text: &[u8]| answer.windows(text.len()).any(|window| window == text);
        assert!(has(b"sys/class/net/lo/mtu") && has(b"sys/class/net/out/mtu"));
        assert!(!has(b"elsewhere/mtu"), "the file that the link leads to was read");
    }
}
