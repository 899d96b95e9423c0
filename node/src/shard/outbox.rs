//! Empties the egress: batches to clients, single datagrams to peers, copies to siblings and other servers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use trunkline_shard::Shard;
use trunkline_turn::Config;
use trunkline_wire::gue;
use trunkline_wire::token::Keyring;
use trunkline_wire::{DropReason, Egress, ListenerId, NodeId, Transmit, Via};

use super::batch::{SLOTS, Slots};
use super::fleet::{FleetLink, Members};
use super::inbox::Inbox;
use super::relays::Relays;
use super::streams::Streams;
use super::sys::{self, SendBatch};

/// What sending needs besides the sockets of relays and streams.
pub struct Outbox {
    /// UDP sockets by listener.
    pub udp: Vec<Option<OwnedFd>>,
    /// All shards of the node.
    pub siblings: Vec<Arc<Inbox>>,
    /// The link to other servers.
    pub fleet: Option<FleetLink>,
    /// Where the other servers are.
    pub members: Arc<Members>,
    /// This server, named in what it encapsulates.
    pub node: NodeId,
    /// Seals what it encapsulates.
    pub keyring: Keyring,
    batch: SendBatch,
    encapsulated: Vec<u8>,
}

const ZEROES: [u8; 3] = [0; 3];

impl Outbox {
    pub fn new(
        udp: Vec<Option<OwnedFd>>,
        siblings: Vec<Arc<Inbox>>,
        fleet: Option<FleetLink>,
        config: &Config,
    ) -> Self {
        let (node, keyring, members) = (config.node, config.keyring.clone(), Arc::default());
        let (batch, encapsulated) = (SendBatch::new(SLOTS), Vec::new());
        Self { udp, siblings, fleet, members, node, keyring, batch, encapsulated }
    }

    /// Sends everything in the egress, in order, and leaves it empty.
    pub fn send_all(
        &mut self,
        egress: &mut Egress,
        slots: &Slots,
        relays: &Relays,
        streams: &mut Streams,
        shard: &mut Shard,
    ) {
        let mut transmits = egress.transmits();
        while let Some(first) = transmits.first() {
            let together = self.datagrams_of_one_listener(transmits);
            let (now, later) = transmits.split_at(together.max(1));
            transmits = later;
            if let Some(fd) =
                (together > 0).then(|| listener_of(first).and_then(|id| udp_of(&self.udp, id))).flatten()
            {
                let datagrams = now.iter().map(|transmit| (transmit.to, pieces_of(transmit, egress, slots)));
                self.batch.send(fd.as_fd(), datagrams, |error| shard.turn.drop_packet(reason_of(error)));
            } else if let Err(reason) = self.send_one(first, pieces_of(first, egress, slots), relays, streams)
            {
                shard.turn.drop_packet(reason);
            }
        }
        egress.clear();
    }

    fn send_one(
        &mut self,
        transmit: &Transmit,
        pieces: [&[u8]; 3],
        relays: &Relays,
        streams: &mut Streams,
    ) -> Result<(), DropReason> {
        match transmit.via {
            Via::Client(flow) => {
                let stream = streams.find(flow.stream).ok_or(DropReason::Gone)?;
                stream.queue(pieces).map_err(|_| DropReason::StreamQueueFull)?;
                streams.dirty.push(flow.stream);
                Ok(())
            }
            Via::Relay(relay) => {
                let relay = relays.find(relay).ok_or(DropReason::Gone)?;
                send_to_peer(relay.fd(), relay.is_ipv4, transmit, pieces).map_err(|error| reason_of(&error))
            }
            Via::Shard { shard, from } => {
                let inbox = self.siblings.get(usize::from(shard)).ok_or(DropReason::Gone)?;
                inbox.parcel(transmit.to, from, pieces).then_some(()).ok_or(DropReason::ShardQueueFull)
            }
            Via::Node { node, from } => {
                let [_, payload, _] = pieces;
                self.encapsulate(node, from, transmit.to, payload)
            }
        }
    }

    /// How many datagrams at the front leave through the same UDP socket, so that one system call sends them.
    fn datagrams_of_one_listener(&self, transmits: &[Transmit]) -> usize {
        let first = transmits.first().and_then(listener_of);
        transmits
            .iter()
            .take(SLOTS)
            .take_while(|transmit| first.is_some() && listener_of(transmit) == first)
            .count()
    }

    fn encapsulate(
        &mut self,
        node: NodeId,
        from: SocketAddr,
        destination: SocketAddr,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let fleet = self.fleet.as_ref().ok_or(DropReason::NoOwner)?;
        let to = self.members.place_of(node).ok_or(DropReason::NoOwner)?;
        self.encapsulated.clear();
        if !gue::seal(&self.keyring, self.node, from, destination, payload, &mut self.encapsulated) {
            return Err(DropReason::TooLarge);
        }
        sys::send_to(fleet.socket.as_fd(), to, [&[], &self.encapsulated, &[]])
            .map_err(|error| reason_of(&error))
    }
}

/// The listener whose UDP socket a datagram leaves through.
fn listener_of(transmit: &Transmit) -> Option<ListenerId> {
    match transmit.via {
        Via::Client(flow) if !flow.transport.is_stream() => Some(flow.listener),
        Via::Client(_) | Via::Relay(_) | Via::Shard { .. } | Via::Node { .. } => None,
    }
}

/// The UDP socket of a listener.
pub fn udp_of(udp: &[Option<OwnedFd>], listener: ListenerId) -> Option<&OwnedFd> {
    udp.get(usize::from(listener.0))?.as_ref()
}

fn send_to_peer(
    fd: std::os::fd::BorrowedFd<'_>,
    is_ipv4: bool,
    transmit: &Transmit,
    pieces: [&[u8]; 3],
) -> io::Result<()> {
    if !transmit.dont_fragment {
        return sys::send_to(fd, transmit.to, pieces);
    }
    // Rare enough for two more system calls: no control message sets DF for one IPv4 packet.
    sys::set_dont_fragment(fd, is_ipv4, true)?;
    let sent = sys::send_to(fd, transmit.to, pieces);
    sys::set_dont_fragment(fd, is_ipv4, false)?;
    sent
}

fn pieces_of<'a>(transmit: &'a Transmit, egress: &'a Egress, slots: &'a Slots) -> [&'a [u8]; 3] {
    let memory = match transmit.body.slot() {
        Some(slot) => slots.slot(usize::from(slot)),
        None => egress.arena(),
    };
    let body = memory.get(transmit.body.range()).unwrap_or_default();
    let padding = ZEROES.get(..usize::from(transmit.padding)).unwrap_or_default();
    [transmit.head.as_slice(), body, padding]
}

fn reason_of(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => DropReason::SendTooLarge,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => DropReason::SendBufferFull,
        _ => DropReason::SendRefused,
    }
}
