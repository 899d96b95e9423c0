//! A million mutated messages at each transport of the real process: it lives, does not grow, and still relays.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use trunkline_simulations::turn_client::TRANSPORT_UDP;
use trunkline_simulations::turn_client::message::{
    Class, Message, MessageBuilder, Method, TransactionId, attribute, long_term_key,
};

use crate::random::Random;
use crate::site::{
    CLIENT, Carrier, Check, Family, PATIENCE, PEER_V4, Site, TURN, TURN_TLS, on_site, relays_both_ways,
};
use crate::{Named, tls};

pub const TRIALS: &[Named] = &[
    ("a_million_mutated_messages_over_udp", || {
        on_site(ARGUMENTS, |site| withstand(site, Carrier::Udp, 1_000_000))
    }),
    ("a_million_mutated_messages_over_tcp", || {
        on_site(ARGUMENTS, |site| withstand(site, Carrier::Tcp, 1_000_000))
    }),
    ("a_million_mutated_messages_over_tls", || {
        on_site(ARGUMENTS, |site| withstand(site, Carrier::Tls, 1_000_000))
    }),
];

fn withstand(site: &mut Site, carrier: Carrier, count: u64) -> Check {
    let (mut bystander, at_bystander) = site.allocated(carrier, Family::V4)?;
    let began = Instant::now();
    let mut attacker = Attacker::connect(carrier)?;
    attacker.attack(count / 10)?;
    let memory_before = site.node.anonymous_kib()?;
    attacker.attack(count - count / 10)?;
    let grown = site.node.anonymous_kib()?.saturating_sub(memory_before);
    println!(
        "{count} mutated messages over {carrier:?} in {:?}, {} connections, {} answers read, memory +{grown} KiB",
        began.elapsed(),
        attacker.connections,
        attacker.answers,
    );
    ensure!(site.node.running.status_now()?.is_none(), "the server ended");
    ensure!(!site.node.running.log().contains("panicked"), "a thread panicked");
    ensure!(grown < 2_048, "memory grew by {grown} KiB");
    ensure!(
        attacker.answers > count / 100,
        "only {} answers: the messages do not reach far",
        attacker.answers
    );
    relays_both_ways(&mut bystander, at_bystander.relayed).context("a client of before")?;
    let (mut fresh, at_fresh) = site.allocated(carrier, Family::V4)?;
    relays_both_ways(&mut fresh, at_fresh.relayed).context("a new client")
}

/// Bytes to and from the server.
enum Line {
    Datagrams(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<tls::TlsStream>),
}

struct Attacker {
    carrier: Carrier,
    line: Line,
    random: Random,
    nonce: Vec<u8>,
    key: [u8; 16],
    unread: Vec<u8>,
    connections: u32,
    answers: u64,
    syncs: u32,
}

impl Attacker {
    fn connect(carrier: Carrier) -> anyhow::Result<Self> {
        let mut attacker = Self {
            carrier,
            line: open(carrier)?,
            random: Random::new(0x7275_6E6B),
            nonce: Vec::new(),
            key: long_term_key("alice", REALM, "secret"),
            unread: Vec::new(),
            connections: 1,
            answers: 0,
            syncs: 0,
        };
        attacker.become_known()?;
        Ok(attacker)
    }

    /// Takes a nonce and allocates, so that what follows gets beyond the authentication.
    fn become_known(&mut self) -> Check {
        let request = MessageBuilder::new(Method::ALLOCATE, Class::Request, &self.transaction());
        let challenge =
            self.ask(&request.attribute(attribute::REQUESTED_TRANSPORT, &TRANSPORT_UDP).finish())?;
        let message = Message::parse(&challenge).context("not STUN")?;
        self.nonce = message.attribute(attribute::NONCE).context("no nonce")?.to_vec();
        let transaction = self.transaction();
        let request = MessageBuilder::new(Method::ALLOCATE, Class::Request, &transaction)
            .attribute(attribute::REQUESTED_TRANSPORT, &TRANSPORT_UDP);
        let request = self.signed(request);
        let answer = self.ask(&request)?;
        ensure!(Message::parse(&answer).is_some(), "no answer to Allocate");
        Ok(())
    }

    fn attack(&mut self, count: u64) -> Check {
        let mut left = count;
        while left > 0 {
            let batch = left.min(BATCH);
            left -= batch;
            let mut alive = true;
            let mut together = Vec::new();
            for _ in 0..batch {
                let message = self.mutated();
                match &self.line {
                    Line::Datagrams(socket) => send_datagram(socket, &message)?,
                    Line::Tcp(_) | Line::Tls(_) => together.extend_from_slice(&message),
                }
            }
            // Once in a while the stream itself is garbled; everything behind that is lost.
            if self.carrier != Carrier::Udp && self.random.below(24) == 0 {
                let length = self.random.below(200);
                together.extend(self.random.bytes(length));
                alive = false;
            }
            let written = self.write(&together);
            if written.is_err() || !alive || self.sync().is_err() {
                self.again(written.is_ok())?;
            }
        }
        Ok(())
    }

