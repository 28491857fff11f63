//! What a reader does for one read of all queries, but for the pipe: files into encoded chunks.
//!
//! `cargo bench -p keyhole-reader --bench read -- DIR [ROUNDS]` prints the median of ROUNDS reads of a tree with proc/
//! and sys/. Under callgrind, two runs with different ROUNDS differ by whole reads: that is how
//! `tests/bench/instructions.py` counts.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use keyhole_os::shared::SharedCells;
use keyhole_policy::{Class, TABLE};
use keyhole_reader::arguments::{Arguments, ViewMode};
use keyhole_reader::cache::SharedState;
use keyhole_reader::host::{Host, Roots};
use keyhole_reader::output::Output;
use keyhole_reader::read::Scratch;
use keyhole_reader::view::View;

/// What `--descriptor-cache` is by default.
const CACHED_FILES: u64 = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [dir, rest @ ..] = &words[..] else { return Err("usage: read DIR [ROUNDS]".into()) };
    let rounds: usize = rest.first().map_or(Ok(1000), |rounds| rounds.parse())?;
    let dir = Path::new(dir);
    let arguments = Arguments {
        procfs: dir.join("proc"),
        sysfs: dir.join("sys"),
        view: ViewMode::Host,
        ..Arguments::default()
    };
    let shared = SharedState::new(SharedCells::new()?, 0, CACHED_FILES);
    let roots = Roots::open(&arguments, &Class::ALL, &shared)?;
    let view = View::find(&roots, arguments.view)?;
    let mut host = Host::open(TABLE.iter(), &arguments, roots, view, shared);
    let pipe = OpenOptions::new().write(true).open("/dev/null")?;
    let (mut out, mut scratch) = (Output::new(pipe.as_fd()), Scratch::default());
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        for row in TABLE {
            out.begin(row.query);
            let read = host.read(row.query, &mut scratch, &mut out).map_err(|_| "/dev/null is full")?;
            let (outcome, left_out, skipped) = read.ok_or("a query without a row")?;
            out.end(outcome, start.elapsed(), left_out, skipped, true).map_err(|_| "/dev/null is full")?;
        }
        out.flush().map_err(|_| "/dev/null is full")?;
        scratch.end_request();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("median {:?}", times[times.len() / 2]);
    Ok(())
}
