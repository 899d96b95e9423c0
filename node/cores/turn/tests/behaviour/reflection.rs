//! What a spoofed source can make us send (threat 11, RFC 8489 §15.1).

use trunkline_turn::Limits;
use trunkline_turn::policer::Rate;
use trunkline_wire::stun::{Method, attribute as kind};
use trunkline_wire::{DropReason, Transport};

use crate::support::*;

fn ip_and_udp_bytes(remote: &str) -> usize {
    if at(remote).is_ipv4() { 28 } else { 48 }
}

#[test]
fn a_401_is_at_most_twice_the_smallest_allocate() {
    for remote in ["198.41.7.7:40000", "[2606:4700::7]:40000"] {
        for draft in [Draft::allocate(), Draft::allocate().fingerprint()] {
            let mut world = World::new();
            let request = draft.bytes();
            let answer = Client::alice_at(remote).exchange(&mut world, &request);
            assert_eq!(answer.code(), 401);
            let headers = ip_and_udp_bytes(remote);
            let (sent, received) = (answer.bytes.len() + headers, request.len() + headers);
            assert!(sent <= 2 * received, "{sent} bytes for {received} from {remote}");
        }
    }
}

#[test]
fn no_unauthenticated_answer_exceeds_twice_its_request() {
    let mut alice = Client::alice();
    alice.nonce = Some(b"not one of ours".to_vec());
    let unknown = (0..20_u16).fold(Draft::request(Method::Binding), |draft, n| draft.value(0x7000 + n, b""));
    let drafts = [
        Draft::request(Method::Refresh),
        Draft::request(Method::Refresh).fingerprint(),
        Draft::request(Method::Binding),
        Draft::request(Method::Binding).value(0x7777, b""),
        unknown,
        alice.signed(Draft::refresh(600)),
        alice.signed(Draft::request(Method::Refresh)),
        Draft::request(Method::Refresh).integrity(&alice.key),
        Draft::refresh(600),
        Draft::create_permission(&[at(PEER)]),
        Draft::channel_bind(0x4000, at(PEER)),
        Draft::request(Method::Allocate).value(kind::LIFETIME, b""),
    ];
    for draft in drafts {
        let request = draft.bytes();
        let answer = alice.exchange(&mut World::new(), &request);
        assert!(answer.bytes.len() + 28 <= 2 * (request.len() + 28), "{answer:?}");
    }
}

/// Bytes, with their headers, that a second of requests from ever new ports of one address makes us send.
fn bytes_of_a_second(world: &mut World, request: &[u8]) -> usize {
    let mut bytes = 0;
    for number in 0..20_000_u16 {
        let remote = at(&format!("198.41.7.7:{}", 10_000 + number));
        let mut flow = Client::alice().flow;
        flow.remote = remote;
        bytes += world.receive(flow, request).iter().map(|sent| sent.bytes.len() + 28).sum::<usize>();
    }
    bytes
}

#[test]
fn a_spoofed_source_gets_a_bounded_number_of_bytes_whatever_the_port() {
    let limits = Limits { unauthenticated: Rate { per_s: 10_000, burst: 50_000 }, ..Limits::default() };
    let binding = Draft::request(Method::Binding).bytes();
    let stale =
        Client { nonce: Some(b"stale".to_vec()), ..Client::alice() }.signed(Draft::allocate()).bytes();
    for request in [Draft::allocate().bytes(), binding, stale] {
        let mut world = Settings { limits, ..Settings::default() }.world();
        let first = bytes_of_a_second(&mut world, &request);
        assert!((49_000..=50_000).contains(&first), "{first}");
        for _ in 0..5 {
            world.advance(1);
            let then = bytes_of_a_second(&mut world, &request);
            assert!((9_500..=10_500).contains(&then), "{then}");
        }
        assert!(world.drops(DropReason::UnauthenticatedBudget) > 100_000);
        let neighbour = Client::alice_at("198.41.7.8:1").exchange_or_silence(&mut world, &request);
        assert!(neighbour.is_some(), "another address is answered");
    }
}

#[test]
fn ipv6_sources_share_the_budget_of_their_64() {
    let limits = Limits { unauthenticated: Rate { per_s: 1, burst: 1_000 }, ..Limits::default() };
    let mut world = Settings { limits, ..Settings::default() }.world();
    let mut answered = |prefix: &str| {
        let client = |host: usize| Client::alice_at(&format!("[2606:4700:0:{prefix}::{host:x}]:40000"));
        let request = Draft::allocate().bytes();
        (0..100).filter(|host| client(*host).exchange_or_silence(&mut world, &request).is_some()).count()
    };
    let first = answered("1");
    assert!((5..20).contains(&first), "{first}");
    assert_eq!(answered("1"), 0);
    assert_eq!(answered("2"), first);
}

#[test]
fn a_valid_nonce_that_comes_back_replenishes_the_budget_of_its_address() {
    let limits = Limits { unauthenticated: Rate { per_s: 1, burst: 1_000 }, ..Limits::default() };
    let mut world = Settings { limits, ..Settings::default() }.world();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    let neighbours: Vec<_> =
        (0..30).map(|number| Client::alice_at(&format!("198.41.7.7:{}", 100 + number))).collect();
    let request = Draft::allocate().bytes();
    let answered = |world: &mut World| {
        neighbours.iter().filter_map(|client| client.exchange_or_silence(world, &request)).count()
    };
    assert!(answered(&mut world) > 5);
    assert_eq!(answered(&mut world), 0);
    assert_eq!(alice.ask(&mut world, Draft::refresh(600)).code(), 0, "a busy carrier NAT lives");
    assert!(answered(&mut world) > 5);
    let mut forger = Client { nonce: Some(vec![b'A'; 20]), ..Client::alice() };
    assert!(forger.exchange_or_silence(&mut world, &forger.signed(Draft::refresh(600)).bytes()).is_none());
    forger.nonce = None;
    assert_eq!(answered(&mut world), 0, "an invalid one does not");
}

#[test]
fn a_connection_needs_no_budget_because_its_handshake_proved_the_address() {
    let limits = Limits { unauthenticated: Rate { per_s: 1, burst: 1 }, ..Limits::default() };
    let mut world = Settings { limits, ..Settings::default() }.world();
    for transport in [Transport::Tcp, Transport::Tls] {
        Client::alice_over(transport).allocate(&mut world);
    }
    assert_eq!(Client::alice().exchange_or_silence(&mut world, &Draft::allocate().bytes()), None);
}
