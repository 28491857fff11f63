//! InfiniBand devices and the counters of their ports: `sys/class/infiniband/<device>/`.
//!
//! <https://docs.kernel.org/admin-guide/abi-stable.html> (`/sys/class/infiniband/<device>/`)

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{Filter, Options, TypedFlag};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "infiniband",
    default: true,
    help: "InfiniBand devices and the counters of their ports.",
    queries: &[Query::Infiniband],
    optional: &[],
    flags: &[EXCLUDE.row, INCLUDE.row],
    families,
    new: |options| Ok(Box::new(Infiniband::new(options))),
};

const EXCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.infiniband.device-exclude", "", "Devices to exclude.");
const INCLUDE: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.infiniband.device-include", "", "Devices to include.");

/// The directory of a port.
const PORT: &str = "sys/class/infiniband/*/ports/#";

const INFO: Family = Family {
    name: "node_infiniband_info",
    help: "Attributes of the device that are not numeric; always 1.",
    kind: MetricType::Gauge,
    labels: &["board_id", "device", "firmware_version", "hca_type"],
    source: Source::File("sys/class/infiniband/*/{board_id,fw_ver,hca_type}"),
};
const STATE: Family = port_gauge(
    "state",
    "node_infiniband_state_id",
    "State of the port: 1 down, 2 initialised, 3 armed, 4 active, 5 deferred.",
);
const PHYSICAL_STATE: Family = port_gauge(
    "phys_state",
    "node_infiniband_physical_state_id",
    "Physical state of the port: 1 asleep, 2 polling, 3 disabled, 4 training, 5 up, 6 recovering, 7 under test.",
);
const RATE: Family = port_gauge(
    "rate",
    "node_infiniband_rate_bytes_per_second",
    "Rate of the port's link in bytes per second.",
);
const LIFESPAN: Family = port_gauge(
    "hw_counters/lifespan",
    "node_infiniband_lifespan_seconds",
    "Time for which the device returns the same counters instead of reading them again.",
);

const fn port_gauge(file: &'static str, name: &'static str, help: &'static str) -> Family {
    Family::gauge(name, help, &["device", "port"], Source::FileIn(PORT, file))
}

/// A counter of a port: its file, what its number is multiplied by, and its family.
struct Counter {
    file: &'static str,
    factor: u64,
    family: Family,
}

/// Data is counted in words of four bytes.
const WORD: u64 = 4;

