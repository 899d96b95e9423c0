//! Target: packets between servers, and whole IP packets of strays.
//!
//! What a server wrote opens to the same; any change of its way or another fleet's key is refused; [`parse_udp`] of any bytes
//! stays inside them and agrees with a second reading of the headers.

use std::net::{IpAddr, SocketAddr};

use trunkline_wire::NodeId;
use trunkline_wire::gue::{Datagram, HEADER_BYTES, open, parse_udp, seal};
use trunkline_wire::token::{FleetKey, Keyring};

use crate::bytes::Bytes;

/// Selects what to try, then the bytes for it.
pub fn run(input: &[u8]) {
    let mut input = Bytes::new(input);
    match input.byte() % 4 {
        0 => any_packet_parses_or_is_refused(input.rest()),
        1 => any_packet_parses_or_is_refused(&repaired(input.rest())),
        2 => any_frame_opens_or_is_refused(input.rest()),
        _ => written_frames_open(input),
    }
}

fn keyring(secret: u8) -> Keyring {
    Keyring::new(FleetKey { id: 1, secret: [secret; 16] }, vec![])
}

fn any_packet_parses_or_is_refused(packet: &[u8]) {
    assert_eq!(parse_udp(packet), read_udp(packet), "{packet:02x?}");
}

/// With the lengths and the protocol that a fuzzer does not guess together; header length and fragment fields stay.
fn repaired(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.resize(packet.len().max(48), 0);
    let is_v4 = packet[0] & 0x80 == 0;
    packet[0] = packet[0] & 0x0F | if is_v4 { 0x40 } else { 0x60 };
    let (length_at, protocol_at, header) =
        if is_v4 { (2, 9, usize::from(packet[0] & 0x0F) * 4) } else { (4, 6, 40) };
    packet[protocol_at] = 17;
    let (whole, udp) = (packet.len(), header.min(packet.len() - 8));
    let payload = if is_v4 { whole } else { whole - 40 };
    let mut put =
        |at: usize, length: usize| packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    put(udp + 4, whole - udp);
    put(length_at, payload);
    packet
}

/// The same by offsets, straight from RFC 791, RFC 8200 and RFC 768.
fn read_udp(packet: &[u8]) -> Option<Datagram> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let ip4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let ip6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    let (source, destination, udp, end) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let more_or_offset = word(6)? & 0x3FFF;
            (packet.get(9)? == &17 && more_or_offset == 0 && header >= 20).then_some(())?;
            (ip4(12)?, ip4(16)?, header, usize::from(word(2)?))
        }
        6 => {
            (packet.get(6)? == &17).then_some(())?;
            (ip6(8)?, ip6(24)?, 40, 40 + usize::from(word(4)?))
        }
        _ => return None,
    };
    let length = usize::from(word(udp + 4)?);
    let fits = length >= 8 && udp + length <= end && end <= packet.len();
    fits.then_some(())?;
    let source = SocketAddr::new(source, word(udp)?);
    let destination = SocketAddr::new(destination, word(udp + 2)?);
    Some(Datagram { source, destination, payload: udp + 8..udp + length })
}

fn any_frame_opens_or_is_refused(frame: &[u8]) {
    // 64 bits of MAC under a key that the fuzzer cannot read off: nothing opens.
    assert_eq!(open(&keyring(1), frame), None, "forged {frame:02x?}");
}

fn written_frames_open(mut input: Bytes<'_>) {
    let landing = NodeId::from_bytes(input.array());
    let (source, destination) = (address(&mut input), address(&mut input));
    let (place, change) = (usize::from(input.number()), input.byte().max(1));
    let payload = input.rest();
    let mut frame = b"before".to_vec();
    let written = seal(&keyring(1), landing, source, destination, payload, &mut frame);
    assert_eq!(written, source.is_ipv4() == destination.is_ipv4(), "{source} to {destination}");
    if !written {
        return assert_eq!(frame, b"before");
    }
    let frame = frame.strip_prefix(b"before").expect("what was there before");
    let (header, inner) = open(&keyring(1), frame).expect("our own frame");
    assert_eq!((header.landing, inner.source, inner.destination), (landing, source, destination));
    assert_eq!(&frame[inner.payload.clone()], payload);
    let packet = parse_udp(&frame[HEADER_BYTES..]).expect("a whole packet");
    assert_eq!(packet.payload.start + HEADER_BYTES..packet.payload.end + HEADER_BYTES, inner.payload);
    assert_eq!(open(&keyring(2), frame), None, "another fleet's key");
    // The MAC covers the header, the addresses and the ports.
    let place = place % (HEADER_BYTES + if source.is_ipv4() { 24 } else { 44 });
    let mut changed = frame.to_vec();
    changed[place] ^= change;
    assert_eq!(open(&keyring(1), &changed), None, "byte {place} changed");
}

fn address(input: &mut Bytes<'_>) -> SocketAddr {
    let ip = if input.flag() { input.array::<16>().into() } else { input.array::<4>().into() };
    SocketAddr::new(ip, input.number())
}
