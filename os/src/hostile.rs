//! What `tests/attacks` adds to a program: code of an intruder that runs in the sandbox of a process, and sandboxes with one
//! layer or row left out. Behind the feature `hostile-code-for-tests`, which no release build can have.
//!
//! The modules below replace those of this crate with the same names, and do the same unless [`HOSTILE`] says otherwise.

use std::sync::OnceLock;

use crate::Layer;

#[cfg(not(debug_assertions))]
compile_error!("hostile-code-for-tests is on, and this is not a debug build: hostile code must never ship");

/// Marks a program that contains this module; no released binary may contain it.
pub const MARKER: &str = "this program has HOSTILE CODE FOR TESTS in it";

/// What a test changes in a program; it is set before the program runs.
#[derive(Debug, Default)]
pub struct Hostile {
    /// The layers to leave out: `identity` (capabilities, no_new_privs, limits, not dumpable), `landlock`, `seccomp`.
    pub without: Vec<String>,
    /// A row to leave out of a seccomp table: the index of the table, in the order in which the program compiles them, and
    /// the index of the row in it.
    pub without_row: Option<(usize, usize)>,
    /// The name of the process with an intruder, and the intruder's code.
    pub intruder: Option<(String, fn())>,
}

/// The changes of this program.
pub static HOSTILE: OnceLock<Hostile> = OnceLock::new();

/// Runs the intruder if it is in the process of this name. Each process calls it in its sandbox, after its hello.
pub fn run_intruder(process: &str) {
    std::hint::black_box(MARKER);
    let intruder = HOSTILE.get().and_then(|hostile| hostile.intruder.as_ref());
    if let Some((_, intruder)) = intruder.filter(|(victim, _)| victim == process) {
        intruder();
    }
}

/// Runs `enable`, unless this program is to be without `layer`. A layer that is left out has another name, so that the check
/// of the sandbox does not miss it.
fn unless_without(layer: &str, enable: impl FnOnce() -> Layer) -> Layer {
    let left_out = HOSTILE.get().is_some_and(|hostile| hostile.without.iter().any(|name| name == layer));
    if left_out { Layer { name: "left out", in_force: false, detail: layer.to_owned() } } else { enable() }
}

/// Replaces [`crate::process`].
pub mod process {
    pub use crate::process::*;

    use crate::Layer;

    /// Part of `identity`.
    pub fn not_dumpable() -> Layer {
        super::unless_without("identity", crate::process::not_dumpable)
    }

    /// Part of `identity`.
    pub fn limits() -> Layer {
        super::unless_without("identity", crate::process::limits)
    }
}

/// Replaces [`crate::capabilities`].
pub mod capabilities {
    pub use crate::capabilities::*;

    use crate::Layer;

    /// Part of `identity`.
    pub fn no_new_privs() -> Layer {
        super::unless_without("identity", crate::capabilities::no_new_privs)
    }

    /// Part of `identity`.
    pub fn drop_all() -> Layer {
        super::unless_without("identity", crate::capabilities::drop_all)
    }
}

/// Replaces [`crate::landlock`].
pub mod landlock {
    pub use crate::landlock::*;

    use crate::Layer;

    /// `landlock`.
    pub fn restrict(grants: &[Grant<'_>]) -> Layer {
        super::unless_without("landlock", || crate::landlock::restrict(grants))
    }

    /// `landlock`, of a zygote.
    pub fn restrict_to_reading() -> Layer {
        super::unless_without("landlock", crate::landlock::restrict_to_reading)
    }
}

/// Replaces [`crate::seccomp`].
pub mod seccomp {
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub use crate::seccomp::*;

    use crate::Layer;

    /// The number of tables that were compiled; a reader continues with its zygote's number.
    static COMPILED: AtomicUsize = AtomicUsize::new(0);

    /// Compiles a table without the row to leave out.
    pub fn compile(table: &[Rule<'_>]) -> Result<Program, Error> {
        let index = COMPILED.fetch_add(1, Ordering::Relaxed);
        let left_out = super::HOSTILE.get().and_then(|hostile| hostile.without_row);
        let rows = table.iter().enumerate().filter(|(row, _)| Some((index, *row)) != left_out);
        let table: Vec<_> = rows.map(|(_, rule)| *rule).collect();
        crate::seccomp::compile(&table)
    }

    /// `seccomp`.
    pub fn install(program: &Program, calls: usize) -> Layer {
        super::unless_without("seccomp", || crate::seccomp::install(program, calls))
    }
}
