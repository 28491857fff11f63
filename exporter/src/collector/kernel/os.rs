//! The operating system's identity: `etc/os-release`.
//!
//! <https://man7.org/linux/man-pages/man5/os-release.5.html>

use std::collections::HashMap;

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "os",
    default: true,
    help: "Name and version of the operating system.",
    queries: &[Query::OsRelease],
    optional: &[],
    flags: &[],
    families: || vec![INFO, VERSION, SUPPORT_END],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "etc/os-release";

const INFO: Family = Family {
    name: "node_os_info",
    help: "Always 1; its labels are fields of os-release.",
    kind: MetricType::Gauge,
    labels: &[
        "build_id",
        "id",
        "id_like",
        "image_id",
        "image_version",
        "name",
        "pretty_name",
        "variant",
        "variant_id",
        "version",
        "version_codename",
        "version_id",
    ],
    source: Source::File(PATH),
};
const VERSION: Family = Family {
    name: "node_os_version",
    help: "The operating system's version, as far as it is a number: major and minor.",
    labels: &["id", "id_like", "name"],
    ..INFO
};
const SUPPORT_END: Family = Family {
    name: "node_os_support_end_timestamp_seconds",
    help: "When support for the operating system ends, in seconds since the epoch.",
    labels: &[],
    ..INFO
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let values = assignments(context.require(PATH)?, out);
    // A file that names nothing is a host's choice, and one that holds something else is no such file.
    if values.is_empty() && out.skipped() > 0 {
        return Err(CollectError::malformed(PATH, "no assignment"));
    }
    let labels = |family: &Family| -> Vec<&[u8]> {
        let value = |name: &&str| values.get(name.to_ascii_uppercase().as_bytes());
        family.labels.iter().map(|name| value(name).map_or(&b""[..], Vec::as_slice)).collect()
    };
    out.add(&INFO, &labels(&INFO), true);
    let value = |name: &[u8]| values.get(name).map(Vec::as_slice);
    if let Some(version) = value(b"VERSION_ID").and_then(leading_number).filter(|version| *version > 0.0) {
        out.add(&VERSION, &labels(&VERSION), version);
    }
    if let Some(end) = value(b"SUPPORT_END").and_then(date) {
        out.add(&SUPPORT_END, &[], end);
    }
    Ok(())
}

/// `NAME=value` lines, with a shell's quotes and escapes undone. Of two with one name the last stands.
fn assignments<'t>(text: &'t [u8], out: &mut Exposition) -> HashMap<&'t [u8], Vec<u8>> {
    let mut values = HashMap::new();
    for line in text::lines(text).map(text::trim) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let assignment = text::split_first(line, b'=').and_then(|(name, value)| {
            let name = name.strip_prefix(b"export ").unwrap_or(name);
            Some((text::trim(name), unquote(value)?))
        });
        match assignment {
            Some((name, value)) => {
                values.insert(name, value);
            }
            None => out.skip(|| format!("{PATH}: no assignment: {:?}", text::printable(line))),
        }
    }
    values
}

/// A value as a shell without variables has it: quotes taken off, escapes undone, a comment at its end left out. None
/// for a quote that does not end. Spaces without quotes stay in it, as systemd and others have it.
fn unquote(value: &[u8]) -> Option<Vec<u8>> {
    let mut word = Vec::with_capacity(value.len());
    // How much of the word does not end with spaces that stand for nothing when a comment follows.
    let mut solid = 0;
    let mut quote = None;
    let mut before = if value.first().is_some_and(u8::is_ascii_whitespace) { b' ' } else { b'=' };
    let mut bytes = text::trim(value).iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (None, b'#') if before.is_ascii_whitespace() => {
                word.truncate(solid);
                return Some(word);
            }
            (Some(open), byte) if open == byte => quote = None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'\\') => word.extend(bytes.next()),
            // Between double quotes it is itself before anything else.
            (Some(b'"'), b'\\') => match bytes.next_if(|next| b"$`\"\\".contains(next)) {
                Some(next) => word.push(next),
                None => word.push(b'\\'),
            },
            (_, byte) => word.push(byte),
        }
        if quote.is_some() || !byte.is_ascii_whitespace() {
            solid = word.len();
        }
        before = byte;
    }
    quote.is_none().then_some(word)
}

/// The `20.04` of `20.04.2`; none when there is no number in front.
fn leading_number(text: &[u8]) -> Option<f64> {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let major = digits(text);
    let minor = text.get(major..)?.strip_prefix(b".").map_or(0, |rest| 1 + digits(rest));
    text::float(text.get(..major + minor)?).filter(|_| major > 0)
}

