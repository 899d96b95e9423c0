//! Tokens a server chooses and a client brings back, with the server's [`NodeId`] sealed into them.
//!
//! Any server of the fleet holding the key can tell a token's owner without asking anyone, and nothing is
//! stored for a token that is out (a flood of unauthenticated requests allocates nothing).

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use siphasher::sip::SipHasher24;
use subtle::ConstantTimeEq;

use crate::flow::NodeId;
use crate::now::Now;

/// A fleet-wide sealing key; a token names the key that sealed it.
#[derive(Clone)]
pub struct FleetKey {
    /// Named in the token.
    pub id: u8,
    /// 128 secret bits.
    pub secret: [u8; 16],
}

impl std::fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FleetKey({}, …)", self.id)
    }
}

impl FleetKey {
    /// The key of one purpose for MACs over messages of a fixed layout, which a program in the kernel computes as well.
    #[must_use]
    pub fn derive(&self, purpose: Purpose) -> MacKey {
        let (front, back) = (mac(self, purpose, &[b"front"]), mac(self, purpose, &[b"back"]));
        let [a, b, c, d, e, f, g, h] = front;
        let [i, j, k, l, m, n, o, p] = back;
        MacKey { id: self.id, secret: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] }
    }
}

/// A key derived from a fleet key for one purpose.
#[derive(Clone, Copy)]
pub struct MacKey {
    /// Of the fleet key.
    pub id: u8,
    /// 128 secret bits.
    pub secret: [u8; 16],
}

impl MacKey {
    /// SipHash-2-4 of `message`, little-endian.
    #[must_use]
    pub fn mac(&self, message: &[u8]) -> [u8; 8] {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(message);
        hasher.finish().to_le_bytes()
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MacKey({}, …)", self.id)
    }
}

/// The key that seals, and those that are still good for opening.
#[derive(Clone, Debug)]
pub struct Keyring {
    current: FleetKey,
    previous: Vec<FleetKey>,
    /// Of [`Purpose::Encapsulation`], the sealing one first: needed for every packet between servers.
    encapsulation: Vec<MacKey>,
}

impl Keyring {
    /// Seals with `current`; opens with it and with `previous`.
    #[must_use]
    pub fn new(current: FleetKey, previous: Vec<FleetKey>) -> Self {
        let keys = std::iter::once(&current).chain(&previous);
        let encapsulation = keys.map(|key| key.derive(Purpose::Encapsulation)).collect();
        Self { current, previous, encapsulation }
    }

    /// The keys of packets between servers, the one that seals first.
    #[must_use]
    pub fn encapsulation(&self) -> &[MacKey] {
        &self.encapsulation
    }

    /// The keys of one purpose, the one that seals first.
    #[must_use]
    pub fn derive(&self, purpose: Purpose) -> Vec<MacKey> {
        std::iter::once(&self.current).chain(&self.previous).map(|key| key.derive(purpose)).collect()
    }

    fn named(&self, id: u8) -> Option<&FleetKey> {
        std::iter::once(&self.current).chain(&self.previous).find(|key| key.id == id)
    }

    /// A keyed MAC over `parts`, separated by purpose so that one token is never taken for another. The first
    /// byte of every sealed token is the key's id: [`Keyring::open_mac`] finds the key by it.
    #[must_use]
    pub fn seal_mac(&self, purpose: Purpose, parts: &[&[u8]]) -> (u8, [u8; 8]) {
        (self.current.id, mac(&self.current, purpose, parts))
    }

    /// Whether `tag` (1 to 8 bytes) is the front of the MAC under the key named `id`.
    #[must_use]
    pub fn open_mac(&self, id: u8, purpose: Purpose, parts: &[&[u8]], tag: &[u8]) -> bool {
        let Some(expected) = self.named(id).map(|key| mac(key, purpose, parts)) else { return false };
        !tag.is_empty() && expected.get(..tag.len()).is_some_and(|front| bool::from(front.ct_eq(tag)))
    }
}

