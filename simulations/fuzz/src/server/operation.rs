//! What can happen to a server, decoded from a fuzzer's bytes.

use super::scene::{FLOWS, PEERS, USERS};
use super::sockets::Mood;
use crate::bytes::Bytes;

/// One step of a run.
#[derive(Clone, Debug)]
pub(crate) enum Operation<'a> {
    Ask(Ask),
    Send {
        flow: usize,
        peer: usize,
        length: usize,
        dont_fragment: bool,
        complete: bool,
    },
    ChannelData {
        flow: usize,
        channel: u16,
        length: usize,
        padded: bool,
    },
    /// A peer's datagram, through the relay socket of that flow's allocation.
    FromPeer {
        flow: usize,
        peer: usize,
        length: usize,
    },
    /// A datagram for that relayed address from another shard or server.
    Passed {
        relayed: usize,
        peer: usize,
        length: usize,
    },
    /// A request whose attributes are any bytes.
    AnyAttributes {
        flow: usize,
        kind: u16,
        attributes: &'a [u8],
    },
    /// Time passes, perhaps one nanosecond less than that.
    Wait {
        seconds: u64,
        short: bool,
    },
    Sockets([Mood; 2]),
    Disconnect {
        flow: usize,
    },
    CloseByOperator {
        flow: usize,
    },
    Revoke {
        user: usize,
    },
    Drain,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub flow: usize,
    pub user: usize,
    pub proof: Proof,
    pub fingerprint: bool,
    /// Carries a comprehension-required attribute that nobody knows.
    pub unknown: bool,
    pub what: What,
}

