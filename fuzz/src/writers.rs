//! The text format: what is written reads back.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use keyhole_exporter::collector::files::textfile as reader;
use keyhole_exporter::collector::{Context, Own, TextFile};
use keyhole_exporter::exposition::{Exposition, Family, Kind, Value, Written, metric_name};
use keyhole_exporter::options::Options;
use keyhole_exporter::snapshot::Snapshot;

use keyhole_test_support::exposition as prometheus;

use crate::input;

const FAMILY: Family = Family {
    name: "<NAME>",
    help: "A \"help\" \\ text\nof two lines.",
    kind: Kind::Untyped,
    labels: &["a", "b"],
    source: "",
};

/// Each record is a sample: a name, a letter for its type, a value of eight bytes, a label of the rest.
///
/// However hostile the names, the text is well formed, and no sample is lost but duplicates and conflicts of type.
pub fn exposition(input: &[u8]) {
    let mut out = Exposition::new();
    out.begin(1000);
    for (name, letter, rest) in input::records(input).iter().filter_map(|record| input::split(record)) {
        // What its reader says of itself comes with what it reads.
        if metric_name(&String::from_utf8_lossy(name)).starts_with("node_textfile_") {
            continue;
        }
        let kind = match letter {
            b'C' => Kind::Counter,
            b'G' => Kind::Gauge,
            _ => Kind::Untyped,
        };
        let (value, label) = rest.split_at(rest.len().min(8));
        let mut bytes = [0; 8];
        bytes[..value.len()].copy_from_slice(value);
        let value = match kind {
            // As many digits as a float keeps, since its reader has only those.
            Kind::Counter => Value::Unsigned(u64::from_le_bytes(bytes) >> 11),
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
    // Its own reader takes it, and gives it again.
    let text = String::from_utf8(text).expect("an exposition is UTF-8");
    let read = read(&[&text]);
    let ours = |line: &&str| !line.contains("node_textfile_") && !is_own(line);
    let lines = |text: &str| text.lines().filter(ours).map(str::to_owned).collect::<Vec<_>>();
    // Only what a text file may not speak of is refused.
    let refused = read.contains("node_textfile_scrape_error 1\n");
    assert_eq!(refused, text.lines().any(is_own), "{text}{read}");
    // A label that goes takes its sample to another place among the others.
    let (mut given, mut taken) = (without_empty_labels(&lines(&text)), lines(&read));
    given.sort_unstable();
    taken.sort_unstable();
    assert_eq!(taken, given);
}

/// What a text file may not say of the scrape itself.
fn is_own(line: &str) -> bool {
    ["node_scrape_collector_", "keyhole_", "node_textfile_"].iter().any(|name| {
        line.starts_with(name)
            || line
                .strip_prefix("# HELP ")
                .or(line.strip_prefix("# TYPE "))
                .is_some_and(|line| line.starts_with(name))
    })
}

/// An empty label is no label, and a text file's reader leaves it out.
fn without_empty_labels(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .map(|line| match line.starts_with('#') {
            true => line.clone(),
            false => line.replace("{a=\"\",b=\"\"}", "").replacen("{a=\"\",", "{", 1).replacen(
                ",b=\"\"} ",
                "} ",
                1,
            ),
        })
        .collect()
}

/// Each record is a text file. What comes of them is well formed; read again, it gives the same.
pub fn textfile(input: &[u8]) {
    let records = input::records(input);
    let texts: Vec<String> =
        records.iter().take(4).map(|record| String::from_utf8_lossy(record).into_owned()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    // Bytes that are no text are refused, but in comments.
    let is_comment = |line: &&[u8]| line.trim_ascii_start().starts_with(b"#");
    let mut lines = records[0].split(|byte| *byte == b'\n').filter(|line| !is_comment(line));
    if lines.any(|line| std::str::from_utf8(line).is_err()) {
        let raw = collect(vec![file(0, records[0].to_vec())]);
        assert!(raw.contains("node_textfile_scrape_error 1\n"), "{raw}");
    }
    let once = read(&texts);
    let parsed = prometheus::Exposition::parse(once.as_bytes());
    assert!(parsed.is_ok(), "{parsed:?}: {once}");
    let theirs: String = paragraphs(&once).filter(|family| !is_own(family)).collect();
    let again = read(&[&theirs]);
    let again: String = paragraphs(&again).filter(|family| !is_own(family)).collect();
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
    let own = Own {
        now: UNIX_EPOCH,
        node_name: None,
        timex: Err(1),
        uname: None,
        time_zone: None,
        text_files,
        process_groups: Arc::default(),
    };
    let options = Options::defaults(&[]);
    let mut out = Exposition::new();
    let context = Context { snapshot: &Snapshot::default(), options: &options, own: &own };
    (reader::COLLECTOR.collect)(&context, &mut out).expect("text files fail one by one");
    out.to_text()
}
