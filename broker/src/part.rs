//! A part of an answer, encoded while what was read still lies in its buffer.

use keyhole_proto::Encoded;
use keyhole_proto::v1::{self, Outcome, Query, QueryEnd, ReadResponse, file};
use prost::{Message, encode_length_delimiter, length_delimiter_len};

use crate::host::{Content, Item, PART_BYTES};

// Numbers of fields in the contract, of those that are written here; the rest is left to the generated code.
const FILES: u8 = 2;
const FILE_SYSTEMS: u8 = 3;
/// Of a name, of a text and of a link: when it is UTF-8, and when it is not.
const NAME: [u8; 2] = [1, 2];
const TEXT: [u8; 2] = [3, 4];
const LINK: [u8; 2] = [5, 6];

/// A ReadResponse on its way.
#[derive(Debug)]
pub struct Part {
    query: Query,
    bytes: Vec<u8>,
    ended: bool,
}

impl Part {
    /// The next part for a query.
    pub(crate) fn of(query: Query) -> Self {
        let mut bytes = Vec::new();
        ReadResponse { query: query.into(), ..Default::default() }.encode_raw(&mut bytes);
        Self { query, bytes, ended: false }
    }

    /// Whether this is of `query` and goes on.
    pub(crate) fn is_of(&self, query: Query) -> bool {
        self.query == query && !self.ended
    }

    /// How many bytes it has.
    pub fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether `item` may be added. A part as large as one of a file takes no more: what a client has been sent and does
    /// not read stays in memory.
    pub(crate) fn has_room_for(&self, item: &Item<'_>) -> bool {
        let (Item::File { name, .. } | Item::FileSystem { name, .. }) = item;
        let text = if let Item::File { content: Content::Text(text), .. } = item { text.len() } else { 0 };
        self.bytes.len() + name.len() + text <= PART_BYTES
    }

    /// Adds what was read of a path.
    pub(crate) fn push(&mut self, item: &Item<'_>) {
        match item {
            Item::File { name, content, truncated } => {
                let mut rest = v1::File { truncated: *truncated, ..Default::default() };
                let text = match content {
                    Content::Text(text) => Some((TEXT, text)),
                    Content::Link(target) => Some((LINK, target)),
                    Content::Entries(entries) => {
                        rest.content = Some(file::Content::Entries(*entries));
                        None
                    }
                    Content::Errno(errno) => {
                        rest.content = Some(file::Content::Errno(errno.raw_os_error() as u32));
                        None
                    }
                };
                let text_length = text.map_or(0, |(_, text)| field_length(text));
                self.begin(FILES, field_length(name) + text_length + rest.encoded_len());
                self.field(NAME, name);
                if let Some((numbers, text)) = text {
                    self.field(numbers, text);
                }
                rest.encode_raw(&mut self.bytes);
            }
            Item::FileSystem { name, numbers } => {
                self.begin(FILE_SYSTEMS, field_length(name) + numbers.encoded_len());
                self.field(NAME, name);
                numbers.encode_raw(&mut self.bytes);
            }
        }
    }

    /// Adds how its query ended.
    pub(crate) fn end(&mut self, outcome: Outcome, elapsed_ns: u64) {
        let end = Some(QueryEnd { outcome: outcome.into(), elapsed_ns });
        ReadResponse { end, ..Default::default() }.encode_raw(&mut self.bytes);
        self.ended = true;
    }

    /// Begins a field of so many bytes, for which there is room then, and for the end of a query.
    fn begin(&mut self, number: u8, length: usize) {
        const LENGTH_DELIMITED: u8 = 2;
        const BESIDE_IT: usize = 32;
        self.bytes.reserve(length + BESIDE_IT);
        self.bytes.push(number << 3 | LENGTH_DELIMITED);
        // A vector grows as it must.
        let _ = encode_length_delimiter(length, &mut self.bytes);
    }

    fn field(&mut self, [text, raw]: [u8; 2], bytes: &[u8]) {
        let number = if std::str::from_utf8(bytes).is_ok() { text } else { raw };
        self.begin(number, bytes.len());
        self.bytes.extend_from_slice(bytes);
    }
}

/// How long a field of these bytes is, its number and length included.
fn field_length(bytes: &[u8]) -> usize {
    1 + length_delimiter_len(bytes.len()) + bytes.len()
}

impl From<Part> for Encoded {
    fn from(part: Part) -> Self {
        Self(part.bytes)
    }
}
