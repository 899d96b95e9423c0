//! The attributes of one message as typed views, parsed once.

use std::net::SocketAddr;

use super::attribute as kind;
use super::integrity::fingerprint;
use super::message::{Message, RawAttribute, RawAttributes, TransactionId};
use super::{Key, address};
use crate::channel_data::ChannelNumber;

/// EVEN-PORT (RFC 8656 §18.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvenPort {
    /// R = 0: an even port.
    Even,
    /// R = 1: an even port, and the next one kept for later.
    EvenAndNext,
}

/// Why a request's attributes cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributesError {
    /// An attribute's value has the wrong length or an impossible content; answered with 400.
    BadValue(u16),
    /// FINGERPRINT is there and wrong; the message is dropped (RFC 8489 §7.3).
    BadFingerprint,
}

/// Unknown comprehension-required attributes are listed up to this many (RFC 8489 §14.9 sets no bound).
const UNKNOWN_MAX: usize = 16;

/// Where a MESSAGE-INTEGRITY stands and what it holds.
#[derive(Clone, Copy, Debug)]
struct Integrity<'a> {
    offset: usize,
    tag: &'a [u8],
}

/// Every attribute a server reads. With duplicates the first counts; after MESSAGE-INTEGRITY only
/// MESSAGE-INTEGRITY-SHA256 and FINGERPRINT are looked at (RFC 8489 §14.5).
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    /// USERNAME, at most 508 bytes.
    pub username: Option<&'a [u8]>,
    /// REALM.
    pub realm: Option<&'a [u8]>,
    /// NONCE.
    pub nonce: Option<&'a [u8]>,
    /// LIFETIME in seconds.
    pub lifetime_s: Option<u32>,
    /// CHANNEL-NUMBER as it came; it may be no channel that can be bound.
    pub channel_number: Option<u16>,
    /// The first XOR-PEER-ADDRESS; [`Attributes::peers`] has them all.
    pub peer: Option<SocketAddr>,
    /// Offset of DATA's value within the message, and the value.
    pub data: Option<(usize, &'a [u8])>,
    /// REQUESTED-TRANSPORT's protocol number.
    pub requested_transport: Option<u8>,
    /// REQUESTED-ADDRESS-FAMILY's number.
    pub requested_family: Option<u8>,
    /// ADDITIONAL-ADDRESS-FAMILY's number.
    pub additional_family: Option<u8>,
    /// EVEN-PORT.
    pub even_port: Option<EvenPort>,
    /// RESERVATION-TOKEN.
    pub reservation_token: Option<[u8; 8]>,
    /// DONT-FRAGMENT.
    pub dont_fragment: bool,
    /// Whether a FINGERPRINT was there (and right).
    pub fingerprint: bool,
    integrity: Option<Integrity<'a>>,
    integrity_sha256: bool,
    unknown: [u16; UNKNOWN_MAX],
    unknown_count: usize,
    message: Option<Message<'a>>,
}

impl<'a> Attributes<'a> {
    /// Reads every attribute of `message`.
    ///
    /// # Errors
    /// The first attribute whose value cannot be used, or a wrong FINGERPRINT.
    pub fn parse(message: &Message<'a>) -> Result<Self, AttributesError> {
        let mut attributes = Self { message: Some(*message), ..Self::default() };
        let mut bad = None;
        for raw in message.raw_attributes() {
            if let Err(error) = attributes.take(message, &raw) {
                if error == AttributesError::BadFingerprint {
                    return Err(error);
                }
                bad = bad.or(Some(error));
            }
        }
        bad.map_or(Ok(attributes), Err)
    }

    /// Whether MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 is there.
    #[must_use]
    pub const fn has_integrity(&self) -> bool {
        self.integrity.is_some() || self.integrity_sha256
    }

    /// Whether MESSAGE-INTEGRITY is right under `key`.
    #[must_use]
    pub fn verify(&self, key: &Key) -> bool {
        match (self.message, self.integrity) {
            (Some(message), Some(integrity)) => key.verify(message.bytes(), integrity.offset, integrity.tag),
            _ => false,
        }
    }

    /// Comprehension-required attributes that are not known, in order, each once.
    #[must_use]
    pub fn unknown(&self) -> &[u16] {
        self.unknown.get(..self.unknown_count).unwrap_or_default()
    }

