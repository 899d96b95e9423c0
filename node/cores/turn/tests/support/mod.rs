//! A world around one [`Server`]: relay sockets that are entries of a table, a clock that stands still until it is
//! told to go on, and a list of what was sent. Everything a server sends is checked on its way out.

mod answer;
mod client;
mod draft;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use trunkline_turn::config::ShardConfig;
use trunkline_turn::credentials::{Credentials, Secret};
use trunkline_turn::policy::PeerPolicy;
use trunkline_turn::ports::{PortTable, RELAY_PORT_MIN, RelayBlock, Reservations, SLICE_BITS};
use trunkline_turn::quota::{Ledger, Quotas};
use trunkline_turn::{Config, Limits, OpenError, RelaySockets, Server, Shared, Terms};
use trunkline_wire::now::NS_PER_S;
use trunkline_wire::token::{FleetKey, Keyring};
use trunkline_wire::{AllocationId, Body, ClientFlow, DropReason, Egress, NodeId, Now, RelayId, Via};

pub use answer::Answer;
pub use client::*;
pub use draft::Draft;

/// Our relay addresses. Documentation ranges, which the policy denies unless they are ours.
pub const RELAY_V4: &str = "192.0.2.1";
pub const RELAY_V6: &str = "2001:db8::1";
/// An address of ours that is no relay address.
pub const OWN_V4: &str = "192.0.2.9";
pub const REALM: &str = "trunkline";
pub const NODE: NodeId = NodeId { site: 3, server: 9 };
pub const OTHER_NODE: NodeId = NodeId { site: 4, server: 1 };
/// Two peers and one of IPv6, in ranges that are nobody's special ones.
pub const PEER: &str = "198.41.0.4:7000";
pub const OTHER_PEER: &str = "199.7.91.13:7001";
pub const PEER_V6: &str = "[2606:4700::1]:7002";

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What a test may choose about its node before it starts.
pub struct Settings {
    pub node: NodeId,
    pub limits: Limits,
    pub quotas: Quotas,
    pub relay_ips: Vec<IpAddr>,
    /// How many slices of each relay address are ours; the others belong to [`OTHER_NODE`].
    pub slices: usize,
    pub keys: Keyring,
    pub seed: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: NODE,
            limits: Limits::default(),
            quotas: Quotas::default(),
            relay_ips: vec![RELAY_V4.parse().unwrap(), RELAY_V6.parse().unwrap()],
            slices: usize::MAX,
            keys: keyring(1),
            seed: 7,
        }
    }
}

pub fn keyring(id: u8) -> Keyring {
    Keyring::new(FleetKey { id, secret: [id; 16] }, vec![])
}

/// Static users, one key of the HTTP API and a shared secret.
pub fn credentials() -> Credentials {
    let secret = |text: &str| Secret::new(text.into());
    Credentials {
        static_secret: Some(secret("north")),
        users: [("alice", "wonderland"), ("bob", "builder")].map(|(name, p)| (name.into(), secret(p))).into(),
        keys: [("k1".into(), secret("key secret"))].into(),
        revoked: HashSet::new(),
    }
}

impl Settings {
    pub fn blocks(&self) -> Vec<RelayBlock> {
        let first = usize::from(RELAY_PORT_MIN >> SLICE_BITS);
        let block = |ip: &IpAddr| {
            let mut block = RelayBlock::owned_by(*ip, self.node);
            for owner in block.owners.iter_mut().skip(first.saturating_add(self.slices)) {
                *owner = Some(OTHER_NODE);
            }
            block
        };
        self.relay_ips.iter().map(block).collect()
    }

    /// The shards of one node.
    pub fn shards(self, count: u8) -> Vec<World> {
        let relay_ips = [RELAY_V4, RELAY_V6].map(|ip| ip.parse().unwrap());
        let policy = PeerPolicy::new(relay_ips, [OWN_V4.parse().unwrap()], vec![], vec![]).unwrap();
        let shared = Arc::new(Shared {
            ports: PortTable::new(self.node, self.blocks()),
            reservations: Reservations::default(),
            ledger: Ledger::new(self.quotas),
        });
        let config = Arc::new(Config {
            node: self.node,
            realm: REALM.into(),
            software: "Trunkline".into(),
            keyring: self.keys,
            policy,
            limits: self.limits,
        });
        let listeners = vec![at("192.0.2.1:3478"), at("[2001:db8::1]:3478")];
        let credentials = Arc::new(credentials());
        let world = |shard: u8| {
            let seed: [u8; 32] =
                std::array::from_fn(|place| self.seed ^ shard ^ (place as u8).wrapping_mul(29));
            let shard = ShardConfig { shard, seed, listeners: listeners.clone() };
            let (config, shared) = (Arc::clone(&config), Arc::clone(&shared));
            World::around(Server::new(config, Arc::clone(&shared), Arc::clone(&credentials), shard), shared)
        };
        (0..count).map(world).collect()
    }

    pub fn world(self) -> World {
        self.shards(1).remove(0)
    }
}

/// The relay sockets of a shard.
#[derive(Default)]
pub struct Sockets {
    pub open: BTreeMap<u64, (SocketAddr, AllocationId)>,
    /// Ports that something else on the machine uses.
    pub busy: HashSet<SocketAddr>,
    /// Whether the operating system gives no more sockets.
    pub exhausted: bool,
    next: u64,
}

