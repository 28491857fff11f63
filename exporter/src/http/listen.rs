//! Listening sockets for the addresses of `--web.listen-address` and `--web.health-address`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// The default address, that of node_exporter.
pub const DEFAULT_ADDRESS: &str = ":9100";

/// Connections that may wait in the kernel to be accepted. The SYN of one more is dropped and retransmitted a second later.
const BACKLOG: i32 = 1024;

/// The receive buffer of a connection, in bytes: about twice a request's longest head.
const RECEIVE_BUFFER_BYTES: usize = 32 << 10;

/// How long the kernel keeps sent bytes that a client does not acknowledge, in milliseconds; also after the connection is
/// closed. The kernel's default is many minutes.
const TCP_USER_TIMEOUT_MS: u32 = 10_000;

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not an address.
    #[error("{0:?}: {NOT_AN_ADDRESS}")]
    Address(String),
    /// An unsupported kind of socket.
    #[error("{0:?}: {NO_VSOCK}")]
    Vsock(String),
    /// systemd passed no socket.
    #[error(
        "--web.systemd-socket: systemd passed no socket (LISTEN_FDS is not set for this process); start the program \
         with a socket unit, or remove the flag"
    )]
    NotInherited,
    /// A socket of systemd cannot be used.
    #[error("--web.systemd-socket: {0}; only TCP sockets (ListenStream=9100) are served")]
    Inherited(std::io::Error),
    /// The port is in use.
    #[error(
        "cannot listen on {address}: the port is in use (by a node_exporter?): stop what uses it, or choose another port with --{flag}"
    )]
    Occupied {
        /// The address of the flag.
        address: String,
        /// The flag.
        flag: &'static str,
    },
    /// Any other error of the system.
    #[error("cannot listen on {address}: {reason}; choose another address with --{flag}")]
    System {
        /// The flag.
        flag: &'static str,
        /// The address of the flag.
        address: String,
        /// The system's error.
        reason: std::io::Error,
    },
}

/// Why an address is refused.
pub const NOT_AN_ADDRESS: &str = "not an address such as :9100, 127.0.0.1:9100 or [::1]:9100";
/// Why an address is refused that node_exporter takes.
pub const NO_VSOCK: &str = "vsock is not supported; listen on a TCP address such as :9100";

/// Binds every address of a flag; errors name the flag. An address without a host binds all addresses of the machine, IPv4 and IPv6.
pub fn bind(flag: &'static str, addresses: &[String]) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = Vec::new();
    for address in addresses {
        let (host, port) = parse(address)?;
        let system = |errno: Errno| match errno {
            Errno::ADDRINUSE => ListenError::Occupied { address: address.clone(), flag },
            errno => ListenError::System { flag, address: address.clone(), reason: errno.into() },
        };
        let socket = match host {
            Host::Any => match listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
                // A kernel without IPv6.
                Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
                    listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
                }
                bound => bound,
            },
            Host::Ip(ip) => listen(SocketAddr::from((ip, port))),
            Host::Name(name) => {
                let resolved = (name.as_str(), port)
                    .to_socket_addrs()
                    .map_err(|reason| ListenError::System { flag, address: address.clone(), reason })?;
                let Some(first) = resolved.into_iter().next() else {
                    return Err(ListenError::Address(address.clone()));
                };
                listen(first)
            }
        };
        listeners.push(TcpListener::from(socket.map_err(system)?));
    }
    Ok(listeners)
}

/// The sockets that systemd passes, with the same options as those of [`bind`]; see sd_listen_fds(3).
pub fn inherited() -> Result<Vec<TcpListener>, ListenError> {
    let mut sockets = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for at in 0..sockets.len() {
        let listener = sockets.take_tcp_listener(at).map_err(ListenError::Inherited)?;
        listeners.extend(listener);
    }
    for listener in &listeners {
        listener.set_nonblocking(true).map_err(ListenError::Inherited)?;
        limit_buffers(listener).map_err(|errno| ListenError::Inherited(errno.into()))?;
    }
    if listeners.is_empty() { Err(ListenError::NotInherited) } else { Ok(listeners) }
}

/// The host of an address to listen on.
#[derive(Debug, PartialEq, Eq)]
pub enum Host {
    /// No host: every address of the machine.
    Any,
    /// An address.
    Ip(IpAddr),
    /// A host name, which is resolved once, at the start.
    Name(String),
}

/// Parses `host:port` as Go does: the host may be empty, a name, or an address with or without brackets.
pub fn parse(address: &str) -> Result<(Host, u16), ListenError> {
    let invalid = || ListenError::Address(address.to_owned());
    if address.starts_with("vsock:") {
        return Err(ListenError::Vsock(address.to_owned()));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().map_err(|_| invalid())?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match (bracketed, host) {
        (None, "") => Host::Any,
        (Some(host), _) => Host::Ip(host.parse().map_err(|_| invalid())?),
        (None, host) => match host.parse::<Ipv4Addr>() {
            Ok(ip) => Host::Ip(ip.into()),
            Err(_) if host.contains([':', '/', '[', ']']) || host.chars().any(char::is_whitespace) => {
                return Err(invalid());
            }
            Err(_) => Host::Name(host.to_owned()),
        },
    };
    Ok((host, port))
}

fn listen(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    limit_buffers(&socket)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Limits the kernel's buffers of a connection. Only heads of requests come in; responses that clients have not read
/// wait in this process, within one limit for all connections (`crate::unread_responses`).
fn limit_buffers(listener: impl AsFd) -> Result<(), Errno> {
    sockopt::set_socket_recv_buffer_size(&listener, RECEIVE_BUFFER_BYTES)?;
    sockopt::set_tcp_user_timeout(&listener, TCP_USER_TIMEOUT_MS)?;
    // Kernels without this option buffer more.
    let _ = keyhole_os::socket::limit_unsent(&listener);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_as_in_go() {
        let parse = |address| parse(address).unwrap();
        assert_eq!(parse(":9100"), (Host::Any, 9100));
        assert_eq!(parse("127.0.0.1:1"), (Host::Ip(Ipv4Addr::LOCALHOST.into()), 1));
        assert_eq!(parse("[0.0.0.0]:9100"), (Host::Ip(Ipv4Addr::UNSPECIFIED.into()), 9100));
        assert_eq!(parse("[::1]:9100"), (Host::Ip(Ipv6Addr::LOCALHOST.into()), 9100));
        assert_eq!(parse("localhost:80"), (Host::Name("localhost".into()), 80));
    }

    #[test]
    fn an_invalid_address_is_an_error_of_one_line_with_advice() {
        for address in ["", "9100", ":", ":99999", "::1:9100", "[::1:9100", "a b:1", "unix:/x:1", "[name]:1"]
        {
            let error = parse(address).unwrap_err().to_string();
            assert!(error.contains(":9100") && !error.contains('\n'), "{error}");
        }
        let error = parse("vsock://:9100").unwrap_err().to_string();
        assert!(error.contains("vsock is not supported"), "{error}");
    }

    #[test]
    fn a_port_in_use_is_reported_with_advice() {
        let held = bind("web.listen-address", &["127.0.0.1:0".into()]).unwrap();
        let address = held[0].local_addr().unwrap().to_string();
        let error = bind("web.listen-address", &[address]).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains("--web.listen-address"), "{error}");
    }

    #[test]
    fn an_address_without_a_host_accepts_ipv4() {
        let held = bind("web.listen-address", &[":0".into()]).unwrap();
        let port = held[0].local_addr().unwrap().port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}
