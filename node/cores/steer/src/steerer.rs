//! The decision about one packet: the reference of the XDP program, and what user space does with what the program leaves.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use trunkline_wire::NodeId;
use trunkline_wire::gue::{self, Header, Hops, Kind};
use trunkline_wire::token::{Keyring, MacKey};

use crate::classify::{self, Class};
use crate::parse::{self, NotSteerable, Packet, protocol};
use crate::row::NOBODY;
use crate::table::{FiveTuple, SteeringTable};
use crate::verdict::{Reason, Verdict};
use crate::way::{self, Dead};

/// Owners of the slices of a relay address, by port divided by 1,024; [`NodeId::default`] is nobody.
pub type Slices = [NodeId; 64];

/// What an anycast address is for. Addresses of this server alone are not steered and have no role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Clients talk to it.
    pub is_service: bool,
    /// Peers talk to it.
    pub slices: Option<Box<Slices>>,
}

/// What the kernel knows of a TCP segment's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// A connection of this server, or a valid SYN cookie of its.
    Ours,
    /// No connection of this server's.
    Unknown,
}

/// The flows that are known here.
pub trait Flows {
    /// The server of this site that has a UDP flow, if it is known.
    fn owner(&self, flow: &FiveTuple) -> Option<u16>;
    /// What the kernel says of the flow of a TCP segment; of its headers where it came, and was not quoted by an ICMP
    /// error.
    fn tcp(&self, flow: &FiveTuple, segment: Option<&[u8]>) -> TcpState;
}

/// What changes from packet to packet.
pub struct Known<'a> {
    /// Flows.
    pub flows: &'a dyn Flows,
    /// Servers that do not answer.
    pub dead: &'a Dead,
}

/// Everything that decides, immutable per epoch.
pub struct Steerer {
    /// This server.
    pub me: NodeId,
    /// Of `table` and the slices: compared as a serial number.
    pub epoch: u32,
    /// Of this site.
    pub table: SteeringTable,
    /// The anycast addresses.
    pub roles: HashMap<IpAddr, Role>,
    /// Ports that clients talk to over UDP.
    pub udp_ports: BTreeSet<u16>,
    /// Ports that clients talk to over TCP.
    pub tcp_ports: BTreeSet<u16>,
    /// Where the servers of this site, this one too, take encapsulated packets.
    pub members: HashMap<u16, SocketAddr>,
    /// Of this fleet.
    pub keyring: Keyring,
    /// Derived from `keyring` for username fragments.
    pub ufrag_keys: Vec<MacKey>,
    /// The largest IP packet that the site's fabric carries, in bytes.
    pub mtu: usize,
}

