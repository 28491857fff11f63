//! What NFS mounts count of themselves: `proc/1/mountstats`. Only its owner may read it, which is uid 0.
//!
//! <https://man7.org/linux/man-pages/man5/proc_pid_mountstats.5.html>
//!
//! The address of the server stands in `proc/1/mountinfo`, unless the export names it already.

use std::collections::{BTreeMap, BTreeSet};

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "mountstats",
    default: false,
    help: "Operations, traffic and transports of NFS mounts.",
    queries: &[Query::MountStats],
    optional: &[Query::Mounts],
    flags: &[],
    families,
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/1/mountstats";
const MOUNTS: &str = "proc/1/mountinfo";

const MOUNTPOINT: Family = Family {
    name: "node_mountstats_nfs_mountpoint_info",
    help: "Where the export is mounted; always 1.",
    kind: MetricType::Gauge,
    labels: &["export", "mountaddr", "mountpoint", "protocol"],
    source: Source::File(PATH),
};

/// Numbers of a mount: label of the line, column after it, family.
#[rustfmt::skip]
const NUMBERS: [Number; 35] = [
    number(b"age:",    0,  "node_mountstats_nfs_age_seconds_total",                "Time since the file system was mounted."),
    number(b"bytes:",  0,  "node_mountstats_nfs_read_bytes_total",                 "Bytes that programs read by read()."),
    number(b"bytes:",  1,  "node_mountstats_nfs_write_bytes_total",                "Bytes that programs wrote by write()."),
    number(b"bytes:",  2,  "node_mountstats_nfs_direct_read_bytes_total",          "Bytes that programs read with O_DIRECT, without the page cache."),
    number(b"bytes:",  3,  "node_mountstats_nfs_direct_write_bytes_total",         "Bytes that programs wrote with O_DIRECT, without the page cache."),
    number(b"bytes:",  4,  "node_mountstats_nfs_total_read_bytes_total",           "Bytes read from the server."),
    number(b"bytes:",  5,  "node_mountstats_nfs_total_write_bytes_total",          "Bytes written to the server."),
    number(b"bytes:",  6,  "node_mountstats_nfs_read_pages_total",                 "Pages read from the server."),
    number(b"bytes:",  7,  "node_mountstats_nfs_write_pages_total",                "Pages written to the server."),
    number(b"events:", 0,  "node_mountstats_nfs_event_inode_revalidate_total",     "Times that cached attributes of an inode were checked with the server."),
    number(b"events:", 1,  "node_mountstats_nfs_event_dnode_revalidate_total",     "Times that cached entries of a directory were checked with the server."),
    number(b"events:", 2,  "node_mountstats_nfs_event_data_invalidate_total",      "Times that cached data of an inode was dropped."),
    number(b"events:", 3,  "node_mountstats_nfs_event_attribute_invalidate_total", "Times that cached attributes of an inode were dropped."),
    number(b"events:", 4,  "node_mountstats_nfs_event_vfs_open_total",             "Files and directories opened."),
    number(b"events:", 5,  "node_mountstats_nfs_event_vfs_lookup_total",           "Names looked up in directories."),
    number(b"events:", 6,  "node_mountstats_nfs_event_vfs_access_total",           "Permissions checked."),
    number(b"events:", 7,  "node_mountstats_nfs_event_vfs_update_page_total",      "Pages changed, and perhaps to be written."),
    number(b"events:", 8,  "node_mountstats_nfs_event_vfs_read_page_total",        "Pages read one by one."),
    number(b"events:", 9,  "node_mountstats_nfs_event_vfs_read_pages_total",       "Groups of pages read."),
    number(b"events:", 10, "node_mountstats_nfs_event_vfs_write_page_total",       "Pages written one by one."),
    number(b"events:", 11, "node_mountstats_nfs_event_vfs_write_pages_total",      "Groups of pages written."),
    number(b"events:", 12, "node_mountstats_nfs_event_vfs_getdents_total",         "Times that entries of a directory were read."),
    number(b"events:", 13, "node_mountstats_nfs_event_vfs_setattr_total",          "Times that attributes were set."),
    number(b"events:", 14, "node_mountstats_nfs_event_vfs_flush_total",            "Times that a flush of pending writes to the server was requested."),
    number(b"events:", 15, "node_mountstats_nfs_event_vfs_fsync_total",            "Times that a sync of a file or directory was requested."),
    number(b"events:", 16, "node_mountstats_nfs_event_vfs_lock_total",             "Requests for locks of files."),
    number(b"events:", 17, "node_mountstats_nfs_event_vfs_file_release_total",     "Files closed and let go."),
    number(b"events:", 19, "node_mountstats_nfs_event_truncation_total",           "Times that a file was truncated."),
    number(b"events:", 20, "node_mountstats_nfs_event_write_extension_total",      "Times that a file grew by writing behind its end."),
    number(b"events:", 21, "node_mountstats_nfs_event_silly_rename_total",         "Times that a file was removed while it was open, and renamed instead."),
    number(b"events:", 22, "node_mountstats_nfs_event_short_read_total",           "Times that the server returned less data than requested."),
    number(b"events:", 23, "node_mountstats_nfs_event_short_write_total",          "Times that the server accepted less data than it was sent."),
    number(b"events:", 24, "node_mountstats_nfs_event_jukebox_delay_total",        "Times that the server reported that the data is on slow storage."),
    number(b"events:", 25, "node_mountstats_nfs_event_pnfs_read_total",            "Reads by pNFS."),
    number(b"events:", 26, "node_mountstats_nfs_event_pnfs_write_total",           "Writes by pNFS."),
];

