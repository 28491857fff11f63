//! What the running kernel has of Landlock.

/// The newest ABI version; 0 without Landlock.
pub fn abi() -> i64 {
    const LANDLOCK_CREATE_RULESET_VERSION: u64 = 1;
    // SAFETY: with this flag and no attributes the call only returns a number.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    abi.max(0)
}
