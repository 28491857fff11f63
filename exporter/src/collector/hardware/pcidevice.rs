//! PCI devices: `sys/bus/pci/devices/<location>/`.
//!
//! <https://docs.kernel.org/PCI/sysfs-pci.html>

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::options::{Flag, FlagKind, Options, TypedFlag};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "pcidevice",
    default: false,
    help: "PCI devices, their links, power states and virtual functions.",
    queries: &[Query::Pci],
    optional: &[],
    flags: &[
        Flag {
            name: "collector.pcidevice.idsfile",
            kind: FlagKind::File(""),
            help: "No effect: names of devices are not supported.",
        },
        NAMES.row,
    ],
    families,
    new: |options| Ok(Box::new(PciDevice::new(options))),
};

const DEVICES: &str = "sys/bus/pci/devices";
/// The directory of a device.
const DEVICE: &str = "sys/bus/pci/devices/*";
const NAMES: TypedFlag<bool> = TypedFlag::switch(
    "collector.pcidevice.names",
    false,
    "No effect: the exporter has no list of device names (pci.ids).",
);

const INFO: Family = Family {
    name: "node_pcidevice_info",
    help: "What the device is, and what it is attached to; always 1.",
    kind: MetricType::Gauge,
    labels: &[
        "bus",
        "class_id",
        "device",
        "device_id",
        "function",
        "parent_bus",
        "parent_device",
        "parent_function",
        "parent_segment",
        "revision",
        "segment",
        "subsystem_device_id",
        "subsystem_vendor_id",
        "vendor_id",
    ],
    source: Source::Files(&[
        "sys/bus/pci/devices/*",
        "sys/bus/pci/devices/*/{class,device,revision,subsystem_device,subsystem_vendor,vendor}",
    ]),
};
const POWER_STATE: Family = Family {
    name: "node_pcidevice_power_state",
    help: "Whether the device is in this power state.",
    kind: MetricType::Gauge,
    labels: &["bus", "device", "function", "segment", "state"],
    source: Source::FileIn(DEVICE, "power_state"),
};

const POWER_STATES: &[&[u8]] = &[b"D0", b"D1", b"D2", b"D3hot", b"D3cold", b"unknown", b"error"];

/// How an attribute is parsed.
type Parse = fn(&[u8]) -> Parsed;

#[derive(Debug, PartialEq)]
enum Parsed {
    Number(f64),
    /// The device does not know, which is no number.
    Unknown,
    Malformed,
}

/// An attribute that is a number: its file, how it is parsed, and its family.
type Number = (&'static str, Parse, Family);

#[rustfmt::skip]
const NUMBERS: &[Number] = &[
    number("current_link_speed",      speed,  "node_pcidevice_current_link_transfers_per_second", "Transfers a second of the device's link, as it is now."),
    number("current_link_width",      count,  "node_pcidevice_current_link_width",                "Lanes of the device's link, as it is now."),
    number("d3cold_allowed",          switch, "node_pcidevice_d3cold_allowed",                    "Whether the device may be put into the power state D3cold."),
    number("max_link_speed",          speed,  "node_pcidevice_max_link_transfers_per_second",     "Transfers a second that the device's link can do at most."),
    number("max_link_width",          count,  "node_pcidevice_max_link_width",                    "Lanes that the device's link can have at most."),
    number("numa_node",               node,   "node_pcidevice_numa_node",                         "NUMA node that the device is near to."),
    number("sriov_drivers_autoprobe", switch, "node_pcidevice_sriov_drivers_autoprobe",           "Whether virtual functions get their driver by themselves."),
    number("sriov_numvfs",            count,  "node_pcidevice_sriov_numvfs",                      "Virtual functions that are enabled."),
    number("sriov_totalvfs",          count,  "node_pcidevice_sriov_totalvfs",                    "Virtual functions that the device can have."),
    number("sriov_vf_total_msix",     count,  "node_pcidevice_sriov_vf_total_msix",               "Interrupt vectors that the virtual functions share."),
];

const fn number(file: &'static str, parse: Parse, name: &'static str, help: &'static str) -> Number {
    let labels = &["bus", "device", "function", "segment"];
    (file, parse, Family::gauge(name, help, labels, Source::FileIn(DEVICE, file)))
}

fn families() -> Vec<Family> {
    let numbers = NUMBERS.iter().map(|(.., family)| *family);
    [INFO, POWER_STATE].into_iter().chain(numbers).collect()
}

/// The values of the flags.
#[derive(Debug)]
struct PciDevice {
    names: bool,
}

impl PciDevice {
    fn new(options: &Options) -> Self {
        Self { names: NAMES.get(options) }
    }
}

impl Collect for PciDevice {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        if self.names {
            out.skip(|| format!("--{}: the exporter has no list of the names of devices", NAMES.row.name));
        }
        let devices = context.snapshot.dir(DEVICES);
        let mut any = false;
        for device in devices.dirs() {
            any = true;
            out.item();
            match Location::parse(device.name()) {
                Some(location) => {
                    add_info(&device, &location, devices.link(device.name()), out);
                    add_numbers(&device, &location, out);
                }
                None => out.skip(|| format!("{DEVICES}/{}: no location", device.name().escape_ascii())),
            }
        }
        if any { Ok(()) } else { context.no_devices(Query::Pci, "PCI devices") }
    }
}

