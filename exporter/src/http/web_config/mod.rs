//! `--web.config.file`: TLS, users, headers and a rate limit, in the shape of Prometheus' exporter-toolkit.
//!
//! The file and all that it names are read again with every connection and request, and understood again when they
//! changed, so that a rotated certificate needs no restart. What cannot be understood refuses: nobody is let in by an
//! older file, or by none.

mod auth;
mod file;
mod limit;
mod queue;
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
use super::routes::{self, Answer, App};
use crate::lock;
use auth::{Checker, Credentials, Rules, Verdict};
use file::{Config, Pem, Tls};
use queue::Asker;
use tls::Material;

pub(crate) use file::RateLimit;
pub(crate) use limit::Bucket;
pub(super) use tls::H2;

/// The most that one file may hold.
const FILE_BYTES: u64 = 512 << 10;

/// Why a file with these bytes would be refused, in one line; nothing that it names is looked at.
pub fn flaw(bytes: &[u8]) -> Option<String> {
    file::parse(bytes, Path::new("/")).err()
}

/// Whether an `Authorization` header names a user.
pub fn names_a_user(header: &[u8]) -> bool {
    Credentials::parse(header).is_some()
}

/// Stands before the pages: decides who may ask, and how.
pub struct Guard {
    path: PathBuf,
    /// Whether connections are encrypted; fixed at the start, so that no change of the file takes it away.
    encrypted: bool,
    understood: Mutex<Option<Understood>>,
    acceptor: Mutex<Option<Acceptor>>,
    bucket: Mutex<Option<Bucket>>,
    /// None before the seal.
    checker: Option<Checker>,
    /// What the log was last told of the file.
    told: Mutex<Option<String>>,
}

/// The file's bytes and what they say.
struct Understood {
    bytes: Vec<u8>,
    config: Result<Arc<Config>, String>,
}

