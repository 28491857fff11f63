//! What network devices count: `proc/1/net/dev`, and what that file lacks from `sys/class/net/<device>/statistics/`.
//!
//! <https://docs.kernel.org/networking/statistics.html>
//!
//! It is always the file of process 1: `proc/net` is that of the reader's own network namespace.

mod addresses;
mod counters;

use keyhole_proto::v1::Query;

use self::counters::{COUNTERS, Counter, Naming, Place};
use crate::collector::{Collect, CollectError, Collector, Context, SetupError};
use crate::exposition::{Exposition, Family};
use crate::go_regex::GoRegex;
use crate::options::{Filter, Flag, FlagKind, Options, TypedFlag};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "netdev",
    default: true,
    help: "Bytes, packets and errors of network devices.",
    queries: &[Query::NetDev],
    optional: &[Query::NetClass, Query::NetStatistics, Query::NetAddresses],
    flags: &[
        ADDRESS_INFO.row,
        EXCLUDE.alias("collector.netdev.device-blacklist"),
        EXCLUDE.row,
        INCLUDE.row,
        INCLUDE.alias("collector.netdev.device-whitelist"),
        DETAILED.row,
        LABEL_IFALIAS.row,
        Flag {
            name: "collector.netdev.netlink",
            kind: FlagKind::Switch(true),
            help: "No effect: the numbers come from files in either case.",
        },
    ],
    families,
    new: |options| Ok(Box::new(Netdev::new(options)?)),
};

const PATH: &str = "proc/1/net/dev";
const ADDRESS_INFO: TypedFlag<bool> = TypedFlag::switch(
    "collector.netdev.address-info",
    false,
    "Report the IPv6 addresses of devices. IPv4 addresses are not in any file.",
);
const DETAILED: TypedFlag<bool> = TypedFlag::switch(
    "collector.netdev.enable-detailed-metrics",
    false,
    "Report each type of error separately, under other names than the default ones.",
);
const EXCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.netdev.device-exclude",
    "",
    "Devices to exclude. Mutually exclusive with device-include.",
);
const INCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.netdev.device-include",
    "",
    "Devices to include. Mutually exclusive with device-exclude.",
);
const LABEL_IFALIAS: TypedFlag<bool> = TypedFlag::switch(
    "collector.netdev.label-ifalias",
    false,
    "Add the device's alias as the label ifalias.",
);

fn families() -> Vec<Family> {
    COUNTERS.iter().map(|counter| counter.family).chain([addresses::INFO]).collect()
}

/// The values of the flags.
#[derive(Debug)]
struct Netdev {
    devices: Filter,
    address_info: bool,
    naming: Naming,
    /// Whether the alias of a device is a label.
    with_alias: bool,
}

impl Netdev {
    fn new(options: &Options) -> Result<Self, SetupError> {
        Ok(Self {
            devices: Filter::exclusive(options, INCLUDE, EXCLUDE)?,
            address_info: ADDRESS_INFO.get(options),
            naming: if DETAILED.get(options) { Naming::Detailed } else { Naming::Default },
            with_alias: LABEL_IFALIAS.get(options),
        })
    }
}

impl Collect for Netdev {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        if self.address_info {
            addresses::collect(context, &self.devices, out);
        }
        let table = context.require(PATH)?;
        let header =
            Header::parse(table).ok_or_else(|| CollectError::malformed(PATH, "no names of columns"))?;
        let heading = table.strip_suffix(header.rest).unwrap_or_default();
        for _ in text::lines(heading).filter(|line| !line.contains(&b'|')) {
            out.skip(|| format!("{PATH}: a line above the names of columns"));
        }
        // Where in a line each counter stands, once for all lines.
        let counters: Vec<(&Counter, Option<usize>)> = COUNTERS
            .iter()
            .filter(|counter| counter.naming == Naming::Both || counter.naming == self.naming)
            .map(|counter| (counter, header.position(counter.place)))
            .collect();

        let net = context.snapshot.dir("sys/class/net");
        let mut values = Vec::new();
        for line in text::lines(header.rest) {
            // The name may hold a colon, the numbers cannot; old kernels put no space behind it.
            let Some((name, numbers)) = text::split_last(line, b':') else {
                out.skip(|| format!("{PATH}: a line without a device"));
                continue;
            };
            let name = text::trim(name);
            if !self.devices.passes(name) {
                continue;
            }
            values.clear();
            values.extend(text::fields(numbers).map(text::unsigned));
            if values.len() < header.columns {
                out.skip(|| format!("{PATH}: a device with fewer numbers than there are columns"));
                continue;
            }
            out.item();
            let device = net.dir(name);
            let alias = self.with_alias.then(|| device.value("ifalias").unwrap_or_default());
            for (counter, position) in &counters {
                let value = match counter.place {
                    Place::Statistic(file) => statistic(&device, file),
                    _ => match position.and_then(|at| values.get(at)) {
                        Some(None) => {
                            out.skip(|| format!("{PATH}: {} without a number", counter.family.name));
                            None
                        }
                        value => value.copied().flatten(),
                    },
                };
                let Some(value) = value else { continue };
                match alias {
                    None => out.add(&counter.family, &[name], value),
                    Some(alias) => {
                        let family = Family { labels: &["device", "ifalias"], ..counter.family };
                        out.add(&family, &[name, alias], value);
                    }
                }
            }
        }
        Ok(())
    }

    fn wants(&self, query: Query) -> bool {
        match query {
            Query::NetAddresses => self.address_info,
            Query::NetStatistics => self.naming == Naming::Detailed,
            _ => true,
        }
    }
}

