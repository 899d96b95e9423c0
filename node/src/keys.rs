//! TURN keys: made, listed, renamed and deleted; credentials are minted with them and revoked.
//!
//! A username is `expiry:keyId` or `expiry:keyId:customIdentifier`, its password base64(HMAC-SHA1(secret,
//! username)), so an application that holds a key's secret can mint by itself. Every change is durable first, then
//! part of a new [`Credentials`] value, which shards receive through [`Keys::subscribe`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use subtle::ConstantTimeEq;
use tokio::sync::{Mutex, watch};
use trunkline_proto::store::v1::{Revocation, TurnKey};
use trunkline_turn::credentials::{Credentials, Secret, time_limited_password};

use crate::records::{self, Kept, Record, RecordError};
use crate::secrets;
use crate::store::{Expected, Store, StoreError};

/// Why something about keys was not done.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No key has this id.
    #[error("there is no such key")]
    NotFound,
    /// Not the key's secret.
    #[error("the secret is not this key's")]
    WrongSecret,
    /// The name is not one.
    #[error("name must have 1 to {NAME_BYTES_MAX} bytes and no control characters")]
    BadName,
    /// The time to live is out of bounds.
    #[error("ttl must be 1 to {TTL_S_MAX} seconds")]
    BadTtl,
    /// The custom identifier is not one.
    #[error("customIdentifier must have 1 to {CUSTOM_IDENTIFIER_BYTES_MAX} bytes and no control characters")]
    BadCustomIdentifier,
    /// Not a username of this key.
    #[error("the username is not one of this key: expected expiry:{0} or expiry:{0}:customIdentifier")]
    BadUsername(String),
    /// There are as many keys or revocations as a node keeps.
    #[error("there are {0} already, which is the most this server keeps")]
    Full(&'static str),
    /// It could not be kept.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What anybody with the operator's token may see of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySummary {
    /// 32 hexadecimal digits.
    pub id: String,
    /// For people.
    pub name: String,
    /// When it was made.
    pub created_unix_s: u64,
}

/// A key that was just made: the only moment its secret is told.
pub struct NewKey {
    /// Everything else about it.
    pub summary: KeySummary,
    /// 64 hexadecimal digits.
    pub secret: Secret,
}

/// Fresh credentials.
pub struct Minted {
    /// USERNAME.
    pub username: String,
    /// The password that belongs to it.
    pub password: String,
}

/// The keys of a node, kept in a store.
pub struct Keys<S> {
    store: S,
    /// Credentials that do not come from the store.
    fixed: Credentials,
    kept: RwLock<KeptKeys>,
    /// Held over a change and its publication, so that changes are published in the order they were made.
    changing: Mutex<()>,
    published: watch::Sender<Arc<Credentials>>,
}

#[derive(Default)]
struct KeptKeys {
    keys: BTreeMap<String, Kept<TurnKey>>,
    revocations: HashMap<String, Kept<Revocation>>,
}

