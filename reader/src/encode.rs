//! The few shapes of protobuf that a reader writes. <https://protobuf.dev/programming-guides/encoding/>

/// Appends a number in base 128.
pub fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a field that is a number or a bool; none when it is 0, as proto3 has it.
pub fn number(out: &mut Vec<u8>, field: u8, number: u64) {
    if number != 0 {
        explicit_number(out, field, number);
    }
}

/// The same of a `oneof`, in which 0 is written too.
pub fn explicit_number(out: &mut Vec<u8>, field: u8, number: u64) {
    out.push(field << 3);
    varint(out, number);
}

/// Appends a field of 64 bits.
pub fn fixed(out: &mut Vec<u8>, field: u8, number: u64) {
    const FIXED_64: u8 = 1;
    out.push(field << 3 | FIXED_64);
    out.extend_from_slice(&number.to_le_bytes());
}

/// Appends a field that is a string, bytes or a message.
pub fn bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    begin(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

/// Begins a field of so many bytes.
pub fn begin(out: &mut Vec<u8>, field: u8, length: usize) {
    const LENGTH_DELIMITED: u8 = 2;
    out.push(field << 3 | LENGTH_DELIMITED);
    varint(out, length as u64);
}

/// How long a field of so many bytes is, its number and length included.
pub fn field_length(length: usize) -> usize {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(7).max(1);
    1 + digits as usize + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_what_the_generated_code_would_have_written(
            value in any::<u64>(), shift in 0_u32..64, content in proptest::collection::vec(any::<u8>(), 0..300), field in 1_u8..16,
        ) {
            let (value, tag) = (value >> shift, u32::from(field));
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            varint(&mut ours, value);
            prost::encoding::encode_varint(value, &mut theirs);
            explicit_number(&mut ours, field, value);
            prost::encoding::uint64::encode(tag, &value, &mut theirs);
            fixed(&mut ours, field, value);
            prost::encoding::fixed64::encode(tag, &value, &mut theirs);
            bytes(&mut ours, field, &content);
            prost::encoding::bytes::encode(tag, &content, &mut theirs);
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn a_fields_length_is_known_before_it_is_written(length in any::<usize>(), shift in 0_u32..64) {
            let length = length >> shift.min(usize::BITS - 1) >> 8;
            let mut begun = Vec::new();
            begin(&mut begun, 1, length);
            prop_assert_eq!(field_length(length), begun.len() + length);
        }
    }

    #[test]
    fn zero_is_written_in_a_oneof_alone() {
        let mut out = Vec::new();
        number(&mut out, 1, 0);
        assert!(out.is_empty());
        explicit_number(&mut out, 1, 0);
        assert_eq!(out, [8, 0]);
        assert_eq!([0, 127, 128].map(field_length), [2, 129, 131]);
    }
}
