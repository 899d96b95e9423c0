//! Packets between servers: generic UDP encapsulation (draft-ietf-intarea-gue, version 0) of a whole IP packet,
//! with the landing server and a keyed MAC in the header's private fields.
//!
//! Layout: 4 bytes GUE header (version 0, header length 3 words, protocol 4 or 41, private flag), 4 bytes landing
//! [`NodeId`], 8 bytes MAC over landing server and packet, then the inner packet.

use std::net::SocketAddr;

use crate::flow::NodeId;
use crate::token::{Keyring, Purpose};

/// Bytes in front of the inner packet.
pub const HEADER_BYTES: usize = 16;

/// Bytes of the inner IPv4 and UDP headers in front of a payload.
const IPV4_UDP_BYTES: usize = 28;

/// Header length in 32-bit words behind the first one.
const HEADER_WORDS: u8 = 3;
/// The key's id rides in the flags' low byte; the high byte marks the private fields.
const PRIVATE_FLAG: u8 = 0x01;
const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_IPV6: u8 = 41;
const PROTOCOL_UDP: u8 = 17;

/// A UDP datagram that another server received and that is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulated<'a> {
    /// The server it landed on.
    pub landing: NodeId,
    /// The original sender.
    pub source: SocketAddr,
    /// The original destination.
    pub destination: SocketAddr,
    /// The datagram's payload.
    pub payload: &'a [u8],
}

impl<'a> Encapsulated<'a> {
    /// Opens an encapsulated datagram. `None` when the frame is wrong or its MAC is not one of this fleet's: such
    /// a packet is dropped before anything is learnt from it.
    #[must_use]
    pub fn open(keyring: &Keyring, bytes: &'a [u8]) -> Option<Self> {
        let (header, inner) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [version, protocol, flag, key, n0, n1, n2, n3, tag @ ..] = *header;
        if version != HEADER_WORDS || flag != PRIVATE_FLAG {
            return None;
        }
        let landing = [n0, n1, n2, n3];
        if !keyring.open_mac(key, Purpose::Encapsulation, &[&landing, inner], &tag) {
            return None;
        }
        let (source, destination, payload) = match protocol {
            PROTOCOL_IPV4 | PROTOCOL_IPV6 => parse_udp(inner)?,
            _ => return None,
        };
        Some(Self { landing: NodeId::from_bytes(landing), source, destination, payload })
    }

    /// Appends the encapsulated form to `out`. `false`, and nothing appended, when the addresses are of two
    /// families or the payload does not fit an IP packet.
    pub fn write(&self, keyring: &Keyring, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let Some(protocol) = write_udp(self.source, self.destination, self.payload, out) else {
            out.truncate(start);
            return false;
        };
        let landing @ [n0, n1, n2, n3] = self.landing.to_bytes();
        let Some((header, inner)) = out.get_mut(start..).and_then(|new| new.split_first_chunk_mut::<HEADER_BYTES>()) else {
            return false;
        };
        let (key, [m0, m1, m2, m3, m4, m5, m6, m7]) = keyring.seal_mac(Purpose::Encapsulation, &[&landing, inner]);
        *header = [HEADER_WORDS, protocol, PRIVATE_FLAG, key, n0, n1, n2, n3, m0, m1, m2, m3, m4, m5, m6, m7];
        true
    }
}

/// Addresses and payload of a whole, unfragmented IPv4 or IPv6 packet holding UDP.
#[must_use]
pub fn parse_udp(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let (source, destination, udp) = match packet.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let [first, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s @ .., d0, d1, d2, d3] = *header;
            let header_bytes = usize::from(first & 0x0F).saturating_mul(4);
            let total = usize::from(u16::from_be_bytes([l0, l1]));
            let is_fragment = u16::from_be_bytes([f0, f1]) & 0x3FFF != 0;
            if protocol != PROTOCOL_UDP || is_fragment || header_bytes < 20 {
                return None;
            }
            (std::net::IpAddr::from(s), std::net::IpAddr::from([d0, d1, d2, d3]), packet.get(header_bytes..total)?)
        }
        6 => {
            let (header, rest) = packet.split_first_chunk::<40>()?;
            let (fixed, addresses) = header.split_first_chunk::<8>()?;
            let [_, _, _, _, l0, l1, next, _] = *fixed;
            let (source, rest_of_header) = addresses.split_first_chunk::<16>()?;
            let destination = rest_of_header.first_chunk::<16>()?;
            if next != PROTOCOL_UDP {
                return None;
            }
            let udp = rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?;
            (std::net::IpAddr::from(*source), std::net::IpAddr::from(*destination), udp)
        }
        _ => return None,
    };
    let (&[s0, s1, d0, d1, l0, l1, _, _], _) = udp.split_first_chunk::<8>()?;
    let payload = udp.get(8..usize::from(u16::from_be_bytes([l0, l1])))?;
    let source = SocketAddr::new(source, u16::from_be_bytes([s0, s1]));
    Some((source, SocketAddr::new(destination, u16::from_be_bytes([d0, d1])), payload))
}

