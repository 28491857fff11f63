//! Durations as Go writes them.

use std::time::Duration;

/// A duration in Go's notation, with days and weeks as in node_exporter, in whole nanoseconds; less than a year.
pub fn go_duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                // Unicode has two letters for micro.
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    let within_a_year = (0.0..31_536_000.0).contains(&seconds) && !text.is_empty();
    within_a_year.then(|| Duration::from_secs_f64(seconds))
}

/// A duration in Go's notation, or a number of seconds.
pub(crate) fn interval(text: &str) -> Option<Duration> {
    go_duration(text).or_else(|| go_duration(&format!("{text}s")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_those_of_node_exporter() {
        for (text, seconds) in [
            ("5s", 5.0),
            ("+1m30s", 90.0),
            ("1h30m5.5s", 5405.5),
            (".5s", 0.5),
            ("0", 0.0),
            ("1d2h", 93_600.0),
            ("2w", 1_209_600.0),
            ("3\u{b5}s", 3e-6),
            ("3\u{3bc}s", 3e-6),
        ] {
            assert_eq!(go_duration(text).map(|duration| duration.as_secs_f64()), Some(seconds), "{text}");
        }
        for text in ["", "5", "+", "-5s", "++5s", "s", ".s", "1y", "5 s", "1e3s", "0x5s", "53w"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn an_interval_may_be_a_number_of_seconds() {
        assert_eq!(interval("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(interval("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(interval("-1"), None);
    }

    proptest! {
        #[test]
        fn any_duration_is_parsed_or_refused(text in "[0-9.smhnuµ]{0,12}") {
            let _ = go_duration(&text);
        }
    }
}
