//! The packet path: ChannelData and Send indications to peers, peers' datagrams to clients (RFC 8656 §11, §12).

use std::net::SocketAddr;

use trunkline_wire::channel_data::ChannelData;
use trunkline_wire::stun::{Attributes, AttributesError, DataIndicationHead, Message};
use trunkline_wire::{AllocationId, Body, ClientFlow, DropReason, Egress, Head, Now, Transmit, Via};

use crate::allocation::Allocation;
use crate::policy::PermittedPeer;
use crate::ports::PortOwner;
use crate::server::Server;

/// A payload on its way to a peer.
#[derive(Clone, Copy)]
struct Outbound {
    peer: PermittedPeer,
    body: Body,
    dont_fragment: bool,
}

impl Server {
    pub(crate) fn handle_channel_data(
        &mut self,
        now: Now,
        flow: &ClientFlow,
        message: &[u8],
        body: Body,
        egress: &mut Egress,
    ) {
        let Some(parsed) = ChannelData::parse(message) else {
            return self.drop_packet(DropReason::MalformedChannelData);
        };
        let Some(allocation) = self.allocations.by_flow(flow) else {
            return self.drop_data_of_stranger(flow);
        };
        let Some(peer) = allocation.peer_of(now, parsed.channel) else {
            return self.drop_packet(DropReason::NoChannel);
        };
        let outbound = Outbound { peer, body: body.part(parsed.data), dont_fragment: false };
        let id = allocation.id;
        self.relay_to_peer(now, id, outbound, egress);
    }

    pub(crate) fn handle_send(
        &mut self,
        now: Now,
        flow: &ClientFlow,
        message: &Message<'_>,
        body: Body,
        egress: &mut Egress,
    ) {
        let attributes = match Attributes::parse(message) {
            Ok(attributes) => attributes,
            Err(AttributesError::BadFingerprint) => return self.drop_packet(DropReason::BadFingerprint),
            Err(AttributesError::BadValue(_)) => return self.drop_packet(DropReason::BadIndication),
        };
        let (Some(peer), Some((offset, data)), []) = (attributes.peer, attributes.data, attributes.unknown())
        else {
            return self.drop_packet(DropReason::BadIndication);
        };
        let Some(allocation) = self.allocations.by_flow(flow) else {
            return self.drop_data_of_stranger(flow);
        };
        let Some(ip) = allocation.permission(now, peer.ip()) else {
            let denied = self.config.policy.permit(peer.ip()).is_err();
            return self.drop_packet(if denied { DropReason::PeerDenied } else { DropReason::NoPermission });
        };
        let outbound = Outbound {
            peer: ip.at(peer.port()),
            body: body.part(offset..offset.saturating_add(data.len())),
            dont_fragment: attributes.dont_fragment,
        };
        let id = allocation.id;
        self.relay_to_peer(now, id, outbound, egress);
    }

    fn relay_to_peer(&mut self, now: Now, id: AllocationId, outbound: Outbound, egress: &mut Egress) {
        let limits = self.config.limits.policer;
        let Some(allocation) = self.allocations.by_id(id) else { return };
        let peer = outbound.peer.address();
        let Some(relay) = allocation.relay_towards(peer.ip()) else {
            return self.drop_packet(DropReason::PeerFamily);
        };
        let (socket, from) = (relay.socket, relay.lease.at());
        if !allocation.to_peer_policer.admit(now, &limits, outbound.body.len()) {
            return self.drop_packet(DropReason::RateLimit);
        }
        allocation.to_peer.count(outbound.body.len());
        if allocation.is_clean() {
            self.allocations.mark_used(id);
        }
        self.counters.to_peer.count(outbound.body.len());
        let via = if outbound.peer.is_own_relay() {
            match self.ports.owner(peer) {
                PortOwner::Shard(shard) if shard == self.shard => {
                    return self.handle_relayed(now, peer, from, outbound.body, egress);
                }
                PortOwner::Shard(shard) => Via::Shard { shard, from },
                PortOwner::Node(node) => Via::Node { node, from },
                PortOwner::Nobody => return self.drop_packet(DropReason::NoSuchRelay),
            }
        } else {
            Via::Relay(socket)
        };
        self.push(
            egress,
            Transmit {
                via,
                to: peer,
                head: Head::EMPTY,
                body: outbound.body,
                padding: 0,
                dont_fragment: outbound.dont_fragment,
            },
        );
    }

    /// Takes a datagram that a peer sent to an allocation's relay socket.
    pub fn handle_peer(
        &mut self,
        now: Now,
        id: AllocationId,
        peer: SocketAddr,
        body: Body,
        egress: &mut Egress,
    ) {
        match self.allocations.by_id(id) {
            Some(_) => self.relay_to_client(now, id, peer, body, egress),
            None => self.drop_packet(DropReason::Gone),
        }
    }

    /// Takes a datagram for the relay address `relayed` that did not come through its socket: from an allocation of
    /// this shard, of another one, or of another server. It is delivered to the client or dropped, never sent on,
    /// so nothing can go round in circles (threat 7).
    pub fn handle_relayed(
        &mut self,
        now: Now,
        relayed: SocketAddr,
        peer: SocketAddr,
        body: Body,
        egress: &mut Egress,
    ) {
        match self.allocations.by_relayed(relayed).map(|allocation| allocation.id) {
            Some(id) => self.relay_to_client(now, id, peer, body, egress),
            None => self.drop_packet(DropReason::NoSuchRelay),
        }
    }

    fn relay_to_client(
        &mut self,
        now: Now,
        id: AllocationId,
        peer: SocketAddr,
        body: Body,
        egress: &mut Egress,
    ) {
        let limits = self.config.limits.policer;
        let transaction_source = &mut self.entropy;
        let Some(allocation) = self.allocations.by_id(id) else { return };
        if allocation.permission(now, peer.ip()).is_none() {
            return self.drop_packet(DropReason::NoPermission);
        }
        if !allocation.to_client_policer.admit(now, &limits, body.len()) {
            return self.drop_packet(DropReason::RateLimit);
        }
        let framed = match allocation.channel_of(now, peer) {
            Some(channel) => u16::try_from(body.len()).ok().map(|length| {
                (Head::new(&ChannelData::header(channel, length)), channel_padding(allocation, body))
            }),
            None => DataIndicationHead::compose(peer, body.len(), transaction_source.transaction())
                .map(|head| (head, padding(body.len()))),
        };
        let Some((head, padding)) = framed else {
            return self.drop_packet(DropReason::TooLarge);
        };
        allocation.to_client.count(body.len());
        self.counters.to_client.count(body.len());
        let flow = allocation.flow;
        if allocation.is_clean() {
            self.allocations.mark_used(id);
        }
        let (via, to, dont_fragment) = (Via::Client(flow), flow.remote, false);
        self.push(egress, Transmit { via, to, head, body, padding, dont_fragment });
    }

    fn push(&mut self, egress: &mut Egress, transmit: Transmit) {
        if !egress.push(transmit) {
            self.drop_packet(DropReason::EgressFull);
        }
    }
}

/// ChannelData is padded over streams only (RFC 8656 §12.5).
fn channel_padding(allocation: &Allocation, body: Body) -> u8 {
    if allocation.flow.transport.is_stream() { padding(body.len()) } else { 0 }
}

/// Zero bytes up to a multiple of four.
fn padding(length: usize) -> u8 {
    match length & 3 {
        1 => 3,
        2 => 2,
        3 => 1,
        _ => 0,
    }
}