type Number = (&'static [u8], usize, Family);

const fn number(line: &'static [u8], column: usize, name: &'static str, help: &'static str) -> Number {
    let labels = &["export", "mountaddr", "protocol"];
    (line, column, Family::counter(name, help, labels, Source::File(PATH)))
}

/// Numbers of an operation: column, what the number is divided by, family.
#[rustfmt::skip]
const OPERATIONS: [Operation; 8] = [
    operation(0, 1.0, "node_mountstats_nfs_operations_requests_total",              "Requests of the operation."),
    operation(1, 1.0, "node_mountstats_nfs_operations_transmissions_total",         "Times that requests of the operation were sent."),
    operation(2, 1.0, "node_mountstats_nfs_operations_major_timeouts_total",        "Times that a request of the operation timed out for good."),
    operation(3, 1.0, "node_mountstats_nfs_operations_sent_bytes_total",            "Bytes sent for the operation."),
    operation(4, 1.0, "node_mountstats_nfs_operations_received_bytes_total",        "Bytes received for the operation."),
    operation(5, 1e3, "node_mountstats_nfs_operations_queue_time_seconds_total",    "Time that requests of the operation waited to be sent."),
    operation(6, 1e3, "node_mountstats_nfs_operations_response_time_seconds_total", "Time from sending requests of the operation to their replies."),
    operation(7, 1e3, "node_mountstats_nfs_operations_request_time_seconds_total",  "Time that requests of the operation took in all."),
];

type Operation = (usize, f64, Family);

const fn operation(column: usize, divisor: f64, name: &'static str, help: &'static str) -> Operation {
    let labels = &["export", "mountaddr", "operation", "protocol"];
    (column, divisor, Family::counter(name, help, labels, Source::File(PATH)))
}

/// Numbers of a transport: column, column of UDP, family. UDP has no connection, and so no columns for it.
#[rustfmt::skip]
const TRANSPORTS: [Transport; 10] = [
    transport(1,  At(1), MetricType::Counter, "node_mountstats_nfs_transport_bind_total",                "Times that the transport got a port."),
    transport(2,  Never, MetricType::Counter, "node_mountstats_nfs_transport_connect_total",             "Times that the transport connected; 0 for UDP."),
    transport(4,  Never, MetricType::Gauge,   "node_mountstats_nfs_transport_idle_time_seconds",         "Time that the transport's connection has had nothing to do; 0 for UDP."),
    transport(5,  At(2), MetricType::Counter, "node_mountstats_nfs_transport_sends_total",               "Requests that the transport sent."),
    transport(6,  At(3), MetricType::Counter, "node_mountstats_nfs_transport_receives_total",            "Replies that the transport received."),
    transport(7,  At(4), MetricType::Counter, "node_mountstats_nfs_transport_bad_transaction_ids_total", "Replies that belong to no request."),
    transport(9,  At(6), MetricType::Counter, "node_mountstats_nfs_transport_backlog_queue_total",       "Length of the queue of waiting requests, summed over all requests."),
    transport(10, At(7), MetricType::Gauge,   "node_mountstats_nfs_transport_maximum_rpc_slots",         "Most requests that were under way at a time."),
    transport(11, At(8), MetricType::Counter, "node_mountstats_nfs_transport_sending_queue_total",       "Length of the queue of requests to be sent, summed over all requests."),
    transport(12, At(9), MetricType::Counter, "node_mountstats_nfs_transport_pending_queue_total",       "Length of the queue of requests under way, summed over all requests."),
];

type Transport = (usize, Udp, Family);

const fn transport(
    column: usize,
    udp: Udp,
    kind: MetricType,
    name: &'static str,
    help: &'static str,
) -> Transport {
    let labels = &["export", "mountaddr", "protocol", "transport"];
    (column, udp, Family { name, help, kind, labels, source: Source::File(PATH) })
}

/// The columns that RDMA shares with TCP; behind them it has its own.
const RDMA_COLUMNS: usize = 10;

/// Where a number of UDP stands.
#[derive(Clone, Copy)]
enum Udp {
    At(usize),
    Never,
}
use Udp::{At, Never};

fn families() -> Vec<Family> {
    let numbers = NUMBERS.iter().map(|(.., family)| *family);
    let operations = OPERATIONS.iter().map(|(.., family)| *family);
    let transports = TRANSPORTS.iter().map(|(.., family)| *family);
    numbers.chain(operations).chain(transports).chain([MOUNTPOINT]).collect()
}

/// Sums of time may be below zero and come as numbers near 2⁶⁴. The value keeps its last 53 bits, as in
/// node_exporter, so that differences stay right in a float.
const MANTISSA: u64 = 1 << 53;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let text = context.require_items(PATH, |line| Mount::parse(line).is_some())?;
    let addresses = addresses(context.snapshot.text(MOUNTS).unwrap_or_default());
    let mut seen = BTreeSet::new();
    let mut lines = text::lines(text).peekable();
    while let Some(line) = lines.next() {
        let Some(mount) = Mount::parse(line) else { continue };
        // What follows is indented, or the head of the statistics of operations, up to an empty line.
        let mut statistics = Vec::new();
        while let Some(line) = lines.next_if(|line| Mount::parse(line).is_none()) {
            statistics.push(line);
        }
        let transports: Vec<&[u8]> =
            statistics.iter().filter_map(|line| text::trim(line).strip_prefix(b"xprt:")).collect();
        let Some(protocol) = transports.first().and_then(|transport| text::fields(transport).next()) else {
            continue;
        };
        let address = addresses.get(&(mount.point, mount.fs_type, mount.device)).copied();
        let address = address.or(literal_address(mount.device)).unwrap_or_default();
        let (export, point) = (text::unescape_octal(mount.device), text::unescape_octal(mount.point));
        out.item();
        out.add(&MOUNTPOINT, &[&export, address, &point, protocol], 1u64);
        // Mounts of one export share what they count.
        if seen.insert((mount.device, address, protocol)) {
            let labels = [&*export, address, protocol];
            collect_mount(&labels, &statistics, out);
            for (number, transport) in transports.iter().enumerate() {
                collect_transport(&labels, number, transport, out);
            }
        }
    }
    // That no NFS is mounted is no failure.
    Ok(())
}

