//! What a server answered, read by a parser of its own: the library is not its own witness.

use std::net::{IpAddr, SocketAddr};

use trunkline_wire::stun::{Attributes, Key, Message, attribute as kind};

use super::Sent;
use super::draft::crc32;

/// A response, or an indication to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub bytes: Vec<u8>,
    /// Type field as it stands on the wire.
    pub type_field: u16,
    pub transaction: [u8; 12],
    pub attributes: Vec<(u16, Vec<u8>)>,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 20 && bytes[0] < 4, "not STUN: {bytes:02x?}");
        assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len() - 20, "length field");
        assert_eq!(bytes[4..8], [0x21, 0x12, 0xA4, 0x42], "magic cookie");
        Self {
            type_field: u16::from_be_bytes([bytes[0], bytes[1]]),
            transaction: bytes[8..20].try_into().unwrap(),
            attributes: attributes(bytes)
                .into_iter()
                .map(|(kind, value, _)| (kind, value.to_vec()))
                .collect(),
            bytes: bytes.to_vec(),
        }
    }

    /// Whether it is a success; anything else must be an error.
    pub fn is_success(&self) -> bool {
        match self.type_field & 0x0110 {
            0x0100 => true,
            0x0110 => false,
            _ => panic!("not a response: {:04x}", self.type_field),
        }
    }

    /// The error code, 0 for success.
    pub fn code(&self) -> u16 {
        if self.is_success() {
            return 0;
        }
        let value = self.value(kind::ERROR_CODE).expect("an error has a code");
        u16::from(value[2]) * 100 + u16::from(value[3])
    }

    pub fn value(&self, attribute: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(kind, _)| *kind == attribute).map(|(_, value)| &value[..])
    }

    pub fn addresses(&self, attribute: u16) -> Vec<SocketAddr> {
        let found = self.attributes.iter().filter(|(kind, _)| *kind == attribute);
        found.map(|(_, value)| unxor(value, &self.transaction)).collect()
    }

    /// XOR-RELAYED-ADDRESSes.
    pub fn relayed(&self) -> Vec<SocketAddr> {
        self.addresses(kind::XOR_RELAYED_ADDRESS)
    }

    pub fn mapped(&self) -> Option<SocketAddr> {
        self.addresses(kind::XOR_MAPPED_ADDRESS).first().copied()
    }

    pub fn lifetime(&self) -> Option<u32> {
        self.value(kind::LIFETIME).map(|value| u32::from_be_bytes(value.try_into().unwrap()))
    }

    pub fn token(&self) -> Option<[u8; 8]> {
        self.value(kind::RESERVATION_TOKEN).map(|value| value.try_into().unwrap())
    }

    pub fn unknown(&self) -> Vec<u16> {
        let value = self.value(kind::UNKNOWN_ATTRIBUTES).unwrap_or_default();
        value.chunks(2).map(|pair| u16::from_be_bytes(pair.try_into().unwrap())).collect()
    }

    /// Family and code of ADDRESS-ERROR-CODE.
    pub fn address_error(&self) -> Option<(u8, u16)> {
        let value = self.value(kind::ADDRESS_ERROR_CODE)?;
        Some((value[0], u16::from(value[2]) * 100 + u16::from(value[3])))
    }

    pub fn has(&self, attribute: u16) -> bool {
        self.value(attribute).is_some()
    }

    /// Whether it carries a MESSAGE-INTEGRITY that is right under `key`.
    pub fn is_signed_by(&self, key: &Key) -> bool {
        let message = Message::parse(&self.bytes).unwrap();
        Attributes::parse(&message).is_ok_and(|attributes| attributes.verify(key))
    }
}

/// Type, value without padding, padding of each attribute.
fn attributes(message: &[u8]) -> Vec<(u16, &[u8], &[u8])> {
    let mut found = Vec::new();
    let mut rest = &message[20..];
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let padded = length.next_multiple_of(4);
        found.push((
            u16::from_be_bytes([rest[0], rest[1]]),
            &rest[4..4 + length],
            &rest[4 + length..4 + padded],
        ));
        rest = &rest[4 + padded..];
    }
    found
}

/// Every padding byte that leaves is zero, FINGERPRINT is last and right (threat 24, RFC 8489 §14).
pub fn assert_padding_is_zero(sent: &Sent) {
    if !matches!(sent.via, trunkline_wire::Via::Client(_)) || sent.bytes.is_empty() {
        return;
    }
    if sent.bytes[0] >= 0x40 {
        let length = usize::from(u16::from_be_bytes([sent.bytes[2], sent.bytes[3]]));
        assert!(sent.bytes[4 + length..].iter().all(|byte| *byte == 0), "ChannelData's padding");
        return;
    }
    let listed = attributes(&sent.bytes);
    for (place, (attribute, value, padding)) in listed.iter().enumerate() {
        assert!(padding.iter().all(|byte| *byte == 0), "padding of {attribute:04x}");
        if *attribute == kind::FINGERPRINT {
            assert_eq!(place + 1, listed.len(), "FINGERPRINT is last");
            let crc = crc32(&sent.bytes[..sent.bytes.len() - 8]) ^ 0x5354_554E;
            assert_eq!(*value, crc.to_be_bytes(), "FINGERPRINT is right");
        }
    }
}

fn unxor(value: &[u8], transaction: &[u8; 12]) -> SocketAddr {
    let mut mask = vec![0x21, 0x12, 0xA4, 0x42];
    mask.extend(transaction);
    let port = u16::from_be_bytes([value[2], value[3]]) ^ 0x2112;
    let plain: Vec<u8> = value[4..].iter().zip(&mask).map(|(byte, mask)| byte ^ mask).collect();
    let ip: IpAddr = match value[1] {
        1 => <[u8; 4]>::try_from(plain).unwrap().into(),
        2 => <[u8; 16]>::try_from(plain).unwrap().into(),
        family => panic!("family {family}"),
    };
    SocketAddr::new(ip, port)
}
