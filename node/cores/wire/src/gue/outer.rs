//! The IP and UDP headers around an encapsulated packet.

use std::net::SocketAddr;

/// Outer headers over IPv4: IP and UDP.
pub const OUTER_IPV4_BYTES: usize = 28;
/// Outer headers over IPv6: IP and UDP.
pub const OUTER_IPV6_BYTES: usize = 48;

const PROTOCOL_UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

/// Appends the outer headers of `payload_bytes` bytes. The UDP checksum is zero (RFC 6935: the MAC covers what decides the
/// packet's way). `false`, and nothing appended, when the addresses are of two families or it does not fit a packet.
pub fn write_outer(
    source: SocketAddr,
    destination: SocketAddr,
    payload_bytes: usize,
    out: &mut Vec<u8>,
) -> bool {
    let lengths = u16::try_from(payload_bytes.saturating_add(8))
        .ok()
        .and_then(|udp| Some((udp, u16::try_from(payload_bytes.saturating_add(OUTER_IPV4_BYTES)).ok()?)));
    let Some((udp_bytes, ipv4_bytes)) = lengths else { return false };
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            let [l0, l1] = ipv4_bytes.to_be_bytes();
            let mut header = [0; 20];
            let fixed = [0x45, 0, l0, l1, 0, 0, 0x40, 0, HOP_LIMIT, PROTOCOL_UDP, 0, 0];
            let addresses = source.ip().octets().into_iter().chain(destination.ip().octets());
            for (byte, value) in header.iter_mut().zip(fixed.into_iter().chain(addresses)) {
                *byte = value;
            }
            let [c0, c1] = checksum(&header).to_be_bytes();
            header[10] = c0;
            header[11] = c1;
            out.extend_from_slice(&header);
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            let [l0, l1] = udp_bytes.to_be_bytes();
            out.extend_from_slice(&[0x60, 0, 0, 0, l0, l1, PROTOCOL_UDP, HOP_LIMIT]);
            out.extend_from_slice(&source.ip().octets());
            out.extend_from_slice(&destination.ip().octets());
        }
        _ => return false,
    }
    for field in [source.port(), destination.port(), udp_bytes, 0] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    true
}

/// The checksum of an IPv4 header whose checksum field is zero (RFC 1071).
fn checksum(header: &[u8; 20]) -> u16 {
    let words = header.chunks_exact(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let sum: u32 = words.fold(0, u32::wrapping_add);
    let folded = (sum & 0xFFFF).wrapping_add(sum >> 16);
    let folded = (folded & 0xFFFF).wrapping_add(folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_header_sums_to_all_ones() {
        let mut out = vec![];
        let (source, destination) = ("10.77.1.11:50000".parse().unwrap(), "10.77.1.12:6080".parse().unwrap());
        assert!(write_outer(source, destination, 1_532, &mut out));
        assert_eq!(out.len(), OUTER_IPV4_BYTES);
        let sum: u32 =
            out[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xFFFF) + (sum >> 16), 0xFFFF);
    }

    #[test]
    fn what_is_no_packet_is_not_written() {
        let mut out = vec![];
        let (v4, v6) = ("10.77.1.11:1".parse().unwrap(), "[fd00::1]:1".parse().unwrap());
        assert!(!write_outer(v4, v6, 10, &mut out));
        assert!(!write_outer(v4, v4, 65_520, &mut out));
        assert!(out.is_empty());
        assert!(write_outer(v6, v6, 10, &mut out));
        assert_eq!(out.len(), OUTER_IPV6_BYTES);
    }
}
