//! What a request is for: its host and its path, read as node_exporter's server (Go's net/http) reads them.
//!
//! <https://www.rfc-editor.org/rfc/rfc9112.html#section-3.2>, <https://pkg.go.dev/net/http#ServeMux>

use std::borrow::Cow;
use std::net::SocketAddr;

use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode, Version};

use super::routes::{self, Answer};

/// The other end of the connection that a request came on, among its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A page at this path, without escapes.
    Page(String),
    /// No page: the path is to be asked for in this, its clean form.
    Elsewhere(String),
    /// No page: 404.
    Nowhere,
    /// It is no path.
    Malformed,
}

/// The refusal of what is no request at all: of HTTP/1.1 without a host, of two hosts, or of one that cannot be.
pub(super) fn refuse<B>(request: &Request<B>) -> Option<Answer> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let reason = match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 && *request.method() != Method::CONNECT => {
            "missing required Host header"
        }
        (Some(_), Some(_)) => "more than one Host header",
        (Some(host), None) if !is_host(host.as_bytes()) => "malformed Host header",
        _ if !request.uri().authority().is_none_or(|host| is_host(host.as_str().as_bytes())) => {
            "malformed authority"
        }
        _ => return None,
    };
    Some(malformed(request, reason))
}

/// An answer to what is no request, after which an HTTP/1 connection is closed: who sent it and who stands between may
/// not agree where the next begins.
pub(super) fn malformed<B>(request: &Request<B>, reason: &str) -> Answer {
    let mut answer = routes::text(StatusCode::BAD_REQUEST, &format!("400 Bad Request: {reason}"));
    if request.version() <= Version::HTTP_11 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// The bytes of hosts, ports, IPv6 addresses and escapes; none at all is a host too.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(byte))
}

/// The answer that sends a client to `path`.
pub(super) fn redirect<B>(request: &Request<B>, path: &str) -> Answer {
    let query = request.uri().query().filter(|query| !query.is_empty());
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut answer = routes::text(StatusCode::TEMPORARY_REDIRECT, "307 Temporary Redirect");
    match HeaderValue::from_str(&target) {
        Ok(target) => _ = answer.headers_mut().insert(header::LOCATION, target),
        Err(_) => return malformed(request, "malformed path"),
    }
    answer
}

/// What `request` asks for, of `pages`.
pub(super) fn place<'p, B>(request: &Request<B>, pages: impl IntoIterator<Item = &'p str>) -> Place {
    let path = request.uri().path();
    if path == "*" && *request.method() == Method::OPTIONS {
        return Place::Page(path.to_owned());
    }
    let is_proxied = *request.method() == Method::CONNECT;
    if !path.starts_with('/') && !is_proxied {
        return Place::Malformed;
    }
    if has_broken_escape(path) {
        return Place::Malformed;
    }
    let clean = clean(path);
    if clean != path && !is_proxied {
        return Place::Elsewhere(escape(&clean));
    }
    let page = pages.into_iter().find(|page| is_same(page, path));
    page.map_or(Place::Nowhere, |page| Place::Page(page.to_owned()))
}

/// Whether a page could be reached at this path.
pub fn is_reachable(path: &str) -> bool {
    path.starts_with('/') && !has_broken_escape(path) && clean(path) == path
}

fn has_broken_escape(path: &str) -> bool {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = path.as_bytes();
    let mut escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    escapes.any(|(at, _)| !is_hex(bytes.get(at + 1)) || !is_hex(bytes.get(at + 2)))
}

/// The path without empty, `.` and `..` segments, which begins with one slash. Escapes are no segments of that kind.
fn clean(path: &str) -> Cow<'_, str> {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => _ = segments.pop(),
            segment => segments.push(segment),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    let clean = format!("/{}{end}", segments.join("/"));
    if clean == path { Cow::Borrowed(path) } else { Cow::Owned(clean) }
}

