//! Lines: `time=... level=INFO msg="..." key=value`, or a JSON object.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Level;
use tracing::field::{Field, Visit};

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `time=... level=INFO msg="..." key=value`, as node_exporter writes it.
    Logfmt,
    /// `{"time":"...","level":"INFO","msg":"...","key":"value"}`, as node_exporter writes it.
    Json,
}

/// The fields of one event, formatted in the order in which they come.
pub(crate) struct Fields {
    format: Format,
    message: String,
    rest: String,
}

impl Fields {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, message: String::new(), rest: String::new() }
    }

    /// The whole line.
    pub(crate) fn line(&self, at: SystemTime, level: Level) -> String {
        let Self { format, message, rest } = self;
        let time = Timestamp(at);
        match format {
            Format::Logfmt => format!("time={time} level={level} msg={}{rest}\n", Quoted(message)),
            Format::Json => {
                format!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"msg\":{}{rest}}}\n", Json(message))
            }
        }
    }

    /// Adds a field of text.
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        if name == "message" {
            value.clone_into(&mut self.message);
        } else if self.format == Format::Logfmt {
            self.member(name, Quoted(value));
        } else {
            self.member(name, Json(value));
        }
    }

    /// Adds a field whose value is already formatted.
    pub(crate) fn member(&mut self, name: &str, value: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = if self.format == Format::Logfmt {
            write!(self.rest, " {name}={value}")
        } else {
            write!(self.rest, ",{}:{value}", Json(name))
        };
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field.name(), value);
    }
}

/// A value of logfmt: as it is if it is one plain word, else quoted and escaped.
struct Quoted<'v>(&'v str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
        if !self.0.is_empty() && self.0.chars().all(is_plain) {
            f.write_str(self.0)
        } else {
            // What a reader of logfmt knows of escapes is what JSON has.
            Json(self.0).fmt(f)
        }
    }
}

/// A JSON string with its quotes.
struct Json<'v>(&'v str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                // Control characters, also U+0080 to U+009F, and what turns text around: terminals interpret those.
                c if c != '\'' && c.escape_debug().len() > 1 => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(f, "\\u{unit:04x}")?;
                    }
                }
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// A time in UTC as in RFC 3339, with microseconds.
struct Timestamp(SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A clock that is not set may be before 1970.
        let since_epoch = self.0.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seconds = since_epoch.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let micros = since_epoch.subsec_micros();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// Year, month and day of a number of days since 1970-01-01. Years are counted from March, so that the leap day is
/// the last of a year: <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
fn date(days_since_epoch: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = days_since_epoch + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(format: Format, fields: &[(&str, &str)]) -> String {
        let mut written = Fields::new(format);
        fields.iter().for_each(|(name, value)| written.text(name, value));
        written.line(UNIX_EPOCH + Duration::from_micros(1_709_210_096_000_007), Level::WARN)
    }

    #[test]
    fn each_format_has_its_keys() {
        let fields = [("message", "a b"), ("key", "v")];
        assert_eq!(
            line(Format::Logfmt, &fields),
            "time=2024-02-29T12:34:56.000007Z level=WARN msg=\"a b\" key=v\n"
        );
        assert_eq!(
            line(Format::Json, &fields),
            "{\"time\":\"2024-02-29T12:34:56.000007Z\",\"level\":\"WARN\",\"msg\":\"a b\",\"key\":\"v\"}\n"
        );
    }

    #[test]
    fn numbers_and_booleans_have_no_quotes() {
        let mut fields = Fields::new(Format::Json);
        fields.member("count", 7);
        fields.member("tls", true);
        assert!(fields.line(UNIX_EPOCH, Level::INFO).ends_with(",\"msg\":\"\",\"count\":7,\"tls\":true}\n"));
    }

    #[test]
    fn a_value_cannot_add_a_line_or_a_field() {
        assert_eq!(Quoted("plain:1").to_string(), "plain:1");
        assert_eq!(Quoted("a b").to_string(), "\"a b\"");
        assert_eq!(Quoted("x level=ERROR\n\u{1b}[2J").to_string(), "\"x level=ERROR\\n\\u001b[2J\"");
        assert_eq!(Quoted("").to_string(), "\"\"");
        assert_eq!(
            Json("a\"b\\c\nd\u{1}\u{e9}\u{9b}").to_string(),
            "\"a\\\"b\\\\c\\nd\\u0001\u{e9}\\u009b\""
        );
        assert_eq!(Json("it's\u{202e}\u{e0001}").to_string(), "\"it's\\u202e\\udb40\\udc01\"");
    }

    #[test]
    fn days_since_the_epoch_are_converted_to_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(59), (1970, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(19_782), (2024, 2, 29));
        assert_eq!(date(47_540), (2100, 2, 28));
        assert_eq!(date(47_541), (2100, 3, 1));
    }

    proptest! {
        #[test]
        fn any_value_is_one_line_without_control_characters(value in ".*", bytes in any::<Vec<u8>>()) {
            for value in [value, String::from_utf8_lossy(&bytes).into_owned()] {
                for format in [Format::Logfmt, Format::Json] {
                    let line = line(format, &[("message", &value), ("key", &value)]);
                    prop_assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
                    prop_assert_eq!(line.matches('\n').count(), 1);
                }
            }
        }

        #[test]
        fn a_json_string_has_no_unescaped_quote(value in any::<String>()) {
            let written = Json(&value).to_string();
            let inner = &written[1..written.len() - 1];
            let mut escaped = false;
            for c in inner.chars() {
                prop_assert!(escaped || c != '"', "{}", written);
                escaped = !escaped && c == '\\';
            }
            prop_assert!(!escaped);
        }

        #[test]
        fn each_day_follows_the_one_before(day in 0_u64..200_000) {
            let ((year, month, date_before), after) = (date(day), date(day + 1));
            let next = [(year, month, date_before + 1), (year, month + 1, 1), (year + 1, 1, 1)];
            prop_assert!(next.contains(&after), "{:?}", after);
        }
    }
}
