//! The text format: an exposition that is written can be parsed again.

use std::time::UNIX_EPOCH;

use keyhole_exporter::collector::files::textfile as reader;
use keyhole_exporter::collector::files::textfile::directories::TextFile;
use keyhole_exporter::exposition::{Exposition, Family, MetricType, Source, Value, Written, metric_name};

use keyhole_test_support::exposition as prometheus;

use crate::input;

const FAMILY: Family = Family {
    name: "<NAME>",
    help: "A \"help\" \\ text\nof two lines.",
    kind: MetricType::Untyped,
    labels: &["a", "b"],
    source: Source::Exporter(""),
};

/// Each record is a sample: a name, a letter for its type, a value of eight bytes, and labels.
///
/// The text is well-formed whatever the names, and only duplicates and samples with conflicting types are dropped.
pub fn exposition(input: &[u8]) {
    let mut out = Exposition::new();
    out.begin(1000);
    for (name, letter, rest) in input::records(input).iter().filter_map(|record| input::split(record)) {
        // The textfile collector adds these families itself.
        if metric_name(&String::from_utf8_lossy(name)).starts_with("node_textfile_") {
            continue;
        }
        let kind = match letter {
            b'C' => MetricType::Counter,
            b'G' => MetricType::Gauge,
            _ => MetricType::Untyped,
        };
        let (value, label) = rest.split_at(rest.len().min(8));
        let mut bytes = [0; 8];
        bytes[..value.len()].copy_from_slice(value);
        let value = match kind {
            // At most 53 bits, since the textfile collector parses floats.
            MetricType::Counter => Value::Unsigned(u64::from_le_bytes(bytes) >> 11),
            _ => Value::Float(f64::from_le_bytes(bytes)),
        };
        let (one, two) = label.split_at(label.len() / 2);
        out.add_named(&Family { kind, ..FAMILY }, &String::from_utf8_lossy(name), &[one, two], value);
    }
    let counters = out.end();
    let mut text = Vec::new();
    let Written { duplicates, .. } = out.write(&mut text, |_| true);
    let parsed = prometheus::Exposition::parse(&text).unwrap_or_else(|reason| panic!("{reason}"));
    assert_eq!(parsed.len() + duplicates, counters.series);
    // The textfile collector parses it and returns the same.
    let text = String::from_utf8(text).expect("an exposition is UTF-8");
    let read = read(&[&text]);
    let ours = |line: &&str| !line.contains("node_textfile_") && !is_reserved(line);
    let lines = |text: &str| text.lines().filter(ours).map(str::to_owned).collect::<Vec<_>>();
    // Only reserved names are rejected.
    let refused = read.contains("node_textfile_scrape_error 1\n");
    assert_eq!(refused, text.lines().any(is_reserved), "{text}{read}");
    // Removing empty labels changes the order of samples.
    let (mut given, mut taken) = (without_empty_labels(&lines(&text)), lines(&read));
    given.sort_unstable();
    taken.sort_unstable();
    assert_eq!(taken, given);
}

/// Whether a line has a metric name that is reserved for the exporter itself.
fn is_reserved(line: &str) -> bool {
    ["node_scrape_collector_", "keyhole_", "node_textfile_"].iter().any(|name| {
        line.starts_with(name)
            || line
                .strip_prefix("# HELP ")
                .or(line.strip_prefix("# TYPE "))
                .is_some_and(|line| line.starts_with(name))
    })
}

/// Removes empty labels, as the textfile collector does.
fn without_empty_labels(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .map(|line| {
            if line.starts_with('#') {
                return line.clone();
            }
            let line = line.replace("{a=\"\",b=\"\"}", "");
            line.replacen("{a=\"\",", "{", 1).replacen(",b=\"\"} ", "} ", 1)
        })
        .collect()
}

/// Each record is a textfile. The output is well-formed and is unchanged when parsed again.
pub fn textfile(input: &[u8]) {
    let records = input::records(input);
    let texts: Vec<String> =
        records.iter().take(4).map(|record| String::from_utf8_lossy(record).into_owned()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    // Invalid UTF-8 is rejected except in comments.
    let is_comment = |line: &&[u8]| line.trim_ascii_start().starts_with(b"#");
    let mut lines = records[0].split(|byte| *byte == b'\n').filter(|line| !is_comment(line));
    if lines.any(|line| std::str::from_utf8(line).is_err()) {
        let raw = collect(vec![file(0, records[0].to_vec())]);
        assert!(raw.contains("node_textfile_scrape_error 1\n"), "{raw}");
    }
    let once = read(&texts);
    let parsed = prometheus::Exposition::parse(once.as_bytes());
    assert!(parsed.is_ok(), "{parsed:?}: {once}");
    let theirs: String = paragraphs(&once).filter(|family| !is_reserved(family)).collect();
    let again = read(&[&theirs]);
    let again: String = paragraphs(&again).filter(|family| !is_reserved(family)).collect();
    assert_eq!(theirs, again);
}

/// The families of an exposition, each with its HELP and TYPE lines.
fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    let starts: Vec<usize> = text
        .match_indices("# HELP ")
        .map(|(at, _)| at)
        .filter(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n')
        .collect();
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([text.len()]).collect();
    starts.into_iter().zip(ends).map(move |(start, end)| &text[start..end])
}

fn file(at: usize, content: Vec<u8>) -> TextFile {
    TextFile { path: format!("/d/{at}.prom"), modified: UNIX_EPOCH, content: Ok(content) }
}

fn read(texts: &[&str]) -> String {
    collect(texts.iter().enumerate().map(|(at, text)| file(at, text.as_bytes().to_vec())).collect())
}

fn collect(text_files: Vec<TextFile>) -> String {
    let mut out = Exposition::new();
    reader::collect(&text_files, &mut out);
    out.to_text()
}
