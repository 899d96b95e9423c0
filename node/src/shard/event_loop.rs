//! The loop of one shard: wait, receive, let the core decide, send.
//!
//! A packet's way: [`EventLoop::dispatch`] → `receive_*` fills an input slot → [`Shard::handle`] decides →
//! [`Outbox::send_all`] sends from that slot.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use trunkline_shard::{Ingress, Shard};
use trunkline_turn::Event;
use trunkline_wire::framing::{Frame, next_frame};
use trunkline_wire::{ClientFlow, DropReason, Egress, ListenerId, Now, RelayId, StreamId, Transport};

use super::applied::Change;
use super::batch::{SLOT_BYTES, SLOTS, Slots};
use super::clock::Clock;
use super::inbox::{Command, Inbox};
use super::outbox::{Outbox, udp_of};
use super::relays::Relays;
use super::streams::{ACCEPTS_PER_EVENT, Accepted, Streams};
use super::sys::{self, Epoll, Events, ReceiveBatch};
use super::token::Token;
use super::usage::UsageTray;

/// Datagrams that wait to be sent: a batch of slots makes at most as many, a stream's read more, in portions.
const EGRESS_MAX: usize = 4 * SLOTS;
/// Descriptors reported at a time.
const EVENTS: usize = 4 * SLOTS;
/// Datagrams taken from other shards before this shard's own descriptors get their turn.
const PARCELS_PER_EVENT: usize = 4 * SLOTS;
/// How often the counters are shown to the control side, in nanoseconds.
const PUBLISH_NS: u64 = 100_000_000;

/// An accepting socket.
pub struct Acceptor {
    /// Its listener.
    pub listener: ListenerId,
    /// TCP or TLS.
    pub transport: Transport,
    /// The socket.
    pub socket: TcpListener,
}

/// One shard's world.
pub struct EventLoop {
    pub clock: Clock,
    pub epoll: Epoll,
    pub shard: Shard,
    pub acceptors: Vec<Acceptor>,
    pub outbox: Outbox,
    pub relays: Relays,
    pub streams: Streams,
    pub inbox: Arc<Inbox>,
    /// Where usage is put for whoever asks.
    pub usage: UsageTray,
    /// The sockets that see strays, on the one shard that watches them.
    pub strays: Vec<Option<Arc<OwnedFd>>>,
    /// Whether this is that shard.
    pub sees_strays: bool,
    pub state: State,
}

/// The memory of a loop, all of it allocated before the first packet.
pub struct State {
    events: Events,
    receive: ReceiveBatch,
    slots: Slots,
    egress: Egress,
    published_ns: u64,
    /// Something was counted since.
    dirty: bool,
    stopped: bool,
}

impl State {
    pub fn new() -> Self {
        Self {
            events: Events::new(EVENTS),
            receive: ReceiveBatch::new(SLOTS),
            slots: Slots::new(),
            egress: Egress::with_capacity(EGRESS_MAX),
            published_ns: 0,
            dirty: false,
            stopped: false,
        }
    }
}

impl EventLoop {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// Only if waiting itself fails.
    pub fn run(mut self) -> io::Result<()> {
        let mut now = self.clock.now();
        while !self.state.stopped {
            let timeout = self.timeout(now);
            let count = self.epoll.wait(&mut self.state.events, timeout)?;
            now = self.clock.now();
            for index in 0..count {
                let ready = self.state.events.ready(index);
                if let Some((ready, token)) =
                    ready.and_then(|ready| Token::from_u64(ready.token).map(|token| (ready, token)))
                {
                    self.dispatch(now, token, ready.readable, ready.writable);
                }
            }
            // Whatever woke us may be counted: a packet, or a timer that ends an allocation.
            self.state.dirty = true;
            self.flush();
            self.handle_timeouts(now);
            self.publish(now);
        }
        // What it did last is told as well.
        self.usage.put(self.shard.turn.take_usage());
        self.inbox.publish(self.shard.turn.counters());
        self.inbox.close();
        Ok(())
    }

