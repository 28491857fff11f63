//! Virtual servers of the host's network namespace: `proc/1/net/ip_vs_stats` and `proc/1/net/ip_vs`.
//!
//! <https://docs.kernel.org/networking/ipvs-sysctl.html>

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context, SetupError};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::options::{Options, TypedFlag};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "ipvs",
    default: true,
    help: "IPVS: traffic of virtual servers, and connections to their backends.",
    queries: &[Query::Ipvs],
    optional: &[],
    flags: &[BACKEND_LABELS.row],
    families: || vec![CONNECTIONS, PACKETS_IN, PACKETS_OUT, BYTES_IN, BYTES_OUT, ACTIVE, INACTIVE, WEIGHT],
    new: |options| Ok(Box::new(Ipvs::new(options)?)),
};

pub const BACKEND_LABELS: TypedFlag<String> = TypedFlag::parsed(
    "collector.ipvs.backend-labels",
    "LABELS",
    "local_address,local_port,remote_address,remote_port,proto,local_mark",
    "Labels of backends, separated by commas. Backends with the same labels are summed.",
);
const STATS: &str = "proc/1/net/ip_vs_stats";
const SERVERS: &str = "proc/1/net/ip_vs";

const CONNECTIONS: Family = Family {
    name: "node_ipvs_connections_total",
    help: "Connections to virtual servers.",
    kind: MetricType::Counter,
    labels: &[],
    source: Source::File(STATS),
};
const PACKETS_IN: Family =
    Family { name: "node_ipvs_incoming_packets_total", help: "Packets to virtual servers.", ..CONNECTIONS };
const PACKETS_OUT: Family =
    Family { name: "node_ipvs_outgoing_packets_total", help: "Packets from virtual servers.", ..CONNECTIONS };
const BYTES_IN: Family =
    Family { name: "node_ipvs_incoming_bytes_total", help: "Bytes to virtual servers.", ..CONNECTIONS };
const BYTES_OUT: Family =
    Family { name: "node_ipvs_outgoing_bytes_total", help: "Bytes from virtual servers.", ..CONNECTIONS };
const ACTIVE: Family = Family {
    name: "node_ipvs_backend_connections_active",
    help: "Active connections to the server behind a virtual one.",
    kind: MetricType::Gauge,
    labels: &LABELS,
    source: Source::File(SERVERS),
};
const INACTIVE: Family = Family {
    name: "node_ipvs_backend_connections_inactive",
    help: "Inactive connections to the server behind a virtual one.",
    ..ACTIVE
};
const WEIGHT: Family =
    Family { name: "node_ipvs_backend_weight", help: "Weight of the server behind a virtual one.", ..ACTIVE };

/// The columns of the totals; hexadecimal.
const TOTALS: [&Family; 5] = [&CONNECTIONS, &PACKETS_IN, &PACKETS_OUT, &BYTES_IN, &BYTES_OUT];
/// The last columns of a server's line, in the order of [`Sums`].
const COLUMNS: [&Family; 3] = [&WEIGHT, &ACTIVE, &INACTIVE];
/// The labels of a server, in the order of `Labels`.
pub const LABELS: [&str; 6] =
    ["local_address", "local_port", "remote_address", "remote_port", "proto", "local_mark"];

type Labels = [Vec<u8>; LABELS.len()];
type Sums = [u64; COLUMNS.len()];

/// The values of the flags.
#[derive(Debug)]
struct Ipvs {
    /// Where in [`LABELS`] the labels of servers stand that are given.
    kept: Vec<usize>,
}

impl Ipvs {
    fn new(options: &Options) -> Result<Self, SetupError> {
        let flag = BACKEND_LABELS.get(options);
        let refuse = |reason| options.refuse(BACKEND_LABELS.row.name, &flag, reason);
        Ok(Self { kept: selected_labels(&flag).map_err(refuse)? })
    }
}

