//! A store that was restored from an older state: servers report epochs that it does not know.
//!
//! Their slices may be under leases that it does not know either. So what it takes for free rests in quarantine first,
//! and then the generation rises above everything that was ever handed out.

use std::net::IpAddr;

use trunkline_fleet::slices::{RelaySlices, SliceState, after_restore};
use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::store::v1::EpochRecord;

use super::{Draft, slices};
use crate::configuration::{is_newer, text};
use crate::event::Happening;
use crate::records;
use crate::state::State;
use crate::store::{Change, Transaction};

/// The next step after a restore; `None` where no server is ahead of the store.
pub(super) fn plan(state: &State, now_unix_s: u64) -> Option<Draft> {
    let known = state.epoch();
    let highest = reported(state).filter(|epoch| is_newer(*epoch, known))?;
    let mut draft = Draft::new(state);
    let known_slices = slices::read(state);
    let resting = after_restore(&known_slices, now_unix_s);
    let put = |address: &IpAddr, table: &RelaySlices| records::put(address, &slices::write(*address, table));
    if !resting.iter().all(|(address, table)| draft.add(put(address, table))) {
        // Too many for one transaction: what looks free rests first, some addresses at a time.
        let looks_free = |address: &IpAddr| {
            let slices = known_slices.get(address).into_iter().flat_map(RelaySlices::values);
            slices.into_iter().any(|slice| slice.state == SliceState::Free)
        };
        let waiting: Vec<_> = resting.iter().filter(|(address, _)| looks_free(address)).collect();
        draft = Draft::new(state);
        if !waiting.is_empty() {
            let _fits = waiting.iter().all(|(address, table)| draft.add(put(address, table)));
            return Some(draft);
        }
    }
    let generation = highest.generation.saturating_add(1);
    draft.epoch = Epoch { generation, counter: known.counter.saturating_add(1) };
    let happening = Happening::new("epoch", text(known), text(draft.epoch));
    let reason = format!("a server reported {}: the store was restored from an older state", text(highest));
    draft.tell("RaiseGeneration", happening, reason);
    Some(draft)
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
