//! Sockets: of every family that can leave the machine or reach into the kernel, and by a socket that was left open.

use libc::{SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};

use crate::host::unix_socket;
use crate::process::EXPORTER;
use crate::{Attack, L, R, S, U, attack, call, past};

/// More than any family that there is.
const AF_MAX: i32 = 64;

#[rustfmt::skip]
pub(super) static ATTACKS: &[Attack] = &[
    attack("make a Unix socket", "socket", S, |_| unix_socket())
        .residual(&[(EXPORTER, "It connects to the broker by one, and again when the broker has been started again.")]),
    attack("make a pair of Unix sockets", "socketpair", S, |_| {
        let mut pair = [0i32; 2];
        call!(SYS_socketpair, libc::AF_UNIX, SOCK_STREAM, 0, pair.as_mut_ptr())
    }),
    attack("make a TCP socket", "socket", S, |_| socket(libc::AF_INET, SOCK_STREAM, 0)),
    attack("make a UDP socket", "socket", S, |_| socket(libc::AF_INET, SOCK_DGRAM, 0)),
    attack("make a TCP socket of IPv6", "socket", S, |_| socket(libc::AF_INET6, SOCK_STREAM, 0)),
    attack("make a raw IP socket", "socket", S | U | R, |_| socket(libc::AF_INET, SOCK_RAW, libc::IPPROTO_ICMP)),
    attack("make a packet socket", "socket", S | U | R, |_| socket(libc::AF_PACKET, SOCK_RAW, 0)),
    attack("make a netlink socket", "socket", S, |_| socket(libc::AF_NETLINK, SOCK_RAW, libc::NETLINK_ROUTE)),
    attack("make a socket of netfilter", "socket", S, |_| socket(libc::AF_NETLINK, SOCK_RAW, libc::NETLINK_NETFILTER)),
    attack("make a socket to the hypervisor", "socket", S, |_| socket(libc::AF_VSOCK, SOCK_STREAM, 0)),
    attack("make a socket of the kernel's ciphers", "socket", S, |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    attack("make an XDP socket", "socket", S | U | R, |_| socket(libc::AF_XDP, SOCK_RAW, 0)),
    attack("make a Bluetooth socket", "socket", S, |_| socket(libc::AF_BLUETOOTH, SOCK_STREAM, 3)),
    attack("make a CAN socket", "socket", S, |_| socket(libc::AF_CAN, SOCK_RAW, 1)),
    attack("make a TIPC socket", "socket", S, |_| socket(libc::AF_TIPC, SOCK_STREAM, 0)),
    attack("make a socket of any family", "socket", S, |_| {
        (0..AF_MAX).map(|family| socket(family, SOCK_DGRAM, 0)).max().unwrap_or(0)
    }),
    attack("connect a TCP socket that was left open", "connect", S | L, |host| connect(host.left_open.into(), host.port))
        .on_socket(),
    attack("bind a TCP socket that was left open", "bind", S | L, |host| {
        let any = inet(0);
        call!(SYS_bind, host.left_open, any.as_ptr(), any.len())
    })
    .on_socket(),
    attack("listen on a TCP socket that was left open", "listen", S, |host| call!(SYS_listen, host.left_open, 1))
        .on_socket(),
    attack("set an option of a socket that was left open", "setsockopt", S, |host| {
        let on = 1i32;
        call!(SYS_setsockopt, host.left_open, libc::SOL_SOCKET, libc::SO_REUSEADDR, &raw const on, size_of_val(&on))
    })
    .on_socket(),
    attack("connect to a service of the machine", "connect", S | L, |host| connect(socket(libc::AF_INET, SOCK_STREAM, 0), host.port)),
    attack("send a datagram", "sendto", S, |host| {
        let (to, socket) = (inet(host.port), socket(libc::AF_INET, SOCK_DGRAM, 0));
        call!(SYS_sendto, socket, b"x".as_ptr(), 1, 0, to.as_ptr(), to.len())
    }),
    attack("send to an address by a socket that was left open", "sendto", S, |host| {
        let to = inet(host.port);
        call!(SYS_sendto, host.left_open, b"x".as_ptr(), 1, libc::MSG_FASTOPEN, to.as_ptr(), to.len())
    })
    .on_socket(),
    attack("connect to a Unix socket by its path", "connect", S, |host| {
        let to = unix(&[host.dir.join("open.sock").as_os_str().as_encoded_bytes(), b"\0"].concat());
        call!(SYS_connect, unix_socket(), to.as_ptr(), to.len())
    })
    .residual(&[(EXPORTER, "Landlock limits it to the broker's directory from ABI 9 on. Before, no other socket may be among its mounts.")]),
    attack("connect to the broker", "connect", 0, |host| {
        let to = unix(&[host.dir.join("run/broker.sock").as_os_str().as_encoded_bytes(), b"\0"].concat());
        call!(SYS_connect, unix_socket(), to.as_ptr(), to.len())
    })
    .within(EXPORTER)
    .residual(&[(EXPORTER, "It is what an exporter does. The broker gives it the fixed queries, as often as its rate lets it.")]),
    attack("connect by a socket on which it listens", "connect", L, |host| {
        // Sockets that are not of the network say that they cannot be dissolved.
        let unspecified = [0u8; 16];
        let listening = (3..64).find(|fd| call!(SYS_connect, *fd, unspecified.as_ptr(), unspecified.len()) == 0);
        listening.map_or(-i64::from(libc::EBADF), |fd| past(libc::EINPROGRESS, connect(fd, host.port)))
    })
    .within(EXPORTER),
    attack("connect to an abstract Unix socket", "connect", S | L, |host| {
        let to = unix(format!("\0keyhole-attack-{}", host.port).as_bytes());
        call!(SYS_connect, unix_socket(), to.as_ptr(), to.len())
    }),
    attack("pass a descriptor on", "sendmsg", S, |_| {
        let mut pair = [0i32; 2];
        let paired = call!(SYS_socketpair, libc::AF_UNIX, SOCK_STREAM, 0, pair.as_mut_ptr());
        if paired < 0 {
            return paired;
        }
        let (byte, header) = (*b"x", [20u64, (libc::SCM_RIGHTS as u64) << 32 | libc::SOL_SOCKET as u64, 0]);
        let part = [byte.as_ptr() as usize, 1];
        let message = [0usize, 0, part.as_ptr() as usize, 1, header.as_ptr() as usize, size_of_val(&header), 0];
        call!(SYS_sendmsg, pair[0], message.as_ptr(), 0)
    }),
];

fn socket(family: i32, kind: i32, protocol: i32) -> i64 {
    call!(SYS_socket, family, kind, protocol)
}

fn connect(socket: i64, port: u16) -> i64 {
    let to = inet(port);
    call!(SYS_connect, socket, to.as_ptr(), to.len())
}

/// A struct sockaddr_in of 127.0.0.1.
fn inet(port: u16) -> Vec<u8> {
    let family = (libc::AF_INET as u16).to_ne_bytes();
    [&family[..], &port.to_be_bytes(), &[127, 0, 0, 1], &[0; 8]].concat()
}

/// A struct sockaddr_un.
fn unix(name: &[u8]) -> Vec<u8> {
    [&(libc::AF_UNIX as u16).to_ne_bytes()[..], name].concat()
}
