//! Bytes of the kernel as UTF-8: invalid ones are replaced as in node_exporter.

use std::borrow::Cow;

/// `text` as UTF-8: each run of invalid bytes becomes one U+FFFD, as in node_exporter's labels.
pub fn printable(text: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut in_run = false;
    for chunk in text.utf8_chunks() {
        in_run &= chunk.valid().is_empty();
        out.push_str(chunk.valid());
        if !chunk.invalid().is_empty() && !in_run {
            out.push(char::REPLACEMENT_CHARACTER);
            in_run = true;
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_run_of_invalid_bytes_is_one_replacement() {
        assert_eq!(printable(b"a\xff\xfeb\xc3"), "a\u{fffd}b\u{fffd}");
        assert_eq!(printable("größe".as_bytes()), "größe");
    }

    proptest! {
        #[test]
        fn any_bytes_become_printable(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(printable(&text).len() <= 3 * text.len());
        }
    }
}
