//! Quotas, caps and policers: what one user, address or allocation may take.

use trunkline_turn::policer::{PolicerLimits, Rate};
use trunkline_turn::quota::Quotas;
use trunkline_turn::{Event, Limits};
use trunkline_wire::DropReason;
use trunkline_wire::now::NS_PER_S;

use crate::support::*;

fn with_limits(limits: Limits) -> World {
    Settings { limits, ..Settings::default() }.world()
}

fn alice_number(number: u16) -> Client {
    Client::alice_at(&format!("198.41.7.{}:{}", number % 200 + 1, 40_000 + number))
}

#[test]
fn user_quota_gets_486_and_is_given_back() {
    let quotas = Quotas { per_user: 2, ..Quotas::default() };
    let mut world = Settings { quotas, ..Settings::default() }.world();
    let mut clients: Vec<_> = (0..3).map(alice_number).collect();
    clients[0].allocate(&mut world);
    clients[1].allocate(&mut world);
    assert_eq!(clients[2].ask(&mut world, Draft::allocate()).code(), 486);
    assert_eq!(world.ports_held(), 2);
    Client::bob().allocate(&mut world);
    assert_eq!(clients[0].ask(&mut world, Draft::refresh(0)).code(), 0);
    clients[2].allocate(&mut world);
    world.advance(600);
    clients[1].allocate(&mut world);
}

#[test]
fn quota_follows_the_name_behind_the_expiry() {
    let quotas = Quotas { per_user: 1, ..Quotas::default() };
    let mut world = Settings { quotas, ..Settings::default() }.world();
    Client::with_time_limited("1800000000:dora", "north").allocate(&mut world);
    let mut again = Client::with_time_limited("1800000001:dora", "north");
    again.flow.remote.set_port(1);
    assert_eq!(again.ask(&mut world, Draft::allocate()).code(), 486);
}

#[test]
fn address_and_key_quotas_get_486() {
    let quotas = Quotas { per_address: 2, per_key: 3, ..Quotas::default() };
    let mut world = Settings { quotas, ..Settings::default() }.world();
    let keyed = |name: &str, remote: &str| {
        let mut client = Client::with_time_limited(&format!("1800000000:k1:{name}"), "key secret");
        client.flow.remote = at(remote);
        client
    };
    keyed("a", "198.41.7.1:1").allocate(&mut world);
    keyed("b", "198.41.7.1:2").allocate(&mut world);
    assert_eq!(keyed("c", "198.41.7.1:3").ask(&mut world, Draft::allocate()).code(), 486, "address");
    keyed("c", "198.41.7.2:1").allocate(&mut world);
    assert_eq!(keyed("d", "198.41.7.3:1").ask(&mut world, Draft::allocate()).code(), 486, "key");
    alice_number(9).allocate(&mut world);
}

#[test]
fn ipv6_addresses_of_one_64_share_the_quota_of_an_address() {
    let quotas = Quotas { per_address: 1, ..Quotas::default() };
    let mut world = Settings { quotas, ..Settings::default() }.world();
    let mut first = Client::alice_at("[2606:4700:0:1::1]:1");
    first.allocate(&mut world);
    assert_eq!(Client::alice_at("[2606:4700:0:1:ffff::2]:1").ask(&mut world, Draft::allocate()).code(), 486);
    Client::alice_at("[2606:4700:0:2::1]:1").allocate(&mut world);
    assert_eq!(first.ask(&mut world, Draft::refresh(0)).code(), 0);
    Client::alice_at("[2606:4700:0:1:ffff::2]:1").allocate(&mut world);
}

#[test]
fn quotas_hold_over_all_shards_of_a_node() {
    let quotas = Quotas { per_user: 1, ..Quotas::default() };
    let mut shards = Settings { quotas, ..Settings::default() }.shards(2);
    alice_number(0).allocate(&mut shards[0]);
    assert_eq!(alice_number(1).ask(&mut shards[1], Draft::allocate()).code(), 486);
}

#[test]
fn a_refused_allocate_is_not_charged() {
    let quotas = Quotas { per_user: 1, ..Quotas::default() };
    let mut world = Settings { quotas, ..Settings::default() }.world();
    let mut alice = Client::alice();
    world.sockets.exhausted = true;
    assert_eq!(alice.ask(&mut world, Draft::allocate()).code(), 508);
    world.sockets.exhausted = false;
    alice.allocate(&mut world);
}

#[test]
fn ports_exhausted_gets_508_and_a_freed_port_is_used_again() {
    let mut world = Settings { slices: 1, ..Settings::default() }.world();
    let mut clients: Vec<_> = (0..1_025).map(alice_number).collect();
    let mut ports: Vec<_> =
        clients[..1_024].iter_mut().map(|alice| alice.allocate(&mut world).port()).collect();
    ports.sort();
    assert_eq!(ports, (9_216..10_240).collect::<Vec<_>>());
    assert_eq!(clients[1_024].ask(&mut world, Draft::allocate()).code(), 508);
    assert_eq!(clients[77].ask(&mut world, Draft::refresh(0)).code(), 0);
    clients[1_024].allocate(&mut world);
    assert_eq!(world.ports_held(), 1_024);
}

