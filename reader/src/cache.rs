//! The descriptor cache of a row: descriptors below sysfs that stay open from one read to the next, and a negative
//! cache of what was not there.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use keyhole_os::shared::SharedCells;
use keyhole_policy::pipes::SLOTS_PER_CLASS;

/// What was not found is asked for again after this many reads at most: most of what a machine could have, it has not.
pub const ABSENT_READS: u64 = 8;

/// The most directories that a row caches anything of, and the most that one pattern is known to find nothing in.
const DIRECTORIES: usize = 4096;

/// What the readers of one class share: a few numbers for each slot, which only its own reader writes to.
#[derive(Debug)]
pub struct Shared {
    page: SharedCells,
    /// This reader's slot, counted within its class.
    slot: usize,
}

/// Which number of a slot.
#[derive(Debug, Clone, Copy)]
enum Cell {
    /// What is being asked, and has not answered yet: see [`hash`].
    Asked,
    CachedFiles,
    CachedDirectories,
}

/// Of a path, as it is shared: never 0, which is nothing (FNV-1a, 64 bits).
pub fn hash(path: &[u8]) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    path.iter().fold(0xcbf2_9ce4_8422_2325, add).max(1)
}

impl Shared {
    /// The page, as the reader of a slot uses it.
    pub fn new(page: SharedCells, slot: usize) -> Self {
        Self { page, slot }
    }

    /// Forgets what a reader that has ended had written.
    pub fn clear(page: &SharedCells, slot: usize) {
        for cell in [Cell::Asked, Cell::CachedFiles, Cell::CachedDirectories] {
            page.cells()[slot * CELLS_PER_SLOT + cell as usize].store(0, Relaxed);
        }
    }

    fn all(&self, cell: Cell) -> impl Iterator<Item = (usize, u64)> {
        let number =
            move |slot: usize| self.page.cells()[slot * CELLS_PER_SLOT + cell as usize].load(Relaxed);
        (0..SLOTS_PER_CLASS).map(move |slot| (slot, number(slot)))
    }

    fn add(&self, cell: Cell, count: u64) {
        self.page.cells()[self.slot * CELLS_PER_SLOT + cell as usize].fetch_add(count, Relaxed);
    }

    /// Sets what this reader asks next; 0 when it has been answered.
    pub fn ask(&self, asked: u64) {
        self.page.cells()[self.slot * CELLS_PER_SLOT].store(asked, Relaxed);
    }

    /// What other readers ask and have not been answered: they are stuck in it.
    pub fn hung(&self) -> Vec<u64> {
        let others = self.all(Cell::Asked).filter(|(slot, asked)| *slot != self.slot && *asked != 0);
        others.map(|(_, asked)| asked).collect()
    }
}

pub const CELLS_PER_SLOT: usize = 8;

/// How many descriptors of one kind all readers of a class may cache.
#[derive(Debug)]
pub struct Budget {
    shared: Rc<Shared>,
    cell: Cell,
    limit: u64,
}

/// One of them; it is given back when this is dropped.
#[derive(Debug)]
pub struct Permit(Rc<Shared>, Cell);

impl Budget {
    /// Of files.
    pub fn files(shared: &Rc<Shared>, limit: u64) -> Self {
        Self { shared: shared.clone(), cell: Cell::CachedFiles, limit }
    }

    /// Of directories, which take no page of the kernel's memory.
    pub fn directories(shared: &Rc<Shared>, limit: u64) -> Self {
        Self { shared: shared.clone(), cell: Cell::CachedDirectories, limit }
    }

    /// How many there are of all readers.
    pub fn used(&self) -> u64 {
        self.shared.all(self.cell).map(|(_, count)| count).fold(0, u64::saturating_add)
    }

