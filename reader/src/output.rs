//! Writes frames to the broker's pipe: chunks of answers, several in one write(2).

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use keyhole_policy::pipes::{CHUNK_BYTES, FrameKind, HEADER_BYTES, SKIPPED, header};
use keyhole_policy::{Outcome, Query};
use rustix::fs::StatFs;
use rustix::io::Errno;

use crate::encode::{bytes, explicit_number, message, number};

// Field numbers of `keyhole/v1/broker.proto`.
const QUERY: u8 = 1;
const FILES: u8 = 2;
const FILE_SYSTEMS: u8 = 3;
const QUERY_END: u8 = 4;
/// Fields of a name, a content and a link target: one for UTF-8, one for other bytes.
const NAME: [u8; 2] = [1, 2];
const TEXT: [u8; 2] = [3, 4];
const LINK: [u8; 2] = [5, 6];
const ENTRIES: u8 = 7;
const ERRNO: u8 = 8;
const TRUNCATED: u8 = 9;

/// Frames are written as soon as they have this many bytes; a pipe holds more.
const WRITE_BYTES: usize = 32 << 10;

/// A query that ends this long after the last write has its frames written even if there are fewer bytes.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);

/// statfs(2): mounted read-only.
const ST_RDONLY: u64 = 1;

/// What was read of a path.
#[derive(Debug, Clone, Copy)]
pub enum Content<'c> {
    /// Bytes of a file, at most [`CHUNK_BYTES`]; further bytes follow under the same name.
    Text(&'c [u8]),
    /// The target of a symbolic link.
    Link(&'c [u8]),
    /// The number of entries of a directory, as its size says.
    Entries(u64),
    /// Why it could not be read.
    Errno(Errno),
}

/// The broker has closed its end of the pipe.
#[derive(Debug)]
pub struct BrokerGone;

/// The writer of frames.
#[derive(Debug)]
pub struct Output<'fd> {
    pipe: BorrowedFd<'fd>,
    /// Complete frames, and at the end the one that is being written.
    buffer: Vec<u8>,
    /// The offset of the frame that is being written.
    frame: Option<usize>,
    /// The item that is being encoded; its memory is reused.
    item: Vec<u8>,
    query: Query,
    /// Time spent in writes, waiting for the broker, since [`Self::begin`].
    blocked: Duration,
    flushed: Instant,
}

impl<'fd> Output<'fd> {
    /// A writer to a pipe.
    pub fn new(pipe: BorrowedFd<'fd>) -> Self {
        Self {
            pipe,
            buffer: Vec::new(),
            frame: None,
            item: Vec::new(),
            query: Query::Unspecified,
            blocked: Duration::ZERO,
            flushed: Instant::now(),
        }
    }

    /// Begins the answer to a query.
    pub fn begin(&mut self, query: Query) {
        (self.query, self.blocked) = (query, Duration::ZERO);
    }

    /// The time since [`Self::begin`] that was spent waiting for the broker.
    pub fn time_blocked(&self) -> Duration {
        self.blocked
    }

    /// Adds what was read of a path.
    pub fn file(&mut self, name: &[u8], content: Content<'_>, truncated: bool) -> Result<(), BrokerGone> {
        self.item(FILES, |out| {
            text_or_bytes(out, NAME, name);
            match content {
                Content::Text(text) => text_or_bytes(out, TEXT, text),
                Content::Link(target) => text_or_bytes(out, LINK, target),
                Content::Entries(entries) => explicit_number(out, ENTRIES, entries),
                Content::Errno(errno) => explicit_number(out, ERRNO, errno.raw_os_error() as u64),
            }
            number(out, TRUNCATED, truncated.into());
        })
    }

    /// Adds the numbers of a file system.
    pub fn file_system(&mut self, name: &[u8], numbers: Result<StatFs, Errno>) -> Result<(), BrokerGone> {
        let values = match numbers {
            Err(errno) => [errno.raw_os_error() as u64, 0, 0, 0, 0, 0, 0, 0],
            Ok(stat) => [
                0,
                // What blocks are counted in. FUSE file systems set f_bsize, which is best for I/O, to something else.
                stat.f_frsize as u64,
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                stat.f_flags as u64 & ST_RDONLY,
            ],
        };
        self.item(FILE_SYSTEMS, |out| {
            text_or_bytes(out, NAME, name);
            (3..).zip(values).for_each(|(field, value)| number(out, field, value));
        })
    }

    /// Ends the query: its outcome, how many items a limit left out, and whether something was [`SKIPPED`]. If `more`
    /// queries follow, the frames may wait for theirs, so that the broker wakes up less often.
    pub fn end(
        &mut self,
        outcome: Outcome,
        elapsed: Duration,
        left_out: usize,
        skipped: bool,
        more: bool,
    ) -> Result<(), BrokerGone> {
        self.begin_chunk();
        message(&mut self.buffer, QUERY_END, |out| {
            number(out, 1, outcome as u64);
            number(out, 2, u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
            number(out, 3, left_out as u64);
        });
        self.close(FrameKind::LastChunk, if skipped { SKIPPED } else { 0 });
        let may_wait = more && self.buffer.len() < WRITE_BYTES && self.flushed.elapsed() < WRITE_INTERVAL;
        if may_wait { Ok(()) } else { self.flush() }
    }

    /// Writes a frame that is not a chunk.
    pub fn message(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), BrokerGone> {
        self.buffer.extend_from_slice(&header(payload.len(), kind, 0, 0));
        self.buffer.extend_from_slice(payload);
        self.flush()
    }

    /// Writes all frames; waits while the pipe is full.
    pub fn flush(&mut self) -> Result<(), BrokerGone> {
        self.close(FrameKind::Chunk, 0);
        let start = Instant::now();
        let mut rest = &*self.buffer;
        while !rest.is_empty() {
            match rustix::io::write(self.pipe, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(_) => return Err(BrokerGone),
            }
        }
        self.buffer.clear();
        self.flushed = Instant::now();
        self.blocked += self.flushed - start;
        Ok(())
    }

    /// Adds an item to the chunk that is being written, or to a new one if it does not fit.
    fn item(&mut self, field: u8, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), BrokerGone> {
        self.item.clear();
        write(&mut self.item);
        if self.frame.is_some_and(|frame| self.buffer.len() - frame + self.item.len() > CHUNK_BYTES) {
            self.close(FrameKind::Chunk, 0);
            if self.buffer.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        self.begin_chunk();
        bytes(&mut self.buffer, field, &self.item);
        Ok(())
    }

    fn begin_chunk(&mut self) {
        if self.frame.is_none() {
            self.frame = Some(self.buffer.len());
            self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
            number(&mut self.buffer, QUERY, self.query as u64);
        }
    }

    fn close(&mut self, kind: FrameKind, flags: u8) {
        let Some(frame) = self.frame.take() else { return };
        let payload = self.buffer.len() - frame - HEADER_BYTES;
        let header = header(payload, kind, self.query as u8, flags);
        self.buffer[frame..frame + HEADER_BYTES].copy_from_slice(&header);
    }
}

/// Appends bytes as the field of type string, or, if they are not UTF-8, as the one of type bytes.
fn text_or_bytes(out: &mut Vec<u8>, [text, raw]: [u8; 2], content: &[u8]) {
    let field = if std::str::from_utf8(content).is_ok() { text } else { raw };
    bytes(out, field, content);
}

#[cfg(test)]
mod tests;
