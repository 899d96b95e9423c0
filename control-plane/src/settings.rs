//! Settings that operators give: what they may be, and what one version changes of another.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use trunkline_proto::fleet::v1::{Policy, Settings};
use trunkline_proto::operator::v1::Change;

use crate::operator_service::Fault;

/// Checks settings.
///
/// # Errors
/// [`Fault::Malformed`] names the first field that is not what it may be, as in `policy.peer_allow[3]`.
pub fn check(settings: &Settings) -> Result<(), Fault> {
    let lifetime_s = settings.max_lifetime_s;
    if lifetime_s != 0 && !(LIFETIME_S_MIN..=LIFETIME_S_MAX).contains(&lifetime_s) {
        let problem = format!(
            "{lifetime_s} is not {LIFETIME_S_MIN} to {LIFETIME_S_MAX} seconds; 0 is the default, {LIFETIME_S_DEFAULT}"
        );
        return Err(Fault::malformed("max_lifetime_s", problem));
    }
    let bandwidth = settings.max_bandwidth_bytes_per_s;
    if bandwidth != 0 && bandwidth < BANDWIDTH_BYTES_PER_S_MIN {
        let problem = format!(
            "{bandwidth} does not let one packet pass a second; 0 is no limit, {BANDWIDTH_BYTES_PER_S_MIN} the least"
        );
        return Err(Fault::malformed("max_bandwidth_bytes_per_s", problem));
    }
    settings.policy.as_ref().map_or(Ok(()), check_policy)
}

fn check_policy(policy: &Policy) -> Result<(), Fault> {
    let networks = NETWORKS.iter().map(|(_, of)| of(policy).len());
    let systems = SYSTEMS.iter().map(|(_, of)| of(policy).len());
    let entries: usize = networks.chain(systems).sum();
    if entries > ENTRIES_MAX {
        let problem = format!("it has {entries} entries, {ENTRIES_MAX} at most; put networks together");
        return Err(Fault::malformed("policy", problem));
    }
    for (field, of) in NETWORKS {
        for (index, text) in of(policy).iter().enumerate() {
            let network =
                network(text).map_err(|problem| Fault::malformed(element(field, index), problem))?;
            if *field == PEER_ALLOW && is_never_permitted(network) {
                let problem = format!(
                    "{text} is loopback, link-local, multicast or reserved: such peers are never permitted; remove it"
                );
                return Err(Fault::malformed(element(field, index), problem));
            }
        }
    }
    for (field, of) in SYSTEMS {
        if let Some(index) = of(policy).iter().position(|asn| *asn == 0) {
            let problem = "0 is no autonomous system's number; it may be 1 to 4,294,967,295";
            return Err(Fault::malformed(element(field, index), problem));
        }
    }
    Ok(())
}

/// A network as operators write it: an address, a slash, and how many bits of it count.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn network(text: &str) -> Result<IpNet, String> {
    let malformed = || {
        format!(
            "{text:?} is not a network; write it like 10.0.0.0/8 or 2001:db8::/32, one address as 192.0.2.1/32"
        )
    };
    let network: IpNet = text.parse().map_err(|_| malformed())?;
    if network.trunc() != network {
        return Err(format!(
            "{text} has bits beyond its prefix; write {} for the network, or {} for the one address",
            network.trunc(),
            IpNet::from(network.addr()),
        ));
    }
    Ok(network)
}

/// What is different, by field. Lists are told whole where they are short, else by what comes and goes.
#[must_use]
pub fn changes(before: &Settings, after: &Settings) -> Vec<Change> {
    let none = Policy::default();
    let policies = (before.policy.as_ref().unwrap_or(&none), after.policy.as_ref().unwrap_or(&none));
    let mut changes: Vec<Change> =
        NUMBERS.iter().filter_map(|(field, of)| number_change(field, of(before), of(after))).collect();
    let networks =
        NETWORKS.iter().map(|(field, of)| (*field, of(policies.0).to_vec(), of(policies.1).to_vec()));
    let systems = SYSTEMS.iter().map(|(field, of)| (*field, texts(of(policies.0)), texts(of(policies.1))));
    changes.extend(
        networks.chain(systems).filter_map(|(field, before, after)| list_change(field, &before, &after)),
    );
    changes
}

/// The changes in a line, for the audit log: first how it was, then how it is.
#[must_use]
pub fn summary(changes: &[Change]) -> (String, String) {
    let joined = |side: fn(&Change) -> &str| {
        let each = changes.iter().map(|change| format!("{} {}", change.field, side(change)));
        each.collect::<Vec<_>>().join("; ")
    };
    (joined(|change| &change.before), joined(|change| &change.after))
}

fn number_change(field: &str, before: u64, after: u64) -> Option<Change> {
    let change = || Change { field: field.to_owned(), before: before.to_string(), after: after.to_string() };
    (before != after).then(change)
}