/// A packet and whose decision it is.
enum Subject {
    /// A client's flow.
    Client { flow: FiveTuple, class: Class, tcp: TcpSegment },
    /// A relay port, and the peer's port for the entropy.
    Relay { owner: NodeId, peer_port: u16, relay_port: u16 },
    /// A fragment.
    Fragment(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TcpSegment {
    None,
    At(usize),
    Quoted,
}

/// Ephemeral ports (RFC 6335) tell the fabric's routers flows apart.
const ENTROPY_BASE: u16 = 0xC000;
const ENTROPY_MASK: u16 = 0x3FFF;
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
/// Relay ports begin here.
const RELAY_PORT_MIN: u16 = 9_216;

impl Steerer {
    /// Decides about a frame. What is to be sent, or what the stack gets where that is not the frame as it came, is appended
    /// to `out` from its IP header on.
    #[must_use]
    pub fn steer(&self, frame: &[u8], known: &Known<'_>, out: &mut Vec<u8>) -> Verdict {
        let packet = match parse::frame(frame) {
            Ok(packet) => packet,
            Err(NotSteerable::NotIp) => return Verdict::Pass(Reason::NotIp),
            Err(NotSteerable::Malformed) => return Verdict::Pass(Reason::Malformed),
        };
        if let Some(opened) = self.encapsulated(frame, &packet, known, out) {
            return opened;
        }
        match self.subject(frame, &packet) {
            Ok(subject) => self.landed(frame, &packet, &subject, known, out),
            Err(verdict) => verdict,
        }
    }

    /// What a packet to one of the anycast addresses is.
    fn subject(&self, bytes: &[u8], packet: &Packet) -> Result<Subject, Verdict> {
        let not_ours = Verdict::Pass(Reason::NotOurs);
        let role = self.roles.get(&packet.destination).ok_or(not_ours)?;
        if let Some(id) = packet.fragment {
            let hash = self.table.fragment_hash(packet.protocol, packet.source, packet.destination, id);
            return match packet.protocol {
                protocol::UDP => Ok(Subject::Fragment(hash)),
                protocol::TCP => Err(Verdict::Drop(Reason::TcpFragment)),
                _ => Err(not_ours),
            };
        }
        let room = packet.end.saturating_sub(packet.body);
        match packet.protocol {
            protocol::UDP if room >= UDP_HEADER_BYTES => {
                let payload = bytes.get(packet.body.saturating_add(UDP_HEADER_BYTES)..packet.end);
                let class = || classify::datagram(payload.unwrap_or_default(), &self.ufrag_keys);
                self.by_port(bytes, packet, role, TcpSegment::None, class).ok_or(not_ours)
            }
            protocol::TCP if room >= TCP_HEADER_BYTES => {
                let flags = bytes.get(packet.body.saturating_add(13)).copied().unwrap_or(0);
                let is_opener = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
                let class = || if is_opener { Class::Opener } else { Class::Member };
                self.by_port(bytes, packet, role, TcpSegment::At(packet.body), class).ok_or(not_ours)
            }
            protocol::UDP | protocol::TCP => Err(Verdict::Pass(Reason::Malformed)),
            protocol::ICMP | protocol::ICMPV6 => self.quoted(bytes, packet, role).ok_or(not_ours),
            _ => Err(not_ours),
        }
    }

    fn by_port(
        &self,
        bytes: &[u8],
        packet: &Packet,
        role: &Role,
        tcp: TcpSegment,
        class: impl FnOnce() -> Class,
    ) -> Option<Subject> {
        let (source, destination) = parse::ports(bytes, packet.body)?;
        let flow = FiveTuple {
            protocol: packet.protocol,
            client: SocketAddr::new(packet.source, source),
            service: SocketAddr::new(packet.destination, destination),
        };
        self.subject_of(flow, role, tcp, class)
    }

    fn subject_of(
        &self,
        flow: FiveTuple,
        role: &Role,
        tcp: TcpSegment,
        class: impl FnOnce() -> Class,
    ) -> Option<Subject> {
        let port = flow.service.port();
        let ports = if flow.protocol == protocol::TCP { &self.tcp_ports } else { &self.udp_ports };
        if role.is_service && ports.contains(&port) {
            return Some(Subject::Client { flow, class: class(), tcp });
        }
        let slices = role.slices.as_ref().filter(|_| port >= RELAY_PORT_MIN)?;
        let owner = slices.get(usize::from(port >> 10)).copied().filter(|node| *node != NodeId::default())?;
        Some(Subject::Relay { owner, peer_port: flow.client.port(), relay_port: port })
    }

    /// An ICMP error belongs to whom the packet that it quotes came from.
    fn quoted(&self, bytes: &[u8], packet: &Packet, role: &Role) -> Option<Subject> {
        let quoted = parse::quoted(bytes, packet)?;
        if quoted.source.0 != packet.destination {
            return None;
        }
        let flow = FiveTuple {
            protocol: quoted.protocol,
            client: SocketAddr::from(quoted.destination),
            service: SocketAddr::from(quoted.source),
        };
        let tcp = if quoted.protocol == protocol::TCP { TcpSegment::Quoted } else { TcpSegment::None };
        self.subject_of(flow, role, tcp, || Class::Member)
    }

    /// The server that is known to have a client's flow.
    fn owner(&self, bytes: &[u8], flow: &FiveTuple, tcp: TcpSegment, flows: &dyn Flows) -> Option<u16> {
        let segment = match tcp {
            TcpSegment::None => return flows.owner(flow),
            TcpSegment::At(at) => bytes.get(at..),
            TcpSegment::Quoted => None,
        };
        (flows.tcp(flow, segment) == TcpState::Ours).then_some(self.me.server)
    }

    fn landed(
        &self,
        frame: &[u8],
        packet: &Packet,
        subject: &Subject,
        known: &Known<'_>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let me = self.me.server;
        let (hops, reason, stays, entropy) = match subject {
            Subject::Fragment(hash) => {
                let row = self.row(*hash, Class::Stateless, known.dead);
                (row, Reason::Fragment, Reason::Reassembled, *hash >> 48)
            }
            Subject::Relay { owner, .. } if *owner == self.me => return Verdict::Pass(Reason::OwnSlice),
            Subject::Relay { owner, .. } if owner.site != self.me.site => {
                return Verdict::Pass(Reason::OtherSite);
            }
            Subject::Relay { owner, peer_port, relay_port } => {
                (one(owner.server), Reason::Slice, Reason::OwnSlice, u64::from(peer_port ^ relay_port))
            }
            Subject::Client { flow, class, tcp } => {
                let hash = self.table.hash(flow);
                match (self.owner(frame, flow, *tcp, known.flows), class) {
                    (Some(server), _) if server == me => return Verdict::Pass(Reason::OwnFlow),
                    (Some(server), _) if known.dead.spares(server) => {
                        (one(server), Reason::KnownFlow, Reason::OwnFlow, hash >> 48)
                    }
                    (_, Class::Ice(owner)) if owner.site != self.me.site => {
                        return Verdict::Pass(Reason::OtherSite);
                    }
                    (_, class) => {
                        let (reason, stays) = reasons(*class);
                        (self.row(hash, *class, known.dead), reason, stays, hash >> 48)
                    }
                }
            }
        };
        if hops.servers().is_empty() {
            return Verdict::Pass(stays);
        }
        let kind = if matches!(subject, Subject::Fragment(_)) { Kind::Fragment } else { Kind::Steered };
        let header = Header { kind, hops, landing: self.me, epoch: self.epoch };
        let reason =
            if reason == Reason::OpenerAsks && hops.servers().len() == 1 { Reason::Row } else { reason };
        let inner = frame.get(packet.start..packet.end).unwrap_or_default();
        let is_reachable = hops.current().is_some_and(|server| self.members.contains_key(&server));
        if is_reachable && !self.fits(inner.len()) {
            let is_tcp = packet.protocol == protocol::TCP;
            return if is_tcp { Verdict::Drop(Reason::TcpTooLarge) } else { Verdict::Pass(Reason::TooLarge) };
        }
        let entropy = ENTROPY_BASE | u16::try_from(entropy).unwrap_or(0) & ENTROPY_MASK;
        self.forward(inner, header, reason, entropy, out)
    }

    /// Whether the site's fabric carries an encapsulated packet of so many bytes. What came encapsulated does fit.
    fn fits(&self, packet_bytes: usize) -> bool {
        let is_v4 = self.members.get(&self.me.server).is_none_or(SocketAddr::is_ipv4);
        let outer = if is_v4 { gue::OUTER_IPV4_BYTES } else { gue::OUTER_IPV6_BYTES };
        packet_bytes.saturating_add(gue::HEADER_BYTES).saturating_add(outer) <= self.mtu
    }

    /// The hops of a flow's row from here.
    fn row(&self, hash: u64, class: Class, dead: &Dead) -> Hops {
        let index = self.table.index(hash);
        let row = self.table.row(index).unwrap_or_default();
        way::of(class, row, self.table.fallback(index), dead, self.me.server)
    }

    fn forward(
        &self,
        inner: &[u8],
        header: Header,
        reason: Reason,
        entropy: u16,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let to = header.hops.current().unwrap_or(NOBODY);
        let places = self.members.get(&self.me.server).zip(self.members.get(&to));
        let Some((from, place)) = places else { return Verdict::Drop(Reason::NoNeighbour) };
        let payload = inner.len().saturating_add(gue::HEADER_BYTES);
        if !gue::write_outer(SocketAddr::new(from.ip(), entropy), *place, payload, out) {
            return Verdict::Drop(Reason::NoNeighbour);
        }
        out.extend_from_slice(&header.seal(&self.keyring, inner));
        out.extend_from_slice(inner);
        Verdict::Forward { to, reason }
    }

    /// A packet that another server encapsulated; `None` when it is none.
    fn encapsulated(
        &self,
        frame: &[u8],
        packet: &Packet,
        known: &Known<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Verdict> {
        let here = self.members.get(&self.me.server)?;
        let (entropy, port) = parse::ports(frame, packet.body)?;
        let is_datagram = packet.protocol == protocol::UDP && packet.fragment.is_none();
        let (body, end) = (packet.body.saturating_add(UDP_HEADER_BYTES), packet.end);
        if !is_datagram || SocketAddr::new(packet.destination, port) != *here || body > end {
            return None;
        }
        let bytes = frame.get(body..end)?;
        // Messages to our process are opened there.
        if matches!(Kind::of(bytes), Some(Kind::Relayed | Kind::Probe | Kind::Alive)) {
            return Some(Verdict::Pass(Reason::BetweenServers));
        }
        if !self.members.values().any(|member| member.ip() == packet.source) {
            return Some(Verdict::Drop(Reason::Stranger));
        }
        let Some((header, inner)) = Header::open(&self.keyring, bytes) else {
            return Some(Verdict::Drop(Reason::BadEncapsulation));
        };
        if header.hops.current() != Some(self.me.server) {
            return Some(Verdict::Drop(Reason::WrongOwner));
        }
        // What is encapsulated is one packet, and nothing behind it; the headers around it are as we write them.
        let plain = if packet.destination.is_ipv4() { 20 } else { 40 };
        let is_whole = packet.body.saturating_sub(packet.start) == plain
            && parse::udp_bytes(frame, packet.body) == Some(end.saturating_sub(packet.body));
        let packet = parse::packet(inner, 0).ok().filter(|packet| packet.end == inner.len() && is_whole);
        let Some(packet) = packet else { return Some(Verdict::Drop(Reason::BadEncapsulation)) };
        let verdict = self.arrived(inner, &packet, header, entropy, known, out);
        if matches!(verdict, Verdict::Pass(_)) {
            out.extend_from_slice(inner);
        }
        Some(verdict)
    }

    fn arrived(
        &self,
        inner: &[u8],
        packet: &Packet,
        header: Header,
        entropy: u16,
        known: &Known<'_>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let subject = match self.subject(inner, packet) {
            _ if header.kind == Kind::Fragment => return Verdict::Pass(Reason::Reassembled),
            Ok(subject) => subject,
            // Nothing that we steer: no server of this fleet sends such a packet on.
            Err(_) => return Verdict::Drop(Reason::WrongOwner),
        };
        let newer = self.epoch.wrapping_sub(header.epoch).wrapping_sub(1) < u32::MAX >> 1;
        let own_way = match &subject {
            Subject::Fragment(_) => return Verdict::Drop(Reason::WrongOwner),
            Subject::Relay { owner, .. } if *owner == self.me => return Verdict::Pass(Reason::OwnSlice),
            Subject::Relay { owner, .. } if newer && owner.site == self.me.site => one(owner.server),
            Subject::Relay { .. } => return Verdict::Drop(Reason::WrongOwner),
            Subject::Client { flow, class, tcp } => {
                if self.owner(inner, flow, *tcp, known.flows) == Some(self.me.server) {
                    return Verdict::Pass(Reason::OwnFlow);
                }
                if matches!(class, Class::Ice(owner) if *owner == self.me) {
                    return Verdict::Pass(Reason::WayEnds);
                }
                self.row(self.table.hash(flow), *class, known.dead)
            }
        };
        let mut hops = header.hops;
        let others = |server: u16| server != self.me.server && known.dead.spares(server);
        if hops.advance(|server| known.dead.spares(server)).is_some() {
            let header = Header { hops, ..header };
            return self.forward(inner, header, Reason::NextHop, entropy, out);
        }
        let mut hops = header.hops;
        let last = u8::try_from(hops.servers().len()).unwrap_or(0).saturating_sub(1);
        hops.point_at(last);
        if newer {
            for server in own_way.servers() {
                if others(*server) && !hops.hold(*server) && *server != header.landing.server {
                    hops.push(*server);
                }
            }
        }
        match hops.advance(others) {
            Some(_) => {
                let header = Header { hops, epoch: self.epoch, ..header };
                self.forward(inner, header, Reason::NewerRow, entropy, out)
            }
            None if matches!(subject, Subject::Relay { .. }) => Verdict::Drop(Reason::WrongOwner),
            None => Verdict::Pass(Reason::WayEnds),
        }
    }
}

/// The only hop.
fn one(server: u16) -> Hops {
    let mut hops = Hops::default();
    hops.push(server);
    hops
}

/// Why a packet of a class is sent on, and why it stays.
const fn reasons(class: Class) -> (Reason, Reason) {
    match class {
        Class::Opener => (Reason::OpenerAsks, Reason::Opener),
        Class::Stateless => (Reason::Row, Reason::Opener),
        Class::Ice(_) => (Reason::Ice, Reason::OwnFlow),
        Class::Member => (Reason::Row, Reason::WayEnds),
    }
}
