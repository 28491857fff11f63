//! Metric families and samples, written as Prometheus' text format 0.0.4.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>
//!
//! Collectors add samples in any order; [`Exposition::write`] sorts families by name and samples by labels. A second
//! sample with the same name and labels is dropped and counted, so that one bad collector never spoils a scrape.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::text;

/// A metric family as a collector declares it: one row of its table.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its name; in a family whose names depend on the host, with `<PLACES>` for what varies.
    pub name: &'static str,
    /// One sentence on what it tells.
    pub help: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The names of its labels, in the order that samples give their values.
    pub labels: &'static [&'static str],
    /// The kernel file or system call that it comes from.
    pub source: &'static str,
}

/// A family's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only ever rises, but for a restart.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Not said.
    Untyped,
    /// Quantiles, a sum and a count; from text files alone.
    Summary,
    /// Buckets, a sum and a count; from text files alone.
    Histogram,
}

impl Kind {
    /// Its name in a TYPE line.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Untyped => "untyped",
            Kind::Summary => "summary",
            Kind::Histogram => "histogram",
        }
    }
}

/// A sample's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A whole number that is written as it is.
    Unsigned(u64),
    /// Any number.
    Float(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Unsigned(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Value::Unsigned(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Value::Unsigned(value as u64)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        match u64::try_from(value) {
            Ok(value) => Value::Unsigned(value),
            Err(_) => Value::Float(value as f64),
        }
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Unsigned(value.into())
    }
}

/// The families and samples of one scrape.
#[derive(Debug, Default)]
pub struct Exposition {
    families: Vec<Header>,
    by_name: HashMap<Box<str>, u32>,
    samples: Vec<Sample>,
    /// Every sample's `name{labels}` and value, one after the other.
    text: Vec<u8>,
    tally: Tally,
    /// The most series that the current collector may add.
    limit: usize,
}

#[derive(Debug)]
struct Header {
    name: Box<str>,
    help: Box<str>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    family: u32,
    start: u32,
    /// Where the labels end and the value begins.
    value: u32,
    end: u32,
}

/// A piece of an exposition, in the order of its text.
#[derive(Debug, Clone, Copy)]
pub enum Part<'e> {
    /// A family that begins.
    Family {
        /// Its name.
        name: &'e str,
        /// Its HELP text.
        help: &'e str,
        /// Its type.
        kind: Kind,
    },
    /// A sample of the family shown last.
    Sample {
        /// `name{labels}`.
        key: &'e [u8],
        /// Its value, as text.
        value: &'e [u8],
    },
}

/// What one collector added, and what was kept out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Samples taken.
    pub series: usize,
    /// Samples dropped because the collector reached its limit.
    pub over_limit: usize,
    /// Samples whose family exists with another type.
    pub conflicts: usize,
    /// Things in the collector's files that it could not read, and skipped.
    pub skipped: usize,
    /// The first of them, for the log.
    pub first_skipped: Option<String>,
}

/// What happened while an exposition was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Samples left out because one with the same name and labels was there.
    pub duplicates: usize,
}

impl Exposition {
    /// An exposition without limits.
    pub fn new() -> Self {
        Self { limit: usize::MAX, ..Self::default() }
    }

    /// Starts a collector that may add at most `limit` series.
    pub fn begin(&mut self, limit: usize) {
        self.tally = Tally::default();
        self.limit = limit;
    }

    /// Ends the collector that was begun, and tells what it did.
    pub fn end(&mut self) -> Tally {
        self.limit = usize::MAX;
        std::mem::take(&mut self.tally)
    }

    /// Notes that something in a file could not be read and was skipped.
    pub fn skip(&mut self, what: impl FnOnce() -> String) {
        self.tally.skipped += 1;
        if self.tally.first_skipped.is_none() {
            self.tally.first_skipped = Some(what());
        }
    }

    /// Adds a sample of a declared family; `labels` are the values of its labels, in its order.
    pub fn add(&mut self, family: &Family, labels: &[&[u8]], value: impl Into<Value>) {
        debug_assert!(!family.name.contains('<'), "{} has a variable name", family.name);
        self.add_named(family, family.name, labels, value);
    }

    /// Adds a sample of a family whose name depends on the host. Bytes that no metric name may have become `_`.
    pub fn add_named(&mut self, family: &Family, name: &str, labels: &[&[u8]], value: impl Into<Value>) {
        debug_assert_eq!(family.labels.len(), labels.len(), "labels of {name}");
        let pairs = family.labels.iter().copied().zip(labels.iter().copied());
        self.add_sample(name, "", family.help, family.kind, pairs, value.into());
    }

