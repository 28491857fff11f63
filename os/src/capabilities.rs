//! Capabilities and no_new_privs: capabilities(7), prctl(2).
//!
//! Capabilities belong to a thread: drop them before any other thread is started.

use caps::{CapSet, CapsHashSet};

use crate::Layer;

const SETS: [CapSet; 4] = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient];

/// The capabilities that the calling thread holds in any set but the bounding set, sorted by name.
pub fn held() -> Result<Vec<String>, caps::errors::CapsError> {
    let mut held = CapsHashSet::new();
    for set in SETS {
        held.extend(caps::read(None, set)?);
    }
    let mut names: Vec<String> = held.into_iter().map(|capability| capability.to_string()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Drops every capability from every set; those of the bounding set only with the right to do so (CAP_SETPCAP),
/// without which nothing can be regained from it under no_new_privs.
pub fn drop_all() -> Layer {
    Layer::of("capabilities", try_drop_all())
}

fn try_drop_all() -> Result<String, caps::errors::CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    let bounding = match caps::clear(None, CapSet::Bounding) {
        Ok(()) => "bounding set empty",
        Err(_) => "bounding set left, with no right to drop it: no_new_privs keeps it from mattering",
    };
    for set in SETS {
        caps::clear(None, set)?;
    }
    let left = held()?;
    match left.is_empty() {
        true => Ok(format!("none held; {bounding}")),
        false => Err(format!("still held: {}", left.join(" ")).as_str().into()),
    }
}

/// Gives up, for good, whatever an execve could gain.
pub fn no_new_privs() -> Layer {
    let result = rustix::thread::set_no_new_privs(true).and_then(|()| rustix::thread::no_new_privs());
    match result {
        Ok(true) => Layer::of::<String>("no_new_privs", Ok("set, read back".into())),
        Ok(false) => Layer::of("no_new_privs", Err("not set after prctl")),
        Err(errno) => Layer::of("no_new_privs", Err(errno)),
    }
}
