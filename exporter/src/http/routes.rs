//! What answers at which path: metrics, health, readiness and the page at `/`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::page::Page;
use super::paths::{self, Peer, Place};
use super::query::{self, Parameters};
use super::turns::{Client, Paced};
use super::web_config::Guard;
use crate::options::Options;
use crate::scrape::{Format, ScrapeError, Scraper};
use crate::self_metrics::handler::Handler;
use crate::unread_responses::Unread;

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
    permits: Arc<Semaphore>,
    timeout: Duration,
    timeout_offset: Duration,
    pub(super) guard: Option<Guard>,
    pub(super) handshakes: Paced,
    pub(super) long_requests: Paced,
}

pub(super) type Answer = Response<Bytes>;

/// A request to the metrics page that has not ended: the last byte of its answer is not taken.
#[derive(Debug)]
pub(super) struct InFlight {
    gauge: prometheus::IntGauge,
    _permit: Option<OwnedSemaphorePermit>,
}

impl InFlight {
    fn new(gauge: &prometheus::IntGauge, permit: Option<OwnedSemaphorePermit>) -> Self {
        gauge.inc();
        Self { gauge: gauge.clone(), _permit: permit }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl App {
    /// Pages by the flags.
    pub fn new(scraper: Arc<Scraper>, options: &Options) -> Self {
        let max_requests = usize::try_from(options.number("web.max-requests")).unwrap_or(usize::MAX);
        let permits = options.limit("web.max-requests").min(Semaphore::MAX_PERMITS);
        let path = options.text("web.telemetry-path");
        Self {
            scraper,
            page: Page::default(),
            telemetry_path: if path.is_empty() { "/metrics".into() } else { path.into() },
            max_requests,
            permits: Arc::new(Semaphore::new(permits)),
            timeout: options.duration("scrape.timeout"),
            timeout_offset: options.duration("scrape.timeout-offset"),
            guard: None,
            handshakes: Paced::default(),
            long_requests: Paced::default(),
        }
    }

    pub(super) fn unread(&self) -> &Unread {
        &self.scraper.unread
    }

    pub(super) fn handler(&self) -> &Handler {
        &self.scraper.handler
    }

    /// Whether answers that nobody takes keep others from being answered.
    pub(super) fn is_short_of_room(&self) -> bool {
        self.unread().is_full() || self.permits.available_permits() == 0
    }

    /// The same, behind a guard.
    pub fn guarded(self, guard: Option<Guard>) -> Self {
        Self { guard, ..self }
    }

    /// Answers one request; nothing of its body is read.
    pub async fn answer<B>(&self, request: &Request<B>) -> Answer {
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
                Ok(()) => text(StatusCode::OK, "the broker answers, and has the readers that are needed"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
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
        let is_whole = self.scraper.is_whole(&selection) && parameters.names.is_empty();
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        // Who asks for everything shares it with all others, and many who ask for something else must not shut it out.
        if permit.is_none() && !is_whole {
            self.unread().press();
            handler.answered(503);
            let reason =
                format!("Limit of concurrent requests reached ({}), try again later.", self.max_requests);
            return text(StatusCode::SERVICE_UNAVAILABLE, &reason);
        }
        let in_flight = Arc::new(InFlight::new(&handler.in_flight, permit));
        let client = request.extensions().get::<Peer>().map_or(Client::NOBODY, |peer| peer.0.into());
        let deadline = self.deadline(request);
        let shared = self.scraper.scrape(client, selection, deadline).await;
        let failed = |error: &ScrapeError| {
            handler.gathering_failed();
            handler.answered(503);
            text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
        };
        let scrape = match shared.as_ref() {
            Ok(scrape) => scrape,
            Err(error) => return failed(error),
        };
        let gzip = query::wants_gzip(headers(request, header::ACCEPT_ENCODING.as_str()));
        let (format, escaping) = query::negotiate(headers(request, header::ACCEPT.as_str()));
        let names = &parameters.names;
        let encode = || match (names.is_empty(), gzip) {
            (true, true) => scrape.compressed(format, compress),
            (true, false) => scrape.whole(format),
            (false, true) => self.unread().page(compress(&scrape.families(format, names))),
            (false, false) => scrape.families(format, names),
        };
        let content = match is_whole {
            true => encode(),
            false => match timeout_at(deadline, self.scraper.selections.run(client, encode)).await {
                Ok(Some(content)) => content,
                _ => return failed(&ScrapeError::Busy),
            },
        };
        handler.answered(200);
        let media_type = match format {
            Format::Text => METRICS_TEXT,
            Format::Protobuf => METRICS_PROTOBUF,
        };
        let mut answer = Response::new(content);
        answer.extensions_mut().insert(in_flight);
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
    let mut answer = Response::new(content);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
