//! The network: interfaces, protocols, tables, sockets.

pub mod arp;
pub mod bonding;
pub mod conntrack;
pub mod infiniband;
pub mod ipvs;
pub mod lnstat;
pub mod netclass;
pub mod netdev;
pub mod netstat;
pub mod network_route;
pub mod sockstat;
pub mod softnet;
pub mod tcpstat;
pub mod udp_queues;
pub mod xfrm;
