//! What every run of the server target has in common: addresses, users, limits, and what they mean.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use trunkline_turn::credentials::{Credentials, Secret};
use trunkline_turn::policer::{PolicerLimits, Rate};
use trunkline_turn::policy::PeerPolicy;
use trunkline_turn::ports::RelayBlock;
use trunkline_turn::ports::{PortLease, PortTable, Reservations};
use trunkline_turn::quota::{Ledger, Quotas};
use trunkline_turn::{Config, Limits, Server, ShardConfig, Shared};
use trunkline_wire::token::{FleetKey, Keyring};
use trunkline_wire::{ClientFlow, ListenerId, NodeId, StreamId, Transport};

use super::message::Credential;

/// The server under test, and another one of its fleet.
pub(crate) const NODE: NodeId = NodeId { site: 1, server: 1 };
pub(crate) const OTHER_NODE: NodeId = NodeId { site: 1, server: 2 };

pub(crate) const REALM: &str = "trunkline";
/// When the runs begin; a multiple of a nonce's tick.
pub(crate) const START_UNIX_S: u64 = 1_700_000_000;

/// Small enough that a short run reaches each of them.
pub(crate) const ALLOCATIONS_MAX: usize = 3;
pub(crate) const PER_USER_MAX: usize = 2;
pub(crate) const PERMISSIONS_MAX: usize = 4;
pub(crate) const CHANNELS_MAX: usize = 3;
/// One a second is given back.
pub(crate) const NEW_PEERS_BURST: u64 = 3;
/// One a second is given back.
pub(crate) const PACKETS_BURST: u64 = 6;
pub(crate) const LIFETIME_S_MAX: u32 = 3_600;
pub(crate) const NONCE_LIFETIME_S: u64 = 3_600;

/// The 5-tuples that clients use, by index.
pub(crate) const FLOWS: usize = 5;

pub(crate) fn flow(index: usize) -> ClientFlow {
    let (transport, listener, remote, stream) = match index {
        0 => (Transport::Udp, 0, "198.18.0.10:1000", 0),
        1 => (Transport::Udp, 0, "198.18.0.10:1001", 0),
        // The address of flow 0, but another transport: another 5-tuple.
        2 => (Transport::Tcp, 1, "198.18.0.10:1000", 7),
        3 => (Transport::Udp, 2, "[2001:db8:c::1]:2000", 0),
        _ => (Transport::Tls, 3, "198.18.0.11:5000", 8),
    };
    ClientFlow {
        transport,
        listener: ListenerId(listener),
        remote: address(remote),
        stream: StreamId(stream),
    }
}

/// Users by index; the last one's credential ends during a run.
pub(crate) const USERS: [&str; 3] = ["alice", "bob", "1700001200:carol"];
pub(crate) const EXPIRES_UNIX_S: [Option<u64>; 3] = [None, None, Some(1_700_001_200)];
const STATIC_SECRET: &str = "north";

pub(crate) fn credential(user: usize) -> Credential {
    let password = match user {
        0 => "alice's".to_owned(),
        1 => "bob's".to_owned(),
        _ => Credential::time_limited_password(STATIC_SECRET, USERS[user]),
    };
    Credential::new(USERS[user], REALM, &password)
}

pub(crate) fn credentials(revoked: &BTreeSet<usize>) -> Arc<Credentials> {
    Arc::new(Credentials {
        static_secret: Some(Secret::new(STATIC_SECRET.into())),
        users: HashMap::from(["alice", "bob"].map(|name| (name.into(), Secret::new(format!("{name}'s"))))),
        keys: HashMap::new(),
        revoked: revoked.iter().map(|user| USERS[*user].to_owned()).collect::<HashSet<_>>(),
    })
}

/// What the peer policy must make of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A peer outside: through the relay socket.
    Outside,
    /// A relay address of the fleet: inside only.
    OwnRelay,
    /// 403.
    Denied,
}

/// Peers by index. Behind them come the relayed addresses of the flows' allocations.
pub(crate) const PEERS: [(&str, Standing); 19] = [
    ("8.8.8.8:53", Standing::Outside),
    ("8.8.8.8:54", Standing::Outside),
    ("9.9.9.9:53", Standing::Outside),
    ("1.1.1.1:53", Standing::Outside),
    ("4.4.4.4:4", Standing::Outside),
    ("10.9.0.1:5000", Standing::Outside), // private, and allowed by configuration
    ("10.8.0.1:5000", Standing::Denied),
    ("127.0.0.1:80", Standing::Denied),
    ("[2606:4700::1111]:53", Standing::Outside),
    ("[2606:4700::1111]:54", Standing::Outside),
    ("[::ffff:10.8.0.1]:1", Standing::Denied),
    ("[64:ff9b::7f00:1]:1", Standing::Denied),
    ("[2002:c000:201::]:1", Standing::Denied), // 6to4 of the relay address
    ("192.0.2.77:3478", Standing::Denied),     // another address of this server
    (SIBLING, Standing::OwnRelay),
    ("192.0.2.1:60000", Standing::OwnRelay), // the other server's slice
    ("192.0.2.1:3478", Standing::OwnRelay),  // no relay port
    ("192.0.2.1:9301", Standing::OwnRelay),
    ("[2001:db8::1]:9301", Standing::OwnRelay),
];

