//! One file for each command: its options, what it asks, how the answer is shown.

pub mod allocations;
pub mod ca;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod drain;
pub mod events;
pub mod keys;
pub mod nodes;
pub mod policy;
pub mod reference;
pub mod sites;
pub mod slices;
pub mod status;
pub mod table;
pub mod usage;
