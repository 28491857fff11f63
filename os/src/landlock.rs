//! Landlock: which files a thread may reach, whatever its uid. <https://docs.kernel.org/userspace-api/landlock.html>
//!
//! Best effort: what the running kernel's ABI does not know is left out, and the layer says so. An enforced domain
//! also refuses every `/proc/<pid>/{root,environ,mem,io,...}` of other processes, even to uid 0; to a process with
//! CAP_PERFMON not all of them, so that capabilities must go as well.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::Layer;

/// The newest ABI whose rights are asked for.
const NEWEST: ABI = ABI::V9;

/// What may still be done below a directory that was opened before.
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

/// Restricts the calling thread and those that it starts later to `grants`; everything else is refused, TCP bind
/// and connect included.
pub fn restrict(grants: &[Grant<'_>]) -> Layer {
    layer(restrict_rights(AccessFs::from_all(NEWEST), grants))
}

fn layer(restricted: Result<RulesetStatus, RulesetError>) -> Layer {
    match restricted {
        Ok(status) => {
            let (in_force, detail) = match status {
                RulesetStatus::FullyEnforced => (true, "enforced, all rights of its newest ABI".to_owned()),
                RulesetStatus::PartiallyEnforced => {
                    (true, "enforced, as far as this kernel's ABI goes".to_owned())
                }
                RulesetStatus::NotEnforced => {
                    (false, "this kernel has no Landlock, or it is switched off".to_owned())
                }
            };
            Layer { name: "landlock", in_force, detail }
        }
        Err(error) => Layer { name: "landlock", in_force: false, detail: error.to_string() },
    }
}

/// Refuses the calling thread and what it starts later everything but reading. Without a rule for any path: what a
/// process may read is for the process itself to give up.
pub fn restrict_all_but_reading() -> Layer {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    layer(restrict_rights(AccessFs::from_all(NEWEST) & !reading, &[]))
}

fn restrict_rights(handled: BitFlags<AccessFs>, grants: &[Grant<'_>]) -> Result<RulesetStatus, RulesetError> {
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
    Ok(ruleset.restrict_self()?.ruleset)
}
