//! No row of the tables of system calls is redundant: without it, a process that does all it ever does is killed. Rows of one call that differ by their arguments are taken out one at a time.

mod environment;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyhole_attacks::{BROKER_UID, OTHER_UID};
use keyhole_broker::sandbox::SYSCALLS;
use keyhole_exporter::sandbox::SYSCALLS as SYSCALLS_OF_EXPORTER;
use keyhole_policy::pipes::{CHECK_REQUEST, EXIT_REQUEST, FrameKind};
use keyhole_policy::{Class, TABLE};
use keyhole_proto::v1::ReadRequest;
use keyhole_reader::sandbox::{ZYGOTE, reader_syscalls};
use rustix::process::{Pid, Signal, kill_process};

use environment::client::{ask, describe, read_all, run_as_uid};
use environment::pipes::{Zygote, signal, slot};
use environment::scraper::{get, send};
use environment::{ChildProcess, Fixture, Programs, as_init, end, root, wait_for};

/// Rows that nothing here provokes, by process and name, each with the reason why it stays.
const NOT_PROVOKED: &[(&str, &str, &str)] = &[
    (
        "every process",
        "clock_gettime",
        "the vDSO reads the time without a call; without one, as with some clock sources, each time is a call",
    ),
    (
        "broker",
        "mmap",
        "what the HTTP/2 library buffers for its peers may be long, and the C library takes memory so then",
    ),
    ("broker", "mremap", "the same, when such a buffer grows"),
    (
        "procfs",
        "mmap",
        "the C library takes memory so where the heap cannot grow; these readers need little of it",
    ),
];

/// Rows that are provoked now and then: it depends on which thread comes first, on the C library, on the kernel or on
/// the size of the host.
const SOMETIMES_PROVOKED: &[(&str, &str)] = &[
    ("zygote", "rt_sigprocmask: part of fork(2) since glibc 2.41: blocks signals"),
    ("zygote", "rt_sigprocmask: and restores them"),
    ("broker", "futex: two threads wait for the heap they share"),
    ("files", "mremap: memory for a long list"),
    ("processes", "mremap: memory for a long list"),
    ("exporter", "futex: a wait for a lock of the C library"),
    ("exporter", "sched_yield: a channel's short wait for another thread"),
    ("exporter", "newfstatat: a directory's size, with glibc before 2.39"),
    ("exporter", "fstat: the same, with glibc 2.39 and newer"),
    ("exporter", "lseek: back to the start of a cached directory, before Linux 6.2"),
];

type Step = fn(&Fixture, Pid);

type Visit = fn(SocketAddr, Pid);

/// What an exporter does in its life; each step gets as far as the exporter lets it.
#[rustfmt::skip]
const LIFE_OF_EXPORTER: &[(&str, Visit)] = &[
    ("a scrape",                     |to, _| { get(to, "/metrics", USER, ""); }),
    ("a compressed scrape",          |to, _| { get(to, "/metrics", USER, "Accept-Encoding: gzip\r\n"); }),
    ("the page",                     |to, _| { get(to, "/", USER, ""); }),
    ("what is not there",            |to, _| { get(to, "/none", USER, ""); }),
    ("a wrong password",             |to, _| { get(to, "/metrics", "dXNlcjpubw==", ""); }),
    ("a client that talks garbage",  |to, _| { send(to, &[0x20; 4096]); }),
    ("a client that goes away",      |to, _| drop(std::net::TcpStream::connect(to))),
    ("another scrape",               |to, _| { get(to, "/metrics", USER, ""); }),
    ("a stop, and going on",         |to, pid| { stop_and_go_on(pid); get(to, "/metrics", USER, ""); }),
    ("the end",                      |_, pid| { let _ = kill_process(pid, Signal::TERM); }),
];

/// What one does that encrypts.
#[rustfmt::skip]
const LIFE_WITH_TLS: &[(&str, Visit)] = &[
    ("a client that does not encrypt", |to, _| { get(to, "/metrics", USER, ""); }),
    ("an encrypted scrape",            |to, _| scrape_by_curl(to)),
    ("the end",                        |_, pid| { let _ = kill_process(pid, Signal::TERM); }),
];

