//! A page of numbers that a process shares with the children that it forks later: mmap(2).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// How many numbers there are.
pub const CELLS: usize = 512;

/// A page of [`CELLS`] numbers, all 0 at first. Dropping it takes it out of this process alone.
#[derive(Debug)]
pub struct SharedCells(NonNull<[AtomicU64; CELLS]>);

impl SharedCells {
    /// Maps a page.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new mapping of memory at an address that the kernel chooses touches nothing that exists.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<[AtomicU64; CELLS]>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(page.cast()) {
            Some(cells) if page != libc::MAP_FAILED => Ok(Self(cells)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The numbers.
    pub fn cells(&self) -> &[AtomicU64; CELLS] {
        // SAFETY: the page is mapped for as long as `self` lives, is aligned, and any bytes are numbers. Anything
        // else that writes to it does so by atomic operations, or is another process.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedCells {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `new`, and nothing borrows it any more. It cannot fail.
        unsafe {
            libc::munmap(self.0.as_ptr().cast(), size_of::<[AtomicU64; CELLS]>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_a_child_writes_is_seen_by_its_parent() {
        let shared = SharedCells::new().unwrap();
        assert!(shared.cells().iter().all(|cell| cell.load(Relaxed) == 0));
        let child = crate::fork::fork(|| {
            shared.cells()[CELLS - 1].store(42, Relaxed);
            crate::fork::exit(0)
        });
        let child = child.unwrap();
        while child.status().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(shared.cells()[CELLS - 1].load(Relaxed), 42);
    }
}
