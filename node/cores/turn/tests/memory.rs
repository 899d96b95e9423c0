//! Who is not authenticated costs no memory, and who is gives back what was had (threat 12, RFC 8489 §15.1).

#[path = "support/counting.rs"]
mod counting;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "another test program uses the rest of the world")]
mod support;

use counting::{CountingAllocator, tally};
use support::{Client, Draft, PEER, REALM, Settings, World, at};
use trunkline_turn::Limits;
use trunkline_turn::policer::Rate;
use trunkline_wire::stun::attribute as kind;
use trunkline_wire::{ClientFlow, Transport};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const FORGED: u32 = 1_000_000;
const SOURCE_PORTS: u32 = 100_000;
const BYTES_MAX: i64 = 64 * 1_024;

/// A source that is different for 100,000 numbers and then comes again, and an address for each million.
fn source(number: u32, spread: bool) -> ClientFlow {
    let port = 10_000 + number % (SOURCE_PORTS / 2);
    let host = if spread { number } else { number % SOURCE_PORTS / (SOURCE_PORTS / 2) };
    let ip = std::net::Ipv4Addr::from(0xC629_0000_u32.wrapping_add(host));
    let remote = std::net::SocketAddr::new(ip.into(), u16::try_from(port).unwrap());
    ClientFlow { remote, ..support::flow(Transport::Udp, "198.41.0.1:1") }
}

/// Allocates that no password was known for: bare, with an integrity that is made up, with the nonce of another
/// address, and with a valid nonce and a name that is known.
fn forged(world: &mut World) -> [Vec<u8>; 4] {
    let mut alice = Client::alice();
    alice.fetch_nonce(world);
    let nonce = alice.nonce.clone().unwrap();
    let with = |nonce: &[u8]| {
        let draft = Draft::allocate().value(kind::USERNAME, b"alice").value(kind::REALM, REALM.as_bytes());
        draft.value(kind::NONCE, nonce).integrity(&Client::bob().key).bytes()
    };
    [Draft::allocate().bytes(), with(b"made up"), with(&nonce), with(&nonce)]
}

fn flood(unauthenticated: Rate, spread: bool) -> (World, i64) {
    let limits = Limits { unauthenticated, ..Limits::default() };
    let mut world = Settings { limits, ..Settings::default() }.world();
    let forged = forged(&mut world);
    let alice = Client::alice().flow;
    let request = |world: &mut World, number: u32| {
        let kind = number % 4;
        let from = if kind == 3 { alice } else { source(number, spread) };
        world.receive(from, &forged[kind as usize]);
    };
    (0..1_000).for_each(|number| request(&mut world, number));
    let before = tally().live_bytes;
    for number in 0..FORGED {
        request(&mut world, number);
        if number % 10_000 == 0 {
            world.advance(1);
        }
    }
    let grown = tally().live_bytes - before;
    (world, grown)
}

#[test]
fn a_million_forged_allocates_from_100_000_source_ports_grow_no_memory() {
    for unauthenticated in [Limits::default().unauthenticated, Rate::UNLIMITED] {
        let (world, grown) = flood(unauthenticated, false);
        assert!(grown < BYTES_MAX, "{grown} bytes");
        assert_eq!((world.server.allocation_count(), world.ports_held()), (0, 0));
        assert_eq!(world.server.poll_timeout(), None);
    }
}

#[test]
fn a_million_spoofed_addresses_grow_no_memory() {
    let (mut world, grown) = flood(Limits::default().unauthenticated, true);
    assert!(grown < BYTES_MAX, "{grown} bytes");
    Client::bob().allocate(&mut world);
}

#[test]
fn allocations_that_come_and_go_leave_nothing_behind() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let mut come_and_go = |world: &mut World, times: u32| {
        for number in 0..times {
            alice.allocate(world);
            alice.bind(world, 0x4000, at(PEER));
            assert_eq!(alice.ask(world, Draft::refresh(0)).code(), 0);
            if number % 1_000 == 0 {
                while world.server.poll_event().is_some() {}
            }
        }
    };
    come_and_go(&mut world, 10_000);
    let before = tally().live_bytes;
    come_and_go(&mut world, 50_000);
    let grown = tally().live_bytes - before;
    assert!(grown < BYTES_MAX, "{grown} bytes");
    world.advance(600);
    assert_eq!(world.server.poll_timeout(), None);
}

#[test]
fn an_idle_allocation_costs_little() {
    let mut world = World::new();
    let before = tally().live_bytes;
    for number in 0..10_000 {
        let mut client = Client::alice_at(&format!("198.41.{}.7:40000", number % 250));
        client.flow.remote.set_port(1_000 + u16::try_from(number).unwrap());
        client.allocate(&mut world);
    }
    let each = (tally().live_bytes - before) / 10_000;
    assert!(each < 2_048, "{each} bytes for an allocation");
    world.advance(600);
    assert_eq!(world.ports_held(), 0);
}
