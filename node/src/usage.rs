//! Usage from the shards into the journal, each second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{MissedTickBehavior, interval};

use crate::journal::{Delta, Journal};
use crate::shard::{Shards, UsageDelta};

/// The journal as the session and the writer share it. The disk may be slow: nobody waits for it on the runtime's
/// thread.
#[derive(Clone)]
pub struct SharedJournal(Arc<Mutex<Journal>>);

impl SharedJournal {
    /// Shares a journal.
    #[must_use]
    pub fn new(journal: Journal) -> Self {
        Self(Arc::new(Mutex::new(journal)))
    }

    /// Does something with it on another thread; `None` when the process ends meanwhile.
    pub async fn with<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Journal) -> T + Send + 'static,
    ) -> Option<T> {
        let journal = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            what(&mut journal.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.ok()
    }
}

/// Journals for ever.
pub async fn each_second(shards: Shards, journal: SharedJournal) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        write(&shards, &journal).await;
    }
}

/// Journals what was relayed since the last time.
pub async fn write(shards: &Shards, journal: &SharedJournal) {
    let deltas = shards.take_usage().await;
    let now_unix_s = unix_now().as_secs();
    journal
        .with(move |journal| {
            journal.add(deltas.into_iter().map(Delta::from), now_unix_s);
            journal.write(now_unix_s);
        })
        .await;
}

impl From<UsageDelta> for Delta {
    fn from(delta: UsageDelta) -> Self {
        let UsageDelta { key_id, user, usage } = delta;
        Self {
            key_id: key_id.unwrap_or_default(),
            user,
            bytes_to_peer: usage.to_peer.bytes,
            bytes_to_client: usage.to_client.bytes,
            packets_to_peer: usage.to_peer.packets,
            packets_to_client: usage.to_client.packets,
            allocations: usage.allocations,
        }
    }
}

/// Since 1970-01-01 UTC.
#[must_use]
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
