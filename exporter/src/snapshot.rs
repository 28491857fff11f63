//! What one scrape got from the broker: kernel files under their paths, and how each query ended.
//!
//! Collectors see nothing else of the host, so that a capture of it can be replayed anywhere.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use keyhole_proto::v1::{self, Outcome, Query};

use crate::text;

/// ECANCELED: the query ended while this file was perhaps still being read.
const NOT_FINISHED: u32 = 125;
/// EFBIG: a limit cut the file within its only line.
const TOO_LONG: u32 = 27;
/// What keeps a file from being read that has an answer at other times: ENOMEM, ENFILE, EMFILE, EFBIG, EINPROGRESS
/// (another reader hangs in it), ECANCELED.
const NOT_READ: &[u32] = &[12, 23, 24, TOO_LONG, 115, NOT_FINISHED];
/// The longest reason of a query that is kept.
const REASON_CHARS: usize = 200;

/// The answer to one read.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    /// Sorted by path; `seal` sees to it.
    files: Vec<(Vec<u8>, Content)>,
    /// What has arrived of each query: chunks of several may be interleaved.
    arrived: BTreeMap<i32, Vec<(Vec<u8>, Content)>>,
    file_systems: Vec<(Query, FileSystem)>,
    reports: BTreeMap<i32, Report>,
    /// Of queries for which there was no room, the item that was left out last.
    left_out: BTreeMap<i32, Vec<u8>>,
    /// Why queries could not be answered, for a person.
    reasons: BTreeMap<i32, String>,
    dropped_files: u64,
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
    /// Items that a limit left out, at least: devices by their number, and a file that was cut as one.
    pub left_out: u64,
}

impl Snapshot {
    /// Builds a snapshot of files that were found elsewhere than in a broker's answer.
    pub fn of_files(files: Vec<(Vec<u8>, Content)>) -> Self {
        let mut snapshot = Self { files, ..Self::default() };
        cut_to_lines(&mut snapshot.files);
        snapshot.seal();
        snapshot
    }

    /// Takes in one chunk of a broker's answer; call [`Self::seal`] after the last.
    pub fn absorb(&mut self, chunk: v1::ReadResponse) {
        let query = chunk.query();
        let file_systems = chunk.file_systems.into_iter().map(|fs| (query, fs.into()));
        self.file_systems.extend(file_systems);
        let report = self.reports.entry(query as i32).or_insert(Report {
            outcome: Outcome::Unspecified,
            elapsed_ns: 0,
            bytes: 0,
            left_out: 0,
        });
        let files = self.arrived.entry(query as i32).or_default();
        for (path, content) in chunk.files.into_iter().filter_map(file_of) {
            report.bytes += content.size();
            let last = files.last_mut().filter(|(last, _)| *last == path).map(|(_, content)| content);
            match (last, content) {
                (
                    Some(Content::Bytes { bytes, truncated }),
                    Content::Bytes { bytes: more, truncated: cut },
                ) => {
                    bytes.extend_from_slice(&more);
                    *truncated |= cut;
                }
                // It could not be read to its end, and half a file may end in half a number.
                (Some(last @ Content::Bytes { .. }), Content::Errno(errno)) => {
                    report.bytes -= last.size();
                    *last = Content::Errno(errno);
                    self.dropped_files += 1;
                }
                (_, content) => files.push((path, content)),
            }
        }
        if let Some(end) = chunk.end {
            report.outcome = end.outcome();
            report.elapsed_ns = end.elapsed_ns;
            report.left_out += end.left_out;
        }
    }

