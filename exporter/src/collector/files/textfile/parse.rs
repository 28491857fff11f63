//! Prometheus' text format 0.0.4, read strictly: a file that is not in the format is refused as a whole. Of one that is,
//! lines that no exposition may have (a reserved label name, a bucket without a bound) are left out one by one.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::borrow::Cow;
use std::collections::HashMap;

use crate::exposition::MetricType;

/// A family of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parsed {
    pub(super) name: String,
    pub(super) help: Option<String>,
    pub(super) kind: Option<MetricType>,
    pub(super) samples: Vec<Sample>,
}

/// A sample of a family.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// `_bucket`, `_count`, `_sum` or nothing.
    pub(super) suffix: &'static str,
    /// Sorted by name, but for a bucket's or a quantile's own, which comes last; each once, none empty: an empty label
    /// is no label.
    pub(super) labels: Labels,
    pub(super) value: f64,
    /// The line that it stands in, from 1 on.
    pub(super) line: u32,
}

/// A file that is in the format.
#[derive(Debug, Default, PartialEq)]
pub(super) struct File {
    /// The families that have samples, in the order in which they come.
    pub(super) families: Vec<Parsed>,
    /// Lines that were left out.
    pub(super) left_out: Vec<ParseError>,
}

/// Names and values.
pub(super) type Labels = Vec<(String, String)>;

/// Why a file is refused, or a line of it left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(super) struct ParseError {
    pub(super) line: usize,
    pub(super) reason: String,
}

/// What is wrong with a line.
enum Fault {
    /// It is not in the format, so that the file is refused.
    File(String),
    /// It is in the format, and no exposition may have it.
    Line(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Fault::File(reason)
    }
}

/// Reads a file.
pub(super) fn parse(text: &[u8]) -> Result<File, ParseError> {
    let Some(text) = text.strip_suffix(b"\n") else {
        if text.is_empty() {
            return Ok(File::default());
        }
        // A file that is still being written must not pass for a whole one.
        let line = text.split(|byte| *byte == b'\n').count();
        return Err(ParseError { line, reason: "the file ends within a line".into() });
    };
    let mut families = Families::default();
    let mut left_out = Vec::new();
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line_number = at + 1;
        families.line_number = u32::try_from(line_number).unwrap_or(u32::MAX);
        match families.line(line) {
            Ok(()) => {}
            Err(Fault::File(reason)) => return Err(ParseError { line: line_number, reason }),
            Err(Fault::Line(reason)) => left_out.push(ParseError { line: line_number, reason }),
        }
    }
    families.list.retain(|family| !family.samples.is_empty());
    Ok(File { families: families.list, left_out })
}

#[derive(Default)]
struct Families {
    list: Vec<Parsed>,
    by_name: HashMap<String, usize>,
    line_number: u32,
}

