//! Prometheus' text format 0.0.4, read strictly: a file is understood as a whole or refused.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::collections::HashMap;

use crate::exposition::Kind;

/// A family as a file gives it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parsed {
    pub(super) name: String,
    pub(super) help: Option<String>,
    pub(super) kind: Option<Kind>,
    pub(super) samples: Vec<Sample>,
}

/// A sample of a family.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// `_bucket`, `_count`, `_sum` or nothing.
    pub(super) suffix: &'static str,
    /// Sorted by name, each once, none empty: an empty label is no label.
    pub(super) labels: Labels,
    pub(super) value: f64,
}

/// Names and values.
pub(super) type Labels = Vec<(String, String)>;

/// Why a file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(super) struct ParseError {
    pub(super) line: usize,
    pub(super) reason: String,
}

/// The families of a file that have samples, in the order in which they come.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Parsed>, ParseError> {
    let count = text.split(|byte| *byte == b'\n').count();
    let fail = |line, reason: String| ParseError { line, reason };
    let text = std::str::from_utf8(text).map_err(|_| fail(count, "the file is not UTF-8".into()))?;
    let Some(text) = text.strip_suffix('\n') else {
        return match text.is_empty() {
            true => Ok(Vec::new()),
            // A file that is still being written must not pass for a whole one.
            false => Err(fail(count, "the file ends within a line".into())),
        };
    };
    let mut families = Families::default();
    for (at, line) in text.split('\n').enumerate() {
        families.line(line).map_err(|reason| fail(at + 1, reason))?;
    }
    families.list.retain(|family| !family.samples.is_empty());
    Ok(families.list)
}

#[derive(Default)]
struct Families {
    list: Vec<Parsed>,
    by_name: HashMap<String, usize>,
}

impl Families {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let line = skip_blanks(line);
        match line.strip_prefix('#') {
            Some(comment) => self.comment(comment),
            None if line.is_empty() => Ok(()),
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
        if rest.is_empty() {
            return Ok(());
        }
        let rest = skip_blanks(rest);
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

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let (name, rest) = metric_name(line);
        if name.is_empty() {
            return Err("a metric name must begin here".into());
        }
        let rest = skip_blanks(rest);
        let (mut labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Vec::new(), rest),
        };
        let (value, rest) = word(skip_blanks(rest));
        let value = float(value).ok_or_else(|| format!("{value:?} is no value"))?;
        if !skip_blanks(rest).is_empty() {
            return Err("timestamps are not taken".into());
        }
        let (base, suffix) = self.split(name);
        let family = self.family(base);
        let own = match (family.kind, suffix) {
            (Some(Kind::Histogram), "_bucket") => Some("le"),
            (Some(Kind::Summary), "") => Some("quantile"),
            (Some(Kind::Histogram), "") => {
                return Err(format!("{name} is a histogram: its samples end in _bucket, _count or _sum"));
            }
            _ => None,
        };
        if let Some(own) = own {
            let label = labels.iter_mut().find(|(name, _)| name == own);
            let label = label.ok_or_else(|| format!("{name} lacks its label {own}"))?;
            let number = float(&label.1).ok_or_else(|| format!("{own}={:?} is no number", label.1))?;
            label.1 = go_float(number);
        }
        labels.retain(|(_, value)| !value.is_empty());
        family.samples.push(Sample { suffix, labels, value });
        Ok(())
    }

    /// The family that a sample belongs to, and what its name adds to the family's.
    fn split<'n>(&self, name: &'n str) -> (&'n str, &'static str) {
        if self.by_name.contains_key(name) {
            return (name, "");
        }
        for suffix in ["_bucket", "_count", "_sum"] {
            let Some(base) = name.strip_suffix(suffix) else { continue };
            let kind = self.by_name.get(base).and_then(|at| self.list.get(*at)).and_then(|family| family.kind);
            match kind {
                Some(Kind::Histogram) => return (base, suffix),
                Some(Kind::Summary) if suffix != "_bucket" => return (base, suffix),
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

/// Labels up to and with their `}`, sorted by name.
fn labels(text: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    let mut rest = skip_blanks(text);
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            labels.sort_unstable();
            return match labels.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
                true => Err("a label stands twice".into()),
                false => Ok((labels, rest)),
            };
        }
        let (label, after) = name(rest, |_| false);
        if label.is_empty() || label == "__name__" {
            return Err("a label name must stand here".into());
        }
        let after = skip_blanks(after).strip_prefix('=').map(skip_blanks);
        let quoted = after.and_then(|after| after.strip_prefix('"'));
        let quoted = quoted.ok_or_else(|| format!("no =\" after label {label}"))?;
        let end = closing_quote(quoted).ok_or_else(|| format!("no end of the value of label {label}"))?;
        let (value, after) = quoted.split_at(end);
        labels.push((label.to_owned(), unescape(value, true)?));
        rest = skip_blanks(after.strip_prefix('"').unwrap_or(after));
        rest = match rest.strip_prefix(',') {
            Some(rest) => skip_blanks(rest),
            None if rest.starts_with('}') => rest,
            None => return Err(format!("no comma after label {label}")),
        };
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

fn kind(text: &str) -> Result<Kind, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "untyped" => Kind::Untyped,
        "summary" => Kind::Summary,
        "histogram" => Kind::Histogram,
        _ => return Err(format!("{text:?} is no type")),
    })
}

