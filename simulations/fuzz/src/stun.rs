//! Target: STUN messages and their attributes (RFC 8489 §5, §14, RFC 8656 §18).
//!
//! A second, naive reader lists the attributes; the typed views must agree with it. No input panics.

use trunkline_wire::Kind;
use trunkline_wire::stun::{Attributes, AttributesError, EvenPort, Key, Message, attribute};

use crate::bytes::Bytes;
use crate::naive::{
    Raw, append_attribute, append_fingerprint, append_integrity, attributes_of, crc32, hmac, set_length,
};

/// The key that the target signs messages with.
const KEY: &[u8] = b"fuzzing";

/// What to put right in the message that follows: fuzzers do not guess lengths, cookies and checksums.
pub fn run(input: &[u8]) {
    let mut input = Bytes::new(input);
    let repairs = input.byte();
    let mut message = input.rest().to_vec();
    if repairs & 1 != 0 {
        repair_header(&mut message);
    }
    if repairs & 8 != 0 {
        // Around the longest USERNAME there may be.
        append_attribute(&mut message, attribute::USERNAME, &vec![b'u'; 500 + usize::from(repairs >> 4)]);
    }
    if repairs & 2 != 0 {
        append_integrity(&mut message, KEY);
    }
    if repairs & 4 != 0 {
        append_fingerprint(&mut message);
    }
    check(&message);
}

fn repair_header(message: &mut Vec<u8>) {
    let whole = message.len().max(20).next_multiple_of(4);
    message.resize(whole, 0);
    message[0] &= 0x3F;
    message[4..8].copy_from_slice(&[0x21, 0x12, 0xA4, 0x42]);
    set_length(message);
}

fn check(bytes: &[u8]) {
    let parsed = Message::parse(bytes);
    let Some(raw) = attributes_of(bytes) else {
        return assert!(parsed.is_err(), "accepted {bytes:02x?}");
    };
    let message = parsed.unwrap_or_else(|error| panic!("{error:?} for {bytes:02x?}"));
    assert_eq!(Kind::of(bytes) == Kind::Stun, bytes[0] < 4);
    assert_eq!(message.transaction().0, bytes[8..20]);
    let bits = u16::from_be_bytes([bytes[0], bytes[1]]);
    assert_eq!(message.method_number(), bits & 0xF | (bits & 0xE0) >> 1 | (bits & 0x3E00) >> 2);
    let end = raw.iter().position(|raw| is_integrity(raw.kind)).unwrap_or(raw.len());
    match Attributes::parse(&message) {
        Err(AttributesError::BadFingerprint) => {
            assert!(raw.iter().any(|raw| is_wrong_fingerprint(bytes, raw)))
        }
        Err(AttributesError::BadValue(kind)) => {
            let read = &raw[..(end + 1).min(raw.len())];
            let is_blamed = |raw: &Raw<'_>| raw.kind == kind && !has_good_value(raw);
            assert!(that_count(read).any(is_blamed), "{kind:#x} is blamed wrongly");
        }
        Ok(attributes) => {
            assert!(!raw.iter().any(|raw| is_wrong_fingerprint(bytes, raw)));
            values_agree(&attributes, &raw[..end]);
            integrity_agrees(&attributes, bytes, raw.get(end));
        }
    }
}

const fn is_integrity(kind: u16) -> bool {
    matches!(kind, attribute::MESSAGE_INTEGRITY | attribute::MESSAGE_INTEGRITY_SHA256)
}

fn is_wrong_fingerprint(message: &[u8], raw: &Raw<'_>) -> bool {
    let mut covered = message[..raw.offset].to_vec();
    let length = u16::try_from(raw.offset + 8 - 20);
    if let Ok(length) = length {
        covered[2..4].copy_from_slice(&length.to_be_bytes());
    }
    let expected = (crc32(&covered) ^ 0x5354_554E).to_be_bytes();
    let is_last = raw.offset + 8 == message.len();
    raw.kind == attribute::FINGERPRINT && (!is_last || length.is_err() || raw.value != expected)
}

fn has_good_value(raw: &Raw<'_>) -> bool {
    let length = raw.value.len();
    match raw.kind {
        attribute::USERNAME => length < 509,
        attribute::MESSAGE_INTEGRITY => length == 20,
        attribute::RESERVATION_TOKEN => length == 8,
        attribute::EVEN_PORT => length > 0,
        attribute::XOR_PEER_ADDRESS => matches!((length, raw.value.get(1)), (8, Some(1)) | (20, Some(2))),
        attribute::LIFETIME
        | attribute::CHANNEL_NUMBER
        | attribute::REQUESTED_TRANSPORT
        | attribute::REQUESTED_ADDRESS_FAMILY
        | attribute::ADDITIONAL_ADDRESS_FAMILY => length == 4,
        _ => true,
    }
}

