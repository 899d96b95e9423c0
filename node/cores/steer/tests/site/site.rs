//! The servers, and the way of a frame between them.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use trunkline_steer::{
    Dead, FiveTuple, Flows, Known, Reason, Role, Row, Steerer, SteeringTable, TcpState, Verdict,
};
use trunkline_wire::NodeId;
use trunkline_wire::token::{FleetKey, Keyring, Purpose};

pub const SERVERS: u16 = 5;
const SITE: u16 = 1;

/// What a client sends.
#[derive(Clone, Copy, Debug)]
pub enum Payload {
    ChannelData,
    Allocate,
    Binding,
}

/// Where a frame ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Kept {
        by: u16,
        reason: Reason,
    },
    Dropped(Reason),
    /// Sent to a server that is dead.
    Lost(u16),
}

/// How it came there.
#[derive(Debug)]
pub struct Walk {
    pub end: End,
    pub forwards: usize,
    /// Servers that it was sent to.
    pub visited: Vec<u16>,
}

pub struct Site {
    servers: HashMap<u16, Steerer>,
    owner: Option<u16>,
    dead: BTreeSet<u16>,
    client: SocketAddr,
    service: SocketAddr,
}

/// The flow that is owned, as one server sees it.
struct One {
    is_owner: bool,
    me: u16,
}

impl Flows for One {
    fn owner(&self, _: &FiveTuple) -> Option<u16> {
        self.is_owner.then_some(self.me)
    }

    fn tcp(&self, _: &FiveTuple, _: Option<&[u8]>) -> TcpState {
        TcpState::Unknown
    }
}

impl Site {
    /// Each server with its epoch and its row: the same for every flow but for other rows' owners, who stand in for the
    /// dead.
    pub fn new(v6: bool, row_of: impl Fn(u16) -> (u32, Row)) -> Self {
        let (client, service): (SocketAddr, SocketAddr) = if v6 {
            ("[2001:db8:c::1]:40000".parse().unwrap(), "[2001:db8:1::1]:3478".parse().unwrap())
        } else {
            ("203.0.113.1:40000".parse().unwrap(), "198.18.0.1:3478".parse().unwrap())
        };
        let flow = FiveTuple { protocol: 17, client, service };
        let servers = (1..=SERVERS).map(|server| {
            let (epoch, row) = row_of(server);
            (server, steerer(server, epoch, row, &flow))
        });
        Self { servers: servers.collect(), owner: None, dead: BTreeSet::new(), client, service }
    }

    /// The flow is this server's.
    pub fn owns(&mut self, server: u16) {
        self.owner = Some(server);
    }

    /// Nobody hears of these any more, and every server has noticed.
    pub fn kill(&mut self, dead: &BTreeSet<u16>) {
        self.dead = dead.clone();
    }

    pub fn walk(&self, landing: u16, payload: Payload) -> Walk {
        let mut frame = self.frame(payload);
        let mut at = landing;
        let mut walk = Walk { end: End::Lost(landing), forwards: 0, visited: vec![] };
        let dead = Dead::new(self.dead.iter().copied());
        for _ in 0..20 {
            let flows = One { is_owner: self.owner == Some(at), me: at };
            let mut out = vec![];
            let verdict = self.servers[&at].steer(&frame, &Known { flows: &flows, dead: &dead }, &mut out);
            match verdict {
                Verdict::Pass(reason) => {
                    walk.end = End::Kept { by: at, reason };
                    return walk;
                }
                Verdict::Drop(reason) => {
                    walk.end = End::Dropped(reason);
                    return walk;
                }
                Verdict::Forward { to, .. } => {
                    walk.forwards += 1;
                    walk.visited.push(to);
                    walk.end = End::Lost(to);
                    if self.dead.contains(&to) {
                        return walk;
                    }
                    frame = ethernet(&out);
                    at = to;
                }
            }
        }
        panic!("it goes round and round: {walk:?}")
    }

    fn frame(&self, payload: Payload) -> Vec<u8> {
        let stun = |kind: u8| [&[0, kind, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        let payload = match payload {
            Payload::ChannelData => vec![0x40, 0, 0, 4, 1, 2, 3, 4],
            Payload::Allocate => stun(3),
            Payload::Binding => stun(1),
        };
        ethernet(&datagram(self.client, self.service, &payload))
    }
}

pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let kind: &[u8] = if packet[0] >> 4 == 4 { &[8, 0] } else { &[0x86, 0xDD] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], kind, packet].concat()
}

/// A UDP packet.
pub fn datagram(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16 + 8;
    let fields = [source.port(), destination.port(), length, 0];
    let udp: Vec<u8> = fields.into_iter().flat_map(u16::to_be_bytes).chain(payload.iter().copied()).collect();
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            let total = (length + 20).to_be_bytes();
            let fixed = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
            [&fixed[..], &source.ip().octets(), &destination.ip().octets(), &udp].concat()
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            let bytes = length.to_be_bytes();
            let fixed = [0x60, 0, 0, 0, bytes[0], bytes[1], 17, 64];
            [&fixed[..], &source.ip().octets(), &destination.ip().octets(), &udp].concat()
        }
        _ => unreachable!("two families"),
    }
}

fn steerer(server: u16, epoch: u32, row: Row, flow: &FiveTuple) -> Steerer {
    let key = [3; 16];
    let others: Vec<Row> = (0..1_024).map(|index| Row::of(index % SERVERS + 1)).collect();
    let index = SteeringTable::new(others.clone(), key).unwrap().row_of(flow) as usize;
    let mut rows = others;
    rows[index] = row;
    let place = |server: u16| (server, SocketAddr::from(([10, 77, 0, server as u8], 6_080)));
    let keyring = Keyring::new(FleetKey { id: 1, secret: [5; 16] }, vec![]);
    Steerer {
        me: NodeId { site: SITE, server },
        epoch,
        table: SteeringTable::new(rows, key).unwrap(),
        roles: HashMap::from([(flow.service.ip(), Role { is_service: true, slices: None })]),
        udp_ports: [3_478].into(),
        tcp_ports: [3_478].into(),
        members: (1..=SERVERS).map(place).collect(),
        ufrag_keys: keyring.derive(Purpose::Ufrag),
        keyring,
        mtu: 1_600,
    }
}
