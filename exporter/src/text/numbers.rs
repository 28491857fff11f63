//! Numbers in kernel text: decimal ones, within the range of their type.

/// A decimal number without a sign; none when it is anything else or does not fit.
pub fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then_some(())?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// A decimal number that may have a sign.
pub fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(digits) => 0i64.checked_sub_unsigned(unsigned(digits)?),
        None => i64::try_from(unsigned(text)?).ok(),
    }
}

/// A finite decimal number with an optional sign, fraction and exponent.
pub fn float(text: &[u8]) -> Option<f64> {
    let numeric = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    if !text.iter().all(numeric) {
        return None;
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// A hexadecimal number, with or without `0x`.
pub fn hexadecimal(text: &[u8]) -> Option<u64> {
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_a_number_is_none() {
        for text in
            [&b""[..], b"-", b"+1", b"1 ", b"0x10", b"1_000", b"NaN", b"18446744073709551616", b"\xff"]
        {
            assert_eq!(unsigned(text), None, "{}", text.escape_ascii());
        }
        for text in [&b"nan"[..], b"NaN", b"inf", b"+Inf", b"0x10", b"1e999", b"", b"e", b"1_0"] {
            assert_eq!(float(text), None, "{}", text.escape_ascii());
        }
        assert_eq!(hexadecimal(b"0x"), None);
        assert_eq!(hexadecimal(b"00000000000000001"), None);
    }

    #[test]
    fn the_extremes_fit() {
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(hexadecimal(b"ffffffffffffffff"), Some(u64::MAX));
        assert_eq!(float(b"-1.5e3"), Some(-1500.0));
    }

    proptest! {
        #[test]
        fn a_number_that_was_printed_is_read_again(value in any::<u64>(), sign in any::<i64>()) {
            prop_assert_eq!(unsigned(value.to_string().as_bytes()), Some(value));
            prop_assert_eq!(signed(sign.to_string().as_bytes()), Some(sign));
            prop_assert_eq!(hexadecimal(format!("{value:x}").as_bytes()), Some(value));
        }

        #[test]
        fn any_bytes_are_a_number_or_none(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (unsigned(&text), signed(&text), float(&text), hexadecimal(&text));
        }
    }
}
