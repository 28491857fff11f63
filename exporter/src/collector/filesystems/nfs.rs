//! Calls of the host's NFS client: `proc/1/net/rpc/nfs`.
//!
//! <https://man7.org/linux/man-pages/man8/nfsstat.8.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "nfs",
    default: true,
    help: "Calls of the NFS client.",
    queries: &[Query::Nfs],
    optional: &[],
    flags: &[],
    families: || vec![PACKETS, CONNECTIONS, RPCS, RETRANSMISSIONS, REFRESHES, REQUESTS],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/1/net/rpc/nfs";

const PACKETS: Family = Family {
    name: "node_nfs_packets_total",
    help: "Packets of the NFS client, by transport.",
    kind: MetricType::Counter,
    labels: &["protocol"],
    source: Source::File(PATH),
};
const CONNECTIONS: Family = Family {
    name: "node_nfs_connections_total",
    help: "TCP connections of the NFS client.",
    labels: &[],
    ..PACKETS
};
const RPCS: Family =
    Family { name: "node_nfs_rpcs_total", help: "RPC calls of the NFS client.", ..CONNECTIONS };
const RETRANSMISSIONS: Family = Family {
    name: "node_nfs_rpc_retransmissions_total",
    help: "RPC calls that the NFS client sent again.",
    ..CONNECTIONS
};
const REFRESHES: Family = Family {
    name: "node_nfs_rpc_authentication_refreshes_total",
    help: "Times that the NFS client refreshed its credentials for a call.",
    ..CONNECTIONS
};
const REQUESTS: Family = Family {
    name: "node_nfs_requests_total",
    help: "Requests of the NFS client, by version of NFS and method.",
    labels: &["method", "proto"],
    ..PACKETS
};

/// Single numbers: label of the line, column after it, family, values of its labels.
pub(super) type Number = (&'static [u8], usize, &'static Family, &'static [&'static [u8]]);

#[rustfmt::skip]
const NUMBERS: &[Number] = &[
    (b"net", 1, &PACKETS,         &[b"udp"]),
    (b"net", 2, &PACKETS,         &[b"tcp"]),
    (b"net", 3, &CONNECTIONS,     &[]),
    (b"rpc", 0, &RPCS,            &[]),
    (b"rpc", 1, &RETRANSMISSIONS, &[]),
    (b"rpc", 2, &REFRESHES,       &[]),
];

/// Lines with a number a method, after how many there are.
const METHODS: &[(&[u8], &[u8], &[&str])] =
    &[(b"proc2", b"2", VERSION_2), (b"proc3", b"3", VERSION_3), (b"proc4", b"4", CLIENT_4)];

/// The methods of version 2, in the order of their numbers (RFC 1094).
#[rustfmt::skip]
pub(super) const VERSION_2: &[&str] = &[
    "Null", "GetAttr", "SetAttr", "Root", "Lookup", "ReadLink", "Read", "WrCache", "Write", "Create", "Remove",
    "Rename", "Link", "SymLink", "MkDir", "RmDir", "ReadDir", "FsStat",
];
/// The methods of version 3, in the order of their numbers (RFC 1813).
#[rustfmt::skip]
pub(super) const VERSION_3: &[&str] = &[
    "Null", "GetAttr", "SetAttr", "Lookup", "Access", "ReadLink", "Read", "Write", "Create", "MkDir", "SymLink",
    "MkNod", "Remove", "RmDir", "Rename", "Link", "ReadDir", "ReadDirPlus", "FsStat", "FsInfo", "PathConf", "Commit",
];
/// The client's own numbers for what it does by version 4 (NFSPROC4_CLNT_* of Linux 3.13 and later).
#[rustfmt::skip]
const CLIENT_4: &[&str] = &[
    "Null", "Read", "Write", "Commit", "Open", "OpenConfirm", "OpenNoattr", "OpenDowngrade", "Close", "Setattr",
    "FsInfo", "Renew", "SetClientID", "SetClientIDConfirm", "Lock", "Lockt", "Locku", "Access", "Getattr", "Lookup",
    "LookupRoot", "Remove", "Rename", "Link", "Symlink", "Create", "Pathconf", "StatFs", "ReadLink", "ReadDir",
    "ServerCaps", "DelegReturn", "GetACL", "SetACL", "FsLocations", "ReleaseLockowner", "Secinfo", "FsidPresent",
    "ExchangeID", "CreateSession", "DestroySession", "Sequence", "GetLeaseTime", "ReclaimComplete",
    // The kernel has these two the other way around. The labels are node_exporter's, so that a series goes on meaning
    // what it meant before the swap.
    "GetDeviceInfo", "LayoutGet", "LayoutCommit", "LayoutReturn", "SecinfoNoName", "TestStateID", "FreeStateID", "GetDeviceList",
    "BindConnToSession", "DestroyClientID", "Seek", "Allocate", "DeAllocate", "LayoutStats", "Clone",
];

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for (label, numbers) in
        out.rows(PATH, context.require_complete(PATH)?).into_iter().filter_map(text::labelled)
    {
        out.item();
        if numbers.is_empty() {
            out.skip(|| format!("{PATH}: {} without a number", label.escape_ascii()));
            continue;
        }
        any |= add_numbers(out, PATH, NUMBERS, label, &numbers);
        if let Some((_, proto, methods)) = METHODS.iter().find(|(of, ..)| *of == label) {
            any |= add_methods(out, &REQUESTS, proto, methods, &numbers);
        }
    }
    any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "no line that is known"))
}

