//! A finished scrape and its encodings.

use std::collections::HashSet;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::exposition::Exposition;
use crate::protobuf;
use crate::unread_responses::{Charge, UnreadResponses};

/// A finished scrape.
#[derive(Debug)]
pub struct Scrape {
    pub(super) unread: UnreadResponses,
    pub(super) _charge: Charge,
    /// Whether a query timed out.
    pub(super) is_cut_short: bool,
    pub(super) exposition: Exposition,
    pub(super) text: Encoded,
    pub(super) protobuf: Encoded,
}

/// A scrape in one format, encoded on first use.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub(super) plain: OnceLock<Bytes>,
    pub(super) compressed: OnceLock<Bytes>,
}

/// The exposition formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text format 0.0.4.
    Text,
    /// `io.prometheus.client.MetricFamily` messages, each after its length.
    Protobuf,
}

impl Scrape {
    /// All families.
    pub fn all(&self, format: Format) -> Bytes {
        self.encoded(format).plain.get_or_init(|| self.encode(format, |_| true)).clone()
    }

    /// All families, compressed once for all clients.
    pub fn compressed(&self, format: Format, compress: impl FnOnce(&[u8]) -> Vec<u8>) -> Bytes {
        let compressed = &self.encoded(format).compressed;
        compressed.get_or_init(|| self.unread.track(compress(&self.all(format)))).clone()
    }

    /// Only the families with these names.
    pub fn families(&self, format: Format, names: &[String]) -> Bytes {
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        self.encode(format, |family| names.contains(family))
    }

    fn encoded(&self, format: Format) -> &Encoded {
        match format {
            Format::Text => &self.text,
            Format::Protobuf => &self.protobuf,
        }
    }

    fn encode(&self, format: Format, keep: impl Fn(&str) -> bool) -> Bytes {
        self.unread.track(match format {
            Format::Text => {
                let mut text = Vec::new();
                self.exposition.write(&mut text, keep);
                text
            }
            Format::Protobuf => protobuf::encode(&self.exposition, keep),
        })
    }
}
