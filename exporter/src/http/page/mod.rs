//! The page at `/`: the state of broker, readers and collectors, the cost of scrapes, and a scrape configuration.
//!
//! One HTML document without scripts, images or further requests. The kubelet probes it where node_exporter's chart is
//! used, so it always responds, within the broker timeout of 250 ms. Strings from the broker and the host are escaped
//! by the template and cut, and the content security policy forbids scripts.

mod broker_status;
pub(crate) mod format;
mod plot;
mod sections;
mod unavailable;

use std::sync::Arc;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Request};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::broker_status::{BrokerStatus, BrokerStatusCache};
use super::connection::OverTls;
use crate::scrape::Scraper;
use crate::scrape_history::ScrapeRecords;
use crate::self_metrics::VERSION;

const STYLE: &str = include_str!("page.css");
/// Allows the inline style sheet, by its hash, and the inline icon; nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'sha256-D5RwYWd06rZqYMmXBV8+fA4Ad2KkUBRMhEA18UbuiGY='; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E\
                    %3Crect width='32' height='32' rx='8' fill='%230d6b66'/%3E\
                    %3Cpath d='M16 7a5 5 0 0 0-2.6 9.3L11.5 25h9l-1.9-8.7A5 5 0 0 0 16 7z' fill='%23fff'/%3E%3C/svg%3E";

/// Renders the page.
#[derive(Debug, Default)]
pub struct Page {
    broker_status: BrokerStatusCache,
}

/// Everything that the page shows.
struct PageData<'s> {
    broker: BrokerStatus,
    history: ScrapeRecords,
    scraper: &'s Scraper,
    /// The path of the metrics.
    metrics: &'s str,
    target: Target,
}

/// The address of this exporter, for the scrape configuration.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    https: bool,
    authority: String,
}

impl Page {
    /// Renders the HTML document. `metrics` is the path of the metrics.
    pub async fn render<B>(&self, scraper: &Arc<Scraper>, request: &Request<B>, metrics: &str) -> String {
        let target = Target::from_request(request);
        let broker = self.broker_status.get(scraper).await;
        let data = PageData { broker, history: scraper.history.records(), scraper, metrics, target };
        document(&data).into_string()
    }

    /// Adds the headers of the response.
    pub fn headers(headers: &mut HeaderMap) {
        const HEADERS: [(HeaderName, &str); 4] = [
            (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
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
    /// The address that the client has used, if it is one; it is shown only to the client that sent it.
    fn from_request<B>(request: &Request<B>) -> Self {
        let uri = request.uri();
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let requested = uri.authority().map(|authority| authority.as_str()).or(host).unwrap_or("");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let valid = (1..=255).contains(&requested.len()) && requested.bytes().all(plain);
        let authority = if valid { requested } else { "NODE:9100" }.to_owned();
        let https = uri.scheme_str() == Some("https") || request.extensions().get::<OverTls>().is_some();
        Self { https, authority }
    }
}

fn document(data: &PageData<'_>) -> Markup {
    let node = format::sanitize(&data.scraper.node_name(), 100);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Tools recognise node_exporter's page by its title.
                title { "Node Exporter" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to content" }
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
                        a href=(data.metrics) { "Metrics" }
                        a href="/-/ready" { "Readiness" }
                    }
                }
                main id="main" tabindex="-1" {
                    (sections::status(data))
                    (sections::cost(&data.history))
                    (sections::coverage(&data.broker))
                    (sections::readers(&data.broker))
                    (sections::sandbox(&data.broker, data.scraper.layers()))
                    (sections::collectors(data.scraper.collectors(), &data.history))
                    (sections::config(data))
                }
                footer {
                    p { "The broker's readers read kernel files, and the exporter parses them. The exporter opens no file of the host, except text files if it is given a directory of them." }
                    p { "Reload the page for current values. It runs no scripts and loads no other resources." }
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
        let target = Target::from_request(&request);
        (target.https, target.authority)
    }

    #[test]
    fn the_target_is_the_address_that_the_client_used_and_nothing_else() {
        assert_eq!(target("/", "node-1:9100"), (false, "node-1:9100".into()));
        assert_eq!(target("/", "[fd00::1]:9100"), (false, "[fd00::1]:9100".into()));
        assert_eq!(target("https://node-1:9100/", "other"), (true, "node-1:9100".into()));
        let mut encrypted = Request::builder().uri("/").header("host", "node-1:9100").body(()).unwrap();
        encrypted.extensions_mut().insert(OverTls);
        assert!(Target::from_request(&encrypted).https, "HTTP/1.1 over TLS");
        for bad in ["", "a\"b", "a]\n- x", "a b", "<x>", &"x".repeat(256)] {
            let request = Request::builder().uri("/").body(()).unwrap();
            let (mut parts, ()) = request.into_parts();
            let Ok(host) = HeaderValue::from_bytes(bad.as_bytes()) else { continue };
            parts.headers.insert(header::HOST, host);
            let target = Target::from_request(&Request::from_parts(parts, ()));
            assert_eq!(target.authority, "NODE:9100", "{bad:?}");
        }
    }

    #[test]
    fn the_content_security_policy_allows_only_the_inline_style() {
        use base64::Engine as _;
        use sha2::Digest as _;
        let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(STYLE));
        assert!(
            CONTENT_SECURITY_POLICY.contains(&format!("style-src 'sha256-{hash}';")),
            "the hash in CONTENT_SECURITY_POLICY must be {hash}"
        );
        assert!(
            !STYLE.contains("</") && !STYLE.contains("url("),
            "the style sheet does not close its element or load anything"
        );
    }
}
