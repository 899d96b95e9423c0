//! The server of one shard: where messages come in, are told apart, and go to their handlers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ahash::RandomState;
use trunkline_wire::stun::{Attributes, AttributesError, Class, Message, Method};
use trunkline_wire::{AllocationId, Body, ClientFlow, DropReason, Egress, Kind, Now, Transport};

use crate::allocation::{AllocationSummary, Allocations, ServiceFlow};
use crate::budget::Budget;
use crate::client_policy::Gate;
use crate::config::{Config, ShardConfig, Shared};
use crate::counters::Counters;
use crate::credentials::{Credentials, User};
use crate::entropy::Entropy;
use crate::ports::{PortOwner, PortTable};
use crate::reply::Request;
use crate::sockets::RelaySockets;
use crate::timers::{Timer, Timers};
use crate::usage::Usage;

/// A sans-IO TURN server.
pub struct Server {
    pub(crate) config: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) shard: u8,
    pub(crate) listeners: Vec<SocketAddr>,
    pub(crate) allocations: Allocations,
    pub(crate) timers: Timers,
    pub(crate) budget: Budget,
    pub(crate) entropy: Entropy,
    pub(crate) counters: Counters,
    pub(crate) ports: Arc<PortTable>,
    pub(crate) gate: Gate,
    pub(crate) draining: bool,
    events: VecDeque<Event>,
}

/// Lifecycle changes, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An allocation was made.
    Opened {
        /// Which.
        id: AllocationId,
        /// How its client reaches us.
        transport: Transport,
    },
    /// An allocation ended.
    Closed {
        /// Which.
        id: AllocationId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why an allocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client sent a Refresh with a lifetime of zero.
    Released,
    /// Nobody refreshed it.
    Expired,
    /// The client's connection ended.
    Disconnected,
    /// Its credential was revoked or its key deleted.
    Revoked,
    /// An operator closed it.
    Operator,
    /// Its client's network is no longer served.
    ClientDenied,
    /// Its relay port is no longer this server's.
    PortLost,
}

/// Events kept for the shell; the oldest go first when nobody fetches them.
const EVENTS_MAX: usize = 1_024;
/// Timers of ended allocations that may wait in the heap, besides one for each live allocation, before they are
/// thrown out together; more than there can be reservations, so that this happens seldom.
const STALE_TIMERS_MAX: usize = 8_192;

