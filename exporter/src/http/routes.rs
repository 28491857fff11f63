//! The pages: metrics, health, readiness and the page at `/`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::page::Page;
use super::parameters::{self, Parameters};
use super::paths::{self, Peer, Route};
use super::throttle::Throttle;
use super::web_config::WebConfig;
use crate::cli::flags::{MAX_REQUESTS, SCRAPE_TIMEOUT, SCRAPE_TIMEOUT_OFFSET, TELEMETRY_PATH};
use crate::options::{DurationRange, Options};
use crate::scrape::{Format, ScrapeError, Scraper};
use crate::self_metrics::server::ServerMetrics;
use crate::unread_responses::UnreadResponses;

/// The content types of an exposition, without the escaping scheme.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PROTOBUF_FORMAT: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
/// The pages for the probes of an orchestrator.
pub const HEALTHY: &str = "/-/healthy";
pub const READY: &str = "/-/ready";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=UTF-8";
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";
/// The timeouts that a scrape can have, whatever the request says.
pub const SCRAPE_TIMEOUTS: DurationRange =
    DurationRange { min: Duration::from_millis(50), max: Duration::from_secs(120) };

/// Responds to requests.
#[derive(Debug)]
pub struct App {
    scraper: Arc<Scraper>,
    page: Page,
    /// None where only the health pages are served.
    telemetry_path: Option<String>,
    max_requests: usize,
    permits: Arc<Semaphore>,
    timeout: Duration,
    timeout_offset: Duration,
    pub(super) web_config: Option<WebConfig>,
    pub(super) handshakes: Throttle,
    pub(super) long_requests: Throttle,
}

pub(super) type HttpResponse = Response<Bytes>;

