//! The exporter's server within the test's own process, over real HTTP.
#![allow(dead_code, unreachable_pub, reason = "each test program uses some of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use keyhole_exporter::broker_client::BrokerClient;
use keyhole_exporter::cli::flags;
use keyhole_exporter::collector;
use keyhole_exporter::http::web_config::WebConfig;
use keyhole_exporter::http::{self, App, listen};
use keyhole_exporter::local::LocalSource;
use keyhole_exporter::scrape::Scraper;
use keyhole_exporter::self_metrics::process::Process;
use keyhole_test_support::http::{Response, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// An exporter that serves on a port of its own. The collectors `loadavg` and `time` are on, and those that flags add.
pub struct Exporter {
    pub address: SocketAddr,
    pub scraper: Arc<Scraper>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    pub served: JoinSet<std::io::Result<()>>,
}

impl Exporter {
    pub fn start(socket: &Path, more: &[&str]) -> Self {
        Self::start_with(socket, more, None)
    }

    /// The same, with a `--web.config.file`.
    pub fn start_with(socket: &Path, more: &[&str], web_config: Option<WebConfig>) -> Self {
        Self::start_with_health(socket, more, web_config, None)
    }

    /// The same, with a listener for health checks.
    pub fn start_with_health(
        socket: &Path,
        more: &[&str],
        web_config: Option<WebConfig>,
        health: Option<std::net::TcpListener>,
    ) -> Self {
        let defaults = ["--collector.disable-defaults", "--collector.loadavg", "--collector.time"];
        let arguments = defaults.iter().chain(more).map(|argument| (*argument).to_owned());
        let options = flags::parse(arguments).unwrap();
        let broker = BrokerClient::new(socket.to_str().unwrap()).unwrap();
        let own = LocalSource::from_process().unwrap();
        let collectors = collector::enabled(&options).unwrap();
        let scraper = Scraper::new(broker, collectors, &options, own, Process::open(), Vec::new()).unwrap();
        let scraper = Arc::new(scraper);
        let listeners = listen::bind("web.listen-address", &["127.0.0.1:0".into()]).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let app = Arc::new(App::new(Arc::clone(&scraper), &options).with_web_config(web_config));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let mut served = JoinSet::new();
        served.spawn(http::serve(listeners, health, app, async {
            let _ = stopped.await;
        }));
        Self { address, scraper, stop: Some(stop), served }
    }

    pub fn stop(&mut self) {
        self.stop.take();
    }

    /// One request on a connection of its own.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        Self::request_to(self.address, method, path, headers).await
    }

    /// The same, to another address, such as that of the listener for health checks.
    pub async fn request_to(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Response {
        let start = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&request(method, path, headers)).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        Response::parse(&bytes, start.elapsed())
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[]).await
    }
}
