//! Reads any tree with files of a host (`proc/`, `sys/` and so on) by the policy's patterns.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use keyhole_policy::pattern::{devices, is_wild, matches, names};
use keyhole_policy::{Kind, Root, Row, Source, TABLE};
use keyhole_proto::v1::Outcome;

use crate::snapshot::{Content, Report, Snapshot, cut_to_whole_lines, drop_incomplete_item, limit_marker};

/// Reads a tree as readers with these roots would, within the same limits.
///
/// Only files that match the policy's patterns are read. Symbolic links are followed within the tree; links that lead out
/// of it are not, since a tree may be untrusted.
pub(super) fn read(dir: &Path) -> std::io::Result<Snapshot> {
    read_rows(dir, TABLE)
}

fn read_rows(dir: &Path, rows: &'static [Row]) -> std::io::Result<Snapshot> {
    fs::read_dir(dir)?;
    let tree = &resolve(&PathBuf::from("/"), &std::path::absolute(dir)?)?;
    let dir = tree.as_path();
    let mut files = Vec::new();
    let mut reports = Vec::new();
    for row in rows {
        let mut reader = RowReader { row, tree, files: Vec::new(), listed: false, left_out: 0 };
        let devices = |source: &Source| devices(source.pattern).filter(|_| source.root != Root::Proc);
        for group in row.sources.chunk_by(|a, b| devices(a).is_some() && devices(a) == devices(b)) {
            if let Some(root) = group.first().and_then(|source| root_dir(dir, source)) {
                reader.group(group, &root, group.first().and_then(devices));
            }
        }
        reports.push((row.query, reader.report()));
        files.append(&mut reader.files);
    }
    let mut snapshot = Snapshot::from_files(files);
    for (query, report) in reports {
        snapshot.set_report(query, report);
    }
    snapshot.add_limit_reasons();
    Ok(snapshot)
}

/// The directory of a root in a tree.
fn root_dir(dir: &Path, source: &Source) -> Option<PathBuf> {
    let first_of = |names: &[&str]| names.iter().map(|name| dir.join(name)).find(|path| path.exists());
    match source.root {
        Root::Udev => first_of(&["udev/data", "udev"]),
        // Look for the file: a tree may have the first directory without it, with a dangling link, or with a link that was
        // stored as a file.
        Root::OsRelease => {
            let has_file = |name: &&str| {
                let file = dir.join(name).join(source.pattern);
                file.exists() && link_as_text(&file).is_none()
            };
            ["etc", "usr/lib"].iter().find(|name| has_file(name)).map(|name| dir.join(name))
        }
        Root::ProbeDirectories | Root::Rootfs => None,
        root => first_of(&[root.name()]),
    }
}

/// EPERM and EACCES: the user may not read a file.
const EPERM: u32 = 1;
const EACCES: u32 = 13;
/// EXDEV: for links that lead out of the tree.
const EXDEV: u32 = 18;

/// A path in the tree, and its name in a snapshot.
type Found = (PathBuf, Vec<u8>);

/// Reads the files of one policy row.
struct RowReader<'r> {
    row: &'static Row,
    /// The whole tree's directory.
    tree: &'r Path,
    files: Vec<(Vec<u8>, Content)>,
    /// Whether a directory was listed.
    listed: bool,
    /// Devices beyond the row's limit.
    left_out: u64,
}

