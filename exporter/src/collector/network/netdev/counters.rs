//! The counters of a network device, one row each: its names, and the column or file that it is read from.
//!
//! <https://docs.kernel.org/networking/statistics.html#struct-rtnl-link-stats64>
//!
//! `proc/1/net/dev` has sums of some errors: `drop` of what is received is dropped + missed, `frame` is length + over +
//! crc + frame, `carrier` is carrier + aborted + window + heartbeat. The other columns are one counter each.

use crate::exposition::{Family, Source};

/// A counter of a device: one row.
pub(super) struct Counter {
    pub(super) naming: Naming,
    pub(super) place: Place,
    pub(super) family: Family,
}

/// Which set of names a counter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Either.
    Both,
    /// The one without `--collector.netdev.enable-detailed-metrics`.
    Default,
    /// The one with it.
    Detailed,
}

/// Where a counter stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// In a column of `proc/1/net/dev`, on its left half.
    Receive(&'static str),
    /// In a column of `proc/1/net/dev`, on its right half.
    Transmit(&'static str),
    /// In a file of `sys/class/net/<device>/statistics`.
    Statistic(&'static str),
}

use Naming::{Both, Default, Detailed};
use Place::{Receive, Statistic, Transmit};

/// Every counter, by name of its family.
#[rustfmt::skip]
pub(super) const COUNTERS: &[Counter] = &[
    counter(Detailed, Transmit("colls"),                "node_network_collisions_total",                "Collisions while the device sent."),
    counter(Detailed, Receive("multicast"),             "node_network_multicast_total",                 "Multicast packets that the device received."),
    counter(Both,     Receive("bytes"),                 "node_network_receive_bytes_total",             "Bytes that the device received."),
    counter(Both,     Receive("compressed"),            "node_network_receive_compressed_total",        "Compressed packets that the device received."),
    counter(Detailed, Statistic("rx_crc_errors"),       "node_network_receive_crc_errors_total",        "Packets received with a wrong checksum of the link."),
    counter(Default,  Receive("drop"),                  "node_network_receive_drop_total",              "Packets received and dropped, by the kernel or because the device had no buffer."),
    counter(Detailed, Statistic("rx_dropped"),          "node_network_receive_dropped_total",           "Packets received that the kernel dropped."),
    counter(Detailed, Receive("errs"),                  "node_network_receive_errors_total",            "Packets that were received with errors, of any kind."),
    counter(Default,  Receive("errs"),                  "node_network_receive_errs_total",              "Packets received with errors, of any kind."),
    counter(Detailed, Receive("fifo"),                  "node_network_receive_fifo_errors_total",       "Packets dropped because the receiver's queue was full."),
    counter(Default,  Receive("fifo"),                  "node_network_receive_fifo_total",              "Packets lost because the receiver's queue was full."),
    counter(Detailed, Statistic("rx_frame_errors"),     "node_network_receive_frame_errors_total",      "Packets received with a frame that was not aligned."),
    counter(Default,  Receive("frame"),                 "node_network_receive_frame_total",             "Packets received with a wrong length, checksum or alignment, or beyond the receiver's buffer."),
    counter(Detailed, Statistic("rx_length_errors"),    "node_network_receive_length_errors_total",     "Packets received with a wrong length."),
    counter(Detailed, Statistic("rx_missed_errors"),    "node_network_receive_missed_errors_total",     "Packets that the device missed because it had no buffer."),
    counter(Default,  Receive("multicast"),             "node_network_receive_multicast_total",         "Multicast packets received by the device."),
    counter(Both,     Statistic("rx_nohandler"),        "node_network_receive_nohandler_total",         "Packets received without a protocol handler on this device."),
    counter(Detailed, Statistic("rx_over_errors"),      "node_network_receive_over_errors_total",       "Packets received beyond the receiver's buffer."),
    counter(Both,     Receive("packets"),               "node_network_receive_packets_total",           "Packets that the device received."),
    counter(Detailed, Statistic("tx_aborted_errors"),   "node_network_transmit_aborted_errors_total",   "Packets whose transmission was aborted."),
    counter(Both,     Transmit("bytes"),                "node_network_transmit_bytes_total",            "Bytes that the device sent."),
    counter(Detailed, Statistic("tx_carrier_errors"),   "node_network_transmit_carrier_errors_total",   "Packets not sent because the carrier was lost."),
    counter(Default,  Transmit("carrier"),              "node_network_transmit_carrier_total",          "Packets not sent because the carrier, the heartbeat or the window was lost, or transmission was aborted."),
    counter(Default,  Transmit("colls"),                "node_network_transmit_colls_total",            "Collisions seen while sending."),
    counter(Both,     Transmit("compressed"),           "node_network_transmit_compressed_total",       "Compressed packets that the device sent."),
    counter(Default,  Transmit("drop"),                 "node_network_transmit_drop_total",             "Packets dropped on their way to be sent."),
    counter(Detailed, Transmit("drop"),                 "node_network_transmit_dropped_total",          "Packets that were dropped on their way to be sent."),
    counter(Detailed, Transmit("errs"),                 "node_network_transmit_errors_total",           "Packets that were not sent because of errors, of any kind."),
    counter(Default,  Transmit("errs"),                 "node_network_transmit_errs_total",             "Packets not sent because of errors, of any kind."),
    counter(Detailed, Transmit("fifo"),                 "node_network_transmit_fifo_errors_total",      "Packets not sent because the sender's queue was full."),
    counter(Default,  Transmit("fifo"),                 "node_network_transmit_fifo_total",             "Packets not sent because the sender's queue was full."),
    counter(Detailed, Statistic("tx_heartbeat_errors"), "node_network_transmit_heartbeat_errors_total", "Packets not sent because the heartbeat was lost."),
    counter(Both,     Transmit("packets"),              "node_network_transmit_packets_total",          "Packets that the device sent."),
    counter(Detailed, Statistic("tx_window_errors"),    "node_network_transmit_window_errors_total",    "Packets not sent because a collision came late."),
];

const fn counter(naming: Naming, place: Place, name: &'static str, help: &'static str) -> Counter {
    let source = match place {
        Receive(_) | Transmit(_) => Source::File("proc/1/net/dev"),
        Statistic(file) => Source::FileIn("sys/class/net/*/statistics", file),
    };
    Counter { naming, place, family: Family::counter(name, help, &["device"], source) }
}
