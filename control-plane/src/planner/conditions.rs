//! What each server can take, from what it said and how long ago that was.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_fleet::{Condition, liveness};
use trunkline_wire::NodeId;

use crate::operator_service::Sightings;
use crate::state::State;

/// Of every member.
pub(super) fn of_all(state: &State, seen: &Sightings) -> BTreeMap<NodeId, Condition> {
    let (mut joined, mut silent): (Sites, Sites) = Default::default();
    for (node, _) in state.nodes.iter().filter(|(_, kept)| kept.record.joined) {
        joined.entry(node.site).or_default().insert(node.server);
        if !seen.is_alive(state, *node) {
            silent.entry(node.site).or_default().insert(node.server);
        }
    }
    let nobody = BTreeSet::new();
    let dead = joined
        .iter()
        .map(|(site, servers)| (*site, liveness::dead(servers, silent.get(site).unwrap_or(&nobody))));
    let dead: Sites = dead.collect();
    let condition = |node: &NodeId, draining: bool, joined: bool| {
        let is_dead = dead.get(&node.site).is_some_and(|servers| servers.contains(&node.server));
        match () {
            () if !joined => Condition::Expected,
            () if is_dead => Condition::Dead,
            () if draining => Condition::Draining,
            () => Condition::Live,
        }
    };
    let nodes = state.nodes.iter();
    nodes.map(|(node, kept)| (*node, condition(node, kept.record.draining, kept.record.joined))).collect()
}

type Sites = BTreeMap<u16, BTreeSet<u16>>;
