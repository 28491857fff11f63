//! The octal escapes of mountinfo and its kin: `\040` for a space, which would end a field.
//!
//! <https://docs.kernel.org/filesystems/proc.html> (section 3.5)

use std::borrow::Cow;

/// Undoes octal escapes; anything else stays as it is.
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

    proptest! {
        #[test]
        fn escapes_of_the_kernel_are_decoded(name in prop::collection::vec(any::<u8>(), 0..60)) {
            let escape = |byte: &u8| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                byte => vec![*byte],
            };
            let escaped: Vec<u8> = name.iter().flat_map(escape).collect();
            prop_assert_eq!(&*unescape_octal(&escaped), &name[..]);
        }

        #[test]
        fn unescaping_never_grows(text in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(unescape_octal(&text).len() <= text.len());
        }
    }
}