impl Collect for Ipvs {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut lines = text::lines(context.require(STATS)?).filter(|line| !line.trim_ascii().is_empty());
        let totals = lines.nth(2).unwrap_or_default();
        let mut any = false;
        for (family, total) in TOTALS.iter().zip(text::fields(totals).map(text::hexadecimal)) {
            match total {
                Some(total) => {
                    out.add(family, &[], total);
                    any = true;
                }
                None => out.skip(|| format!("{STATS}: {} is no number", family.name)),
            }
        }
        if !any {
            return Err(CollectError::malformed(STATS, "no totals in its third line"));
        }

        let mut sums: BTreeMap<Vec<Vec<u8>>, Sums> = BTreeMap::new();
        let servers = if self.kept.len() < LABELS.len() {
            // Over a part of them a sum would be wrong.
            context.require_complete(SERVERS)
        } else {
            context.require(SERVERS)
        };
        let servers = servers.map_err(|error| match error {
            // A kernel that has the one has the other: something hides it.
            CollectError::NoData(_) => CollectError::malformed(SERVERS, format!("missing beside {STATS}")),
            error => error,
        })?;
        each_server(servers, out, |labels, numbers| {
            let key = self.kept.iter().filter_map(|at| labels.get(*at).cloned()).collect();
            for (sum, number) in sums.entry(key).or_default().iter_mut().zip(numbers) {
                *sum = sum.saturating_add(number);
            }
        });
        let names: Vec<&'static str> = self.kept.iter().filter_map(|at| LABELS.get(*at).copied()).collect();
        for (labels, sums) in &sums {
            out.item();
            for (family, sum) in COLUMNS.iter().zip(sums) {
                let pairs = names.iter().copied().zip(labels.iter().map(Vec::as_slice));
                out.add_sample(family.name, "", family.help, family.kind, pairs, (*sum).into());
            }
        }
        Ok(())
    }
}

/// Where in [`LABELS`] the labels stand that the flag names; each once, in the order of the table.
fn selected_labels(flag: &str) -> Result<Vec<usize>, String> {
    let named: Vec<&str> = flag.split(',').filter(|name| !name.is_empty()).collect();
    match named.iter().find(|name| !LABELS.contains(name)) {
        Some(unknown) => Err(format!("no label {unknown:?}; there are {}", LABELS.join(","))),
        None => Ok((0..LABELS.len()).filter(|at| named.contains(&LABELS[*at])).collect()),
    }
}

/// Calls `take` for each server behind a virtual one, with the labels of both.
fn each_server(text: &[u8], out: &mut Exposition, mut take: impl FnMut(Labels, Sums)) {
    let mut server: Option<Server<'_>> = None;
    for line in text::lines(text) {
        let mut fields = text::fields(line);
        let (first, second) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        match first {
            b"" | b"IP" | b"Prot" => {}
            b"->" if second == b"RemoteAddress:Port" => {}
            b"->" => {
                let mut number = |_| fields.next().and_then(text::unsigned);
                // The field between the address and the numbers is how packets are passed on.
                let (_, numbers) = (number(()), [number(()), number(()), number(())]);
                match (&server, address_and_port(second), numbers) {
                    (Some(server), Some(remote), [Some(weight), Some(active), Some(inactive)]) => {
                        take(server.labels(remote), [weight, active, inactive]);
                    }
                    _ => out.skip(|| format!("{SERVERS}: {}", line.escape_ascii())),
                }
            }
            b"FWM" => {
                server = Some(Server { proto: first, local: (Vec::new(), b"0".to_vec()), mark: second });
            }
            proto => {
                server = address_and_port(second).map(|local| Server { proto, local, mark: b"" });
                if server.is_none() {
                    out.skip(|| format!("{SERVERS}: {}", line.escape_ascii()));
                }
            }
        }
    }
}

/// An address and a port, as people write them.
type Endpoint = (Vec<u8>, Vec<u8>);