#[rustfmt::skip]
const COUNTERS: &[Counter] = &[
    counter("counters_ext/port_multicast_rcv_packets",  1,    "node_infiniband_legacy_multicast_packets_received_total",    "Multicast packets received, as kernels before Linux 4.5 count them apart."),
    counter("counters_ext/port_multicast_xmit_packets", 1,    "node_infiniband_legacy_multicast_packets_transmitted_total", "Multicast packets sent, as kernels before Linux 4.5 count them apart."),
    counter("counters_ext/port_rcv_data_64",            WORD, "node_infiniband_legacy_data_received_bytes_total",           "Bytes received, as kernels before Linux 4.5 count them apart."),
    counter("counters_ext/port_rcv_packets_64",         1,    "node_infiniband_legacy_packets_received_total",              "Packets received, as kernels before Linux 4.5 count them apart."),
    counter("counters_ext/port_unicast_rcv_packets",    1,    "node_infiniband_legacy_unicast_packets_received_total",      "Unicast packets received, as kernels before Linux 4.5 count them apart."),
    counter("counters_ext/port_unicast_xmit_packets",   1,    "node_infiniband_legacy_unicast_packets_transmitted_total",   "Unicast packets sent, as kernels before Linux 4.5 count them apart."),
    counter("counters_ext/port_xmit_data_64",           WORD, "node_infiniband_legacy_data_transmitted_bytes_total",        "Bytes sent, as kernels before Linux 4.5 count them apart."),
    counter("counters_ext/port_xmit_packets_64",        1,    "node_infiniband_legacy_packets_transmitted_total",           "Packets sent, as kernels before Linux 4.5 count them apart."),
    counter("counters/VL15_dropped",                    1,    "node_infiniband_vl15_dropped_total",                         "Management packets that were dropped because there was no room."),
    counter("counters/excessive_buffer_overrun_errors", 1,    "node_infiniband_excessive_buffer_overrun_errors_total",      "Times that buffers overran for too long."),
    counter("counters/link_downed",                     1,    "node_infiniband_link_downed_total",                          "Times that the link went down after it failed to recover."),
    counter("counters/link_error_recovery",             1,    "node_infiniband_link_error_recovery_total",                  "Times that the link recovered from an error."),
    counter("counters/local_link_integrity_errors",     1,    "node_infiniband_local_link_integrity_errors_total",          "Times that the port had more physical errors than it may."),
    counter("counters/multicast_rcv_packets",           1,    "node_infiniband_multicast_packets_received_total",           "Multicast packets received, with and without errors."),
    counter("counters/multicast_xmit_packets",          1,    "node_infiniband_multicast_packets_transmitted_total",        "Multicast packets sent, with and without errors."),
    counter("counters/port_rcv_constraint_errors",      1,    "node_infiniband_port_constraint_errors_received_total",      "Packets received that the switch's port may not pass on."),
    counter("counters/port_rcv_data",                   WORD, "node_infiniband_port_data_received_bytes_total",             "Bytes received."),
    counter("counters/port_rcv_discards",               1,    "node_infiniband_port_discards_received_total",               "Packets received and dropped because the port was down or congested."),
    counter("counters/port_rcv_errors",                 1,    "node_infiniband_port_errors_received_total",                 "Packets received with an error."),
    counter("counters/port_rcv_packets",                1,    "node_infiniband_port_packets_received_total",                "Packets received, with and without errors."),
    counter("counters/port_rcv_remote_physical_errors", 1,    "node_infiniband_port_receive_remote_physical_errors_total",  "Packets received that the sender had marked as bad."),
    counter("counters/port_rcv_switch_relay_errors",    1,    "node_infiniband_port_receive_switch_relay_errors_total",     "Packets received that the switch could not pass on."),
    counter("counters/port_xmit_constraint_errors",     1,    "node_infiniband_port_constraint_errors_transmitted_total",   "Packets that the switch's port may not send."),
    counter("counters/port_xmit_data",                  WORD, "node_infiniband_port_data_transmitted_bytes_total",          "Bytes sent."),
    counter("counters/port_xmit_discards",              1,    "node_infiniband_port_discards_transmitted_total",            "Packets to be sent and dropped because the port was down or congested."),
    counter("counters/port_xmit_packets",               1,    "node_infiniband_port_packets_transmitted_total",             "Packets sent, with and without errors."),
    counter("counters/port_xmit_wait",                  1,    "node_infiniband_port_transmit_wait_total",                   "Ticks in which the port had data and sent none."),
    counter("counters/symbol_error",                    1,    "node_infiniband_symbol_error_total",                         "Minor errors of the link's lanes."),
    counter("counters/unicast_rcv_packets",             1,    "node_infiniband_unicast_packets_received_total",             "Unicast packets received, with and without errors."),
    counter("counters/unicast_xmit_packets",            1,    "node_infiniband_unicast_packets_transmitted_total",          "Unicast packets sent, with and without errors."),
    counter("hw_counters/duplicate_request",            1,    "node_infiniband_duplicate_requests_packets_total",           "Packets received with a request that was executed before."),
    counter("hw_counters/implied_nak_seq_err",          1,    "node_infiniband_implied_nak_seq_errors_total",               "Answers with a higher sequence number than the requester expected."),
    counter("hw_counters/local_ack_timeout_err",        1,    "node_infiniband_local_ack_timeout_errors_total",             "Times that the sender received no acknowledgement in time."),
    counter("hw_counters/np_cnp_sent",                  1,    "node_infiniband_np_cnp_packets_sent_total",                  "Congestion notifications that the receiver of congested packets sent."),
    counter("hw_counters/np_ecn_marked_roce_packets",   1,    "node_infiniband_np_ecn_marked_roce_packets_received_total",  "RoCE packets received with a mark of congestion."),
    counter("hw_counters/out_of_buffer",                1,    "node_infiniband_out_of_buffer_drops_total",                  "Packets dropped because the queue pair had no buffer posted."),
    counter("hw_counters/out_of_sequence",              1,    "node_infiniband_out_of_sequence_packets_received_total",     "Packets received out of their order."),
    counter("hw_counters/packet_seq_err",               1,    "node_infiniband_packet_sequence_errors_total",               "Negative acknowledgements received for a wrong sequence number."),
    counter("hw_counters/req_cqe_error",                1,    "node_infiniband_req_cqes_errors_total",                      "Requests that completed with an error."),
    counter("hw_counters/req_cqe_flush_error",          1,    "node_infiniband_req_cqes_flush_errors_total",                "Requests that completed because their queue was flushed."),
    counter("hw_counters/req_remote_access_errors",     1,    "node_infiniband_req_remote_access_errors_total",             "Requests that the other side refused access to."),
    counter("hw_counters/req_remote_invalid_request",   1,    "node_infiniband_req_remote_invalid_request_errors_total",    "Requests that the other side found invalid."),
    counter("hw_counters/resp_cqe_error",               1,    "node_infiniband_resp_cqes_errors_total",                     "Responses that completed with an error."),
    counter("hw_counters/resp_cqe_flush_error",         1,    "node_infiniband_resp_cqes_flush_errors_total",               "Responses that completed because their queue was flushed."),
    counter("hw_counters/resp_local_length_error",      1,    "node_infiniband_resp_local_length_errors_total",             "Requests that the responder found too long or too short."),
    counter("hw_counters/resp_remote_access_errors",    1,    "node_infiniband_resp_remote_access_errors_total",            "Requests that the responder refused access to."),
    counter("hw_counters/rnr_nak_retry_err",            1,    "node_infiniband_rnr_nak_retry_packets_received_total",       "Answers received that the other side was not ready."),
    counter("hw_counters/roce_adp_retrans",             1,    "node_infiniband_roce_adp_retransmits_total",                 "Adaptive retransmissions of RoCE packets."),
    counter("hw_counters/roce_adp_retrans_to",          1,    "node_infiniband_roce_adp_retransmits_timeout_total",         "Adaptive retransmissions of RoCE packets that timed out."),
    counter("hw_counters/roce_slow_restart",            1,    "node_infiniband_roce_slow_restart_used_total",               "Times that the slow restart of RoCE was used."),
    counter("hw_counters/roce_slow_restart_cnps",       1,    "node_infiniband_roce_slow_restart_cnps_total",               "Congestion notifications caused by the slow restart of RoCE."),
    counter("hw_counters/roce_slow_restart_trans",      1,    "node_infiniband_roce_slow_restart_total",                    "Times that RoCE went into slow restart."),
    counter("hw_counters/rp_cnp_handled",               1,    "node_infiniband_rp_cnp_packets_handled_total",               "Congestion notifications received that slowed the sender down."),
    counter("hw_counters/rp_cnp_ignored",               1,    "node_infiniband_rp_cnp_ignored_packets_received_total",      "Congestion notifications received and ignored."),
    counter("hw_counters/rx_atomic_requests",           1,    "node_infiniband_rx_atomic_requests_total",                   "Atomic requests received."),
    counter("hw_counters/rx_dct_connect",               1,    "node_infiniband_rx_dct_connect_requests_total",              "Requests received to connect a dynamically connected queue pair."),
    counter("hw_counters/rx_icrc_encapsulated",         1,    "node_infiniband_rx_icrc_encapsulated_errors_total",          "RoCE packets received with a wrong checksum."),
    counter("hw_counters/rx_read_requests",             1,    "node_infiniband_rx_read_requests_total",                     "Read requests received."),
    counter("hw_counters/rx_write_requests",            1,    "node_infiniband_rx_write_requests_total",                    "Write requests received."),
];