/// Appends a UDP packet; returns GUE's protocol number for it. The checksums stay zero: the outer datagram's
/// checksum and the MAC cover every byte, and the owner never hands the inner packet to an IP stack.
fn write_udp(source: SocketAddr, destination: SocketAddr, payload: &[u8], out: &mut Vec<u8>) -> Option<u8> {
    let udp_length = u16::try_from(payload.len().checked_add(8)?).ok()?;
    let protocol = match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            let [l0, l1] = u16::try_from(payload.len().checked_add(IPV4_UDP_BYTES)?).ok()?.to_be_bytes();
            out.extend_from_slice(&[0x45, 0, l0, l1, 0, 0, 0, 0, 64, PROTOCOL_UDP, 0, 0]);
            out.extend_from_slice(&source.ip().octets());
            out.extend_from_slice(&destination.ip().octets());
            PROTOCOL_IPV4
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            let [l0, l1] = udp_length.to_be_bytes();
            out.extend_from_slice(&[0x60, 0, 0, 0, l0, l1, PROTOCOL_UDP, 64]);
            out.extend_from_slice(&source.ip().octets());
            out.extend_from_slice(&destination.ip().octets());
            PROTOCOL_IPV6
        }
        _ => return None,
    };
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    out.extend_from_slice(&udp_length.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(payload);
    Some(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::FleetKey;
    use proptest::prelude::*;

    fn keyring(secret: u8) -> Keyring {
        Keyring::new(FleetKey { id: 7, secret: [secret; 16] }, vec![])
    }

    fn sealed(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        let landing = NodeId { site: 1, server: 2 };
        assert!(Encapsulated { landing, source, destination, payload }.write(&keyring(1), &mut out));
        out
    }

    proptest! {
        #[test]
        fn write_and_open_are_inverse(a in any::<[u8; 16]>(), ports in any::<(u16, u16)>(), v6 in any::<bool>(),
                                      payload in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let [b0, b1, b2, b3, ..] = a;
            let ip = if v6 { std::net::IpAddr::from(a) } else { std::net::IpAddr::from([b0, b1, b2, b3]) };
            let (source, destination) = (SocketAddr::new(ip, ports.0), SocketAddr::new(ip, ports.1));
            let bytes = sealed(source, destination, &payload);
            let opened = Encapsulated::open(&keyring(1), &bytes).unwrap();
            prop_assert_eq!((opened.source, opened.destination, opened.payload), (source, destination, &payload[..]));
            prop_assert_eq!(opened.landing, NodeId { site: 1, server: 2 });
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Encapsulated::open(&keyring(1), &bytes);
            let _ = parse_udp(&bytes);
        }
    }

    #[test]
    fn a_stranger_or_a_changed_bit_is_refused() {
        let address = "192.0.2.1:5".parse().unwrap();
        let bytes = sealed(address, address, b"hello");
        assert!(Encapsulated::open(&keyring(2), &bytes).is_none());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let opened = Encapsulated::open(&keyring(1), &flipped);
            // GUE's protocol byte is outside the MAC: 4 and 41 differ in three bits, so one flip gives neither.
            assert!(opened.is_none(), "bit {bit}");
        }
    }

    #[test]
    fn fragments_and_two_families_are_refused() {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x20, 0, 64, 17, 0, 0];
        packet.extend([0; 8]);
        packet.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        assert!(parse_udp(&packet).is_none());
        packet[6] = 0;
        assert!(parse_udp(&packet).is_some());
        let mixed = Encapsulated {
            landing: NodeId::default(),
            source: "192.0.2.1:5".parse().unwrap(),
            destination: "[2001:db8::1]:5".parse().unwrap(),
            payload: b"",
        };
        assert!(!mixed.write(&keyring(1), &mut vec![]));
    }
}
