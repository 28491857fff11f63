//! The broker's response to one read: kernel files by path, and how each query ended.
//!
//! Collectors see nothing else of the host, so a capture of a snapshot can be replayed anywhere.

mod dir;
mod wire;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use keyhole_policy::pattern::matches;
use keyhole_policy::{Row, Source};
use keyhole_proto::v1::{self, Outcome, Query};

pub use self::dir::Dir;
use self::wire::from_wire;
use crate::text;

/// ECANCELED: the query ended before this file was read to its end, as far as is known.
const INCOMPLETE: u32 = 125;
/// EFBIG: a limit cut the file within its first line.
const TOO_LONG: u32 = 27;
/// The most characters of a query's reason that are kept.
const MAX_REASON_CHARS: usize = 200;

/// The response to one read.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    /// Sorted by path in [`Snapshot::finish`].
    files: Vec<(Vec<u8>, Content)>,
    /// Files received for each query: chunks of several queries may be interleaved.
    received: BTreeMap<i32, Vec<(Vec<u8>, Content)>>,
    file_systems: Vec<(Query, FileSystem)>,
    reports: BTreeMap<i32, Report>,
    /// For queries that exceed the memory limit, the last item that was skipped.
    left_out: BTreeMap<i32, Vec<u8>>,
    /// Why queries were not answered, for people.
    reasons: BTreeMap<i32, String>,
    dropped_files: u64,
}

/// Whether a query was answered as a whole, if only with the answer that the host has nothing of the kind.
pub fn is_answered(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Ok | Outcome::Absent | Outcome::Empty)
}

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The content of a file, which a limit may have cut.
    Bytes {
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether a byte limit of the policy cut them.
        truncated: bool,
    },
    /// The target of a symbolic link.
    Link(Vec<u8>),
    /// The number of a directory's entries.
    Entries(u64),
    /// The errno of the failed read.
    Errno(u32),
}

/// The statfs(2) result of one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its mount point or probe directory.
    pub path: Vec<u8>,
    /// The result, or the errno.
    pub numbers: Result<StatFs, u32>,
}

/// The result of statfs(2); sizes in blocks of `block_size` bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes per block.
    pub block_size: u64,
    /// Total blocks.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Blocks free to unprivileged users.
    pub blocks_available: u64,
    /// Total inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// How one query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Its outcome.
    pub outcome: Outcome,
    /// Time that the broker spent reading, in nanoseconds.
    pub elapsed_ns: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Items that a limit left out, at least: each device, and each file that was cut, counts as one.
    pub left_out: u64,
}

impl Snapshot {
    /// A snapshot of files that come from elsewhere than a broker.
    pub fn from_files(files: Vec<(Vec<u8>, Content)>) -> Self {
        let mut snapshot = Self { files, ..Self::default() };
        cut_to_whole_lines(&mut snapshot.files);
        snapshot.finish();
        snapshot
    }

