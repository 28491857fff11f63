//! The exporter's system calls, row by row: what each row allows and what it refuses, asked of the running kernel.

use keyhole_exporter::sandbox::{QUERY_SYSCALLS, SYSCALLS};
use keyhole_os::seccomp::{self, Row, Rule};
use keyhole_test_support::fork::{
    Call, KILLED_BY_SECCOMP, assert_other_interfaces_are_killed, call_in_sandbox, in_own_process, returned,
};
use rustix::process::{Resource, Rlimit, setrlimit};

/// A table, compiled.
fn sandbox(rows: &[Row]) -> impl Fn() -> bool + use<> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    let rules: Vec<Rule<'_>> = rows.iter().map(Rule::from).collect();
    let filter = seccomp::compile(&rules).unwrap();
    move || seccomp::install(&filter, 0).in_force
}

/// What a server may do, and what a query may.
fn tables() -> [Vec<Row>; 2] {
    [SYSCALLS.to_vec(), [SYSCALLS, QUERY_SYSCALLS].concat()]
}

fn number(name: &str) -> i64 {
    SYSCALLS.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row for {name}")).number
}

#[test]
fn every_row_allows_its_call() {
    in_own_process("every_row_allows_its_call", || {
        for rows in tables() {
            let enter_sandbox = sandbox(&rows);
            for row in rows.iter().filter(|row| row.name != "rt_sigreturn") {
                let mut call = Call::harmless(row);
                if call.1[0] == u64::MAX && row.name == "futex" {
                    // A wait for what is not so ends at once: the address is not aligned.
                    call.1[0] = 1;
                }
                let end = call_in_sandbox(&enter_sandbox, call);
                assert!(returned(end), "{} {:?}: {end:?}", row.name, row.when);
            }
        }
    });
}

