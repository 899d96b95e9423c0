//! What an epoll token, and so a [`RelayId`] or [`StreamId`], means: a kind, a generation, an index.

use trunkline_wire::{RelayId, StreamId};

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The UDP socket of a listener.
    Udp(usize),
    /// The accepting socket of a TCP or TLS listener.
    Accept(usize),
    /// A relay socket.
    Relay(RelayId),
    /// A connection.
    Stream(StreamId),
    /// The shard's inbox.
    Inbox,
    /// The socket for packets from other servers.
    Encapsulation,
    /// The socket that sees packets for ports of other servers.
    Strays(usize),
}

const KIND_SHIFT: u32 = 56;
const GENERATION_SHIFT: u32 = 32;
/// Generations come round after 2^24 reuses of one index; an epoll event never lives that long.
const GENERATION_MASK: u32 = 0x00FF_FFFF;

impl Token {
    /// The number that epoll carries.
    pub fn to_u64(self) -> u64 {
        let tagged = |kind: u64, index: usize| (kind << KIND_SHIFT) | index as u64;
        match self {
            Self::Udp(index) => tagged(0, index),
            Self::Accept(index) => tagged(1, index),
            Self::Relay(RelayId(id)) => (2 << KIND_SHIFT) | id,
            Self::Stream(StreamId(id)) => (3 << KIND_SHIFT) | id,
            Self::Inbox => tagged(4, 0),
            Self::Encapsulation => tagged(5, 0),
            Self::Strays(index) => tagged(6, index),
        }
    }

    /// The inverse of [`Token::to_u64`].
    pub fn from_u64(number: u64) -> Option<Self> {
        let rest = number & ((1 << KIND_SHIFT) - 1);
        let index = (rest & u64::from(u32::MAX)) as usize;
        Some(match number >> KIND_SHIFT {
            0 => Self::Udp(index),
            1 => Self::Accept(index),
            2 => Self::Relay(RelayId(rest)),
            3 => Self::Stream(StreamId(rest)),
            4 => Self::Inbox,
            5 => Self::Encapsulation,
            6 => Self::Strays(index),
            _ => return None,
        })
    }
}

/// An id from a generation and an index; fits below a token's kind.
pub fn id(generation: u32, index: usize) -> u64 {
    (u64::from(generation & GENERATION_MASK) << GENERATION_SHIFT) | (index as u64 & u64::from(u32::MAX))
}

/// The index in an id.
pub fn index(id: u64) -> usize {
    (id & u64::from(u32::MAX)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way_through_epoll() {
        let tokens = [
            Token::Udp(7),
            Token::Accept(3),
            Token::Relay(RelayId(id(u32::MAX, 5))),
            Token::Stream(StreamId(id(9, 123_456))),
            Token::Inbox,
            Token::Encapsulation,
            Token::Strays(2),
        ];
        for token in tokens {
            assert_eq!(Token::from_u64(token.to_u64()), Some(token));
        }
        assert_eq!(index(id(77, 42)), 42);
        assert_eq!(Token::from_u64(u64::MAX), None);
    }
}
