//! Frames of every kind that steering tells apart, and what is nearly one.

use std::net::{IpAddr, SocketAddr};

use trunkline_steer::FiveTuple;
use trunkline_wire::NodeId;
use trunkline_wire::gue::{self, Header, Hops, Kind};
use trunkline_wire::token::{MacKey, Ufrag};

use crate::fleet::{
    EPOCH, SERVERS, SITE, Scene, TCP_PORTS, UDP_PORTS, client, keyring, place, relays, services,
};
use crate::random::Random;

/// Ethernet addresses as every frame has them.
const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// A frame; a flow of it may become known.
pub fn frame(random: &mut Random, scene: &mut Scene, fabric_v6: bool) -> Vec<u8> {
    let v6 = random.once_in(2);
    let mut packet = match random.below(10) {
        0 => fragment(random, v6),
        1 => icmp(random, v6),
        2 => tcp(random, v6),
        _ => udp(random, scene, v6),
    };
    if random.once_in(3) {
        packet = encapsulated(random, scene, packet, fabric_v6);
    }
    let mut frame = ETHERNET.to_vec();
    for _ in 0..random.below(3) * u64::from(random.once_in(8)) {
        frame.extend([
            if random.once_in(2) { 0x81 } else { 0x88 },
            if random.once_in(2) { 0x00 } else { 0xA8 },
            0,
            7,
        ]);
    }
    let kind: [u8; 2] = match packet.first().map(|byte| byte >> 4) {
        Some(4) => [0x08, 0x00],
        _ => [0x86, 0xDD],
    };
    frame.extend(kind);
    frame.extend(&packet);
    if random.once_in(16) {
        // Padding that Ethernet adds.
        frame.extend(random.bytes(1));
    }
    damage(random, &mut frame);
    // The kernel refuses to run shorter ones.
    while frame.len() < 14 {
        frame.push(0);
    }
    frame
}

/// One byte in twelve frames is another; one frame in thirty is cut off.
fn damage(random: &mut Random, frame: &mut Vec<u8>) {
    if random.once_in(12) {
        let at = random.below(frame.len().min(130) as u64) as usize;
        frame[at] = random.next() as u8;
    }
    if random.once_in(30) {
        frame.truncate(random.below(frame.len() as u64) as usize);
    }
}

fn port(random: &mut Random, ports: &[u16]) -> u16 {
    match random.below(8) {
        0 => random.next() as u16,
        1..3 => 9_216 + random.below(56_320) as u16,
        _ => *random.of(ports),
    }
}

fn ends(random: &mut Random, v6: bool, ports: &[u16]) -> (SocketAddr, SocketAddr) {
    let ours: Vec<IpAddr> = services(v6).into_iter().chain(relays(v6)).collect();
    let destination = if random.once_in(20) { client(random, v6) } else { *random.of(&ours) };
    let source = SocketAddr::new(client(random, v6), 40_000 + random.below(64) as u16);
    (source, SocketAddr::new(destination, port(random, ports)))
}

fn udp(random: &mut Random, scene: &mut Scene, v6: bool) -> Vec<u8> {
    let (source, destination) = ends(random, v6, &UDP_PORTS);
    if random.once_in(24) && scene.known.0.len() < 500 {
        let flow = FiveTuple { protocol: 17, client: source, service: destination };
        let server = 1 + random.below(u64::from(SERVERS)) as u16;
        scene.known.0.entry(flow).or_insert(server);
    }
    let payload = payload(random, &scene.steerer.ufrag_keys);
    ip(random, source.ip(), destination.ip(), 17, &datagram(source, destination, &payload))
}

fn datagram(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() + 8) as u16;
    let fields = [source.port(), destination.port(), length, 0];
    fields.into_iter().flat_map(u16::to_be_bytes).chain(payload.iter().copied()).collect()
}

fn payload(random: &mut Random, keys: &[MacKey]) -> Vec<u8> {
    let mut payload = match random.below(8) {
        0 => stun(random, 0x0003, vec![]),
        1 => stun(random, 0x0001, vec![]),
        2..4 => {
            let attributes = ice(random, keys);
            stun(random, 0x0001, attributes)
        }
        4 => stun(random, 0x0004, vec![]),
        5 => {
            let mut hello = vec![22, 254, 253];
            hello.extend(random.bytes(10));
            hello.push(if random.once_in(2) { 1 } else { 2 });
            hello
        }
        6 => vec![0x40, 0, 0, 4, 1, 2, 3, 4],
        _ => {
            let count = random.below(40) as usize;
            random.bytes(count)
        }
    };
    if random.once_in(10) {
        // Around the site's MTU.
        payload.resize(1_440 + random.below(120) as usize, 7);
    }
    payload
}

fn stun(random: &mut Random, kind: u16, attributes: Vec<u8>) -> Vec<u8> {
    let mut message = kind.to_be_bytes().to_vec();
    message.extend((attributes.len() as u16).to_be_bytes());
    message.extend([0x21, 0x12, 0xA4, 0x42]);
    message.extend(random.bytes(12));
    message.extend(attributes);
    message
}

fn ice(random: &mut Random, keys: &[MacKey]) -> Vec<u8> {
    let mut attributes = vec![];
    for _ in 0..random.below(5) {
        let length = random.below(9) as usize;
        attributes.extend([0x80, 0x29, 0, length as u8]);
        attributes.extend(random.bytes(length.next_multiple_of(4)));
    }
    let site = if random.once_in(5) { SITE + 1 } else { SITE };
    let node = NodeId { site, server: 1 + random.below(u64::from(SERVERS)) as u16 };
    let ufrag = Ufrag { node, serial: [1, 2, 3] };
    let mut name = ufrag.seal(random.of(keys)).to_vec();
    if random.once_in(5) {
        let at = random.below(16) as usize;
        name[at] = b'A';
    }
    name.extend(if random.once_in(10) { &b""[..] } else { b":peer" });
    let length = name.len();
    // The attribute may end before the colon that follows.
    let told = if random.once_in(10) { 16 } else { length };
    attributes.extend([0, 6, 0, told as u8]);
    name.resize(length.next_multiple_of(4), 0);
    attributes.extend(name);
    attributes
}

