//! The suite: what every [`Store`] must do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use trunkline_control_plane::store::{
    CHANGES_MAX, Entry, Event, Expected, KEY_BYTES_MAX, LeaseId, Listing, Revision, Store, StoreError,
    TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX, Watch, fingerprint,
};

use crate::harness::{Harness, change, checked, gone, increment, put, to, to_with, told, value};

/// Makes a test of each behaviour for one kind of store.
macro_rules! run_suite {
    ($harness:ty: $($behaviour:ident,)+) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $behaviour() {
            if let Some(harness) = <$harness as $crate::harness::Harness>::start().await {
                $crate::suite::$behaviour(&harness).await;
            }
        }
    )+ };
    ($harness:ty) => { $crate::suite::run_suite! { $harness:
        puts_and_gets,
        a_transaction_is_done_whole_or_not_at_all,
        changes_demand_the_revision_they_were_made_from,
        a_transaction_that_changes_nothing_has_no_revision,
        lists_by_prefix_in_order_at_one_revision,
        refuses_what_is_too_large_and_says_so,
        concurrent_increments_add_up,
        keys_of_an_ended_lease_go_and_watches_are_told,
        a_lease_that_is_kept_alive_holds_its_keys,
        a_revoked_lease_takes_its_keys_and_no_new_ones,
        a_watch_tells_transactions_whole_and_in_order,
        a_watch_tells_of_the_past,
        a_watch_that_is_given_up_for_a_moment_loses_nothing,
        a_watch_from_before_the_history_is_told_to_list_again,
        a_stopped_watch_misses_nothing_or_is_told_so,
        a_watch_from_the_future_is_refused,
        what_a_watch_tells_adds_up_to_the_listing,
        it_has_members,
    } };
}
pub(crate) use run_suite;

pub async fn puts_and_gets(harness: &impl Harness) {
    let store = harness.store();
    assert!(store.get("none").await.unwrap().is_none());
    let revision = put(store, "some", [0, 255]).await;
    let entry = store.get("some").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), entry.value, entry.revision), ("some", vec![0, 255], revision));
    assert!(store.get("som").await.unwrap().is_none());
    put(store, "empty", []).await;
    assert_eq!(value(store, "empty").await.unwrap(), "");
}

pub async fn a_transaction_is_done_whole_or_not_at_all(harness: &impl Harness) {
    let store = harness.store();
    let first = put(store, "a", "1").await;
    put(store, "b", "1").await;
    let mut both = change(vec![to("a", "2"), gone("b"), to("c", "2")]);
    both.checks = vec![("a".to_owned(), Expected::At(first)), ("b".to_owned(), Expected::Absent)];
    assert_eq!(store.commit(both.clone()).await, Err(StoreError::Conflict));
    assert_eq!(value(store, "a").await.unwrap(), "1");
    assert!(value(store, "c").await.is_none());
    both.checks = vec![("a".to_owned(), Expected::At(first)), ("nothing".to_owned(), Expected::Absent)];
    let second = store.commit(both).await.unwrap();
    let revisions = |listing: Listing| {
        listing.entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect::<Vec<_>>()
    };
    let expected = vec![("a".to_owned(), second), ("c".to_owned(), second)];
    assert_eq!(revisions(store.list("").await.unwrap()), expected, "one revision for all it put");
}

pub async fn changes_demand_the_revision_they_were_made_from(harness: &impl Harness) {
    let store = harness.store();
    let to_be = |expected, value: &str| checked("changed", expected, vec![to("changed", value)]);
    let first = store.commit(to_be(Expected::Absent, "1")).await.unwrap();
    assert_eq!(store.commit(to_be(Expected::Absent, "2")).await, Err(StoreError::Conflict));
    let second = store.commit(to_be(Expected::At(first), "2")).await.unwrap();
    assert!(second > first);
    assert_eq!(store.commit(to_be(Expected::At(first), "3")).await, Err(StoreError::Conflict));
    let delete = |expected| checked("changed", expected, vec![gone("changed")]);
    assert_eq!(store.commit(delete(Expected::At(first))).await, Err(StoreError::Conflict));
    assert_eq!(value(store, "changed").await.unwrap(), "2");
    assert!(store.commit(delete(Expected::At(second))).await.unwrap() > second);
    assert!(value(store, "changed").await.is_none());
    assert_eq!(store.commit(to_be(Expected::At(second), "3")).await, Err(StoreError::Conflict));
    let third = store.commit(to_be(Expected::Absent, "3")).await.unwrap();
    assert!(third > second, "a revision never repeats");
}