/// A request to the metrics page in progress: the last byte of its response is not written yet.
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
    /// The pages as the flags configure them, without TLS and authentication.
    pub fn new(scraper: Arc<Scraper>, options: &Options) -> Self {
        let max_requests = usize::try_from(MAX_REQUESTS.get(options)).unwrap_or(usize::MAX);
        let permits = MAX_REQUESTS.limit(options).min(Semaphore::MAX_PERMITS);
        let path = TELEMETRY_PATH.get(options);
        Self {
            scraper,
            page: Page::default(),
            telemetry_path: Some(if path.is_empty() { "/metrics".into() } else { path }),
            max_requests,
            permits: Arc::new(Semaphore::new(permits)),
            timeout: SCRAPE_TIMEOUT.get(options),
            timeout_offset: SCRAPE_TIMEOUT_OFFSET.get(options),
            web_config: None,
            handshakes: Throttle::default(),
            long_requests: Throttle::default(),
        }
    }

    /// The health pages of this server alone, without TLS and authentication.
    pub(super) fn health_pages(&self) -> Self {
        Self {
            scraper: Arc::clone(&self.scraper),
            page: Page::default(),
            telemetry_path: None,
            permits: Arc::clone(&self.permits),
            web_config: None,
            handshakes: Throttle::default(),
            long_requests: Throttle::default(),
            ..*self
        }
    }

    pub(super) fn unread(&self) -> &UnreadResponses {
        &self.scraper.unread
    }

    pub(super) fn server_metrics(&self) -> &ServerMetrics {
        &self.scraper.server_metrics
    }

    /// Whether unread responses prevent other responses: their memory or their request permits are used up.
    pub(super) fn lacks_response_memory(&self) -> bool {
        self.unread().is_full() || self.permits.available_permits() == 0
    }

    /// Adds TLS, authentication, headers and a rate limit.
    pub fn with_web_config(self, web_config: Option<WebConfig>) -> Self {
        Self { web_config, ..self }
    }

    /// Responds to a request. Its body is not read.
    pub async fn respond<B>(&self, request: &Request<B>) -> HttpResponse {
        // resolve serves what is below the first one, too, if it ends with a slash.
        let pages = match &self.telemetry_path {
            Some(path) => &[path.as_str(), "/", HEALTHY, READY][..],
            None => &[HEALTHY, READY],
        };
        let path = match paths::resolve(request, pages) {
            Route::Page(path) => path,
            Route::Redirect(path) => return paths::redirect(request, &path),
            Route::NotFound => return text(StatusCode::NOT_FOUND, "404 page not found"),
            Route::Malformed => return paths::malformed(request, "malformed path"),
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path.as_str() {
            HEALTHY => text(StatusCode::OK, "the exporter is up"),
            READY => match self.scraper.ready().await {
                Ok(()) => text(StatusCode::OK, "the broker answers, and has the readers that are needed"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
            },
            path => match &self.telemetry_path {
                Some(telemetry_path) if path == telemetry_path => self.metrics(request).await,
                Some(telemetry_path) => self.front_page(request, telemetry_path).await,
                None => text(StatusCode::NOT_FOUND, "404 page not found"),
            },
        }
    }

    async fn metrics<B>(&self, request: &Request<B>) -> HttpResponse {
        let server_metrics = &self.scraper.server_metrics;
        let requested = match Parameters::parse(request.uri().query().unwrap_or("")) {
            Ok(requested) => requested,
            Err(error) => return text(StatusCode::BAD_REQUEST, &error),
        };
        let selection = match self.scraper.select(&requested.collect, &requested.exclude) {
            Ok(selection) => selection,
            Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let is_all = self.scraper.is_all(&selection) && requested.names.is_empty();
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        // A scrape of all collectors is shared, so it needs no permit, and other requests cannot block it.
        if permit.is_none() && !is_all {
            self.unread().request_eviction();
            server_metrics.count_response(503);
            let reason =
                format!("Limit of concurrent requests reached ({}), try again later.", self.max_requests);
            return text(StatusCode::SERVICE_UNAVAILABLE, &reason);
        }
        let in_flight = Arc::new(InFlight::new(&server_metrics.in_flight, permit));
        let client = request.extensions().get::<Peer>().map_or(Client::UNKNOWN, |peer| peer.0.into());
        let deadline = self.deadline(request);
        let shared = self.scraper.scrape(client, selection, deadline).await;
        let failed = |error: &ScrapeError| {
            server_metrics.count_gathering_error();
            server_metrics.count_response(503);
            text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
        };
        let scrape = match shared.as_ref() {
            Ok(scrape) => scrape,
            Err(error) => return failed(error),
        };
        let gzip = parameters::accepts_gzip(headers(request, header::ACCEPT_ENCODING.as_str()));
        let (format, escaping) = parameters::negotiate(headers(request, header::ACCEPT.as_str()));
        let names = &requested.names;
        let encode = || match (names.is_empty(), gzip) {
            (true, true) => scrape.compressed(format, compress),
            (true, false) => scrape.all(format),
            (false, true) => self.unread().track(compress(&scrape.families(format, names))),
            (false, false) => scrape.families(format, names),
        };
        let content = if is_all {
            encode()
        } else {
            match timeout_at(deadline, self.scraper.selections.run(client, encode)).await {
                Ok(Some(content)) => content,
                _ => return failed(&ScrapeError::Busy),
            }
        };
        server_metrics.count_response(200);
        let media_type = match format {
            Format::Text => TEXT_FORMAT,
            Format::Protobuf => PROTOBUF_FORMAT,
        };
        let mut response = Response::new(content);
        response.extensions_mut().insert(in_flight);
        if let Ok(content_type) = HeaderValue::from_str(&format!("{media_type}; escaping={escaping}")) {
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        }
        // A name from the host must not make a browser treat the response as HTML.
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if gzip {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    /// The time by which a scrape must end for its response to arrive in time.
    fn deadline<B>(&self, request: &Request<B>) -> Instant {
        let header_timeout = headers(request, TIMEOUT_HEADER).find_map(parameters::timeout_seconds);
        let timeout =
            header_timeout.map_or(self.timeout, |seconds| Duration::from_secs_f64(seconds.min(1e6)));
        let time_left = timeout.saturating_sub(self.timeout_offset.min(timeout / 2));
        Instant::now() + time_left.clamp(SCRAPE_TIMEOUTS.min, SCRAPE_TIMEOUTS.max)
    }

    /// The page at `/`.
    async fn front_page<B>(&self, request: &Request<B>, telemetry_path: &str) -> HttpResponse {
        let page = self.page.render(&self.scraper, request, telemetry_path).await;
        let mut response = body(StatusCode::OK, HTML, page.into());
        Page::headers(response.headers_mut());
        response
    }
}

fn headers<'r, B>(request: &'r Request<B>, name: &str) -> impl Iterator<Item = &'r str> {
    request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
}

/// Compresses with the fastest level of gzip. Writing to memory cannot fail.
pub fn compress(text: &[u8]) -> Vec<u8> {
    let room = Vec::with_capacity(text.len() / 6);
    let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::fast());
    let written = encoder.write_all(text);
    debug_assert!(written.is_ok());
    encoder.finish().unwrap_or_default()
}

pub(super) fn text(status: StatusCode, line: &str) -> HttpResponse {
    let mut response = body(status, PLAIN_TEXT, format!("{line}\n").into());
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn body(status: StatusCode, content_type: &'static str, content: Bytes) -> HttpResponse {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
