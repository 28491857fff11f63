//! The page that the readers of one class share. Readers are processes: here a child process is another reader.

use keyhole_os::fork::{self, Child};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

/// Runs another reader of the class in a slot until it exits; it clears nothing of what it wrote.
fn other_reader(pages: &mut Vec<SharedCells>, slot: usize, act: impl FnOnce(Rc<SharedState>)) {
    let child = fork::fork(|| {
        act(Rc::new(SharedState::new(pages.pop().unwrap(), slot, 5)));
        fork::exit(0)
    });
    let child: Child = child.unwrap();
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&limit)), Ok(1));
    assert_eq!(child.status().unwrap(), Some(0));
}

#[test]
fn descriptors_are_bounded_for_all_readers_of_a_class_together() {
    let mut pages = vec![SharedCells::new().unwrap()];
    let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    // Forgotten, as by a reader that is killed.
    other_reader(&mut pages, 1, |shared| {
        std::mem::forget([(); 2].map(|()| shared.try_cache(file()).unwrap()))
    });
    let shared = Rc::new(SharedState::new(pages.pop().unwrap(), 0, 5));
    assert_eq!(shared.cached_files(), 2);
    let cached: Vec<CachedFile> = std::iter::from_fn(|| shared.try_cache(file())).take(9).collect();
    assert_eq!((cached.len(), shared.cached_files()), (3, 5));
    drop(cached);
    assert_eq!(shared.cached_files(), 2, "the other reader's files are not returned");
    SharedState::clear(&shared.page, 1);
    assert_eq!(shared.cached_files(), 0, "the files of a reader that has exited");
}

#[test]
fn what_a_reader_reads_is_visible_to_the_others_and_not_to_itself() {
    let mut pages = vec![SharedCells::new().unwrap()];
    for slot in [1, SLOTS_PER_CLASS - 1] {
        other_reader(&mut pages, slot, |shared| shared.publish([hash(b"/mnt"), 7, 0]));
    }
    let shared = SharedState::new(pages.pop().unwrap(), 0, 5);
    shared.publish([hash(b"/own"), 8, 9]);
    assert_eq!(shared.hung(), [[hash(b"/mnt"), 7, 0]; 2]);
    SharedState::clear(&shared.page, 1);
    assert_eq!(shared.hung(), [[hash(b"/mnt"), 7, 0]]);
}

#[test]
fn the_hash_of_a_path_is_not_zero_and_differs_for_similar_paths() {
    assert_ne!(hash(b""), 0);
    let hashes: std::collections::HashSet<u64> =
        (0..10_000).map(|number| hash(format!("/mnt/volume-{number}").as_bytes())).collect();
    assert_eq!(hashes.len(), 10_000);
    // A test vector of the reference implementation (FNV-1a, 64 bits).
    assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
}
