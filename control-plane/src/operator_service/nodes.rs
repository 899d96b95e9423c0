//! Servers as operators see them.

use std::time::Duration;

use trunkline_proto::operator::v1::{ListNodesRequest, ListNodesResponse, Node, node::State as Condition};
use trunkline_proto::store::v1::{NodeRecord, NodeStatus};
use trunkline_wire::NodeId;

use super::sightings::{DEAD_AFTER, Sightings};
use super::{Fault, table};
use crate::records::{node_id, node_message};
use crate::state::State;

/// The servers that a request asks for.
///
/// # Errors
/// It names a server that there is not.
pub fn list(state: &State, seen: &Sightings, request: &ListNodesRequest) -> Result<ListNodesResponse, Fault> {
    let only = request.node.as_ref().map(|node| known(state, "node", Some(node))).transpose()?;
    let is_wanted = |node: &NodeId| {
        only.is_none_or(|only| only == *node) && request.site.is_none_or(|site| site == u32::from(node.site))
    };
    let wanted = state.nodes.iter().filter(|(node, _)| is_wanted(node));
    let nodes =
        wanted.map(|(node, kept)| view(state, seen.silent_for(state, *node), *node, &kept.record)).collect();
    Ok(ListNodesResponse { nodes })
}

/// The member that a field names.
///
/// # Errors
/// The field is not set, not a NodeId, or not a member's.
pub fn known(
    state: &State,
    field: &'static str,
    message: Option<&trunkline_proto::fleet::v1::NodeId>,
) -> Result<NodeId, Fault> {
    let node = named(field, message)?;
    if state.nodes.contains_key(&node) {
        return Ok(node);
    }
    Err(Fault::unknown(field, format!("there is no node {node}; `trunklinectl nodes` lists them")))
}

/// The NodeId that a field gives.
///
/// # Errors
/// The field is not set, or a half is 0 or above 65,535.
pub fn named(
    field: &'static str,
    message: Option<&trunkline_proto::fleet::v1::NodeId>,
) -> Result<NodeId, Fault> {
    let message =
        message.ok_or_else(|| Fault::malformed(field, "it is not set; name a server as SITE.SERVER"))?;
    for (half, number) in [("site", message.site), ("server", message.server)] {
        if !(1..=u32::from(u16::MAX)).contains(&number) {
            return Err(Fault::malformed(format!("{field}.{half}"), format!("{number} is not 1 to 65,535")));
        }
    }
    node_id(message).ok_or_else(|| Fault::malformed(field, "not a NodeId"))
}

fn view(state: &State, silence: Option<Duration>, node: NodeId, record: &NodeRecord) -> Node {
    let status = state.statuses.get(&node).map(|kept| kept.record.clone()).unwrap_or_default();
    let rows = table::rows_of(state, node);
    Node {
        node: Some(node_message(node)),
        state: condition(record, &status, silence, rows).into(),
        weight: record.weight,
        epoch: status.acknowledged,
        incarnation: status.incarnation,
        version: status.version,
        host_addresses: record.host_addresses.clone(),
        report: status.report,
        reported_ms_ago: silence.map_or(0, |silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
        rows,
        slices: super::slices::held(state, node),
        replica: status.replica,
        own_relay_addresses: record.own_relay_addresses.clone(),
        relay_addresses: record.relay_addresses.clone(),
    }
}

/// The one word for how a server is. A draining server stays draining whatever else it reports: who waits for it to be
/// drained sees its faults in the report.
pub fn condition(
    record: &NodeRecord,
    status: &NodeStatus,
    silence: Option<Duration>,
    rows: u32,
) -> Condition {
    let report = status.report.as_ref();
    let is_empty = rows == 0 && report.is_some_and(|report| report.allocations == 0);
    let is_faulty = report.is_some_and(|report| !report.faults.is_empty()) || is_refusing(status);
    match () {
        () if !record.joined => Condition::Expected,
        () if silence.is_none_or(|silence| silence >= DEAD_AFTER) => Condition::Dead,
        () if record.draining && is_empty => Condition::Drained,
        () if record.draining => Condition::Draining,
        () if is_faulty => Condition::Faulty,
        () => Condition::Ready,
    }
}

/// It refused an epoch and has not put a newer one in force since.
fn is_refusing(status: &NodeStatus) -> bool {
    let place = |epoch: Option<trunkline_proto::fleet::v1::Epoch>| {
        epoch.map(|epoch| (epoch.generation, epoch.counter))
    };
    !status.refusal.is_empty() && place(status.refused) > place(status.acknowledged)
}
