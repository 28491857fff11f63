//! A client of an exporter.

use std::net::SocketAddr;
use std::time::Duration;

use keyhole_test_support::http;

/// Sends bytes and returns everything that comes back, for a few seconds at most.
pub fn send(exporter: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let Ok(stream) = http::connect(exporter) else { return Vec::new() };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    http::exchange(stream, bytes)
}

/// Asks for a page; `user` follows `Basic` in the header.
pub fn get(exporter: SocketAddr, path: &str, user: &str, more: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {user}\r\n{more}");
    let request = format!("{head}Connection: close\r\n\r\n");
    String::from_utf8_lossy(&send(exporter, request.as_bytes())).into_owned()
}
