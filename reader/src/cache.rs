//! What a reader keeps from one read to the next: a descriptor cache of files below sysfs, a negative cache of absent
//! files, and the memory page that the readers of a class share.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use keyhole_os::shared::SharedCells;
use keyhole_policy::pipes::SLOTS_PER_CLASS;

/// An absent file is looked for again after this many reads at most. Most files that the patterns name exist on no
/// given machine, and looking for all of them at each read costs more than the read itself.
pub const RETRY_AFTER_READS: u64 = 8;

/// The most devices of which one source caches anything: this bounds the memory when a tenant creates devices without
/// end. Further devices are read in the same way, only without a cache.
const MAX_DEVICES: usize = 4096;

/// The page that the readers of one class share: [`CELLS_PER_SLOT`] numbers for each slot, written by that slot's reader
/// alone, and `READY_CELL`.
#[derive(Debug)]
pub struct SharedState {
    page: SharedCells,
    /// This reader's slot, counted within its class.
    slot: usize,
    /// The descriptor budget of all readers of the class together.
    max_cached_files: u64,
}

/// How many numbers a slot has. Four are used; eight of 64 bits are a cache line, so that readers do not slow each other
/// down.
pub const CELLS_PER_SLOT: usize = 8;

/// What a reader is reading now, as [`hash`]es: the path, and for a mount also its server and the server's address. 0
/// stands for none.
pub type InProgress = [u64; 3];

/// The index within a slot of the number of files that its reader caches. It follows the [`InProgress`].
const CACHED_FILES_CELL: usize = size_of::<InProgress>() / size_of::<u64>();

/// The index within the page, behind all slots, of the number that is 1 once a reader of the class has been ready.
const READY_CELL: usize = SLOTS_PER_CLASS * CELLS_PER_SLOT;

/// The hash of a path, as the page holds it: FNV-1a of 64 bits, and never 0.
pub fn hash(path: &[u8]) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    path.iter().fold(0xcbf2_9ce4_8422_2325, add).max(1)
}

impl SharedState {
    /// The page, for the reader in `slot`.
    pub fn new(page: SharedCells, slot: usize, max_cached_files: u64) -> Self {
        Self { page, slot, max_cached_files }
    }

    /// Clears the numbers of a slot whose reader has exited.
    pub fn clear(page: &SharedCells, slot: usize) {
        page.cells()[slot * CELLS_PER_SLOT..][..CELLS_PER_SLOT]
            .iter()
            .for_each(|cell| cell.store(0, Relaxed));
    }

    fn cell(&self, slot: usize, which: usize) -> &AtomicU64 {
        &self.page.cells()[slot * CELLS_PER_SLOT + which]
    }

    /// Runs `act`, which may hang, and publishes `hashes` while it runs.
    pub fn while_published<T>(&self, hashes: InProgress, act: impl FnOnce() -> T) -> T {
        self.publish(hashes);
        let result = act();
        self.publish([0; 3]);
        result
    }

    fn publish(&self, hashes: InProgress) {
        hashes.into_iter().enumerate().for_each(|(at, hash)| self.cell(self.slot, at).store(hash, Relaxed));
    }

    /// What the other readers of the class are reading now. Only one reader is active, so the others are stuck there.
    pub fn hung(&self) -> Vec<InProgress> {
        let others = (0..SLOTS_PER_CLASS).filter(|slot| *slot != self.slot);
        let in_progress = others.map(|slot| std::array::from_fn(|at| self.cell(slot, at).load(Relaxed)));
        in_progress.filter(|hashes: &InProgress| hashes[0] != 0).collect()
    }

    /// Whether a reader of the class has been ready before. If so, a path that is missing now was removed since; its
    /// flag is not a mistake.
    pub fn was_ready(&self) -> bool {
        self.page.cells()[READY_CELL].load(Relaxed) != 0
    }

    /// Records that a reader is ready.
    pub fn set_ready(&self) {
        self.page.cells()[READY_CELL].store(1, Relaxed);
    }

    /// How many files all readers of the class cache.
    pub fn cached_files(&self) -> u64 {
        let count = |slot| self.cell(slot, CACHED_FILES_CELL).load(Relaxed);
        (0..SLOTS_PER_CLASS).map(count).fold(0, u64::saturating_add)
    }

    /// Caches a file; none if the budget is used up, and the file is closed.
    pub fn try_cache(self: &Rc<Self>, file: OwnedFd) -> Option<CachedFile> {
        (self.cached_files() < self.max_cached_files).then(|| {
            self.cell(self.slot, CACHED_FILES_CELL).fetch_add(1, Relaxed);
            CachedFile { file, shared: self.clone() }
        })
    }
}

/// A file that stays open, counted in the shared page until it is dropped.
#[derive(Debug)]
pub struct CachedFile {
    pub file: OwnedFd,
    shared: Rc<SharedState>,
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        self.shared.cell(self.shared.slot, CACHED_FILES_CELL).fetch_sub(1, Relaxed);
    }
}

/// What is cached of a source, by the device that its first wildcard matches.
#[derive(Debug, Default)]
pub struct Cache {
    devices: HashMap<Vec<u8>, Device>,
    /// The number of this read.
    pub round: u64,
}

/// What is cached of a device.
#[derive(Debug, Default)]
pub struct Device {
    /// The inode behind its name. After a rename, files that are open still show the device that had the name before.
    inode: u64,
    /// The length of its name.
    pub name_length: usize,
    /// Its directory, to open files in it without resolving the whole path each time.
    pub dir: Option<OwnedFd>,
    /// Until this round none of the source's files are looked for: there were none.
    pub absent_until: u64,
    /// Its files and their names, in the order of the pattern.
    pub files: Vec<(Vec<u8>, File)>,
    round: u64,
}

/// What is cached of a file.
#[derive(Debug, Default)]
pub struct File {
    /// A combination of the inodes that the wildcards of its path matched.
    pub inodes: u64,
    /// Its cached descriptor, if any.
    pub open: Option<CachedFile>,
    /// It is absent, and is not looked for until this round.
    pub absent_until: u64,
}

impl Device {
    /// A device of which nothing is cached.
    pub fn new(name: &[u8]) -> Self {
        Self { name_length: name.len(), ..Self::default() }
    }
}

impl Cache {
    /// What is cached of a device: nothing if another device has its name now. None if there are too many devices.
    pub fn device(&mut self, name: &[u8], inode: u64) -> Option<&mut Device> {
        if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(name) {
            return None;
        }
        let device = self.devices.entry(name.to_vec()).or_insert_with(|| Device::new(name));
        if device.inode != inode {
            *device = Device::new(name);
        }
        (device.inode, device.round) = (inode, self.round);
        Some(device)
    }

    /// Ends a round that saw every device: forgets those that were not seen.
    pub fn end_round(&mut self) {
        self.devices.retain(|_, device| device.round == self.round);
    }
}

/// The round in which to look for an absent file again. It depends on the name, so that not all are looked for in the
/// same round.
pub fn retry_after(round: u64, name: &[u8]) -> u64 {
    let spread: u64 = name.iter().map(|&byte| u64::from(byte)).sum();
    round + RETRY_AFTER_READS - spread % (RETRY_AFTER_READS / 2)
}

#[cfg(test)]
mod tests;
