//! Memory: use, zones, slabs, NUMA nodes, swap.

pub mod buddyinfo;
pub mod ksmd;
pub mod meminfo;
pub mod meminfo_numa;
pub mod slabinfo;
pub mod swap;
pub mod vmstat;
pub mod zoneinfo;