const RELAY_V4: &str = "192.0.2.1";
const RELAY_V6: &str = "2001:db8::1";
/// A port that another shard of this server holds all the time.
pub(crate) const SIBLING: &str = "192.0.2.1:9300";
pub(crate) const SIBLING_SHARD: u8 = 1;
/// Ports of our slices: two on IPv4, one on IPv6. The other server's slices begin at the second number.
const OUR_SLICES: [usize; 2] = [9, 10];
pub(crate) const OTHER_PORT_MIN: u16 = 58 << 10;

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address of this file")
}

pub(crate) fn is_relay_ip(at: SocketAddr) -> bool {
    [RELAY_V4, RELAY_V6].iter().any(|ip| at.ip().to_string() == *ip)
}

/// Whether an allocation can have been given this address.
pub(crate) fn is_ours(at: SocketAddr) -> bool {
    let slice = usize::from(at.port() >> 10);
    is_relay_ip(at) && OUR_SLICES.contains(&slice) && at != address(SIBLING)
}

/// The relay ports. Making the table takes longer than a run, so a thread makes it once; a run leaves no port held.
pub(crate) struct Ports {
    pub both: Arc<PortTable>,
    pub v4_only: Arc<PortTable>,
    _siblings: [Option<PortLease>; 2],
}

thread_local! {
    static PORTS: RefCell<Option<Arc<Ports>>> = const { RefCell::new(None) };
}

pub(crate) fn ports() -> Arc<Ports> {
    PORTS.with_borrow_mut(|ports| Arc::clone(ports.get_or_insert_with(|| Arc::new(Ports::new()))))
}

impl Ports {
    fn new() -> Self {
        let (both, v4_only) = (table(&[RELAY_V4, RELAY_V6]), table(&[RELAY_V4]));
        let siblings = [&both, &v4_only].map(|table| table.lease_exactly(address(SIBLING), SIBLING_SHARD));
        Self { both, v4_only, _siblings: siblings }
    }
}

fn table(ips: &[&str]) -> Arc<PortTable> {
    let block = |ip: &&str| {
        let mut block = RelayBlock::unowned(ip.parse().expect("an address"));
        OUR_SLICES.iter().for_each(|slice| block.owners[*slice] = Some(NODE));
        block.owners[usize::from(OTHER_PORT_MIN >> 10)..].fill(Some(OTHER_NODE));
        block
    };
    PortTable::new(NODE, ips.iter().map(block).collect())
}

/// A server without allocations; without an IPv6 relay address if so asked.
pub(crate) fn server(ipv6: bool) -> Server {
    let ports = ports();
    let ports = if ipv6 { Arc::clone(&ports.both) } else { Arc::clone(&ports.v4_only) };
    let ledger = Ledger::new(Quotas { per_user: PER_USER_MAX as u32, per_address: 0, per_key: 0 });
    let shared = Shared { ports, reservations: Reservations::default(), ledger };
    let listeners =
        ["192.0.2.1:3478", "192.0.2.1:3478", "[2001:db8::1]:3478", "192.0.2.1:5349"].map(address).to_vec();
    let shard = ShardConfig { shard: 0, seed: [7; 32], listeners };
    Server::new(Arc::new(config()), Arc::new(shared), credentials(&BTreeSet::new()), shard)
}

fn config() -> Config {
    let relays = [RELAY_V4, RELAY_V6].map(|ip| ip.parse().expect("an address"));
    let own = ["192.0.2.77".parse().expect("an address")];
    let allow = vec!["10.9.0.0/16".parse().expect("a range")];
    Config {
        node: NODE,
        realm: REALM.into(),
        software: "Trunkline".into(),
        keyring: Keyring::new(FleetKey { id: 1, secret: [9; 16] }, vec![]),
        policy: PeerPolicy::new(relays, own, allow, vec![]).expect("a policy"),
        limits: Limits {
            allocations_max: ALLOCATIONS_MAX,
            lifetime_s_max: LIFETIME_S_MAX,
            nonce_lifetime_s: NONCE_LIFETIME_S,
            permissions_max: PERMISSIONS_MAX,
            channels_max: CHANNELS_MAX,
            new_peers: Rate { per_s: 1, burst: NEW_PEERS_BURST },
            policer: PolicerLimits {
                bytes: Rate::UNLIMITED,
                packets: Rate { per_s: 1, burst: PACKETS_BURST },
            },
            unauthenticated: Rate::UNLIMITED,
        },
    }
}
