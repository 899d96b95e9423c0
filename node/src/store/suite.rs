//! What every [`Store`] must do; run against each implementation.

use super::{Expected, KEY_BYTES_MAX, Store, StoreError, VALUE_BYTES_MAX};

/// Runs the whole suite on an empty store.
pub(super) async fn run(store: &impl Store) {
    puts_and_gets(store).await;
    changes_demand_the_revision_they_were_made_from(store).await;
    lists_by_prefix_in_order(store).await;
    refuses_what_is_too_large(store).await;
    one_of_many_concurrent_changes_wins(store).await;
}

async fn puts_and_gets(store: &impl Store) {
    assert!(store.get("none").await.unwrap().is_none());
    let revision = store.put("some", Expected::Absent, vec![0, 255]).await.unwrap();
    let entry = store.get("some").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), entry.value, entry.revision), ("some", vec![0, 255], revision));
}

async fn changes_demand_the_revision_they_were_made_from(store: &impl Store) {
    let first = store.put("changed", Expected::Absent, b"1".to_vec()).await.unwrap();
    let again = store.put("changed", Expected::Absent, b"2".to_vec()).await;
    assert!(matches!(again, Err(StoreError::Conflict)));
    let second = store.put("changed", Expected::At(first), b"2".to_vec()).await.unwrap();
    assert!(second > first);
    assert!(matches!(
        store.put("changed", Expected::At(first), b"3".to_vec()).await,
        Err(StoreError::Conflict)
    ));
    assert!(matches!(store.delete("changed", first).await, Err(StoreError::Conflict)));
    assert_eq!(store.get("changed").await.unwrap().unwrap().value, b"2");
    store.delete("changed", second).await.unwrap();
    assert!(store.get("changed").await.unwrap().is_none());
    assert!(matches!(store.delete("changed", second).await, Err(StoreError::Conflict)));
    assert!(matches!(store.put("changed", Expected::At(second), vec![]).await, Err(StoreError::Conflict)));
    let third = store.put("changed", Expected::Absent, vec![]).await.unwrap();
    assert!(third > second, "a revision never repeats");
}

async fn lists_by_prefix_in_order(store: &impl Store) {
    for key in ["p/b", "p/a", "p0", "o/z", "p/ä"] {
        store.put(key, Expected::Absent, key.as_bytes().to_vec()).await.unwrap();
    }
    let keys = |entries: Vec<super::Entry>| entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    assert_eq!(keys(store.list("p/").await.unwrap()), ["p/a", "p/b", "p/ä"]);
    assert_eq!(keys(store.list("q").await.unwrap()), Vec::<String>::new());
}

async fn refuses_what_is_too_large(store: &impl Store) {
    let key = "k".repeat(KEY_BYTES_MAX);
    store.put(&key, Expected::Absent, vec![1; VALUE_BYTES_MAX]).await.unwrap();
    let longer = store.put(&format!("{key}k"), Expected::Absent, vec![]).await;
    assert!(matches!(longer, Err(StoreError::TooLarge)));
    let larger = store.put("large", Expected::Absent, vec![1; VALUE_BYTES_MAX + 1]).await;
    assert!(matches!(larger, Err(StoreError::TooLarge)));
}

async fn one_of_many_concurrent_changes_wins(store: &impl Store) {
    let put = |value: u8| store.put("raced", Expected::Absent, vec![value]);
    let (a, b, c) = tokio::join!(put(1), put(2), put(3));
    assert_eq!([a, b, c].iter().filter(|outcome| outcome.is_ok()).count(), 1);
}
