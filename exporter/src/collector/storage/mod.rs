//! Block devices and what they are made of.

pub mod bcache;
pub mod diskstats;
pub mod dmmultipath;
pub mod drbd;
pub mod fibrechannel;
pub mod mdadm;
pub mod nvme;
pub mod nvmesubsystem;
pub mod tapestats;