impl Families {
    fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let text = String::from_utf8_lossy(line);
        let line = skip_blanks(&text);
        match line.strip_prefix('#') {
            // Comments and help texts are for people, in any encoding.
            Some(comment) => Ok(self.comment(comment)?),
            None if line.is_empty() => Ok(()),
            // Made valid, it is another text.
            None if matches!(text, Cow::Owned(_)) => Err(Fault::File("a sample that is not UTF-8".into())),
            None => self.sample(line),
        }
    }

    /// `# HELP name text` and `# TYPE name type`; other comments are for people.
    fn comment(&mut self, comment: &str) -> Result<(), String> {
        let (keyword, rest) = word(skip_blanks(comment));
        if !matches!(keyword, "HELP" | "TYPE") {
            return Ok(());
        }
        let (name, rest) = word(skip_blanks(rest));
        if name.is_empty() {
            return Ok(());
        }
        if metric_name(name) != (name, "") {
            return Err(format!("{name:?} is no metric name"));
        }
        let rest = skip_blanks(rest);
        if rest.is_empty() {
            return Ok(());
        }
        let family = self.family(name);
        match keyword {
            "HELP" if family.help.is_some() => return Err(format!("a second HELP for {name}")),
            "HELP" => family.help = Some(unescape(rest, false)?),
            _ if family.kind.is_some() || !family.samples.is_empty() => {
                return Err(format!("TYPE of {name} stands twice, or after its samples"));
            }
            _ => family.kind = Some(kind(rest)?),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), Fault> {
        let (mut name, rest) = metric_name(line);
        let rest = skip_blanks(rest);
        let (read, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest, name.is_empty())?,
            None => (Read::default(), rest),
        };
        name = if name.is_empty() { read.metric } else { name };
        if name.is_empty() {
            return Err(Fault::File("a metric name must begin here".into()));
        }
        let mut labels = read.labels;
        let (value, rest) = word(skip_blanks(rest));
        let value = float(value).ok_or_else(|| format!("{value:?} is no value"))?;
        let rest = skip_blanks(rest);
        if !rest.is_empty() {
            let is_timestamp = rest.trim_end().parse::<i64>().is_ok();
            let reason =
                if is_timestamp { "timestamps are not taken" } else { "more than a value stands here" };
            return Err(Fault::File(reason.into()));
        }
        if let Some((reserved, _)) = labels.iter().find(|(label, _)| label.starts_with("__")) {
            return Err(Fault::Line(format!("the label name {reserved} is reserved: it begins with __")));
        }
        let (base, suffix) = self.split(name);
        let line = self.line_number;
        let family = self.family(base);
        let own = match (family.kind, suffix) {
            (Some(MetricType::Histogram), "_bucket") => Some("le"),
            (Some(MetricType::Summary), "") => Some("quantile"),
            (Some(MetricType::Histogram), "") => {
                let reason = format!("{name} is a histogram: its samples end in _bucket, _count or _sum");
                return Err(Fault::Line(reason));
            }
            // The library drops them as well: they belong to the family's other samples.
            (Some(MetricType::Histogram), _) => {
                labels.retain(|(label, _)| label != "le");
                None
            }
            (Some(MetricType::Summary), _) => {
                labels.retain(|(label, _)| label != "quantile");
                None
            }
            _ => None,
        };
        if let Some(own) = own {
            let label = labels.iter_mut().find(|(name, _)| name == own);
            let label = label.ok_or_else(|| Fault::Line(format!("{name} lacks its label {own}")))?;
            let number = float(&label.1).ok_or_else(|| format!("{own}={:?} is no number", label.1))?;
            if number.is_nan() {
                return Err(Fault::Line(format!("{own}=\"NaN\" of {name} is no bound")));
            }
            label.1 = go_float(number);
            // It comes last, as the library has it.
            labels.sort_by_key(|(label, _)| label == own);
        }
        if family.kind == Some(MetricType::Histogram)
            && matches!(suffix, "_bucket" | "_count")
            && (value.is_nan() || value < 0.0)
        {
            return Err(Fault::Line(format!("{name} counts, and {value} is no count")));
        }
        labels.retain(|(_, value)| !value.is_empty());
        family.samples.push(Sample { suffix, labels, value, line });
        Ok(())
    }

    /// The family that a sample belongs to, and what its name adds to the family's.
    fn split<'n>(&self, name: &'n str) -> (&'n str, &'static str) {
        if self.by_name.contains_key(name) {
            return (name, "");
        }
        for suffix in ["_bucket", "_count", "_sum"] {
            let Some(base) = name.strip_suffix(suffix) else { continue };
            let kind =
                self.by_name.get(base).and_then(|at| self.list.get(*at)).and_then(|family| family.kind);
            match kind {
                Some(MetricType::Histogram) => return (base, suffix),
                Some(MetricType::Summary) if suffix != "_bucket" => return (base, suffix),
                _ => {}
            }
        }
        (name, "")
    }

    fn family(&mut self, name: &str) -> &mut Parsed {
        let at = *self.by_name.entry(name.to_owned()).or_insert(self.list.len());
        if at == self.list.len() {
            self.list.push(Parsed { name: name.to_owned(), help: None, kind: None, samples: Vec::new() });
        }
        // `at` is at most the last.
        &mut self.list[at]
    }
}

fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// What stands before the first blank, and the rest with it.
fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find([' ', '\t']).unwrap_or(text.len()))
}

/// The metric name at the beginning, empty when there is none, and the rest.
fn metric_name(text: &str) -> (&str, &str) {
    name(text, |byte| byte == b':')
}

