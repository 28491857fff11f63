//! Attributes of network devices: `sys/class/net/<device>/`.
//!
//! <https://docs.kernel.org/admin-guide/abi-testing.html> (`/sys/class/net/<iface>/`)

use std::collections::HashMap;
use std::sync::LazyLock;

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{Flag, FlagKind, Options, TypedFlag};
use crate::snapshot::{Content, Dir};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "netclass",
    default: true,
    help: "Attributes of network devices, such as their state and speed.",
    queries: &[Query::NetClass],
    optional: &[],
    flags: &[
        IGNORE_INVALID_SPEED.row,
        IGNORED_DEVICES.row,
        Flag { name: "collector.netclass.netlink", kind: FlagKind::Switch(false), help: NO_EFFECT },
        Flag { name: "collector.netclass_rtnl.with-stats", kind: FlagKind::Switch(false), help: NO_EFFECT },
    ],
    families,
    new: |options| Ok(Box::new(Netclass::new(options))),
};

const IGNORE_INVALID_SPEED: TypedFlag<bool> = TypedFlag::switch(
    "collector.netclass.ignore-invalid-speed",
    false,
    "Omit the speed of a device that does not know it, instead of reporting a negative one.",
);
const IGNORED_DEVICES: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.netclass.ignored-devices", "^$", "Devices to exclude.");
const NO_EFFECT: &str = "No effect: the numbers come from files in either case.";

const NET: &str = "sys/class/net";
/// The directory of a device.
const DEVICE: &str = "sys/class/net/*";

/// Attributes that are numbers: the file and its family.
#[rustfmt::skip]
const NUMBERS: &[(&str, Family)] = &[
    gauge("addr_assign_type",     "node_network_address_assign_type",        "How the device got its hardware address (addr_assign_type)."),
    gauge("carrier",              "node_network_carrier",                    "Whether the device has a carrier, when it is up."),
    counter("carrier_changes",    "node_network_carrier_changes_total",      "Changes of the device's carrier."),
    counter("carrier_down_count", "node_network_carrier_down_changes_total", "Changes of the device's carrier from up to down."),
    counter("carrier_up_count",   "node_network_carrier_up_changes_total",   "Changes of the device's carrier from down to up."),
    gauge("dev_id",               "node_network_device_id",                  "Number that distinguishes devices with the same hardware address."),
    gauge("dormant",              "node_network_dormant",                    "Whether the device waits for something before it may pass packets."),
    gauge("flags",                "node_network_flags",                      "Flags of the device, as bits (IFF_*)."),
    gauge("ifindex",              "node_network_iface_id",                   "Index of the device."),
    gauge("iflink",               "node_network_iface_link",                 "Index of the device that this one is linked to, or its own."),
    gauge("link_mode",            "node_network_iface_link_mode",            "Whether the device leaves the dormant state by itself (link_mode)."),
    gauge("mtu",                  "node_network_mtu_bytes",                  "Bytes of the largest packet that the device takes."),
    gauge("name_assign_type",     "node_network_name_assign_type",           "How the device got its name (name_assign_type)."),
    gauge("netdev_group",         "node_network_net_dev_group",              "Group that the device is in."),
    gauge("type",                 "node_network_protocol_type",              "MetricType of the device's link (ARPHRD_*)."),
    gauge("tx_queue_len",         "node_network_transmit_queue_length",      "Packets that the device's transmit queue may hold."),
];

const fn gauge(file: &'static str, name: &'static str, help: &'static str) -> (&'static str, Family) {
    (file, Family::gauge(name, help, &["device"], Source::FileIn(DEVICE, file)))
}

const fn counter(file: &'static str, name: &'static str, help: &'static str) -> (&'static str, Family) {
    (file, Family::counter(name, help, &["device"], Source::FileIn(DEVICE, file)))
}

const INFO: Family = Family {
    name: "node_network_info",
    help: "Attributes of the device that are not numeric; always 1.",
    kind: MetricType::Gauge,
    labels: &["address", "adminstate", "broadcast", "device", "duplex", "ifalias", "operstate"],
    source: Source::FileIn(DEVICE, "{address,broadcast,duplex,flags,ifalias,operstate}"),
};
const SPEED: Family = Family::gauge(
    "node_network_speed_bytes",
    "Speed of the device's link in bytes per second.",
    &["device"],
    Source::FileIn(DEVICE, "speed"),
);
const UP: Family = Family::gauge(
    "node_network_up",
    "Whether the device is operational (operstate up).",
    &["device"],
    Source::FileIn(DEVICE, "operstate"),
);

fn families() -> Vec<Family> {
    let numbers = NUMBERS.iter().map(|(_, family)| *family);
    [INFO, SPEED, UP].into_iter().chain(numbers).collect()
}

