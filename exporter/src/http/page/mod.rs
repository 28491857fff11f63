//! The page at `/`: what this node shows and cannot show, what it costs, and how to scrape it.
//!
//! One document without a script, an image or a second request. It is what kubelet probes in node_exporter's chart, so
//! it always answers, and soon: it waits for the broker a quarter of a second. Whatever the broker or the host says is
//! escaped by the template, cut, and shown in a page that may not run anything.

mod asked;
mod plot;
mod reasons;
mod sections;
mod words;

use std::sync::Arc;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Request};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::asked::{Asked, Known};
use super::connection::Encrypted;
use crate::history::Kept;
use crate::scrape::Scraper;
use crate::self_metrics::VERSION;

const STYLE: &str = include_str!("page.css");
/// Nothing but this style, by its hash, and the icon that the page itself holds.
const POLICY: &str = "default-src 'none'; style-src 'sha256-D5RwYWd06rZqYMmXBV8+fA4Ad2KkUBRMhEA18UbuiGY='; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E\
                    %3Crect width='32' height='32' rx='8' fill='%230d6b66'/%3E\
                    %3Cpath d='M16 7a5 5 0 0 0-2.6 9.3L11.5 25h9l-1.9-8.7A5 5 0 0 0 16 7z' fill='%23fff'/%3E%3C/svg%3E";

/// The page, and what it remembers of the broker.
#[derive(Debug, Default)]
pub struct Page {
    asked: Asked,
}

/// What a page is made of.
struct Facts<'s> {
    broker: Known,
    kept: Kept,
    scraper: &'s Scraper,
    metrics: &'s str,
    target: Target,
}

/// Where this exporter was asked, as a scrape configuration has it.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    https: bool,
    authority: String,
}

impl Page {
    /// The document, for a request; `metrics` is the path of the metrics.
    pub async fn render<B>(&self, scraper: &Arc<Scraper>, request: &Request<B>, metrics: &str) -> String {
        let target = Target::of(request);
        let broker = self.asked.broker(scraper).await;
        let facts = Facts { broker, kept: scraper.history.kept(), scraper, metrics, target };
        document(&facts).into_string()
    }

    /// The headers that come with it.
    pub fn headers(headers: &mut HeaderMap) {
        const HEADERS: [(HeaderName, &str); 4] = [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

impl Target {
    /// By the request's own words, when they are an address: they are shown to the client that sent them.
    fn of<B>(request: &Request<B>) -> Self {
        let uri = request.uri();
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let asked = uri.authority().map(|authority| authority.as_str()).or(host).unwrap_or("");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let valid = (1..=255).contains(&asked.len()) && asked.bytes().all(plain);
        let authority = if valid { asked } else { "NODE:9100" }.to_owned();
        let https = uri.scheme_str() == Some("https") || request.extensions().get::<Encrypted>().is_some();
        Self { https, authority }
    }
}

fn document(facts: &Facts<'_>) -> Markup {
    let node = words::clean(&facts.scraper.node_name(), 100);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Tools know node_exporter's page by its title.
                title { "Node Exporter" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    div.brand {
                        svg.mark viewBox="0 0 32 32" aria-hidden="true" {
                            rect width="32" height="32" rx="8" {}
                            path d="M16 7a5 5 0 0 0-2.6 9.3L11.5 25h9l-1.9-8.7A5 5 0 0 0 16 7z" {}
                        }
                        div {
                            h1 { "Node Exporter" }
                            p { "Keyhole " (VERSION) @if !node.is_empty() { " on " b { bdi { (node) } } } }
                        }
                    }
                    nav aria-label="Pages" {
                        a href=(facts.metrics) { "Metrics" }
                        a href="/-/ready" { "Readiness" }
                    }
                }
                main id="main" tabindex="-1" {
                    (sections::status(facts))
                    (sections::cost(&facts.kept))
                    (sections::view(&facts.broker))
                    (sections::readers(&facts.broker))
                    (sections::sandbox(&facts.broker, facts.scraper.layers()))
                    (sections::collectors(facts.scraper.collectors(), &facts.kept))
                    (sections::config(facts))
                }
                footer {
                    p { "The broker reads and never parses. The exporter parses and never reads." }
                    p { "As of this request: reload for newer numbers. This page runs no script and asks for nothing else." }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str, host: &str) -> (bool, String) {
        let request = Request::builder().uri(uri).header("host", host).body(()).unwrap();
        let target = Target::of(&request);
        (target.https, target.authority)
    }

    #[test]
    fn the_target_is_where_the_page_was_asked_and_never_more_than_an_address() {
        assert_eq!(target("/", "node-1:9100"), (false, "node-1:9100".into()));
        assert_eq!(target("/", "[fd00::1]:9100"), (false, "[fd00::1]:9100".into()));
        assert_eq!(target("https://node-1:9100/", "other"), (true, "node-1:9100".into()));
        let mut encrypted = Request::builder().uri("/").header("host", "node-1:9100").body(()).unwrap();
        encrypted.extensions_mut().insert(Encrypted);
        assert!(Target::of(&encrypted).https, "HTTP/1.1 over TLS");
        for bad in ["", "a\"b", "a]\n- x", "a b", "<x>", &"x".repeat(256)] {
            let request = Request::builder().uri("/").body(()).unwrap();
            let (mut parts, ()) = request.into_parts();
            let Ok(host) = HeaderValue::from_bytes(bad.as_bytes()) else { continue };
            parts.headers.insert(header::HOST, host);
            let target = Target::of(&Request::from_parts(parts, ()));
            assert_eq!(target.authority, "NODE:9100", "{bad:?}");
        }
    }

    #[test]
    fn the_policy_allows_the_pages_own_style_alone() {
        use base64::Engine as _;
        use sha2::Digest as _;
        let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(STYLE));
        assert!(POLICY.contains(&format!("style-src 'sha256-{hash}';")), "the hash in POLICY must be {hash}");
        assert!(!STYLE.contains("</") && !STYLE.contains("url("), "the style stays in its element");
    }
}
