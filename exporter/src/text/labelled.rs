//! Lines that are a label and numbers after it: `rpc 18628 3 1 2 0`.

use super::{fields, lines, unsigned};

/// The label of each line and its numbers; none for each field that is no number without a sign.
pub fn labelled(text: &[u8]) -> impl Iterator<Item = (&[u8], Vec<Option<u64>>)> {
    lines(text).filter_map(|line| {
        let mut fields = fields(line);
        Some((fields.next()?, fields.map(unsigned).collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_field_that_is_no_number_costs_only_itself() {
        let lines: Vec<_> = labelled(b"th 8 0.000 -1\n\n  rc\n").collect();
        assert_eq!(lines, [(&b"th"[..], vec![Some(8), None, None]), (b"rc", vec![])]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_at_most_a_number_a_byte(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(labelled(&text).map(|(_, numbers)| numbers.len()).sum::<usize>() <= text.len());
        }
    }
}
