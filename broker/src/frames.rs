//! Frames out of a pipe: what a zygote or a reader writes, of any bytes. Only the header is looked at.

use bytes::{Buf, Bytes, BytesMut};
use keyhole_policy::pipes::{HEADER_BYTES, Kind, PAYLOAD_BYTES, SKIPPED};

/// How much is read from a pipe at a time.
const READ_BYTES: usize = 32 << 10;

/// Payloads below this are copied out of what was read.
const SMALL_BYTES: usize = 4 << 10;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// The number of a query.
    pub about: u8,
    /// Of a last chunk: whether something was not asked, since another reader has not returned from it.
    pub skipped: bool,
    /// What follows the header.
    pub payload: Bytes,
}

/// Bytes that are no frame. What comes after them is none either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A payload that is too long.
    #[error("a frame of {0} bytes, and {PAYLOAD_BYTES} are allowed")]
    Length(u32),
    /// A kind that does not exist.
    #[error("a frame of kind {0}")]
    Kind(u8),
}

/// Bytes that have come, and are cut into frames.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// The next frame; none when more bytes must come first.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some([a, b, c, d, kind, about, flags, _]) = self.buffer.first_chunk::<HEADER_BYTES>().copied()
        else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]);
        let kind = Kind::parse(kind).ok_or(Malformed::Kind(kind))?;
        let payload = usize::try_from(length).unwrap_or(usize::MAX);
        if payload > PAYLOAD_BYTES {
            return Err(Malformed::Length(length));
        }
        if self.buffer.len() < HEADER_BYTES + payload {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(payload);
        // A small one does not keep all that was read with it.
        let is_small = payload.len() < SMALL_BYTES;
        let payload = if is_small { Bytes::copy_from_slice(&payload) } else { payload.freeze() };
        Ok(Some(Frame { kind, about, skipped: flags & SKIPPED != 0, payload }))
    }

    /// Where the next bytes go. To be called only after [`Self::next_frame`] returned none: that bounds the buffer.
    pub fn space(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// Drops what has come.
    pub fn clear(&mut self) {
        self.buffer = BytesMut::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyhole_policy::pipes::header;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn frame(kind: Kind, about: u8, payload: &[u8]) -> Vec<u8> {
        [&header(payload.len(), kind, about, 0), payload].concat()
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_buffered() {
        let mut frames = Frames::default();
        frames.space().extend_from_slice(&header(PAYLOAD_BYTES + 1, Kind::Chunk, 0, 0));
        assert_eq!(frames.next_frame(), Err(Malformed::Length(PAYLOAD_BYTES as u32 + 1)));
        let mut frames = Frames::default();
        frames.space().extend_from_slice(&[0, 0, 0, 0, 77, 0, 0, 0]);
        assert_eq!(frames.next_frame(), Err(Malformed::Kind(77)));
    }

    proptest! {
        #[test]
        fn frames_are_cut_the_same_however_their_bytes_arrive(
            payloads in vec((vec(any::<u8>(), 0..300), any::<u8>()), 0..8),
            pieces in vec(1_usize..200, 1..20),
        ) {
            let whole: Vec<u8> =
                payloads.iter().flat_map(|(payload, about)| frame(Kind::Chunk, *about, payload)).collect();
            let (mut frames, mut cut, mut rest) = (Frames::default(), Vec::new(), &*whole);
            for length in pieces.iter().cycle() {
                let (piece, later) = rest.split_at((*length).min(rest.len()));
                frames.space().extend_from_slice(piece);
                while let Some(frame) = frames.next_frame().unwrap() {
                    cut.push((frame.payload.to_vec(), frame.about));
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(cut, payloads);
        }

        #[test]
        fn any_bytes_are_frames_or_refused_and_never_more_than_one_is_kept(bytes in vec(any::<u8>(), 0..4000)) {
            let mut frames = Frames::default();
            for byte in bytes {
                frames.space().extend_from_slice(&[byte]);
                match frames.next_frame() {
                    Ok(_) => prop_assert!(frames.buffer.len() < HEADER_BYTES + PAYLOAD_BYTES),
                    Err(_) => break,
                }
            }
        }
    }
}