impl<S: Store> Keys<S> {
    /// Reads the keys of a store. `fixed` is accepted besides them.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn open(store: S, fixed: Credentials) -> Result<Self, RecordError> {
        let by_name = |kept: Kept<_>| (Record::name(&kept.record), kept);
        let keys = records::list::<TurnKey>(&store).await?.into_iter().map(by_name).collect();
        let by_name = |kept: Kept<_>| (Record::name(&kept.record), kept);
        let revocations = records::list::<Revocation>(&store).await?.into_iter().map(by_name).collect();
        let keys = Self {
            store,
            fixed,
            kept: RwLock::new(KeptKeys { keys, revocations }),
            changing: Mutex::default(),
            published: watch::Sender::default(),
        };
        keys.publish();
        Ok(keys)
    }

    /// What shards must know, now and after each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.published.subscribe()
    }

    /// The operator's view of every key, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<KeySummary> {
        let mut all: Vec<KeySummary> = self.read().keys.values().map(|kept| summary(&kept.record)).collect();
        all.sort_by(|a, b| (a.created_unix_s, &a.id).cmp(&(b.created_unix_s, &b.id)));
        all
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError::BadName`], [`KeyError::Full`], [`KeyError::Record`].
    pub async fn create(&self, name: &str, now_unix_s: u64) -> Result<NewKey, KeyError> {
        check_name(name)?;
        let _changing = self.changing.lock().await;
        if self.read().keys.len() >= KEYS_MAX {
            return Err(KeyError::Full("10,000 keys"));
        }
        let record = TurnKey {
            id: secrets::hex::<16>().map_err(RecordError::from)?,
            name: name.to_owned(),
            clear_secret: secrets::hex::<32>().map_err(RecordError::from)?,
            created_unix_s: now_unix_s,
            ..TurnKey::default()
        };
        let kept = records::put(&self.store, record, Expected::Absent).await?;
        let made = new_key(&kept.record);
        self.write().keys.insert(kept.record.id.clone(), kept);
        self.publish();
        Ok(made)
    }

    /// The oldest key of this name, secret included; made when there is none.
    ///
    /// # Errors
    /// As [`Keys::create`].
    pub async fn named(&self, name: &str, now_unix_s: u64) -> Result<NewKey, KeyError> {
        let oldest = self.list().into_iter().find(|key| key.name == name);
        let found = oldest.and_then(|key| self.read().keys.get(&key.id).map(|kept| new_key(&kept.record)));
        match found {
            Some(key) => Ok(key),
            None => self.create(name, now_unix_s).await,
        }
    }

    /// One key.
    ///
    /// # Errors
    /// [`KeyError::NotFound`].
    pub fn show(&self, id: &str) -> Result<KeySummary, KeyError> {
        self.read().keys.get(id).map(|kept| summary(&kept.record)).ok_or(KeyError::NotFound)
    }

    /// Gives a key another name.
    ///
    /// # Errors
    /// [`KeyError::BadName`], [`KeyError::NotFound`], [`KeyError::Record`].
    pub async fn rename(&self, id: &str, name: &str) -> Result<KeySummary, KeyError> {
        check_name(name)?;
        let _changing = self.changing.lock().await;
        let (record, revision) = self.current(id)?;
        let kept =
            records::put(&self.store, TurnKey { name: name.to_owned(), ..record }, Expected::At(revision))
                .await?;
        let renamed = summary(&kept.record);
        self.write().keys.insert(id.to_owned(), kept);
        Ok(renamed)
    }

    /// Deletes a key: its credentials are refused from now on and its allocations end.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::Record`].
    pub async fn delete(&self, id: &str) -> Result<(), KeyError> {
        let _changing = self.changing.lock().await;
        let (record, revision) = self.current(id)?;
        self.store.delete(&record.key(), revision).await.map_err(RecordError::from)?;
        self.write().keys.remove(id);
        self.publish();
        Ok(())
    }

    /// Whether `secret` is the key's, in a time that does not tell how much of it is right.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::WrongSecret`].
    pub fn authenticate(&self, id: &str, secret: &str) -> Result<(), KeyError> {
        let kept = self.read();
        let key = kept.keys.get(id).ok_or(KeyError::NotFound)?;
        let is_right = bool::from(key.record.clear_secret.as_bytes().ct_eq(secret.as_bytes()));
        if is_right { Ok(()) } else { Err(KeyError::WrongSecret) }
    }

    /// Mints credentials that end after `ttl_s` seconds.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::BadTtl`], [`KeyError::BadCustomIdentifier`].
    pub fn mint(
        &self,
        id: &str,
        ttl_s: u64,
        custom: Option<&str>,
        now_unix_s: u64,
    ) -> Result<Minted, KeyError> {
        if !(1..=TTL_S_MAX).contains(&ttl_s) {
            return Err(KeyError::BadTtl);
        }
        let is_bad = |custom: &str| {
            custom.is_empty()
                || custom.len() > CUSTOM_IDENTIFIER_BYTES_MAX
                || custom.chars().any(char::is_control)
        };
        if custom.is_some_and(is_bad) {
            return Err(KeyError::BadCustomIdentifier);
        }
        let (key, _) = self.current(id)?;
        let expiry = now_unix_s.saturating_add(ttl_s);
        let username =
            custom.map_or_else(|| format!("{expiry}:{id}"), |custom| format!("{expiry}:{id}:{custom}"));
        // HMAC takes keys of any length.
        let password = time_limited_password(&Secret::new(key.clear_secret), &username).unwrap_or_default();
        Ok(Minted { username, password })
    }

    /// Refuses a username from now on, until it ends by itself; its allocations end.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::BadUsername`], [`KeyError::Full`], [`KeyError::Record`].
    pub async fn revoke(&self, id: &str, username: &str, now_unix_s: u64) -> Result<(), KeyError> {
        self.show(id)?;
        let expires_unix_s = expiry_of(username, id).ok_or_else(|| KeyError::BadUsername(id.to_owned()))?;
        let _changing = self.changing.lock().await;
        if expires_unix_s <= now_unix_s || self.read().revocations.contains_key(username) {
            return Ok(());
        }
        if self.read().revocations.len() >= REVOCATIONS_MAX {
            return Err(KeyError::Full("50,000 revocations"));
        }
        let record = Revocation { username: username.to_owned(), expires_unix_s };
        let kept = records::put(&self.store, record, Expected::Absent).await?;
        self.write().revocations.insert(username.to_owned(), kept);
        self.publish();
        Ok(())
    }

    /// Forgets revocations of usernames that have ended by themselves.
    ///
    /// # Errors
    /// [`KeyError::Record`].
    pub async fn prune(&self, now_unix_s: u64) -> Result<usize, KeyError> {
        let _changing = self.changing.lock().await;
        let is_over = |kept: &Kept<Revocation>| kept.record.expires_unix_s <= now_unix_s;
        let over: Vec<_> = {
            let kept = self.read();
            let over = kept.revocations.values().filter(|kept| is_over(kept));
            over.map(|kept| (kept.record.username.clone(), kept.record.key(), kept.revision)).collect()
        };
        for (username, key, revision) in &over {
            match self.store.delete(key, *revision).await {
                Ok(()) | Err(StoreError::Conflict) => self.write().revocations.remove(username),
                Err(error) => return Err(KeyError::Record(error.into())),
            };
        }
        if !over.is_empty() {
            self.publish();
        }
        Ok(over.len())
    }

    fn current(&self, id: &str) -> Result<(TurnKey, crate::store::Revision), KeyError> {
        let kept = self.read();
        kept.keys.get(id).map(|kept| (kept.record.clone(), kept.revision)).ok_or(KeyError::NotFound)
    }

    fn publish(&self) {
        let kept = self.read();
        let keys = kept
            .keys
            .values()
            .map(|k| (k.record.id.clone(), Secret::new(k.record.clear_secret.clone())))
            .collect();
        let revoked = kept.revocations.keys().cloned().collect();
        self.published.send_replace(Arc::new(Credentials { keys, revoked, ..self.fixed.clone() }));
    }

    fn read(&self) -> RwLockReadGuard<'_, KeptKeys> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, KeptKeys> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The expiry of a username that was made with the key `id`.
