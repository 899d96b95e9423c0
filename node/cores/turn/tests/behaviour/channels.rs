//! Channels (RFC 8656 §12).

use trunkline_turn::Limits;
use trunkline_wire::DropReason;
use trunkline_wire::stun::{Method, attribute as kind};

use crate::support::*;

fn bound() -> (World, Client, std::net::SocketAddr) {
    let mut world = World::new();
    let mut alice = Client::alice();
    assert_eq!(alice.ask(&mut world, Draft::allocate().lifetime(3_600)).code(), 0);
    let relayed = world.sockets.open.values().next().unwrap().0;
    alice.bind(&mut world, 0x4000, at(PEER));
    (world, alice, relayed)
}

#[test]
fn a_bound_channel_carries_data_both_ways_without_stun() {
    let (mut world, alice, relayed) = bound();
    let out = alice.send_on(&mut world, 0x4000, b"hello").unwrap();
    assert_eq!((world.relay_of(&out), out.to, &out.bytes[..]), (relayed, at(PEER), &b"hello"[..]));
    let back = world.receive_from_peer(relayed, at(PEER), b"hi").remove(0);
    assert_eq!((back.to, &back.bytes[..]), (alice.flow.remote, &b"\x40\0\0\x02hi"[..]));
    let other_port = world.receive_from_peer(relayed, at("198.41.0.4:7009"), b"hi").remove(0);
    assert_eq!(other_port.bytes[..2], [0, 0x17], "a permitted peer without a channel: a Data indication");
}

#[test]
fn channels_0x4000_to_0x7fff_can_be_bound_and_no_others() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    for channel in [0, 1, 0x3FFF, 0x8000, 0xFFFF] {
        assert_eq!(
            alice.ask(&mut world, Draft::channel_bind(channel, at(PEER))).code(),
            400,
            "{channel:04x}"
        );
    }
    for (port, channel) in [0x4000, 0x4FFF, 0x5000, 0x7FFE, 0x7FFF].into_iter().enumerate() {
        alice.bind(&mut world, channel, at(&format!("198.41.0.4:{}", 100 + port)));
        assert!(alice.send_on(&mut world, channel, b"x").is_some());
    }
}

#[test]
fn channel_bind_without_number_or_peer_gets_400() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    let without_peer = Draft::request(Method::ChannelBind).value(kind::CHANNEL_NUMBER, &[0x40, 0, 0, 0]);
    assert_eq!(alice.ask(&mut world, without_peer).code(), 400);
    assert_eq!(alice.ask(&mut world, Draft::request(Method::ChannelBind).peer(at(PEER))).code(), 400);
}

#[test]
fn same_channel_with_another_peer_and_same_peer_with_another_channel_get_400() {
    let (mut world, mut alice, _) = bound();
    for (channel, peer) in [(0x4000, OTHER_PEER), (0x4000, "198.41.0.4:7001"), (0x4001, PEER)] {
        assert_eq!(alice.ask(&mut world, Draft::channel_bind(channel, at(peer))).code(), 400);
    }
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x").unwrap().to, at(PEER));
    assert_eq!(alice.send_on(&mut world, 0x4001, b"x"), None);
    alice.bind(&mut world, 0x4001, at("198.41.0.4:7001"));
    alice.bind(&mut world, 0x4002, at(OTHER_PEER));
}

#[test]
fn a_channel_bind_that_is_refused_installs_no_permission() {
    let (mut world, mut alice, relayed) = bound();
    assert_eq!(alice.ask(&mut world, Draft::channel_bind(0x4000, at(OTHER_PEER))).code(), 400);
    assert_eq!(world.receive_from_peer(relayed, at(OTHER_PEER), b"x"), []);
}

#[test]
fn channel_expires_after_600_s_unless_it_is_bound_again() {
    let (mut world, mut alice, _) = bound();
    world.advance(500);
    alice.bind(&mut world, 0x4000, at(PEER));
    world.advance(599);
    assert!(alice.send_on(&mut world, 0x4000, b"x").is_some());
    world.advance(1);
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x"), None);
    assert_eq!(world.drops(DropReason::NoChannel), 1);
}

#[test]
fn channel_cannot_be_bound_elsewhere_for_300_s_after_its_600_s() {
    let (mut world, mut alice, _) = bound();
    for seconds in [599, 1, 150, 149] {
        world.advance(seconds);
        assert_eq!(alice.ask(&mut world, Draft::channel_bind(0x4000, at(OTHER_PEER))).code(), 400);
        assert_eq!(alice.ask(&mut world, Draft::channel_bind(0x4001, at(PEER))).code(), 400);
    }
    world.advance(1);
    alice.bind(&mut world, 0x4000, at(OTHER_PEER));
    alice.bind(&mut world, 0x4001, at(PEER));
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x").unwrap().to, at(OTHER_PEER));
    assert_eq!(alice.send_on(&mut world, 0x4001, b"x").unwrap().to, at(PEER));
}

#[test]
fn the_same_pair_may_come_back_while_it_rests() {
    let (mut world, mut alice, relayed) = bound();
    world.advance(700);
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x"), None);
    alice.bind(&mut world, 0x4000, at(PEER));
    assert!(alice.send_on(&mut world, 0x4000, b"x").is_some());
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x")[0].bytes[0], 0x40);
}

#[test]
fn a_live_channel_with_a_lapsed_permission_drops_what_the_peer_sends() {
    let (mut world, mut alice, relayed) = bound();
    world.advance(300);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x"), []);
    assert_eq!(world.drops(DropReason::NoPermission), 1);
    alice.permit(&mut world, at(PEER));
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x")[0].bytes[0], 0x40);
}

#[test]
fn an_expired_channel_with_a_live_permission_turns_into_data_indications() {
    let (mut world, mut alice, relayed) = bound();
    world.advance(400);
    alice.permit(&mut world, at(PEER));
    world.advance(200);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x")[0].bytes[..2], [0, 0x17]);
}

#[test]
fn channels_of_an_allocation_are_capped_with_508() {
    let limits = Limits { channels_max: 2, ..Limits::default() };
    let mut world = Settings { limits, ..Settings::default() }.world();
    let mut alice = Client::alice();
    assert_eq!(alice.ask(&mut world, Draft::allocate().lifetime(3_600)).code(), 0);
    alice.bind(&mut world, 0x4000, at("198.41.0.4:1"));
    alice.bind(&mut world, 0x4001, at("198.41.0.4:2"));
    assert_eq!(alice.ask(&mut world, Draft::channel_bind(0x4002, at("198.41.0.4:3"))).code(), 508);
    alice.bind(&mut world, 0x4001, at("198.41.0.4:2"));
    world.advance(900);
    alice.bind(&mut world, 0x4002, at("198.41.0.4:3"));
}

#[test]
fn channels_belong_to_their_allocation() {
    let (mut world, _, _) = bound();
    let mut bob = Client::bob();
    bob.allocate(&mut world);
    assert_eq!(bob.send_on(&mut world, 0x4000, b"x"), None);
    bob.bind(&mut world, 0x4000, at(OTHER_PEER));
    assert_eq!(bob.send_on(&mut world, 0x4000, b"x").unwrap().to, at(OTHER_PEER));
}
