//! Allocate (RFC 8656 §7).

use trunkline_turn::{CloseReason, Event};
use trunkline_wire::stun::{Method, attribute as kind};
use trunkline_wire::{DropReason, StreamId, Transport};

use crate::support::*;

#[test]
fn allocation_names_a_relay_port_that_is_open_and_the_clients_address() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let answer = alice.ask(&mut world, Draft::allocate());
    let relayed = answer.relayed();
    assert_eq!((answer.code(), relayed.len(), answer.lifetime()), (0, 1, Some(600)));
    assert_eq!(relayed[0].ip(), at("192.0.2.1:0").ip());
    assert!(relayed[0].port() >= 9_216);
    assert_eq!(answer.mapped(), Some(alice.flow.remote));
    assert_eq!(answer.value(kind::SOFTWARE), Some(&b"Trunkline"[..]));
    assert!(world.sockets.open.values().any(|(open, _)| *open == relayed[0]));
}

#[test]
fn retransmitted_allocate_gets_the_identical_success() {
    let mut world = World::new();
    for (client, draft) in [
        (Client::alice(), Draft::allocate()),
        (Client::alice_at("198.41.7.7:40001"), Draft::allocate().even_port(0x80).lifetime(900)),
        (Client::alice_at("198.41.7.7:40002"), Draft::allocate().additional_family(2)),
    ] {
        let mut alice = client;
        alice.fetch_nonce(&mut world);
        let request = alice.signed(alice.clone().fresh(draft)).bytes();
        let first = alice.exchange(&mut world, &request);
        assert_eq!(first.code(), 0);
        let before = (world.ports_held(), world.sockets.open.len());
        world.advance(7);
        assert_eq!(alice.exchange(&mut world, &request), first);
        assert_eq!((world.ports_held(), world.sockets.open.len()), before);
    }
    assert_eq!(world.server.allocation_count(), 3);
}

#[test]
fn new_transaction_on_a_live_five_tuple_gets_437() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    assert_eq!(alice.ask(&mut world, Draft::allocate()).code(), 437);
    assert_eq!((world.server.allocation_count(), world.ports_held()), (1, 1));
}

#[test]
fn missing_requested_transport_gets_400_and_an_unsupported_one_442() {
    let mut world = World::new();
    let mut alice = Client::alice();
    assert_eq!(alice.ask(&mut world, Draft::request(Method::Allocate)).code(), 400);
    for protocol in [0, 6, 16, 18, 255] {
        let draft = Draft::request(Method::Allocate).value(kind::REQUESTED_TRANSPORT, &[protocol, 0, 0, 0]);
        assert_eq!(alice.ask(&mut world, draft).code(), 442, "{protocol}");
    }
    assert_eq!(world.ports_held(), 0);
}

#[test]
fn lifetime_above_the_maximum_clamps_to_the_maximum_and_below_the_default_rises_to_it() {
    for (wanted, granted) in [
        (u32::MAX, 3_600),
        (3_601, 3_600),
        (3_600, 3_600),
        (1_200, 1_200),
        (600, 600),
        (599, 600),
        (1, 600),
        (0, 600),
    ] {
        let mut world = World::new();
        let mut alice = Client::alice();
        let answer = alice.ask(&mut world, Draft::allocate().lifetime(wanted));
        assert_eq!(answer.lifetime(), Some(granted), "{wanted}");
        world.advance(u64::from(granted) - 1);
        assert_eq!(world.server.allocation_count(), 1, "{wanted}");
        world.advance(1);
        assert_eq!(world.server.allocation_count(), 0, "{wanted}");
    }
}

#[test]
fn an_allocation_that_nobody_refreshes_ends_with_all_it_holds() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate_towards(&mut world, at(PEER));
    world.advance(600);
    assert_eq!((world.server.allocation_count(), world.ports_held(), world.sockets.open.len()), (0, 0, 0));
    let events: Vec<_> = std::iter::from_fn(|| world.server.poll_event()).collect();
    assert!(
        matches!(events[..], [Event::Opened { .. }, Event::Closed { reason: CloseReason::Expired, .. }]),
        "{events:?}"
    );
    assert_eq!(alice.ask(&mut world, Draft::allocate()).code(), 0, "and the 5-tuple is free");
}

