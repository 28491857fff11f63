//! File systems, local and of the network.

pub mod bcachefs;
pub mod btrfs;
pub mod filesystem;
pub mod mountstats;
pub mod nfs;
pub mod nfsd;
pub mod xfs;
pub mod zfs;
