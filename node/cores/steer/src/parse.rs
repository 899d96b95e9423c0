//! From a frame to what steering needs to know of it: addresses, ports, fragments.
//!
//! The XDP program parses the same way, byte for byte; `node/xdp` compares the two.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers (IANA).
pub mod protocol {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// TCP
    pub const TCP: u8 = 6;
    /// UDP
    pub const UDP: u8 = 17;
    /// ICMPv6
    pub const ICMPV6: u8 = 58;
}

/// IP headers longer than this are nobody's.
pub const HEADERS_MAX: usize = 512;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that are walked over.
const EXTENSIONS_MAX: usize = 4;

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: usize = 14;
const VLAN_BYTES: usize = 4;
/// An outer and an inner VLAN tag.
const VLANS_MAX: usize = 2;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86DD;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88A8;

/// A whole IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where the IP header begins.
    pub start: usize,
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// Of what follows the IP headers.
    pub protocol: u8,
    /// Where that begins.
    pub body: usize,
    /// Behind its last byte: Ethernet may have padded.
    pub end: usize,
    /// Of a fragment: what its fragments have in common.
    pub fragment: Option<u32>,
}

/// Why bytes are not a packet that can be steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSteerable {
    /// ARP and the like.
    NotIp,
    /// Lengths that lie, or headers that do not end.
    Malformed,
}

/// The packet of an Ethernet frame with up to two VLAN tags.
///
/// # Errors
/// [`NotSteerable`]: such frames are the kernel's.
pub fn frame(bytes: &[u8]) -> Result<Packet, NotSteerable> {
    let mut kind_at = ETHERNET_BYTES.saturating_sub(2);
    for _ in 0..=VLANS_MAX {
        let kind = u16_at(bytes, kind_at).ok_or(NotSteerable::NotIp)?;
        let start = kind_at.saturating_add(2);
        match kind {
            ETHERTYPE_IPV4 => return ipv4(bytes, start),
            ETHERTYPE_IPV6 => return ipv6(bytes, start),
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => kind_at = kind_at.saturating_add(VLAN_BYTES),
            _ => return Err(NotSteerable::NotIp),
        }
    }
    Err(NotSteerable::NotIp)
}

/// The packet that begins here, its version told by the first half-byte.
///
/// # Errors
/// [`NotSteerable::Malformed`].
pub fn packet(bytes: &[u8], start: usize) -> Result<Packet, NotSteerable> {
    match bytes.get(start).map(|byte| byte >> 4) {
        Some(4) => ipv4(bytes, start),
        Some(6) => ipv6(bytes, start),
        _ => Err(NotSteerable::Malformed),
    }
}

fn ipv4(bytes: &[u8], start: usize) -> Result<Packet, NotSteerable> {
    let rest = bytes.get(start..).unwrap_or_default();
    let header = rest.first_chunk::<20>().ok_or(NotSteerable::Malformed)?;
    let [first, _, l0, l1, i0, i1, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let header_bytes = usize::from(first & 0x0F).saturating_mul(4);
    let total = usize::from(u16::from_be_bytes([l0, l1]));
    if first >> 4 != 4 || header_bytes < 20 || header_bytes > total || total > rest.len() {
        return Err(NotSteerable::Malformed);
    }
    // More fragments, or an offset.
    let is_fragment = u16::from_be_bytes([f0, f1]) & 0x3FFF != 0;
    Ok(Packet {
        start,
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol,
        body: start.saturating_add(header_bytes),
        end: start.saturating_add(total),
        fragment: is_fragment.then_some(u32::from(u16::from_be_bytes([i0, i1]))),
    })
}

fn ipv6(bytes: &[u8], start: usize) -> Result<Packet, NotSteerable> {
    let rest = bytes.get(start..).unwrap_or_default();
    let header = rest.first_chunk::<40>().ok_or(NotSteerable::Malformed)?;
    let (source, destination) = ipv6_addresses(header).ok_or(NotSteerable::Malformed)?;
    let [first, _, _, _, l0, l1, next, ..] = *header;
    let total = usize::from(u16::from_be_bytes([l0, l1])).saturating_add(40);
    if first >> 4 != 6 || total > rest.len() {
        return Err(NotSteerable::Malformed);
    }
    let end = start.saturating_add(total);
    let mut found = Packet {
        start,
        source,
        destination,
        protocol: next,
        body: start.saturating_add(40),
        end,
        fragment: None,
    };
    walk(bytes, &mut found)?;
    Ok(found)
}

/// Over the extension headers to what they carry.
fn walk(bytes: &[u8], found: &mut Packet) -> Result<(), NotSteerable> {
    for _ in 0..EXTENSIONS_MAX {
        let extension = bytes.get(found.body..found.end).and_then(|rest| rest.first_chunk::<8>());
        match found.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let [next, length, ..] = *extension.ok_or(NotSteerable::Malformed)?;
                let bytes = usize::from(length).saturating_add(1).saturating_mul(8);
                (found.protocol, found.body) = (next, found.body.saturating_add(bytes));
            }
            FRAGMENT => {
                let [next, _, f0, f1, i0, i1, i2, i3] = *extension.ok_or(NotSteerable::Malformed)?;
                (found.protocol, found.body) = (next, found.body.saturating_add(8));
                // An offset or more fragments; without either it is a whole packet (RFC 6946).
                if u16::from_be_bytes([f0, f1]) & 0xFFF9 != 0 {
                    found.fragment = Some(u32::from_be_bytes([i0, i1, i2, i3]));
                    break;
                }
            }
            _ => break,
        }
    }
    let is_long = found.body.saturating_sub(found.start) > HEADERS_MAX;
    if is_long || found.body > found.end { Err(NotSteerable::Malformed) } else { Ok(()) }
}

