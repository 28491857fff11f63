//! A running exporter that ends with its test.

use std::net::SocketAddr;

use crate::ChildProcess;
use crate::exposition::Exposition;
use crate::http::{self, Response};

#[derive(Debug)]
pub struct Exporter {
    pub process: ChildProcess,
    pub address: SocketAddr,
}

impl Exporter {
    /// Waits until a process listens, and reads from its log where: it chose the port itself, so that no other process
    /// can have it.
    pub fn from_process(mut process: ChildProcess) -> Self {
        let address = process.wait_for_log("its address", listening_address);
        Self { process, address }
    }

    pub fn get(&self, path: &str) -> Response {
        http::get(self.address, path, &[])
    }

    /// A scrape as Prometheus makes one with this timeout.
    pub fn metrics(&self, timeout_seconds: &str) -> Response {
        http::get(self.address, "/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", timeout_seconds)])
    }

    /// A scrape that must succeed and be well formed.
    pub fn scrape(&self) -> Exposition {
        let response = self.metrics("10");
        assert_eq!(response.status, 200, "{}", response.text());
        Exposition::parse(&response.body).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// The address that an exporter's log says it listens at.
pub fn listening_address(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains(" msg=listening "))?;
    line.split(" address=").nth(1)?.split(' ').next()?.parse().ok()
}
