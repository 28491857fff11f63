//! What the broker and the programs of the privileged side write to each other's pipes.
//!
//! A request is one byte. An answer is a sequence of frames: a header of [`HEADER_BYTES`] and a payload. The broker
//! never looks into a chunk.

use crate::Class;

/// The readers that one class may have: stuck ones, one that can still be asked, and its replacement that starts.
pub const SLOTS_PER_CLASS: usize = 5;

/// All places for readers.
pub const SLOTS: usize = SLOTS_PER_CLASS * Class::ALL.len();

/// Stuck readers of one class beyond which no other is started.
pub const STUCK_READERS: usize = SLOTS_PER_CLASS - 1;

/// To a reader: end. Every other number below [`CHECK`] is a query's.
pub const END: u8 = 0;

/// To a reader: look whether what was absent at the start has appeared, and report yourself.
pub const CHECK: u8 = 255;

/// Length of the payload (32 bits, little-endian), kind, the query of a chunk or 0, [`SKIPPED`] or 0, and a zero byte.
pub const HEADER_BYTES: usize = 8;

/// In the header of a last chunk: something was not asked, since another reader has not returned from it.
pub const SKIPPED: u8 = 1;

/// The longest payload. A chunk holds at most [`CHUNK_BYTES`] of a file, two paths and a few numbers.
pub const PAYLOAD_BYTES: usize = 32 << 10;

/// The most bytes of a file in one chunk.
pub const CHUNK_BYTES: usize = 16 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// From a zygote or a reader that is ready: a `keyhole.reader.v1.Hello`.
    Hello = 1,
    /// From a zygote or a reader that cannot go on: why, as text. It is the last frame.
    Failed = 2,
    /// From a reader: a `keyhole.v1.ReadResponse` of a query.
    Chunk = 3,
    /// From a reader: the last of them, which holds how the query ended.
    LastChunk = 4,
    /// From a reader that was asked to check: one byte, a [`Change`], and its own /proc/self/stat.
    Checked = 5,
    /// From a zygote: the reader of a slot has ended. The payload is its slot, its generation and its wait
    /// status, of 32 bits each, little-endian.
    Ended = 6,
}

/// Whether a reader that is started now would see more, or something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Change {
    /// No.
    No = 0,
    /// Yes.
    Yes = 1,
    /// There are directories that a sealed reader cannot list: the hello of another one says whether it opened others.
    Unknown = 2,
}

impl Kind {
    /// The kind of a number; none when there is no such kind.
    pub fn parse(number: u8) -> Option<Self> {
        [Self::Hello, Self::Failed, Self::Chunk, Self::LastChunk, Self::Checked, Self::Ended]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// The header of a frame. `about` is the number of a chunk's query, or 0; `flags` is [`SKIPPED`] or 0.
pub fn header(length: usize, kind: Kind, about: u8, flags: u8) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = (length as u32).to_le_bytes();
    [a, b, c, d, kind as u8, about, flags, 0]
}

/// The class of a slot.
pub fn class(slot: usize) -> Option<Class> {
    Class::ALL.get(slot / SLOTS_PER_CLASS).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_query_has_the_number_of_another_request() {
        for row in crate::TABLE {
            assert!((i32::from(END) + 1..i32::from(CHECK)).contains(&row.query.into()), "{row:?}");
        }
    }

    #[test]
    fn every_kind_has_a_number_of_its_own_and_no_other_number_is_a_kind() {
        let kinds = (0..=u8::MAX).filter_map(|number| Kind::parse(number).map(|kind| (number, kind as u8)));
        assert!(kinds.clone().all(|(number, kind)| number == kind));
        assert_eq!(kinds.count(), 6);
    }

    #[test]
    fn every_class_has_its_slots_and_no_slot_lies_beyond() {
        for class in Class::ALL {
            assert_eq!((0..SLOTS).filter(|slot| super::class(*slot) == Some(class)).count(), SLOTS_PER_CLASS);
        }
        assert_eq!(super::class(SLOTS), None);
    }
}
