//! A sans-IO TURN server (RFC 8489, RFC 8656): bytes, a time and a place for answers go in; what must be sent
//! comes out in an [`Egress`](trunkline_wire::Egress). It opens no socket, reads no clock and draws no random number.
//!
//! One [`Server`] serves one shard. Start reading at [`Server::handle_client`].

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod allocate;
mod allocation;
mod apply;
mod authenticate;
mod binding;
mod budget;
pub mod client_policy;
pub mod config;
mod counters;
pub mod credentials;
mod entropy;
mod permissions;
pub mod policer;
pub mod policy;
pub mod ports;
pub mod quota;
mod ranges;
mod refresh;
mod relay;
mod reply;
mod server;
mod sockets;
mod timers;
mod usage;

pub use allocation::{AllocationSummary, ServiceFlow};
pub use client_policy::ClientPolicy;
pub use config::{Config, Limits, ShardConfig, Shared, Terms};
pub use counters::{Counters, Traffic};
pub use server::{CloseReason, Event, Server};
pub use sockets::{OpenError, RelaySockets};
pub use usage::Usage;

#[cfg(test)]
mod policy_tests;
