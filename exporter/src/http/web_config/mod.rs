//! `--web.config.file`: TLS, users, headers and a rate limit, in the shape of Prometheus' exporter-toolkit.
//!
//! The file is read again for every request, and for every connection with TLS, as are the certificates that it names. They
//! are parsed again if they changed, so that rotated certificates need no restart. While the file is invalid every request
//! is answered with 500, and TLS handshakes are refused; an older version of the file is never used.

mod auth;
mod file;
mod queue;
mod rate_limit;
mod tls;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyper::header::{self, HeaderValue};
use hyper::{Request, StatusCode};
use rustix::fs::OFlags;
use rustls::ServerConfig;
use tokio::time::Instant;

use super::paths::Peer;
use super::routes::{self, App, HttpResponse};
use crate::lock;
use auth::{Credentials, PasswordChecker, UserHash, Verdict};
use file::{Config, Pem, Tls};
use queue::ClientConnection;
use tls::Material;

pub(crate) use file::RateLimit;
pub(crate) use rate_limit::RateLimitBucket;
pub(super) use tls::H2;

/// The most bytes of one file.
const MAX_FILE_BYTES: u64 = 512 << 10;

/// The error of a configuration file with this content, in one line. Files that it names are not read.
pub fn parse_error(bytes: &[u8]) -> Option<String> {
    file::parse(bytes, Path::new("/")).err()
}

/// Whether an `Authorization` header holds Basic credentials.
pub fn is_basic_auth(header: &[u8]) -> bool {
    Credentials::parse(header).is_some()
}

/// TLS, authentication, headers and the rate limit of the server, by the configuration file.
pub struct WebConfig {
    path: PathBuf,
    /// Whether connections use TLS; fixed at the start, so that no change of the file can turn it off.
    is_tls: bool,
    parsed: Mutex<Option<ParsedFile>>,
    acceptor: Mutex<Option<CurrentTlsConfig>>,
    bucket: Mutex<Option<RateLimitBucket>>,
    /// None until [`Self::start_password_thread`].
    checker: Option<PasswordChecker>,
    /// The error of the file that was last logged.
    logged_error: Mutex<Option<String>>,
}

/// The file's bytes and the configuration parsed from them.
struct ParsedFile {
    bytes: Vec<u8>,
    config: Result<Arc<Config>, String>,
}

/// The TLS configuration in use, and what it was created from.
struct CurrentTlsConfig {
    tls: Tls,
    http2: bool,
    material: Material,
    config: Arc<ServerConfig>,
}

impl std::fmt::Debug for WebConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Everything else is secret.
        f.debug_struct("WebConfig").field("path", &self.path).finish_non_exhaustive()
    }
}

impl WebConfig {
    /// Reads the file and the files that it names. The error is one line and names the flag.
    pub fn new(path: &str) -> Result<Self, String> {
        let mut web_config = Self {
            path: path.into(),
            is_tls: false,
            parsed: Mutex::default(),
            acceptor: Mutex::default(),
            bucket: Mutex::default(),
            checker: None,
            logged_error: Mutex::default(),
        };
        let error_in = |reason| format!("--web.config.file={path}: {reason}");
        let config = web_config.config().map_err(error_in)?;
        web_config.is_tls = config.tls.is_some();
        web_config.current_tls_config().map_err(error_in)?;
        let unsupported = config.tls.as_ref().map(tls::unsupported_settings).unwrap_or_default();
        if !unsupported.is_empty() {
            tracing::warn!(
                unsupported = unsupported.join(","),
                "TLS settings ignored: too weak, or not supported by the TLS library"
            );
        }
        Ok(web_config)
    }

    /// The directories of the file and of the files that it names, which are read again inside the sandbox. Whole directories,
    /// because the kubelet replaces files by switching a symbolic link beside them; links are followed.
    pub fn readable_directories(&self) -> Result<Vec<PathBuf>, String> {
        let config = self.config()?;
        let pems =
            config.tls.iter().flat_map(|tls| [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()]);
        let named = pems.flatten().filter_map(|pem| match pem {
            Pem::File(path) => Some(path.as_path()),
            Pem::Inline(_) => None,
        });
        let mut directories = BTreeSet::new();
        for file in named.chain([self.path.as_path()]) {
            let target = file.canonicalize().map_err(|error| format!("{}: {error}", file.display()))?;
            for directory in [file.parent(), target.parent()].into_iter().flatten() {
                if directory == Path::new("/") {
                    return Err(format!(
                        "--web.config.file: {} lies in /: put it into a directory of its own, since the exporter may read \
                         everything in that directory",
                        file.display()
                    ));
                }
                directories.insert(directory.to_owned());
            }
        }
        Ok(directories.into_iter().collect())
    }

    /// Starts the thread that checks passwords: before the sandbox forbids new threads, after the layers that it inherits.
    pub fn start_password_thread(&mut self) -> std::io::Result<()> {
        self.checker = Some(PasswordChecker::start()?);
        Ok(())
    }

    /// Whether connections use TLS.
    pub fn has_tls(&self) -> bool {
        self.is_tls
    }

