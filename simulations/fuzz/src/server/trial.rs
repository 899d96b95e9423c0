//! One run: every operation goes to the server and to the model, and what comes out is compared.

use std::net::SocketAddr;

use trunkline_turn::ports::PortOwner;
use trunkline_turn::{CloseReason, Event, Server, Terms};
use trunkline_wire::{AllocationId, Body, DropReason, Egress, Head, Now, Transmit, Via};

use super::message::{Answer, Credential};
use super::model::{Model, Peer};
use super::operation::Operation;
use super::scene::{self, FLOWS, PEERS, Standing, USERS, address, flow};
use super::sockets::Sockets;

/// Where the bytes of every message lie, so that relayed ranges can be told from those of replies.
const SLOT: u16 = 3;
const SLOT_START: usize = 100;

pub(crate) struct Trial {
    pub model: Model,
    pub server: Server,
    pub sockets: Sockets,
    pub egress: Egress,
    /// The nonce each flow got last.
    pub nonces: [Option<IssuedNonce>; FLOWS],
    /// Tokens given out, the last one at the end.
    pub tokens: Vec<[u8; 8]>,
    /// Of each flow's allocation: what its Allocate was answered.
    pub answers: [Option<Answer>; FLOWS],
    /// Of each flow's allocation, or of its last one.
    pub ids: [Option<AllocationId>; FLOWS],
    pub opened: usize,
    transactions: u32,
    drops: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct IssuedNonce {
    pub bytes: Vec<u8>,
    pub remote: SocketAddr,
    pub unix_s: u64,
}

impl Trial {
    pub(crate) fn new(ipv6: bool) -> Self {
        Self {
            model: Model::new(ipv6),
            server: scene::server(ipv6),
            sockets: Sockets::default(),
            egress: Egress::with_capacity(4),
            nonces: [const { None }; FLOWS],
            tokens: vec![],
            answers: [const { None }; FLOWS],
            ids: [None; FLOWS],
            opened: 0,
            transactions: 0,
            drops: 0,
        }
    }

    pub(crate) fn apply(&mut self, operation: &Operation<'_>) {
        self.sockets.begin_operation();
        match operation {
            Operation::Ask(ask) => self.ask(ask),
            Operation::Send { .. }
            | Operation::ChannelData { .. }
            | Operation::FromPeer { .. }
            | Operation::Passed { .. } => self.relay(operation),
            Operation::AnyAttributes { flow, kind, attributes } => {
                self.ask_anything(*flow, *kind, attributes)
            }
            Operation::Wait { seconds, short } => self.wait(*seconds, *short),
            Operation::Sockets(moods) => {
                self.model.moods = *moods;
                self.sockets.moods = *moods;
            }
            Operation::Disconnect { flow: index } => {
                self.server.handle_client_closed(&flow(*index), &mut self.sockets);
                self.model.close(*index, CloseReason::Disconnected);
            }
            Operation::CloseByOperator { flow } => self.close_by_operator(*flow),
            Operation::Revoke { user } => {
                self.model.revoke(*user);
                let credentials = scene::credentials(&self.model.revoked);
                self.amend(|terms| terms.credentials = credentials);
            }
            Operation::Drain => {
                self.amend(|terms| terms.draining = true);
                self.model.draining = true;
            }
        }
        self.compare_states();
    }

    fn wait(&mut self, seconds: u64, short: bool) {
        let ns = seconds * 1_000_000_000 - u64::from(short);
        // Clocks need not agree; nonces count in ticks of four seconds, and so does this one.
        self.model.wait(ns, if short { seconds - 4 } else { seconds });
        if self.server.poll_timeout().is_some_and(|at_ns| at_ns <= self.model.now_ns) {
            self.server.handle_timeout(self.now(), &mut self.sockets);
        }
        let next = self.server.poll_timeout();
        assert!(
            next.is_none_or(|at_ns| at_ns > self.model.now_ns),
            "what is due was done, yet {next:?} is due"
        );
    }

    fn amend(&mut self, change: impl FnOnce(&mut Terms)) {
        let mut terms = self.server.terms();
        change(&mut terms);
        self.server.apply(&terms, &mut self.sockets);
    }

    fn close_by_operator(&mut self, flow: usize) {
        let Some(id) = self.ids[flow] else { return };
        let is_live = self.model.allocations.contains_key(&flow);
        assert_eq!(self.server.close_allocation(id, &mut self.sockets), is_live);
        self.model.close(flow, CloseReason::Operator);
    }

    /// Every allocation ends by time alone and leaves nothing behind.
    pub(crate) fn finish(mut self) {
        self.wait(u64::from(scene::LIFETIME_S_MAX) + 4, false);
        self.compare_states();
        assert_eq!(self.server.allocation_count(), 0);
        assert_eq!(self.server.poll_timeout(), None, "nothing is left to wake up for");
        let ports = scene::ports();
        for port in &self.sockets.tried_ever {
            // The next port may have been kept for a reservation.
            for at in [*port, SocketAddr::new(port.ip(), port.port() + 1)] {
                let is_held = [&ports.both, &ports.v4_only]
                    .iter()
                    .any(|table| matches!(table.owner(at), PortOwner::Shard(0)));
                assert!(!is_held, "{at} is still held");
            }
        }
    }

