//! What one scrape got from the broker: kernel files under their paths, and how each query ended.
//!
//! Collectors see nothing else of the host, so that a capture of it can be replayed anywhere.

use std::borrow::Cow;
use std::collections::BTreeMap;

use keyhole_proto::v1::{self, Outcome, Query};

use crate::text;

/// The answer to one read.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    /// Sorted by path; `seal` sees to it.
    files: Vec<(Vec<u8>, Content)>,
    file_systems: Vec<(Query, FileSystem)>,
    reports: BTreeMap<i32, Report>,
}

/// What one path held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The file's bytes, perhaps cut by a limit.
    Bytes {
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether a byte limit of the policy cut them.
        truncated: bool,
    },
    /// The target of a symbolic link.
    Link(Vec<u8>),
    /// The kernel's count of a directory's entries.
    Entries(u64),
    /// The errno of the attempt to read it.
    Errno(u32),
}

/// The numbers of one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// The directory that was asked.
    pub path: Vec<u8>,
    /// What statfs gave, or its errno.
    pub numbers: Result<Numbers, u32>,
}

/// What statfs(2) gives; sizes in blocks of `block_size` bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Bytes a block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Blocks free to unprivileged users.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Mounted read-only.
    pub read_only: bool,
}

/// How one query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// What became of it.
    pub outcome: Outcome,
    /// Time that the broker spent on it, in nanoseconds.
    pub elapsed_ns: u64,
    /// Bytes of file content it gave.
    pub bytes: u64,
}

impl Snapshot {
    /// Builds a snapshot of files that were found elsewhere than in a broker's answer.
    pub fn of_files(files: Vec<(Vec<u8>, Content)>) -> Self {
        let mut snapshot = Self { files, ..Self::default() };
        snapshot.seal();
        snapshot
    }

    /// Takes in one part of a broker's answer; call [`Self::seal`] after the last.
    pub fn absorb(&mut self, part: v1::ReadResponse) {
        let query = part.query();
        let mut bytes = 0;
        for file in part.files {
            bytes += self.absorb_file(file);
        }
        let file_systems = part.file_systems.into_iter().map(|fs| (query, fs.into()));
        self.file_systems.extend(file_systems);
        let report = self.reports.entry(query as i32).or_insert(Report {
            outcome: Outcome::Unspecified,
            elapsed_ns: 0,
            bytes: 0,
        });
        report.bytes += bytes;
        if let Some(end) = part.end {
            report.outcome = end.outcome();
            report.elapsed_ns = end.elapsed_ns;
        }
    }

    fn absorb_file(&mut self, file: v1::File) -> u64 {
        use v1::file::{Content as Wire, Name};
        let truncated = file.truncated;
        let path = match file.name {
            Some(Name::Path(path)) => path.into_bytes(),
            Some(Name::RawPath(path)) => path,
            None => return 0,
        };
        let content = match file.content {
            Some(Wire::Text(text)) => Content::Bytes { bytes: text.into_bytes(), truncated },
            Some(Wire::Raw(bytes)) => Content::Bytes { bytes, truncated },
            Some(Wire::Link(link)) => Content::Link(link.into_bytes()),
            Some(Wire::RawLink(link)) => Content::Link(link),
            Some(Wire::Entries(entries)) => Content::Entries(entries),
            Some(Wire::Errno(errno)) => Content::Errno(errno),
            None => return 0,
        };
        let size = match &content {
            Content::Bytes { bytes, .. } => bytes.len() as u64,
            _ => 0,
        };
        // A long file comes in parts, one after the other under one name.
        if let (
            Content::Bytes { bytes: more, truncated },
            Some((last, Content::Bytes { bytes, truncated: cut })),
        ) = (&content, self.files.last_mut())
            && *last == path
        {
            bytes.extend_from_slice(more);
            *cut |= *truncated;
            return size;
        }
        self.files.push((path, content));
        size
    }

    /// Sorts the files; of two with one path the first stays.
    pub fn seal(&mut self) {
        self.files.sort_by(|a, b| a.0.cmp(&b.0));
        self.files.dedup_by(|later, first| later.0 == first.0);
    }

    /// Everything that `path` holds, if the host has it.
    pub fn content(&self, path: impl AsRef<[u8]>) -> Option<&Content> {
        let at = self.position(path.as_ref()).ok()?;
        Some(&self.files[at].1)
    }

    fn position(&self, path: &[u8]) -> Result<usize, usize> {
        self.files.binary_search_by(|(other, _)| other.as_slice().cmp(path))
    }