/// How a request proves whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// As it should be, with a challenge first where the nonce is no longer good.
    Right,
    /// As it should be, with the nonce that the flow got last, however old.
    LastNonce,
    /// The nonce that another flow got last.
    NonceOf(usize),
    ForgedNonce,
    NoIntegrity,
    NoUsername,
    NoRealm,
    NoNonce,
    WrongPassword,
    WrongRealm,
    UnknownUser,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Binding,
    Allocate(Allocate),
    Refresh { lifetime_s: Option<u32>, family: Option<u8> },
    Permit { peers: Vec<usize> },
    Bind { channel: Option<u16>, peer: Option<usize> },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocate {
    pub transport: Option<u8>,
    pub lifetime_s: Option<u32>,
    pub family: Option<u8>,
    pub additional: Option<u8>,
    pub even_port: Option<u8>,
    pub token: Option<Token>,
    /// With the transaction ID of the flow's allocation.
    pub again: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Token {
    /// The one given out last but so many.
    Given(usize),
    Forged,
}

const LIFETIMES_S: [Option<u32>; 8] =
    [None, Some(0), Some(1), Some(600), Some(777), Some(3_600), Some(3_601), Some(u32::MAX)];
const WAITS_S: [u64; 12] = [4, 28, 32, 60, 296, 300, 304, 600, 900, 1_200, 3_000, 3_604];
const CHANNELS: [u16; 8] = [0x4000, 0x4001, 0x4002, 0x4FFF, 0x5000, 0x7FFF, 0x3FFF, 0x8000];
const KINDS: [u16; 8] = [0x0001, 0x0003, 0x0004, 0x0008, 0x0009, 0x0006, 0x0007, 0x0002];
const PROOFS: [Proof; 16] = [
    Proof::Right,
    Proof::Right,
    Proof::Right,
    Proof::Right,
    Proof::Right,
    Proof::LastNonce,
    Proof::LastNonce,
    Proof::NonceOf(0),
    Proof::NonceOf(1),
    Proof::ForgedNonce,
    Proof::NoIntegrity,
    Proof::NoUsername,
    Proof::NoRealm,
    Proof::NoNonce,
    Proof::WrongPassword,
    Proof::UnknownUser,
];

impl<'a> Operation<'a> {
    /// The next operation; nothing behind the end.
    pub(crate) fn decode(bytes: &mut Bytes<'a>) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        let choice = bytes.byte() % 24;
        let flow = usize::from(bytes.byte()) % FLOWS;
        Some(match choice {
            0..=9 => Self::Ask(Ask::decode(choice, flow, bytes)),
            10 | 11 => {
                let (peer, flags) = (peer(bytes), bytes.byte());
                Self::Send {
                    flow,
                    peer,
                    length: length(bytes),
                    dont_fragment: flags & 1 != 0,
                    complete: flags & 14 != 14,
                }
            }
            12 | 13 => Self::ChannelData {
                flow,
                channel: bytes.choose(&CHANNELS),
                length: length(bytes),
                padded: bytes.flag(),
            },
            14 | 15 => Self::FromPeer { flow, peer: peer(bytes), length: length(bytes) },
            16 => Self::Passed { relayed: peer(bytes), peer: peer(bytes), length: length(bytes) },
            17 => {
                let (kind, length) = (bytes.choose(&KINDS), usize::from(bytes.byte()) & !3);
                Self::AnyAttributes { flow, kind, attributes: bytes.take(length) }
            }
            18 | 19 => Self::Wait { seconds: bytes.choose(&WAITS_S), short: bytes.flag() },
            20 => Self::Sockets([bytes.choose(&Mood::ALL), bytes.choose(&Mood::ALL)]),
            21 => Self::Disconnect { flow },
            22 => Self::CloseByOperator { flow },
            _ if bytes.byte() < 16 => Self::Drain,
            _ => Self::Revoke { user: usize::from(bytes.byte()) % USERS.len() },
        })
    }
}

impl Ask {
    fn decode(choice: u8, flow: usize, bytes: &mut Bytes<'_>) -> Self {
        let flags = bytes.byte();
        let mut proof = PROOFS[usize::from(flags >> 4)];
        if proof == Proof::UnknownUser && flags & 1 != 0 {
            proof = Proof::WrongRealm;
        }
        let what = match choice {
            0 => What::Binding,
            1..=3 => What::Allocate(Allocate::decode(bytes)),
            4 | 5 => What::Refresh { lifetime_s: bytes.choose(&LIFETIMES_S), family: family(bytes.byte()) },
            6 | 7 => {
                let peers = (0..usize::from(bytes.byte() % 4)).map(|_| peer(bytes)).collect();
                What::Permit { peers }
            }
            _ => {
                let (channel, absent, peer) = (bytes.choose(&CHANNELS), bytes.byte(), peer(bytes));
                What::Bind {
                    channel: (absent & 7 != 7).then_some(channel),
                    peer: (absent & 56 != 56).then_some(peer),
                }
            }
        };
        let user = usize::from(flags >> 1) % USERS.len();
        Self { flow, user, proof, fingerprint: flags & 1 != 0, unknown: flags & 15 == 14, what }
    }
}

impl Allocate {
    fn decode(bytes: &mut Bytes<'_>) -> Self {
        let (flags, families) = (bytes.byte(), bytes.byte());
        Self {
            transport: if flags & 7 == 7 { bytes.choose(&[None, Some(6)]) } else { Some(17) },
            lifetime_s: bytes.choose(&LIFETIMES_S),
            family: family(families),
            additional: family(families >> 4),
            even_port: [None, None, Some(0), Some(0x80)][usize::from(flags >> 3) % 4],
            token: match (flags >> 5) % 4 {
                3 => Some(bytes.choose(&[Token::Given(0), Token::Given(1), Token::Forged])),
                _ => None,
            },
            again: families & 0x88 == 0x88,
        }
    }
}

/// An address family number, mostly none.
fn family(byte: u8) -> Option<u8> {
    match byte & 7 {
        5 => Some(1),
        6 => Some(2),
        7 => Some(3),
        _ => None,
    }
}

/// A peer's index: those of the scene, then the IPv4 and the IPv6 relayed addresses of the flows.
fn peer(bytes: &mut Bytes<'_>) -> usize {
    usize::from(bytes.byte()) % (PEERS.len() + 2 * FLOWS)
}

fn length(bytes: &mut Bytes<'_>) -> usize {
    bytes.choose(&[0, 1, 2, 3, 4, 100, 1_200, 1_473])
}
