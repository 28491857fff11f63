//! Small total parsers over kernel text, shared by the collectors: no panic on any bytes, bounded output.
//!
//! Kernel text is bytes: names in it may be any bytes but `/`, and some files escape what would break a line.

mod cpu_columns;
mod cpus;
mod integers;
mod labelled;
mod meminfo;
mod numbers;
mod prefixes;
mod printable;
mod process;
mod zones;

use std::iter;

pub use keyhole_policy::escapes::unescape_octal;

pub use cpu_columns::cpu_columns;
pub use cpus::{cpu_list, cpu_number};
pub use integers::integer;
pub use labelled::labelled;
pub use meminfo::{MeminfoLine, meminfo_line};
pub use numbers::{float, hexadecimal, signed, unsigned};
pub use prefixes::{binary_prefix, shortened};
pub use printable::printable;
pub use process::{ProcessStat, process_state};
pub use zones::node_and_zone;

/// The lines of a file, without their newlines; a last line without one counts.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut rest = (!text.is_empty()).then_some(text);
    iter::from_fn(move || {
        let text = rest?;
        let (line, after) = match split_first(text, b'\n') {
            Some((line, after)) => (line, Some(after)),
            None => (text, None),
        };
        rest = after;
        Some(line)
    })
}

/// The fields of a line: runs of bytes between spaces and tabs.
pub fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).filter(|field| !field.is_empty())
}

/// `text` without white space at either end.
pub fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

/// Splits at the first `separator`: for keys that cannot hold it.
pub fn split_first(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// Splits at the last `separator`: for names that may hold it, followed by values that cannot.
pub fn split_last(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().rposition(|&byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_file_has_no_lines_and_a_last_newline_ends_one() {
        assert_eq!(lines(b"").count(), 0);
        assert_eq!(lines(b"a\nb\n").collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(lines(b"a\n\nb").count(), 3);
    }

    #[test]
    fn a_name_with_the_separator_is_split_at_the_last() {
        assert_eq!(split_last(b"eth0:1: 5", b':'), Some((&b"eth0:1"[..], &b" 5"[..])));
        assert_eq!(split_first(b"a: b: c", b':').unwrap().0, b"a");
        assert_eq!(split_last(b"none", b':'), None);
    }

    proptest! {
        #[test]
        fn fields_have_no_white_space(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            for field in fields(&line) {
                prop_assert!(!field.is_empty() && !field.contains(&b' ') && !field.contains(&b'\n'));
            }
        }

        #[test]
        fn joined_lines_are_the_file(text in proptest::collection::vec(any::<u8>(), 1..200)) {
            let joined = lines(&text).collect::<Vec<_>>().join(&b'\n');
            prop_assert_eq!(&joined[..], text.strip_suffix(b"\n").unwrap_or(&text));
        }
    }
}
