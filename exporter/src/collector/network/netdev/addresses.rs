//! IPv6 addresses of network devices: `proc/1/net/if_inet6`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_net.5.html>
//!
//! IPv4 addresses are left out: only netlink says which device has which. `fib_trie` knows the host's
//! addresses without their devices, and to guess these from routes fails where two devices share a network.

use std::net::Ipv6Addr;

use crate::collector::Context;
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::options::Filter;
use crate::text;

const PATH: &str = "proc/1/net/if_inet6";

pub(super) const INFO: Family = Family {
    name: "node_network_address_info",
    help: "IPv6 address of the device, with the length of its network's prefix; always 1.",
    kind: MetricType::Gauge,
    labels: &["address", "device", "netmask", "scope"],
    source: Source::File(PATH),
};

pub(super) fn collect(context: &Context<'_>, devices: &Filter, out: &mut Exposition) {
    // Missing where IPv6 is off.
    for line in context.snapshot.text(PATH).into_iter().flat_map(text::lines) {
        let Some((address, prefix, device)) = parse(line) else {
            out.skip(|| format!("{PATH}: a line that is no address"));
            continue;
        };
        if devices.passes(device) {
            let labels = [address.to_string(), prefix.to_string()];
            out.add(
                &INFO,
                &[labels[0].as_bytes(), device, labels[1].as_bytes(), scope(address).as_bytes()],
                1u64,
            );
        }
    }
}

/// The address, the length of its prefix, and the device: all but the last in hexadecimal.
fn parse(line: &[u8]) -> Option<(Ipv6Addr, u64, &[u8])> {
    let mut fields = text::fields(line);
    let address: &[u8; 32] = fields.next()?.try_into().ok()?;
    let (high, low) = address.split_at(16);
    let bits = u128::from(text::hexadecimal(high)?) << 64 | u128::from(text::hexadecimal(low)?);
    let prefix = fields.nth(1)?;
    let device = fields.nth(2)?;
    Some((Ipv6Addr::from_bits(bits), text::hexadecimal(prefix)?, device))
}

/// The words of node_exporter, to which a loopback address is link-local too and a site's is global.
fn scope(address: Ipv6Addr) -> &'static str {
    if address.is_loopback() || address.is_unicast_link_local() {
        "link-local"
    } else if address.is_unspecified() || address.is_multicast() {
        ""
    } else {
        "global"
    }
}

#[cfg(test)]
mod tests {
    use super::super::COLLECTOR;
    use super::*;
    use crate::collector::testing::collect;

    const DEV: (&str, &[u8]) = ("proc/1/net/dev", b" face |bytes|bytes\n");

    fn addresses(text: &[u8], flags: &[&str]) -> String {
        let flags = [&["--collector.netdev.address-info"], flags].concat();
        collect(&COLLECTOR, &[DEV, (PATH, text)], &flags).unwrap()
    }

    #[test]
    fn each_address_is_reported_with_its_prefix_and_scope() {
        let text = b"fd000000000000000000000000000002 04 40 00 82     eth0\n\
                     fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n\
                     00000000000000000000000000000001 01 80 10 80       lo\n";
        let lo = "node_network_address_info{address=\"::1\",device=\"lo\",netmask=\"128\",scope=\"link-local\"} 1\n";
        let eth0 = "node_network_address_info{address=\"fd00::2\",device=\"eth0\",netmask=\"64\",scope=\"global\"} 1\n\
                    node_network_address_info{address=\"fe80::fc:ff:fe00:1\",device=\"eth0\",netmask=\"64\",scope=\"link-local\"} 1\n";
        assert_eq!(addresses(text, &[]), [lo, eth0].concat());
        assert_eq!(addresses(text, &["--collector.netdev.device-exclude=^lo$"]), eth0);
        assert_eq!(collect(&COLLECTOR, &[DEV, (PATH, text)], &[]).unwrap(), "", "only when asked");
    }

    #[test]
    fn a_line_that_is_no_address_is_skipped_and_any_name_is_a_device() {
        let text = b"fe80 04 40 20 80 eth0\nzz000000000000000000000000000002 04 40 00 82 eth0\n\
                     fd000000000000000000000000000002 04 40 00\n\
                     fd000000000000000000000000000002 104 7f 00 82 a\"b:\xff more\n";
        assert_eq!(
            addresses(text, &[]),
            "node_network_address_info{address=\"fd00::2\",device=\"a\\\"b:\u{fffd}\",netmask=\"127\",scope=\"global\"} 1\n"
        );
    }

    #[test]
    fn without_ipv6_there_are_no_addresses() {
        assert_eq!(collect(&COLLECTOR, &[DEV], &["--collector.netdev.address-info"]).unwrap(), "");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_result_in_at_most_one_address_per_line(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            proptest::prop_assert!(addresses(&bytes, &[]).lines().count() <= text::lines(&bytes).count());
        }

        #[test]
        fn any_address_of_the_right_length_is_reported(line in "[0-9a-f]{32} [0-9a-f]{2} [0-9a-f]{2} [0-9a-f]{2} [0-9a-f]{2} +[a-z0-9]{1,15}") {
            proptest::prop_assert_eq!(addresses(line.as_bytes(), &[]).lines().count(), 1);
        }
    }
}
