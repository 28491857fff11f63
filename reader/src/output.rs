//! The answers' pipe: chunks in frames, written together where nothing is lost by it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use keyhole_policy::pipes::{CHUNK_BYTES, HEADER_BYTES, Kind, SKIPPED, header};
use keyhole_policy::{Outcome, Query};
use rustix::fs::StatFs;
use rustix::io::Errno;

use crate::encode::{bytes, explicit_number, message, number};

// Numbers of fields in the contract.
const QUERY: u8 = 1;
const FILES: u8 = 2;
const FILE_SYSTEMS: u8 = 3;
const QUERY_END: u8 = 4;
/// Of a name, of a text and of a link: when it is UTF-8, and when it is not.
const NAME: [u8; 2] = [1, 2];
const TEXT: [u8; 2] = [3, 4];
const LINK: [u8; 2] = [5, 6];
const ENTRIES: u8 = 7;
const ERRNO: u8 = 8;
const TRUNCATED: u8 = 9;

/// Frames are written once there are so many bytes of them, less than a pipe holds.
const WRITE_BYTES: usize = 32 << 10;

/// ... or once the first of them has waited for so long, as far as a query ends meanwhile.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);

/// statfs(2): mounted read-only.
const ST_RDONLY: u64 = 1;

/// What there is of a path.
#[derive(Debug, Clone, Copy)]
pub enum Content<'c> {
    /// Bytes of a file, [`CHUNK_BYTES`] at most; what follows comes under the same name.
    Text(&'c [u8]),
    /// Where a link leads.
    Link(&'c [u8]),
    /// How many entries a directory says that it has.
    Entries(u64),
    /// Why it could not be read.
    Errno(Errno),
}

/// The broker has gone, and nobody is left to read for.
#[derive(Debug)]
pub struct Gone;

/// The writer of answers.
#[derive(Debug)]
pub struct Output<'fd> {
    pipe: BorrowedFd<'fd>,
    /// Whole frames, and at the end the one that is not closed yet.
    buffer: Vec<u8>,
    /// Where that one begins.
    frame: Option<usize>,
    /// The item that is made, in one piece of memory for all.
    item: Vec<u8>,
    query: Query,
    /// Time spent waiting for the broker, since [`Self::begin`].
    waited: Duration,
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
            waited: Duration::ZERO,
            flushed: Instant::now(),
        }
    }

    /// Begins the answer to a query.
    pub fn begin(&mut self, query: Query) {
        (self.query, self.waited) = (query, Duration::ZERO);
    }

    /// Time since the answer was begun that was not spent reading.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Adds what was read of a path.
    pub fn file(&mut self, name: &[u8], content: Content<'_>, truncated: bool) -> Result<(), Gone> {
        self.item(FILES, |out| {
            either(out, NAME, name);
            match content {
                Content::Text(text) => either(out, TEXT, text),
                Content::Link(target) => either(out, LINK, target),
                Content::Entries(entries) => explicit_number(out, ENTRIES, entries),
                Content::Errno(errno) => explicit_number(out, ERRNO, errno.raw_os_error() as u64),
            }
            number(out, TRUNCATED, truncated.into());
        })
    }

    /// Adds the numbers of a file system.
    pub fn file_system(&mut self, name: &[u8], numbers: Result<StatFs, Errno>) -> Result<(), Gone> {
        let values = match numbers {
            Err(errno) => [errno.raw_os_error() as u64, 0, 0, 0, 0, 0, 0, 0],
            Ok(of) => [
                0,
                // What blocks are counted in. FUSE file systems set f_bsize, which is best for I/O, to something else.
                of.f_frsize as u64,
                of.f_blocks,
                of.f_bfree,
                of.f_bavail,
                of.f_files,
                of.f_ffree,
                of.f_flags as u64 & ST_RDONLY,
            ],
        };
        self.item(FILE_SYSTEMS, |out| {
            either(out, NAME, name);
            (3..).zip(values).for_each(|(field, value)| number(out, field, value));
        })
    }

    /// Adds how the query ended, how much a limit left out, and whether something was [`SKIPPED`]. With `more` to come it waits a moment for it: the
    /// broker is woken less often.
    pub fn end(
        &mut self,
        outcome: Outcome,
        elapsed: Duration,
        left_out: usize,
        skipped: bool,
        more: bool,
    ) -> Result<(), Gone> {
        self.begin_chunk();
        message(&mut self.buffer, QUERY_END, |out| {
            number(out, 1, outcome as u64);
            number(out, 2, u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
            number(out, 3, left_out as u64);
        });
        self.close(Kind::LastChunk, if skipped { SKIPPED } else { 0 });
        let may_wait = more && self.buffer.len() < WRITE_BYTES && self.flushed.elapsed() < WRITE_INTERVAL;
        if may_wait { Ok(()) } else { self.flush() }
    }

    /// Writes a frame that is no chunk.
    pub fn message(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Gone> {
        self.buffer.extend_from_slice(&header(payload.len(), kind, 0, 0));
        self.buffer.extend_from_slice(payload);
        self.flush()
    }

    /// Writes everything that there is; waits while the pipe is full.
    pub fn flush(&mut self) -> Result<(), Gone> {
        self.close(Kind::Chunk, 0);
        let begun = Instant::now();
        let mut rest = &*self.buffer;
        while !rest.is_empty() {
            match rustix::io::write(self.pipe, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(_) => return Err(Gone),
            }
        }
        self.buffer.clear();
        self.flushed = Instant::now();
        self.waited += self.flushed - begun;
        Ok(())
    }

    /// Adds an item to the chunk that is being written, or to a new one where it has no room.
    fn item(&mut self, field: u8, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Gone> {
        self.item.clear();
        write(&mut self.item);
        if self.frame.is_some_and(|frame| self.buffer.len() - frame + self.item.len() > CHUNK_BYTES) {
            self.close(Kind::Chunk, 0);
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

    fn close(&mut self, kind: Kind, flags: u8) {
        let Some(frame) = self.frame.take() else { return };
        let payload = self.buffer.len() - frame - HEADER_BYTES;
        let header = header(payload, kind, self.query as u8, flags);
        self.buffer[frame..frame + HEADER_BYTES].copy_from_slice(&header);
    }
}

/// Appends bytes to a field for text, or, when they are not UTF-8, to the one for bytes.
fn either(out: &mut Vec<u8>, [text, raw]: [u8; 2], content: &[u8]) {
    let field = if std::str::from_utf8(content).is_ok() { text } else { raw };
    bytes(out, field, content);
}

#[cfg(test)]
mod tests;
