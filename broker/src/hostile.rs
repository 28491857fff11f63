//! What `tests/attacks` adds to the broker besides [`keyhole_os::hostile`]: values that an intruder would find in its
//! memory.

use std::ffi::OsString;
use std::sync::OnceLock;

/// The environment of the zygote; in release builds it is empty.
pub static FOR_ZYGOTE: OnceLock<Vec<(OsString, OsString)>> = OnceLock::new();

/// The broker's descriptor of the socket's directory.
static SOCKET_DIR: OnceLock<i32> = OnceLock::new();

/// The pids of the zygote and of one of its readers.
static PRIVILEGED: OnceLock<[i32; 2]> = OnceLock::new();

/// Called by the main thread in its sandbox, before the first connection.
pub(crate) fn on_main() {
    // An attack may end the process before the log's thread has written what the test looks for.
    keyhole_log::flush();
    keyhole_os::hostile::run_intruder("broker");
}

/// The environment of the zygote.
pub(crate) fn for_zygote() -> impl Iterator<Item = (OsString, OsString)> {
    FOR_ZYGOTE.get().into_iter().flatten().cloned()
}

/// The pids of the zygote and of one of its readers; pids that do not exist if they are unknown.
pub fn privileged() -> [i32; 2] {
    PRIVILEGED.get().copied().unwrap_or([i32::MAX; 2])
}

/// The broker's descriptor of its socket's directory.
pub fn socket_dir() -> i32 {
    SOCKET_DIR.get().copied().unwrap_or(-1)
}

/// Finds the zygote and a reader while files can still be opened.
fn find_privileged() {
    let child = |pid: &str| {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse::<i32>().ok()
    };
    let zygote = child(&std::process::id().to_string());
    let reader = zygote.and_then(|zygote| child(&zygote.to_string()));
    PRIVILEGED.get_or_init(|| [zygote.unwrap_or(i32::MAX), reader.unwrap_or(i32::MAX)]);
}

/// Wraps [`keyhole_os::hostile::landlock`]: before Landlock is the last moment to look for other processes.
pub(crate) mod landlock {
    use std::os::fd::AsRawFd;

    use keyhole_os::Layer;
    use keyhole_os::hostile::landlock as replaced;

    pub(crate) use replaced::{Grant, Right};

    pub(crate) fn restrict(grants: &[Grant<'_>]) -> Layer {
        super::find_privileged();
        grants.first().map(|grant| super::SOCKET_DIR.get_or_init(|| grant.dir.as_raw_fd()));
        replaced::restrict(grants)
    }
}
