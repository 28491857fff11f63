//! Query strings and the request headers that choose an answer's form.

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
    /// Reads a query string; a pair that is not well encoded is ignored.
    pub fn parse(query: &str) -> Self {
        let mut parameters = Self::default();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (decode(key), decode(value)) else { continue };
            match key.as_str() {
                "collect[]" => parameters.collect.push(value),
                "exclude[]" => parameters.exclude.push(value),
                "name[]" => parameters.names.push(value),
                _ => {}
            }
        }
        parameters
    }
}

/// Undoes `%41` and `+`.
fn decode(text: &str) -> Option<String> {
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
    String::from_utf8(bytes).ok()
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
            Parameters::parse("collect%5B%5D=cpu&collect[]=net%64ev&exclude[]=a+b&name[]=x&collect=no");
        assert_eq!(parameters.collect, ["cpu", "netdev"]);
        assert_eq!(parameters.exclude, ["a b"]);
        assert_eq!(parameters.names, ["x"]);
    }

    #[test]
    fn a_pair_that_is_not_well_encoded_is_ignored() {
        for query in ["collect[]=%", "collect[]=%4", "collect[]=%zz", "collect[]=%ff", "%=x", "", "&&="] {
            assert_eq!(Parameters::parse(query), Parameters::default(), "{query}");
        }
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
            let _ = (Parameters::parse(&text), wants_gzip([text.as_str()].into_iter()), timeout_seconds(&text));
        }
    }
}
