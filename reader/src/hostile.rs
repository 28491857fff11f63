//! What `tests/attacks` adds to a zygote and its readers: code of its own that runs once they are sealed, and a seal
//! with a piece left out. Behind the feature `hostile-code-for-tests`, which no build that ships can have.
//!
//! The modules below stand in for those of `keyhole_os` with the same names, and do the same unless told otherwise.

use std::sync::OnceLock;

use keyhole_os::Layer;
use keyhole_policy::Class;
use rustix::fs::{CWD, Mode, OFlags};

#[cfg(not(debug_assertions))]
compile_error!("hostile-code-for-tests is on, and this is not a debug build: hostile code must never ship");

/// What marks a program that has this module; no shipped binary may hold it.
pub const MARKER: &str = "this reader has HOSTILE CODE FOR TESTS in it";

/// A process that has an intruder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The zygote.
    Zygote,
    /// Each reader of a class.
    Reader(Class),
}

/// How a test wants its zygote and readers; set before [`crate::run`].
#[derive(Debug, Default)]
pub struct Hostile {
    /// The layers that are left out: `identity` (capabilities, no_new_privs, limits, not dumpable), `landlock`, `seccomp`.
    pub without: Vec<String>,
    /// A row that is left out of what seccomp allows: whether it is the zygote's, and its place in the table.
    pub without_row: Option<(bool, usize)>,
    /// What runs once the victim is sealed and has reported itself.
    pub strike: Option<(Victim, fn())>,
}

/// How they are to be.
pub static HOSTILE: OnceLock<Hostile> = OnceLock::new();

/// Memory that the zygote shares with its readers: the address of each page, as a reader inherits it.
static PAGES: OnceLock<Vec<usize>> = OnceLock::new();

/// What a zygote does once it has reported itself.
pub(crate) fn in_zygote() {
    strike(Victim::Zygote);
}

/// What a reader does once it has reported itself.
pub(crate) fn in_reader(class: Class) {
    strike(Victim::Reader(class));
}

fn strike(here: Victim) {
    std::hint::black_box(MARKER);
    if let Some((_, strike)) =
        HOSTILE.get().and_then(|hostile| hostile.strike).filter(|(victim, _)| *victim == here)
    {
        strike();
    }
}

/// The pages that a reader has inherited, its own class' and the others'.
pub fn pages() -> &'static [usize] {
    PAGES.get().map_or(&[], Vec::as_slice)
}

/// Finds the shared pages in the list of mappings, by calls that a zygote may make.
fn find_pages() {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(maps) = rustix::fs::openat(CWD, "/proc/self/maps", flags, Mode::empty()) else { return };
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = rustix::io::read(&maps, &mut piece) {
        text.extend_from_slice(&piece[..length]);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let shared = text.lines().filter(|line| line.contains(" rw-s "));
    let address = |line: &str| usize::from_str_radix(line.split('-').next()?, 16).ok();
    PAGES.get_or_init(|| shared.filter_map(address).collect());
}

/// Does `act`, unless this program is to be without `layer`. What was left out has a name of its own, for which the
/// check of the seal does not ask.
fn unless_without(layer: &str, act: impl FnOnce() -> Layer) -> Layer {
    let left_out = HOSTILE.get().is_some_and(|hostile| hostile.without.iter().any(|name| name == layer));
    if left_out { Layer { name: "left out", in_force: false, detail: layer.to_owned() } } else { act() }
}

pub(crate) mod process {
    use keyhole_os::Layer;
    use keyhole_os::process as real;

    pub(crate) fn close_inherited() {
        if super::HOSTILE.get().is_some_and(|hostile| hostile.strike.is_some()) {
            super::find_pages();
        }
        real::close_inherited();
    }

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
    use keyhole_os::Layer;
    use keyhole_os::landlock as real;

    use real::Grant;

    pub(crate) fn restrict(grants: &[Grant<'_>]) -> Layer {
        super::unless_without("landlock", || real::restrict(grants))
    }

    pub(crate) fn restrict_all_but_reading() -> Layer {
        super::unless_without("landlock", real::restrict_all_but_reading)
    }
}

pub(crate) mod seccomp {
    use std::sync::atomic::{AtomicBool, Ordering};

    use keyhole_os::Layer;
    use keyhole_os::seccomp as real;

    use real::{Error, Program, Rule};

    /// A zygote compiles its table before it forks.
    static IS_READER: AtomicBool = AtomicBool::new(false);

    pub(crate) fn compile(table: &[Rule<'_>]) -> Result<Program, Error> {
        let is_zygote = !IS_READER.swap(true, Ordering::Relaxed);
        let left_out = super::HOSTILE.get().and_then(|hostile| hostile.without_row);
        let rows = table.iter().enumerate().filter(|(row, _)| Some((is_zygote, *row)) != left_out);
        let table: Vec<_> = rows.map(|(_, rule)| *rule).collect();
        real::compile(&table)
    }

    pub(crate) fn install(program: &Program, calls: usize) -> Layer {
        super::unless_without("seccomp", || real::install(program, calls))
    }
}