fn list_change(field: &str, before: &[String], after: &[String]) -> Option<Change> {
    if before == after {
        return None;
    }
    let is_long = before.len().max(after.len()) > SHOWN_MAX;
    let (before, after) = if is_long { compared(before, after) } else { (listed(before), listed(after)) };
    Some(Change { field: field.to_owned(), before, after })
}

/// Of long lists what went and what came.
fn compared(before: &[String], after: &[String]) -> (String, String) {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) =
        (before.iter().cloned().collect(), after.iter().cloned().collect());
    let went: Vec<String> = old.difference(&new).cloned().collect();
    let came: Vec<String> = new.difference(&old).cloned().collect();
    (
        format!("{} entries, of which go: {}", before.len(), listed(&went)),
        format!("{} entries, of which are new: {}", after.len(), listed(&came)),
    )
}

fn listed(texts: &[String]) -> String {
    let shown = texts.get(..SHOWN_MAX.min(texts.len())).unwrap_or_default().join(", ");
    let hidden = texts.len().saturating_sub(SHOWN_MAX);
    match (texts.is_empty(), hidden) {
        (true, _) => "none".to_owned(),
        (false, 0) => shown,
        (false, _) => format!("{shown} and {hidden} more"),
    }
}

fn texts(numbers: &[u32]) -> Vec<String> {
    numbers.iter().map(u32::to_string).collect()
}

fn element(field: &str, index: usize) -> String {
    format!("{field}[{index}]")
}

/// Wholly inside a range that is never a peer's, whatever a server is told (RFC 6890; CVE-2020-26262).
fn is_never_permitted(network: IpNet) -> bool {
    let (first, last) = (number(network.network()), number(network.broadcast()));
    NEVER.iter().any(|(address, prefix)| {
        let host = u128::MAX.checked_shr(*prefix).unwrap_or(0);
        let min = number(*address) & !host;
        (min..=min | host).contains(&first) && (min..=min | host).contains(&last)
    })
}

/// IPv4 in its mapped form, so that the mapped spelling of a range is the range.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The ranges that no server relays to, with prefixes of 128 bits: the same as in the server's own policy.
const NEVER: &[(IpAddr, u32)] = &[
    (v4(0, 0, 0, 0), 104),
    (v4(127, 0, 0, 0), 104),
    (v4(169, 254, 0, 0), 112),
    (v4(224, 0, 0, 0), 100),
    (v4(240, 0, 0, 0), 100),
    (v6(0), 127),
    (v6(0xFE80), 10),
    (v6(0xFEC0), 10),
    (v6(0xFF00), 8),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d))
}

const fn v6(high: u16) -> IpAddr {
    IpAddr::V6(std::net::Ipv6Addr::new(high, 0, 0, 0, 0, 0, 0, 0))
}

type NumberOf = fn(&Settings) -> u64;
type NetworksOf = fn(&Policy) -> &[String];
type SystemsOf = fn(&Policy) -> &[u32];

const NUMBERS: &[(&str, NumberOf)] = &[
    ("user_quota", |settings| settings.user_quota.into()),
    ("address_quota", |settings| settings.address_quota.into()),
    ("key_quota", |settings| settings.key_quota.into()),
    ("max_bandwidth_bytes_per_s", |settings| settings.max_bandwidth_bytes_per_s),
    ("max_packets_per_s", |settings| settings.max_packets_per_s),
    ("max_lifetime_s", |settings| settings.max_lifetime_s.into()),
];
const PEER_ALLOW: &str = "policy.peer_allow";
const NETWORKS: &[(&str, NetworksOf)] = &[
    (PEER_ALLOW, |policy| &policy.peer_allow),
    ("policy.peer_deny", |policy| &policy.peer_deny),
    ("policy.client_allow", |policy| &policy.client_allow),
    ("policy.client_deny", |policy| &policy.client_deny),
];
const SYSTEMS: &[(&str, SystemsOf)] = &[
    ("policy.client_allow_asn", |policy| &policy.client_allow_asn),
    ("policy.client_deny_asn", |policy| &policy.client_deny_asn),
];

/// Lifetime of an allocation whose client asks for none (RFC 8656 §7.2): a shorter bound could not be kept.
const LIFETIME_S_MIN: u32 = 600;
/// Nobody's call is longer than a day without a refresh.
const LIFETIME_S_MAX: u32 = 86_400;
/// Of the servers (RFC 8656 §7.2 suggests it).
const LIFETIME_S_DEFAULT: u32 = 3_600;
/// One packet of the usual size.
const BANDWIDTH_BYTES_PER_S_MIN: u64 = 1_500;
/// Entries of all lists together: every server keeps them and looks them up for each new client and peer.
pub const ENTRIES_MAX: usize = 10_000;
/// Entries of a list that are told one by one.
const SHOWN_MAX: usize = 20;
