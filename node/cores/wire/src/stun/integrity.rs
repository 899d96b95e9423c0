//! MESSAGE-INTEGRITY and FINGERPRINT (RFC 8489 §14.5, §14.7).

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// Bytes of an HMAC-SHA1.
pub const HMAC_BYTES: usize = 20;

/// Value XOR'd into the CRC of FINGERPRINT.
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// A long-term credential's key: MD5(username ":" realm ":" password) (RFC 8489 §9.2.2), or, for the vectors
/// of RFC 5769, a short-term password. Never shown.
#[derive(Clone)]
pub struct Key(Hmac<Sha1>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// A key of any length.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(bytes).ok().map(Self)
    }

    /// Whether `tag` is the HMAC of the message up to `offset`, computed as if the message ended behind the
    /// MESSAGE-INTEGRITY attribute that stands there. Takes the same time whatever differs.
    #[must_use]
    pub fn verify(&self, message: &[u8], offset: usize, tag: &[u8]) -> bool {
        self.over(message, offset).is_some_and(|mac| mac.verify_slice(tag).is_ok())
    }

    /// The HMAC to put into a MESSAGE-INTEGRITY attribute at `offset`.
    #[must_use]
    pub fn sign(&self, message: &[u8], offset: usize) -> [u8; HMAC_BYTES] {
        self.over(message, offset).map_or([0; HMAC_BYTES], |mac| mac.finalize().into_bytes().into())
    }

    fn over(&self, message: &[u8], offset: usize) -> Option<Hmac<Sha1>> {
        let end = offset.checked_add(4)?.checked_add(HMAC_BYTES)?.checked_sub(super::HEADER_BYTES)?;
        let length = u16::try_from(end).ok()?;
        let mut mac = self.0.clone();
        mac.update(message.get(..2)?);
        mac.update(&length.to_be_bytes());
        mac.update(message.get(4..offset)?);
        Some(mac)
    }
}

/// The FINGERPRINT of a message whose FINGERPRINT attribute stands at `offset`.
pub(super) fn fingerprint(message: &[u8], offset: usize) -> Option<u32> {
    let length = u16::try_from(offset.checked_add(8)?.checked_sub(super::HEADER_BYTES)?).ok()?;
    let crc = crc32(!0, message.get(..2)?);
    let crc = crc32(crc, &length.to_be_bytes());
    let crc = crc32(crc, message.get(4..offset)?);
    Some(!crc ^ FINGERPRINT_XOR)
}

/// CRC-32 of ISO 3309 (reflected polynomial 0xEDB88320), continued from `crc`.
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        let index = (crc ^ u32::from(*byte)) & 0xFF;
        CRC_TABLE.get(index as usize).copied().unwrap_or(0) ^ (crc >> 8)
    })
}

const CRC_TABLE: [u32; 256] = crc_table();

#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "evaluated by the compiler")]
const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}
