//! Calls that the host's NFS server answered: `proc/1/net/rpc/nfsd`.
//!
//! <https://man7.org/linux/man-pages/man8/nfsstat.8.html>

use keyhole_proto::v1::Query;

use crate::collector::filesystems::nfs::{Number, VERSION_2, VERSION_3, add_methods, add_numbers};
use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "nfsd",
    default: true,
    help: "Calls that the NFS server answered.",
    queries: &[Query::Nfsd],
    optional: &[],
    flags: &[],
    families: || FAMILIES.to_vec(),
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/1/net/rpc/nfsd";

#[rustfmt::skip]
const FAMILIES: &[Family] = &[REPLY_HITS, REPLY_MISSES, REPLY_NOCACHE, STALE, READ, WRITTEN, THREADS, RA_SIZE, RA_MISSES, PACKETS, CONNECTIONS, RPC_ERRORS, RPCS, REQUESTS];

#[rustfmt::skip]
mod rows {
    use super::*;
    pub const REPLY_HITS:    Family = counter("node_nfsd_reply_cache_hits_total",           &[],                  "Calls that the NFS server answered from its cache of replies.");
    pub const REPLY_MISSES:  Family = counter("node_nfsd_reply_cache_misses_total",         &[],                  "Calls whose reply the NFS server put into its cache.");
    pub const REPLY_NOCACHE: Family = counter("node_nfsd_reply_cache_nocache_total",        &[],                  "Calls whose reply the NFS server does not keep.");
    pub const STALE:         Family = counter("node_nfsd_file_handles_stale_total",         &[],                  "Calls for a file handle that the NFS server no longer has.");
    pub const READ:          Family = counter("node_nfsd_disk_bytes_read_total",            &[],                  "Bytes that the NFS server has read.");
    pub const WRITTEN:       Family = counter("node_nfsd_disk_bytes_written_total",         &[],                  "Bytes that the NFS server has written.");
    pub const THREADS:       Family = gauge("node_nfsd_server_threads",                     &[],                  "Threads of the NFS server.");
    pub const RA_SIZE:       Family = gauge("node_nfsd_read_ahead_cache_size_blocks",       &[],                  "Entries of the NFS server's cache for reading ahead.");
    pub const RA_MISSES:     Family = counter("node_nfsd_read_ahead_cache_not_found_total", &[],                  "Reads that had no entry in the NFS server's cache for reading ahead.");
    pub const PACKETS:       Family = counter("node_nfsd_packets_total",                    &["proto"],           "Packets of the NFS server, by transport.");
    pub const CONNECTIONS:   Family = counter("node_nfsd_connections_total",                &[],                  "TCP connections that the NFS server has taken.");
    pub const RPC_ERRORS:    Family = counter("node_nfsd_rpc_errors_total",                 &["error"],           "RPC calls that the NFS server refused, by reason.");
    pub const RPCS:          Family = counter("node_nfsd_server_rpcs_total",                &[],                  "RPC calls that the NFS server has taken.");
    pub const REQUESTS:      Family = counter("node_nfsd_requests_total",                   &["method", "proto"], "Requests to the NFS server, by version of NFS and method.");
}
use rows::*;

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family::counter(name, help, labels, Source::File(PATH))
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family::gauge(name, help, labels, Source::File(PATH))
}

#[rustfmt::skip]
const NUMBERS: &[Number] = &[
    (b"rc",             0, &REPLY_HITS,    &[]),
    (b"rc",             1, &REPLY_MISSES,  &[]),
    (b"rc",             2, &REPLY_NOCACHE, &[]),
    (b"fh",             0, &STALE,         &[]),
    (b"io",             0, &READ,          &[]),
    (b"io",             1, &WRITTEN,       &[]),
    (b"th",             0, &THREADS,       &[]),
    (b"ra",             0, &RA_SIZE,       &[]),
    (b"ra",            11, &RA_MISSES,     &[]),
    (b"net",            1, &PACKETS,       &[b"udp"]),
    (b"net",            2, &PACKETS,       &[b"tcp"]),
    (b"net",            3, &CONNECTIONS,   &[]),
    (b"rpc",            0, &RPCS,          &[]),
    (b"rpc",            2, &RPC_ERRORS,    &[b"fmt"]),
    (b"rpc",            3, &RPC_ERRORS,    &[b"auth"]),
    (b"rpc",            4, &RPC_ERRORS,    &[b"cInt"]),
    (b"wdeleg_getattr", 0, &REQUESTS,      &[b"WdelegGetattr", b"4"]),
];

