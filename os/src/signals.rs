//! Stray signals: they ask a server for nothing, but by default terminate or stop it. signal(7)

use std::ptr;

/// By default these terminate a process (the last two stop it), and none of them reports a fault of the process.
///
/// Not among them: SIGINT, SIGTERM and SIGHUP ask a process to stop, SIGQUIT to stop at once, SIGXCPU is a limit that
/// somebody set, SIGTSTP is Ctrl-Z in a terminal, and the others are faults.
const STRAY: [libc::c_int; 12] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGPIPE,
    // A log file has reached RLIMIT_FSIZE: the write fails instead.
    libc::SIGXFSZ,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Ignores stray signals in every thread and every child. Call it before the sandbox, which forbids it.
pub fn ignore_stray() {
    STRAY.into_iter().for_each(ignore);
    // The signals below SIGRTMIN are the C library's.
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).for_each(ignore);
}

/// Whether SIGHUP was ignored when the program started, as by nohup(1).
pub fn hangup_is_ignored() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is given, and `action` outlives the call, which fills it in when it succeeds.
    unsafe {
        libc::sigaction(libc::SIGHUP, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

pub(crate) fn ignore(signal: libc::c_int) {
    // SAFETY: signal with SIG_IGN installs no code of this program.
    unsafe {
        libc::signal(signal, libc::SIG_IGN);
    }
}

/// Held by each test that changes signal actions, which belong to the whole process.
#[cfg(test)]
pub(crate) static TESTED: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stray_signals_are_ignored_and_those_that_ask_to_stop_are_not() {
        let _tested = TESTED.lock();
        ignore_stray();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
        let ignored = u64::from_str_radix(line, 16).unwrap();
        let is_ignored = |signal: libc::c_int| ignored & (1 << (signal - 1)) != 0;
        for signal in STRAY.into_iter().chain([libc::SIGRTMIN(), libc::SIGRTMAX()]) {
            assert!(is_ignored(signal), "{signal}");
        }
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGSEGV, libc::SIGCHLD] {
            assert!(!is_ignored(signal), "{signal}");
        }
        assert_eq!(hangup_is_ignored(), is_ignored(libc::SIGHUP));
    }
}