    fn compare_states(&mut self) {
        let mut relays: Vec<_> = self.model.allocations.values().flat_map(|a| a.addresses()).collect();
        relays.sort();
        assert_eq!(self.sockets.addresses(), relays, "open relay sockets");
        assert_eq!(self.server.allocation_count(), self.model.allocations.len());
        for index in 0..FLOWS {
            let is_live = self.model.allocations.contains_key(&index);
            assert_eq!(self.server.has_allocation(&flow(index)), is_live, "allocation of flow {index}");
        }
        self.compare_summaries();
        self.compare_events();
    }

    fn compare_summaries(&self) {
        for summary in self.server.summaries(self.now()) {
            let of = |index: &usize| {
                flow(*index).remote == summary.client && flow(*index).transport == summary.transport
            };
            let index = (0..FLOWS).find(of).expect("one of our flows");
            let allocation = &self.model.allocations[&index];
            assert_eq!(summary.username, USERS[allocation.user]);
            assert_eq!(summary.relays, allocation.addresses().collect::<Vec<_>>());
            assert_eq!(summary.expires_in_s, (allocation.expires_ns() - self.model.now_ns) / 1_000_000_000);
            assert!((allocation.permissions.len()..=scene::PERMISSIONS_MAX).contains(&summary.permissions));
            assert!((allocation.channels.len()..=scene::CHANNELS_MAX).contains(&summary.channels));
        }
    }

    fn compare_events(&mut self) {
        let (mut opened, mut closed) = (0, vec![]);
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Opened { .. } => opened += 1,
                Event::Closed { reason, .. } => closed.push(reason),
            }
        }
        assert_eq!(opened, std::mem::take(&mut self.opened), "allocations opened");
        assert_eq!(closed, std::mem::take(&mut self.model.closed), "allocations closed");
    }

    pub(crate) fn now(&self) -> Now {
        Now { monotonic_ns: self.model.now_ns, unix_s: self.model.unix_s }
    }

    /// The peer with this index.
    pub(crate) fn peer(&self, index: usize) -> Peer {
        let Some(number) = index.checked_sub(PEERS.len()) else {
            let (text, standing) = PEERS[index];
            return (address(text), standing);
        };
        let (owner, family) = (number % FLOWS, number / FLOWS);
        let relay = self.model.allocations.get(&owner).and_then(|allocation| allocation.relays[family]);
        (relay.map_or(address(PEERS[17 + family].0), |relay| relay.at), Standing::OwnRelay)
    }

    pub(crate) fn next_transaction(&mut self) -> [u8; 12] {
        self.transactions += 1;
        let mut transaction = [0xAB; 12];
        transaction[..4].copy_from_slice(&self.transactions.to_be_bytes());
        transaction
    }

    /// Where a message of this length lies.
    pub(crate) fn body(length: usize) -> Body {
        Body::input(SLOT, SLOT_START..SLOT_START + length)
    }

    /// The bytes of `message`, handed in at [`Trial::body`], that a transmit names.
    pub(crate) fn relayed<'m>(message: &'m [u8], transmit: &Transmit) -> &'m [u8] {
        assert_eq!(transmit.body.slot(), Some(SLOT), "relayed bytes are not copied");
        let range = transmit.body.range();
        &message[range.start - SLOT_START..range.end - SLOT_START]
    }

    /// Hands a client's message to the server.
    pub(crate) fn deliver(&mut self, from: usize, message: &[u8]) {
        self.egress.clear();
        self.drops = self.server.counters().drops.total();
        let (now, body) = (self.now(), Self::body(message.len()));
        self.server.handle_client(now, flow(from), message, body, &mut self.sockets, &mut self.egress);
    }

    /// Hands something else to the server.
    pub(crate) fn hand_over(&mut self, give: impl FnOnce(&mut Server, Now, &mut Egress)) {
        self.egress.clear();
        self.drops = self.server.counters().drops.total();
        let now = self.now();
        give(&mut self.server, now, &mut self.egress);
    }

    /// Packets dropped since the last one was handed over.
    pub(crate) fn drops_since(&self) -> u64 {
        self.server.counters().drops.total() - self.drops
    }

    pub(crate) fn drops_of(&self, reason: DropReason) -> u64 {
        self.server.counters().drops.of(reason)
    }

    /// The bytes of the one answer, which goes back where the request came from.
    pub(crate) fn answer_bytes(&self, to: usize) -> &[u8] {
        let [transmit] = self.egress.transmits() else {
            panic!("one answer is due, not {:?}", self.egress.transmits());
        };
        assert_eq!(self.drops_since(), 0, "answered and counted as dropped");
        assert_eq!((transmit.via, transmit.to), (Via::Client(flow(to)), flow(to).remote));
        assert_eq!((transmit.head.as_slice(), transmit.padding), (Head::EMPTY.as_slice(), 0));
        assert_eq!(transmit.body.slot(), None);
        &self.egress.arena()[transmit.body.range()]
    }

    pub(crate) fn answer(&self, to: usize, credential: &Credential) -> Answer {
        Answer::read(self.answer_bytes(to), credential)
    }
}
