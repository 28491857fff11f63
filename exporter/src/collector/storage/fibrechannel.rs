//! Fibre Channel hosts: `sys/class/fc_host/<host>/`.
//!
//! <https://docs.kernel.org/scsi/scsi_fc_transport.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "fibrechannel",
    default: true,
    help: "Fibre Channel hosts and their frames and errors.",
    queries: &[Query::FibreChannel],
    optional: &[],
    flags: &[],
    families,
    new: |_| Ok(Box::new(collect)),
};

/// The directory of a host.
const HOST: &str = "sys/class/fc_host/host#";

const INFO: Family = Family {
    name: "node_fibrechannel_info",
    help: "Attributes of the host that are not numeric; always 1.",
    kind: MetricType::Gauge,
    labels: &[
        "dev_loss_tmo",
        "fabric_name",
        "fc_host",
        "port_id",
        "port_name",
        "port_state",
        "port_type",
        "speed",
        "supported_classes",
        "supported_speeds",
        "symbolic_name",
    ],
    source: Source::FileIn(
        HOST,
        "{dev_loss_tmo,fabric_name,port_id,port_name,port_state,port_type,speed,supported_classes,supported_speeds,symbolic_name}",
    ),
};

/// The files below `statistics`, and their families.
#[rustfmt::skip]
const STATISTICS: &[(&str, Family)] = &[
    statistic("dumped_frames",            "node_fibrechannel_dumped_frames_total",            "Frames dropped by the host because it had no buffer for them."),
    statistic("error_frames",             "node_fibrechannel_error_frames_total",             "Frames received with an error."),
    statistic("fcp_packet_aborts",        "node_fibrechannel_fcp_packet_aborts_total",        "SCSI commands over Fibre Channel that were aborted."),
    statistic("invalid_crc_count",        "node_fibrechannel_invalid_crc_total",              "Frames received with a wrong checksum."),
    statistic("invalid_tx_word_count",    "node_fibrechannel_invalid_tx_words_total",         "Transmission words that the port could not decode."),
    statistic("link_failure_count",       "node_fibrechannel_link_failure_total",             "Failures of the link."),
    statistic("loss_of_signal_count",     "node_fibrechannel_loss_of_signal_total",           "Times that the port lost its signal."),
    statistic("loss_of_sync_count",       "node_fibrechannel_loss_of_sync_total",             "Times that the port lost its synchronisation."),
    statistic("nos_count",                "node_fibrechannel_nos_total",                      "Primitive sequences received from a port that is not operational."),
    statistic("rx_frames",                "node_fibrechannel_rx_frames_total",                "Frames received."),
    statistic("rx_words",                 "node_fibrechannel_rx_words_total",                 "Words received."),
    statistic("seconds_since_last_reset", "node_fibrechannel_seconds_since_last_reset_total", "Seconds since the statistics of the port were reset."),
    statistic("tx_frames",                "node_fibrechannel_tx_frames_total",                "Frames sent."),
    statistic("tx_words",                 "node_fibrechannel_tx_words_total",                 "Words sent."),
];

const fn statistic(file: &'static str, name: &'static str, help: &'static str) -> (&'static str, Family) {
    let source = Source::FileIn("sys/class/fc_host/host#/statistics", file);
    (file, Family::counter(name, help, &["fc_host"], source))
}

fn families() -> Vec<Family> {
    let statistics = STATISTICS.iter().map(|(_, family)| *family);
    [INFO].into_iter().chain(statistics).collect()
}