    /// One of them, while there are any.
    pub fn take(&self) -> Option<Permit> {
        (self.used() < self.limit).then(|| {
            self.shared.add(self.cell, 1);
            Permit(self.shared.clone(), self.cell)
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Minus one.
        self.0.add(self.1, u64::MAX);
    }
}

/// A file or a directory that stays open.
#[derive(Debug)]
pub struct Cached {
    pub descriptor: OwnedFd,
    pub _permit: Permit,
}

/// What is cached of a row.
#[derive(Debug, Default)]
pub struct Cache {
    /// By path; those that a read does not come by are dropped.
    dirs: HashMap<Vec<u8>, Dir>,
    /// Directories of devices in which a source found no name that fits, a map a source.
    empty: Vec<HashMap<Vec<u8>, Absence>>,
    /// The source that is read.
    source: usize,
    round: u64,
}

/// What is cached of a directory.
#[derive(Debug, Default)]
pub struct Dir {
    /// The inodes that its path's wildcards stood for: the kernel goes on serving a device that was renamed, through what
    /// was opened under its old name.
    pub identity: u64,
    /// Itself, to open files in it without following its path each time.
    pub itself: Option<Cached>,
    /// It is known not to be there until this round.
    pub absent_until: u64,
    /// Its files, by name.
    pub files: HashMap<Vec<u8>, Known>,
    round: u64,
}

/// What is known of a file.
#[derive(Debug)]
pub enum Known {
    /// It is open, and was read in a round.
    Open { file: Cached, round: u64 },
    /// It is not there, and is not looked for until a round.
    Absent { until: u64 },
}

#[derive(Debug)]
struct Absence {
    identity: u64,
    until: u64,
}

impl Cache {
    /// Begins a read of a row with so many sources.
    pub fn begin(&mut self, sources: usize) {
        self.round += 1;
        self.empty.resize_with(sources, HashMap::new);
    }

    /// Goes on with another source.
    pub fn at_source(&mut self, source: usize) {
        self.source = source;
    }

    /// Ends a read that saw everything there is.
    pub fn end(&mut self) {
        let round = self.round;
        for empty in &mut self.empty {
            empty.retain(|_, absence| absence.until > round);
        }
        self.dirs.retain(|_, dir| {
            dir.files.retain(|_, known| match known {
                Known::Open { round: read, .. } => *read == round,
                Known::Absent { until } => *until > round,
            });
            dir.round == round && (dir.itself.is_some() || dir.absent_until > round || !dir.files.is_empty())
        });
    }

    /// The number of this read.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Takes out what is cached of a directory; nothing when its path stands for another by now.
    pub fn take(&mut self, path: &[u8], identity: u64) -> Dir {
        let cached = self.dirs.get_mut(path).map(std::mem::take).filter(|dir| dir.identity == identity);
        Dir { identity, round: self.round, ..cached.unwrap_or_default() }
    }

    /// Puts it back.
    pub fn put(&mut self, path: &[u8], dir: Dir) {
        let full = self.dirs.len() >= DIRECTORIES;
        match self.dirs.get_mut(path) {
            Some(place) => *place = dir,
            None if full => {}
            None => _ = self.dirs.insert(path.to_vec(), dir),
        }
    }

    /// Until when something that is not there is not looked for. Not all are looked for again in the same read.
    pub fn retry_after(&self, path: &[u8]) -> u64 {
        let spread: u64 = path.iter().map(|&byte| u64::from(byte)).sum();
        self.round + ABSENT_READS - spread % (ABSENT_READS / 2)
    }

    /// Whether the source found nothing in a directory a few reads ago.
    pub fn is_empty(&self, path: &[u8], identity: u64) -> bool {
        let known = |absence: &Absence| absence.identity == identity && self.round < absence.until;
        self.empty.get(self.source).and_then(|empty| empty.get(path)).is_some_and(known)
    }

    /// Remembers that the source found nothing in a directory.
    pub fn set_empty(&mut self, path: Vec<u8>, identity: u64) {
        let until = self.retry_after(&path);
        if let Some(empty) = self.empty.get_mut(self.source).filter(|empty| empty.len() < DIRECTORIES) {
            empty.insert(path, Absence { identity, until });
        }
    }
}

#[cfg(test)]
mod tests;
