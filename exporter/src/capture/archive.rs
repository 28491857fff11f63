//! Captures as tar archives, compressed with gzip or not: what leaves a pod, where no directory can be written and none can
//! be copied from. The format: <https://www.gnu.org/software/tar/manual/html_node/Standard.html>.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Cursor, Error, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use flate2::read::MultiGzDecoder;
use tar::{EntryType, Header};

use super::index::{FILES, MAX_CAPTURE_BYTES, MAX_FILE_BYTES, Stored};
use super::write::{Target, WriteError, Written, write_to};
use super::{CaptureInfo, INDEX_DIR};
use crate::snapshot::Snapshot;

/// Writes a snapshot as a tar archive, below one directory with the node's name.
pub fn write(snapshot: &Snapshot, about: &CaptureInfo, out: impl Write) -> Result<Written, WriteError> {
    let mut archive = ArchiveWriter {
        builder: tar::Builder::new(out),
        top: top_directory(&about.node_name),
        time: about.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        failed: false,
    };
    let written = write_to(&mut archive, snapshot, about)?;
    let finish = archive.builder.into_inner().and_then(|mut out| out.flush());
    finish.map_err(WriteError::Archive)?;
    Ok(written)
}

/// The directory that an archive unpacks to: `keyhole-NODE`, of characters that every file system takes.
fn top_directory(node_name: &str) -> PathBuf {
    let portable = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    format!("keyhole-{}", node_name.chars().take(100).map(portable).collect::<String>()).into()
}

struct ArchiveWriter<W: Write> {
    builder: tar::Builder<W>,
    top: PathBuf,
    /// Of every entry, in seconds since 1970.
    time: u64,
    /// After an error the archive may end in the middle of an entry: nothing more is written to it.
    failed: bool,
}

impl<W: Write> ArchiveWriter<W> {
    fn append(
        &mut self,
        header: &mut Header,
        append: impl FnOnce(&mut tar::Builder<W>, &mut Header) -> std::io::Result<()>,
    ) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::Archive(ErrorKind::BrokenPipe.into()));
        }
        // Kernel files contain names of devices, addresses and mounts: readable by the owner only.
        header.set_mode(0o600);
        header.set_mtime(self.time);
        let done = append(&mut self.builder, header);
        self.failed = done.is_err();
        done.map_err(WriteError::Archive)
    }
}

impl<W: Write> Target for ArchiveWriter<W> {
    fn file(&mut self, path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        let path = self.top.join(path);
        self.append(&mut header, |builder, header| builder.append_data(header, path, bytes))
    }

    fn link(&mut self, path: &Path, target: &[u8]) -> Result<(), WriteError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        let path = self.top.join(path);
        self.append(&mut header, |builder, header| {
            builder.append_link(header, path, OsStr::from_bytes(target))
        })
    }
}

/// An archive that was read.
pub(super) struct Archive {
    /// Its files, by their path in the capture. None for an entry that is neither a file nor a directory.
    entries: HashMap<PathBuf, Option<Vec<u8>>>,
}

impl Archive {
    /// Reads a whole archive, compressed or not. Only the capture in it is kept: the directory with the index.
    pub(super) fn read(mut source: impl Read) -> std::io::Result<Self> {
        let mut start = Vec::new();
        source.by_ref().take(GZIP.len() as u64).read_to_end(&mut start)?;
        if start.is_empty() {
            return Err(Error::new(ErrorKind::UnexpectedEof, "it is empty"));
        }
        let is_compressed = start == GZIP;
        let source = Cursor::new(start).chain(source);
        if is_compressed { Self::read_tar(MultiGzDecoder::new(source)) } else { Self::read_tar(source) }
    }

    fn read_tar(source: impl Read) -> std::io::Result<Self> {
        let mut archive = tar::Archive::new(Bounded { source, left: MAX_CAPTURE_BYTES, ended: false });
        let mut entries = HashMap::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.components().collect::<PathBuf>();
            let path = path.strip_prefix(".").map(Path::to_owned).unwrap_or(path);
            let content = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let mut bytes = Vec::new();
                    entry.by_ref().take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
                    Some(bytes)
                }
                EntryType::Directory | EntryType::XGlobalHeader => continue,
                _ => None,
            };
            entries.insert(path, content);
        }
        // A whole archive ends with blocks of zeros, at which reading stops before the end of the file.
        let mut source = archive.into_inner();
        if source.ended {
            return Err(Error::new(
                ErrorKind::UnexpectedEof,
                "the archive was cut short: it has no end mark",
            ));
        }
        // To the end, where a compressed file has its checksum.
        std::io::copy(&mut source, &mut std::io::sink())?;
        Ok(Self { entries: capture_in(entries)? })
    }
}

/// What a gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The entries of the uppermost directory that has an index, by their paths in it.
fn capture_in(
    entries: HashMap<PathBuf, Option<Vec<u8>>>,
) -> std::io::Result<HashMap<PathBuf, Option<Vec<u8>>>> {
    let index = Path::new(INDEX_DIR).join(FILES);
    let tops = entries.keys().filter(|path| path.ends_with(&index));
    let top =
        tops.filter_map(|path| path.ancestors().nth(2)).min_by_key(|top| (top.components().count(), *top));
    let Some(top) = top.map(Path::to_owned) else {
        let reason =
            "the archive has no capture: unpack it, and pass the directory with the proc/ or sys/ of a host";
        return Err(Error::new(ErrorKind::InvalidData, reason));
    };
    let below = |(path, content): (PathBuf, _)| Some((path.strip_prefix(&top).ok()?.to_owned(), content));
    Ok(entries.into_iter().filter_map(below).collect())
}

impl Stored for Archive {
    fn file(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        match self.entries.remove(path) {
            Some(Some(bytes)) => Ok(bytes),
            Some(None) => {
                let reason = format!("{} is neither a file nor a directory", path.display());
                Err(Error::new(ErrorKind::InvalidData, reason))
            }
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}

/// A source that fails after [`MAX_CAPTURE_BYTES`], as a small file can unpack to any size.
struct Bounded<R> {
    source: R,
    left: u64,
    /// Whether the end of the source was reached.
    ended: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.ended |= read == 0 && !buffer.is_empty();
        self.left = self.left.checked_sub(read as u64).ok_or_else(super::too_large)?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_larger_than_the_limit_fails_and_one_as_large_does_not() {
        let read = |left| {
            let mut bounded = Bounded { source: &[7; 100][..], left, ended: false };
            (bounded.read_to_end(&mut Vec::new()).map_err(|error| error.kind()), bounded.ended)
        };
        assert_eq!(read(100), (Ok(100), true));
        assert_eq!(read(99), (Err(ErrorKind::FileTooLarge), false));
    }
}
