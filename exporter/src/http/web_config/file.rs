//! The schema of the configuration file: the fields of Prometheus' exporter-toolkit. Unknown fields are errors.
//!
//! <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;

use crate::options::go_duration;

/// Headers that may be set, with their allowed values; an empty list allows any value.
#[rustfmt::skip]
const ALLOWED_HEADERS: &[(&str, &[&str])] = &[
    ("Content-Security-Policy",   &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options",    &["nosniff"]),
    ("X-Frame-Options",           &["deny", "sameorigin"]),
    ("X-XSS-Protection",          &[]),
];
/// The highest bcrypt cost that is accepted: each step doubles the time of a check, and 16 takes some seconds.
const MAX_BCRYPT_COST: u32 = 16;

/// The parsed file. Certificates and keys are not read yet.
#[derive(Clone, Default)]
pub(crate) struct Config {
    /// None for plain HTTP.
    pub tls: Option<Tls>,
    /// Whether HTTP/2 is enabled, which needs TLS.
    pub http2: bool,
    /// Headers of every response.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// bcrypt hashes by user name; if empty, no authentication is needed.
    pub users: BTreeMap<String, String>,
    /// None for no limit.
    pub rate_limit: Option<RateLimit>,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// The time in which one more request is allowed.
    pub interval: Duration,
    /// Requests that are allowed at once.
    pub burst: u32,
}

/// The TLS settings.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub cert: Pem,
    pub key: Pem,
    pub client_ca: Option<Pem>,
    pub client_auth: ClientAuth,
    pub client_allowed_sans: Option<Vec<String>>,
    pub min_version: Version,
    pub max_version: Version,
    pub cipher_suites: Vec<String>,
    pub curves: Vec<String>,
    pub prefer_server_cipher_suites: bool,
}

/// Where PEM data is: in another file, or in the configuration itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Pem {
    File(PathBuf),
    Inline(String),
}

/// Which client certificates are required: Go's `tls.ClientAuthType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientAuth {
    None,
    Request,
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Version {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Raw {
    tls_server_config: Option<RawTls>,
    http_server_config: Option<RawHttp>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    rate_limit: Option<RawRateLimit>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawTls {
    cert: Option<String>,
    cert_file: Option<String>,
    key: Option<String>,
    key_file: Option<String>,
    client_ca: Option<String>,
    client_ca_file: Option<String>,
    client_auth_type: Option<String>,
    client_allowed_sans: Option<Vec<String>>,
    min_version: Option<Version>,
    max_version: Option<Version>,
    cipher_suites: Option<Vec<String>>,
    curve_preferences: Option<Vec<String>>,
    prefer_server_cipher_suites: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRateLimit {
    interval: Option<Interval>,
    burst: Option<u32>,
}

/// A duration such as `1s`, or nanoseconds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Interval {
    Nanoseconds(u64),
    Text(String),
}

/// Parses the file. Relative paths in it begin at `dir`. The error is one line.
pub(crate) fn parse(bytes: &[u8], dir: &Path) -> Result<Config, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    let raw: Option<Raw> = if text.trim().is_empty() {
        None
    } else {
        serde_saphyr::from_str(text).map_err(|error| first_line(&error.to_string()))?
    };
    let raw = raw.unwrap_or_default();
    let http = raw.http_server_config.unwrap_or_default();
    let users = raw.basic_auth_users.unwrap_or_default();
    for (user, hash) in &users {
        check_hash(hash).map_err(|reason| format!("basic_auth_users: {user}: {reason}"))?;
    }
    Ok(Config {
        tls: raw.tls_server_config.map(|tls| tls.validate(dir)).transpose()?.flatten(),
        http2: http.http2.unwrap_or(true),
        headers: http
            .headers
            .unwrap_or_default()
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| validate_header(name, value))
            .collect::<Result<_, _>>()?,
        users,
        rate_limit: raw.rate_limit.map(RawRateLimit::validate).transpose()?.flatten(),
    })
}