const fn counter(file: &'static str, factor: u64, name: &'static str, help: &'static str) -> Counter {
    Counter {
        file,
        factor,
        family: Family::counter(name, help, &["device", "port"], Source::FileIn(PORT, file)),
    }
}

fn families() -> Vec<Family> {
    let counters = COUNTERS.iter().map(|counter| counter.family);
    counters.chain([STATE, PHYSICAL_STATE, RATE, LIFESPAN, INFO]).collect()
}

/// Bytes per second in a gigabit per second, the unit of `rate`.
const BYTES_A_GIGABIT: f64 = 1e9 / 8.0;

/// The values of the flags.
#[derive(Debug)]
struct Infiniband {
    devices: Filter,
}

impl Infiniband {
    fn new(options: &Options) -> Self {
        Self { devices: Filter::new(options, INCLUDE, EXCLUDE) }
    }
}

impl Collect for Infiniband {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut any = false;
        for device in context.snapshot.dir("sys/class/infiniband").dirs() {
            any = true;
            if !self.devices.passes(device.name()) {
                continue;
            }
            out.item();
            match device.labels(["board_id", "fw_ver", "hca_type"]) {
                Some([board, firmware, kind]) => {
                    out.add(&INFO, &[board, device.name(), firmware, kind], 1u64)
                }
                None => out.skip_half_read(device.path()),
            }
            for port in device.dir("ports").dirs() {
                collect_port(&[device.name(), port.name()], &port, out);
            }
        }
        if any { Ok(()) } else { context.no_devices(Query::Infiniband, "InfiniBand devices") }
    }
}

