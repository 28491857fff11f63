//! As much of an HTTP/1.1 client as these tests need: one request a connection, every step with a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::TIMEOUT;

/// The timeout of each step of [`connect`] and [`exchange`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const READ_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// The status line and the headers, in lower case.
    pub head: String,
    pub body: Vec<u8>,
    pub elapsed: Duration,
}

impl Response {
    /// Parses all bytes of a response whose body ends with the connection.
    pub fn parse(bytes: &[u8], elapsed: Duration) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a header");
        let head = std::str::from_utf8(&bytes[..end]).expect("a header in ASCII").to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, head, body: bytes[end + 4..].to_vec(), elapsed }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        headers.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether the body has this line.
    pub fn has_line(&self, line: &str) -> bool {
        self.text().lines().any(|other| other == line)
    }
}

/// The bytes of a request, after which the server closes the connection.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// One GET; panics when there is no whole response within [`TIMEOUT`].
pub fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).expect("the exporter accepts");
    stream.write_all(&request("GET", path, headers)).expect("the request is taken");
    let mut bytes = Vec::new();
    let mut buffer = [0; 64 << 10];
    loop {
        let left = TIMEOUT.checked_sub(start.elapsed()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.unwrap_or_else(|| panic!("{path} hangs")))).unwrap();
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) => panic!("{path}: no whole response: {error}"),
        }
    }
    let response = Response::parse(&bytes, start.elapsed());
    let length = response.header("content-length").expect("responses have a length");
    assert_eq!(length.parse(), Ok(response.body.len()), "{path}: a whole body");
    response
}

/// A connection on which no step takes for ever; an error when the server's queue is full.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(stream)
}

/// Sends bytes and returns everything that comes back until the end of the connection, or until nothing comes in time.
pub fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    // What is refused half-way is answered before all of it is taken.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}
