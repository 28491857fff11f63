//! The chunks are what the generated code would encode, in frames that the broker accepts.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;

use keyhole_policy::pipes::PAYLOAD_BYTES;
use keyhole_proto::v1::{self, QueryEnd, ReadResponse, file, file_system};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::*;

/// A frame: its kind, query, flags and payload.
type Frame = (FrameKind, u8, u8, Vec<u8>);

/// A file in memory.
fn memory() -> File {
    rustix::fs::memfd_create("answers", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
}

/// The frames in a file.
fn frames(mut file: File) -> Vec<Frame> {
    let (mut bytes, mut frames) = (Vec::new(), Vec::new());
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let mut rest = &*bytes;
    while let Some((&[a, b, c, d, kind, about, flags, zero], behind)) =
        rest.split_first_chunk::<HEADER_BYTES>()
    {
        assert_eq!(zero, 0);
        let (payload, behind) = behind.split_at(u32::from_le_bytes([a, b, c, d]) as usize);
        assert!(payload.len() <= PAYLOAD_BYTES, "{}", payload.len());
        frames.push((FrameKind::parse(kind).unwrap(), about, flags, payload.to_vec()));
        rest = behind;
    }
    assert!(rest.is_empty());
    frames
}

/// The decoded name and content of a file.
fn name(bytes: &[u8]) -> Option<file::Name> {
    Some(match std::str::from_utf8(bytes) {
        Ok(path) => file::Name::Path(path.into()),
        Err(_) => file::Name::RawPath(bytes.into()),
    })
}

fn content(content: &Content<'_>) -> Option<file::Content> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
    Some(match content {
        Content::Text(bytes) => text(bytes).map_or(file::Content::Raw(bytes.to_vec()), file::Content::Text),
        Content::Link(bytes) => {
            text(bytes).map_or(file::Content::RawLink(bytes.to_vec()), file::Content::Link)
        }
        Content::Entries(entries) => file::Content::Entries(*entries),
        Content::Errno(errno) => file::Content::Errno(errno.raw_os_error() as u32),
    })
}

/// A statfs(2), and its decoded message.
fn file_system(numbers: Result<[u64; 5], Errno>, read_only: bool) -> (Result<StatFs, Errno>, v1::FileSystem) {
    let [blocks, blocks_free, blocks_available, files, files_free] = match numbers {
        Ok(numbers) => numbers,
        Err(errno) => {
            let errno = errno.raw_os_error() as u32;
            return (Err(numbers.unwrap_err()), v1::FileSystem { errno, ..Default::default() });
        }
    };
    // From the kernel, since a StatFs cannot be constructed.
    let mut statfs = rustix::fs::statfs("/").unwrap();
    (statfs.f_blocks, statfs.f_bfree, statfs.f_bavail) = (blocks, blocks_free, blocks_available);
    (statfs.f_files, statfs.f_ffree) = (files, files_free);
    (statfs.f_bsize, statfs.f_frsize) = (1 << 20, 4096);
    // With flags that are not sent.
    statfs.f_flags = 0x1c | i64::from(read_only) as rustix::fs::FsWord;
    let block_size = 4096;
    let client = v1::FileSystem {
        block_size,
        blocks,
        blocks_free,
        blocks_available,
        files,
        files_free,
        read_only,
        ..Default::default()
    };
    (Ok(statfs), client)
}

proptest! {
    #[test]
    fn chunks_are_what_the_generated_code_would_have_written(
        files in vec((vec(any::<u8>(), 0..300), 0..6, vec(any::<u8>(), 0..CHUNK_BYTES), "[a-z]{0,200}", any::<bool>()), 0..8),
        systems in vec((vec(any::<u8>(), 0..300), any::<Option<[u64; 5]>>(), any::<bool>()), 0..200),
        skipped in any::<bool>(),
    ) {
        let file = memory();
        let mut out = Output::new(file.as_fd());
        out.begin(Query::Stat);
        let (mut expected_files, mut expected_systems) = (Vec::new(), Vec::new());
        for (path, kind, raw, text, truncated) in &files {
            let holds = match kind {
                0 => Content::Text(raw),
                1 => Content::Text(text.as_bytes()),
                2 => Content::Link(&raw[..raw.len() / 4]),
                3 => Content::Link(text.as_bytes()),
                4 => Content::Entries(raw.len() as u64 / 8000),
                _ => Content::Errno(Errno::ACCESS),
            };
            out.file(path, holds, *truncated).unwrap();
            expected_files.push(v1::File { name: name(path), content: content(&holds), truncated: *truncated });
        }
        for (path, numbers, read_only) in systems {
            let (statfs, client) = file_system(numbers.ok_or(Errno::INPROGRESS), read_only);
            out.file_system(&path, statfs).unwrap();
            let name = match name(&path) {
                Some(file::Name::Path(path)) => file_system::Name::Path(path),
                _ => file_system::Name::RawPath(path),
            };
            expected_systems.push(v1::FileSystem { name: Some(name), ..client });
        }
        out.end(Outcome::Truncated, Duration::from_nanos(300), 9, skipped, false).unwrap();

        let frames = frames(file);
        let (last, before) = frames.split_last().unwrap();
        prop_assert_eq!((last.0, last.2), (FrameKind::LastChunk, if skipped { SKIPPED } else { 0 }));
        prop_assert!(before.iter().all(|frame| (frame.0, frame.2) == (FrameKind::Chunk, 0)));
        let (mut files, mut systems) = (Vec::new(), Vec::new());
        for (_, about, _, payload) in &frames {
            prop_assert_eq!(i32::from(*about), i32::from(Query::Stat));
            let chunk = ReadResponse::decode(&**payload).unwrap();
            prop_assert_eq!(&chunk.encode_to_vec(), payload);
            prop_assert_eq!(chunk.query(), Query::Stat);
            let items = chunk.files.len() + chunk.file_systems.len();
            prop_assert!(payload.len() <= CHUNK_BYTES + 32 || items == 1, "{} bytes of {items}", payload.len());
            let end = QueryEnd { outcome: Outcome::Truncated.into(), elapsed_ns: 300, left_out: 9 };
            prop_assert_eq!(chunk.end, std::ptr::eq(payload, &last.3).then_some(end));
            files.extend(chunk.files);
            systems.extend(chunk.file_systems);
        }
        prop_assert_eq!(files, expected_files);
        prop_assert_eq!(systems, expected_systems);
    }
}

#[test]
fn frames_wait_for_the_next_query_until_there_are_many_bytes() {
    let file = memory();
    let mut out = Output::new(file.as_fd());
    // Also if this machine is slow.
    out.flushed = Instant::now() + Duration::from_secs(600);
    let length = || file.metadata().unwrap().len() as usize;
    let query = |out: &mut Output<'_>, more| {
        out.begin(Query::Stat);
        out.file(b"proc/stat", Content::Text(&[b'x'; 4000]), false).unwrap();
        out.end(Outcome::Ok, Duration::ZERO, 0, false, more).unwrap();
    };
    (0..8).for_each(|_| query(&mut out, true));
    assert_eq!(length(), 0);
    query(&mut out, true);
    assert!(length() >= WRITE_BYTES);
    let written = length();
    query(&mut out, false);
    assert!(length() > written, "nothing waits when nothing else is asked for");
}

