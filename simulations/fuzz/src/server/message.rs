//! The client's side of STUN: writes requests and reads answers with the naive codec.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use std::net::{IpAddr, SocketAddr};

use crate::naive::{append_attribute, append_fingerprint, append_integrity, attributes_of, crc32, hmac};

/// Message types as they stand on the wire.
pub(crate) const BINDING: u16 = 0x0001;
pub(crate) const ALLOCATE: u16 = 0x0003;
pub(crate) const REFRESH: u16 = 0x0004;
pub(crate) const CREATE_PERMISSION: u16 = 0x0008;
pub(crate) const CHANNEL_BIND: u16 = 0x0009;
pub(crate) const SEND_INDICATION: u16 = 0x0016;
pub(crate) const DATA_INDICATION: u16 = 0x0017;
pub(crate) const SUCCESS: u16 = 0x0100;
pub(crate) const ERROR: u16 = 0x0110;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// What a client signs with.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub username: String,
    key: [u8; 16],
}

impl Credential {
    pub(crate) fn new(username: &str, realm: &str, password: &str) -> Self {
        let key = Md5::digest(format!("{username}:{realm}:{password}")).into();
        Self { username: username.into(), key }
    }

    pub(crate) fn time_limited_password(secret: &str, username: &str) -> String {
        STANDARD.encode(hmac(secret.as_bytes(), username.as_bytes()))
    }
}

/// A message being written.
#[derive(Debug)]
pub(crate) struct Outgoing(Vec<u8>);

impl Outgoing {
    pub(crate) fn new(kind: u16, transaction: [u8; 12]) -> Self {
        Self([&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &transaction].concat())
    }

    pub(crate) fn with(mut self, attribute: u16, value: &[u8]) -> Self {
        append_attribute(&mut self.0, attribute, value);
        self
    }

    /// An attribute of one byte and three that are reserved, if there is one.
    pub(crate) fn with_octet(self, attribute: u16, value: Option<u8>) -> Self {
        match value {
            Some(value) => self.with(attribute, &[value, 0, 0, 0]),
            None => self,
        }
    }

    pub(crate) fn with_peer(self, attribute: u16, peer: SocketAddr) -> Self {
        let transaction: [u8; 12] = self.0[8..20].try_into().expect("twelve bytes");
        let value = xor_address(peer, transaction);
        self.with(attribute, &value)
    }

    pub(crate) fn signed(mut self, credential: &Credential) -> Self {
        append_integrity(&mut self.0, &credential.key);
        self
    }

    pub(crate) fn with_fingerprint(mut self) -> Self {
        append_fingerprint(&mut self.0);
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

fn xor_address(address: SocketAddr, transaction: [u8; 12]) -> Vec<u8> {
    let mask = [&COOKIE[..], &transaction].concat();
    let (family, ip) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mut value = vec![0, family];
    value.extend((address.port() ^ 0x2112).to_be_bytes());
    value.extend(ip.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    value
}

/// A message of the server, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub kind: u16,
    pub transaction: [u8; 12],
    /// Without MESSAGE-INTEGRITY and FINGERPRINT.
    pub attributes: Vec<(u16, Vec<u8>)>,
    pub signed: bool,
    pub fingerprint: bool,
}

impl Answer {
    /// Reads a message whose every byte must be right: integrity under `credential` where there is one, FINGERPRINT
    /// last, padding zero.
    pub(crate) fn read(message: &[u8], credential: &Credential) -> Self {
        let raw = attributes_of(message).unwrap_or_else(|| panic!("no STUN message: {message:02x?}"));
        let mut answer = Self {
            kind: u16::from_be_bytes([message[0], message[1]]),
            transaction: message[8..20].try_into().expect("twelve bytes"),
            attributes: vec![],
            signed: false,
            fingerprint: false,
        };
        for attribute in raw {
            let end = attribute.offset + 4 + attribute.value.len();
            assert!(message[end..end.next_multiple_of(4)].iter().all(|padding| *padding == 0), "padding");
            let mut covered = message[..attribute.offset].to_vec();
            covered[2..4].copy_from_slice(&u16::try_from(end - 20).expect("a length").to_be_bytes());
            match attribute.kind {
                0x0008 => {
                    assert!(!answer.signed && !answer.fingerprint);
                    assert_eq!(attribute.value, hmac(&credential.key, &covered), "MESSAGE-INTEGRITY");
                    answer.signed = true;
                }
                0x8028 => {
                    assert_eq!(end, message.len(), "FINGERPRINT is last");
                    assert_eq!(attribute.value, (crc32(&covered) ^ 0x5354_554E).to_be_bytes(), "FINGERPRINT");
                    answer.fingerprint = true;
                }
                kind => {
                    assert!(!answer.signed, "attribute {kind:#x} behind the signature");
                    answer.attributes.push((kind, attribute.value.to_vec()));
                }
            }
        }
        answer
    }

    /// The value of an attribute that is there at most once.
    pub(crate) fn value(&self, attribute: u16) -> Option<&[u8]> {
        let mut values = self.attributes.iter().filter(|(kind, _)| *kind == attribute);
        let value = values.next().map(|(_, value)| &value[..]);
        assert!(values.next().is_none(), "{attribute:#x} twice");
        value
    }

    /// The code of ERROR-CODE, if there is one.
    pub(crate) fn error(&self) -> Option<u16> {
        self.value(0x0009).map(|value| u16::from(value[2]) * 100 + u16::from(value[3]))
    }

    /// The addresses in every attribute of this type.
    pub(crate) fn addresses(&self, attribute: u16) -> Vec<SocketAddr> {
        let values = self.attributes.iter().filter(|(kind, _)| *kind == attribute);
        values.map(|(_, value)| plain_address(value, self.transaction)).collect()
    }
}

fn plain_address(value: &[u8], transaction: [u8; 12]) -> SocketAddr {
    let mask = [&COOKIE[..], &transaction].concat();
    let ip: Vec<u8> = value[4..].iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    let ip = match (value[1], ip.len()) {
        (1, 4) => IpAddr::from(<[u8; 4]>::try_from(&ip[..]).expect("four bytes")),
        (2, 16) => IpAddr::from(<[u8; 16]>::try_from(&ip[..]).expect("sixteen bytes")),
        other => panic!("family and length {other:?}"),
    };
    SocketAddr::new(ip, u16::from_be_bytes([value[2], value[3]]) ^ 0x2112)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_writes_reads_back() {
        let credential = Credential::new("a", "r", "p");
        let peer = "[2001:db8::7]:99".parse().unwrap();
        let message = Outgoing::new(ALLOCATE, [5; 12]).with_peer(0x12, peer).with(0x0022, b"12345");
        let message = message.signed(&credential).with_fingerprint().bytes();
        let answer = Answer::read(&message, &credential);
        assert_eq!((answer.kind, answer.signed, answer.fingerprint), (ALLOCATE, true, true));
        assert_eq!(answer.addresses(0x12), [peer]);
        assert_eq!(answer.value(0x0022), Some(&b"12345"[..]));
    }
}
