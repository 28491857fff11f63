//! Any tree with `proc/` and `sys/`, read by the policy's patterns: a fixture tree, or a whole host.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use keyhole_policy::pattern::{is_wild, matches, names};
use keyhole_policy::{Kind, Root, Row, Source, TABLE};
use keyhole_proto::v1::Outcome;

use crate::snapshot::{Content, Report, Snapshot};

/// Reads a tree with `proc/` and `sys/` as a broker with these roots would.
///
/// Files are found by the policy's own patterns, so a tree with more in it (a fixture tree, or a whole host) does no
/// harm, and symbolic links within it are followed. One that leads out of it is not: a tree may come from a stranger.
pub(super) fn read(dir: &Path) -> std::io::Result<Snapshot> {
    fs::read_dir(dir)?;
    let bounds = &dir.canonicalize()?;
    let mut files = Vec::new();
    let mut reports = Vec::new();
    for row in TABLE {
        let before = files.len();
        let mut cut = false;
        for source in row.sources {
            if let Some(root) = root_dir(dir, source) {
                let end = before + row.entries;
                Walk { row, source, bounds, files: &mut files, end, cut: &mut cut }.source(&root);
            }
        }
        reports.push((row.query, report(&files[before..], cut)));
    }
    let mut snapshot = Snapshot::of_files(files);
    for (query, report) in reports {
        snapshot.set_report(query, report);
    }
    Ok(snapshot)
}

/// How a query would have ended; `cut` is whether it has more files than a broker reads.
fn report(files: &[(Vec<u8>, Content)], cut: bool) -> Report {
    let bytes = files
        .iter()
        .map(|(_, content)| match content {
            Content::Bytes { bytes, .. } => bytes.len() as u64,
            _ => 0,
        })
        .sum();
    let any = files.iter().any(|(_, content)| !matches!(content, Content::Errno(_)));
    let is_cut = |(_, content): &_| matches!(content, Content::Bytes { truncated: true, .. });
    let outcome = match any {
        _ if cut || files.iter().any(is_cut) => Outcome::Truncated,
        true => Outcome::Ok,
        false => Outcome::Absent,
    };
    Report { outcome, elapsed_ns: 0, bytes }
}

/// Where a root lies in a tree.
fn root_dir(dir: &Path, source: &Source) -> Option<PathBuf> {
    let first_of = |names: &[&str]| names.iter().map(|name| dir.join(name)).find(|path| path.exists());
    match source.root {
        Root::Udev => first_of(&["udev/data", "udev"]),
        Root::OsRelease => first_of(&["etc", "usr/lib"]),
        Root::Anchors | Root::Rootfs => None,
        root => first_of(&[root.name()]),
    }
}

/// Expands one source of a row below its root.
struct Walk<'w> {
    row: &'w Row,
    source: &'w Source,
    /// The whole tree's directory.
    bounds: &'w Path,
    files: &'w mut Vec<(Vec<u8>, Content)>,
    /// How many files there may be when the row is done.
    end: usize,
    /// There are more.
    cut: &'w mut bool,
}

impl Walk<'_> {
    fn source(&mut self, root: &Path) {
        let components: Vec<&str> = self.source.pattern.split('/').collect();
        self.below(root, self.source.root.name().as_bytes(), &components);
    }

    fn below(&mut self, dir: &Path, name: &[u8], components: &[&str]) {
        let Some((component, rest)) = components.split_first() else {
            return self.read(dir, name);
        };
        let names: Vec<Vec<u8>> = if is_wild(component) {
            let mut names: Vec<Vec<u8>> = fs::read_dir(dir)
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
        for child in names {
            if *self.cut {
                return;
            }
            let path = dir.join(std::ffi::OsStr::from_bytes(&child));
            self.below(&path, &[name, b"/", &child].concat(), rest);
        }
    }

    fn read(&mut self, path: &Path, name: &[u8]) {
        /// EXDEV: a link leads out of the tree.
        const OUTSIDE: u32 = 18;
        let followed = !matches!(self.source.kind, Kind::Link);
        let outside = |path: &Path| path.canonicalize().is_ok_and(|path| !path.starts_with(self.bounds));
        let content = match self.source.kind {
            _ if followed && outside(path) => Content::Errno(OUTSIDE),
            Kind::Text | Kind::TextOfSeveral => match read_text(path, self.row.file_bytes) {
                Ok(Some(content)) => content,
                Ok(None) => return,
                Err(error) => match error.raw_os_error().unwrap_or(5) {
                    // Absent, or a directory where a pattern met one.
                    2 | 20 | 21 => return,
                    errno => Content::Errno(errno as u32),
                },
            },
            Kind::Link => match fs::read_link(path) {
                Ok(target) => Content::Link(target.into_os_string().into_vec()),
                Err(error) => match error.raw_os_error().unwrap_or(5) {
                    2 | 20 => return,
                    // As a broker has it: what is there and no link answers EINVAL.
                    errno => Content::Errno(errno as u32),
                },
            },
            Kind::Entries => match fs::read_dir(path) {
                Ok(entries) => Content::Entries(entries.count() as u64),
                Err(_) => return,
            },
            Kind::FileSystem => return,
        };
        if self.files.len() >= self.end {
            *self.cut = true;
            return;
        }
        self.files.push((name.to_vec(), content));
    }
}

/// The first `limit` bytes of a regular file; none for anything else.
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
