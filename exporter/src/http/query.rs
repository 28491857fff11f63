//! Query strings and the request headers that choose an answer's form.

use std::borrow::Cow;

use crate::scrape::Format;

/// The parameters that the metrics page knows; others are ignored.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `collect[]`: only these collectors.
    pub collect: Vec<String>,
    /// `exclude[]`: all enabled collectors but these.
    pub exclude: Vec<String>,
    /// `name[]`: only these families.
    pub names: Vec<String>,
}

impl Parameters {
    /// Reads a query string. A pair with a semicolon is ignored. The error is a pair that is not well encoded, or one
    /// that a semicolon cuts a filter off: were that ignored, the filter would be lost, and everything given.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut parameters = Self::default();
        for pair in query.split('&') {
            if pair.contains(';') {
                // It separated pairs once.
                if pair.split(';').any(is_filter) {
                    return Err(format!("a filter with a semicolon, which separates nothing: {pair}"));
                }
                continue;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (decode(key), decode(value)) else {
                return Err(format!("invalid escape in the query: {pair}"));
            };
            let of_key = match &*key {
                "collect[]" => &mut parameters.collect,
                "exclude[]" => &mut parameters.exclude,
                "name[]" => &mut parameters.names,
                _ => continue,
            };
            of_key.push(value.into_owned());
        }
        Ok(parameters)
    }
}

/// Whether a pair is a filter.
fn is_filter(pair: &str) -> bool {
    let key = pair.split('=').next().and_then(decode);
    key.is_some_and(|key| matches!(&*key, "collect[]" | "exclude[]" | "name[]"))
}

/// Undoes `%41` and `+`. Bytes that are not UTF-8 become U+FFFD, which is in no name.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['+', '%']) {
        return Some(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(String::from_utf8_lossy(&bytes).into_owned().into())
}

/// The form that `Accept` asks for most, and the scheme of names that it asks for: chosen as Prometheus' Go client does,
/// where anything unknown is text.
pub fn negotiate<'h>(accept: impl Iterator<Item = &'h str>) -> (Format, &'static str) {
    let ranges = accept.flat_map(|header| header.split(',')).map(Range::parse);
    let mut ranges: Vec<Range<'_>> = ranges.filter(|range| range.quality > 0.0).collect();
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let mut escaping = ESCAPINGS[0];
    for range in ranges {
        if let Some(known) = ESCAPINGS.iter().find(|known| range.parameter("escaping") == Some(known)) {
            escaping = known;
        }
        let protobuf = range.parameter("proto") == Some("io.prometheus.client.MetricFamily")
            && range.parameter("encoding") == Some("delimited");
        match (range.name, range.parameter("version")) {
            ("application/vnd.google.protobuf", _) if protobuf => return (Format::Protobuf, escaping),
            ("text/plain", None | Some("" | "0.0.4")) => return (Format::Text, escaping),
            _ => {}
        }
    }
    (Format::Text, escaping)
}

/// How names that older clients do not know could be written; every name here is an old one, and the same in all.
const ESCAPINGS: &[&str] = &["underscores", "allow-utf-8", "dots", "values"];

/// A part of `Accept`.
struct Range<'h> {
    name: &'h str,
    parameters: Vec<(&'h str, &'h str)>,
    quality: f32,
}

