//! IPv4 neighbours: `proc/1/net/arp`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_net.5.html>

use std::collections::BTreeMap;

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{Filter, Options, TypedFlag};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "arp",
    default: true,
    help: "Entries of the ARP table by device.",
    queries: &[Query::Arp],
    optional: &[],
    flags: &[EXCLUDE.row, INCLUDE.row, NETLINK.row],
    families: || vec![ENTRIES],
    new: |options| Ok(Box::new(Arp::new(options))),
};

const PATH: &str = "proc/1/net/arp";
const EXCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.arp.device-exclude", "", "Devices to exclude.");
const INCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.arp.device-include", "", "Devices to include.");
const NETLINK: TypedFlag<bool> = TypedFlag::switch(
    "collector.arp.netlink",
    true,
    "Count as netlink does: without addresses for which this host is a proxy.",
);

const ENTRIES: Family = Family {
    name: "node_arp_entries",
    help: "Entries in the kernel's ARP table for neighbours on the device.",
    kind: MetricType::Gauge,
    labels: &["device"],
    source: Source::File(PATH),
};

/// The flag of an entry that the host publishes as a proxy (`ATF_PUBL`): no neighbour of it.
const PUBLISHED: u64 = 8;

/// The values of the flags.
#[derive(Debug)]
struct Arp {
    devices: Filter,
    /// Whether entries are given that this host answers for others.
    with_proxies: bool,
}

impl Arp {
    fn new(options: &Options) -> Self {
        Self { devices: Filter::new(options, INCLUDE, EXCLUDE), with_proxies: !NETLINK.get(options) }
    }
}

impl Collect for Arp {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut entries = BTreeMap::<&[u8], u64>::new();
        for line in text::lines(context.require_complete(PATH)?).skip(1) {
            match entry(line) {
                Some((flags, device)) if self.with_proxies || flags & PUBLISHED == 0 => {
                    *entries.entry(device).or_default() += 1;
                }
                Some(_) => {}
                None => out.skip(|| format!("{PATH}: an entry of other columns than the kernel's")),
            }
        }
        for (device, count) in entries {
            if self.devices.passes(device) {
                out.add(&ENTRIES, &[device], count);
            }
        }
        Ok(())
    }
}

/// The flags and the device of an entry. Between them stand the hardware address, blank on devices that have none,
/// and the mask, which is always `*`: it shows whether a line lost or gained a column.
fn entry(line: &[u8]) -> Option<(u64, &[u8])> {
    let fields: Vec<&[u8]> = text::fields(line).collect();
    match fields[..] {
        [_, _, flags, _, b"*", device] | [_, _, flags, b"*", device] => {
            Some((text::hexadecimal(flags)?, device))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    const TABLE: &[u8] = b"\
IP address       HW type     Flags       HW address            Mask     Device
192.0.2.1        0x1         0x2         02:fc:00:00:00:05     *        eth0
192.0.2.9        0x1         0x0         00:00:00:00:00:00     *        eth0
198.51.100.1     0x20        0x2         80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1     *        ib0
";

    fn arp(text: &[u8], flags: &[&str]) -> String {
        collect(&COLLECTOR, &[(PATH, text)], flags).unwrap()
    }

    #[test]
    fn entries_of_every_state_are_counted_by_device() {
        assert_eq!(
            arp(TABLE, &[]),
            "node_arp_entries{device=\"eth0\"} 2\nnode_arp_entries{device=\"ib0\"} 1\n"
        );
    }

    #[test]
    fn devices_are_included_and_excluded_by_name() {
        let only_eth0 = "node_arp_entries{device=\"eth0\"} 2\n";
        assert_eq!(arp(TABLE, &["--collector.arp.device-exclude=^ib"]), only_eth0);
        assert_eq!(arp(TABLE, &["--collector.arp.device-include=eth"]), only_eth0);
    }

    #[test]
    fn a_published_address_is_a_neighbour_only_if_the_whole_table_is_counted() {
        let proxy = b"IP address\n192.0.2.7  0x1  0xc  00:00:00:00:00:00     *        eth0\n";
        assert_eq!(arp(proxy, &[]), "");
        assert_eq!(arp(proxy, &["--no-collector.arp.netlink"]), "node_arp_entries{device=\"eth0\"} 1\n");
    }

    #[test]
    fn an_entry_without_a_hardware_address_is_counted() {
        let tunnel = b"IP address\n10.0.0.2   0x300   0x2                            *        gre1\n";
        assert_eq!(arp(tunnel, &[]), "node_arp_entries{device=\"gre1\"} 1\n");
    }

    #[test]
    fn a_device_may_have_any_name_that_the_kernel_allows() {
        let table = b"IP address\n10.0.0.2 0x1 0x2 02:fc:00:00:00:05 * a\"b)\\\xff\n";
        assert_eq!(arp(table, &[]), "node_arp_entries{device=\"a\\\"b)\\\\\u{fffd}\"} 1\n");
    }

    #[test]
    fn a_malformed_line_is_skipped_and_an_empty_table_has_no_entries() {
        let text = [TABLE, b"10.0.0.1 0x1\n10.0.0.1 0x1 flags 02:fc:00:00:00:05 * eth0\n"].concat();
        assert_eq!(arp(&text, &[]), arp(TABLE, &[]));
        assert_eq!(skipped(&COLLECTOR, &[(PATH, &text)], &[]), 2);
        assert_eq!(arp(b"IP address       HW type     Flags\n", &[]), "");
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn a_line_with_a_column_too_few_or_too_many_is_never_counted_for_another_device() {
        let broken = b"10.0.0.1 0x1 0x2 00:00:00:00:00:01 *\n10.0.0.1 0x1 0x2 00:00:00:00:00:01 * eth0 7\n\
            10.0.0.1 0x1 0x2 00:00:00:00:00:01 eth0\n10.0.0.1 0x1 0x2 * eth0 7\n";
        let text = [TABLE, broken].concat();
        for flags in [&[][..], &["--no-collector.arp.netlink"]] {
            assert_eq!(arp(&text, flags), arp(TABLE, flags));
            assert_eq!(skipped(&COLLECTOR, &[(PATH, &text)], flags), 4);
        }
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
