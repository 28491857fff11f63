//! Parameters of a request to the metrics page: its query string and the headers that choose the format.

use std::borrow::Cow;

use crate::scrape::Format;

/// The query parameters of the metrics page; others are ignored.
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
    /// Parses a query string. As in Go, a pair with a semicolon is ignored. An invalid escape is an error, and so is a
    /// filter in a pair with a semicolon: ignoring it would return all metrics instead of the selected ones.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut parameters = Self::default();
        for pair in query.split('&') {
            if pair.contains(';') {
                // Semicolons once separated pairs.
                if pair.split(';').any(is_filter) {
                    return Err(format!(
                        "a filter with a semicolon, which is not a separator; use &: {pair}"
                    ));
                }
                continue;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (decode(key), decode(value)) else {
                return Err(format!("invalid escape in the query: {pair}"));
            };
            let values = match &*key {
                "collect[]" => &mut parameters.collect,
                "exclude[]" => &mut parameters.exclude,
                "name[]" => &mut parameters.names,
                _ => continue,
            };
            values.push(value.into_owned());
        }
        Ok(parameters)
    }
}

/// Whether a pair is one of the known parameters.
fn is_filter(pair: &str) -> bool {
    let key = pair.split('=').next().and_then(decode);
    key.is_some_and(|key| matches!(&*key, "collect[]" | "exclude[]" | "name[]"))
}

/// Decodes `%41` and `+`. Bytes that are not UTF-8 become U+FFFD, which no name contains.
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

/// The format and the name escaping scheme that `Accept` prefers. Chosen as by Prometheus' Go client: unknown types
/// result in the text format.
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

/// The escaping schemes for metric names with UTF-8. All names here are legacy names, which are equal in each scheme.
const ESCAPINGS: &[&str] = &["underscores", "allow-utf-8", "dots", "values"];

/// A media range of `Accept`.
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

/// Whether `Accept-Encoding` prefers gzip at least as much as no compression.
pub fn accepts_gzip<'h>(accept_encoding: impl Iterator<Item = &'h str>) -> bool {
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

/// The value of `X-Prometheus-Scrape-Timeout-Seconds` in seconds; none if it is not positive and finite.
pub fn timeout_seconds(header: &str) -> Option<f64> {
    let seconds: f64 = header.trim().parse().ok()?;
    (seconds.is_finite() && seconds > 0.0).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encoded_and_plain_brackets_are_equal() {
        let parameters =
            Parameters::parse("collect%5B%5D=cpu&collect[]=net%64ev&exclude[]=a+b&name[]=x&collect=no")
                .unwrap();
        assert_eq!(parameters.collect, ["cpu", "netdev"]);
        assert_eq!(parameters.exclude, ["a b"]);
        assert_eq!(parameters.names, ["x"]);
    }

    #[test]
    fn an_invalid_escape_is_an_error() {
        for query in ["collect[]=%", "collect[]=%4", "a=b&exclude[]=%zz", "%=x", "name[]=%+1"] {
            assert!(Parameters::parse(query).unwrap_err().contains('%'), "{query}");
        }
        assert_eq!(Parameters::parse("collect[]=%ff").unwrap().collect, ["\u{fffd}"]);
        for query in ["", "&&=", "x=%41"] {
            assert_eq!(Parameters::parse(query).unwrap(), Parameters::default(), "{query}");
        }
    }

    #[test]
    fn a_pair_with_a_semicolon_is_ignored_unless_it_is_a_filter() {
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
    fn the_preferred_supported_format_is_chosen() {
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
    fn gzip_is_used_if_it_is_preferred_at_least_as_much() {
        for header in
            ["gzip", "deflate, gzip;q=0.5", "zstd, gzip;q=0.5", "*", "GZIP ; q=1.0", "identity;q=0.5, gzip"]
        {
            assert!(accepts_gzip([header].into_iter()), "{header}");
        }
        for header in
            ["", "deflate, br", "gzip;q=0", "*;q=0", "identity, gzip;q=0.5", "gzip;q=x", "gzip;q=0, *"]
        {
            assert!(!accepts_gzip([header].into_iter()), "{header}");
        }
        assert!(accepts_gzip(["br", "gzip"].into_iter()), "several headers are one list");
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
        fn no_header_panics(text in "\\PC{0,60}") {
            let _ = (negotiate([text.as_str()].into_iter()), Parameters::parse(&text), accepts_gzip([text.as_str()].into_iter()), timeout_seconds(&text));
        }
    }
}