/// The virtual server that the following lines belong to.
struct Server<'t> {
    proto: &'t [u8],
    local: Endpoint,
    mark: &'t [u8],
}

impl Server<'_> {
    /// The labels of a server behind it.
    fn labels(&self, remote: Endpoint) -> Labels {
        let (address, port) = self.local.clone();
        [address, port, remote.0, remote.1, self.proto.to_vec(), self.mark.to_vec()]
    }
}

/// `C0A80016:0CEA` or `[2001:0db8:...]:0CEA` as people write them.
fn address_and_port(text: &[u8]) -> Option<Endpoint> {
    let (address, port) = text::split_last(text, b':')?;
    let port = u16::try_from(text::hexadecimal(port)?).ok()?;
    let address = match address.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]")) {
        Some(inner) => {
            let address: std::net::Ipv6Addr = std::str::from_utf8(inner).ok()?.parse().ok()?;
            // An IPv4 address in an IPv6 one is written as such, as Go does.
            address.to_ipv4_mapped().map_or_else(|| address.to_string(), |v4| v4.to_string())
        }
        None => Ipv4Addr::from(u32::try_from(text::hexadecimal(address)?).ok()?).to_string(),
    };
    Some((address.into_bytes(), port.to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};
    use crate::collector::{enabled, flags};

    const TEXT_STATS: &[u8] = b"   Total Incoming Outgoing         Incoming         Outgoing\n   \
Conns  Packets  Packets            Bytes            Bytes\n 16AA370 E33656E5        0     51D8C8883AB3                1\n\n \
Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n       4    1FB3C        0          1282A8F                0\n";
    const TEXT_SERVERS: &[u8] = b"IP Virtual Server version 1.2.1 (size=4096)\n\
Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
TCP  C0A80016:0CEA wlc  \n  -> C0A85216:0CEA      Tunnel  100    248        2         \n  \
-> C0A85318:0CEA      Tunnel  50     2          1         \n\
UDP  [2001:0db8:0000:0000:0000:0000:0000:0001]:0035 sh\n  \
-> [fe80:0000:0000:0000:0000:0000:0000:0002]:0036 Route 1 7 8\n\
FWM  10001000 wlc   \n  -> C0A8321A:0CEA      Tunnel  20     64         1         \n";

    fn ipvs(servers: &[u8], flags: &[&str]) -> String {
        let text = collect(&COLLECTOR, &[(STATS, TEXT_STATS), (SERVERS, servers)], flags).unwrap();
        text.lines().filter(|line| line.contains("backend")).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn totals_are_hexadecimal() {
        assert_eq!(
            collect(&COLLECTOR, &[(STATS, TEXT_STATS), (SERVERS, b"")], &[]).unwrap(),
            "node_ipvs_connections_total 23765872\nnode_ipvs_incoming_bytes_total 89991519156915\n\
             node_ipvs_incoming_packets_total 3811989221\nnode_ipvs_outgoing_bytes_total 1\n\
             node_ipvs_outgoing_packets_total 0\n"
        );
    }

    #[test]
    fn each_server_has_the_addresses_of_both_sides() {
        let text = ipvs(TEXT_SERVERS, &[]);
        assert_eq!(text.lines().count(), 12);
        for line in [
            "connections_active{local_address=\"192.168.0.22\",local_mark=\"\",local_port=\"3306\",proto=\"TCP\",remote_address=\"192.168.82.22\",remote_port=\"3306\"} 248\n",
            "connections_inactive{local_address=\"2001:db8::1\",local_mark=\"\",local_port=\"53\",proto=\"UDP\",remote_address=\"fe80::2\",remote_port=\"54\"} 8\n",
            "weight{local_address=\"\",local_mark=\"10001000\",local_port=\"0\",proto=\"FWM\",remote_address=\"192.168.50.26\",remote_port=\"3306\"} 20\n",
        ] {
            assert!(text.contains(&format!("node_ipvs_backend_{line}")), "{line}{text}");
        }
    }

    #[test]
    fn an_ipv4_address_in_an_ipv6_one_is_written_as_such() {
        let text = ipvs(
            b"TCP  [0000:0000:0000:0000:0000:ffff:c0a8:0001]:0CEA wlc\n  \
              -> [0000:0000:0000:0000:0000:ffff:c0a8:0002]:0CEA Tunnel  100    248        2\n",
            &["--collector.ipvs.backend-labels=local_address,remote_address"],
        );
        assert!(
            text.contains("{local_address=\"192.168.0.1\",remote_address=\"192.168.0.2\"} 248\n"),
            "{text}"
        );
    }

    #[test]
    fn backends_of_sctp_are_their_own_services() {
        let text = ipvs(
            b"TCP  C0A80016:0CEA wlc\n  -> C0A85216:0CEA Tunnel 1 2 3\n\
              SCTP 0A000001:0E3D mh\n  -> 0A000002:0E3D Masq 1 5 6\n",
            &["--collector.ipvs.backend-labels=proto,local_address"],
        );
        assert!(text.contains("active{local_address=\"192.168.0.22\",proto=\"TCP\"} 2\n"), "{text}");
        assert!(text.contains("active{local_address=\"10.0.0.1\",proto=\"SCTP\"} 5\n"), "{text}");
    }

    #[test]
    fn servers_with_equal_selected_labels_are_summed() {
        let text = ipvs(TEXT_SERVERS, &["--collector.ipvs.backend-labels=proto,,local_port"]);
        assert!(text.contains("connections_active{local_port=\"3306\",proto=\"TCP\"} 250\n"), "{text}");
        assert_eq!(text.lines().count(), 9);
        assert!(ipvs(TEXT_SERVERS, &["--collector.ipvs.backend-labels="]).contains("backend_weight 171\n"));
    }

    #[test]
    fn a_label_of_servers_that_does_not_exist_ends_the_start_unless_the_collector_is_off() {
        let start = |arguments: &[&str]| {
            let arguments = arguments.iter().map(|argument| (*argument).to_owned());
            enabled(&Options::parse(&flags(), arguments).unwrap().0).map_err(|error| error.to_string())
        };
        let bogus = "--collector.ipvs.backend-labels=proto,bogus";
        let error = start(&[bogus]).unwrap_err();
        let begin =
            "--collector.ipvs.backend-labels=\"proto,bogus\": no label \"bogus\"; there are local_address,";
        assert!(error.starts_with(begin), "{error}");
        assert!(start(&[bogus, "--no-collector.ipvs"]).is_ok());
        assert!(start(&["--collector.ipvs.backend-labels="]).is_ok());
    }

    #[test]
    fn only_a_malformed_line_is_skipped_and_no_server_gets_anothers_backends() {
        let servers = b"TCP xyz wlc\n-> C0A85216:0CEA Tunnel 1 2 3\nTCP C0A80016:0CEA wlc\n-> C0A85216:0CEA Tunnel 1 2\n\
              -> C0A85216:FFFFF Tunnel 1 2 3\n-> C0A85217:0CEA Tunnel 1 2 3 and more\n\n";
        let text = ipvs(servers, &[]);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert_eq!(skipped(&COLLECTOR, &[(STATS, TEXT_STATS), (SERVERS, servers)], &[]), 4);
        assert!(text.contains("192.168.82.23"), "{text}");
    }

    #[test]
    fn stats_without_totals_are_malformed_and_a_host_without_ipvs_has_no_data() {
        assert!(matches!(
            collect(&COLLECTOR, &[(STATS, b"\n\nx\n")], &[]),
            Err(CollectError::Malformed { .. })
        ));
        let alone = collect(&COLLECTOR, &[(STATS, TEXT_STATS)], &[]).unwrap_err().to_string();
        assert_eq!(alone, "proc/1/net/ip_vs: missing beside proc/1/net/ip_vs_stats");
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[STATS, SERVERS]);
    }
}