fn add_numbers(device: &Dir<'_>, location: &Location<'_>, out: &mut Exposition) {
    let Location { segment, bus, device: slot, function } = *location;
    for (file, parse, family) in NUMBERS {
        let Some(value) = device.value(file) else { continue };
        match parse(value) {
            Parsed::Number(number) => out.add(family, &[bus, slot, function, segment], number),
            Parsed::Unknown => {}
            Parsed::Malformed => out.skip(|| format!("{}: {}", family.source, value.escape_ascii())),
        }
    }
    if let Some(current) = device.value("power_state").filter(|state| !state.is_empty()) {
        for state in POWER_STATES {
            out.add(&POWER_STATE, &[bus, slot, function, segment, state], *state == current);
        }
    }
}

/// `link` leads to the device by way of what it is attached to:
/// `../../../devices/pci0000:40/0000:40:01.3/0000:45:00.0`.
fn add_info(device: &Dir<'_>, location: &Location<'_>, link: Option<&[u8]>, out: &mut Exposition) {
    if device.is_half_read(["class", "device", "revision", "subsystem_device", "subsystem_vendor", "vendor"])
    {
        return out.skip_half_read(device.path());
    }
    const NONE: Location<'_> = Location { segment: b"*", bus: b"*", device: b"*", function: b"*" };
    let above = link.and_then(|link| text::split_last(link, b'/')).map(|(above, _)| above);
    let parent = above.map(|above| text::split_last(above, b'/').map_or(above, |(_, parent)| parent));
    // On the root bus it is no device but `pci0000:40`.
    let parent = parent.and_then(Location::parse).unwrap_or(NONE);
    // What an older kernel lacks stays empty.
    let id = |file: &str, digits: usize| -> Vec<u8> {
        let id = device.value(file).and_then(text::hexadecimal);
        id.map(|id| format!("0x{id:0digits$x}").into_bytes()).unwrap_or_default()
    };
    let info: [&[u8]; INFO.labels.len()] = [
        location.bus,
        &id("class", 6),
        location.device,
        &id("device", 4),
        location.function,
        parent.bus,
        parent.device,
        parent.function,
        parent.segment,
        &id("revision", 2),
        location.segment,
        &id("subsystem_device", 4),
        &id("subsystem_vendor", 4),
        &id("vendor", 4),
    ];
    out.add(&INFO, &info, 1u64);
}

/// Where a device is: `0000:45:00.0`, all in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Location<'a> {
    segment: &'a [u8],
    bus: &'a [u8],
    device: &'a [u8],
    function: &'a [u8],
}

