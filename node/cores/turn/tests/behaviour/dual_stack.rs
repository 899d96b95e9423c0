//! Relays of both families (RFC 8656 §7.2, §8): REQUESTED- and ADDITIONAL-ADDRESS-FAMILY.

use trunkline_wire::DropReason;

use crate::support::*;

fn without_v6() -> World {
    Settings { relay_ips: vec![RELAY_V4.parse().unwrap()], ..Settings::default() }.world()
}

/// An allocation of both families with a permission for a peer of each.
fn dual(world: &mut World) -> (Client, [std::net::SocketAddr; 2]) {
    let mut alice = Client::alice();
    let answer = alice.ask(world, Draft::allocate().additional_family(2));
    let relayed = answer.relayed();
    assert_eq!((answer.code(), relayed.len(), answer.address_error()), (0, 2, None));
    assert!(relayed[0].is_ipv4() && relayed[1].is_ipv6());
    let both = alice.ask(world, Draft::create_permission(&[at(PEER), at(PEER_V6)]));
    assert_eq!(both.code(), 0);
    (alice, [relayed[0], relayed[1]])
}

#[test]
fn requested_family_decides_and_an_unsupported_one_gets_440() {
    let mut world = World::new();
    let v6 = Client::alice().ask(&mut world, Draft::allocate().family(2)).relayed();
    assert!(v6.len() == 1 && v6[0].is_ipv6());
    let v4 = Client::bob().ask(&mut world, Draft::allocate().family(1)).relayed();
    assert!(v4.len() == 1 && v4[0].is_ipv4());
    let mut carol = Client::alice_at("198.41.7.9:1");
    for family in [0, 3, 255] {
        assert_eq!(carol.ask(&mut world, Draft::allocate().family(family)).code(), 440, "{family}");
    }
    assert_eq!(Client::alice().ask(&mut without_v6(), Draft::allocate().family(2)).code(), 440);
}

#[test]
fn both_family_attributes_get_400() {
    let mut world = World::new();
    let mut alice = Client::alice();
    for draft in [
        Draft::allocate().family(1).additional_family(2),
        Draft::allocate().family(2).additional_family(2),
        Draft::allocate().additional_family(1),
        Draft::allocate().additional_family(9),
        Draft::allocate().additional_family(2).even_port(0x80),
    ] {
        assert_eq!(alice.ask(&mut world, draft).code(), 400);
    }
    assert_eq!(world.ports_held(), 0);
}

#[test]
fn dual_allocation_with_one_family_failing_succeeds_with_address_error_code() {
    let mut world = without_v6();
    let answer = Client::alice().ask(&mut world, Draft::allocate().additional_family(2));
    assert_eq!((answer.code(), answer.relayed().len(), answer.address_error()), (0, 1, Some((2, 440))));

    let mut world = Settings { slices: 1, ..Settings::default() }.world();
    world.sockets.busy = (9_216..10_240).map(|port| at(&format!("{RELAY_V4}:{port}"))).collect();
    let answer = Client::alice().ask(&mut world, Draft::allocate().additional_family(2));
    assert_eq!((answer.code(), answer.address_error()), (0, Some((1, 508))));
    assert!(answer.relayed()[0].is_ipv6());
}

#[test]
fn dual_allocation_with_both_families_failing_gets_the_error_and_holds_nothing() {
    let mut world = World::new();
    world.sockets.exhausted = true;
    let mut alice = Client::alice();
    assert_eq!(alice.ask(&mut world, Draft::allocate().additional_family(2)).code(), 508);
    assert_eq!(world.ports_held(), 0);
}

#[test]
fn each_family_relays_through_its_own_address() {
    let mut world = World::new();
    let (mut alice, [v4, v6]) = dual(&mut world);
    for (relayed, peer) in [(v4, at(PEER)), (v6, at(PEER_V6))] {
        let sent = alice.send_to(&mut world, peer, b"out").unwrap();
        assert_eq!((world.relay_of(&sent), sent.to), (relayed, peer));
        assert_eq!(world.receive_from_peer(relayed, peer, b"in").len(), 1);
    }
}