/// What connections are accepted with, and what it was made of.
struct Acceptor {
    tls: Tls,
    http2: bool,
    material: Material,
    config: Arc<ServerConfig>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // All else is secret.
        f.debug_struct("Guard").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Guard {
    /// Reads the file and all that it names. The error is one line, with the flag.
    pub fn new(path: &str) -> Result<Self, String> {
        let mut guard = Self {
            path: path.into(),
            encrypted: false,
            understood: Mutex::default(),
            acceptor: Mutex::default(),
            bucket: Mutex::default(),
            checker: None,
            told: Mutex::default(),
        };
        let wrong = |reason| format!("--web.config.file={path}: {reason}");
        let config = guard.config().map_err(wrong)?;
        guard.encrypted = config.tls.is_some();
        guard.acceptor().map_err(wrong)?;
        let left_out = config.tls.as_ref().map(tls::left_out).unwrap_or_default();
        if !left_out.is_empty() {
            tracing::warn!(
                left_out = left_out.join(","),
                "not supported, as too weak or unknown to the TLS library"
            );
        }
        Ok(guard)
    }

    /// The directories that hold the file and what it names: all of them are read again later. The kubelet swaps
    /// files by a link beside them, hence whole directories; a link that leads elsewhere is followed.
    pub fn directories(&self) -> Result<Vec<PathBuf>, String> {
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
                        "--web.config.file: {} lies in /: put it into a folder of its own, since all of its folder \
                         becomes readable for the exporter",
                        file.display()
                    ));
                }
                directories.insert(directory.to_owned());
            }
        }
        Ok(directories.into_iter().collect())
    }

    /// Starts the thread that checks passwords: before the seal forbids threads, after it is inherited.
    pub fn start(&mut self) -> std::io::Result<()> {
        self.checker = Some(Checker::start()?);
        Ok(())
    }

    /// Whether connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// What the next connection is accepted with; none for plain HTTP. The log is told of an error.
    pub(super) fn accept(&self) -> Result<Option<Arc<ServerConfig>>, String> {
        let result = self.acceptor();
        self.tell(result.as_ref().err());
        result
    }

    /// Answers a request that may be answered, and sets the file's headers.
    pub(super) async fn answer<B>(&self, app: &App, request: &Request<B>) -> Answer {
        let Ok(config) = self.config().inspect_err(|error| self.tell(Some(error))) else {
            return routes::text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
        };
        let mut answer = match self.refusal(&config, request).await {
            Some(refusal) => refusal,
            None => app.answer(request).await,
        };
        for (name, value) in &config.headers {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
        answer
    }

    async fn refusal<B>(&self, config: &Config, request: &Request<B>) -> Option<Answer> {
        if !self.within_limit(config) {
            return Some(routes::text(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests"));
        }
        let highest_cost = config.users.values().map(|hash| auth::cost(hash)).max()?;
        let header = request.headers().get(header::AUTHORIZATION);
        let verdict = match (header.and_then(|value| Credentials::parse(value.as_bytes())), &self.checker) {
            (Some(credentials), Some(checker)) => {
                let hash = config.users.get(&credentials.user).map(String::as_str);
                let client = Asker::new(request.extensions().get::<Peer>().map(|peer| peer.0));
                checker.check(credentials, Rules { hash, highest_cost }, client).await
            }
            _ => Verdict::Refused,
        };
        match verdict {
            Verdict::Passed => None,
            Verdict::Refused => {
                let mut answer = routes::text(StatusCode::UNAUTHORIZED, "Unauthorized");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
                Some(answer)
            }
            Verdict::Busy => {
                let mut answer = routes::text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Too many passwords wait to be checked, try again later.",
                );
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
                Some(answer)
            }
        }
    }

    fn within_limit(&self, config: &Config) -> bool {
        let Some(limit) = config.rate_limit else { return true };
        let now = Instant::now();
        let mut bucket = lock(&self.bucket);
        match bucket.as_mut().filter(|bucket| bucket.is_of(limit)) {
            Some(bucket) => bucket.take(now),
            None => bucket.insert(Bucket::new(limit, now)).take(now),
        }
    }

    /// The file as it is now.
    fn config(&self) -> Result<Arc<Config>, String> {
        let bytes = read(&self.path)?;
        let mut understood = lock(&self.understood);
        if let Some(understood) = understood.as_ref().filter(|understood| understood.bytes == bytes) {
            return understood.config.clone();
        }
        let dir = self.path.parent().unwrap_or(Path::new(""));
        let config = file::parse(&bytes, dir).map(Arc::new);
        understood.insert(Understood { bytes, config }).config.clone()
    }

    fn acceptor(&self) -> Result<Option<Arc<ServerConfig>>, String> {
        let config = self.config()?;
        let tls = match (&config.tls, self.encrypted) {
            (None, false) => return Ok(None),
            (Some(tls), true) => tls,
            _ => return Err("tls_server_config: TLS begins and ends with a restart only".into()),
        };
        let material = Material::read(tls, read)?;
        let mut acceptor = lock(&self.acceptor);
        let same = |known: &&Acceptor| {
            known.material == material && known.tls == *tls && known.http2 == config.http2
        };
        if let Some(known) = acceptor.as_ref().filter(same) {
            return Ok(Some(Arc::clone(&known.config)));
        }
        let made = tls::server_config(tls, &material, config.http2)
            .map_err(|reason| format!("tls_server_config: {reason}"))?;
        if acceptor.is_some() {
            tracing::info!("the certificates or their settings changed, and are in use");
        }
        let made =
            acceptor.insert(Acceptor { tls: tls.clone(), http2: config.http2, material, config: made });
        Ok(Some(Arc::clone(&made.config)))
    }

    /// Logs an error once, and, when a connection can be accepted again, its end.
    fn tell(&self, error: Option<&String>) {
        let mut told = lock(&self.told);
        if told.as_ref() == error {
            return;
        }
        match error {
            Some(error) => {
                tracing::error!(%error, file = %self.path.display(), "--web.config.file: everyone is refused");
            }
            None => tracing::info!(file = %self.path.display(), "--web.config.file is well again"),
        }
        *told = error.cloned();
    }
}

/// A file's bytes; the error names it.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                ": its owner and mode must let this user read it; and a folder that is named only now needs a restart"
            }
            _ => "",
        };
        format!("{}: {error}{hint}", path.display())
    };
    // A FIFO without a writer would hold up everything.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).map_err(wrong)?;
    if !file.metadata().map_err(wrong)?.is_file() {
        return Err(format!("{}: not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(wrong)?;
    match bytes.len() as u64 > FILE_BYTES {
        true => Err(format!("{}: larger than {FILE_BYTES} bytes", path.display())),
        false => Ok(bytes),
    }
}