    /// A new connection in the place of one that was closed. Datagrams have none.
    fn again(&mut self, may_be_open: bool) -> Check {
        ensure!(self.carrier != Carrier::Udp, "no answer to a Binding request within {PATIENCE:?}");
        if may_be_open {
            // What was sent is to be worked through before the connection goes.
            self.drain(Duration::from_millis(2));
        }
        self.line = open(self.carrier)?;
        self.unread.clear();
        self.connections += 1;
        self.become_known()
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.line {
            Line::Datagrams(_) => Ok(()),
            Line::Tcp(stream) => stream.write_all(bytes),
            Line::Tls(stream) => stream.write_all(bytes),
        }
    }

    /// A message of the protocol with something wrong: before it is signed, or after.
    fn mutated(&mut self) -> Vec<u8> {
        let method = METHODS[self.random.below(METHODS.len())];
        let class = match (method, self.random.below(16)) {
            (Method::SEND, 0..15) => Class::Indication,
            (_, 0) => Class::Success,
            (_, 1) => Class::Indication,
            (_, _) => Class::Request,
        };
        let mut message = MessageBuilder::new(method, class, &self.transaction());
        for _ in 0..self.random.below(5) {
            message = self.with_attribute(message);
        }
        let mut bytes = match (class, self.random.below(4)) {
            (Class::Request, 0..3) => self.signed(message),
            _ if self.random.below(8) == 0 => self.channel_data(),
            _ => message.finish(),
        };
        if self.random.below(2) == 0 {
            self.damage(&mut bytes);
        }
        bytes
    }

    /// An attribute that belongs into some request, often with an odd value.
    fn with_attribute(&mut self, message: MessageBuilder) -> MessageBuilder {
        let kind = ATTRIBUTES[self.random.below(ATTRIBUTES.len())];
        let port = (9_000 + self.random.below(20)) as u16;
        match (kind, self.random.below(4)) {
            (attribute::XOR_PEER_ADDRESS, 0..3) => {
                let own = SocketAddr::new(PEER_V4, port);
                message.xor_address(kind, own)
            }
            (attribute::REQUESTED_TRANSPORT, 0..3) => message.attribute(kind, &TRANSPORT_UDP),
            (attribute::CHANNEL_NUMBER, 0..3) => message.attribute(kind, &[0x40, port as u8, 0, 0]),
            (attribute::LIFETIME, 0..3) => message.attribute(kind, &600_u32.to_be_bytes()),
            _ => {
                let length = self.random.below(40);
                message.attribute(kind, &self.random.bytes(length))
            }
        }
    }

    fn channel_data(&mut self) -> Vec<u8> {
        let length = self.random.below(80);
        let channel = 0x4000_u16 + self.random.below(0x60) as u16;
        let mut bytes = [channel.to_be_bytes(), (length as u16).to_be_bytes()].concat();
        bytes.extend(self.random.bytes(length.next_multiple_of(4)));
        bytes
    }

