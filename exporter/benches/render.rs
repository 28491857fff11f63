//! What the exporter does in one scrape with the broker's answer: decoding, collectors, sorting, text, compression.
//!
//! `cargo bench -p keyhole-exporter --bench render -- DIR [ROUNDS [FLAG...]]` prints the median of ROUNDS scrapes of a
//! capture, with the exporter's FLAGs. Under callgrind, two runs with different ROUNDS differ by whole scrapes: that is
//! how `tests/bench/instructions.py` counts.

use std::path::Path;
use std::time::Instant;

use keyhole_exporter::capture;
use keyhole_exporter::collector::{self, Context};
use keyhole_exporter::exposition::{Exposition, Limits};
use keyhole_exporter::http::routes::compress;
use keyhole_exporter::local::LocalSource;
use keyhole_exporter::options::Options;
use keyhole_exporter::snapshot::{Content, FileSystem, Snapshot};
use keyhole_proto::v1::{self, Query, QueryEnd, ReadResponse};
use prost::Message as _;

/// Bytes of files in one message, about as many as the broker puts there.
const MESSAGE_BYTES: usize = 128 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [dir, rest @ ..] = &arguments[..] else { return Err("usage: render DIR [ROUNDS [FLAG...]]".into()) };
    let rounds: usize = rest.first().map_or(Ok(1000), |rounds| rounds.parse())?;
    let flags = rest.get(1..).unwrap_or_default().iter().cloned();
    let capture = capture::read(capture::open(Path::new(dir))?)?;
    let (options, _) = Options::parse(&collector::flags(), flags)?;
    let own = LocalSource::from_process().unwrap().from_capture(capture.about).now();
    let enabled = collector::enabled(&options)?;
    let messages = messages(&capture.snapshot);
    let mut times = Vec::with_capacity(rounds);
    let (mut bytes, mut compressed) = (0, 0);
    for _ in 0..rounds {
        let start = Instant::now();
        let mut snapshot = Snapshot::default();
        for message in &messages {
            snapshot.add_chunk(ReadResponse::decode(&message[..])?);
        }
        snapshot.finish();
        let mut out = Exposition::new();
        let context = Context { snapshot: &snapshot, local: &own };
        collector::run(&enabled, &context, Limits::NONE, false, &mut out);
        let mut text = Vec::new();
        out.write(&mut text, |_| true);
        bytes = text.len();
        compressed = compress(&text).len();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("{bytes} bytes, {compressed} compressed, median {:?}", times[times.len() / 2]);
    Ok(())
}

/// A snapshot as a broker sends it: what lies in one directory below `proc/` or `sys/` together, the last such first,
/// since queries are not answered in the order of paths.
fn messages(snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let mut files: Vec<(&[u8], &Content)> = snapshot.files().collect();
    files.sort_by(|a, b| top(b.0).cmp(top(a.0)));
    let mut messages = Vec::new();
    let mut chunk = ReadResponse { query: Query::Stat.into(), ..ReadResponse::default() };
    let mut size = 0;
    for (path, content) in files {
        size += path.len() + content_size(content);
        chunk.files.push(file(path, content));
        if size >= MESSAGE_BYTES {
            let next = ReadResponse { query: chunk.query, ..ReadResponse::default() };
            messages.push(std::mem::replace(&mut chunk, next).encode_to_vec());
            size = 0;
        }
    }
    messages.push(chunk.encode_to_vec());
    messages.extend(snapshot.reports().map(|(query, report)| {
        let end = QueryEnd { outcome: report.outcome.into(), elapsed_ns: report.elapsed_ns, left_out: 0 };
        let file_systems = snapshot.file_systems(query).map(file_system).collect();
        ReadResponse { query: query.into(), end: Some(end), file_systems, ..ReadResponse::default() }
            .encode_to_vec()
    }));
    messages
}

/// The first two directories of a path; all processes are one.
fn top(path: &[u8]) -> &[u8] {
    let mut ends = path.iter().enumerate().filter(|(_, byte)| matches!(byte, b'/' | b'0'..=b'9'));
    ends.nth(1).map_or(path, |(at, _)| &path[..at])
}

fn content_size(content: &Content) -> usize {
    match content {
        Content::Bytes { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

fn file(path: &[u8], content: &Content) -> v1::File {
    use v1::file::{Content as Wire, Name};
    let name = match String::from_utf8(path.to_vec()) {
        Ok(path) => Name::Path(path),
        Err(path) => Name::RawPath(path.into_bytes()),
    };
    let (content, truncated) = match content {
        Content::Bytes { bytes, truncated } => {
            let wire = String::from_utf8(bytes.to_vec())
                .map_or_else(|bytes| Wire::Raw(bytes.into_bytes()), Wire::Text);
            (wire, *truncated)
        }
        Content::Link(target) => (Wire::RawLink(target.to_vec()), false),
        Content::Entries(entries) => (Wire::Entries(*entries), false),
        Content::Errno(errno) => (Wire::Errno(*errno), false),
    };
    v1::File { truncated, name: Some(name), content: Some(content) }
}

fn file_system(of: &FileSystem) -> v1::FileSystem {
    let numbers = of.numbers.unwrap_or_default();
    v1::FileSystem {
        name: Some(v1::file_system::Name::RawPath(of.path.clone())),
        block_size: numbers.block_size,
        blocks: numbers.blocks,
        blocks_free: numbers.blocks_free,
        blocks_available: numbers.blocks_available,
        files: numbers.files,
        files_free: numbers.files_free,
        read_only: numbers.read_only,
        errno: of.numbers.err().unwrap_or_default(),
    }
}