impl RawTls {
    /// The settings; none if no field is set, as in exporter-toolkit.
    fn validate(self, dir: &Path) -> Result<Option<Tls>, String> {
        let pem = |file: Option<String>, inline: Option<String>, names: &str| {
            let file = file.filter(|path| !path.is_empty()).map(|path| Pem::File(dir.join(path)));
            match (file, inline.filter(|text| !text.is_empty()).map(Pem::Inline)) {
                (Some(_), Some(_)) => Err(format!("tls_server_config: {names} exclude each other")),
                (file, inline) => Ok(file.or(inline)),
            }
        };
        let cert = pem(self.cert_file, self.cert, "cert and cert_file")?;
        let key = pem(self.key_file, self.key, "key and key_file")?;
        let client_ca = pem(self.client_ca_file, self.client_ca, "client_ca and client_ca_file")?;
        let client_auth = match self.client_auth_type.as_deref() {
            None | Some("" | "NoClientCert") => ClientAuth::None,
            Some("RequestClientCert") => ClientAuth::Request,
            Some("RequireAnyClientCert" | "RequireClientCert") => ClientAuth::RequireAny,
            Some("VerifyClientCertIfGiven") => ClientAuth::VerifyIfGiven,
            Some("RequireAndVerifyClientCert") => ClientAuth::RequireAndVerify,
            Some(other) => {
                return Err(format!(
                    "tls_server_config: client_auth_type: {other:?} is unknown; use RequireAndVerifyClientCert"
                ));
            }
        };
        let others = self.client_allowed_sans.is_some()
            || self.min_version.is_some()
            || self.max_version.is_some()
            || self.cipher_suites.is_some()
            || self.curve_preferences.is_some();
        let (cert, key) = match (cert, key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) if client_ca.is_none() && client_auth == ClientAuth::None && !others => {
                return Ok(None);
            }
            (None, _) => return Err("tls_server_config: cert_file is missing".into()),
            (_, None) => return Err("tls_server_config: key_file is missing".into()),
        };
        let verifies = matches!(client_auth, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify);
        if client_ca.is_some() && client_auth == ClientAuth::None {
            return Err("tls_server_config: client_ca_file without client_auth_type checks nothing; \
                        add client_auth_type: RequireAndVerifyClientCert"
                .into());
        }
        if client_ca.is_none() && verifies {
            return Err("tls_server_config: client_auth_type needs client_ca_file: this program has no \
                        certificate authorities of its own"
                .into());
        }
        if self.client_allowed_sans.is_some() && client_auth == ClientAuth::None {
            return Err("tls_server_config: client_allowed_sans without client_auth_type checks nothing; \
                        add client_auth_type: RequireAndVerifyClientCert"
                .into());
        }
        let min_version = self.min_version.unwrap_or(Version::Tls12);
        let max_version = self.max_version.unwrap_or(Version::Tls13);
        if max_version < min_version {
            return Err("tls_server_config: max_version is lower than min_version".into());
        }
        if max_version < Version::Tls12 {
            return Err("tls_server_config: max_version: versions below TLS12 are not supported".into());
        }
        Ok(Some(Tls {
            cert,
            key,
            client_ca,
            client_auth,
            client_allowed_sans: self.client_allowed_sans,
            min_version,
            max_version,
            cipher_suites: self.cipher_suites.unwrap_or_default(),
            curves: self.curve_preferences.unwrap_or_default(),
            prefer_server_cipher_suites: self.prefer_server_cipher_suites.unwrap_or(true),
        }))
    }
}

impl RawRateLimit {
    /// The limit; none if the interval is 0 or missing, as in exporter-toolkit.
    fn validate(self) -> Result<Option<RateLimit>, String> {
        let interval = match self.interval {
            None => Duration::ZERO,
            Some(Interval::Nanoseconds(nanoseconds)) => Duration::from_nanos(nanoseconds),
            Some(Interval::Text(text)) if text == "0" => Duration::ZERO,
            Some(Interval::Text(text)) => go_duration(&text).ok_or_else(|| {
                format!("rate_limit: interval: {text:?} is not a duration such as 1s or 250ms")
            })?,
        };
        let burst = self.burst.unwrap_or(0);
        if !interval.is_zero() && burst == 0 {
            return Err("rate_limit: burst: 0 would refuse every request".into());
        }
        Ok((!interval.is_zero()).then_some(RateLimit { interval, burst }))
    }
}

fn validate_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let Some((name, values)) = ALLOWED_HEADERS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = ALLOWED_HEADERS.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "http_server_config: headers: {name} cannot be set; use one of {}",
            names.join(", ")
        ));
    };
    if !values.is_empty() && !values.contains(&value) {
        return Err(format!(
            "http_server_config: headers: {name}: {value:?} is none of {}",
            values.join(", ")
        ));
    }
    let invalid = |_| format!("http_server_config: headers: {name}: not a valid header value");
    let lower = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
    Ok((lower, HeaderValue::from_str(value).map_err(invalid)?))
}

