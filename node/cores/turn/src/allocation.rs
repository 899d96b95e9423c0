//! An allocation with its permissions and channels (RFC 8656 §2.2, §9, §12), and the table of a shard's allocations.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;
use slab::Slab;
use trunkline_wire::channel_data::ChannelNumber;
use trunkline_wire::stun::attribute::{FAMILY_IPV4, FAMILY_IPV6};
use trunkline_wire::stun::{ErrorCode, TransactionId};
use trunkline_wire::{AllocationId, ClientFlow, Now, RelayId, Transport};

use crate::config::{CHANNEL_REST_S, CHANNEL_S, PERMISSION_S};
use crate::counters::Traffic;
use crate::credentials::Grant;
use crate::policer::{Bucket, Policer};
use crate::policy::{PeerPolicy, PermittedIp, PermittedPeer};
use crate::ports::PortLease;
use crate::quota::Charge;
use crate::usage::{Ended, Usage};

/// One relayed transport address of an allocation.
pub(crate) struct Relay {
    pub socket: RelayId,
    pub lease: PortLease,
    /// The families of an allocation can be refreshed and deleted by themselves (RFC 8656 §8).
    pub expires_ns: u64,
}

/// What the Allocate was answered with, so that a retransmission gets the identical success.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    pub transaction: TransactionId,
    pub lifetime_s: u32,
    pub reservation_token: Option<[u8; 8]>,
    /// The family that ADDITIONAL-ADDRESS-FAMILY asked for in vain, and why.
    pub address_error: Option<(u8, ErrorCode)>,
}

struct Permission {
    ip: PermittedIp,
    expires_ns: u64,
}

#[derive(Clone, Copy)]
struct Binding {
    peer: PermittedPeer,
    expires_ns: u64,
    /// Until then neither the channel nor the peer can be bound otherwise.
    rests_until_ns: u64,
}

pub(crate) struct Allocation {
    pub id: AllocationId,
    pub flow: ClientFlow,
    pub grant: Grant,
    /// The IPv4 and the IPv6 relay address; at least one.
    pub relays: [Option<Relay>; 2],
    pub answer: Answer,
    pub opened_ns: u64,
    /// The timer entry this allocation waits for.
    pub wake_ns: u64,
    permissions: HashMap<IpAddr, Permission, RandomState>,
    channels: HashMap<ChannelNumber, Binding, RandomState>,
    numbers: HashMap<SocketAddr, ChannelNumber, RandomState>,
    pub new_peers: Bucket,
    pub to_peer_policer: Policer,
    pub to_client_policer: Policer,
    pub to_peer: Traffic,
    pub to_client: Traffic,
    /// What was asked for of its usage so far.
    pub asked: Usage,
    /// Its place among the allocations with usage that was not asked for yet.
    used_place: Option<u32>,
    /// Gives the quotas back when the allocation goes.
    _charge: Charge,
}

/// What makes a new allocation.
pub(crate) struct NewAllocation {
    pub flow: ClientFlow,
    pub grant: Grant,
    pub relays: [Option<Relay>; 2],
    pub answer: Answer,
    pub charge: Charge,
}

impl Allocation {
    pub fn new(now: Now, id: AllocationId, new: NewAllocation, hash: &RandomState) -> Self {
        Self {
            id,
            flow: new.flow,
            grant: new.grant,
            relays: new.relays,
            answer: new.answer,
            opened_ns: now.monotonic_ns,
            wake_ns: u64::MAX,
            permissions: HashMap::with_hasher(hash.clone()),
            channels: HashMap::with_hasher(hash.clone()),
            numbers: HashMap::with_hasher(hash.clone()),
            new_peers: Bucket::default(),
            to_peer_policer: Policer::default(),
            to_client_policer: Policer::default(),
            to_peer: Traffic::default(),
            to_client: Traffic::default(),
            asked: Usage::default(),
            used_place: None,
            _charge: new.charge,
        }
    }

