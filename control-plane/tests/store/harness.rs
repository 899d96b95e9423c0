//! A store under test, and what the suite needs of it beyond the trait.

use std::time::Duration;

use trunkline_control_plane::store::{
    AnyStore, Change, Entry, Event, Expected, LeaseId, Revision, Store, StoreError, Transaction, Watch,
};

/// A store that the suite runs against.
pub trait Harness: Sized {
    /// An empty store; none where this machine cannot have one.
    async fn start() -> Option<Self>;

    /// The store.
    fn store(&self) -> &AnyStore;

    /// Makes it forget what happened up to here.
    async fn compact(&self);
}

/// Puts one key, whatever is there.
pub async fn put(store: &impl Store, key: &str, value: impl Into<Vec<u8>>) -> Revision {
    store.commit(change(vec![to(key, value)])).await.unwrap()
}

/// A put of a transaction.
pub fn to(key: &str, value: impl Into<Vec<u8>>) -> Change {
    Change::Put { key: key.to_owned(), value: value.into(), lease: None }
}

/// A put that goes with a lease.
pub fn to_with(key: &str, lease: LeaseId) -> Change {
    Change::Put { key: key.to_owned(), value: b"leased".to_vec(), lease: Some(lease) }
}

/// A delete of a transaction.
pub fn gone(key: &str) -> Change {
    Change::Delete { key: key.to_owned() }
}

/// A transaction that demands nothing.
pub fn change(changes: Vec<Change>) -> Transaction {
    Transaction { checks: vec![], changes }
}

/// A transaction with one check.
pub fn checked(key: &str, expected: Expected, changes: Vec<Change>) -> Transaction {
    Transaction { checks: vec![(key.to_owned(), expected)], changes }
}

/// The value of a key as text; none where there is no such key.
pub async fn value(store: &impl Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|entry| text(&entry))
}

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.value.clone()).unwrap()
}

/// What a watch tells next, as `key=value` and `-key`; fails where it tells nothing for long.
pub async fn told(watch: &mut impl Watch) -> Result<Vec<String>, StoreError> {
    let next = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
    let line = |event: &Event| match event {
        Event::Put(entry) => format!("{}={}", entry.key, text(entry)),
        Event::Deleted { key, .. } => format!("-{key}"),
    };
    Ok(next.expect("the watch is silent")?.iter().map(line).collect())
}

/// How a commit that reads a number and puts the next one ends: when it comes first.
pub async fn increment(store: &impl Store, key: &str) {
    loop {
        let entry = store.get(key).await.unwrap();
        let (number, expected) = match &entry {
            Some(entry) => (text(entry).parse::<u64>().unwrap(), Expected::At(entry.revision)),
            None => (0, Expected::Absent),
        };
        match store.commit(checked(key, expected, vec![to(key, (number + 1).to_string())])).await {
            Ok(_) => return,
            Err(StoreError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
