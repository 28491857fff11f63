//! Cuts the bytes of a pipe into frames. Any bytes may come from a zygote or a reader; only the header is parsed.

use bytes::{Buf, Bytes, BytesMut};
use keyhole_policy::pipes::{FrameKind, HEADER_BYTES, PAYLOAD_BYTES, SKIPPED};

/// How much is read from a pipe at a time.
const READ_BYTES: usize = 32 << 10;

/// Payloads below this size are copied out of the read buffer, so that they do not keep all of it in memory.
const SMALL_BYTES: usize = 4 << 10;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// The number of the query of a chunk, or 0.
    pub query: u8,
    /// In a last chunk: whether something was not read, because another reader is stuck in it.
    pub skipped: bool,
    /// The bytes after the header.
    pub payload: Bytes,
}

/// Bytes that are not a frame. Nothing after them is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedFrame {
    /// The payload is too long.
    #[error("a frame of {0} bytes is longer than {PAYLOAD_BYTES}")]
    Length(u32),
    /// The kind does not exist.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
}

/// The buffer of a pipe.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// The next frame; none until more bytes are read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, MalformedFrame> {
        let Some([a, b, c, d, kind, query, flags, _]) = self.buffer.first_chunk::<HEADER_BYTES>().copied()
        else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]);
        let kind = FrameKind::parse(kind).ok_or(MalformedFrame::Kind(kind))?;
        let payload = usize::try_from(length).unwrap_or(usize::MAX);
        if payload > PAYLOAD_BYTES {
            return Err(MalformedFrame::Length(length));
        }
        if self.buffer.len() < HEADER_BYTES + payload {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(payload);
        let is_small = payload.len() < SMALL_BYTES;
        let payload = if is_small { Bytes::copy_from_slice(&payload) } else { payload.freeze() };
        Ok(Some(Frame { kind, query, skipped: flags & SKIPPED != 0, payload }))
    }

    /// Where to read the next bytes to. Call it only after [`Self::next_frame`] returned none: that bounds the buffer.
    pub fn space(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// Discards all bytes.
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

    fn frame(kind: FrameKind, query: u8, payload: &[u8]) -> Vec<u8> {
        [&header(payload.len(), kind, query, 0), payload].concat()
    }

    #[test]
    fn a_malformed_frame_is_refused_before_it_is_buffered() {
        let mut frames = Frames::default();
        frames.space().extend_from_slice(&header(PAYLOAD_BYTES + 1, FrameKind::Chunk, 0, 0));
        assert_eq!(frames.next_frame(), Err(MalformedFrame::Length(PAYLOAD_BYTES as u32 + 1)));
        let mut frames = Frames::default();
        frames.space().extend_from_slice(&[0, 0, 0, 0, 77, 0, 0, 0]);
        assert_eq!(frames.next_frame(), Err(MalformedFrame::Kind(77)));
    }

    proptest! {
        #[test]
        fn frames_are_cut_the_same_however_their_bytes_arrive(
            payloads in vec((vec(any::<u8>(), 0..300), any::<u8>()), 0..8),
            pieces in vec(1_usize..200, 1..20),
        ) {
            let whole: Vec<u8> =
                payloads.iter().flat_map(|(payload, query)| frame(FrameKind::Chunk, *query, payload)).collect();
            let (mut frames, mut cut, mut rest) = (Frames::default(), Vec::new(), &*whole);
            for length in pieces.iter().cycle() {
                let (piece, later) = rest.split_at((*length).min(rest.len()));
                frames.space().extend_from_slice(piece);
                while let Some(frame) = frames.next_frame().unwrap() {
                    cut.push((frame.payload.to_vec(), frame.query));
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(cut, payloads);
        }

        #[test]
        fn any_bytes_are_frames_or_refused_and_at_most_one_is_buffered(bytes in vec(any::<u8>(), 0..4000)) {
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
