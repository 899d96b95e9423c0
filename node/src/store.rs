//! What a node keeps over restarts: a small ordered map with compare-and-put.
//!
//! The shape is etcd's, so that a cluster's store can stand behind the same trait: one revision for the whole store
//! that rises with every change, and changes that demand the revision they were made from. Values are records of
//! `trunkline_proto::store::v1`. Every implementation passes [`suite`].

mod embedded;
#[cfg(test)]
mod suite;

use std::future::Future;

pub use embedded::{Embedded, OpenError};

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

/// A revision of the store. It rises with every change and never repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// What a change demands of the key it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There is no such key.
    Absent,
    /// The key's value was put at this revision.
    At(Revision),
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key is not what the change demands: somebody else changed it.
    #[error("another change came first")]
    Conflict,
    /// Key or value is larger than a store takes.
    #[error("key or value too large: {KEY_BYTES_MAX} and {VALUE_BYTES_MAX} bytes at most")]
    TooLarge,
    /// The store cannot be reached, read or written.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Longest key.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// An ordered map from text to bytes that survives.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;

    /// Every key that starts with `prefix`, in order.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + Send;

    /// Puts a value where the key is as `expected`; it is durable when this returns.
    fn put(
        &self,
        key: &str,
        expected: Expected,
        value: Vec<u8>,
    ) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// Deletes a key whose value was put at `expected`.
    fn delete(&self, key: &str, expected: Revision) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Whether a store takes it.
fn check_size(key: &str, value: &[u8]) -> Result<(), StoreError> {
    if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
        Err(StoreError::TooLarge)
    } else {
        Ok(())
    }
}
