//! `--output=raw`: kernel text by file name.

use std::io::Write as _;

use keyhole_policy::TABLE;

use super::super::terminal::escape_controls;
use super::options::QueryOptions;
use crate::snapshot::{Content, FileSystem, Snapshot};
use crate::text;

/// Every file that matches the filter, in the format of head(1).
pub(super) fn text(query: &QueryOptions, snapshot: &Snapshot) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, content) in snapshot.files().filter(|(path, _)| query.matches_filter(path)) {
        let name = text::printable(path);
        let name = escape_controls(&name, false);
        // Writing to a Vec cannot fail.
        let _ = match content {
            Content::Bytes { bytes, truncated } => {
                let cut = if *truncated { " (cut by a limit)" } else { "" };
                let _ = writeln!(out, "==> {name} <=={cut}");
                out.extend_from_slice(bytes);
                if bytes.last().is_some_and(|last| *last != b'\n') {
                    out.push(b'\n');
                }
                Ok(())
            }
            Content::Link(target) => {
                writeln!(out, "==> {name} <== link to {}", escape_controls(&text::printable(target), false))
            }
            Content::Entries(count) => writeln!(out, "==> {name} <== {count} entries"),
            Content::Errno(errno) => writeln!(out, "==> {name} <== {}", errno_text(*errno)),
        };
    }
    for file_system in TABLE.iter().flat_map(|row| snapshot.file_systems(row.query)) {
        if query.matches_filter(&file_system.path) {
            statfs(&mut out, file_system);
        }
    }
    out
}

fn statfs(out: &mut Vec<u8>, file_system: &FileSystem) {
    let name = text::printable(&file_system.path);
    let name = escape_controls(&name, false);
    let _ = match &file_system.numbers {
        Ok(n) => writeln!(
            out,
            "==> {name} <== statfs\nblock_size {}\nblocks {}\nblocks_free {}\nblocks_available {}\nfiles {}\nfiles_free {}\n\
             read_only {}",
            n.block_size, n.blocks, n.blocks_free, n.blocks_available, n.files, n.files_free, n.read_only
        ),
        Err(errno) => writeln!(out, "==> {name} <== statfs: {}", errno_text(*errno)),
    };
}

fn errno_text(errno: u32) -> String {
    match i32::try_from(errno) {
        Ok(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        Err(_) => format!("errno {errno}"),
    }
}