fn statistic(device: &Dir<'_>, file: &str) -> Option<u64> {
    device.unsigned([b"statistics/", file.as_bytes()].concat())
}

/// The names of the columns, found by name since kernels have added some.
struct Header<'a> {
    receive: Vec<&'a [u8]>,
    transmit: Vec<&'a [u8]>,
    columns: usize,
    /// The lines below.
    rest: &'a [u8],
}

impl<'a> Header<'a> {
    /// Finds `face |bytes packets ...|bytes packets ...`.
    fn parse(table: &'a [u8]) -> Option<Self> {
        let mut rest = table;
        while let Some((line, below)) = text::split_first(rest, b'\n') {
            rest = below;
            let mut sides = line.split(|&byte| byte == b'|').skip(1);
            let (Some(receive), Some(transmit)) = (sides.next(), sides.next()) else { continue };
            let receive: Vec<_> = text::fields(receive).collect();
            let transmit: Vec<_> = text::fields(transmit).collect();
            if receive.first() == Some(&&b"Receive"[..]) {
                continue;
            }
            let columns = receive.len() + transmit.len();
            return Some(Self { receive, transmit, columns, rest });
        }
        None
    }

    fn position(&self, place: Place) -> Option<usize> {
        let find = |names: &[&[u8]], column: &str| names.iter().position(|name| *name == column.as_bytes());
        match place {
            Place::Receive(column) => find(&self.receive, column),
            Place::Transmit(column) => Some(self.receive.len() + find(&self.transmit, column)?),
            Place::Statistic(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    const DEV: &[u8] = b"\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0
  eth0: 18446744073709551615 102 103 104 105 106 107 108 201 202 203 204 205 206 207 208
";

    fn netdev(text: &[u8], flags: &[&str]) -> String {
        collect(&COLLECTOR, &[(PATH, text)], flags).unwrap()
    }

    /// The samples of one device as `name value`.
    fn of_device(text: &str, device: &str) -> String {
        let label = format!("_total{{device=\"{device}\"}}");
        text.lines()
            .filter(|line| line.contains(&label))
            .map(|line| line.replace(&label, "").replace("node_network_", "") + "\n")
            .collect()
    }

    #[test]
    fn each_column_is_a_counter_of_the_device() {
        let text = netdev(DEV, &[]);
        assert_eq!(
            of_device(&text, "eth0"),
            "receive_bytes 18446744073709551615\nreceive_compressed 107\nreceive_drop 104\nreceive_errs 103\n\
             receive_fifo 105\nreceive_frame 106\nreceive_multicast 108\nreceive_packets 102\n\
             transmit_bytes 201\ntransmit_carrier 207\ntransmit_colls 206\ntransmit_compressed 208\n\
             transmit_drop 204\ntransmit_errs 203\ntransmit_fifo 205\ntransmit_packets 202\n"
        );
        assert_eq!(text.lines().count(), 32);
    }

    #[test]
    fn detailed_metrics_have_single_errors_and_no_sums() {
        let mut files: Vec<(String, Vec<u8>)> = vec![(PATH.into(), DEV.into())];
        for (at, counter) in COUNTERS.iter().enumerate() {
            if let Place::Statistic(file) = counter.place {
                files.push((format!("sys/class/net/eth0/statistics/{file}"), format!("{at}\n").into_bytes()));
            }
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), &text[..])).collect();
        let text = collect(&COLLECTOR, &files, &["--collector.netdev.enable-detailed-metrics"]).unwrap();
        assert_eq!(
            of_device(&text, "eth0"),
            "collisions 206\nmulticast 108\nreceive_bytes 18446744073709551615\nreceive_compressed 107\n\
             receive_crc_errors 4\nreceive_dropped 6\nreceive_errors 103\nreceive_fifo_errors 105\n\
             receive_frame_errors 11\nreceive_length_errors 13\nreceive_missed_errors 14\n\
             receive_nohandler 16\nreceive_over_errors 17\nreceive_packets 102\n\
             transmit_aborted_errors 19\ntransmit_bytes 201\ntransmit_carrier_errors 21\n\
             transmit_compressed 208\ntransmit_dropped 204\ntransmit_errors 203\ntransmit_fifo_errors 205\n\
             transmit_heartbeat_errors 31\ntransmit_packets 202\ntransmit_window_errors 33\n"
        );
        assert_eq!(of_device(&text, "lo").lines().count(), 13, "those of the columns alone");
    }

    #[test]
    fn packets_without_a_handler_are_read_from_sysfs_where_it_has_them() {
        let files: [(&str, &[u8]); 2] = [(PATH, DEV), ("sys/class/net/eth0/statistics/rx_nohandler", b"3\n")];
        let text = collect(&COLLECTOR, &files, &[]).unwrap();
        assert!(text.contains("node_network_receive_nohandler_total{device=\"eth0\"} 3\n"), "{text}");
        assert!(!text.contains("node_network_receive_nohandler_total{device=\"lo\"}"), "{text}");
    }

    #[test]
    fn devices_are_chosen_by_name_and_by_the_flags_old_names() {
        for flag in
            ["device-include=^lo", "device-whitelist=^lo", "device-exclude=^eth", "device-blacklist=^eth"]
        {
            let text = netdev(DEV, &[&format!("--collector.netdev.{flag}")]);
            assert_eq!(text.lines().count(), 16, "{flag}");
            assert!(text.contains("receive_packets_total{device=\"lo\"} 29\n"), "{flag}");
        }
    }

    #[test]
    fn the_alias_is_a_label_if_the_flag_is_on() {
        let files: [(&str, &[u8]); 2] = [(PATH, DEV), ("sys/class/net/eth0/ifalias", b"up\"link\nhere\n")];
        let text = collect(&COLLECTOR, &files, &["--collector.netdev.label-ifalias"]).unwrap();
        assert!(text.contains("bytes_total{device=\"eth0\",ifalias=\"up\\\"link\\nhere\"} 201\n"), "{text}");
        assert!(text.contains("bytes_total{device=\"lo\",ifalias=\"\"} 3193\n"), "{text}");
    }

    #[test]
    fn columns_are_found_by_name_in_kernels_that_have_fewer_or_more() {
        let old = b"Inter-|   Receive            |  Transmit\n face |packets errs drop|packets errs colls\n\
                    eth0:1 2 3 4 5 6\n";
        assert_eq!(
            of_device(&netdev(old, &[]), "eth0"),
            "receive_drop 3\nreceive_errs 2\nreceive_packets 1\n\
             transmit_colls 6\ntransmit_errs 5\ntransmit_packets 4\n"
        );
        let new = b"Inter-|Receive|Transmit\n face |bytes fresh|bytes|shiny\n eth0: 1 2 3 4\n";
        assert_eq!(of_device(&netdev(new, &[]), "eth0"), "receive_bytes 1\ntransmit_bytes 3\n");
    }

    #[test]
    fn a_name_with_a_colon_or_odd_bytes_is_one_device() {
        let text = netdev(b" face |bytes|bytes\neth0:1:5 6\na\"b|)\xff: 7 8\n", &[]);
        assert_eq!(of_device(&text, "eth0:1"), "receive_bytes 5\ntransmit_bytes 6\n");
        assert_eq!(of_device(&text, "a\\\"b|)\u{fffd}"), "receive_bytes 7\ntransmit_bytes 8\n");
    }

    #[test]
    fn only_a_malformed_line_or_number_is_skipped() {
        let text = netdev(b" face |bytes errs|bytes\nno device\n a: 1\n b: 1 -1 2\n", &[]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(of_device(&text, "b"), "receive_bytes 1\ntransmit_bytes 2\n");
        let table = b"\nbroken\n face |bytes errs|bytes\nno device\n a: 1\n b: 1 -1 2\n";
        assert_eq!(skipped(&COLLECTOR, &[(PATH, table)], &[]), 5);
    }

    #[test]
    fn a_file_without_names_of_columns_is_malformed_and_a_missing_one_no_data() {
        assert!(matches!(
            collect(&COLLECTOR, &[(PATH, b"eth0: 1 2 3\n")], &[]),
            Err(CollectError::Malformed { .. })
        ));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &[PATH, "sys/class/net/a/statistics/rx_nohandler", "sys/class/net/a/ifalias"],
        );
    }

    proptest::proptest! {
        #[test]
        fn any_lines_below_any_columns_result_in_at_most_one_sample_per_number(
            columns in "[|]?(bytes|errs|drop|[|])( (bytes|packets|colls|[|])){0,8}",
            lines in "([a-z:|]{0,4}[:]?[0-9 -]{0,24}\\n?){0,5}",
        ) {
            let text = format!("|Receive|Transmit\n{columns}\n{lines}");
            if let Ok(samples) = collect(&COLLECTOR, &[(PATH, text.as_bytes())], &[]) {
                let numbers = lines.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty()).count();
                // A column that stands twice is read once.
                proptest::prop_assert!(samples.lines().count() <= numbers, "{text}{samples}");
            }
        }
    }
}
