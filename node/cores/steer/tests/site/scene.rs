//! The site of the fixtures, as its server 1 sees it. The program in the kernel is tried with the same one.

use std::collections::HashMap;
use std::net::SocketAddr;

use trunkline_steer::{Dead, FiveTuple, Role, Row, Steerer, SteeringTable};
use trunkline_wire::NodeId;
use trunkline_wire::token::{FleetKey, Keyring, Purpose};

/// Site 1 of servers 1 to 4 at 10.77.0.1 to 4, of which 4 does not answer. Service address 198.18.0.1 and 2001:db8:1::1,
/// relay address 198.18.0.2: slices from port 9,216 on are server 1's, 2's, site 2's, nobody's, and so on again.
/// Rows, by index modulo 4: server 1's; server 2's; server 2's after 3 and 1; the dead server's.
pub fn steerer() -> Steerer {
    let keyring =
        Keyring::new(FleetKey { id: 1, secret: [5; 16] }, vec![FleetKey { id: 2, secret: [6; 16] }]);
    let rows = [Row::of(1), Row::of(2), Row { current: 2, next: 0, previous: [3, 1] }, Row::of(4)];
    let owners = [
        NodeId { site: 1, server: 1 },
        NodeId { site: 1, server: 2 },
        NodeId { site: 2, server: 1 },
        NodeId::default(),
    ];
    let slices =
        std::array::from_fn(|index| if index < 9 { NodeId::default() } else { owners[(index - 9) % 4] });
    let service = || Role { is_service: true, slices: None };
    Steerer {
        me: NodeId { site: 1, server: 1 },
        epoch: 7,
        table: SteeringTable::new((0..1_024).map(|index| rows[index % 4]).collect(), [3; 16])
            .expect("a table"),
        roles: HashMap::from([
            ("198.18.0.1".parse().expect("an address"), service()),
            ("2001:db8:1::1".parse().expect("an address"), service()),
            (
                "198.18.0.2".parse().expect("an address"),
                Role { is_service: false, slices: Some(Box::new(slices)) },
            ),
        ]),
        udp_ports: [3_478].into(),
        tcp_ports: [3_478, 5_349].into(),
        members: (1..=4)
            .map(|server: u16| (server, SocketAddr::from(([10, 77, 0, server as u8], 6_080))))
            .collect(),
        ufrag_keys: keyring.derive(Purpose::Ufrag),
        keyring,
        mtu: 1_600,
    }
}

/// Server 4.
pub fn dead() -> Dead {
    Dead::new([4])
}

/// The flow from 203.0.113.9:40000 is server 1's, that from 203.0.113.10:40000 server 3's.
pub fn known() -> [(FiveTuple, u16); 2] {
    let flow = |last: u8| FiveTuple {
        protocol: 17,
        client: SocketAddr::from(([203, 0, 113, last], 40_000)),
        service: SocketAddr::from(([198, 18, 0, 1], 3_478)),
    };
    [(flow(9), 1), (flow(10), 3)]
}

/// One fixture.
pub struct Fixture {
    pub description: String,
    pub frame: Vec<u8>,
    /// "pass own_flow", "forward 2 row", "drop stranger"
    pub verdict: String,
    /// From the IP header on; `None` where the frame stays as it came.
    pub out: Option<Vec<u8>>,
}

/// Reads `fixtures.txt`: a line `# description`, then `in HEX`, `verdict …`, and `out HEX` where the packet changes.
pub fn fixtures() -> Vec<Fixture> {
    let mut fixtures: Vec<Fixture> = vec![];
    for line in include_str!("fixtures.txt").lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, fixtures.last_mut()) {
            ("#", _) => fixtures.push(Fixture {
                description: rest.to_owned(),
                frame: vec![],
                verdict: String::new(),
                out: None,
            }),
            ("in", Some(last)) => last.frame = bytes(rest),
            ("verdict", Some(last)) => last.verdict = rest.to_owned(),
            ("out", Some(last)) => last.out = Some(bytes(rest)),
            ("", _) => {}
            _ => panic!("fixtures.txt: what is {line:?}?"),
        }
    }
    fixtures
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("hex"));
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("{pair:?} in fixtures.txt")))
        .collect()
}
