//! What many scrapes leave behind: nothing.

use std::time::Instant;

use keyhole_test_support::usage::Usage;
use keyhole_test_support::{Environment, this_host, wait_until};

/// How many, unless KEYHOLE_SCRAPES is set. 10,000 take more than eight minutes: the broker answers 20 reads a second.
const SCRAPES: usize = 600;
/// Scrapes after which buffers have their size.
const WARM: usize = 100;
/// The difference that is allowed between two measurements: the allocator varies.
const NOISE_KIB: u64 = 1024;

#[test]
fn hundreds_of_scrapes_leave_descriptors_threads_and_memory_of_both_programs_as_they_were() {
    let scrapes =
        std::env::var("KEYHOLE_SCRAPES").map_or(SCRAPES, |scrapes| scrapes.parse().expect("a number"));
    let environment = Environment::new();
    let broker = environment.start_broker(&this_host());
    let exporter = environment.start_exporter::<&str>(&[]);
    let usage = || [broker.process.pid(), exporter.process.pid()].map(Usage::measure);
    let mut warm = None;
    let start = Instant::now();
    for scrape in 0..scrapes {
        if scrape == WARM {
            warm = Some(usage());
        }
        let answer = exporter.metrics("10");
        assert_eq!(answer.status, 200, "{scrape}: {}", answer.text());
        if scrape % 1000 == 999 {
            eprintln!("{}: {:?}", scrape + 1, usage());
        }
    }
    let warm = warm.expect("more scrapes than it takes to get warm");
    eprintln!("{scrapes} scrapes in {:.0?}: {warm:?} -> {:?}", start.elapsed(), usage());
    wait_until("descriptors are closed", || {
        let now = usage();
        now.iter().zip(&warm).all(|(now, warm)| now.descriptors <= warm.descriptors)
    });
    for (now, warm) in usage().iter().zip(&warm) {
        assert_eq!(now.threads, warm.threads);
        assert!(now.resident_kib <= warm.resident_kib + NOISE_KIB, "{warm:?} -> {now:?}");
    }
}
