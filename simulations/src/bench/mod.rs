//! The TURN benchmark: Trunkline, coturn and a bare UDP forwarder side by side on one machine.
//!
//! Absolute figures depend on the machine; ratios carry over. So the servers take turns within each round, every
//! measurement starts its server anew, and medians over the rounds are compared. The generator knows nothing of the
//! server's code: it sets its flows up with [`crate::turn_client`] and checks every packet to the last byte.

pub mod allocations;
pub mod batch;
pub mod closed_loop;
pub mod cpu;
pub mod flows;
pub mod forwarder;
pub mod lab;
pub mod latency;
pub mod poll;
pub mod rate;
pub mod report;
pub mod results;
pub mod server;
pub mod streams;
pub mod suite;
pub mod traffic;
