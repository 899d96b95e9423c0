//! What each server can take, from what it said and how long ago that was.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline_fleet::Condition;
use trunkline_fleet::liveness::{self, Silence};
use trunkline_wire::NodeId;

use crate::operator_service::Sightings;
use crate::state::State;

/// Of every member.
pub(super) fn of_all(state: &State, seen: &Sightings) -> BTreeMap<NodeId, Condition> {
    let mut sites: BTreeMap<u16, BTreeMap<u16, Duration>> = BTreeMap::new();
    for (node, _) in state.nodes.iter().filter(|(_, kept)| kept.record.joined) {
        // One that has never reported does not serve.
        let silence = seen.silent_for(state, *node).unwrap_or(Duration::MAX);
        sites.entry(node.site).or_default().insert(node.server, silence);
    }
    let sites: BTreeMap<u16, Silence> =
        sites.into_iter().map(|(site, silences)| (site, liveness::judge(&silences))).collect();
    let condition = |node: &NodeId, draining: bool, joined: bool| {
        let silence = sites.get(&node.site);
        match () {
            () if !joined => Condition::Expected,
            () if silence.is_some_and(|silence| silence.dead.contains(&node.server)) => Condition::Dead,
            () if silence.is_some_and(|silence| silence.spared.contains(&node.server)) => Condition::Silent,
            () if draining => Condition::Draining,
            () => Condition::Live,
        }
    };
    let nodes = state.nodes.iter();
    nodes.map(|(node, kept)| (*node, condition(node, kept.record.draining, kept.record.joined))).collect()
}