/// Adds the counters of a mount and of its operations.
fn collect_mount(labels: &[&[u8]; 3], statistics: &[&[u8]], out: &mut Exposition) {
    let [export, address, protocol] = *labels;
    let mut operations = false;
    for line in statistics {
        let mut fields = text::fields(line);
        let label = fields.next().unwrap_or_default();
        if label == b"per-op" {
            operations = true;
            continue;
        }
        let numbers: Vec<Option<u64>> = fields.map(text::unsigned).collect();
        let number = |column: usize| numbers.get(column).copied().flatten();
        if !operations {
            for (_, column, family) in NUMBERS.iter().filter(|(of, ..)| *of == label) {
                match number(*column) {
                    Some(value) => out.add(family, labels, value),
                    None => out.skip(|| format!("{PATH}: column {column} of {}", label.escape_ascii())),
                }
            }
        } else if let Some(operation) = label.strip_suffix(b":") {
            for (column, unit, family) in &OPERATIONS {
                let labels = [export, address, operation, protocol];
                match number(*column) {
                    Some(value) if *unit != 1.0 => out.add(family, &labels, (value % MANTISSA) as f64 / unit),
                    Some(value) => out.add(family, &labels, value),
                    None => out.skip(|| format!("{PATH}: column {column} of {}", operation.escape_ascii())),
                }
            }
        }
    }
}