/// The user of the exporter, and the line of the web configuration that admits it.
const USER: &str = "dXNlcjpwdw==";
const TLS: &str = "tls_server_config:\n  cert_file: pem\n  key_file: pem\n";
const USERS: &str =
    "basic_auth_users:\n  user: $2b$05$abcdefghijklmnopqrstuuHIrMEWpUCQe2YqFR3sXwQ75u4od..9q\n";

/// What a broker does in its life; each step gets as far as the broker lets it.
#[rustfmt::skip]
const LIFE: &[(&str, Step)] = &[
    ("a description",            |fixture, _| describe(fixture)),
    ("a reading of everything",  |fixture, _| { read_all(fixture); }),
    ("a peer that is refused",   |fixture, _| run_as_uid(OTHER_UID, || drop(UnixStream::connect(fixture.socket())))),
    ("a peer that talks garbage", |fixture, _| talk_garbage(fixture)),
    ("a client that goes away",  |fixture, _| go_away(fixture)),
    ("many clients",             |fixture, _| (0..10).for_each(|_| describe(fixture))),
    ("another reading",          |fixture, _| { read_all(fixture); }),
    ("a stop, and going on",     |fixture, pid| { stop_and_go_on(pid); describe(fixture); }),
    ("the end",                  |_, pid| { let _ = kill_process(pid, Signal::TERM); }),
];

/// What is left out of a broker's sandbox.
#[derive(Debug, Clone, Copy, Default)]
struct Without {
    landlock: bool,
    /// A row, by its place.
    row: Option<usize>,
}

fn broker(programs: &Programs, tree: &Path, without: Without) -> (Fixture, ChildProcess) {
    let fixture = Fixture::new(BROKER_UID);
    let mut command = programs.broker(&fixture, BROKER_UID);
    command
        .arg(format!("--path.procfs={}", tree.join("proc").display()))
        .arg(format!("--path.sysfs={}", tree.join("sys").display()))
        .arg(format!("--filesystem.probe-directory={}", fixture.at("open").display()))
        .args(["--allow-processes", "--log.level=debug"]);
    command.envs(without.landlock.then_some(("KEYHOLE_WITHOUT", "landlock")));
    command.envs(without.row.map(|row| ("KEYHOLE_WITHOUT_ROW", format!("broker:{row}"))));
    (fixture, ChildProcess::spawn(&mut command))
}

/// A small host: a file of a few MiB, directories to list, links, a process.
fn lay_out(tree: &Path) {
    let put = |path: &str, content: &str| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    put("proc/loadavg", "0.00 0.01 0.05 1/123 456\n");
    put("proc/1/net/udp", &"sl local_address\n".repeat(200_000));
    put("proc/7/stat", "7 (x) S 1\n");
    put("proc/7/status", "Name:\tx\n");
    put("proc/7/fd/0", "");
    for chip in 0..50 {
        put(&format!("sys/devices/hwmon{chip}/name"), "chip\n");
        let class = tree.join("sys/class/hwmon");
        fs::create_dir_all(&class).unwrap();
        let target = format!("../../devices/hwmon{chip}");
        std::os::unix::fs::symlink(target, class.join(format!("hwmon{chip}"))).unwrap();
    }
}

/// What makes a reader of each class take much memory: directories of many names, and a long line of mountinfo.
fn lay_out_long_lists(tree: &Path, udev: &Path, classes: &[Class]) {
    const MANY: usize = 4200;
    // Larger than any buffer that was freed before: the C library takes that for the size of what is long.
    const VERY_MANY: usize = 17_000;
    let fill = |directory: PathBuf, many: usize| {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("x"), "").unwrap();
        (0..many).for_each(|number| {
            fs::hard_link(directory.join("x"), directory.join(format!("x{number}"))).unwrap()
        });
    };
    for class in classes {
        match class {
            Class::Procfs => {}
            Class::Sysfs => fill(tree.join("sys/devices/system/node"), MANY),
            Class::Devices => fill(tree.join("sys/class/hwmon"), VERY_MANY),
            Class::Files => {
                fill(udev.to_owned(), MANY);
                fs::write(udev.join("b8:0"), "E:x=1\n").unwrap();
            }
            Class::Processes => fill(tree.join("proc"), MANY),
            Class::Mounts => {
                let options = "x".repeat(300_000);
                let mounts = format!("21 1 8:1 / / rw shared:1 - ext4 /dev/root rw,{options}\n");
                fs::write(tree.join("proc/1/mountinfo"), mounts).unwrap();
            }
        }
    }
}