impl RowReader<'_> {
    /// Reads sources that share a device pattern, device by device, or a single source without devices.
    fn group(&mut self, group: &[Source], root: &Path, devices: Option<&str>) {
        let Some(first) = group.first().filter(|_| self.left_out == 0) else { return };
        let depth = devices.map_or(0, |devices| devices.split('/').count());
        let top = (root.to_owned(), first.root.name().as_bytes().to_vec());
        let components: Vec<&str> = first.pattern.split('/').take(depth).collect();
        let mut found = self.expand(top, &components, true).into_iter();
        while let Some(device) = found.next() {
            for source in group {
                let rest: Vec<&str> = source.pattern.split('/').skip(depth).collect();
                let mut paths = self.expand(device.clone(), &rest, false).into_iter();
                while let Some((path, name)) = paths.next() {
                    if self.read(source, &path, &name) {
                        continue;
                    }
                    // With devices, each device is an item; else each file.
                    let items = if devices.is_some() { found.len() } else { paths.len() };
                    self.left_out += 1 + items as u64;
                    self.files.extend(devices.map(|_| limit_marker(device.1.clone())));
                    return;
                }
            }
        }
    }

    /// The paths that match the components of a pattern. With `list` a directory is listed even for alternatives of fixed
    /// names, as a reader does for devices.
    fn expand(&mut self, (dir, name): Found, components: &[&str], list: bool) -> Vec<Found> {
        let Some((component, rest)) = components.split_first() else { return vec![(dir, name)] };
        let dir = match link_as_text(&dir) {
            Some(target) => resolve_text_link(&dir, &target),
            None => dir,
        };
        let names: Vec<Vec<u8>> = if is_wild(component) || (list && component.contains('{')) {
            if self.check_inside(&dir).is_err() {
                return Vec::new();
            }
            let listed = fs::read_dir(&dir);
            self.listed |= listed.is_ok();
            let mut names: Vec<Vec<u8>> = listed
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.file_name().into_vec()))
                .filter(|name| matches(component.as_bytes(), name))
                .collect();
            names.sort_unstable();
            names
        } else {
            names(component).into_iter().map(String::into_bytes).collect()
        };
        let child = |child: &Vec<u8>| {
            (dir.join(std::ffi::OsStr::from_bytes(child)), [&name, &b"/"[..], child].concat())
        };
        names.iter().map(child).flat_map(|child| self.expand(child, rest, list)).collect()
    }

    /// The report that a broker would send; drops incomplete items and lines.
    fn report(&mut self) -> Report {
        if self.left_out > 0 {
            drop_incomplete_item(self.row.query.into(), &mut self.files);
        }
        let left_out = self.left_out + cut_to_whole_lines(&mut self.files);
        let bytes = |(_, content): &(_, Content)| match content {
            Content::Bytes { bytes, .. } => bytes.len() as u64,
            _ => 0,
        };
        let any = self.files.iter().any(|(_, content)| !matches!(content, Content::Errno(_)));
        let outcome = if left_out > 0 {
            Outcome::Truncated
        } else if any {
            Outcome::Ok
        } else if self.files.iter().any(|(_, content)| matches!(content, Content::Errno(EPERM | EACCES))) {
            Outcome::Denied
        } else if self.listed {
            Outcome::Empty
        } else {
            Outcome::Absent
        };
        Report { outcome, elapsed_ns: 0, bytes: self.files.iter().map(bytes).sum(), left_out }
    }

    /// Checks that a path resolves to one inside the tree. The error is an errno.
    fn check_inside(&self, path: &Path) -> Result<(), u32> {
        let below = path.strip_prefix(self.tree).map_err(|_| EXDEV)?;
        let resolved = resolve(self.tree, below).map_err(|error| error.raw_os_error().unwrap_or(5) as u32)?;
        if resolved.starts_with(self.tree) { Ok(()) } else { Err(EXDEV) }
    }

    /// Reads a path, if it exists. Returns false if the row's limit is reached.
    fn read(&mut self, source: &Source, path: &Path, name: &[u8]) -> bool {
        // A link that is only read may point anywhere, but must itself be inside the tree.
        let inside = match source.kind {
            Kind::Link => path.parent().map_or(Ok(()), |parent| self.check_inside(parent)),
            _ => self.check_inside(path),
        };
        let content = match source.kind {
            // Absent, as for a reader.
            _ if matches!(inside, Err(2 | 20)) => return true,
            _ if let Err(errno) = inside => Content::Errno(errno),
            Kind::Text | Kind::TextIfSeveralDirectories => match read_text(path, self.row.file_bytes) {
                Ok(Some(content)) => content,
                Ok(None) => return true,
                Err(error) => match error.raw_os_error().unwrap_or(5) {
                    // Absent, or a directory that matches the pattern.
                    2 | 20 | 21 => return true,
                    errno => Content::Errno(errno as u32),
                },
            },
            Kind::Link => match (fs::read_link(path), link_as_text(path)) {
                (Ok(target), _) => Content::Link(target.into_os_string().into_vec()),
                (_, Some(target)) => Content::Link(target),
                (Err(error), None) => match error.raw_os_error().unwrap_or(5) {
                    2 | 20 => return true,
                    // As in a broker's response: readlink of something else fails with EINVAL.
                    errno => Content::Errno(errno as u32),
                },
            },
            Kind::Entries => match fs::read_dir(path) {
                Ok(entries) => Content::Entries(entries.count() as u64),
                Err(_) => return true,
            },
            Kind::FileSystem => return true,
        };
        let has_room = self.files.len() < self.row.entries;
        self.files.extend(has_room.then(|| (name.to_vec(), content)));
        has_room
    }
}

