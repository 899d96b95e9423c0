//! Slices of shared relay addresses as operators see them.

use std::net::IpAddr;

use trunkline_fleet::FIRST_GENERATION;
use trunkline_proto::fleet::v1::slice::State as Life;
use trunkline_proto::operator::v1::{ListSlicesRequest, ListSlicesResponse, SliceView};
use trunkline_proto::store::v1::SliceRecord;
use trunkline_wire::NodeId;

use super::{Fault, nodes};
use crate::records::node_message;
use crate::state::State;

/// The slices that a request asks for.
///
/// # Errors
/// It names a server or address that there is not.
pub fn list(state: &State, request: &ListSlicesRequest) -> Result<ListSlicesResponse, Fault> {
    let owner = request.node.as_ref().map(|node| nodes::known(state, "node", Some(node))).transpose()?;
    let address = address(state, &request.address)?;
    let is_wanted = |record: &&SliceRecord| {
        let slice = record.slice.as_ref();
        owner.is_none_or(|owner| slice.and_then(|slice| slice.owner) == Some(node_message(owner)))
    };
    let wanted = state.slices.iter().filter(|(name, _)| address.as_ref().is_none_or(|only| only == *name));
    let slices = wanted.flat_map(|(_, kept)| &kept.record.slices).filter(is_wanted);
    let view =
        |record: &SliceRecord| SliceView { slice: record.slice.clone(), until_unix_s: record.until_unix_s };
    let awaited_nodes = awaited(state).map(node_message).collect();
    Ok(ListSlicesResponse { slices: slices.map(view).collect(), awaited_nodes })
}

/// Servers without whose report nothing leaves its quarantine: those that were not heard since the generation rose.
fn awaited(state: &State) -> impl Iterator<Item = NodeId> {
    let rests =
        |record: &&SliceRecord| record.slice.as_ref().is_some_and(|slice| slice.state() == Life::Quarantine);
    let resting = state.slices.values().flat_map(|kept| &kept.record.slices).filter(rests);
    let newest = resting.filter_map(|record| record.granted).map(|epoch| epoch.generation).max();
    let newest = newest.filter(|generation| *generation > FIRST_GENERATION).unwrap_or_default();
    let reported = move |node: &NodeId| {
        let report = state.statuses.get(node).and_then(|kept| kept.record.report.as_ref());
        report.and_then(|report| report.epoch).map_or(0, |epoch| epoch.generation)
    };
    state.nodes.keys().copied().filter(move |node| reported(node) < newest)
}

/// Slices that a server owns, those that it is to give back included.
#[must_use]
pub fn held(state: &State, node: NodeId) -> u32 {
    let node = Some(node_message(node));
    let is_held = |record: &&SliceRecord| {
        record
            .slice
            .as_ref()
            .is_some_and(|slice| slice.owner == node && matches!(slice.state(), Life::Owned | Life::Draining))
    };
    let all = state.slices.values().flat_map(|kept| &kept.record.slices);
    u32::try_from(all.filter(is_held).count()).unwrap_or(u32::MAX)
}

/// The name of the record, whatever spelling of the address was given.
fn address(state: &State, text: &str) -> Result<Option<String>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = |_| Fault::malformed("address", format!("{text:?} is not an IP address"));
    let wanted: IpAddr = text.parse().map_err(malformed)?;
    let mut names = state.slices.keys().filter(|name| name.parse() == Ok(wanted));
    let missing = || {
        let problem = format!("{text} is no shared relay address; `trunklinectl slices` lists them");
        Fault::unknown("address", problem)
    };
    names.next().cloned().map(Some).ok_or_else(missing)
}
