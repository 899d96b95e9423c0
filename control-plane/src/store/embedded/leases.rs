//! Leases of the embedded store: they live in memory, and which keys they hold is in the file.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::super::{Change, LeaseId, StoreError, Transaction};
use super::{Embedded, Shared, lock};

/// The leases that have not ended.
#[derive(Default)]
pub(super) struct Leases {
    newest: i64,
    live: BTreeMap<LeaseId, Lease>,
}

struct Lease {
    ttl: Duration,
    ends: Instant,
}

impl Leases {
    pub(super) fn grant(&mut self, ttl: Duration) -> Result<LeaseId, StoreError> {
        if self.live.len() >= LEASES_MAX {
            return Err(StoreError::Failed(format!("{LEASES_MAX} leases are held already")));
        }
        self.newest = self.newest.saturating_add(1);
        let ttl = ttl.max(TTL_MIN);
        self.live.insert(LeaseId(self.newest), Lease { ttl, ends: Instant::now() + ttl });
        Ok(LeaseId(self.newest))
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let now = Instant::now();
        let lease =
            self.live.get_mut(&lease).filter(|lease| lease.ends > now).ok_or(StoreError::LeaseEnded)?;
        lease.ends = now + lease.ttl;
        Ok(())
    }

    /// Ends it here; its keys are deleted after that.
    pub(super) fn end(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        self.live.remove(&lease).map(drop).ok_or(StoreError::LeaseEnded)
    }

    /// Refuses a transaction with a lease that has ended.
    pub(super) fn hold(&self, transaction: &Transaction) -> Result<(), StoreError> {
        let now = Instant::now();
        let is_over = |lease: &LeaseId| self.live.get(lease).is_none_or(|lease| lease.ends <= now);
        let has_ended = |change: &Change| match change {
            Change::Put { lease: Some(lease), .. } => is_over(lease),
            Change::Put { lease: None, .. } | Change::Delete { .. } => false,
        };
        if transaction.changes.iter().any(has_ended) { Err(StoreError::LeaseEnded) } else { Ok(()) }
    }

    /// When it ends; nothing where it has, and it has where that is over.
    fn ends(&mut self, lease: LeaseId) -> Option<Instant> {
        let ends = self.live.get(&lease)?.ends;
        if ends <= Instant::now() {
            self.live.remove(&lease);
        }
        Some(ends)
    }
}

/// Waits for the end of a lease's time, however often that is put off, and deletes its keys.
pub(super) async fn end_when_due(store: Weak<Shared>, lease: LeaseId) {
    while let Some(shared) = store.upgrade() {
        let Some(ends) = lock(&shared.leases).ends(lease) else { return };
        if ends <= Instant::now() {
            break;
        }
        // Held weakly over the wait, or a long lease would keep the file open.
        drop(shared);
        sleep_until(ends).await;
    }
    while let Some(shared) = store.upgrade() {
        let store = Embedded { shared };
        let Err(error) = store.blocking(move |shared| shared.end_lease(lease)).await else { return };
        tracing::warn!(%error, "cannot delete the keys of an ended lease");
        drop(store);
        sleep(RETRY_INTERVAL).await;
    }
}

/// One process holds a handful.
const LEASES_MAX: usize = 1_024;
/// As etcd has it.
const TTL_MIN: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