/// Resolves the links of a path, starting at a directory whose own path has no link.
///
/// Does what realpath(3) does, whose system calls the seccomp filter refuses, such as faccessat2(2) for a link to
/// `directory/..`. A link that the kernel would not follow is an error.
fn resolve(from: &Path, path: &Path) -> std::io::Result<PathBuf> {
    /// The most links that the kernel follows.
    const LINKS: usize = 40;
    const EINVAL: i32 = 22;
    const ELOOP: i32 = 40;
    let mut resolved = from.to_owned();
    let mut rest: Vec<PathBuf> = backwards(path);
    let mut links = 0;
    while let Some(component) = rest.pop() {
        match component.components().next() {
            Some(Component::RootDir) => resolved = component,
            Some(Component::ParentDir) => drop(resolved.pop()),
            Some(Component::Normal(name)) => {
                resolved.push(name);
                match fs::read_link(&resolved) {
                    Ok(target) => {
                        links += 1;
                        if links > LINKS {
                            return Err(std::io::Error::from_raw_os_error(ELOOP));
                        }
                        resolved.pop();
                        rest.append(&mut backwards(&target));
                    }
                    Err(error) if error.raw_os_error() == Some(EINVAL) => {}
                    Err(error) => return Err(error),
                }
            }
            _ => {}
        }
    }
    Ok(resolved)
}

/// The components of a path in reverse order.
fn backwards(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|component| PathBuf::from(component.as_os_str())).collect()
}

/// The target of a link that is stored as a file with the target as its content, as Git does without symbolic links.
fn link_as_text(path: &Path) -> Option<Vec<u8>> {
    /// PATH_MAX
    const LONGEST: usize = 4096;
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LONGEST as u64 {
        return None;
    }
    match read_text(path, LONGEST) {
        Ok(Some(Content::Bytes { bytes, truncated: false })) => {
            (bytes.starts_with(b"../") && !bytes.contains(&b'\n') && !bytes.contains(&0)).then_some(bytes)
        }
        _ => None,
    }
}

/// Resolves a relative link target lexically: parent directories in sysfs are not links.
fn resolve_text_link(link: &Path, target: &[u8]) -> PathBuf {
    let mut path = link.to_owned();
    path.pop();
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            component => path.push(std::ffi::OsStr::from_bytes(component)),
        }
    }
    path
}

/// The first `limit` bytes of a regular file; none for other file types.
fn read_text(path: &Path, limit: usize) -> std::io::Result<Option<Content>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    let truncated = bytes.len() > limit;
    bytes.truncate(limit);
    Ok(Some(Content::Bytes { bytes, truncated }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_filtered_by_a_query_equals_what_that_query_alone_reads() {
        let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
        let mut compared = 0;
        for tree in ["golden/host/tree", "kernels/trees/everything"] {
            // Read by the policy's patterns, whether there is an index or not.
            let whole = read(&trees.join(tree)).unwrap();
            for (at, row) in TABLE.iter().enumerate() {
                let mut kept = whole.clone();
                kept.keep(&[row.query]);
                let alone = read_rows(&trees.join(tree), &TABLE[at..=at]).unwrap();
                assert!(kept.files().eq(alone.files()), "{tree} {:?}", row.query);
                assert!(kept.reports().eq(alone.reports()), "{tree} {:?}", row.query);
                compared += alone.files().count();
            }
        }
        assert!(compared > 1000, "{compared}");
    }
}
