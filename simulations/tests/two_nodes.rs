//! The walking skeleton of the fleet: two nodes share one anycast relay address, a static slice table says which
//! ports are whose, and what lands on the wrong node reaches the owner encapsulated.
//!
//! ```text
//! client ── router ── node A (1.1, ports 10240–11263)
//!             │  └─── node B (1.2, ports 11264–12287)
//! peer ───────┘       both carry 10.99.0.1; the router sends it to one of them
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use libtest_mimic::Arguments;
use trunkline_simulations::netns::{Namespace, Veth, require_root};
use trunkline_simulations::server::{ScratchDirectory, Trunkline};
use trunkline_simulations::trial::trial;
use trunkline_simulations::turn_client::{Allocated, Credentials, Received, TurnClient};

fn main() {
    let on_a_fleet = |name: &str, run: fn() -> Result<(), String>| trial(name, require_root().err(), run);
    let trials = vec![
        on_a_fleet("packet_on_the_wrong_node_reaches_its_owner_and_the_client", packet_on_the_wrong_node),
        on_a_fleet("packet_from_a_node_with_another_fleet_key_is_dropped_and_counted", another_fleet_key),
        on_a_fleet(
            "relay_to_relay_between_two_nodes_stays_inside_the_fleet",
            relay_to_relay_between_two_nodes,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

const RELAY: &str = "10.99.0.1";
const ROUTER_ADDRESSES: [(&str, &str); 4] = [
    ("10.70.1.1/24", "10.70.1.2/24"),
    ("10.70.2.1/24", "10.70.2.2/24"),
    ("10.70.3.1/24", "10.70.3.2/24"),
    ("10.70.4.1/24", "10.70.4.2/24"),
];
const NODE_A: &str = "10.70.2.2";
const NODE_B: &str = "10.70.3.2";
const PEER: &str = "10.70.4.2";
const KEY: &str = "000102030405060708090a0b0c0d0e0f";
const PATIENCE: Duration = Duration::from_secs(3);
/// How long something that must not arrive is waited for.
const SILENCE: Duration = Duration::from_millis(700);

/// A running node; it ends before its namespace goes.
struct Node {
    _running: Trunkline,
    space: Namespace,
}

/// Two nodes, a client and a peer around a router.
struct Fleet {
    node_a: Node,
    _node_b: Node,
    client: Namespace,
    peer: Namespace,
    router: Namespace,
}

impl Fleet {
    fn new(key_of_b: &str) -> Result<Self, String> {
        Self::build(key_of_b).map_err(|error| error.to_string())
    }

    fn build(key_of_b: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let spaces = ["client", "node-a", "node-b", "peer"].map(Namespace::new);
        let [client, node_a, node_b, peer] = spaces;
        let (client, node_a, node_b, peer) = (client?, node_a?, node_b?, peer?);
        let router = Namespace::new("router")?;
        router.set_sysctl("net.ipv4.ip_forward", "1")?;
        for (space, (router_side, own_side)) in
            [&client, &node_a, &node_b, &peer].into_iter().zip(ROUTER_ADDRESSES)
        {
            Veth::connect(&router, router_side, space, own_side)?;
            let gateway = router_side.trim_end_matches("/24").parse()?;
            space.default_route(gateway)?;
        }
        for node in [&node_a, &node_b] {
            node.add_address("lo", &format!("{RELAY}/32"))?;
            quiet_about_strays(node)?;
        }
        let running_a = start(&node_a, NODE_A, "1.1", NODE_B, "1.2", KEY)?;
        let running_b = start(&node_b, NODE_B, "1.2", NODE_A, "1.1", key_of_b)?;
        let node_a = Node { _running: running_a, space: node_a };
        let node_b = Node { _running: running_b, space: node_b };
        Ok(Self { node_a, _node_b: node_b, client, peer, router })
    }

    /// Where the router drops packets for the anycast relay address from now on.
    fn land_on(&self, node: &str) -> Result<(), String> {
        self.router
            .ip(&["route", "replace", &format!("{RELAY}/32"), "via", node])
            .map_err(|error| error.to_string())
    }

    /// A client with an allocation on a node and a permission for `permitted`.
    fn allocate(&self, node: &str, permitted: &str) -> Result<(TurnClient, Allocated), String> {
        let server = SocketAddr::new(node.parse().map_err(|_| "no address")?, 3478);
        let made = self.client.enter(|| {
            let mut client =
                TurnClient::udp(([10, 70, 1, 2], 0).into(), server, Credentials::new("alice", "secret"))
                    .map_err(|error| error.to_string())?;
            let allocated = client.allocate().map_err(|error| format!("{error:?}"))?;
            client
                .create_permission(&[permitted.parse().map_err(|_| "no address")?])
                .map_err(|error| format!("{error:?}"))?;
            Ok::<_, String>((client, allocated))
        });
        made.map_err(|error| error.to_string())?
    }

    fn peer_socket(&self) -> Result<UdpSocket, String> {
        let bound = self.peer.enter(|| UdpSocket::bind((PEER, 0)));
        bound.and_then(|socket| socket).map_err(|error| error.to_string())
    }

    /// The value of a metric of a node, read over HTTP inside its namespace.
    fn metric(node: &Node, line_start: &str) -> Result<f64, String> {
        let text = node.space.enter(|| {
            let mut response =
                ureq::get("http://127.0.0.1:8080/metrics").call().map_err(|error| error.to_string())?;
            response.body_mut().read_to_string().map_err(|error| error.to_string())
        });
        let text = text.map_err(|error| error.to_string())??;
        let line =
            text.lines().find(|line| line.starts_with(line_start)).ok_or(format!("no {line_start}"))?;
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).ok_or(format!("odd line {line}"))
    }
}

/// Keeps the kernel of a node from answering strays with "port unreachable": it does not know their owner.
fn quiet_about_strays(node: &Namespace) -> Result<(), String> {
    let rules = "add table ip quiet; add chain ip quiet out { type filter hook output priority 0; }; \
                 add rule ip quiet out icmp type destination-unreachable icmp code port-unreachable drop";
    let status = node.command("nft").arg(rules).status().map_err(|error| format!("nft: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("nft ended with {status}")) }
}

fn start(
    namespace: &Namespace,
    address: &str,
    node: &str,
    other_address: &str,
    other: &str,
    key: &str,
) -> Result<Trunkline, String> {
    let directory = ScratchDirectory::new()?;
    let file = directory.path().join("node.toml");
    let (a, b) = if node < other { (node, other) } else { (other, node) };
    let text = format!(
        r#"
        address = ["{address}"]
        relay-address = ["{RELAY}"]
        user = ["alice:secret"]
        allow-peer = ["10.70.0.0/16"]
        [fleet]
        node = "{node}"
        encapsulation-address = "{address}:6080"
        key = "{key}"
        members = [{{ node = "{other}", encapsulation-address = "{other_address}:6080" }}]
        slices = [
          {{ address = "{RELAY}", first-port = 10240, last-port = 11263, node = "{a}" }},
          {{ address = "{RELAY}", first-port = 11264, last-port = 12287, node = "{b}" }},
        ]
        "#
    );
    std::fs::write(&file, text).map_err(|error| error.to_string())?;
    let file = file.to_str().ok_or("odd path")?;
    Trunkline::start(namespace, &["--config", file])
}

fn expect_data(client: &mut TurnClient, from: SocketAddr, expected: &[u8]) -> Result<(), String> {
    match client.receive(PATIENCE) {
        Ok(Received::Data { peer, data }) if peer == from && data == expected => Ok(()),
        other => Err(format!("expected {} bytes from {from}, got {other:?}", expected.len())),
    }
}

fn packet_on_the_wrong_node() -> Result<(), String> {
    let fleet = Fleet::new(KEY)?;
    let (mut client, allocated) = fleet.allocate(NODE_A, PEER)?;
    if !(10_240..=11_263).contains(&allocated.relayed.port()) {
        return Err(format!("node 1.1 relays from {}, which is not in its slice", allocated.relayed));
    }
    let peer = fleet.peer_socket()?;
    let peer_address = peer.local_addr().map_err(|error| error.to_string())?;

    // The control: the packet lands on the owner itself.
    fleet.land_on(NODE_A)?;
    peer.send_to(b"on the owner", allocated.relayed).map_err(|error| error.to_string())?;
    expect_data(&mut client, peer_address, b"on the owner")?;

    fleet.land_on(NODE_B)?;
    for length in [0, 1, 1_000, 1_400] {
        let payload = vec![0x5A; length];
        peer.send_to(&payload, allocated.relayed).map_err(|error| error.to_string())?;
        expect_data(&mut client, peer_address, &payload)?;
    }

    // The answer leaves the owner directly, from the anycast relay address.
    client.send_indication(peer_address, b"answer").map_err(|error| error.to_string())?;
    peer.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let mut buffer = [0; 100];
    let (length, from) = peer.recv_from(&mut buffer).map_err(|error| format!("no answer: {error}"))?;
    if (&buffer[..length], from) != (&b"answer"[..], allocated.relayed) {
        return Err(format!("an answer of {length} bytes from {from}"));
    }

    // A peer without permission gets nothing through, whichever way it takes.
    let stranger = fleet.router.enter(|| UdpSocket::bind(("10.70.4.1", 0)));
    let stranger = stranger.and_then(|socket| socket).map_err(|error| error.to_string())?;
    stranger.send_to(b"let me in", allocated.relayed).map_err(|error| error.to_string())?;
    match client.receive(SILENCE) {
        Err(_) => Ok(()),
        Ok(received) => Err(format!("without permission: {received:?}")),
    }
}

fn another_fleet_key() -> Result<(), String> {
    let fleet = Fleet::new("ffffffffffffffffffffffffffffffff")?;
    let (mut client, allocated) = fleet.allocate(NODE_A, PEER)?;
    let peer = fleet.peer_socket()?;
    fleet.land_on(NODE_B)?;
    peer.send_to(b"hello", allocated.relayed).map_err(|error| error.to_string())?;
    if let Ok(received) = client.receive(SILENCE) {
        return Err(format!("passed although the keys differ: {received:?}"));
    }
    let dropped =
        Fleet::metric(&fleet.node_a, "trunkline_turn_dropped_packets_total{reason=\"bad_encapsulation\"}")?;
    if dropped == 1.0 { Ok(()) } else { Err(format!("{dropped} drops counted as bad_encapsulation")) }
}

fn relay_to_relay_between_two_nodes() -> Result<(), String> {
    let fleet = Fleet::new(KEY)?;
    // Wherever the router sends the relay address, these packets never leave the fleet.
    fleet.land_on(PEER)?;
    let (mut first, at_a) = fleet.allocate(NODE_A, RELAY)?;
    let (mut second, at_b) = fleet.allocate(NODE_B, RELAY)?;
    if !(11_264..=12_287).contains(&at_b.relayed.port()) {
        return Err(format!("node 1.2 relays from {}, which is not in its slice", at_b.relayed));
    }
    first.send_indication(at_b.relayed, b"to the second").map_err(|error| error.to_string())?;
    expect_data(&mut second, at_a.relayed, b"to the second")?;
    second.send_indication(at_a.relayed, b"to the first").map_err(|error| error.to_string())?;
    expect_data(&mut first, at_b.relayed, b"to the first")
}
