//! Processes that violate the protocol of the pipes: a compromised broker, which sends anything to a zygote and its
//! readers, and a compromised zygote or reader, which sends anything to a broker. The other end neither crashes nor grows.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyhole_attacks::{BROKER_UID, Process, act};
use keyhole_policy::pipes::{CHECK_REQUEST, EXIT_REQUEST, FrameKind, SLOTS};
use keyhole_policy::{Class, TABLE};

use crate::environment::client::{describe, read_all};
use crate::environment::pipes::{Zygote, slot};
use crate::environment::{ChildProcess, Fixture, Programs, as_init, end, root, wait_for};

/// What a flood may add to a process that it is not aimed at, in KiB.
const GROWTH_KIB: u64 = 1024;

/// The most memory of a broker of a debug build, in KiB.
const BROKER_KIB: u64 = 48 << 10;

/// The processes that a process has started and not waited for.
fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The most memory that a process has had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn zygote(programs: &Programs, fixture: &Fixture, slots: &[usize]) -> Zygote {
    let mut zygote = Zygote::start(programs, fixture, BROKER_UID, slots, Stdio::null(), |_| {});
    assert!(zygote.report().is_some_and(|(kind, ..)| kind == FrameKind::Hello));
    zygote
}

/// Orders a reader and waits until it is ready.
fn order(zygote: &mut Zygote, slot: usize) {
    zygote.order(slot);
    let (kind, _, payload) = zygote.answers(slot).frame(Duration::from_secs(30)).expect("a hello");
    assert_eq!(kind, FrameKind::Hello, "{}", String::from_utf8_lossy(&payload));
}

#[test]
fn a_zygote_that_gets_every_order_for_ever_has_one_reader_a_slot() {
    if root() {
        as_init("protocol::a_zygote_that_gets_every_order_for_ever_has_one_reader_a_slot", || {
            let (programs, fixture) = (Programs::new(), Fixture::new(BROKER_UID));
            let mut zygote = zygote(&programs, &fixture, &(0..SLOTS).collect::<Vec<_>>());
            let pid = zygote.pid();
            let every: Vec<u8> = (0..=u8::MAX).collect();
            assert!(zygote.order_bytes(&every));
            wait_for("a reader a slot", || (children(pid).len() == SLOTS).then_some(()));
            // It opens the last one's pidfd a moment after it has started it.
            std::thread::sleep(Duration::from_millis(200));
            let (before, open, until) =
                (peak_kib(pid), descriptors(pid), Instant::now() + Duration::from_secs(2));
            while Instant::now() < until {
                assert!(zygote.order_bytes(&every));
                assert!(children(pid).len() <= SLOTS);
            }
            assert!(peak_kib(pid) <= before + GROWTH_KIB, "{before} KiB, then {}", peak_kib(pid));
            assert!(descriptors(pid) <= open, "{open} descriptors, then {}", descriptors(pid));
            let readers = children(pid);
            assert!(zygote.leave().success());
            wait_for("the end of every reader", || {
                readers.iter().all(|pid| peak_kib(*pid) == 0).then_some(())
            });
        });
    }
}

#[test]
fn a_zygote_whose_readers_end_as_soon_as_they_start_does_not_grow() {
    if root() {
        as_init("protocol::a_zygote_whose_readers_end_as_soon_as_they_start_does_not_grow", || {
            let (programs, fixture) = (Programs::new(), Fixture::new(BROKER_UID));
            let slot = slot(Class::Procfs);
            let mut zygote = zygote(&programs, &fixture, &[slot]);
            let pid = zygote.pid();
            let mut first = None;
            for _ in 0..200 {
                order(&mut zygote, slot);
                assert!(zygote.ask(slot, &[EXIT_REQUEST]));
                assert_eq!(zygote.next_end().unwrap(), (slot, 0));
                let now = (peak_kib(pid), descriptors(pid));
                let (kib, open) = *first.get_or_insert(now);
                assert!(now.0 <= kib + GROWTH_KIB && now.1 <= open, "{first:?}, then {now:?}");
            }
            assert_eq!(children(pid), [0; 0]);
            assert!(zygote.leave().success());
        });
    }
}

