//! A compromised exporter: every flood that it can send to the broker with its uid, while other clients send requests.
//!
//! Ignored by `cargo test`, since it takes a minute and its bounds are those of a release build:
//! `KEYHOLE_BINARIES=$PWD/target/release cargo test -p keyhole-broker --test hostile -- --ignored --nocapture`

mod floods;
mod watch;
mod wire;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floods::{FLOODS, Flood};
use keyhole_test_support::old_kernel::{PASS_RIGHTS, without};
use keyhole_test_support::*;
use watch::{Load, WellBehavedClient, ask_until_stopped};
use wire::Connection;

fn new_environment() -> Environment {
    Environment::with_programs(programs::broker_and_reader(env!("CARGO_BIN_EXE_keyhole-broker")))
}

/// Whether clients can be run as other uids.
fn root() -> bool {
    root_for("run clients as other uids")
}

/// How long each flood lasts.
const FLOOD: Duration = Duration::from_millis(1400);

/// Connections that flood at once. The hostile uid's fourth is its well-behaved one.
const THREADS: usize = 3;

/// The size of a few files of the fixture.
const LONG_BYTES: usize = 500 << 10;

const MEMORY_KIB: u64 = 8 << 10;
/// The memory of a reader: mostly the C library, which it shares with other programs.
const READER_KIB: u64 = 4 << 10;
const CPU_PERCENT: f64 = 50.0;
const ANSWER: Duration = Duration::from_secs(1);

/// What a flood sent: frames, and connections.
#[derive(Default)]
struct Sent {
    frames: AtomicU64,
    connections: AtomicU64,
}

#[test]
#[ignore = "takes a minute, and bounds a release build: see the top of this file"]
fn no_flood_costs_much_or_delays_others() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let mut flags = vec![format!("--allow-uid={EXPORTER_UID}"), "--path.sysfs=/sys".to_owned()];
    flags.extend(large_procfs(&environment));
    let mut broker = environment.start_broker(&flags);
    let failures = failures_under(&mut broker, FLOODS);
    let counters = broker.describe().counters.unwrap();
    println!("{counters:?}");
    let log = broker.process.log();
    println!("{} lines of log", log.lines().count());
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(counters.limited_requests > 100 && counters.refused_peers > 1000, "{counters:?}");
    assert!(log.lines().count() < 100, "a flood fills the log: {log}");
}

#[test]
#[ignore = "bounds a release build: see the top of this file"]
fn no_flood_costs_more_while_the_log_is_not_read() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let mut flags = vec![format!("--allow-uid={EXPORTER_UID}"), "--path.sysfs=/sys".to_owned()];
    flags.extend(large_procfs(&environment));
    // A line for each connection that ends with an error.
    flags.push("--log.level=debug".to_owned());
    let (unread, log) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let room = rustix::pipe::fcntl_setpipe_size(&log, 4096).unwrap();
    let mut broker = environment.spawn_broker(environment.broker_command(&flags), log);
    wait_until("the broker", || environment.probe(BROKER_UID).status.success());
    let floods =
        FLOODS.iter().filter(|flood| ["garbage", "connection churn", "HPACK bomb"].contains(&flood.name));
    let failures = failures_under(&mut broker, floods);
    let counters = broker.describe().counters.unwrap();
    println!("{counters:?}");
    assert!(failures.is_empty(), "{failures:#?}");
    let full = rustix::io::ioctl_fionread(&unread).unwrap();
    assert!(full > room as u64 / 2, "the log is not full: {full} of {room}");
}