/// What ended a broker that lives its life without a row or Landlock, and during which step.
fn live(programs: &Programs, tree: &Path, without: Without) -> (&'static str, std::process::ExitStatus) {
    let (fixture, mut broker) = broker(programs, tree, without);
    let pid = Pid::from_child(&broker.child);
    if let Err(ended) = started(&fixture, &mut broker) {
        return ("its start", ended);
    }
    for (step, act) in LIFE {
        act(&fixture, pid);
        if let Some(ended) = broker.child.try_wait().unwrap() {
            return (step, ended);
        }
    }
    ("the end", end(&mut broker))
}

/// What ended an exporter that lives its life without a row or Landlock, and during which step.
fn live_as_exporter(
    programs: &Programs,
    tree: &Path,
    without: Without,
    (config, life): (&str, &'static [(&'static str, Visit)]),
) -> (&'static str, std::process::ExitStatus) {
    let (fixture, mut broker) = broker(programs, tree, Without::default());
    started(&fixture, &mut broker).unwrap();
    fs::write(fixture.at("web/config.yml"), config).unwrap();
    fs::copy(tree.join("pem"), fixture.at("web/pem")).unwrap();
    // Longer than any heap that it has by then.
    fs::write(fixture.at("text/long.prom"), "long{x=\"x\"} 1\n".repeat(20_000)).unwrap();
    let mut command = programs.exporter(&fixture, BROKER_UID);
    command.envs(without.landlock.then_some(("KEYHOLE_WITHOUT", "landlock")));
    command.envs(without.row.map(|row| ("KEYHOLE_WITHOUT_ROW", format!("exporter:{row}"))));
    let mut exporter = ChildProcess::spawn(&mut command);
    let listening = wait_for("a start", || {
        let ended = exporter.child.try_wait().unwrap().map(Err);
        ended.or_else(|| fixture.listening().map(Ok))
    });
    let address = match listening {
        Ok(address) => address,
        Err(ended) => return ("its start", ended),
    };
    for (step, act) in life {
        act(address, Pid::from_child(&exporter.child));
        if let Some(ended) = exporter.child.try_wait().unwrap() {
            return (step, ended);
        }
    }
    ("the end", end(&mut exporter))
}

#[test]
fn without_any_row_of_its_table_an_exporter_is_killed() {
    if root() {
        as_init("without_any_row_of_its_table_an_exporter_is_killed", remove_each_row_of_the_exporter);
    }
}

fn remove_each_row_of_the_exporter() {
    let (programs, tree) = (Programs::new(), environment::public_dir());
    lay_out(tree.path());
    make_certificate(&tree.path().join("pem"));
    let lives = [(USERS, LIFE_OF_EXPORTER), (TLS, LIFE_WITH_TLS)];
    for (landlock, life) in [(false, lives[0]), (true, lives[0]), (false, lives[1])] {
        let (step, ended) = live_as_exporter(&programs, tree.path(), Without { landlock, row: None }, life);
        assert!(ended.success(), "with every row it lives, Landlock left out {landlock}: {step}, {ended}");
    }
    let rows: Vec<_> =
        SYSCALLS_OF_EXPORTER.iter().map(|row| format!("{}: {}", row.name, row.reason)).collect();
    let redundant = redundant(&rows, |row| {
        let without = Without { landlock: false, row: Some(row) };
        lives.iter().any(|life| {
            let (step, ended) = live_as_exporter(&programs, tree.path(), without, *life);
            println!("{}: {step}, {ended}", rows[row]);
            ended.signal() == Some(libc::SIGSYS)
        })
    });
    assert_eq!(wrong("exporter", &redundant), <[String; 0]>::default());
}

