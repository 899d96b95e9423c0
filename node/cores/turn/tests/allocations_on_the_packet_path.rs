//! No heap allocation for a packet: what is relayed goes through [`Server`] and [`Egress`] without touching the heap.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "another test program uses the rest of the world")]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use counting::{CountingAllocator, tally};
use support::{Client, Draft, PEER, PEER_V6, Settings, World, at, channel_data};
use trunkline_turn::client_policy::ClientRules;
use trunkline_turn::policer::{PolicerLimits, Rate};
use trunkline_turn::{ClientPolicy, Limits};
use trunkline_wire::{Body, ClientFlow, DropReason, Egress, Now, Transport, Via};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const PACKETS: u64 = 10_000;
/// A shell's batch: so many packets in, then the egress is emptied.
const BATCH: usize = 32;

fn unpoliced() -> World {
    let policer = PolicerLimits { bytes: Rate::UNLIMITED, packets: Rate::UNLIMITED };
    Settings { limits: Limits { policer, ..Limits::default() }, ..Settings::default() }.world()
}

/// Where every packet of a run must leave, with how many bytes.
#[derive(Clone, Copy)]
struct Expected {
    via: fn(&Via) -> bool,
    bytes: usize,
}

/// Hands packets in batches to `handle` and counts what that does to the heap, after one batch of warm-up.
fn heap_allocations(
    now: Now,
    expected: Expected,
    mut handle: impl FnMut(Now, Body, &mut Egress),
    length: usize,
) -> u64 {
    let mut egress = Egress::with_capacity(BATCH);
    let (mut relayed, mut before, mut now) = (0, 0, now);
    while relayed < PACKETS + BATCH as u64 {
        if relayed >= BATCH as u64 && before == 0 {
            before = tally().allocations;
        }
        egress.clear();
        for _ in 0..BATCH {
            now.monotonic_ns += 1_000;
            handle(now, Body::input(0, 0..length), &mut egress);
        }
        assert_eq!(egress.transmits().len(), BATCH, "every packet is relayed");
        for transmit in egress.transmits() {
            let bytes = transmit.head.as_slice().len() + transmit.body.len() + usize::from(transmit.padding);
            assert!((expected.via)(&transmit.via) && bytes == expected.bytes, "{transmit:?}");
        }
        relayed += BATCH as u64;
    }
    tally().allocations - before
}

fn from_client(world: &mut World, flow: ClientFlow, message: &[u8], expected: Expected) -> u64 {
    let World { now, server, sockets, .. } = world;
    let handle = |now: Now, body: Body, egress: &mut Egress| {
        server.handle_client(now, flow, message, body, sockets, egress)
    };
    heap_allocations(*now, expected, handle, message.len())
}

fn from_peer(world: &mut World, peer: SocketAddr, length: usize, expected: Expected) -> u64 {
    let family = |at: &SocketAddr| at.is_ipv4() == peer.is_ipv4();
    let (_, id) = *world.sockets.open.values().find(|(at, _)| family(at)).unwrap();
    let World { now, server, .. } = world;
    let handle = |now: Now, body: Body, egress: &mut Egress| server.handle_peer(now, id, peer, body, egress);
    heap_allocations(*now, expected, handle, length)
}

fn to_peer(via: &Via) -> bool {
    matches!(via, Via::Relay(_))
}

fn to_client(via: &Via) -> bool {
    matches!(via, Via::Client(_))
}

/// An allocation of both families; the IPv4 peer has a channel, the IPv6 peer a permission.
fn established(transport: Transport) -> (World, Client) {
    let mut world = unpoliced();
    let mut alice = Client::alice_over(transport);
    assert_eq!(alice.ask(&mut world, Draft::allocate().additional_family(2)).code(), 0);
    alice.bind(&mut world, 0x4000, at(PEER));
    alice.permit(&mut world, at(PEER_V6));
    (world, alice)
}

#[test]
fn the_counter_counts() {
    let before = tally();
    let boxed = std::hint::black_box(Box::new([1_u8; 100]));
    assert_eq!(tally().allocations - before.allocations, 1);
    assert_eq!(tally().live_bytes - before.live_bytes, 100);
    drop(boxed);
    assert_eq!(tally().live_bytes, before.live_bytes);
}

#[test]
fn channel_data_in_either_direction_allocates_nothing() {
    for (transport, padded) in [(Transport::Udp, 4 + 999), (Transport::Tcp, 4 + 1_000)] {
        let (mut world, alice) = established(transport);
        let message = channel_data(0x4000, &[7; 999]);
        let expected = Expected { via: to_peer, bytes: 999 };
        assert_eq!(from_client(&mut world, alice.flow, &message, expected), 0);
        let expected = Expected { via: to_client, bytes: padded };
        assert_eq!(from_peer(&mut world, at(PEER), 999, expected), 0);
    }
}

