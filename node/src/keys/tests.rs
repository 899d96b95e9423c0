//! Keys through the control plane, and the credentials that shards are given.

use trunkline_wire::Now;

use super::fixture::open;
use super::*;
use crate::usage::unix_now;

fn now() -> u64 {
    unix_now().as_secs()
}

/// Whether the shards accept a username at `unix_s`.
fn accepted(keys: &Keys, username: &str, unix_s: u64) -> bool {
    keys.credentials().lookup(username.as_bytes(), "realm", Now { monotonic_ns: 0, unix_s }).is_ok()
}

#[tokio::test]
async fn the_key_of_a_name_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(directory.path(), Management::Here).await;
    let key = keys.named("quickstart").await.unwrap();
    let again = keys.named("quickstart").await.unwrap();
    assert_eq!((again.summary, again.secret.reveal()), (key.summary, key.secret.reveal()));
    assert_eq!(keys.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn minted_credentials_are_those_an_application_makes_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(directory.path(), Management::Here).await;
    let (key, now) = (keys.create("app").await.unwrap(), now());
    let id = &key.summary.id;
    let minted = keys.mint(id, 60, Some("alice:phone"), now).unwrap();
    assert_eq!(minted.username, format!("{}:{id}:alice:phone", now + 60));
    assert_eq!(Some(minted.password), time_limited_password(&key.secret, &minted.username));
    assert_eq!(keys.mint(id, 60, None, now).unwrap().username, format!("{}:{id}", now + 60));
    assert!(accepted(&keys, &minted.username, now + 59) && !accepted(&keys, &minted.username, now + 60));
}

#[tokio::test]
async fn what_cannot_be_minted_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(directory.path(), Management::Here).await;
    let id = keys.create("app").await.unwrap().summary.id;
    for ttl in [0, TTL_S_MAX + 1, u64::MAX] {
        assert!(matches!(keys.mint(&id, ttl, None, 5), Err(KeyError::BadTtl)), "{ttl}");
    }
    let longest = keys.mint(&id, TTL_S_MAX, Some(&"x".repeat(256)), now()).unwrap();
    assert!(longest.username.len() <= USERNAME_BYTES_MAX);
    for custom in ["", "a\nb", "\u{7f}", &"x".repeat(257)] {
        assert!(
            matches!(keys.mint(&id, 1, Some(custom), 5), Err(KeyError::BadCustomIdentifier)),
            "{custom:?}"
        );
    }
    assert!(matches!(keys.mint("nobody", 1, None, 5), Err(KeyError::NotFound)));
}

#[tokio::test]
async fn a_deleted_key_has_no_credentials_once_the_call_returns() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(directory.path(), Management::Here).await;
    let id = keys.create("app").await.unwrap().summary.id;
    let other = keys.create("other").await.unwrap().summary.id;
    keys.delete(&id).await.unwrap();
    assert!(!accepted(&keys, &format!("{}:{id}", now() + 9), now()));
    assert!(accepted(&keys, &format!("{}:{other}", now() + 9), now()));
    assert!(matches!(keys.delete(&id).await, Err(KeyError::NotFound)));
}

#[tokio::test]
async fn a_renamed_key_keeps_its_secret() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(directory.path(), Management::Here).await;
    let key = keys.create("before").await.unwrap();
    assert_eq!(keys.rename(&key.summary.id, "after").await.unwrap().name, "after");
    assert!(keys.authenticate(&key.summary.id, key.secret.reveal()).is_ok());
    assert!(matches!(keys.authenticate(&key.summary.id, "guess"), Err(KeyError::WrongSecret)));
    for name in ["", "  ", "a\tb", &"x".repeat(129)] {
        assert!(matches!(keys.rename(&key.summary.id, name).await, Err(KeyError::BadName)), "{name:?}");
        assert!(matches!(keys.create(name).await, Err(KeyError::BadName)), "{name:?}");
    }
}

#[tokio::test]
async fn only_usernames_of_the_key_can_be_revoked_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let keys = open(directory.path(), Management::Here).await;
    let id = keys.create("app").await.unwrap().summary.id;
    let expiry = now() + 10;
    for username in [
        "alice".to_owned(),
        format!("{expiry}:other"),
        format!("{expiry}:{id}x"),
        format!("x:{id}"),
        format!("{expiry}:{id}:{}", "x".repeat(500)),
    ] {
        assert!(
            matches!(keys.revoke(&id, &username, now()).await, Err(KeyError::BadUsername(_))),
            "{username}"
        );
    }
    assert!(matches!(keys.revoke("other", &format!("{expiry}:other"), 5).await, Err(KeyError::NotFound)));
    let mine = format!("{expiry}:{id}:bob");
    keys.revoke(&id, &mine, now()).await.unwrap();
    assert!(!accepted(&keys, &mine, now()) && accepted(&keys, &format!("{expiry}:{id}"), now()));
}

#[tokio::test]
async fn one_of_a_fleet_mints_and_revokes_and_leaves_the_keys_alone() {
    let directory = tempfile::tempdir().unwrap();
    let made = open(directory.path(), Management::Here).await;
    let id = made.create("app").await.unwrap().summary.id;
    let keys = Keys { management: Management::Elsewhere, ..made };
    for outcome in [
        keys.create("app").await.map(drop),
        keys.rename(&id, "other").await.map(drop),
        keys.delete(&id).await,
        keys.list().await.map(drop),
        keys.show(&id).await.map(drop),
    ] {
        assert!(matches!(outcome, Err(KeyError::Elsewhere)));
    }
    let minted = keys.mint(&id, 60, None, now()).unwrap();
    keys.revoke(&id, &minted.username, now()).await.unwrap();
    assert!(!accepted(&keys, &minted.username, now()));
}

#[tokio::test]
async fn without_a_control_plane_credentials_are_minted_and_changes_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let made = open(directory.path(), Management::Here).await;
    let id = made.create("app").await.unwrap().summary.id;
    let keys = Keys { channel: watch::channel(None).1, ..made };
    let minted = keys.mint(&id, 60, None, now()).unwrap();
    assert!(accepted(&keys, &minted.username, now()));
    assert!(matches!(keys.create("other").await, Err(KeyError::Unavailable(_))));
    assert!(matches!(keys.revoke(&id, &minted.username, now()).await, Err(KeyError::Unavailable(_))));
}
