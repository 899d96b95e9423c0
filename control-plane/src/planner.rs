//! What the leader does all the time: looks at what the fleet is and what was seen of it, and writes what it is to be.
//!
//! Each round makes at most one transaction from one state. It demands the leader's term and the epoch that it was
//! planned from, so neither an old leader nor an old view of the fleet can write. What does not fit follows in the
//! next round, at once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use trunkline_proto::fleet::v1::Epoch;

use crate::configuration::unix_now_s;
use crate::core::{Core, next_epoch, transaction};
use crate::event::{self, Happening};
use crate::leader::Term;
use crate::operator_service::Sightings;
use crate::sealing::Sealing;
use crate::state::State;
use crate::store::{Change, Store, StoreError};
use restore::Restore;

mod bootstrap;
mod conditions;
mod housekeeping;
mod keys;
mod restore;
mod rollout;
mod slices;
mod tables;

/// Plans while this replica leads, for as long as there are terms.
pub async fn run(core: Core, mut terms: watch::Receiver<Option<Term>>) {
    loop {
        let term = match terms.wait_for(Option::is_some).await {
            Ok(term) => *term,
            Err(_) => return,
        };
        let Some(term) = term else { continue };
        tokio::select! {
            () = lead(&core, term) => {}
            ended = terms.wait_for(|now| *now != Some(term)) => {
                if ended.is_err() {
                    return;
                }
            }
        }
    }
}

/// One term. It ends by being dropped.
async fn lead(core: &Core, term: Term) {
    // After a change of leader everybody counts as just seen.
    let seen = Sightings::watch(core.subscribe());
    let mut swept: Option<Instant> = None;
    let mut states = core.subscribe();
    loop {
        let state = states.borrow_and_update().clone();
        let began = Instant::now();
        let outcome = step(core, term, &state, &seen).await;
        let planned_for = began.elapsed();
        let wrote = match outcome {
            Ok(wrote) => wrote,
            Err(error) => {
                tracing::debug!(%error, "a plan was not written; planning again");
                tokio::time::sleep(AFTER_FAILURE).await;
                false
            }
        };
        if wrote {
            continue;
        }
        if swept.is_none_or(|at| at.elapsed() >= SWEPT_EVERY) {
            swept = Some(Instant::now());
            if let Err(error) = housekeeping::sweep(core, term).await {
                tracing::debug!(%error, "old records were not deleted; they will be");
            }
        }
        drop(timeout(PLANNED_EVERY, states.changed()).await);
        // Reports of a large fleet come in every millisecond.
        tokio::time::sleep_until(began + PLANNED_AT_MOST_EVERY.max(planned_for * IDLE_FACTOR)).await;
    }
}

/// Plans from one state and writes it. True when something was written and the mirror contains it.
async fn step(core: &Core, term: Term, state: &State, seen: &Sightings) -> Result<bool, StoreError> {
    if state.leader.as_ref().map(|kept| kept.revision) != Some(term.fence) {
        // The mirror lags behind, or another leads.
        return Ok(false);
    }
    let sealing = core.sealing().clone();
    let (planned_from, seen) = (core.state(), seen.clone());
    // Planning for a large fleet takes a while, and the lease must be kept alive meanwhile.
    let planned = tokio::task::spawn_blocking(move || plan(&planned_from, &seen, &sealing, unix_now_s()))
        .await
        .map_err(|error| StoreError::Failed(error.to_string()))?;
    let Some(draft) = planned else { return Ok(false) };
    let revision = core.store().commit(draft.into_transaction(term)?).await?;
    core.wait_for(revision).await;
    Ok(true)
}

/// What is to be done now, in the order of its urgency; `None` when everything is as it should be.
fn plan(state: &State, seen: &Sightings, sealing: &Sealing, now_unix_s: u64) -> Option<Draft> {
    // Nothing else is planned from a state that servers are ahead of.
    match restore::plan(state, seen, now_unix_s) {
        Restore::Takes(draft) => return Some(*draft),
        Restore::Hears => return None,
        Restore::None => {}
    }
    let mut draft = Draft::new(state);
    bootstrap::plan(state, sealing, now_unix_s, &mut draft);
    let conditions = conditions::of_all(state, seen);
    keys::plan(state, now_unix_s, &mut draft);
    slices::plan(state, &conditions, seen, now_unix_s, &mut draft);
    tables::plan(state, &conditions, sealing, now_unix_s, &mut draft);
    rollout::plan(state, &conditions, now_unix_s, &mut draft);
    draft.is_worth_writing().then_some(draft)
}

/// A transaction that is being planned.
struct Draft {
    state: State,
    /// Of the configuration that it makes.
    epoch: Epoch,
    changes: Vec<Change>,
    bytes: usize,
    told: Vec<(&'static str, Happening, String)>,
}

impl Draft {
    fn new(state: &State) -> Self {
        // Of the state only its versions are needed.
        let versions = State { epoch: state.epoch.clone(), ..State::default() };
        Self { epoch: next_epoch(state), state: versions, changes: vec![], bytes: 0, told: vec![] }
    }

    /// False when the change does not fit any more: it is planned again in the next round.
    fn add(&mut self, change: Change) -> bool {
        let bytes = match &change {
            Change::Put { key, value, .. } => key.len().saturating_add(value.len()),
            Change::Delete { key } => key.len(),
        };
        let total = self.bytes.saturating_add(bytes);
        if self.changes.len() >= CHANGES_MAX || (total > BYTES_MAX && !self.changes.is_empty()) {
            return false;
        }
        self.bytes = total;
        self.changes.push(change);
        true
    }

    /// Into the audit log. Beyond a bounded number in one transaction only the log of the process is told.
    fn tell(&mut self, what: &'static str, happening: Happening, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::info!(what, subject = happening.subject, after = happening.after, reason, "planned");
        if self.told.len() < TOLD_MAX {
            self.told.push((what, happening, reason));
        }
    }

    /// An epoch of its own is worth writing even where nothing else changes.
    fn is_worth_writing(&self) -> bool {
        !self.changes.is_empty() || self.epoch.generation != self.state.epoch().generation
    }

    fn into_transaction(self, term: Term) -> Result<crate::store::Transaction, StoreError> {
        let mut changes = self.changes;
        for (what, happening, reason) in &self.told {
            let put = event::put("control plane", what, happening, reason);
            changes.push(put.map_err(|error| StoreError::Failed(error.to_string()))?);
        }
        let (planned, mut transaction) = transaction(&self.state, vec![term.check()], changes, true);
        if planned != self.epoch {
            restore::set_epoch(&mut transaction, self.epoch);
        }
        Ok(transaction)
    }
}

/// Without any change of the state: liveness and waits depend on time alone.
const PLANNED_EVERY: Duration = Duration::from_millis(500);
const PLANNED_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// Planning takes at most a quarter of a processor, whatever the size of the fleet.
const IDLE_FACTOR: u32 = 4;
const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// Old records hurt nobody for a minute.
const SWEPT_EVERY: Duration = Duration::from_secs(60);
/// With events, checks and the epoch they fit a transaction of the store.
const CHANGES_MAX: usize = 90;
const TOLD_MAX: usize = 20;
const BYTES_MAX: usize = 1_000 * 1_024;
