//! The format of inputs: kernel files at any paths, readable for people and robust against mutations.
//!
//! Records are separated by [`SEPARATOR`]s. A record is a path, a newline, a letter and the content of the path:
//! `T` text, `X` text that a limit cut, `L` a link's target, `E` a count of entries, `N` an errno, `F` the six numbers
//! of a file system, `R` the outcome of the query that the path names.

use keyhole_exporter::snapshot::{Content, FileSystem, Numbers, Report, Snapshot};
use keyhole_proto::v1::{Outcome, Query};

/// Separates records. Kernel text does not contain it, so every input can be expressed.
pub const SEPARATOR: &[u8] = b"\xff\0\xff\n";

/// The records of an input.
pub fn records(input: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        records.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    records.push(rest);
    records
}

/// A record's path, letter and content.
pub fn split(record: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let at = record.iter().position(|byte| *byte == b'\n')?;
    let (letter, content) = record[at + 1..].split_first()?;
    Some((&record[..at], *letter, content))
}

/// A record that [`split`] parses.
pub fn record(path: &[u8], letter: u8, content: &[u8]) -> Vec<u8> {
    [path, b"\n", &[letter], content].concat()
}

/// The snapshot that the records describe.
pub fn snapshot(records: &[&[u8]]) -> Snapshot {
    let mut files = Vec::new();
    let mut file_systems = Vec::new();
    let mut reports = Vec::new();
    for (path, letter, content) in records.iter().filter_map(|record| split(record)) {
        let found = match letter {
            b'T' | b'X' => Content::Bytes { bytes: content.to_vec(), truncated: letter == b'X' },
            b'L' => Content::Link(content.to_vec()),
            b'E' => Content::Entries(number(content)),
            b'N' => Content::Errno(number(content) as u32),
            b'F' => {
                file_systems.extend(file_system(path, content));
                continue;
            }
            b'R' => {
                reports.extend(report(path, content));
                continue;
            }
            _ => continue,
        };
        files.push((path.to_vec(), found));
    }
    let mut snapshot = Snapshot::of_files(files);
    for (query, file_system) in file_systems {
        snapshot.add_file_system(query, file_system);
    }
    for (query, outcome) in reports {
        snapshot.set_report(query, Report { outcome, elapsed_ns: 1, bytes: 1, left_out: 0 });
    }
    snapshot
}

/// The number of the leading digits of `text`, wrapping on overflow.
pub fn number(text: &[u8]) -> u64 {
    let digits = text.iter().map_while(|byte| char::from(*byte).to_digit(10));
    digits.fold(0, |value: u64, digit| value.wrapping_mul(10).wrapping_add(digit.into()))
}

/// A file system; its path is the number of its query, a space and its directory.
fn file_system(path: &[u8], content: &[u8]) -> Option<(Query, FileSystem)> {
    let at = path.iter().position(|byte| *byte == b' ')?;
    let query = Query::try_from(number(&path[..at]) as i32).ok()?;
    let mut fields = content.split(|byte| *byte == b' ').map(number);
    let mut next = || fields.next().unwrap_or(0);
    let numbers = match content.first() {
        Some(b'!') => Err(number(&content[1..]) as u32),
        _ => Ok(Numbers {
            block_size: next(),
            blocks: next(),
            blocks_free: next(),
            blocks_available: next(),
            files: next(),
            files_free: next(),
            read_only: next() != 0,
        }),
    };
    Some((query, FileSystem { path: path[at + 1..].to_vec(), numbers }))
}

fn report(path: &[u8], content: &[u8]) -> Option<(Query, Outcome)> {
    let query = Query::try_from(number(path) as i32).ok()?;
    Some((query, Outcome::try_from(number(content) as i32).ok()?))
}
