//! Floods that a hostile client can send.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use keyhole_policy::TABLE;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::wire::*;

/// A flood: what one connection does until it is closed. It is opened again and again.
pub(crate) struct Flood {
    pub(crate) name: &'static str,
    pub(crate) act: fn(&mut Connection),
}

/// The largest HTTP/2 window.
const WINDOW: u32 = (1 << 31) - 1;

#[rustfmt::skip]
pub(crate) const FLOODS: &[Flood] = &[
    Flood { name: "garbage", act: garbage },
    Flood { name: "rapid reset", act: rapid_reset },
    Flood { name: "CONTINUATION", act: |c| continuation(c, &[0, 1, b'x', 127].iter().copied().chain([b'y'; 127]).collect::<Vec<_>>()) },
    Flood { name: "empty CONTINUATION", act: |c| continuation(c, b"") },
    Flood { name: "HPACK bomb", act: hpack_bomb },
    Flood { name: "PING, acks not read", act: |c| control(c, &frame(PING, 0, 0, &[7; 8])) },
    Flood { name: "SETTINGS, acks not read", act: |c| control(c, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])) },
    Flood { name: "PRIORITY", act: |c| control(c, &frame(PRIORITY, 0, 99, &[0, 0, 0, 1, 0])) },
    Flood { name: "WINDOW_UPDATE overflow", act: |c| control(c, &window_update(0, WINDOW)) },
    Flood { name: "empty DATA", act: empty_data },
    Flood { name: "a message of 4 GiB", act: long_message },
    Flood { name: "thousands of streams", act: streams },
    Flood { name: "slowloris", act: slowloris },
    Flood { name: "zero window", act: |c| unread(c, 0) },
    Flood { name: "window of one byte", act: dribble },
    Flood { name: "never reading", act: |c| unread(c, WINDOW) },
    Flood { name: "half-closed", act: half_closed },
    Flood { name: "descriptor passing", act: descriptors },
    Flood { name: "200 descriptors each", act: many_descriptors },
    Flood { name: "unknown queries", act: |c| ask(c, |stream| read(stream, vec![1, 99_999, -1])) },
    Flood { name: "every query repeated", act: |c| ask(c, |stream| read(stream, [every(), every()].concat())) },
    Flood { name: "every query in a loop", act: |c| ask(c, |stream| read(stream, every())) },
    Flood { name: "Describe in a loop", act: |c| ask(c, |stream| call(stream, DESCRIBE, b"")) },
    Flood { name: "health in a loop", act: |c| ask(c, |stream| call(stream, HEALTH, b"")) },
    Flood { name: "thousands of connections", act: open_streams },
    Flood { name: "connection churn", act: |_| {} },
];

fn every() -> Vec<i32> {
    TABLE.iter().map(|row| row.query as i32).collect()
}

fn garbage(c: &mut Connection) {
    // Pseudo-random numbers with a fixed seed, so that failures are reproducible.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = (0..32 << 10)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect();
    if c.send(&hello(65_535), 1) {
        c.repeat(&noise, 1);
    }
}