pub async fn a_transaction_that_changes_nothing_has_no_revision(harness: &impl Harness) {
    let store = harness.store();
    put(store, "there", "1").await;
    assert_eq!(store.commit(change(vec![gone("not there")])).await.unwrap(), Revision::default());
    assert_eq!(store.commit(checked("x", Expected::Absent, vec![])).await.unwrap(), Revision::default());
    assert_eq!(store.commit(checked("there", Expected::Absent, vec![])).await, Err(StoreError::Conflict));
    let mut watch = store.watch("", Revision::default()).await.unwrap();
    assert_eq!(told(&mut watch).await.unwrap(), ["there=1"]);
    put(store, "there", "2").await;
    assert_eq!(told(&mut watch).await.unwrap(), ["there=2"]);
}

pub async fn lists_by_prefix_in_order_at_one_revision(harness: &impl Harness) {
    let store = harness.store();
    for key in ["p/b", "p/a", "p0", "o/z", "p/ä"] {
        put(store, key, key).await;
    }
    let listing = store.list("p/").await.unwrap();
    let keys = |listing: &Listing| listing.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&listing), ["p/a", "p/b", "p/ä"]);
    assert_eq!(keys(&store.list("").await.unwrap()), ["o/z", "p/a", "p/b", "p/ä", "p0"]);
    let none = store.list("q").await.unwrap();
    assert_eq!(keys(&none), Vec::<String>::new());
    let mut watch = store.watch("p/", listing.revision).await.unwrap();
    put(store, "p/c", "new").await;
    assert_eq!(told(&mut watch).await.unwrap(), ["p/c=new"], "a watch goes on where the listing ended");
}

pub async fn refuses_what_is_too_large_and_says_so(harness: &impl Harness) {
    let store = harness.store();
    let key = "k".repeat(KEY_BYTES_MAX);
    put(store, &key, vec![b'1'; VALUE_BYTES_MAX]).await;
    assert_eq!(value(store, &key).await.unwrap().len(), VALUE_BYTES_MAX);
    let large = |change| async { store.commit(change).await.unwrap_err().to_string() };
    let longer = large(change(vec![to(&format!("{key}k"), "")])).await;
    assert_eq!(longer, "too large for the store: a key of 1025 bytes; at most 1024");
    let larger = large(change(vec![to("large", vec![1; VALUE_BYTES_MAX + 1])])).await;
    assert!(larger.contains("1048577 bytes for \"large\""), "{larger}");
    let many = |count: usize, bytes: usize| {
        change((0..count).map(|number| to(&format!("many/{number}"), vec![b'1'; bytes])).collect())
    };
    store.commit(many(CHANGES_MAX, 1)).await.unwrap();
    assert!(large(many(CHANGES_MAX + 1, 1)).await.contains("121 checks and changes"));
    store.commit(many(2, TRANSACTION_BYTES_MAX / 2 - 16)).await.unwrap();
    assert!(large(many(2, TRANSACTION_BYTES_MAX / 2)).await.contains("a transaction of"));
    assert!(large(change(vec![to("same", "1"), gone("same")])).await.contains("changes \"same\" twice"));
    assert!(large(change(vec![to("", "1")])).await.contains("the empty key"));
}

pub async fn concurrent_increments_add_up(harness: &impl Harness) {
    let store = harness.store();
    let increments: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { increment(&store, "counter").await })
        })
        .collect();
    for increment in increments {
        increment.await.unwrap();
    }
    assert_eq!(value(store, "counter").await.unwrap(), "100");
}

