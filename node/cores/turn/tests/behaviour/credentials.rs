//! Whose credentials are good, for how long, and what their end does (threats 9 and 22).

use std::sync::Arc;

use trunkline_turn::{CloseReason, Event};

use crate::support::*;

fn closings(world: &mut World) -> Vec<CloseReason> {
    let events = std::iter::from_fn(|| world.server.poll_event());
    events
        .filter_map(|event| if let Event::Closed { reason, .. } = event { Some(reason) } else { None })
        .collect()
}

#[test]
fn time_limited_credentials_of_a_key_and_of_the_static_secret_work() {
    let mut world = World::new();
    for (username, secret) in [
        ("1800000000:k1", "key secret"),
        ("1800000000:k1:dora", "key secret"),
        ("1800000000:dora", "north"),
        ("1800000000", "north"),
    ] {
        let mut client = Client::with_time_limited(username, secret);
        client.allocate(&mut world);
        assert_eq!(client.ask(&mut world, Draft::refresh(0)).code(), 0);
    }
    let mut wrong = Client::with_time_limited("1800000000:k1", "north");
    assert_eq!(wrong.ask(&mut world, Draft::allocate()).code(), 401);
}

#[test]
fn expiry_of_a_credential_ends_new_refreshes_and_allocations_and_nothing_else() {
    let mut world = World::new();
    let expiry = world.now.unix_s + 100;
    let mut client = Client::with_time_limited(&format!("{expiry}:k1"), "key secret");
    let relayed = client.allocate_towards(&mut world, at(PEER));
    world.advance(99);
    assert_eq!(client.ask(&mut world, Draft::refresh(600)).code(), 0);
    world.advance(1);
    assert_eq!(client.ask(&mut world, Draft::refresh(600)).code(), 401);
    client.bind(&mut world, 0x4000, at(PEER));
    assert!(client.send_on(&mut world, 0x4000, b"x").is_some());
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x").len(), 1);
    let mut elsewhere = client.clone();
    (elsewhere.flow.remote, elsewhere.nonce) = (at("198.41.9.9:1"), None);
    assert_eq!(elsewhere.ask(&mut world, Draft::allocate()).code(), 401);
    world.advance(599);
    assert_eq!(world.server.allocation_count(), 0);
}

#[test]
fn an_expired_credential_may_still_delete_its_allocation() {
    let mut world = World::new();
    let expiry = world.now.unix_s + 10;
    let mut client = Client::with_time_limited(&format!("{expiry}:k1"), "key secret");
    client.allocate(&mut world);
    world.advance(10);
    assert_eq!(client.ask(&mut world, Draft::refresh(0)).code(), 0);
    assert_eq!(world.server.allocation_count(), 0);
}

#[test]
fn revocation_ends_live_allocations_and_new_requests_at_once() {
    let mut world = World::new();
    let mut revoked = Client::with_time_limited("1800000000:k1:dora", "key secret");
    let mut other = Client::with_time_limited("1800000000:k1:eve", "key secret");
    other.flow.remote.set_port(2);
    revoked.allocate_towards(&mut world, at(PEER));
    other.allocate_towards(&mut world, at(PEER));
    let mut credentials = credentials();
    credentials.revoked.insert(revoked.username.clone());
    world.amend(|terms| terms.credentials = Arc::new(credentials));
    assert_eq!(closings(&mut world), [CloseReason::Revoked]);
    assert_eq!((world.server.allocation_count(), world.ports_held()), (1, 1));
    assert_eq!(revoked.send_to(&mut world, at(PEER), b"x"), None);
    assert_eq!(revoked.ask(&mut world, Draft::allocate()).code(), 401);
    assert!(other.send_to(&mut world, at(PEER), b"x").is_some());
}

#[test]
fn a_deleted_key_ends_the_allocations_made_with_it_and_no_others() {
    let mut world = World::new();
    let mut keyed = Client::with_time_limited("1800000000:k1", "key secret");
    keyed.allocate(&mut world);
    Client::alice().allocate(&mut world);
    let mut credentials = credentials();
    credentials.keys.clear();
    world.amend(|terms| terms.credentials = Arc::new(credentials));
    assert_eq!(closings(&mut world), [CloseReason::Revoked]);
    assert_eq!(world.server.allocation_count(), 1);
    assert_eq!(keyed.ask(&mut world, Draft::allocate()).code(), 401);
}

#[test]
fn an_operator_closes_an_allocation_once() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    let id = world.server.summaries(world.now)[0].id;
    assert!(world.server.close_allocation(id, &mut world.sockets));
    assert!(!world.server.close_allocation(id, &mut world.sockets));
    alice.allocate(&mut world);
    assert!(!world.server.close_allocation(id, &mut world.sockets), "an old id names no new allocation");
    assert_eq!(closings(&mut world), [CloseReason::Operator]);
    assert_eq!(world.ports_held(), 1);
}
