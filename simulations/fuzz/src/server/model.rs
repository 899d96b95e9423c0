//! The reference model: a second, tiny statement of RFC 8656 and of this server's bounds.
//!
//! It knows who has an allocation until when, with which permissions and channels, and nothing about messages, sockets
//! or timers. Where several reasons to refuse apply at once, it names them all: the RFC does not order them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use trunkline_turn::CloseReason;

use super::operation::{Allocate, Ask, Proof, What};
use super::scene::{
    ALLOCATIONS_MAX, CHANNELS_MAX, EXPIRES_UNIX_S, LIFETIME_S_MAX, NEW_PEERS_BURST, PER_USER_MAX,
    PERMISSIONS_MAX, START_UNIX_S, Standing,
};
use super::sockets::Mood;

const NS_PER_S: u64 = 1_000_000_000;
const PERMISSION_NS: u64 = 300 * NS_PER_S;
const CHANNEL_NS: u64 = 600 * NS_PER_S;
/// A channel's life and the time in which neither its number nor its peer can be bound otherwise.
const CHANNEL_AND_REST_NS: u64 = 900 * NS_PER_S;
const RESERVATION_NS: u64 = 30 * NS_PER_S;

/// A peer and what the policy makes of it.
pub(crate) type Peer = (SocketAddr, Standing);

#[derive(Debug)]
pub(crate) struct Model {
    pub now_ns: u64,
    pub unix_s: u64,
    /// Whether there is an IPv6 relay address.
    pub ipv6: bool,
    pub draining: bool,
    pub revoked: BTreeSet<usize>,
    pub moods: [Mood; 2],
    pub allocations: BTreeMap<usize, Allocation>,
    pub reservations: Vec<Reservation>,
    /// Allocations that ended since this was last emptied.
    pub closed: Vec<CloseReason>,
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub user: usize,
    /// IPv4, IPv6.
    pub relays: [Option<Relay>; 2],
    pub permissions: BTreeMap<IpAddr, u64>,
    pub channels: BTreeMap<u16, Channel>,
    pub new_peers: Leaky,
    pub to_peer: Leaky,
    pub to_client: Leaky,
}

/// A relayed address; each family of an allocation lives by itself (RFC 8656 §8).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relay {
    pub at: SocketAddr,
    pub expires_ns: u64,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub peer: SocketAddr,
    bound_ns: u64,
}

#[derive(Debug)]
pub(crate) struct Reservation {
    pub token: [u8; 8],
    pub at: SocketAddr,
    user: usize,
    until_ns: u64,
}

/// A bucket that leaks one unit a second.
#[derive(Debug, Default)]
pub(crate) struct Leaky {
    level_ns: u64,
    seen_ns: u64,
}

impl Leaky {
    pub(crate) fn take(&mut self, now_ns: u64, units: u64, burst: u64) -> bool {
        self.level_ns = self.level_ns.saturating_sub(now_ns - self.seen_ns);
        self.seen_ns = now_ns;
        let fits = self.level_ns + units * NS_PER_S <= burst * NS_PER_S;
        if fits {
            self.level_ns += units * NS_PER_S;
        }
        fits
    }
}

/// Why a request is not for its sender to make, and whether the answer is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub code: u16,
    pub signed: bool,
}

/// What becomes of an Allocate.
#[derive(Debug)]
pub(crate) enum Allocated {
    /// With any of these codes.
    Refused(Vec<u16>),
    /// The answer that the first of its kind got.
    Again,
    Opened(Opening),
}

/// What the answer to an Allocate must show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// Relayed addresses of IPv4 and of IPv6.
    pub families: [bool; 2],
    pub even: bool,
    /// The next port is reserved.
    pub next: bool,
    /// Exactly this address.
    pub reserved: Option<SocketAddr>,
    pub address_error: Option<(u8, u16)>,
    pub lifetime_s: u32,
}

impl Model {
    pub(crate) fn new(ipv6: bool) -> Self {
        Self {
            // Not zero: nothing may take an unset time for a past one.
            now_ns: 5 * NS_PER_S,
            unix_s: START_UNIX_S,
            ipv6,
            draining: false,
            revoked: BTreeSet::new(),
            moods: [Mood::Willing; 2],
            allocations: BTreeMap::new(),
            reservations: vec![],
            closed: vec![],
        }
    }