impl<'a> Location<'a> {
    fn parse(name: &'a [u8]) -> Option<Self> {
        let (segment, rest) = text::split_first(name, b':')?;
        let (bus, rest) = text::split_first(rest, b':')?;
        let (device, function) = text::split_first(rest, b'.')?;
        let hexadecimal = |part: &&[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_hexdigit);
        let valid = [segment, bus, device, function].iter().all(hexadecimal);
        valid.then_some(Self { segment, bus, device, function })
    }
}

/// `8.0 GT/s PCIe`; before Linux 5.5 without the last word.
fn speed(value: &[u8]) -> Parsed {
    let mut fields = text::fields(value);
    match (fields.next(), fields.next()) {
        (None | Some(b"Unknown"), _) => Parsed::Unknown,
        (Some(speed), Some(b"GT/s")) => {
            text::float(speed).map_or(Parsed::Malformed, |speed| Parsed::Number(speed * 1e9))
        }
        _ => Parsed::Malformed,
    }
}

fn count(value: &[u8]) -> Parsed {
    match value {
        b"" | b"Unknown" => Parsed::Unknown,
        value => text::unsigned(value).map_or(Parsed::Malformed, |count| Parsed::Number(count as f64)),
    }
}

fn switch(value: &[u8]) -> Parsed {
    match count(value) {
        Parsed::Number(number) => Parsed::Number(f64::from(u8::from(number != 0.0))),
        other => other,
    }
}

