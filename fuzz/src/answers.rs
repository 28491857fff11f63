//! A broker's response on the wire: a compromised broker may send anything.

use keyhole_exporter::snapshot::Snapshot;
use keyhole_proto::v1::{DescribeResponse, ReadResponse};
use prost::Message;

use crate::collectors::check_answer;

/// Adds length-delimited messages to a snapshot as the exporter does. The snapshot is sorted, has each path once, and no
/// collector returns ill-formed output for it.
pub fn answer(input: &[u8]) {
    let mut rest = input;
    let mut snapshot = Snapshot::default();
    let mut bytes = 0;
    while let Ok(chunk) = ReadResponse::decode_length_delimited(&mut rest) {
        bytes += chunk.encoded_len();
        snapshot.add_chunk(chunk);
        if rest.is_empty() {
            break;
        }
    }
    snapshot.finish();
    let paths: Vec<&[u8]> = snapshot.files().map(|(path, _)| path).collect();
    assert!(paths.is_sorted() && paths.windows(2).all(|pair| pair[0] != pair[1]));
    for path in &paths {
        assert!(snapshot.content(path).is_some());
        let dir = snapshot.dir(*path);
        // Directories in it are below its path.
        assert!(dir.dirs().all(|below| below.path().starts_with(path)));
    }
    let total: u64 = snapshot.reports().map(|(_, report)| report.bytes).sum();
    assert!(total <= bytes as u64, "{total} bytes of files in {bytes}");
    let described = DescribeResponse::decode(input).unwrap_or_default();
    snapshot.add_reasons(&described);
    for (query, _) in snapshot.reports() {
        assert!(!snapshot.reason(query).unwrap_or_default().contains(char::is_control));
    }
    check_answer(&snapshot, input.len());
}