    /// The relay whose address is of `ip`'s family.
    pub fn relay_towards(&self, ip: IpAddr) -> Option<&Relay> {
        let [v4, v6] = &self.relays;
        if ip.is_ipv4() { v4.as_ref() } else { v6.as_ref() }
    }

    /// The relays of the family with this number, or all of them.
    pub fn relays_of(&mut self, family: Option<u8>) -> impl Iterator<Item = &mut Relay> {
        self.relays.iter_mut().flatten().filter(move |relay| match family {
            None => true,
            Some(FAMILY_IPV4) => relay.lease.at().is_ipv4(),
            Some(FAMILY_IPV6) => relay.lease.at().is_ipv6(),
            Some(_) => false,
        })
    }

    /// When the last of its relays ends.
    pub fn expires_ns(&self) -> u64 {
        self.relays.iter().flatten().map(|relay| relay.expires_ns).max().unwrap_or(0)
    }

    pub fn relayed_addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.relays.iter().flatten().map(|relay| relay.lease.at())
    }

    /// The peer's address as permitted, while the permission lives (300 s, RFC 8656 §9).
    pub fn permission(&self, now: Now, ip: IpAddr) -> Option<PermittedIp> {
        self.permissions.get(&ip).filter(|permission| !now.reached(permission.expires_ns)).map(|p| p.ip)
    }

    pub fn permissions(&self) -> usize {
        self.permissions.len()
    }

    pub fn install_permission(&mut self, now: Now, ip: PermittedIp) {
        self.permissions.insert(ip.ip(), Permission { ip, expires_ns: now.after_s(PERMISSION_S) });
    }

    /// The peer a live channel is bound to.
    pub fn peer_of(&self, now: Now, channel: ChannelNumber) -> Option<PermittedPeer> {
        self.channels
            .get(&channel)
            .filter(|binding| !now.reached(binding.expires_ns))
            .map(|binding| binding.peer)
    }

    /// The live channel bound to a peer.
    pub fn channel_of(&self, now: Now, peer: SocketAddr) -> Option<ChannelNumber> {
        let channel = *self.numbers.get(&peer)?;
        self.peer_of(now, channel).map(|_| channel)
    }

    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Whether this binding exists already, so that binding it again only refreshes it.
    pub fn has_binding(&self, channel: ChannelNumber, peer: SocketAddr) -> bool {
        self.numbers.get(&peer) == Some(&channel)
    }

    /// Whether channel or peer are bound otherwise, or were until less than 300 s ago (RFC 8656 §12).
    pub fn conflicts(&mut self, now: Now, channel: ChannelNumber, peer: SocketAddr) -> bool {
        self.forget_rested(now, channel, peer);
        let bound_peer = self.channels.get(&channel).map(|binding| binding.peer.address());
        let bound_channel = self.numbers.get(&peer).copied();
        bound_peer.is_some_and(|bound| bound != peer) || bound_channel.is_some_and(|bound| bound != channel)
    }

    /// Binds or refreshes a channel that [does not conflict](Self::conflicts).
    pub fn bind(&mut self, now: Now, channel: ChannelNumber, peer: PermittedPeer) {
        let expires_ns = now.after_s(CHANNEL_S);
        let rests_until_ns = now.after_s(CHANNEL_S.saturating_add(CHANNEL_REST_S));
        self.channels.insert(channel, Binding { peer, expires_ns, rests_until_ns });
        self.numbers.insert(peer.address(), channel);
    }

    fn forget_rested(&mut self, now: Now, channel: ChannelNumber, peer: SocketAddr) {
        let of_peer = self.numbers.get(&peer).copied();
        for channel in std::iter::once(channel).chain(of_peer) {
            if let Some(binding) =
                self.channels.get(&channel).filter(|binding| now.reached(binding.rests_until_ns))
            {
                self.numbers.remove(&binding.peer.address());
                self.channels.remove(&channel);
            }
        }
    }

    /// Forgets permissions and bindings whose time is over; bounded by the caps of one allocation.
    pub fn sweep(&mut self, now: Now) {
        self.retain(|_, expires_ns| !now.reached(expires_ns));
    }

    /// Keeps the permissions and bindings whose peer and end `keep` agrees to.
    fn retain(&mut self, keep: impl Fn(IpAddr, u64) -> bool) {
        self.permissions.retain(|ip, permission| keep(*ip, permission.expires_ns));
        let numbers = &mut self.numbers;
        self.channels.retain(|_, binding| {
            let peer = binding.peer.address();
            let keep = keep(peer.ip(), binding.rests_until_ns);
            if !keep {
                numbers.remove(&peer);
            }
            keep
        });
    }

    /// Whether it did nothing since its usage was last asked for.
    pub const fn is_clean(&self) -> bool {
        self.used_place.is_none()
    }

    /// Holds its permissions and bindings to another policy.
    pub fn repermit(&mut self, policy: &PeerPolicy) {
        self.retain(|peer, _| policy.permit(peer).is_ok());
        // A peer may have become a relay address of ours, or none any more.
        for permission in self.permissions.values_mut() {
            permission.ip = policy.permit(permission.ip.ip()).unwrap_or(permission.ip);
        }
        for binding in self.channels.values_mut() {
            let at = binding.peer.address();
            binding.peer = policy.permit(at.ip()).map_or(binding.peer, |ip| ip.at(at.port()));
        }
    }

    /// When this allocation must be looked at again: when a relay of it ends, or to sweep what it holds.
    pub fn next_wake_ns(&self, now: Now) -> u64 {
        let holds_something = !self.permissions.is_empty() || !self.channels.is_empty();
        let sweep_ns = if holds_something { now.after_s(PERMISSION_S) } else { u64::MAX };
        self.relays.iter().flatten().map(|relay| relay.expires_ns).fold(sweep_ns, u64::min)
    }
}

