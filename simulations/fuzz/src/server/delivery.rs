//! The reference model's packet path: where a payload must come out, or why it must not.

use std::net::SocketAddr;

use trunkline_wire::DropReason;

use super::model::{Model, Peer};
use super::scene::{OTHER_PORT_MIN, PACKETS_BURST, SIBLING, Standing, address, is_relay_ip};

/// What must become of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Dropped(DropReason),
    /// Out of the relay socket of `from`.
    Outside {
        from: SocketAddr,
        to: SocketAddr,
    },
    /// To another shard of this server.
    Sibling {
        from: SocketAddr,
        to: SocketAddr,
    },
    /// To another server.
    OtherNode {
        from: SocketAddr,
        to: SocketAddr,
    },
    /// To a client: as ChannelData or as a Data indication.
    Client {
        flow: usize,
        channel: Option<u16>,
        peer: SocketAddr,
    },
}

impl Model {
    pub(crate) fn send(&mut self, flow: usize, (peer, standing): Peer) -> Delivery {
        let Some(allocation) = self.allocations.get(&flow) else {
            return Delivery::Dropped(DropReason::NoAllocation);
        };
        match (allocation.permissions.contains_key(&peer.ip()), standing) {
            (true, _) => self.leave(flow, peer),
            (false, Standing::Denied) => Delivery::Dropped(DropReason::PeerDenied),
            (false, _) => Delivery::Dropped(DropReason::NoPermission),
        }
    }

    pub(crate) fn channel_data(&mut self, flow: usize, channel: u16) -> Delivery {
        let Some(allocation) = self.allocations.get(&flow) else {
            return Delivery::Dropped(DropReason::NoAllocation);
        };
        match allocation.peer_of(self.now_ns, channel) {
            Some(peer) => self.leave(flow, peer),
            None => Delivery::Dropped(DropReason::NoChannel),
        }
    }

    fn leave(&mut self, flow: usize, to: SocketAddr) -> Delivery {
        let now_ns = self.now_ns;
        let allocation = self.allocations.get_mut(&flow).expect("a live allocation");
        let from = allocation.relays[usize::from(to.is_ipv6())].expect("only permitted peers get here").at;
        if !allocation.to_peer.take(now_ns, 1, PACKETS_BURST) {
            return Delivery::Dropped(DropReason::RateLimit);
        }
        match to {
            outside if !is_relay_ip(outside) => Delivery::Outside { from, to },
            sibling if sibling == address(SIBLING) => Delivery::Sibling { from, to },
            other if other.is_ipv4() && other.port() >= OTHER_PORT_MIN => Delivery::OtherNode { from, to },
            ours => self.arrive_at(ours, from),
        }
    }

    /// A datagram for one of our relayed addresses, from inside the fleet.
    pub(crate) fn arrive_at(&mut self, relayed: SocketAddr, peer: SocketAddr) -> Delivery {
        let holder =
            self.allocations.iter().find(|(_, allocation)| allocation.addresses().any(|at| at == relayed));
        match holder.map(|(flow, _)| *flow) {
            Some(flow) => self.arrive(flow, peer),
            None => Delivery::Dropped(DropReason::NoSuchRelay),
        }
    }

    /// A peer's datagram for an allocation.
    pub(crate) fn arrive(&mut self, flow: usize, peer: SocketAddr) -> Delivery {
        let now_ns = self.now_ns;
        let Some(allocation) = self.allocations.get_mut(&flow) else {
            return Delivery::Dropped(DropReason::Gone);
        };
        if !allocation.permissions.contains_key(&peer.ip()) {
            return Delivery::Dropped(DropReason::NoPermission);
        }
        if !allocation.to_client.take(now_ns, 1, PACKETS_BURST) {
            return Delivery::Dropped(DropReason::RateLimit);
        }
        Delivery::Client { flow, channel: allocation.channel_of(now_ns, peer), peer }
    }
}
