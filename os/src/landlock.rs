//! Landlock: which files a thread may reach, whatever its uid. <https://docs.kernel.org/userspace-api/landlock.html>
//!
//! Best effort: rights that the running kernel's ABI does not have are left out, and the layer's detail says so. A process
//! under Landlock is also refused every `/proc/<pid>/{root,environ,mem,io,...}` of other processes, even as uid 0; with
//! CAP_PERFMON not all of them, so capabilities must be dropped as well.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::Layer;

/// The newest ABI whose rights are handled.
const NEWEST: ABI = ABI::V9;

/// What is allowed below an open directory.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'fd> {
    /// The directory.
    pub dir: BorrowedFd<'fd>,
    /// The right.
    pub right: Right,
}

/// A right below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Open files to read, list directories.
    Read,
    /// Unlink files, and nothing else.
    Unlink,
    /// Connect to Unix sockets (a right of its own since ABI 9).
    Connect,
}

/// What cannot be limited before an ABI. ABI 2 only allows what ABI 1 always refuses (links and renames across
/// directories); ABI 7 (logging) and 8 (all threads at once) have no new right.
const LIMITS: &[(i32, &str)] = &[
    (3, "truncating files"),
    (4, "TCP"),
    (5, "ioctl on devices"),
    (6, "signals and abstract Unix sockets"),
    (9, "connecting to Unix sockets"),
];

/// Restricts the calling thread, and threads and processes that it starts later, to `grants`. Everything else is refused,
/// TCP bind and connect included.
pub fn restrict(grants: &[Grant<'_>]) -> Layer {
    layer(restrict_rights(AccessFs::from_all(NEWEST), grants))
}

/// Restricts the calling thread, and threads and processes that it starts later, to reading, below any path: each reader
/// restricts itself further.
pub fn restrict_to_reading() -> Layer {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    layer(restrict_rights(AccessFs::from_all(NEWEST) & !reading, &[]))
}

fn layer(restricted: Result<RestrictionStatus, RulesetError>) -> Layer {
    let (in_force, detail) = match restricted {
        Ok(RestrictionStatus { ruleset: RulesetStatus::NotEnforced, .. }) => {
            (false, "this kernel has no Landlock, or it is switched off".to_owned())
        }
        Ok(status) => (true, detail(kernel_abi(status.landlock))),
        Err(error) => (false, error.to_string()),
    };
    Layer { name: "landlock", in_force, detail }
}

/// The newest ABI that the kernel has; 0 where it has none.
fn kernel_abi(status: LandlockStatus) -> i32 {
    match status {
        LandlockStatus::Available { effective_abi, kernel_abi } => kernel_abi.unwrap_or(effective_abi as i32),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    }
}

/// Which ABI is in force on a kernel with ABI `kernel`, and what it cannot limit.
fn detail(kernel: i32) -> String {
    let newest = NEWEST as i32;
    let unlimited: Vec<String> = LIMITS
        .iter()
        .filter(|(since, _)| *since > kernel)
        .map(|(since, what)| format!("{what} (from ABI {since})"))
        .collect();
    if !unlimited.is_empty() {
        format!("ABI {kernel} of {newest}: no limit on {}", unlimited.join(", "))
    } else if kernel > newest {
        format!("ABI {newest} of this kernel's {kernel}: every right that ABI {newest} has")
    } else {
        format!("ABI {kernel} of {newest}: every right that it has")
    }
}

fn restrict_rights(
    handled: BitFlags<AccessFs>,
    grants: &[Grant<'_>],
) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for grant in grants {
        let rights: BitFlags<AccessFs> = match grant.right {
            Right::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Right::Unlink => AccessFs::RemoveFile.into(),
            Right::Connect => AccessFs::ResolveUnix.into(),
        };
        ruleset = ruleset.add_rule(PathBeneath::new(grant.dir, rights))?;
    }
    ruleset.restrict_self()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_names_the_abi_and_what_it_cannot_limit() {
        let unix = "connecting to Unix sockets (from ABI 9)";
        let signals = "signals and abstract Unix sockets (from ABI 6)";
        let ioctl = "ioctl on devices (from ABI 5)";
        let tcp = "TCP (from ABI 4)";
        let truncate = "truncating files (from ABI 3)";
        let no_limit = |abi: i32, on: &[&str]| format!("ABI {abi} of 9: no limit on {}", on.join(", "));
        for (abi, expected) in [
            (1, no_limit(1, &[truncate, tcp, ioctl, signals, unix])),
            (2, no_limit(2, &[truncate, tcp, ioctl, signals, unix])),
            (3, no_limit(3, &[tcp, ioctl, signals, unix])),
            (4, no_limit(4, &[ioctl, signals, unix])),
            (5, no_limit(5, &[signals, unix])),
            (6, no_limit(6, &[unix])),
            (7, no_limit(7, &[unix])),
            (8, no_limit(8, &[unix])),
            (9, "ABI 9 of 9: every right that it has".into()),
            (10, "ABI 9 of this kernel's 10: every right that ABI 9 has".into()),
        ] {
            assert_eq!(detail(abi), expected);
        }
    }

    /// The table agrees with the library.
    #[test]
    fn the_table_has_each_abi_with_a_new_right() {
        let abis = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6, ABI::V7, ABI::V8, ABI::V9];
        let rights = |abi| (AccessFs::from_all(abi), AccessNet::from_all(abi), Scope::from_all(abi));
        for pair in abis.windows(2) {
            let (older, newer) = (pair[0], pair[1]);
            let is_new = rights(older) != rights(newer);
            let is_listed = newer == ABI::V2 || LIMITS.iter().any(|(since, _)| *since == newer as i32);
            assert_eq!(is_new, is_listed, "{newer:?}");
        }
    }

    #[test]
    fn the_detail_names_this_kernels_abi() {
        const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
        let (nothing, none) = (std::ptr::null::<libc::c_void>(), 0usize);
        // SAFETY: without attributes and with this flag the call only returns the kernel's ABI.
        let abi = unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, nothing, none, LANDLOCK_CREATE_RULESET_VERSION)
        };
        let layer = std::thread::spawn(|| restrict(&[])).join().unwrap();
        assert_eq!(layer.in_force, abi > 0, "{}", layer.detail);
        assert!(!layer.in_force || layer.detail == detail(abi as i32), "{}", layer.detail);
    }
}