    pub(crate) fn wait(&mut self, ns: u64, unix_s: u64) {
        self.now_ns += ns;
        self.unix_s += unix_s;
        let now_ns = self.now_ns;
        for allocation in self.allocations.values_mut() {
            allocation.end_relays(now_ns);
        }
        self.close_where(CloseReason::Expired, |allocation| allocation.addresses().next().is_none());
        self.reservations.retain(|reservation| reservation.until_ns > now_ns);
        for allocation in self.allocations.values_mut() {
            allocation.permissions.retain(|_, until_ns| *until_ns > now_ns);
            allocation.channels.retain(|_, channel| channel.bound_ns + CHANNEL_AND_REST_NS > now_ns);
        }
    }

    pub(crate) fn close(&mut self, flow: usize, reason: CloseReason) {
        if self.allocations.remove(&flow).is_some() {
            self.closed.push(reason);
        }
    }

    pub(crate) fn revoke(&mut self, user: usize) {
        self.revoked.insert(user);
        self.close_where(CloseReason::Revoked, |allocation| allocation.user == user);
    }

    fn close_where(&mut self, reason: CloseReason, ends: impl Fn(&Allocation) -> bool) {
        let before = self.allocations.len();
        self.allocations.retain(|_, allocation| !ends(allocation));
        self.closed.extend(std::iter::repeat_n(reason, before - self.allocations.len()));
    }

    /// The order of RFC 8489 §9.2.4, then 441 and 420.
    pub(crate) fn refusal_of_sender(&self, ask: &Ask, nonce_is_good: bool) -> Option<Refusal> {
        let unsigned = |code| Some(Refusal { code, signed: false });
        match ask.proof {
            Proof::NoIntegrity => return unsigned(401),
            Proof::NoUsername | Proof::NoRealm | Proof::NoNonce => return unsigned(400),
            _ if !nonce_is_good => return unsigned(438),
            Proof::WrongPassword | Proof::WrongRealm | Proof::UnknownUser => return unsigned(401),
            Proof::Right | Proof::LastNonce | Proof::NonceOf(_) | Proof::ForgedNonce => {}
        }
        let holder = self.allocations.get(&ask.flow).map(|allocation| allocation.user);
        // The end of a credential ends new allocations and refreshes, not what the holder does with a live one.
        let needs_live_credential = match ask.what {
            What::Refresh { lifetime_s, .. } => lifetime_s != Some(0) || holder != Some(ask.user),
            _ => holder != Some(ask.user),
        };
        let is_over = EXPIRES_UNIX_S[ask.user].is_some_and(|end| self.unix_s >= end);
        if self.revoked.contains(&ask.user) || (is_over && needs_live_credential) {
            return unsigned(401);
        }
        if holder.is_some_and(|holder| holder != ask.user) {
            return Some(Refusal { code: 441, signed: true });
        }
        ask.unknown.then_some(Refusal { code: 420, signed: true })
    }

    pub(crate) fn allocate(
        &mut self,
        flow: usize,
        user: usize,
        wanted: &Allocate,
        token: Option<[u8; 8]>,
    ) -> Allocated {
        if self.allocations.contains_key(&flow) {
            return if wanted.again { Allocated::Again } else { Allocated::Refused(vec![437]) };
        }
        let mut refused = contradictions(wanted);
        if self.draining || self.allocations.len() >= ALLOCATIONS_MAX {
            refused.push(508);
        }
        if self.allocations.values().filter(|allocation| allocation.user == user).count() >= PER_USER_MAX {
            refused.push(486);
        }
        let lifetime_s = lifetime_s(wanted.lifetime_s).max(600);
        let opening = match token {
            Some(token) if refused.is_empty() => self.redeem(token, user, lifetime_s),
            _ => self.open(wanted, lifetime_s),
        };
        match opening {
            Ok(opening) if refused.is_empty() => Allocated::Opened(opening),
            Ok(_) => Allocated::Refused(refused),
            Err(codes) => Allocated::Refused([refused, codes].concat()),
        }
    }

    /// A token works once, for its user, whether or not its port can then be opened.
    fn redeem(&mut self, token: [u8; 8], user: usize, lifetime_s: u32) -> Result<Opening, Vec<u16>> {
        let is_it = |kept: &Reservation| kept.token == token && kept.user == user;
        let place = self.reservations.iter().position(is_it).ok_or(vec![508])?;
        let at = self.reservations.remove(place).at;
        let is_open = self.moods[usize::from(at.is_ipv6())] == Mood::Willing;
        let families = [at.is_ipv4(), at.is_ipv6()];
        let reserved = Some(at);
        is_open
            .then_some(Opening {
                families,
                even: false,
                next: false,
                reserved,
                address_error: None,
                lifetime_s,
            })
            .ok_or(vec![508])
    }