#[test]
fn allocations_of_a_shard_are_capped_with_508() {
    let mut world = with_limits(Limits { allocations_max: 2, ..Limits::default() });
    let mut clients: Vec<_> = (0..3).map(alice_number).collect();
    clients[0].allocate(&mut world);
    clients[1].allocate(&mut world);
    assert_eq!(clients[2].ask(&mut world, Draft::allocate()).code(), 508);
    assert_eq!(world.ports_held(), 2);
}

#[test]
fn a_hundred_new_peers_a_second_are_capped_and_a_legitimate_flow_is_unharmed() {
    let mut world = with_limits(Limits { new_peers: Rate { per_s: 10, burst: 64 }, ..Limits::default() });
    let (mut scanner, mut bob) = (Client::alice(), Client::bob());
    scanner.allocate(&mut world);
    let relayed = bob.allocate_towards(&mut world, at(PEER));
    let mut permitted = 0;
    for second in 0..10 {
        for host in 0..100_u8 {
            let peer = at(&format!("198.42.{second}.{host}:80"));
            permitted += u32::from(scanner.ask(&mut world, Draft::create_permission(&[peer])).code() == 0);
        }
        assert!(bob.send_to(&mut world, at(PEER), b"x").is_some());
        assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x").len(), 1);
        bob.permit(&mut world, at(PEER));
        world.advance(1);
    }
    assert!((64..=64 + 10 * 10).contains(&permitted), "{permitted}");
}

#[test]
fn several_new_peers_in_one_request_count_each() {
    let mut world = with_limits(Limits { new_peers: Rate { per_s: 1, burst: 4 }, ..Limits::default() });
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    let peers: Vec<_> = (1..=5).map(|host| at(&format!("198.42.0.{host}:80"))).collect();
    assert_eq!(alice.ask(&mut world, Draft::create_permission(&peers)).code(), 508);
    assert_eq!(alice.ask(&mut world, Draft::create_permission(&peers[..4])).code(), 0);
    assert_eq!(alice.ask(&mut world, Draft::channel_bind(0x4000, peers[4])).code(), 508);
    assert_eq!(alice.ask(&mut world, Draft::channel_bind(0x4000, peers[0])).code(), 0);
}

#[test]
fn each_direction_of_an_allocation_is_policed_by_itself_in_packets_and_bytes() {
    let unlimited = Rate::UNLIMITED;
    let ten = Rate { per_s: 10, burst: 10 };
    for (bytes, packets) in [(unlimited, ten), (Rate { per_s: 1_000, burst: 1_000 }, unlimited)] {
        let mut world =
            with_limits(Limits { policer: PolicerLimits { bytes, packets }, ..Limits::default() });
        let (mut alice, mut bob) = (Client::alice(), Client::bob());
        let relayed = alice.allocate_towards(&mut world, at(PEER));
        bob.allocate_towards(&mut world, at(PEER));
        let data = [0; 100];
        let passed = (0..100).filter(|_| alice.send_to(&mut world, at(PEER), &data).is_some()).count();
        assert_eq!(passed, 10);
        let passed =
            (0..100).filter(|_| world.receive_from_peer(relayed, at(PEER), &data).len() == 1).count();
        assert_eq!(passed, 10, "the other direction has its own");
        assert_eq!(world.drops(DropReason::RateLimit), 180);
        let passed = (0..10).filter(|_| bob.send_to(&mut world, at(PEER), &data).is_some()).count();
        assert_eq!(passed, 10, "a neighbour loses nothing");
        world.advance(1);
        assert!(alice.send_to(&mut world, at(PEER), &data).is_some());
    }
}

#[test]
fn events_that_nobody_fetches_are_bounded_and_the_newest_stay() {
    let mut world = World::new();
    let mut alice = Client::alice();
    for _ in 0..2_000 {
        alice.allocate(&mut world);
        assert_eq!(alice.ask(&mut world, Draft::refresh(0)).code(), 0);
    }
    alice.allocate(&mut world);
    let id = world.server.summaries(world.now)[0].id;
    let events: Vec<_> = std::iter::from_fn(|| world.server.poll_event()).collect();
    assert_eq!(events.len(), 1_024);
    assert!(matches!(events.last(), Some(Event::Opened { id: opened, .. }) if *opened == id));
}

#[test]
fn a_server_with_nothing_to_do_asks_for_no_timeout_and_one_with_something_for_one_in_time() {
    let mut world = World::new();
    assert_eq!(world.server.poll_timeout(), None);
    Client::alice().allocate(&mut world);
    let due_ns = world.server.poll_timeout().unwrap();
    assert_eq!(due_ns, world.now.monotonic_ns + 600 * NS_PER_S);
}
