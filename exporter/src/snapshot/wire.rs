//! Converts the messages of a broker to the files and reports of a snapshot.

use keyhole_proto::v1;

use super::{Content, FileSystem, StatFs};

/// The path and the content of a file message; none if either is missing.
pub(super) fn from_wire(file: v1::File) -> Option<(Vec<u8>, Content)> {
    use v1::file::{Content as Wire, Name};
    let truncated = file.truncated;
    let path = match file.name? {
        Name::Path(path) => path.into_bytes(),
        Name::RawPath(path) => path,
    };
    let content = match file.content? {
        Wire::Text(text) => Content::Bytes { bytes: text.into_bytes(), truncated },
        Wire::Raw(bytes) => Content::Bytes { bytes, truncated },
        Wire::Link(link) => Content::Link(link.into_bytes()),
        Wire::RawLink(link) => Content::Link(link),
        Wire::Entries(entries) => Content::Entries(entries),
        Wire::Errno(errno) => Content::Errno(errno),
    };
    Some((path, content))
}

impl From<v1::FileSystem> for FileSystem {
    fn from(wire: v1::FileSystem) -> Self {
        use v1::file_system::Name;
        let path = match wire.name {
            Some(Name::Path(path)) => path.into_bytes(),
            Some(Name::RawPath(path)) => path,
            None => Vec::new(),
        };
        let numbers = match wire.errno {
            0 => Ok(StatFs {
                block_size: wire.block_size,
                blocks: wire.blocks,
                blocks_free: wire.blocks_free,
                blocks_available: wire.blocks_available,
                files: wire.files,
                files_free: wire.files_free,
                read_only: wire.read_only,
            }),
            errno => Err(errno),
        };
        Self { path, numbers }
    }
}