/// Writes a key and a certificate of it.
fn make_certificate(pem: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-subj", "/CN=keyhole", "-days", "2", "-keyout"]).arg(pem).stderr(Stdio::null());
    let certificate = openssl.output().unwrap();
    assert!(certificate.status.success(), "openssl: {}", certificate.status);
    fs::OpenOptions::new().append(true).open(pem).unwrap().write_all(&certificate.stdout).unwrap();
    fs::set_permissions(pem, fs::Permissions::from_mode(0o644)).unwrap();
}

fn scrape_by_curl(exporter: SocketAddr) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--max-time", "10"]).arg(format!("https://{exporter}/metrics"));
    curl.stdout(Stdio::null()).status().expect("curl is there");
}

fn started(fixture: &Fixture, broker: &mut ChildProcess) -> Result<(), std::process::ExitStatus> {
    wait_for("a start", || {
        broker.child.try_wait().unwrap().map(Err).or_else(|| fixture.reported().then_some(Ok(())))
    })
}

/// What ended a broker whose zygote was killed.
fn lose_the_zygote(programs: &Programs, tree: &Path, without: Without) -> std::process::ExitStatus {
    let (fixture, mut broker) = broker(programs, tree, without);
    if let Err(ended) = started(&fixture, &mut broker) {
        return ended;
    }
    let pid = broker.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let zygote = children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
    let _ = kill_process(zygote.unwrap(), Signal::KILL);
    end(&mut broker)
}

/// Whether seccomp killed a zygote or its readers of some classes that live their lives without a row: `zygote:N` or
/// `reader:N`. The machine is a small one, or this one.
fn readers_are_killed(programs: &Programs, classes: &[Class], without: Option<&str>, small: bool) -> bool {
    let (fixture, tree) = (Fixture::new(BROKER_UID), environment::public_dir());
    if small {
        lay_out(tree.path());
        lay_out_long_lists(tree.path(), &fixture.at("udev"), classes);
    }
    let slots: Vec<_> = classes.iter().map(|class| slot(*class)).collect();
    let mut zygote = Zygote::start(programs, &fixture, BROKER_UID, &slots, Stdio::null(), |command| {
        if small {
            for root in ["proc", "sys"] {
                command.arg(format!("--path.{root}fs={}", tree.path().join(root).display()));
            }
            command.arg(format!("--path.os-release={}", tree.path().join("proc/loadavg").display()));
        } else {
            command.arg("--view=auto");
        }
        command.arg(format!("--filesystem.probe-directory={}", fixture.at("open").display()));
        command.envs(without.map(|row| ("KEYHOLE_WITHOUT_ROW", row)));
    });
    let mut killed = zygote.report().is_none();
    for (class, slot) in classes.iter().zip(slots) {
        killed = killed || reader_is_killed(&mut zygote, *class, slot, tree.path());
    }
    let ended = zygote.leave();
    killed |= ended.signal() == Some(libc::SIGSYS);
    if without.is_none() {
        assert!(ended.success() && !killed, "with every row it lives: {classes:?}, {ended}");
    }
    killed
}

/// One reader after the other of a class; whether one is killed.
fn reader_is_killed(zygote: &mut Zygote, class: Class, slot: usize, tree: &Path) -> bool {
    let queries: Vec<u8> = TABLE.iter().filter(|row| row.class == class).map(|row| row.query as u8).collect();
    for round in 0..2 {
        zygote.order(slot);
        if let Some(killed) = killed_at_start(zygote, slot) {
            return killed;
        }
        // Whatever is asked of a reader that has been killed stays in the pipe, and its end is reported.
        zygote.ask(slot, &[CHECK_REQUEST]);
        for _ in 0..3 {
            zygote.ask(slot, &queries);
        }
        if round == 0 {
            answered(zygote, slot, 3 * queries.len());
            // Something appears, and something goes.
            let _ = fs::write(tree.join("proc/uptime"), "1 1\n");
            let _ = fs::remove_dir_all(tree.join("sys/devices/hwmon7"));
            zygote.ask(slot, &[CHECK_REQUEST]);
            zygote.ask(slot, &queries);
        }
        // What follows the end is never taken: the zygote takes it before the next reader.
        zygote.ask(slot, &[EXIT_REQUEST]);
        zygote.answers(slot).bytes.clear();
        match end_of_reader(zygote, slot) {
            Some(status) if signal(status) == Some(libc::SIGSYS) => return true,
            Some(_) => {}
            None => return true,
        }
        zygote.answers(slot).rest();
        zygote.answers(slot).bytes.clear();
        zygote.ask(slot, &[CHECK_REQUEST, CHECK_REQUEST]);
    }
    false
}

