//! Escapes of the kernel undone, and bytes made printable.

use std::borrow::Cow;

/// Undoes the octal escapes (`\040` for a space) of mountinfo and its kin; anything else stays as it is.
///
/// <https://docs.kernel.org/filesystems/proc.html> (section 3.5)
pub fn unescape_octal(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail.first_chunk::<3>().and_then(octal)) {
            (b'\\', Some(value)) => {
                out.push(value);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    digits.iter().try_fold(0u8, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 8).then_some(())?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

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
    fn octal_escapes_are_undone_and_others_left() {
        assert_eq!(&*unescape_octal(br"/mnt/a\040b\011c\012d\134e"), b"/mnt/a b\tc\nd\\e");
        for odd in [&br"\04"[..], br"\999", br"\400", br"\", br"\x41"] {
            assert_eq!(&*unescape_octal(odd), odd, "{}", odd.escape_ascii());
        }
    }

    #[test]
    fn a_run_of_invalid_bytes_is_one_replacement() {
        assert_eq!(printable(b"a\xff\xfeb\xc3"), "a\u{fffd}b\u{fffd}");
        assert_eq!(printable("größe".as_bytes()), "größe");
    }

    proptest! {
        #[test]
        fn unescaping_never_grows(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(unescape_octal(&text).len() <= text.len());
        }

        #[test]
        fn any_bytes_become_printable(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(printable(&text).len() <= 3 * text.len());
        }
    }
}