#[test]
fn a_byte_that_is_no_query_of_its_class_ends_a_reader_without_an_answer() {
    if root() {
        as_init("protocol::a_byte_that_is_no_query_of_its_class_ends_a_reader_without_an_answer", || {
            let (programs, fixture) = (Programs::new(), Fixture::new(BROKER_UID));
            let slots = Class::ALL.map(slot);
            let mut zygote = zygote(&programs, &fixture, &slots);
            for class in Class::ALL {
                let slot = slot(class);
                let others = TABLE.iter().filter(|row| row.class != class).map(|row| row.query as u8);
                let none = (1..CHECK_REQUEST).filter(|byte| TABLE.iter().all(|row| row.query as u8 != *byte));
                for byte in others.step_by(7).chain(none.step_by(11)) {
                    order(&mut zygote, slot);
                    assert!(zygote.ask(slot, &[byte]));
                    assert_eq!(zygote.next_end().unwrap(), (slot, 0), "{byte} of {}", class.name());
                    assert_eq!(zygote.answers(slot).rest(), "", "{byte} of {}", class.name());
                }
            }
            assert!(zygote.leave().success());
        });
    }
}

#[test]
fn a_reader_whose_output_nobody_reads_waits_and_ends_with_its_broker() {
    if root() {
        as_init("protocol::a_reader_whose_output_nobody_reads_waits_and_ends_with_its_broker", || {
            let (programs, fixture) = (Programs::new(), Fixture::new(BROKER_UID));
            let slot = slot(Class::Procfs);
            let mut zygote = zygote(&programs, &fixture, &[slot]);
            order(&mut zygote, slot);
            let queries = TABLE.iter().filter(|row| row.class == Class::Procfs).map(|row| row.query as u8);
            let queries: Vec<u8> = queries.cycle().take(32 << 10).collect();
            assert!(zygote.ask(slot, &queries));
            let reader = children(zygote.pid())[0];
            std::thread::sleep(Duration::from_millis(500));
            let before = peak_kib(reader);
            std::thread::sleep(Duration::from_secs(1));
            assert!(peak_kib(reader) <= before + GROWTH_KIB, "{before} KiB, then {}", peak_kib(reader));
            assert!(zygote.leave().success());
            wait_for("the end of the reader", || (peak_kib(reader) == 0).then_some(()));
        });
    }
}

/// What an act in a reader of each class reports in its pipe.
fn reported_by_readers(what: &str) -> Vec<(Class, String)> {
    let programs = Programs::new();
    Class::ALL
        .map(|class| {
            let (fixture, slot) = (Fixture::new(BROKER_UID), slot(class));
            let extra_syscalls = |command: &mut Command| {
                command.env("KEYHOLE_ACT", what).env("KEYHOLE_IN", Process::Reader(class).name());
            };
            let slots: Vec<_> = Class::ALL.map(self::slot).into();
            let mut zygote =
                Zygote::start(&programs, &fixture, BROKER_UID, &slots, Stdio::null(), extra_syscalls);
            order(&mut zygote, slot);
            assert_eq!(zygote.next_end().unwrap(), (slot, 0));
            let reported = zygote.answers(slot).rest();
            zygote.leave();
            (class, reported)
        })
        .into()
}

#[test]
fn a_reader_reaches_the_page_of_its_own_class_alone() {
    if root() {
        as_init("protocol::a_reader_reaches_the_page_of_its_own_class_alone", || {
            for (class, reported) in reported_by_readers("the pages of other classes") {
                assert!(reported.contains("of 6 pages 1 can be read"), "{}: {reported:?}", class.name());
            }
        });
    }
}

