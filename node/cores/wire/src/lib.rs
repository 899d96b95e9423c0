//! Bytes to typed views and back, shared by every core.
//!
//! STUN and TURN messages (RFC 8489, RFC 8656), ChannelData, first-byte demultiplexing (RFC 7983), stream
//! framing, the tokens a server seals its identity into, encapsulation between servers, and the [`Egress`]
//! that cores write into. Nothing here keeps protocol state, reads a clock or touches a socket.

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

pub mod channel_data;
pub mod demux;
pub mod drops;
pub mod egress;
pub mod flow;
pub mod framing;
pub mod gue;
pub mod now;
pub mod stun;
pub mod token;

pub use demux::Kind;
pub use drops::{DropReason, Drops};
pub use egress::{Body, Egress, Head, Transmit, Via};
pub use flow::{AllocationId, ClientFlow, ListenerId, NodeId, RelayId, StreamId, Transport};
pub use now::Now;