#[test]
#[ignore = "bounds a release build: see the top of this file"]
fn no_flood_uses_more_where_the_kernel_does_not_refuse_descriptors() {
    if !root() {
        return;
    }
    let environment = new_environment();
    let mut flags = vec![format!("--allow-uid={EXPORTER_UID}"), "--path.sysfs=/sys".to_owned()];
    flags.extend(large_procfs(&environment));
    let mut broker = environment.run_broker(without(environment.broker_command(&flags), &PASS_RIGHTS));
    let failures = failures_under(&mut broker, FLOODS);
    println!("{:?}", broker.describe().counters.unwrap());
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Floods a broker while other clients send requests; returns the limits that it exceeded.
fn failures_under<'f>(broker: &mut Broker, floods: impl IntoIterator<Item = &'f Flood>) -> Vec<String> {
    // Memory that stays in use after the first read is not a leak.
    broker.read(&keyhole_policy::TABLE.iter().map(|row| row.query).collect::<Vec<_>>());

    let socket = broker.socket.clone();
    let clients = [WellBehavedClient::new("another uid"), WellBehavedClient::new("the same uid")];
    let over = AtomicU64::new(0);
    let mut failures = Vec::new();
    // A client's probe may be connected when they are counted.
    let mut descriptors = usize::MAX;
    std::thread::scope(|scope| {
        for (client, uid) in clients.iter().zip([BROKER_UID, EXPORTER_UID]) {
            let (socket, over) = (&socket, &over);
            scope.spawn(move || run_as(uid, BROKER_UID, || ask_until_stopped(client, socket, over)));
        }
        println!(
            "{:<26} {:>7} {:>9} {:>6} {:>8} {:>10} {:>6} {:>9} {:>11} {:>11}",
            "flood",
            "seconds",
            "frames",
            "conns",
            "peak KiB",
            "reader KiB",
            "CPU %",
            "fds",
            "other, ms",
            "same, ms"
        );
        for flood in floods {
            clients.iter().for_each(WellBehavedClient::wait_until_calm);
            let (before, start) = (Load::of(broker.process.pid()), Instant::now());
            descriptors = descriptors.min(before.descriptors);
            before.forget_peaks();
            let sent = Sent::default();
            run_as(EXPORTER_UID, BROKER_UID, || flood_from_threads(flood, &socket, &sent));
            let (after, took) = (Load::of(broker.process.pid()), start.elapsed());
            let cpu = 100.0 * (after.cpu - before.cpu).as_secs_f64() / took.as_secs_f64();
            let settled = after.settled(descriptors);
            let worst = clients.each_ref().map(|client| client.worst());
            println!(
                "{:<26} {:>7.1} {:>9} {:>6} {:>8} {:>10} {:>6.1} {:>4}/{:<4} {:>11} {:>11}",
                flood.name,
                took.as_secs_f64(),
                sent.frames.load(Ordering::Relaxed),
                sent.connections.load(Ordering::Relaxed),
                after.peak_kib,
                after.reader_peak_kib,
                cpu,
                descriptors,
                settled,
                worst[0].as_millis(),
                worst[1].as_millis(),
            );
            let mut check = |holds: bool, what: String| {
                if !holds {
                    failures.push(format!("{}: {what}", flood.name));
                }
            };
            check(sent.connections.load(Ordering::Relaxed) > 0, "nothing was sent".into());
            check(after.peak_kib < MEMORY_KIB, format!("{} KiB", after.peak_kib));
            check(after.reader_peak_kib < READER_KIB, format!("a reader has {} KiB", after.reader_peak_kib));
            check(cpu < CPU_PERCENT, format!("{cpu:.1} % of a CPU"));
            check(settled <= descriptors, format!("{descriptors} descriptors, then {settled}"));
            for (client, worst) in clients.iter().zip(worst) {
                check(worst < ANSWER, format!("{} waited {worst:?}", client.name));
                client.failures().into_iter().for_each(|failure| check(false, failure));
            }
            check(broker.process.is_running(), "it ended the broker".into());
        }
        over.store(1, Ordering::Relaxed);
    });
    failures
}

/// A /proc with long files, so that responses that are not read take memory.
fn large_procfs(environment: &Environment) -> [String; 2] {
    for path in ["stat", "meminfo", "loadavg", "vmstat", "diskstats", "cpuinfo"] {
        environment
            .write(&format!("proc/{path}"), &std::fs::read_to_string(Path::new("/proc").join(path)).unwrap());
    }
    let long = "eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n".repeat(LONG_BYTES / 44);
    for path in ["1/net/dev", "1/net/udp", "1/net/arp", "1/net/tcp", "1/mountinfo", "interrupts", "zoneinfo"]
    {
        environment.write(&format!("proc/{path}"), &long);
    }
    [format!("--path.procfs={}", environment.path("proc").display()), "--view=host".to_owned()]
}

/// Floods from several threads, each with one connection after another.
fn flood_from_threads(flood: &Flood, socket: &Path, sent: &Sent) {
    let until = Instant::now() + FLOOD;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while Instant::now() < until {
                    let number = sent.connections.fetch_add(1, Ordering::Relaxed);
                    let Some(mut connection) = Connection::open(socket, until, number) else { continue };
                    (flood.act)(&mut connection);
                    sent.frames.fetch_add(connection.sent, Ordering::Relaxed);
                }
            });
        }
    });
}
