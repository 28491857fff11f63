//! No row of the broker's system calls is redundant: without it, a broker that does all it ever does is killed.

mod stage;

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyhole_attacks::{BROKER, STRANGER};
use keyhole_broker::sandbox::SYSCALLS;
use keyhole_os::seccomp::numbers;
use keyhole_policy::TABLE;
use keyhole_proto::v1::broker_client::BrokerClient;
use keyhole_proto::v1::{DescribeRequest, ReadRequest};
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

use stage::{Ground, Program, Running, alone, root, soon};

/// Rows that nothing here provokes, each with the reason why it stays.
const NOT_PROVOKED: &[(&str, &str)] = &[(
    "clock_gettime",
    "the vDSO tells the time without a call; without one, as with some clock sources, each time is a call",
)];

type Step = fn(&Ground, Pid);

/// What a broker does in its life; each step gets as far as the broker lets it.
#[rustfmt::skip]
const LIFE: &[(&str, Step)] = &[
    ("a description",            |ground, _| describe(ground)),
    ("a reading of everything",  |ground, _| { read_all(ground); }),
    ("a peer that is refused",   |ground, _| as_uid(STRANGER, || drop(UnixStream::connect(ground.socket())))),
    ("a peer that talks garbage", |ground, _| talk_garbage(ground)),
    ("a client that goes away",  |ground, _| go_away(ground)),
    ("many clients",             |ground, _| (0..10).for_each(|_| describe(ground))),
    ("another reading",          |ground, _| { read_all(ground); }),
    ("a stop, and going on",     |ground, pid| stop_and_go_on(ground, pid)),
    ("the end",                  |_, pid| { let _ = kill_process(pid, Signal::TERM); }),
];

/// What is left out of a broker's seal.
#[derive(Debug, Clone, Copy, Default)]
struct Without {
    landlock: bool,
    call: Option<i64>,
}

fn broker(program: &Program, tree: &Path, without: Without) -> (Ground, Running) {
    let ground = Ground::new(BROKER);
    let mut command = program.command(&ground, BROKER);
    command
        .arg(format!("--path.procfs={}", tree.join("proc").display()))
        .arg(format!("--path.sysfs={}", tree.join("sys").display()))
        .arg(format!("--filesystem.anchor={}", ground.at("open").display()))
        .args(["--allow-processes", "--log.level=debug"]);
    command.envs(without.landlock.then_some(("KEYHOLE_WITHOUT", "landlock")));
    command.envs(without.call.map(|number| ("KEYHOLE_WITHOUT_CALL", number.to_string())));
    (ground, Running(command.spawn().unwrap()))
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

/// What ended a broker that lives its life without a row or Landlock, and during which step.
fn live(program: &Program, tree: &Path, without: Without) -> (&'static str, std::process::ExitStatus) {
    let (ground, mut broker) = broker(program, tree, without);
    let pid = Pid::from_child(&broker.0);
    let started = soon("a start", || {
        broker.0.try_wait().unwrap().map(Err).or_else(|| ground.reported().then_some(Ok(())))
    });
    if let Err(ended) = started {
        return ("its start", ended);
    }
    for (step, act) in LIFE {
        act(&ground, pid);
        if let Some(ended) = broker.0.try_wait().unwrap() {
            return (step, ended);
        }
    }
    ("the end", broker.end())
}

#[test]
fn without_any_row_of_the_table_a_broker_is_killed() {
    if root() {
        alone("without_any_row_of_the_table_a_broker_is_killed", remove_each_row);
    }
}

#[test]
fn a_sealed_broker_that_panics_says_where() {
    if !root() {
        return;
    }
    let (program, ground) = (Program::new(), Ground::new(BROKER));
    let mut command = program.command(&ground, BROKER);
    command.env("KEYHOLE_PANIC", "1");
    let mut broker = Running(command.spawn().unwrap());
    let ended = broker.end();
    let log = ground.log();
    assert!(!ended.success() && log.contains("main.rs") && log.contains("for a test"), "{ended}: {log}");
}

fn remove_each_row() {
    let (program, tree) = (Program::new(), stage::public_dir());
    lay_out(tree.path());
    // Where Landlock does not refuse what the C library may look at, nothing but the table decides.
    for landlock in [false, true] {
        let (step, ended) = live(&program, tree.path(), Without { landlock, call: None });
        assert!(ended.success(), "with every row it lives, Landlock left out {landlock}: {step}, {ended}");
    }

    let mut rows: Vec<_> = SYSCALLS.iter().map(|row| (row.name, row.number)).collect();
    rows.push(("unlinkat", numbers::unlinkat));
    let (next, redundant) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((name, number)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let without = Without { landlock: false, call: Some(*number) };
                    let (step, ended) = live(&program, tree.path(), without);
                    println!("{name}: {step}, {ended}");
                    if ended.signal() != Some(libc::SIGSYS) {
                        redundant.lock().unwrap().push(*name);
                    }
                }
            });
        }
    });
    let mut redundant = redundant.into_inner().unwrap();
    redundant.sort_unstable();
    let mut expected: Vec<_> = NOT_PROVOKED.iter().map(|(name, _)| *name).collect();
    expected.sort_unstable();
    assert_eq!(redundant, expected, "rows that nothing needs, or that are needed after all");
}

fn as_uid(uid: u32, act: impl FnOnce() + Send) {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let act = || {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(uid));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        act();
    };
    std::thread::scope(|scope| scope.spawn(act).join().unwrap());
}

/// Does `act` with a client of the broker's uid, for a few seconds at most; what it says does not matter.
fn ask<F: Future>(ground: &Ground, act: impl FnOnce(BrokerClient<Channel>) -> F + Send) {
    let socket = ground.socket();
    as_uid(BROKER, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let act = async {
            if let Ok(channel) = channel(socket).await {
                act(BrokerClient::new(channel)).await;
            }
        };
        let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), act).await });
    });
}

async fn channel(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://keyhole").connect_with_connector(connector).await
}

fn describe(ground: &Ground) {
    ask(ground, |mut client| async move { client.describe(DescribeRequest {}).await });
}

fn read_all(ground: &Ground) {
    ask(ground, |mut client| async move {
        let queries = TABLE.iter().map(|row| row.query.into()).collect();
        let Ok(answer) = client.read(ReadRequest { queries }).await else { return };
        let mut parts = answer.into_inner();
        while let Ok(Some(_)) = parts.message().await {}
    });
}

/// Asks for everything and takes the first part.
fn go_away(ground: &Ground) {
    ask(ground, |mut client| async move {
        let queries = TABLE.iter().map(|row| row.query.into()).collect();
        let Ok(answer) = client.read(ReadRequest { queries }).await else { return };
        let _ = answer.into_inner().message().await;
    });
}

fn talk_garbage(ground: &Ground) {
    use std::io::{Read, Write};
    as_uid(BROKER, || {
        let Ok(mut stream) = UnixStream::connect(ground.socket()) else { return };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let _ = stream.write_all(&[0x20; 4096]);
        let _ = stream.read_to_end(&mut Vec::new());
    });
}

fn stop_and_go_on(ground: &Ground, pid: Pid) {
    let _ = kill_process(pid, Signal::STOP);
    std::thread::sleep(Duration::from_millis(50));
    let _ = kill_process(pid, Signal::CONT);
    describe(ground);
}
