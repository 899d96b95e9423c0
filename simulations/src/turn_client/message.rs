//! STUN messages (RFC 8489 §5, §14) and the attributes of TURN (RFC 8656 §18), written for the lab alone.
//!
//! This codec shares no line with the server's: what both get wrong in the same way would stay unseen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;

/// What joins a response to its request (RFC 8489 §5).
pub type TransactionId = [u8; 12];

/// A STUN method (RFC 8489 §18.2, RFC 8656 §17).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method(pub u16);

#[allow(missing_docs, reason = "the names are those of the RFC's registries")]
impl Method {
    pub const BINDING: Self = Self(0x001);
    pub const ALLOCATE: Self = Self(0x003);
    pub const REFRESH: Self = Self(0x004);
    pub const SEND: Self = Self(0x006);
    pub const DATA: Self = Self(0x007);
    pub const CREATE_PERMISSION: Self = Self(0x008);
    pub const CHANNEL_BIND: Self = Self(0x009);
}

/// The class of a message (RFC 8489 §5).
#[allow(missing_docs, reason = "the names are those of the RFC's registries")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Request,
    Indication,
    Success,
    Error,
}

impl Class {
    fn bits(self) -> u16 {
        match self {
            Self::Request => 0x000,
            Self::Indication => 0x010,
            Self::Success => 0x100,
            Self::Error => 0x110,
        }
    }

    fn of(message_type: u16) -> Self {
        match (message_type & 0x100 != 0, message_type & 0x010 != 0) {
            (false, false) => Self::Request,
            (false, true) => Self::Indication,
            (true, false) => Self::Success,
            (true, true) => Self::Error,
        }
    }
}

/// Attribute types (RFC 8489 §18.3, RFC 8656 §18).
#[allow(missing_docs, reason = "the names are those of the RFC's registries")]
pub mod attribute {
    pub const USERNAME: u16 = 0x0006;
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const CHANNEL_NUMBER: u16 = 0x000C;
    pub const LIFETIME: u16 = 0x000D;
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub const DATA: u16 = 0x0013;
    pub const REALM: u16 = 0x0014;
    pub const NONCE: u16 = 0x0015;
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub const FINGERPRINT: u16 = 0x8028;
}

/// A message under construction. The header's length is right after every call.
#[derive(Debug, Clone)]
pub struct MessageBuilder {
    bytes: Vec<u8>,
}

impl MessageBuilder {
    /// Starts a message without attributes.
    pub fn new(method: Method, class: Class, transaction: &TransactionId) -> Self {
        let method_bits = (method.0 & 0xF80) << 2 | (method.0 & 0x070) << 1 | (method.0 & 0x00F);
        let mut bytes = Vec::with_capacity(MESSAGE_BYTES_USUAL);
        bytes.extend_from_slice(&(method_bits | class.bits()).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE);
        bytes.extend_from_slice(transaction);
        Self { bytes }
    }

    /// Appends any attribute, padded with zeros to four bytes.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_length(self.bytes.len() - HEADER_BYTES);
        self
    }

    /// Appends an address in the XOR form (RFC 8489 §14.2).
    pub fn xor_address(self, kind: u16, address: SocketAddr) -> Self {
        let mut value = Vec::with_capacity(20);
        let family = if address.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 };
        value.extend_from_slice(&[0, family]);
        value.extend_from_slice(&address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => value.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => value.extend_from_slice(&ip.octets()),
        }
        xor(&mut value[2..4], &self.bytes[4..]);
        xor(&mut value[4..], &self.bytes[4..]);
        self.attribute(kind, &value)
    }

    /// Appends MESSAGE-INTEGRITY (RFC 8489 §14.5) under a key made by [`long_term_key`].
    pub fn integrity(mut self, key: &[u8]) -> Self {
        self.set_length(self.bytes.len() - HEADER_BYTES + 24);
        let digest = hmac_sha1(key, &[&self.bytes]);
        self.attribute(attribute::MESSAGE_INTEGRITY, &digest)
    }

    /// Appends FINGERPRINT (RFC 8489 §14.7); nothing may follow it.
    pub fn fingerprint(mut self) -> Self {
        self.set_length(self.bytes.len() - HEADER_BYTES + 8);
        let crc = crc32(&self.bytes) ^ FINGERPRINT_XOR;
        self.attribute(attribute::FINGERPRINT, &crc.to_be_bytes())
    }

    /// The bytes to send.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn set_length(&mut self, length: usize) {
        self.bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    }
}

