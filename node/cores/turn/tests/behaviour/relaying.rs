//! The packet path: Send and Data indications, ChannelData, every size, and between our own allocations
//! (RFC 8656 §11, §12).

use trunkline_turn::Limits;
use trunkline_turn::policer::PolicerLimits;
use trunkline_turn::policer::Rate;
use trunkline_wire::stun::{Method, attribute as kind};
use trunkline_wire::{DropReason, Transport, Via};

use crate::support::*;

fn unpoliced() -> Settings {
    let policer = PolicerLimits { bytes: Rate::UNLIMITED, packets: Rate::UNLIMITED };
    Settings { limits: Limits { policer, ..Limits::default() }, ..Settings::default() }
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 31 + 7) as u8).collect()
}

/// Peer and payload of a Data indication.
fn data_indication(bytes: &[u8]) -> (std::net::SocketAddr, Vec<u8>) {
    let answer = Answer::parse(bytes);
    assert_eq!(answer.type_field, 0x0017);
    (answer.addresses(kind::XOR_PEER_ADDRESS)[0], answer.value(kind::DATA).unwrap().to_vec())
}

/// Lengths around every boundary there is; 65,507 is the largest UDP payload over IPv4.
fn lengths() -> impl Iterator<Item = usize> {
    (0..70).chain([1_199, 1_200, 1_471, 1_472, 1_473, 8_972, 16_383, 32_767, 32_768]).chain(65_450..=65_507)
}

#[test]
fn every_size_from_0_to_65507_is_relayed_unmodified() {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        let mut world = unpoliced().world();
        let mut alice = Client::alice_over(transport);
        let relayed = alice.allocate_towards(&mut world, at(OTHER_PEER));
        alice.bind(&mut world, 0x4000, at(PEER));
        for length in lengths() {
            let data = payload(length);
            assert_eq!(alice.send_on(&mut world, 0x4000, &data).unwrap().bytes, data);
            let sent = world.receive_from_peer(relayed, at(PEER), &data).remove(0);
            assert_eq!(sent.bytes[..2], [0x40, 0]);
            assert_eq!(usize::from(u16::from_be_bytes([sent.bytes[2], sent.bytes[3]])), length);
            assert_eq!(sent.bytes[4..4 + length], data);
            let indicated = world.receive_from_peer(relayed, at(OTHER_PEER), &data).remove(0);
            assert_eq!(data_indication(&indicated.bytes), (at(OTHER_PEER), data.clone()));
            if length <= 65_480 {
                assert_eq!(alice.send_to(&mut world, at(OTHER_PEER), &data).unwrap().bytes, data);
            }
        }
        assert_eq!(world.server.counters().drops.total(), 0);
    }
}

#[test]
fn what_does_not_fit_its_message_is_dropped_and_counted() {
    let mut world = unpoliced().world();
    let mut alice = Client::alice_over(Transport::Tcp);
    let relayed = alice.allocate_towards(&mut world, at(OTHER_PEER));
    alice.bind(&mut world, 0x4000, at(PEER));
    let largest = payload(65_535);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), &largest)[0].bytes.len(), 65_540);
    assert_eq!(world.receive_from_peer(relayed, at(OTHER_PEER), &largest), []);
    assert_eq!(world.drops(DropReason::TooLarge), 1);
    let most = payload(65_535 - 3 - 12 - 4);
    let sent = world.receive_from_peer(relayed, at(OTHER_PEER), &most).remove(0);
    assert_eq!(data_indication(&sent.bytes).1, most);
}

#[test]
fn channel_data_to_a_stream_is_padded_to_4_with_zeros_and_to_udp_is_not() {
    for (transport, expected) in [(Transport::Udp, 7), (Transport::Tcp, 8), (Transport::Tls, 8)] {
        let mut world = World::new();
        let mut alice = Client::alice_over(transport);
        let relayed = alice.allocate(&mut world);
        alice.bind(&mut world, 0x4000, at(PEER));
        let sent = world.receive_from_peer(relayed, at(PEER), b"abc").remove(0);
        assert_eq!(sent.bytes, b"\x40\0\0\x03abc\0"[..expected]);
    }
}

#[test]
fn trailing_bytes_of_channel_data_are_tolerated_and_a_length_beyond_the_datagram_is_dropped() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, at(PEER));
    let sent = world.receive(alice.flow, b"\x40\0\0\x02ab\xff\xff\xff").remove(0);
    assert_eq!(sent.bytes, b"ab");
    for short in [&b"\x40\0\0\x03ab"[..], b"\x40\0\xff\xffab", b"\x40\0\0", b"\x40"] {
        assert_eq!(world.receive(alice.flow, short), []);
    }
    assert_eq!(world.drops(DropReason::MalformedChannelData), 4);
}

#[test]
fn dont_fragment_is_honoured_on_relayed_packets() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let answer = alice.ask(&mut world, Draft::allocate().value(kind::DONT_FRAGMENT, &[]));
    assert_eq!(answer.code(), 0);
    alice.permit(&mut world, at(PEER));
    let with = Draft::send(at(PEER), b"x").value(kind::DONT_FRAGMENT, &[]);
    assert!(world.receive(alice.flow, &with.bytes())[0].dont_fragment);
    assert!(!alice.send_to(&mut world, at(PEER), b"x").unwrap().dont_fragment);
}

