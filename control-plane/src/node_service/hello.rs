//! What a server says of itself first: checked against the others, and made part of the configuration.

use std::net::{IpAddr, SocketAddr};

use tonic::Status;
use trunkline_proto::node::v1::{Hello, Report};
use trunkline_proto::store::v1::{NodeRecord, NodeStatus};
use trunkline_wire::NodeId;

use super::{bounds, overlap};
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
        if !place.is_empty() && kept.record.encapsulation_address == *place {
            return refused(format!(
                "encapsulation_address: {place} is node {other}'s; give node {node} another with \
                 --encapsulation-address, or remove node {other} if it is gone"
            ));
        }
        let clash = hello.relay_addresses.iter().find(|address| kept.record.host_addresses.contains(address));
        if let Some(address) = clash {
            return refused(format!(
                "relay_addresses: {address} is node {other}'s own address, whose relay ports are all its own; share \
                 an address that no server has to itself"
            ));
        }
        let clash = hello.host_addresses.iter().find(|address| kept.record.relay_addresses.contains(address));
        if let Some(address) = clash {
            return refused(format!("host_addresses: {address} is a relay address that node {other} shares"));
        }
        if let Some(text) = overlap::find(node, hello, *other, &kept.record) {
            return refused(text);
        }
    }
    Ok(NodeRecord {
        joined: true,
        encapsulation_address: place.clone(),
        host_addresses: sorted(&hello.host_addresses),
        relay_addresses: sorted(&hello.relay_addresses),
        own_relay_addresses: sorted(&hello.own_relay_addresses),
        nonce_lifetime_s: hello.nonce_lifetime_s.min(NONCE_S_MAX),
        ..kept.record.clone()
    })
}

/// What is known of a server that has just said hello.
pub fn status(state: &State, node: NodeId, hello: &Hello, replica: &str) -> NodeStatus {
    let before = state.statuses.get(&node).map(|kept| &kept.record);
    let report = Report { epoch: hello.epoch, claims: hello.claims.clone(), ..Report::default() };
    let report = bounds::report(report);
    NodeStatus {
        incarnation: hello.incarnation,
        version: bounds::text(hello.version.clone()),
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
/// Longest nonce lifetime that a server can be given, 30 days.
const NONCE_S_MAX: u64 = 30 * 86_400;