/// What a MAC is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// NONCE
    Nonce = 1,
    /// RESERVATION-TOKEN
    Reservation = 2,
    /// A packet between two servers
    Encapsulation = 3,
    /// The username fragment of an ICE session
    Ufrag = 4,
}

fn mac(key: &FleetKey, purpose: Purpose, parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = SipHasher24::new_with_key(&key.secret);
    hasher.write_u8(purpose as u8);
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    hasher.finish().to_be_bytes()
}

/// Sealed nonces are this many characters: 15 bytes in base64. Short, because a 401 may not exceed twice the
/// smallest Allocate.
pub const NONCE_CHARS: usize = 20;

const NONCE_BYTES: usize = 15;
/// 24 bits of 4-second ticks come round after 776 days, long after the key was replaced.
const TICK_S: u64 = 4;
const TICK_MASK: u32 = 0x00FF_FFFF;
/// Servers' clocks may differ by this much before a nonce of another server reads as stale.
const SKEW_S: u64 = 600;

/// The NONCE attribute (RFC 8489 §14.10): stateless, bound to the client's address, valid on every server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce([u8; NONCE_CHARS]);

impl Nonce {
    /// A nonce for the client at `client`, good from now on.
    #[must_use]
    pub fn seal(keyring: &Keyring, node: NodeId, client: SocketAddr, now: Now) -> Self {
        let [_, t0, t1, t2] = tick(now).to_be_bytes();
        let [n0, n1, n2, n3] = node.to_bytes();
        let ticks = [t0, t1, t2];
        let (address, length) = address_bytes(client);
        let parts: [&[u8]; 3] = [&node.to_bytes(), &ticks, address.get(..length).unwrap_or_default()];
        let (id, [m0, m1, m2, m3, m4, m5, m6, _]) = keyring.seal_mac(Purpose::Nonce, &parts);
        let sealed: [u8; NONCE_BYTES] = [id, n0, n1, n2, n3, t0, t1, t2, m0, m1, m2, m3, m4, m5, m6];
        let mut text = [0; NONCE_CHARS];
        // 15 bytes always fill 20 characters.
        let _ = URL_SAFE_NO_PAD.encode_slice(sealed, &mut text);
        Self(text)
    }

    /// The attribute's value.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The server that made `nonce`, if a server of this fleet made it for `client` no longer than `lifetime_s`
    /// ago. `None`: the client gets a 438 with a fresh one.
    #[must_use]
    pub fn open(
        keyring: &Keyring,
        nonce: &[u8],
        client: SocketAddr,
        now: Now,
        lifetime_s: u64,
    ) -> Option<NodeId> {
        let mut sealed = [0; NONCE_BYTES];
        if nonce.len() != NONCE_CHARS || URL_SAFE_NO_PAD.decode_slice(nonce, &mut sealed) != Ok(NONCE_BYTES) {
            return None;
        }
        let [id, n0, n1, n2, n3, t0, t1, t2, tag @ ..] = sealed;
        let node = NodeId::from_bytes([n0, n1, n2, n3]);
        let ticks = [t0, t1, t2];
        let (address, length) = address_bytes(client);
        let parts: [&[u8]; 3] = [&node.to_bytes(), &ticks, address.get(..length).unwrap_or_default()];
        if !keyring.open_mac(id, Purpose::Nonce, &parts, &tag) {
            return None;
        }
        let sealed_at = u32::from_be_bytes([0, t0, t1, t2]);
        let age = tick(now).wrapping_sub(sealed_at) & TICK_MASK;
        let ahead = sealed_at.wrapping_sub(tick(now)) & TICK_MASK;
        let is_fresh = u64::from(age) <= lifetime_s / TICK_S || u64::from(ahead) <= SKEW_S / TICK_S;
        is_fresh.then_some(node)
    }
}

fn tick(now: Now) -> u32 {
    u32::try_from((now.unix_s / TICK_S) & u64::from(TICK_MASK)).unwrap_or(0)
}