/// An allocation as the HTTP API lists it.
#[derive(Clone, Debug)]
pub struct AllocationSummary {
    /// Its id within the shard.
    pub id: AllocationId,
    /// Its shard.
    pub shard: u8,
    /// USERNAME.
    pub username: String,
    /// The key that the username was made with.
    pub key_id: Option<String>,
    /// How the client reaches us.
    pub transport: Transport,
    /// The client's address as we see it.
    pub client: SocketAddr,
    /// The relayed transport addresses.
    pub relays: Vec<SocketAddr>,
    /// Seconds until it ends unless it is refreshed.
    pub expires_in_s: u64,
    /// Seconds since it was made.
    pub age_s: u64,
    /// Permissions it holds.
    pub permissions: usize,
    /// Channels it holds.
    pub channels: usize,
    /// Relayed to peers.
    pub to_peer: Traffic,
    /// Relayed to the client.
    pub to_client: Traffic,
}

/// The 5-tuple of an allocation's client, our end included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceFlow {
    /// The client's end.
    pub client: SocketAddr,
    /// Ours.
    pub service: SocketAddr,
    /// How it reaches us.
    pub transport: Transport,
}

/// The allocations of a shard by id, by client and by relayed address.
pub(crate) struct Allocations {
    slab: Slab<Allocation>,
    by_flow: HashMap<ClientFlow, u32, RandomState>,
    by_relayed: HashMap<SocketAddr, u32, RandomState>,
    generation: u32,
    hash: RandomState,
    /// Those that did something since their usage was last asked for; never more than there are.
    used: Vec<u32>,
    pub ended: Ended,
}