    fn open(&self, wanted: &Allocate, lifetime_s: u32) -> Result<Opening, Vec<u16>> {
        let opens = |family: usize| match self.moods[family] {
            _ if family == 1 && !self.ipv6 => Err(440),
            Mood::Willing | Mood::FirstInUse => Ok(()),
            Mood::AllInUse | Mood::Exhausted => Err(508),
        };
        let (families, address_error) = match (wanted.family, wanted.additional) {
            (_, Some(_)) => match (opens(0), opens(1)) {
                (Err(one), Err(other)) => return Err(vec![one, other]),
                (Ok(()), Err(code)) => ([true, false], Some((2, code))),
                (Err(code), Ok(())) => ([false, true], Some((1, code))),
                (Ok(()), Ok(())) => ([true, true], None),
            },
            (Some(2), None) => opens(1).map(|()| ([false, true], None)).map_err(|code| vec![code])?,
            (_, None) => opens(0).map(|()| ([true, false], None)).map_err(|code| vec![code])?,
        };
        let (even, next) = (wanted.even_port.is_some(), wanted.even_port == Some(0x80));
        Ok(Opening { families, even, next, reserved: None, address_error, lifetime_s })
    }

    /// Takes note of what the server opened.
    pub(crate) fn opened(
        &mut self,
        flow: usize,
        user: usize,
        opening: &Opening,
        relays: [Option<SocketAddr>; 2],
    ) {
        let expires_ns = self.now_ns + u64::from(opening.lifetime_s) * NS_PER_S;
        let allocation = Allocation {
            user,
            relays: relays.map(|relay| relay.map(|at| Relay { at, expires_ns })),
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            new_peers: Leaky::default(),
            to_peer: Leaky::default(),
            to_client: Leaky::default(),
        };
        self.allocations.insert(flow, allocation);
    }

    pub(crate) fn reserved(&mut self, token: [u8; 8], at: SocketAddr, user: usize) {
        self.reservations.push(Reservation { token, at, user, until_ns: self.now_ns + RESERVATION_NS });
    }

    /// The lifetime granted, or the codes of a refusal.
    pub(crate) fn refresh(
        &mut self,
        flow: usize,
        wanted_s: Option<u32>,
        family: Option<u8>,
    ) -> Result<u32, Vec<u16>> {
        let allocation = self.allocations.get_mut(&flow).ok_or(vec![437])?;
        let refreshed = match family {
            None => [true, true],
            Some(1) => [true, false],
            Some(2) => [false, true],
            Some(_) => return Err(vec![440, 443]),
        };
        let granted_s = lifetime_s(wanted_s);
        let expires_ns = self.now_ns + u64::from(granted_s) * NS_PER_S;
        let chosen = allocation.relays.iter_mut().zip(refreshed).filter(|(_, refreshed)| *refreshed);
        let relays: Vec<_> = chosen.filter_map(|(relay, _)| relay.as_mut()).collect();
        if relays.is_empty() {
            return Err(vec![443]);
        }
        relays.into_iter().for_each(|relay| relay.expires_ns = expires_ns);
        allocation.end_relays(self.now_ns);
        if allocation.addresses().next().is_none() {
            self.close(flow, CloseReason::Released);
        }
        Ok(granted_s)
    }

    pub(crate) fn permit(&mut self, flow: usize, peers: &[Peer]) -> Result<(), Vec<u16>> {
        let now_ns = self.now_ns;
        let allocation = self.allocations.get_mut(&flow).ok_or(vec![437])?;
        let mut refused = if peers.is_empty() { vec![400] } else { vec![] };
        refused.extend(peers.iter().flat_map(|peer| allocation.objections(*peer)));
        allocation.install(now_ns, refused, peers.iter().map(|(peer, _)| peer.ip()).collect())
    }

