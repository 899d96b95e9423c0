//! Whatever happens in whatever order: free ports and held ports are always all ports, a port is held exactly by an
//! open socket or a living reservation, and in the end nothing is left (threat 20).

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use trunkline_turn::quota::Quotas;
use trunkline_wire::Transport;
use trunkline_wire::stun::attribute as kind;

use crate::support::*;

const CLIENTS: usize = 6;
const SHARDS: usize = 2;
/// Few enough ports that they run out.
const SLICES: usize = 1;
const QUOTA: u32 = 4;

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        client: usize,
        kind: Asked,
    },
    /// The Allocate before, once more.
    Retransmit {
        client: usize,
    },
    Refresh {
        client: usize,
        lifetime_s: u32,
        family: Option<u8>,
    },
    Permit {
        client: usize,
        peer: u8,
    },
    Bind {
        client: usize,
        channel: u16,
        peer: u8,
    },
    Disconnect {
        client: usize,
    },
    Advance {
        seconds: u64,
    },
    Exhaust {
        shard: usize,
        exhausted: bool,
    },
    /// Everything but a few ports is used by something else on the machine.
    Crowd {
        shard: usize,
        crowded: bool,
    },
    Close {
        shard: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Plain,
    Even,
    Reserve,
    Redeem,
    Both,
    V6,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let shard = 0..SHARDS;
    let asked = prop_oneof![
        Just(Asked::Plain),
        Just(Asked::Even),
        Just(Asked::Reserve),
        Just(Asked::Redeem),
        Just(Asked::Both),
        Just(Asked::V6),
    ];
    let lifetime = prop_oneof![2 => Just(0_u32), 1 => Just(600), 1 => any::<u32>()];
    let family = prop_oneof![2 => Just(None), 1 => Just(Some(1)), 1 => Just(Some(2))];
    prop_oneof![
        6 => (client.clone(), asked).prop_map(|(client, kind)| Step::Allocate { client, kind }),
        1 => client.clone().prop_map(|client| Step::Retransmit { client }),
        3 => (client.clone(), lifetime, family)
            .prop_map(|(client, lifetime_s, family)| Step::Refresh { client, lifetime_s, family }),
        2 => (client.clone(), any::<u8>()).prop_map(|(client, peer)| Step::Permit { client, peer }),
        2 => (client.clone(), 0x3FFE_u16..0x4006, 0..4_u8)
            .prop_map(|(client, channel, peer)| Step::Bind { client, channel, peer }),
        1 => client.prop_map(|client| Step::Disconnect { client }),
        3 => prop_oneof![0_u64..40, Just(300), 0_u64..2_000].prop_map(|seconds| Step::Advance { seconds }),
        1 => (shard.clone(), any::<bool>()).prop_map(|(shard, exhausted)| Step::Exhaust { shard, exhausted }),
        1 => (shard.clone(), any::<bool>()).prop_map(|(shard, crowded)| Step::Crowd { shard, crowded }),
        1 => shard.prop_map(|shard| Step::Close { shard }),
    ]
}

/// Clients of both users are on both shards.
fn shard_of(client: usize) -> usize {
    client / 2 % SHARDS
}

struct Node {
    shards: Vec<World>,
    clients: Vec<Client>,
    /// The last Allocate of each client.
    allocates: Vec<Vec<u8>>,
    /// Reservations: token, when they end, and whose they are. Redeemed ones are taken out.
    tokens: Vec<([u8; 8], u64, usize)>,
}

impl Node {
    fn new() -> Self {
        let quotas = Quotas { per_user: QUOTA, ..Quotas::default() };
        let shards = Settings { slices: SLICES, quotas, ..Settings::default() }.shards(SHARDS as u8);
        let client = |number: usize| {
            let transport = if number.is_multiple_of(3) { Transport::Tcp } else { Transport::Udp };
            let flow = flow(transport, &format!("198.41.7.7:{}", 40_000 + number));
            let mut client = Client::new(flow, "alice", "wonderland");
            if !number.is_multiple_of(2) {
                client = Client { flow, ..Client::bob() };
            }
            client
        };
        Self {
            shards,
            clients: (0..CLIENTS).map(client).collect(),
            allocates: vec![vec![]; CLIENTS],
            tokens: vec![],
        }
    }

    fn ask(&mut self, client: usize, draft: Draft) -> Answer {
        let world = &mut self.shards[shard_of(client)];
        let answer = self.clients[client].ask(world, draft.clone());
        if answer.code() == 438 {
            self.clients[client].nonce = answer.value(kind::NONCE).map(<[u8]>::to_vec);
            return self.clients[client].ask(world, draft);
        }
        answer
    }

