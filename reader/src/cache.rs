//! What is known from one read to the next: files below sysfs that stay open, a negative cache of what was not there,
//! and what the readers of a class share.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use keyhole_os::shared::SharedCells;
use keyhole_policy::pipes::SLOTS_PER_CLASS;

/// What was not found is asked for again after this many reads at most: most of what a machine could have, it has not.
pub const ABSENT_READS: u64 = 8;

/// The most devices of which a source caches anything.
const DEVICES: usize = 4096;

/// What the readers of one class share: a few numbers for each slot, which only its own reader writes to.
#[derive(Debug)]
pub struct Shared {
    page: SharedCells,
    /// This reader's slot, counted within its class.
    slot: usize,
    /// How many files all of them together may cache.
    limit: u64,
}

/// How many numbers a slot has.
pub const CELLS_PER_SLOT: usize = 8;

/// What a reader is reading now, as [`hash`]es: the path, and for a mount its server and the server's address. 0 is
/// nothing.
pub type Asked = [u64; 3];

/// The index in a slot of the number of files that its reader caches. Before it comes an [`Asked`].
const CACHED_FILES: usize = size_of::<Asked>() / size_of::<u64>();

/// Which number of the page: whether a reader of the class was ready once.
const STARTED: usize = SLOTS_PER_CLASS * CELLS_PER_SLOT;

/// Of a path, as it is shared: never 0, which is nothing (FNV-1a, 64 bits).
pub fn hash(path: &[u8]) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    path.iter().fold(0xcbf2_9ce4_8422_2325, add).max(1)
}

impl Shared {
    /// The page, as the reader of a slot uses it.
    pub fn new(page: SharedCells, slot: usize, limit: u64) -> Self {
        Self { page, slot, limit }
    }

    /// Forgets what a reader that has ended had written.
    pub fn clear(page: &SharedCells, slot: usize) {
        page.cells()[slot * CELLS_PER_SLOT..][..CELLS_PER_SLOT]
            .iter()
            .for_each(|cell| cell.store(0, Relaxed));
    }

    fn cell(&self, slot: usize, which: usize) -> &AtomicU64 {
        &self.page.cells()[slot * CELLS_PER_SLOT + which]
    }

    /// Does something that may hang, and publishes what it is for as long as it takes.
    pub fn asking<T>(&self, asked: Asked, act: impl FnOnce() -> T) -> T {
        self.publish(asked);
        let answer = act();
        self.publish([0; 3]);
        answer
    }

    fn publish(&self, asked: Asked) {
        asked.into_iter().enumerate().for_each(|(at, hash)| self.cell(self.slot, at).store(hash, Relaxed));
    }

    /// What other readers are reading: they are stuck in it.
    pub fn hung(&self) -> Vec<Asked> {
        let others = (0..SLOTS_PER_CLASS).filter(|slot| *slot != self.slot);
        let asked = others.map(|slot| std::array::from_fn(|at| self.cell(slot, at).load(Relaxed)));
        asked.filter(|asked: &Asked| asked[0] != 0).collect()
    }

    /// Whether a reader of the class was ready once: what is not there now has gone, and its flag is no mistake.
    pub fn has_started(&self) -> bool {
        self.page.cells()[STARTED].load(Relaxed) != 0
    }

    /// Says that one is.
    pub fn set_started(&self) {
        self.page.cells()[STARTED].store(1, Relaxed);
    }

    /// How many files all readers cache.
    pub fn cached_files(&self) -> u64 {
        let of = |slot| self.cell(slot, CACHED_FILES).load(Relaxed);
        (0..SLOTS_PER_CLASS).map(of).fold(0, u64::saturating_add)
    }

    /// Keeps a file open, while more may be.
    pub fn cache(self: &Rc<Self>, file: OwnedFd) -> Option<Cached> {
        (self.cached_files() < self.limit).then(|| {
            self.cell(self.slot, CACHED_FILES).fetch_add(1, Relaxed);
            Cached { file, shared: self.clone() }
        })
    }
}

/// A file that stays open; it is counted until this is dropped.
#[derive(Debug)]
pub struct Cached {
    pub file: OwnedFd,
    shared: Rc<Shared>,
}

impl Drop for Cached {
    fn drop(&mut self) {
        self.shared.cell(self.shared.slot, CACHED_FILES).fetch_sub(1, Relaxed);
    }
}

/// What is cached of a source, by what its first wildcard stands for.
#[derive(Debug, Default)]
pub struct Cache {
    devices: HashMap<Vec<u8>, Device>,
    /// The number of this read.
    pub round: u64,
}

/// What is cached of a device.
#[derive(Debug, Default)]
pub struct Device {
    /// Of its name: the kernel goes on serving a device that was renamed, through what was opened under its old name.
    inode: u64,
    /// The length of its name.
    pub name_length: usize,
    /// Itself, to open files in it without following its path each time.
    pub dir: Option<OwnedFd>,
    /// It is known to have nothing of what is asked for until this round.
    pub absent_until: u64,
    /// Its files and their names, in the order in which the pattern led to them.
    pub files: Vec<(Vec<u8>, File)>,
    round: u64,
}

/// What is cached of a file.
#[derive(Debug, Default)]
pub struct File {
    /// Made of the inodes that its path's wildcards stood for.
    pub inodes: u64,
    /// Its descriptor, when it is cached.
    pub open: Option<Cached>,
    /// It is not there, and is not looked for until this round.
    pub absent_until: u64,
}

impl Device {
    /// A device of which nothing is known but its name.
    pub fn new(name: &[u8]) -> Self {
        Self { name_length: name.len(), ..Self::default() }
    }
}

impl Cache {
    /// What is known of a device: nothing when its name stands for another by now. None when there are too many.
    pub fn device(&mut self, name: &[u8], inode: u64) -> Option<&mut Device> {
        if self.devices.len() >= DEVICES && !self.devices.contains_key(name) {
            return None;
        }
        let device = self.devices.entry(name.to_vec()).or_insert_with(|| Device::new(name));
        if device.inode != inode {
            *device = Device::new(name);
        }
        (device.inode, device.round) = (inode, self.round);
        Some(device)
    }

    /// Ends a read that saw every device.
    pub fn end(&mut self) {
        self.devices.retain(|_, device| device.round == self.round);
    }
}

/// Until when something that is not there is not checked again. Not all are checked in the same read.
pub fn retry_after(round: u64, name: &[u8]) -> u64 {
    let spread: u64 = name.iter().map(|&byte| u64::from(byte)).sum();
    round + ABSENT_READS - spread % (ABSENT_READS / 2)
}

#[cfg(test)]
mod tests;
