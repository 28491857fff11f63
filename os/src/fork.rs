//! Child processes of a single-threaded program: fork(2), pidfd_open(2), waitpid(2).

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use crate::signals;

/// A child process.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// Becomes readable when the child exits.
    pub pidfd: OwnedFd,
}

/// Why there is no child, or none whose exit can be noticed.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// There is no child.
    #[error("fork: {0}")]
    Fork(io::Error),
    /// The child runs, but its exit cannot be noticed.
    #[error("pidfd_open: {0}")]
    Watch(io::Error),
}

/// Forks; the new process runs `child` and exits.
///
/// Only for a program that never starts a thread: a thread could hold a lock for which the child would wait forever.
pub fn fork(child: impl FnOnce()) -> Result<Child, ForkError> {
    // SAFETY: fork takes no pointers. The program has one thread, so no lock is held and no invariant is broken in the
    // child.
    let pid = unsafe { libc::fork() };
    match Pid::from_raw(pid) {
        None => {
            child();
            exit(0)
        }
        Some(_) if pid < 0 => Err(ForkError::Fork(io::Error::last_os_error())),
        Some(pid) => match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Child { pid, pidfd }),
            Err(errno) => Err(ForkError::Watch(errno.into())),
        },
    }
}

impl Child {
    /// The child's wait status, see waitpid(2); none while it runs.
    pub fn status(&self) -> io::Result<Option<i32>> {
        Ok(waitpid(Some(self.pid), WaitOptions::NOHANG)?.map(|(_, status)| status.as_raw()))
    }
}

/// Checks that pidfd_open(2) works, which an old kernel or a seccomp profile may refuse: on this process itself.
pub fn check_pidfd_open() -> io::Result<()> {
    pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    Ok(())
}

/// Ignores, here and in every child, the signals that ask a process to stop, and stray ones: these processes exit when
/// the one that started them does.
pub fn ignore_signals() {
    reset_sigchld();
    signals::ignore_stray();
    [libc::SIGHUP, libc::SIGINT, libc::SIGTERM].into_iter().for_each(signals::ignore);
}

/// Resets SIGCHLD to its default, so that the wait status of children is kept. A parent may have set it to be ignored,
/// which is inherited.
pub fn reset_sigchld() {
    // SAFETY: signal with SIG_DFL installs no code of this program.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}

/// Exits at once by one system call, without exit handlers.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit takes a number and does not return. No exit handler matters here.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_of_a_child_is_noticed_with_its_status() {
        let child = fork(|| exit(7)).unwrap();
        let mut fds = [rustix::event::PollFd::new(&child.pidfd, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1);
        assert_eq!(child.status().unwrap(), Some(7 << 8));
    }
}
