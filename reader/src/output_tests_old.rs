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
        let length = match item {
            Item::File { name, content: Content::Text(text) | Content::Link(text), .. } => {
                name.len() + text.len()
            }
            Item::File { name, .. } | Item::FileSystem { name, .. } => name.len(),
        };
        self.bytes.len() + length <= PART_BYTES
    }

    /// Adds what was read of a path.
    pub(crate) fn push(&mut self, item: &Item<'_>) {
        match item {
            Item::File { name, content, truncated } => {
                let (text, content) = match content {
                    Content::Text(text) => (Some((TEXT, text)), None),
                    Content::Link(target) => (Some((LINK, target)), None),
                    Content::Entries(entries) => (None, Some(file::Content::Entries(*entries))),
                    Content::Errno(errno) => (None, Some(file::Content::Errno(errno.raw_os_error() as u32))),
                };
                let rest = v1::File { content, truncated: *truncated, ..Default::default() };
                let text_length = text.map_or(0, |(_, text)| field_length(text));
                self.begin_item(FILES, field_length(name) + text_length + rest.encoded_len());
                self.field(NAME, name);
                if let Some((numbers, text)) = text {
                    self.field(numbers, text);
                }
                rest.encode_raw(&mut self.bytes);
            }
            Item::FileSystem { name, numbers } => {
                self.begin_item(FILE_SYSTEMS, field_length(name) + numbers.encoded_len());
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

    /// Makes room for a field of so many bytes, and for the end of its query, and begins it.
    fn begin_item(&mut self, number: u8, length: usize) {
        const BESIDE_IT: usize = 32;
        self.bytes.reserve(length + BESIDE_IT);
        self.begin(number, length);
    }

    fn begin(&mut self, number: u8, length: usize) {
        const LENGTH_DELIMITED: u8 = 2;
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rustix::io::Errno;

    use super::*;

    /// What a client makes of a name, and of a text or a link.
    fn name(bytes: &[u8]) -> Option<file::Name> {
        Some(match std::str::from_utf8(bytes) {
            Ok(path) => file::Name::Path(path.into()),
            Err(_) => file::Name::RawPath(bytes.into()),
        })
    }

    fn content(content: &Content<'_>) -> Option<file::Content> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
        Some(match content {
            Content::Text(bytes) => {
                text(bytes).map_or(file::Content::Raw(bytes.to_vec()), file::Content::Text)
            }
            Content::Link(bytes) => {
                text(bytes).map_or(file::Content::RawLink(bytes.to_vec()), file::Content::Link)
            }
            Content::Entries(entries) => file::Content::Entries(*entries),
            Content::Errno(errno) => file::Content::Errno(errno.raw_os_error() as u32),
        })
    }

    proptest! {
        #[test]
        fn a_part_is_what_the_generated_code_would_have_written(
            files in vec((vec(any::<u8>(), 0..300), 0..6, vec(any::<u8>(), 0..40_000), "[a-z]{0,200}", any::<bool>()), 0..4),
            systems in vec((vec(any::<u8>(), 0..300), any::<[u64; 3]>(), any::<bool>()), 0..4),
            end in proptest::option::of(any::<u64>()),
        ) {
            let mut part = Part::of(Query::Stat);
            let mut expected = ReadResponse { query: Query::Stat.into(), ..Default::default() };
            for (path, kind, raw, text, truncated) in &files {
                let held = match kind {
                    0 => Content::Text(raw),
                    1 => Content::Text(text.as_bytes()),
                    2 => Content::Link(raw),
                    3 => Content::Link(text.as_bytes()),
                    4 => Content::Entries(raw.len() as u64),
                    _ => Content::Errno(Errno::ACCESS),
                };
                let file = v1::File { name: name(path), content: content(&held), truncated: *truncated };
                part.push(&Item::File { name: path, content: held, truncated: *truncated });
                expected.files.push(file);
            }
            for (path, [blocks, files, errno], read_only) in systems {
                let errno = errno as u32;
                let numbers = v1::FileSystem { blocks, files, errno, read_only, ..Default::default() };
                part.push(&Item::FileSystem { name: &path, numbers: numbers.clone() });
                let name = match name(&path) {
                    Some(file::Name::Path(path)) => v1::file_system::Name::Path(path),
                    _ => v1::file_system::Name::RawPath(path),
                };
                expected.file_systems.push(v1::FileSystem { name: Some(name), ..numbers });
            }
            if let Some(elapsed_ns) = end {
                part.end(Outcome::Truncated, elapsed_ns);
                expected.end = Some(QueryEnd { outcome: Outcome::Truncated.into(), elapsed_ns });
            }
            prop_assert_eq!(part.encoded_len(), expected.encoded_len());
            prop_assert_eq!(Encoded::from(part).0, expected.encode_to_vec());
        }
    }

    #[test]
    fn a_part_takes_no_more_than_one_of_a_file() {
        let long = [b'x'; 4095];
        for content in [Content::Text(&long), Content::Link(&long)] {
            let item = Item::File { name: b"sys/a", content, truncated: false };
            let mut part = Part::of(Query::Stat);
            while part.has_room_for(&item) {
                part.push(&item);
            }
            assert!((PART_BYTES - 4200..PART_BYTES + 100).contains(&part.encoded_len()), "{item:?}");
        }
    }
}
