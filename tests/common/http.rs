//! As much of an HTTP/1.1 client as these tests need: one request a connection, every step with a deadline.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// No answer of these tests takes longer; one that does hangs.
pub const HANGS: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name))?;
        Some(value)
    }
}

/// One GET; panics when there is no whole answer within [`HANGS`].
pub fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, HANGS).expect("the exporter accepts");
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).expect("the request is taken");
    let mut bytes = Vec::new();
    let mut part = [0; 64 << 10];
    loop {
        let left = HANGS.checked_sub(start.elapsed()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.unwrap_or_else(|| panic!("{path} hangs")))).unwrap();
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) => panic!("{path}: no whole answer: {error}"),
        }
    }
    let took = start.elapsed();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a header");
    let head = std::str::from_utf8(&bytes[..end]).expect("a header in ASCII").to_owned();
    let body = bytes.split_off(end + 4);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let answer = Answer { status, headers, body, took };
    let length = answer.header("content-length").expect("answers tell their length");
    assert_eq!(length.parse(), Ok(answer.body.len()), "{path}: a whole body");
    answer
}
