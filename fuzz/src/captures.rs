//! Captures, which may be untrusted directories or archives.

use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use keyhole_exporter::capture::{self, Capture, CaptureInfo, Source};
use keyhole_exporter::snapshot::Content;
use keyhole_policy::TABLE;

use crate::input;

/// Each record is a file of the capture, or with `L` a symbolic link. The capture is read, written and read again, and
/// the results are equal.
pub fn capture(input: &[u8]) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let root = dir.path().join("in");
    fs::create_dir(&root).expect("a directory in memory");
    for (path, letter, content) in
        input::records(input).iter().filter_map(|record| input::split(record)).take(64)
    {
        place(&root, path, letter, content);
    }
    let Ok(read) = capture::read(Source::Directory(root)) else { return };
    // The content of a file outside of the capture, which no input contains by chance.
    for (path, content) in read.snapshot.files() {
        let Content::Bytes { bytes, .. } = content else { continue };
        assert!(!bytes.starts_with(SECRET), "{} was read from outside", path.escape_ascii());
    }
    let about = about(&read);
    let copy = dir.path().join("out");
    capture::write(&read.snapshot, &about, &copy).expect("what was read can be written");
    let again = capture::read(Source::Directory(copy)).expect("what was written can be read");
    assert_equal(&read, &again);
    assert_eq!(again.about, Some(about));
}

/// The input is an archive, compressed or not. The capture in it is read, written and read again, and the results are
/// equal.
pub fn archive(input: &[u8]) {
    let Ok(read) = capture::read(Source::Archive(Box::new(Cursor::new(input.to_vec())))) else { return };
    let about = about(&read);
    let mut copy = Vec::new();
    capture::write_archive(&read.snapshot, &about, &mut copy).expect("what was read can be written");
    let again = capture::read(Source::Archive(Box::new(Cursor::new(copy))));
    assert_equal(&read, &again.expect("what was written can be read"));
}

fn about(read: &Capture) -> CaptureInfo {
    read.about.clone().unwrap_or(CaptureInfo {
        time: SystemTime::UNIX_EPOCH,
        node_name: String::new(),
        versions: String::new(),
    })
}

fn assert_equal(read: &Capture, again: &Capture) {
    assert!(read.snapshot.files().eq(again.snapshot.files()));
    assert!(read.snapshot.reports().eq(again.snapshot.reports()));
    for row in TABLE {
        assert!(read.snapshot.file_systems(row.query).eq(again.snapshot.file_systems(row.query)));
    }
}

/// The beginning of the file that links without a target point to.
const SECRET: &[u8] = b"Name:\tcapture\nUmask:\t";

fn place(root: &Path, path: &[u8], letter: u8, content: &[u8]) {
    let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let odd = |component: &&[u8]| matches!(**component, [] | [b'.'] | [b'.', b'.']) || component.contains(&0);
    if components.iter().any(odd) || path.len() > 1000 {
        return;
    }
    let path = root.join(std::ffi::OsStr::from_bytes(path));
    // A parent of the path may be a file: then skip it.
    let Some(parent) = path.parent() else { return };
    if fs::create_dir_all(parent).is_err()
        || !parent.canonicalize().is_ok_and(|parent| parent.starts_with(root))
    {
        return;
    }
    let _ = match letter {
        b'L' if content.is_empty() => std::os::unix::fs::symlink("/proc/self/status", path),
        b'L' => std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(content), path),
        _ if fs::symlink_metadata(&path).is_ok() => Ok(()),
        _ => fs::write(path, content),
    };
}
