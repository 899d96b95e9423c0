//! The I/O shell of a Trunkline node: everything around the sans-IO cores.

pub mod addresses;
pub mod api;
pub mod cache;
pub mod certificate;
pub mod ice;
pub mod journal;
pub mod keys;
pub mod options;
pub mod plan;
pub mod records;
pub mod reference;
pub mod secrets;
pub mod shard;
pub mod store;
pub mod up;