fn name(text: &str, more: impl Fn(u8) -> bool) -> (&str, &str) {
    let fits = |(at, byte): (usize, u8)| {
        byte.is_ascii_alphabetic() || byte == b'_' || more(byte) || (at > 0 && byte.is_ascii_digit())
    };
    text.split_at(text.bytes().enumerate().take_while(|at| fits(*at)).count())
}

/// What stands between braces.
#[derive(Default)]
struct Read<'l> {
    /// The metric's name, when it stands there: `{"name",label="value"}`; else empty.
    metric: &'l str,
    /// Sorted by name.
    labels: Labels,
}

/// Labels up to and with their `}`. Names may stand in quotes; `takes_metric` allows the metric's to come first.
fn labels(text: &str, takes_metric: bool) -> Result<(Read<'_>, &str), String> {
    let mut read = Read::default();
    let mut rest = skip_blanks(text);
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            read.labels.sort_unstable();
            return if read.labels.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
                Err("a label stands twice".into())
            } else {
                Ok((read, rest))
            };
        }
        let (label, after) = match rest.strip_prefix('"') {
            None => name(rest, |_| false),
            Some(quoted) => {
                let end = closing_quote(quoted).ok_or("no end of a name in quotes")?;
                let (label, after) = quoted.split_at(end);
                let after = skip_blanks(after.strip_prefix('"').unwrap_or(after));
                if takes_metric && read.metric.is_empty() && read.labels.is_empty() && !after.starts_with('=')
                {
                    if label.is_empty() || metric_name(label) != (label, "") {
                        return Err(format!("{label:?} is no metric name"));
                    }
                    read.metric = label;
                    rest = next_label(after, label)?;
                    continue;
                }
                if name(label, |_| false) != (label, "") {
                    return Err(format!("{label:?} is no label name"));
                }
                (label, after)
            }
        };
        if label.is_empty() || label == "__name__" {
            return Err("a label name must stand here".into());
        }
        let after = skip_blanks(after).strip_prefix('=').map(skip_blanks);
        let quoted = after.and_then(|after| after.strip_prefix('"'));
        let quoted = quoted.ok_or_else(|| format!("no =\" after label {label}"))?;
        let end = closing_quote(quoted).ok_or_else(|| format!("no end of the value of label {label}"))?;
        let (value, after) = quoted.split_at(end);
        read.labels.push((label.to_owned(), unescape(value, true)?));
        rest = next_label(skip_blanks(after.strip_prefix('"').unwrap_or(after)), label)?;
    }
}

/// What follows a label and its comma.
fn next_label<'l>(rest: &'l str, label: &str) -> Result<&'l str, String> {
    match rest.strip_prefix(',') {
        Some(rest) => Ok(skip_blanks(rest)),
        None if rest.starts_with('}') => Ok(rest),
        None => Err(format!("no comma after label {label}")),
    }
}

/// Where the first quote without a backslash before it stands.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// Undoes `\\` and `\n`, and in labels `\"`; no other escape exists.
fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('\\') => '\\',
                Some('"') if quotes => '"',
                other => return Err(format!("no escape: \\{}", other.map_or(String::new(), String::from))),
            },
            c => c,
        });
    }
    Ok(out)
}

fn kind(text: &str) -> Result<MetricType, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "counter" => MetricType::Counter,
        "gauge" => MetricType::Gauge,
        "untyped" => MetricType::Untyped,
        "summary" => MetricType::Summary,
        "histogram" => MetricType::Histogram,
        _ => return Err(format!("{text:?} is no type")),
    })
}

/// A number as Go's strconv reads it in this format; what does not fit is none, and so is NaN with a sign.
fn float(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    if value.is_nan() && text.starts_with(['+', '-']) {
        return None;
    }
    let says_infinity = text.contains(['i', 'I']);
    (value.is_finite() || value.is_nan() || says_infinity).then_some(value)
}

