//! What the readers of one class share. They are processes: here a child is another reader.

use keyhole_os::fork::{self, Child};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

/// Another reader of the class, in a slot; it has ended when this returns, and has given nothing back.
fn other_reader(pages: &mut Vec<SharedCells>, slot: usize, act: impl FnOnce(Rc<Shared>)) {
    let child = fork::fork(|| {
        act(Rc::new(Shared::new(pages.pop().unwrap(), slot)));
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
    other_reader(&mut pages, 1, |shared| {
        let permits = [(); 2].map(|()| Budget::files(&shared, 5).take());
        // As a reader that is killed does.
        std::mem::forget((permits, Budget::directories(&shared, 5).take()));
    });
    let shared = Rc::new(Shared::new(pages.pop().unwrap(), 0));
    let files = Budget::files(&shared, 5);
    assert_eq!(files.used(), 2);
    let permits: Vec<Permit> = std::iter::from_fn(|| files.take()).collect();
    assert_eq!((permits.len(), files.used()), (3, 5));
    assert_eq!(Budget::directories(&shared, 5).used(), 1, "counted by itself");
    drop(permits);
    assert_eq!(files.used(), 2, "what another reader has is not given back here");
    Shared::clear(&shared.page, 1);
    assert_eq!(files.used(), 0, "what a reader had that has ended");
    assert!(Budget::files(&shared, 0).take().is_none());
}

#[test]
fn what_a_reader_asks_is_known_to_the_others_and_not_to_itself() {
    let mut pages = vec![SharedCells::new().unwrap()];
    for slot in [1, SLOTS_PER_CLASS - 1] {
        other_reader(&mut pages, slot, |shared| shared.ask(hash(b"/mnt")));
    }
    let shared = Shared::new(pages.pop().unwrap(), 0);
    shared.ask(hash(b"/own"));
    assert_eq!(shared.hung(), [hash(b"/mnt"); 2]);
    Shared::clear(&shared.page, 1);
    assert_eq!(shared.hung(), [hash(b"/mnt")]);
}

#[test]
fn a_paths_hash_is_never_nothing_and_differs_from_its_neighbours() {
    assert_ne!(hash(b""), 0);
    let hashes: std::collections::HashSet<u64> =
        (0..10_000).map(|number| hash(format!("/mnt/volume-{number}").as_bytes())).collect();
    assert_eq!(hashes.len(), 10_000);
    // The reference's own (FNV-1a, 64 bits).
    assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
}