#[test]
fn frames_wait_at_most_the_write_interval() {
    let file = memory();
    let mut out = Output::new(file.as_fd());
    out.flushed = Instant::now() - WRITE_INTERVAL;
    out.begin(Query::Stat);
    out.end(Outcome::Ok, Duration::ZERO, 0, false, true).unwrap();
    assert_eq!(frames(file).len(), 1);
}

#[test]
fn a_message_follows_the_frames_that_wait() {
    let file = memory();
    let mut out = Output::new(file.as_fd());
    out.begin(Query::Stat);
    out.file(b"proc/stat", Content::Entries(0), false).unwrap();
    out.end(Outcome::Ok, Duration::ZERO, 0, false, true).unwrap();
    out.message(FrameKind::Checked, b"\0stat").unwrap();
    let frames = frames(file);
    assert_eq!(
        frames.iter().map(|frame| frame.0).collect::<Vec<_>>(),
        [FrameKind::LastChunk, FrameKind::Checked]
    );
    assert_eq!(frames[1].3, b"\0stat");
}

#[test]
fn time_blocked_by_the_broker_is_not_reading_time() {
    let (mut broker, pipe) = std::io::pipe().unwrap();
    let mut out = Output::new(pipe.as_fd());
    let slow = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        broker.read_to_end(&mut Vec::new()).unwrap();
    });
    out.begin(Query::Stat);
    // More than the pipe holds.
    (0..8).for_each(|_| out.file(b"proc/stat", Content::Text(&[b'x'; CHUNK_BYTES]), false).unwrap());
    out.flush().unwrap();
    assert!(out.time_blocked() >= Duration::from_millis(100), "{:?}", out.time_blocked());
    out.begin(Query::Stat);
    assert_eq!(out.time_blocked(), Duration::ZERO);
    drop(pipe);
    slow.join().unwrap();
}
