//! Who used how much: every byte is told once, to the user it belongs to.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use trunkline_turn::{Traffic, Usage};

use crate::support::*;

type ByUser = HashMap<String, Usage>;

fn take(world: &mut World, into: &mut ByUser) {
    for (user, usage) in world.server.take_usage() {
        into.entry(user.quota_name.clone()).or_default().add(&usage);
    }
}

fn taken(world: &mut World) -> ByUser {
    let mut all = ByUser::new();
    take(world, &mut all);
    all
}

fn traffic(packets: u64, bytes: u64) -> Traffic {
    Traffic { packets, bytes }
}

#[test]
fn each_direction_and_each_allocation_is_told_once() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate_towards(&mut world, at(PEER));
    alice.send_to(&mut world, at(PEER), &[0; 100]);
    world.receive_from_peer(relayed, at(PEER), &[0; 7]);
    world.receive_from_peer(relayed, at(PEER), &[0; 8]);
    let expected = Usage { to_peer: traffic(1, 100), to_client: traffic(2, 15), allocations: 1 };
    assert_eq!(taken(&mut world), [("alice".into(), expected)].into());
    assert!(taken(&mut world).is_empty(), "nothing new");
    alice.send_to(&mut world, at(PEER), &[0; 3]);
    let expected = Usage { to_peer: traffic(1, 3), ..Usage::default() };
    assert_eq!(taken(&mut world), [("alice".into(), expected)].into());
}

#[test]
fn what_an_allocation_did_before_it_ended_is_told_after_it() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate_towards(&mut world, at(PEER));
    alice.send_to(&mut world, at(PEER), &[0; 100]);
    assert_eq!(alice.ask(&mut world, Draft::refresh(0)).code(), 0);
    let expected = Usage { to_peer: traffic(1, 100), allocations: 1, ..Usage::default() };
    assert_eq!(taken(&mut world), [("alice".into(), expected)].into());
    assert!(taken(&mut world).is_empty());
}

#[test]
fn an_allocation_is_told_whichever_others_end_before_it() {
    for first in 0..3 {
        for second in 0..4 {
            let mut world = World::new();
            let client = |port: usize| Client::alice_at(&format!("198.41.7.7:{}", port + 1));
            let mut clients: Vec<_> = (0..4).map(client).collect();
            for client in clients.iter_mut().take(3) {
                client.allocate(&mut world);
            }
            clients[first].ask(&mut world, Draft::refresh(0));
            clients[3].allocate(&mut world);
            clients[second].ask(&mut world, Draft::refresh(0));
            assert_eq!(taken(&mut world)["alice"].allocations, 4, "{first}, then {second}");
        }
    }
}

#[test]
fn between_two_of_our_relays_both_users_are_charged() {
    let mut world = World::new();
    let (mut alice, mut bob) = (Client::alice(), Client::bob());
    let (a, b) = (alice.allocate(&mut world), bob.allocate(&mut world));
    alice.permit(&mut world, b);
    bob.permit(&mut world, a);
    alice.send_to(&mut world, b, &[0; 50]).unwrap();
    let usage = taken(&mut world);
    assert_eq!((usage["alice"].to_peer, usage["alice"].to_client), (traffic(1, 50), traffic(0, 0)));
    assert_eq!((usage["bob"].to_peer, usage["bob"].to_client), (traffic(0, 0), traffic(1, 50)));
}

#[test]
fn users_of_a_key_are_told_with_it_and_by_the_name_that_quotas_count() {
    let mut world = World::new();
    Client::with_time_limited("1800000000:k1:dora", "key secret").allocate(&mut world);
    let usage = world.server.take_usage();
    let [(user, _)] = &usage[..] else { panic!("one user") };
    assert_eq!((user.key_id.as_deref(), user.quota_name.as_str()), (Some("k1"), "k1:dora"));
}

