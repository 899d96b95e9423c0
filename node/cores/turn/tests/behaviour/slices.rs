//! Slices that come, drain, and go while allocations live in them.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use trunkline_turn::ports::{
    Parity, PortLease, PortOwner, PortTable, RELAY_PORT_MIN, RelayBlock, SLICE_BITS,
};
use trunkline_turn::{CloseReason, Event};
use trunkline_wire::stun::attribute as kind;

use crate::support::*;

/// Slices of [`RELAY_V4`]: ours, ours and draining; all others belong to [`OTHER_NODE`].
fn block(ours: &[usize], draining: &[usize]) -> RelayBlock {
    let mut block = RelayBlock::owned_by(RELAY_V4.parse().unwrap(), OTHER_NODE);
    for slice in ours.iter().chain(draining) {
        block.owners[*slice] = Some(NODE);
    }
    draining.iter().for_each(|slice| block.draining[*slice] = true);
    block
}

fn own(world: &mut World, ours: &[usize], draining: &[usize]) {
    world.amend(|terms| terms.ports = terms.ports.successor(vec![block(ours, draining)]));
}

fn slice_of(relayed: std::net::SocketAddr) -> usize {
    usize::from(relayed.port() >> SLICE_BITS)
}

fn ports_lost(world: &mut World) -> usize {
    std::iter::from_fn(|| world.server.poll_event())
        .filter(|event| matches!(event, Event::Closed { reason: CloseReason::PortLost, .. }))
        .count()
}

#[test]
fn no_port_is_leased_from_a_draining_slice_and_what_lives_there_goes_on() {
    let mut world = World::new();
    own(&mut world, &[20], &[]);
    let mut alice = Client::alice();
    let relayed = alice.allocate_towards(&mut world, at(PEER));
    assert_eq!(slice_of(relayed), 20);
    own(&mut world, &[21], &[20]);
    for port in 1..=50 {
        let relayed = Client::alice_at(&format!("198.41.7.7:{port}")).allocate(&mut world);
        assert_eq!(slice_of(relayed), 21);
    }
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x").len(), 1);
    assert_eq!(world.server.port_owner(relayed), PortOwner::Shard(0), "siblings and strays reach it too");
    let slice = |index| (RELAY_V4.parse().unwrap(), index);
    assert_eq!(world.shared.ports.slices_in_use(), [slice(20), slice(21)]);
    assert_eq!(alice.ask(&mut world, Draft::refresh(0)).code(), 0);
    assert_eq!(world.shared.ports.slices_in_use(), [slice(21)], "given back once nothing lives in it");
}

#[test]
fn a_server_without_a_slice_refuses_and_serves_once_it_has_one() {
    let mut world = World::new();
    own(&mut world, &[], &[]);
    let mut alice = Client::alice();
    assert_eq!(alice.ask(&mut world, Draft::allocate()).code(), 508);
    own(&mut world, &[30], &[]);
    assert_eq!(slice_of(alice.allocate(&mut world)), 30);
}

#[test]
fn another_relay_address_is_used_when_the_first_has_no_port_left() {
    let mut world = World::new();
    let second = RelayBlock::owned_by("192.0.2.2".parse().unwrap(), NODE);
    world.amend(|terms| terms.ports = terms.ports.successor(vec![block(&[], &[]), second]));
    assert_eq!(Client::alice().allocate(&mut world).ip().to_string(), "192.0.2.2");
}

#[test]
fn allocations_on_a_lost_slice_or_address_end_and_their_ports_are_free_again() {
    let mut world = World::new();
    own(&mut world, &[20], &[]);
    Client::alice().allocate(&mut world);
    own(&mut world, &[21], &[]);
    assert_eq!((world.server.allocation_count(), ports_lost(&mut world), world.ports_held()), (0, 1, 0));
    Client::alice().allocate(&mut world);
    world.amend(|terms| terms.ports = terms.ports.successor(vec![]));
    assert_eq!((world.server.allocation_count(), ports_lost(&mut world), world.ports_held()), (0, 1, 0));
    assert!(world.sockets.open.is_empty());
    assert_eq!(Client::alice().ask(&mut world, Draft::allocate()).code(), 440);
}

#[test]
fn a_reserved_port_of_a_lost_slice_is_not_redeemed() {
    let mut world = World::new();
    own(&mut world, &[20], &[]);
    let answer = Client::alice().ask(&mut world, Draft::allocate().even_port(0x80));
    let token = answer.token().unwrap();
    own(&mut world, &[21], &[]);
    assert_eq!(world.shared.ports.slices_in_use().len(), 1, "the reservation holds it");
    let mut other = Client::alice_at("198.41.7.7:2");
    assert_eq!(other.ask(&mut world, Draft::allocate().value(kind::RESERVATION_TOKEN, &token)).code(), 508);
    assert!(world.shared.ports.slices_in_use().is_empty());
}

#[test]
fn a_lease_outlives_its_slice_its_address_and_its_table() {
    let ip = RELAY_V4.parse().unwrap();
    let first = PortTable::new(NODE, vec![block(&[20], &[])]);
    let lease = first.lease(ip, 3, Parity::Any, 1).unwrap();
    let empty = first.successor(vec![]);
    drop(first);
    assert_eq!((empty.slices_in_use(), empty.usage()), (vec![(ip, 20)], (1, 0)));
    let back = empty.successor(vec![block(&[20], &[])]);
    assert_eq!(back.owner(lease.at()), PortOwner::Shard(3), "the same port is still held when it comes back");
    assert!(back.lease_exactly(lease.at(), 0).is_none());
    let at = lease.at();
    drop(lease);
    assert!(back.slices_in_use().is_empty());
    assert!(back.lease_exactly(at, 0).is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Lease { random: u64 },
    Drop { which: usize },
    Divide { ours: Vec<usize>, draining: Vec<usize> },
}

fn step() -> impl Strategy<Value = Step> {
    let slices = || proptest::collection::vec(9..14_usize, 0..4);
    prop_oneof![
        6 => any::<u64>().prop_map(|random| Step::Lease { random }),
        4 => any::<usize>().prop_map(|which| Step::Drop { which }),
        1 => (slices(), slices()).prop_map(|(ours, draining)| Step::Divide { ours, draining }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, rng_seed: RngSeed::Fixed(1024), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_in_use_is_what_is_leased_however_slices_change(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let ip = RELAY_V4.parse().unwrap();
        let mut current = block(&[9, 10], &[]);
        let mut table = PortTable::new(NODE, vec![current.clone()]);
        let mut leases: Vec<PortLease> = vec![];
        for step in steps {
            match step {
                Step::Lease { random } => if let Some(lease) = table.lease(ip, 0, Parity::Any, random) {
                    let slice = slice_of(lease.at());
                    prop_assert!(current.owners[slice] == Some(NODE) && !current.draining[slice]);
                    prop_assert!(lease.at().port() >= RELAY_PORT_MIN);
                    prop_assert!(leases.iter().all(|other| other.at() != lease.at()));
                    leases.push(lease);
                },
                Step::Drop { which } => if let Some(which) = which.checked_rem(leases.len()) {
                    drop(leases.swap_remove(which));
                },
                Step::Divide { ours, draining } => {
                    current = block(&ours, &draining);
                    table = table.successor(vec![current.clone()]);
                }
            }
            let mut expected: Vec<_> = leases.iter().map(|lease| (ip, slice_of(lease.at()))).collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(table.slices_in_use(), expected);
            prop_assert_eq!(table.usage().0, leases.len());
        }
    }
}