    fn timeout(&self, now: Now) -> Duration {
        let now_ns = now.monotonic_ns;
        let publish_ns = self.state.dirty.then(|| self.state.published_ns.saturating_add(PUBLISH_NS));
        let due_ns = [self.shard.turn.poll_timeout(), self.streams.next_check_ns(), publish_ns]
            .into_iter()
            .flatten()
            .min();
        due_ns.map_or(Duration::from_secs(60), |due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)))
    }

    fn dispatch(&mut self, now: Now, token: Token, readable: bool, writable: bool) {
        match token {
            Token::Relay(id) => self.receive_from_peer(now, id),
            Token::Udp(index) => self.receive_from_clients(now, index),
            Token::Stream(id) => {
                if writable {
                    self.streams.dirty.push(id);
                }
                if readable {
                    self.receive_from_stream(now, id);
                }
            }
            Token::Accept(index) => self.accept(now, index),
            Token::Inbox => self.empty_inbox(now),
            Token::Encapsulation => self.receive_encapsulated(now),
            Token::Strays(index) => self.receive_strays(now, index),
        }
    }

    fn receive_from_clients(&mut self, now: Now, index: usize) {
        self.flush();
        let listener = ListenerId(u16::try_from(index).unwrap_or(u16::MAX));
        let Some(fd) = udp_of(&self.outbox.udp, listener) else { return };
        let memory = self.state.slots.all();
        let Ok(count) = self.state.receive.receive(fd.as_fd(), memory, SLOT_BYTES) else { return };
        for _ in 0..count {
            let Some(slot) = self.state.slots.take() else { break };
            let Some(datagram) = self.state.receive.received(slot) else { break };
            let (Some(remote), false) = (datagram.from, datagram.truncated) else {
                self.shard.turn.drop_packet(DropReason::Truncated);
                continue;
            };
            let flow = ClientFlow { transport: Transport::Udp, listener, remote, stream: StreamId(0) };
            self.handle(now, Ingress::Client(flow), slot, 0..datagram.length);
        }
        self.flush();
    }

    fn receive_from_peer(&mut self, now: Now, id: RelayId) {
        let slot = self.free_slot();
        let Some(relay) = self.relays.find(id) else { return };
        let allocation = relay.allocation;
        match sys::receive_from(relay.fd(), self.state.slots.slot_mut(slot)) {
            Ok((length, Some(peer))) if length <= SLOT_BYTES => {
                self.handle(now, Ingress::Peer { allocation, peer }, slot, 0..length);
            }
            Ok(_) => self.shard.turn.drop_packet(DropReason::Truncated),
            // Nothing there, or an ICMP error of something sent before: the socket goes on.
            Err(_) => {}
        }
    }

    fn receive_from_stream(&mut self, now: Now, id: StreamId) {
        loop {
            let slot = self.free_slot();
            let Some(stream) = self.streams.find(id) else { return };
            let flow = stream.flow;
            let Ok(filled) = stream.read(self.state.slots.slot_mut(slot)) else {
                return self.close_stream(id);
            };
            let Some(consumed) = self.handle_frames(now, flow, slot, filled.bytes) else {
                return self.close_stream(id);
            };
            if filled.ended {
                return self.close_stream(id);
            }
            let has_allocation = self.shard.turn.has_allocation(&flow);
            if let Some(stream) = self.streams.find(id) {
                stream.authenticated |= has_allocation;
                let partial = self.state.slots.slot(slot).get(consumed..filled.bytes).unwrap_or_default();
                if stream.keep(partial).is_err() {
                    self.shard.turn.drop_packet(DropReason::Truncated);
                    return self.close_stream(id);
                }
            }
            // A TLS handshake has something to say without any frame.
            self.streams.dirty.push(id);
            if !filled.more {
                return;
            }
        }
    }

    /// Hands every whole frame at the front of a slot to the core. `None`: the stream cannot be understood.
    fn handle_frames(&mut self, now: Now, flow: ClientFlow, slot: usize, filled: usize) -> Option<usize> {
        let mut start = 0;
        loop {
            match next_frame(self.state.slots.slot(slot).get(start..filled).unwrap_or_default()) {
                Frame::Incomplete { .. } => return Some(start),
                Frame::Invalid => {
                    self.shard.turn.drop_packet(DropReason::NotTurn);
                    return None;
                }
                Frame::Complete { message, consumed } => {
                    self.handle(now, Ingress::Client(flow), slot, start..start + message);
                    start += consumed;
                }
            }
            if !self.state.egress.has_room_for(2) {
                // The slot stays as it is: what is left of it is handled next.
                self.send_queued();
            }
        }
    }

    fn accept(&mut self, now: Now, index: usize) {
        for _ in 0..ACCEPTS_PER_EVENT {
            let Some(acceptor) = self.acceptors.get(index) else { return };
            let turn = &mut self.shard.turn;
            let admits = |from| turn.admits_connection(from);
            match self.streams.accept(now, &acceptor.socket, acceptor.listener, acceptor.transport, admits) {
                Accepted::One => {}
                Accepted::Nobody => break,
            }
        }
        while let Some(oldest) = self.streams.surplus() {
            self.close_stream(oldest);
        }
    }

    fn receive_encapsulated(&mut self, now: Now) {
        for _ in 0..SLOTS {
            let slot = self.free_slot();
            let Some(fleet) = &self.outbox.fleet else { return };
            let Ok((length, from)) = sys::receive_from(fleet.socket.as_fd(), self.state.slots.slot_mut(slot))
            else {
                return;
            };
            if !from.is_some_and(|from| self.outbox.members.hold(from)) {
                self.shard.turn.drop_packet(DropReason::BadEncapsulation);
                continue;
            }
            self.handle(now, Ingress::Encapsulated, slot, 0..length);
        }
    }

    fn receive_strays(&mut self, now: Now, index: usize) {
        for _ in 0..SLOTS {
            let slot = self.free_slot();
            let Some(Some(socket)) = self.strays.get(index) else { return };
            let Ok((length, _)) = sys::receive_from(socket.as_fd(), self.state.slots.slot_mut(slot)) else {
                return;
            };
            self.handle(now, Ingress::Stray, slot, 0..length);
        }
    }

    fn empty_inbox(&mut self, now: Now) {
        self.inbox.answer();
        for command in self.inbox.commands() {
            self.obey(now, command);
        }
        let inbox = Arc::clone(&self.inbox);
        for _ in 0..PARCELS_PER_EVENT {
            let Some(parcel) = inbox.next_parcel() else { return };
            let slot = self.free_slot();
            let length = parcel.bytes.len();
            if let Some(room) = self.state.slots.slot_mut(slot).get_mut(..length) {
                room.copy_from_slice(&parcel.bytes);
                let (relayed, peer) = (parcel.relayed, parcel.peer);
                self.handle(now, Ingress::Sibling { relayed, peer }, slot, 0..length);
            }
            inbox.take_back(parcel.bytes);
        }
        // There may be more; the clients of this shard come first.
        inbox.ring();
    }

    fn obey(&mut self, now: Now, command: Command) {
        match command {
            // Whoever asked may have gone away meanwhile.
            Command::Apply(change, done) => {
                self.apply(*change);
                let _ = done.send(());
            }
            Command::TakeUsage(done) => {
                self.usage.put(self.shard.turn.take_usage());
                let _ = done.send(());
            }
            Command::Stop => self.state.stopped = true,
            Command::Flows(answer) => {
                let _ = answer.send(self.shard.turn.flows());
            }
            Command::List(answer) => {
                let _ = answer.send(self.shard.turn.summaries(now));
            }
            Command::Close(id, answer) => {
                let _ = answer.send(self.shard.turn.close_allocation(id, &mut self.relays));
            }
        }
    }

    fn apply(&mut self, change: Change) {
        self.shard.turn.apply(&change.terms, &mut self.relays);
        self.outbox.keyring = change.terms.config.keyring.clone();
        self.outbox.members = change.members;
        if self.sees_strays {
            self.watch_strays(change.strays);
        }
    }

    /// Goes over to these sockets. One that is gone leaves the epoll with its last descriptor.
    fn watch_strays(&mut self, strays: Vec<Option<Arc<OwnedFd>>>) {
        for (index, socket) in strays.iter().enumerate() {
            let Some(socket) = socket else { continue };
            let before = self.strays.get(index).and_then(Option::as_ref);
            if before.is_some_and(|before| Arc::ptr_eq(before, socket)) {
                continue;
            }
            let added = self.epoll.add(&**socket, Token::Strays(index).to_u64(), sys::Interest::Read);
            if let Err(error) = added {
                tracing::warn!(%error, "packets for other servers' ports at one relay address are not seen");
            }
        }
        self.strays = strays;
    }

    fn handle(&mut self, now: Now, ingress: Ingress, slot: usize, range: std::ops::Range<usize>) {
        let Some(bytes) = self.state.slots.slot(slot).get(range.clone()) else { return };
        let body = Slots::body(slot, range);
        self.shard.handle(now, ingress, bytes, body, &mut self.relays, &mut self.state.egress);
    }

    fn handle_timeouts(&mut self, now: Now) {
        if self.shard.turn.poll_timeout().is_some_and(|due_ns| now.reached(due_ns)) {
            self.shard.turn.handle_timeout(now, &mut self.relays);
        }
        while let Some(flow) = self.streams.due(now) {
            if self.shard.turn.has_allocation(&flow) {
                self.streams.check_later(now, flow.stream);
            } else {
                self.close_stream(flow.stream);
            }
        }
        self.relays.close_released();
        while let Some(event) = self.shard.turn.poll_event() {
            match event {
                Event::Opened { id, transport } => {
                    tracing::debug!(allocation = id.index, transport = transport.name(), "allocation opened");
                }
                Event::Closed { id, reason } => {
                    tracing::debug!(allocation = id.index, ?reason, "allocation closed");
                }
            }
        }
    }

    fn close_stream(&mut self, id: StreamId) {
        // What it was answered last may be the reason for the close.
        self.flush();
        if let Some(flow) = self.streams.remove(id) {
            self.shard.turn.handle_client_closed(&flow, &mut self.relays);
        }
    }

    /// A slot to receive into; sends what is queued when there is none.
    fn free_slot(&mut self) -> usize {
        loop {
            if self.state.egress.has_room_for(1)
                && let Some(slot) = self.state.slots.take()
            {
                return slot;
            }
            self.flush();
        }
    }

    /// Sends everything queued; all slots are free afterwards.
    fn flush(&mut self) {
        self.send_queued();
        self.state.slots.clear();
        self.relays.close_released();
    }

    fn send_queued(&mut self) {
        let State { egress, slots, .. } = &mut self.state;
        self.outbox.send_all(egress, slots, &self.relays, &mut self.streams, &mut self.shard);
        while let Some(id) = self.streams.dirty.pop() {
            if !self.streams.pump(id)
                && let Some(flow) = self.streams.remove(id)
            {
                self.shard.turn.handle_client_closed(&flow, &mut self.relays);
            }
        }
    }

    fn publish(&mut self, now: Now) {
        if self.state.dirty && now.reached(self.state.published_ns.saturating_add(PUBLISH_NS)) {
            self.state.published_ns = now.monotonic_ns;
            self.state.dirty = false;
            self.inbox.publish(self.shard.turn.counters());
        }
    }

    /// Registers what can be ready.
    ///
    /// # Errors
    /// The kernel watches no more descriptors for this user.
    pub fn watch(&mut self, strays: Vec<Option<Arc<OwnedFd>>>) -> io::Result<()> {
        let add = |fd: &OwnedFd, token: Token| self.epoll.add(fd, token.to_u64(), sys::Interest::Read);
        self.epoll.add(self.inbox.wake_fd(), Token::Inbox.to_u64(), sys::Interest::Read)?;
        for (index, fd) in self.outbox.udp.iter().enumerate() {
            fd.as_ref().map_or(Ok(()), |fd| add(fd, Token::Udp(index)))?;
        }
        for (index, acceptor) in self.acceptors.iter().enumerate() {
            self.epoll.add(&acceptor.socket, Token::Accept(index).to_u64(), sys::Interest::Read)?;
        }
        if let Some(fleet) = self.outbox.fleet.as_ref().filter(|_| self.sees_strays) {
            add(&fleet.socket, Token::Encapsulation)?;
            self.watch_strays(strays);
        }
        Ok(())
    }
}
