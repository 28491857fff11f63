//! A strict parser of the text format 0.0.4: every line must be one that the format allows, where the format allows it.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::{BTreeMap, BTreeSet};

/// A well-formed exposition.
#[derive(Debug, Default)]
pub struct Exposition {
    samples: Vec<Sample>,
    types: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// The family whose lines are being parsed.
struct Family {
    name: String,
    kind: Option<String>,
    sampled: bool,
}

impl Family {
    /// Whether a sample of this name belongs to it.
    fn contains(&self, sample: &str) -> bool {
        let suffixes: &[&str] = match self.kind.as_deref() {
            Some("histogram") => &["_bucket", "_sum", "_count"],
            Some("summary") => &["", "_sum", "_count"],
            _ => &[""],
        };
        sample.strip_prefix(self.name.as_str()).is_some_and(|suffix| suffixes.contains(&suffix))
    }
}

impl Exposition {
    /// Parses all of it; the error is about the first line that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line does not end".into());
        }
        let mut exposition = Self::default();
        let mut seen = BTreeSet::new();
        let mut series = BTreeSet::new();
        let mut family: Option<Family> = None;
        for (at, line) in text.split_terminator('\n').enumerate() {
            exposition
                .line(line, &mut family, &mut seen, &mut series)
                .map_err(|what| format!("line {}: {what}: {line:?}", at + 1))?;
        }
        match family {
            Some(Family { sampled: false, name, .. }) => Err(format!("{name} has no sample")),
            _ => Ok(exposition),
        }
    }

    fn line(
        &mut self,
        line: &str,
        family: &mut Option<Family>,
        seen: &mut BTreeSet<String>,
        series: &mut BTreeSet<(String, Vec<(String, String)>)>,
    ) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("HELP without a text")?;
            check(is_metric_name(name), "HELP of an invalid name")?;
            check(!help.is_empty() && escapes_are_valid(help, false), "a bad help text")?;
            check(family.as_ref().is_none_or(|family| family.sampled), "a family without samples before it")?;
            check(seen.insert(name.to_owned()), "a family that occurs twice, or not in one piece")?;
            *family = Some(Family { name: name.to_owned(), kind: None, sampled: false });
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a type")?;
            check(
                matches!(kind, "counter" | "gauge" | "histogram" | "summary" | "untyped"),
                "not a type of the format",
            )?;
            let family = family.as_mut().filter(|family| family.name == name && !family.sampled);
            let family = family.ok_or("TYPE does not follow the HELP of its family")?;
            check(family.kind.is_none(), "a second TYPE")?;
            family.kind = Some(kind.to_owned());
            self.types.insert(name.to_owned(), kind.to_owned());
            return Ok(());
        }
        check(!line.starts_with('#'), "a comment that is neither HELP nor TYPE")?;
        let sample = Sample::parse(line)?;
        let family = family.as_mut().filter(|family| family.contains(&sample.name));
        let family = family.ok_or("a sample outside of its family")?;
        check(family.kind.is_some(), "a sample of a family without TYPE")?;
        family.sampled = true;
        if family.kind.as_deref() == Some("counter") {
            check(sample.value >= 0.0, "a counter below zero")?;
        }
        let labels = sample.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        check(series.insert((sample.name.clone(), labels)), "a series that occurs twice")?;
        self.samples.push(sample);
        Ok(())
    }

    pub fn samples<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    pub fn kind(&self, family: &str) -> Option<&str> {
        self.types.get(family).map(String::as_str)
    }

    /// Whether the family is there, with at least one sample.
    pub fn has(&self, family: &str) -> bool {
        self.types.contains_key(family)
    }

    /// The value of the one sample with this name and at least these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matches = |sample: &&Sample| {
            labels.iter().all(|(name, value)| sample.labels.get(*name).is_some_and(|actual| actual == value))
        };
        let found: Vec<&Sample> = self.samples(name).filter(matches).collect();
        assert!(found.len() <= 1, "{name} with {labels:?} matches several: {found:?}");
        found.first().map(|sample| sample.value)
    }

    /// Every value of a label in a family.
    pub fn label_values(&self, name: &str, label: &str) -> BTreeSet<String> {
        self.samples(name).filter_map(|sample| sample.labels.get(label).cloned()).collect()
    }
}

impl Sample {
    /// `name{label="value",...} value [timestamp]`
    fn parse(line: &str) -> Result<Self, String> {
        let end = line.find(['{', ' ']).ok_or("a sample without a value")?;
        let (name, mut rest) = line.split_at(end);
        check(is_metric_name(name), "not a metric name")?;
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
                check(is_label_name(label), "not a label name")?;
                let close = closing_quote(after).ok_or("a label value without an end")?;
                check(escapes_are_valid(&after[..close], true), "a bad escape in a label value")?;
                let value = unescape(&after[..close]);
                check(labels.insert(label.to_owned(), value).is_none(), "a label twice")?;
                rest = &after[close + 1..];
                match rest.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').ok_or("labels without an end")?;
        }
        let mut words = rest.strip_prefix(' ').ok_or("no space before the value")?.split(' ');
        let value = words.next().and_then(float).ok_or("not a number")?;
        if let Some(timestamp) = words.next() {
            check(timestamp.parse::<i64>().is_ok(), "not a timestamp")?;
        }
        check(words.next().is_none(), "more than a value and a timestamp")?;
        Ok(Self { name: name.to_owned(), labels, value })
    }
}

fn check(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn is_metric_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
}

fn is_label_name(name: &str) -> bool {
    is_metric_name(name) && !name.contains(':') && !name.starts_with("__")
}

/// A number as Go's ParseFloat accepts it and expositions write it: no `inf`, no `+1`, no hexadecimal.
fn float(word: &str) -> Option<f64> {
    match word {
        "NaN" => Some(f64::NAN),
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        _ if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !word.contains("nf") => {
            word.parse().ok()
        }
        _ => None,
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn escapes_are_valid(text: &str, quotes: bool) -> bool {
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let valid = match c {
            '\\' => match rest.next() {
                Some('\\' | 'n') => true,
                Some('"') => quotes,
                _ => false,
            },
            '"' => !quotes,
            _ => true,
        };
        if !valid {
            return false;
        }
    }
    true
}

fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('n') => plain.push('\n'),
                escaped => plain.extend(escaped),
            },
            c => plain.push(c),
        }
    }
    plain
}
