//! Relay ports: who owns which slice, which port is in use by which shard, and which are kept for later.
//!
//! A leased port is a value ([`PortLease`]) that frees the port when it is dropped, so free + held is always all.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use trunkline_wire::{NodeId, Now};

/// Ports per slice: 1,024.
pub const SLICE_BITS: u32 = 10;
/// Slices of one relay address.
pub const SLICES: usize = 1 << (16 - SLICE_BITS);
/// The lowest relay port: the service ports and their alternates stay below.
pub const RELAY_PORT_MIN: u16 = 9_216;

/// The slices of one relay address and the server that each is leased to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayBlock {
    /// The relay address.
    pub ip: IpAddr,
    /// Owner by `port >> SLICE_BITS`.
    pub owners: [Option<NodeId>; SLICES],
    /// Slices from which no port is leased any more, though they still have their owner.
    pub draining: [bool; SLICES],
}

impl RelayBlock {
    /// A relay address whose slices belong to nobody.
    #[must_use]
    pub const fn unowned(ip: IpAddr) -> Self {
        Self { ip, owners: [None; SLICES], draining: [false; SLICES] }
    }

    /// A relay address whose every usable slice belongs to `node`.
    #[must_use]
    pub fn owned_by(ip: IpAddr, node: NodeId) -> Self {
        let mut block = Self::unowned(ip);
        for owner in block.owners.iter_mut().skip(usize::from(RELAY_PORT_MIN >> SLICE_BITS)) {
            *owner = Some(node);
        }
        block
    }

    fn owner(&self, port: u16) -> Option<NodeId> {
        self.owners.get(usize::from(port >> SLICE_BITS)).copied().flatten()
    }

    /// Ports that `node` may lease, in order.
    fn usable(&self, node: NodeId) -> Vec<u16> {
        let slices = (0_u16..).zip(self.owners.iter().zip(&self.draining));
        let ours = slices.filter(|(_, (owner, draining))| **owner == Some(node) && !**draining);
        ours.flat_map(|(index, _)| {
            let first = index << SLICE_BITS;
            first..=(first | ((1 << SLICE_BITS) - 1))
        })
        .collect()
    }
}

/// Who gets a packet for a relay address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortOwner {
    /// A live allocation of this shard of our node.
    Shard(u8),
    /// Another server.
    Node(NodeId),
    /// Nobody: not leased to any server, or no live allocation of ours.
    Nobody,
}

/// Which ports an allocation can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// Any.
    Any,
    /// An even one.
    Even,
}

/// Who holds which port of a relay address, whatever becomes of its slices.
struct Holders {
    ip: IpAddr,
    /// By port: free, or the shard that holds it plus one.
    shards: Box<[AtomicU8]>,
    /// Ports held in each slice.
    held: [AtomicU32; SLICES],
}

impl Holders {
    fn new(ip: IpAddr) -> Arc<Self> {
        let shards = (0..=u16::MAX).map(|_| AtomicU8::new(FREE)).collect();
        Arc::new(Self { ip, shards, held: std::array::from_fn(|_| AtomicU32::new(0)) })
    }

    fn of(&self, port: u16) -> Option<&AtomicU8> {
        self.shards.get(usize::from(port))
    }

    fn held_in(&self, port: u16) -> Option<&AtomicU32> {
        self.held.get(usize::from(port >> SLICE_BITS))
    }

    fn in_use(&self) -> impl Iterator<Item = u32> + '_ {
        self.held.iter().map(|held| held.load(Ordering::Acquire))
    }
}

struct Address {
    block: RelayBlock,
    /// Ports of our slices that are not draining, in order.
    usable: Vec<u16>,
    holders: Arc<Holders>,
}

const FREE: u8 = 0;
/// Random tries before a search from port to port: with nine ports in ten taken, 1 in 850 needs the search.
const RANDOM_TRIES: usize = 64;

/// The holders of every relay address that a table or a lease still knows.
type Register = Arc<Mutex<HashMap<IpAddr, Weak<Holders>>>>;

/// All relay addresses of a node and who owns their slices, at one time. A table never changes: each shard reads its
/// own without a lock, and goes over to the [successor](PortTable::successor) when it is told to. Which ports are
/// held is common to all of them.
pub struct PortTable {
    node: NodeId,
    addresses: Vec<Address>,
    register: Register,
}

