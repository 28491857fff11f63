//! The index of a capture: text files below `keyhole/`, with tab-separated fields and other bytes escaped as `\xNN`.

use std::fs;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyhole_policy::TABLE;
use keyhole_proto::v1::{Outcome, Query};

use super::{Capture, CaptureInfo, INDEX_DIR};
use crate::snapshot::{Content, FileSystem, Report, Snapshot, StatFs};
use crate::text;

pub(super) const FILES: &str = "files";
pub(super) const FILE_SYSTEMS: &str = "file-systems";
pub(super) const QUERIES: &str = "queries";
pub(super) const CAPTURED: &str = "captured";

/// The prefix of the optional field with the number of items that a limit left out.
pub(super) const LEFT_OUT: &[u8] = b"left_out=";

/// The most bytes that are read of one file.
pub(super) const MAX_FILE_BYTES: u64 = 256 << 20;
/// The most bytes that are read of a capture.
pub(super) const MAX_CAPTURE_BYTES: u64 = 1 << 30;

/// The files that a capture consists of.
pub(super) trait Stored {
    /// The content of a file, by its path in the capture. A file need not be there when it is asked for a second time.
    fn file(&mut self, path: &Path) -> std::io::Result<Vec<u8>>;
}

/// A capture in a directory.
pub(super) struct Directory<'d>(pub(super) &'d Path);

/// Escapes `bytes` for a field: no tabs or line feeds.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'\\' => out.push_str("\\x5c"),
            b'#' if at == 0 => out.push_str("\\x23"),
            b' '..=b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match byte {
            b'\\' => {
                let digits = tail.strip_prefix(b"x")?.first_chunk::<2>()?;
                out.push(u8::try_from(text::hexadecimal(digits)?).ok()?);
                tail.get(3..)?
            }
            byte => {
                out.push(byte);
                tail
            }
        };
    }
    Some(out)
}

/// The relative path at which a kernel file is stored in a capture; none if it is not a safe path for a file system.
pub(super) fn safe_path(path: &[u8]) -> Option<PathBuf> {
    let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let fits = |component: &&[u8]| {
        !matches!(**component, [] | [b'.'] | [b'.', b'.'])
            && component.len() <= 255
            && !component.contains(&0)
    };
    let ours = components.first() == Some(&INDEX_DIR.as_bytes());
    let fits = !ours && path.len() < 2048 && components.iter().all(fits);
    fits.then(|| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}

/// Where the content of a path without a safe path is stored.
pub(super) fn blob(number: usize) -> PathBuf {
    Path::new(INDEX_DIR).join("blobs").join(number.to_string())
}

/// Reads a capture; none if it has no index.
pub(super) fn read(stored: &mut dyn Stored) -> std::io::Result<Option<Capture>> {
    let Some(files) = lines(stored, FILES)? else { return Ok(None) };
    let mut contents = Vec::new();
    // An index can name the same content any number of times.
    let mut bytes_left = MAX_CAPTURE_BYTES;
    for line in files.lines() {
        if let Some((path, content)) = files.parsed(line, |fields| file(stored, fields))? {
            let content_bytes = if let Content::Bytes { bytes, .. } = &content { bytes.len() } else { 0 };
            let bytes = (path.len() + content_bytes + std::mem::size_of::<(Vec<u8>, Content)>()) as u64;
            bytes_left = bytes_left.checked_sub(bytes).ok_or_else(super::too_large)?;
            contents.push((path, content));
        }
    }
    let mut snapshot = Snapshot::from_files(contents);
    if let Some(lines) = lines(stored, FILE_SYSTEMS)? {
        for line in lines.lines() {
            let (query, file_system) = lines.parsed(line, file_system)?;
            snapshot.add_file_system(query, file_system);
        }
    }
    if let Some(lines) = lines(stored, QUERIES)? {
        for line in lines.lines() {
            let (query, report, reason) = lines.parsed(line, report)?;
            snapshot.set_report(query, report);
            if let Some(reason) = reason {
                snapshot.set_reason(query, &String::from_utf8_lossy(&reason));
            }
        }
    }
    let about = lines(stored, CAPTURED)?.map(|lines| about(&lines));
    Ok(Some(Capture { snapshot, about }))
}

/// A file of the index.
struct Lines {
    name: &'static str,
    text: Vec<u8>,
}

type Line<'t> = (usize, &'t [u8]);
type Fields<'t> = std::slice::Split<'t, u8, fn(&u8) -> bool>;

