//! TURN keys: credentials are minted with them and revoked; made, listed, renamed and deleted where this server is its
//! own control plane.
//!
//! A username is `expiry:keyId` or `expiry:keyId:customIdentifier`, its password base64(HMAC-SHA1(secret,
//! username)), so an application that holds a key's secret can mint by itself. Minting looks at the configuration in
//! force alone and needs nobody; every change is a call to the control plane, and done when this server has it in
//! force.

mod management;

use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Channel;
use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::node::v1::RevokeRequest;
use trunkline_proto::node::v1::node_service_client::NodeServiceClient;
use trunkline_turn::credentials::{Credentials, Secret, time_limited_password};

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
    /// The control plane found something wrong with the request.
    #[error("{0}")]
    Refused(String),
    /// Keys of a fleet are not a single server's.
    #[error("this server is one of a fleet: keys are managed with `trunklinectl keys`")]
    Elsewhere,
    /// Not now: the control plane is away, full, or somebody else was faster.
    #[error("{0}")]
    Unavailable(String),
    /// The control plane failed.
    #[error("{0}")]
    Failed(String),
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

/// A key with its secret.
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

/// Credentials that are in force on this server, and the configuration that they are of.
#[derive(Clone, Default)]
pub struct InForce {
    /// The configuration's version.
    pub epoch: Epoch,
    /// What the shards accept.
    pub credentials: Arc<Credentials>,
}

/// Who changes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Management {
    /// This server's HTTP API: it is its own control plane.
    Here,
    /// The fleet's operators.
    Elsewhere,
}

/// The keys of a server.
pub struct Keys {
    in_force: watch::Receiver<InForce>,
    /// To the control plane; `None` while it is away.
    channel: watch::Receiver<Option<Channel>>,
    management: Management,
}

impl Keys {
    /// Keys as they are in force, and the way to the control plane.
    #[must_use]
    pub const fn new(
        in_force: watch::Receiver<InForce>,
        channel: watch::Receiver<Option<Channel>>,
        management: Management,
    ) -> Self {
        Self { in_force, channel, management }
    }

    /// What the shards accept now.
    #[must_use]
    pub fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.in_force.borrow().credentials)
    }

    /// Whether `secret` is the key's, in a time that does not tell how much of it is right.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::WrongSecret`].
    pub fn authenticate(&self, id: &str, secret: &str) -> Result<(), KeyError> {
        let credentials = self.credentials();
        let kept = credentials.keys.get(id).ok_or(KeyError::NotFound)?;
        let is_right = bool::from(kept.reveal().as_bytes().ct_eq(secret.as_bytes()));
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
        let credentials = self.credentials();
        let secret = credentials.keys.get(id).ok_or(KeyError::NotFound)?;
        let expiry = now_unix_s.saturating_add(ttl_s);
        let username =
            custom.map_or_else(|| format!("{expiry}:{id}"), |custom| format!("{expiry}:{id}:{custom}"));
        // HMAC takes keys of any length.
        let password = time_limited_password(secret, &username).unwrap_or_default();
        Ok(Minted { username, password })
    }

    /// Refuses a username on every server from now on, until it ends by itself; its allocations end.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::BadUsername`], and what the control plane refuses.
    pub async fn revoke(&self, id: &str, username: &str, now_unix_s: u64) -> Result<(), KeyError> {
        if !self.credentials().keys.contains_key(id) {
            return Err(KeyError::NotFound);
        }
        let expires_unix_s = expiry_of(username, id).ok_or_else(|| KeyError::BadUsername(id.to_owned()))?;
        if expires_unix_s <= now_unix_s || self.credentials().revoked.contains(username) {
            return Ok(());
        }
        let request = RevokeRequest { key_id: id.to_owned(), username: username.to_owned() };
        let mut client = NodeServiceClient::new(self.channel()?);
        answered(client.revoke(request)).await?;
        self.until(|known| known.credentials.revoked.contains(username)).await;
        Ok(())
    }

    fn channel(&self) -> Result<Channel, KeyError> {
        let away = || KeyError::Unavailable("the control plane does not answer; try again".to_owned());
        self.channel.borrow().clone().ok_or_else(away)
    }

    /// Waits until it is so on this server; should the server refuse the configuration, the change stands all the same.
    async fn until(&self, is_so: impl Fn(&InForce) -> bool) {
        let mut in_force = self.in_force.clone();
        if timeout(IN_FORCE_WITHIN, in_force.wait_for(|known| is_so(known))).await.is_err() {
            tracing::warn!("a change of keys is not in force on this server yet");
        }
    }
}

/// The control plane's answer within the bound.
async fn answered<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, KeyError> {
    use tonic::Code;
    let late = || KeyError::Unavailable("the control plane did not answer in time; try again".to_owned());
    let answer = timeout(ANSWER_WITHIN, call).await.map_err(|_| late())?;
    answer.map(tonic::Response::into_inner).map_err(|status| match status.code() {
        Code::NotFound => KeyError::NotFound,
        Code::InvalidArgument | Code::OutOfRange => KeyError::Refused(status.message().to_owned()),
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded => {
            KeyError::Unavailable(status.message().to_owned())
        }
        code => KeyError::Failed(format!("{code:?}: {}", status.message())),
    })
}

/// The expiry of a username that was made with the key `id`.
fn expiry_of(username: &str, id: &str) -> Option<u64> {
    let (expiry, rest) = username.split_once(':')?;
    let of_this_key = rest == id || rest.strip_prefix(id).is_some_and(|custom| custom.starts_with(':'));
    let is_possible = of_this_key && username.len() <= USERNAME_BYTES_MAX;
    expiry.parse().ok().filter(|_| is_possible)
}

/// Longest time to live of minted credentials: 48 hours.
pub const TTL_S_MAX: u64 = 172_800;
/// Longest custom identifier.
pub const CUSTOM_IDENTIFIER_BYTES_MAX: usize = 256;
/// Longest name of a key.
pub const NAME_BYTES_MAX: usize = 128;
/// USERNAME is below 509 bytes (RFC 8489 §14.3).
const USERNAME_BYTES_MAX: usize = 508;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const IN_FORCE_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