/// Adds the counters of a transport: `tcp 832 0 1 0 11 6428 6428 0 12154 0 24 26 5726`.
fn collect_transport(labels: &[&[u8]; 3], transport: usize, line: &[u8], out: &mut Exposition) {
    let [export, address, protocol] = *labels;
    let transport = transport.to_string();
    let labels = [export, address, protocol, transport.as_bytes()];
    let mut fields = text::fields(line);
    let kind = fields.next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = fields.map(text::unsigned).collect();
    for (column, of_udp, family) in &TRANSPORTS {
        let value = match (kind, of_udp) {
            (b"udp", Never) => Some(Some(0)),
            (b"udp", At(column)) => numbers.get(*column).copied(),
            (b"rdma", _) if *column >= RDMA_COLUMNS => None,
            _ => numbers.get(*column).copied(),
        };
        match value {
            Some(Some(value)) => out.add(family, &labels, value % MANTISSA),
            Some(None) => out.skip(|| format!("{PATH}: no number for {}", family.name)),
            None => {}
        }
    }
}

/// `device 192.168.1.1:/srv mounted on /mnt with fstype nfs4 statvers=1.1`; white space in names is escaped.
struct Mount<'t> {
    device: &'t [u8],
    point: &'t [u8],
    fs_type: &'t [u8],
}

impl<'t> Mount<'t> {
    fn parse(line: &'t [u8]) -> Option<Self> {
        // `no device mounted on ...` is the line of a mount without one.
        let (first, rest) = text::split_first(line, b' ')?;
        let mut fields = text::fields(rest);
        let device = match first {
            b"device" => fields.next()?,
            b"no" if fields.next()? == b"device" => b"",
            _ => return None,
        };
        let mut after = |words: &[&[u8]]| {
            let expected = words.iter().all(|word| fields.next() == Some(*word));
            expected.then(|| fields.next()).flatten()
        };
        Some(Mount { device, point: after(&[b"mounted", b"on"])?, fs_type: after(&[b"with", b"fstype"])? })
    }
}

/// Mount point, type and source of a mount, escaped.
type Key<'t> = (&'t [u8], &'t [u8], &'t [u8]);

/// Servers' addresses by their mounts, as mountinfo has them.
fn addresses(mounts: &[u8]) -> BTreeMap<Key<'_>, &[u8]> {
    let of = |line| {
        let mut fields = text::fields(line).skip(4);
        let point = fields.next()?;
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let (fs_type, source, options) = (fields.next()?, fields.next()?, fields.next()?);
        let address = options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(b"addr="))?;
        Some(((point, fs_type, source), address))
    };
    text::lines(mounts).filter_map(of).collect()
}