    /// Adds a sample whose family, labels and suffix (`_bucket`) are known only from a file.
    pub fn add_sample<'l>(
        &mut self,
        name: &str,
        suffix: &str,
        help: &str,
        kind: Kind,
        labels: impl Iterator<Item = (&'l str, &'l [u8])>,
        value: Value,
    ) {
        if self.tally.series >= self.limit {
            self.tally.over_limit += 1;
            return;
        }
        let Some(family) = self.family(name, help, kind) else {
            self.tally.conflicts += 1;
            return;
        };
        let start = self.text.len();
        self.text.extend_from_slice(self.families[family as usize].name.as_bytes());
        self.text.extend_from_slice(suffix.as_bytes());
        write_labels(&mut self.text, labels);
        let value_at = self.text.len();
        write_value(&mut self.text, value);
        self.samples.push(Sample {
            family,
            start: start as u32,
            value: value_at as u32,
            end: self.text.len() as u32,
        });
        self.tally.series += 1;
    }

    /// The family's number; none when the name stands for a family of another type.
    fn family(&mut self, name: &str, help: &str, kind: Kind) -> Option<u32> {
        if let Some(&at) = self.by_name.get(name) {
            return (self.families[at as usize].kind == kind).then_some(at);
        }
        let valid: Box<str> = metric_name(name).into();
        let at = match self.by_name.get(&valid) {
            Some(&at) if self.families[at as usize].kind == kind => at,
            Some(_) => return None,
            None => {
                let at = self.families.len() as u32;
                self.families.push(Header { name: valid.clone(), help: help.into(), kind });
                self.by_name.insert(valid, at);
                at
            }
        };
        self.by_name.insert(name.into(), at);
        Some(at)
    }

    /// The type under which a family already stands.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        let at = *self.by_name.get(name)?;
        Some(self.families[at as usize].kind)
    }

    /// The HELP text under which a family already stands.
    pub fn help(&self, name: &str) -> Option<&str> {
        let at = *self.by_name.get(name)?;
        Some(&self.families[at as usize].help)
    }

    /// Writes everything in text format 0.0.4; `keep` chooses families by name.
    pub fn write(&self, out: &mut Vec<u8>, keep: impl Fn(&str) -> bool) -> Written {
        out.reserve(self.text.len() + self.samples.len() + 128 * self.families.len());
        self.visit(keep, |part| match part {
            Part::Family { name, help, kind } => write_header(out, name, help, kind),
            Part::Sample { key, value } => {
                out.extend_from_slice(key);
                out.push(b' ');
                out.extend_from_slice(value);
                out.push(b'\n');
            }
        })
    }

    /// Shows every family that `keep` chooses by name, sorted, each before its samples, sorted and without duplicates.
    pub fn visit(&self, keep: impl Fn(&str) -> bool, mut show: impl FnMut(Part<'_>)) -> Written {
        let mut order: Vec<u32> = (0..self.families.len() as u32).collect();
        order.sort_unstable_by(|a, b| self.header(*a).name.cmp(&self.header(*b).name));
        let mut rank = vec![0u32; order.len()];
        for (position, family) in order.iter().enumerate() {
            rank[*family as usize] = position as u32;
        }
        let mut samples: Vec<&Sample> = self.samples.iter().collect();
        samples.sort_by(|a, b| {
            let rank = rank[a.family as usize].cmp(&rank[b.family as usize]);
            rank.then_with(|| self.key(a).cmp(self.key(b)))
        });

        let mut written = Written::default();
        let mut last: Option<&Sample> = None;
        let mut kept = false;
        for sample in samples {
            if last.is_none_or(|last| last.family != sample.family) {
                let Header { name, help, kind } = self.header(sample.family);
                kept = keep(name);
                if kept {
                    show(Part::Family { name, help, kind: *kind });
                }
            } else if last.is_some_and(|last| self.key(last) == self.key(sample)) {
                written.duplicates += 1;
                continue;
            }
            last = Some(sample);
            if kept {
                let value = &self.text[sample.value as usize..sample.end as usize];
                show(Part::Sample { key: self.key(sample), value });
            }
        }
        written
    }

    /// Everything, as text. For tests and for `replay`.
    pub fn to_text(&self) -> String {
        let mut out = Vec::new();
        self.write(&mut out, |_| true);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn header(&self, family: u32) -> &Header {
        &self.families[family as usize]
    }

    fn key(&self, sample: &Sample) -> &[u8] {
        &self.text[sample.start as usize..sample.value as usize]
    }
}

fn write_header(out: &mut Vec<u8>, name: &str, help: &str, kind: Kind) {
    out.extend_from_slice(b"# HELP ");
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    escape(out, help.as_bytes(), false);
    out.extend_from_slice(b"\n# TYPE ");
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    out.extend_from_slice(kind.as_str().as_bytes());
    out.push(b'\n');
}

/// `name` as a metric name: `[a-zA-Z_:][a-zA-Z0-9_:]*`, with `_` for each byte that cannot stand there.
pub fn metric_name(name: &str) -> String {
    let mut valid: String = name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b':' => char::from(byte),
            _ => '_',
        })
        .collect();
    if valid.is_empty() || valid.starts_with(|first: char| first.is_ascii_digit()) {
        valid.insert(0, '_');
    }
    valid
}

fn write_labels<'l>(out: &mut Vec<u8>, labels: impl Iterator<Item = (&'l str, &'l [u8])>) {
    let mut separator = b'{';
    for (name, value) in labels {
        out.push(separator);
        separator = b',';
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        escape(out, text::printable(value).as_bytes(), true);
        out.push(b'"');
    }
    if separator == b',' {
        out.push(b'}');
    }
}

