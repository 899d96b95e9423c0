//! Settings of all servers: applied in stages, or at once.
//!
//! The settings that operators see are those that every server has or is being given. A version whose roll-out was
//! stopped is none: what was in force before it counts.

use trunkline_proto::fleet::v1::Settings;
use trunkline_proto::operator::v1::rollout::State as Stage;
use trunkline_proto::operator::v1::{
    ApplySettingsRequest, ApplySettingsResponse, GetSettingsResponse, Rollout,
};
use trunkline_proto::store::v1::{RolloutRecord, SettingsRecord};

use super::Fault;
use crate::event::Happening;
use crate::mutation::Plan;
use crate::records::{self, node_message};
use crate::settings;
use crate::state::State;
use crate::store::Change;

/// The newest settings that hold.
#[must_use]
pub fn current(state: &State) -> GetSettingsResponse {
    let version = state.rollout.as_ref().map_or_else(
        || newest(state),
        |kept| match stage(&kept.record) {
            Stage::Stopped => kept.record.from_version,
            Stage::Unspecified | Stage::Running | Stage::Done => kept.record.to_version,
        },
    );
    let settings = state.settings.get(&version).and_then(|kept| kept.record.settings.clone());
    GetSettingsResponse { settings: Some(settings.unwrap_or_default()), version }
}

/// The roll-out for `GetStatus`.
#[must_use]
pub fn view(state: &State) -> Option<Rollout> {
    let record = &state.rollout.as_ref()?.record;
    let has_it = |node: &trunkline_wire::NodeId| {
        state.statuses.get(node).is_some_and(|kept| kept.record.settings_version == record.to_version)
    };
    let members = state.nodes.iter().filter(|(_, kept)| kept.record.joined);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Some(Rollout {
        from_version: record.from_version,
        to_version: record.to_version,
        state: record.state as i32,
        nodes_done: count(members.clone().filter(|(node, _)| has_it(node)).count()),
        nodes_total: count(members.count()),
        reason: record.reason.clone(),
    })
}

/// Gives servers new settings: a first server now, the others by the planner, or all of them now.
///
/// # Errors
/// Settings that are not what they may be, or were made from others than the newest.
pub fn apply(
    state: &State,
    request: &ApplySettingsRequest,
    now_unix_s: u64,
) -> Result<Plan<ApplySettingsResponse>, Fault> {
    let wanted = request.settings.clone();
    let wanted = wanted.ok_or_else(|| Fault::malformed("settings", "it is not set; send all settings"))?;
    settings::check(&wanted)?;
    let current = current(state);
    check_expected(state, request.expected_version, current.version)?;
    let changes = settings::changes(current.settings.as_ref().unwrap_or(&Settings::default()), &wanted);
    if changes.is_empty() {
        return Ok(unchanged(current.version));
    }
    let version = newest(state).max(current.version).saturating_add(1);
    let record = rollout(state, version, request.without_stages, now_unix_s);
    let (before, after) = settings::summary(&changes);
    let kept = SettingsRecord { version, settings: Some(wanted) };
    let mut stored = vec![records::put(version, &kept), records::put("", &record)];
    stored.extend(surplus(state, &record));
    let happening = Happening::new(format!("settings {version}"), before, after);
    let answer = ApplySettingsResponse { version, changes };
    Ok(Plan { checks: Vec::new(), changes: stored, touches_configuration: true, answer, happening })
}

fn check_expected(state: &State, expected: u64, current: u64) -> Result<(), Fault> {
    let running =
        state.rollout.as_ref().map(|kept| &kept.record).filter(|record| stage(record) == Stage::Running);
    if expected == current || (expected == 0 && running.is_none()) {
        return Ok(());
    }
    let problem = match running {
        Some(record) => format!(
            "expected_version: version {current} is being rolled out ({} servers have been given it); wait until it is \
             done, or replace it by giving {current}",
            record.nodes.len()
        ),
        None => format!(
            "expected_version: yours were made from version {expected}, and {current} holds; look at what changed, then \
             apply them from {current}"
        ),
    };
    Err(Fault::Unfit(problem))
}

fn unchanged(version: u64) -> Plan<ApplySettingsResponse> {
    Plan {
        checks: Vec::new(),
        changes: Vec::new(),
        touches_configuration: false,
        answer: ApplySettingsResponse { version, changes: Vec::new() },
        happening: Happening::new(format!("settings {version}"), "", "nothing is different"),
    }
}

/// Without servers a staged roll-out stands at its beginning; the planner names the first.
fn rollout(state: &State, to_version: u64, at_once: bool, now_unix_s: u64) -> RolloutRecord {
    let from_version = state.rollout.as_ref().map_or_else(
        || newest(state),
        |kept| match stage(&kept.record) {
            Stage::Done => kept.record.to_version,
            Stage::Unspecified | Stage::Running | Stage::Stopped => kept.record.from_version,
        },
    );
    let state_now = if at_once { Stage::Done } else { Stage::Running };
    RolloutRecord {
        from_version,
        to_version,
        state: state_now as u32,
        nodes: if at_once { state.nodes.keys().copied().map(node_message).collect() } else { Vec::new() },
        stage_since_unix_s: now_unix_s,
        reason: String::new(),
    }
}

/// The oldest version that nobody runs, once there are many.
fn surplus(state: &State, rollout: &RolloutRecord) -> Option<Change> {
    if state.settings.len() < VERSIONS_KEPT {
        return None;
    }
    let is_used = |version: &u64| *version == rollout.from_version || *version == rollout.to_version;
    let oldest = state.settings.keys().find(|version| !is_used(version))?;
    Some(Change::Delete { key: records::key::<SettingsRecord>(oldest) })
}

/// The newest version that was ever applied and is still kept.
fn newest(state: &State) -> u64 {
    state.settings.last_key_value().map_or(0, |(version, _)| *version)
}

fn stage(record: &RolloutRecord) -> Stage {
    i32::try_from(record.state).ok().and_then(|state| Stage::try_from(state).ok()).unwrap_or_default()
}

/// Versions of settings that are kept to look at.
const VERSIONS_KEPT: usize = 100;