    /// Changes bytes. In a stream, not those that say how long the message is and what it is.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let is_stream = self.carrier != Carrier::Udp;
        for _ in 0..=self.random.below(6) {
            let at = self.random.below(bytes.len());
            if !is_stream || at > 3 && !(4..8).contains(&at) {
                bytes[at] ^= 1 << self.random.below(8);
            }
        }
        if !is_stream && self.random.below(4) == 0 {
            bytes.truncate(self.random.below(bytes.len()));
        }
    }

    fn signed(&self, message: MessageBuilder) -> Vec<u8> {
        message
            .attribute(attribute::USERNAME, b"alice")
            .attribute(attribute::REALM, REALM.as_bytes())
            .attribute(attribute::NONCE, &self.nonce)
            .integrity(&self.key)
            .finish()
    }

    /// A Binding request and its answer: everything sent before has been worked through then.
    fn sync(&mut self) -> Check {
        self.syncs += 1;
        let mut transaction = *b"sync--------";
        transaction[4..8].copy_from_slice(&self.syncs.to_be_bytes());
        self.ask_as(
            &MessageBuilder::new(Method::BINDING, Class::Request, &transaction).finish(),
            &transaction,
        )?;
        Ok(())
    }

    fn ask(&mut self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        let transaction: TransactionId = request[8..20].try_into()?;
        self.ask_as(request, &transaction)
    }

    fn ask_as(&mut self, request: &[u8], transaction: &TransactionId) -> anyhow::Result<Vec<u8>> {
        match &mut self.line {
            Line::Datagrams(socket) => send_datagram(socket, request)?,
            Line::Tcp(_) | Line::Tls(_) => self.write(request)?,
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(deadline)?;
            self.answers += 1;
            let is_answer = message.get(8..20) == Some(&transaction[..]);
            if is_answer {
                return Ok(message);
            }
        }
    }

    /// The next message of the server.
    fn receive(&mut self, deadline: Instant) -> anyhow::Result<Vec<u8>> {
        let mut buffer = [0; 65_536];
        loop {
            if let Some(message) = take_message(&mut self.unread) {
                return Ok(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no answer within {PATIENCE:?}");
            let read = match &mut self.line {
                Line::Datagrams(socket) => {
                    socket.set_read_timeout(Some(left))?;
                    let length = socket.recv(&mut buffer)?;
                    return Ok(buffer[..length].to_vec());
                }
                Line::Tcp(stream) => {
                    stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut buffer))?
                }
                Line::Tls(stream) => {
                    stream.sock.set_read_timeout(Some(left))?;
                    stream.read(&mut buffer)?
                }
            };
            if read == 0 {
                bail!("the connection was closed");
            }
            self.unread.extend_from_slice(&buffer[..read]);
        }
    }

    /// Reads until nothing comes for a moment.
    fn drain(&mut self, moment: Duration) {
        while self.receive(Instant::now() + moment).is_ok() {
            self.answers += 1;
        }
    }

    fn transaction(&mut self) -> TransactionId {
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&self.random.bytes(12));
        transaction
    }
}

fn open(carrier: Carrier) -> anyhow::Result<Line> {
    Ok(match carrier {
        Carrier::Udp => {
            let socket = UdpSocket::bind((CLIENT, 0))?;
            socket.connect(TURN)?;
            Line::Datagrams(socket)
        }
        Carrier::Tcp => {
            let stream = TcpStream::connect_timeout(&TURN, PATIENCE)?;
            stream.set_nodelay(true)?;
            Line::Tcp(stream)
        }
        Carrier::Tls => Line::Tls(Box::new(tls::connect(TURN_TLS)?)),
    })
}

fn send_datagram(socket: &UdpSocket, bytes: &[u8]) -> std::io::Result<()> {
    match socket.send(bytes) {
        // Of an earlier datagram's ICMP.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => socket.send(bytes).map(drop),
        outcome => outcome.map(drop),
    }
}

/// Takes the first whole message off a stream.
fn take_message(unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes([*unread.get(2)?, *unread.get(3)?]));
    let is_channel_data = unread.first()? & 0xC0 == 0x40;
    let whole = if is_channel_data { 4 + length.next_multiple_of(4) } else { 20 + length };
    (unread.len() >= whole).then(|| unread.drain(..whole).collect())
}

const REALM: &str = "trunkline";
/// Answers to strangers are limited otherwise, and the paths behind them would stay untried.
const ARGUMENTS: &[&str] = &["--threads", "1", "--unauthenticated-rate", "0"];
/// Between two Binding requests; the server's receive buffer holds more.
const BATCH: u64 = 128;
const METHODS: [Method; 8] = [
    Method::BINDING,
    Method::ALLOCATE,
    Method::REFRESH,
    Method::CREATE_PERMISSION,
    Method::CHANNEL_BIND,
    Method::SEND,
    Method::DATA,
    Method(0x0AB),
];
/// Those of [`attribute`], and further ones of RFC 8489 and RFC 8656.
const ATTRIBUTES: [u16; 21] = [
    attribute::USERNAME,
    attribute::MESSAGE_INTEGRITY,
    attribute::ERROR_CODE,
    attribute::CHANNEL_NUMBER,
    attribute::LIFETIME,
    attribute::XOR_PEER_ADDRESS,
    attribute::DATA,
    attribute::REALM,
    attribute::NONCE,
    attribute::XOR_RELAYED_ADDRESS,
    attribute::REQUESTED_ADDRESS_FAMILY,
    attribute::REQUESTED_TRANSPORT,
    attribute::XOR_MAPPED_ADDRESS,
    attribute::FINGERPRINT,
    0x0018, // EVEN-PORT
    0x001A, // DONT-FRAGMENT
    0x0022, // RESERVATION-TOKEN
    0x001C, // MESSAGE-INTEGRITY-SHA256
    0x8000, // ADDITIONAL-ADDRESS-FAMILY
    0x8022, // SOFTWARE
    0x7ABC, // must be understood, and is not
];
