//! Writes STUN messages. Every byte is set, padding is zero, lengths cannot disagree.

use std::net::SocketAddr;

use super::attribute as kind;
use super::integrity::fingerprint;
use super::message::{Class, Method, TransactionId, type_field};
use super::{ErrorCode, HEADER_BYTES, Key, MAGIC_COOKIE, address};
use crate::egress::Head;

/// A message being appended to a buffer.
pub struct Builder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    transaction: TransactionId,
}

impl<'a> Builder<'a> {
    /// Starts a message behind what `out` already holds.
    pub fn new(out: &'a mut Vec<u8>, class: Class, method: Method, transaction: TransactionId) -> Self {
        Self::with_method_number(out, class, method.number(), transaction)
    }

    /// As [`Builder::new`], for a method that is not in the table.
    pub fn with_method_number(
        out: &'a mut Vec<u8>,
        class: Class,
        method: u16,
        transaction: TransactionId,
    ) -> Self {
        let start = out.len();
        out.extend_from_slice(&type_field(class, method).to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        out.extend_from_slice(&transaction.0);
        Self { out, start, transaction }
    }

    /// Appends an attribute with zero padding to a multiple of four.
    #[must_use]
    pub fn attribute(self, attribute: u16, value: &[u8]) -> Self {
        self.parts(attribute, &[value])
    }

    /// Appends an attribute whose value is the parts one behind the other.
    fn parts(self, attribute: u16, parts: &[&[u8]]) -> Self {
        let length = parts.iter().map(|part| part.len()).fold(0_usize, usize::saturating_add);
        self.out.extend_from_slice(&attribute.to_be_bytes());
        self.out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        for part in parts {
            self.out.extend_from_slice(part);
        }
        let padding = length.next_multiple_of(4).saturating_sub(length);
        self.out.extend_from_slice([0; 3].get(..padding).unwrap_or_default());
        self
    }

    /// Appends a 32-bit value.
    #[must_use]
    pub fn u32(self, attribute: u16, value: u32) -> Self {
        self.attribute(attribute, &value.to_be_bytes())
    }

    /// Appends an XOR'd transport address.
    #[must_use]
    pub fn xor_address(self, attribute: u16, address: SocketAddr) -> Self {
        let (value, length) = address::encode(address, self.transaction);
        self.attribute(attribute, value.get(..length).unwrap_or_default())
    }

    /// Appends ERROR-CODE; `reason` may be empty where every byte counts.
    #[must_use]
    pub fn error_code(self, code: ErrorCode, reason: &str) -> Self {
        let [class, number] = code.class_and_number();
        self.parts(kind::ERROR_CODE, &[&[0, 0, class, number], reason.as_bytes()])
    }

    /// Appends ADDRESS-ERROR-CODE for the address family with this number (RFC 8656 §18.12).
    #[must_use]
    pub fn address_error_code(self, family: u8, code: ErrorCode) -> Self {
        let [class, number] = code.class_and_number();
        self.parts(kind::ADDRESS_ERROR_CODE, &[&[family, 0, class, number], code.reason().as_bytes()])
    }

    /// Appends UNKNOWN-ATTRIBUTES.
    #[must_use]
    pub fn unknown_attributes(self, unknown: &[u16]) -> Self {
        let length = unknown.len().saturating_mul(2);
        self.out.extend_from_slice(&kind::UNKNOWN_ATTRIBUTES.to_be_bytes());
        self.out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        for attribute in unknown {
            self.out.extend_from_slice(&attribute.to_be_bytes());
        }
        if !length.is_multiple_of(4) {
            self.out.extend_from_slice(&[0, 0]);
        }
        self
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len().saturating_sub(self.start)
    }

    /// A message always has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the message without integrity.
    pub fn finish(mut self) {
        self.set_length();
    }

    /// Ends the message with MESSAGE-INTEGRITY.
    pub fn finish_with_integrity(mut self, key: &Key) {
        self.sign(key);
    }

    /// Ends the message with MESSAGE-INTEGRITY and FINGERPRINT.
    pub fn finish_with_integrity_and_fingerprint(mut self, key: &Key) {
        self.sign(key);
        self.finish_with_fingerprint();
    }

    /// Ends the message with FINGERPRINT.
    pub fn finish_with_fingerprint(mut self) {
        let crc = fingerprint(self.message(), self.len()).unwrap_or(0);
        self = self.u32(kind::FINGERPRINT, crc);
        self.set_length();
    }

    fn sign(&mut self, key: &Key) {
        let tag = key.sign(self.message(), self.len());
        self.out.extend_from_slice(&kind::MESSAGE_INTEGRITY.to_be_bytes());
        self.out.extend_from_slice(&[0, 20]);
        self.out.extend_from_slice(&tag);
        self.set_length();
    }

    fn message(&self) -> &[u8] {
        self.out.get(self.start..).unwrap_or_default()
    }

    fn set_length(&mut self) {
        let length = self.len().saturating_sub(HEADER_BYTES);
        let field = self.start.saturating_add(2)..self.start.saturating_add(4);
        if let Some(bytes) = self.out.get_mut(field) {
            bytes.copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
}

/// The bytes in front of a Data indication's payload (RFC 8656 §11.4): the peer's bytes follow, then padding.
#[derive(Clone, Copy, Debug)]
pub struct DataIndicationHead;

impl DataIndicationHead {
    /// The head for `length` bytes that came from `peer`. `None` when the message would exceed its length field.
    #[must_use]
    pub fn compose(peer: SocketAddr, length: usize, transaction: TransactionId) -> Option<Head> {
        let (value, value_length) = address::encode(peer, transaction);
        let data_length = u16::try_from(length).ok()?.to_be_bytes();
        let attributes = value_length.checked_add(8)?.checked_add(length.checked_next_multiple_of(4)?)?;
        let message_length = u16::try_from(attributes).ok()?.to_be_bytes();
        let mut bytes = [0; crate::egress::HEAD_BYTES_MAX];
        let peer_header = [0, 0x12, 0, u8::try_from(value_length).ok()?];
        let parts: [&[u8]; 8] = [
            &type_field(Class::Indication, 0x007).to_be_bytes(),
            &message_length,
            &MAGIC_COOKIE.to_be_bytes(),
            &transaction.0,
            &peer_header,
            value.get(..value_length)?,
            &[0, 0x13],
            &data_length,
        ];
        let mut used = 0_usize;
        for part in parts {
            let end = used.checked_add(part.len())?;
            bytes.get_mut(used..end)?.copy_from_slice(part);
            used = end;
        }
        Some(Head::new(bytes.get(..used)?))
    }
}
