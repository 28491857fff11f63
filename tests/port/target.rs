//! A broker and an exporter under attack, watched while it lasts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyhole_test_support::exposition::Exposition;
use keyhole_test_support::usage::Usage;
use keyhole_test_support::{Broker, Environment, Exporter, http, root_for, this_host, wait_until};

/// Connections that the exporter serves at once, and the one that waits to be served.
const CONNECTIONS: usize = 192 + 1;
/// The most memory that an attack may cost, freed later or not.
const MEMORY_KIB: u64 = 32 << 10;
/// The limits of the median scrape and of each scrape under attack: attackers and exporter share this machine.
const SCRAPE: Duration = Duration::from_secs(1);
const SLOWEST: Duration = Duration::from_secs(3);
/// How long an attack lasts.
const ATTACK: Duration = Duration::from_secs(3);

pub struct Target {
    pub exporter: Exporter,
    _broker: Broker,
    _environment: Environment,
}

impl Target {
    pub fn new() -> Self {
        let environment = Environment::new();
        let broker = environment.start_broker(&this_host());
        let exporter = environment.start_exporter::<&str>(&[]);
        // What the first scrapes allocate is not due to an attack.
        (0..3).for_each(|_| drop(exporter.scrape()));
        Self { exporter, _broker: broker, _environment: environment }
    }

    /// One of which the open descriptors can be counted; none without root, since the exporter is not dumpable.
    pub fn measurable() -> Option<Self> {
        root_for("count the descriptors of a program that is not dumpable").then(Self::new)
    }

    /// Attacks with `attackers` threads until they are stopped, scrapes as Prometheus does meanwhile, and panics when scrapes
    /// are slow or the exporter uses too much.
    pub fn assert_serves_during(
        &self,
        name: &str,
        attackers: usize,
        attack: impl Fn(SocketAddr, &AtomicBool) + Sync,
    ) {
        let (address, pid) = (self.exporter.address, self.exporter.process.pid());
        let before = Usage::measure(pid);
        let stop = AtomicBool::new(false);
        let (mut took, mut most) = (Vec::new(), before);
        std::thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for _ in 0..attackers {
                scope.spawn(|| attack(address, &stop));
            }
            std::thread::sleep(Duration::from_millis(300));
            let start = Instant::now();
            while start.elapsed() < ATTACK {
                let begin = Instant::now();
                let answer = http::get(address, "/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", "5")]);
                took.push(begin.elapsed());
                assert_eq!(answer.status, 200, "{name}: {}", answer.text());
                let scrape = Exposition::parse(&answer.body).unwrap();
                assert!(scrape.has("node_memory_MemTotal_bytes"), "{name}");
                let now = Usage::measure(pid);
                most.descriptors = most.descriptors.max(now.descriptors);
                most.resident_kib = most.resident_kib.max(now.resident_kib);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        took.sort();
        let (middle, slowest) = (took[took.len() / 2], took[took.len() - 1]);
        eprintln!(
            "{name}: {} scrapes, the middle one {middle:.0?}, the slowest {slowest:.0?}; descriptors {} -> {}; resident {} -> {} KiB",
            took.len(),
            before.descriptors,
            most.descriptors,
            before.resident_kib,
            most.resident_kib
        );
        assert!(middle < SCRAPE && slowest < SLOWEST, "{name}: scrapes took {took:?}");
        assert!(most.descriptors <= before.descriptors + CONNECTIONS, "{name}: {before:?} {most:?}");
        assert!(most.resident_kib <= before.resident_kib + MEMORY_KIB, "{name}: {before:?} {most:?}");
        wait_until("descriptors are closed", || Usage::measure(pid).descriptors <= before.descriptors);
        assert_eq!(Usage::measure(pid).threads, before.threads);
    }
}

/// Stops the attackers also when an assertion fails.
pub struct StopAtEnd<'s>(pub &'s AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