#[test]
fn a_reader_has_no_pipe_of_another() {
    if root() {
        as_init("protocol::a_reader_has_no_pipe_of_another", || {
            for (class, reported) in reported_by_readers("the pipes of other readers") {
                assert!(reported.contains("\n0 pipes of others are open"), "{}: {reported:?}", class.name());
            }
        });
    }
}

/// A broker whose zygote or readers of class procfs run an act.
fn hostile_broker(programs: &Programs, fixture: &Fixture, act: &str, process: Process) -> ChildProcess {
    let mut command = programs.broker(fixture, BROKER_UID);
    command.env("KEYHOLE_ACT", act).env("KEYHOLE_IN", process.name());
    ChildProcess::spawn(&mut command)
}

#[test]
fn a_broker_with_a_hostile_reader_answers_the_queries_of_others_and_does_not_grow() {
    if root() {
        as_init(
            "protocol::a_broker_with_a_hostile_reader_answers_the_queries_of_others_and_does_not_grow",
            || {
                let programs = Programs::new();
                std::thread::scope(|scope| {
                    act::floods().for_each(|act| {
                        let programs = &programs;
                        scope.spawn(move || with_hostile_reader(programs, act));
                    });
                });
            },
        );
    }
}

fn with_hostile_reader(programs: &Programs, act: &str) {
    let fixture = Fixture::new(BROKER_UID);
    let mut broker = hostile_broker(programs, &fixture, act, Process::Reader(Class::Procfs));
    let pid = broker.pid();
    wait_for("a broker", || (fixture.reported() || broker.child.try_wait().unwrap().is_some()).then_some(()));
    for _ in 0..3 {
        let answered = read_all(&fixture);
        if broker.child.try_wait().unwrap().is_some() {
            break;
        }
        assert!(answered > 0, "{act}: nothing is answered\n{}", fixture.log());
        describe(&fixture);
        assert!(peak_kib(pid) < BROKER_KIB, "{act}: {} KiB", peak_kib(pid));
    }
    ended_in_order(act, &fixture, broker);
}

#[test]
fn a_broker_with_a_hostile_zygote_returns_no_data_and_does_not_grow() {
    if root() {
        as_init("protocol::a_broker_with_a_hostile_zygote_returns_no_data_and_does_not_grow", || {
            let programs = Programs::new();
            std::thread::scope(|scope| {
                act::floods().for_each(|act| {
                    let programs = &programs;
                    scope.spawn(move || with_hostile_zygote(programs, act));
                });
            });
        });
    }
}

fn with_hostile_zygote(programs: &Programs, act: &str) {
    let fixture = Fixture::new(BROKER_UID);
    let mut broker = hostile_broker(programs, &fixture, act, Process::Zygote);
    let pid = broker.pid();
    // Readers that never come are logged, and are not a reason to end.
    let serves = wait_for("a start", || {
        let serves = fixture.log().contains("the reader was not ready in time");
        (serves || broker.child.try_wait().unwrap().is_some()).then_some(serves)
    });
    assert!(peak_kib(pid) < BROKER_KIB, "{act}: {} KiB", peak_kib(pid));
    if serves {
        assert_eq!(read_all(&fixture), 0, "{act}: a query is answered");
    } else {
        assert!(!fixture.socket().exists(), "{act}: it leaves a socket");
    }
    ended_in_order(act, &fixture, broker);
}

/// Ends a broker, unless it has ended by itself: then it must have logged why.
fn ended_in_order(act: &str, fixture: &Fixture, mut broker: ChildProcess) {
    if broker.child.try_wait().unwrap().is_none() {
        let pid = rustix::process::Pid::from_child(&broker.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
    let (ended, log) = (end(&mut broker), fixture.log());
    assert!(!log.contains("panicked"), "{act}: {log}");
    match ended.code() {
        Some(0) => {}
        Some(1) => assert!(log.contains("keyhole-broker: error: "), "{act}: {log}"),
        _ => panic!("{act}: {ended}\n{log}"),
    }
}
