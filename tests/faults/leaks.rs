//! What many scrapes leave behind: nothing.

use std::time::Instant;

use crate::common::usage::{Usage, soon};
use crate::common::{Home, this_host};

/// How many, unless KEYHOLE_SCRAPES says so. 10,000 take more than eight minutes: the broker answers 20 reads a second.
const SCRAPES: usize = 600;
/// Scrapes after which buffers have their size.
const WARM: usize = 100;
/// What may be between two readings of a process that keeps nothing: the allocator's whims.
const NOISE_KIB: u64 = 1024;

#[test]
fn hundreds_of_scrapes_leave_descriptors_threads_and_memory_of_both_programs_as_they_were() {
    let scrapes =
        std::env::var("KEYHOLE_SCRAPES").map_or(SCRAPES, |scrapes| scrapes.parse().expect("a number"));
    let home = Home::new();
    let broker = home.start_broker(&this_host());
    let exporter = home.start_exporter::<&str>(&[]);
    let usage = || [broker.pid(), exporter.process.pid()].map(Usage::of);
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
    soon("descriptors are given back", || {
        let now = usage();
        now.iter().zip(&warm).all(|(now, warm)| now.descriptors <= warm.descriptors)
    });
    for (now, warm) in usage().iter().zip(&warm) {
        assert_eq!(now.threads, warm.threads);
        assert!(now.resident_kib <= warm.resident_kib + NOISE_KIB, "{warm:?} -> {now:?}");
    }
}