fn tcp(random: &mut Random, v6: bool) -> Vec<u8> {
    let (source, destination) = ends(random, v6, &TCP_PORTS);
    let mut segment =
        [source.port(), destination.port()].into_iter().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
    segment.extend(random.bytes(8));
    segment.extend([0x50, *random.of(&[0x02, 0x10, 0x12, 0x18, 0x04]), 1, 0, 0, 0, 0, 0]);
    let length =
        if random.once_in(6) { 1_440 + random.below(80) as usize } else { random.below(30) as usize };
    segment.extend(random.bytes(length));
    ip(random, source.ip(), destination.ip(), 6, &segment)
}

fn icmp(random: &mut Random, v6: bool) -> Vec<u8> {
    // What we sent, or somebody else: from a service or relay port to a client.
    let (theirs, ours) = ends(random, v6, &UDP_PORTS);
    let protocol = if random.once_in(3) { 6 } else { 17 };
    let inner = ip(random, ours.ip(), theirs.ip(), protocol, &datagram(ours, theirs, &[0; 20]));
    let kinds: &[u8] = if v6 { &[1, 2, 3, 4, 128] } else { &[3, 11, 12, 8, 0] };
    let mut error = vec![*random.of(kinds), 0, 0, 0, 0, 0, 5, 0xDC];
    let quoted = inner.len().min(28 + random.below(60) as usize);
    error.extend(&inner[..quoted]);
    let router = client(random, v6);
    let to = if random.once_in(12) { services(v6)[0] } else { ours.ip() };
    ip(random, router, to, if v6 { 58 } else { 1 }, &error)
}

fn fragment(random: &mut Random, v6: bool) -> Vec<u8> {
    let (source, destination) = ends(random, v6, &UDP_PORTS);
    let protocol = *random.of(&[17, 17, 17, 6, 1]);
    let body = random.bytes(64);
    let offset = random.below(4) as u16;
    let more = u16::from(random.once_in(2));
    let id = random.below(30) as u16;
    if v6 {
        let mut extension = vec![protocol, 0];
        extension.extend((offset << 3 | more).to_be_bytes());
        extension.extend([0, 0]);
        extension.extend(id.to_be_bytes());
        extension.extend(body);
        return ip(random, source.ip(), destination.ip(), 44, &extension);
    }
    let mut packet = ip(random, source.ip(), destination.ip(), protocol, &body);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&(offset | more << 13).to_be_bytes());
    packet
}

/// A whole packet; sometimes with options or extension headers.
fn ip(random: &mut Random, source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let has_options = random.once_in(10);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let words = if has_options { 5 + random.below(11) as usize } else { 5 };
            let total = (words * 4 + body.len()) as u16;
            let mut packet = vec![0x40 | words as u8, 0];
            packet.extend(total.to_be_bytes());
            packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.resize(words * 4, 1);
            packet.extend(body);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut extensions = vec![];
            let mut first = protocol;
            if has_options {
                for _ in 0..=random.below(5) {
                    let words = random.below(4) as u8 * u8::from(random.once_in(2));
                    let mut extension = vec![first, words];
                    extension.resize(usize::from(words) * 8 + 8, 0);
                    first = *random.of(&[0, 43, 60]);
                    extension.extend(&extensions);
                    extensions = extension;
                }
            }
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(((extensions.len() + body.len()) as u16).to_be_bytes());
            packet.extend([first, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(extensions);
            packet.extend(body);
            packet
        }
        _ => unreachable!("two families"),
    }
}

/// As another server of the site, or a stranger, would send it here.
fn encapsulated(random: &mut Random, scene: &Scene, inner: Vec<u8>, fabric_v6: bool) -> Vec<u8> {
    let me = scene.steerer.me.server;
    let mut hops = Hops::default();
    let count = 1 + random.below(5);
    let mine = random.below(count);
    for hop in 0..count {
        let other = 1 + random.below(u64::from(SERVERS)) as u16;
        hops.push(if hop == mine && !random.once_in(12) { me } else { other });
    }
    hops.point_at(mine as u8);
    let kinds = [
        Kind::Steered,
        Kind::Steered,
        Kind::Steered,
        Kind::Steered,
        Kind::Fragment,
        Kind::Relayed,
        Kind::Probe,
    ];
    let epoch = *random.of(&[EPOCH, EPOCH - 1, EPOCH - 1, EPOCH + 1, 0, u32::MAX]);
    let landing = NodeId { site: SITE, server: 1 + random.below(u64::from(SERVERS)) as u16 };
    let header = Header { kind: *random.of(&kinds), hops, landing, epoch };
    // The key in force, the one before, and one of nobody.
    let key = *random.of(&[1, 1, 1, 2, 9]);
    let sealed = header.seal(&keyring(key), &inner);
    let sender = if random.once_in(12) {
        SocketAddr::new(client(random, fabric_v6), 50_000)
    } else {
        SocketAddr::new(
            place(1 + random.below(5) as u16, fabric_v6).ip(),
            49_152 + random.below(1_000) as u16,
        )
    };
    let mut packet = vec![];
    assert!(gue::write_outer(sender, place(me, fabric_v6), sealed.len() + inner.len(), &mut packet));
    packet.extend(sealed);
    packet.extend(inner);
    packet
}
