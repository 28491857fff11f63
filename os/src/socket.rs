//! Socket options that no library has yet. unix(7)

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::Layer;

/// Whether a Unix socket accepts descriptors that a peer passes along: Linux 6.16 and later, the same number on x86_64 and
/// aarch64.
pub const SO_PASSRIGHTS: libc::c_int = 83;

/// The most bytes of the path of a Unix socket: the kernel's field has 108, of which the last is zero.
pub const MAX_PATH_BYTES: usize = 107;

/// What is wrong with the path of a Unix socket that has so many bytes, and what to do; none if it fits.
pub fn path_length_error(bytes: usize) -> Option<String> {
    (bytes > MAX_PATH_BYTES).then(|| {
        format!(
            "{bytes} bytes, and the path of a socket has {MAX_PATH_BYTES} at most: use a shorter one, or a symbolic \
             link to its directory"
        )
    })
}

/// Makes the kernel refuse descriptors that peers pass along, on this socket and on those accepted from it.
///
/// Otherwise a peer could pass a descriptor whose close sleeps (a TCP socket with SO_LINGER and unsent data), and make
/// the thread sleep that reads from the connection or closes it.
pub fn refuse_passed_descriptors(listener: impl AsFd) -> Layer {
    let off: libc::c_int = 0;
    // SAFETY: the descriptor is open for the call, and the value is an int of which the kernel is given the size.
    let done = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    let result = match done {
        0 => Ok("the kernel refuses descriptors that peers pass along".to_owned()),
        _ => Err(io::Error::last_os_error()),
    };
    Layer::from_result(
        "passed_descriptors",
        result.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOPROTOOPT) => {
                "this kernel (before 6.16) accepts descriptors that peers pass along".to_owned()
            }
            _ => error.to_string(),
        }),
    )
}

/// The most unsent bytes that a TCP socket takes in addition to those in flight.
const UNSENT_BYTES: libc::c_int = 16 << 10;

/// Bounds the bytes that the kernel buffers for a TCP peer that does not read, on this socket and on those accepted
/// from it. The default is up to some megabytes each. tcp(7), TCP_NOTSENT_LOWAT
pub fn limit_unsent(listener: impl AsFd) -> io::Result<()> {
    let bytes = UNSENT_BYTES;
    // SAFETY: the descriptor is open for the call, and the value is an int of which the kernel is given the size.
    let done = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn an_accepted_socket_refuses_descriptors_or_the_layer_is_missing() {
        let path = std::env::temp_dir().join(format!("keyhole-passed-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let layer = refuse_passed_descriptors(&listener);
        let peer = UnixStream::connect(&path).unwrap();
        let _accepted = listener.accept().unwrap();
        std::fs::remove_file(&path).unwrap();
        let passed = pass(&peer, &listener);
        if layer.in_force {
            assert_eq!(passed.unwrap_err().raw_os_error(), Some(libc::EPERM));
        } else {
            assert!(layer.detail.contains("before 6.16") && passed.is_ok(), "{layer:?}");
        }
    }

    #[test]
    fn a_limited_socket_buffers_little_for_a_peer_that_does_not_read() {
        use std::io::{Read, Write};
        let taken = |limited: bool| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            if limited {
                limit_unsent(&listener).unwrap();
            }
            let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut taken = 0;
            // The peer takes much at first, and the kernel learns to keep much for it.
            for _ in 0..200 {
                taken += stream.write(&[0; 64 << 10]).unwrap_or(0);
                assert!(peer.read(&mut vec![0; 64 << 10]).unwrap() > 0);
            }
            while let Ok(more) = stream.write(&[0; 64 << 10]) {
                taken += more;
            }
            taken
        };
        let (limited, free) = (taken(true), taken(false));
        assert!(limited < free, "{limited} {free}");
    }

    /// Sends a byte and a descriptor.
    fn pass(stream: &UnixStream, passed: &UnixListener) -> io::Result<()> {
        const LENGTH: u32 = size_of::<libc::c_int>() as u32;
        let mut byte = 0_u8;
        let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut control = [0_u64; 8];
        // SAFETY: CMSG_SPACE only computes; a msghdr of zeroes is an empty one; `part` and `control` outlive the call,
        // and the control buffer, aligned for a cmsghdr, has room for one descriptor.
        let sent = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(LENGTH) as _;
            let head = libc::CMSG_FIRSTHDR(&raw const message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(LENGTH) as _;
            libc::CMSG_DATA(head).cast::<libc::c_int>().write_unaligned(passed.as_raw_fd());
            libc::sendmsg(stream.as_raw_fd(), &raw const message, 0)
        };
        if sent == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