    /// The bytes of a file that could be read.
    pub fn text(&self, path: impl AsRef<[u8]>) -> Option<&[u8]> {
        match self.content(path)? {
            Content::Bytes { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The one value of a file that holds one value, without the white space around it.
    pub fn value(&self, path: impl AsRef<[u8]>) -> Option<&[u8]> {
        self.text(path).map(text::trim)
    }

    /// A directory, whether or not the host has it.
    pub fn dir(&self, path: impl Into<Vec<u8>>) -> Dir<'_> {
        Dir::among(&self.files, path.into())
    }

    /// All files, sorted by path.
    pub fn files(&self) -> impl Iterator<Item = (&[u8], &Content)> {
        self.files.iter().map(|(path, content)| (path.as_slice(), content))
    }

    /// The file systems that `query` gave.
    pub fn file_systems(&self, query: Query) -> impl Iterator<Item = &FileSystem> {
        self.file_systems.iter().filter(move |(of, _)| *of == query).map(|(_, file_system)| file_system)
    }

    /// Adds what statfs gave for `query`.
    pub fn add_file_system(&mut self, query: Query, file_system: FileSystem) {
        self.file_systems.push((query, file_system));
    }

    /// How `query` ended; none when it was not asked.
    pub fn report(&self, query: Query) -> Option<&Report> {
        self.reports.get(&(query as i32))
    }

    /// Says how a query ended, for a snapshot that no broker gave.
    pub fn set_report(&mut self, query: Query, report: Report) {
        self.reports.insert(query as i32, report);
    }

    /// Every query that was asked, and how it ended.
    pub fn reports(&self) -> impl Iterator<Item = (Query, &Report)> {
        self.reports.iter().filter_map(|(query, report)| Some((Query::try_from(*query).ok()?, report)))
    }
}

/// A directory of a snapshot.
#[derive(Debug, Clone)]
pub struct Dir<'a> {
    path: Cow<'a, [u8]>,
    /// Everything below it, under its whole path, sorted.
    below: &'a [(Vec<u8>, Content)],
}

impl<'a> Dir<'a> {
    /// A directory by its path, among sorted files of which some may lie in it.
    fn among(files: &'a [(Vec<u8>, Content)], path: Vec<u8>) -> Self {
        let prefix = [&path, &b"/"[..]].concat();
        let from = files.partition_point(|(path, _)| *path < prefix);
        let files = &files[from..];
        let below = &files[..files.partition_point(|(path, _)| path.starts_with(&prefix))];
        Self { path: path.into(), below }
    }

    /// Its last component.
    pub fn name(&self) -> &[u8] {
        match text::split_last(&self.path, b'/') {
            Some((_, name)) => name,
            None => &self.path,
        }
    }

    /// Its whole path.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The path of something in it.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Vec<u8> {
        [&self.path, &b"/"[..], name.as_ref()].concat()
    }

    /// The bytes of a file in it that could be read.
    pub fn text(&self, name: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        match self.content(name)? {
            Content::Bytes { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The one value of a file in it, trimmed.
    pub fn value(&self, name: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        self.text(name).map(text::trim)
    }

    /// The value of a file in it, as a number without a sign.
    pub fn unsigned(&self, name: impl AsRef<[u8]>) -> Option<u64> {
        text::unsigned(self.value(name)?)
    }

    /// The value of a file in it, as a number that may have a sign.
    pub fn signed(&self, name: impl AsRef<[u8]>) -> Option<i64> {
        text::signed(self.value(name)?)
    }

    /// Everything that a path in it holds.
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

    /// What lies directly in it: files and links with what they hold, sorted by name.
    pub fn files(&self) -> impl Iterator<Item = (&'a [u8], &'a Content)> + use<'a> {
        let skip = self.skip();
        self.below
            .iter()
            .map(move |(path, content)| (&path[skip..], content))
            .filter(|(name, _)| !name.contains(&b'/'))
    }

    /// The directories directly in it that hold anything, in the order of their paths.
    pub fn dirs(&self) -> impl Iterator<Item = Dir<'a>> + use<'a> {
        let skip = self.skip();
        // All that lies below one directory stands together.
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

    /// Whether the host has nothing in it.
    pub fn is_empty(&self) -> bool {
        self.below.is_empty()
    }

    /// How much of a path below it is its own, with the separator.
    fn skip(&self) -> usize {
        self.path.len() + 1
    }
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
            0 => Ok(Numbers {
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

impl Content {
    /// The bytes of a file, with nothing said of limits.
    pub fn bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        Content::Bytes { bytes: bytes.into().into_owned(), truncated: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(files: &[(&str, &'static str)]) -> Snapshot {
        Snapshot::of_files(
            files
                .iter()
                .map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.as_bytes())))
                .collect(),
        )
    }

    #[test]
    fn a_directory_lists_its_own_files_and_directories_once() {
        let snapshot = snapshot(&[
            ("sys/class/net/eth0/mtu", "1500\n"),
            ("sys/class/net/eth0/statistics/rx", "1"),
            ("sys/class/net/bonding_masters", "bond0"),
            ("sys/class/net/eth0.5/mtu", "1400\n"),
            ("sys/class/netx/a", ""),
        ]);
        let net = snapshot.dir("sys/class/net");
        let names: Vec<_> = net.dirs().map(|dir| dir.name().to_vec()).collect();
        assert_eq!(names, [&b"eth0.5"[..], b"eth0"], "in the order of their paths");
        assert_eq!(net.files().map(|(name, _)| name).collect::<Vec<_>>(), [b"bonding_masters"]);
        assert_eq!(net.dir("eth0").unsigned("mtu"), Some(1500));
        assert!(snapshot.dir("sys/class/ne").is_empty());
    }

    #[test]
    fn the_parts_of_a_long_file_are_one_file() {
        let mut snapshot = Snapshot::default();
        for text in ["begin ", "end"] {
            snapshot.absorb(v1::ReadResponse {
                query: Query::Stat.into(),
                files: vec![v1::File {
                    name: Some(v1::file::Name::Path("proc/stat".into())),
                    content: Some(v1::file::Content::Text(text.into())),
                    truncated: text == "end",
                }],
                ..Default::default()
            });
        }
        snapshot.seal();
        let content = snapshot.content("proc/stat").unwrap();
        assert_eq!(*content, Content::Bytes { bytes: b"begin end".to_vec(), truncated: true });
        assert_eq!(snapshot.report(Query::Stat).unwrap().bytes, 9);
    }

    #[test]
    fn a_file_that_failed_is_there_without_text() {
        let snapshot = Snapshot::of_files(vec![(b"sys/speed".to_vec(), Content::Errno(22))]);
        assert_eq!(snapshot.text("sys/speed"), None);
        assert_eq!(snapshot.content("sys/speed"), Some(&Content::Errno(22)));
    }
}
