//! Durations as Go writes them.

use std::time::Duration;

/// No duration is longer: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The shortest and the longest duration that a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationRange {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl DurationRange {
    /// From nothing to a year.
    pub const ANY: Self = Self { min: Duration::ZERO, max: LONGEST };

    /// As the help has it: ` From 50ms to 120s.`; empty for [`Self::ANY`].
    pub(crate) fn help(self) -> String {
        match self {
            Self::ANY => String::new(),
            Self { min, max: LONGEST } => format!(" At least {min:?}."),
            Self { min: Duration::ZERO, max } => format!(" At most {max:?}."),
            Self { min, max } => format!(" From {min:?} to {max:?}."),
        }
    }

    fn parse(self, seconds: f64) -> Result<Duration, String> {
        // A number of seconds that is too large for a duration is too long as well.
        let duration = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        if duration < self.min {
            return Err(format!("too short: use at least {:?}", self.min));
        }
        match self.max {
            max if duration <= max => Ok(duration),
            LONGEST => Err("too long: use at most a year, 8760h".to_owned()),
            max => Err(format!("too long: use at most {max:?}")),
        }
    }
}

/// A duration in Go's notation, with days and weeks as in node_exporter, in whole nanoseconds; a year at most.
pub fn go_duration(text: &str) -> Option<Duration> {
    DurationRange::ANY.parse(seconds(text)?).ok()
}

/// The same within a range. The error says what to write instead.
pub(crate) fn duration(text: &str, range: DurationRange) -> Result<Duration, String> {
    let invalid = || match seconds(&format!("{text}s")) {
        Some(_) => format!("no unit: use {text}s for seconds"),
        None => "not a duration such as 5s, 1m30s or 250ms".to_owned(),
    };
    range.parse(seconds(text).ok_or_else(invalid)?)
}

/// A duration in Go's notation, or a number of seconds, within a range.
pub(crate) fn interval(text: &str, range: DurationRange) -> Result<Duration, String> {
    let seconds = seconds(text).or_else(|| seconds(&format!("{text}s")));
    range.parse(seconds.ok_or("not a number of seconds or a duration such as 500ms")?)
}

/// An interval as it is written with its unit: `1` is `1s`; none if it is no interval.
pub(crate) fn written_with_unit(text: &str) -> Option<String> {
    let with_unit = if seconds(text).is_some() { text.to_owned() } else { format!("{text}s") };
    seconds(&with_unit).map(|_| with_unit)
}

fn seconds(text: &str) -> Option<f64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(0.0);
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
    (!text.is_empty()).then_some(seconds)
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
        let interval = |text| interval(text, DurationRange::ANY).ok();
        assert_eq!(interval("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(interval("500ms"), Some(Duration::from_millis(500)));
        assert_eq!((interval("-1"), interval("")), (None, None));
    }

    #[test]
    fn the_error_for_an_invalid_duration_shows_what_to_write_instead() {
        let range = DurationRange { min: Duration::from_millis(50), max: Duration::from_secs(120) };
        for (text, range, error) in [
            ("5", range, "no unit: use 5s for seconds"),
            ("0.5", range, "no unit: use 0.5s for seconds"),
            ("soon", range, "not a duration such as 5s, 1m30s or 250ms"),
            ("-5s", range, "not a duration such as 5s, 1m30s or 250ms"),
            ("0s", range, "too short: use at least 50ms"),
            ("0", range, "too short: use at least 50ms"),
            ("1ns", range, "too short: use at least 50ms"),
            ("121s", range, "too long: use at most 120s"),
            ("1000000h", range, "too long: use at most 120s"),
            ("1000000h", DurationRange::ANY, "too long: use at most a year, 8760h"),
            (&format!("{}h", "9".repeat(400)), DurationRange::ANY, "too long: use at most a year, 8760h"),
        ] {
            assert_eq!(duration(text, range).unwrap_err(), error, "{text}");
        }
        assert_eq!(duration("50ms", range).unwrap().as_millis(), 50);
        assert_eq!(duration("2m", range).unwrap().as_secs(), 120);
        assert_eq!(duration("8760h", DurationRange::ANY), Ok(LONGEST));
        assert_eq!(range.help(), " From 50ms to 120s.");
    }

    proptest! {
        #[test]
        fn any_duration_is_parsed_or_refused(text in "[0-9.smhnuµ]{0,12}") {
            let _ = go_duration(&text);
        }
    }
}