#[test]
fn the_five_tuple_includes_the_transport_and_the_connection() {
    let mut world = World::new();
    let mut flows: Vec<_> = [Transport::Udp, Transport::Tcp, Transport::Tls]
        .map(|transport| flow(transport, "198.41.7.7:40000"))
        .into();
    let mut second = flows[1];
    second.stream = StreamId(77);
    flows.push(second);
    let mut relayed: Vec<_> =
        flows.iter().map(|flow| Client::new(*flow, "alice", "wonderland").allocate(&mut world)).collect();
    relayed.sort();
    relayed.dedup();
    assert_eq!((relayed.len(), world.server.allocation_count()), (4, 4));
}

#[test]
fn a_connections_end_ends_its_allocation() {
    let mut world = World::new();
    let mut alice = Client::alice_over(Transport::Tcp);
    alice.allocate(&mut world);
    assert!(world.server.has_allocation(&alice.flow));
    world.server.handle_client_closed(&alice.flow, &mut world.sockets);
    assert_eq!((world.server.allocation_count(), world.ports_held(), world.sockets.open.len()), (0, 0, 0));
    world.server.handle_client_closed(&alice.flow, &mut world.sockets);
    assert!(!world.server.has_allocation(&alice.flow));
}

#[test]
fn a_draining_server_refuses_new_allocations_and_keeps_what_it_has() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    let request = alice.signed(alice.clone().fresh(Draft::allocate())).bytes();
    let first = alice.exchange(&mut world, &request);
    world.amend(|terms| terms.draining = true);
    assert_eq!(Client::bob().ask(&mut world, Draft::allocate()).code(), 508);
    assert_eq!(alice.exchange(&mut world, &request), first);
    assert_eq!(alice.ask(&mut world, Draft::refresh(600)).code(), 0);
}

#[test]
fn a_port_that_something_else_uses_is_passed_over() {
    let mut world = Settings { slices: 1, ..Settings::default() }.world();
    let ports = (9_216..10_240).filter(|port| port % 3 != 0);
    world.sockets.busy = ports.map(|port| at(&format!("{RELAY_V4}:{port}"))).collect();
    for port in 0..20 {
        let relayed = Client::alice_at(&format!("198.41.7.7:{}", 40_000 + port)).allocate(&mut world);
        assert_eq!(relayed.port() % 3, 0);
    }
    assert_eq!(world.ports_held(), 20);
}

#[test]
fn an_operating_system_without_sockets_means_508_and_holds_nothing() {
    let mut world = World::new();
    world.sockets.exhausted = true;
    let mut alice = Client::alice();
    for draft in
        [Draft::allocate(), Draft::allocate().even_port(0x80), Draft::allocate().additional_family(2)]
    {
        assert_eq!(alice.ask(&mut world, draft).code(), 508);
    }
    assert_eq!((world.ports_held(), world.server.allocation_count()), (0, 0));
    world.sockets.exhausted = false;
    assert_eq!(alice.ask(&mut world, Draft::allocate()).code(), 0);
}

#[test]
fn a_client_whose_nat_changed_its_port_allocates_anew_at_once() {
    let mut world = World::new();
    let mut before = Client::alice();
    before.allocate(&mut world);
    let mut after = Client::alice_at("198.41.7.7:41234");
    after.nonce.clone_from(&before.nonce);
    let stale = after.ask(&mut world, Draft::refresh(600));
    assert_eq!(stale.code(), 438);
    after.nonce = stale.value(kind::NONCE).map(<[u8]>::to_vec);
    assert_eq!(after.ask(&mut world, Draft::refresh(600)).code(), 437);
    assert_eq!(after.ask(&mut world, Draft::allocate()).code(), 0);
    world.advance(599);
    assert_eq!(after.ask(&mut world, Draft::refresh(600)).code(), 0);
    world.advance(1);
    assert_eq!(world.server.allocation_count(), 1, "the stranded one is gone after its lifetime");
}

#[test]
fn a_request_that_finds_the_egress_full_changes_nothing_and_is_counted() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    let request = alice.signed(alice.clone().fresh(Draft::allocate())).bytes();
    world.without_room(|world| assert_eq!(world.receive(alice.flow, &request), []));
    assert_eq!((world.server.allocation_count(), world.ports_held()), (0, 0));
    assert_eq!((world.drops(DropReason::EgressFull), world.drops(DropReason::UnauthenticatedBudget)), (1, 0));
    assert_eq!(alice.exchange(&mut world, &request).code(), 0);
}
