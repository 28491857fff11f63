//! A broker and an exporter under attack, watched while it lasts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::exposition::Exposition;
use crate::common::usage::{Usage, soon};
use crate::common::{Exporter, Home, Running, http, this_host};

/// Connections that the exporter serves at once, and the one that waits for its turn.
const CONNECTIONS: usize = 192 + 1;
/// The most memory that an attack may cost, given back or not.
const MEMORY_KIB: u64 = 32 << 10;
/// What most scrapes take less than under attack, and what each does: attackers and attacked share this machine.
const SCRAPE: Duration = Duration::from_secs(1);
const SLOWEST: Duration = Duration::from_secs(3);
/// How long an attack lasts.
const ATTACK: Duration = Duration::from_secs(3);

pub struct Siege {
    pub exporter: Exporter,
    _broker: Running,
    _home: Home,
}

impl Siege {
    pub fn new() -> Self {
        let home = Home::new();
        let broker = home.start_broker(&this_host());
        let exporter = home.start_exporter::<&str>(&[]);
        // What a first scrape allocates is no attack's doing.
        (0..3).for_each(|_| drop(exporter.scrape()));
        Self { exporter, _broker: broker, _home: home }
    }

    /// Attacks with `attackers` threads that go on until told to stop, and scrapes as Prometheus does meanwhile.
    pub fn withstands(&self, name: &str, attackers: usize, attack: impl Fn(SocketAddr, &AtomicBool) + Sync) {
        let (address, pid) = (self.exporter.address, self.exporter.process.pid());
        let before = Usage::of(pid);
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
                let now = Usage::of(pid);
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
        soon("descriptors are given back", || Usage::of(pid).descriptors <= before.descriptors);
        assert_eq!(Usage::of(pid).threads, before.threads);
    }
}

/// Stops the attackers also when an assertion fails.
pub struct StopAtEnd<'s>(pub &'s AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection on which no step takes for ever; none when the exporter's queue is full.
pub fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_write_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    Some(stream)
}

/// Everything that comes back for `request` until the end of the connection, or none within the time to read.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(address).expect("the exporter accepts");
    // What is refused half-way is answered before all of it is taken.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}
