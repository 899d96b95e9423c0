//! Refresh (RFC 8656 §8).

use trunkline_wire::DropReason;

use crate::support::*;

#[test]
fn requests_without_an_allocation_get_437() {
    let mut world = World::new();
    let mut alice = Client::alice();
    for draft in [
        Draft::refresh(600),
        Draft::refresh(0),
        Draft::create_permission(&[at(PEER)]),
        Draft::channel_bind(0x4000, at(PEER)),
    ] {
        assert_eq!(alice.ask(&mut world, draft).code(), 437);
    }
}

#[test]
fn refresh_lengthens_from_now_on_and_is_clamped() {
    for (wanted, granted) in [(u32::MAX, 3_600), (1_800, 1_800), (1, 600)] {
        let mut world = World::new();
        let mut alice = Client::alice();
        alice.allocate(&mut world);
        world.advance(500);
        let answer = alice.ask(&mut world, Draft::refresh(wanted));
        assert_eq!((answer.code(), answer.lifetime()), (0, Some(granted)));
        world.advance(u64::from(granted) - 1);
        assert_eq!(world.server.allocation_count(), 1);
        world.advance(1);
        assert_eq!(world.server.allocation_count(), 0);
    }
}

#[test]
fn refresh_shortens_too() {
    let mut world = World::new();
    let mut alice = Client::alice();
    assert_eq!(alice.ask(&mut world, Draft::allocate().lifetime(3_600)).code(), 0);
    world.advance(10);
    assert_eq!(alice.ask(&mut world, Draft::refresh(700)).lifetime(), Some(700));
    world.advance(699);
    assert_eq!(world.server.allocation_count(), 1);
    world.advance(1);
    assert_eq!(world.server.allocation_count(), 0);
}

#[test]
fn refresh_with_lifetime_zero_deletes_everything_and_its_retransmission_gets_437() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate_towards(&mut world, at(PEER));
    alice.bind(&mut world, 0x4000, at(PEER));
    let request = alice.signed(alice.clone().fresh(Draft::refresh(0))).bytes();
    let answer = alice.exchange(&mut world, &request);
    assert_eq!((answer.code(), answer.lifetime()), (0, Some(0)));
    assert_eq!((world.server.allocation_count(), world.ports_held(), world.sockets.open.len()), (0, 0, 0));
    assert_eq!(alice.send_on(&mut world, 0x4000, b"late"), None);
    assert_eq!(world.drops(DropReason::NoAllocation), 1);
    assert_eq!(alice.exchange(&mut world, &request).code(), 437);

    alice.allocate(&mut world);
    assert_eq!(alice.send_on(&mut world, 0x4000, b"late"), None, "channels do not outlive their allocation");
    assert_eq!(alice.send_to(&mut world, at(PEER), b"late"), None, "nor do permissions");
    world.advance(599);
    assert_eq!(world.server.allocation_count(), 1, "the dead one's timer does not end the new one");
}

#[test]
fn refresh_of_a_family_that_the_allocation_lacks_gets_443() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    for (family, code) in [(1, 0), (2, 443), (3, 443)] {
        assert_eq!(alice.ask(&mut world, Draft::refresh(600).family(family)).code(), code, "{family}");
    }
    assert_eq!(alice.ask(&mut world, Draft::refresh(0).family(2)).code(), 443);
    assert_eq!(world.server.allocation_count(), 1);
}