/// A received message whose framing is right: cookie, length, and every attribute inside the message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads one whole datagram (or one framed message of a stream); `None` if it is not a STUN message.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let framed = header[0] & 0xC0 == 0 && header[4..8] == MAGIC_COOKIE && length % 4 == 0;
        if !framed || bytes.len() != HEADER_BYTES + length {
            return None;
        }
        let message = Self { bytes };
        let attribute_bytes: usize =
            message.attributes().map(|(_, value)| 4 + value.len().next_multiple_of(4)).sum();
        (attribute_bytes == length).then_some(message)
    }

    /// The method.
    pub fn method(&self) -> Method {
        let bits = self.message_type();
        Method((bits & 0x3E00) >> 2 | (bits & 0x00E0) >> 1 | (bits & 0x000F))
    }

    /// The class.
    pub fn class(&self) -> Class {
        Class::of(self.message_type())
    }

    /// The transaction id.
    pub fn transaction(&self) -> &'a [u8] {
        &self.bytes[8..HEADER_BYTES]
    }

    /// Types and values in their order.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = &self.bytes[HEADER_BYTES..];
        std::iter::from_fn(move || {
            let kind = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
            let length = usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
            let value = rest.get(4..4 + length)?;
            rest = rest.get(4 + length.next_multiple_of(4)..)?;
            Some((kind, value))
        })
    }

    /// The value of the first attribute of this type.
    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(candidate, _)| *candidate == kind).map(|(_, value)| value)
    }

    /// An attribute that holds 32 bits, such as LIFETIME in seconds.
    pub fn attribute_u32(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(kind)?.try_into().ok()?))
    }

    /// An attribute that holds an address in the XOR form.
    pub fn xor_address(&self, kind: u16) -> Option<SocketAddr> {
        let encoded = self.attribute(kind)?;
        let (family, mut value) = (*encoded.get(1)?, [0; 20]);
        let value = value.get_mut(..encoded.len())?;
        value.copy_from_slice(encoded);
        xor(value.get_mut(2..4)?, &self.bytes[4..]);
        xor(value.get_mut(4..)?, &self.bytes[4..]);
        let port = u16::from_be_bytes([value[2], value[3]]);
        let ip = match family {
            FAMILY_IPV4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&value[4..]).ok()?)),
            FAMILY_IPV6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&value[4..]).ok()?)),
            _unknown_family => return None,
        };
        Some(SocketAddr::new(ip, port))
    }

    /// The number and the reason of an ERROR-CODE attribute (RFC 8489 §14.8).
    pub fn error_code(&self) -> Option<(u16, String)> {
        let value = self.attribute(attribute::ERROR_CODE)?;
        let (class, number) = (*value.get(2)? & 0x07, *value.get(3)?);
        let reason = String::from_utf8_lossy(&value[4..]).into_owned();
        Some((u16::from(class) * 100 + u16::from(number), reason))
    }

    /// Whether the message carries a MESSAGE-INTEGRITY that is right under `key`.
    pub fn integrity_holds(&self, key: &[u8]) -> bool {
        let Some((start, value)) = self.position(attribute::MESSAGE_INTEGRITY) else { return false };
        let mut header: [u8; HEADER_BYTES] = [0; HEADER_BYTES];
        header.copy_from_slice(&self.bytes[..HEADER_BYTES]);
        header[2..4].copy_from_slice(&((start + 24 - HEADER_BYTES) as u16).to_be_bytes());
        value == hmac_sha1(key, &[&header, &self.bytes[HEADER_BYTES..start]])
    }

    /// Whether the message carries a FINGERPRINT that is right and last.
    pub fn fingerprint_holds(&self) -> bool {
        let Some((start, value)) = self.position(attribute::FINGERPRINT) else { return false };
        let crc = crc32(&self.bytes[..start]) ^ FINGERPRINT_XOR;
        start + 8 == self.bytes.len() && value == crc.to_be_bytes()
    }

    fn position(&self, kind: u16) -> Option<(usize, &'a [u8])> {
        let mut start = HEADER_BYTES;
        for (candidate, value) in self.attributes() {
            if candidate == kind {
                return Some((start, value));
            }
            start += 4 + value.len().next_multiple_of(4);
        }
        None
    }

    fn message_type(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }
}

