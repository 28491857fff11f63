//! A memory page that a process shares with the children that it forks later: mmap(2).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// How many numbers a page holds.
pub const CELLS: usize = 512;

/// A page of [`CELLS`] numbers, all 0 at first. Dropping it unmaps it from this process only.
#[derive(Debug)]
pub struct SharedCells(NonNull<[AtomicU64; CELLS]>);

impl SharedCells {
    /// Maps a page.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses does not affect existing memory.
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
        // SAFETY: the page is mapped as long as `self` lives and is aligned, and any bytes are valid numbers. This process
        // writes to it only by atomic operations.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedCells {
    fn drop(&mut self) {
        // SAFETY: `new` mapped the page, and nothing borrows it any more.
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
    fn a_parent_sees_what_its_child_writes() {
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
