//! The files of `--collector.textfile.directory`: the only files that the exporter opens once it is sandboxed.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use regex::bytes::Regex;
use rustix::fs::OFlags;

/// The maximum size of one file.
const FILE_BYTES: u64 = 4 << 20;
/// The maximum size of all of them together: parsed, a byte takes up to sixteen.
const ALL_BYTES: u64 = 8 << 20;
/// The maximum number of directories and files that are read.
const ENTRIES: usize = 4096;

/// A file of metrics.
#[derive(Debug, Clone)]
pub struct TextFile {
    /// Its path.
    pub path: String,
    /// When it was last changed.
    pub modified: SystemTime,
    /// Its content, or why it could not be read.
    pub content: Result<Vec<u8>, String>,
}

/// Reads the `*.prom` files in `directories`, sorted by name within each. What cannot be read is there with the reason,
/// a directory too.
pub fn read(directories: &[PathBuf]) -> Vec<TextFile> {
    let mut remaining = ALL_BYTES;
    let mut files = Vec::new();
    for directory in directories {
        match names(directory) {
            Ok(names) => {
                let more = names.len().saturating_sub(ENTRIES);
                files.extend(
                    names
                        .into_iter()
                        .take(ENTRIES)
                        .map(|name| read_file(&directory.join(name), &mut remaining)),
                );
                if more > 0 {
                    let reason = format!("{more} files more than the {ENTRIES} that are read of a directory");
                    files.push(failed(directory, reason));
                }
            }
            Err(error) => files.push(failed(directory, error.to_string())),
        }
    }
    files
}

/// The directories that `patterns` match now, as clean paths (without `//`, `.`, `x/..`): the label `file` must not depend
/// on how the flag spells the directory. An empty pattern matches nothing, as in node_exporter.
pub fn directories(patterns: &[String]) -> Vec<PathBuf> {
    let named = patterns.iter().filter(|pattern| !pattern.is_empty()).flat_map(|pattern| expand(pattern));
    named.map(|path| clean(&path)).collect()
}

/// A clean path, as Go's filepath.Clean returns it.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(clean.components().next_back(), Some(Component::Normal(_))) => {
                clean.pop();
            }
            Component::ParentDir if clean.has_root() => {}
            other => clean.push(other),
        }
    }
    if clean.as_os_str().is_empty() { PathBuf::from(".") } else { clean }
}

/// The directories that a pattern names now; the pattern itself when it matches nothing, for the error.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let literal = || vec![PathBuf::from(pattern)];
    if !is_glob(pattern.as_bytes()) {
        return literal();
    }
    let mut found = vec![PathBuf::from(if pattern.starts_with('/') { "/" } else { "" })];
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        found = if is_glob(component.as_bytes()) {
            found.into_iter().flat_map(|dir| matching(&dir, component)).take(ENTRIES).collect()
        } else {
            found.into_iter().map(|dir| dir.join(component)).filter(|dir| dir.exists()).collect()
        };
    }
    if found.is_empty() { literal() } else { found }
}

fn matching(dir: &Path, component: &str) -> Vec<PathBuf> {
    let Some(glob) = glob(component.as_bytes()) else { return Vec::new() };
    let listed = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let mut paths: Vec<PathBuf> = fs::read_dir(listed)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| glob.is_match(name.as_encoded_bytes()))
        .map(|name| dir.join(name))
        .collect();
    paths.sort_unstable();
    paths
}

fn is_glob(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'*' | b'?'))
}

/// A name's pattern as a regular expression: `*` matches any bytes, `?` one byte, and every other byte itself. None if the
/// pattern is longer than any name.
///
/// Not [`keyhole_policy::pattern`]: there `#`, `%`, `{` and `,` are special and cannot be escaped, but a directory's name
/// may contain them, and there is no `?`. node_exporter uses Go's `filepath.Glob`, whose `[...]` and `\` are literal here.
fn glob(pattern: &[u8]) -> Option<Regex> {
    let expression: String = pattern
        .iter()
        .map(|byte| match byte {
            b'*' => ".*".to_owned(),
            b'?' => ".".to_owned(),
            byte => format!("\\x{byte:02x}"),
        })
        .collect();
    Regex::new(&format!("(?s-u)^{expression}$")).ok()
}

