//! Capabilities and no_new_privs: capabilities(7), prctl(2).
//!
//! Capabilities belong to a thread: drop them before any other thread is started.

use caps::{CapSet, CapsHashSet};

use crate::Layer;

const SETS: [CapSet; 4] = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient];

/// Refuses to start with privilege that was not asked for: it is a mistake in a manifest, and once it is dropped nobody
/// notices it. The error says what to do.
pub fn refuse_privilege(allow_root: bool, allow_capabilities: bool) -> Result<(), String> {
    let is_root = rustix::process::getuid().is_root() || rustix::process::geteuid().is_root();
    if is_root && !allow_root {
        return Err("running as uid 0: run as another uid, or pass --allow-root".to_owned());
    }
    let held = held().map_err(|error| error.to_string())?;
    if !held.is_empty() && !allow_capabilities {
        let held = held.join(" ");
        return Err(format!(
            "started with capabilities ({held}): drop them all, or pass --allow-capabilities"
        ));
    }
    Ok(())
}

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

/// Drops every capability from every set. The bounding set needs CAP_SETPCAP for that; without it, no_new_privs keeps
/// anything from being regained.
pub fn drop_all() -> Layer {
    Layer::from_result("capabilities", try_drop_all())
}

fn try_drop_all() -> Result<String, caps::errors::CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    let bounding = match caps::clear(None, CapSet::Bounding) {
        Ok(()) => "bounding set empty",
        Err(_) => {
            "bounding set not dropped, which needs CAP_SETPCAP: no_new_privs keeps it from having an effect"
        }
    };
    for set in SETS {
        caps::clear(None, set)?;
    }
    let left = held()?;
    if left.is_empty() {
        Ok(format!("none held; {bounding}"))
    } else {
        Err(format!("still held: {}", left.join(" ")).as_str().into())
    }
}

/// Sets no_new_privs: no execve(2) gains privilege any more.
pub fn no_new_privs() -> Layer {
    let result = rustix::thread::set_no_new_privs(true).and_then(|()| rustix::thread::no_new_privs());
    match result {
        Ok(true) => Layer::from_result::<String>("no_new_privs", Ok("set, read back".into())),
        Ok(false) => Layer::from_result("no_new_privs", Err("not set after prctl")),
        Err(errno) => Layer::from_result("no_new_privs", Err(errno)),
    }
}