impl RelaySockets for Sockets {
    fn open(&mut self, at: SocketAddr, allocation: AllocationId) -> Result<RelayId, OpenError> {
        if self.exhausted {
            return Err(OpenError::Exhausted);
        }
        if self.busy.contains(&at) {
            return Err(OpenError::InUse);
        }
        assert!(self.open.values().all(|(open, _)| *open != at), "{at} opened twice");
        self.next += 1;
        self.open.insert(self.next, (at, allocation));
        Ok(RelayId(self.next))
    }

    fn close(&mut self, relay: RelayId) {
        assert!(self.open.remove(&relay.0).is_some(), "closed twice");
    }
}

/// Something a server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub via: Via,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
    pub dont_fragment: bool,
}

pub struct World {
    pub now: Now,
    pub server: Server,
    pub sockets: Sockets,
    pub shared: Arc<Shared>,
    egress: Egress,
    input: Vec<u8>,
}

impl World {
    pub fn new() -> Self {
        Settings::default().world()
    }

    fn around(server: Server, shared: Arc<Shared>) -> Self {
        let now = Now { monotonic_ns: 1_000 * NS_PER_S, unix_s: 1_700_000_000 };
        let (egress, input) = (Egress::with_capacity(64), Vec::new());
        Self { now, server, sockets: Sockets::default(), shared, egress, input }
    }

    /// A client's datagram or stream frame comes in.
    pub fn receive(&mut self, flow: ClientFlow, message: &[u8]) -> Vec<Sent> {
        let body = self.place(message);
        let message = &self.input[body.range()];
        self.server.handle_client(self.now, flow, message, body, &mut self.sockets, &mut self.egress);
        self.sent()
    }

    /// A datagram of a peer comes in at a relay socket.
    pub fn receive_from_peer(&mut self, relayed: SocketAddr, peer: SocketAddr, payload: &[u8]) -> Vec<Sent> {
        let socket = self.sockets.open.values().find(|(open, _)| *open == relayed);
        let (_, id) = *socket.expect("a relay socket is open there");
        let body = self.place(payload);
        self.server.handle_peer(self.now, id, peer, body, &mut self.egress);
        self.sent()
    }

    /// A datagram comes from another shard or server of ours.
    pub fn receive_relayed(&mut self, relayed: SocketAddr, peer: SocketAddr, payload: &[u8]) -> Vec<Sent> {
        let body = self.place(payload);
        self.server.handle_relayed(self.now, relayed, peer, body, &mut self.egress);
        self.sent()
    }

    /// Time goes on; the server is called whenever it asked to be, as the shell does.
    pub fn advance(&mut self, seconds: u64) {
        let end_ns = self.now.after_s(seconds);
        while let Some(due_ns) = self.server.poll_timeout().filter(|due_ns| *due_ns <= end_ns) {
            self.set_monotonic(due_ns.max(self.now.monotonic_ns));
            self.server.handle_timeout(self.now, &mut self.sockets);
        }
        self.set_monotonic(end_ns);
    }

    /// The server goes over to the terms that `change` makes of its own.
    pub fn amend(&mut self, change: impl FnOnce(&mut Terms)) {
        let mut terms = self.server.terms();
        change(&mut terms);
        self.server.apply(&terms, &mut self.sockets);
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.server.counters().drops.of(reason)
    }

    /// Ports in use, those kept for reservations included.
    pub fn ports_held(&self) -> usize {
        self.shared.ports.usage().0
    }

    fn set_monotonic(&mut self, monotonic_ns: u64) {
        let elapsed_s = monotonic_ns / NS_PER_S - self.now.monotonic_ns / NS_PER_S;
        self.now = Now { monotonic_ns, unix_s: self.now.unix_s + elapsed_s };
    }

    /// Lets something happen while the batch has no room for another datagram.
    pub fn without_room(&mut self, happens: impl FnOnce(&mut Self)) {
        let roomy = std::mem::replace(&mut self.egress, Egress::with_capacity(0));
        happens(self);
        self.egress = roomy;
    }

    /// The relayed address that something was sent from.
    pub fn relay_of(&self, sent: &Sent) -> SocketAddr {
        let Via::Relay(relay) = sent.via else { panic!("not to a peer: {sent:?}") };
        self.sockets.open[&relay.0].0
    }

    /// Puts bytes where a batch's input lies, at an odd offset: nothing may count on alignment.
    fn place(&mut self, bytes: &[u8]) -> Body {
        self.input.clear();
        self.input.extend_from_slice(&[0xA5; 3]);
        self.input.extend_from_slice(bytes);
        Body::input(0, 3..self.input.len())
    }

    fn sent(&mut self) -> Vec<Sent> {
        let collect = |transmit: &trunkline_wire::egress::Transmit| {
            let from = if transmit.body.slot().is_some() { &self.input[..] } else { self.egress.arena() };
            let mut bytes = transmit.head.as_slice().to_vec();
            bytes.extend_from_slice(&from[transmit.body.range()]);
            bytes.resize(bytes.len() + usize::from(transmit.padding), 0);
            Sent { via: transmit.via, to: transmit.to, bytes, dont_fragment: transmit.dont_fragment }
        };
        let sent: Vec<Sent> = self.egress.transmits().iter().map(collect).collect();
        self.egress.clear();
        assert!(sent.len() <= 1, "one message in, at most one out");
        for sent in &sent {
            answer::assert_padding_is_zero(sent);
        }
        sent
    }
}
