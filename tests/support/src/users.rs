//! The uids that the programs run as, and threads that become another user.

use rustix::process::{geteuid, getgid, getuid};

/// The uids that the manifests use. The broker's is also the group that the socket belongs to.
pub const BROKER_UID: u32 = 64646;
pub const EXPORTER_UID: u32 = 64647;
/// A uid that no broker of these tests allows.
pub const DENIED_UID: u32 = 64648;

pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether a test that needs root must run: CI sets `KEYHOLE_REQUIRE_ROOT`, so that nothing is skipped there.
pub fn root_is_required() -> bool {
    std::env::var_os("KEYHOLE_REQUIRE_ROOT").is_some()
}

/// Whether a test that needs root for this purpose can run. Prints that it is skipped otherwise, and panics where root is
/// required.
pub fn root_for(purpose: &str) -> bool {
    if is_root() {
        return true;
    }
    assert!(
        !root_is_required(),
        "KEYHOLE_REQUIRE_ROOT is set, and this is not root: it is needed to {purpose}"
    );
    eprintln!("skipped: root is needed to {purpose}");
    false
}

/// The uid that a broker of these tests has.
pub fn broker_uid() -> u32 {
    if is_root() { BROKER_UID } else { getuid().as_raw() }
}

pub fn broker_gid() -> u32 {
    if is_root() { BROKER_UID } else { getgid().as_raw() }
}

/// Runs `act` on a thread with another uid and group, if this is root.
pub fn run_as<T: Send>(uid: u32, gid: u32, act: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let act = || {
        if is_root() && uid != 0 {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
        }
        act()
    };
    std::thread::scope(|scope| {
        scope.spawn(act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
