//! What the program is told, in the layout of `c/steer.h`.

use std::net::{IpAddr, SocketAddr};

use trunkline_steer::{FiveTuple, Steerer};
use trunkline_wire::NodeId;
use trunkline_wire::token::MacKey;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const ROWS_MAX: usize = 65_536;
/// Servers of a site are numbered below this.
pub const SERVERS_MAX: usize = 1_024;
const ADDRESSES_MAX: usize = 2_048;
/// Places that an address may be away from its own.
const PROBES_MAX: usize = 8;
const RELAYS_MAX: usize = 64;
const SLICES: usize = 64;
const KEYS_MAX: usize = 8;

const ROLE_USED: u8 = 1;
const ROLE_SERVICE: u8 = 2;
const ROLE_RELAY: u8 = 4;
const ROLE_MEMBER: u8 = 8;

/// `struct row`
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Row {
    /// Gets the flows that begin.
    pub current: u16,
    /// Becomes current.
    pub next: u16,
    /// Owned it before.
    pub previous: [u16; 2],
    /// Take over when `current` does not answer.
    pub fallback: [u16; 2],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Node {
    site: u16,
    server: u16,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Key {
    secret: [u64; 2],
    id: u32,
    pad: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Address {
    ip: [u8; 16],
    roles: u8,
    relay: u8,
    pad: u16,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Member {
    ip: [u8; 16],
    port: [u8; 2],
    pad: u16,
}

/// `struct config`: everything that decides, immutable per epoch.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    epoch: u32,
    me: Node,
    row_mask: u32,
    mtu: u32,
    encapsulation_count: u32,
    ufrag_count: u32,
    hash_key: [u64; 2],
    encapsulation: [Key; KEYS_MAX],
    ufrag: [Key; KEYS_MAX],
    udp_ports: [u64; 1_024],
    tcp_ports: [u64; 1_024],
    addresses: [Address; ADDRESSES_MAX],
    members: [Member; SERVERS_MAX],
    slices: [[Node; SLICES]; RELAYS_MAX],
    rows: [Row; ROWS_MAX],
}

/// `struct flow`
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Flow {
    client: [u8; 16],
    service: [u8; 16],
    client_port: [u8; 2],
    service_port: [u8; 2],
    protocol: u32,
}

impl From<&FiveTuple> for Flow {
    fn from(flow: &FiveTuple) -> Self {
        Self {
            client: mapped(flow.client.ip()),
            service: mapped(flow.service.ip()),
            client_port: flow.client.port().to_be_bytes(),
            service_port: flow.service.port().to_be_bytes(),
            protocol: flow.protocol.into(),
        }
    }
}

/// `struct neighbour`: how frames reach a server of the site.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Neighbour {
    /// Of CLOCK_MONOTONIC_COARSE; all ones: for ever.
    pub good_until_ns: u64,
    /// Index of the interface; 0: the one on which the packet came.
    pub interface: u32,
    /// Ethernet address.
    pub destination: [u8; 6],
    /// Ethernet address.
    pub source: [u8; 6],
}

/// `struct health`
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Health {
    /// CLOCK_MONOTONIC_COARSE of this process's last sign of life; all ones: it is not asked for.
    pub beat_ns: u64,
    /// 1: the server with this number does not answer.
    pub is_dead: [u8; SERVERS_MAX],
}

/// Why a steerer does not fit the program's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A server's number.
    #[error("server {0}: the flow steerer knows servers 1 to 1,023")]
    Server(u16),
    /// Anycast addresses and servers together.
    #[error("more addresses than the flow steerer has room for (about 1,000)")]
    Addresses,
    /// Relay addresses.
    #[error("more than 64 relay addresses")]
    Relays,
    /// Keys.
    #[error("more than 8 fleet keys")]
    Keys,
}

/// The tables of a steerer.
///
/// # Errors
/// [`Unfit`].
pub fn build(steerer: &Steerer) -> Result<Box<Config>, Unfit> {
    let mut config = Config::new_box_zeroed().map_err(|_| Unfit::Addresses)?;
    config.epoch = steerer.epoch;
    config.me = node(steerer.me);
    config.mtu = u32::try_from(steerer.mtu).unwrap_or(u32::MAX);
    config.hash_key = words(steerer.table.hash_key());
    config.encapsulation_count = put_keys(&mut config.encapsulation, steerer.keyring.encapsulation())?;
    config.ufrag_count = put_keys(&mut config.ufrag, &steerer.ufrag_keys)?;
    put_ports(&mut config.udp_ports, &steerer.udp_ports);
    put_ports(&mut config.tcp_ports, &steerer.tcp_ports);
    put_rows(&mut config, steerer);
    for (server, place) in &steerer.members {
        let known = config.members.get_mut(usize::from(*server)).filter(|_| *server != 0);
        *known.ok_or(Unfit::Server(*server))? = member(*place);
        put_address(&mut config.addresses, place.ip(), ROLE_MEMBER, 0)?;
    }
    let mut relays = 0;
    for (ip, role) in &steerer.roles {
        let service = if role.is_service { ROLE_SERVICE } else { 0 };
        let Some(slices) = &role.slices else {
            put_address(&mut config.addresses, *ip, service, 0)?;
            continue;
        };
        let place = config.slices.get_mut(usize::from(relays)).ok_or(Unfit::Relays)?;
        *place = slices.map(node);
        put_address(&mut config.addresses, *ip, service | ROLE_RELAY, relays)?;
        relays += 1;
    }
    Ok(config)
}

fn put_rows(config: &mut Config, steerer: &Steerer) {
    let rows = steerer.table.rows();
    config.row_mask = u32::try_from(rows.len()).unwrap_or(1).saturating_sub(1);
    for ((place, row), index) in config.rows.iter_mut().zip(rows).zip(0..) {
        let fallback = steerer.table.fallback(index);
        *place = Row { current: row.current, next: row.next, previous: row.previous, fallback };
    }
}

fn put_keys(places: &mut [Key; KEYS_MAX], keys: &[MacKey]) -> Result<u32, Unfit> {
    for (number, key) in keys.iter().enumerate() {
        let place = places.get_mut(number).ok_or(Unfit::Keys)?;
        *place = Key { secret: words(&key.secret), id: key.id.into(), pad: 0 };
    }
    u32::try_from(keys.len()).map_err(|_| Unfit::Keys)
}

fn put_ports<'a>(bits: &mut [u64; 1_024], ports: impl IntoIterator<Item = &'a u16>) {
    for port in ports {
        if let Some(word) = bits.get_mut(usize::from(port >> 6)) {
            *word |= 1 << (port & 63);
        }
    }
}