impl PortTable {
    /// A table of these blocks; ports of slices leased to `node` can be leased from it.
    #[must_use]
    pub fn new(node: NodeId, blocks: Vec<RelayBlock>) -> Arc<Self> {
        Self::with_register(node, blocks, Register::default())
    }

    /// The table after slices or addresses came, went, or changed. What is held of this one is held there.
    #[must_use]
    pub fn successor(&self, blocks: Vec<RelayBlock>) -> Arc<Self> {
        Self::with_register(self.node, blocks, Arc::clone(&self.register))
    }

    fn with_register(node: NodeId, blocks: Vec<RelayBlock>, register: Register) -> Arc<Self> {
        let mut known = register.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, holders| holders.strong_count() > 0);
        let address = |block: RelayBlock| {
            let holders = known.get(&block.ip).and_then(Weak::upgrade).unwrap_or_else(|| {
                let holders = Holders::new(block.ip);
                known.insert(block.ip, Arc::downgrade(&holders));
                holders
            });
            Address { usable: block.usable(node), block, holders }
        };
        let addresses = blocks.into_iter().map(address).collect();
        drop(known);
        Arc::new(Self { node, addresses, register })
    }

    /// The relay addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|address| address.block.ip)
    }

    /// Leases a random port of `ip` for `shard`. `None` when there is no such address or no free port.
    #[must_use]
    pub fn lease(&self, ip: IpAddr, shard: u8, parity: Parity, random: u64) -> Option<PortLease> {
        let address = self.address(ip)?;
        let count = address.usable.len();
        let mut spread = random;
        for _ in 0..RANDOM_TRIES {
            let index = usize::try_from(spread >> 16).unwrap_or(0).checked_rem(count)?;
            if let Some(lease) = self.take(address, index, shard, parity) {
                return Some(lease);
            }
            // A full-period generator over a seed that nobody outside can guess.
            spread = spread.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        }
        let start = usize::try_from(random >> 16).unwrap_or(0).checked_rem(count)?;
        (0..count).find_map(|step| {
            let index = start.saturating_add(step).checked_rem(count)?;
            self.take(address, index, shard, parity)
        })
    }

    /// Leases exactly this port.
    #[must_use]
    pub fn lease_exactly(&self, at: SocketAddr, shard: u8) -> Option<PortLease> {
        let address = self.address(at.ip())?;
        let index = address.usable.binary_search(&at.port()).ok()?;
        self.take(address, index, shard, Parity::Any)
    }

    /// Who gets a packet for `at`.
    #[must_use]
    pub fn owner(&self, at: SocketAddr) -> PortOwner {
        let Some(address) = self.address(at.ip()) else { return PortOwner::Nobody };
        match address.block.owner(at.port()) {
            Some(node) if node == self.node => {
                let holder = address.holders.of(at.port()).map_or(FREE, |h| h.load(Ordering::Acquire));
                holder.checked_sub(1).map_or(PortOwner::Nobody, PortOwner::Shard)
            }
            Some(node) => PortOwner::Node(node),
            None => PortOwner::Nobody,
        }
    }

    /// Whether the port lies in a slice of ours, draining or not.
    #[must_use]
    pub fn is_ours(&self, at: SocketAddr) -> bool {
        self.address(at.ip()).is_some_and(|address| address.block.owner(at.port()) == Some(self.node))
    }

    /// Ports in use, those of lost slices included, of ports that can be leased.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        let held = self.known().iter().flat_map(|holders| holders.in_use().collect::<Vec<_>>()).sum::<u32>();
        let total = self.addresses.iter().map(|address| address.usable.len()).sum();
        (usize::try_from(held).unwrap_or(usize::MAX), total)
    }

    /// The slices of which any port is leased or reserved: address and `port >> SLICE_BITS`, in order.
    #[must_use]
    pub fn slices_in_use(&self) -> Vec<(IpAddr, usize)> {
        let of_one = |holders: &Arc<Holders>| {
            let held = holders.in_use().enumerate().filter(|(_, held)| *held > 0);
            held.map(|(index, _)| (holders.ip, index)).collect::<Vec<_>>()
        };
        let mut slices: Vec<_> = self.known().iter().flat_map(of_one).collect();
        slices.sort_unstable();
        slices
    }

    fn known(&self) -> Vec<Arc<Holders>> {
        let register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        register.values().filter_map(Weak::upgrade).collect()
    }

    fn address(&self, ip: IpAddr) -> Option<&Address> {
        self.addresses.iter().find(|address| address.block.ip == ip)
    }

    fn take(&self, address: &Address, index: usize, shard: u8, parity: Parity) -> Option<PortLease> {
        let port = *address.usable.get(index)?;
        if parity == Parity::Even && !port.is_multiple_of(2) {
            return None;
        }
        let (holder, held) = (address.holders.of(port)?, address.holders.held_in(port)?);
        holder.compare_exchange(FREE, shard.checked_add(1)?, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        held.fetch_add(1, Ordering::AcqRel);
        Some(PortLease { holders: Arc::clone(&address.holders), port })
    }
}