fn address_bytes(address: SocketAddr) -> ([u8; 18], usize) {
    let mut bytes = [0; 18];
    let [p0, p1] = address.port().to_be_bytes();
    let mut fill = |ip: &[u8]| {
        for (to, from) in bytes.iter_mut().zip([p0, p1].iter().chain(ip)) {
            *to = *from;
        }
        ip.len().saturating_add(2)
    };
    let length = match address.ip() {
        IpAddr::V4(ip) => fill(&ip.octets()),
        IpAddr::V6(ip) => fill(&ip.octets()),
    };
    (bytes, length)
}

/// RESERVATION-TOKEN (RFC 8656 §18.8): owner, port, and two bytes of MAC. Eight bytes hold no more, so the owner
/// also demands the user that reserved the port, once, within 30 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReservationToken {
    /// The server that keeps the port.
    pub node: NodeId,
    /// The port kept.
    pub port: u16,
}

impl ReservationToken {
    /// The attribute's value.
    #[must_use]
    pub fn seal(self, keyring: &Keyring) -> [u8; 8] {
        let (_, [m0, m1, ..]) =
            keyring.seal_mac(Purpose::Reservation, &[&self.node.to_bytes(), &self.port.to_be_bytes()]);
        let [n0, n1, n2, n3] = self.node.to_bytes();
        let [p0, p1] = self.port.to_be_bytes();
        [n0, n1, n2, n3, p0, p1, m0, m1]
    }

    /// Owner and port of a token that a server of this fleet made.
    #[must_use]
    pub fn open(keyring: &Keyring, token: [u8; 8]) -> Option<Self> {
        let [n0, n1, n2, n3, p0, p1, tag @ ..] = token;
        let node = [n0, n1, n2, n3];
        std::iter::once(&keyring.current)
            .chain(&keyring.previous)
            .any(|key| keyring.open_mac(key.id, Purpose::Reservation, &[&node, &[p0, p1]], &tag))
            .then(|| Self { node: NodeId::from_bytes(node), port: u16::from_be_bytes([p0, p1]) })
    }
}

/// Characters of the username fragments that this fleet gives out: 12 bytes in base64.
pub const UFRAG_CHARS: usize = 16;

const UFRAG_BYTES: usize = 12;
/// Key id, server and serial number; 4 bytes of MAC follow.
const UFRAG_SEALED: usize = 8;

/// The username fragment of an ICE session (RFC 8445 §5.3): it names the server that has the session. Its characters are
/// ICE's (`+` and `/` beside letters and digits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ufrag {
    /// The server that has the session.
    pub node: NodeId,
    /// Tells the sessions of a server apart: 24 bits.
    pub serial: [u8; 3],
}

impl Ufrag {
    /// The fragment as it is told to the other side.
    #[must_use]
    pub fn seal(self, key: &MacKey) -> [u8; UFRAG_CHARS] {
        let [n0, n1, n2, n3] = self.node.to_bytes();
        let [r0, r1, r2] = self.serial;
        let sealed = [key.id, n0, n1, n2, n3, r0, r1, r2];
        let [m0, m1, m2, m3, ..] = key.mac(&sealed);
        let bytes: [u8; UFRAG_BYTES] = [key.id, n0, n1, n2, n3, r0, r1, r2, m0, m1, m2, m3];
        let mut text = [0; UFRAG_CHARS];
        // 12 bytes always fill 16 characters.
        let _ = STANDARD_NO_PAD.encode_slice(bytes, &mut text);
        text
    }

