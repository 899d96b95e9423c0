//! What must be sent: a preallocated list that cores write into and the shell empties.
//!
//! Relayed bytes are never copied: a [`Transmit`] names the range of the input they lie in, and carries the few
//! bytes that go in front of them. Replies that a core composes lie in the egress's own arena.

use std::net::SocketAddr;
use std::ops::Range;

use crate::flow::{ClientFlow, NodeId, RelayId};

/// Through what a datagram leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// To a client, from the listener or connection it came in by.
    Client(ClientFlow),
    /// To a peer, from a relay socket of this shard.
    Relay(RelayId),
    /// To an allocation of another shard of this node; `from` is the relay address it comes from.
    Shard {
        /// The shard that owns the port.
        shard: u8,
        /// The sender the other allocation shall see.
        from: SocketAddr,
    },
    /// To an allocation of another server, encapsulated; `from` is the address it comes from.
    Node {
        /// The owner of the port.
        node: NodeId,
        /// The sender the other allocation shall see.
        from: SocketAddr,
    },
}

/// Bytes in front of a relayed payload: a ChannelData header or the start of a Data indication.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    length: u8,
}

/// A Data indication to an IPv6 peer: 20 (header) + 24 (XOR-PEER-ADDRESS) + 4 (DATA's header).
pub const HEAD_BYTES_MAX: usize = 48;

impl Head {
    /// Nothing in front.
    pub const EMPTY: Self = Self { bytes: [0; HEAD_BYTES_MAX], length: 0 };

    /// A head holding `bytes`; anything beyond [`HEAD_BYTES_MAX`] is cut off.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut head = Self::EMPTY;
        for (to, from) in head.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        head.length = u8::try_from(bytes.len().min(HEAD_BYTES_MAX)).unwrap_or(0);
        head
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// A range of bytes, either in an input slot of the current batch or in the egress's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    slot: u16,
    start: u32,
    end: u32,
}

const ARENA: u16 = u16::MAX;

impl Body {
    /// Bytes of the batch's input slot `slot`.
    #[must_use]
    pub fn input(slot: u16, range: Range<usize>) -> Self {
        let clamp = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Self { slot, start: clamp(range.start), end: clamp(range.end) }
    }

    /// The part of this body at `range`, counted from its start and kept inside it.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Self {
        let offset =
            |by: usize| self.start.saturating_add(u32::try_from(by).unwrap_or(u32::MAX)).min(self.end);
        Self { slot: self.slot, start: offset(range.start), end: offset(range.end) }
    }

    /// The input slot, or `None` when the bytes lie in the egress.
    #[must_use]
    pub const fn slot(self) -> Option<u16> {
        if self.slot == ARENA { None } else { Some(self.slot) }
    }

    /// Offsets within the slot or arena.
    #[must_use]
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Number of bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// One datagram (or stream message) to send: head, body, then `padding` zero bytes.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// Through what it leaves.
    pub via: Via,
    /// Where it goes.
    pub to: SocketAddr,
    /// Bytes in front of the body.
    pub head: Head,
    /// The payload.
    pub body: Body,
    /// Zero bytes after the body (0..=3).
    pub padding: u8,
    /// Whether the IP header must forbid fragmentation (RFC 8656 §14).
    pub dont_fragment: bool,
}

/// A bounded list of [`Transmit`]s and the bytes of composed replies.
#[derive(Debug)]
pub struct Egress {
    transmits: Vec<Transmit>,
    arena: Vec<u8>,
}

/// A composed reply never exceeds this (RFC 8489 §6.1: messages below the path MTU).
pub const REPLY_BYTES_MAX: usize = 1_280;

impl Egress {
    /// Room for `transmits` datagrams, each of which may be a composed reply. Allocates once, here.
    #[must_use]
    pub fn with_capacity(transmits: usize) -> Self {
        Self {
            transmits: Vec::with_capacity(transmits),
            arena: Vec::with_capacity(transmits.saturating_mul(REPLY_BYTES_MAX)),
        }
    }

    /// Whether another `transmits` datagrams fit without growing.
    #[must_use]
    pub fn has_room_for(&self, transmits: usize) -> bool {
        self.transmits.capacity().saturating_sub(self.transmits.len()) >= transmits
    }

    /// Queues a datagram. The shell empties the egress before it is full; beyond that the datagram is refused.
    pub fn push(&mut self, transmit: Transmit) -> bool {
        let fits = self.has_room_for(1);
        if fits {
            self.transmits.push(transmit);
        }
        fits
    }

    /// Queues a reply that `compose` appends to the arena.
    pub fn push_reply(&mut self, flow: ClientFlow, compose: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.push_reply_if(flow, |_| true, compose)
    }

    /// As [`Egress::push_reply`], but only if `admit` agrees to the reply's length in bytes.
    pub fn push_reply_if(
        &mut self,
        flow: ClientFlow,
        admit: impl FnOnce(usize) -> bool,
        compose: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if !self.has_room_for(1) {
            return false;
        }
        let start = self.arena.len();
        compose(&mut self.arena);
        let body = Body::input(ARENA, start..self.arena.len());
        let admitted = admit(body.len());
        if !admitted {
            self.arena.truncate(start);
            return false;
        }
        let (head, padding, dont_fragment) = (Head::EMPTY, 0, false);
        self.push(Transmit { via: Via::Client(flow), to: flow.remote, head, body, padding, dont_fragment })
    }

    /// What is queued, in order.
    #[must_use]
    pub fn transmits(&self) -> &[Transmit] {
        &self.transmits
    }

    /// Bytes of composed replies, addressed by bodies without a slot.
    #[must_use]
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// Forgets everything queued; keeps the memory.
    pub fn clear(&mut self) {
        self.transmits.clear();
        self.arena.clear();
    }
}