    /// Adds a chunk of a broker's response; call [`Self::finish`] after the last.
    pub fn add_chunk(&mut self, chunk: v1::ReadResponse) {
        let query = chunk.query();
        let file_systems = chunk.file_systems.into_iter().map(|fs| (query, fs.into()));
        self.file_systems.extend(file_systems);
        let report = self.reports.entry(query as i32).or_insert(Report {
            outcome: Outcome::Unspecified,
            elapsed_ns: 0,
            bytes: 0,
            left_out: 0,
        });
        let files = self.received.entry(query as i32).or_default();
        for (path, content) in chunk.files.into_iter().filter_map(from_wire) {
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
                // The read failed in the middle, and a partial file may end in a partial number.
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

    /// Adds the end of a query from a chunk and counts its content as left out: it exceeds the memory limit.
    pub fn skip_chunk(&mut self, mut chunk: v1::ReadResponse) {
        let number = chunk.query;
        let received = self.received.entry(number).or_default();
        let mut last = self.left_out.remove(&number);
        let mut left_out = 0;
        for (path, _) in std::mem::take(&mut chunk.files).into_iter().filter_map(from_wire) {
            match (&last, received.last_mut()) {
                // The rest of a file whose beginning was kept.
                (None, Some((begun, Content::Bytes { truncated, .. }))) if *begun == path => {
                    *truncated = true
                }
                _ => {
                    let whole = item(number, &path).unwrap_or(&path).to_vec();
                    if last.is_none() && item(number, &path).is_some() {
                        received.push(limit_marker(whole.clone()));
                    }
                    left_out += u64::from(last.as_ref() != Some(&whole));
                    last = Some(whole);
                }
            }
        }
        left_out += chunk.file_systems.drain(..).count() as u64;
        self.left_out.extend(last.map(|item| (number, item)));
        self.add_chunk(chunk);
        if let Some(report) = self.reports.get_mut(&number) {
            report.left_out += left_out;
            if report.outcome == Outcome::Ok {
                report.outcome = Outcome::Truncated;
            }
        }
    }

    /// Completes the snapshot: drops incomplete files and items, and sorts. Of several files with the same path, the first
    /// of the first query is kept, whatever the order of arrival.
    pub fn finish(&mut self) {
        for (query, mut files) in std::mem::take(&mut self.received) {
            if let Some(report) = self.reports.get_mut(&query) {
                if report.is_cut_short()
                    && let Some((_, last @ Content::Bytes { truncated: false, .. })) = files.last_mut()
                {
                    // It may be incomplete.
                    report.bytes -= last.size();
                    *last = Content::Errno(INCOMPLETE);
                    self.dropped_files += 1;
                }
                if report.is_cut_short() || report.left_out > 0 {
                    report.bytes -= drop_incomplete_item(query, &mut files);
                }
                report.left_out += cut_to_whole_lines(&mut files);
            }
            self.files.append(&mut files);
        }
        self.add_limit_reasons();
        self.files.sort_by(|a, b| a.0.cmp(&b.0));
        self.files.dedup_by(|later, first| later.0 == first.0);
        self.file_systems.sort_by_key(|(query, _)| *query);
        // A file system that may hang is first sent as pending, and all are sent again when a reader was replaced.
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

    /// What `path` holds, if the host has it.
    pub fn content(&self, path: impl AsRef<[u8]>) -> Option<&Content> {
        let at = self.position(path.as_ref()).ok()?;
        Some(&self.files[at].1)
    }

    fn position(&self, path: &[u8]) -> Result<usize, usize> {
        self.files.binary_search_by(|(other, _)| other.as_slice().cmp(path))
    }

    /// The content of a file that could be read.
    pub fn text(&self, path: impl AsRef<[u8]>) -> Option<&[u8]> {
        match self.content(path)? {
            Content::Bytes { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The value of a file with a single value, trimmed.
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

    /// The file systems of `query`.
    pub fn file_systems(&self, query: Query) -> impl Iterator<Item = &FileSystem> {
        self.file_systems.iter().filter(move |(of, _)| *of == query).map(|(_, file_system)| file_system)
    }

    /// Adds a file system to the response of `query`.
    pub fn add_file_system(&mut self, query: Query, file_system: FileSystem) {
        self.file_systems.push((query, file_system));
    }

    /// The approximate size in memory, in bytes.
    pub fn bytes(&self) -> u64 {
        let file = |(path, content): &(Vec<u8>, Content)| match content {
            Content::Bytes { bytes, .. } | Content::Link(bytes) => path.len() + bytes.len(),
            Content::Entries(_) | Content::Errno(_) => path.len(),
        };
        let files: usize = self.files.iter().map(file).sum();
        let paths: usize = self.file_systems.iter().map(|(_, file_system)| file_system.path.len()).sum();
        (files + paths + size_of_val(&*self.files) + size_of_val(&*self.file_systems)) as u64
    }

    /// How `query` ended; none if it was not sent.
    pub fn report(&self, query: Query) -> Option<&Report> {
        self.reports.get(&(query as i32))
    }

    /// Sets how a query ended.
    pub fn set_report(&mut self, query: Query, report: Report) {
        self.reports.insert(query as i32, report);
    }

    /// Keeps what these queries read, and drops the rest.
    pub fn keep(&mut self, queries: &[Query]) {
        let rows: Vec<_> = queries.iter().filter_map(|query| keyhole_policy::row(*query)).collect();
        self.files.retain(|(path, _)| rows.iter().any(|row| is_read_by(row, path)));
        self.file_systems.retain(|(query, _)| queries.contains(query));
        self.reports.retain(|query, _| queries.iter().any(|kept| *query == i32::from(*kept)));
    }

    /// The number of files that were dropped because they could not be read to their end; they have an errno.
    pub fn dropped_files(&self) -> u64 {
        self.dropped_files
    }

    /// Adds the reasons why queries were not answered from a broker's description.
    pub fn add_reasons(&mut self, description: &v1::DescribeResponse) {
        for described in &description.queries {
            if self.lacks_reason(described.query()) && !described.reason.is_empty() {
                self.set_reason(described.query(), &described.reason);
            }
        }
    }

    /// Whether a description may add the reason of any query.
    pub fn needs_reasons(&self) -> bool {
        self.reports().any(|(query, _)| self.lacks_reason(query))
    }

    fn lacks_reason(&self, query: Query) -> bool {
        let may_have_reason = |report: &Report| {
            matches!(
                report.outcome,
                Outcome::NotPermitted
                    | Outcome::Denied
                    | Outcome::ContainerView
                    | Outcome::Stuck
                    | Outcome::Failed
            )
        };
        self.report(query).is_some_and(may_have_reason) && self.reason(query).is_none()
    }

    /// Sets why a query was not answered. Control characters are replaced and a long reason is cut.
    pub fn set_reason(&mut self, query: Query, reason: &str) {
        let reason = reason.chars().take(MAX_REASON_CHARS).map(|c| if c.is_control() { ' ' } else { c });
        self.reasons.insert(query as i32, reason.collect());
    }

    /// Sets the reason of truncated queries: how much was left out.
    pub fn add_limit_reasons(&mut self) {
        for (query, report) in &self.reports {
            let reason = match report.left_out {
                _ if report.outcome != Outcome::Truncated => continue,
                0 => "more names in a directory, or more open files, than a limit allows".to_owned(),
                items => {
                    format!("items left out by a limit: at least {items} (a file that was cut counts as one)")
                }
            };
            self.reasons.entry(*query).or_insert(reason);
        }
    }

    /// Why a query was not answered, if known.
    pub fn reason(&self, query: Query) -> Option<&str> {
        self.reasons.get(&(query as i32)).map(String::as_str)
    }

    /// The reason of a query that the broker's flag `--queries` excludes.
    pub fn exclusion_reason(&self, query: Query) -> Option<&str> {
        self.reason(query).filter(|reason| reason.starts_with("--queries"))
    }

    /// Every query that was sent, and how it ended.
    pub fn reports(&self) -> impl Iterator<Item = (Query, &Report)> {
        self.reports.iter().filter_map(|(query, report)| Some((Query::try_from(*query).ok()?, report)))
    }
}

impl Report {
    /// Whether the query ended before its last file was complete.
    fn is_cut_short(&self) -> bool {
        matches!(self.outcome, Outcome::Unspecified | Outcome::TimedOut | Outcome::Stuck | Outcome::Failed)
    }
}

/// Removes the files of the last item, some of whose files are missing. Returns the bytes removed.
///
/// If a limit ended the query, the last entry is a [`limit_marker`] with the item that is incomplete: the item before it
/// may be complete.
pub fn drop_incomplete_item(query: i32, files: &mut Vec<(Vec<u8>, Content)>) -> u64 {
    let limited_item =
        files.pop_if(|(_, content)| *content == Content::Errno(TOO_LONG)).map(|(path, _)| path);
    let item = files.last().and_then(|(path, _)| item(query, path)).map(<[u8]>::to_vec);
    let Some(item) =
        item.filter(|item| limited_item.is_none_or(|limited_item| is_at_or_below(item, &limited_item)))
    else {
        return 0;
    };
    let begin = files.iter().rposition(|(path, _)| !is_at_or_below(path, &item)).map_or(0, |last| last + 1);
    files.drain(begin..).map(|(_, content)| content.size()).sum()
}

fn is_at_or_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

/// An entry that names the item at which a limit was reached, for [`drop_incomplete_item`].
pub fn limit_marker(item: Vec<u8>) -> (Vec<u8>, Content) {
    (item, Content::Errno(TOO_LONG))
}

/// The item (device directory) that a path of a query belongs to; none if the file itself is the item.
fn item(query: i32, path: &[u8]) -> Option<&[u8]> {
    keyhole_policy::row(Query::try_from(query).ok()?)?.item(path)
}

/// Cuts truncated files after their last complete line. Returns the number of truncated files.
pub fn cut_to_whole_lines(files: &mut [(Vec<u8>, Content)]) -> u64 {
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

impl Content {
    /// The complete content of a file.
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

/// Whether a path of an answer, such as `proc/loadavg`, is one that this row reads.
fn is_read_by(row: &Row, path: &[u8]) -> bool {
    let matches_source = |source: &Source| {
        let below = path.strip_prefix(source.root.name().as_bytes())?.strip_prefix(b"/")?;
        Some(matches(source.pattern.as_bytes(), below))
    };
    row.sources.iter().any(|source| matches_source(source) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot(files: &[(&str, &'static str)]) -> Snapshot {
        Snapshot::from_files(
            files
                .iter()
                .map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.as_bytes())))
                .collect(),
        )
    }

    #[test]
    fn a_row_reads_its_paths_below_their_root_and_no_others() {
        let netdev = keyhole_policy::row(Query::NetDev).unwrap();
        assert!(is_read_by(netdev, b"proc/1/net/dev"));
        for other in
            [&b"proc/1/net/de"[..], b"proc/1/net/dev/x", b"sys/1/net/dev", b"proc", b"proc1/net/dev", b""]
        {
            assert!(!is_read_by(netdev, other), "{}", other.escape_ascii());
        }
        let hwmon = keyhole_policy::row(Query::Hwmon).unwrap();
        assert!(
            is_read_by(hwmon, b"sys/class/hwmon/hwmon3/name")
                && !is_read_by(hwmon, b"sys/class/hwmon/hwmonx/name")
        );
    }

    #[test]
    fn a_directory_lists_its_files_and_directories_once() {
        let snapshot = snapshot(&[
            ("sys/class/net/eth0/mtu", "1500\n"),
            ("sys/class/net/eth0/statistics/rx", "1"),
            ("sys/class/net/bonding_masters", "bond0"),
            ("sys/class/net/eth0.5/mtu", "1400\n"),
            ("sys/class/netx/a", ""),
        ]);
        let net = snapshot.dir("sys/class/net");
        let names: Vec<_> = net.dirs().map(|dir| dir.name().to_vec()).collect();
        assert_eq!(names, [&b"eth0.5"[..], b"eth0"], "sorted by path");
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

    fn from_chunks(chunks: impl IntoIterator<Item = v1::ReadResponse>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        chunks.into_iter().for_each(|chunk| snapshot.add_chunk(chunk));
        snapshot.finish();
        snapshot
    }

    #[test]
    fn chunks_of_a_file_are_joined_even_if_chunks_of_another_query_come_between() {
        let end = wire("proc/stat", v1::file::Content::Text("end\nhalf a li".into()), true);
        let snapshot = from_chunks([
            chunk(Query::Stat, vec![text("proc/stat", "begin ")], None),
            chunk(Query::Loadavg, vec![text("proc/loadavg", "1 2 3")], Some(Outcome::Ok)),
            chunk(Query::Stat, vec![end], Some(Outcome::Truncated)),
        ]);
        let content = snapshot.content("proc/stat").unwrap();
        assert_eq!(*content, Content::Bytes { bytes: b"begin end\n".to_vec(), truncated: true });
        assert_eq!(snapshot.report(Query::Stat).unwrap().left_out, 1, "complete lines are kept");
        assert_eq!(snapshot.text("proc/loadavg"), Some(&b"1 2 3"[..]));
        assert_eq!(snapshot.dropped_files(), 0);
    }

    #[test]
    fn a_file_that_fails_after_its_first_chunks_has_only_its_errno() {
        let snapshot = from_chunks([
            chunk(Query::Stat, vec![text("proc/stat", "cpu 12")], None),
            chunk(Query::Stat, vec![text("proc/stat", "34 5")], None),
            chunk(Query::Stat, vec![errno("proc/stat", 5)], Some(Outcome::Ok)),
        ]);
        assert_eq!(snapshot.content("proc/stat"), Some(&Content::Errno(5)));
        assert_eq!((snapshot.dropped_files(), snapshot.report(Query::Stat).unwrap().bytes), (1, 0));
    }

    #[test]
    fn only_the_last_file_of_a_truncated_query_is_dropped() {
        for outcome in [Some(Outcome::Failed), Some(Outcome::TimedOut), Some(Outcome::Stuck), None] {
            let files = vec![text("proc/pressure/cpu", "some"), text("proc/pressure/io", "some avg10=1")];
            let snapshot = from_chunks([chunk(Query::Pressure, files, outcome)]);
            assert_eq!(snapshot.text("proc/pressure/cpu"), Some(&b"some"[..]), "{outcome:?}");
            assert_eq!(snapshot.content("proc/pressure/io"), Some(&Content::Errno(INCOMPLETE)));
            assert_eq!((snapshot.dropped_files(), snapshot.report(Query::Pressure).unwrap().bytes), (1, 4));
        }
    }

    #[test]
    fn the_item_at_which_a_limit_was_reached_is_dropped() {
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
            let snapshot = from_chunks([chunk]);
            let devices: Vec<_> =
                snapshot.dir("sys/class/net").dirs().map(|dir| dir.name().to_vec()).collect();
            (devices, *snapshot.report(Query::NetClass).unwrap())
        };
        let left = |outcome, left_out| left_of(files.clone(), outcome, left_out);
        let (devices, report) = left_of(at_limit("a.10"), Some(Outcome::Truncated), 7);
        assert_eq!((devices, report.left_out, report.bytes), (vec![b"a.1".to_vec(), b"a".to_vec()], 7, 4));
        let (devices, _) = left_of(at_limit("b"), Some(Outcome::Truncated), 7);
        assert_eq!(devices.len(), 3, "the limit was reached at another item, which has no files");
        for outcome in [Some(Outcome::TimedOut), Some(Outcome::Failed), Some(Outcome::Stuck), None] {
            let (devices, report) = left(outcome, 0);
            assert_eq!((devices.len(), report.bytes), (2, 4), "{outcome:?}");
        }
        // A list of names may be truncated without an incomplete item.
        assert_eq!(left(Some(Outcome::Truncated), 0).0.len(), 3);
        assert_eq!(left(Some(Outcome::Ok), 0).0.len(), 3);
    }

    #[test]
    fn labels_are_complete_or_none() {
        let path = |file: &str| format!("sys/class/net/eth0/{file}").into_bytes();
        let labels = |errno| {
            let files = vec![
                (path("address"), Content::bytes(&b"02\n"[..])),
                (path("duplex"), Content::Errno(errno)),
            ];
            let snapshot = Snapshot::from_files(files);
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
    fn a_path_of_two_queries_is_taken_from_the_first_in_any_order() {
        let chunks = [
            chunk(Query::FileNr, vec![text("proc/sys/fs/file-nr", "1 0 9")], Some(Outcome::Ok)),
            chunk(Query::Sysctl, vec![text("proc/sys/fs/file-nr", "2 0 9")], Some(Outcome::Ok)),
        ];
        let reversed = chunks.clone().into_iter().rev();
        for snapshot in [from_chunks(chunks), from_chunks(reversed)] {
            assert_eq!(snapshot.text("proc/sys/fs/file-nr"), Some(&b"1 0 9"[..]));
        }
    }

    #[test]
    fn reasons_are_added_to_unanswered_queries_and_fit_a_line() {
        let mut snapshot = from_chunks([
            chunk(Query::Tcp, Vec::new(), Some(Outcome::NotPermitted)),
            chunk(Query::Stat, Vec::new(), Some(Outcome::Ok)),
        ]);
        assert!(snapshot.needs_reasons());
        let described = |query: Query, reason: &str| v1::QueryDescription {
            query: query.into(),
            reason: reason.into(),
            ..Default::default()
        };
        let queries = vec![described(Query::Tcp, "a\n\x1b[2Jb"), described(Query::Stat, "x")];
        snapshot.add_reasons(&v1::DescribeResponse { queries, ..Default::default() });
        assert_eq!((snapshot.reason(Query::Tcp), snapshot.reason(Query::Stat)), (Some("a  [2Jb"), None));
        assert!(!snapshot.needs_reasons());
    }

    /// The chunks of one query: files of one or more chunks each, a few files per chunk, and an end.
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
        fn any_interleaving_of_the_chunks_of_queries_results_in_the_same_snapshot(
            answers in (answer(Query::Stat), answer(Query::Loadavg), answer(Query::ProbeDirectories)),
            picks in prop::collection::vec(0..3_usize, 40),
        ) {
            let answers = [answers.0, answers.1, answers.2];
            let in_order = from_chunks(answers.iter().flatten().cloned());
            let mut waiting = answers.map(std::collections::VecDeque::from);
            let mut interleaved = Vec::new();
            let mut picks = picks.into_iter().chain(std::iter::repeat_n(0..3, 40).flatten());
            while waiting.iter().any(|queue| !queue.is_empty()) {
                let pick = picks.next().expect("each queue is picked often enough");
                interleaved.extend(waiting[pick].pop_front());
            }
            let interleaved = from_chunks(interleaved);
            prop_assert!(in_order.files().eq(interleaved.files()), "{in_order:?}\n{interleaved:?}");
            prop_assert!(in_order.reports().eq(interleaved.reports()));
            prop_assert_eq!(in_order.dropped_files(), interleaved.dropped_files());
            for query in [Query::Stat, Query::Loadavg, Query::ProbeDirectories] {
                prop_assert!(in_order.file_systems(query).eq(interleaved.file_systems(query)));
            }
        }
    }

    #[test]
    fn a_failed_file_has_an_errno_and_no_text() {
        let snapshot = Snapshot::from_files(vec![(b"sys/speed".to_vec(), Content::Errno(22))]);
        assert_eq!(snapshot.text("sys/speed"), None);
        assert_eq!(snapshot.content("sys/speed"), Some(&Content::Errno(22)));
    }
}