/// Bytes per second in a megabit per second, the unit of `speed`.
const BYTES_A_MEGABIT: i64 = 1_000_000 / 8;
/// The flag of a device that is up as far as its administrator goes.
const IFF_UP: i64 = 1;

/// The values of the flags.
#[derive(Debug)]
struct Netclass {
    ignored: Option<GoRegex>,
    ignore_invalid_speed: bool,
}

impl Netclass {
    fn new(options: &Options) -> Self {
        Self {
            ignored: IGNORED_DEVICES.get(options),
            ignore_invalid_speed: IGNORE_INVALID_SPEED.get(options),
        }
    }
}

impl Collect for Netclass {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut any = false;
        for device in context.snapshot.dir(NET).dirs() {
            any |= collect_device(&device, self.ignored.as_ref(), self.ignore_invalid_speed, out);
        }
        if any { Ok(()) } else { context.no_devices(Query::NetClass, "network devices") }
    }
}

/// Adds the samples of a device. False when it has none of its own files: the device has just gone, or only
/// another query's files are there.
fn collect_device(
    device: &Dir<'_>,
    ignored: Option<&GoRegex>,
    ignore_invalid_speed: bool,
    out: &mut Exposition,
) -> bool {
    let name = device.name();
    if ignored.is_some_and(|ignored| ignored.is_match(name)) {
        return true;
    }
    out.item();
    let mut any = false;
    for (file, content) in device.files() {
        // Many attributes of a device that is down, or has no such thing, answer with an error.
        let Content::Bytes { bytes, .. } = content else { continue };
        any = true;
        let value = text::trim(bytes);
        match (file, attribute(file), text::integer(value)) {
            (b"operstate", ..) => out.add(&UP, &[name], value == b"up"),
            (b"speed", _, Some(speed)) if known_speed(speed) >= 0 || !ignore_invalid_speed => {
                out.add(&SPEED, &[name], known_speed(speed).saturating_mul(BYTES_A_MEGABIT));
            }
            (b"speed", _, Some(_)) | (_, None, _) => {}
            (_, Some(family), Some(value)) => out.add(family, &[name], value),
            (_, Some(family), None) => out.skip(|| format!("{}: no number", family.source)),
        }
    }
    if any {
        add_info(device, out);
    }
    any
}

/// A speed in megabits per second, -1 when it is not known. Older kernels write that without its sign.
fn known_speed(speed: i64) -> i64 {
    if speed == i64::from(u32::MAX) { -1 } else { speed }
}

/// The family of an attribute.
fn attribute(file: &[u8]) -> Option<&'static Family> {
    /// By the name of the file: each of hundreds of devices has two dozen.
    static BY_FILE: LazyLock<HashMap<&[u8], &Family>> =
        LazyLock::new(|| NUMBERS.iter().map(|(file, family)| (file.as_bytes(), family)).collect());
    BY_FILE.get(file).copied()
}

