//! What answers at which path: metrics, health, readiness and the page at `/`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::page::Page;
use super::paths::{self, Place};
use super::query::{self, Parameters};
use super::web_config::Guard;
use crate::options::Options;
use crate::scrape::{Format, Scraper};

/// The content types of an exposition, without the scheme of its names.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const METRICS_PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";
const HTML_TYPE: &str = "text/html; charset=UTF-8";
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";
/// What a scrape may take at least and at most, whatever its header says.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(120);

/// What answers requests.
#[derive(Debug)]
pub struct App {
    scraper: Arc<Scraper>,
    page: Page,
    telemetry_path: String,
    max_requests: usize,
    permits: Semaphore,
    timeout: Duration,
    timeout_offset: Duration,
    pub(super) guard: Option<Guard>,
}

pub(super) type Answer = Response<Full<Bytes>>;

impl App {
    /// Pages by the flags.
    pub fn new(scraper: Arc<Scraper>, options: &Options) -> Self {
        let max_requests = usize::try_from(options.number("web.max-requests")).unwrap_or(usize::MAX);
        let permits = match max_requests {
            0 => Semaphore::MAX_PERMITS,
            limit => limit.min(Semaphore::MAX_PERMITS),
        };
        let path = options.text("web.telemetry-path");
        Self {
            scraper,
            page: Page::default(),
            telemetry_path: if path.is_empty() { "/metrics".into() } else { path.into() },
            max_requests,
            permits: Semaphore::new(permits),
            timeout: options.duration("scrape.timeout"),
            timeout_offset: options.duration("scrape.timeout-offset"),
            guard: None,
        }
    }

    /// The same, behind a guard.
    pub fn guarded(self, guard: Option<Guard>) -> Self {
        Self { guard, ..self }
    }

    /// Answers one request; nothing of its body is read.
    pub async fn answer<B>(&self, request: &Request<B>) -> Answer {
        if let Some(refusal) = paths::refuse(request) {
            return refusal;
        }
        let pages = [self.telemetry_path.as_str(), "/", "/-/healthy", "/-/ready"];
        let path = match paths::place(request, pages) {
            Place::Page(path) => path,
            Place::Elsewhere(path) => return paths::redirect(request, &path),
            Place::Nowhere => return text(StatusCode::NOT_FOUND, "404 page not found"),
            Place::Malformed => return paths::malformed(request, "malformed path"),
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path.as_str() {
            path if path == self.telemetry_path => self.metrics(request).await,
            "/-/healthy" => text(StatusCode::OK, "the exporter is up"),
            "/-/ready" => match self.scraper.ready().await {
                Ok(()) => text(StatusCode::OK, "the broker answers"),
                Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
            },
            _ => self.front(request).await,
        }
    }

    async fn metrics<B>(&self, request: &Request<B>) -> Answer {
        let handler = &self.scraper.handler;
        let parameters = match Parameters::parse(request.uri().query().unwrap_or("")) {
            Ok(parameters) => parameters,
            Err(error) => return text(StatusCode::BAD_REQUEST, &error),
        };
        let selection = match self.scraper.select(&parameters.collect, &parameters.exclude) {
            Ok(selection) => selection,
            Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let permit = self.permits.try_acquire();
        // Who shares a scrape costs nothing, and many who ask must not shut Prometheus out.
        if permit.is_err() && !self.scraper.is_running(&selection) {
            handler.answered(503);
            let reason =
                format!("Limit of concurrent requests reached ({}), try again later.", self.max_requests);
            return text(StatusCode::SERVICE_UNAVAILABLE, &reason);
        }
        handler.in_flight.inc();
        let _in_flight = Decrement(&handler.in_flight);
        let shared = self.scraper.scrape(selection, self.deadline(request)).await;
        let scrape = match shared.as_ref() {
            Ok(scrape) => scrape,
            Err(error) => {
                handler.gathering_failed();
                handler.answered(503);
                return text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
            }
        };
        handler.answered(200);
        let gzip = query::wants_gzip(headers(request, header::ACCEPT_ENCODING.as_str()));
        let (format, escaping) = query::negotiate(headers(request, header::ACCEPT.as_str()));
        let names = &parameters.names;
        let content = match (names.is_empty(), gzip) {
            (true, true) => scrape.compressed(format, compress),
            (true, false) => scrape.whole(format),
            (false, true) => compress(&scrape.families(format, names)).into(),
            (false, false) => scrape.families(format, names),
        };
        let media_type = match format {
            Format::Text => METRICS_TEXT,
            Format::Protobuf => METRICS_PROTOBUF,
        };
        let mut answer = Response::new(Full::new(content));
        if let Ok(content_type) = HeaderValue::from_str(&format!("{media_type}; escaping={escaping}")) {
            answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
        }
        // A name on the host must not make a browser take this for anything but text.
        answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if gzip {
            answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }

    /// When a scrape must have ended for its answer to arrive in time.
    fn deadline<B>(&self, request: &Request<B>) -> Instant {
        let asked = headers(request, TIMEOUT_HEADER).find_map(query::timeout_seconds);
        let timeout = asked.map_or(self.timeout, |seconds| Duration::from_secs_f64(seconds.min(1e6)));
        let budget = timeout.saturating_sub(self.timeout_offset.min(timeout / 2));
        Instant::now() + budget.clamp(SHORTEST, LONGEST)
    }

    /// The page at `/`.
    async fn front<B>(&self, request: &Request<B>) -> Answer {
        let page = self.page.render(&self.scraper, request, &self.telemetry_path).await;
        let mut answer = body(StatusCode::OK, HTML_TYPE, page.into());
        Page::headers(answer.headers_mut());
        answer
    }
}

/// Takes one off a gauge when a request ends, however it ends.
struct Decrement<'g>(&'g prometheus::IntGauge);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn headers<'r, B>(request: &'r Request<B>, name: &str) -> impl Iterator<Item = &'r str> {
    request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
}

/// gzip at its fastest; writing to memory cannot fail.
pub fn compress(text: &[u8]) -> Vec<u8> {
    let room = Vec::with_capacity(text.len() / 6);
    let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::fast());
    let written = encoder.write_all(text);
    debug_assert!(written.is_ok());
    encoder.finish().unwrap_or_default()
}

pub(super) fn text(status: StatusCode, line: &str) -> Answer {
    let mut answer = body(status, TEXT_TYPE, format!("{line}\n").into());
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn body(status: StatusCode, content_type: &'static str, content: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(content));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
