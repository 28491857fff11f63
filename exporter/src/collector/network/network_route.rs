//! Routes of the host's main tables: `proc/1/net/route` and `proc/1/net/ipv6_route`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_pid_net.5.html>
//!
//! The files lack who made a route, the source address it prefers, the weight of a next hop, and of several IPv4
//! next hops more than the first: those labels are empty, and those next hops absent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "network_route",
    default: false,
    help: "Routes of the main routing tables.",
    queries: &[Query::Routes],
    optional: &[],
    flags: &[],
    families: || vec![INFO, ROUTES],
    new: |_| Ok(Box::new(collect)),
};

const V4: &str = "proc/1/net/route";
const V6: &str = "proc/1/net/ipv6_route";

const INFO: Family = Family {
    name: "node_network_route_info",
    help: "A route by which packets are sent; always 1.",
    kind: MetricType::Gauge,
    labels: &["dest", "device", "gw", "priority", "proto", "src", "weight"],
    source: Source::File("proc/1/net/{route,ipv6_route}"),
};
const ROUTES: Family = Family {
    name: "node_network_routes",
    help: "Routes that send packets by the device.",
    labels: &["device"],
    ..INFO
};

/// Flags of a route (linux/route.h, linux/ipv6_route.h).
const GATEWAY: u64 = 0x2;
/// Flags of what is no route to send by: one that rejects, of an anycast address, a cached exception, of an own address.
const NOT_UNICAST: u64 = 0x200 | 0x10_0000 | 0x100_0000 | 0x8000_0000;

/// A route to other hosts.
struct Route<'t> {
    device: &'t [u8],
    destination: String,
    gateway: String,
    priority: u64,
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut routes: BTreeMap<&[u8], u64> = BTreeMap::new();
    let result = context.for_each_complete(&[V4, V6], |path, table| {
        let v4 = path == V4;
        for line in text::lines(table).skip(usize::from(v4)) {
            let Some(route) = (if v4 { ipv4_route(line) } else { ipv6_route(line) }) else {
                out.skip(|| format!("{path}: {}", line.escape_ascii()));
                continue;
            };
            let Some(Route { device, destination, gateway, priority }) = route else { continue };
            let priority = priority.to_string();
            let (destination, gateway) = (destination.as_bytes(), gateway.as_bytes());
            out.add(&INFO, &[destination, device, gateway, priority.as_bytes(), b"", b"", b""], 1u64);
            *routes.entry(device).or_default() += 1;
        }
    });
    for (device, count) in routes {
        out.add(&ROUTES, &[device], count);
    }
    result
}

/// `eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0`: addresses have their bytes in the CPU's order, which is little
/// endian wherever this runs. Outer none: no route; inner none: none to other hosts.
fn ipv4_route(line: &[u8]) -> Option<Option<Route<'_>>> {
    let mut fields = text::fields(line);
    let device = fields.next()?;
    let address = |field: &[u8]| Some(u32::try_from(text::hexadecimal(field)?).ok()?.swap_bytes());
    let (destination, gateway) = (address(fields.next()?)?, address(fields.next()?)?);
    let flags = text::hexadecimal(fields.next()?)?;
    let mut fields = fields.skip(2);
    let priority = text::unsigned(fields.next()?)?;
    let length = address(fields.next()?)?.leading_ones();
    // A route that drops packets (blackhole, throw) has no flag of its own, and no device: the kernel writes `*`.
    let unicast = flags & NOT_UNICAST == 0 && device != b"*";
    Some(unicast.then(|| Route {
        device,
        destination: destination_text(Ipv4Addr::from(destination).to_string(), length.into()),
        gateway: gateway_text(Ipv4Addr::from(gateway).to_string(), flags),
        priority,
    }))
}