    fn allocate(&mut self, client: usize, asked: Asked) {
        let draft = match asked {
            Asked::Plain => Draft::allocate(),
            Asked::Even => Draft::allocate().even_port(0),
            Asked::Reserve => Draft::allocate().even_port(0x80),
            Asked::Both => Draft::allocate().additional_family(2),
            Asked::V6 => Draft::allocate().family(2),
            Asked::Redeem => match self.tokens.last() {
                Some((token, ..)) => Draft::allocate().value(kind::RESERVATION_TOKEN, token),
                None => return,
            },
        };
        let answer = self.ask(client, draft.clone());
        self.allocates[client] = self.clients[client].signed(draft.transaction(client as u64)).bytes();
        if let (Asked::Redeem, Some((_, _, owner))) = (asked, self.tokens.last()) {
            let is_theirs = owner % 2 == client % 2;
            assert!(is_theirs || answer.code() != 0, "somebody else's");
            // A port that cannot be opened is not kept any longer either.
            if answer.code() == 0 || (is_theirs && answer.code() == 508) {
                self.tokens.pop();
            }
        }
        if let Some(token) = answer.token() {
            self.tokens.push((token, self.shards[0].now.after_s(30), client));
        }
    }

    fn take(&mut self, step: Step) {
        let peer = |number: u8| at(&format!("198.42.0.{number}:80"));
        match step {
            Step::Allocate { client, kind } => self.allocate(client, kind),
            Step::Retransmit { client } => {
                let (world, flow) = (&mut self.shards[shard_of(client)], self.clients[client].flow);
                if world.server.has_allocation(&flow) {
                    world.receive(flow, &self.allocates[client]);
                }
            }
            Step::Refresh { client, lifetime_s, family } => {
                let draft = Draft::refresh(lifetime_s);
                self.ask(client, family.into_iter().fold(draft, Draft::family));
            }
            Step::Permit { client, peer: number } => {
                drop(self.ask(client, Draft::create_permission(&[peer(number)])))
            }
            Step::Bind { client, channel, peer: number } => {
                self.ask(client, Draft::channel_bind(channel, peer(number)));
            }
            Step::Disconnect { client } => {
                let World { server, sockets, .. } = &mut self.shards[shard_of(client)];
                server.handle_client_closed(&self.clients[client].flow, sockets);
            }
            Step::Advance { seconds } => self.shards.iter_mut().for_each(|world| world.advance(seconds)),
            Step::Exhaust { shard, exhausted } => self.shards[shard].sockets.exhausted = exhausted,
            Step::Crowd { shard, crowded } => {
                let ports = if crowded { 9_216..10_230 } else { 0..0 };
                self.shards[shard].sockets.busy =
                    ports.map(|port| at(&format!("{RELAY_V4}:{port}"))).collect();
            }
            Step::Close { shard } => {
                let World { server, sockets, now, .. } = &mut self.shards[shard];
                if let Some(first) = server.summaries(*now).first() {
                    assert!(server.close_allocation(first.id, sockets));
                }
            }
        }
    }

    fn check(&mut self) {
        let now_ns = self.shards[0].now.monotonic_ns;
        self.tokens.retain(|(_, until_ns, _)| *until_ns > now_ns);
        let open: usize = self.shards.iter().map(|world| world.sockets.open.len()).sum();
        let summaries: Vec<_> =
            self.shards.iter().flat_map(|world| world.server.summaries(world.now)).collect();
        let relays: usize = summaries.iter().map(|summary| summary.relays.len()).sum();
        assert_eq!(relays, open, "every socket belongs to an allocation");
        assert_eq!(self.shards[0].ports_held(), open + self.tokens.len(), "held = open + reserved");
        for (number, client) in self.clients.iter().enumerate() {
            let count = summaries.iter().filter(|s| s.client == client.flow.remote).count();
            assert!(count <= 1, "client {number} has {count}");
        }
        for name in ["alice", "bob"] {
            let count = summaries.iter().filter(|summary| summary.username == name).count();
            assert!(count <= QUOTA as usize);
        }
    }

    /// Everything expires; then all ports and the whole quota can be had again.
    fn end(mut self) {
        self.shards.iter_mut().for_each(|world| world.advance(4_000));
        assert_eq!(self.shards[0].ports_held(), 0);
        for world in &mut self.shards {
            assert_eq!((world.sockets.open.len(), world.server.allocation_count()), (0, 0));
            (world.sockets.exhausted, world.sockets.busy) = (false, [].into());
        }
        for number in 0..QUOTA {
            Client::alice_at(&format!("198.41.6.6:{}", 1 + number)).allocate(&mut self.shards[0]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, rng_seed: RngSeed::Fixed(8656), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn free_and_held_ports_are_always_all(steps in proptest::collection::vec(step(), 1..80)) {
        let mut node = Node::new();
        for step in steps {
            node.take(step);
            node.check();
        }
        node.end();
    }
}
