//! Which clients are served: by network and by autonomous system, enforced where packets arrive.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use trunkline_turn::client_policy::{AutonomousSystems, ClientRules};
use trunkline_turn::{ClientPolicy, CloseReason, Event};
use trunkline_wire::stun::Method;
use trunkline_wire::{DropReason, Transport};

use crate::support::*;

/// 198.41.0.0/16 is AS 64500, 199.0.0.0/8 is AS 64501, the rest nobody's; counts how often it is asked.
#[derive(Default)]
struct Registry(AtomicU32);

impl AutonomousSystems for Registry {
    fn number_of(&self, ip: IpAddr) -> Option<u32> {
        self.0.fetch_add(1, Ordering::Relaxed);
        match ip.to_string() {
            ip if ip.starts_with("198.41.") => Some(64_500),
            ip if ip.starts_with("199.") => Some(64_501),
            _ => None,
        }
    }
}

fn rules(allow: &[&str], deny: &[&str]) -> ClientRules {
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
    ClientRules { allow: nets(allow), deny: nets(deny), ..ClientRules::default() }
}

fn admit(world: &mut World, rules: ClientRules) {
    world.amend(|terms| terms.clients = Arc::new(ClientPolicy::new(rules, None)));
}

fn admits(rules: &ClientRules, ip: &str) -> bool {
    ClientPolicy::new(rules.clone(), Some(Arc::new(Registry::default()))).admits(ip.parse().unwrap())
}

#[test]
fn a_denied_client_gets_no_answer_to_anything_and_each_packet_is_counted() {
    let mut world = World::new();
    admit(&mut world, rules(&[], &["198.41.8.0/24"]));
    let bob = Client::bob();
    let messages = [
        Draft::request(Method::Binding).bytes(),
        Draft::allocate().bytes(),
        Draft::send(at(PEER), b"x").bytes(),
        channel_data(0x4000, b"x"),
        vec![0xFF; 40],
    ];
    for message in &messages {
        assert!(world.receive(bob.flow, message).is_empty());
    }
    assert_eq!(world.drops(DropReason::ClientDenied), messages.len() as u64);
    Client::alice().allocate(&mut world);
}

#[test]
fn clients_that_are_denied_now_lose_their_allocations_and_others_do_not() {
    let mut world = World::new();
    let (mut alice, mut bob) = (Client::alice(), Client::bob());
    alice.allocate_towards(&mut world, at(PEER));
    bob.allocate_towards(&mut world, at(PEER));
    admit(&mut world, rules(&[], &["198.41.8.8/32"]));
    let denied = std::iter::from_fn(|| world.server.poll_event())
        .filter(|event| matches!(event, Event::Closed { reason: CloseReason::ClientDenied, .. }));
    assert_eq!(denied.count(), 1);
    assert_eq!((world.server.allocation_count(), world.ports_held()), (1, 1));
    assert!(alice.send_to(&mut world, at(PEER), b"x").is_some());
    assert_eq!(bob.send_to(&mut world, at(PEER), b"x"), None);
    admit(&mut world, ClientRules::default());
    bob.allocate(&mut world);
}

#[test]
fn connections_are_refused_where_datagrams_are_and_every_refusal_is_counted() {
    let mut world = World::new();
    assert!(world.server.admits_connection(at("198.41.8.8:1")));
    admit(&mut world, rules(&["198.41.7.0/24"], &[]));
    assert!(!world.server.admits_connection(at("198.41.8.8:1")));
    assert!(world.server.admits_connection(Client::alice_over(Transport::Tcp).flow.remote));
    assert_eq!(world.drops(DropReason::ClientDenied), 1);
}

#[test]
fn every_encoding_of_a_denied_ipv4_address_is_denied_and_families_do_not_mix() {
    let deny = rules(&[], &["198.41.8.8/32"]);
    for ip in ["198.41.8.8", "::ffff:198.41.8.8", "64:ff9b::198.41.8.8", "2002:c629:808::1"] {
        assert!(!admits(&deny, ip), "{ip}");
    }
    assert!(admits(&deny, "198.41.8.9") && admits(&deny, "2606:4700::1"));
    let no_ipv6 = rules(&[], &["::/0"]);
    assert!(admits(&no_ipv6, "198.41.8.8") && !admits(&no_ipv6, "2606:4700::1"));
    assert!(!admits(&rules(&[], &["2002::/16"]), "2002:c629:808::1"));
}

#[test]
fn a_denial_wins_and_where_anything_is_allowed_all_else_is_denied() {
    let both = rules(&["198.41.0.0/16"], &["198.41.8.0/24"]);
    assert!(admits(&both, "198.41.7.7") && !admits(&both, "198.41.8.8") && !admits(&both, "199.7.91.13"));
    let by_system = ClientRules { allow_asn: vec![64_501], ..both.clone() };
    assert!(admits(&by_system, "199.7.91.13") && admits(&by_system, "198.41.7.7"), "either suffices");
    assert!(!admits(&by_system, "8.8.8.8") && !admits(&by_system, "198.41.8.8"));
    let denied = ClientRules { deny_asn: vec![64_500], ..both };
    assert!(!admits(&denied, "198.41.7.7"));
}

#[test]
fn without_a_registry_nobody_is_of_an_allowed_system() {
    let allow = ClientPolicy::new(ClientRules { allow_asn: vec![64_500], ..ClientRules::default() }, None);
    assert!(!allow.admits("198.41.7.7".parse().unwrap()) && !allow.is_open());
    let deny = ClientPolicy::new(ClientRules { deny_asn: vec![64_500], ..ClientRules::default() }, None);
    assert!(deny.admits("198.41.7.7".parse().unwrap()));
}

#[test]
fn a_source_is_looked_up_once_and_a_flow_with_an_allocation_never() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate_towards(&mut world, at(PEER));
    let registry = Arc::new(Registry::default());
    let rules = ClientRules { deny_asn: vec![64_501], ..ClientRules::default() };
    world.amend(|terms| terms.clients = Arc::new(ClientPolicy::new(rules, Some(registry.clone()))));
    assert_eq!(registry.0.load(Ordering::Relaxed), 1, "the live allocation, once");
    for _ in 0..1_000 {
        assert!(alice.send_to(&mut world, at(PEER), b"x").is_some());
    }
    assert_eq!(registry.0.load(Ordering::Relaxed), 1);
    let denied = flow(Transport::Udp, "199.7.91.13:1");
    (0..1_000).for_each(|_| drop(world.receive(denied, &Draft::request(Method::Binding).bytes())));
    assert_eq!((registry.0.load(Ordering::Relaxed), world.drops(DropReason::ClientDenied)), (2, 1_000));
}
