//! When each server was last heard of, by this replica's own monotonic clock: clocks of servers and of the store are
//! not asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use trunkline_wire::NodeId;

use crate::state::State;
use crate::store::Revision;

/// When each server's status last changed. Clones are handles to the same ones.
#[derive(Clone, Default)]
pub struct Sightings(Arc<Mutex<BTreeMap<NodeId, Sighting>>>);

struct Sighting {
    revision: Revision,
    at: Instant,
    /// It changed while watch was kept.
    is_news: bool,
}

impl Sightings {
    /// Keeps watch for as long as there are states. What a fresh replica finds counts as seen just now.
    #[must_use]
    pub fn watch(mut states: watch::Receiver<Arc<State>>) -> Self {
        let sightings = Self::default();
        let watching = Arc::downgrade(&sightings.0);
        tokio::spawn(async move {
            while let Some(sightings) = watching.upgrade().map(Self) {
                let state = Arc::clone(&states.borrow_and_update());
                sightings.note(&state);
                drop((sightings, state));
                tokio::time::sleep(LOOKED_EVERY).await;
                if states.changed().await.is_err() {
                    return;
                }
            }
        });
        sightings
    }

    /// Takes note of what changed.
    pub fn note(&self, state: &State) {
        let now = Instant::now();
        let mut seen = self.lock();
        seen.retain(|node, _| state.statuses.contains_key(node));
        for (node, status) in &state.statuses {
            let fresh = |is_news| Sighting { revision: status.revision, at: now, is_news };
            let sighting = seen.entry(*node).or_insert_with(|| fresh(false));
            if sighting.revision != status.revision {
                // A store that was put back to an older state has lower revisions.
                *sighting = fresh(status.revision > sighting.revision);
            }
        }
    }

    /// How long a server has been silent; none for one that has never reported. What a state has and was not looked at
    /// yet is news.
    #[must_use]
    pub fn silent_for(&self, state: &State, node: NodeId) -> Option<Duration> {
        let status = state.statuses.get(&node)?;
        let seen = self.lock();
        let sighting = seen.get(&node).filter(|sighting| sighting.revision == status.revision);
        Some(sighting.map_or(Duration::ZERO, |sighting| sighting.at.elapsed()))
    }

    /// Whether the status that a state has was written while watch was kept. Another may have come with a store that was
    /// put back to an older state.
    #[must_use]
    pub fn is_heard(&self, state: &State, node: NodeId) -> bool {
        let revision = state.statuses.get(&node).map(|status| status.revision);
        self.lock().get(&node).is_some_and(|sighting| sighting.is_news && Some(sighting.revision) == revision)
    }

    /// Whether a server reported lately.
    #[must_use]
    pub fn is_alive(&self, state: &State, node: NodeId) -> bool {
        self.silent_for(state, node).is_some_and(|silence| silence < DEAD_AFTER)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Sighting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Five reports that did not come.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);
/// Between two looks: reports of a large fleet come in every millisecond.
const LOOKED_EVERY: Duration = Duration::from_millis(200);
