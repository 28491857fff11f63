//! What `tests/attacks` adds to a program: code of its own that runs once a process is sealed, and a seal with a piece left
//! out. Behind the feature `hostile-code-for-tests`, which no build that ships can have.
//!
//! The modules below stand in for those of this crate with the same names, and do the same unless told otherwise.

use std::sync::OnceLock;

use crate::Layer;

#[cfg(not(debug_assertions))]
compile_error!("hostile-code-for-tests is on, and this is not a debug build: hostile code must never ship");

/// What marks a program that has this module; no shipped binary may hold it.
pub const MARKER: &str = "this program has HOSTILE CODE FOR TESTS in it";

/// What a test changes in a program; set before the program runs.
#[derive(Debug, Default)]
pub struct Hostile {
    /// The layers that are left out: `identity` (capabilities, no_new_privs, limits, not dumpable), `landlock`, `seccomp`.
    pub without: Vec<String>,
    /// A row that is left out of what seccomp allows: its table, by its place among those that the program compiles, and
    /// its place in that table.
    pub without_row: Option<(usize, usize)>,
    /// The name of the process that has an intruder, and what the intruder does.
    pub strike: Option<(String, fn())>,
}

/// What is changed in this program.
pub static HOSTILE: OnceLock<Hostile> = OnceLock::new();

/// Runs the intruder, if it is in the process of this name. Each process calls it once it is sealed and has reported that.
pub fn strike(process: &str) {
    std::hint::black_box(MARKER);
    let strike = HOSTILE.get().and_then(|hostile| hostile.strike.as_ref());
    if let Some((_, strike)) = strike.filter(|(victim, _)| victim == process) {
        strike();
    }
}

/// Does `act`, unless this program is to be without `layer`. What was left out has a name of its own, for which the
/// check of the seal does not ask.
fn unless_without(layer: &str, act: impl FnOnce() -> Layer) -> Layer {
    let left_out = HOSTILE.get().is_some_and(|hostile| hostile.without.iter().any(|name| name == layer));
    if left_out { Layer { name: "left out", in_force: false, detail: layer.to_owned() } } else { act() }
}

/// Stands in for [`crate::process`].
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

/// Stands in for [`crate::capabilities`].
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

/// Stands in for [`crate::landlock`].
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

/// Stands in for [`crate::seccomp`].
pub mod seccomp {
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub use crate::seccomp::*;

    use crate::Layer;

    /// The tables that were compiled; a reader goes on where its zygote was when it forked.
    static COMPILED: AtomicUsize = AtomicUsize::new(0);

    /// Compiles a table, without the row that is to be left out.
    pub fn compile(table: &[Rule<'_>]) -> Result<Program, Error> {
        let place = COMPILED.fetch_add(1, Ordering::Relaxed);
        let left_out = super::HOSTILE.get().and_then(|hostile| hostile.without_row);
        let rows = table.iter().enumerate().filter(|(row, _)| Some((place, *row)) != left_out);
        let table: Vec<_> = rows.map(|(_, rule)| *rule).collect();
        crate::seccomp::compile(&table)
    }

    /// `seccomp`.
    pub fn install(program: &Program, calls: usize) -> Layer {
        super::unless_without("seccomp", || crate::seccomp::install(program, calls))
    }
}