/// A device without a node has -1.
fn node(value: &[u8]) -> Parsed {
    if value == b"-1" { Parsed::Unknown } else { count(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local, skipped};
    use crate::snapshot::{Content, Snapshot};

    const AT: &str = "sys/bus/pci/devices/0000:45:00.0/";

    /// One device with these files, under `0000:45:00.0`, which hangs where `link` says.
    fn of(link: &str, files: &[(&str, &[u8])]) -> String {
        let mut all: Vec<(Vec<u8>, Content)> = files
            .iter()
            .map(|(file, text)| (format!("{AT}{file}").into_bytes(), Content::bytes(text.to_vec())))
            .collect();
        let path = AT.trim_end_matches('/');
        all.push((path.as_bytes().to_vec(), Content::Link(link.as_bytes().to_vec())));
        collect_snapshot(&COLLECTOR, &Snapshot::from_files(all), &[], &local()).unwrap()
    }

    const LINK: &str = "../../../devices/pci0000:40/0000:40:01.3/0000:45:00.0";

    #[test]
    fn a_device_reports_what_it_is_and_what_it_is_attached_to() {
        let ids: &[(&str, &[u8])] = &[
            ("class", b"0x020000\n"),
            ("device", b"0x1521\n"),
            ("revision", b"0x01\n"),
            ("subsystem_device", b"0x00a3\n"),
            ("subsystem_vendor", b"0x8086\n"),
            ("vendor", b"0x8086\n"),
        ];
        let info = "node_pcidevice_info{bus=\"45\",class_id=\"0x020000\",device=\"00\",device_id=\"0x1521\",function=\"0\",\
             parent_bus=\"40\",parent_device=\"01\",parent_function=\"3\",parent_segment=\"0000\",revision=\"0x01\",\
             segment=\"0000\",subsystem_device_id=\"0x00a3\",subsystem_vendor_id=\"0x8086\",vendor_id=\"0x8086\"} 1\n";
        assert_eq!(of(LINK, ids), info);
    }

    #[test]
    fn one_on_the_root_bus_has_no_parent_and_an_old_kernel_reports_no_revision() {
        for link in ["../../../devices/pci0000:40/0000:45:00.0", "0000:45:00.0", "", "a/b/c"] {
            let text = of(link, &[("vendor", b"0x8086\n"), ("class", b"x")]);
            let expected = "parent_bus=\"*\",parent_device=\"*\",parent_function=\"*\",parent_segment=\"*\",revision=\"\"";
            assert!(text.contains(expected), "{text}");
        }
    }

    /// What follows a name and the labels of the one device.
    fn value(file: &str, text: &str) -> String {
        let text = of(LINK, &[(file, text.as_bytes())]);
        text.lines()
            .filter(|line| !line.starts_with("node_pcidevice_info"))
            .map(|line| line.replace("{bus=\"45\",device=\"00\",function=\"0\",segment=\"0000\"", "{"))
            .collect()
    }

    #[test]
    fn speeds_are_transfers_a_second_and_unknown_ones_are_absent() {
        assert_eq!(
            value("max_link_speed", "16.0 GT/s PCIe\n"),
            "node_pcidevice_max_link_transfers_per_second{} 16000000000"
        );
        assert_eq!(
            value("current_link_speed", "2.5 GT/s\n"),
            "node_pcidevice_current_link_transfers_per_second{} 2500000000"
        );
        for unknown in ["Unknown\n", "Unknown speed\n", "\n", "fast\n", "16.0 MB/s\n", "x GT/s PCIe\n"] {
            assert_eq!(value("max_link_speed", unknown), "", "{unknown}");
        }
        // Not in any of its files.
        for file in ["d3cold_allowed", "sriov_numvfs", "sriov_totalvfs", "sriov_vf_total_msix"] {
            for unknown in ["Unknown\n", "\n", "x\n"] {
                assert_eq!(value(file, unknown), "", "{file}: {unknown}");
            }
        }
        assert_eq!(value("vendor", "0x8086\n"), "", "no number of a device without these files");
    }

    #[test]
    fn every_other_number_is_reported_unchanged() {
        for (file, _, family) in NUMBERS.iter().filter(|(file, ..)| !file.ends_with("_speed")) {
            assert_eq!(value(file, "1\n"), format!("{}{{}} 1", family.name));
            assert_eq!(value(file, "-1\n"), "", "{file}");
        }
        assert_eq!(value("sriov_totalvfs", "64\n"), "node_pcidevice_sriov_totalvfs{} 64");
    }

    #[test]
    fn exactly_one_power_state_is_on() {
        let text = value("power_state", "D3hot\n");
        assert_eq!(text.matches("} 0").count(), 6, "{text}");
        assert!(text.contains("node_pcidevice_power_state{,state=\"D3hot\"} 1"), "{text}");
        assert_eq!(value("power_state", "\n"), "");
    }

    #[test]
    fn only_a_directory_of_another_name_is_skipped() {
        let files: &[(&str, &[u8])] = &[
            ("sys/bus/pci/devices/\"0000:00:00.0/vendor", b"0x8086\n"),
            ("sys/bus/pci/devices/0000:00:00/vendor", b"0x8086\n"),
            ("sys/bus/pci/devices/0000:00:00./vendor", b"0x8086\n"),
        ];
        let names = ["--collector.pcidevice.names"];
        assert_eq!(collect(&COLLECTOR, files, &names).unwrap(), "");
        // The three, and that there are no names: each is logged.
        assert_eq!([skipped(&COLLECTOR, files, &[]), skipped(&COLLECTOR, files, &names)], [3, 4]);
    }

    #[test]
    fn a_host_without_devices_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let paths: Vec<String> = NUMBERS.iter().map(|(file, ..)| format!("{AT}{file}")).collect();
        let mut paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        paths.extend([
            "sys/bus/pci/devices/0000:45:00.0/class",
            "sys/bus/pci/devices/0000:45:00.0/power_state",
        ]);
        accepts_any_bytes(&COLLECTOR, &paths);
    }

    proptest::proptest! {
        #[test]
        fn any_link_target_is_parsed_without_a_panic(link in "[0-9a-f:./p]{0,40}") {
            let text = of(&link, &[("vendor", b"0x8086\n")]);
            proptest::prop_assert_eq!(text.lines().count(), 1);
        }
    }
}
