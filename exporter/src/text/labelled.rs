//! Lines that are a label and numbers after it: `rpc 18628 3 1 2 0`.

use super::{fields, unsigned};

/// The label of a line and its numbers; none for each field that is no number without a sign. A blank line has no label.
pub fn labelled(line: &[u8]) -> Option<(&[u8], Vec<Option<u64>>)> {
    let mut fields = fields(line);
    Some((fields.next()?, fields.map(unsigned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_field_that_is_no_number_is_skipped() {
        assert_eq!(labelled(b"th 8 0.000 -1"), Some((&b"th"[..], vec![Some(8), None, None])));
        assert_eq!(labelled(b"  rc"), Some((&b"rc"[..], vec![])));
        assert_eq!(labelled(b"  "), None);
    }

    proptest! {
        #[test]
        fn any_bytes_result_in_at_most_one_number_per_byte(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(labelled(&text).is_none_or(|(_, numbers)| numbers.len() <= text.len()));
        }
    }
}