pub async fn keys_of_an_ended_lease_go_and_watches_are_told(harness: &impl Harness) {
    let store = harness.store();
    let lease = store.grant(Duration::from_secs(1)).await.unwrap();
    let kept = to("kept", "for ever");
    let put = change(vec![to_with("leased/a", lease), to_with("leased/b", lease), kept]);
    let revision = store.commit(put).await.unwrap();
    let mut watch = store.watch("", revision).await.unwrap();
    let mut deleted = told(&mut watch).await.unwrap();
    deleted.sort();
    assert_eq!(deleted, ["-leased/a", "-leased/b"], "both at once");
    assert!(value(store, "leased/a").await.is_none());
    assert_eq!(value(store, "kept").await.unwrap(), "for ever");
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseEnded));
    assert_eq!(store.commit(change(vec![to_with("late", lease)])).await, Err(StoreError::LeaseEnded));
    assert!(value(store, "late").await.is_none());
}

pub async fn a_lease_that_is_kept_alive_holds_its_keys(harness: &impl Harness) {
    let store = harness.store();
    let ttl = Duration::from_secs(2);
    let lease = store.grant(ttl).await.unwrap();
    store.commit(change(vec![to_with("leased", lease), to_with("unbound", lease)])).await.unwrap();
    put(store, "unbound", "of no lease any more").await;
    let granted = Instant::now();
    while granted.elapsed() < 3 * ttl {
        store.keep_alive(lease).await.unwrap();
        assert!(value(store, "leased").await.is_some());
        tokio::time::sleep(ttl / 8).await;
    }
    let revision = store.list("").await.unwrap().revision;
    let mut watch = store.watch("", revision).await.unwrap();
    assert_eq!(told(&mut watch).await.unwrap(), ["-leased"], "it ends when nobody keeps it alive");
    assert!(value(store, "unbound").await.is_some());
}

pub async fn a_revoked_lease_takes_its_keys_and_no_new_ones(harness: &impl Harness) {
    let store = harness.store();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let revision = store.commit(change(vec![to_with("leased", lease)])).await.unwrap();
    let mut watch = store.watch("", revision).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert!(value(store, "leased").await.is_none());
    assert_eq!(told(&mut watch).await.unwrap(), ["-leased"]);
    assert_eq!(store.revoke(lease).await, Err(StoreError::LeaseEnded));
    assert_eq!(store.commit(change(vec![to_with("late", lease)])).await, Err(StoreError::LeaseEnded));
    let never = LeaseId(i64::MAX - 1);
    assert_eq!(store.keep_alive(never).await, Err(StoreError::LeaseEnded));
}

pub async fn a_watch_tells_transactions_whole_and_in_order(harness: &impl Harness) {
    let store = harness.store();
    let start = put(store, "before", "1").await;
    let mut watch = store.watch("w/", start).await.unwrap();
    store.commit(change(vec![to("w/b", "1"), to("other", "1"), to("w/a", "1")])).await.unwrap();
    put(store, "w", "not under it").await;
    store.commit(change(vec![gone("w/b"), to("w/a", "2")])).await.unwrap();
    put(store, "w/a", "3").await;
    let mut first = told(&mut watch).await.unwrap();
    let mut second = told(&mut watch).await.unwrap();
    first.sort();
    second.sort();
    assert_eq!((first, second), (strings(&["w/a=1", "w/b=1"]), strings(&["-w/b", "w/a=2"])));
    assert_eq!(told(&mut watch).await.unwrap(), ["w/a=3"]);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub async fn a_watch_tells_of_the_past(harness: &impl Harness) {
    let store = harness.store();
    let first = put(store, "k", "1").await;
    put(store, "k", "2").await;
    put(store, "k", "3").await;
    let mut watch = store.watch("k", first).await.unwrap();
    assert_eq!(told(&mut watch).await.unwrap(), ["k=2"]);
    assert_eq!(told(&mut watch).await.unwrap(), ["k=3"]);
}

pub async fn a_watch_that_is_given_up_for_a_moment_loses_nothing(harness: &impl Harness) {
    let store = harness.store();
    let start = put(store, "k", "start").await;
    let mut watch = store.watch("k", start).await.unwrap();
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for number in 0..200 {
            put(&writer, "k", number.to_string()).await;
        }
    });
    let mut expected = 0..200;
    let mut next = expected.next();
    while let Some(number) = next {
        // Dropped and made again all the time, as in a `select!`.
        let Ok(events) = tokio::time::timeout(Duration::from_micros(50), watch.next()).await else {
            continue;
        };
        for event in events.unwrap() {
            let Event::Put(entry) = event else { panic!("nothing was deleted") };
            assert_eq!(String::from_utf8(entry.value).unwrap(), number.to_string());
        }
        next = expected.next();
    }
    writing.await.unwrap();
}

