//! Trees of other kernels and architectures: what `keyhole-exporter replay` prints holds what is expected of each.
//!
//! A tree holds `proc/` and `sys/`, `flags.txt` (one a line), `expected.prom` (samples that must be there) and `about.txt`
//! (where it comes from; its last line lists texts that no sample may hold: of what lies beside items and is none).
//! `tests/kernels/tree.py` makes one out of what `tests/kernels/boot.py` brings back from a virtual machine. Trees of what no
//! virtual machine has are made by hand, and `tests/peers/trees.py` holds them all against node_exporter.

use keyhole_test_support::{programs, run_to_end};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn trees() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/trees");
    let mut trees: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    trees.sort();
    trees
}

fn replay(tree: &Path) -> BTreeMap<String, f64> {
    let mut command = Command::new(programs::all().join("keyhole-exporter"));
    let flags = fs::read_to_string(tree.join("flags.txt")).unwrap();
    command.args(flags.lines()).arg("replay").arg(tree).stdin(Stdio::null());
    command.env("NODE_NAME", "guest").env("TZ", "UTC");
    let output = run_to_end(command);
    assert!(output.status.success(), "{}: {output:?}", tree.display());
    samples(&String::from_utf8(output.stdout).unwrap())
}

/// The samples of an exposition by name and labels, sorted.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line}"))).collect()
}

fn sample(line: &str) -> Option<(String, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else { return Some((series.to_owned(), value)) };
    let mut sorted: Vec<&str> = Vec::new();
    let mut rest = labels.strip_suffix('}')?;
    while !rest.is_empty() {
        let end = end_of_label(rest)?;
        sorted.push(&rest[..end]);
        rest = rest[end..].strip_prefix(',').unwrap_or(&rest[end..]);
    }
    sorted.sort_unstable();
    Some((format!("{name}{{{}}}", sorted.join(",")), value))
}

/// Where `name="value"` ends, at which the text begins.
fn end_of_label(text: &str) -> Option<usize> {
    let value = text.find('"')? + 1;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(value) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn differences(expected: &BTreeMap<String, f64>, got: &BTreeMap<String, f64>) -> Vec<String> {
    let differs = |(series, value): (&String, &f64)| match got.get(series) {
        None => Some(format!("missing: {series} {value}")),
        Some(got) if (got - value).abs() > 1e-9 * value.abs() => {
            Some(format!("{series} is {got}, not {value}"))
        }
        Some(_) => None,
    };
    expected.iter().filter_map(differs).collect()
}

#[test]
fn every_tree_of_another_kernel_has_the_samples_of_node_exporter_there() {
    let mut wrong = Vec::new();
    for tree in trees() {
        let got = replay(&tree);
        let expected = samples(&fs::read_to_string(tree.join("expected.prom")).unwrap());
        assert!(!expected.is_empty(), "{}", tree.display());
        let about = fs::read_to_string(tree.join("about.txt")).unwrap();
        let forbidden = about.trim_end().rsplit_once("must not match: ").expect("the last line says what").1;
        let forbidden: Vec<&str> = forbidden.split('\'').skip(1).step_by(2).collect();
        let mut found = differences(&expected, &got);
        found.extend(
            got.iter()
                // A time may contain the digits of a forbidden value.
                .filter(|(series, _)| !series.starts_with("node_scrape_collector_duration_seconds"))
                .map(|(series, value)| format!("{series} {value}"))
                .filter(|sample| forbidden.iter().any(|text| sample.contains(text)))
                .map(|sample| format!("must not be there: {sample}")),
        );
        wrong.extend(found.iter().map(|what| format!("{}: {what}", tree.file_name().unwrap().display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_missing_sample_and_another_value_are_differences() {
    let expected = samples("a{x=\"1,\\\"}\",b=\"2\"} 5\nb 1\n");
    assert!(differences(&expected, &samples("a{b=\"2\",x=\"1,\\\"}\"} 5\nb 1\nc 7\n")).is_empty());
    assert_eq!(differences(&expected, &samples("a{b=\"2\",x=\"1,\\\"}\"} 6\n")).len(), 2);
}

#[test]
fn no_tree_is_large() {
    fn size(path: &Path) -> u64 {
        let metadata = path.symlink_metadata().unwrap();
        if !metadata.is_dir() {
            return metadata.len();
        }
        fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum()
    }
    assert!(trees().len() >= 4);
    for tree in trees() {
        assert!(size(&tree) < 200 << 10, "{}: {} bytes", tree.display(), size(&tree));
    }
}
