//! Identifies a client by its address, for limits that apply per client.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A client: an IPv4 address, or an IPv6 /64 network, since one host can use any address of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl Client {
    /// A client without a known address.
    pub const UNKNOWN: Self = Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
}

impl From<SocketAddr> for Client {
    fn from(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            ip => Self(ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_an_ipv6_network_are_one_client_and_a_mapped_ipv4_address_is_that_ipv4_client() {
        let parse = |text: &str| Client::from(text.parse::<SocketAddr>().unwrap());
        assert_eq!(parse("[2001:db8:1:2::1]:80"), parse("[2001:db8:1:2:ffff::9]:81"));
        assert_ne!(parse("[2001:db8:1:2::1]:80"), parse("[2001:db8:1:3::1]:80"));
        assert_eq!(parse("[::ffff:10.0.0.7]:80"), parse("10.0.0.7:1"));
        assert_ne!(parse("10.0.0.7:1"), parse("10.0.0.8:1"));
    }
}