/// Destination and its length, source and its length, next hop, metric, counts, flags and device; all hexadecimal.
fn ipv6_route(line: &[u8]) -> Option<Option<Route<'_>>> {
    let mut fields = text::fields(line);
    let destination = ipv6_address(fields.next()?)?;
    let length = text::hexadecimal(fields.next()?)?;
    let mut fields = fields.skip(2);
    let gateway = ipv6_address(fields.next()?)?;
    let priority = text::hexadecimal(fields.next()?)?;
    let mut fields = fields.skip(2);
    let flags = text::hexadecimal(fields.next()?)?;
    let device = fields.next()?;
    let unicast = flags & NOT_UNICAST == 0 && !destination.is_multicast();
    Some(unicast.then(|| Route {
        device,
        destination: destination_text(destination.to_string(), length),
        gateway: gateway_text(gateway.to_string(), flags),
        priority,
    }))
}

fn ipv6_address(text: &[u8]) -> Option<Ipv6Addr> {
    let (high, low) = text.split_at_checked(16)?;
    let half = |half: &[u8]| (half.len() == 16).then(|| text::hexadecimal(half)).flatten();
    Some(Ipv6Addr::from(u128::from(half(high)?) << 64 | u128::from(half(low)?)))
}

fn destination_text(address: String, length: u64) -> String {
    if length == 0 { "default".into() } else { format!("{address}/{length}") }
}

fn gateway_text(address: String, flags: u64) -> String {
    if flags & GATEWAY == 0 { String::new() } else { address }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const ROUTE: &[u8] =
        b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
*\t0000000A\t00000000\t0201\t0\t0\t0\t000000FF\t0\t0\t0\n\
*\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
*\t0200000A\t00000000\t0205\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
    /// As the kernel shows a route that has a nexthop object which drops packets.
    const DROPS: &[u8] =
        b"Iface\tDestination\tGateway\nlo\t0000020A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
    const IPV6_ROUTE: &[u8] = b"\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth1\n\
00000000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001       lo\n\
ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000003 00000000 00000001     eth0\n\
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    fn routes(files: &[(&str, &[u8])]) -> String {
        let text = collect(&COLLECTOR, files, &[]).unwrap();
        text.replace("node_network_", "").replace(",proto=\"\",src=\"\",weight=\"\"} 1", "}")
    }

    #[test]
    fn routes_to_other_hosts_are_reported_and_counted_by_device() {
        assert_eq!(
            routes(&[(V4, ROUTE), (V6, IPV6_ROUTE)]),
            "route_info{dest=\"192.0.2.0/24\",device=\"eth0\",gw=\"\",priority=\"0\"}\n\
             route_info{dest=\"default\",device=\"eth0\",gw=\"192.0.2.1\",priority=\"100\"}\n\
             route_info{dest=\"default\",device=\"eth1\",gw=\"fd00::1\",priority=\"1024\"}\n\
             route_info{dest=\"fd00::/64\",device=\"eth0\",gw=\"\",priority=\"256\"}\n\
             routes{device=\"eth0\"} 3\nroutes{device=\"eth1\"} 1\n"
        );
        assert_eq!(
            routes(&[(V4, DROPS)]),
            "route_info{dest=\"10.2.0.0/16\",device=\"lo\",gw=\"\",priority=\"0\"}\nroutes{device=\"lo\"} 1\n"
        );
    }

    #[test]
    fn a_host_without_ipv6_reports_ipv4_alone() {
        assert_eq!(routes(&[(V4, ROUTE)]).lines().count(), 3);
    }

    #[test]
    fn only_a_malformed_line_is_skipped_and_a_device_may_have_any_name() {
        let text = routes(&[
            (V4, b"head\neth0 xyz\na\"b:)\xff 00000000 00000000 0001 0 0 0 00000000 0 0 0 new\n"),
            (V6, b"fd00 40 0 0\n"),
        ]);
        assert_eq!(
            text,
            "route_info{dest=\"default\",device=\"a\\\"b:)\u{fffd}\",gw=\"\",priority=\"0\"}\n\
             routes{device=\"a\\\"b:)\u{fffd}\"} 1\n"
        );
    }

    #[test]
    fn a_host_without_routing_tables_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[V4, V6]);
    }
}