/// The address in `192.168.1.1:/srv` or `[fe80::1]:/srv`; none in `server:/srv`.
fn literal_address(export: &[u8]) -> Option<&[u8]> {
    let host = match export.strip_prefix(b"[") {
        Some(rest) => text::split_first(rest, b']')?.0,
        None => text::split_first(export, b':')?.0,
    };
    std::str::from_utf8(host).ok()?.parse::<std::net::IpAddr>().ok()?;
    Some(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const HEAD: &[u8] = b"device rootfs mounted on / with fstype rootfs\n\
        no device mounted on /odd with fstype odd\ndevice /dev/sda1 mounted on / with fstype ext4\n";

    /// A mount with one number a column, each its place.
    fn mount(device: &str, point: &str, fs_type: &str, transports: &str) -> String {
        let count = |n: usize| (0..n).map(|at| at.to_string()).collect::<Vec<_>>().join(" ");
        format!(
            "device {device} mounted on {point} with fstype {fs_type} statvers=1.1\n\
             \topts:\trw,vers=4.0,proto=tcp\n\tage:\t13968\n\tcaps:\tcaps=0xfff7\n\tsec:\tflavor=1\n\
             \tevents:\t{}\n\tbytes:\t{}\n\tRPC iostats version: 1.0  p/v: 100003/4 (nfs)\n{transports}\
             \tper-op statistics\n\t        READ: 1298 1299 1 207680 1210292152 6 79386 79407\n\
             \t      ACCESS: 1 2 0 3 4 18446743919241604546 5 6 7\n\n",
            count(27),
            count(8)
        )
    }

    const TCP: &str = "\txprt:\ttcp 832 1 2 3 4 5 6 7 8 9 10 11 12\n";

    fn mountstats(stats: &str, mounts: &str) -> String {
        let stats = [HEAD, stats.as_bytes()].concat();
        let text = collect(&COLLECTOR, &[(PATH, &stats), (MOUNTS, mounts.as_bytes())], &[]).unwrap();
        text.replace("node_mountstats_nfs_", "")
    }

    /// The samples that have `labels` alone, as `name value`.
    fn of(text: &str, labels: &str) -> String {
        let lines = text.lines().filter(|line| line.contains(&format!("{{{labels}}}")));
        lines.map(|line| line.replace(&format!("{{{labels}}}"), "") + "\n").collect()
    }

    const LABELS: &str = "export=\"192.0.2.1:/srv\",mountaddr=\"192.0.2.1\",protocol=\"tcp\"";

    #[test]
    fn octal_escapes_are_undone_in_exports_and_mount_points() {
        let text = mountstats(&mount("192.0.2.1:/a\\040b", "/mnt\\040two", "nfs4", TCP), "");
        assert!(text.contains("export=\"192.0.2.1:/a b\"") && !text.contains("040"), "{text}");
    }

    #[test]
    fn events_and_bytes_are_named_by_their_column() {
        let text = mountstats(&mount("192.0.2.1:/srv", "/mnt", "nfs4", TCP), "");
        assert_eq!(
            of(&text, LABELS).replace("_total ", " "),
            "age_seconds 13968\ndirect_read_bytes 2\ndirect_write_bytes 3\nevent_attribute_invalidate 3\n\
             event_data_invalidate 2\nevent_dnode_revalidate 1\nevent_inode_revalidate 0\n\
             event_jukebox_delay 24\nevent_pnfs_read 25\nevent_pnfs_write 26\nevent_short_read 22\n\
             event_short_write 23\nevent_silly_rename 21\nevent_truncation 19\nevent_vfs_access 6\n\
             event_vfs_file_release 17\nevent_vfs_flush 14\nevent_vfs_fsync 15\nevent_vfs_getdents 12\n\
             event_vfs_lock 16\nevent_vfs_lookup 5\nevent_vfs_open 4\nevent_vfs_read_page 8\n\
             event_vfs_read_pages 9\nevent_vfs_setattr 13\nevent_vfs_update_page 7\nevent_vfs_write_page 10\n\
             event_vfs_write_pages 11\nevent_write_extension 20\nread_bytes 0\nread_pages 6\n\
             total_read_bytes 4\ntotal_write_bytes 5\nwrite_bytes 1\nwrite_pages 7\n"
        );
    }

    #[test]
    fn operations_have_times_in_seconds_and_those_below_zero_wrap_at_53_bits() {
        let text = mountstats(&mount("192.0.2.1:/srv", "/mnt", "nfs4", TCP), "");
        let labels = LABELS.replace(",protocol", ",operation=\"READ\",protocol");
        assert_eq!(
            of(&text, &labels).replace("operations_", ""),
            "major_timeouts_total 1\nqueue_time_seconds_total 0.006\nreceived_bytes_total 1210292152\n\
             request_time_seconds_total 79.407\nrequests_total 1298\nresponse_time_seconds_total 79.386\n\
             sent_bytes_total 207680\ntransmissions_total 1299\n"
        );
        let labels = LABELS.replace(",protocol", ",operation=\"ACCESS\",protocol");
        assert!(
            of(&text, &labels).contains("operations_queue_time_seconds_total 9007044786793.922\n"),
            "{text}"
        );
    }

    #[test]
    fn columns_of_a_transport_depend_on_its_kind() {
        let transport = |line: &str, labels: &str| {
            let text = mountstats(&mount("192.0.2.1:/srv", "/mnt", "nfs4", line), "");
            of(&text, labels).replace("transport_", "")
        };
        let tcp = format!("{LABELS},transport=\"0\"");
        assert_eq!(
            transport(TCP, &tcp),
            "backlog_queue_total 9\nbad_transaction_ids_total 7\nbind_total 1\nconnect_total 2\n\
             idle_time_seconds 4\nmaximum_rpc_slots 10\npending_queue_total 12\nreceives_total 6\n\
             sending_queue_total 11\nsends_total 5\n"
        );
        assert_eq!(
            transport("\txprt:\tudp 832 1 2 3 4 5 6 7 8 9\n", &tcp.replace("tcp", "udp")),
            "backlog_queue_total 6\nbad_transaction_ids_total 4\nbind_total 1\nconnect_total 0\n\
             idle_time_seconds 0\nmaximum_rpc_slots 7\npending_queue_total 9\nreceives_total 3\n\
             sending_queue_total 8\nsends_total 2\n"
        );
        assert_eq!(
            transport("\txprt:\ttcp 832 1 2 3 4 5 6 7 8 9\n", &tcp),
            "backlog_queue_total 9\nbad_transaction_ids_total 7\nbind_total 1\nconnect_total 2\n\
             idle_time_seconds 4\nreceives_total 6\nsends_total 5\n",
            "version 1.0 of the statistics has no more"
        );
        assert_eq!(
            transport("\txprt:\trdma 0 1 2 3 4 5 6 7 8 9 99 99 99 99\n", &tcp.replace("tcp", "rdma")),
            "backlog_queue_total 9\nbad_transaction_ids_total 7\nbind_total 1\nconnect_total 2\n\
             idle_time_seconds 4\nreceives_total 6\nsends_total 5\n"
        );
    }

    #[test]
    fn each_of_several_transports_is_reported() {
        let text = mountstats(&mount("192.0.2.1:/srv", "/mnt", "nfs4", &TCP.repeat(3)), "");
        assert_eq!(text.matches("transport_sends_total{").count(), 3);
        assert_eq!(text.matches("mountpoint_info{").count(), 1);
    }

    #[test]
    fn a_second_mount_of_an_export_reports_its_mount_point_alone() {
        let first = mount("192.0.2.1:/srv", "/mnt", "nfs4", TCP);
        let second = mount("192.0.2.1:/srv", "/mnt\\040two", "nfs4", TCP).replace("READ", "WRITE");
        let text = mountstats(&(first + &second), "");
        assert!(text.contains("mountpoint=\"/mnt\",") && text.contains("mountpoint=\"/mnt two\","), "{text}");
        assert!(!text.contains("operation=\"WRITE\""), "{text}");
    }

    #[test]
    fn the_servers_address_is_read_from_its_mount_or_its_name() {
        let stats = mount("nas:/srv", "/mnt", "nfs4", TCP);
        let mounts = "21 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            194 21 0:42 / /mnt rw shared:144 - nfs4 nas:/srv rw,clientaddr=192.0.2.9,addr=192.0.2.7,local_lock=none\n";
        assert!(mountstats(&stats, mounts).contains("export=\"nas:/srv\",mountaddr=\"192.0.2.7\""));
        assert!(mountstats(&stats, "").contains("export=\"nas:/srv\",mountaddr=\"\""), "not known");
        let stats = mount("[fd00::1]:/srv", "/mnt", "nfs", TCP);
        assert!(mountstats(&stats, "").contains("export=\"[fd00::1]:/srv\",mountaddr=\"fd00::1\""));
    }

    #[test]
    fn fields_of_old_and_future_versions_are_reported_where_present() {
        let stats = "device 192.0.2.1:/srv mounted on /mnt with fstype nfs statvers=1.0\n\
            \tage:\tx\n\tevents:\t7\n\tshiny:\t1\n\txprt:\ttcp 832 1\n\tper-op statistics\n\
            \t        READ: 1\n\t      no colon 1 2\n";
        let text = mountstats(stats, "");
        assert!(
            text.contains("event_inode_revalidate_total") && text.contains("transport_bind_total"),
            "{text}"
        );
        assert!(text.contains("operations_requests_total") && !text.contains("age_seconds"), "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn a_host_without_nfs_has_no_data_and_one_that_denies_the_file_fails() {
        use crate::collector::testing::{collect_snapshot, local};
        use crate::snapshot::{Content, Snapshot};
        assert_eq!(mountstats("", ""), "");
        let unreadable = Snapshot::from_files(vec![(PATH.as_bytes().to_vec(), Content::Errno(13))]);
        let result = collect_snapshot(&COLLECTOR, &unreadable, &[], &local());
        assert!(matches!(result, Err(CollectError::Unreadable { errno: 13, .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH, MOUNTS]);
    }

    proptest::proptest! {
        #[test]
        fn any_lines_below_a_mount_are_parsed_without_a_panic(
            lines in "(\t(age|bytes|events|xprt|per-op|READ)[: ]( ?(tcp|udp|[0-9]{1,20})){0,12}\n?){0,6}",
        ) {
            let text = format!("device a:/b mounted on /c with fstype nfs4 statvers=1.1\n{lines}");
            let _ = collect(&COLLECTOR, &[(PATH, text.as_bytes())], &[]);
        }
    }
}
