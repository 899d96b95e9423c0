//! What a shard does with packets that landed on the wrong server, and with those that others pass on.

use std::net::SocketAddr;
use std::sync::Arc;

use trunkline_shard::{Ingress, Shard};
use trunkline_turn::credentials::Credentials;
use trunkline_turn::policy::PeerPolicy;
use trunkline_turn::ports::{Parity, PortTable, RelayBlock, Reservations};
use trunkline_turn::quota::{Ledger, Quotas};
use trunkline_turn::{Config, Limits, OpenError, RelaySockets, Server, ShardConfig, Shared};
use trunkline_wire::token::{FleetKey, Keyring};
use trunkline_wire::{AllocationId, Body, DropReason, Egress, NodeId, Now, RelayId, Transmit, Via, gue};

const NOW: Now = Now { monotonic_ns: 1, unix_s: 1_700_000_000 };
const OURS: NodeId = NodeId { site: 1, server: 1 };
const OTHER: NodeId = NodeId { site: 1, server: 2 };
/// In the slice of the other server; everything else is ours.
const FOREIGN_PORT: u16 = 12_000;
const RELAY: [u8; 4] = [198, 51, 100, 1];

/// No allocation is made here.
struct NoSockets;

impl RelaySockets for NoSockets {
    fn open(&mut self, _: SocketAddr, _: AllocationId) -> Result<RelayId, OpenError> {
        Err(OpenError::Exhausted)
    }

    fn close(&mut self, _: RelayId) {}
}

struct World {
    shard: Shard,
    shared: Arc<Shared>,
    egress: Egress,
}

impl World {
    fn new() -> Self {
        let mut block = RelayBlock::owned_by(RELAY.into(), OURS);
        block.owners[usize::from(FOREIGN_PORT >> 10)] = Some(OTHER);
        let config = Arc::new(Config {
            node: OURS,
            realm: "trunkline".into(),
            software: String::new(),
            keyring: keyring(1),
            policy: PeerPolicy::new([RELAY.into()], [], vec![], vec![]).unwrap(),
            limits: Limits::default(),
        });
        let shared = Arc::new(Shared {
            ports: PortTable::new(OURS, vec![block]),
            reservations: Reservations::default(),
            ledger: Ledger::new(Quotas::default()),
        });
        let own = ShardConfig { shard: 0, seed: [7; 32], listeners: vec![] };
        let turn = Server::new(config, Arc::clone(&shared), Arc::new(Credentials::default()), own);
        let shard = Shard::new(turn, 0);
        Self { shard, shared, egress: Egress::with_capacity(8) }
    }

    fn handle(&mut self, ingress: Ingress, bytes: &[u8]) -> Vec<Transmit> {
        self.egress.clear();
        let body = Body::input(0, 0..bytes.len());
        self.shard.handle(NOW, ingress, bytes, body, &mut NoSockets, &mut self.egress);
        self.egress.transmits().to_vec()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.shard.turn.counters().drops.of(reason)
    }
}

fn keyring(secret: u8) -> Keyring {
    Keyring::new(FleetKey { id: 1, secret: [secret; 16] }, vec![])
}

fn peer() -> SocketAddr {
    "203.0.113.5:7000".parse().unwrap()
}

fn relay(port: u16) -> SocketAddr {
    (RELAY, port).into()
}

/// A peer's packet to one of the fleet's ports, as it travels between two servers.
fn encapsulated(secret: u8, port: u16) -> Vec<u8> {
    let mut bytes = vec![];
    assert!(gue::seal(&keyring(secret), OTHER, peer(), relay(port), b"payload", &mut bytes));
    bytes
}

/// The same as a raw socket sees it: without the encapsulation.
fn stray(port: u16) -> Vec<u8> {
    encapsulated(1, port).split_off(gue::HEADER_BYTES)
}

#[test]
fn a_stray_goes_to_the_owner_of_its_port_with_its_sender_and_payload() {
    let packet = stray(FOREIGN_PORT);
    let sent = World::new().handle(Ingress::Stray, &packet);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].via, Via::Node { node: OTHER, from: peer() });
    assert_eq!(sent[0].to, relay(FOREIGN_PORT));
    assert_eq!(&packet[sent[0].body.range()], b"payload");
}

#[test]
fn a_stray_to_a_port_of_ours_or_of_nobody_is_dropped_and_counted() {
    let mut world = World::new();
    for packet in [stray(20_000), stray(80), b"garbage".to_vec()] {
        assert!(world.handle(Ingress::Stray, &packet).is_empty());
    }
    assert_eq!(world.dropped(DropReason::NoOwner), 3);
}

#[test]
fn an_encapsulated_packet_for_another_shard_is_handed_to_it() {
    let mut world = World::new();
    let lease = world.shared.ports.lease(RELAY.into(), 3, Parity::Any, 99).unwrap();
    let bytes = encapsulated(1, lease.at().port());
    let sent = world.handle(Ingress::Encapsulated, &bytes);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].via, Via::Shard { shard: 3, from: peer() });
    assert_eq!((sent[0].to, &bytes[sent[0].body.range()]), (lease.at(), &b"payload"[..]));
}

#[test]
fn an_encapsulated_packet_is_never_passed_on_to_a_third_server() {
    let mut world = World::new();
    assert!(world.handle(Ingress::Encapsulated, &encapsulated(1, FOREIGN_PORT)).is_empty());
    assert_eq!(world.dropped(DropReason::WrongOwner), 1);
}

#[test]
fn an_encapsulated_packet_without_a_live_allocation_or_from_a_stranger_is_dropped_and_counted() {
    let mut world = World::new();
    assert!(world.handle(Ingress::Encapsulated, &encapsulated(1, 20_000)).is_empty());
    assert_eq!(world.dropped(DropReason::NoSuchRelay), 1);
    assert!(world.handle(Ingress::Encapsulated, &encapsulated(2, 20_000)).is_empty());
    assert_eq!(world.dropped(DropReason::BadEncapsulation), 1);
}
