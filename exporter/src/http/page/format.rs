//! Formats values for the page: numbers with their units, and untrusted strings of the broker and the host.

use std::time::Duration;

/// The most characters that are shown of a string from the broker or the host.
pub const MAX_TEXT_CHARS: usize = 240;

/// At most `max_chars` characters of `text`. Invisible characters and those that change the text direction become
/// U+FFFD, so that no name from the host can rearrange the page. The template escapes HTML.
pub fn sanitize(text: &str, max_chars: usize) -> String {
    let is_invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut sanitized: String =
        text.chars().take(max_chars).map(|c| if is_invisible(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(max_chars).is_some() {
        sanitized.push('…');
    }
    sanitized
}

/// `0.42 ms`, `12 ms`, `1.4 s`.
pub fn milliseconds(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    match ms {
        _ if ms < 0.0095 => format!("{:.0} µs", ms * 1e3),
        _ if ms < 0.995 => format!("{ms:.2} ms"),
        _ if ms < 9.95 => format!("{ms:.1} ms"),
        _ if ms < 999.5 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

/// `820 B`, `1.4 KiB`, `12 MiB`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB"] {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    let digits = usize::from(unit != "B" && value < 99.95);
    format!("{value:.digits$} {unit}")
}

/// `1,234,567`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in its two largest units: `3 d 4 h`, `2 min 5 s`, `0 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400, u64::MAX), ("h", 3600, 24), ("min", 60, 60), ("s", 1, 60)];
    let parts = units.map(|(name, size, modulus)| (seconds / size % modulus, name));
    let first = parts.iter().position(|(value, _)| *value > 0).unwrap_or(parts.len() - 1);
    let shown = parts[first..].iter().take(2).filter(|(value, _)| *value > 0 || seconds == 0);
    shown.map(|(value, name)| format!("{value} {name}")).collect::<Vec<_>>().join(" ")
}

/// `1 collector`, `2 collectors`.
pub fn plural(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(number as u64), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_replaced_and_long_strings_are_cut() {
        assert_eq!(sanitize("eth0\n\u{1b}[31m\u{202e}x", 40), "eth0\u{fffd}\u{fffd}[31m\u{fffd}x");
        assert_eq!(sanitize("ääää", 4), "ääää");
        assert_eq!(sanitize("äääää", 4), "ääää…");
    }

    #[test]
    fn numbers_have_suitable_units() {
        let ms = |us| milliseconds(Duration::from_micros(us));
        assert_eq!([ms(0), ms(7), ms(42), ms(3_140)], ["0 µs", "7 µs", "0.04 ms", "3.1 ms"]);
        assert_eq!([ms(9_960), ms(345_600), ms(999_600)], ["10 ms", "346 ms", "1.0 s"]);
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1434), bytes(12 << 20)],
            ["0 B", "1023 B", "1.4 KiB", "12.0 MiB"]
        );
        assert_eq!([count(0), count(999), count(1_234_567)], ["0", "999", "1,234,567"]);
        let duration = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(
            [duration(0), duration(59), duration(60), duration(3_725)],
            ["0 s", "59 s", "1 min", "1 h 2 min"]
        );
        assert_eq!([duration(86_400), duration(90_000_000)], ["1 d", "1041 d 16 h"]);
        assert_eq!([plural(1, "scrape"), plural(2, "scrape")], ["1 scrape", "2 scrapes"]);
    }
}