#[test]
fn users_whose_usage_nobody_asks_for_are_bounded_and_their_key_still_pays() {
    let mut world = World::new();
    let mut names = 0_usize;
    for number in 0..66_000_u64 {
        let name = format!("{}:k1:{number}", 1_800_000_000 + number);
        let mut client = Client::with_time_limited(&name, "key secret");
        client.allocate(&mut world);
        assert_eq!(client.ask(&mut world, Draft::refresh(0)).code(), 0);
        names += 1;
    }
    let usage = world.server.take_usage();
    assert!(usage.len() <= 65_537, "{}", usage.len());
    assert_eq!(usage.iter().map(|(_, usage)| usage.allocations).sum::<u64>(), names as u64);
    assert!(usage.iter().all(|(user, _)| user.key_id.as_deref() == Some("k1")));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { client: usize },
    Release { client: usize },
    Send { client: usize, bytes: usize },
    SendToClient { client: usize, of: usize, bytes: usize },
    Receive { client: usize, bytes: usize },
    Advance { seconds: u64 },
    Revoke,
    Take,
}

const CLIENTS: usize = 6;

fn step() -> impl Strategy<Value = Step> {
    let (client, bytes) = (0..CLIENTS, 0..1_400_usize);
    prop_oneof![
        3 => client.clone().prop_map(|client| Step::Allocate { client }),
        1 => client.clone().prop_map(|client| Step::Release { client }),
        5 => (client.clone(), bytes.clone()).prop_map(|(client, bytes)| Step::Send { client, bytes }),
        4 => (client.clone(), client.clone(), bytes.clone())
            .prop_map(|(client, of, bytes)| Step::SendToClient { client, of, bytes }),
        5 => (client, bytes).prop_map(|(client, bytes)| Step::Receive { client, bytes }),
        1 => (0..400_u64).prop_map(|seconds| Step::Advance { seconds }),
        1 => Just(Step::Revoke),
        2 => Just(Step::Take),
    ]
}

struct Node {
    world: World,
    clients: Vec<Client>,
    relayed: Vec<Option<std::net::SocketAddr>>,
    told: ByUser,
}

impl Node {
    fn new() -> Self {
        let client = |number: usize| {
            let name = format!("2000000000:k1:{}", number % 3);
            let mut client = Client::with_time_limited(&name, "key secret");
            client.flow.remote.set_port(1 + number as u16);
            client
        };
        let (clients, relayed) = ((0..CLIENTS).map(client).collect(), vec![None; CLIENTS]);
        Self { world: World::new(), clients, relayed, told: ByUser::new() }
    }

    fn take(&mut self, step: Step) {
        let world = &mut self.world;
        match step {
            Step::Allocate { client } => {
                self.clients[client].nonce = None;
                let peers = self.relayed.iter().flatten().copied().chain([at(PEER)]);
                let answer = self.clients[client].ask(world, Draft::allocate());
                if answer.code() == 0 {
                    peers.for_each(|peer| self.clients[client].permit(world, peer));
                    self.relayed[client] = Some(answer.relayed()[0]);
                }
            }
            Step::Release { client } => {
                self.clients[client].nonce = None;
                self.clients[client].ask(world, Draft::refresh(0));
            }
            Step::Send { client, bytes } => {
                self.clients[client].send_to(world, at(PEER), &vec![0; bytes]);
            }
            Step::SendToClient { client, of, bytes } => {
                if let Some(peer) = self.relayed[of] {
                    self.clients[client].send_to(world, peer, &vec![0; bytes]);
                }
            }
            Step::Receive { client, bytes } => {
                if let Some(relayed) = self.relayed[client] {
                    world.receive_relayed(relayed, at(PEER), &vec![0; bytes]);
                }
            }
            Step::Advance { seconds } => world.advance(seconds),
            Step::Revoke => {
                let mut gone = credentials();
                gone.keys.clear();
                world.amend(|terms| terms.credentials = Arc::new(gone));
                world.amend(|terms| terms.credentials = Arc::new(credentials()));
            }
            Step::Take => take(world, &mut self.told),
        }
    }

    /// All that was told is all that was counted.
    fn check(mut self) {
        take(&mut self.world, &mut self.told);
        let mut sum = Usage::default();
        self.told.values().for_each(|usage| sum.add(usage));
        let counters = self.world.server.counters();
        assert_eq!(sum.to_peer, counters.to_peer);
        assert_eq!(sum.to_client, counters.to_client);
        assert_eq!(sum.allocations, counters.allocations_opened);
        assert!(taken(&mut self.world).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_sum_of_what_is_told_is_the_sum_of_what_was_counted(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut node = Node::new();
        steps.into_iter().for_each(|step| node.take(step));
        node.check();
    }
}
