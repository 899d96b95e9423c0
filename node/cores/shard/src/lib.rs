//! One shard: composes the cores. What came in is told apart here, handed to the core it belongs to, and what the
//! core wants sent lies in the [`Egress`] afterwards. One shard is one thread and one `&mut` world.

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

use std::net::SocketAddr;

use trunkline_turn::ports::PortOwner;
use trunkline_turn::{RelaySockets, Server};
use trunkline_wire::gue;
use trunkline_wire::{AllocationId, Body, ClientFlow, DropReason, Egress, Head, Now, Transmit, Via};

/// From where bytes reached a shard.
#[derive(Clone, Copy, Debug)]
pub enum Ingress {
    /// A client's datagram or stream frame.
    Client(ClientFlow),
    /// A peer's datagram, through the relay socket of an allocation of this shard.
    Peer {
        /// The allocation.
        allocation: AllocationId,
        /// The peer.
        peer: SocketAddr,
    },
    /// A datagram for a relay address of this shard, passed on by another shard of this node.
    Sibling {
        /// The relay address.
        relayed: SocketAddr,
        /// The sender as the allocation shall see it.
        peer: SocketAddr,
    },
    /// A whole IP packet for a relay port that another server owns: it landed here.
    Stray,
    /// An encapsulated packet from another server of the fleet.
    Encapsulated,
}

/// The cores of one shard.
pub struct Shard {
    /// The TURN core.
    pub turn: Server,
    index: u8,
}

impl Shard {
    /// The shard with this index.
    #[must_use]
    pub const fn new(turn: Server, index: u8) -> Self {
        Self { turn, index }
    }

    /// Takes bytes that came in. `body` says where they lie, so that they can be sent from there.
    pub fn handle(
        &mut self,
        now: Now,
        ingress: Ingress,
        bytes: &[u8],
        body: Body,
        sockets: &mut dyn RelaySockets,
        egress: &mut Egress,
    ) {
        match ingress {
            Ingress::Client(flow) => self.turn.handle_client(now, flow, bytes, body, sockets, egress),
            Ingress::Peer { allocation, peer } => self.turn.handle_peer(now, allocation, peer, body, egress),
            Ingress::Sibling { relayed, peer } => self.turn.handle_relayed(now, relayed, peer, body, egress),
            Ingress::Stray => self.handle_stray(bytes, body, egress),
            Ingress::Encapsulated => self.handle_encapsulated(now, bytes, body, egress),
        }
    }

    /// A peer's packet that landed here goes to the owner of its port.
    fn handle_stray(&mut self, packet: &[u8], body: Body, egress: &mut Egress) {
        let Some(stray) = gue::parse_udp(packet) else {
            return self.turn.drop_packet(DropReason::NoOwner);
        };
        let PortOwner::Node(node) = self.turn.port_owner(stray.destination) else {
            return self.turn.drop_packet(DropReason::NoOwner);
        };
        let via = Via::Node { node, from: stray.source };
        self.push(egress, via, stray.destination, body.part(stray.payload));
    }

    /// The owner takes it; nobody passes such a packet on a second time.
    fn handle_encapsulated(&mut self, now: Now, bytes: &[u8], body: Body, egress: &mut Egress) {
        let opened = gue::open(&self.turn.config().keyring, bytes);
        let Some((_, inner)) = opened.filter(|(header, _)| header.kind == gue::Kind::Relayed) else {
            return self.turn.drop_packet(DropReason::BadEncapsulation);
        };
        let payload = body.part(inner.payload);
        match self.turn.port_owner(inner.destination) {
            PortOwner::Shard(shard) if shard == self.index => {
                self.turn.handle_relayed(now, inner.destination, inner.source, payload, egress);
            }
            PortOwner::Shard(shard) => {
                self.push(egress, Via::Shard { shard, from: inner.source }, inner.destination, payload);
            }
            PortOwner::Node(_) => self.turn.drop_packet(DropReason::WrongOwner),
            PortOwner::Nobody => self.turn.drop_packet(DropReason::NoSuchRelay),
        }
    }

    fn push(&mut self, egress: &mut Egress, via: Via, to: SocketAddr, body: Body) {
        let queued =
            egress.push(Transmit { via, to, head: Head::EMPTY, body, padding: 0, dont_fragment: false });
        if !queued {
            self.turn.drop_packet(DropReason::EgressFull);
        }
    }
}
