//! The sandbox mechanisms of all programs, one per file, and the few system calls that no library wraps safely.
//!
//! All `unsafe` code of the project is in this crate, each block with its reason.

pub mod capabilities;
pub mod closing;
pub mod fork;
#[cfg(feature = "hostile-code-for-tests")]
pub mod hostile;
pub mod landlock;
pub mod memory;
pub mod process;
pub mod seccomp;
pub mod shared;
pub mod signals;
pub mod socket;
mod timex;

pub use timex::{Timex, timex};

/// One layer of a sandbox, as logs and Describe report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name: `capabilities`, `no_new_privs`, `landlock`, `seccomp`, ...
    pub name: &'static str,
    /// Whether it is in force.
    pub in_force: bool,
    /// How that was checked, or why it is not in force.
    pub detail: String,
}

impl Layer {
    pub(crate) fn from_result<E: std::fmt::Display>(name: &'static str, result: Result<String, E>) -> Self {
        match result {
            Ok(detail) => Self { name, in_force: true, detail },
            Err(error) => Self { name, in_force: false, detail: error.to_string() },
        }
    }
}

/// An open `/proc/thread-self/status`: it shows whether the kernel has the layers in force, also when the sandbox forbids
/// opening files.
#[derive(Debug)]
pub struct ThreadStatus(std::os::fd::OwnedFd);

impl ThreadStatus {
    /// Opens the status file of the calling thread.
    pub fn open() -> std::io::Result<Self> {
        Ok(Self(std::fs::File::open("/proc/thread-self/status")?.into()))
    }

    /// The number of its descriptor.
    pub fn descriptor(&self) -> u32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.0).cast_unsigned()
    }

    /// The names of the layers that the kernel does not confirm for this thread.
    pub fn unconfirmed(&self) -> std::io::Result<Vec<&'static str>> {
        let mut text = [0; 8192];
        let length = rustix::io::pread(&self.0, &mut text[..], 0)?;
        let text = &text[..length];
        let has_line = |line: &str| text.windows(line.len()).any(|window| window == line.as_bytes());
        let confirmations = [
            (
                "capabilities",
                "\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n",
            ),
            ("no_new_privs", "\nNoNewPrivs:\t1\n"),
            ("seccomp", "\nSeccomp:\t2\n"),
        ];
        Ok(confirmations.into_iter().filter(|(_, line)| !has_line(line)).map(|(name, _)| name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_a_filter_is_not_confirmed_to_have_one() {
        let status = ThreadStatus::open().unwrap();
        assert!(status.unconfirmed().unwrap().contains(&"seccomp"));
    }
}
