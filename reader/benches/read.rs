//! What the broker does for one read of all queries, but for the socket: files through a lane into encoded messages.
//!
//! `cargo bench -p keyhole-broker --bench read -- DIR [ROUNDS]` prints the median of ROUNDS reads of a tree with proc/ and
//! sys/. Under callgrind, two runs with different ROUNDS differ by whole reads: that is how
//! `tests/bench/instructions.py` counts.

use std::path::Path;
use std::time::Instant;

use keyhole_broker::host::{Host, Paths, Roots};
use keyhole_broker::lanes::Lanes;
use keyhole_broker::view::{Choice, View};
use keyhole_proto::Encoded;
use keyhole_proto::v1::Query;
use prost::Message;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [dir, rest @ ..] = &arguments[..] else { return Err("usage: read DIR [ROUNDS]".into()) };
    let rounds: usize = rest.first().map_or(Ok(1000), |rounds| rounds.parse())?;
    let dir = Path::new(dir);
    let roots = Roots::open(&Paths { procfs: dir.join("proc"), sysfs: dir.join("sys"), ..Paths::default() })?;
    let view = View::find(&roots, Choice::Host)?;
    let lanes = Lanes::start(Host::open(roots, view), || Ok::<(), String>(()))?;
    let queries: Vec<Query> = keyhole_policy::TABLE.iter().map(|row| row.query).collect();
    let mut times = Vec::with_capacity(rounds);
    let mut bytes = 0;
    for _ in 0..rounds {
        let start = Instant::now();
        bytes = 0;
        let mut reading = lanes.begin(queries.clone()).await;
        while let Some(batch) = reading.next().await {
            bytes += batch.into_iter().map(|part| Encoded::from(part).encode_to_vec().len()).sum::<usize>();
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("{bytes} bytes, median {:?}", times[times.len() / 2]);
    Ok(())
}