/// Waits until a reader has reported itself; whether it was killed, when it has ended instead.
fn killed_at_start(zygote: &mut Zygote, slot: usize) -> Option<bool> {
    wait_for("a reader", || {
        if let Some((kind, _, payload)) = zygote.answers(slot).frame(Duration::from_millis(2)) {
            assert!(kind == FrameKind::Hello, "{kind:?}: {}", String::from_utf8_lossy(&payload));
            return Some(None);
        }
        match zygote.reports().frame(Duration::ZERO) {
            Some((FrameKind::Exited, _, payload)) => {
                let status = i32::from_le_bytes(payload[8..12].try_into().unwrap());
                Some(Some(signal(status) == Some(libc::SIGSYS)))
            }
            _ if !zygote.is_running() => Some(Some(true)),
            _ => None,
        }
    })
}

/// Waits until so many queries are answered, or no more comes.
fn answered(zygote: &mut Zygote, slot: usize, mut left: usize) {
    while left > 0 {
        match zygote.answers(slot).frame(Duration::from_secs(1)) {
            Some((FrameKind::LastChunk, ..)) => left -= 1,
            Some(_) => {}
            None => return,
        }
    }
}

/// The wait status of a reader, whose answers are dropped until then; none when the zygote ended instead.
fn end_of_reader(zygote: &mut Zygote, slot: usize) -> Option<i32> {
    wait_for("the end of a reader", || {
        zygote.answers(slot).take(Duration::ZERO);
        zygote.answers(slot).bytes.clear();
        match zygote.reports().frame(Duration::from_millis(2)) {
            Some((FrameKind::Exited, _, payload)) => {
                Some(Some(i32::from_le_bytes(payload[8..12].try_into().unwrap())))
            }
            _ if !zygote.is_running() => Some(None),
            _ => None,
        }
    })
}

#[test]
fn without_any_row_of_the_table_a_broker_is_killed() {
    if root() {
        as_init("without_any_row_of_the_table_a_broker_is_killed", remove_each_row);
    }
}

#[test]
fn a_sealed_broker_that_panics_logs_where() {
    if !root() {
        return;
    }
    let (programs, fixture) = (Programs::new(), Fixture::new(BROKER_UID));
    let mut command = programs.broker(&fixture, BROKER_UID);
    command.env("KEYHOLE_ACT", "a panic").env("KEYHOLE_IN", "broker");
    let mut broker = ChildProcess::spawn(&mut command);
    let ended = end(&mut broker);
    let log = fixture.log();
    assert!(!ended.success() && log.contains("act.rs") && log.contains("for a test"), "{ended}: {log}");
}

fn remove_each_row() {
    let (programs, tree) = (Programs::new(), environment::public_dir());
    lay_out(tree.path());
    // Where Landlock does not refuse what the C library may look at, nothing but the table decides.
    for landlock in [false, true] {
        let (step, ended) = live(&programs, tree.path(), Without { landlock, row: None });
        assert!(ended.success(), "with every row it lives, Landlock left out {landlock}: {step}, {ended}");
    }
    let mut rows: Vec<_> = SYSCALLS.iter().map(|row| format!("{}: {}", row.name, row.reason)).collect();
    // In the order of `sandbox::syscalls`.
    rows.extend(["pread64", "unlinkat", "newfstatat"].map(|name| format!("{name}: a pinned descriptor")));
    let redundant = redundant(&rows, |row| {
        let without = Without { landlock: false, row: Some(row) };
        let (step, ended) = live(&programs, tree.path(), without);
        println!("{}: {step}, {ended}", rows[row]);
        ended.signal() == Some(libc::SIGSYS)
            || lose_the_zygote(&programs, tree.path(), without).signal() == Some(libc::SIGSYS)
    });
    assert_eq!(wrong("broker", &redundant), <[String; 0]>::default());
}