/// Midnight of a day `YYYY-MM-DD`, in seconds since the epoch.
fn date(text: &[u8]) -> Option<i64> {
    let mut parts = text.split(|byte| *byte == b'-');
    let mut next = |digits: usize| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        i64::try_from(text::unsigned(part)?).ok()
    };
    let (year, month, day) = (next(4)?, next(2)?, next(2)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    // Days since 1970-01-01 in a calendar whose year begins in March, so that leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year;
    Some((days - 719_468) * 86_400)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    fn of(text: &[u8]) -> String {
        collect(&COLLECTOR, &[(PATH, text)], &[]).unwrap()
    }

    #[test]
    fn the_names_and_the_version_of_a_distribution_are_reported() {
        let text = of(b"NAME=\"Ubuntu\"\nVERSION=\"20.04.2 LTS (Focal Fossa)\"\nID=ubuntu\nID_LIKE=debian\n\
                        PRETTY_NAME='Ubuntu 20.04.2 LTS'\nVERSION_ID=\"20.04.2\"\nVERSION_CODENAME=focal\n\
                        SUPPORT_END=2025-05-31\nNEW_FIELD=1\n");
        assert_eq!(
            text,
            "node_os_info{build_id=\"\",id=\"ubuntu\",id_like=\"debian\",image_id=\"\",image_version=\"\",\
             name=\"Ubuntu\",pretty_name=\"Ubuntu 20.04.2 LTS\",variant=\"\",variant_id=\"\",\
             version=\"20.04.2 LTS (Focal Fossa)\",version_codename=\"focal\",version_id=\"20.04.2\"} 1\n\
             node_os_support_end_timestamp_seconds 1748649600\n\
             node_os_version{id=\"ubuntu\",id_like=\"debian\",name=\"Ubuntu\"} 20.04\n"
        );
    }

    #[test]
    fn a_version_that_is_no_number_is_a_label_only() {
        let text = of(b"NAME=\"Talos\"\nID=talos\nVERSION_ID=v1.11.0\n");
        assert!(text.contains("version_id=\"v1.11.0\"") && !text.contains("node_os_version"), "{text}");
    }

    #[test]
    fn quotes_and_escapes_are_a_shells() {
        let text =
            of(b"# a comment\n\nNAME=\"a \\\"b\\\" \\$c 'd'\"\nVERSION='e \\ \"f\"'\nID=g\\ h\nnonsense\n");
        assert!(text.contains("name=\"a \\\"b\\\" $c 'd'\""), "{text}");
        assert!(text.contains("version=\"e \\\\ \\\"f\\\"\""), "{text}");
        assert!(text.contains(",id=\"g h\""), "{text}");
    }

    #[test]
    fn a_comment_begins_with_a_hash_after_a_space() {
        for (line, value) in [
            ("ID=foo # set by the image build", "foo"),
            ("ID=foo\t#x", "foo"),
            ("ID=\"foo\" # \"x\"", "foo"),
            ("ID='foo '  # x", "foo "),
            ("ID=foo#x", "foo#x"),
            ("ID=#x", "#x"),
            ("ID= # x", ""),
            ("ID=\"foo # x\"", "foo # x"),
            ("ID='foo # x'", "foo # x"),
            ("ID=foo\\ #x", "foo #x"),
            ("ID=\"a\"'b'c", "abc"),
            ("ID=foo bar ", "foo bar"),
            ("ID = foo", "foo"),
            ("export ID=foo", "foo"),
            ("ID=foo\r", "foo"),
            (r#"ID="a\nb \` \$ \\""#, r"a\nb ` $ \"),
            (r"ID='a\nb'", r"a\nb"),
            (r"ID=a\nb", "anb"),
            // Quotes that do not end.
            ("ID=\"foo", "-"),
            ("ID=fo'o", "-"),
            ("ID=\"foo\\\"", "-"),
        ] {
            let text = of(format!("ID=-\n{line}\nNAME=x\n").as_bytes());
            let mut escaped = String::new();
            for c in value.chars() {
                escaped.extend((c == '\\').then_some('\\'));
                escaped.push(c);
            }
            assert!(text.contains(&format!(",id=\"{escaped}\",")), "{line}: {text}");
        }
    }

    #[test]
    fn days_are_counted_by_the_calendar() {
        assert_eq!(date(b"1970-01-01"), Some(0));
        assert_eq!(date(b"2000-02-29"), Some(951_782_400));
        assert_eq!(date(b"2038-01-19"), Some(2_147_472_000));
        for none in [&b"2023-02-29"[..], b"2023-13-01", b"2023-1-1", b"2023-01-01-01", b"x", b"2023-00-10"] {
            assert_eq!(date(none), None, "{}", none.escape_ascii());
        }
    }

    #[test]
    fn a_file_without_names_results_in_empty_labels() {
        let empty: String = INFO.labels.iter().map(|name| format!("{name}=\"\",")).collect();
        let text = format!("node_os_info{{{}}} 1\n", empty.trim_end_matches(','));
        for file in ["", "\n", "# a comment\n", "\n  # ID=x\n\n", "SUPPORT_END=soon\n"] {
            assert_eq!(of(file.as_bytes()), text, "{file:?}");
        }
    }

    #[test]
    fn a_missing_file_is_no_data_and_one_without_an_assignment_malformed() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
        assert!(matches!(collect(&COLLECTOR, &[(PATH, b"x\n")], &[]), Err(CollectError::Malformed { .. })));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