    /// Every XOR-PEER-ADDRESS in order.
    #[must_use]
    pub fn peers(&self) -> Peers<'a> {
        let transaction = self.message.map(|message| message.transaction()).unwrap_or_default();
        Peers { raw: self.message.map(|message| message.raw_attributes()), transaction }
    }

    fn take(&mut self, message: &Message<'a>, raw: &RawAttribute<'a>) -> Result<(), AttributesError> {
        let after_integrity = self.integrity.is_some() || self.integrity_sha256;
        match raw.kind {
            kind::FINGERPRINT => return self.take_fingerprint(message, raw),
            kind::MESSAGE_INTEGRITY_SHA256 => {
                self.integrity_sha256 = true;
                return Ok(());
            }
            _ if after_integrity => return Ok(()),
            kind::MESSAGE_INTEGRITY => {
                self.integrity = Some(Integrity { offset: raw.offset, tag: raw.value });
                return if raw.value.len() == super::HMAC_BYTES { Ok(()) } else { Err(bad(raw)) };
            }
            _ => {}
        }
        self.take_value(message.transaction(), raw)
    }

    fn take_value(&mut self, id: TransactionId, raw: &RawAttribute<'a>) -> Result<(), AttributesError> {
        let value = raw.value;
        match raw.kind {
            kind::USERNAME => first(&mut self.username, at_most(raw, USERNAME_BYTES_MAX)),
            kind::REALM => first(&mut self.realm, Ok(value)),
            kind::NONCE => first(&mut self.nonce, Ok(value)),
            kind::LIFETIME => first(&mut self.lifetime_s, exact(raw).map(u32::from_be_bytes)),
            kind::CHANNEL_NUMBER => first(&mut self.channel_number, channel_number(raw)),
            kind::XOR_PEER_ADDRESS => {
                // Not a duplicate: each of them is a peer.
                let peer = address::decode(value, id).ok_or(bad(raw))?;
                first(&mut self.peer, Ok(peer))
            }
            kind::DATA => first(&mut self.data, Ok((raw.offset.saturating_add(4), value))),
            kind::REQUESTED_TRANSPORT => first(&mut self.requested_transport, front(raw)),
            kind::REQUESTED_ADDRESS_FAMILY => first(&mut self.requested_family, front(raw)),
            kind::ADDITIONAL_ADDRESS_FAMILY => first(&mut self.additional_family, front(raw)),
            kind::EVEN_PORT => first(&mut self.even_port, even_port(raw)),
            kind::RESERVATION_TOKEN => first(&mut self.reservation_token, exact(raw)),
            kind::DONT_FRAGMENT => {
                self.dont_fragment = true;
                Ok(())
            }
            kind::ICE_PRIORITY | kind::ICE_USE_CANDIDATE => Ok(()),
            unknown => {
                self.note_unknown(unknown);
                Ok(())
            }
        }
    }

    fn take_fingerprint(
        &mut self,
        message: &Message<'a>,
        raw: &RawAttribute<'a>,
    ) -> Result<(), AttributesError> {
        let expected = fingerprint(message.bytes(), raw.offset);
        let is_last = raw.offset.saturating_add(8) == message.bytes().len();
        let found = raw.value.try_into().ok().map(u32::from_be_bytes);
        if !is_last || found.is_none() || found != expected {
            return Err(AttributesError::BadFingerprint);
        }
        self.fingerprint = true;
        Ok(())
    }

    fn note_unknown(&mut self, attribute: u16) {
        if attribute >= kind::COMPREHENSION_OPTIONAL || self.unknown().contains(&attribute) {
            return;
        }
        if let Some(free) = self.unknown.get_mut(self.unknown_count) {
            *free = attribute;
            self.unknown_count = self.unknown_count.saturating_add(1);
        }
    }
}

/// USERNAME is at most 508 bytes (RFC 8489 §14.3: fewer than 509).
const USERNAME_BYTES_MAX: usize = 508;

/// Walks the XOR-PEER-ADDRESS attributes before MESSAGE-INTEGRITY.
pub struct Peers<'a> {
    raw: Option<RawAttributes<'a>>,
    transaction: TransactionId,
}

impl Iterator for Peers<'_> {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        let raw = self.raw.as_mut()?.find(|raw| is_peer_or_integrity(raw.kind))?;
        if raw.kind != kind::XOR_PEER_ADDRESS {
            self.raw = None;
            return None;
        }
        address::decode(raw.value, self.transaction)
    }
}

const fn is_peer_or_integrity(attribute: u16) -> bool {
    matches!(attribute, kind::XOR_PEER_ADDRESS | kind::MESSAGE_INTEGRITY | kind::MESSAGE_INTEGRITY_SHA256)
}

impl ChannelNumber {
    /// The channel a CHANNEL-NUMBER attribute asks for, if it may be bound.
    #[must_use]
    pub fn requested(attributes: &Attributes<'_>) -> Option<Self> {
        attributes.channel_number.and_then(Self::new)
    }
}

/// With duplicates the first counts, and what the others hold does not matter (RFC 8489 §14).
fn first<T>(slot: &mut Option<T>, value: Result<T, AttributesError>) -> Result<(), AttributesError> {
    if slot.is_none() {
        *slot = Some(value?);
    }
    Ok(())
}

fn exact<const N: usize>(raw: &RawAttribute<'_>) -> Result<[u8; N], AttributesError> {
    raw.value.try_into().map_err(|_| bad(raw))
}

fn at_most<'a>(raw: &RawAttribute<'a>, bytes: usize) -> Result<&'a [u8], AttributesError> {
    if raw.value.len() <= bytes { Ok(raw.value) } else { Err(bad(raw)) }
}

/// One byte and three reserved ones.
fn front(raw: &RawAttribute<'_>) -> Result<u8, AttributesError> {
    exact(raw).map(|[front, _, _, _]| front)
}

/// Two bytes and two reserved ones.
fn channel_number(raw: &RawAttribute<'_>) -> Result<u16, AttributesError> {
    exact(raw).map(|[a, b, _, _]| u16::from_be_bytes([a, b]))
}

fn even_port(raw: &RawAttribute<'_>) -> Result<EvenPort, AttributesError> {
    match raw.value {
        [flags, ..] if flags & 0x80 == 0 => Ok(EvenPort::Even),
        [_, ..] => Ok(EvenPort::EvenAndNext),
        [] => Err(bad(raw)),
    }
}

const fn bad(raw: &RawAttribute<'_>) -> AttributesError {
    AttributesError::BadValue(raw.kind)
}