    /// The TLS configuration for the next connection; none for plain HTTP, where each request reads the file. Logs an error.
    pub(super) fn tls_config(&self) -> Result<Option<Arc<ServerConfig>>, String> {
        if !self.is_tls {
            return Ok(None);
        }
        let result = self.current_tls_config();
        self.log_change(result.as_ref().err());
        result
    }

    /// Responds to a request if it is allowed, and adds the configured headers.
    pub(super) async fn respond<B>(&self, app: &App, request: &Request<B>) -> HttpResponse {
        let config = self.current_config();
        // With TLS, a valid file may name certificates that are not: the next connection finds out.
        if config.is_err() || !self.is_tls {
            self.log_change(config.as_ref().err());
        }
        let Ok(config) = config else {
            return routes::text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
        };
        let mut response = match self.refusal(&config, request).await {
            Some(refusal) => refusal,
            None => app.respond(request).await,
        };
        for (name, value) in &config.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response
    }

    async fn refusal<B>(&self, config: &Config, request: &Request<B>) -> Option<HttpResponse> {
        if !self.within_limit(config) {
            return Some(routes::text(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests"));
        }
        let highest_cost = config.users.values().map(|hash| auth::cost(hash)).max()?;
        let header = request.headers().get(header::AUTHORIZATION);
        let verdict = match (header.and_then(|value| Credentials::parse(value.as_bytes())), &self.checker) {
            (Some(credentials), Some(checker)) => {
                let hash = config.users.get(&credentials.user).map(String::as_str);
                let client = ClientConnection::new(request.extensions().get::<Peer>().map(|peer| peer.0));
                checker.check(credentials, UserHash { hash, highest_cost }, client).await
            }
            _ => Verdict::Refused,
        };
        match verdict {
            Verdict::Passed => None,
            Verdict::Refused => {
                let mut response = routes::text(StatusCode::UNAUTHORIZED, "Unauthorized");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
                Some(response)
            }
            Verdict::Busy => {
                let mut response = routes::text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Too many passwords wait to be checked, try again later.",
                );
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
                Some(response)
            }
        }
    }

    fn within_limit(&self, config: &Config) -> bool {
        let Some(limit) = config.rate_limit else { return true };
        let now = Instant::now();
        let mut bucket = lock(&self.bucket);
        match bucket.as_mut().filter(|bucket| bucket.has_limit(limit)) {
            Some(bucket) => bucket.take(now),
            None => bucket.insert(RateLimitBucket::new(limit, now)).take(now),
        }
    }

    /// The configuration in the file as it is now.
    fn config(&self) -> Result<Arc<Config>, String> {
        let bytes = read(&self.path)?;
        let mut parsed = lock(&self.parsed);
        if let Some(parsed) = parsed.as_ref().filter(|parsed| parsed.bytes == bytes) {
            return parsed.config.clone();
        }
        let dir = self.path.parent().unwrap_or(Path::new(""));
        let config = file::parse(&bytes, dir).map(Arc::new);
        parsed.insert(ParsedFile { bytes, config }).config.clone()
    }

    /// The same; an error if the file turns TLS on or off, which would need a restart.
    fn current_config(&self) -> Result<Arc<Config>, String> {
        let config = self.config()?;
        if config.tls.is_some() != self.is_tls {
            return Err("tls_server_config: turning TLS on or off needs a restart".into());
        }
        Ok(config)
    }

    fn current_tls_config(&self) -> Result<Option<Arc<ServerConfig>>, String> {
        let config = self.current_config()?;
        let Some(tls) = &config.tls else { return Ok(None) };
        let material = Material::read(tls, read)?;
        let mut acceptor = lock(&self.acceptor);
        let same = |known: &&CurrentTlsConfig| {
            known.material == material && known.tls == *tls && known.http2 == config.http2
        };
        if let Some(known) = acceptor.as_ref().filter(same) {
            return Ok(Some(Arc::clone(&known.config)));
        }
        let server_config = tls::server_config(tls, &material, config.http2)
            .map_err(|reason| format!("tls_server_config: {reason}"))?;
        if acceptor.is_some() {
            tracing::info!("TLS configuration reloaded");
        }
        let current = acceptor.insert(CurrentTlsConfig {
            tls: tls.clone(),
            http2: config.http2,
            material,
            config: server_config,
        });
        Ok(Some(Arc::clone(&current.config)))
    }

    /// Logs a new error once, and when it is gone.
    fn log_change(&self, error: Option<&String>) {
        let mut logged_error = lock(&self.logged_error);
        if logged_error.as_ref() == error {
            return;
        }
        match error {
            Some(error) => {
                tracing::error!(
                    %error,
                    file = %self.path.display(),
                    "--web.config.file is invalid: every request is refused until it is corrected"
                );
            }
            None => tracing::info!(file = %self.path.display(), "--web.config.file is valid again"),
        }
        *logged_error = error.cloned();
    }
}

/// The content of a file; the error names it.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let error_in = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                ": its owner and mode must let this user read it; if its directory was not in use at the start, restart the exporter"
            }
            _ => "",
        };
        format!("{}: {error}{hint}", path.display())
    };
    // Opening a FIFO without a writer would block.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).map_err(error_in)?;
    if !file.metadata().map_err(error_in)?.is_file() {
        return Err(format!("{}: not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(error_in)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{}: larger than {MAX_FILE_BYTES} bytes", path.display()));
    }
    Ok(bytes)
}
