//! InfiniBand devices and the counters of their ports: `sys/class/infiniband/<device>/`.
//!
//! <https://docs.kernel.org/admin-guide/abi-stable.html> (`/sys/class/infiniband/<device>/`)

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Kind};
use crate::options::{Flag, FlagKind};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "infiniband",
    default: true,
    help: "InfiniBand devices and the counters of their ports.",
    queries: &[Query::Infiniband],
    optional: &[],
    flags: &[
        Flag { name: EXCLUDE, kind: FlagKind::Regexp(""), help: "Devices to exclude." },
        Flag { name: INCLUDE, kind: FlagKind::Regexp(""), help: "Devices to include." },
    ],
    families: &FAMILIES,
    collect,
};

const EXCLUDE: &str = "collector.infiniband.device-exclude";
const INCLUDE: &str = "collector.infiniband.device-include";

/// Where the files of a port lie, before the name of each.
const PORT: &str = "sys/class/infiniband/<device>/ports/<port>/";

const INFO: Family = Family {
    name: "node_infiniband_info",
    help: "Attributes of the device that are no numbers; always 1.",
    kind: Kind::Gauge,
    labels: &["board_id", "device", "firmware_version", "hca_type"],
    source: "sys/class/infiniband/<device>/",
};
const STATE: Family = Family {
    name: "node_infiniband_state_id",
    help: "State of the port: 1 down, 2 initialised, 3 armed, 4 active, 5 deferred.",
    kind: Kind::Gauge,
    source: "sys/class/infiniband/<device>/ports/<port>/state",
    ..COUNT
};
const PHYSICAL_STATE: Family = Family {
    name: "node_infiniband_physical_state_id",
    help: "Physical state of the port: 1 asleep, 2 polling, 3 disabled, 4 training, 5 up, 6 recovering, 7 under test.",
    source: "sys/class/infiniband/<device>/ports/<port>/phys_state",
    ..STATE
};
const RATE: Family = Family {
    name: "node_infiniband_rate_bytes_per_second",
    help: "Rate of the port's link in bytes per second.",
    source: "sys/class/infiniband/<device>/ports/<port>/rate",
    ..STATE
};
const LIFESPAN: Family = Family {
    name: "node_infiniband_lifespan_seconds",
    help: "Time for which the device gives the same counters again instead of reading them anew.",
    source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/lifespan",
    ..STATE
};

/// A counter of a port: its family, with the file that it stands in, and what one of its units is.
struct Counter {
    factor: u64,
    family: Family,
}

const COUNT: Family =
    Family { name: "", help: "", kind: Kind::Counter, labels: &["device", "port"], source: PORT };
/// Data is counted in words of four bytes.
const WORD: u64 = 4;

