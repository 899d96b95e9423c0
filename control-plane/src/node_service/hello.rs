//! What a server says of itself first: checked against the others, and made part of the configuration.

use std::net::{IpAddr, SocketAddr};

use tonic::Status;
use trunkline_proto::node::v1::{Hello, Report};
use trunkline_proto::store::v1::{NodeRecord, NodeStatus};
use trunkline_wire::NodeId;

use crate::core::{Core, Planned};
use crate::records;
use crate::state::State;
use crate::store::StoreError;

/// Why a server is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unwelcome {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server itself.
    #[error("{0}")]
    Refused(String),
}

impl From<Unwelcome> for Status {
    fn from(fault: Unwelcome) -> Self {
        match fault {
            Unwelcome::Store(error) => Self::unavailable(error.to_string()),
            Unwelcome::Refused(text) => Self::failed_precondition(text),
        }
    }
}

/// Makes the server's addresses part of the configuration, where they are new.
pub async fn welcome(core: &Core, node: NodeId, hello: &Hello) -> Result<(), Unwelcome> {
    let plan = |state: &State| -> Result<Planned<()>, Unwelcome> {
        let record = check(state, node, hello)?;
        let is_known = state.nodes.get(&node).is_some_and(|kept| kept.record == record);
        let changes = if is_known { vec![] } else { vec![records::put(node, &record)] };
        Ok(Planned { checks: vec![], changes, touches_configuration: true, answer: () })
    };
    core.change(plan).await.map(|_| ())
}

fn check(state: &State, node: NodeId, hello: &Hello) -> Result<NodeRecord, Unwelcome> {
    let refused = |text: String| Err(Unwelcome::Refused(text));
    let Some(kept) = state.nodes.get(&node) else {
        return refused(format!(
            "node {node} is not a member of this fleet: `trunklinectl nodes add {node}` adds it"
        ));
    };
    let place = &hello.encapsulation_address;
    if !place.is_empty() && place.parse::<SocketAddr>().is_err() {
        return refused(format!("encapsulation_address: {place:?} is not ADDRESS:PORT"));
    }
    for (field, addresses) in [
        ("host_addresses", &hello.host_addresses),
        ("relay_addresses", &hello.relay_addresses),
        ("own_relay_addresses", &hello.own_relay_addresses),
    ] {
        if addresses.len() > ADDRESSES_MAX {
            return refused(format!("{field}: {} of them, {ADDRESSES_MAX} at most", addresses.len()));
        }
        if let Some(wrong) = addresses.iter().find(|address| address.parse::<IpAddr>().is_err()) {
            return refused(format!("{field}: {wrong:?} is not an IP address"));
        }
    }
    for (other, kept) in state.nodes.iter().filter(|(other, kept)| **other != node && kept.record.joined) {
        if let Some(clash) = clash(hello, *other, &kept.record) {
            return refused(format!("{clash} (node {node})"));
        }
    }
    Ok(NodeRecord {
        joined: true,
        encapsulation_address: place.clone(),
        host_addresses: sorted(&hello.host_addresses),
        relay_addresses: sorted(&hello.relay_addresses),
        own_relay_addresses: sorted(&hello.own_relay_addresses),
        ..kept.record.clone()
    })
}

/// What a server cannot have because another member has it, and what to do about that.
fn clash(hello: &Hello, other: NodeId, known: &NodeRecord) -> Option<String> {
    let place = &hello.encapsulation_address;
    if !place.is_empty() && known.encapsulation_address == *place {
        return Some(format!(
            "encapsulation_address: {place} is node {other}'s; give another with --encapsulation-address, or remove \
             node {other} if it is gone"
        ));
    }
    let common = |ours: &[String], theirs: &[String]| ours.iter().find(|ip| theirs.contains(ip)).cloned();
    let is_named = |ip: &String| format!("relay ports of {ip}: ");
    let shared_by_us = common(&hello.relay_addresses, &known.host_addresses)
        .or_else(|| common(&hello.relay_addresses, &known.own_relay_addresses));
    if let Some(ip) = shared_by_us {
        return Some(format!(
            "{}they are all node {other}'s own; share with --shared-relay-address only what every server shares",
            is_named(&ip)
        ));
    }
    let shared_by_them = common(&hello.host_addresses, &known.relay_addresses)
        .or_else(|| common(&hello.own_relay_addresses, &known.relay_addresses));
    if let Some(ip) = shared_by_them {
        return Some(format!(
            "{}node {other} shares them; share them too, with --shared-relay-address {ip}",
            is_named(&ip)
        ));
    }
    // Machines behind NATs, and bridges of containers, have the same private addresses without being the same.
    let owned = common(&hello.own_relay_addresses, &known.own_relay_addresses);
    owned.filter(|ip| !ip.parse().is_ok_and(is_private)).map(|ip| {
        format!(
            "{}they are node {other}'s; name another address with --relay-address, or share this one on all \
             servers with --shared-relay-address",
            is_named(&ip)
        )
    })
}

/// Whether an address means something within one network only (RFC 1918, RFC 6598, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xC0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// What is known of a server that has just said hello.
pub fn status(state: &State, node: NodeId, hello: &Hello, replica: &str) -> NodeStatus {
    let before = state.statuses.get(&node).map(|kept| &kept.record);
    let report = Report { epoch: hello.epoch, claims: hello.claims.clone(), ..Report::default() };
    NodeStatus {
        incarnation: hello.incarnation,
        version: hello.version.clone(),
        reports: before.map_or(0, |status| status.reports).saturating_add(1),
        report: Some(report),
        acknowledged: hello.epoch,
        replica: replica.to_owned(),
        settings_version: before.map_or(0, |status| status.settings_version),
        ..NodeStatus::default()
    }
}

fn sorted(addresses: &[String]) -> Vec<String> {
    let mut addresses = addresses.to_vec();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Addresses of one server.
const ADDRESSES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: NodeId = NodeId { site: 1, server: 2 };

    fn names(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    /// What a server is told that shares `shared` and owns `own` beside one that shares and owns these.
    fn told(shared: &[&str], own: &[&str], their_shared: &[&str], their_own: &[&str]) -> Option<String> {
        let hello =
            Hello { relay_addresses: names(shared), own_relay_addresses: names(own), ..Hello::default() };
        let known = NodeRecord {
            relay_addresses: names(their_shared),
            own_relay_addresses: names(their_own),
            ..NodeRecord::default()
        };
        clash(&hello, OTHER, &known)
    }

    #[test]
    fn relay_ports_have_one_owner_or_are_shared_by_all() {
        let (a, b) = (&["203.0.113.1"][..], &["203.0.113.2"][..]);
        assert_eq!(told(a, b, a, &["203.0.113.3"]), None, "both share one and own another");
        for (clash, words) in [
            (told(&[], a, &[], a), "--relay-address"),
            (told(a, &[], &[], a), "all node 1.2's own"),
            (told(&[], a, a, &[]), "--shared-relay-address 203.0.113.1"),
            (told(&["10.0.0.1"], &[], &[], &["10.0.0.1"]), "all node 1.2's own"),
        ] {
            let clash = clash.unwrap();
            assert!(clash.contains(words) && clash.contains("node 1.2"), "{clash}");
        }
        assert_eq!(told(&[], &["172.17.0.1"], &[], &["172.17.0.1"]), None, "a bridge of containers");
        assert_eq!(told(&[], &["fd00::1"], &[], &["fd00::1"]), None);
        assert!(told(&[], &["2001:db8::1"], &[], &["2001:db8::1"]).is_some());
    }
}
