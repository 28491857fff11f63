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
