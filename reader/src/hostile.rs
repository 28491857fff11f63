//! What `tests/attacks` adds to the zygote and its readers besides [`keyhole_os::hostile`]: the addresses of the shared
//! pages, which an intruder would find.

use std::sync::OnceLock;

use keyhole_os::hostile::run_intruder;
use keyhole_policy::Class;
use rustix::fs::{CWD, Mode, OFlags};

/// The addresses of the pages that the zygote shares with its readers.
static PAGES: OnceLock<Vec<usize>> = OnceLock::new();

/// Called by the zygote after its hello.
pub(crate) fn in_zygote() {
    run_intruder("zygote");
}

/// Called by a reader after its hello.
pub(crate) fn in_reader(class: Class) {
    run_intruder(&format!("reader-{}", class.name()));
}

/// The pages that a reader has inherited, of its own class and of the others.
pub fn pages() -> &'static [usize] {
    PAGES.get().map_or(&[], Vec::as_slice)
}

/// Finds the shared pages in /proc/self/maps, with system calls that the zygote may make.
fn find_pages() {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(maps) = rustix::fs::openat(CWD, "/proc/self/maps", flags, Mode::empty()) else { return };
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = rustix::io::read(&maps, &mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let shared = text.lines().filter(|line| line.contains(" rw-s "));
    let address = |line: &str| usize::from_str_radix(line.split('-').next()?, 16).ok();
    PAGES.get_or_init(|| shared.filter_map(address).collect());
}

/// Wraps [`keyhole_os::hostile::process`]: closing inherited descriptors is the first thing that a reader does.
pub(crate) mod process {
    use keyhole_os::hostile::{HOSTILE, process as replaced};

    pub(crate) use replaced::{limits, not_dumpable};

    pub(crate) fn close_inherited() {
        if HOSTILE.get().is_some_and(|hostile| hostile.intruder.is_some()) {
            super::find_pages();
        }
        replaced::close_inherited();
    }
}