/// A relay port that is held until this value is dropped, whatever becomes of its slice meanwhile.
pub struct PortLease {
    holders: Arc<Holders>,
    port: u16,
}

impl PortLease {
    /// The relayed transport address.
    #[must_use]
    pub fn at(&self) -> SocketAddr {
        SocketAddr::new(self.holders.ip, self.port)
    }

    /// Hands the port to another shard, which redeemed a reservation.
    pub fn move_to(&self, shard: u8) {
        self.store(shard.saturating_add(1));
    }

    fn store(&self, value: u8) {
        if let Some(holder) = self.holders.of(self.port) {
            holder.store(value, Ordering::Release);
        }
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.store(FREE);
        if let Some(held) = self.holders.held_in(self.port) {
            held.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A port kept by EVEN-PORT with R = 1 for its RESERVATION-TOKEN.
pub struct Reservation {
    /// The port.
    pub lease: PortLease,
    /// The user that may have it.
    pub username: String,
    expires_ns: u64,
}

/// Seconds a reservation lives (RFC 8656 §7.2: at least 30).
pub const RESERVATION_S: u64 = 30;
/// Reservations within their lifetime, redeemed ones included; beyond it a request with R = 1 gets 508.
const RESERVATIONS_MAX: usize = 4_096;

#[derive(Default)]
struct Kept {
    by_token: HashMap<[u8; 8], Reservation>,
    /// Oldest first: every reservation lives equally long.
    order: VecDeque<(u64, [u8; 8])>,
}

/// The reservations of a node, whichever shard redeems them.
#[derive(Default)]
pub struct Reservations(Mutex<Kept>);

impl Reservations {
    /// Keeps a port for `username`. `false`, and the port is free again, when too many are kept or the token stands
    /// for the same port of another relay address.
    pub fn keep(&self, now: Now, token: [u8; 8], lease: PortLease, username: String) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.expire(now);
        if kept.order.len() >= RESERVATIONS_MAX || kept.by_token.contains_key(&token) {
            return false;
        }
        let expires_ns = now.after_s(RESERVATION_S);
        kept.by_token.insert(token, Reservation { lease, username, expires_ns });
        kept.order.push_back((expires_ns, token));
        true
    }

    /// Takes the port that `token` keeps for `username`; works once.
    pub fn redeem(&self, now: Now, token: [u8; 8], username: &str) -> Option<PortLease> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.expire(now);
        let is_theirs = kept.by_token.get(&token)?.username == username;
        if is_theirs { kept.by_token.remove(&token).map(|reservation| reservation.lease) } else { None }
    }

    /// Frees what has expired.
    pub fn expire(&self, now: Now) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).expire(now);
    }
}

impl Kept {
    fn expire(&mut self, now: Now) {
        while let Some((expires_ns, token)) = self.order.front().copied() {
            if !now.reached(expires_ns) {
                break;
            }
            self.order.pop_front();
            // The token may have been redeemed, and its port kept again since.
            if self.by_token.get(&token).is_some_and(|reservation| now.reached(reservation.expires_ns)) {
                self.by_token.remove(&token);
            }
        }
    }
}
