//! A UDP datagram as a whole IP packet inside an encapsulated one.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::{HEADER_BYTES, Header, Hops, Kind};
use crate::flow::NodeId;
use crate::token::Keyring;

/// Bytes of the inner IPv4 and UDP headers in front of a payload.
const IPV4_UDP_BYTES: usize = 28;
const PROTOCOL_UDP: u8 = 17;
/// Bytes of a UDP header.
const UDP_BYTES: usize = 8;

/// A UDP datagram inside an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The original sender.
    pub source: SocketAddr,
    /// The original destination.
    pub destination: SocketAddr,
    /// Where its payload lies in the bytes it was found in.
    pub payload: Range<usize>,
}

/// Opens an encapsulated datagram: its header, and what came. `None` when the frame is wrong or its MAC is not one of this
/// fleet's: such a packet is dropped before anything is learnt from it.
#[must_use]
pub fn open(keyring: &Keyring, bytes: &[u8]) -> Option<(Header, Datagram)> {
    let (header, inner) = Header::open(keyring, bytes)?;
    let mut datagram = parse_udp(inner)?;
    datagram.payload.start = datagram.payload.start.checked_add(HEADER_BYTES)?;
    datagram.payload.end = datagram.payload.end.checked_add(HEADER_BYTES)?;
    Some((header, datagram))
}

/// Appends a datagram that landed on `landing`, encapsulated for the server that owns its relay port, to `out`. `false`,
/// and nothing appended, when the addresses are of two families or the payload does not fit an IP packet.
pub fn seal(
    keyring: &Keyring,
    landing: NodeId,
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    if !write_udp(source, destination, payload, out) {
        out.truncate(start);
        return false;
    }
    let header = Header { kind: Kind::Relayed, hops: Hops::default(), landing, epoch: 0 };
    let new = out.get_mut(start..).and_then(|new| new.split_first_chunk_mut::<HEADER_BYTES>());
    new.is_some_and(|(front, inner)| {
        *front = header.seal(keyring, inner);
        true
    })
}

/// Addresses and payload of a whole, unfragmented IPv4 or IPv6 packet holding UDP.
#[must_use]
pub fn parse_udp(packet: &[u8]) -> Option<Datagram> {
    let (source, destination, udp) = match packet.first()? >> 4 {
        4 => parse_ipv4(packet)?,
        6 => parse_ipv6(packet)?,
        _ => return None,
    };
    let &[s0, s1, d0, d1, l0, l1, _, _] = packet.get(udp.clone())?.first_chunk::<UDP_BYTES>()?;
    let end = udp.start.checked_add(usize::from(u16::from_be_bytes([l0, l1])))?;
    let payload = udp.start.checked_add(UDP_BYTES)?..end;
    (payload.start <= payload.end && payload.end <= udp.end).then(|| Datagram {
        source: SocketAddr::new(source, u16::from_be_bytes([s0, s1])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([d0, d1])),
        payload,
    })
}

/// Source, destination, and where the UDP datagram lies.
fn parse_ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, Range<usize>)> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let [first, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s @ .., d0, d1, d2, d3] = *header;
    let header_bytes = usize::from(first & 0x0F).saturating_mul(4);
    let total = usize::from(u16::from_be_bytes([l0, l1]));
    let is_fragment = u16::from_be_bytes([f0, f1]) & 0x3FFF != 0;
    let is_udp = protocol == PROTOCOL_UDP && !is_fragment;
    (is_udp && header_bytes >= 20 && header_bytes <= total && total <= packet.len())
        .then(|| (IpAddr::from(s), IpAddr::from([d0, d1, d2, d3]), header_bytes..total))
}

/// As [`parse_ipv4`]; a packet with extension headers is not understood.
fn parse_ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, Range<usize>)> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let (fixed, addresses) = header.split_first_chunk::<8>()?;
    let [_, _, _, _, l0, l1, next, _] = *fixed;
    let (source, destination) = addresses.split_first_chunk::<16>()?;
    let destination = destination.first_chunk::<16>()?;
    let total = header.len().checked_add(usize::from(u16::from_be_bytes([l0, l1])))?;
    (next == PROTOCOL_UDP && total <= packet.len())
        .then(|| (IpAddr::from(*source), IpAddr::from(*destination), header.len()..total))
}

/// Appends a UDP packet. The checksums stay zero: the outer datagram's checksum covers every byte, and the owner never
/// hands the inner packet to an IP stack.
fn write_udp(source: SocketAddr, destination: SocketAddr, payload: &[u8], out: &mut Vec<u8>) -> bool {
    let Ok(udp_length) = u16::try_from(payload.len().saturating_add(UDP_BYTES)) else { return false };
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            let Ok(total) = u16::try_from(payload.len().saturating_add(IPV4_UDP_BYTES)) else { return false };
            let [l0, l1] = total.to_be_bytes();
            out.extend_from_slice(&[0x45, 0, l0, l1, 0, 0, 0, 0, 64, PROTOCOL_UDP, 0, 0]);
            out.extend_from_slice(&source.ip().octets());
            out.extend_from_slice(&destination.ip().octets());
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            let [l0, l1] = udp_length.to_be_bytes();
            out.extend_from_slice(&[0x60, 0, 0, 0, l0, l1, PROTOCOL_UDP, 64]);
            out.extend_from_slice(&source.ip().octets());
            out.extend_from_slice(&destination.ip().octets());
        }
        _ => return false,
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    out.extend_from_slice(&udp_length.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(payload);
    true
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
        assert!(seal(&keyring(1), landing, source, destination, payload, &mut out));
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
            let (header, opened) = open(&keyring(1), &bytes).unwrap();
            prop_assert_eq!((opened.source, opened.destination), (source, destination));
            prop_assert_eq!(&bytes[opened.payload], &payload[..]);
            prop_assert_eq!((header.kind, header.landing), (Kind::Relayed, NodeId { site: 1, server: 2 }));
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = open(&keyring(1), &bytes);
            let _ = parse_udp(&bytes);
        }
    }

    /// The MAC covers the header, the addresses and the ports; who changes the payload changes only what anybody may send.
    #[test]
    fn a_stranger_or_a_changed_bit_of_the_way_is_refused() {
        let address = "192.0.2.1:5".parse().unwrap();
        let bytes = sealed(address, address, b"hello");
        assert!(open(&keyring(2), &bytes).is_none());
        for bit in 0..(HEADER_BYTES + 24) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let opened = open(&keyring(1), &flipped);
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
        let (v4, v6) = ("192.0.2.1:5".parse().unwrap(), "[2001:db8::1]:5".parse().unwrap());
        assert!(!seal(&keyring(1), NodeId::default(), v4, v6, b"", &mut vec![]));
    }
}
