//! The protocol of the pipes between the broker, the zygote and the readers.
//!
//! A request is one byte. An answer is a sequence of frames: a header of [`HEADER_BYTES`] and a payload. The broker
//! never parses a chunk.

use crate::Class;

/// How many readers one class may have: stuck ones, the active one, and its replacement that starts.
pub const SLOTS_PER_CLASS: usize = 5;

/// The slots of all classes.
pub const SLOTS: usize = SLOTS_PER_CLASS * Class::ALL.len();

/// The most stuck readers of one class; then no other is started.
pub const MAX_STUCK_READERS: usize = SLOTS_PER_CLASS - 1;

/// Request to a reader: exit. Every number between this and [`CHECK_REQUEST`] is that of a query.
pub const EXIT_REQUEST: u8 = 0;

/// Request to a reader: check whether a reader that starts now would see other files, and send your own stat.
pub const CHECK_REQUEST: u8 = 255;

/// A header: length of the payload (32 bits, little-endian), kind, the query of a chunk or 0, [`SKIPPED`] or 0, and a
/// zero byte.
pub const HEADER_BYTES: usize = 8;

/// Flag in the header of a last chunk: something was not read, because another reader is stuck in it.
pub const SKIPPED: u8 = 1;

/// The longest payload. A chunk holds at most [`CHUNK_BYTES`] of a file, two paths and a few numbers.
pub const PAYLOAD_BYTES: usize = 32 << 10;

/// The most bytes of a file in one chunk.
pub const CHUNK_BYTES: usize = 16 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// From a zygote or a reader that is ready: a `keyhole.reader.v1.Hello`.
    Hello = 1,
    /// From a zygote or a reader that cannot continue: why, as text. It is the last frame.
    Failed = 2,
    /// From a reader: a `keyhole.v1.ReadResponse` of a query.
    Chunk = 3,
    /// From a reader: the last chunk of a query, which holds its outcome.
    LastChunk = 4,
    /// From a reader, the answer to [`CHECK_REQUEST`]: one byte, a [`Change`], and its own /proc/self/stat.
    Checked = 5,
    /// From a zygote: the reader of a slot has exited. The payload is its slot, its generation and its wait
    /// status, of 32 bits each, little-endian.
    Exited = 6,
}

/// Whether a reader that starts now would see other files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Change {
    /// No.
    No = 0,
    /// Yes.
    Yes = 1,
    /// Unknown: a sandboxed reader cannot list some directories. The hello of a new reader shows whether it has opened
    /// other files.
    Unknown = 2,
}

impl FrameKind {
    /// The kind with this number, if there is one.
    pub fn parse(number: u8) -> Option<Self> {
        [Self::Hello, Self::Failed, Self::Chunk, Self::LastChunk, Self::Checked, Self::Exited]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// The header of a frame. `query` is the number of a chunk's query, or 0; `flags` is [`SKIPPED`] or 0.
pub fn header(length: usize, kind: FrameKind, query: u8, flags: u8) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = (length as u32).to_le_bytes();
    [a, b, c, d, kind as u8, query, flags, 0]
}

/// The class of a slot.
pub fn slot_class(slot: usize) -> Option<Class> {
    Class::ALL.get(slot / SLOTS_PER_CLASS).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_query_has_the_number_of_a_special_request() {
        for row in crate::TABLE {
            assert!(
                (i32::from(EXIT_REQUEST) + 1..i32::from(CHECK_REQUEST)).contains(&row.query.into()),
                "{row:?}"
            );
        }
    }

    #[test]
    fn every_kind_parses_from_its_number_and_no_other_number_does() {
        let kinds =
            (0..=u8::MAX).filter_map(|number| FrameKind::parse(number).map(|kind| (number, kind as u8)));
        assert!(kinds.clone().all(|(number, kind)| number == kind));
        assert_eq!(kinds.count(), 6);
    }

    #[test]
    fn every_class_has_its_slots_and_there_are_no_others() {
        for class in Class::ALL {
            assert_eq!((0..SLOTS).filter(|slot| slot_class(*slot) == Some(class)).count(), SLOTS_PER_CLASS);
        }
        assert_eq!(slot_class(SLOTS), None);
    }
}