    /// Takes from one chunk how its query ended, and leaves out what it holds: there is no room for it.
    pub fn leave_out(&mut self, mut chunk: v1::ReadResponse) {
        let number = chunk.query;
        let arrived = self.arrived.entry(number).or_default();
        let mut last = self.left_out.remove(&number);
        let mut left_out = 0;
        for (path, _) in std::mem::take(&mut chunk.files).into_iter().filter_map(file_of) {
            match (&last, arrived.last_mut()) {
                // The rest of a file of which there is a part.
                (None, Some((begun, Content::Bytes { truncated, .. }))) if *begun == path => {
                    *truncated = true
                }
                _ => {
                    let whole = item(number, &path).unwrap_or(&path).to_vec();
                    if last.is_none() && item(number, &path).is_some() {
                        arrived.push(limit_met(whole.clone()));
                    }
                    left_out += u64::from(last.as_ref() != Some(&whole));
                    last = Some(whole);
                }
            }
        }
        left_out += chunk.file_systems.drain(..).count() as u64;
        self.left_out.extend(last.map(|item| (number, item)));
        self.absorb(chunk);
        if let Some(report) = self.reports.get_mut(&number) {
            report.left_out += left_out;
            if report.outcome == Outcome::Ok {
                report.outcome = Outcome::Truncated;
            }
        }
    }

