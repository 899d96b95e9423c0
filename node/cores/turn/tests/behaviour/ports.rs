//! Relayed ports cannot be guessed (RFC 8656 §7.2, §21.1.6; threat 22), and their table is exact.

use trunkline_turn::ports::PortOwner;
use trunkline_wire::NodeId;

use crate::support::*;

const PORTS: usize = 65_536 - 9_216;

/// The ports of many allocations that come and go one after another.
fn sequence(seed: u8, count: usize) -> Vec<u16> {
    let mut world = Settings { seed, ..Settings::default() }.world();
    let mut alice = Client::alice();
    let next = |_| {
        let port = alice.allocate(&mut world).port();
        assert_eq!(alice.ask(&mut world, Draft::refresh(0)).code(), 0);
        port
    };
    (0..count).map(next).collect()
}

#[test]
fn relayed_ports_spread_evenly_over_all_there_are() {
    let ports = sequence(1, 20_000);
    assert!(ports.iter().all(|port| *port >= 9_216));
    let mut bins = [0_u32; 55];
    for port in &ports {
        bins[usize::from(port - 9_216) / 1_024] += 1;
    }
    // Chi-square with 54 degrees of freedom: above 99.6 once in 10,000 honest runs; the seed is fixed.
    let expected = 20_000.0 / 55.0;
    let chi_square: f64 = bins.iter().map(|bin| (f64::from(*bin) - expected).powi(2) / expected).sum();
    assert!(chi_square < 99.6, "{chi_square}");
    let even = ports.iter().filter(|port| port.is_multiple_of(2)).count();
    assert!((9_600..10_400).contains(&even), "{even}");
}

#[test]
fn one_port_says_nothing_about_the_next() {
    let ports = sequence(2, 20_000);
    let steps: Vec<usize> =
        ports.windows(2).map(|pair| (usize::from(pair[1]) + PORTS - usize::from(pair[0])) % PORTS).collect();
    let small = steps.iter().filter(|step| **step < 100 || **step > PORTS - 100).count();
    assert!(small < 140, "{small} of 71 expected are near their predecessor");
    let mut seen = steps.clone();
    seen.sort();
    seen.dedup();
    // 20,000 draws from 56,320 leave about 16,800 different ones.
    assert!((16_400..17_200).contains(&seen.len()), "{} different steps", seen.len());
}

#[test]
fn another_seed_makes_another_sequence() {
    let (first, second) = (sequence(3, 200), sequence(4, 200));
    let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
    assert!(same < 4, "{same}");
    assert_eq!(first, sequence(3, 200), "and the same seed the same");
}

#[test]
fn even_ports_are_as_unpredictable_as_any() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let mut ports: Vec<u16> = (0..2_000)
        .map(|_| {
            let port = alice.ask(&mut world, Draft::allocate().even_port(0)).relayed()[0].port();
            alice.ask(&mut world, Draft::refresh(0));
            port
        })
        .collect();
    assert!(ports.iter().all(|port| port.is_multiple_of(2)));
    ports.sort();
    ports.dedup();
    assert!(ports.len() > 1_900, "{}", ports.len());
}

#[test]
fn the_table_knows_the_owner_of_every_port() {
    let mut world = Settings { slices: 2, ..Settings::default() }.world();
    let relayed = Client::alice().allocate(&mut world);
    let ports = &world.shared.ports;
    for port in 0..=u16::MAX {
        let expected = match port {
            0..9_216 => PortOwner::Nobody,
            port if port == relayed.port() => PortOwner::Shard(0),
            9_216..11_264 => PortOwner::Nobody,
            11_264.. => PortOwner::Node(OTHER_NODE),
        };
        assert_eq!(ports.owner(at(&format!("{RELAY_V4}:{port}"))), expected, "{port}");
    }
    assert_eq!(ports.owner(at("198.41.0.4:20000")), PortOwner::Nobody);
    assert_ne!(OTHER_NODE, NodeId::default());
}
