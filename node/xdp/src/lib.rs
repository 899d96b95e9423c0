//! The flow steerer in the kernel: one XDP program in C (`c/`), its tables, and its loader.
//!
//! `trunkline-steer` is the reference: `tests/differential` runs both over the same packets and demands the same verdicts
//! and the same bytes.

#![forbid(unsafe_code)]

#[cfg(test)]
mod btf;
mod layout;
mod program;

pub use layout::{Config, Flow, Health, Neighbour, Row, SERVERS_MAX, Unfit, build};
pub use program::{Counter, LoadError, Program};
