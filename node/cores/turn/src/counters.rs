//! What a server counts. Plain numbers of one shard; the shell adds shards up.

use trunkline_wire::Drops;
use trunkline_wire::stun::{ErrorCode, Method};

/// Packets and payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Payload bytes, without STUN, UDP or IP headers.
    pub bytes: u64,
}

impl Traffic {
    /// Counts one packet.
    pub fn count(&mut self, bytes: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// What came since there was only this much.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(earlier.packets),
            bytes: self.bytes.wrapping_sub(earlier.bytes),
        }
    }

    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

/// Methods that are asked of a server, in the order of [`Counters::requests`].
pub const REQUEST_METHODS: [Method; 5] =
    [Method::Binding, Method::Allocate, Method::Refresh, Method::CreatePermission, Method::ChannelBind];

/// Everything a server counts.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Requests by method, as [`REQUEST_METHODS`].
    pub requests: [u64; REQUEST_METHODS.len()],
    /// Error responses by code, as [`ErrorCode::ALL`].
    pub errors: [u64; ErrorCode::ALL.len()],
    /// Dropped packets by reason.
    pub drops: Drops,
    /// Relayed from clients to peers.
    pub to_peer: Traffic,
    /// Relayed from peers to clients.
    pub to_client: Traffic,
    /// Allocations made.
    pub allocations_opened: u64,
    /// Allocations ended.
    pub allocations_closed: u64,
}

impl Counters {
    /// Adds another shard's counts.
    pub fn add(&mut self, other: &Self) {
        let add = |to: &mut u64, from: &u64| *to = to.wrapping_add(*from);
        self.requests.iter_mut().zip(&other.requests).for_each(|(to, from)| add(to, from));
        self.errors.iter_mut().zip(&other.errors).for_each(|(to, from)| add(to, from));
        self.drops.add(&other.drops);
        self.to_peer.add(other.to_peer);
        self.to_client.add(other.to_client);
        add(&mut self.allocations_opened, &other.allocations_opened);
        add(&mut self.allocations_closed, &other.allocations_closed);
    }

    pub(crate) fn count_request(&mut self, method: Method) {
        let place = REQUEST_METHODS.iter().position(|m| *m == method);
        if let Some(count) = place.and_then(|place| self.requests.get_mut(place)) {
            *count = count.wrapping_add(1);
        }
    }

    pub(crate) fn count_error(&mut self, code: ErrorCode) {
        let place = ErrorCode::ALL.iter().position(|c| *c == code);
        if let Some(count) = place.and_then(|place| self.errors.get_mut(place)) {
            *count = count.wrapping_add(1);
        }
    }
}