    /// Sorts the files; of several with one path the first of the first query stays, in whatever order they arrived.
    pub fn seal(&mut self) {
        for (query, mut files) in std::mem::take(&mut self.arrived) {
            if let Some(report) = self.reports.get_mut(&query) {
                if report.is_cut_short()
                    && let Some((_, last @ Content::Bytes { truncated: false, .. })) = files.last_mut()
                {
                    // Nothing says whether its end is there.
                    report.bytes -= last.size();
                    *last = Content::Errno(NOT_FINISHED);
                    self.dropped_files += 1;
                }
                if report.is_cut_short() || report.left_out > 0 {
                    report.bytes -= drop_last_item(query, &mut files);
                }
                report.left_out += cut_to_lines(&mut files);
            }
            self.files.append(&mut files);
        }
        self.explain_limits();
        self.files.sort_by(|a, b| a.0.cmp(&b.0));
        self.files.dedup_by(|later, first| later.0 == first.0);
        self.file_systems.sort_by_key(|(query, _)| *query);
        // Of one that may hang comes first that it is asked, and all come again when a reader was replaced.
        let mut places = HashMap::new();
        for (query, later) in std::mem::take(&mut self.file_systems) {
            let place = *places.entry((query, later.path.clone())).or_insert(self.file_systems.len());
            match self.file_systems.get_mut(place) {
                Some((_, known)) if known.numbers.is_err() => *known = later,
                Some(_) => {}
                None => self.file_systems.push((query, later)),
            }
        }
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

    /// About as many bytes as it takes in memory.
    pub fn bytes(&self) -> u64 {
        let file = |(path, content): &(Vec<u8>, Content)| match content {
            Content::Bytes { bytes, .. } | Content::Link(bytes) => path.len() + bytes.len(),
            Content::Entries(_) | Content::Errno(_) => path.len(),
        };
        let files: usize = self.files.iter().map(file).sum();
        let paths: usize = self.file_systems.iter().map(|(_, file_system)| file_system.path.len()).sum();
        (files + paths + size_of_val(&*self.files) + size_of_val(&*self.file_systems)) as u64
    }

    /// How `query` ended; none when it was not asked.
    pub fn report(&self, query: Query) -> Option<&Report> {
        self.reports.get(&(query as i32))
    }

    /// Says how a query ended, for a snapshot that no broker gave.
    pub fn set_report(&mut self, query: Query, report: Report) {
        self.reports.insert(query as i32, report);
    }

    /// Files that could not be read to their end, of which nothing is here but an errno.
    pub fn dropped_files(&self) -> u64 {
        self.dropped_files
    }

    /// Takes from a broker's description why queries of this snapshot could not be answered.
    pub fn explain(&mut self, description: &v1::DescribeResponse) {
        for described in &description.queries {
            if self.is_unexplained(described.query()) && !described.reason.is_empty() {
                self.set_reason(described.query(), &described.reason);
            }
        }
    }

    /// Whether a description may say more of any query here.
    pub fn needs_explanation(&self) -> bool {
        self.reports().any(|(query, _)| self.is_unexplained(query))
    }

    fn is_unexplained(&self, query: Query) -> bool {
        let explicable = |report: &Report| {
            matches!(
                report.outcome,
                Outcome::NotPermitted
                    | Outcome::Denied
                    | Outcome::ContainerView
                    | Outcome::Stuck
                    | Outcome::Failed
            )
        };
        self.report(query).is_some_and(explicable) && self.reason(query).is_none()
    }

    /// Says why a query could not be answered; control characters and what is too long for a line are left out.
    pub fn set_reason(&mut self, query: Query, reason: &str) {
        let reason = reason.chars().take(REASON_CHARS).map(|c| if c.is_control() { ' ' } else { c });
        self.reasons.insert(query as i32, reason.collect());
    }

    /// Says of queries that a limit cut how much it left out.
    pub fn explain_limits(&mut self) {
        for (query, report) in &self.reports {
            let reason = match report.left_out {
                _ if report.outcome != Outcome::Truncated => continue,
                0 => "more names in a directory, or more files to keep open, than a limit allows".to_owned(),
                items => {
                    format!("items left out by a limit: at least {items} (a file that was cut counts as one)")
                }
            };
            self.reasons.entry(*query).or_insert(reason);
        }
    }

    /// Why a query could not be answered, where the broker has said so.
    pub fn reason(&self, query: Query) -> Option<&str> {
        self.reasons.get(&(query as i32)).map(String::as_str)
    }

    /// The reason, where it is the broker's flag `--queries` that leaves the query out.
    pub fn left_out(&self, query: Query) -> Option<&str> {
        self.reason(query).filter(|reason| reason.starts_with("--queries"))
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

    /// The values of files in it that are labels of one series, empty where the host has none. None when one that it has
    /// could not be read now: the series would be another.
    pub fn labels<const N: usize>(&self, names: [&str; N]) -> Option<[&'a [u8]; N]> {
        (!self.is_half_read(names)).then(|| names.map(|name| self.value(name).unwrap_or_default()))
    }

    /// Whether the host has one of these files and it could not be read now.
    pub fn is_half_read(&self, names: impl IntoIterator<Item = impl AsRef<[u8]>>) -> bool {
        let not_read = |content| matches!(content, &Content::Errno(errno) if NOT_READ.contains(&errno));
        names.into_iter().any(|name| self.content(name).is_some_and(not_read))
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

impl Report {
    /// Whether the query ended before its last file did.
    fn is_cut_short(&self) -> bool {
        matches!(self.outcome, Outcome::Unspecified | Outcome::TimedOut | Outcome::Stuck | Outcome::Failed)
    }
}

/// Takes away what there is of the item that the answer ended in: not all of its files are here. Gives their bytes.
///
/// Where a limit ended it, the last entry tells which item that is: the one before may be whole.
pub fn drop_last_item(query: i32, files: &mut Vec<(Vec<u8>, Content)>) -> u64 {
    let met = files.pop_if(|(_, content)| *content == Content::Errno(TOO_LONG)).map(|(path, _)| path);
    let item = files.last().and_then(|(path, _)| item(query, path)).map(<[u8]>::to_vec);
    let Some(item) = item.filter(|item| met.is_none_or(|met| is_at_or_below(item, &met))) else { return 0 };
    let begin = files.iter().rposition(|(path, _)| !is_at_or_below(path, &item)).map_or(0, |last| last + 1);
    files.drain(begin..).map(|(_, content)| content.size()).sum()
}

fn is_at_or_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

/// Notes which item a limit met, for [`drop_last_item`].
pub fn limit_met(item: Vec<u8>) -> (Vec<u8>, Content) {
    (item, Content::Errno(TOO_LONG))
}

/// The item that a path of a query's answer is a part of; none of a file that is one itself.
fn item(query: i32, path: &[u8]) -> Option<&[u8]> {
    keyhole_policy::row(Query::try_from(query).ok()?)?.item(path)
}

/// Of files that a limit cut, leaves whole lines. Gives their number.
pub fn cut_to_lines(files: &mut [(Vec<u8>, Content)]) -> u64 {
    let mut cut = 0;
    for (_, content) in files {
        let Content::Bytes { bytes, truncated: true } = content else { continue };
        cut += 1;
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => bytes.truncate(end + 1),
            None => *content = Content::Errno(TOO_LONG),
        }
    }
    cut
}

/// A path and what the wire says that it holds; none when either is missing.
fn file_of(file: v1::File) -> Option<(Vec<u8>, Content)> {
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

    /// Bytes of file content.
    fn size(&self) -> u64 {
        match self {
            Content::Bytes { bytes, .. } => bytes.len() as u64,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    fn wire(path: &str, content: v1::file::Content, truncated: bool) -> v1::File {
        v1::File { name: Some(v1::file::Name::Path(path.into())), content: Some(content), truncated }
    }

    fn text(path: &str, text: &str) -> v1::File {
        wire(path, v1::file::Content::Text(text.into()), false)
    }

    fn errno(path: &str, errno: u32) -> v1::File {
        wire(path, v1::file::Content::Errno(errno), false)
    }

    fn chunk(query: Query, files: Vec<v1::File>, outcome: Option<Outcome>) -> v1::ReadResponse {
        let end = outcome.map(|outcome| v1::QueryEnd { outcome: outcome.into(), elapsed_ns: 5, left_out: 0 });
        v1::ReadResponse { query: query.into(), files, end, ..Default::default() }
    }

    fn absorbed(chunks: impl IntoIterator<Item = v1::ReadResponse>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        chunks.into_iter().for_each(|chunk| snapshot.absorb(chunk));
        snapshot.seal();
        snapshot
    }

    #[test]
    fn the_chunks_of_a_long_file_are_one_file_also_when_another_query_answers_in_between() {
        let end = wire("proc/stat", v1::file::Content::Text("end\nhalf a li".into()), true);
        let snapshot = absorbed([
            chunk(Query::Stat, vec![text("proc/stat", "begin ")], None),
            chunk(Query::Loadavg, vec![text("proc/loadavg", "1 2 3")], Some(Outcome::Ok)),
            chunk(Query::Stat, vec![end], Some(Outcome::Truncated)),
        ]);
        let content = snapshot.content("proc/stat").unwrap();
        assert_eq!(*content, Content::Bytes { bytes: b"begin end\n".to_vec(), truncated: true });
        assert_eq!(snapshot.report(Query::Stat).unwrap().left_out, 1, "whole lines are left");
        assert_eq!(snapshot.text("proc/loadavg"), Some(&b"1 2 3"[..]));
        assert_eq!(snapshot.dropped_files(), 0);
    }

    #[test]
    fn a_file_that_fails_after_its_first_chunks_leaves_its_errno_alone() {
        let snapshot = absorbed([
            chunk(Query::Stat, vec![text("proc/stat", "cpu 12")], None),
            chunk(Query::Stat, vec![text("proc/stat", "34 5")], None),
            chunk(Query::Stat, vec![errno("proc/stat", 5)], Some(Outcome::Ok)),
        ]);
        assert_eq!(snapshot.content("proc/stat"), Some(&Content::Errno(5)));
        assert_eq!((snapshot.dropped_files(), snapshot.report(Query::Stat).unwrap().bytes), (1, 0));
    }

    #[test]
    fn of_a_query_that_was_cut_short_the_last_file_is_dropped_and_the_others_stay() {
        for outcome in [Some(Outcome::Failed), Some(Outcome::TimedOut), Some(Outcome::Stuck), None] {
            let files = vec![text("proc/pressure/cpu", "some"), text("proc/pressure/io", "some avg10=1")];
            let snapshot = absorbed([chunk(Query::Pressure, files, outcome)]);
            assert_eq!(snapshot.text("proc/pressure/cpu"), Some(&b"some"[..]), "{outcome:?}");
            assert_eq!(snapshot.content("proc/pressure/io"), Some(&Content::Errno(NOT_FINISHED)));
            assert_eq!((snapshot.dropped_files(), snapshot.report(Query::Pressure).unwrap().bytes), (1, 4));
        }
    }

    #[test]
    fn of_a_query_that_was_cut_the_item_that_it_ended_in_is_left_out() {
        let net = |device: &str, file: &str| text(&format!("sys/class/net/{device}/{file}"), "1");
        let files = vec![
            net("a", "mtu"),
            net("a", "operstate"),
            net("a.1", "mtu"),
            net("a.1", "operstate"),
            net("a.10", "mtu"),
        ];
        let at_limit = |device: &str| {
            [files.clone(), vec![errno(&format!("sys/class/net/{device}"), TOO_LONG)]].concat()
        };
        let left_of = |files: Vec<v1::File>, outcome, left_out| {
            let mut chunk = chunk(Query::NetClass, files, outcome);
            chunk.end.iter_mut().for_each(|end| end.left_out = left_out);
            let snapshot = absorbed([chunk]);
            let devices: Vec<_> =
                snapshot.dir("sys/class/net").dirs().map(|dir| dir.name().to_vec()).collect();
            (devices, *snapshot.report(Query::NetClass).unwrap())
        };
        let left = |outcome, left_out| left_of(files.clone(), outcome, left_out);
        let (devices, report) = left_of(at_limit("a.10"), Some(Outcome::Truncated), 7);
        assert_eq!((devices, report.left_out, report.bytes), (vec![b"a.1".to_vec(), b"a".to_vec()], 7, 4));
        let (devices, _) = left_of(at_limit("b"), Some(Outcome::Truncated), 7);
        assert_eq!(devices.len(), 3, "the limit met another, of which nothing is here");
        for outcome in [Some(Outcome::TimedOut), Some(Outcome::Failed), Some(Outcome::Stuck), None] {
            let (devices, report) = left(outcome, 0);
            assert_eq!((devices.len(), report.bytes), (2, 4), "{outcome:?}");
        }
        // Names of a directory may be cut without any item.
        assert_eq!(left(Some(Outcome::Truncated), 0).0.len(), 3);
        assert_eq!(left(Some(Outcome::Ok), 0).0.len(), 3);
    }

    #[test]
    fn labels_are_complete_or_there_are_none() {
        let path = |file: &str| format!("sys/class/net/eth0/{file}").into_bytes();
        let labels = |errno| {
            let files = vec![
                (path("address"), Content::bytes(&b"02\n"[..])),
                (path("duplex"), Content::Errno(errno)),
            ];
            let snapshot = Snapshot::of_files(files);
            let labels = snapshot.dir("sys/class/net/eth0").labels(["address", "duplex", "ifalias"]);
            labels.map(|labels| labels.map(<[u8]>::to_vec))
        };
        for errno in [2, 5, 13, 22] {
            assert_eq!(labels(errno), Some([b"02".to_vec(), vec![], vec![]]), "{errno}: the device has none");
        }
        for errno in [12, 23, 24, 115, 125] {
            assert_eq!(labels(errno), None, "{errno}: it was not read");
        }
    }

    #[test]
    fn a_path_of_two_queries_is_the_first_querys_in_any_order() {
        let chunks = [
            chunk(Query::FileNr, vec![text("proc/sys/fs/file-nr", "1 0 9")], Some(Outcome::Ok)),
            chunk(Query::Sysctl, vec![text("proc/sys/fs/file-nr", "2 0 9")], Some(Outcome::Ok)),
        ];
        let reversed = chunks.clone().into_iter().rev();
        for snapshot in [absorbed(chunks), absorbed(reversed)] {
            assert_eq!(snapshot.text("proc/sys/fs/file-nr"), Some(&b"1 0 9"[..]));
        }
    }

    #[test]
    fn a_reason_is_taken_for_queries_that_could_not_be_answered_and_fits_a_line() {
        let mut snapshot = absorbed([
            chunk(Query::Tcp, Vec::new(), Some(Outcome::NotPermitted)),
            chunk(Query::Stat, Vec::new(), Some(Outcome::Ok)),
        ]);
        assert!(snapshot.needs_explanation());
        let described = |query: Query, reason: &str| v1::QueryDescription {
            query: query.into(),
            reason: reason.into(),
            ..Default::default()
        };
        let queries = vec![described(Query::Tcp, "a\n\x1b[2Jb"), described(Query::Stat, "x")];
        snapshot.explain(&v1::DescribeResponse { queries, ..Default::default() });
        assert_eq!((snapshot.reason(Query::Tcp), snapshot.reason(Query::Stat)), (Some("a  [2Jb"), None));
        assert!(!snapshot.needs_explanation());
    }

    /// The chunks of one query: files of one or more chunks each, a few to a chunk, and an end.
    fn answer(query: Query) -> impl Strategy<Value = Vec<v1::ReadResponse>> {
        let file = (0..4_u8, prop::collection::vec("[a-z]{0,3}", 1..4), prop::option::of(1..40_u32));
        let outcome = prop::sample::select(vec![Outcome::Ok, Outcome::Truncated, Outcome::Failed]);
        let answer = (prop::collection::vec(file, 0..4), 1..4_usize, prop::option::weighted(0.9, outcome));
        answer.prop_map(move |(files, together, outcome)| {
            let mut parts = Vec::new();
            for (name, texts, failed) in files {
                // Names overlap between queries.
                let path = format!("proc/{name}");
                parts.extend(texts.iter().map(|part| text(&path, part)));
                parts.extend(failed.map(|number| errno(&path, number)));
            }
            let mut chunks: Vec<_> =
                parts.chunks(together).map(|files| chunk(query, files.to_vec(), None)).collect();
            let path = v1::file_system::Name::Path(format!("/{}", query.as_str_name()));
            let mut last = chunk(query, Vec::new(), outcome);
            last.file_systems.push(v1::FileSystem { name: Some(path), ..Default::default() });
            chunks.push(last);
            chunks
        })
    }

    proptest! {
        #[test]
        fn any_interleaving_of_the_chunks_of_queries_gives_the_snapshot_of_the_queries_in_order(
            answers in (answer(Query::Stat), answer(Query::Loadavg), answer(Query::ProbeDirectories)),
            picks in prop::collection::vec(0..3_usize, 40),
        ) {
            let answers = [answers.0, answers.1, answers.2];
            let in_order = absorbed(answers.iter().flatten().cloned());
            let mut waiting = answers.map(std::collections::VecDeque::from);
            let mut interleaved = Vec::new();
            let mut picks = picks.into_iter().chain(std::iter::repeat_n(0..3, 40).flatten());
            while waiting.iter().any(|queue| !queue.is_empty()) {
                let pick = picks.next().expect("each queue is picked often enough");
                interleaved.extend(waiting[pick].pop_front());
            }
            let interleaved = absorbed(interleaved);
            prop_assert!(in_order.files().eq(interleaved.files()), "{in_order:?}\n{interleaved:?}");
            prop_assert!(in_order.reports().eq(interleaved.reports()));
            prop_assert_eq!(in_order.dropped_files(), interleaved.dropped_files());
            for query in [Query::Stat, Query::Loadavg, Query::ProbeDirectories] {
                prop_assert!(in_order.file_systems(query).eq(interleaved.file_systems(query)));
            }
        }
    }

    #[test]
    fn a_file_that_failed_is_there_without_text() {
        let snapshot = Snapshot::of_files(vec![(b"sys/speed".to_vec(), Content::Errno(22))]);
        assert_eq!(snapshot.text("sys/speed"), None);
        assert_eq!(snapshot.content("sys/speed"), Some(&Content::Errno(22)));
    }
}
