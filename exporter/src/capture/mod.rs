//! Captures: snapshots as directories of kernel files under their own paths, to inspect, attach to a report and replay.
//!
//! A capture is a directory or a tar archive of one. Besides the files, the directory `keyhole/` has an index as text files: the kind of each path (`files`), file systems,
//! how each query ended, and when and where the capture was made. A tree without an index is read by the policy's
//! patterns.

mod archive;
mod index;
mod tree;
mod write;

use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::snapshot::Snapshot;

pub use archive::write as write_archive;
pub use write::{WriteError, Written, check_target, write, write_unless_stopped};

/// The directory of a capture that holds the index.
pub const INDEX_DIR: &str = "keyhole";

/// A capture that was read.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The host's files.
    pub snapshot: Snapshot,
    /// About the capture; none for a tree without an index.
    pub about: Option<CaptureInfo>,
}

/// When, where and by which programs a capture was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureInfo {
    /// When it was made.
    pub time: SystemTime,
    /// The node's name.
    pub node_name: String,
    /// The versions of the programs that made it.
    pub versions: String,
}

/// Where a capture is read from.
pub enum Source {
    /// A capture, or any tree with files of a host (`proc/`, `sys/`, `etc/`, `usr/`, `udev/`).
    Directory(PathBuf),
    /// A tar archive of a capture, compressed with gzip or not.
    Archive(Box<dyn Read>),
}

/// Opens a capture: a directory is not opened yet, and anything else is an archive.
pub fn open(path: &Path) -> std::io::Result<Source> {
    if std::fs::metadata(path)?.is_dir() {
        return Ok(Source::Directory(path.to_owned()));
    }
    Ok(Source::Archive(Box::new(std::fs::File::open(path)?)))
}

/// Reads a capture, or a tree as readers would read it.
pub fn read(source: Source) -> std::io::Result<Capture> {
    match source {
        Source::Directory(dir) => match index::read(&mut index::Directory(&dir))? {
            Some(capture) => Ok(capture),
            None => Ok(Capture { snapshot: tree::read(&dir)?, about: None }),
        },
        Source::Archive(archive) => {
            let capture = index::read(&mut archive::Archive::read(archive)?)?;
            // An archive without an index was refused before.
            capture.ok_or_else(|| ErrorKind::NotFound.into())
        }
    }
}

/// The error for a capture that would need too much memory.
fn too_large() -> Error {
    let reason = format!("larger than {} MiB, which no host's files are", index::MAX_CAPTURE_BYTES >> 20);
    Error::new(ErrorKind::FileTooLarge, reason)
}

