//! New terms while calls go on: what they leave alone goes on, what they forbid ends before the next packet.

use std::sync::Arc;

use trunkline_turn::policer::{PolicerLimits, Rate};
use trunkline_turn::policy::PeerPolicy;
use trunkline_turn::quota::Quotas;
use trunkline_turn::{CloseReason, Config, Event, Limits};
use trunkline_wire::DropReason;
use trunkline_wire::token::{FleetKey, Keyring};

use crate::support::*;

/// The world goes over to another configuration.
fn reconfigure(world: &mut World, change: impl FnOnce(&mut Config)) {
    world.amend(|terms| {
        let mut config = (*terms.config).clone();
        change(&mut config);
        terms.config = Arc::new(config);
    });
}

fn policy(relay_ips: &[&str], deny: &[&str]) -> PeerPolicy {
    let relay_ips = relay_ips.iter().map(|ip| ip.parse().unwrap());
    let deny = deny.iter().map(|net| net.parse().unwrap()).collect();
    PeerPolicy::new(relay_ips, [OWN_V4.parse().unwrap()], vec![], deny).unwrap()
}

#[test]
fn peers_that_are_denied_now_lose_their_permissions_and_channels_and_others_keep_theirs() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate_towards(&mut world, at(PEER));
    alice.permit(&mut world, at(OTHER_PEER));
    alice.bind(&mut world, 0x4000, at(PEER));
    alice.bind(&mut world, 0x4001, at(OTHER_PEER));
    reconfigure(&mut world, |config| config.policy = policy(&[RELAY_V4, RELAY_V6], &["198.41.0.4/32"]));
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x"), None);
    assert_eq!(world.drops(DropReason::NoChannel), 1);
    assert_eq!(alice.send_to(&mut world, at(PEER), b"x"), None);
    assert_eq!(world.drops(DropReason::PeerDenied), 1);
    assert!(world.receive_from_peer(relayed, at(PEER), b"x").is_empty());
    assert_eq!(alice.ask(&mut world, Draft::create_permission(&[at(PEER)])).code(), 403);
    assert!(alice.send_on(&mut world, 0x4001, b"x").is_some());
    assert_eq!(world.receive_from_peer(relayed, at(OTHER_PEER), b"x").len(), 1);
    reconfigure(&mut world, |config| config.policy = policy(&[RELAY_V4, RELAY_V6], &[]));
    alice.bind(&mut world, 0x4000, at(PEER));
    assert!(alice.send_on(&mut world, 0x4000, b"x").is_some());
}

#[test]
fn a_peer_that_becomes_a_relay_address_of_ours_is_no_longer_reached_through_the_kernel() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate_towards(&mut world, at(PEER));
    alice.bind(&mut world, 0x4000, at(PEER));
    reconfigure(&mut world, |config| config.policy = policy(&[RELAY_V4, RELAY_V6, "198.41.0.4"], &[]));
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x"), None);
    assert_eq!(alice.send_to(&mut world, at(PEER), b"x"), None);
    assert_eq!(world.drops(DropReason::NoSuchRelay), 2);
}

#[test]
fn limits_hold_for_live_allocations_from_the_next_packet_on() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate_towards(&mut world, at(PEER));
    assert!(alice.send_to(&mut world, at(PEER), b"x").is_some());
    let packets = Rate { per_s: 10, burst: 10 };
    let policer = PolicerLimits { packets, bytes: Rate::UNLIMITED };
    reconfigure(&mut world, |config| config.limits = Limits { policer, ..config.limits });
    world.advance(1);
    let passed = (0..100).filter(|_| alice.send_to(&mut world, at(PEER), b"x").is_some()).count();
    assert_eq!(passed, 10);
    reconfigure(&mut world, |config| config.limits.lifetime_s_max = 700);
    assert_eq!(alice.ask(&mut world, Draft::refresh(3_600)).lifetime(), Some(700));
}

#[test]
fn a_budget_of_answers_to_strangers_changes_with_the_limits() {
    let mut world = World::new();
    reconfigure(&mut world, |config| config.limits.unauthenticated = Rate { per_s: 1, burst: 1 });
    let bob = Client::bob();
    assert!(bob.exchange_or_silence(&mut world, &Draft::allocate().bytes()).is_none());
    assert_eq!(world.drops(DropReason::UnauthenticatedBudget), 1);
}

#[test]
fn a_server_that_was_draining_serves_again() {
    let mut world = World::new();
    world.amend(|terms| terms.draining = true);
    assert_eq!(Client::alice().ask(&mut world, Draft::allocate()).code(), 508);
    world.amend(|terms| terms.draining = false);
    Client::alice().allocate(&mut world);
}

#[test]
fn nonces_of_the_key_before_are_good_as_long_as_the_key_is() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    let key = |id| FleetKey { id, secret: [id; 16] };
    reconfigure(&mut world, |config| config.keyring = Keyring::new(key(2), vec![key(1)]));
    alice.allocate(&mut world);
    reconfigure(&mut world, |config| config.keyring = Keyring::new(key(2), vec![]));
    assert_eq!(alice.ask(&mut world, Draft::refresh(600)).code(), 438);
    alice.fetch_nonce_again(&mut world);
    assert_eq!(alice.ask(&mut world, Draft::refresh(600)).code(), 0);
}

#[test]
fn quotas_change_for_new_allocations_and_leave_live_ones_alone() {
    let mut world = World::new();
    let mut clients: Vec<_> = (1..=3).map(|port| Client::alice_at(&format!("198.41.7.7:{port}"))).collect();
    for client in &mut clients {
        client.allocate(&mut world);
    }
    world.shared.ledger.set_quotas(Quotas { per_user: 2, ..Quotas::default() });
    assert_eq!(world.server.allocation_count(), 3);
    assert_eq!(Client::alice().ask(&mut world, Draft::allocate()).code(), 486);
    clients
        .iter_mut()
        .take(2)
        .for_each(|client| assert_eq!(client.ask(&mut world, Draft::refresh(0)).code(), 0));
    Client::alice().allocate(&mut world);
    assert_eq!(clients[0].ask(&mut world, Draft::allocate()).code(), 486);
}

#[test]
fn terms_that_change_nothing_end_nothing() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate_towards(&mut world, at(PEER));
    alice.bind(&mut world, 0x4000, at(PEER));
    world.amend(|_| {});
    reconfigure(&mut world, |_| {});
    world.amend(|terms| terms.ports = terms.ports.successor(Settings::default().blocks()));
    assert!(alice.send_on(&mut world, 0x4000, b"x").is_some());
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x").len(), 1);
    let closed = std::iter::from_fn(|| world.server.poll_event())
        .any(|event| matches!(event, Event::Closed { reason: CloseReason::PortLost, .. }));
    assert!(!closed);
}
