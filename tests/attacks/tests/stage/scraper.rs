//! A client of an exporter.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Sends bytes and takes all that comes back, for a few seconds at most.
pub fn send(exporter: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let Ok(mut stream) = TcpStream::connect(exporter) else { return answer };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let _ = stream.write_all(bytes);
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Asks for a page; `user` is what the header says after `Basic`.
pub fn get(exporter: SocketAddr, path: &str, user: &str, more: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {user}\r\n{more}");
    let request = format!("{head}Connection: close\r\n\r\n");
    String::from_utf8_lossy(&send(exporter, request.as_bytes())).into_owned()
}