/// The rows without which nothing is killed.
fn redundant(rows: &[String], is_killed_without: impl Fn(usize) -> bool + Sync) -> Vec<String> {
    let (next, redundant) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let row = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = rows.get(row) else { return };
                    if !is_killed_without(row) {
                        redundant.lock().unwrap().push(name.clone());
                    }
                }
            });
        }
    });
    redundant.into_inner().unwrap()
}

/// What is wrong with the rows of a process that are redundant: it must be known why each of them is there.
fn wrong(process: &str, redundant: &[String]) -> Vec<String> {
    let sometimes = |row: &&String| SOMETIMES_PROVOKED.contains(&(process, row.as_str()));
    let redundant: Vec<&String> = redundant.iter().filter(|row| !sometimes(row)).collect();
    let known = NOT_PROVOKED.iter().filter(|(of, ..)| [process, "every process"].contains(of));
    let known: Vec<_> = known.map(|(_, name, _)| *name).collect();
    let name = |row: &String| row.split(':').next().unwrap_or_default().to_owned();
    let unknown = redundant.iter().filter(|row| !known.contains(&&*name(row)));
    let needed = known.iter().filter(|known| !redundant.iter().any(|row| name(row) == **known));
    let unknown = unknown.map(|row| format!("{process}: nothing needs {row}"));
    unknown.chain(needed.map(|row| format!("{process}: {row} is needed after all"))).collect()
}

#[test]
fn without_any_row_of_its_table_a_zygote_or_a_reader_is_killed() {
    if root() {
        as_init("without_any_row_of_its_table_a_zygote_or_a_reader_is_killed", remove_each_row_of_readers);
    }
}

fn remove_each_row_of_readers() {
    let programs = Programs::new();
    for small in [false, true] {
        assert!(!readers_are_killed(&programs, &Class::ALL, None, small));
    }
    let is_killed = |classes: &[Class], row: String| {
        [true, false].into_iter().any(|small| readers_are_killed(&programs, classes, Some(&row), small))
    };
    let mut failures = Vec::new();
    let mut check = |process: &str, rows: Vec<String>, is_killed: &(dyn Fn(usize) -> bool + Sync)| {
        failures.extend(wrong(process, &redundant(&rows, is_killed)));
    };
    let named = |rows: &[keyhole_os::seccomp::Row]| -> Vec<String> {
        rows.iter().map(|row| format!("{}: {}", row.name, row.reason)).collect()
    };
    check("zygote", named(ZYGOTE), &|row| is_killed(&Class::ALL, format!("zygote:{row}")));
    for class in Class::ALL {
        let rows = named(&reader_syscalls(class));
        check(class.name(), rows, &|row| is_killed(&[class], format!("reader:{row}")));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Asks for everything and takes the first part.
fn go_away(fixture: &Fixture) {
    ask(fixture, |mut client| async move {
        let queries = TABLE.iter().map(|row| row.query.into()).collect();
        let Ok(answer) = client.read(ReadRequest { queries }).await else { return };
        let _ = answer.into_inner().message().await;
    });
}

fn talk_garbage(fixture: &Fixture) {
    use std::io::Read;
    run_as_uid(BROKER_UID, || {
        let Ok(mut stream) = UnixStream::connect(fixture.socket()) else { return };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let _ = stream.write_all(&[0x20; 4096]);
        let _ = stream.read_to_end(&mut Vec::new());
    });
}

fn stop_and_go_on(pid: Pid) {
    let _ = kill_process(pid, Signal::STOP);
    std::thread::sleep(Duration::from_millis(50));
    let _ = kill_process(pid, Signal::CONT);
}