/// Open addressing: the first free place from the address's own on.
fn put_address(table: &mut [Address; ADDRESSES_MAX], ip: IpAddr, roles: u8, relay: u8) -> Result<(), Unfit> {
    let bytes = mapped(ip);
    let start = slot(&bytes);
    for probe in 0..PROBES_MAX {
        let Some(place) = table.get_mut((start + probe) % ADDRESSES_MAX) else { break };
        if place.roles == 0 || place.ip == bytes {
            let relay = if roles & ROLE_RELAY == 0 { place.relay } else { relay };
            *place = Address { ip: bytes, roles: place.roles | ROLE_USED | roles, relay, pad: 0 };
            return Ok(());
        }
    }
    Err(Unfit::Addresses)
}

fn slot(ip: &[u8; 16]) -> usize {
    let words = ip.chunks_exact(4).map(|word| match word {
        [a, b, c, d] => u32::from_ne_bytes([*a, *b, *c, *d]),
        _ => 0,
    });
    (words.fold(0, |mixed, word| mixed ^ word).wrapping_mul(0x9E37_79B1) >> 21) as usize
}

fn member(place: SocketAddr) -> Member {
    Member { ip: mapped(place.ip()), port: place.port().to_be_bytes(), pad: 0 }
}

const fn node(id: NodeId) -> Node {
    Node { site: id.site, server: id.server }
}

/// As SipHash takes its key.
fn words(secret: &[u8; 16]) -> [u64; 2] {
    let number = u128::from_le_bytes(*secret);
    [number as u64, (number >> 64) as u64]
}

/// IPv4 as ::ffff:a.b.c.d.
fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests;