fn escape(out: &mut Vec<u8>, text: &[u8], quotes: bool) {
    for &byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if quotes => out.extend_from_slice(b"\\\""),
            byte => out.push(byte),
        }
    }
}

/// The shortest text that reads back as the same number.
fn write_value(out: &mut Vec<u8>, value: Value) {
    /// Below it every whole number is its own float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let mut text = Text(out);
    // Writing to a Vec cannot fail.
    let _ = match value {
        Value::Unsigned(value) => write!(text, "{value}"),
        Value::Float(value) if value.is_nan() => write!(text, "NaN"),
        Value::Float(value) if value.is_infinite() => {
            write!(text, "{}Inf", if value > 0.0 { '+' } else { '-' })
        }
        Value::Float(value) if value.fract() == 0.0 && value.abs() < EXACT => {
            write!(text, "{}", value as i64)
        }
        Value::Float(value) if (1e-5..1e17).contains(&value.abs()) => write!(text, "{value}"),
        Value::Float(value) => write!(text, "{value:e}"),
    };
}

struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: Family = Family {
        name: "node_bytes_total",
        help: "Bytes \\ seen\nhere.",
        kind: Kind::Counter,
        labels: &["device"],
        source: "proc/x",
    };

    fn value_text(value: f64) -> String {
        let mut out = Vec::new();
        write_value(&mut out, Value::Float(value));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn families_and_samples_are_sorted_and_escaped() {
        let mut out = Exposition::new();
        let other = Family { name: "node_a", labels: &[], kind: Kind::Untyped, ..BYTES };
        out.add(&BYTES, &[b"eth1"], 2u64);
        out.add(&BYTES, &[b"a\"b\\c\nd\xff"], 1.5);
        out.add(&other, &[], 7u64);
        assert_eq!(
            out.to_text(),
            "# HELP node_a Bytes \\\\ seen\\nhere.\n# TYPE node_a untyped\nnode_a 7\n\
             # HELP node_bytes_total Bytes \\\\ seen\\nhere.\n# TYPE node_bytes_total counter\n\
             node_bytes_total{device=\"a\\\"b\\\\c\\nd\u{fffd}\"} 1.5\n\
             node_bytes_total{device=\"eth1\"} 2\n"
        );
    }

    #[test]
    fn a_second_sample_with_the_same_labels_is_dropped_and_counted() {
        let mut out = Exposition::new();
        out.add(&BYTES, &[b"\xff"], 1u64);
        out.add(&BYTES, &[b"\xfe"], 2u64);
        let mut text = Vec::new();
        assert_eq!(out.write(&mut text, |_| true), Written { duplicates: 1 });
        assert!(text.ends_with(b"{device=\"\xef\xbf\xbd\"} 1\n"), "the first stays");
    }

    #[test]
    fn a_family_keeps_the_type_it_came_with() {
        let mut out = Exposition::new();
        out.begin(10);
        out.add(&BYTES, &[b"a"], 1u64);
        out.add(&Family { kind: Kind::Gauge, ..BYTES }, &[b"b"], 1u64);
        assert_eq!(out.end().conflicts, 1);
        assert!(!out.to_text().contains("\"b\""));
    }

    #[test]
    fn a_collector_at_its_limit_is_cut_and_the_rest_counted() {
        let mut out = Exposition::new();
        out.begin(2);
        for name in [b"a", b"b", b"c"] {
            out.add(&BYTES, &[name], 1u64);
        }
        let tally = out.end();
        assert_eq!((tally.series, tally.over_limit), (2, 1));
    }

    #[test]
    fn a_name_from_the_host_becomes_a_metric_name() {
        let mut out = Exposition::new();
        let family = Family { name: "node_<FIELD>", labels: &[], ..BYTES };
        out.add_named(&family, "node_a(b)-c", &[], 1u64);
        out.add_named(&family, "node_a(b)-c", &[], 1u64);
        assert!(out.to_text().contains("\nnode_a_b__c 1\n"), "{}", out.to_text());
        assert_eq!(metric_name("0"), "_0");
        assert_eq!(metric_name(""), "_");
    }

    #[test]
    fn values_are_short_and_special_ones_are_prometheus_words() {
        for (value, text) in [
            (0.0, "0"),
            (-3.0, "-3"),
            (0.1, "0.1"),
            (1.29024e6, "1290240"),
            (1e300, "1e300"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(value_text(value), text);
        }
    }

    proptest! {
        #[test]
        fn a_value_reads_back_as_itself(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            prop_assert_eq!(value_text(value).parse::<f64>().unwrap(), value);
            prop_assert!(value_text(value).len() <= 25);
        }

        #[test]
        fn any_label_stays_on_its_line(label in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut out = Exposition::new();
            out.add(&BYTES, &[&label], 1u64);
            prop_assert_eq!(out.to_text().trim_end_matches('\n').split('\n').count(), 3);
        }
    }
}
