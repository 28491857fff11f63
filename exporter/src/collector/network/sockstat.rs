//! Sockets in use and their memory: `proc/1/net/sockstat` and `proc/1/net/sockstat6`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_net.5.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "sockstat",
    default: true,
    help: "Sockets in use, by protocol.",
    queries: &[Query::Sockstat],
    optional: &[],
    flags: &[],
    families,
    new: |_| Ok(Box::new(collect)),
};

const V4: &str = "proc/1/net/sockstat";
const V6: &str = "proc/1/net/sockstat6";
const FILES: &str = "proc/1/net/{sockstat,sockstat6}";

/// Numbers of a protocol: the key and its family.
#[rustfmt::skip]
const KEYS: &[(&[u8], Family)] = &[
    key(b"alloc",  "node_sockstat_<PROTOCOL>_alloc",  "Sockets of the protocol that are allocated, in any state."),
    key(b"inuse",  "node_sockstat_<PROTOCOL>_inuse",  "Sockets of the protocol that are in use, or queues of fragments for FRAG."),
    key(b"mem",    "node_sockstat_<PROTOCOL>_mem",    "Pages of memory that the sockets of the protocol take."),
    key(b"memory", "node_sockstat_<PROTOCOL>_memory", "Bytes of memory that fragments awaiting the rest of their packet take."),
    key(b"orphan", "node_sockstat_<PROTOCOL>_orphan", "Sockets of the protocol that no process has open any more."),
    key(b"tw",     "node_sockstat_<PROTOCOL>_tw",     "Sockets of the protocol that wait in TIME-WAIT."),
];

const fn key(key: &'static [u8], name: &'static str, help: &'static str) -> (&'static [u8], Family) {
    (key, Family::gauge(name, help, &[], Source::File(FILES)))
}

fn families() -> Vec<Family> {
    let keys = KEYS.iter().map(|(_, family)| *family);
    [SOCKETS_USED, MEM_BYTES].into_iter().chain(keys).collect()
}

const SOCKETS_USED: Family = Family {
    name: "node_sockstat_sockets_used",
    help: "Sockets of every kind in use.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::File(FILES),
};
const MEM_BYTES: Family = Family {
    name: "node_sockstat_<PROTOCOL>_mem_bytes",
    help: "Bytes of memory that the sockets of the protocol take.",
    ..SOCKETS_USED
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut strange = Ok(());
    let result = context.for_each_complete(&[V4, V6], |path, sockets| {
        let mut known = sockets.is_empty();
        for line in text::lines(sockets) {
            let Some((protocol, pairs)) = text::split_first(line, b':') else {
                out.skip(|| format!("{path}: a line without a protocol"));
                continue;
            };
            known = true;
            let protocol = text::printable(text::trim(protocol));
            let mut fields = text::fields(pairs).peekable();
            out.item();
            if fields.peek().is_none() {
                out.skip(|| format!("{path}: {protocol} without a value"));
            }
            while let Some(key) = fields.next() {
                match fields.next().and_then(text::signed) {
                    Some(value) => add(&protocol, key, value, out),
                    None => out.skip(|| format!("{path}: a value that is missing or no number")),
                }
            }
        }
        if !known {
            strange = Err(CollectError::malformed(path, "no line of a protocol"));
        }
    });
    // A kernel may have neither protocol.
    if let Err(CollectError::NoData(_)) = result { Ok(()) } else { result.and(strange) }
}

fn add(protocol: &str, key: &[u8], value: i64, out: &mut Exposition) {
    if protocol == "sockets" {
        if key == b"used" {
            out.add(&SOCKETS_USED, &[], value);
        }
        return;
    }
    // Keys of newer kernels are ignored.
    let Some((_, family)) = KEYS.iter().find(|(known, _)| *known == key) else { return };
    out.add_named(family, &family.name_of(protocol), &[], value);
    if key == b"mem" {
        // The kernel counts in its own pages, and the exporter runs on that kernel.
        let bytes = value.saturating_mul(rustix::param::page_size() as i64);
        out.add_named(&MEM_BYTES, &MEM_BYTES.name_of(protocol), &[], bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local, skipped};
    use crate::snapshot::{Content, Snapshot};

    const SOCKSTAT: &[u8] = b"sockets: used 229\nTCP: inuse 4 orphan 1 tw 5 alloc 17 mem 2\n\
        UDP: inuse 3 mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 9\n";

    fn sockstat(text: &[u8]) -> String {
        collect(&COLLECTOR, &[(V4, text)], &[]).unwrap()
    }

    #[test]
    fn each_protocol_has_a_family_a_key_and_memory_is_in_bytes_too() {
        assert_eq!(
            sockstat(SOCKSTAT),
            format!(
                "node_sockstat_FRAG_inuse 0\nnode_sockstat_FRAG_memory 9\nnode_sockstat_RAW_inuse 0\n\
                 node_sockstat_TCP_alloc 17\nnode_sockstat_TCP_inuse 4\nnode_sockstat_TCP_mem 2\n\
                 node_sockstat_TCP_mem_bytes {}\nnode_sockstat_TCP_orphan 1\nnode_sockstat_TCP_tw 5\n\
                 node_sockstat_UDPLITE_inuse 0\nnode_sockstat_UDP_inuse 3\nnode_sockstat_UDP_mem 0\n\
                 node_sockstat_UDP_mem_bytes 0\nnode_sockstat_sockets_used 229\n",
                2 * rustix::param::page_size()
            )
        );
    }

    #[test]
    fn a_host_may_lack_either_file_and_both() {
        let v6 = b"TCP6: inuse 17\nFRAG6: inuse 0 memory 0\n";
        let text = collect(&COLLECTOR, &[(V6, v6)], &[]).unwrap();
        assert_eq!(
            text,
            "node_sockstat_FRAG6_inuse 0\nnode_sockstat_FRAG6_memory 0\nnode_sockstat_TCP6_inuse 17\n"
        );
        assert_eq!(collect(&COLLECTOR, &[], &[]), Ok(String::new()));
        let unreadable = Snapshot::from_files(vec![(V4.into(), Content::Errno(13))]);
        assert!(collect_snapshot(&COLLECTOR, &unreadable, &[], &local()).is_err());
    }

    #[test]
    fn missing_fields_are_absent_and_counted_and_new_ones_ignored() {
        let broken = b"TCP: tw 4 shiny 7 orphan\nTCP orphan 4\nSCTP: inuse many tw 1\n\nUDP:\n";
        assert_eq!(sockstat(broken), "node_sockstat_SCTP_tw 1\nnode_sockstat_TCP_tw 4\n");
        assert_eq!(skipped(&COLLECTOR, &[(V4, broken)], &[]), 5);
    }

    #[test]
    fn a_malformed_file_fails_and_the_other_one_is_reported() {
        for strange in [&b"\n"[..], b"something else\n"] {
            let result = collect(&COLLECTOR, &[(V4, SOCKSTAT), (V6, strange)], &[]);
            assert!(matches!(result, Err(CollectError::Malformed { .. })), "{result:?}");
        }
    }

    #[test]
    fn a_protocol_of_any_name_makes_a_valid_metric() {
        assert_eq!(sockstat(b"a\"b\xff: inuse 1\n"), "node_sockstat_a_b____inuse 1\n");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[V4, V6]);
    }
}
