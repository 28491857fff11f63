//! A broker that is killed, or whose socket is taken away.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyhole_test_support::exposition::Exposition;
use keyhole_test_support::usage::Usage;
use keyhole_test_support::{Environment, TIMEOUT, http, this_host, wait_until};

/// A number that looks random and is the same in each run (xorshift).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_broker_killed_at_any_point_of_200_scrapes_never_leaves_a_partial_scrape_with_status_200() {
    const SCRAPES: usize = 200;
    let environment = Environment::new();
    let mut broker = environment.start_broker(&this_host());
    let exporter = environment.start_exporter::<&str>(&[]);
    let whole = exporter.scrape();
    let families: Vec<&str> = whole.families().filter(|family| family.starts_with("node_")).collect();
    let before = Usage::measure(exporter.process.pid());

    let (done, ask) = (AtomicUsize::new(0), AtomicBool::new(true));
    let (mut good, mut bad, mut kills) = (0, 0, 0);
    let _broker = std::thread::scope(|scope| {
        let scrapes = scope.spawn(|| {
            let mut statuses = Vec::new();
            while statuses.len() < SCRAPES && ask.load(Ordering::Relaxed) {
                let answer =
                    http::get(exporter.address, "/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", "3")]);
                assert!(answer.elapsed < Duration::from_secs(3), "{:?}", answer.elapsed);
                statuses.push((answer.status, answer.body));
                done.fetch_add(1, Ordering::Relaxed);
            }
            statuses
        });
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let start = Instant::now();
        while !scrapes.is_finished() {
            assert!(start.elapsed() < 6 * TIMEOUT, "{} scrapes", done.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_micros(next(&mut state) % 150_000));
            broker.process.kill();
            kills += 1;
            std::thread::sleep(Duration::from_micros(next(&mut state) % 30_000));
            broker = environment.start_broker(&this_host());
        }
        ask.store(false, Ordering::Relaxed);
        for (status, body) in scrapes.join().unwrap() {
            match status {
                200 => {
                    good += 1;
                    let scrape = Exposition::parse(&body).unwrap();
                    let missing: Vec<&&str> = families.iter().filter(|family| !scrape.has(family)).collect();
                    assert!(missing.is_empty(), "200 without {missing:?}");
                }
                503 => {
                    bad += 1;
                    assert_eq!(body.iter().filter(|&&byte| byte == b'\n').count(), 1, "one line");
                }
                status => panic!("{status}"),
            }
        }
        broker
    });
    eprintln!("{kills} kills: {good} scrapes were whole, {bad} were 503");
    assert!(kills >= 10 && good > 0, "{kills} kills, {good} whole scrapes");
    let scrape = exporter.scrape();
    assert!(families.iter().all(|family| scrape.has(family)), "one scrape after the restart");
    assert!(scrape.value("keyhole_broker_restarts_seen_total", &[]) >= Some(1.0));
    wait_until("descriptors are closed", || {
        let now = Usage::measure(exporter.process.pid());
        now.descriptors <= before.descriptors && now.threads == before.threads
    });
}

#[test]
fn a_broker_restarted_between_two_scrapes_serves_the_second() {
    let environment = Environment::new();
    let mut broker = environment.start_broker(&this_host());
    let exporter = environment.start_exporter::<&str>(&[]);
    let started = |scrape: &Exposition| scrape.value("keyhole_broker_start_time_seconds", &[]).unwrap();
    let first = started(&exporter.scrape());
    for restarts in 1..4 {
        broker.process.kill();
        broker = environment.start_broker(&this_host());
        let scrape = exporter.scrape();
        assert!(started(&scrape) > first, "the description is of the broker that answered");
        assert_eq!(scrape.value("keyhole_broker_restarts_seen_total", &[]), Some(f64::from(restarts)));
    }
    drop(broker);
}

#[test]
fn a_deleted_socket_with_or_without_its_directory_is_found_after_a_restart() {
    let environment = Environment::new();
    let mut broker = environment.start_broker(&this_host());
    let exporter = environment.start_exporter::<&str>(&[]);
    exporter.scrape();
    let before = Usage::measure(exporter.process.pid());

    fs::remove_file(environment.socket()).unwrap();
    assert_eq!(exporter.metrics("3").status, 200, "an open connection keeps working");
    broker.process.kill();
    assert_eq!(exporter.metrics("3").status, 503);
    broker = environment.start_broker(&this_host());
    exporter.scrape();

    fs::remove_dir_all(environment.socket_dir()).unwrap();
    broker.process.kill();
    let answer = exporter.metrics("3");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("No such file or directory"), "{}", answer.text());
    environment.create_socket_dir();
    let _broker = environment.start_broker(&this_host());
    exporter.scrape();
    wait_until("descriptors are closed", || {
        Usage::measure(exporter.process.pid()).descriptors <= before.descriptors
    });
}
