//! A second codec of STUN, as plain as can be: what the targets hold the real one against.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use trunkline_wire::stun::attribute;

/// Appends MESSAGE-INTEGRITY under `key`.
pub(crate) fn append_integrity(message: &mut Vec<u8>, key: &[u8]) {
    append(message, attribute::MESSAGE_INTEGRITY, 20, |signed| hmac(key, signed).to_vec());
}

/// Appends FINGERPRINT.
pub(crate) fn append_fingerprint(message: &mut Vec<u8>) {
    append(message, attribute::FINGERPRINT, 4, |covered| {
        (crc32(covered) ^ 0x5354_554E).to_be_bytes().to_vec()
    });
}

/// HMAC-SHA1.
pub(crate) fn hmac(key: &[u8], bytes: &[u8]) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// Appends an attribute with zero padding.
pub(crate) fn append_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("a 16-bit length");
    append(message, kind, length, |_| value.to_vec());
}

/// Makes the length field that of the message.
pub(crate) fn set_length(message: &mut [u8]) {
    let length = u16::try_from(message.len() - 20).unwrap_or(u16::MAX);
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

/// Appends an attribute whose value may depend on the message with the length that it then has.
fn append(message: &mut Vec<u8>, kind: u16, length: u16, value: impl FnOnce(&[u8]) -> Vec<u8>) {
    if message.len() < 20 || message.len() + 4 + usize::from(length) > 60_000 {
        return;
    }
    let end = message.len();
    message.extend(kind.to_be_bytes());
    message.extend(length.to_be_bytes());
    let value_end = end + 4 + usize::from(length);
    message.resize(value_end.next_multiple_of(4), 0);
    set_length(message);
    let value = value(&message[..end]);
    message[end + 4..value_end].copy_from_slice(&value);
}

/// CRC-32 bit by bit.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

/// An attribute as it stands in a message: its type, its value without padding, where it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    pub kind: u16,
    pub value: &'a [u8],
    pub offset: usize,
}

/// Every attribute, if the frame is right.
pub(crate) fn attributes_of(message: &[u8]) -> Option<Vec<Raw<'_>>> {
    let is_stun = message.len() >= 20 && message[0] < 0x40 && message[4..8] == [0x21, 0x12, 0xA4, 0x42];
    let length = || usize::from(u16::from_be_bytes([message[2], message[3]]));
    if !is_stun || length() % 4 != 0 || length() + 20 != message.len() {
        return None;
    }
    let (mut found, mut offset) = (vec![], 20);
    while offset < message.len() {
        let kind = u16::from_be_bytes([message[offset], message[offset + 1]]);
        let length = usize::from(u16::from_be_bytes([message[offset + 2], message[offset + 3]]));
        found.push(Raw { kind, value: message.get(offset + 4..offset + 4 + length)?, offset });
        offset += 4 + length.div_ceil(4) * 4;
    }
    (offset == message.len()).then_some(found)
}
