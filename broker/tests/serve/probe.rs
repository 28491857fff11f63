//! `keyhole-broker probe` from outside: what it makes of each kind of answer, and its sandbox when it reads one.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyhole_broker::probe::PROBE_SYSCALLS;
use keyhole_os::seccomp::{self, Rule};
use keyhole_test_support::fork::{
    Call, End, KILLED_BY_SECCOMP, call_in_sandbox, in_child, in_own_process, returned,
};
use keyhole_test_support::old_kernel::{Argument, LINUX_5_10, Missing, missing, without};
use keyhole_test_support::{BROKER_UID, ChildProcess, Environment, is_root, wait_for};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::new_environment;

/// The bytes of a broker whose health is `status`: SETTINGS, HEADERS, DATA, and final HEADERS.
fn answer(status: u8) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    [
        frame(4, 0, 0, &[]),
        frame(4, 1, 0, &[]),
        frame(1, 4, 1, b"\x88"),
        frame(0, 0, 1, &[0, 0, 0, 0, 2, 8, status]),
        frame(1, 5, 1, b""),
    ]
    .concat()
}

/// A listener of the test itself on the environment's socket.
fn listen(environment: &Environment) -> UnixListener {
    let listener = UnixListener::bind(environment.socket()).unwrap();
    fs::set_permissions(environment.socket(), Permissions::from_mode(0o666)).unwrap();
    listener
}

fn start_probe(environment: &Environment) -> ChildProcess {
    start_probe_by(environment.broker_command(&["probe"]))
}

fn start_probe_by(mut command: Command) -> ChildProcess {
    ChildProcess::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// The exit status of a probe and what it prints, which is on standard error alone.
fn output(probe: &mut ChildProcess) -> (Option<i32>, String) {
    let status = probe.wait();
    let mut output = String::new();
    probe.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(output, "");
    probe.child.stderr.take().unwrap().read_to_string(&mut output).unwrap();
    (status.code(), output)
}

/// Accepts a probe's connection and reads its request.
fn accept(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.ends_with(b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0") {
        let length = stream.read(&mut part).unwrap();
        assert!(length > 0, "{request:?}");
        request.extend(&part[..length]);
    }
    stream
}

const TIMED_OUT: &str = "keyhole-broker: error: no answer within 2 s\n";

#[test]
fn a_probe_waits_in_its_sandbox_and_times_out() {
    let environment = new_environment();
    let listener = listen(&environment);
    let start = Instant::now();
    let mut probe = start_probe(&environment);
    let _stream = accept(&listener);
    let proc = format!("/proc/{}", probe.pid());
    let status = wait_for("the sandbox", || {
        let status = fs::read_to_string(format!("{proc}/status")).unwrap();
        assert!(probe.is_running(), "it ended without a sandbox: {status}");
        status.contains("\nSeccomp:\t2\n").then_some(status)
    });
    for line in ["NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "Threads:\t1"] {
        assert!(status.lines().any(|other| other == line), "{line}: {status}");
    }
    if is_root() {
        // Only the connection and standard error are open.
        let mut open: Vec<_> = fs::read_dir(format!("{proc}/fd")).unwrap().collect();
        open.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        assert_eq!(open.into_iter().map(name).collect::<Vec<_>>(), ["0", "1", "2"]);
        let connection = fs::read_link(format!("{proc}/fd/0")).unwrap();
        assert!(connection.to_string_lossy().starts_with("socket:"), "{connection:?}");
    }
    assert_eq!(output(&mut probe), (Some(1), TIMED_OUT.to_owned()));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1900) && took < Duration::from_millis(2700), "{took:?}");
}

#[test]
fn single_bytes_do_not_extend_the_deadline() {
    let environment = new_environment();
    let listener = listen(&environment);
    let start = Instant::now();
    let mut probe = start_probe(&environment);
    let mut stream = accept(&listener);
    // Frames that a probe skips: without a deadline it would read them forever.
    for byte in [0, 0, 0, 4, 0, 0, 0, 0, 0].into_iter().cycle().take(200) {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(output(&mut probe), (Some(1), TIMED_OUT.to_owned()));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1900) && took < Duration::from_millis(2700), "{took:?}");
}

#[test]
fn a_backlog_that_stays_full_times_out_too() {
    let environment = new_environment();
    let listener = listen(&environment);
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(environment.socket()).unwrap();
    let start = Instant::now();
    let probed = environment.probe(BROKER_UID);
    assert_eq!((probed.status.code(), &*probed.stderr), (Some(1), TIMED_OUT.as_bytes()));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1900) && took < Duration::from_millis(2700), "{took:?}");
}

/// The result of a probe whose server sends `answer` and closes the connection.
fn probe_result(answer: &[u8]) -> (Option<i32>, String) {
    let environment = new_environment();
    let listener = listen(&environment);
    let mut probe = start_probe(&environment);
    let mut stream = accept(&listener);
    stream.write_all(answer).unwrap();
    drop(stream);
    output(&mut probe)
}

#[test]
fn the_exit_status_and_one_line_report_the_answer() {
    assert_eq!(probe_result(&answer(1)), (Some(0), String::new()));
    let output_of = |line: &str| (Some(1), format!("keyhole-broker: error: {line}\n"));
    assert_eq!(probe_result(&answer(2)), output_of("the broker reports NOT_SERVING"));
    assert_eq!(probe_result(&answer(3)), output_of("the broker reports SERVICE_UNKNOWN"));
    let malformed = output_of("the broker's answer is not a health answer");
    assert_eq!(probe_result(b"HTTP/1.1 400 Bad Request\r\n\r\n"), malformed);
    let (status, output) = probe_result(&answer(1)[..20]);
    assert_eq!(status, Some(1));
    assert!(output.contains("is this uid allowed?") && output.lines().count() == 1, "{output}");
}

