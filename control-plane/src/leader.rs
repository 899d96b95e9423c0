//! A replica's place among the others: its own record, and the `leader` key while it leads.
//!
//! Both are bound to one lease. Who loses the lease stops planning; should it notice too late, its writes are refused
//! all the same, because each of them demands the `leader` key at the revision of its own term.

use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use trunkline_proto::store::v1::{Leader, ReplicaRecord};

use crate::core::Core;
use crate::records;
use crate::store::{Change, Expected, LeaseId, Revision, Store, StoreError, Transaction};

/// One replica's time as the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The revision of its `leader` key: every write of the term demands it.
    pub fence: Revision,
}

impl Term {
    /// What a write of this term demands.
    #[must_use]
    pub fn check(&self) -> (String, Expected) {
        (records::key::<Leader>(""), Expected::At(self.fence))
    }
}

/// Keeps the replica known and stands for leader, until `ending` becomes true; then both are given up at once.
/// `terms` holds the present term while it leads.
pub async fn stand(core: Core, terms: watch::Sender<Option<Term>>, mut ending: watch::Receiver<bool>) {
    while !*ending.borrow() {
        let outcome = hold_lease(&core, &terms, ending.clone()).await;
        if terms.send_replace(None).is_some() {
            tracing::info!(replica = core.name(), "leads no longer");
        }
        if let Err(error) = outcome {
            tracing::warn!(%error, "this replica is not known to the others; trying again");
            // Also ends early when the replica does.
            drop(timeout(AFTER_FAILURE, ending.wait_for(|ending| *ending)).await);
        }
    }
}

/// From a new lease to its end. It must not be dropped halfway: the lease would be left to end by itself.
async fn hold_lease(
    core: &Core,
    terms: &watch::Sender<Option<Term>>,
    mut ending: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    let lease = in_time(core.store().grant(TTL)).await?;
    let mut holder = Holder { core, lease, connected: None };
    let held = tokio::select! {
        held = holder.hold(terms) => held,
        _ = ending.wait_for(|ending| *ending) => Ok(()),
    };
    terms.send_replace(None);
    // The others need not wait for the lease to end by itself; where this fails they do.
    drop(in_time(core.store().revoke(lease)).await);
    held
}

struct Holder<'a> {
    core: &'a Core,
    lease: LeaseId,
    /// As the replica's record says.
    connected: Option<usize>,
}

impl Holder<'_> {
    async fn hold(&mut self, terms: &watch::Sender<Option<Term>>) -> Result<(), StoreError> {
        let mut kept_at = Instant::now();
        loop {
            match in_time(self.keep()).await {
                Ok(()) => kept_at = Instant::now(),
                Err(StoreError::LeaseEnded) => return Err(StoreError::LeaseEnded),
                Err(error) if kept_at.elapsed() >= GIVE_UP_AFTER => return Err(error),
                Err(error) => tracing::debug!(%error, "the lease could not be kept alive; trying again"),
            }
            let leads = terms.borrow().is_some() || self.try_to_lead(terms).await;
            self.pause(leads).await;
        }
    }

    /// Keeps the lease alive, and the record true.
    async fn keep(&mut self) -> Result<(), StoreError> {
        let store = self.core.store();
        store.keep_alive(self.lease).await?;
        let connected = self.core.sessions().count();
        if self.connected == Some(connected) {
            return Ok(());
        }
        let record = ReplicaRecord {
            name: self.core.name().to_owned(),
            address: self.core.address().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connected_nodes: u32::try_from(connected).unwrap_or(u32::MAX),
        };
        let change = self.bound(records::key::<ReplicaRecord>(&record.name), record.encode_to_vec());
        store.commit(Transaction { checks: vec![], changes: vec![change] }).await?;
        self.connected = Some(connected);
        Ok(())
    }

    async fn try_to_lead(&self, terms: &watch::Sender<Option<Term>>) -> bool {
        let key = records::key::<Leader>("");
        let record = Leader { replica: self.core.name().to_owned() };
        let transaction = Transaction {
            checks: vec![(key.clone(), Expected::Absent)],
            changes: vec![self.bound(key, record.encode_to_vec())],
        };
        match in_time(self.core.store().commit(transaction)).await {
            Ok(fence) => {
                tracing::info!(replica = self.core.name(), "leads");
                self.core.wait_for(fence).await;
                terms.send_replace(Some(Term { fence }));
                true
            }
            Err(StoreError::Conflict) => false,
            Err(error) => {
                tracing::debug!(%error, "could not stand for leader");
                false
            }
        }
    }

    /// Until the lease must be kept alive again, or the leader's key is gone and somebody else leads no more.
    async fn pause(&self, leads: bool) {
        let mut states = self.core.subscribe();
        let vacant = states.wait_for(|state| !leads && state.leader.is_none());
        drop(timeout(KEEP_EVERY, vacant).await);
        if !leads {
            // A vacancy that is still there because the store cannot be reached must not make this loop spin.
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }

    fn bound(&self, key: String, value: Vec<u8>) -> Change {
        Change::Put { key, value, lease: Some(self.lease) }
    }
}

/// A store that does not answer must not hide that the lease has ended.
async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let silent = || StoreError::Failed(format!("no answer within {} ms", ANSWER_WITHIN.as_millis()));
    timeout(ANSWER_WITHIN, call).await.unwrap_or_else(|_| Err(silent()))
}

/// After a leader's death the next one plans within 3 s: this, and one try.
const TTL: Duration = Duration::from_secs(2);
const KEEP_EVERY: Duration = Duration::from_millis(400);
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// Before the lease's end, so that a leader stops before another begins.
const GIVE_UP_AFTER: Duration = Duration::from_millis(1_500);
const ANSWER_WITHIN: Duration = Duration::from_millis(1_200);
const AFTER_FAILURE: Duration = Duration::from_millis(300);
