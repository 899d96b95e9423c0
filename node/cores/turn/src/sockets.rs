//! The one effect whose result a core needs at once: opening a relay socket.

use std::net::SocketAddr;

use trunkline_wire::{AllocationId, RelayId};

/// Opens and closes relay sockets. An Allocate's success names a port, so the port must be open before the answer
/// is written; every other effect goes through the egress.
pub trait RelaySockets {
    /// Opens a socket at exactly this address for an allocation; what arrives there is handed to
    /// [`Server::handle_peer`](crate::Server::handle_peer) with the allocation's id.
    ///
    /// # Errors
    /// [`OpenError`] says whether another port is worth a try.
    fn open(&mut self, at: SocketAddr, allocation: AllocationId) -> Result<RelayId, OpenError>;

    /// Closes a socket. What is already in the egress still leaves.
    fn close(&mut self, relay: RelayId);
}

/// Why a relay socket could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Something else on this machine uses the port.
    InUse,
    /// No more sockets, or the address is not ours: no other port helps.
    Exhausted,
}
