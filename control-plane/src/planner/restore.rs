//! A store that was restored from an older state: servers report epochs that it does not know, or it is not the store
//! that it says it is, although every server that could tell is cut off.
//!
//! Their slices may be under leases that it does not know either. So what it takes for free rests in quarantine, what
//! its owner does not claim drains, and with that the generation rises above everything that was ever handed out. Nobody
//! may be there to say what that was; so a generation is at least the time at which it began, in Unix seconds.

use std::time::Duration;

use trunkline_fleet::slices::{Slices, after_restore};
use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::store::v1::{EpochRecord, LineageRecord};

use super::{Draft, conditions, slices, tables};
use crate::configuration::{is_newer, text};
use crate::event::Happening;
use crate::operator_service::Sightings;
use crate::records;
use crate::state::State;
use crate::store::{Change, Transaction};

/// What a restore asks for.
pub(super) enum Restore {
    /// The store is what it was.
    None,
    /// Servers that are connected say first what they use: that stays theirs.
    Hears,
    /// To be written before anything else.
    Takes(Box<Draft>),
}

/// The next step after a restore.
pub(super) fn plan(state: &State, seen: &Sightings, now_unix_s: u64) -> Restore {
    let known = state.epoch();
    let ahead = reported(state).filter(|epoch| is_newer(*epoch, known));
    if ahead.is_none() && !state.is_put_back() {
        return Restore::None;
    }
    if !all_heard(state, seen) {
        return Restore::Hears;
    }
    let raised = raised(known, ahead, now_unix_s);
    let doubted = doubted(state, seen, now_unix_s, raised);
    let mut draft = Draft::new(state);
    if !doubted
        .iter()
        .all(|(address, table)| draft.add(records::put(address, &slices::write(*address, table))))
    {
        // Too many for one transaction: some addresses at a time, and the generation last.
        return Restore::Takes(Box::new(draft));
    }
    // With the generation: so it rises once.
    if let Some(put) = lineage(state)
        && !draft.add(put)
    {
        return Restore::Takes(Box::new(draft));
    }
    draft.epoch = raised;
    let happening = Happening::new("epoch", text(known), text(draft.epoch));
    let found = ahead.map_or_else(
        || "the store's log is not the one that its records were written with".to_owned(),
        |highest| format!("a server reported {}", text(highest)),
    );
    draft.tell("RaiseGeneration", happening, format!("{found}: the store was restored from an older state"));
    tell_of_the_silent(state, seen, &mut draft);
    Restore::Takes(Box::new(draft))
}

/// Above what was reported, and above what was handed out to servers of which nobody hears: that was before now.
fn raised(known: Epoch, ahead: Option<Epoch>, now_unix_s: u64) -> Epoch {
    let highest = ahead.map_or(known.generation, |epoch| epoch.generation.max(known.generation));
    let generation = highest.saturating_add(1).max(now_unix_s);
    Epoch { generation, counter: known.counter.saturating_add(1) }
}

/// The record of which store this is, where it is not what the store says now.
pub(super) fn lineage(state: &State) -> Option<Change> {
    let now = state.lineage?;
    let is_known = state.lineage_record.is_some() && !state.is_put_back();
    (!is_known).then(|| records::put("", &LineageRecord { cluster: now.cluster, surplus: now.surplus }))
}

/// They may use what the store takes for free. Nothing of that is given to anybody before each has reported.
fn tell_of_the_silent(state: &State, seen: &Sightings, draft: &mut Draft) {
    for node in state.nodes.keys().filter(|node| !seen.is_heard(state, **node)) {
        let reason = format!(
            "slices rest until it has reported: bring it back, or remove it: trunklinectl nodes remove {node} \
             --confirm-gone"
        );
        draft.tell("AwaitNode", Happening::new(format!("node {node}"), "", "awaited"), reason);
    }
}

/// Relay addresses of which the store's word is not yet doubted.
fn doubted(state: &State, seen: &Sightings, now_unix_s: u64, raised: Epoch) -> Slices {
    let known = slices::read(state);
    let members = slices::members(state, &conditions::of_all(state, seen), seen);
    let mut doubted =
        after_restore(&known, &members, now_unix_s, tables::epoch(Some(raised)).unwrap_or_default());
    doubted.retain(|address, table| known.get(address) != Some(table));
    doubted
}

/// Every server that reports has done so under this leader: what a status of the restored store says is long past.
fn all_heard(state: &State, seen: &Sightings) -> bool {
    let mut nodes = state.statuses.keys();
    nodes.all(|node| {
        seen.is_heard(state, *node)
            || seen.silent_for(state, *node).is_some_and(|silence| silence >= HEARD_WITHIN)
    })
}

/// The highest epoch that any server ever said it has.
fn reported(state: &State) -> Option<Epoch> {
    let epochs = state.statuses.values().flat_map(|kept| {
        let status = &kept.record;
        [status.acknowledged, status.report.as_ref().and_then(|report| report.epoch)]
    });
    epochs.flatten().max_by_key(|epoch| (epoch.generation, epoch.counter))
}

/// Another epoch than the next one.
pub(super) fn set_epoch(transaction: &mut Transaction, epoch: Epoch) {
    let wanted = records::put("", &EpochRecord { epoch: Some(epoch) });
    for change in &mut transaction.changes {
        if matches!(change, Change::Put { key, .. } if key == wanted.key()) {
            *change = wanted.clone();
        }
    }
}

/// Two reports.
const HEARD_WITHIN: Duration = Duration::from_secs(4);
