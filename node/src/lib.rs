//! The I/O shell of a Trunkline node: everything around the sans-IO cores.

pub mod addresses;
pub mod allocation_name;
pub mod api;
pub mod asn;
pub mod cache;
pub mod certificate;
pub mod control;
mod descriptors;
mod ending;
pub mod ice;
pub mod journal;
pub mod keys;
pub mod node;
pub mod options;
pub mod places;
pub mod plan;
pub mod reference;
pub mod secrets;
pub mod shard;
pub mod start;
pub mod up;
pub mod usage;
