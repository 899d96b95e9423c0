//! Who may use the relay: static users, keys, and the shared secret of the de-facto REST scheme.
//!
//! A time-limited username is `expiry:X…`, its password base64(HMAC-SHA1(secret, username)). The secret is that of
//! the key X where X is a known key, else the static secret. A long-term key is MD5(username:realm:password)
//! (RFC 8489 §9.2.2).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use trunkline_wire::Now;
use trunkline_wire::stun::Key;

/// Secret text. It has no `Debug` and no `Display`, so that it cannot reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Everything that tells which credentials are good. Shards hold it by `Arc`; a change is a new value.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The shared secret of applications that made credentials for coturn.
    pub static_secret: Option<Secret>,
    /// Static long-term credentials: name, password.
    pub users: HashMap<String, Secret>,
    /// Keys of the HTTP API: id, secret.
    pub keys: HashMap<String, Secret>,
    /// Usernames that were revoked and have not expired yet.
    pub revoked: HashSet<String>,
}

/// Whose allocation it is; quotas are charged to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// USERNAME as the client sends it.
    pub username: String,
    /// The key it was made with, if any.
    pub key_id: Option<String>,
    /// What the user quota counts by: the username without its expiry where a name follows it.
    pub quota_name: String,
    /// When the credential ends, in Unix seconds; static users' never do.
    pub expires_unix_s: Option<u64>,
}

impl User {
    /// Whether the credential has ended.
    #[must_use]
    pub fn expired(&self, now: Now) -> bool {
        self.expires_unix_s.is_some_and(|expiry| now.unix_s >= expiry)
    }
}

/// A username that is known, with the key its messages must be signed with.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Whose it is.
    pub user: Arc<User>,
    /// The long-term key.
    pub key: Key,
}

/// Why a username is not accepted. The client is told 401 in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not a name this server knows, or not text.
    Unknown,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl Credentials {
    /// Looks a username up.
    ///
    /// # Errors
    /// [`Refused`] says why the name is not accepted.
    pub fn lookup(&self, username: &[u8], realm: &str, now: Now) -> Result<Grant, Refused> {
        let username = std::str::from_utf8(username).map_err(|_| Refused::Unknown)?;
        if self.revoked.contains(username) {
            return Err(Refused::Revoked);
        }
        let (user, password) = match self.users.get(username) {
            Some(password) => (static_user(username), password.reveal().to_owned()),
            None => self.time_limited(username)?,
        };
        if user.expired(now) {
            return Err(Refused::Expired);
        }
        let key = long_term_key(username, realm, &password).ok_or(Refused::Unknown)?;
        Ok(Grant { user: Arc::new(user), key })
    }

    fn time_limited(&self, username: &str) -> Result<(User, String), Refused> {
        let (expiry, name) =
            username.split_once(':').map_or((username, None), |(expiry, name)| (expiry, Some(name)));
        let expires_unix_s: u64 = expiry.parse().map_err(|_| Refused::Unknown)?;
        let (key_id, custom) = match name {
            Some(name) => {
                name.split_once(':').map_or((name, None), |(key_id, custom)| (key_id, Some(custom)))
            }
            None => ("", None),
        };
        let (secret, key_id, quota_name) = match (self.keys.get(key_id), &self.static_secret) {
            (Some(secret), _) => (secret, Some(key_id.to_owned()), custom.and(name)),
            (None, Some(secret)) => (secret, None, name.filter(|name| !name.is_empty())),
            (None, None) => return Err(Refused::Unknown),
        };
        let user = User {
            username: username.to_owned(),
            key_id,
            quota_name: quota_name.unwrap_or(username).to_owned(),
            expires_unix_s: Some(expires_unix_s),
        };
        Ok((user, time_limited_password(secret, username).ok_or(Refused::Unknown)?))
    }
}

fn static_user(username: &str) -> User {
    User {
        username: username.to_owned(),
        key_id: None,
        quota_name: username.to_owned(),
        expires_unix_s: None,
    }
}

/// The password that belongs to a time-limited username: base64(HMAC-SHA1(secret, username)).
#[must_use]
pub fn time_limited_password(secret: &Secret, username: &str) -> Option<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.reveal().as_bytes()).ok()?;
    mac.update(username.as_bytes());
    Some(STANDARD.encode(mac.finalize().into_bytes()))
}

/// MD5(username ":" realm ":" password) as a key for MESSAGE-INTEGRITY.
#[must_use]
pub fn long_term_key(username: &str, realm: &str, password: &str) -> Option<Key> {
    let mut digest = Md5::new();
    for part in [username, ":", realm, ":", password] {
        digest.update(part.as_bytes());
    }
    Key::new(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { monotonic_ns: 0, unix_s: 1_000 };

    fn credentials() -> Credentials {
        Credentials {
            static_secret: Some(Secret::new("north".into())),
            users: HashMap::from([("alice".into(), Secret::new("secret".into()))]),
            keys: HashMap::from([("k1".into(), Secret::new("key secret".into()))]),
            revoked: HashSet::from(["2000:k1:bad".into()]),
        }
    }

    fn user(name: &str) -> Result<Arc<User>, Refused> {
        credentials().lookup(name.as_bytes(), "r", NOW).map(|grant| grant.user)
    }

    #[test]
    fn a_known_key_wins_over_the_static_secret() {
        assert_eq!(user("2000:k1").unwrap().key_id.as_deref(), Some("k1"));
        assert_eq!(user("2000:k2").unwrap().key_id, None);
        assert_eq!(user("2000").unwrap().key_id, None);
    }

    #[test]
    fn quotas_follow_the_name_behind_the_expiry() {
        assert_eq!(user("2000:k1:bob").unwrap().quota_name, "k1:bob");
        assert_eq!(user("3000:k1:bob").unwrap().quota_name, "k1:bob");
        assert_eq!(user("2000:k1").unwrap().quota_name, "2000:k1");
        assert_eq!(user("2000:carol").unwrap().quota_name, "carol");
        assert_eq!(user("alice").unwrap().quota_name, "alice");
    }

    #[test]
    fn expired_revoked_and_unknown_names_are_refused() {
        assert_eq!(user("999:k1"), Err(Refused::Expired));
        assert_eq!(user("1000:k1"), Err(Refused::Expired));
        assert_eq!(user("2000:k1:bad"), Err(Refused::Revoked));
        assert_eq!(user("mallory"), Err(Refused::Unknown));
        assert_eq!(user("-5:k1"), Err(Refused::Unknown));
        let keys_only = Credentials { static_secret: None, ..credentials() };
        assert_eq!(keys_only.lookup(b"2000:k2", "r", NOW).unwrap_err(), Refused::Unknown);
        assert_eq!(keys_only.lookup(&[0xFF], "r", NOW).unwrap_err(), Refused::Unknown);
    }

    #[test]
    fn passwords_are_those_of_the_rest_scheme() {
        // printf 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64
        let password = time_limited_password(&Secret::new("north".into()), "1700000000:alice").unwrap();
        assert_eq!(password, "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
    }
}
