//! What `tests/attacks` adds to a zygote and its readers besides [`keyhole_os::hostile`]: where an intruder finds the
//! memory that they share.

use std::sync::OnceLock;

use keyhole_os::hostile::strike;
use keyhole_policy::Class;
use rustix::fs::{CWD, Mode, OFlags};

/// Memory that the zygote shares with its readers: the address of each page, as a reader inherits it.
static PAGES: OnceLock<Vec<usize>> = OnceLock::new();

/// What a zygote does once it has reported itself.
pub(crate) fn in_zygote() {
    strike("zygote");
}

/// What a reader does once it has reported itself.
pub(crate) fn in_reader(class: Class) {
    strike(&format!("reader-{}", class.name()));
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

/// The first thing that a reader does.
pub(crate) mod process {
    use keyhole_os::hostile::{HOSTILE, process as stand_in};

    pub(crate) use stand_in::{limits, not_dumpable};

    pub(crate) fn close_inherited() {
        if HOSTILE.get().is_some_and(|hostile| hostile.strike.is_some()) {
            super::find_pages();
        }
        stand_in::close_inherited();
    }
}
