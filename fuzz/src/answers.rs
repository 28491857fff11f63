//! A broker's answer as it comes over the wire: a broken-into broker may send anything.

use keyhole_exporter::snapshot::Snapshot;
use keyhole_proto::v1::{DescribeResponse, ReadResponse};
use prost::Message;

use crate::collectors::check_answer;

/// Length-delimited messages, taken in as the exporter does; a snapshot is sorted, holds each path once, and no
/// collector gives anything ill-formed of it.
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
        // What lies below a path is found below it.
        assert!(dir.dirs().all(|below| below.path().starts_with(path)));
    }
    let counted: u64 = snapshot.reports().map(|(_, report)| report.bytes).sum();
    assert!(counted <= bytes as u64, "{counted} bytes of files in {bytes}");
    let described = DescribeResponse::decode(input).unwrap_or_default();
    snapshot.add_reasons(&described);
    for (query, _) in snapshot.reports() {
        assert!(!snapshot.reason(query).unwrap_or_default().contains(char::is_control));
    }
    check_answer(&snapshot, input.len());
}