fn lines(stored: &mut dyn Stored, name: &'static str) -> std::io::Result<Option<Lines>> {
    match stored.file(&Path::new(INDEX_DIR).join(name)) {
        Ok(text) => Ok(Some(Lines { name, text })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Lines {
    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        text::lines(&self.text).enumerate().filter(|(_, line)| !line.starts_with(b"#"))
    }

    fn parsed<'t, T>(
        &self,
        (at, line): Line<'t>,
        parse: impl FnOnce(&mut Fields<'t>) -> std::io::Result<Option<T>>,
    ) -> std::io::Result<T> {
        let mut fields: Fields<'t> = line.split(|byte| *byte == b'\t');
        let named = |what: &dyn std::fmt::Display| {
            Error::new(ErrorKind::InvalidData, format!("{INDEX_DIR}/{}:{}: {what}", self.name, at + 1))
        };
        match parse(&mut fields) {
            Ok(Some(parsed)) => Ok(parsed),
            Ok(None) => Err(named(&"invalid line")),
            Err(error) => Err(named(&error)),
        }
    }
}

/// A path and its content; an inner none for a file that was removed from the capture.
#[expect(clippy::type_complexity, reason = "a line may be invalid, and a valid one may have no file")]
fn file(
    stored: &mut dyn Stored,
    fields: &mut Fields<'_>,
) -> std::io::Result<Option<Option<(Vec<u8>, Content)>>> {
    let Some(path) = fields.next().and_then(unescape) else { return Ok(None) };
    let Some(kind) = fields.next() else { return Ok(None) };
    let content = match kind {
        b"text" => {
            let (mut truncated, mut stored_at) = (false, safe_path(&path));
            for field in fields {
                match field.strip_prefix(b"stored=") {
                    Some(number) => {
                        let number = text::unsigned(number).and_then(|number| usize::try_from(number).ok());
                        stored_at = number.map(blob);
                    }
                    None if field == b"truncated" => truncated = true,
                    None => return Ok(None),
                }
            }
            let Some(stored_at) = stored_at else { return Ok(None) };
            match stored.file(&stored_at) {
                Ok(bytes) => Some(Content::Bytes { bytes, truncated }),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(None)),
                Err(error) => return Err(error),
            }
        }
        b"link" => fields.next().and_then(unescape).map(Content::Link),
        b"entries" => fields.next().and_then(text::unsigned).map(Content::Entries),
        b"errno" => number(fields.next()).map(Content::Errno),
        _ => None,
    };
    Ok(content.map(|content| Some((path, content))))
}

fn number<T: TryFrom<u64>>(field: Option<&[u8]>) -> Option<T> {
    T::try_from(text::unsigned(field?)?).ok()
}

fn file_system(fields: &mut Fields<'_>) -> std::io::Result<Option<(Query, FileSystem)>> {
    let mut parse = || {
        let query = query(fields.next()?)?;
        let path = unescape(fields.next()?)?;
        let numbers = match fields.next()? {
            b"errno" => Err(number(fields.next())?),
            mode => Ok(StatFs {
                read_only: mode == b"ro",
                block_size: number(fields.next())?,
                blocks: number(fields.next())?,
                blocks_free: number(fields.next())?,
                blocks_available: number(fields.next())?,
                files: number(fields.next())?,
                files_free: number(fields.next())?,
            }),
        };
        Some((query, FileSystem { path, numbers }))
    };
    Ok(parse())
}

/// How a query ended, and why it was not answered if known.
#[expect(clippy::type_complexity, reason = "the three fields of a line")]
fn report(fields: &mut Fields<'_>) -> std::io::Result<Option<(Query, Report, Option<Vec<u8>>)>> {
    let mut parse = || {
        let query = query(fields.next()?)?;
        let outcome = outcome(fields.next()?)?;
        let elapsed_ns = number(fields.next())?;
        let bytes = number(fields.next())?;
        let mut fields = fields.peekable();
        let left_out = match fields.peek().and_then(|field| field.strip_prefix(LEFT_OUT)) {
            Some(left_out) => fields.next().and(text::unsigned(left_out))?,
            None => 0,
        };
        let report = Report { outcome, elapsed_ns, bytes, left_out };
        let reason = match fields.next() {
            Some(reason) => Some(unescape(reason)?),
            None => None,
        };
        Some((query, report, reason))
    };
    Ok(parse())
}

fn query(name: &[u8]) -> Option<Query> {
    TABLE.iter().map(|row| row.query).find(|query| query.as_str_name().as_bytes() == name)
}

fn outcome(name: &[u8]) -> Option<Outcome> {
    let mut outcomes = (0..=i32::from(u8::MAX)).filter_map(|number| Outcome::try_from(number).ok());
    outcomes.find(|outcome| outcome.as_str_name().as_bytes() == name)
}

/// Parses the file `captured`; missing values are empty.
fn about(lines: &Lines) -> CaptureInfo {
    let value = |name: &[u8]| {
        let line = lines.lines().find_map(|(_, line)| line.strip_prefix(name)?.strip_prefix(b"\t"));
        text::printable(&line.and_then(unescape).unwrap_or_default()).into_owned()
    };
    let milliseconds = value(b"time_ms").parse().unwrap_or(0);
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)).unwrap_or(SystemTime::UNIX_EPOCH);
    CaptureInfo { time, node_name: value(b"node_name"), versions: value(b"versions") }
}

impl Stored for Directory<'_> {
    /// Symbolic links are refused: an untrusted capture must not make this program read files of this machine.
    fn file(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        let mut whole = self.0.to_owned();
        for component in path.components() {
            whole.push(component);
            let metadata = fs::symlink_metadata(&whole)?;
            if !metadata.is_dir() && !metadata.is_file() {
                let what = format!("{} is neither a file nor a directory", whole.display());
                return Err(Error::new(ErrorKind::InvalidData, what));
            }
        }
        let mut bytes = Vec::new();
        fs::File::open(&whole)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_round_trip_in_a_field(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let line = escape(&bytes);
            prop_assert!(!line.contains(['\t', '\n']) && !line.starts_with('#'));
            prop_assert_eq!(unescape(line.as_bytes()), Some(bytes));
        }

        #[test]
        fn no_field_panics(text in "[\\\\x0-9a-g]{0,12}") {
            let _ = unescape(text.as_bytes());
        }
    }
}
