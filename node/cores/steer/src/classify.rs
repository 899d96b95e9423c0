//! What a client's datagram is, as far as steering cares: may it create state, and does it name its owner?

use trunkline_wire::Kind;
use trunkline_wire::NodeId;
use trunkline_wire::token::{MacKey, UFRAG_CHARS, Ufrag};

/// What a datagram without a known flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Allocate, DTLS ClientHello: it may create state.
    Opener,
    /// An ordinary Binding request: whoever gets it can answer.
    Stateless,
    /// A connectivity check whose username fragment names the session's server.
    Ice(NodeId),
    /// Of a flow that exists, or never did.
    Member,
}

const STUN_HEADER_BYTES: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const ALLOCATE_REQUEST: [u8; 2] = [0x00, 0x03];
const USERNAME: [u8; 2] = [0x00, 0x06];
/// Attributes among which USERNAME is looked for: clients send it first.
const ATTRIBUTES_MAX: usize = 4;
const DTLS_HANDSHAKE: u8 = 22;
/// Bytes of a DTLS record's header; the first byte of a handshake says its type.
const DTLS_RECORD_BYTES: usize = 13;
const CLIENT_HELLO: u8 = 1;

/// Classifies a datagram.
#[must_use]
pub fn datagram(payload: &[u8], ufrag_keys: &[MacKey]) -> Class {
    match Kind::of(payload) {
        Kind::Stun => stun(payload, ufrag_keys),
        Kind::Dtls => {
            let is_hello = payload.first() == Some(&DTLS_HANDSHAKE)
                && payload.get(DTLS_RECORD_BYTES) == Some(&CLIENT_HELLO);
            if is_hello { Class::Opener } else { Class::Member }
        }
        _ => Class::Member,
    }
}

fn stun(payload: &[u8], ufrag_keys: &[MacKey]) -> Class {
    let Some((header, attributes)) = payload.split_first_chunk::<STUN_HEADER_BYTES>() else {
        return Class::Member;
    };
    let [t0, t1, _, _, cookie @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *header;
    match [t0, t1] {
        _ if cookie != MAGIC_COOKIE => Class::Member,
        ALLOCATE_REQUEST => Class::Opener,
        BINDING_REQUEST => match username(attributes) {
            None => Class::Stateless,
            // A session that this fleet never made: its check is refused wherever it comes to.
            Some(name) => {
                Ufrag::open(ufrag_keys, name).map_or(Class::Stateless, |ufrag| Class::Ice(ufrag.node))
            }
        },
        _ => Class::Member,
    }
}

/// Our half of an ICE username: as long as the fragments that we give out and followed by a colon.
fn username(mut attributes: &[u8]) -> Option<&[u8; UFRAG_CHARS]> {
    for _ in 0..ATTRIBUTES_MAX {
        let (head, rest) = attributes.split_first_chunk::<4>()?;
        let [k0, k1, l0, l1] = *head;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if [k0, k1] == USERNAME {
            let (name, behind) = rest.split_first_chunk::<UFRAG_CHARS>()?;
            let is_ours = length > UFRAG_CHARS && behind.first() == Some(&b':');
            return is_ours.then_some(name);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}