pub async fn a_watch_from_before_the_history_is_told_to_list_again(harness: &impl Harness) {
    let store = harness.store();
    let before = put(store, "k", "1").await;
    put(store, "k", "2").await;
    harness.compact().await;
    let from_before = match store.watch("k", before).await {
        Ok(mut watch) => told(&mut watch).await,
        Err(error) => Err(error),
    };
    assert_eq!(from_before, Err(StoreError::Compacted));
    let listing = store.list("k").await.unwrap();
    assert_eq!(listing.entries.iter().map(|entry| entry.value.clone()).collect::<Vec<_>>(), [b"2"]);
    let mut watch = store.watch("k", listing.revision).await.unwrap();
    put(store, "k", "3").await;
    assert_eq!(told(&mut watch).await.unwrap(), ["k=3"]);
}

pub async fn a_stopped_watch_misses_nothing_or_is_told_so(harness: &impl Harness) {
    let store = harness.store();
    let start = put(store, "k", "start").await;
    let mut watch = store.watch("k", start).await.unwrap();
    let last = 150;
    for number in 1..=last {
        put(store, "k", number.to_string()).await;
    }
    harness.compact().await;
    let mut number = 0;
    while number < last {
        match told(&mut watch).await {
            Ok(events) => {
                number += 1;
                assert_eq!(events, [format!("k={number}")], "no gap");
            }
            Err(error) => {
                assert_eq!(error, StoreError::Compacted);
                return;
            }
        }
    }
}

pub async fn a_watch_from_the_future_is_refused(harness: &impl Harness) {
    let store = harness.store();
    let now = put(store, "k", "1").await;
    let future = store.watch("k", Revision(now.0 + 1_000)).await;
    assert!(matches!(future, Err(StoreError::Compacted)), "it would never tell what comes before that");
}

pub async fn what_a_watch_tells_adds_up_to_the_listing(harness: &impl Harness) {
    let store = harness.store();
    let mut watch = store.watch("", store.list("").await.unwrap().revision).await.unwrap();
    for number in 0..60 {
        let (key, gone_key) = (format!("k/{}", number % 7), format!("k/{}", number % 5));
        let mut changes = vec![to(&key, number.to_string())];
        if key != gone_key {
            changes.push(gone(&gone_key));
        }
        store.commit(change(changes)).await.unwrap();
    }
    let last = put(store, "last", "x").await;
    let mut mirror = BTreeMap::<String, Entry>::new();
    let mut revision = Revision::default();
    while revision < last {
        for event in watch.next().await.unwrap() {
            revision = event.revision();
            match event {
                Event::Put(entry) => drop(mirror.insert(entry.key.clone(), entry)),
                Event::Deleted { key, .. } => drop(mirror.remove(&key)),
            }
        }
    }
    let mirrored = Listing { entries: mirror.into_values().collect(), revision };
    let listing = store.list("").await.unwrap();
    assert!(fingerprint(&mirrored) == fingerprint(&listing));
    put(store, "last", "x").await;
    assert!(fingerprint(&mirrored) != fingerprint(&store.list("").await.unwrap()), "a new revision differs");
}

pub async fn it_has_members(harness: &impl Harness) {
    put(harness.store(), "k", vec![b'1'; 1_000]).await;
    let members = harness.store().members().await;
    assert_eq!(members.len(), 1);
    assert!(members[0].is_healthy && members[0].is_leader && members[0].database_bytes > 1_000);
}
