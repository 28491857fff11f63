//! What a device counts, and where it stands.
//!
//! <https://docs.kernel.org/networking/statistics.html#struct-rtnl-link-stats64>
//!
//! `proc/1/net/dev` gives some errors in sums: `drop` of what is received is dropped + missed, `frame` is length + over +
//! crc + frame, `carrier` is carrier + aborted + window + heartbeat. The other columns are one counter each.

use crate::exposition::{Family, Kind};

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
    Counter { naming: Detailed, place: Transmit("colls"),                family: Family { name: "node_network_collisions_total",                  help: "Collisions while the device sent.", ..COLUMN } },
    Counter { naming: Detailed, place: Receive("multicast"),             family: Family { name: "node_network_multicast_total",                   help: "Multicast packets that the device received.", ..COLUMN } },
    Counter { naming: Both,     place: Receive("bytes"),                 family: Family { name: "node_network_receive_bytes_total",               help: "Bytes that the device received.", ..COLUMN } },
    Counter { naming: Both,     place: Receive("compressed"),            family: Family { name: "node_network_receive_compressed_total",          help: "Compressed packets that the device received.", ..COLUMN } },
    Counter { naming: Detailed, place: Statistic("rx_crc_errors"),       family: Family { name: "node_network_receive_crc_errors_total",          help: "Packets received with a wrong checksum of the link.", ..STATISTIC } },
    Counter { naming: Default,  place: Receive("drop"),                  family: Family { name: "node_network_receive_drop_total",                help: "Packets received and not taken in, by the kernel or for want of buffers in the device.", ..COLUMN } },
    Counter { naming: Detailed, place: Statistic("rx_dropped"),          family: Family { name: "node_network_receive_dropped_total",             help: "Packets received that the kernel did not take in.", ..STATISTIC } },
    Counter { naming: Detailed, place: Receive("errs"),                  family: Family { name: "node_network_receive_errors_total",              help: "Packets that were received with errors, of whatever kind.", ..COLUMN } },
    Counter { naming: Default,  place: Receive("errs"),                  family: Family { name: "node_network_receive_errs_total",                help: "Packets received with errors, of whatever kind.", ..COLUMN } },
    Counter { naming: Detailed, place: Receive("fifo"),                  family: Family { name: "node_network_receive_fifo_errors_total",         help: "Packets that the receiver's queue had no room for.", ..COLUMN } },
    Counter { naming: Default,  place: Receive("fifo"),                  family: Family { name: "node_network_receive_fifo_total",                help: "Packets lost because the receiver's queue was full.", ..COLUMN } },
    Counter { naming: Detailed, place: Statistic("rx_frame_errors"),     family: Family { name: "node_network_receive_frame_errors_total",        help: "Packets received with a frame that was not aligned.", ..STATISTIC } },
    Counter { naming: Default,  place: Receive("frame"),                 family: Family { name: "node_network_receive_frame_total",               help: "Packets received with a wrong length, checksum or alignment, or beyond the receiver's buffer.", ..COLUMN } },
    Counter { naming: Detailed, place: Statistic("rx_length_errors"),    family: Family { name: "node_network_receive_length_errors_total",       help: "Packets received with a wrong length.", ..STATISTIC } },
    Counter { naming: Detailed, place: Statistic("rx_missed_errors"),    family: Family { name: "node_network_receive_missed_errors_total",       help: "Packets that the device missed for want of buffers.", ..STATISTIC } },
    Counter { naming: Default,  place: Receive("multicast"),             family: Family { name: "node_network_receive_multicast_total",           help: "Multicast packets received by the device.", ..COLUMN } },
    Counter { naming: Both,     place: Statistic("rx_nohandler"),        family: Family { name: "node_network_receive_nohandler_total",           help: "Packets received that nothing on this device handles.", ..STATISTIC } },
    Counter { naming: Detailed, place: Statistic("rx_over_errors"),      family: Family { name: "node_network_receive_over_errors_total",         help: "Packets received beyond the receiver's buffer.", ..STATISTIC } },
    Counter { naming: Both,     place: Receive("packets"),               family: Family { name: "node_network_receive_packets_total",             help: "Packets that the device received.", ..COLUMN } },
    Counter { naming: Detailed, place: Statistic("tx_aborted_errors"),   family: Family { name: "node_network_transmit_aborted_errors_total",     help: "Packets whose sending was given up.", ..STATISTIC } },
    Counter { naming: Both,     place: Transmit("bytes"),                family: Family { name: "node_network_transmit_bytes_total",              help: "Bytes that the device sent.", ..COLUMN } },
    Counter { naming: Detailed, place: Statistic("tx_carrier_errors"),   family: Family { name: "node_network_transmit_carrier_errors_total",     help: "Packets not sent because the carrier was lost.", ..STATISTIC } },
    Counter { naming: Default,  place: Transmit("carrier"),              family: Family { name: "node_network_transmit_carrier_total",            help: "Packets not sent because the carrier, the heartbeat or the window was lost, or sending was given up.", ..COLUMN } },
    Counter { naming: Default,  place: Transmit("colls"),                family: Family { name: "node_network_transmit_colls_total",              help: "Collisions seen while sending.", ..COLUMN } },
    Counter { naming: Both,     place: Transmit("compressed"),           family: Family { name: "node_network_transmit_compressed_total",         help: "Compressed packets that the device sent.", ..COLUMN } },
    Counter { naming: Default,  place: Transmit("drop"),                 family: Family { name: "node_network_transmit_drop_total",               help: "Packets dropped on their way to be sent.", ..COLUMN } },
    Counter { naming: Detailed, place: Transmit("drop"),                 family: Family { name: "node_network_transmit_dropped_total",            help: "Packets that were dropped on their way to be sent.", ..COLUMN } },
    Counter { naming: Detailed, place: Transmit("errs"),                 family: Family { name: "node_network_transmit_errors_total",             help: "Packets that were not sent because of errors, of whatever kind.", ..COLUMN } },
    Counter { naming: Default,  place: Transmit("errs"),                 family: Family { name: "node_network_transmit_errs_total",               help: "Packets not sent because of errors, of whatever kind.", ..COLUMN } },
    Counter { naming: Detailed, place: Transmit("fifo"),                 family: Family { name: "node_network_transmit_fifo_errors_total",        help: "Packets that the sender's queue had no room for.", ..COLUMN } },
    Counter { naming: Default,  place: Transmit("fifo"),                 family: Family { name: "node_network_transmit_fifo_total",               help: "Packets not sent because the sender's queue was full.", ..COLUMN } },
    Counter { naming: Detailed, place: Statistic("tx_heartbeat_errors"), family: Family { name: "node_network_transmit_heartbeat_errors_total",   help: "Packets not sent because the heartbeat was lost.", ..STATISTIC } },
    Counter { naming: Both,     place: Transmit("packets"),              family: Family { name: "node_network_transmit_packets_total",            help: "Packets that the device sent.", ..COLUMN } },
    Counter { naming: Detailed, place: Statistic("tx_window_errors"),    family: Family { name: "node_network_transmit_window_errors_total",      help: "Packets not sent because a collision came late.", ..STATISTIC } },
];

const COLUMN: Family =
    Family { name: "", help: "", kind: Kind::Counter, labels: &["device"], source: "proc/1/net/dev" };
const STATISTIC: Family = Family { source: "sys/class/net/<device>/statistics/<counter>", ..COLUMN };