/// The key of the long-term credential mechanism: MD5(user ":" realm ":" password) (RFC 8489 §9.2.2).
pub fn long_term_key(user: &str, realm: &str, password: &str) -> [u8; 16] {
    Md5::digest(format!("{user}:{realm}:{password}")).into()
}

/// base64(HMAC-SHA1(secret, username)): the password of a time-limited username.
pub fn time_limited_password(secret: &str, username: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(hmac_sha1(secret.as_bytes(), &[username.as_bytes()]))
}

fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// CRC-32 as in ITU-T V.42, bit by bit: set-up messages only, so a table would gain nothing.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let polynomial = if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
            crc = crc >> 1 ^ polynomial;
        }
    }
    !crc
}

fn xor(bytes: &mut [u8], mask: &[u8]) {
    bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

/// Bytes of the STUN header.
pub const HEADER_BYTES: usize = 20;
/// The fixed bytes 4 to 8 of every message.
pub const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;
const FINGERPRINT_XOR: u32 = 0x5354_554E;
const MESSAGE_BYTES_USUAL: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 §2.4: a request with long-term authentication. The password is SASLprep'd already.
    const LONG_TERM_REQUEST: &[u8] = b"\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\
        \x29\xda\x41\x2e\x00\x06\x00\x12\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\
        \x82\xb9\x00\x00\x00\x15\x00\x1c\x66\x2f\x2f\x34\x39\x39\x6b\x39\x35\x34\x64\x36\x4f\x4c\x33\x34\
        \x6f\x4c\x39\x46\x53\x54\x76\x79\x36\x34\x73\x41\x00\x14\x00\x0b\x65\x78\x61\x6d\x70\x6c\x65\x2e\
        \x6f\x72\x67\x00\x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\
        \x8c\xa8\x96\x66";

    /// RFC 5769 §2.2: a success response over IPv4.
    const IPV4_RESPONSE: &[u8] = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\
        \xfa\x87\xdf\xae\x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\x00\x20\x00\x08\
        \x00\x01\xa1\x47\xe1\x12\xa6\x43\x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\
        \x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\x80\x28\x00\x04\xc0\x7d\x4c\x96";

    #[test]
    fn rfc_5769_long_term_request_verifies_and_is_rebuilt() {
        let message = Message::parse(LONG_TERM_REQUEST).unwrap();
        let user = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
        let key = long_term_key(user, "example.org", "TheMatrIX");
        assert!(message.integrity_holds(&key));
        assert!(!message.integrity_holds(&long_term_key(user, "example.org", "TheMatrix")));

        let transaction = message.transaction().try_into().unwrap();
        let rebuilt = MessageBuilder::new(Method::BINDING, Class::Request, &transaction)
            .attribute(attribute::USERNAME, user.as_bytes())
            .attribute(attribute::NONCE, message.attribute(attribute::NONCE).unwrap())
            .attribute(attribute::REALM, b"example.org")
            .integrity(&key)
            .finish();
        assert_eq!(rebuilt, LONG_TERM_REQUEST);
    }

    #[test]
    fn rfc_5769_response_yields_address_integrity_and_fingerprint() {
        let message = Message::parse(IPV4_RESPONSE).unwrap();
        assert_eq!((message.method(), message.class()), (Method::BINDING, Class::Success));
        let mapped = message.xor_address(attribute::XOR_MAPPED_ADDRESS);
        assert_eq!(mapped, Some("192.0.2.1:32853".parse().unwrap()));
        assert!(message.integrity_holds(b"VOkJxbRl1RmTxUk/WvJxBt"));
        assert!(message.fingerprint_holds());
    }

    #[test]
    fn built_message_is_read_back() {
        let peer: SocketAddr = "[2001:db8::7]:9".parse().unwrap();
        let bytes = MessageBuilder::new(Method::CHANNEL_BIND, Class::Request, &[7; 12])
            .xor_address(attribute::XOR_PEER_ADDRESS, peer)
            .integrity(b"key")
            .fingerprint()
            .finish();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.method(), message.class()), (Method::CHANNEL_BIND, Class::Request));
        assert_eq!(message.xor_address(attribute::XOR_PEER_ADDRESS), Some(peer));
        assert!(message.integrity_holds(b"key") && message.fingerprint_holds());
        let truncated = &bytes[..bytes.len() - 4];
        assert!(Message::parse(truncated).is_none());
    }
}