#[test]
fn a_mistake_on_the_command_line_is_exit_status_2() {
    for arguments in [&["probe", "--no-such-flag"][..], &["probe", "x"], &["prob"], &["--view=mine"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhole-broker"));
        let output = command.args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.starts_with("keyhole-broker: error: ") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn a_probe_without_standard_descriptors_has_the_same_exit_status() {
    let environment = new_environment();
    let listener = listen(&environment);
    // The shell closes them; the program opens /dev/null instead when it starts.
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh"]).arg(environment.path("keyhole-broker"));
    command.arg("probe").arg(format!("--socket.path={}", environment.socket().display()));
    let mut probe = ChildProcess::spawn(&mut command);
    accept(&listener).write_all(&answer(2)).unwrap();
    let status = probe.wait();
    assert_eq!(status.code(), Some(1), "{status}");
}

#[test]
fn a_probe_works_without_landlock_and_seccomp_and_fails_if_its_sandbox_is_refused() {
    const PR_GET_SECCOMP: u32 = 21;
    let without_seccomp = [
        missing(libc::SYS_seccomp, &[], libc::ENOSYS),
        missing(libc::SYS_prctl, &[Argument::Is(0, PR_GET_SECCOMP)], libc::EINVAL),
    ];
    let refused = [missing(libc::SYS_seccomp, &[], libc::EPERM)];
    let probe_on = |kernel: &[Missing]| {
        let environment = new_environment();
        let listener = listen(&environment);
        let mut probe = start_probe_by(without(environment.broker_command(&["probe"]), kernel));
        // A probe that may not enter its sandbox closes the connection.
        let _ = accept(&listener).write_all(&answer(1));
        output(&mut probe)
    };
    assert_eq!(probe_on(LINUX_5_10), (Some(0), String::new()));
    assert_eq!(probe_on(&without_seccomp), (Some(0), String::new()));
    let (status, output) = probe_on(&refused);
    assert_eq!((status, output.lines().count()), (Some(1), 1), "{output}");
    let line = "keyhole-broker: error: seccomp could not be enabled: ";
    assert!(output.starts_with(line) && output.contains("let the container's seccomp profile"), "{output}");
}

/// The table, compiled, for children of a process that runs [`alone`].
fn table() -> impl Fn() -> bool {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    let rules: Vec<Rule<'_>> = PROBE_SYSCALLS.iter().map(Rule::from).collect();
    let filter = seccomp::compile(&rules).unwrap();
    move || seccomp::install(&filter, 0).in_force
}

#[test]
fn the_list_of_system_calls_of_a_probe() {
    let row = |row: &seccomp::Row| {
        let indices: String = row.when.iter().map(|argument| format!(" {}", argument.index)).collect();
        format!("{}{indices}", row.name)
    };
    let rows: Vec<String> = PROBE_SYSCALLS.iter().map(row).collect();
    assert_eq!(
        rows,
        ["read 0", "write 0", "clock_gettime 0", "brk", "mmap 2 3 4", "sigaltstack", "munmap", "exit_group"]
    );
}

#[test]
fn every_row_of_a_probe_allows_its_call_and_enforces_its_conditions() {
    in_own_process("probe::every_row_of_a_probe_allows_its_call_and_enforces_its_conditions", || {
        let enter_sandbox = table();
        let mut refused = 0;
        for row in PROBE_SYSCALLS {
            let end = call_in_sandbox(&enter_sandbox, Call::harmless(row));
            assert!(returned(end), "{}: {end:?}", row.name);
            for argument in row.when {
                for bit in (0..64).filter(|bit| argument.mask & (1 << bit) != 0) {
                    let call = Call::harmless(row).flipped(argument.index, bit);
                    assert!(!call.is_allowed_by(PROBE_SYSCALLS));
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
        assert_eq!(refused, 6 * 32);
    });
}

#[test]
fn every_other_call_kills_a_probe() {
    in_own_process("probe::every_other_call_kills_a_probe", || {
        let enter_sandbox = table();
        let allowed = |number: i64| PROBE_SYSCALLS.iter().any(|row| row.number == number);
        for number in (-1..=470).filter(|number| !allowed(*number)) {
            let end = call_in_sandbox(&enter_sandbox, Call(number, [0; 6]));
            // The kernel asks no filter about its own probes (uretprobe, uprobe).
            let own = cfg!(target_arch = "x86_64") && [335, 336].contains(&number);
            assert!(end == KILLED_BY_SECCOMP || own, "system call {number}: {end:?}");
        }
    });
}

/// The heap may have to grow in the sandbox, with mmap if brk is blocked.
#[test]
fn the_heap_of_a_probe_grows_in_its_sandbox() {
    in_own_process("probe::the_heap_of_a_probe_grows_in_its_sandbox", || {
        let enter_sandbox = table();
        for in_the_way in [false, true] {
            let end = in_child(|| {
                if in_the_way {
                    block_brk();
                }
                if !enter_sandbox() {
                    return 1;
                }
                let blocks: Vec<Vec<u8>> = (0..256).map(|byte| vec![byte as u8; 16 << 10]).collect();
                i32::from(!blocks.iter().enumerate().all(|(byte, block)| block[9999] == byte as u8))
            });
            assert_eq!(end, End::Exited(0), "{in_the_way}");
        }
    });
}

/// Maps a page where the heap would grow.
fn block_brk() {
    // SAFETY: sbrk only returns the end of the heap; the page is mapped behind it, and replaces no other mapping.
    unsafe {
        let end = libc::sbrk(0) as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        libc::mmap(end.next_multiple_of(1 << 16) as *mut _, 4096, libc::PROT_NONE, flags, -1, 0);
    }
}
