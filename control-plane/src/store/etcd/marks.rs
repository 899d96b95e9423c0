//! Marks: keys that tell whether a commit was done when its answer was lost.
//!
//! Each commit in flight has a mark of its own and puts its own number there in the same transaction, which demands
//! that the mark is as its predecessor left it. So the same commit, sent again, is done at most once, and finds out
//! whether it was. Marks are bound to a lease of this client and vanish with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::{LeaseId, StoreError};
use super::keys::{Keys, MARKS};
use super::members::Members;

/// One client's marks.
pub(super) struct Marks {
    /// What its marks start with: no two clients have the same.
    prefix: String,
    made: AtomicU64,
    free: Mutex<Vec<Mark>>,
    lease: tokio::sync::Mutex<Option<(LeaseId, Instant)>>,
}

/// A mark that one commit has for itself.
pub(super) struct Mark {
    pub(super) key: String,
    pub(super) lease: LeaseId,
    /// The revision it was put at; 0 before that.
    pub(super) put_at: i64,
}

impl Marks {
    pub(super) fn new(keys: &Keys) -> Result<Self, StoreError> {
        let prefix = format!("{}{}/", keys.full(MARKS), random()?);
        let (made, free, lease) = (AtomicU64::default(), Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { prefix, made, free, lease })
    }

    /// A mark that nobody else uses until it is given back.
    pub(super) async fn take(&self, members: &Members) -> Result<Mark, StoreError> {
        let lease = self.lease(members).await?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mark) = free.pop() {
            // Those of an older lease end with it.
            if mark.lease == lease {
                return Ok(mark);
            }
        }
        let key = format!("{}{}", self.prefix, self.made.fetch_add(1, Ordering::Relaxed));
        Ok(Mark { key, lease, put_at: 0 })
    }

    /// Gives it back; only when it is known what etcd holds there.
    pub(super) fn give_back(&self, mark: Mark) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < FREE_MAX {
            free.push(mark);
        }
    }

    /// The lease has ended in etcd: it was restored, or this process was stopped for long.
    pub(super) async fn forget(&self, ended: LeaseId) {
        let mut lease = self.lease.lock().await;
        if lease.is_some_and(|(id, _)| id == ended) {
            *lease = None;
        }
    }

    /// Never kept alive, but replaced while it still has time for a commit: one call in minutes, and no task.
    async fn lease(&self, members: &Members) -> Result<LeaseId, StoreError> {
        let mut lease = self.lease.lock().await;
        if let Some((id, granted)) = *lease
            && granted.elapsed() < LEASE_USED
        {
            return Ok(id);
        }
        let asked = Instant::now();
        let id = members.grant(LEASE_TTL).await?;
        *lease = Some((id, asked));
        Ok(id)
    }
}

/// 32 hexadecimal digits.
pub(super) fn random() -> Result<String, StoreError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Failed(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

const LEASE_TTL: Duration = Duration::from_secs(300);
/// Leaves a commit far more than its deadline.
const LEASE_USED: Duration = Duration::from_secs(150);
/// More commits at once than that are possible; their marks are made anew.
const FREE_MAX: usize = 64;