/// The snapshot of a capture or a tree.
pub fn read_tree(dir: &Path) -> std::io::Result<Snapshot> {
    read(Source::Directory(dir.to_owned())).map(|capture| capture.snapshot)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use keyhole_proto::v1::{Outcome, Query};
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::{Content, FileSystem, Report, StatFs};

    fn about() -> CaptureInfo {
        CaptureInfo {
            time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            node_name: "node \"1\"\n".into(),
            versions: "1".into(),
        }
    }

    /// Writes and reads a snapshot; returns the result and the directory.
    fn round_trip(snapshot: &Snapshot) -> (Capture, tempfile::TempDir) {
        let parent = tempfile::tempdir().unwrap();
        write(snapshot, &about(), &parent.path().join("capture")).unwrap();
        (read(open(&parent.path().join("capture")).unwrap()).unwrap(), parent)
    }

    fn assert_same(one: &Snapshot, other: &Snapshot) -> Result<(), TestCaseError> {
        prop_assert!(one.files().eq(other.files()), "{one:?}\n{other:?}");
        prop_assert!(one.reports().eq(other.reports()));
        for row in keyhole_policy::TABLE {
            prop_assert_eq!(one.reason(row.query), other.reason(row.query));
        }
        for row in keyhole_policy::TABLE {
            prop_assert!(one.file_systems(row.query).eq(other.file_systems(row.query)));
        }
        Ok(())
    }

    #[test]
    fn a_capture_is_kernel_files_under_their_own_paths() {
        let mut snapshot = Snapshot::from_files(vec![
            (b"proc/loadavg".to_vec(), Content::bytes(&b"1 2 3\n"[..])),
            (b"sys/class/hwmon/hwmon0".to_vec(), Content::Link(b"../../devices/x".to_vec())),
            (b"sys/class/hwmon/hwmon0/device".to_vec(), Content::Link(b"../../x".to_vec())),
            (b"sys/class/hwmon/hwmon0/name".to_vec(), Content::bytes(&b"coretemp\n"[..])),
        ]);
        let report = Report { outcome: Outcome::Stuck, elapsed_ns: 5, bytes: 7, left_out: 0 };
        snapshot.set_report(Query::Loadavg, report);
        snapshot.set_report(
            Query::Tcp,
            Report { outcome: Outcome::NotPermitted, elapsed_ns: 0, bytes: 0, left_out: 0 },
        );
        snapshot.set_reason(Query::Tcp, "--queries=default leaves it out: add +tcp");
        let (capture, dir) = round_trip(&snapshot);
        let path = |path: &str| dir.path().join("capture").join(path);
        assert_eq!(std::fs::read(path("proc/loadavg")).unwrap(), b"1 2 3\n");
        assert!(path("sys/class/hwmon/hwmon0").is_dir(), "files lie below it, so the link is noted only");
        assert_eq!(std::fs::read_link(path("sys/class/hwmon/hwmon0/device")).unwrap(), Path::new("../../x"));
        assert_same(&snapshot, &capture.snapshot).unwrap();
        assert_eq!(capture.about, Some(about()));
        let index = std::fs::read_to_string(path("keyhole/queries")).unwrap();
        assert!(index.contains("QUERY_LOADAVG\tOUTCOME_STUCK\t5\t7\n"), "{index}");
        let tcp = "QUERY_TCP\tOUTCOME_NOT_PERMITTED\t0\t0\t--queries=default leaves it out: add +tcp\n";
        assert!(index.contains(tcp), "{index}");
    }

    #[test]
    fn nothing_is_written_outside_the_directory() {
        let evil =
            ["../escaped", "/tmp/escaped", "a/../../escaped", "keyhole/files", "", ".", "a//b", "a\0b"];
        let mut files: Vec<_> =
            evil.iter().map(|path| (path.as_bytes().to_vec(), Content::bytes(&b"evil"[..]))).collect();
        files.push((b"l".to_vec(), Content::Link(b"..".to_vec())));
        files.push((b"l/escaped".to_vec(), Content::bytes(&b"evil"[..])));
        files.push((vec![b'n'; 300], Content::bytes(&b"evil"[..])));
        let snapshot = Snapshot::from_files(files);
        let (capture, dir) = round_trip(&snapshot);
        assert_same(&snapshot, &capture.snapshot).unwrap();
        let resolve_text_link: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(resolve_text_link, ["capture"]);
    }

    #[test]
    fn a_link_out_of_a_tree_without_an_index_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(path("tree/proc")).unwrap();
        std::fs::write(path("secret"), "1 2 3 4/5 6\n").unwrap();
        std::fs::write(path("tree/real"), "10 20\n").unwrap();
        std::os::unix::fs::symlink("../../secret", path("tree/proc/loadavg")).unwrap();
        std::os::unix::fs::symlink("../real", path("tree/proc/meminfo")).unwrap();
        let snapshot = read_tree(&path("tree")).unwrap();
        assert_eq!(snapshot.content("proc/loadavg"), Some(&Content::Errno(18)));
        assert_eq!(snapshot.content("proc/meminfo"), Some(&Content::bytes(&b"10 20\n"[..])));
    }

    #[test]
    fn a_tree_is_read_within_the_limits_of_a_broker_and_reports_what_they_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: String, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        // The row has room for 16 files: eight of nine clocks, and nothing of the one that it ends in.
        for clock in 0..9 {
            for file in ["available_clocksource", "current_clocksource"] {
                put(format!("sys/devices/system/clocksource/clocksource{clock}/{file}"), "tsc\n");
            }
        }
        put("proc/sys/kernel/ostype".into(), &"Linux\n".repeat(1000));
        put("proc/loadavg".into(), &"1 ".repeat(4000));
        std::fs::create_dir_all(dir.path().join("sys/class/hwmon")).unwrap();
        let tree = read_tree(dir.path()).unwrap();
        let clocks: Vec<_> = tree.dir("sys/devices/system/clocksource").dirs().collect();
        assert_eq!(clocks.len(), 8);
        assert!(clocks.iter().all(|clock| clock.files().count() == 2));
        let report = |tree: &Snapshot, query| {
            let report = tree.report(query).unwrap();
            (report.outcome, report.left_out)
        };
        assert_eq!(report(&tree, Query::Clocksource), (Outcome::Truncated, 1));
        let reason = "items left out by a limit: at least 1 (a file that was cut counts as one)";
        assert_eq!(tree.reason(Query::Clocksource), Some(reason));
        assert_eq!(
            tree.text("proc/sys/kernel/ostype"),
            Some("Linux\n".repeat(4096 / 6).as_bytes()),
            "whole lines"
        );
        assert_eq!(report(&tree, Query::Kernel), (Outcome::Truncated, 1));
        assert_eq!(tree.content("proc/loadavg"), Some(&Content::Errno(27)), "no line is whole");
        assert_eq!(report(&tree, Query::Hwmon), (Outcome::Empty, 0));
        assert_eq!(report(&tree, Query::Tape), (Outcome::Absent, 0));

        let (capture, _dir) = round_trip(&tree);
        assert_same(&tree, &capture.snapshot).unwrap();
        assert_eq!(report(&capture.snapshot, Query::Clocksource), (Outcome::Truncated, 1));
    }

    #[test]
    fn links_that_have_become_files_are_followed_within_the_tree_alone() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("secret/name", "no\n");
        put("tree/sys/devices/x/hwmon0/name", "chip\n");
        put("tree/sys/devices/x/hwmon0/device", "../../x");
        put("tree/sys/devices/x/temp", "5000\n");
        put("tree/sys/class/hwmon/hwmon0", "../../devices/x/hwmon0");
        put("tree/sys/class/hwmon/hwmon1", "../../../../secret");
        put("tree/sys/class/hwmon/hwmon2", "../../devices/x/hwmon0\n");
        put("tree/etc/os-release", "../usr/lib/os-release");
        put("tree/usr/lib/os-release", "ID=x\n");
        let tree = read_tree(&dir.path().join("tree")).unwrap();
        let hwmon = |path: &str| tree.content(format!("sys/class/hwmon/{path}"));
        assert_eq!(hwmon("hwmon0"), Some(&Content::Link(b"../../devices/x/hwmon0".to_vec())));
        assert_eq!(hwmon("hwmon0/device"), Some(&Content::Link(b"../../x".to_vec())));
        assert_eq!(tree.text("sys/class/hwmon/hwmon0/name"), Some(&b"chip\n"[..]));
        assert_eq!(tree.text("sys/class/hwmon/hwmon0/device/temp"), Some(&b"5000\n"[..]));
        assert_eq!(hwmon("hwmon1/name"), Some(&Content::Errno(18)), "it leads out of the tree");
        assert_eq!(hwmon("hwmon2"), Some(&Content::Errno(22)), "it is a file with a line");
        assert_eq!(tree.text("etc/os-release"), Some(&b"ID=x\n"[..]));
    }

    #[test]
    fn the_second_os_release_is_read_if_the_first_is_missing_or_a_broken_link() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, lib) = (dir.path().join("etc"), dir.path().join("usr/lib"));
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        std::fs::create_dir(&etc).unwrap();
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::write(etc.join("hostname"), "x\n").unwrap();
        std::fs::write(lib.join("os-release"), "ID=second\n").unwrap();
        let read = || read_tree(dir.path()).unwrap().text("etc/os-release").map(<[u8]>::to_vec);
        assert_eq!(read().as_deref(), Some(&b"ID=second\n"[..]));
        std::os::unix::fs::symlink("nowhere", etc.join("os-release")).unwrap();
        assert_eq!(read().as_deref(), Some(&b"ID=second\n"[..]));
        std::fs::remove_file(etc.join("os-release")).unwrap();
        std::fs::write(etc.join("os-release"), "ID=first\n").unwrap();
        assert_eq!(read().as_deref(), Some(&b"ID=first\n"[..]));
    }

    #[test]
    fn a_directory_that_is_not_empty_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        write(&Snapshot::default(), &about(), &empty).unwrap();
        let error = write(&Snapshot::default(), &about(), &empty).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(write(&Snapshot::default(), &about(), &file).is_err());
        assert!(write(&Snapshot::default(), &about(), &dir.path().join("no/such/parent")).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no partial output remains");
    }

    #[test]
    fn a_file_that_was_removed_from_a_capture_is_absent() {
        let snapshot = Snapshot::from_files(vec![
            (b"proc/1/net/arp".to_vec(), Content::bytes(&b"x"[..])),
            (b"proc/stat".to_vec(), Content::bytes(&b"y"[..])),
        ]);
        let (_, dir) = round_trip(&snapshot);
        let capture = dir.path().join("capture");
        std::fs::remove_file(capture.join("proc/1/net/arp")).unwrap();
        let again = read_tree(&capture).unwrap();
        assert_eq!((again.text("proc/1/net/arp"), again.text("proc/stat")), (None, Some(&b"y"[..])));
        std::fs::remove_file(capture.join("proc/stat")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", capture.join("proc/stat")).unwrap();
        assert!(read_tree(&capture).is_err(), "an untrusted capture must not read files of this machine");
    }

    #[test]
    fn an_invalid_index_is_reported_with_its_line() {
        let (_, dir) = round_trip(&Snapshot::default());
        let capture = dir.path().join("capture");
        for (file, line) in [("files", "a\tthing\n"), ("queries", "QUERY_X\n"), ("file-systems", "x\n")] {
            let path = capture.join("keyhole").join(file);
            let before = std::fs::read(&path).unwrap();
            std::fs::write(&path, line).unwrap();
            let error = read_tree(&capture).unwrap_err().to_string();
            assert!(error.contains(&format!("keyhole/{file}:1")), "{error}");
            std::fs::write(&path, before).unwrap();
        }
    }

    fn any_path() -> impl Strategy<Value = Vec<u8>> {
        let component = prop_oneof![
            3 => "[ab]{1,2}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
            1 => prop::sample::select(vec![&b".."[..], b".", b"\n", b"a\"b", b"\xff\xfe", b"#", b"\\x41", b"keyhole"])
                .prop_map(<[u8]>::to_vec),
        ];
        proptest::collection::vec(component, 1..4).prop_map(|components| components.join(&b'/'))
    }

    fn any_content() -> impl Strategy<Value = Content> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
        prop_oneof![
            (bytes(), any::<bool>()).prop_map(|(bytes, truncated)| Content::Bytes { bytes, truncated }),
            bytes().prop_map(Content::Link),
            any::<u64>().prop_map(Content::Entries),
            any::<u32>().prop_map(Content::Errno),
        ]
    }

    fn any_file_system() -> impl Strategy<Value = FileSystem> {
        let numbers = (any::<[u64; 6]>(), any::<bool>()).prop_map(|(n, read_only)| StatFs {
            block_size: n[0],
            blocks: n[1],
            blocks_free: n[2],
            blocks_available: n[3],
            files: n[4],
            files_free: n[5],
            read_only,
        });
        let numbers = prop_oneof![numbers.prop_map(Ok), any::<u32>().prop_map(Err)];
        (any_path(), numbers).prop_map(|(path, numbers)| FileSystem { path, numbers })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_snapshot_round_trips(
            files in proptest::collection::vec((any_path(), any_content()), 0..12),
            file_systems in proptest::collection::vec(any_file_system(), 0..3),
            report in (0usize..keyhole_policy::TABLE.len(), 0i32..10, any::<u64>(), any::<u64>()),
            reason in proptest::option::of("\\PC{0,20}"),
        ) {
            let mut snapshot = Snapshot::from_files(files);
            for file_system in file_systems {
                snapshot.add_file_system(Query::ProbeDirectories, file_system);
            }
            let (row, outcome, elapsed_ns, bytes) = report;
            let outcome = Outcome::try_from(outcome).unwrap();
            snapshot.set_report(keyhole_policy::TABLE[row].query, Report { outcome, elapsed_ns, bytes, left_out: 0 });
            if let Some(reason) = reason {
                snapshot.set_reason(keyhole_policy::TABLE[row].query, &reason);
            }
            let (capture, _dir) = round_trip(&snapshot);
            assert_same(&snapshot, &capture.snapshot)?;
            let capture = read_archive(&write_to_archive(&snapshot)).unwrap();
            assert_same(&snapshot, &capture.snapshot)?;
            prop_assert_eq!(capture.about, Some(about()));
        }

        #[test]
        fn no_archive_panics(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            end in any::<prop::sample::Index>(),
        ) {
            let mut archive = write_to_archive(&Snapshot::from_files(vec![
                (b"proc/loadavg".to_vec(), Content::bytes(&b"1 2 3\n"[..])),
                (vec![b'n'; 300], Content::bytes(&b"stored elsewhere"[..])),
                (b"sys/x".to_vec(), Content::Link(vec![b'l'; 200])),
            ]));
            let at = at.index(archive.len());
            archive[at] = byte;
            archive.truncate(end.index(archive.len()) + 1);
            let _ = read_archive(&archive);
        }

        #[test]
        fn no_index_panics(text in "([a-z/.\\t\\n\\\\]|text|link|errno|stored=){0,60}") {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("keyhole")).unwrap();
            std::fs::write(dir.path().join("keyhole/files"), text).unwrap();
            let _ = read_tree(dir.path());
        }
    }

    fn write_to_archive(snapshot: &Snapshot) -> Vec<u8> {
        let mut archive = Vec::new();
        write_archive(snapshot, &about(), &mut archive).unwrap();
        archive
    }

    fn read_archive(archive: &[u8]) -> std::io::Result<Capture> {
        read(Source::Archive(Box::new(std::io::Cursor::new(archive.to_vec()))))
    }

    fn small_snapshot() -> Snapshot {
        Snapshot::from_files(vec![
            (b"proc/loadavg".to_vec(), Content::bytes(&b"1 2 3\n"[..])),
            (b"sys/class/hwmon/hwmon0/device".to_vec(), Content::Link(b"../../x".to_vec())),
        ])
    }

    #[test]
    fn an_archive_that_is_cut_short_is_refused_wherever_it_is_cut() {
        let archive = write_to_archive(&small_snapshot());
        // It ends with two blocks of zeros, of which one is enough.
        for length in 0..archive.len() - 1024 {
            assert!(read_archive(&archive[..length]).is_err(), "{length} of {}", archive.len());
        }
        let error = read_archive(&archive[..archive.len() - 1024]).unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
        assert!(read_archive(&archive).is_ok());
        let compressed = crate::http::routes::compress(&archive);
        for length in 0..compressed.len() {
            assert!(read_archive(&compressed[..length]).is_err(), "{length} of {}", compressed.len());
        }
        assert_same(&small_snapshot(), &read_archive(&compressed).unwrap().snapshot).unwrap();
    }

    #[test]
    fn an_archive_unpacks_to_one_directory_that_is_a_capture() {
        let dir = tempfile::tempdir().unwrap();
        tar::Archive::new(&write_to_archive(&small_snapshot())[..]).unpack(dir.path()).unwrap();
        let unpacked: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        // The node's name is `node "1"` and a line feed.
        assert_eq!(unpacked, [dir.path().join("keyhole-node__1__")]);
        assert_same(&small_snapshot(), &read_tree(&unpacked[0]).unwrap()).unwrap();
        let mode = std::fs::metadata(unpacked[0].join("proc/loadavg")).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    }

    #[test]
    fn an_archive_that_tar_made_of_a_capture_is_read_from_the_uppermost_index() {
        let (_, dir) = round_trip(&small_snapshot());
        for top in ["", "./", "some/where"] {
            let mut builder = tar::Builder::new(Vec::new());
            builder.follow_symlinks(false);
            builder.append_dir_all(Path::new(top).join("."), dir.path().join("capture")).unwrap();
            // A capture that a capture's archive contains is not the one to read.
            builder.append_dir_all(Path::new(top).join("x/y"), dir.path().join("capture/keyhole")).unwrap();
            let capture = read_archive(&builder.into_inner().unwrap()).unwrap();
            assert_same(&small_snapshot(), &capture.snapshot).unwrap();
        }
    }

    #[test]
    fn an_archive_without_a_capture_or_with_a_link_for_a_file_is_refused() {
        let archive = |entries: &[(&str, Option<&str>)]| {
            let mut builder = tar::Builder::new(Vec::new());
            for (path, content) in entries {
                let mut header = tar::Header::new_gnu();
                match content {
                    Some(content) => {
                        header.set_size(content.len() as u64);
                        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
                    }
                    None => {
                        header.set_entry_type(tar::EntryType::Symlink);
                        header.set_size(0);
                        builder.append_link(&mut header, path, "/etc/hostname").unwrap();
                    }
                }
            }
            read_archive(&builder.into_inner().unwrap())
        };
        let index = ("c/keyhole/files", Some("proc/stat\ttext\n"));
        assert!(archive(&[index, ("c/proc/stat", Some("cpu 1\n"))]).is_ok());
        let error = archive(&[index, ("c/proc/stat", None)]).unwrap_err().to_string();
        assert!(error.contains("keyhole/files:1") && error.contains("neither a file"), "{error}");
        let error = archive(&[("c/proc/stat", Some("cpu 1\n"))]).unwrap_err().to_string();
        assert!(error.contains("no capture"), "{error}");
        assert!(read_archive(b"#!/bin/sh\n").is_err());
        assert!(read_archive(b"").is_err());
    }
}