fn expiry_of(username: &str, id: &str) -> Option<u64> {
    let (expiry, rest) = username.split_once(':')?;
    let of_this_key = rest == id || rest.strip_prefix(id).is_some_and(|custom| custom.starts_with(':'));
    let is_possible = of_this_key && username.len() <= USERNAME_BYTES_MAX;
    expiry.parse().ok().filter(|_| is_possible)
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let is_bad = name.trim().is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control);
    if is_bad { Err(KeyError::BadName) } else { Ok(()) }
}

fn summary(key: &TurnKey) -> KeySummary {
    KeySummary { id: key.id.clone(), name: key.name.clone(), created_unix_s: key.created_unix_s }
}

fn new_key(key: &TurnKey) -> NewKey {
    NewKey { summary: summary(key), secret: Secret::new(key.clear_secret.clone()) }
}

/// Longest time to live of minted credentials: 48 hours.
pub const TTL_S_MAX: u64 = 172_800;
/// Longest custom identifier.
pub const CUSTOM_IDENTIFIER_BYTES_MAX: usize = 256;
/// Longest name of a key.
pub const NAME_BYTES_MAX: usize = 128;
/// Keys of a node; each is in the memory of every shard.
const KEYS_MAX: usize = 10_000;
/// Revocations of a node at once. Beyond it, deleting the key revokes everything that was minted with it.
const REVOCATIONS_MAX: usize = 50_000;
/// USERNAME is below 509 bytes (RFC 8489 §14.3).
const USERNAME_BYTES_MAX: usize = 508;

#[cfg(test)]
mod tests;
