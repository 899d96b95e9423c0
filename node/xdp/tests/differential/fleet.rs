//! Random sites as one of their servers sees them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use trunkline_steer::{Dead, FiveTuple, Flows, Role, Row, Steerer, SteeringTable, TcpState};
use trunkline_wire::NodeId;
use trunkline_wire::token::{FleetKey, Keyring, Purpose};

use crate::random::Random;

pub const SITE: u16 = 3;
pub const SERVERS: u16 = 6;
pub const UDP_PORTS: [u16; 2] = [3_478, 443];
pub const TCP_PORTS: [u16; 2] = [3_478, 5_349];
pub const EPOCH: u32 = 1_000;

/// What the reference and the program are both told.
pub struct Scene {
    pub steerer: Steerer,
    pub dead: Dead,
    pub dead_servers: Vec<u16>,
    pub known: KnownFlows,
}

#[derive(Default)]
pub struct KnownFlows(pub HashMap<FiveTuple, u16>);

impl Flows for KnownFlows {
    fn owner(&self, flow: &FiveTuple) -> Option<u16> {
        self.0.get(flow).copied()
    }

    fn tcp(&self, _: &FiveTuple, _: Option<&[u8]>) -> TcpState {
        TcpState::Unknown
    }
}

pub fn services(v6: bool) -> [IpAddr; 2] {
    let all = if v6 { ["2001:db8:1::1", "2001:db8:1::2"] } else { ["198.18.0.1", "198.18.0.2"] };
    all.map(|text| text.parse().unwrap())
}

pub fn relays(v6: bool) -> [IpAddr; 2] {
    let all = if v6 { ["2001:db8:2::1", "2001:db8:1::2"] } else { ["198.18.1.1", "198.18.0.2"] };
    all.map(|text| text.parse().unwrap())
}

pub fn client(random: &mut Random, v6: bool) -> IpAddr {
    let last = random.below(8) + 1;
    let text = if v6 { format!("2001:db8:c::{last}") } else { format!("203.0.113.{last}") };
    text.parse().unwrap()
}

pub fn place(server: u16, v6: bool) -> SocketAddr {
    let text = if v6 { format!("[fd00::{server}]:6080") } else { format!("10.77.0.{server}:6080") };
    text.parse().unwrap()
}

pub fn keyring(current: u8) -> Keyring {
    let key = |id: u8| FleetKey { id, secret: [id.wrapping_mul(17); 16] };
    Keyring::new(key(current), vec![key(current.wrapping_add(1))])
}

/// A site whose fabric is IPv4 or IPv6, with rows of every history.
pub fn scene(random: &mut Random, fabric_v6: bool) -> Scene {
    let me = NodeId { site: SITE, server: 1 + random.below(u64::from(SERVERS)) as u16 };
    let keyring = keyring(1);
    let dead_servers: Vec<u16> = (1..=SERVERS).filter(|_| random.once_in(6)).collect();
    let steerer = Steerer {
        me,
        epoch: EPOCH,
        table: table(random),
        roles: roles(random, me),
        udp_ports: UDP_PORTS.into(),
        tcp_ports: TCP_PORTS.into(),
        // One server is not known yet.
        members: (1..SERVERS).chain([me.server]).map(|server| (server, place(server, fabric_v6))).collect(),
        ufrag_keys: keyring.derive(Purpose::Ufrag),
        keyring,
        mtu: 1_600,
    };
    let dead = Dead::new(dead_servers.iter().copied());
    Scene { steerer, dead, dead_servers, known: KnownFlows::default() }
}

fn table(random: &mut Random) -> SteeringTable {
    let any = |random: &mut Random| random.below(u64::from(SERVERS) + 1) as u16;
    let row = |random: &mut Random| Row {
        current: 1 + random.below(u64::from(SERVERS)) as u16,
        next: if random.once_in(4) { any(random) } else { 0 },
        previous: [any(random), any(random)],
    };
    let rows = (0..1_024).map(|_| row(random)).collect();
    SteeringTable::new(rows, [9; 16]).unwrap()
}

fn roles(random: &mut Random, me: NodeId) -> HashMap<IpAddr, Role> {
    let mut roles: BTreeMap<IpAddr, Role> = BTreeMap::new();
    for v6 in [false, true] {
        for ip in services(v6) {
            roles.entry(ip).or_default().is_service = true;
        }
        for ip in relays(v6) {
            let owner = |random: &mut Random| match random.below(8) {
                0 => NodeId::default(),
                1 => NodeId { site: SITE + 1, server: 1 },
                2..4 => me,
                _ => NodeId { site: SITE, server: 1 + random.below(u64::from(SERVERS)) as u16 },
            };
            let slices = std::array::from_fn(|_| owner(random));
            roles.entry(ip).or_default().slices = Some(Box::new(slices));
        }
    }
    roles.into_iter().collect()
}
