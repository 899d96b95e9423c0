//! Permissions and the peer policy on every path (RFC 8656 §9, §10; threats 1 to 6).

use std::net::{Ipv4Addr, SocketAddr};

use trunkline_turn::Limits;
use trunkline_turn::policer::Rate;
use trunkline_wire::DropReason;

use crate::support::*;

#[test]
fn permission_expires_after_300_s() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate_towards(&mut world, at(PEER));
    world.advance(299);
    assert!(alice.send_to(&mut world, at(PEER), b"x").is_some());
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x").len(), 1);
    world.advance(1);
    assert_eq!(alice.send_to(&mut world, at(PEER), b"x"), None);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x"), []);
    assert_eq!(world.drops(DropReason::NoPermission), 2);
}

#[test]
fn create_permission_refreshes_a_permission() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate_towards(&mut world, at(PEER));
    world.advance(200);
    alice.permit(&mut world, at(PEER));
    world.advance(299);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x").len(), 1);
    world.advance(1);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x"), []);
}

#[test]
fn neither_send_nor_what_comes_back_refreshes_a_permission() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate_towards(&mut world, at(PEER));
    for _ in 0..299 {
        world.advance(1);
        assert!(alice.send_to(&mut world, at(PEER), b"x").is_some());
        assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x").len(), 1);
    }
    world.advance(1);
    assert_eq!(alice.send_to(&mut world, at(PEER), b"x"), None);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x"), []);
}

#[test]
fn channel_bind_installs_and_refreshes_the_permission() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, at(PEER));
    world.advance(200);
    alice.bind(&mut world, 0x4000, at(PEER));
    world.advance(299);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x").len(), 1);
    world.advance(1);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x"), []);
}

#[test]
fn permissions_are_per_address_whatever_the_port() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate_towards(&mut world, at("198.41.0.4:0"));
    for port in [1, 7000, 65_535] {
        let peer = SocketAddr::new(at(PEER).ip(), port);
        assert!(alice.send_to(&mut world, peer, b"x").is_some());
        assert_eq!(world.receive_from_peer(relayed, peer, b"x").len(), 1);
    }
    assert_eq!(world.receive_from_peer(relayed, at("198.41.0.5:7000"), b"x"), []);
}

#[test]
fn create_permission_is_all_or_nothing() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate(&mut world);
    for (bad, code) in [("127.0.0.1:1", 403), (PEER_V6, 443)] {
        for peers in [[at(PEER), at(bad)], [at(bad), at(PEER)]] {
            assert_eq!(alice.ask(&mut world, Draft::create_permission(&peers)).code(), code);
            assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x"), []);
        }
    }
    let both = Draft::create_permission(&[at(PEER), at(OTHER_PEER)]);
    assert_eq!(alice.ask(&mut world, both).code(), 0);
    for peer in [PEER, OTHER_PEER] {
        assert_eq!(world.receive_from_peer(relayed, at(peer), b"x").len(), 1);
    }
}

#[test]
fn create_permission_that_exceeds_a_cap_installs_none() {
    let limits = Limits { permissions_max: 3, ..Limits::default() };
    let mut world = Settings { limits, ..Settings::default() }.world();
    let mut alice = Client::alice();
    let relayed = alice.allocate(&mut world);
    let peers: Vec<_> = (1..=4).map(|host| at(&format!("198.41.0.{host}:9"))).collect();
    assert_eq!(alice.ask(&mut world, Draft::create_permission(&peers)).code(), 508);
    assert!(peers.iter().all(|peer| world.receive_from_peer(relayed, *peer, b"x").is_empty()));
    assert_eq!(alice.ask(&mut world, Draft::create_permission(&peers[..3])).code(), 0);
    assert_eq!(alice.ask(&mut world, Draft::create_permission(&peers[3..])).code(), 508);
    assert_eq!(
        alice.ask(&mut world, Draft::create_permission(&peers[..3])).code(),
        0,
        "refreshing is no new one"
    );
    world.advance(301);
    assert_eq!(
        alice.ask(&mut world, Draft::create_permission(&peers[3..])).code(),
        0,
        "lapsed ones make room"
    );
}

#[test]
fn create_permission_without_a_peer_gets_400() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    assert_eq!(alice.ask(&mut world, Draft::create_permission(&[])).code(), 400);
}

/// One address of every range that is denied by default, and our own address that is no relay.
const SPECIAL: [&str; 25] = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.77",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    OWN_V4,
    // Our relay addresses pass in their plain form only; here they are encoded in IPv6 below.
    "198.19.255.255",
    "100.127.255.255",
    "10.255.255.255",
    "192.168.255.255",
];
const SPECIAL_V6: [&str; 12] = [
    "::",
    "::1",
    "fe80::1",
    "febf::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::2",
    "fec0::1",
    "2001::1",
    "64:ff9b:1::1",
    "100::1",
];

/// A special address as it is and in each of its IPv6 encodings.
fn specials() -> Vec<SocketAddr> {
    let v4s: Vec<Ipv4Addr> = SPECIAL.iter().map(|text| text.parse().unwrap()).collect();
    let encoded = |v4: Ipv4Addr| {
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        [
            format!("[::ffff:{v4}]:80"),
            format!("[::{high:x}:{low:x}]:80"),
            format!("[64:ff9b::{high:x}:{low:x}]:80"),
            format!("[2002:{high:x}:{low:x}::1]:80"),
        ]
    };
    let relay: Ipv4Addr = RELAY_V4.parse().unwrap();
    let plain = v4s.iter().map(|v4| format!("{v4}:80"));
    let v6 = SPECIAL_V6.iter().map(|text| format!("[{text}]:80"));
    let texts = plain.chain(v6).chain(v4s.iter().copied().chain([relay]).flat_map(encoded));
    texts.map(|text| at(&text)).collect()
}

#[test]
fn denied_peer_gets_403_on_create_permission_and_channel_bind_and_send_to_it_is_dropped_and_counted() {
    let limits = Limits { new_peers: Rate::UNLIMITED, ..Limits::default() };
    let mut world = Settings { limits, ..Settings::default() }.world();
    let mut alice = Client::alice();
    let answer = alice.ask(&mut world, Draft::allocate().additional_family(2));
    assert_eq!(answer.relayed().len(), 2);
    let specials = specials();
    assert!(specials.len() > 130);
    for peer in &specials {
        assert_eq!(alice.ask(&mut world, Draft::create_permission(&[*peer])).code(), 403, "{peer}");
        assert_eq!(alice.ask(&mut world, Draft::channel_bind(0x4000, *peer)).code(), 403, "{peer}");
        assert_eq!(alice.send_to(&mut world, *peer, b"x"), None, "{peer}");
        assert_eq!(alice.send_on(&mut world, 0x4000, b"x"), None, "{peer}");
    }
    assert_eq!(world.drops(DropReason::PeerDenied), specials.len() as u64);
    let packets = world.server.counters().to_peer.packets;
    assert_eq!(packets, 0, "nothing left through a relay");
}

#[test]
fn a_send_without_permission_to_an_ordinary_peer_is_counted_as_that() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    assert_eq!(alice.send_to(&mut world, at(PEER), b"x"), None);
    assert_eq!((world.drops(DropReason::NoPermission), world.drops(DropReason::PeerDenied)), (1, 0));
}
