//! Binding (RFC 8489 §3) and what is not answered at all (§6.3).

use trunkline_wire::stun::{Class, Method, attribute as kind};
use trunkline_wire::{DropReason, Transport};

use crate::support::*;

#[test]
fn binding_tells_the_client_its_address() {
    let mut world = World::new();
    for remote in ["198.41.7.7:40000", "[2606:4700::7]:40000"] {
        let client = Client::new(flow(Transport::Udp, remote), "", "");
        let answer = client.exchange(&mut world, &Draft::request(Method::Binding).bytes());
        assert_eq!((answer.code(), answer.mapped()), (0, Some(at(remote))));
    }
}

#[test]
fn binding_of_an_ice_agent_is_answered_with_a_fingerprint() {
    let mut world = World::new();
    let draft = Draft::request(Method::Binding)
        .value(kind::ICE_PRIORITY, &[0; 4])
        .value(kind::ICE_USE_CANDIDATE, &[])
        .value(0x802A, &[0; 8])
        .fingerprint();
    let answer = Client::alice().exchange(&mut world, &draft.bytes());
    assert!(answer.is_success() && answer.has(kind::FINGERPRINT));
}

#[test]
fn binding_with_an_unknown_attribute_gets_420() {
    let mut world = World::new();
    let draft = Draft::request(Method::Binding).value(0x0003, &[0; 4]);
    let answer = Client::alice().exchange(&mut world, &draft.bytes());
    assert_eq!((answer.code(), answer.unknown()), (420, vec![0x0003]));
}

#[test]
fn responses_and_indications_are_never_answered() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate_towards(&mut world, at(PEER));
    let methods = [
        Method::Binding,
        Method::Allocate,
        Method::Refresh,
        Method::CreatePermission,
        Method::ChannelBind,
        Method::Data,
    ];
    for class in [Class::Success, Class::Error, Class::Indication] {
        for method in methods {
            let draft = alice.signed(Draft::new(class, method).peer(at(PEER)).value(kind::DATA, b"x"));
            assert_eq!(world.receive(alice.flow, &draft.bytes()), [], "{class:?} {method:?}");
        }
    }
    assert_eq!(world.drops(DropReason::Response), 12);
    assert_eq!(world.drops(DropReason::BadIndication), 5);
}

#[test]
fn a_request_of_an_unknown_method_is_dropped_and_counted() {
    let mut world = World::new();
    // Higher methods make a first byte that is no STUN (RFC 7983).
    for number in [0x002, 0x005, 0x00A, 0x00B, 0x080, 0x0FF] {
        let mut draft = Draft::request(Method::Binding);
        draft.method = number;
        assert_eq!(world.receive(Client::alice().flow, &draft.bytes()), []);
    }
    assert_eq!(world.drops(DropReason::UnknownMethod), 6);
}

#[test]
fn what_is_neither_stun_nor_channel_data_is_dropped_and_counted() {
    let mut world = World::new();
    let flow = Client::alice().flow;
    for message in [&b""[..], b"\x04", b"\x16\xfe\xff", b"\x80\x60rtp", b"\xff"] {
        assert_eq!(world.receive(flow, message), []);
    }
    assert_eq!(world.drops(DropReason::NotTurn), 5);
    let request = Draft::request(Method::Binding).bytes();
    assert_eq!(world.receive(flow, &request[..19]), []);
    assert_eq!(world.receive(flow, &[&request[..], &[0; 4]].concat()), []);
    assert_eq!(world.drops(DropReason::MalformedStun), 2);
}
