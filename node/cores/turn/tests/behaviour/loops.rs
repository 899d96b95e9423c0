//! Nothing goes round in circles (threats 7 and 8).

use trunkline_wire::stun::Method;
use trunkline_wire::{Transport, Via};

use crate::support::*;

/// Everything that makes a server send something to a client, and what it sent.
fn outputs(world: &mut World) -> Vec<Sent> {
    let (mut alice, mut outsider) = (Client::alice(), Client::alice_at("198.41.7.7:41000"));
    let relayed = alice.allocate_towards(world, at(OTHER_PEER));
    alice.bind(world, 0x4000, at(PEER));
    outsider.fetch_nonce(world);
    let requests = [
        Draft::request(Method::Binding),
        Draft::request(Method::Binding).value(0x7777, b"?"),
        Draft::allocate(),
        Draft::refresh(600),
        Draft::refresh(0).family(3),
        Draft::create_permission(&[at(PEER)]),
        Draft::create_permission(&[at("127.0.0.1:1")]),
        Draft::channel_bind(0x4000, at(OTHER_PEER)),
        Draft::channel_bind(0x4001, at("198.41.0.4:9")),
    ];
    let mut sent = Vec::new();
    for client in [&alice, &outsider] {
        for draft in &requests {
            sent.extend(world.receive(client.flow, &draft.bytes()));
            sent.extend(world.receive(client.flow, &client.signed(draft.clone()).bytes()));
            let nameless = draft.clone().integrity(&client.key);
            sent.extend(world.receive(client.flow, &nameless.bytes()));
        }
    }
    sent.extend(world.receive_from_peer(relayed, at(PEER), b"through a channel"));
    sent.extend(world.receive_from_peer(relayed, at(OTHER_PEER), b"in a Data indication"));
    sent
}

#[test]
fn all_output_mirrored_to_another_server_and_back_is_quiet_after_one_round() {
    let (mut here, mut there) = (World::new(), Settings { node: OTHER_NODE, ..Settings::default() }.world());
    let outputs = outputs(&mut here);
    assert!(outputs.len() > 50 && outputs.iter().all(|sent| matches!(sent.via, Via::Client(_))));
    for sent in outputs {
        // As if the client's address were the other server's, which answers to ours.
        for mirror in [&mut there, &mut here] {
            assert_eq!(mirror.receive(flow(Transport::Udp, "198.41.66.6:3478"), &sent.bytes), []);
        }
    }
}

#[test]
fn all_output_mirrored_by_the_client_itself_gets_no_stun_answer() {
    let mut world = World::new();
    for sent in outputs(&mut world) {
        let Via::Client(client) = sent.via else { panic!("{sent:?}") };
        let again = world.receive(client, &sent.bytes);
        let is_echo = sent.bytes[0] == 0x40 && again.len() == 1 && matches!(again[0].via, Via::Relay(_));
        assert!(again.is_empty() || is_echo, "{again:?}");
    }
}

#[test]
fn two_allocations_bound_to_each_other_make_one_copy_of_a_packet() {
    let mut world = World::new();
    let (mut alice, mut bob) = (Client::alice(), Client::bob());
    let (a, b) = (alice.allocate(&mut world), bob.allocate(&mut world));
    alice.bind(&mut world, 0x4000, b);
    bob.bind(&mut world, 0x4000, a);
    // World::receive fails when there is more than one.
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x").unwrap().via, Via::Client(bob.flow));
    assert_eq!(world.server.counters().to_peer.packets, 1);
    assert_eq!(world.server.counters().to_client.packets, 1);
}

#[test]
fn an_allocation_bound_to_itself_gets_its_packet_back_once() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let a = alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, a);
    assert_eq!(alice.send_on(&mut world, 0x4000, b"x").unwrap().via, Via::Client(alice.flow));
}

#[test]
fn a_datagram_from_another_shard_or_server_is_delivered_or_dropped_and_never_sent_on() {
    let mut world = Settings { slices: 4, ..Settings::default() }.world();
    let mut alice = Client::alice();
    let a = alice.allocate_towards(&mut world, at(PEER));
    assert_eq!(world.receive_relayed(a, at(PEER), b"x")[0].via, Via::Client(alice.flow));
    for elsewhere in ["192.0.2.1:60000", "192.0.2.1:9999", "198.41.0.4:7000"] {
        if at(elsewhere) != a {
            assert_eq!(world.receive_relayed(at(elsewhere), at(PEER), b"x"), []);
        }
    }
}
