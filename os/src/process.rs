//! What a process inherits and leaves behind: descriptors, environment, core dumps, resource limits.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::Layer;

/// Closes every descriptor but the three standard ones, so that nothing a parent left open can be used.
///
/// Call it first: this process must not have opened anything yet.
pub fn close_inherited() {
    // SAFETY: close_range takes no pointers. The caller has opened nothing yet, so no descriptor that is closed
    // here belongs to a value of this process. It fails before Linux 5.9; no query can reach the descriptors then.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32);
    }
}

/// Takes ownership of the inherited descriptors with these numbers, and closes every other but the three standard ones.
/// An error for a number that is given twice, is that of a standard descriptor or is not open.
///
/// Call it first: this process must not have opened anything yet.
pub fn take_inherited(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let distinct = sorted.windows(2).all(|pair| pair[0] != pair[1]);
    if !distinct || sorted.first().is_some_and(|lowest| *lowest < 3) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut next = 3;
    for number in sorted.iter().copied().chain([-1]) {
        let number = number as u32;
        if next < number {
            // SAFETY: close_range takes no pointers, and the caller has opened nothing yet.
            unsafe {
                libc::syscall(libc::SYS_close_range, next, number - 1, 0u32);
            }
        }
        next = number.wrapping_add(1);
    }
    let take = |&number| {
        // SAFETY: fcntl with F_SETFD takes numbers alone.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fcntl has shown that it is open. The numbers are distinct, and nothing in this process owns one.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    };
    numbers.iter().map(take).collect()
}

/// Removes every variable from the environment and overwrites their memory with zeros.
///
/// No variable is read later, and they may hold secrets of the process' parent: `/proc/PID/environ` would show
/// them as long as the process lives, even if the list of variables is empty.
///
/// Call it before any thread is started and before any variable is changed: a string that is no longer in the list would
/// stay in memory.
pub fn clear_environment() {
    clear(|_| {});
}

/// Clears the environment in the same way, and returns the variables whose names begin with `prefix`. Of others nothing
/// is copied.
pub fn take_environment(prefix: &str) -> Vec<(OsString, OsString)> {
    let mut taken = Vec::new();
    clear(|variable| {
        let end = variable.iter().position(|byte| *byte == b'=');
        if let Some(end) = end.filter(|_| variable.starts_with(prefix.as_bytes())) {
            let text = |bytes| OsStr::from_bytes(bytes).to_owned();
            taken.push((text(&variable[..end]), text(&variable[end + 1..])));
        }
    });
    taken
}

/// Shows each variable, as `NAME=value`, and clears the environment.
fn clear(mut show: impl FnMut(&[u8])) {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: the program has started no thread that could read the environment meanwhile. `environ` is null or a list
    // that ends in null, of strings that end in zero. The strings lie on the stack, where the kernel wrote them, or on
    // the heap, where setenv did: both can be written to, and nobody keeps a reference to them.
    unsafe {
        let mut variable = environ;
        while !variable.is_null() && !(*variable).is_null() {
            let bytes = std::slice::from_raw_parts_mut((*variable).cast::<u8>(), libc::strlen(*variable));
            show(bytes);
            bytes.fill(0);
            variable = variable.add(1);
        }
        libc::clearenv();
    }
}

/// Makes all threads use one heap.
///
/// Otherwise glibc gives each thread a heap of its own, which grows by mprotect(2) and shrinks by madvise(2) after reading
/// /proc/sys/vm/overcommit_memory: system calls that the sandbox would have to allow. Call it before any thread is
/// started.
pub fn use_single_heap() {
    // SAFETY: mallopt takes two numbers, and no other thread allocates yet. If it fails nothing changes.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Forbids core dumps and ptrace of this process by its own uid.
pub fn not_dumpable() -> Layer {
    let result = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map(|()| "no core dump, no ptrace by the same uid".to_owned());
    Layer::from_result("not_dumpable", result)
}

/// Sets resource limits: no core file, no locked memory, no message queues, and as many descriptors as allowed.
pub fn limits() -> Layer {
    Layer::from_result("limits", try_limits())
}

fn try_limits() -> Result<String, rustix::io::Errno> {
    for resource in [Resource::Core, Resource::Memlock, Resource::Msgqueue] {
        rustix::process::setrlimit(resource, Rlimit { current: Some(0), maximum: Some(0) })?;
    }
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?;
    let files = hard.map_or("unlimited".to_owned(), |files| files.to_string());
    Ok(format!("core 0, memlock 0, msgqueue 0, nofile {files}"))
}