/// Checks that it is a bcrypt hash of an acceptable cost.
fn check_hash(hash: &str) -> Result<(), String> {
    let parts: bcrypt::HashParts =
        hash.parse().map_err(|_| "not a bcrypt hash; create one with htpasswd -nBC 10 NAME".to_owned())?;
    match parts.get_cost() {
        cost if cost > MAX_BCRYPT_COST => {
            Err(format!("a cost of {cost} takes too long to check; use {MAX_BCRYPT_COST} at most"))
        }
        _ => Ok(()),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of "secret", at the lowest cost.
    const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

    fn read(text: &str) -> Result<Config, String> {
        parse(text.as_bytes(), Path::new("/etc/web"))
    }

    fn assert_rejected(text: &str, part: &str) {
        let error = read(text).err().unwrap_or_else(|| panic!("taken: {text}"));
        assert!(error.contains(part) && error.lines().count() == 1, "{error}\nhas no {part:?}");
    }

    #[test]
    fn all_fields_are_parsed() {
        let config = read(&format!(
            "tls_server_config:\n  cert_file: tls.crt\n  key_file: /keys/tls.key\n  client_ca_file: ca.crt\n  \
             client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: [prometheus]\n  \
             min_version: TLS13\n  max_version: TLS13\n  curve_preferences: [X25519]\n  \
             prefer_server_cipher_suites: false\n\
             http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: deny\n    \
             Content-Security-Policy: default-src 'none'\n    X-XSS-Protection: \"\"\n\
             basic_auth_users:\n  prometheus: {HASH}\n\
             rate_limit: {{interval: 250ms, burst: 5}}\n"
        ))
        .unwrap();
        let tls = config.tls.unwrap();
        assert!(tls.cert == Pem::File("/etc/web/tls.crt".into()), "relative to the file's directory");
        assert!(tls.key == Pem::File("/keys/tls.key".into()));
        assert_eq!(tls.client_auth, ClientAuth::RequireAndVerify);
        assert_eq!((tls.min_version, tls.max_version), (Version::Tls13, Version::Tls13));
        assert!(!tls.prefer_server_cipher_suites && !config.http2);
        assert_eq!(config.headers.len(), 2, "an empty header is unset");
        assert_eq!(config.users["prometheus"], HASH);
        let interval = Duration::from_millis(250);
        assert_eq!(config.rate_limit, Some(RateLimit { interval, burst: 5 }));
    }

    #[test]
    fn an_empty_file_and_empty_sections_set_nothing() {
        for text in [
            "",
            "\n",
            "# nothing\n",
            "{}",
            "tls_server_config:\nbasic_auth_users:\n",
            "tls_server_config: {}\nrate_limit: {interval: 0, burst: 1}",
        ] {
            let config = read(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert!(config.tls.is_none() && config.users.is_empty() && config.rate_limit.is_none(), "{text}");
            assert!(config.http2);
        }
    }

    #[test]
    fn an_unknown_field_is_an_error_with_its_name() {
        assert_rejected("basic_auth_user: {}", "basic_auth_user");
        assert_rejected("tls_server_config: {cert_fil: x}", "cert_fil");
        assert_rejected("http_server_config: {http3: true}", "http3");
        assert_rejected("rate_limit: {bursts: 1}", "bursts");
        assert_rejected("rate_limit: {burst: 1}\nrate_limit: {burst: 2}", "duplicate");
    }

    #[test]
    fn a_setting_without_effect_on_security_is_rejected() {
        let tls = "cert_file: a, key_file: b";
        assert_rejected("tls_server_config: {cert_file: a}", "key_file is missing");
        assert_rejected("tls_server_config: {key_file: a}", "cert_file is missing");
        assert_rejected("tls_server_config: {min_version: TLS13}", "cert_file is missing");
        assert_rejected(&format!("tls_server_config: {{{tls}, cert: x}}"), "exclude each other");
        assert_rejected(&format!("tls_server_config: {{{tls}, client_ca_file: c}}"), "client_auth_type");
        assert_rejected(
            &format!("tls_server_config: {{{tls}, client_allowed_sans: [x]}}"),
            "client_auth_type",
        );
        assert_rejected(&format!("tls_server_config: {{{tls}, client_auth_type: Sometimes}}"), "Sometimes");
        assert_rejected(
            &format!("tls_server_config: {{{tls}, client_auth_type: RequireAndVerifyClientCert}}"),
            "client_ca_file",
        );
        assert_rejected(&format!("tls_server_config: {{{tls}, min_version: TLS14}}"), "TLS14");
        assert_rejected(
            &format!("tls_server_config: {{{tls}, max_version: TLS11, min_version: TLS10}}"),
            "TLS12",
        );
        assert_rejected(
            &format!("tls_server_config: {{{tls}, min_version: TLS13, max_version: TLS12}}"),
            "lower",
        );
        assert_rejected("basic_auth_users: {a: secret}", "htpasswd");
        for cost in [17, 31] {
            assert_rejected(
                &format!("basic_auth_users: {{a: {}}}", HASH.replace("$04$", &format!("${cost}$"))),
                "cost",
            );
        }
        assert!(read(&format!("basic_auth_users: {{a: {}}}", HASH.replace("$04$", "$16$"))).is_ok());
        assert_rejected("http_server_config: {headers: {X-Other: a}}", "X-Other");
        assert_rejected("http_server_config: {headers: {X-Frame-Options: allow}}", "sameorigin");
        assert_rejected("http_server_config: {headers: {Content-Security-Policy: \"a\\nb\"}}", "not a valid");
        assert_rejected("rate_limit: {interval: soon, burst: 1}", "soon");
        assert_rejected("rate_limit: {interval: 1s, burst: 0}", "burst");
        assert_rejected("\u{0}: [", "");
    }
}
