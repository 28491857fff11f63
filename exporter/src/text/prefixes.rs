//! Numbers that the kernel shortens for people: `20.4G`.

/// The number without its binary prefix, and what the prefix stands for; 1 when there is none.
pub fn binary_prefix(text: &[u8]) -> (&[u8], f64) {
    const PREFIXES: &[u8] = b"kMGTPEZY";
    let split = text.split_last().and_then(|(last, number)| {
        let last = if *last == b'K' { b'k' } else { *last };
        let power = PREFIXES.iter().position(|prefix| *prefix == last)?;
        Some((number, 1024f64.powi(power as i32 + 1)))
    });
    split.unwrap_or((text, 1.0))
}

/// The whole part of a decimal number times its binary prefix.
pub fn shortened(text: &[u8]) -> Option<f64> {
    let (number, factor) = binary_prefix(super::trim(text));
    Some((super::float(number)? * factor).trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_is_a_power_of_1024() {
        assert_eq!(shortened(b" 2.05G\n"), Some(2_201_170_739.0));
        assert_eq!(shortened(b"62.5k"), Some(64_000.0));
        assert_eq!(shortened(b"1K"), Some(1024.0));
        assert_eq!(shortened(b"1E"), Some(2f64.powi(60)));
        assert_eq!(shortened(b"720"), Some(720.0));
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [&b""[..], b"G", b"1GG", b"1.2.3k", b"\xffk", b"1 k k"] {
            assert_eq!(shortened(text), None, "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_number_or_none(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = shortened(&text);
        }
    }
}