fn add_info(device: &Dir<'_>, out: &mut Exposition) {
    let labels = device.labels(["address", "flags", "broadcast", "duplex", "ifalias", "operstate"]);
    let Some([address, flags, broadcast, duplex, alias, state]) = labels else {
        return out.skip_half_read(device.path());
    };
    let admin_state: &[u8] = match text::integer(flags) {
        None => b"unknown",
        Some(flags) if flags & IFF_UP != 0 => b"up",
        Some(_) => b"down",
    };
    out.add(&INFO, &[address, admin_state, broadcast, device.name(), duplex, alias, state], 1u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::Snapshot;

    const ETH0: &[(&str, &str)] = &[
        ("addr_assign_type", "3\n"),
        ("address", "02:fc:00:00:00:01\n"),
        ("broadcast", "ff:ff:ff:ff:ff:ff\n"),
        ("carrier", "1\n"),
        ("carrier_changes", "7\n"),
        ("carrier_down_count", "3\n"),
        ("carrier_up_count", "4\n"),
        ("dev_id", "0x20\n"),
        ("dormant", "0\n"),
        ("duplex", "full\n"),
        ("flags", "0x1003\n"),
        ("ifalias", "\n"),
        ("ifindex", "4\n"),
        ("iflink", "5\n"),
        ("link_mode", "1\n"),
        ("mtu", "1500\n"),
        ("name_assign_type", "2\n"),
        ("netdev_group", "6\n"),
        ("operstate", "up\n"),
        ("phys_port_name", "p0\n"),
        ("speed", "1000\n"),
        ("statistics/rx_nohandler", "9\n"),
        ("tx_queue_len", "1001\n"),
        ("type", "8\n"),
    ];

    fn netclass(device: &str, files: &[(&str, &str)], flags: &[&str]) -> String {
        let files: Vec<(String, &[u8])> = files
            .iter()
            .map(|(file, text)| (format!("sys/class/net/{device}/{file}"), text.as_bytes()))
            .collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        collect(&COLLECTOR, &files, flags).unwrap()
    }

    #[test]
    fn each_attribute_of_a_device_is_a_family() {
        let text = netclass("eth0", ETH0, &[]);
        assert_eq!(
            text.replace("node_network_", "").replace("{device=\"eth0\"}", ""),
            "address_assign_type 3\ncarrier 1\ncarrier_changes_total 7\ncarrier_down_changes_total 3\n\
             carrier_up_changes_total 4\ndevice_id 32\ndormant 0\nflags 4099\niface_id 4\niface_link 5\n\
             iface_link_mode 1\n\
             info{address=\"02:fc:00:00:00:01\",adminstate=\"up\",broadcast=\"ff:ff:ff:ff:ff:ff\",\
             device=\"eth0\",duplex=\"full\",ifalias=\"\",operstate=\"up\"} 1\n\
             mtu_bytes 1500\nname_assign_type 2\nnet_dev_group 6\nprotocol_type 8\nspeed_bytes 125000000\n\
             transmit_queue_length 1001\nup 1\n"
        );
        assert_eq!(text.lines().count(), families().len());
    }

    #[test]
    fn an_unknown_speed_is_negative_or_left_out() {
        for unknown in ["-1\n", "4294967295\n"] {
            let speed = [("speed", unknown)];
            let is_negative = "node_network_speed_bytes{device=\"eth0\"} -125000\n";
            assert!(netclass("eth0", &speed, &[]).contains(is_negative));
            let left_out = netclass("eth0", &speed, &["--collector.netclass.ignore-invalid-speed"]);
            assert!(!left_out.contains("speed"), "{left_out}");
        }
    }

    #[test]
    fn an_alias_of_the_kernels_maximum_length_is_reported_whole() {
        let alias = "a".repeat(255);
        let text = netclass("eth0", &[("ifalias", &format!("{alias}\n"))], &[]);
        assert!(text.contains(&format!("ifalias=\"{alias}\"")), "{text}");
    }

    #[test]
    fn an_attribute_that_answers_with_an_error_is_absent() {
        let path = |file: &str| format!("sys/class/net/eth0/{file}").into_bytes();
        let snapshot = Snapshot::from_files(vec![
            (path("carrier"), Content::Errno(22)),
            (path("duplex"), Content::Errno(22)),
            (path("ifindex"), Content::bytes(&b"4\n"[..])),
            (path("speed"), Content::Errno(22)),
        ]);
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(),
            "node_network_iface_id{device=\"eth0\"} 4\nnode_network_info{address=\"\",adminstate=\"unknown\",\
             broadcast=\"\",device=\"eth0\",duplex=\"\",ifalias=\"\",operstate=\"\"} 1\n"
        );
    }

    #[test]
    fn only_a_value_that_is_no_number_is_skipped_and_new_attributes_are_ignored() {
        let files = [("flags", "0xz"), ("mtu", "9000"), ("operstate", "down"), ("shiny", "1"), ("type", "")];
        let text = netclass("eth0", &files, &[]);
        assert!(
            text.contains("mtu_bytes{device=\"eth0\"} 9000\n") && text.contains("up{device=\"eth0\"} 0\n")
        );
        assert!(text.contains("adminstate=\"unknown\""), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(netclass("eth0", &[("flags", "0x1002")], &[]).contains("adminstate=\"down\""));
    }

    #[test]
    fn ignored_devices_are_left_out_and_are_data_still() {
        assert_eq!(netclass("veth1", ETH0, &["--collector.netclass.ignored-devices=^veth"]), "");
    }

    #[test]
    fn a_name_and_an_alias_may_have_any_bytes_that_the_kernel_allows() {
        let text = netclass("a\"b:)", &[("ifalias", "two\nlines \"x\"\n")], &[]);
        assert!(text.contains("device=\"a\\\"b:)\",duplex=\"\",ifalias=\"two\\nlines \\\"x\\\"\""), "{text}");
    }

    #[test]
    fn a_directory_with_other_queries_files_alone_is_no_device() {
        let files: [(&str, &[u8]); 2] = [
            ("sys/class/net/bonding_masters", b"bond0\n"),
            ("sys/class/net/bond0/bonding/slaves", b"eth0\n"),
        ];
        assert!(matches!(collect(&COLLECTOR, &files, &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let paths: Vec<String> = ETH0.iter().map(|(file, _)| format!("sys/class/net/eth0/{file}")).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
