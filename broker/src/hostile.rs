//! What `tests/attacks` adds to a broker: code of its own that runs once the broker is sealed, and a seal with a
//! piece left out. Behind the feature `hostile-code-for-tests`, which no build that ships can have.
//!
//! The modules below stand in for those of `keyhole_os` with the same names, and do the same unless told otherwise.

use std::ffi::OsString;
use std::sync::OnceLock;

use keyhole_os::Layer;

#[cfg(not(debug_assertions))]
compile_error!("hostile-code-for-tests is on, and this is not a debug build: hostile code must never ship");

/// What a program says in its log when it has this module; no shipped binary may hold it.
pub const MARKER: &str = "this broker has HOSTILE CODE FOR TESTS in it";

/// How a test wants its broker; set before [`crate::run`].
#[derive(Debug, Default)]
pub struct Hostile {
    /// The layers that are left out: `identity` (capabilities, no_new_privs, limits, not dumpable), `landlock`, `seccomp`.
    pub without: Vec<String>,
    /// A row that is left out of what seccomp allows, by its place in the list.
    pub without_row: Option<usize>,
    /// What runs on the main thread once the broker is sealed.
    pub on_main: Option<fn()>,
    /// What the zygote finds in its environment.
    pub for_zygote: Vec<(OsString, OsString)>,
}

/// How this broker is to be.
pub static HOSTILE: OnceLock<Hostile> = OnceLock::new();

/// The directory of the socket.
static SOCKET_DIR: OnceLock<i32> = OnceLock::new();

/// The zygote, and one of its readers.
static PRIVILEGED: OnceLock<[i32; 2]> = OnceLock::new();

/// What the main thread does between the seal and its first connection.
pub(crate) fn on_main() {
    tracing::warn!("{MARKER}");
    // An attack may end the process before the log's thread has written what the test looks for.
    keyhole_log::flush();
    if let Some(strike) = HOSTILE.get().and_then(|hostile| hostile.on_main) {
        strike();
    }
}

/// The environment of the zygote, which is empty in a broker that ships.
pub(crate) fn for_zygote() -> impl Iterator<Item = (OsString, OsString)> {
    HOSTILE.get().into_iter().flat_map(|hostile| hostile.for_zygote.iter().cloned())
}

/// The pids of the zygote and of one of its readers; where they are not known, pids that nobody has.
pub fn privileged() -> [i32; 2] {
    PRIVILEGED.get().copied().unwrap_or([i32::MAX; 2])
}

/// The broker's descriptor of its socket's directory.
pub fn socket_dir() -> i32 {
    SOCKET_DIR.get().copied().unwrap_or(-1)
}

/// Finds the zygote and its readers, while files can still be opened.
fn find_privileged() {
    let child = |pid: &str| {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse::<i32>().ok()
    };
    let zygote = child(&std::process::id().to_string());
    let reader = zygote.and_then(|zygote| child(&zygote.to_string()));
    PRIVILEGED.get_or_init(|| [zygote.unwrap_or(i32::MAX), reader.unwrap_or(i32::MAX)]);
}

/// Does `act`, unless this broker is to be without `layer`. What was left out has a name of its own, for which the
/// check of the seal does not ask.
fn unless_without(layer: &str, act: impl FnOnce() -> Layer) -> Layer {
    let left_out = HOSTILE.get().is_some_and(|hostile| hostile.without.iter().any(|name| name == layer));
    if left_out { Layer { name: "left out", in_force: false, detail: layer.to_owned() } } else { act() }
}

pub(crate) mod process {
    use keyhole_os::Layer;
    use keyhole_os::process as real;

    pub(crate) use real::{clear_environment, close_inherited, one_heap};

    pub(crate) fn not_dumpable() -> Layer {
        super::unless_without("identity", real::not_dumpable)
    }

    pub(crate) fn limits() -> Layer {
        super::unless_without("identity", real::limits)
    }
}

pub(crate) mod capabilities {
    use keyhole_os::Layer;
    use keyhole_os::capabilities as real;

    pub(crate) use real::held;

    pub(crate) fn no_new_privs() -> Layer {
        super::unless_without("identity", real::no_new_privs)
    }

    pub(crate) fn drop_all() -> Layer {
        super::unless_without("identity", real::drop_all)
    }
}

pub(crate) mod landlock {
    use std::os::fd::AsRawFd;

    use keyhole_os::Layer;
    use keyhole_os::landlock as real;

    pub(crate) use real::{Grant, Right};

    pub(crate) fn restrict(grants: &[Grant<'_>]) -> Layer {
        super::find_privileged();
        grants.first().map(|grant| super::SOCKET_DIR.get_or_init(|| grant.dir.as_raw_fd()));
        super::unless_without("landlock", || real::restrict(grants))
    }
}

pub(crate) mod seccomp {
    use keyhole_os::Layer;
    use keyhole_os::seccomp as real;

    use real::{Error, Program, Rule};

    pub(crate) fn compile(table: &[Rule<'_>]) -> Result<Program, Error> {
        let left_out = super::HOSTILE.get().and_then(|hostile| hostile.without_row);
        let rows = table.iter().enumerate().filter(|(row, _)| Some(*row) != left_out);
        let table: Vec<_> = rows.map(|(_, rule)| *rule).collect();
        real::compile(&table)
    }

    pub(crate) fn install(program: &Program, calls: usize) -> Layer {
        super::unless_without("seccomp", || real::install(program, calls))
    }
}