/// With duplicates the first counts; of XOR-PEER-ADDRESS, every one does.
fn that_count<'r, 'm>(raw: &'r [Raw<'m>]) -> impl Iterator<Item = &'r Raw<'m>> {
    raw.iter().enumerate().filter_map(|(place, attribute)| {
        let is_duplicate = raw[..place].iter().any(|earlier| earlier.kind == attribute.kind);
        (attribute.kind == attribute::XOR_PEER_ADDRESS || !is_duplicate).then_some(attribute)
    })
}

fn values_agree(attributes: &Attributes<'_>, before_integrity: &[Raw<'_>]) {
    assert!(that_count(before_integrity).all(has_good_value), "accepted {before_integrity:02x?}");
    let first = |kind| before_integrity.iter().find(|raw| raw.kind == kind).map(|raw| raw.value);
    let octet = |kind| first(kind).map(|value| value[0]);
    assert_eq!(attributes.username, first(attribute::USERNAME));
    assert_eq!(attributes.realm, first(attribute::REALM));
    assert_eq!(attributes.nonce, first(attribute::NONCE));
    assert_eq!(
        attributes.lifetime_s.map(u32::to_be_bytes).as_ref().map(|bytes| &bytes[..]),
        first(attribute::LIFETIME)
    );
    let channel = first(attribute::CHANNEL_NUMBER).map(|value| u16::from_be_bytes([value[0], value[1]]));
    assert_eq!(attributes.channel_number, channel);
    assert_eq!(attributes.data.map(|(_, value)| value), first(attribute::DATA));
    assert_eq!(attributes.requested_transport, octet(attribute::REQUESTED_TRANSPORT));
    assert_eq!(attributes.requested_family, octet(attribute::REQUESTED_ADDRESS_FAMILY));
    assert_eq!(attributes.additional_family, octet(attribute::ADDITIONAL_ADDRESS_FAMILY));
    let even =
        octet(attribute::EVEN_PORT).map(|r| if r < 128 { EvenPort::Even } else { EvenPort::EvenAndNext });
    assert_eq!(attributes.even_port, even);
    assert_eq!(
        attributes.reservation_token.as_ref().map(|token| &token[..]),
        first(attribute::RESERVATION_TOKEN)
    );
    assert_eq!(attributes.dont_fragment, first(attribute::DONT_FRAGMENT).is_some());
    let peers: Vec<_> = attributes.peers().collect();
    let listed = before_integrity.iter().filter(|raw| raw.kind == attribute::XOR_PEER_ADDRESS);
    assert_eq!(peers.len(), listed.clone().count());
    assert_eq!(attributes.peer, peers.first().copied());
    for (peer, raw) in peers.iter().zip(listed) {
        assert_eq!(peer.port() ^ 0x2112, u16::from_be_bytes([raw.value[2], raw.value[3]]));
        assert_eq!(peer.is_ipv4(), raw.value[1] == 1);
    }
    unknown_agrees(attributes, before_integrity);
}

/// Attributes below 0x8000 that this server knows.
const KNOWN: [u16; 15] =
    [0x06, 0x08, 0x0C, 0x0D, 0x12, 0x13, 0x14, 0x15, 0x17, 0x18, 0x19, 0x1A, 0x22, 0x24, 0x25];

fn unknown_agrees(attributes: &Attributes<'_>, before_integrity: &[Raw<'_>]) {
    let mut unknown = vec![];
    for raw in before_integrity.iter().filter(|raw| raw.kind < 0x8000 && !KNOWN.contains(&raw.kind)) {
        if !unknown.contains(&raw.kind) {
            unknown.push(raw.kind);
        }
    }
    // The server lists a bounded number of them.
    let listed = attributes.unknown();
    assert!(
        unknown.starts_with(listed) && (listed.len() == unknown.len() || listed.len() >= 16),
        "{unknown:x?}"
    );
}

fn integrity_agrees(attributes: &Attributes<'_>, message: &[u8], integrity: Option<&Raw<'_>>) {
    assert_eq!(attributes.has_integrity(), integrity.is_some());
    let is_right = integrity.is_some_and(|raw| {
        let mut signed = message[..raw.offset].to_vec();
        let length = u16::try_from(raw.offset + 24 - 20).unwrap_or(u16::MAX);
        signed[2..4].copy_from_slice(&length.to_be_bytes());
        raw.kind == attribute::MESSAGE_INTEGRITY && hmac(KEY, &signed)[..] == *raw.value
    });
    let key = Key::new(KEY).expect("any length");
    assert_eq!(attributes.verify(&key), is_right);
    let other = Key::new(b"another").expect("any length");
    assert!(!attributes.verify(&other));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repaired_messages_are_valid() {
        run(&[7]);
        let mut message = vec![0, 1];
        repair_header(&mut message);
        append_integrity(&mut message, KEY);
        append_fingerprint(&mut message);
        let attributes =
            Attributes::parse(&Message::parse(&message).unwrap()).map(|a| (a.fingerprint, a.has_integrity()));
        assert_eq!(attributes, Ok((true, true)));
    }
}
