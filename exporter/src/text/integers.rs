//! Numbers of sysfs attributes, which drivers write in either base.

use super::{hexadecimal, signed};

/// A decimal number that may have a sign, or a hexadecimal one after `0x`.
pub fn integer(text: &[u8]) -> Option<i64> {
    if text.starts_with(b"0x") { i64::try_from(hexadecimal(text)?).ok() } else { signed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bases_are_read() {
        assert_eq!(integer(b"0x8380"), Some(0x8380));
        assert_eq!(integer(b"-1"), Some(-1));
        assert_eq!(integer(b"010"), Some(10), "no octal");
    }

    #[test]
    fn what_does_not_fit_or_is_no_number_is_none() {
        for text in [&b""[..], b"0x", b"-0x1", b"ff", b"0xffffffffffffffff", b"1.5"] {
            assert_eq!(integer(text), None, "{}", text.escape_ascii());
        }
    }
}