#[test]
fn an_incomplete_or_odd_send_indication_is_dropped_and_counted() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate_towards(&mut world, at(PEER));
    let incomplete = [
        Draft::indication(Method::Send).peer(at(PEER)),
        Draft::indication(Method::Send).value(kind::DATA, b"x"),
        Draft::indication(Method::Send),
        Draft::send(at(PEER), b"x").value(0x7777, b"unknown"),
        Draft::indication(Method::Send).value(kind::XOR_PEER_ADDRESS, b"bad").value(kind::DATA, b"x"),
    ];
    for draft in incomplete {
        assert_eq!(world.receive(alice.flow, &draft.bytes()), []);
    }
    assert_eq!(world.drops(DropReason::BadIndication), 5);
    let optional = Draft::send(at(PEER), b"x").value(0x9999, b"optional").fingerprint();
    assert_eq!(world.receive(alice.flow, &optional.bytes())[0].bytes, b"x");
}

#[test]
fn data_of_a_client_without_an_allocation_is_dropped_and_counted() {
    let mut world = World::new();
    let mut alice = Client::alice();
    assert_eq!(alice.send_to(&mut world, at(PEER), b"x"), None);
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x"), None);
    assert_eq!(world.drops(DropReason::NoAllocation), 2);
}

#[test]
fn what_was_relayed_is_counted_for_the_server_and_the_allocation() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, at(PEER));
    alice.send_on(&mut world, 0x4000, b"12345");
    alice.send_to(&mut world, at(PEER), b"");
    world.receive_from_peer(relayed, at(PEER), b"123");
    let summary = world.server.summaries(world.now).remove(0);
    for (traffic, packets, bytes) in [(summary.to_peer, 2, 5), (summary.to_client, 1, 3)] {
        assert_eq!((traffic.packets, traffic.bytes), (packets, bytes));
    }
    assert_eq!(world.server.counters().to_peer, summary.to_peer);
    assert_eq!(world.server.counters().to_client, summary.to_client);
    assert_eq!((summary.relays, summary.username), (vec![relayed], "alice".to_string()));
}

#[test]
fn two_allocations_of_a_shard_reach_each_other_without_the_kernel() {
    let mut world = World::new();
    let (mut alice, mut bob) = (Client::alice(), Client::bob());
    let (a, b) = (alice.allocate(&mut world), bob.allocate(&mut world));
    alice.bind(&mut world, 0x4000, b);
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x"), None, "bob permits nobody yet");
    assert_eq!(world.drops(DropReason::NoPermission), 1);
    bob.permit(&mut world, a);
    let sent = alice.send_on(&mut world, 0x4000, b"hello").unwrap();
    assert_eq!((sent.via, sent.to), (Via::Client(bob.flow), bob.flow.remote));
    assert_eq!(data_indication(&sent.bytes), (a, b"hello".to_vec()));
    let back = bob.send_to(&mut world, a, b"hi").unwrap();
    assert_eq!((back.via, &back.bytes[..]), (Via::Client(alice.flow), &b"\x40\0\0\x02hi"[..]));
    bob.ask(&mut world, Draft::refresh(0));
    assert_eq!(alice.send_on(&mut world, 0x4000, b"late"), None);
    assert_eq!(world.drops(DropReason::NoSuchRelay), 1);
}

#[test]
fn an_allocation_of_another_shard_is_reached_through_that_shard() {
    let mut shards = Settings::default().shards(2);
    let mut second = shards.pop().unwrap();
    let mut first = shards.pop().unwrap();
    let (mut alice, mut bob) = (Client::alice(), Client::bob());
    let a = alice.allocate(&mut first);
    let b = bob.allocate_towards(&mut second, a);
    alice.permit(&mut first, b);
    let sent = alice.send_to(&mut first, b, b"hello").unwrap();
    assert_eq!((sent.via, sent.to), (Via::Shard { shard: 1, from: a }, b));
    let delivered = second.receive_relayed(b, a, &sent.bytes).remove(0);
    assert_eq!(delivered.via, Via::Client(bob.flow));
    assert_eq!(data_indication(&delivered.bytes), (a, b"hello".to_vec()));
}

#[test]
fn a_port_of_another_server_is_reached_through_that_server() {
    let mut world = Settings { slices: 4, ..Settings::default() }.world();
    let mut alice = Client::alice();
    let theirs = at("192.0.2.1:60000");
    let a = alice.allocate_towards(&mut world, theirs);
    assert!(a.port() < 9_216 + 4 * 1_024);
    let sent = alice.send_to(&mut world, theirs, b"hello").unwrap();
    assert_eq!(sent.via, Via::Node { node: OTHER_NODE, from: a });
}

#[test]
fn a_port_of_ours_without_an_allocation_is_nobodys_and_never_reaches_the_kernel() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let a = alice.allocate_towards(&mut world, at("192.0.2.1:0"));
    for port in [0, 22, 80, 3_478, 5_349, 8_080, 9_215, if a.port() == 50_000 { 50_001 } else { 50_000 }] {
        assert_eq!(alice.send_to(&mut world, at(&format!("192.0.2.1:{port}")), b"x"), None);
    }
    assert_eq!(world.drops(DropReason::NoSuchRelay), 8);
    assert_eq!(world.receive_relayed(at("192.0.2.1:3478"), a, b"x"), []);
}

#[test]
fn what_finds_the_egress_full_is_dropped_and_counted() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate_towards(&mut world, at(PEER));
    world.without_room(|world| {
        assert_eq!(alice.send_to(world, at(PEER), b"x"), None);
        assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x"), []);
    });
    assert_eq!(world.drops(DropReason::EgressFull), 2);
}