/// The value of a statistic that the driver does not count.
const NOT_KEPT: u64 = u64::MAX;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for host in context.snapshot.dir("sys/class/fc_host").dirs() {
        any = true;
        out.item();
        let value = |file: &str| host.value(file).unwrap_or_default();
        // Names are hexadecimal numbers; they are emitted without their 0x.
        let name = |file: &str| {
            let name = host.value(file).unwrap_or_default();
            name.strip_prefix(b"0x").unwrap_or(name)
        };
        let labels = [
            value("dev_loss_tmo"),
            name("fabric_name"),
            host.name(),
            name("port_id"),
            name("port_name"),
            value("port_state"),
            value("port_type"),
            value("speed"),
            value("supported_classes"),
            value("supported_speeds"),
            value("symbolic_name"),
        ];
        if host.is_half_read(INFO.labels) {
            out.skip_half_read(host.path());
        } else {
            out.add(&INFO, &labels, 1u64);
        }

        let statistics = host.dir("statistics");
        for (file, family) in STATISTICS {
            let Some(text) = statistics.value(file) else { continue };
            match text::hexadecimal(text) {
                Some(NOT_KEPT) => {}
                Some(count) => out.add(family, &[host.name()], count),
                None => out.skip(|| format!("{}: no number", family.source)),
            }
        }
    }
    if any { Ok(()) } else { context.no_devices(Query::FibreChannel, "Fibre Channel hosts") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    fn host(files: &[(&str, &str)]) -> String {
        let files: Vec<(String, &[u8])> = files
            .iter()
            .map(|(file, text)| (format!("sys/class/fc_host/host0/{file}"), text.as_bytes()))
            .collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        collect(&COLLECTOR, &files, &[]).unwrap().replace("node_fibrechannel_", "")
    }

    /// Every statistic, with its place in the table as its value.
    fn statistics() -> Vec<(String, String)> {
        let files = STATISTICS.iter().map(|(file, _)| format!("statistics/{file}"));
        files.enumerate().map(|(at, file)| (file, format!("0x{at:x}\n"))).collect()
    }

    #[test]
    fn a_host_is_described_and_its_names_have_no_prefix() {
        assert_eq!(
            host(&[
                ("dev_loss_tmo", "30\n"),
                ("fabric_name", "0x0\n"),
                ("node_name", "0x2000e0071bce95f2\n"),
                ("port_id", "0x000002\n"),
                ("port_name", "0x1000e0071bce95f2\n"),
                ("port_state", "Online\n"),
                ("port_type", "Point-To-Point (direct nport connection)\n"),
                ("speed", "16 Gbit\n"),
                ("supported_classes", "Class 3\n"),
                ("supported_speeds", "4 Gbit, 8 Gbit, 16 Gbit\n"),
                ("symbolic_name", "Emulex \"SN1100E2P\"\n"),
            ]),
            "info{dev_loss_tmo=\"30\",fabric_name=\"0\",fc_host=\"host0\",port_id=\"000002\",\
             port_name=\"1000e0071bce95f2\",port_state=\"Online\",\
             port_type=\"Point-To-Point (direct nport connection)\",speed=\"16 Gbit\",\
             supported_classes=\"Class 3\",supported_speeds=\"4 Gbit, 8 Gbit, 16 Gbit\",\
             symbolic_name=\"Emulex \\\"SN1100E2P\\\"\"} 1\n"
        );
    }

    #[test]
    fn each_statistic_is_a_hexadecimal_counter() {
        let files = statistics();
        let text = host(&files.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect::<Vec<_>>());
        let counters: String =
            text.lines().filter(|line| !line.starts_with("info")).map(|l| format!("{l}\n")).collect();
        assert_eq!(
            counters.replace("_total{fc_host=\"host0\"}", ""),
            "dumped_frames 0\nerror_frames 1\nfcp_packet_aborts 2\ninvalid_crc 3\ninvalid_tx_words 4\n\
             link_failure 5\nloss_of_signal 6\nloss_of_sync 7\nnos 8\nrx_frames 9\nrx_words 10\n\
             seconds_since_last_reset 11\ntx_frames 12\ntx_words 13\n"
        );
    }

    #[test]
    fn a_statistic_that_the_driver_does_not_count_or_that_is_no_number_is_absent() {
        let text = host(&[
            ("statistics/rx_frames", "0xffffffffffffffff\n"),
            ("statistics/rx_words", "many"),
            ("statistics/shiny", "0x1"),
            ("statistics/tx_words", "0x10"),
        ]);
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), ["tx_words_total{fc_host=\"host0\"} 16"]);
    }

    #[test]
    fn a_host_that_is_not_there_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let files = statistics();
        let files = files.iter().map(|(file, _)| file.as_str()).chain(["port_name", "speed"]);
        let paths: Vec<String> = files.map(|file| format!("sys/class/fc_host/host0/{file}")).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