/// A bound as Go's client writes it: the label of a bucket is part of its series' name.
pub(super) fn go_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let text = format!("{value:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    fn families(text: &[u8]) -> Vec<Parsed> {
        let file = parse(text).unwrap();
        assert_eq!(file.left_out, []);
        file.families
    }

    #[test]
    fn blanks_comments_and_a_last_comma_are_as_in_prometheus() {
        let text = "\n  # just a comment\n# HELP\n# TYPE a\n\t a { x = \"1\" , y=\"2\", }  3 \t\n#\n";
        let parsed = families(text.as_bytes());
        let labels = vec![("x".to_owned(), "1".to_owned()), ("y".to_owned(), "2".to_owned())];
        assert_eq!(parsed[0].samples, [Sample { suffix: "", labels, value: 3.0, line: 5 }]);
        assert_eq!((parsed[0].kind, parsed[0].help.as_deref()), (None, None));
    }

    #[test]
    fn a_blank_help_text_or_type_is_ignored() {
        let parsed = families(b"# HELP a \n# TYPE a \t\n# HELP a Later.\n# TYPE a gauge\na 1\n");
        assert_eq!((parsed[0].kind, parsed[0].help.as_deref()), (Some(MetricType::Gauge), Some("Later.")));
    }

    #[test]
    fn escapes_are_undone_and_unknown_ones_refused() {
        let parsed = families(b"# HELP a b\\\\c\\nd \"e\"\na{x=\"1\\\\2\\n3\\\"4}{,\"} 1\n");
        assert_eq!(parsed[0].help.as_deref(), Some("b\\c\nd \"e\""));
        assert_eq!(parsed[0].samples[0].labels[0].1, "1\\2\n3\"4}{,");
        assert_eq!(error("a{x=\"\\t\"} 1\n"), "line 1: no escape: \\t");
    }

    #[test]
    fn a_summary_and_a_histogram_own_their_suffixes() {
        let parsed = families(
            b"# TYPE s summary\ns{quantile=\"0.50\"} 1\ns_sum 2\ns_count 3\ns_bucket 4\n\
              # TYPE h histogram\nh_bucket{le=\"1.0\"} 5\nh_bucket{le=\"+Inf\"} 6\nh_sum 7\nh_count 8\n",
        );
        let names: Vec<_> =
            parsed.iter().map(|family| (family.name.as_str(), family.samples.len())).collect();
        assert_eq!(names, [("s", 3), ("s_bucket", 1), ("h", 4)]);
        assert_eq!(parsed[0].samples[0].labels[0].1, "0.5");
        assert_eq!(parsed[2].samples[0].labels[0].1, "1");
    }

    #[test]
    fn malformed_lines_are_refused_with_their_number() {
        for (text, reason) in [
            ("a 1\nb 2 1234\n", "line 2: timestamps are not taken"),
            ("a 1", "line 1: the file ends within a line"),
            ("a\n", "line 1: \"\" is no value"),
            ("a 1_0\n", "line 1: \"1_0\" is no value"),
            ("a 1e999\n", "line 1: \"1e999\" is no value"),
            ("a -nan\n", "line 1: \"-nan\" is no value"),
            ("a +NaN\n", "line 1: \"+NaN\" is no value"),
            ("# TYPE s summary\ns{quantile=\"-NaN\"} 1\n", "line 2: quantile=\"-NaN\" is no number"),
            ("1a 1\n", "line 1: a metric name must begin here"),
            ("a-b 1\n", "line 1: \"-b\" is no value"),
            ("a{x=1} 1\n", "line 1: no =\" after label x"),
            ("a{x=\"1} 1\n", "line 1: no end of the value of label x"),
            ("a{x=\"1\" y=\"2\"} 1\n", "line 1: no comma after label x"),
            ("a{x=\"1\",x=\"2\"} 1\n", "line 1: a label stands twice"),
            ("a{__name__=\"b\"} 1\n", "line 1: a label name must stand here"),
            ("# HELP a b\n# HELP a c\n", "line 2: a second HELP for a"),
            ("a 1\n# TYPE a gauge\n", "line 2: TYPE of a stands twice, or after its samples"),
            ("# TYPE a thing\n", "line 1: \"thing\" is no type"),
            ("# TYPE a-b gauge\n", "line 1: \"a-b\" is no metric name"),
            ("a 1 # {t=\"x\"} 1\n", "line 1: more than a value stands here"),
            ("{\"a.b\"} 1\n", "line 1: \"a.b\" is no metric name"),
            ("{\"a\" x=\"1\"} 1\n", "line 1: no comma after label a"),
            ("{x=\"1\"} 1\n", "line 1: a metric name must begin here"),
            ("a{\"b.c\"=\"1\"} 1\n", "line 1: \"b.c\" is no label name"),
            ("a{\"b} 1\n", "line 1: no end of a name in quotes"),
            ("a{\"b\"} 1\n", "line 1: no =\" after label b"),
            ("# TYPE a gauge_histogram\n", "line 1: \"gauge_histogram\" is no type"),
            ("# TYPE s summary\ns{quantile=\"x\"} 1\n", "line 2: quantile=\"x\" is no number"),
            ("a 1\r\n", "line 1: \"1\\r\" is no value"),
        ] {
            assert_eq!(error(text), reason, "{text:?}");
        }
        let not_text = parse(b"b 2\na{x=\"\xff\"} 1\nc 3\n").unwrap_err();
        assert_eq!(not_text.to_string(), "line 2: a sample that is not UTF-8");
        assert_eq!(parse(b""), Ok(File::default()));
    }

    #[test]
    fn comments_and_help_texts_may_be_in_any_encoding() {
        let parsed = families(b"# caf\xe9\n# HELP a caf\xe9\na 1\n# EOF\n");
        assert_eq!(parsed[0].help.as_deref(), Some("caf\u{fffd}"));
    }

    #[test]
    fn names_in_quotes_are_names() {
        let parsed = families(b"{\"a\",\"x\"=\"1\"} 2\n{ \"a\" } 3\nb{\"y\"=\"1\"} 4\n");
        assert_eq!(
            (parsed[0].name.as_str(), parsed[0].samples.len(), parsed[1].name.as_str()),
            ("a", 2, "b")
        );
        assert_eq!(parsed[0].samples[0].labels, [("x".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn a_line_that_no_exposition_may_have_is_skipped_and_the_others_parsed() {
        for (bad, reason) in [
            ("a{__x=\"1\"} 1", "line 3: the label name __x is reserved: it begins with __"),
            ("a{\"__x\"=\"1\"} 1", "line 3: the label name __x is reserved: it begins with __"),
            ("h 1", "line 3: h is a histogram: its samples end in _bucket, _count or _sum"),
            ("h_bucket 1", "line 3: h_bucket lacks its label le"),
            ("h_bucket{le=\"NaN\"} 1", "line 3: le=\"NaN\" of h_bucket is no bound"),
            ("h_bucket{le=\"1\"} -1", "line 3: h_bucket counts, and -1 is no count"),
            ("h_count NaN", "line 3: h_count counts, and NaN is no count"),
            ("s 1", "line 3: s lacks its label quantile"),
        ] {
            let text = format!("# TYPE h histogram\n# TYPE s summary\n{bad}\nb 2\n");
            let file = parse(text.as_bytes()).unwrap();
            let names: Vec<_> = file.families.iter().map(|family| family.name.as_str()).collect();
            assert_eq!(names, ["b"], "{bad}");
            assert_eq!(file.left_out.iter().map(ToString::to_string).collect::<Vec<_>>(), [reason]);
        }
    }

    #[test]
    fn a_bound_follows_the_other_labels() {
        let parsed = families(b"# TYPE h histogram\nh_bucket{x=\"1\",le=\"2\",a=\"3\"} 1\n");
        let names: Vec<_> = parsed[0].samples[0].labels.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "x", "le"]);
    }

    #[test]
    fn a_sum_and_a_count_have_no_bound() {
        let parsed =
            families(b"# TYPE h histogram\nh_count{le=\"1\"} 1\n# TYPE s summary\ns_sum{quantile=\"1\"} 1\n");
        assert!(parsed.iter().all(|family| family.samples[0].labels.is_empty()), "{parsed:?}");
    }

    #[test]
    fn bounds_are_written_as_in_go() {
        for (value, text) in [
            (0.005, "0.005"),
            (1.0, "1"),
            (250_000.0, "250000"),
            (1_290_240.0, "1.29024e+06"),
            (2.5e-7, "2.5e-07"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(go_float(value), text);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_file_or_refused(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&text);
        }

        #[test]
        fn text_that_resembles_the_format_never_panics(text in "([a-z#{}\",= \\\\0-9\\n]|HELP|TYPE|le|_bucket|histogram){0,120}") {
            let _ = parse(text.as_bytes());
        }
    }
}