fn collect_port(labels: &[&[u8]; 2], port: &Dir<'_>, out: &mut Exposition) {
    // `4: ACTIVE`
    for (family, file) in [(&STATE, "state"), (&PHYSICAL_STATE, "phys_state")] {
        let state = port.value(file).map(|state| text::split_first(state, b':').map_or(state, |(id, _)| id));
        match state.map(text::unsigned) {
            Some(Some(id)) => out.add(family, labels, id),
            Some(None) => out.skip(|| format!("{}: no number", family.source)),
            None => {}
        }
    }
    // `40 Gb/sec (4X QDR)`
    match port.value("rate").map(|rate| text::fields(rate).next().and_then(text::float)) {
        Some(Some(gigabits)) => out.add(&RATE, labels, gigabits * BYTES_A_GIGABIT),
        Some(None) => out.skip(|| format!("{}: no number", RATE.source)),
        None => {}
    }
    if let Some(milliseconds) = port.unsigned("hw_counters/lifespan") {
        out.add(&LIFESPAN, labels, milliseconds as f64 / 1e3);
    }
    for Counter { file, factor, family } in COUNTERS {
        // A device that does not count something says `N/A (no PMA)`.
        if let Some(count) = port.unsigned(file) {
            out.add(family, labels, count.wrapping_mul(*factor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const DEVICE: &[(&str, &str)] = &[
        ("board_id", "SM_1141000001000\n"),
        ("fw_ver", "2.31.5050\n"),
        ("hca_type", "MT4099\n"),
        ("ports/1/phys_state", "5: LinkUp\n"),
        ("ports/1/rate", "2.5 Gb/sec (1X SDR)\n"),
        ("ports/1/state", "4: ACTIVE\n"),
    ];

    fn infiniband(files: &[(&str, &str)], flags: &[&str]) -> String {
        let path = |file: &str| format!("sys/class/infiniband/mlx5_0/{file}");
        let files: Vec<(String, &[u8])> =
            files.iter().map(|(file, text)| (path(file), text.as_bytes())).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        collect(&COLLECTOR, &files, flags).unwrap().replace("node_infiniband_", "")
    }

    #[test]
    fn a_device_and_its_port_are_described() {
        assert_eq!(
            infiniband(DEVICE, &[]),
            "info{board_id=\"SM_1141000001000\",device=\"mlx5_0\",firmware_version=\"2.31.5050\",hca_type=\"MT4099\"} 1\n\
             physical_state_id{device=\"mlx5_0\",port=\"1\"} 5\n\
             rate_bytes_per_second{device=\"mlx5_0\",port=\"1\"} 312500000\n\
             state_id{device=\"mlx5_0\",port=\"1\"} 4\n"
        );
    }

    #[test]
    fn each_counter_has_its_file_and_data_is_counted_in_words() {
        let files: Vec<(String, String)> = COUNTERS
            .iter()
            .enumerate()
            .map(|(at, counter)| (format!("ports/12/{}", counter.file), format!("{at}\n")))
            .collect();
        let files: Vec<(&str, &str)> =
            files.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
        let text = infiniband(&files, &[]);
        assert_eq!(text.lines().count(), COUNTERS.len() + 1);
        for line in [
            "legacy_data_received_bytes_total{device=\"mlx5_0\",port=\"12\"} 8\n",
            "port_data_transmitted_bytes_total{device=\"mlx5_0\",port=\"12\"} 92\n",
            "port_packets_transmitted_total{device=\"mlx5_0\",port=\"12\"} 25\n",
            "rx_write_requests_total{device=\"mlx5_0\",port=\"12\"} 58\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn a_lifespan_is_in_milliseconds() {
        let text = infiniband(&[("ports/1/hw_counters/lifespan", "10\n")], &[]);
        assert!(text.contains("lifespan_seconds{device=\"mlx5_0\",port=\"1\"} 0.01\n"), "{text}");
    }

    #[test]
    fn what_is_not_counted_or_no_number_is_absent() {
        let files = [
            ("ports/1/counters/link_downed", "N/A (no PMA)\n"),
            ("ports/1/counters/shiny", "1\n"),
            ("ports/1/counters/symbol_error", "2\n"),
            ("ports/1/rate", "fast\n"),
            ("ports/1/state", "ACTIVE\n"),
        ];
        let text = infiniband(&files, &[]);
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            ["symbol_error_total{device=\"mlx5_0\",port=\"1\"} 2"]
        );
    }

    #[test]
    fn devices_are_chosen_by_name() {
        assert_eq!(infiniband(DEVICE, &["--collector.infiniband.device-exclude=^mlx"]), "");
        assert_eq!(infiniband(DEVICE, &["--collector.infiniband.device-include=^i40"]), "");
        assert_eq!(infiniband(DEVICE, &["--collector.infiniband.device-include=^mlx"]).lines().count(), 4);
    }

    #[test]
    fn names_may_have_any_bytes() {
        assert!(infiniband(&[("board_id", "a\"b\nc")], &[]).contains("board_id=\"a\\\"b\\nc\""));
    }

    #[test]
    fn a_host_without_devices_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let counters = COUNTERS.iter().map(|counter| counter.file);
        let files = counters.chain(["state", "rate", "hw_counters/lifespan"]);
        let paths: Vec<String> = files.map(|file| format!("sys/class/infiniband/a/ports/1/{file}")).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
