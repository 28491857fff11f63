//! Walks over the processes of a snapshot, shared by the collectors of processes: `proc/<pid>/`.
//!
//! <https://docs.kernel.org/filesystems/proc.html#process-specific-subdirectories>

use crate::collector::CollectError;
use crate::snapshot::{Content, Snapshot};
use crate::text;

/// What a path below `proc/<pid>/` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// `stat`.
    Stat,
    /// `status`.
    Status,
    /// `fd`, counted.
    Descriptors,
    /// `task/<tid>/stat`.
    Thread,
}

/// Fails when the kernel refused the broker any process: what is counted of the others would be a part.
pub fn none_refused(snapshot: &Snapshot) -> Result<(), CollectError> {
    let mut refused = None;
    each_file(snapshot, |pid, file, content| {
        if let (File::Stat, &Content::Errno(errno @ (EPERM | EACCES))) = (file, content) {
            refused = refused.or(Some((pid, errno)));
        }
    });
    let unreadable = |(pid, errno)| CollectError::Unreadable { path: format!("proc/{pid}/stat"), errno };
    refused.map_or(Ok(()), |refused| Err(unreadable(refused)))
}

const EPERM: u32 = 1;
const EACCES: u32 = 13;

/// Calls `take` with every file of every process, all of a process one after the other.
pub fn each_file<'a>(snapshot: &'a Snapshot, mut take: impl FnMut(u32, File, &'a Content)) {
    for (path, content) in snapshot.files() {
        if let Some((pid, file)) = file(path) {
            take(pid, file, content);
        }
    }
}

fn file(path: &[u8]) -> Option<(u32, File)> {
    let (pid, name) = text::split_first(path.strip_prefix(b"proc/")?, b'/')?;
    let file = match name {
        b"stat" => File::Stat,
        b"status" => File::Status,
        b"fd" => File::Descriptors,
        name => {
            name.strip_prefix(b"task/")?.strip_suffix(b"/stat")?;
            File::Thread
        }
    };
    Some((u32::try_from(text::unsigned(pid)?).ok()?, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbered_directories_are_processes() {
        let paths = [
            "proc/stat",
            "proc/1/net/dev",
            "proc/1/stat",
            "proc/10/fd",
            "proc/10/status",
            "proc/10/task/12/stat",
            "proc/99999999999/stat",
            "proc/self/stat",
            "sys/1/stat",
        ];
        let files = paths.map(|path| (path.as_bytes().to_vec(), Content::Entries(1))).to_vec();
        let mut seen = Vec::new();
        each_file(&Snapshot::of_files(files), |pid, file, _| seen.push((pid, file)));
        let expected = [(1, File::Stat), (10, File::Descriptors), (10, File::Status), (10, File::Thread)];
        assert_eq!(seen, expected);
    }
}
