//! Settings over options, both lists of peers, and whose slices are whose.

use trunkline_proto::fleet::v1::{self, Configuration, FleetKeys, Member, Policy, Settings, Slice};
use trunkline_turn::policer::Rate;

use super::*;

const NODE: NodeId = NodeId { site: 1, server: 2 };
const OTHER: NodeId = NodeId { site: 1, server: 3 };

fn machine(toml: &str, shared: &[&str]) -> Machine {
    let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let places = Places {
        service: ips(&["10.0.0.2"]),
        relay: if shared.is_empty() { ips(&["10.0.0.2"]) } else { vec![] },
        shared: ips(shared),
        machine: ips(&["127.0.0.1", "10.0.0.2"]),
    };
    Machine {
        options: toml::from_str(toml).unwrap_or_else(|error| panic!("{error}")),
        node: NODE,
        member: NODE,
        places,
        systems: None,
        ending: Arc::default(),
    }
}

fn message(node: NodeId) -> Option<v1::NodeId> {
    Some(trunkline_control_plane::records::node_message(node))
}

fn configuration() -> Configuration {
    let key = |id, byte| v1::FleetKey { id, secret: vec![byte; 16] };
    Configuration {
        fleet_keys: Some(FleetKeys { keys: vec![key(4, 1), key(5, 2)] }),
        members: vec![
            Member {
                node: message(NODE),
                encapsulation_address: "10.0.0.2:6080".into(),
                host_addresses: vec![],
            },
            Member {
                node: message(OTHER),
                encapsulation_address: "10.0.0.3:6080".into(),
                host_addresses: vec!["203.0.113.3".into()],
            },
        ],
        ..Configuration::default()
    }
}

fn applied(machine: &Machine, configuration: &Configuration) -> Applied {
    machine.applied(configuration).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_setting_wins_over_the_option_unless_it_is_zero() {
    let machine = machine("user-quota = 3\nkey-quota = 4\nmax-bandwidth = 1000000\nmax-lifetime = 900", &[]);
    let settings = Settings { user_quota: 7, max_packets_per_s: 50, ..Settings::default() };
    let applied = applied(&machine, &Configuration { settings: Some(settings), ..configuration() });
    assert_eq!((applied.quotas.per_user, applied.quotas.per_key, applied.quotas.per_address), (7, 4, 0));
    let limits = applied.config.limits;
    assert_eq!((limits.policer.bytes.per_s, limits.policer.packets.per_s), (1_000_000, 50));
    assert_eq!((limits.lifetime_s_max, limits.new_peers), (900, Rate { per_s: 10, burst: 64 }));
}

#[test]
fn peers_are_those_of_both_and_servers_are_none() {
    let machine = machine("allow-peer = [\"10.1.0.0/16\"]\ndeny-peer = [\"10.1.9.0/24\"]", &[]);
    let policy = Policy {
        peer_allow: vec!["10.2.0.0/16".into()],
        peer_deny: vec!["198.51.100.0/24".into()],
        ..Policy::default()
    };
    let settings = Settings { policy: Some(policy), ..Settings::default() };
    let applied = applied(&machine, &Configuration { settings: Some(settings), ..configuration() });
    for (ip, is_permitted) in [
        ("10.1.0.1", true),
        ("10.2.0.1", true),
        ("10.3.0.1", false),
        ("10.1.9.1", false),
        ("198.51.100.1", false),
        ("192.0.2.9", false),
        ("203.0.113.3", false),
        ("8.8.8.8", true),
        ("10.0.0.2", true),
    ] {
        assert_eq!(applied.config.policy.permit(ip.parse().unwrap()).is_ok(), is_permitted, "{ip}");
    }
    assert_eq!(applied.members, HashMap::from([(OTHER, "10.0.0.3:6080".parse().unwrap())]));
}

#[test]
fn slices_are_those_of_the_configuration_and_own_addresses_are_wholly_ours() {
    let machine = machine("", &["192.0.2.10"]);
    let slice = |address: &str, index, state: State, owner| Slice {
        address: address.into(),
        index,
        state: state.into(),
        owner: message(owner),
        lease: 1,
    };
    let slices = vec![
        slice("192.0.2.10", 9, State::Owned, NODE),
        slice("192.0.2.10", 10, State::Draining, NODE),
        slice("192.0.2.10", 11, State::Owned, OTHER),
        slice("192.0.2.99", 12, State::Owned, OTHER),
        slice("192.0.2.99", 13, State::Owned, NODE),
    ];
    let applied = applied(&machine, &Configuration { slices, ..configuration() });
    let [ours, theirs] = &applied.blocks[..] else { panic!("{:?}", applied.blocks) };
    assert_eq!((ours.owners[9], ours.owners[10], ours.owners[11]), (Some(NODE), Some(NODE), Some(OTHER)));
    assert_eq!((ours.draining[9], ours.draining[10], ours.owners[12]), (false, true, None));
    assert_eq!((theirs.owners[12], theirs.owners[13]), (Some(OTHER), None), "an address that is not here");
    let alone = machine_blocks(&self::machine("", &[]));
    assert_eq!(alone[0].owners[63], Some(NODE));
}

fn machine_blocks(machine: &Machine) -> Vec<RelayBlock> {
    applied(machine, &configuration()).blocks
}

#[test]
fn keys_are_the_fleets_and_credentials_those_of_both() {
    let machine = machine("user = [\"alice:secret\"]", &[]);
    let mut all = configuration();
    all.keys = vec![v1::TurnKey { id: "k".into(), secret: "s".into() }];
    all.revocations = vec![v1::Revocation { username: "9:k".into(), expires_unix_s: 9 }];
    let applied = applied(&machine, &all);
    let credentials = &applied.credentials;
    assert!(credentials.users.contains_key("alice") && credentials.keys.contains_key("k"));
    assert!(credentials.revoked.contains("9:k"));
    let none = Configuration { fleet_keys: None, ..configuration() };
    assert_eq!(machine.applied(&none).err().unwrap().field, "fleet_keys");
}

#[test]
fn a_server_that_ends_takes_no_allocations_whatever_it_is_told() {
    let machine = machine("", &[]);
    assert!(!applied(&machine, &configuration()).draining);
    assert!(applied(&machine, &Configuration { draining: true, ..configuration() }).draining);
    machine.ending.store(true, Ordering::Relaxed);
    assert!(applied(&machine, &configuration()).draining);
}

#[test]
fn what_means_nothing_is_refused_by_its_field() {
    let machine = machine("", &[]);
    let policy = |policy| Some(Settings { policy: Some(policy), ..Settings::default() });
    let peer_allow = policy(Policy { peer_allow: vec!["127.0.0.0/8".into()], ..Policy::default() });
    let client_deny = policy(Policy { client_deny: vec!["10.0.0.0/33".into()], ..Policy::default() });
    for (bad, field) in [
        (Configuration { settings: peer_allow, ..configuration() }, "settings.policy.peer_allow"),
        (Configuration { settings: client_deny, ..configuration() }, "settings.policy.client_deny"),
    ] {
        assert_eq!(machine.applied(&bad).err().unwrap().field, field);
    }
}