fn rapid_reset(c: &mut Connection) {
    let mut open = c.send(&hello(65_535), 1);
    while open {
        let mut bytes = Vec::new();
        for _ in 0..50 {
            let stream = c.stream();
            bytes.extend(call(stream, READ, b""));
            bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        open = c.send(&bytes, 150);
    }
}

fn continuation(c: &mut Connection, fields: &[u8]) {
    let start = [hello(65_535), frame(HEADERS, 0, 1, &block(READ))].concat();
    if c.send(&start, 2) {
        c.repeat(&frame(CONTINUATION, 0, 1, fields).repeat(50), 50);
    }
}

fn hpack_bomb(c: &mut Connection) {
    // A header of 4,000 bytes for the table, and a block of references to it.
    let mut bomb = block(READ);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    bomb.extend([0xbe; 12_000]);
    let mut open = c.send(&hello(65_535), 1);
    while open {
        let stream = c.stream();
        open = c.send(&frame(HEADERS, END_HEADERS | END, stream, &bomb), 1);
    }
}

/// Repeats a frame of the connection, and reads no reply.
fn control(c: &mut Connection, frame: &[u8]) {
    if c.send(&hello(65_535), 1) {
        c.repeat(&frame.repeat(100), 100);
    }
}

fn empty_data(c: &mut Connection) {
    let start = [hello(65_535), frame(HEADERS, END_HEADERS, 1, &block(READ))].concat();
    if c.send(&start, 2) {
        c.repeat(&frame(DATA, 0, 1, b"").repeat(100), 100);
    }
}

fn long_message(c: &mut Connection) {
    let mut open = c.send(&hello(65_535), 1);
    while open {
        let stream = c.stream();
        let headers = frame(HEADERS, END_HEADERS, stream, &block(READ));
        let body = frame(DATA, 0, stream, &[&[0, 255, 255, 255, 255][..], &[8; 8000]].concat());
        open = c.send(&[headers, body].concat(), 2) && c.drain(Duration::from_millis(1));
    }
}

fn streams(c: &mut Connection) {
    let mut open = c.send(&hello(65_535), 1);
    while open {
        let stream = c.stream();
        open = c.send(&frame(HEADERS, END_HEADERS, stream, &block(READ)), 1);
    }
}

fn slowloris(c: &mut Connection) {
    // In rotation: nothing, half a preface, and headers without an end, byte by byte.
    let bytes = [hello(65_535), frame(HEADERS, 0, 1, &block(READ))].concat();
    let (at_once, drip) = match c.number % 3 {
        0 => (&b""[..], &b""[..]),
        1 => (&bytes[..12], &b""[..]),
        _ => (&bytes[..30], &bytes[30..]),
    };
    if c.send(at_once, 1) {
        for byte in drip {
            std::thread::sleep(Duration::from_millis(20));
            if !c.send(std::slice::from_ref(byte), 1) {
                return;
            }
        }
        c.hold();
    }
}

/// Asks for everything on every stream, and reads nothing.
fn unread(c: &mut Connection, window: u32) {
    let mut bytes = [hello(window), window_update(0, WINDOW - 65_535)].concat();
    for _ in 0..4 {
        let stream = c.stream();
        bytes.extend(read(stream, every()));
    }
    if c.send(&bytes, 6) {
        c.hold();
    }
}

/// Opens the window by one byte at a time, which makes a frame of each byte.
fn dribble(c: &mut Connection) {
    let mut bytes = hello(1);
    for _ in 0..4 {
        let stream = c.stream();
        bytes.extend(read(stream, every()));
    }
    let more: Vec<u8> = (0..4).flat_map(|stream| window_update(2 * stream + 1, 1)).collect();
    let mut open = c.send(&bytes, 5);
    while open {
        open = c.send(&more, 4) && c.drain(Duration::ZERO);
    }
}

fn half_closed(c: &mut Connection) {
    let bytes = [hello(65_535), read(1, every())].concat();
    if c.send(&bytes, 2) {
        let _ = c.stream.shutdown(Shutdown::Write);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn descriptors(c: &mut Connection) {
    pass(c, 100);
}

fn many_descriptors(c: &mut Connection) {
    pass(c, 200);
}

/// Passes `count` descriptors with each frame; if the kernel refuses them, sends the frame alone.
fn pass(c: &mut Connection, count: usize) {
    let file = std::fs::File::open("/dev/null").unwrap();
    let many = [file.as_fd(); 200];
    let many = &many[..count];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
    let mut open = c.send(&hello(65_535), 1);
    while open && Instant::now() < c.until {
        let mut passed = SendAncillaryBuffer::new(&mut space);
        assert!(passed.push(SendAncillaryMessage::ScmRights(many)));
        let ping = frame(PING, 0, 0, &[7; 8]);
        open = match sendmsg(&c.stream, &[IoSlice::new(&ping)], &mut passed, SendFlags::NOSIGNAL) {
            Err(Errno::PERM) => c.send(&ping, 0),
            sent => sent.is_ok(),
        } && c.drain(Duration::ZERO);
        c.sent += 1;
    }
}

/// Sends requests as fast as it can discard the answers.
fn ask(c: &mut Connection, request: impl Fn(u32) -> Vec<u8>) {
    let mut open = c.send(&[hello(WINDOW), window_update(0, WINDOW - 65_535)].concat(), 2);
    while open {
        let bytes: Vec<u8> = (0..4).flat_map(|_| request(c.stream())).collect();
        open = c.send(&bytes, 4) && c.drain(Duration::from_millis(5));
    }
}

/// Opens streams and closes none, up to a thousand.
fn open_streams(c: &mut Connection) {
    let connections: Vec<_> = (0..1000).map_while(|_| Connection::open(&c.socket, c.until, 0)).collect();
    c.sent += connections.len() as u64;
}
