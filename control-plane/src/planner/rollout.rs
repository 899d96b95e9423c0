//! The staged roll-out of settings.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_fleet::Condition;
use trunkline_fleet::rollout::{Step, Target, next};
use trunkline_proto::operator::v1::rollout::State as Stage;
use trunkline_proto::store::v1::{NodeStatus, RolloutRecord};
use trunkline_wire::NodeId;

use super::Draft;
use crate::event::Happening;
use crate::records::{self, node_id, node_message};
use crate::state::State;

pub(super) fn plan(
    state: &State,
    conditions: &BTreeMap<NodeId, Condition>,
    now_unix_s: u64,
    draft: &mut Draft,
) {
    let Some(rollout) = state.rollout.as_ref().map(|kept| &kept.record) else { return };
    if rollout.state != Stage::Running as u32 {
        return;
    }
    let reached: BTreeSet<NodeId> = rollout.nodes.iter().filter_map(node_id).collect();
    let members = conditions.iter().filter(|(_, condition)| **condition != Condition::Expected);
    let targets: BTreeMap<NodeId, Target> =
        members.map(|(node, condition)| (*node, target(state, *node, *condition, rollout))).collect();
    let record = match next(&targets, &reached, rollout.stage_since_unix_s, now_unix_s) {
        Step::Wait => return,
        Step::Advance(wave) => {
            let nodes = reached.union(&wave).copied().map(node_message).collect();
            RolloutRecord { nodes, stage_since_unix_s: now_unix_s, ..rollout.clone() }
        }
        Step::Done => RolloutRecord { state: Stage::Done as u32, ..rollout.clone() },
        Step::Stop(reason) => RolloutRecord { state: Stage::Stopped as u32, reason, ..rollout.clone() },
    };
    if draft.add(records::put("", &record)) {
        tell(rollout, &record, targets.len(), draft);
    }
}

fn target(state: &State, node: NodeId, condition: Condition, rollout: &RolloutRecord) -> Target {
    let status = state.statuses.get(&node).map(|kept| kept.record.clone()).unwrap_or_default();
    Target {
        is_live: matches!(condition, Condition::Live | Condition::Draining),
        has_new: status.settings_version == rollout.to_version,
        trouble: trouble(&status, rollout),
    }
}

/// A refusal of what is newer than what it has in force, or what is wrong with it while it has the new settings.
fn trouble(status: &NodeStatus, rollout: &RolloutRecord) -> Option<String> {
    let order = |epoch: Option<trunkline_proto::fleet::v1::Epoch>| {
        epoch.map(|epoch| (epoch.generation, epoch.counter))
    };
    if !status.refusal.is_empty() && order(status.refused) > order(status.acknowledged) {
        return Some(status.refusal.clone());
    }
    let faults = status.report.as_ref().map(|report| report.faults.as_slice()).unwrap_or_default();
    let is_new = status.settings_version == rollout.to_version;
    faults.first().filter(|_| is_new).cloned()
}

fn tell(before: &RolloutRecord, after: &RolloutRecord, all: usize, draft: &mut Draft) {
    let of = |record: &RolloutRecord| match record.state {
        state if state == Stage::Done as u32 => "on every server".to_owned(),
        state if state == Stage::Stopped as u32 => format!("stopped at {} of {all}", record.nodes.len()),
        _ => format!("on {} of {all}", record.nodes.len()),
    };
    let happening = Happening::new(format!("settings {}", after.to_version), of(before), of(after));
    draft.tell("RollOut", happening, after.reason.clone());
}