    pub(crate) fn bind(
        &mut self,
        flow: usize,
        channel: Option<u16>,
        peer: Option<Peer>,
    ) -> Result<(), Vec<u16>> {
        let now_ns = self.now_ns;
        let allocation = self.allocations.get_mut(&flow).ok_or(vec![437])?;
        let mut refused = peer.map_or(vec![400], |peer| allocation.objections(peer));
        let (Some(channel @ 0x4000..=0x7FFF), Some((peer, _))) = (channel, peer) else {
            refused.push(400);
            return Err(refused);
        };
        let is_same = |(number, bound): (&u16, &Channel)| *number == channel && bound.peer == peer;
        let overlaps = |(number, bound): (&u16, &Channel)| (*number == channel) != (bound.peer == peer);
        if allocation.channels.iter().any(overlaps) {
            refused.push(400);
        }
        if !allocation.channels.iter().any(is_same) && allocation.channels.len() >= CHANNELS_MAX {
            refused.push(508);
        }
        allocation.install(now_ns, refused, BTreeSet::from([peer.ip()]))?;
        allocation.channels.insert(channel, Channel { peer, bound_ns: now_ns });
        Ok(())
    }
}

impl Allocation {
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.relays.into_iter().flatten().map(|relay| relay.at)
    }

    pub(crate) fn expires_ns(&self) -> u64 {
        self.relays.iter().flatten().map(|relay| relay.expires_ns).max().expect("a relayed address")
    }

    /// Relayed addresses end, and with them permissions and channels of their family.
    fn end_relays(&mut self, now_ns: u64) {
        for (family, relay) in self.relays.iter_mut().enumerate() {
            if relay.take_if(|relay| relay.expires_ns <= now_ns).is_some() {
                self.permissions.retain(|ip, _| usize::from(ip.is_ipv6()) != family);
                self.channels.retain(|_, channel| usize::from(channel.peer.is_ipv6()) != family);
            }
        }
    }

    /// What speaks against a peer.
    fn objections(&self, (peer, standing): Peer) -> Vec<u16> {
        let mut refused = vec![];
        if standing == Standing::Denied {
            refused.push(403);
        }
        if self.relays[usize::from(peer.is_ipv6())].is_none() {
            refused.push(443);
        }
        refused
    }

    /// All or none, and none if there is a reason to refuse already.
    fn install(&mut self, now_ns: u64, mut refused: Vec<u16>, ips: BTreeSet<IpAddr>) -> Result<(), Vec<u16>> {
        let new = ips.iter().filter(|ip| !self.permissions.contains_key(ip)).count();
        if self.permissions.len() + new > PERMISSIONS_MAX {
            refused.push(508);
        }
        if refused.is_empty() && !self.new_peers.take(now_ns, new as u64, NEW_PEERS_BURST) {
            refused.push(508);
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        self.permissions.extend(ips.into_iter().map(|ip| (ip, now_ns + PERMISSION_NS)));
        Ok(())
    }

    /// The peer of a channel that lives.
    pub(crate) fn peer_of(&self, now_ns: u64, channel: u16) -> Option<SocketAddr> {
        self.channels
            .get(&channel)
            .filter(|bound| bound.bound_ns + CHANNEL_NS > now_ns)
            .map(|bound| bound.peer)
    }

    /// The channel of a peer, if it lives.
    pub(crate) fn channel_of(&self, now_ns: u64, peer: SocketAddr) -> Option<u16> {
        let (number, _) = self.channels.iter().find(|(_, bound)| bound.peer == peer)?;
        self.peer_of(now_ns, *number).map(|_| *number)
    }
}

/// What RFC 8656 §7.2 refuses for its own sake.
fn contradictions(wanted: &Allocate) -> Vec<u16> {
    let mut refused = match wanted.transport {
        None => vec![400],
        Some(17) => vec![],
        Some(_) => vec![442],
    };
    let (family, additional) = (wanted.family, wanted.additional);
    if wanted.token.is_some() && (wanted.even_port.is_some() || family.is_some() || additional.is_some()) {
        refused.push(400);
    }
    if additional.is_some() && (family.is_some() || additional != Some(2) || wanted.even_port == Some(0x80)) {
        refused.push(400);
    }
    if matches!(family, Some(family) if family > 2) {
        refused.push(440);
    }
    refused
}

/// Zero stays zero; else between ten minutes and the maximum.
fn lifetime_s(wanted: Option<u32>) -> u32 {
    match wanted {
        Some(0) => 0,
        Some(wanted) => wanted.clamp(600, LIFETIME_S_MAX),
        None => 600,
    }
}
