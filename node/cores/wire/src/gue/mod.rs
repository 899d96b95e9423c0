//! Packets between servers: generic UDP encapsulation (draft-ietf-intarea-gue, version 0) of a whole IP packet, with the
//! way it takes and a keyed MAC in the header's private fields.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | version 0, header length 7 words behind the first |
//! | 1 | protocol: 4 IPv4, 41 IPv6, 59 nothing |
//! | 2 | 1: private fields |
//! | 3 | id of the key that sealed it |
//! | 4 | [`Kind`] |
//! | 5 | number of hops (high half), index of the hop that it is sent to (low half) |
//! | 6–15 | server numbers of the hops |
//! | 16–19 | [`NodeId`] of the server it landed on |
//! | 20–23 | epoch of the table that the hops are from |
//! | 24–31 | MAC over bytes 0–23 and the front of the packet: its IP header without options and its ports |
//!
//! The MAC proves that a server of the fleet put this packet on this way. It does not cover the payload, which came from
//! anybody.

mod datagram;
mod outer;

pub use datagram::{Datagram, open, parse_udp, seal};
pub use outer::{OUTER_IPV4_BYTES, OUTER_IPV6_BYTES, write_outer};

use crate::flow::NodeId;
use crate::token::{Keyring, MacKey};

/// Bytes in front of the inner packet.
pub const HEADER_BYTES: usize = 32;
/// The most servers that a packet is sent to.
pub const HOPS_MAX: usize = 5;

const SEALED_BYTES: usize = 24;
/// Header length in 32-bit words behind the first one.
const HEADER_WORDS: u8 = 7;
const PRIVATE_FLAG: u8 = 0x01;
/// Protocol number of IPv4 in IP.
const PROTOCOL_IPV4: u8 = 4;
/// Protocol number of IPv6 in IP.
const PROTOCOL_IPV6: u8 = 41;
/// No next header.
const PROTOCOL_NONE: u8 = 59;
/// IPv4 without options, and two ports.
const FRONT_IPV4: usize = 24;
/// IPv6 without extension headers, and two ports.
const FRONT_IPV6: usize = 44;

/// What an encapsulated packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A packet that landed elsewhere, on its way along the hops to the owner of its flow.
    Steered = 1,
    /// A fragment, for the server that puts together all fragments of its datagram.
    Fragment = 2,
    /// A datagram for a relay port, from one server's process to another's.
    Relayed = 3,
    /// Asks whether the process on the other server is alive.
    Probe = 4,
    /// It is.
    Alive = 5,
}

impl Kind {
    /// What bytes say they are, before anything proves it.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.get(4).and_then(|number| Self::from_number(*number))
    }

    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Steered,
            2 => Self::Fragment,
            3 => Self::Relayed,
            4 => Self::Probe,
            5 => Self::Alive,
            _ => return None,
        })
    }
}

/// The servers that a packet is sent to, one after the other, until one owns its flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    servers: [u16; HOPS_MAX],
    count: u8,
    index: u8,
}

impl Hops {
    /// Appends a server. `false` when there is no room.
    pub fn push(&mut self, server: u16) -> bool {
        let Some(place) = self.servers.get_mut(usize::from(self.count)) else { return false };
        *place = server;
        self.count = self.count.saturating_add(1);
        true
    }