#[test]
fn send_and_data_indications_allocate_nothing() {
    for transport in [Transport::Udp, Transport::Tls] {
        let (mut world, alice) = established(transport);
        let message = Draft::send(at(PEER_V6), &[7; 999]).fingerprint().bytes();
        let expected = Expected { via: to_peer, bytes: 999 };
        assert_eq!(from_client(&mut world, alice.flow, &message, expected), 0);
        let expected = Expected { via: to_client, bytes: 20 + 24 + 4 + 1_000 };
        assert_eq!(from_peer(&mut world, at(PEER_V6), 999, expected), 0);
    }
}

#[test]
fn relay_to_relay_allocates_nothing() {
    let mut world = unpoliced();
    let (mut alice, mut bob) = (Client::alice(), Client::bob());
    let (a, b) = (alice.allocate(&mut world), bob.allocate(&mut world));
    alice.bind(&mut world, 0x4000, b);
    bob.bind(&mut world, 0x4001, a);
    let message = channel_data(0x4000, &[7; 999]);
    let expected = Expected { via: to_client, bytes: 4 + 999 };
    assert_eq!(from_client(&mut world, alice.flow, &message, expected), 0);
}

#[test]
fn towards_another_shard_and_from_it_allocates_nothing() {
    let policer = PolicerLimits { bytes: Rate::UNLIMITED, packets: Rate::UNLIMITED };
    let limits = Limits { policer, ..Limits::default() };
    let mut shards = Settings { limits, ..Settings::default() }.shards(2);
    let (mut alice, mut bob) = (Client::alice(), Client::bob());
    let a = alice.allocate(&mut shards[0]);
    let b = bob.allocate_towards(&mut shards[1], a);
    alice.bind(&mut shards[0], 0x4000, b);
    let message = channel_data(0x4000, &[7; 999]);
    let expected = Expected { via: |via| matches!(via, Via::Shard { shard: 1, .. }), bytes: 999 };
    assert_eq!(from_client(&mut shards[0], alice.flow, &message, expected), 0);
    let World { now, server, .. } = &mut shards[1];
    let expected = Expected { via: to_client, bytes: 20 + 12 + 4 + 1_000 };
    let handle = |now: Now, body: Body, egress: &mut Egress| server.handle_relayed(now, b, a, body, egress);
    assert_eq!(heap_allocations(*now, expected, handle, 999), 0);
}

#[test]
fn what_is_dropped_allocates_nothing() {
    let (mut world, alice) = established(Transport::Udp);
    let (flow, stranger) = (alice.flow, Client::bob().flow);
    let (no_channel, no_permission) =
        (channel_data(0x4fff, b"x"), Draft::send(at("199.7.91.13:1"), b"x").bytes());
    let (to_nobody, stale) = (channel_data(0x4000, b"x"), Draft::send(at(PEER), b"x").bytes());
    let garbage = [
        0, 1, 0, 8, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 6, 0xFF, 0xFF, 0, 0, 0,
        0,
    ];
    let cases: [(ClientFlow, &[u8]); 6] = [
        (flow, &no_channel),
        (flow, &no_permission),
        (stranger, &to_nobody),
        (stranger, &stale),
        (stranger, &garbage),
        (stranger, b"\x80rtp"),
    ];
    let mut egress = Egress::with_capacity(BATCH);
    let World { now, server, sockets, .. } = &mut world;
    let before = (tally().allocations, server.counters().drops.total());
    for _ in 0..PACKETS {
        for (flow, message) in cases {
            server.handle_client(*now, flow, message, Body::input(0, 0..message.len()), sockets, &mut egress);
        }
    }
    let after = (tally().allocations, server.counters().drops.total());
    assert_eq!(after, (before.0, before.1 + 6 * PACKETS));
}

#[test]
fn usage_that_is_asked_for_and_a_client_policy_allocate_nothing_for_a_packet() {
    let (mut world, alice) = established(Transport::Udp);
    let deny = vec!["203.0.113.0/24".parse().unwrap()];
    let rules = ClientRules { deny, ..ClientRules::default() };
    world.amend(|terms| terms.clients = Arc::new(ClientPolicy::new(rules, None)));
    let denied = ClientFlow { remote: at("203.0.113.5:1"), ..alice.flow };
    let message = channel_data(0x4000, &[7; 999]);
    let mut egress = Egress::with_capacity(BATCH);
    let World { now, server, sockets, .. } = &mut world;
    for _ in 0..100 {
        assert_eq!(server.take_usage().len(), 1);
        let before = tally().allocations;
        egress.clear();
        for flow in [alice.flow, denied] {
            server.handle_client(
                *now,
                flow,
                &message,
                Body::input(0, 0..message.len()),
                sockets,
                &mut egress,
            );
            server.handle_client(*now, denied, &[0xFF; 7], Body::input(0, 0..7), sockets, &mut egress);
        }
        assert_eq!((egress.transmits().len(), tally().allocations), (1, before));
    }
    assert_eq!(server.counters().drops.of(DropReason::ClientDenied), 300);
}
