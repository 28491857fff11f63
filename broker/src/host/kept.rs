//! What a row keeps from one reading to the next: descriptors below sysfs, and the names of what was not there.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What was not found is asked for again after this many readings at most: half of what a machine could have, it has not.
pub(super) const MISSING_READINGS: u64 = 8;

/// The most directories that a row keeps anything of, and the most that one pattern is known to find nothing in.
const DIRECTORIES: usize = 4096;

/// How many more descriptors of one kind may be held.
#[derive(Debug)]
pub(super) struct Spare(Arc<AtomicUsize>);

/// One of them; it is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Spare {
    pub(super) fn of(count: u64) -> Self {
        Self(Arc::new(AtomicUsize::new(usize::try_from(count).unwrap_or(usize::MAX))))
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> Option<Permit> {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Permit(Arc::clone(&self.0)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// An open file or directory that stays so.
#[derive(Debug)]
pub(super) struct Held {
    pub descriptor: OwnedFd,
    pub _permit: Permit,
}

/// What is kept of a row.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By path; those not seen in a round are let go.
    dirs: HashMap<Vec<u8>, Dir>,
    /// Directories of devices in which a source found no name that fits, a map a source.
    barren: Vec<HashMap<Vec<u8>, Absence>>,
    /// The source that is read.
    source: usize,
    round: u64,
}

/// What is kept of a directory.
#[derive(Debug, Default)]
pub(super) struct Dir {
    /// What its path's wildcards stood for: the kernel goes on serving a device that was renamed, through what was held
    /// under its old name.
    pub identity: u64,
    /// Itself, to open files in it without following its path each time.
    pub held: Option<Held>,
    /// It is known not to be there until this round.
    pub missing_until: u64,
    /// Its files, by name.
    pub files: HashMap<Vec<u8>, Known>,
    round: u64,
}

/// What is known of a file.
#[derive(Debug)]
pub(super) enum Known {
    /// It is open, and was read in a round.
    Held { file: Held, round: u64 },
    /// It is not there, and is not looked for until a round.
    Missing { until: u64 },
}

#[derive(Debug)]
struct Absence {
    identity: u64,
    until: u64,
}

impl Kept {
    /// Begins a reading of a row with so many sources.
    pub(super) fn begin(&mut self, sources: usize) {
        self.round += 1;
        self.barren.resize_with(sources, HashMap::new);
    }

    /// Goes on with another source.
    pub(super) fn at_source(&mut self, source: usize) {
        self.source = source;
    }

    /// Ends a reading that saw everything there is.
    pub(super) fn end(&mut self) {
        let round = self.round;
        for barren in &mut self.barren {
            barren.retain(|_, absence| absence.until > round);
        }
        self.dirs.retain(|_, dir| {
            dir.files.retain(|_, known| match known {
                Known::Held { round: read, .. } => *read == round,
                Known::Missing { until } => *until > round,
            });
            dir.round == round && (dir.held.is_some() || dir.missing_until > round || !dir.files.is_empty())
        });
    }

    /// The number of this reading.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Takes out what is kept of a directory; nothing when its path stands for another by now.
    pub(super) fn take(&mut self, path: &[u8], identity: u64) -> Dir {
        let kept = self.dirs.get_mut(path).map(std::mem::take).filter(|dir| dir.identity == identity);
        Dir { identity, round: self.round, ..kept.unwrap_or_default() }
    }

    /// Puts it back.
    pub(super) fn put(&mut self, path: &[u8], dir: Dir) {
        let full = self.dirs.len() >= DIRECTORIES;
        match self.dirs.get_mut(path) {
            Some(place) => *place = dir,
            None if full => {}
            None => _ = self.dirs.insert(path.to_vec(), dir),
        }
    }

    /// Until when something that is not there is not looked for. Not all are looked for again in the same reading.
    pub(super) fn look_again(&self, path: &[u8]) -> u64 {
        let spread: u64 = path.iter().map(|&byte| u64::from(byte)).sum();
        self.round + MISSING_READINGS - spread % (MISSING_READINGS / 2)
    }

    /// Whether the source found nothing in a directory a few readings ago.
    pub(super) fn is_barren(&self, path: &[u8], identity: u64) -> bool {
        let known = |absence: &Absence| absence.identity == identity && self.round < absence.until;
        self.barren.get(self.source).and_then(|barren| barren.get(path)).is_some_and(known)
    }

    /// Remembers that the source found nothing in a directory.
    pub(super) fn is_now_barren(&mut self, path: Vec<u8>, identity: u64) {
        let until = self.look_again(&path);
        if let Some(barren) = self.barren.get_mut(self.source).filter(|barren| barren.len() < DIRECTORIES) {
            barren.insert(path, Absence { identity, until });
        }
    }

    /// How many descriptors are held: of files, and of directories.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        let files = self.dirs.values().flat_map(|dir| dir.files.values());
        let held = files.filter(|known| matches!(known, Known::Held { .. })).count();
        (held, self.dirs.values().filter(|dir| dir.held.is_some()).count())
    }
}