/// The operations of version 4, by number (RFC 7530); those that are not emitted have no name here.
#[rustfmt::skip]
const OPERATIONS_4: &[&str] = &[
    "", "", "", "Access", "Close", "Commit", "Create", "DelegPurge", "DelegReturn", "GetAttr", "GetFH", "Link", "Lock",
    "Lockt", "Locku", "Lookup", "LookupRoot", "Nverify", "Open", "OpenAttr", "OpenConfirm", "OpenDgrd", "PutFH",
    "", "", "Read", "ReadDir", "ReadLink", "Remove", "Rename", "Renew", "RestoreFH", "SaveFH", "SecInfo", "SetAttr",
    "SetClientID", "SetClientIDConfirm", "Verify", "Write", "RelLockOwner",
];

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for (label, numbers) in
        out.rows(PATH, context.require_complete(PATH)?).into_iter().filter_map(text::labelled)
    {
        // One operation of version 4 has a line of its own, below that of the others.
        if label != b"wdeleg_getattr" {
            out.item();
        }
        if numbers.is_empty() {
            out.skip(|| format!("{PATH}: {} without a number", label.escape_ascii()));
            continue;
        }
        any |= add_numbers(out, PATH, NUMBERS, label, &numbers);
        any |= match label {
            b"proc2" => add_methods(out, &REQUESTS, b"2", &unnamed_null(VERSION_2), &numbers),
            b"proc3" => add_methods(out, &REQUESTS, b"3", &unnamed_null(VERSION_3), &numbers),
            b"proc4ops" => add_methods(out, &REQUESTS, b"4", OPERATIONS_4, &numbers),
            _ => false,
        };
    }
    any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "no line that is known"))
}

/// A server's methods: pings are not counted among its requests.
fn unnamed_null(methods: &[&'static str]) -> Vec<&'static str> {
    methods.iter().map(|method| if *method == "Null" { "" } else { *method }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    const HEAD: &[u8] = b"rc 1 6 18622\nfh 7 0 0 0 0\nio 157286400 72864\n\
        th 8 0 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.000\n\
        ra 32 0 0 0 0 0 0 0 0 0 0 9\nnet 972 55 917 1\nrpc 18628 3 1 2 4\n";

    fn nfsd(text: &[u8]) -> String {
        collect(&COLLECTOR, &[(PATH, text)], &[]).unwrap()
    }

    #[test]
    fn single_numbers_are_reported_by_name() {
        assert_eq!(
            nfsd(HEAD).replace("node_nfsd_", ""),
            "connections_total 1\ndisk_bytes_read_total 157286400\ndisk_bytes_written_total 72864\n\
             file_handles_stale_total 7\npackets_total{proto=\"tcp\"} 917\npackets_total{proto=\"udp\"} 55\n\
             read_ahead_cache_not_found_total 9\nread_ahead_cache_size_blocks 32\nreply_cache_hits_total 1\n\
             reply_cache_misses_total 6\nreply_cache_nocache_total 18622\nrpc_errors_total{error=\"auth\"} 2\n\
             rpc_errors_total{error=\"cInt\"} 4\nrpc_errors_total{error=\"fmt\"} 1\nserver_rpcs_total 18628\n\
             server_threads 8\n"
        );
    }

    #[test]
    fn methods_are_named_by_their_position_without_pings() {
        let text = nfsd(
            b"proc2 18 2 69 0 0 4410 0 0 0 0 0 0 0 0 0 0 0 99 2\n\
              proc3 22 2 112 0 2719 111 0 0 0 0 0 0 0 0 0 0 0 27 216 0 2 1 3\n",
        );
        assert_eq!(text.lines().count(), 17 + 21);
        assert!(!text.contains("Null"), "{text}");
        assert!(text.contains("{method=\"FsStat\",proto=\"2\"} 2\n"), "{text}");
        assert!(text.contains("{method=\"Commit\",proto=\"3\"} 3\n"), "{text}");
    }

    #[test]
    fn operations_of_version_4_are_named_by_their_number() {
        let numbers: Vec<String> = (0..72).map(|number| number.to_string()).collect();
        let text = nfsd(
            format!("proc4 2 2 10853\nproc4ops 72 {}\nwdeleg_getattr 15\n", numbers.join(" ")).as_bytes(),
        );
        assert_eq!(text.lines().count(), 35 + 1);
        for line in
            ["Access\",proto=\"4\"} 3", "RelLockOwner\",proto=\"4\"} 39", "WdelegGetattr\",proto=\"4\"} 15"]
        {
            assert!(text.contains(&format!("{{method=\"{line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn a_server_without_a_read_ahead_cache_has_no_series_of_it() {
        assert_eq!(nfsd(b"fh 0 0 0 0 0\nra 0\nfuture 1 2 3\n").lines().count(), 2);
    }

    #[test]
    fn only_a_malformed_line_is_skipped() {
        let text = nfsd(b"rc x 6\nproc2 18 1\nproc4ops x\nio 1\n");
        assert_eq!(text, "node_nfsd_disk_bytes_read_total 1\nnode_nfsd_reply_cache_misses_total 6\n");
    }

    #[test]
    fn a_blank_line_and_a_column_that_is_missing_are_counted() {
        let table = b"rc 1 2\n\nio 1\n";
        assert_eq!(nfsd(table).lines().count(), 3);
        assert_eq!(skipped(&COLLECTOR, &[(PATH, table)], &[]), 1 + 1 + 1);
        assert_eq!(skipped(&COLLECTOR, &[(PATH, HEAD)], &[]), 0);
    }

    #[test]
    fn a_file_without_any_number_is_malformed_and_a_missing_one_no_data() {
        let result = collect(&COLLECTOR, &[(PATH, b"\xff\nrc\n")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
