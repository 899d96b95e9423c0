//! A client that signs what it sends and reads what it gets.

use std::net::SocketAddr;

use trunkline_turn::credentials::{Secret, long_term_key, time_limited_password};
use trunkline_wire::channel_data::{ChannelData, ChannelNumber};
use trunkline_wire::stun::{Key, attribute as kind};
use trunkline_wire::{ClientFlow, ListenerId, StreamId, Transport, Via};

use super::{Answer, Draft, REALM, Sent, World, at};

pub fn flow(transport: Transport, remote: &str) -> ClientFlow {
    let stream = StreamId(u64::from(transport.is_stream()));
    ClientFlow { transport, listener: ListenerId(0), remote: at(remote), stream }
}

#[derive(Clone)]
pub struct Client {
    pub flow: ClientFlow,
    pub username: String,
    pub key: Key,
    pub nonce: Option<Vec<u8>>,
    pub transactions: u64,
}

impl Client {
    pub fn new(flow: ClientFlow, username: &str, password: &str) -> Self {
        let key = long_term_key(username, REALM, password).unwrap();
        Self { flow, username: username.into(), key, nonce: None, transactions: 0 }
    }

    /// alice over UDP from an address that is only hers.
    pub fn alice() -> Self {
        Self::alice_at("198.41.7.7:40000")
    }

    pub fn alice_at(remote: &str) -> Self {
        Self::new(flow(Transport::Udp, remote), "alice", "wonderland")
    }

    pub fn alice_over(transport: Transport) -> Self {
        Self::new(flow(transport, "198.41.7.7:40000"), "alice", "wonderland")
    }

    pub fn bob() -> Self {
        Self::new(flow(Transport::Udp, "198.41.8.8:40000"), "bob", "builder")
    }

    /// One with a credential of the REST scheme under `secret`.
    pub fn with_time_limited(username: &str, secret: &str) -> Self {
        let password = time_limited_password(&Secret::new(secret.into()), username).unwrap();
        Self::new(flow(Transport::Udp, "198.41.9.9:40000"), username, &password)
    }

    /// The draft under a transaction ID that was not used before.
    pub fn fresh(&mut self, draft: Draft) -> Draft {
        self.transactions += 1;
        let port = u64::from(self.flow.remote.port());
        draft.transaction(self.transactions << 16 | port)
    }

    /// The draft with USERNAME, REALM, NONCE and MESSAGE-INTEGRITY behind what it has.
    pub fn signed(&self, draft: Draft) -> Draft {
        self.named(draft).integrity(&self.key)
    }

    /// The draft with USERNAME, REALM and NONCE.
    pub fn named(&self, draft: Draft) -> Draft {
        draft
            .value(kind::USERNAME, self.username.as_bytes())
            .value(kind::REALM, REALM.as_bytes())
            .value(kind::NONCE, self.nonce.as_deref().unwrap_or_default())
    }

    /// Sends exactly these bytes and reads the answer.
    pub fn exchange(&self, world: &mut World, message: &[u8]) -> Answer {
        self.exchange_or_silence(world, message).expect("an answer")
    }

    pub fn exchange_or_silence(&self, world: &mut World, message: &[u8]) -> Option<Answer> {
        let sent = world.receive(self.flow, message).pop()?;
        assert_eq!((sent.via, sent.to), (Via::Client(self.flow), self.flow.remote));
        let answer = Answer::parse(&sent.bytes);
        assert_eq!(answer.transaction, message[8..20], "transaction ID");
        Some(answer)
    }

    /// Asks once for a nonce, as a client that has none must.
    pub fn fetch_nonce(&mut self, world: &mut World) {
        let draft = self.fresh(Draft::allocate());
        let challenge = self.exchange(world, &draft.bytes());
        assert_eq!(challenge.code(), 401);
        self.nonce = Some(challenge.value(kind::NONCE).unwrap().to_vec());
    }

    /// Takes another nonce, whatever became of the one before.
    pub fn fetch_nonce_again(&mut self, world: &mut World) {
        self.nonce = None;
        self.fetch_nonce(world);
    }

    /// Sends the signed request under a fresh transaction ID; fetches a nonce before if there is none. The answer
    /// must be signed unless it challenges.
    pub fn ask(&mut self, world: &mut World, draft: Draft) -> Answer {
        if self.nonce.is_none() {
            self.fetch_nonce(world);
        }
        let draft = self.fresh(draft);
        let answer = self.exchange(world, &self.signed(draft).bytes());
        assert!(matches!(answer.code(), 400 | 401 | 438) || answer.is_signed_by(&self.key), "{answer:?}");
        answer
    }

    /// Makes an allocation and says its first relayed address.
    pub fn allocate(&mut self, world: &mut World) -> SocketAddr {
        let answer = self.ask(world, Draft::allocate());
        assert_eq!(answer.code(), 0, "{answer:?}");
        answer.relayed()[0]
    }

    /// An allocation with a permission for `peer`.
    pub fn allocate_towards(&mut self, world: &mut World, peer: SocketAddr) -> SocketAddr {
        let relayed = self.allocate(world);
        self.permit(world, peer);
        relayed
    }

    pub fn permit(&mut self, world: &mut World, peer: SocketAddr) {
        let answer = self.ask(world, Draft::create_permission(&[peer]));
        assert_eq!(answer.code(), 0, "{answer:?}");
    }

    pub fn bind(&mut self, world: &mut World, channel: u16, peer: SocketAddr) {
        let answer = self.ask(world, Draft::channel_bind(channel, peer));
        assert_eq!(answer.code(), 0, "{answer:?}");
    }

    /// Sends application data through a channel.
    pub fn send_on(&self, world: &mut World, channel: u16, data: &[u8]) -> Option<Sent> {
        world.receive(self.flow, &channel_data(channel, data)).pop()
    }

    /// Sends application data in a Send indication.
    pub fn send_to(&mut self, world: &mut World, peer: SocketAddr, data: &[u8]) -> Option<Sent> {
        let draft = self.fresh(Draft::send(peer, data));
        world.receive(self.flow, &draft.bytes()).pop()
    }
}

pub fn channel_data(channel: u16, data: &[u8]) -> Vec<u8> {
    let channel = ChannelNumber::new(channel).unwrap();
    let mut message = ChannelData::header(channel, u16::try_from(data.len()).unwrap()).to_vec();
    message.extend_from_slice(data);
    message
}