impl Server {
    /// A server without allocations.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        shared: Arc<Shared>,
        credentials: Arc<Credentials>,
        shard: ShardConfig,
    ) -> Self {
        // Tables are keyed from a stream of their own: what their timing may tell says nothing about ports.
        let mut keys = Entropy::new(shard.seed.first_chunk().copied().unwrap_or_default());
        let hash =
            RandomState::with_seeds(keys.next_u64(), keys.next_u64(), keys.next_u64(), keys.next_u64());
        let entropy = Entropy::new(shard.seed.last_chunk().copied().unwrap_or_default());
        Self {
            budget: Budget::new(config.limits.unauthenticated, hash.clone()),
            allocations: Allocations::new(hash.clone()),
            entropy,
            shard: shard.shard,
            listeners: shard.listeners,
            timers: Timers::default(),
            counters: Counters::default(),
            ports: Arc::clone(&shared.ports),
            gate: Gate::new(hash),
            draining: false,
            events: VecDeque::new(),
            config,
            shared,
            credentials,
        }
    }

    /// Takes one datagram, or one frame of a stream, from a client. `body` says where `message` lies, so that
    /// relayed bytes are sent from there.
    pub fn handle_client(
        &mut self,
        now: Now,
        flow: ClientFlow,
        message: &[u8],
        body: Body,
        sockets: &mut dyn RelaySockets,
        egress: &mut Egress,
    ) {
        match Kind::of(message) {
            Kind::ChannelData => self.handle_channel_data(now, &flow, message, body, egress),
            Kind::Stun | Kind::Dtls | Kind::Rtp | Kind::Unknown if self.denies(&flow) => {
                self.drop_packet(DropReason::ClientDenied)
            }
            Kind::Stun => match Message::parse(message) {
                Ok(parsed) => self.handle_stun(now, flow, parsed, body, sockets, egress),
                Err(_) => self.drop_packet(DropReason::MalformedStun),
            },
            Kind::Dtls | Kind::Rtp | Kind::Unknown => self.drop_packet(DropReason::NotTurn),
        }
    }

    fn handle_stun(
        &mut self,
        now: Now,
        flow: ClientFlow,
        message: Message<'_>,
        body: Body,
        sockets: &mut dyn RelaySockets,
        egress: &mut Egress,
    ) {
        // Only requests are answered, so two servers can never talk to each other for ever (threat 8).
        match (message.class(), message.method()) {
            (Class::Request, Some(Method::Send | Method::Data) | None) => {
                self.drop_packet(DropReason::UnknownMethod)
            }
            (Class::Request, Some(method)) => {
                self.handle_request(now, flow, message, method, sockets, egress)
            }
            (Class::Indication, Some(Method::Send)) => self.handle_send(now, &flow, &message, body, egress),
            // A keep-alive (RFC 8445 §11) wants no answer.
            (Class::Indication, Some(Method::Binding)) => {}
            (Class::Indication, _) => self.drop_packet(DropReason::BadIndication),
            (Class::Success | Class::Error, _) => self.drop_packet(DropReason::Response),
        }
    }

    fn handle_request(
        &mut self,
        now: Now,
        flow: ClientFlow,
        message: Message<'_>,
        method: Method,
        sockets: &mut dyn RelaySockets,
        egress: &mut Egress,
    ) {
        if !egress.has_room_for(1) {
            // Nothing is changed that could not be answered; the client asks again.
            return self.drop_packet(DropReason::EgressFull);
        }
        self.counters.count_request(method);
        let attributes = match Attributes::parse(&message) {
            Ok(attributes) => attributes,
            Err(AttributesError::BadFingerprint) => return self.drop_packet(DropReason::BadFingerprint),
            Err(AttributesError::BadValue(_)) => {
                return self.refuse_bad_request(&Request::new(now, flow, message, None), egress);
            }
        };
        let request = Request::new(now, flow, message, Some(&attributes));
        if method == Method::Binding {
            return self.handle_binding(&request, &attributes, egress);
        }
        let Some(grant) = self.authenticate(&request, &attributes, egress) else { return };
        match method {
            Method::Allocate => self.handle_allocate(&request, &attributes, grant, sockets, egress),
            Method::Refresh => self.handle_refresh(&request, &attributes, &grant, sockets, egress),
            Method::CreatePermission => self.handle_create_permission(&request, &attributes, &grant, egress),
            Method::ChannelBind => self.handle_channel_bind(&request, &attributes, &grant, egress),
            Method::Binding | Method::Send | Method::Data => {}
        }
    }

    /// A client's connection ended: its allocation ends with it (RFC 8656 §3.1).
    pub fn handle_client_closed(&mut self, flow: &ClientFlow, sockets: &mut dyn RelaySockets) {
        if let Some(id) = self.allocations.by_flow(flow).map(|allocation| allocation.id) {
            self.close(id, CloseReason::Disconnected, sockets);
        }
    }

    /// Does what is due. Call it when [`Server::poll_timeout`] is reached.
    pub fn handle_timeout(&mut self, now: Now, sockets: &mut dyn RelaySockets) {
        while let Some((at_ns, timer)) = self.timers.pop_due(now) {
            match timer {
                Timer::Reservation => self.shared.reservations.expire(now),
                Timer::Allocation(id) => self.wake(now, at_ns, id, sockets),
            }
        }
    }

    fn wake(&mut self, now: Now, at_ns: u64, id: AllocationId, sockets: &mut dyn RelaySockets) {
        let Some(allocation) = self.allocations.by_id(id).filter(|allocation| allocation.wake_ns == at_ns)
        else {
            return;
        };
        if now.reached(allocation.expires_ns()) {
            return self.close(id, CloseReason::Expired, sockets);
        }
        allocation.sweep(now);
        allocation.wake_ns = u64::MAX;
        self.close_expired_relays(now, id, sockets);
        self.arm(now, id);
    }

    /// When [`Server::handle_timeout`] wants to be called, in monotonic nanoseconds.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.timers.next_ns()
    }

    /// What happened since the last call, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Ends an allocation for an operator. `false`: there is none with this id.
    pub fn close_allocation(&mut self, id: AllocationId, sockets: &mut dyn RelaySockets) -> bool {
        let found = self.allocations.by_id(id).is_some();
        self.close(id, CloseReason::Operator, sockets);
        found
    }

    /// Every allocation.
    #[must_use]
    pub fn summaries(&self, now: Now) -> Vec<AllocationSummary> {
        let seconds = |from: u64, to: u64| to.saturating_sub(from) / trunkline_wire::now::NS_PER_S;
        let summary = |a: &crate::allocation::Allocation| AllocationSummary {
            id: a.id,
            shard: self.shard,
            username: a.grant.user.username.clone(),
            key_id: a.grant.user.key_id.clone(),
            transport: a.flow.transport,
            client: a.flow.remote,
            relays: a.relayed_addresses().collect(),
            expires_in_s: seconds(now.monotonic_ns, a.expires_ns()),
            age_s: seconds(a.opened_ns, now.monotonic_ns),
            permissions: a.permissions(),
            channels: a.channels(),
            to_peer: a.to_peer,
            to_client: a.to_client,
        };
        self.allocations.iter().map(summary).collect()
    }

    /// The client's flow of every allocation.
    #[must_use]
    pub fn flows(&self) -> Vec<ServiceFlow> {
        let flow = |a: &crate::allocation::Allocation| {
            let service = *self.listeners.get(usize::from(a.flow.listener.0))?;
            Some(ServiceFlow { client: a.flow.remote, service, transport: a.flow.transport })
        };
        self.allocations.iter().filter_map(flow).collect()
    }

    /// Who gets a packet for a relay address.
    #[must_use]
    pub fn port_owner(&self, at: SocketAddr) -> PortOwner {
        self.ports.owner(at)
    }

    /// The configuration in force.
    #[must_use]
    pub const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// How many allocations there are.
    #[must_use]
    pub fn allocation_count(&self) -> usize {
        self.allocations.len()
    }

    /// Whether this flow has an allocation; a connection without one is held to a deadline.
    pub fn has_allocation(&mut self, flow: &ClientFlow) -> bool {
        self.allocations.by_flow(flow).is_some()
    }

    /// Who did how much since the last call; a user may come more than once.
    pub fn take_usage(&mut self) -> Vec<(Arc<User>, Usage)> {
        self.allocations.take_usage()
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts a drop that the shell saw.
    pub fn drop_packet(&mut self, reason: DropReason) {
        self.counters.drops.count(reason);
    }

    /// Sees to it that an allocation is woken when it next needs to be.
    pub(crate) fn arm(&mut self, now: Now, id: AllocationId) {
        let Some(allocation) = self.allocations.by_id(id) else { return };
        let at_ns = allocation.next_wake_ns(now);
        if at_ns < allocation.wake_ns {
            allocation.wake_ns = at_ns;
            self.timers.arm(at_ns, Timer::Allocation(id));
        }
        let allocations = &mut self.allocations;
        if self.timers.len() > allocations.len().saturating_mul(2).saturating_add(STALE_TIMERS_MAX) {
            self.timers.forget_stale(|at_ns, id| allocations.by_id(id).is_some_and(|a| a.wake_ns == at_ns));
        }
    }

    /// Ends one family of an allocation of both whose lifetime is over.
    pub(crate) fn close_expired_relays(
        &mut self,
        now: Now,
        id: AllocationId,
        sockets: &mut dyn RelaySockets,
    ) {
        for relay in self.allocations.remove_expired_relays(now, id).into_iter().flatten() {
            sockets.close(relay.socket);
        }
    }

    /// Whether nothing is served to this flow: its network is denied, and no allocation of before is left.
    fn denies(&mut self, flow: &ClientFlow) -> bool {
        self.gate.is_closed_to_some()
            && self.allocations.by_flow(flow).is_none()
            && !self.gate.admits(flow.remote.ip())
    }

    /// Whether a connection from this address is accepted; one that is not is counted.
    pub fn admits_connection(&mut self, from: SocketAddr) -> bool {
        let admitted = self.gate.admits(from.ip());
        if !admitted {
            self.drop_packet(DropReason::ClientDenied);
        }
        admitted
    }

    /// Data of a client without an allocation.
    pub(crate) fn drop_data_of_stranger(&mut self, flow: &ClientFlow) {
        let denied = self.denies(flow);
        self.drop_packet(if denied { DropReason::ClientDenied } else { DropReason::NoAllocation });
    }

    pub(crate) fn close(&mut self, id: AllocationId, reason: CloseReason, sockets: &mut dyn RelaySockets) {
        let Some(allocation) = self.allocations.remove(id) else { return };
        for relay in allocation.relays.iter().flatten() {
            sockets.close(relay.socket);
        }
        self.counters.allocations_closed = self.counters.allocations_closed.wrapping_add(1);
        self.push_event(Event::Closed { id, reason });
    }

    pub(crate) fn push_event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