fn names(directory: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.as_encoded_bytes().ends_with(b".prom") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn failed(path: &Path, reason: String) -> TextFile {
    TextFile {
        path: path.to_string_lossy().into_owned(),
        modified: SystemTime::UNIX_EPOCH,
        content: Err(reason),
    }
}

fn read_file(path: &Path, remaining: &mut u64) -> TextFile {
    match try_read(path, *remaining) {
        Ok(file) => {
            let read = file.content.as_ref().map_or(0, |bytes| bytes.len() as u64);
            *remaining = remaining.saturating_sub(read);
            file
        }
        Err(error) => {
            let is_link = || path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
            let advice = match error.kind() {
                ErrorKind::PermissionDenied if is_link() => {
                    "; the sandbox refuses links that lead out of --collector.textfile.directory: put the file itself there"
                }
                _ => "",
            };
            failed(path, format!("{error}{advice}"))
        }
    }
}

fn try_read(path: &Path, remaining: u64) -> std::io::Result<TextFile> {
    // A FIFO without a writer would hold up every scrape.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(failed(path, "not a regular file".into()));
    }
    let limit = FILE_BYTES.min(remaining);
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Ok(failed(path, format!("larger than the limit of {limit} bytes")));
    }
    Ok(TextFile { modified: metadata.modified()?, content: Ok(bytes), ..failed(path, String::new()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("a/one.prom", "a 1\n"), ("a/no.txt", "x"), ("b1/two.prom", "b 2\n")] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn pattern(dir: &tempfile::TempDir, rest: &str) -> String {
        format!("{}/{rest}", dir.path().display())
    }

    fn read_all(patterns: &[String]) -> Vec<TextFile> {
        read(&directories(patterns))
    }

    #[test]
    fn a_path_is_written_as_short_as_it_can_be() {
        for (written, short) in [
            ("/x//y/", "/x/y"),
            ("/x/./y/../z", "/x/z"),
            ("/../x", "/x"),
            ("./x", "x"),
            ("../x", "../x"),
            ("x/..", "."),
            ("../../x/../y", "../../y"),
        ] {
            assert_eq!(directories(&[written.to_owned(), String::new()]), [PathBuf::from(short)]);
        }
    }

    #[test]
    fn files_are_found_by_ending_in_every_directory_that_a_pattern_names() {
        let dir = tree();
        let read = |rest: &[&str]| -> Vec<String> {
            let patterns: Vec<String> = rest.iter().map(|rest| pattern(&dir, rest)).collect();
            let name = |file: TextFile| file.path.rsplit('/').next().unwrap().to_owned();
            read_all(&patterns).into_iter().map(name).collect()
        };
        assert_eq!(read(&["a"]), ["one.prom"]);
        assert_eq!(read(&["a/", "b?"]), ["one.prom", "two.prom"]);
        assert_eq!(read(&["*"]), ["one.prom", "two.prom"]);
        assert_eq!(read(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_there_with_its_reason() {
        let dir = tree();
        let files = read_all(&[pattern(&dir, "missing"), pattern(&dir, "none*")]);
        assert_eq!(files.len(), 2);
        assert!(files.iter().all(|file| file.content.as_ref().unwrap_err().contains("No such file")));
    }

    #[test]
    fn files_beyond_the_limit_of_a_directory_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=ENTRIES {
            fs::write(dir.path().join(format!("{number}.prom")), "").unwrap();
        }
        let files = read_all(&[pattern(&dir, "")]);
        let reason = files.last().unwrap().content.as_ref().unwrap_err();
        assert_eq!(
            (files.len(), reason.as_str()),
            (ENTRIES + 1, "1 files more than the 4096 that are read of a directory")
        );
    }

    #[test]
    fn a_file_beyond_4_mib_or_beyond_8_mib_in_all_is_reported_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let size = |name: &str, bytes: usize| fs::write(dir.path().join(name), vec![b'\n'; bytes]).unwrap();
        size("a.prom", (4 << 20) + 1);
        size("b.prom", 4 << 20);
        size("c.prom", (4 << 20) - 2);
        size("d.prom", 3);
        size("e.prom", 2);
        let files = read_all(&[pattern(&dir, "")]);
        let read: Vec<_> = files.into_iter().map(|file| file.content.map(|bytes| bytes.len())).collect();
        let too_large = |limit: usize| Err(format!("larger than the limit of {limit} bytes"));
        assert_eq!(read, [too_large(4 << 20), Ok(4 << 20), Ok((4 << 20) - 2), too_large(2), Ok(2)]);
    }

    #[test]
    fn a_fifo_does_not_block_the_scrape() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prom");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let files = read_all(&[pattern(&dir, "")]);
        assert_eq!(files[0].content, Err("not a regular file".to_owned()));
    }

    proptest! {
        #[test]
        fn a_star_takes_any_run_and_a_question_mark_one_byte(a in "[a-c]{0,4}", b in "[a-c]{0,4}") {
            let [plain, longer] = ["", "x"].map(|middle| format!("{a}{middle}{b}"));
            let [star, question] = ["*", "?"].map(|middle| format!("{a}{middle}{b}"));
            let matches = |pattern: &str, name: &str| glob(pattern.as_bytes()).unwrap().is_match(name.as_bytes());
            prop_assert!(matches(&star, &plain) && matches(&star, &longer));
            prop_assert!(!matches(&question, &plain) && matches(&question, &longer));
        }

        #[test]
        fn any_pattern_matches_as_its_characters_define(
            pattern in proptest::collection::vec(prop_oneof![Just(b'*'), Just(b'?'), any::<u8>(), 0x5b..0x5fu8], 0..8),
            name in proptest::collection::vec(prop_oneof![any::<u8>(), 0x5b..0x5fu8], 0..8),
        ) {
            fn matches(pattern: &[u8], name: &[u8]) -> bool {
                match pattern {
                    [] => name.is_empty(),
                    [b'*', rest @ ..] => (0..=name.len()).any(|at| matches(rest, &name[at..])),
                    [b'?', rest @ ..] => !name.is_empty() && matches(rest, &name[1..]),
                    [byte, rest @ ..] => name.first() == Some(byte) && matches(rest, &name[1..]),
                }
            }
            prop_assert_eq!(glob(&pattern).unwrap().is_match(&name), matches(&pattern, &name));
        }
    }
}