    /// All of them, those behind included.
    #[must_use]
    pub fn servers(&self) -> &[u16] {
        self.servers.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// The server that it is sent to now.
    #[must_use]
    pub fn current(&self) -> Option<u16> {
        self.servers().get(usize::from(self.index)).copied()
    }

    /// Whether a server is among those that it was or is to be sent to.
    #[must_use]
    pub fn hold(&self, server: u16) -> bool {
        self.servers().contains(&server)
    }

    /// On to the next server that `is_good`; `None` behind the last one.
    pub fn advance(&mut self, is_good: impl Fn(u16) -> bool) -> Option<u16> {
        loop {
            self.index = self.index.saturating_add(1);
            let server = self.current()?;
            if is_good(server) {
                return Some(server);
            }
        }
    }

    /// Points at the hop with this index.
    pub const fn point_at(&mut self, index: u8) {
        self.index = index;
    }

    fn from_bytes(counts: u8, bytes: &[u8]) -> Option<Self> {
        let (count, index) = (counts >> 4, counts & 0x0F);
        let mut servers = [0; HOPS_MAX];
        for (server, pair) in servers.iter_mut().zip(bytes.chunks_exact(2)) {
            *server = u16::from_be_bytes([*pair.first()?, *pair.last()?]);
        }
        let is_well_formed = usize::from(count) <= HOPS_MAX && (index < count || (count, index) == (0, 0));
        is_well_formed.then_some(Self { servers, count, index })
    }
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the packet is.
    pub kind: Kind,
    /// Its way.
    pub hops: Hops,
    /// The server it landed on.
    pub landing: NodeId,
    /// Of the table that the hops are from: compared as serial numbers.
    pub epoch: u32,
}

impl Header {
    /// The bytes to put in front of `inner`, sealed.
    #[must_use]
    pub fn seal(&self, keyring: &Keyring, inner: &[u8]) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let Some(key) = keyring.encapsulation().first() else { return out };
        let counts = self.hops.count << 4 | self.hops.index & 0x0F;
        let front = [HEADER_WORDS, protocol(inner), PRIVATE_FLAG, key.id, self.kind as u8, counts];
        let hops = self.hops.servers.iter().flat_map(|server| server.to_be_bytes());
        let tail = self.landing.to_bytes().into_iter().chain(self.epoch.to_be_bytes());
        for (byte, value) in out.iter_mut().zip(front.into_iter().chain(hops).chain(tail)) {
            *byte = value;
        }
        let mac = seal_of(key, &out, inner);
        for (byte, value) in out.iter_mut().skip(SEALED_BYTES).zip(mac) {
            *byte = value;
        }
        out
    }

    /// The header of a packet from a server of the fleet, and the packet inside. `None` when the frame is wrong or its
    /// MAC is not one of this fleet's: such a packet is dropped before anything is learnt from it.
    #[must_use]
    pub fn open<'a>(keyring: &Keyring, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, inner) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [words, inner_protocol, flag, key, kind, counts, rest @ ..] = *header;
        let is_ours = words == HEADER_WORDS && flag == PRIVATE_FLAG && inner_protocol == protocol(inner);
        let (hops, rest) = rest.split_first_chunk::<10>()?;
        let (landing, rest) = rest.split_first_chunk::<4>()?;
        let (epoch, mac) = rest.split_first_chunk::<4>()?;
        let opened = Self {
            kind: Kind::from_number(kind)?,
            hops: Hops::from_bytes(counts, hops)?,
            landing: NodeId::from_bytes(*landing),
            epoch: u32::from_be_bytes(*epoch),
        };
        let key = keyring.encapsulation().iter().find(|known| known.id == key)?;
        let expected = seal_of(key, header, inner);
        let is_sealed = bool::from(subtle::ConstantTimeEq::ct_eq(&expected[..], mac));
        (is_ours && is_sealed).then_some((opened, inner))
    }
}

/// GUE's number for what an inner packet's first half-byte says it is.
fn protocol(inner: &[u8]) -> u8 {
    match inner.first().map(|byte| byte >> 4) {
        Some(4) => PROTOCOL_IPV4,
        Some(6) => PROTOCOL_IPV6,
        _ => PROTOCOL_NONE,
    }
}

/// The MAC over the header and the front of the packet, which is filled up with zeros where it is shorter.
fn seal_of(key: &MacKey, header: &[u8; HEADER_BYTES], inner: &[u8]) -> [u8; 8] {
    let mut message = [0; SEALED_BYTES + FRONT_IPV6];
    let front = match protocol(inner) {
        PROTOCOL_IPV4 => FRONT_IPV4,
        PROTOCOL_IPV6 => FRONT_IPV6,
        _ => 0,
    };
    let bytes = header.iter().take(SEALED_BYTES).chain(inner.iter().take(front));
    for (to, from) in message.iter_mut().zip(bytes) {
        *to = *from;
    }
    key.mac(message.get(..SEALED_BYTES.saturating_add(front)).unwrap_or_default())
}
