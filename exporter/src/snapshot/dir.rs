//! A directory of a snapshot, such as a device in sysfs: its files by name, and the directories below it.

use std::borrow::Cow;

use super::{Content, INCOMPLETE, TOO_LONG};
use crate::text;

/// Errors that may not occur in the next read: ENOMEM, ENFILE, EMFILE, EFBIG, EINPROGRESS (another reader hangs in the
/// file), ECANCELED.
const TRANSIENT_ERRNOS: &[u32] = &[12, 23, 24, TOO_LONG, 115, INCOMPLETE];

/// A directory of a snapshot.
#[derive(Debug, Clone)]
pub struct Dir<'a> {
    path: Cow<'a, [u8]>,
    /// Everything below it, by full path, sorted.
    below: &'a [(Vec<u8>, Content)],
}

impl<'a> Dir<'a> {
    /// The directory `path` in a sorted list of files.
    pub(super) fn among(files: &'a [(Vec<u8>, Content)], path: Vec<u8>) -> Self {
        let prefix = [&path, &b"/"[..]].concat();
        let from = files.partition_point(|(path, _)| *path < prefix);
        let files = &files[from..];
        let below = &files[..files.partition_point(|(path, _)| path.starts_with(&prefix))];
        Self { path: path.into(), below }
    }

    /// The last component of its path.
    pub fn name(&self) -> &[u8] {
        match text::split_last(&self.path, b'/') {
            Some((_, name)) => name,
            None => &self.path,
        }
    }

    /// Its full path.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The path of an entry `name`.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Vec<u8> {
        [&self.path, &b"/"[..], name.as_ref()].concat()
    }

    /// The content of a file in it that could be read.
    pub fn text(&self, name: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        match self.content(name)? {
            Content::Bytes { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The value of a file in it, trimmed.
    pub fn value(&self, name: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        self.text(name).map(text::trim)
    }

    /// The value of a file in it, as an unsigned number.
    pub fn unsigned(&self, name: impl AsRef<[u8]>) -> Option<u64> {
        text::unsigned(self.value(name)?)
    }

    /// The value of a file in it, as a signed number.
    pub fn signed(&self, name: impl AsRef<[u8]>) -> Option<i64> {
        text::signed(self.value(name)?)
    }

    /// The values of files in it that are labels of one series; empty for files that the host does not have. None if an
    /// existing file could not be read this time: the labels would be those of another series.
    pub fn labels<const N: usize>(&self, names: [&str; N]) -> Option<[&'a [u8]; N]> {
        (!self.is_half_read(names)).then(|| names.map(|name| self.value(name).unwrap_or_default()))
    }

    /// Whether one of these files exists and could not be read this time.
    pub fn is_half_read(&self, names: impl IntoIterator<Item = impl AsRef<[u8]>>) -> bool {
        let not_read =
            |content| matches!(content, &Content::Errno(errno) if TRANSIENT_ERRNOS.contains(&errno));
        names.into_iter().any(|name| self.content(name).is_some_and(not_read))
    }

    /// What a path in it holds.
    pub fn content(&self, name: impl AsRef<[u8]>) -> Option<&'a Content> {
        let (name, skip) = (name.as_ref(), self.skip());
        let at = self.below.binary_search_by(|(path, _)| path[skip..].cmp(name)).ok()?;
        Some(&self.below[at].1)
    }

    /// The target of the symbolic link `name` in it.
    pub fn link(&self, name: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        match self.content(name)? {
            Content::Link(target) => Some(target),
            _ => None,
        }
    }

    /// The files and links directly in it, with their content, sorted by name.
    pub fn files(&self) -> impl Iterator<Item = (&'a [u8], &'a Content)> + use<'a> {
        let skip = self.skip();
        self.below
            .iter()
            .map(move |(path, content)| (&path[skip..], content))
            .filter(|(name, _)| !name.contains(&b'/'))
    }

    /// The directories directly in it that are not empty, sorted by path.
    pub fn dirs(&self) -> impl Iterator<Item = Dir<'a>> + use<'a> {
        let skip = self.skip();
        // Paths below the same directory are adjacent.
        let same = move |a: &[u8], b: &[u8]| {
            text::split_first(&a[skip..], b'/').is_some_and(|(name, _)| {
                b[skip..].strip_prefix(name).is_some_and(|rest| rest.starts_with(b"/"))
            })
        };
        self.below.chunk_by(move |(a, _), (b, _)| same(a, b)).filter_map(move |below| {
            let path = &below.first()?.0;
            let (name, _) = text::split_first(&path[skip..], b'/')?;
            Some(Dir { path: Cow::Borrowed(&path[..skip + name.len()]), below })
        })
    }

    /// A directory in it.
    pub fn dir(&self, name: impl AsRef<[u8]>) -> Dir<'a> {
        Dir::among(self.below, self.join(name))
    }

    /// Whether it has no entries or does not exist.
    pub fn is_empty(&self) -> bool {
        self.below.is_empty()
    }

    /// The length of its own path in the paths below it, with the separator.
    fn skip(&self) -> usize {
        self.path.len() + 1
    }
}