impl<'h> Range<'h> {
    fn parse(text: &'h str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or("");
        let parameters: Vec<_> = parts
            .filter_map(|part| part.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
            .collect();
        let mut range = Self { name, parameters, quality: 1.0 };
        if let Some(quality) = range.parameter("q") {
            range.quality = quality.parse().unwrap_or(0.0);
        }
        range
    }

    fn parameter(&self, name: &str) -> Option<&'h str> {
        self.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

/// Whether `Accept-Encoding` asks for gzip at least as much as for the plain text.
pub fn wants_gzip<'h>(accept_encoding: impl Iterator<Item = &'h str>) -> bool {
    let (mut gzip, mut star, mut identity) = (None, None, None);
    for coding in accept_encoding.flat_map(|header| header.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or("").to_ascii_lowercase();
        let quality = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1.0, |quality| quality.trim().parse::<f32>().unwrap_or(0.0));
        match name.as_str() {
            "gzip" | "x-gzip" => gzip = Some(quality),
            "identity" => identity = Some(quality),
            "*" => star = Some(quality),
            _ => {}
        }
    }
    let gzip: f32 = gzip.or(star).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// The seconds of `X-Prometheus-Scrape-Timeout-Seconds`, when they make sense.
pub fn timeout_seconds(header: &str) -> Option<f64> {
    let seconds: f64 = header.trim().parse().ok()?;
    (seconds.is_finite() && seconds > 0.0).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encoded_and_plain_brackets_are_the_same() {
        let parameters =
            Parameters::parse("collect%5B%5D=cpu&collect[]=net%64ev&exclude[]=a+b&name[]=x&collect=no")
                .unwrap();
        assert_eq!(parameters.collect, ["cpu", "netdev"]);
        assert_eq!(parameters.exclude, ["a b"]);
        assert_eq!(parameters.names, ["x"]);
    }

    #[test]
    fn a_pair_that_is_not_well_encoded_loses_no_filter() {
        for query in ["collect[]=%", "collect[]=%4", "a=b&exclude[]=%zz", "%=x", "name[]=%+1"] {
            assert!(Parameters::parse(query).unwrap_err().contains('%'), "{query}");
        }
        assert_eq!(Parameters::parse("collect[]=%ff").unwrap().collect, ["\u{fffd}"]);
        for query in ["", "&&=", "x=%41"] {
            assert_eq!(Parameters::parse(query).unwrap(), Parameters::default(), "{query}");
        }
    }

    #[test]
    fn a_pair_with_a_semicolon_is_ignored_but_loses_no_filter() {
        for query in
            ["a;b&collect[]=cpu", "collect[]=cpu&;", "%zz;x&collect[]=cpu", "a=b;collect=c&collect[]=cpu"]
        {
            assert_eq!(Parameters::parse(query).unwrap().collect, ["cpu"], "{query}");
        }
        for query in
            ["collect[]=cpu;x", "collect[]=cpu;x&collect[]=netdev", "a;collect%5B%5D=cpu", "exclude[];x=y"]
        {
            assert!(Parameters::parse(query).unwrap_err().contains("semicolon"), "{query}");
        }
        assert_eq!(Parameters::parse("collect[]=cpu%3bx").unwrap().collect, ["cpu;x"]);
    }

    #[test]
    fn the_form_is_what_is_asked_for_most_and_can_be_had() {
        const PROTOBUF: &str =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        let chosen = |header: &str| negotiate([header].into_iter());
        let text = (Format::Text, "underscores");
        for header in [
            "",
            "*/*",
            "application/json",
            "text/html",
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            &format!("text/plain, {PROTOBUF};q=0.5"),
            &format!("{PROTOBUF};q=0"),
            &format!("{PROTOBUF};q=x"),
            &PROTOBUF.replace("delimited", "text"),
            "application/vnd.google.protobuf",
        ] {
            assert_eq!(chosen(header), text, "{header}");
        }
        let others =
            "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for header in [
            PROTOBUF.to_owned(),
            format!("{PROTOBUF},{others}"),
            format!("text/plain;q=0.3, {};q=0.6", PROTOBUF.replace(';', " ; ")),
            format!("text/plain;version=1.0.0, {PROTOBUF};q=0.1"),
        ] {
            assert_eq!(chosen(&header).0, Format::Protobuf, "{header}");
        }
        assert_eq!(chosen("text/plain;version=0.0.4;escaping=allow-utf-8").1, "allow-utf-8");
        assert_eq!(chosen("application/openmetrics-text;escaping=dots;q=0.6, text/plain;q=0.5").1, "dots");
        assert_eq!(chosen("text/plain;escaping=other").1, "underscores");
    }

    #[test]
    fn gzip_is_used_when_it_is_asked_for_at_least_as_much() {
        for header in
            ["gzip", "deflate, gzip;q=0.5", "zstd, gzip;q=0.5", "*", "GZIP ; q=1.0", "identity;q=0.5, gzip"]
        {
            assert!(wants_gzip([header].into_iter()), "{header}");
        }
        for header in
            ["", "deflate, br", "gzip;q=0", "*;q=0", "identity, gzip;q=0.5", "gzip;q=x", "gzip;q=0, *"]
        {
            assert!(!wants_gzip([header].into_iter()), "{header}");
        }
        assert!(wants_gzip(["br", "gzip"].into_iter()), "two headers are one list");
    }

    #[test]
    fn a_timeout_is_a_positive_number() {
        assert_eq!(timeout_seconds("10.5"), Some(10.5));
        for header in ["", "x", "0", "-1", "inf", "nan"] {
            assert_eq!(timeout_seconds(header), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_headers_are_survived(text in "\\PC{0,60}") {
            let _ = (negotiate([text.as_str()].into_iter()), Parameters::parse(&text), wants_gzip([text.as_str()].into_iter()), timeout_seconds(&text));
        }
    }
}
