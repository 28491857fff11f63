//! What the exporter does in one scrape once the broker has answered: collectors, sorting, text.
//!
//! `cargo bench -p keyhole-exporter --bench render -- DIR [ROUNDS]` prints the median of ROUNDS renders of a capture. Under
//! callgrind, two runs with different ROUNDS differ by whole renders: that is how `tests/bench/instructions.py` counts.

use std::path::Path;
use std::time::Instant;

use keyhole_exporter::collector::{self, Context};
use keyhole_exporter::exposition::Exposition;
use keyhole_exporter::options::Options;
use keyhole_exporter::own::OwnSource;
use keyhole_exporter::{capture, scrape};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [dir, rest @ ..] = &arguments[..] else { return Err("usage: render DIR [ROUNDS]".into()) };
    let rounds: usize = rest.first().map_or(Ok(1000), |rounds| rounds.parse())?;
    let capture = capture::read(Path::new(dir))?;
    let options = Options::defaults(&collector::flags());
    let own = OwnSource::new(&options).of_capture(capture.about).now();
    let enabled = scrape::enabled(&options);
    let mut times = Vec::with_capacity(rounds);
    let mut bytes = 0;
    for _ in 0..rounds {
        let start = Instant::now();
        let mut out = Exposition::new();
        let context = Context { snapshot: &capture.snapshot, options: &options, own: &own };
        collector::run(&enabled, &context, usize::MAX, &mut out);
        let mut text = Vec::new();
        out.write(&mut text, |_| true);
        bytes = text.len();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("{bytes} bytes, median {:?}", times[times.len() / 2]);
    Ok(())
}
