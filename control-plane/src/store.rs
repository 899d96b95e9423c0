//! What the control plane keeps: an ordered map of small records with transactions, leases and watches.
//!
//! The shape is etcd's: one revision for the whole store that rises with every change, and transactions that demand
//! the revisions they were made from. Every implementation passes the same suite.

mod any;
mod embedded;
mod etcd;
mod lineage;

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

pub use any::{AnyStore, AnyWatch};
pub use embedded::{Embedded, EmbeddedWatch, FILE_NAME, OpenError};
pub use etcd::{Etcd, EtcdOptions, EtcdTls, EtcdWatch};
pub use lineage::Lineage;

/// One key with its value.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The store's revision when this value was put.
    pub revision: Revision,
}

/// Entries as they were at one moment.
#[derive(Clone)]
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// The store's revision at that moment: a watch from here on misses nothing.
    pub revision: Revision,
}

/// A revision of the store. It rises with every change and never repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// Names a lease; the keys bound to it go when it is not kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// What a transaction demands of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There is no such key.
    Absent,
    /// The key's value was put at this revision.
    At(Revision),
}

/// One change of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// Puts a value.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// Gone with this lease.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; it need not be there.
    Delete {
        /// The key.
        key: String,
    },
}

/// All of its changes or none, and only where every key is as expected. A key appears in at most one change.
#[derive(Clone, Default)]
pub struct Transaction {
    /// What must be so.
    pub checks: Vec<(String, Expected)>,
    /// What is done then; at most [`CHANGES_MAX`] with the checks.
    pub changes: Vec<Change>,
}

impl Change {
    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len().saturating_add(value.len()),
            Self::Delete { key } => key.len(),
        }
    }
}

impl Transaction {
    /// Whether every store takes it: the same limits for all of them, so that what works over one works over all.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] says what is too large; [`StoreError::Failed`] names a key that is changed twice.
    pub fn validate(&self) -> Result<(), StoreError> {
        let operations = self.checks.len().saturating_add(self.changes.len());
        if operations > CHANGES_MAX {
            let text = format!("{operations} checks and changes in one transaction; at most {CHANGES_MAX}");
            return Err(StoreError::TooLarge(text));
        }
        let mut changed = BTreeSet::new();
        let mut bytes = 0_usize;
        for change in &self.changes {
            validate_change(change)?;
            bytes = bytes.saturating_add(change.bytes());
            if !changed.insert(change.key()) {
                return Err(StoreError::Failed(format!("a transaction changes {:?} twice", change.key())));
            }
        }
        for (key, _) in &self.checks {
            validate_key(key)?;
        }
        if bytes > TRANSACTION_BYTES_MAX {
            let text = format!("a transaction of {bytes} bytes; at most {TRANSACTION_BYTES_MAX}");
            return Err(StoreError::TooLarge(text));
        }
        Ok(())
    }
}

fn validate_change(change: &Change) -> Result<(), StoreError> {
    validate_key(change.key())?;
    match change {
        Change::Put { key, value, .. } if value.len() > VALUE_BYTES_MAX => Err(StoreError::TooLarge(
            format!("a value of {} bytes for {key:?}; at most {VALUE_BYTES_MAX}", value.len()),
        )),
        Change::Put { .. } | Change::Delete { .. } => Ok(()),
    }
}

fn validate_key(key: &str) -> Result<(), StoreError> {
    match key.len() {
        0 => Err(StoreError::Failed("a transaction names the empty key".to_owned())),
        1..=KEY_BYTES_MAX => Ok(()),
        longer => Err(StoreError::TooLarge(format!("a key of {longer} bytes; at most {KEY_BYTES_MAX}"))),
    }
}

/// SHA-256 over keys, revisions and values: whether what watches told is what the store holds.
#[must_use]
pub fn fingerprint(listing: &Listing) -> [u8; 32] {
    let mut hash = Sha256::new();
    for entry in &listing.entries {
        for part in [entry.key.as_bytes(), &entry.revision.0.to_be_bytes(), &entry.value] {
            // Lengths in front: two different listings never give the same bytes.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize().into()
}

/// What happened to a key.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// It has a new value.
    Put(Entry),
    /// It is gone: deleted, or its lease ended.
    Deleted {
        /// The key.
        key: String,
        /// When.
        revision: Revision,
    },
}

impl Event {
    /// The key it happened to.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// When.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A key is not what the transaction demands: somebody else changed it.
    #[error("another change came first")]
    Conflict,
    /// Key, value or transaction is larger than a store takes.
    #[error("too large for the store: {0}")]
    TooLarge(String),
    /// The lease has ended.
    #[error("the lease has ended")]
    LeaseEnded,
    /// What happened since that revision is no longer known: list again, then watch from there.
    #[error("the history since then was compacted")]
    Compacted,
    /// The store cannot be reached, read or written. A transaction may have been done all the same.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Longest value, in bytes: a steering table of 65,536 rows with 12 bytes each.
pub const VALUE_BYTES_MAX: usize = 1_024 * 1_024;
/// Keys and values of one transaction together, in bytes (etcd's default limit is 1.5 MiB a request).
pub const TRANSACTION_BYTES_MAX: usize = 1_280 * 1_024;
/// Checks and changes of one transaction (etcd's default limit is 128 operations).
pub const CHANGES_MAX: usize = 120;

/// A member of a store that consists of several processes.
#[derive(Clone, Debug)]
pub struct StoreMember {
    /// Where it is reached.
    pub address: String,
    /// It answered.
    pub is_healthy: bool,
    /// It leads.
    pub is_leader: bool,
    /// How long it took.
    pub latency: Duration,
    /// Size of its database.
    pub database_bytes: u64,
}

/// What happens from some revision on. Dropping it ends it.
pub trait Watch: Send {
    /// The next events, in order; those of one transaction come together. Nothing is lost when the future is dropped
    /// before it is done.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] or [`StoreError::Failed`]: the watch is over; list again and watch anew.
    fn next(&mut self) -> impl Future<Output = Result<Vec<Event>, StoreError>> + Send;
}

/// An ordered map from text to bytes that survives. Clones are handles to the same one.
pub trait Store: Clone + Send + Sync + 'static {
    /// What [`Store::watch`] gives.
    type Watch: Watch + 'static;

    /// The value of a key, as new as the newest acknowledged change.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;

    /// Every key that starts with `prefix`; one consistent snapshot, as new as the newest acknowledged change.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// Does a transaction; it is durable when this returns, and its revision is the one of every key it put.
    /// Where it changed nothing the revision is [`Revision::default`]: there is nothing to wait for.
    fn commit(&self, transaction: Transaction) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// A lease that ends unless it is kept alive within `ttl` (whole seconds, at least 1).
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<LeaseId, StoreError>> + Send;

    /// Starts the lease's time again.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ends a lease and deletes its keys.
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What happens to keys that start with `prefix` after `after`.
    fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;

    /// What tells this store from itself put back to an older state; `None` where nothing does.
    fn lineage(&self) -> impl Future<Output = Result<Option<Lineage>, StoreError>> + Send;

    /// The processes that it consists of.
    fn members(&self) -> impl Future<Output = Vec<StoreMember>> + Send;
}
