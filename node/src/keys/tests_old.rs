//! Keys over restarts, and the credentials that shards are given.

use trunkline_wire::Now;

use super::*;
use crate::store::Embedded;

const NOW: u64 = 1_700_000_000;

async fn open(directory: &tempfile::TempDir) -> Keys<Embedded> {
    Keys::open(Embedded::open(directory.path()).unwrap(), Credentials::default()).await.unwrap()
}

/// Whether the shards accept a username at `unix_s`.
fn accepted(keys: &Keys<Embedded>, username: &str, unix_s: u64) -> bool {
    let credentials = keys.subscribe().borrow().clone();
    credentials.lookup(username.as_bytes(), "realm", Now { monotonic_ns: 0, unix_s }).is_ok()
}

#[tokio::test]
async fn keys_and_revocations_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(&directory).await;
    let key = keys.named("quickstart", NOW).await.unwrap();
    let id = key.summary.id.clone();
    let (bad, good) = (format!("{}:{id}:bad", NOW + 100), format!("{}:{id}:good", NOW + 100));
    keys.revoke(&id, &bad, NOW).await.unwrap();
    drop(keys);

    let keys = open(&directory).await;
    let again = keys.named("quickstart", NOW + 5).await.unwrap();
    assert_eq!((again.summary, again.secret.reveal()), (key.summary, key.secret.reveal()));
    assert_eq!((accepted(&keys, &bad, NOW), accepted(&keys, &good, NOW)), (false, true));
}

#[tokio::test]
async fn minted_credentials_are_those_an_application_makes_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(&directory).await;
    let key = keys.create("app", NOW).await.unwrap();
    let id = &key.summary.id;
    let minted = keys.mint(id, 60, Some("alice:phone"), NOW).unwrap();
    assert_eq!(minted.username, format!("{}:{id}:alice:phone", NOW + 60));
    assert_eq!(Some(minted.password), time_limited_password(&key.secret, &minted.username));
    assert_eq!(keys.mint(id, 60, None, NOW).unwrap().username, format!("{}:{id}", NOW + 60));
    assert!(accepted(&keys, &minted.username, NOW + 59) && !accepted(&keys, &minted.username, NOW + 60));
}

#[tokio::test]
async fn what_cannot_be_minted_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(&directory).await;
    let id = keys.create("app", NOW).await.unwrap().summary.id;
    for ttl in [0, TTL_S_MAX + 1, u64::MAX] {
        assert!(matches!(keys.mint(&id, ttl, None, NOW), Err(KeyError::BadTtl)), "{ttl}");
    }
    assert!(
        keys.mint(&id, TTL_S_MAX, Some(&"x".repeat(256)), NOW).unwrap().username.len() <= USERNAME_BYTES_MAX
    );
    for custom in ["", "a\nb", "\u{7f}", &"x".repeat(257)] {
        assert!(
            matches!(keys.mint(&id, 1, Some(custom), NOW), Err(KeyError::BadCustomIdentifier)),
            "{custom:?}"
        );
    }
    assert!(matches!(keys.mint("nobody", 1, None, NOW), Err(KeyError::NotFound)));
}

#[tokio::test]
async fn deleting_a_key_ends_its_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(&directory).await;
    let id = keys.create("app", NOW).await.unwrap().summary.id;
    let other = keys.create("other", NOW).await.unwrap().summary.id;
    let mut changes = keys.subscribe();
    changes.mark_unchanged();
    keys.delete(&id).await.unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(!accepted(&keys, &format!("{}:{id}", NOW + 9), NOW));
    assert!(accepted(&keys, &format!("{}:{other}", NOW + 9), NOW));
    assert!(matches!(keys.delete(&id).await, Err(KeyError::NotFound)));
    drop(keys);
    assert_eq!(open(&directory).await.list().len(), 1);
}

#[tokio::test]
async fn a_renamed_key_keeps_its_secret() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(&directory).await;
    let key = keys.create("before", NOW).await.unwrap();
    assert_eq!(keys.rename(&key.summary.id, "after").await.unwrap().name, "after");
    assert_eq!(keys.rename(&key.summary.id, "later").await.unwrap().name, "later");
    assert!(keys.authenticate(&key.summary.id, key.secret.reveal()).is_ok());
    assert!(matches!(keys.authenticate(&key.summary.id, "guess"), Err(KeyError::WrongSecret)));
    for name in ["", "  ", "a\tb", &"x".repeat(129)] {
        assert!(matches!(keys.rename(&key.summary.id, name).await, Err(KeyError::BadName)), "{name:?}");
        assert!(matches!(keys.create(name, NOW).await, Err(KeyError::BadName)), "{name:?}");
    }
}

#[tokio::test]
async fn revocations_end_with_the_username_they_revoke() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(&directory).await;
    let id = keys.create("app", NOW).await.unwrap().summary.id;
    let short = format!("{}:{id}", NOW + 10);
    let long = format!("{}:{id}:x", NOW + 1_000);
    for username in [&short, &long, &long] {
        keys.revoke(&id, username, NOW).await.unwrap();
    }
    keys.revoke(&id, &format!("{}:{id}", NOW - 1), NOW).await.unwrap();
    assert_eq!(keys.prune(NOW + 9).await.unwrap(), 0);
    assert_eq!(keys.prune(NOW + 10).await.unwrap(), 1);
    assert_eq!(keys.subscribe().borrow().revoked.len(), 1);
    assert!(!accepted(&keys, &long, NOW));
}

#[tokio::test]
async fn only_usernames_of_the_key_can_be_revoked_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(&directory).await;
    let id = keys.create("app", NOW).await.unwrap().summary.id;
    let expiry = NOW + 10;
    for username in [
        "alice".to_owned(),
        format!("{expiry}:other"),
        format!("{expiry}:{id}x"),
        format!("x:{id}"),
        format!("{expiry}:{id}:{}", "x".repeat(500)),
    ] {
        assert!(
            matches!(keys.revoke(&id, &username, NOW).await, Err(KeyError::BadUsername(_))),
            "{username}"
        );
    }
    assert!(matches!(keys.revoke("other", &format!("{expiry}:other"), NOW).await, Err(KeyError::NotFound)));
}
