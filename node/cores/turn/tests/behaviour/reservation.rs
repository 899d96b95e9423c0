//! EVEN-PORT and RESERVATION-TOKEN (RFC 8656 §7).

use trunkline_wire::stun::attribute as kind;

use crate::support::*;

fn redeeming(token: [u8; 8]) -> Draft {
    Draft::allocate().value(kind::RESERVATION_TOKEN, &token)
}

/// alice from another port, as a second component of hers would come.
fn second() -> Client {
    Client::alice_at("198.41.7.7:40001")
}

#[test]
fn even_port_without_reservation_gets_an_even_port_and_leaks_no_sibling() {
    let mut world = World::new();
    for number in 0..100 {
        let mut client = Client::alice_at(&format!("198.41.7.7:{}", 30_000 + number));
        let answer = client.ask(&mut world, Draft::allocate().even_port(0));
        assert!(answer.relayed()[0].port().is_multiple_of(2));
        assert_eq!(answer.token(), None);
    }
    assert_eq!(world.ports_held(), 100);
    world.advance(600);
    assert_eq!(world.ports_held(), 0);
}

#[test]
fn even_port_with_reservation_keeps_the_next_port_which_is_redeemed_once() {
    let mut world = World::new();
    let answer = Client::alice().ask(&mut world, Draft::allocate().even_port(0x80));
    let (even, token) = (answer.relayed()[0], answer.token().unwrap());
    assert!(even.port().is_multiple_of(2));
    assert_eq!((world.ports_held(), world.sockets.open.len()), (2, 1));
    let redeemed = second().ask(&mut world, redeeming(token)).relayed();
    assert_eq!((redeemed.len(), redeemed[0].ip(), redeemed[0].port()), (1, even.ip(), even.port() + 1));
    assert_eq!((world.ports_held(), world.sockets.open.len()), (2, 2));
    let mut third = Client::alice_at("198.41.7.7:40002");
    assert_eq!(third.ask(&mut world, redeeming(token)).code(), 508);
}

#[test]
fn reservation_lives_30_s_and_then_gets_508_and_its_port_is_free() {
    for (waited, code, held) in [(29, 0, 2), (30, 508, 1)] {
        let mut world = World::new();
        let token = Client::alice().ask(&mut world, Draft::allocate().even_port(0x80)).token().unwrap();
        world.advance(waited);
        assert_eq!(world.ports_held(), if waited < 30 { 2 } else { 1 }, "the server woke by itself");
        assert_eq!(second().ask(&mut world, redeeming(token)).code(), code);
        assert_eq!(world.ports_held(), held);
    }
}

#[test]
fn a_reservation_outlives_its_allocation_and_then_nothing_is_held() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.ask(&mut world, Draft::allocate().even_port(0x80));
    assert_eq!(alice.ask(&mut world, Draft::refresh(0)).code(), 0);
    assert_eq!(world.ports_held(), 1);
    world.advance(30);
    assert_eq!(world.ports_held(), 0);
}

#[test]
fn reservation_is_redeemed_on_another_shard_which_then_owns_the_port() {
    let mut shards = Settings::default().shards(2);
    let token = Client::alice().ask(&mut shards[0], Draft::allocate().even_port(0x80)).token().unwrap();
    let relayed = second().ask(&mut shards[1], redeeming(token)).relayed()[0];
    assert!(shards[1].sockets.open.values().any(|(open, _)| *open == relayed));
    assert_eq!(shards[0].shared.ports.owner(relayed), trunkline_turn::ports::PortOwner::Shard(1));
    shards[1].advance(600);
    shards[0].advance(600);
    assert_eq!(shards[0].ports_held(), 0);
}

#[test]
fn a_reservation_is_only_for_the_user_that_made_it() {
    let mut world = World::new();
    let token = Client::alice().ask(&mut world, Draft::allocate().even_port(0x80)).token().unwrap();
    assert_eq!(Client::bob().ask(&mut world, redeeming(token)).code(), 508);
    assert_eq!(second().ask(&mut world, redeeming(token)).code(), 0, "and is not lost by the attempt");
}

#[test]
fn a_forged_or_unknown_token_gets_508() {
    let mut world = World::new();
    let token = Client::alice().ask(&mut world, Draft::allocate().even_port(0x80)).token().unwrap();
    for bit in 0..64 {
        let mut forged = token;
        forged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(second().ask(&mut world, redeeming(forged)).code(), 508, "bit {bit}");
    }
    assert_eq!(second().ask(&mut world, redeeming(token)).code(), 0);
}

#[test]
fn token_with_even_port_or_a_family_gets_400_and_is_not_used_up() {
    let mut world = World::new();
    let token = Client::alice().ask(&mut world, Draft::allocate().even_port(0x80)).token().unwrap();
    for draft in
        [redeeming(token).even_port(0), redeeming(token).family(1), redeeming(token).additional_family(2)]
    {
        assert_eq!(second().ask(&mut world, draft).code(), 400);
    }
    assert_eq!(second().ask(&mut world, redeeming(token)).code(), 0);
}

#[test]
fn a_token_that_opens_no_socket_frees_its_port() {
    let mut world = World::new();
    let token = Client::alice().ask(&mut world, Draft::allocate().even_port(0x80)).token().unwrap();
    world.sockets.exhausted = true;
    assert_eq!(second().ask(&mut world, redeeming(token)).code(), 508);
    assert_eq!(world.ports_held(), 1);
}

#[test]
fn the_same_port_of_two_addresses_makes_two_reservations() {
    // One slice of each family, all ports but the same 20 in use: the port numbers must meet.
    let mut world = Settings { slices: 1, ..Settings::default() }.world();
    let ports =
        (9_216..10_220).flat_map(|port| [format!("{RELAY_V4}:{port}"), format!("[{RELAY_V6}]:{port}")]);
    let leases: Vec<_> = ports.map(|port| world.shared.ports.lease_exactly(at(&port), 9).unwrap()).collect();
    let mut tokens = Vec::new();
    for number in 0..40 {
        let family = number % 2 + 1;
        let mut client = Client::alice_at(&format!("198.41.7.7:{}", 30_000 + u16::from(number)));
        let answer = client.ask(&mut world, Draft::allocate().even_port(0x80).family(family));
        if answer.code() == 0 {
            tokens.push((answer.token().unwrap(), answer.relayed()[0]));
        }
    }
    // A token names a port and no address, so the ten pairs of port numbers can be had once.
    assert!((8..=10).contains(&tokens.len()), "{}", tokens.len());
    let held = leases.len() + 2 * tokens.len();
    assert_eq!(world.ports_held(), held, "every reservation holds its port");
    for (number, (token, even)) in tokens.into_iter().enumerate() {
        let mut client = Client::alice_at(&format!("198.41.7.7:{}", 20_000 + number));
        let odd = client.ask(&mut world, redeeming(token)).relayed();
        assert_eq!((odd[0].ip(), odd[0].port()), (even.ip(), even.port() + 1));
    }
}
