//! Real shards on the loopback interface: what is applied is in force when the call returns, and nothing is lost with
//! a shard that ends.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use trunkline_turn::client_policy::ClientRules;
use trunkline_turn::policy::PeerPolicy;
use trunkline_turn::ports::RelayBlock;
use trunkline_turn::{ClientPolicy, Config, Limits};
use trunkline_wire::token::{FleetKey, Keyring};
use trunkline_wire::{DropReason, NodeId};

use super::*;

const NODE: NodeId = NodeId { site: 1, server: 1 };
const OTHER: NodeId = NodeId { site: 1, server: 2 };
const RELAY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A Binding request without attributes (RFC 8489 §5).
const BINDING: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn applied() -> Applied {
    let policy = PeerPolicy::new([RELAY], [], vec![], vec![]).unwrap();
    let config = Config {
        node: NODE,
        realm: "trunkline".into(),
        software: String::new(),
        keyring: Keyring::new(FleetKey { id: 1, secret: [1; 16] }, vec![]),
        policy,
        limits: Limits::default(),
    };
    Applied {
        config: Arc::new(config),
        quotas: Default::default(),
        credentials: Arc::default(),
        clients: Arc::default(),
        blocks: vec![RelayBlock::owned_by(RELAY, NODE)],
        members: Default::default(),
        draining: false,
    }
}

/// Shards that listen on a free port of the loopback interface.
fn started() -> (Shards, SocketAddr) {
    let free = |at: &str| TcpListener::bind(at).unwrap().local_addr().unwrap();
    let turn = free("127.0.0.1:0");
    let tls_config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    let listen = Listen { turn: vec![turn], tls: vec![], tls_config: Arc::new(tls_config) };
    let encapsulation = Some(free("127.0.0.1:0"));
    let shards = start(Start { threads: 3, applied: applied(), listen, encapsulation }).unwrap();
    (shards, turn)
}

fn ended(shards: &Shards) {
    shards.stop();
    shards.join();
}

fn denying(net: &str) -> Arc<ClientPolicy> {
    let rules = ClientRules { deny: vec![net.parse().unwrap()], ..ClientRules::default() };
    Arc::new(ClientPolicy::new(rules, None))
}

/// Whether each of many clients, which the kernel spreads over all shards, is answered within a while.
fn answered(turn: SocketAddr, wait: Duration) -> usize {
    let clients: Vec<_> = (0..40).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for client in &clients {
        client.send_to(&BINDING, turn).unwrap();
    }
    let is_answered = |client: &&UdpSocket| {
        client.set_read_timeout(Some(wait)).unwrap();
        client.recv(&mut [0; 500]).is_ok()
    };
    clients.iter().filter(is_answered).count()
}

#[tokio::test]
async fn a_client_policy_is_in_force_on_every_shard_when_it_is_applied() {
    let (shards, turn) = started();
    assert_eq!(answered(turn, Duration::from_secs(5)), 40);
    shards.amend(|applied| applied.clients = denying("127.0.0.0/8")).await;
    assert_eq!(answered(turn, Duration::from_millis(2)), 0);
    let mut refused = TcpStream::connect(turn).unwrap();
    assert!(matches!(refused.read(&mut [0; 1]), Ok(0) | Err(_)), "closed at once");
    shards.amend(|applied| applied.clients = Arc::default()).await;
    assert_eq!(answered(turn, Duration::from_secs(5)), 40);
    ended(&shards);
    assert_eq!(shards.metrics().drops.of(DropReason::ClientDenied), 41);
}

#[tokio::test]
async fn a_whole_configuration_replaces_the_one_before() {
    let (shards, _) = started();
    assert_eq!(shards.port_usage(), (0, 65_536 - 9_216));
    let mut block = RelayBlock::unowned(RELAY);
    (block.owners[20], block.owners[21], block.draining[21]) = (Some(NODE), Some(NODE), true);
    block.owners[30] = Some(OTHER);
    let next = Applied { blocks: vec![block], draining: true, ..applied() };
    shards.apply(Arc::new(next)).await;
    assert_eq!(shards.port_usage(), (0, 1_024));
    assert!(shards.applied().draining && shards.slices_in_use().is_empty());
    assert!(shards.flows().await.is_empty() && shards.take_usage().await.is_empty());
    ended(&shards);
}

/// The slices of others at the relay address, by their owner's encapsulation socket.
async fn divide(shards: &Shards, slices: &[usize], member: SocketAddr) {
    let mut block = RelayBlock::owned_by(RELAY, NODE);
    slices.iter().for_each(|slice| block.owners[*slice] = Some(OTHER));
    let change = |applied: &mut Applied| {
        applied.blocks = vec![block];
        applied.members = [(OTHER, member)].into();
    };
    shards.amend(change).await;
}

/// Whether a peer's packet for a port of the slice reaches its owner, encapsulated.
fn is_passed_on(slice: u16, owner: &UdpSocket) -> bool {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.send_to(b"payload", (RELAY, slice << 10 | 5)).unwrap();
    let mut bytes = [0; 500];
    owner.recv(&mut bytes).is_ok_and(|length| bytes[..length].ends_with(b"payload"))
}

#[tokio::test]
async fn strays_follow_the_owners_of_slices_while_the_node_runs() {
    let (shards, _) = started();
    let owner = UdpSocket::bind("127.0.0.1:0").unwrap();
    owner.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let at = owner.local_addr().unwrap();
    let may_open_raw_sockets =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::UDP)).is_ok();
    for slices in [&[20_u16][..], &[21, 22], &[], &[20]] {
        divide(&shards, &slices.iter().map(|slice| usize::from(*slice)).collect::<Vec<_>>(), at).await;
        for slice in 20..=22 {
            let expected = slices.contains(&slice) && may_open_raw_sockets;
            assert_eq!(is_passed_on(slice, &owner), expected, "{slice} of {slices:?}");
        }
    }
    ended(&shards);
}

#[tokio::test]
async fn who_asks_shards_that_have_ended_is_answered() {
    let (shards, _) = started();
    ended(&shards);
    assert!(shards.take_usage().await.is_empty());
    assert!(shards.allocations().await.is_empty());
    shards.amend(|applied| applied.draining = true).await;
}