/// Adds the single numbers of a line; false if it has none. Lines of newer kernels are ignored.
pub(super) fn add_numbers(
    out: &mut Exposition,
    path: &str,
    table: &[Number],
    label: &[u8],
    numbers: &[Option<u64>],
) -> bool {
    let mut any = false;
    for (_, column, family, labels) in table.iter().filter(|(of, ..)| *of == label) {
        match numbers.get(*column) {
            Some(Some(value)) => {
                out.add(family, labels, *value);
                any = true;
            }
            // No kernel has ever written one of these lines shorter.
            _ => out.skip(|| format!("{path}: column {column} of {}", label.escape_ascii())),
        }
    }
    any
}

/// Adds a number for each method that has a name; false if the line does not have the length that it begins with.
///
/// A kernel whose line is shorter than the table never made or served the calls that it lacks: they are 0.
pub(super) fn add_methods(
    out: &mut Exposition,
    family: &Family,
    proto: &[u8],
    methods: &[&str],
    numbers: &[Option<u64>],
) -> bool {
    let whole = numbers.split_first().filter(|(length, counts)| **length == Some(counts.len() as u64));
    let Some((_, counts)) = whole else {
        out.skip(|| format!("{}: a line of another length than its first number", family.source));
        return false;
    };
    for (at, method) in methods.iter().enumerate().filter(|(_, method)| !method.is_empty()) {
        match counts.get(at).unwrap_or(&Some(0)) {
            Some(count) => out.add(family, &[method.as_bytes(), proto], *count),
            None => out.skip(|| format!("{}: {method} without a number", family.source)),
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    const HEAD: &[u8] = b"net 70 71 69 45\nrpc 1218785755 374636 1218815394\n";
    const TOTALS: &str = "node_nfs_connections_total 45\n\
        node_nfs_packets_total{protocol=\"tcp\"} 69\n\
        node_nfs_packets_total{protocol=\"udp\"} 71\n\
        node_nfs_rpc_authentication_refreshes_total 1218815394\n\
        node_nfs_rpc_retransmissions_total 374636\n\
        node_nfs_rpcs_total 1218785755\n";

    fn nfs(text: &[u8]) -> String {
        collect(&COLLECTOR, &[(PATH, text)], &[]).unwrap()
    }

    /// Head and a line with as many numbers as there are methods, each the place it stands at.
    fn counted(label: &str, methods: usize) -> String {
        let numbers: Vec<String> = (0..methods).map(|at| at.to_string()).collect();
        nfs(format!("{label} {methods} {}\n", numbers.join(" ")).as_bytes())
    }

    #[test]
    fn packets_connections_and_calls_are_single_numbers() {
        assert_eq!(nfs(HEAD), TOTALS);
    }

    #[test]
    fn methods_are_named_by_their_position_and_version() {
        for (label, methods, last) in [
            ("proc2", 18, "{method=\"FsStat\",proto=\"2\"} 17\n"),
            ("proc3", 22, "{method=\"Commit\",proto=\"3\"} 21\n"),
            ("proc4", 59, "{method=\"Clone\",proto=\"4\"} 58\n"),
        ] {
            let text = counted(label, methods);
            assert_eq!(text.lines().count(), methods, "{label}");
            assert!(text.contains(last), "{text}");
        }
        let text = counted("proc3", 22);
        assert!(text.contains("{method=\"ReadDirPlus\",proto=\"3\"} 17\n"), "{text}");
    }

    #[test]
    fn the_layout_calls_have_node_exporters_labels() {
        let text = counted("proc4", 69);
        assert!(text.contains("{method=\"GetDeviceInfo\",proto=\"4\"} 44\n"), "{text}");
        assert!(text.contains("{method=\"LayoutGet\",proto=\"4\"} 45\n"), "{text}");
    }

    #[test]
    fn calls_that_an_old_kernel_does_not_have_were_never_made_and_new_ones_have_no_name() {
        let old = counted("proc4", 48);
        assert!(old.contains("{method=\"LayoutReturn\",proto=\"4\"} 47\n"), "{old}");
        assert!(old.contains("{method=\"SecinfoNoName\",proto=\"4\"} 0\n"), "{old}");
        assert_eq!(counted("proc4", 80).lines().count(), 59);
    }

    #[test]
    fn a_version_that_the_kernel_does_not_speak_is_absent() {
        assert!(!nfs(HEAD).contains("node_nfs_requests_total"));
    }

    #[test]
    fn only_a_malformed_line_is_skipped() {
        let text = nfs(b"net 70 x 69\nrpc -1\nproc2 18 1 2\nproc3 2 1 x\nshiny 1 2\n");
        assert!(
            text.starts_with("node_nfs_packets_total{protocol=\"tcp\"} 69\nnode_nfs_requests_total"),
            "{text}"
        );
        assert!(
            text.contains("{method=\"Null\",proto=\"3\"} 1\n") && !text.contains("proto=\"2\""),
            "{text}"
        );
        assert!(!text.contains("\"GetAttr\""), "{text}");
    }

    #[test]
    fn a_blank_line_and_a_column_that_is_missing_are_counted() {
        let table = b"net 1 2 3\n\nrpc 5\n";
        assert_eq!(nfs(table).lines().count(), 3);
        assert_eq!(skipped(&COLLECTOR, &[(PATH, table)], &[]), 1 + 1 + 2);
        assert_eq!(skipped(&COLLECTOR, &[(PATH, HEAD)], &[]), 0);
    }

    #[test]
    fn a_file_without_any_number_is_malformed_and_a_missing_one_no_data() {
        let result = collect(&COLLECTOR, &[(PATH, b"\xff\nnet\n")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
