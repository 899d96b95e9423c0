//! Relay ports: who owns which slice, which port is in use by which shard, and which are kept for later.
//!
//! A leased port is a value ([`PortLease`]) that frees the port when it is dropped, so free + held is always all.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use trunkline_wire::{NodeId, Now};

/// Ports per slice: 1,024.
pub const SLICE_BITS: u32 = 10;
/// Slices of one relay address.
pub const SLICES: usize = 1 << (16 - SLICE_BITS);
/// The lowest relay port: the service ports and their alternates stay below.
pub const RELAY_PORT_MIN: u16 = 9_216;

/// The slices of one relay address and the server that each is leased to.
#[derive(Clone, Debug)]
pub struct RelayBlock {
    /// The relay address.
    pub ip: IpAddr,
    /// Owner by `port >> SLICE_BITS`.
    pub owners: [Option<NodeId>; SLICES],
}

impl RelayBlock {
    /// A relay address whose every usable slice belongs to `node`.
    #[must_use]
    pub fn owned_by(ip: IpAddr, node: NodeId) -> Self {
        let mut block = Self { ip, owners: [None; SLICES] };
        for owner in block.owners.iter_mut().skip(usize::from(RELAY_PORT_MIN >> SLICE_BITS)) {
            *owner = Some(node);
        }
        block
    }

    fn owner(&self, port: u16) -> Option<NodeId> {
        self.owners.get(usize::from(port >> SLICE_BITS)).copied().flatten()
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

struct Address {
    block: RelayBlock,
    /// Ports of our slices, in order.
    usable: Vec<u16>,
    /// By port: free, or the shard that holds it plus one.
    holders: Box<[AtomicU8]>,
}

const FREE: u8 = 0;
/// Random tries before a search from port to port: with nine ports in ten taken, 1 in 850 needs the search.
const RANDOM_TRIES: usize = 64;

/// All relay addresses of a node, shared by its shards.
pub struct PortTable {
    node: NodeId,
    addresses: Vec<Address>,
}

impl PortTable {
    /// A table of these blocks; ports of slices leased to `node` can be leased from it.
    #[must_use]
    pub fn new(node: NodeId, blocks: Vec<RelayBlock>) -> Arc<Self> {
        let address = |block: RelayBlock| Address {
            usable: (0..=u16::MAX).filter(|port| block.owner(*port) == Some(node)).collect(),
            holders: (0..=u16::MAX).map(|_| AtomicU8::new(FREE)).collect(),
            block,
        };
        Arc::new(Self { node, addresses: blocks.into_iter().map(address).collect() })
    }

    /// The relay addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|address| address.block.ip)
    }

    /// Leases a random port of `ip` for `shard`. `None` when there is no such address or no free port.
    #[must_use]
    pub fn lease(self: &Arc<Self>, ip: IpAddr, shard: u8, parity: Parity, random: u64) -> Option<PortLease> {
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
    pub fn lease_exactly(self: &Arc<Self>, at: SocketAddr, shard: u8) -> Option<PortLease> {
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
                let holder =
                    address.holders.get(usize::from(at.port())).map_or(FREE, |h| h.load(Ordering::Acquire));
                holder.checked_sub(1).map_or(PortOwner::Nobody, PortOwner::Shard)
            }
            Some(node) => PortOwner::Node(node),
            None => PortOwner::Nobody,
        }
    }

    /// Ports in use, of ports that there are.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        let held =
            |address: &Address| address.holders.iter().filter(|h| h.load(Ordering::Relaxed) != FREE).count();
        let total = |address: &Address| address.usable.len();
        (self.addresses.iter().map(held).sum(), self.addresses.iter().map(total).sum())
    }

    fn address(&self, ip: IpAddr) -> Option<&Address> {
        self.addresses.iter().find(|address| address.block.ip == ip)
    }

    fn take(
        self: &Arc<Self>,
        address: &Address,
        index: usize,
        shard: u8,
        parity: Parity,
    ) -> Option<PortLease> {
        let port = *address.usable.get(index)?;
        if parity == Parity::Even && !port.is_multiple_of(2) {
            return None;
        }
        let holder = address.holders.get(usize::from(port))?;
        holder.compare_exchange(FREE, shard.checked_add(1)?, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        Some(PortLease { table: Arc::clone(self), at: SocketAddr::new(address.block.ip, port) })
    }
}

/// A relay port that is ours until this value is dropped.
pub struct PortLease {
    table: Arc<PortTable>,
    at: SocketAddr,
}

impl PortLease {
    /// The relayed transport address.
    #[must_use]
    pub const fn at(&self) -> SocketAddr {
        self.at
    }

    /// Hands the port to another shard, which redeemed a reservation.
    pub fn move_to(&self, shard: u8) {
        self.store(shard.saturating_add(1));
    }

    fn store(&self, value: u8) {
        let holder =
            self.table.address(self.at.ip()).and_then(|a| a.holders.get(usize::from(self.at.port())));
        if let Some(holder) = holder {
            holder.store(value, Ordering::Release);
        }
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.store(FREE);
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