#[test]
fn peer_of_a_family_without_relay_gets_443() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    assert_eq!(alice.ask(&mut world, Draft::create_permission(&[at(PEER_V6)])).code(), 443);
    assert_eq!(alice.ask(&mut world, Draft::channel_bind(0x4000, at(PEER_V6))).code(), 443);
    assert_eq!(alice.send_to(&mut world, at(PEER_V6), b"x"), None);
    assert_eq!(world.server.counters().drops.total(), 1);
}

#[test]
fn deleting_one_family_leaves_the_other_with_its_permissions_and_channels() {
    let mut world = World::new();
    let (mut alice, [v4, v6]) = dual(&mut world);
    alice.bind(&mut world, 0x4000, at(PEER));
    alice.bind(&mut world, 0x4001, at(PEER_V6));
    let answer = alice.ask(&mut world, Draft::refresh(0).family(1));
    assert_eq!((answer.code(), answer.lifetime()), (0, Some(0)));
    assert_eq!((world.server.allocation_count(), world.ports_held()), (1, 1));
    assert!(world.sockets.open.values().all(|(open, _)| *open == v6));
    assert_ne!(v4, v6);
    let summary = world.server.summaries(world.now).remove(0);
    assert_eq!((summary.relays, summary.permissions, summary.channels), (vec![v6], 1, 1));

    assert_eq!(alice.send_on(&mut world, 0x4000, b"x"), None);
    assert_eq!(alice.send_to(&mut world, at(PEER), b"x"), None);
    assert_eq!(alice.ask(&mut world, Draft::create_permission(&[at(PEER)])).code(), 443);
    assert_eq!(alice.ask(&mut world, Draft::refresh(600).family(1)).code(), 443);
    assert_eq!(alice.send_on(&mut world, 0x4001, b"x").unwrap().to, at(PEER_V6));
    assert_eq!(world.receive_from_peer(v6, at(PEER_V6), b"in").len(), 1);
    assert_eq!(world.drops(DropReason::PeerDenied), 0);

    assert_eq!(alice.ask(&mut world, Draft::refresh(0).family(2)).code(), 0);
    assert_eq!((world.server.allocation_count(), world.ports_held()), (0, 0));
}

#[test]
fn a_family_ends_when_its_lifetime_does_whatever_else_is_due() {
    let mut world = World::new();
    let mut alice = Client::alice();
    assert_eq!(alice.ask(&mut world, Draft::allocate().additional_family(2)).relayed().len(), 2);
    assert_eq!(alice.ask(&mut world, Draft::refresh(1_000).family(1)).code(), 0);
    assert_eq!(alice.ask(&mut world, Draft::refresh(3_600).family(2)).code(), 0);
    world.advance(999);
    assert_eq!(world.ports_held(), 2);
    world.advance(1);
    assert_eq!(world.ports_held(), 1);
    world.advance(2_599);
    assert_eq!(world.ports_held(), 1);
    world.advance(1);
    assert_eq!((world.server.allocation_count(), world.ports_held()), (0, 0));
}

#[test]
fn refreshing_one_family_lets_the_other_expire_and_without_a_family_refreshes_both() {
    let mut world = World::new();
    let (mut alice, [_, v6]) = dual(&mut world);
    world.advance(400);
    assert_eq!(alice.ask(&mut world, Draft::refresh(600)).code(), 0);
    world.advance(300);
    assert_eq!(world.ports_held(), 2);
    assert_eq!(alice.ask(&mut world, Draft::refresh(600).family(2)).code(), 0);
    world.advance(300);
    assert_eq!(world.ports_held(), 1, "IPv4 had 600 s at 400 s");
    assert!(world.sockets.open.values().all(|(open, _)| *open == v6));
    world.advance(299);
    assert_eq!(world.server.allocation_count(), 1);
    world.advance(1);
    assert_eq!((world.server.allocation_count(), world.ports_held()), (0, 0));
}