/// A path as it may stand in a header: what is no letter of a path is escaped. A browser would take `/\` for `//`,
/// and go to another host.
fn escape(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
    let byte = |byte: u8| {
        if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    path.bytes().map(byte).collect()
}

/// Whether two paths are the same but for how they are escaped. An escaped slash separates nothing.
fn is_same(one: &str, other: &str) -> bool {
    one.split('/').map(unescape).eq(other.split('/').map(unescape))
}

fn unescape(segment: &str) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, more @ ..] = rest {
        (bytes, rest) = match (first, more) {
            (b'%', [high, low, more @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    (bytes, more)
                }
                _ => {
                    bytes.push(b'%');
                    (bytes, &rest[1..])
                }
            },
            (byte, more) => {
                bytes.push(*byte);
                (bytes, more)
            }
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(method: &str, target: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for host in hosts {
            request = request.header("Host", HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        request.body(()).unwrap()
    }

    fn found(method: &str, target: &str) -> Place {
        place(&request(method, target, &["x"]), ["/metrics", "/"])
    }

    #[test]
    fn a_path_is_cleaned_and_its_query_stays() {
        for (target, to) in [
            ("//metrics", "/metrics"),
            ("/./metrics", "/metrics"),
            ("/x/../metrics", "/metrics"),
            ("/../metrics", "/metrics"),
            ("/metrics/.", "/metrics"),
            ("/metrics/..", "/"),
            ("/metrics//", "/metrics/"),
            ("//", "/"),
            ("/.", "/"),
            ("//nothing", "/nothing"),
            ("//evil.example", "/evil.example"),
            ("/.//\\evil.example", "/%5Cevil.example"),
            ("//%6detrics", "/%6detrics"),
        ] {
            for method in ["GET", "HEAD", "POST"] {
                assert_eq!(found(method, target), Place::Elsewhere(to.to_owned()), "{method} {target}");
            }
            assert_eq!(found("CONNECT", target), Place::Nowhere, "{target}");
        }
        let asked = request("GET", "//metrics?collect[]=a;b&x=%zz", &["x"]);
        let answer = redirect(&asked, "/metrics");
        assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(answer.headers()["location"], "/metrics?collect[]=a;b&x=%zz");
    }

    #[test]
    fn an_escape_is_what_it_stands_for_and_separates_nothing() {
        for target in ["/metrics", "/%6detrics", "/%6Detrics", "/metric%73?x"] {
            assert_eq!(found("GET", target), Place::Page("/metrics".to_owned()), "{target}");
        }
        for target in
            ["/%2fmetrics", "/metrics%2f", "/%2e/metrics", "/x/%2e%2e/metrics", "/metrics/", "/metrics%00"]
        {
            assert_eq!(found("GET", target), Place::Nowhere, "{target}");
        }
        for target in ["/metrics%", "/%zz", "/%4", "*"] {
            assert_eq!(found("GET", target), Place::Malformed, "{target}");
        }
    }

    #[test]
    fn http_1_1_has_one_host_and_others_need_none() {
        let reason = |hosts: &[&str], version| {
            let mut request = request("GET", "/metrics", hosts);
            *request.version_mut() = version;
            refuse(&request)
                .map(|answer| (answer.status().as_u16(), answer.headers().contains_key("connection")))
        };
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            for host in ["x", "x:9100", "[::1]:1", "a%20b", "", "a,b"] {
                assert_eq!(reason(&[host], version), None, "{host}");
            }
            let closes = version != Version::HTTP_2;
            for host in ["a b", "a/b", "a@b", "a<b", "a\\b", "a?b", "\u{e9}"] {
                assert_eq!(reason(&[host], version), Some((400, closes)), "{host}");
            }
            assert_eq!(reason(&["x", "x"], version), Some((400, closes)));
        }
        assert_eq!(reason(&[], Version::HTTP_11), Some((400, true)));
        assert_eq!(reason(&[], Version::HTTP_10), None);
        assert_eq!(reason(&[], Version::HTTP_2), None);
        assert!(refuse(&request("GET", "http://x/metrics", &[])).is_some(), "RFC 9112 3.2.2");
    }

    proptest! {
        #[test]
        fn a_clean_path_is_clean_and_on_this_host(path in "/[a./%\\\\]{0,20}") {
            let cleaned = clean(&path).into_owned();
            prop_assert_eq!(clean(&cleaned).into_owned(), cleaned.clone());
            prop_assert!(cleaned.starts_with('/') && !escape(&cleaned)[1..].starts_with(['/', '\\']));
        }
    }
}
