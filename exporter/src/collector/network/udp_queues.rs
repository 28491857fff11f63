//! Memory in the queues of UDP sockets: `proc/1/net/udp` and `proc/1/net/udp6`.
//!
//! <https://docs.kernel.org/networking/proc_net_tcp.html> (the same columns)

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "udp_queues",
    default: true,
    help: "Memory in the queues of UDP sockets.",
    queries: &[Query::Udp],
    optional: &[],
    flags: &[],
    families: || vec![QUEUES],
    new: |_| Ok(Box::new(collect)),
};

const V4: &str = "proc/1/net/udp";
const V6: &str = "proc/1/net/udp6";

const QUEUES: Family = Family {
    name: "node_udp_queues",
    help: "Bytes of kernel memory in the queues of all UDP sockets.",
    kind: MetricType::Gauge,
    labels: &["ip", "queue"],
    source: Source::File("proc/1/net/{udp,udp6}"),
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    context.for_each_complete(&[V4, V6], |path, sockets| {
        let (mut tx, mut rx) = (0u64, 0u64);
        for line in text::lines(sockets).skip(1) {
            match queues(line) {
                Some(queues) => {
                    tx = tx.saturating_add(queues.0);
                    rx = rx.saturating_add(queues.1);
                }
                None => out.skip(|| format!("{path}: a socket without queues")),
            }
        }
        let ip: &[u8] = if path == V4 { b"v4" } else { b"v6" };
        out.item();
        out.add(&QUEUES, &[ip, b"tx"], tx);
        out.add(&QUEUES, &[ip, b"rx"], rx);
    })
}

/// The bytes to be sent and to be received of a socket: `tx_queue:rx_queue`, in hexadecimal.
fn queues(line: &[u8]) -> Option<(u64, u64)> {
    let (tx, rx) = text::split_first(text::fields(line).nth(4)?, b':')?;
    Some((text::hexadecimal(tx)?, text::hexadecimal(rx)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const UDP: &[u8] = b"   \
sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops            \n\
 1054: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 17063 2 0000000000000000 0         \n\
 2317: 3500007F:0035 00000000:0000 07 00000010:00002300 00:00000000 00000000   101        0 15361 2 0000000000000000 0         \n\
 2320: 3500007F:0036 00000000:0000 07 00000001:00000100 00:00000000 00000000   101        0 15362 2 0000000000000000 0         \n";
    const UDP6: &[u8] = b"  \
sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
  101: 00000000000000000000000000000000:0202 00000000000000000000000000000000:0000 07 00000000:FFFFFFFF 00:00000000 00000000     0        0 1 2 0 0\n";

    #[test]
    fn the_queues_of_both_families_are_summed() {
        assert_eq!(
            collect(&COLLECTOR, &[(V4, UDP), (V6, UDP6)], &[]).unwrap(),
            "node_udp_queues{ip=\"v4\",queue=\"rx\"} 9216\nnode_udp_queues{ip=\"v4\",queue=\"tx\"} 17\n\
             node_udp_queues{ip=\"v6\",queue=\"rx\"} 4294967295\nnode_udp_queues{ip=\"v6\",queue=\"tx\"} 0\n"
        );
    }

    #[test]
    fn a_host_without_ipv6_reports_ipv4_alone_and_one_without_either_nothing() {
        let text = collect(&COLLECTOR, &[(V4, b"  sl  local_address\n")], &[]).unwrap();
        assert_eq!(
            text,
            "node_udp_queues{ip=\"v4\",queue=\"rx\"} 0\nnode_udp_queues{ip=\"v4\",queue=\"tx\"} 0\n"
        );
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn a_malformed_line_is_skipped_and_a_future_kernels_columns_ignored() {
        let text = b"  sl\n 1: 0:1 0:0 07 5\n 2: 0:1 0:0 07 5:x\n 3: 0:1 0:0 07 5:6 and more to come\n";
        let text = collect(&COLLECTOR, &[(V4, text)], &[]).unwrap();
        assert!(text.contains("\"rx\"} 6\n") && text.contains("\"tx\"} 5\n"), "{text}");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[V4, V6]);
    }
}
