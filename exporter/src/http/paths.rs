//! Resolves the host and the path of a request as node_exporter's server (Go's net/http) does.
//!
//! <https://www.rfc-editor.org/rfc/rfc9112.html#section-3.2>, <https://pkg.go.dev/net/http#ServeMux>

use std::borrow::Cow;
use std::net::SocketAddr;

use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode, Version};

use super::routes::{self, HttpResponse};

/// The peer address of a request's connection, stored in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The result of resolving a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// A page; its path without escapes.
    Page(String),
    /// Not a clean path: redirect to this one.
    Redirect(String),
    /// No such page: 404.
    NotFound,
    /// Not a valid path: 400.
    Malformed,
}

/// The response to a malformed request, if it is one: HTTP/1.1 without a Host header, with two, or with an invalid one.
pub(super) fn reject_malformed<B>(request: &Request<B>) -> Option<HttpResponse> {
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

/// The response to a malformed request. It closes an HTTP/1 connection: client, proxies and server may disagree on where
/// the next request begins (request smuggling).
pub(super) fn malformed<B>(request: &Request<B>, reason: &str) -> HttpResponse {
    let mut response = routes::text(StatusCode::BAD_REQUEST, &format!("400 Bad Request: {reason}"));
    if request.version() <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether all bytes may be in a host, a port, an IPv6 address or an escape. An empty host is valid.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(byte))
}

/// A redirect to `path`.
pub(super) fn redirect<B>(request: &Request<B>, path: &str) -> HttpResponse {
    let query = request.uri().query().filter(|query| !query.is_empty());
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut response = routes::text(StatusCode::TEMPORARY_REDIRECT, "307 Temporary Redirect");
    match HeaderValue::from_str(&target) {
        Ok(target) => _ = response.headers_mut().insert(header::LOCATION, target),
        Err(_) => return malformed(request, "malformed path"),
    }
    response
}

/// Resolves the path of `request` among `pages`. The first one also answers below its path if that ends with a slash, and
/// the path without the slash is redirected to it, as in node_exporter.
pub(super) fn resolve<B>(request: &Request<B>, pages: &[&str]) -> Route {
    let path = request.uri().path();
    if path == "*" && *request.method() == Method::OPTIONS {
        return Route::Page(path.to_owned());
    }
    let is_proxied = *request.method() == Method::CONNECT;
    if !path.starts_with('/') && !is_proxied {
        return Route::Malformed;
    }
    if has_broken_escape(path) {
        return Route::Malformed;
    }
    let clean = clean(path);
    if clean != path && !is_proxied {
        return Route::Redirect(escape(&clean));
    }
    if let Some(page) = pages.iter().find(|page| is_equivalent(page, path)) {
        return Route::Page((*page).to_owned());
    }
    match pages.first().and_then(|tree| Some((tree, tree.strip_suffix('/')?))) {
        Some((tree, root)) if is_equivalent(root, path) => Route::Redirect(escape(tree)),
        Some((tree, root)) if is_below(path, root) => Route::Page((*tree).to_owned()),
        _ => Route::NotFound,
    }
}

/// Whether a path lies below another one, which does not end with a slash.
fn is_below(path: &str, root: &str) -> bool {
    let mut segments = path.split('/').map(unescape);
    root.split('/').map(unescape).all(|segment| segments.next() == Some(segment)) && segments.next().is_some()
}

/// Whether requests can reach a page at this path.
pub fn is_reachable(path: &str) -> bool {
    path.starts_with('/') && !has_broken_escape(path) && clean(path) == path
}

fn has_broken_escape(path: &str) -> bool {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = path.as_bytes();
    let mut escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    escapes.any(|(at, _)| !is_hex(bytes.get(at + 1)) || !is_hex(bytes.get(at + 2)))
}

/// The path without empty, `.` and `..` segments, beginning with one slash. Escaped segments are not resolved.
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

/// Escapes a path for a header. A backslash must be escaped: browsers take `/\` for `//`, which leads to another host.
fn escape(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
    let byte = |byte: u8| {
        if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    path.bytes().map(byte).collect()
}

/// Whether two paths are equal after unescaping. An escaped slash is not a separator.
pub fn is_equivalent(one: &str, other: &str) -> bool {
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

    fn found(method: &str, target: &str) -> Route {
        resolve(&request(method, target, &["x"]), &["/metrics", "/"])
    }

    #[test]
    fn a_path_is_cleaned_and_its_query_is_unchanged() {
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
                assert_eq!(found(method, target), Route::Redirect(to.to_owned()), "{method} {target}");
            }
            assert_eq!(found("CONNECT", target), Route::NotFound, "{target}");
        }
        let request_with_query = request("GET", "//metrics?collect[]=a;b&x=%zz", &["x"]);
        let response = redirect(&request_with_query, "/metrics");
        assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(response.headers()["location"], "/metrics?collect[]=a;b&x=%zz");
    }

    #[test]
    fn escapes_are_decoded_and_an_escaped_slash_is_no_separator() {
        for target in ["/metrics", "/%6detrics", "/%6Detrics", "/metric%73?x"] {
            assert_eq!(found("GET", target), Route::Page("/metrics".to_owned()), "{target}");
        }
        for target in
            ["/%2fmetrics", "/metrics%2f", "/%2e/metrics", "/x/%2e%2e/metrics", "/metrics/", "/metrics%00"]
        {
            assert_eq!(found("GET", target), Route::NotFound, "{target}");
        }
        for target in ["/metrics%", "/%zz", "/%4", "*"] {
            assert_eq!(found("GET", target), Route::Malformed, "{target}");
        }
    }

    #[test]
    fn http_1_1_needs_exactly_one_host_and_other_versions_need_none() {
        let reason = |hosts: &[&str], version| {
            let mut request = request("GET", "/metrics", hosts);
            *request.version_mut() = version;
            reject_malformed(&request)
                .map(|response| (response.status().as_u16(), response.headers().contains_key("connection")))
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
        assert!(reject_malformed(&request("GET", "http://x/metrics", &[])).is_some(), "RFC 9112 3.2.2");
    }

    proptest! {
        #[test]
        fn a_cleaned_path_is_clean_and_stays_on_this_host(path in "/[a./%\\\\]{0,20}") {
            let cleaned = clean(&path).into_owned();
            prop_assert_eq!(clean(&cleaned).into_owned(), cleaned.clone());
            prop_assert!(cleaned.starts_with('/') && !escape(&cleaned)[1..].starts_with(['/', '\\']));
        }
    }
}
