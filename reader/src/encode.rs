//! The few field types of protobuf that a reader writes. <https://protobuf.dev/programming-guides/encoding/>

/// Appends a number as a varint.
pub fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a field that is a number or a bool; nothing if it is 0, which is the default in proto3.
pub fn number(out: &mut Vec<u8>, field: u8, number: u64) {
    if number != 0 {
        explicit_number(out, field, number);
    }
}

/// Appends a number of a `oneof`, in which 0 is written too.
pub fn explicit_number(out: &mut Vec<u8>, field: u8, number: u64) {
    out.push(field << 3);
    varint(out, number);
}

/// Appends a field that is a `fixed64`.
pub fn fixed(out: &mut Vec<u8>, field: u8, number: u64) {
    const FIXED_64: u8 = 1;
    out.push(field << 3 | FIXED_64);
    out.extend_from_slice(&number.to_le_bytes());
}

/// Appends a field that is a string or bytes.
pub fn bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    const LENGTH_DELIMITED: u8 = 2;
    out.push(field << 3 | LENGTH_DELIMITED);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a field that is a message.
pub fn message(out: &mut Vec<u8>, field: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let mut item = Vec::new();
    write(&mut item);
    bytes(out, field, &item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_generated_code(
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
            message(&mut ours, field, |out| bytes(out, field, &content));
            let mut item = Vec::new();
            prost::encoding::bytes::encode(tag, &content, &mut item);
            prost::encoding::bytes::encode(tag, &item, &mut theirs);
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn zero_is_written_only_in_a_oneof() {
        let mut out = Vec::new();
        number(&mut out, 1, 0);
        assert!(out.is_empty());
        explicit_number(&mut out, 1, 0);
        assert_eq!(out, [8, 0]);
    }
}
