//! What readers do for one request of all queries: files into frames, and those into /dev/null.
//!
//! `cargo bench -p keyhole-reader --bench read -- DIR [ROUNDS]` prints the median of ROUNDS reads of a tree with proc/
//! and sys/. Under callgrind, two runs with different ROUNDS differ by whole reads: that is how
//! `tests/bench/instructions.py` counts.

use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use keyhole_os::shared::SharedCells;
use keyhole_policy::{Class, Row, TABLE};
use keyhole_reader::arguments::{Arguments, Choice};
use keyhole_reader::cache::Shared;
use keyhole_reader::host::{Host, Roots};
use keyhole_reader::output::{Gone, Output};
use keyhole_reader::read::Scratch;
use keyhole_reader::view::View;

/// What one reader has.
struct Reader {
    host: Host,
    rows: Vec<&'static Row>,
    scratch: Scratch,
}

impl Reader {
    fn start(class: Class, arguments: &Arguments) -> Result<Self, Box<dyn Error>> {
        let roots = Roots::open(arguments)?;
        let view = View::find(&roots, Choice::Host)?;
        let rows: Vec<&'static Row> = TABLE.iter().filter(|row| row.class == class).collect();
        let shared = Shared::new(SharedCells::new()?, 0);
        let mut host =
            Host::open(rows.iter().copied(), arguments, roots, view, shared, arguments.cached_files);
        host.roots.keep_for(class);
        Ok(Self { host, rows, scratch: Scratch::default() })
    }

    /// Answers all of its queries, as one request.
    fn answer(&mut self, out: &mut Output<'_>) -> Result<(), Gone> {
        for row in &self.rows {
            let begun = Instant::now();
            out.begin(row.query);
            let (outcome, skipped) = self.host.read(row.query, &mut self.scratch, out)?.ok_or(Gone)?;
            out.end(outcome, begun.elapsed(), skipped, true)?;
        }
        out.flush()?;
        self.scratch.end();
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [dir, rest @ ..] = &words[..] else { return Err("usage: read DIR [ROUNDS]".into()) };
    let rounds: usize = rest.first().map_or(Ok(1000), |rounds| rounds.parse())?;
    let dir = Path::new(dir);
    let arguments = Arguments {
        procfs: dir.join("proc"),
        sysfs: dir.join("sys"),
        cached_files: 1024,
        ..Arguments::default()
    };
    let mut readers =
        Class::ALL.iter().map(|class| Reader::start(*class, &arguments)).collect::<Result<Vec<_>, _>>()?;
    let null = File::options().write(true).open("/dev/null")?;
    let mut out = Output::new(null.as_fd());
    let mut times: Vec<Duration> = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        for reader in &mut readers {
            reader.answer(&mut out).map_err(|Gone| "nothing takes the answer")?;
        }
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!("median {:?}", times.get(rounds / 2).ok_or("no rounds")?);
    Ok(())
}