fn ipv6_addresses(header: &[u8; 40]) -> Option<(IpAddr, IpAddr)> {
    let (source, destination) = header.get(8..)?.split_first_chunk::<16>()?;
    Some((Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination.first_chunk::<16>()?).into()))
}

/// Source and destination port of UDP or TCP.
#[must_use]
pub fn ports(bytes: &[u8], at: usize) -> Option<(u16, u16)> {
    Some((u16_at(bytes, at)?, u16_at(bytes, at.saturating_add(2))?))
}

/// What a UDP header says of the length of header and payload.
#[must_use]
pub fn udp_bytes(bytes: &[u8], at: usize) -> Option<usize> {
    u16_at(bytes, at.saturating_add(4)).map(usize::from)
}

/// The front of a packet of ours that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// UDP or TCP.
    pub protocol: u8,
    /// We sent it from here.
    pub source: (IpAddr, u16),
    /// To there.
    pub destination: (IpAddr, u16),
}

/// What an ICMP or ICMPv6 error quotes, if it is the first fragment of UDP or TCP. Options are walked over, extension
/// headers are not: nothing that we send has any.
#[must_use]
pub fn quoted(bytes: &[u8], error: &Packet) -> Option<Quoted> {
    let bytes = bytes.get(..error.end)?;
    let kind = *bytes.get(error.body)?;
    let at = error.body.checked_add(8)?;
    let rest = bytes.get(at..)?;
    let (protocol, source, destination, ports_at) = match (error.protocol, rest.first()? >> 4) {
        (protocol::ICMP, 4) if matches!(kind, 3 | 11 | 12) => {
            let header = rest.first_chunk::<20>()?;
            let [first, _, _, _, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
            let header_bytes = usize::from(first & 0x0F).checked_mul(4)?;
            if header_bytes < 20 || u16::from_be_bytes([f0, f1]) & 0x1FFF != 0 {
                return None;
            }
            let (source, destination) =
                (Ipv4Addr::new(s0, s1, s2, s3).into(), Ipv4Addr::new(d0, d1, d2, d3).into());
            (protocol, source, destination, header_bytes)
        }
        (protocol::ICMPV6, 6) if matches!(kind, 1..=4) => {
            let header = rest.first_chunk::<40>()?;
            let (source, destination) = ipv6_addresses(header)?;
            (*header.get(6)?, source, destination, 40)
        }
        _ => return None,
    };
    let (source_port, destination_port) = ports(rest, ports_at)?;
    matches!(protocol, protocol::UDP | protocol::TCP).then_some(Quoted {
        protocol,
        source: (source, source_port),
        destination: (destination, destination_port),
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let [high, low] = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes([*high, *low]))
}