/// A number as Go's strconv reads it in this format; what does not fit is none.
fn float(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
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

    #[test]
    fn blanks_comments_and_a_last_comma_are_as_in_prometheus() {
        let text = "\n  # just a comment\n# HELP\n# TYPE a\n\t a { x = \"1\" , y=\"2\", }  3 \t\n#\n";
        let parsed = parse(text.as_bytes()).unwrap();
        let labels = vec![("x".to_owned(), "1".to_owned()), ("y".to_owned(), "2".to_owned())];
        assert_eq!(parsed[0].samples, [Sample { suffix: "", labels, value: 3.0 }]);
        assert_eq!((parsed[0].kind, parsed[0].help.as_deref()), (None, None));
    }

    #[test]
    fn escapes_are_undone_and_unknown_ones_refused() {
        let parsed = parse(b"# HELP a b\\\\c\\nd \"e\"\na{x=\"1\\\\2\\n3\\\"4}{,\"} 1\n").unwrap();
        assert_eq!(parsed[0].help.as_deref(), Some("b\\c\nd \"e\""));
        assert_eq!(parsed[0].samples[0].labels[0].1, "1\\2\n3\"4}{,");
        assert_eq!(error("a{x=\"\\t\"} 1\n"), "line 1: no escape: \\t");
    }

    #[test]
    fn a_summary_and_a_histogram_own_their_suffixes() {
        let parsed = parse(
            b"# TYPE s summary\ns{quantile=\"0.50\"} 1\ns_sum 2\ns_count 3\ns_bucket 4\n\
              # TYPE h histogram\nh_bucket{le=\"1.0\"} 5\nh_bucket{le=\"+Inf\"} 6\nh_sum 7\nh_count 8\n",
        )
        .unwrap();
        let names: Vec<_> = parsed.iter().map(|family| (family.name.as_str(), family.samples.len())).collect();
        assert_eq!(names, [("s", 3), ("s_bucket", 1), ("h", 4)]);
        assert_eq!(parsed[0].samples[0].labels[0].1, "0.5");
        assert_eq!(parsed[2].samples[0].labels[0].1, "1");
    }

    #[test]
    fn what_is_broken_is_refused_with_its_line() {
        for (text, reason) in [
            ("a 1\nb 2 1234\n", "line 2: timestamps are not taken"),
            ("a 1", "line 1: the file ends within a line"),
            ("a\n", "line 1: \"\" is no value"),
            ("a 1_0\n", "line 1: \"1_0\" is no value"),
            ("a 1e999\n", "line 1: \"1e999\" is no value"),
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
            ("# TYPE h histogram\nh 1\n", "line 2: h is a histogram: its samples end in _bucket, _count or _sum"),
            ("# TYPE h histogram\nh_bucket 1\n", "line 2: h_bucket lacks its label le"),
            ("# TYPE s summary\ns{quantile=\"x\"} 1\n", "line 2: quantile=\"x\" is no number"),
            ("a 1\r\n", "line 1: \"1\\r\" is no value"),
        ] {
            assert_eq!(error(text), reason, "{text:?}");
        }
        assert_eq!(parse(b"a{x=\"\xff\"} 1\n").unwrap_err().reason, "the file is not UTF-8");
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn bounds_are_written_as_in_go() {
        for (value, text) in
            [(0.005, "0.005"), (1.0, "1"), (250_000.0, "250000"), (1_290_240.0, "1.29024e+06"), (2.5e-7, "2.5e-07"), (f64::INFINITY, "+Inf")]
        {
            assert_eq!(go_float(value), text);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_file_or_refused(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&text);
        }

        #[test]
        fn what_looks_like_the_format_is_survived(text in "([a-z#{}\",= \\\\0-9\\n]|HELP|TYPE|le|_bucket|histogram){0,120}") {
            let _ = parse(text.as_bytes());
        }
    }
}