impl Allocations {
    pub fn new(hash: RandomState) -> Self {
        Self {
            slab: Slab::new(),
            by_flow: HashMap::with_hasher(hash.clone()),
            by_relayed: HashMap::with_hasher(hash.clone()),
            generation: 0,
            hash,
            used: Vec::new(),
            ended: Ended::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// The id that the next allocation gets.
    pub fn next_id(&self) -> AllocationId {
        let index = u32::try_from(self.slab.vacant_key()).unwrap_or(u32::MAX);
        AllocationId { index, generation: self.generation.wrapping_add(1) }
    }

    /// Puts an allocation in under [`Allocations::next_id`].
    pub fn insert(&mut self, now: Now, new: NewAllocation) -> AllocationId {
        let id = self.next_id();
        self.generation = id.generation;
        self.by_flow.insert(new.flow, id.index);
        for relay in new.relays.iter().flatten() {
            self.by_relayed.insert(relay.lease.at(), id.index);
        }
        let allocation = Allocation::new(now, id, new, &self.hash);
        self.slab.vacant_entry().insert(allocation);
        // Room for all of them now, so that a packet never needs more.
        self.used.reserve(self.slab.len().saturating_sub(self.used.len()));
        self.mark_used(id);
        id
    }

    /// Its usage is to be asked for.
    pub fn mark_used(&mut self, id: AllocationId) {
        let place = u32::try_from(self.used.len()).unwrap_or(u32::MAX);
        if let Some(allocation) = self.by_id(id).filter(|allocation| allocation.is_clean()) {
            allocation.used_place = Some(place);
            self.used.push(id.index);
        }
    }

    /// How many have usage that was not asked for.
    pub fn used_count(&self) -> usize {
        self.used.len()
    }

    /// Takes the list of those with usage, one by one.
    pub fn drain_used(&mut self, mut each: impl FnMut(&mut Allocation)) {
        for index in self.used.drain(..) {
            if let Some(allocation) = usize::try_from(index).ok().and_then(|index| self.slab.get_mut(index)) {
                allocation.used_place = None;
                each(allocation);
            }
        }
    }

    /// Takes an ended allocation off the list; the last one there gets its place.
    fn forget_used(&mut self, allocation: &Allocation) {
        let Some(place) = allocation.used_place.and_then(|place| usize::try_from(place).ok()) else { return };
        if place >= self.used.len() {
            return;
        }
        self.used.swap_remove(place);
        let moved = self.used.get(place).and_then(|index| usize::try_from(*index).ok());
        if let Some(moved) = moved.and_then(|index| self.slab.get_mut(index)) {
            moved.used_place = allocation.used_place;
        }
    }

    pub fn by_id(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        let allocation = self.slab.get_mut(usize::try_from(id.index).ok()?)?;
        (allocation.id == id).then_some(allocation)
    }

    pub fn by_flow(&mut self, flow: &ClientFlow) -> Option<&mut Allocation> {
        let index = *self.by_flow.get(flow)?;
        self.slab.get_mut(usize::try_from(index).ok()?)
    }

    pub fn by_relayed(&mut self, at: SocketAddr) -> Option<&mut Allocation> {
        let index = *self.by_relayed.get(&at)?;
        self.slab.get_mut(usize::try_from(index).ok()?)
    }

    pub fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        self.by_id(id)?;
        let mut allocation = self.slab.try_remove(usize::try_from(id.index).ok()?)?;
        self.forget_used(&allocation);
        let usage = allocation.take_usage();
        self.ended.keep(&allocation.grant.user, &usage);
        self.by_flow.remove(&allocation.flow);
        for at in allocation.relayed_addresses() {
            self.by_relayed.remove(&at);
        }
        Some(allocation)
    }

    /// Takes the relays whose lifetime is over out of an allocation that has another one; permissions and channels
    /// of that family go with them (RFC 8656 §8).
    pub fn remove_expired_relays(&mut self, now: Now, id: AllocationId) -> [Option<Relay>; 2] {
        let Some(allocation) = self.by_id(id) else { return [None, None] };
        let mut expired = [None, None];
        for (relay, expired) in allocation.relays.iter_mut().zip(&mut expired) {
            *expired = relay.take_if(|relay| now.reached(relay.expires_ns));
        }
        for relay in expired.iter().flatten() {
            let is_ipv4 = relay.lease.at().is_ipv4();
            allocation.retain(|peer, _| peer.is_ipv4() != is_ipv4);
        }
        for relay in expired.iter().flatten() {
            self.by_relayed.remove(&relay.lease.at());
        }
        expired
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Allocation> {
        self.slab.iter_mut().map(|(_, allocation)| allocation)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Allocation> {
        self.slab.iter().map(|(_, allocation)| allocation)
    }
}
