//! Child processes of a program of one thread: fork(2), pidfd_open(2), waitpid(2).

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use crate::signals;

/// A child process. Its descriptor is readable when it has ended.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// Becomes readable when the child ends.
    pub pidfd: OwnedFd,
}

/// Why there is no child, or none whose end is seen.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// There is no child.
    #[error("fork: {0}")]
    Fork(io::Error),
    /// There is one, and nothing says when it ends.
    #[error("pidfd_open: {0}")]
    Watch(io::Error),
}

/// Forks; `child` is all that the new process does before it ends.
///
/// Only for a program that never starts a thread: another one could hold a lock that the child then waits for.
pub fn fork(child: impl FnOnce()) -> Result<Child, ForkError> {
    // SAFETY: fork takes no pointers. The program has one thread, so every lock and every invariant that the
    // child inherits is as it would be without the fork.
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
    /// How the child ended, as waitpid(2) gives it; none while it runs.
    pub fn status(&self) -> io::Result<Option<i32>> {
        Ok(waitpid(Some(self.pid), WaitOptions::NOHANG)?.map(|(_, status)| status.as_raw()))
    }
}

/// Whether the kernel has, and no filter refuses, the call that watches for the end of a child: tried on this process itself.
pub fn can_watch() -> io::Result<()> {
    pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    Ok(())
}

/// Ignores, here and in every child, the signals that ask for the end, and those that ask for nothing: these processes
/// end when the one does that started them.
pub fn ignore_signals() {
    expect_children();
    signals::ignore_stray();
    [libc::SIGHUP, libc::SIGINT, libc::SIGTERM].into_iter().for_each(signals::ignore);
}

/// Has the kernel keep how children ended until they are waited for: a parent may have asked for the opposite, and
/// that is inherited.
pub fn expect_children() {
    // SAFETY: signal with SIG_DFL installs no code of this program.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}

/// Ends the process at once: one system call, and nothing of what a library would do at the end.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit takes a number and does not return. Nothing that runs at an ordinary end matters here.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_seen_to_end_with_its_status() {
        let child = fork(|| exit(7)).unwrap();
        let mut fds = [rustix::event::PollFd::new(&child.pidfd, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1);
        assert_eq!(child.status().unwrap(), Some(7 << 8));
    }
}