#[rustfmt::skip]
const COUNTERS: &[Counter] = &[
    Counter { factor: 1, family: Family { name: "node_infiniband_legacy_multicast_packets_received_total", help: "Multicast packets received, as kernels before Linux 4.5 count them apart.", source: "sys/class/infiniband/<device>/ports/<port>/counters_ext/port_multicast_rcv_packets", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_legacy_multicast_packets_transmitted_total", help: "Multicast packets sent, as kernels before Linux 4.5 count them apart.", source: "sys/class/infiniband/<device>/ports/<port>/counters_ext/port_multicast_xmit_packets", ..COUNT } },
    Counter { factor: WORD, family: Family { name: "node_infiniband_legacy_data_received_bytes_total", help: "Bytes received, as kernels before Linux 4.5 count them apart.", source: "sys/class/infiniband/<device>/ports/<port>/counters_ext/port_rcv_data_64", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_legacy_packets_received_total", help: "Packets received, as kernels before Linux 4.5 count them apart.", source: "sys/class/infiniband/<device>/ports/<port>/counters_ext/port_rcv_packets_64", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_legacy_unicast_packets_received_total", help: "Unicast packets received, as kernels before Linux 4.5 count them apart.", source: "sys/class/infiniband/<device>/ports/<port>/counters_ext/port_unicast_rcv_packets", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_legacy_unicast_packets_transmitted_total", help: "Unicast packets sent, as kernels before Linux 4.5 count them apart.", source: "sys/class/infiniband/<device>/ports/<port>/counters_ext/port_unicast_xmit_packets", ..COUNT } },
    Counter { factor: WORD, family: Family { name: "node_infiniband_legacy_data_transmitted_bytes_total", help: "Bytes sent, as kernels before Linux 4.5 count them apart.", source: "sys/class/infiniband/<device>/ports/<port>/counters_ext/port_xmit_data_64", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_legacy_packets_transmitted_total", help: "Packets sent, as kernels before Linux 4.5 count them apart.", source: "sys/class/infiniband/<device>/ports/<port>/counters_ext/port_xmit_packets_64", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_vl15_dropped_total", help: "Management packets that were dropped for want of room.", source: "sys/class/infiniband/<device>/ports/<port>/counters/VL15_dropped", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_excessive_buffer_overrun_errors_total", help: "Times that buffers overran for too long.", source: "sys/class/infiniband/<device>/ports/<port>/counters/excessive_buffer_overrun_errors", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_link_downed_total", help: "Times that the link went down after it failed to recover.", source: "sys/class/infiniband/<device>/ports/<port>/counters/link_downed", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_link_error_recovery_total", help: "Times that the link recovered from an error.", source: "sys/class/infiniband/<device>/ports/<port>/counters/link_error_recovery", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_local_link_integrity_errors_total", help: "Times that the port had more physical errors than it may.", source: "sys/class/infiniband/<device>/ports/<port>/counters/local_link_integrity_errors", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_multicast_packets_received_total", help: "Multicast packets received, with and without errors.", source: "sys/class/infiniband/<device>/ports/<port>/counters/multicast_rcv_packets", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_multicast_packets_transmitted_total", help: "Multicast packets sent, with and without errors.", source: "sys/class/infiniband/<device>/ports/<port>/counters/multicast_xmit_packets", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_constraint_errors_received_total", help: "Packets received that the switch's port may not pass on.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_rcv_constraint_errors", ..COUNT } },
    Counter { factor: WORD, family: Family { name: "node_infiniband_port_data_received_bytes_total", help: "Bytes received.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_rcv_data", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_discards_received_total", help: "Packets received and dropped because the port was down or congested.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_rcv_discards", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_errors_received_total", help: "Packets received with an error.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_rcv_errors", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_packets_received_total", help: "Packets received, with and without errors.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_rcv_packets", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_receive_remote_physical_errors_total", help: "Packets received that the sender had marked as bad.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_rcv_remote_physical_errors", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_receive_switch_relay_errors_total", help: "Packets received that the switch could not pass on.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_rcv_switch_relay_errors", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_constraint_errors_transmitted_total", help: "Packets that the switch's port may not send.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_xmit_constraint_errors", ..COUNT } },
    Counter { factor: WORD, family: Family { name: "node_infiniband_port_data_transmitted_bytes_total", help: "Bytes sent.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_xmit_data", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_discards_transmitted_total", help: "Packets to be sent and dropped because the port was down or congested.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_xmit_discards", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_packets_transmitted_total", help: "Packets sent, with and without errors.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_xmit_packets", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_port_transmit_wait_total", help: "Ticks in which the port had data and sent none.", source: "sys/class/infiniband/<device>/ports/<port>/counters/port_xmit_wait", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_symbol_error_total", help: "Minor errors of the link's lanes.", source: "sys/class/infiniband/<device>/ports/<port>/counters/symbol_error", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_unicast_packets_received_total", help: "Unicast packets received, with and without errors.", source: "sys/class/infiniband/<device>/ports/<port>/counters/unicast_rcv_packets", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_unicast_packets_transmitted_total", help: "Unicast packets sent, with and without errors.", source: "sys/class/infiniband/<device>/ports/<port>/counters/unicast_xmit_packets", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_duplicate_requests_packets_total", help: "Packets received with a request that was executed before.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/duplicate_request", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_implied_nak_seq_errors_total", help: "Answers with a higher sequence number than the requester expected.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/implied_nak_seq_err", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_local_ack_timeout_errors_total", help: "Times that the sender waited for an acknowledgement in vain.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/local_ack_timeout_err", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_np_cnp_packets_sent_total", help: "Congestion notifications that the receiver of congested packets sent.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/np_cnp_sent", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_np_ecn_marked_roce_packets_received_total", help: "RoCE packets received with a mark of congestion.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/np_ecn_marked_roce_packets", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_out_of_buffer_drops_total", help: "Packets dropped because the queue pair had no buffer posted.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/out_of_buffer", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_out_of_sequence_packets_received_total", help: "Packets received out of their order.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/out_of_sequence", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_packet_sequence_errors_total", help: "Negative acknowledgements received for a wrong sequence number.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/packet_seq_err", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_req_cqes_errors_total", help: "Requests that completed with an error.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/req_cqe_error", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_req_cqes_flush_errors_total", help: "Requests that completed because their queue was flushed.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/req_cqe_flush_error", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_req_remote_access_errors_total", help: "Requests that the other side refused access to.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/req_remote_access_errors", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_req_remote_invalid_request_errors_total", help: "Requests that the other side found invalid.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/req_remote_invalid_request", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_resp_cqes_errors_total", help: "Responses that completed with an error.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/resp_cqe_error", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_resp_cqes_flush_errors_total", help: "Responses that completed because their queue was flushed.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/resp_cqe_flush_error", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_resp_local_length_errors_total", help: "Requests that the responder found too long or too short.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/resp_local_length_error", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_resp_remote_access_errors_total", help: "Requests that the responder refused access to.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/resp_remote_access_errors", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_rnr_nak_retry_packets_received_total", help: "Answers received that the other side was not ready.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/rnr_nak_retry_err", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_roce_adp_retransmits_total", help: "Adaptive retransmissions of RoCE packets.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/roce_adp_retrans", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_roce_adp_retransmits_timeout_total", help: "Adaptive retransmissions of RoCE packets that timed out.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/roce_adp_retrans_to", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_roce_slow_restart_used_total", help: "Times that the slow restart of RoCE was used.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/roce_slow_restart", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_roce_slow_restart_cnps_total", help: "Congestion notifications that came of the slow restart of RoCE.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/roce_slow_restart_cnps", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_roce_slow_restart_total", help: "Times that RoCE went into slow restart.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/roce_slow_restart_trans", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_rp_cnp_packets_handled_total", help: "Congestion notifications received that slowed the sender down.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/rp_cnp_handled", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_rp_cnp_ignored_packets_received_total", help: "Congestion notifications received and ignored.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/rp_cnp_ignored", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_rx_atomic_requests_total", help: "Atomic requests received.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/rx_atomic_requests", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_rx_dct_connect_requests_total", help: "Requests received to connect a dynamically connected queue pair.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/rx_dct_connect", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_rx_icrc_encapsulated_errors_total", help: "RoCE packets received with a wrong checksum.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/rx_icrc_encapsulated", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_rx_read_requests_total", help: "Read requests received.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/rx_read_requests", ..COUNT } },
    Counter { factor: 1, family: Family { name: "node_infiniband_rx_write_requests_total", help: "Write requests received.", source: "sys/class/infiniband/<device>/ports/<port>/hw_counters/rx_write_requests", ..COUNT } },
];

const FAMILIES: [Family; COUNTERS.len() + 5] = {
    let mut families = [INFO; COUNTERS.len() + 5];
    let mut at = 0;
    while at < COUNTERS.len() {
        families[at] = COUNTERS[at].family;
        at += 1;
    }
    families[at] = STATE;
    families[at + 1] = PHYSICAL_STATE;
    families[at + 2] = RATE;
    families[at + 3] = LIFESPAN;
    families
};

/// Bytes per second in a gigabit per second, the unit of `rate`.
const BYTES_A_GIGABIT: f64 = 1e9 / 8.0;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for device in context.snapshot.dir("sys/class/infiniband").dirs() {
        any = true;
        if !context.options.passes(INCLUDE, EXCLUDE, device.name()) {
            continue;
        }
        out.item();
        match device.labels(["board_id", "fw_ver", "hca_type"]) {
            Some([board, firmware, kind]) => out.add(&INFO, &[board, device.name(), firmware, kind], 1u64),
            None => out.skip_half_read(device.path()),
        }
        for port in device.dir("ports").dirs() {
            collect_port(&[device.name(), port.name()], &port, out);
        }
    }
    if any { Ok(()) } else { context.none_of(Query::Infiniband, "InfiniBand devices") }
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
    for Counter { factor, family } in COUNTERS {
        let Some(file) = family.source.strip_prefix(PORT) else { continue };
        // A device that does not count something says `N/A (no PMA)`.
        if let Some(count) = port.unsigned(file) {
            out.add(family, labels, count.wrapping_mul(*factor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{collect, survives};

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
    fn each_counter_stands_in_its_file_and_data_is_in_words() {
        let files: Vec<(String, String)> = COUNTERS
            .iter()
            .enumerate()
            .map(|(at, counter)| {
                let file = counter.family.source.strip_prefix("sys/class/infiniband/<device>/").unwrap();
                (file.replace("<port>", "12"), format!("{at}\n"))
            })
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
    fn names_may_hold_anything() {
        assert!(infiniband(&[("board_id", "a\"b\nc")], &[]).contains("board_id=\"a\\\"b\\nc\""));
    }

    #[test]
    fn a_host_without_devices_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_survived() {
        let counters = COUNTERS.iter().map(|counter| counter.family.source);
        let files = counters.chain([STATE.source, RATE.source, LIFESPAN.source]);
        let paths: Vec<String> =
            files.map(|path| path.replace("<device>", "a").replace("<port>", "1")).collect();
        survives(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