    /// What a fragment says, if a server of this fleet made it.
    #[must_use]
    pub fn open(keys: &[MacKey], text: &[u8; UFRAG_CHARS]) -> Option<Self> {
        let mut bytes = [0; UFRAG_BYTES];
        if STANDARD_NO_PAD.decode_slice(text, &mut bytes) != Ok(UFRAG_BYTES) {
            return None;
        }
        let (sealed, tag) = bytes.split_first_chunk::<UFRAG_SEALED>()?;
        let [id, n0, n1, n2, n3, serial @ ..] = *sealed;
        let expected = keys.iter().find(|key| key.id == id)?.mac(sealed);
        let is_ours = expected.get(..tag.len()).is_some_and(|front| bool::from(front.ct_eq(tag)));
        is_ours.then_some(Self { node: NodeId::from_bytes([n0, n1, n2, n3]), serial })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { monotonic_ns: 0, unix_s: 1_700_000_000 };
    const NODE: NodeId = NodeId { site: 3, server: 9 };

    fn keyring(id: u8) -> Keyring {
        Keyring::new(FleetKey { id, secret: [id; 16] }, vec![])
    }

    fn client() -> SocketAddr {
        "198.51.100.7:40000".parse().unwrap()
    }

    fn open(nonce: &[u8], client: SocketAddr, now: Now) -> Option<NodeId> {
        Nonce::open(&keyring(1), nonce, client, now, 3600)
    }

    #[test]
    fn nonce_names_its_server_on_every_server_of_the_fleet() {
        let nonce = Nonce::seal(&keyring(1), NODE, client(), NOW);
        assert_eq!(open(nonce.as_bytes(), client(), NOW), Some(NODE));
        assert!(nonce.as_bytes().iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-' || *c == b'_'));
    }

    #[test]
    fn nonce_of_another_address_port_or_key_is_refused() {
        let nonce = Nonce::seal(&keyring(1), NODE, client(), NOW);
        assert_eq!(open(nonce.as_bytes(), "198.51.100.7:40001".parse().unwrap(), NOW), None);
        assert_eq!(open(nonce.as_bytes(), "198.51.100.8:40000".parse().unwrap(), NOW), None);
        assert_eq!(Nonce::open(&keyring(2), nonce.as_bytes(), client(), NOW, 3600), None);
    }

    #[test]
    fn nonce_expires_and_tolerates_ten_minutes_of_skew() {
        let nonce = Nonce::seal(&keyring(1), NODE, client(), NOW);
        assert_eq!(open(nonce.as_bytes(), client(), NOW.plus_s(3600)), Some(NODE));
        assert_eq!(open(nonce.as_bytes(), client(), NOW.plus_s(3610)), None);
        let behind = Now { unix_s: NOW.unix_s - 590, ..NOW };
        assert_eq!(open(nonce.as_bytes(), client(), behind), Some(NODE));
        let far_behind = Now { unix_s: NOW.unix_s - 700, ..NOW };
        assert_eq!(open(nonce.as_bytes(), client(), far_behind), None);
    }

    #[test]
    fn every_flipped_bit_of_a_nonce_is_noticed() {
        let nonce = Nonce::seal(&keyring(1), NODE, client(), NOW);
        for bit in 0..NONCE_CHARS * 8 {
            let mut flipped = nonce.as_bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&flipped, client(), NOW), None, "bit {bit}");
        }
    }

    #[test]
    fn a_replaced_key_still_opens_what_it_sealed() {
        let nonce = Nonce::seal(&keyring(1), NODE, client(), NOW);
        let rotated =
            Keyring::new(FleetKey { id: 2, secret: [2; 16] }, vec![FleetKey { id: 1, secret: [1; 16] }]);
        assert_eq!(Nonce::open(&rotated, nonce.as_bytes(), client(), NOW, 3600), Some(NODE));
    }

    #[test]
    fn reservation_token_carries_owner_and_port() {
        let token = ReservationToken { node: NODE, port: 50_001 };
        let sealed = token.seal(&keyring(1));
        assert_eq!(ReservationToken::open(&keyring(1), sealed), Some(token));
        let mut forged = sealed;
        forged[5] ^= 1;
        assert_eq!(ReservationToken::open(&keyring(1), forged), None);
    }
    #[test]
    fn a_username_fragment_names_its_server_and_every_flipped_bit_is_noticed() {
        let keys = keyring(1).derive(Purpose::Ufrag);
        let ufrag = Ufrag { node: NODE, serial: [1, 2, 3] };
        let text = ufrag.seal(&keys[0]);
        assert_eq!(Ufrag::open(&keys, &text), Some(ufrag));
        assert_eq!(Ufrag::open(&keyring(2).derive(Purpose::Ufrag), &text), None);
        for bit in 0..UFRAG_CHARS * 8 {
            let mut flipped = text;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Ufrag::open(&keys, &flipped), None, "bit {bit}");
        }
    }
}