#[test]
fn every_condition_of_every_row_is_enforced() {
    in_own_process("every_condition_of_every_row_is_enforced", || {
        for rows in tables() {
            let enter_sandbox = sandbox(&rows);
            let mut refused = 0;
            for row in &rows {
                for argument in row.when {
                    for bit in (0..64).filter(|bit| argument.mask & (1 << bit) != 0) {
                        let call = Call::harmless(row).flipped(argument.index, bit);
                        if call.is_allowed_by(&rows) {
                            // Another row's call, such as a wait in place of a wake.
                            continue;
                        }
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
            assert!(refused > 1000, "{refused}");
        }
    });
}

#[test]
fn every_other_call_kills_the_process() {
    in_own_process("every_other_call_kills_the_process", || {
        let enter_sandbox = sandbox(SYSCALLS);
        for number in (0..=470).filter(|number| SYSCALLS.iter().all(|row| row.number != *number)) {
            let end = call_in_sandbox(&enter_sandbox, Call(number, [0; 6]));
            // The kernel asks no filter about the two calls of its own probes (uretprobe, uprobe), and does
            // nothing for anyone else who makes them.
            let probe = cfg!(target_arch = "x86_64") && [335, 336].contains(&number);
            assert!(end == KILLED_BY_SECCOMP || probe, "system call {number}: {end:?}");
        }
    });
}

#[test]
fn numbers_of_no_table_and_of_other_interfaces_kill_the_process() {
    in_own_process("numbers_of_no_table_and_of_other_interfaces_kill_the_process", || {
        assert_other_interfaces_are_killed("exporter", &sandbox(SYSCALLS));
    });
}

/// The arguments that are checked, by row: one that goes or comes is a change of the boundary.
#[test]
fn the_checked_arguments_are_these() {
    let checked = |row: &Row| {
        let indices: Vec<String> = row.when.iter().map(|argument| argument.index.to_string()).collect();
        format!("{} {}", row.name, indices.join(" "))
    };
    let mut expected = vec![
        "accept4 3",
        "recvfrom 3 4 5",
        "sendto 3 4 5",
        "shutdown 1",
        "setsockopt 1 2",
        "getsockopt 1 2",
        "socket 0 1 2",
        "openat 0 2",
        "statx 2",
        "newfstatat 3",
        "lseek 1 2",
        "clock_adjtime 0",
        "prlimit64 0 2",
        "epoll_ctl 1",
        "epoll_ctl 1",
        "futex 1",
        "futex 1",
        "futex 1",
        "clock_gettime 0",
        "clock_gettime 0",
        "getrandom 2",
        "mmap 2 3",
        "mremap 3",
        "madvise 2",
    ];
    if cfg!(not(target_arch = "x86_64")) {
        expected.insert(13, "epoll_pwait 4");
    }
    if cfg!(debug_assertions) {
        expected.extend(["fcntl 1", "fcntl 1"]);
    }
    let rows: Vec<String> = SYSCALLS.iter().filter(|row| !row.when.is_empty()).map(checked).collect();
    assert_eq!(rows, expected);
}

#[test]
fn system_calls_of_an_intruder_kill_the_process() {
    in_own_process("system_calls_of_an_intruder_kill_the_process", || {
        let enter_sandbox = sandbox(SYSCALLS);
        let cwd = libc::AT_FDCWD as u64;
        let path = c"/dev/null".as_ptr() as u64;
        let open = |flags: libc::c_int| Call(number("openat"), [cwd, path, flags as u64, 0o600, 0, 0]);
        let on = |name: &str, arguments: [i32; 4]| {
            let [b, c, d, e] = arguments.map(|argument| argument as u64);
            Call(number(name), [u64::MAX, b, c, d, e, 0])
        };
        let mmap = |prot: i32, flags: i32| on("mmap", [4096, prot, flags, -1]);
        let cloexec = libc::O_CLOEXEC;
        let (private, read_write) = (libc::MAP_PRIVATE, libc::PROT_READ | libc::PROT_WRITE);

        let allowed = [
            ("open to read", open(cloexec)),
            ("open a textfile", open(cloexec | libc::O_NONBLOCK | libc::O_NOCTTY)),
            ("open a directory", open(cloexec | libc::O_NONBLOCK | libc::O_DIRECTORY)),
            ("look at what TLS begins with", on("recvfrom", [0, 0, libc::MSG_PEEK, 0])),
            ("memory", mmap(read_write, private | libc::MAP_ANONYMOUS)),
        ];
        for (what, call) in allowed {
            assert!(returned(call_in_sandbox(&enter_sandbox, call)), "{what}");
        }

        let refused = [
            ("open to write", open(cloexec | libc::O_WRONLY)),
            ("create", open(cloexec | libc::O_CREAT)),
            ("truncate", open(cloexec | libc::O_TRUNC)),
            ("a path alone", open(cloexec | libc::O_PATH)),
            ("a file without a name", open(cloexec | libc::O_TMPFILE)),
            ("a signal for each change", open(cloexec | libc::O_ASYNC)),
            ("past the cache", open(cloexec | libc::O_DIRECT)),
            ("open for a child", open(0)),
            ("open below a descriptor", Call(number("openat"), [5, path, cloexec as u64, 0, 0, 0])),
            ("urgent data out", on("sendto", [0, 0, libc::MSG_NOSIGNAL | libc::MSG_OOB, 0])),
            ("pages lent to the kernel", on("sendto", [0, 0, libc::MSG_NOSIGNAL | libc::MSG_ZEROCOPY, 0])),
            ("spliced pages", on("sendto", [0, 0, libc::MSG_NOSIGNAL | 0x800_0000, 0])),
            ("data with the connection", on("sendto", [0, 0, libc::MSG_FASTOPEN, 0])),
            ("an address", on("sendto", [0, 0, libc::MSG_NOSIGNAL, 1])),
            ("urgent data in", on("recvfrom", [0, 0, libc::MSG_OOB, 0])),
            ("the queue of errors", on("recvfrom", [0, 0, libc::MSG_ERRQUEUE, 0])),
            ("a lock with priority", on("futex", [libc::FUTEX_LOCK_PI | 128, 0, 0, 0])),
            ("a requeue with priority", on("futex", [libc::FUTEX_CMP_REQUEUE_PI | 128, 0, 0, 0])),
            ("an operation on two words", on("futex", [libc::FUTEX_WAKE_OP | 128, 0, 0, 0])),
            ("a lock of several processes", on("futex", [libc::FUTEX_WAKE, 0, 0, 0])),
            ("a linger", on("setsockopt", [libc::SOL_SOCKET, libc::SO_LINGER, 0, 0])),
            ("a socket's filter", on("setsockopt", [libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, 0, 0])),
            ("TLS in the kernel", on("setsockopt", [libc::IPPROTO_TCP, libc::TCP_ULP, 0, 0])),
            ("netfilter's tables", on("setsockopt", [libc::IPPROTO_IP, 64, 0, 0])),
            ("the peer's process", on("getsockopt", [libc::SOL_SOCKET, 77, 0, 0])),
            ("options of TCP", on("getsockopt", [libc::IPPROTO_TCP, 1, 0, 0])),
            ("a datagram socket", Call(number("socket"), [1, 0x80802, 0, 0, 0, 0])),
            ("a network socket", Call(number("socket"), [2, 0x80801, 0, 0, 0, 0])),
            ("a protocol", Call(number("socket"), [1, 0x80801, 1, 0, 0, 0])),
            ("fixed memory", mmap(read_write, private | libc::MAP_ANONYMOUS | libc::MAP_FIXED)),
            ("memory that grows down", mmap(read_write, private | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN)),
            ("huge pages", mmap(read_write, private | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB)),
            ("shared memory", mmap(read_write, libc::MAP_SHARED | libc::MAP_ANONYMOUS)),
            ("a file in memory", mmap(libc::PROT_READ, private)),
            ("code", mmap(read_write | libc::PROT_EXEC, private | libc::MAP_ANONYMOUS)),
            ("memory moved over other", on("mremap", [0, 0, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, 0])),
            ("pages broken", on("madvise", [0, libc::MADV_HWPOISON, 0, 0])),
            ("pages that children do not inherit", on("madvise", [0, libc::MADV_DONTFORK, 0, 0])),
            ("code made of memory", Call(libc::SYS_mprotect, [0, 0, libc::PROT_EXEC as u64, 0, 0, 0])),
            ("an owner for signals", Call(libc::SYS_fcntl, [u64::MAX, libc::F_SETOWN as u64, 0, 0, 0, 0])),
            ("a lease", Call(libc::SYS_fcntl, [u64::MAX, libc::F_SETLEASE as u64, 0, 0, 0, 0])),
            ("a key typed into a terminal", Call(libc::SYS_ioctl, [u64::MAX, libc::TIOCSTI, 0, 0, 0, 0])),
            ("the size of a terminal", Call(libc::SYS_ioctl, [u64::MAX, libc::TIOCGWINSZ, 0, 0, 0, 0])),
            ("another process' limits", Call(number("prlimit64"), [1, 7, 0, 0, 0, 0])),
            ("a clock of another process", Call(number("clock_gettime"), [-6i64 as u64, 0, 0, 0, 0, 0])),
            ("atomic time", Call(number("clock_adjtime"), [libc::CLOCK_TAI as u64, 0, 0, 0, 0, 0])),
        ];
        for (what, call) in refused {
            assert_eq!(call_in_sandbox(&enter_sandbox, call), KILLED_BY_SECCOMP, "{what}");
        }
    });
}
