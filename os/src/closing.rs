//! Closing files without sleeping for long. close(2), socket(7), timer_create(2)

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr;
use std::time::Duration;

/// The most time that a close sleeps before a signal interrupts it, as that of a TCP socket with SO_LINGER.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(10);

const INTERRUPT_SIGNAL: libc::c_int = libc::SIGALRM;

extern "C" fn do_nothing(_: libc::c_int) {}

/// Installs an empty handler for the signal that interrupts a close. Call it once, before any [`InterruptedCloser`] is
/// made.
pub fn install_handler() -> io::Result<()> {
    // SAFETY: an action of zeroes is a valid one, with an empty mask and without SA_RESTART; the handler does nothing.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(INTERRUPT_SIGNAL, &raw const action, ptr::null_mut()) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes files on one thread, which gets a signal at each interval of a timer as long as a close sleeps.
#[derive(Debug)]
pub struct InterruptedCloser {
    timer: Option<libc::timer_t>,
}

impl InterruptedCloser {
    /// For the calling thread, which alone may use it. If no timer can be made, closes are not interrupted.
    #[expect(clippy::new_without_default, reason = "it belongs to the calling thread")]
    pub fn new() -> Self {
        let mut timer = MaybeUninit::<libc::timer_t>::uninit();
        // SAFETY: an event of zeroes is a valid one; `event` and `timer` outlive the call, which fills `timer` in when
        // it succeeds. The thread that is to be signalled is the caller.
        let timer = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = INTERRUPT_SIGNAL;
            event.sigev_notify_thread_id = libc::gettid();
            match libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr()) {
                0 => Some(timer.assume_init()),
                _ => None,
            }
        };
        Self { timer }
    }

    /// Closes a file.
    pub fn close(&self, file: OwnedFd) {
        // The timer is periodic: a signal that arrives before the close has begun interrupts nothing.
        self.set_timer(CLOSE_TIMEOUT);
        drop(file);
        self.set_timer(Duration::ZERO);
    }

    fn set_timer(&self, interval: Duration) {
        let Some(timer) = self.timer else { return };
        let interval = libc::timespec { tv_sec: 0, tv_nsec: interval.subsec_nanos().into() };
        let timer_value = libc::itimerspec { it_interval: interval, it_value: interval };
        // SAFETY: the timer was made by timer_create and is never deleted; `timer_value` outlives the call.
        unsafe { libc::timer_settime(timer, 0, &raw const timer_value, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    /// A TCP socket whose close sleeps for half a minute.
    fn lingering() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.accept().unwrap().0;
        stream.set_nonblocking(true).unwrap();
        // The peer's buffer may grow and take more: fill it until it stays full, else nothing lingers.
        let mut full_for = 0;
        for _ in 0..100_000 {
            if stream.write(&[0; 64 << 10]).is_ok() {
                full_for = 0;
            } else if full_for < 20 {
                full_for += 1;
                std::thread::sleep(Duration::from_millis(5));
            } else {
                break;
            }
        }
        stream.set_nonblocking(false).unwrap();
        let linger = libc::linger { l_onoff: 1, l_linger: 30 };
        let length = size_of::<libc::linger>() as libc::socklen_t;
        // SAFETY: the descriptor is open, and the kernel is given the size of the value.
        let set = unsafe {
            let linger = (&raw const linger).cast();
            libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, linger, length)
        };
        assert_eq!(set, 0);
        (stream, peer)
    }

    #[test]
    fn a_lingering_socket_is_closed_at_once() {
        let _tested = crate::signals::TESTED.lock();
        install_handler().unwrap();
        let closer = InterruptedCloser::new();
        let (stream, _peer) = lingering();
        let start = Instant::now();
        closer.close(stream.into());
        let took = start.elapsed();
        assert!(took > CLOSE_TIMEOUT / 2, "it did not linger: {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}
