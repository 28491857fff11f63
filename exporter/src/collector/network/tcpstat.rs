//! TCP sockets by state, and bytes in their queues: `proc/1/net/tcp` and `proc/1/net/tcp6`.
//!
//! <https://docs.kernel.org/networking/proc_net_tcp.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "tcpstat",
    default: false,
    help: "TCP sockets by state, and bytes in their queues.",
    queries: &[Query::Tcp],
    optional: &[],
    flags: &[],
    families: || vec![STATES],
    new: |_| Ok(Box::new(collect)),
};

const V4: &str = "proc/1/net/tcp";
const V6: &str = "proc/1/net/tcp6";

const STATES: Family = Family {
    name: "node_tcp_connection_states",
    help: "TCP sockets in this state; for rx_queued_bytes and tx_queued_bytes, bytes in the queues of all that do not listen.",
    kind: MetricType::Gauge,
    labels: &["state"],
    source: Source::File("proc/1/net/{tcp,tcp6}"),
};

/// The states by number, from 1 (TCP_ESTABLISHED).
const NAMES: [&[u8]; 11] = [
    b"established",
    b"syn_sent",
    b"syn_recv",
    b"fin_wait1",
    b"fin_wait2",
    b"time_wait",
    b"close",
    b"close_wait",
    b"last_ack",
    b"listen",
    b"closing",
];
const LISTEN: u64 = 10;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut counts = [0u64; NAMES.len()];
    let (mut tx, mut rx) = (0u64, 0u64);
    let result = context.for_each_complete(&[V4, V6], |path, sockets| {
        for line in text::lines(sockets).skip(1) {
            let Some((state, queues)) = socket(line) else {
                out.skip(|| format!("{path}: a socket without state or queues"));
                continue;
            };
            let of_state =
                usize::try_from(state).ok().and_then(|state| counts.get_mut(state.checked_sub(1)?));
            match of_state {
                Some(count) => *count += 1,
                None => out.skip(|| format!("{path}: a socket in state {state}")),
            }
            // A socket that listens has connections in its queue, not bytes.
            if state != LISTEN {
                tx = tx.saturating_add(queues.0);
                rx = rx.saturating_add(queues.1);
            }
        }
    });
    // Of a part of the sockets there is no sum.
    result?;
    for (name, count) in NAMES.iter().zip(counts).filter(|(_, count)| *count > 0) {
        out.add(&STATES, &[name], count);
    }
    out.add(&STATES, &[b"tx_queued_bytes"], tx);
    out.add(&STATES, &[b"rx_queued_bytes"], rx);
    Ok(())
}

/// A socket's state, and the bytes to be sent and to be received: `st tx_queue:rx_queue`, in hexadecimal.
fn socket(line: &[u8]) -> Option<(u64, (u64, u64))> {
    let mut fields = text::fields(line).skip(3);
    let state = text::hexadecimal(fields.next()?)?;
    let (tx, rx) = text::split_first(fields.next()?, b':')?;
    Some((state, (text::hexadecimal(tx)?, text::hexadecimal(rx)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_with_result, local};
    use crate::snapshot::{Content, Snapshot};

    const TCP: &[u8] = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
0: 00000000:07E8 00000000:0000 0A 00001000:00000003 00:00000000 00000000     0        0 1113 1 000000009af82126 100 0 0 10 0\n   \
1: 0100007F:B0F5 0100007F:9C4A 06 00000000:00000000 03:00000F4F 00000000     0        0 0 3 00000000a3dacada\n   \
2: 0100007F:B0F6 0100007F:9C4A 01 00000010:00002300 01:00000F4F 00000000     0        0 9 3 00000000a3dacada\n";
    const TCP6: &[u8] = b"  sl  local_address                         remote_address                        st tx_queue rx_queue\n   \
0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000\n   \
1: 00000000000000000000000001000000:0016 00000000000000000000000001000000:A000 01 00000001:00000100 00:00000000\n";

    fn tcpstat(files: &[(&str, &[u8])]) -> String {
        collect(&COLLECTOR, files, &[]).unwrap().replace("node_tcp_connection_states", "")
    }

    #[test]
    fn sockets_of_both_families_are_counted_and_backlogs_are_no_bytes() {
        assert_eq!(
            tcpstat(&[(V4, TCP), (V6, TCP6)]),
            "{state=\"established\"} 2\n{state=\"listen\"} 2\n{state=\"rx_queued_bytes\"} 9216\n\
             {state=\"time_wait\"} 1\n{state=\"tx_queued_bytes\"} 17\n"
        );
    }

    #[test]
    fn a_host_without_ipv6_reports_ipv4_alone() {
        assert!(tcpstat(&[(V4, TCP)]).contains("{state=\"established\"} 1\n"));
    }

    #[test]
    fn every_state_has_its_name() {
        let line = |state: usize| format!("  0: 0:0 0:0 {state:02X} 0:0\n");
        let text: String = (0..=12).map(line).collect();
        let text = tcpstat(&[(V4, format!("head\n{text}").as_bytes())]);
        for name in NAMES {
            assert!(text.contains(&format!("{{state=\"{}\"}} 1\n", name.escape_ascii())), "{text}");
        }
        assert_eq!(text.lines().count(), NAMES.len() + 2);
    }

    #[test]
    fn a_malformed_line_is_skipped_and_a_future_kernels_columns_ignored() {
        let text =
            tcpstat(&[(V4, b"head\n 0: a b 01\n 0: a b xx 1:2\n 0: a b 01 1\n 0: a b 01 5:6 and more\n")]);
        assert_eq!(
            text,
            "{state=\"established\"} 1\n{state=\"rx_queued_bytes\"} 6\n{state=\"tx_queued_bytes\"} 5\n"
        );
    }

    #[test]
    fn a_host_without_tcp_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn of_sockets_that_were_cut_there_is_no_sum() {
        let samples = |truncated: bool| {
            let cut = Content::Bytes { bytes: TCP.to_vec(), truncated };
            let files = vec![(V4.as_bytes().to_vec(), cut), (V6.as_bytes().to_vec(), Content::bytes(TCP6))];
            let (text, result) = collect_with_result(&COLLECTOR, &Snapshot::from_files(files), &[], &local());
            (text.contains("} "), result.is_ok())
        };
        assert_eq!((samples(false), samples(true)), ((true, true), (false, false)));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[V4, V6]);
    }
}
