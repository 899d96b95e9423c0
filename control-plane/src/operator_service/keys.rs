//! Keys that applications make TURN credentials with, and usernames that are refused before their time is over.
//!
//! A username is `expiry:keyId` or `expiry:keyId:customIdentifier`; whoever holds a key's secret can mint by itself. The
//! secret is told once, when the key is made, and sealed in the store.

use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::operator::v1::{
    CreateKeyResponse, DeleteKeyRequest, Key, MutationResponse, RenameKeyRequest, RevokeCredentialRequest,
};
use trunkline_proto::store::v1::{Revocation, TurnKey};
use zeroize::Zeroizing;

use super::{Fault, members};
use crate::event::Happening;
use crate::hex;
use crate::mutation::Plan;
use crate::records;
use crate::sealing::Sealing;
use crate::state::State;
use crate::store::Change;

/// A key that does not exist yet. It has no `Debug`.
pub struct FreshKey {
    record: TurnKey,
    secret: Zeroizing<String>,
}

impl FreshKey {
    /// Random id and secret.
    ///
    /// # Errors
    /// A bad name; no random bytes.
    pub fn generate(name: &str, sealing: &Sealing, now_unix_s: u64) -> Result<Self, Fault> {
        check_name(name)?;
        let (mut id, mut secret) = ([0; ID_BYTES], Zeroizing::new([0; SECRET_BYTES]));
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut *secret)?;
        let (id, secret) = (hex::encode(&id), Zeroizing::new(hex::encode(&*secret)));
        let sealed_secret = sealing.seal(&records::key::<TurnKey>(&id), secret.as_bytes());
        let record = TurnKey {
            id,
            name: name.to_owned(),
            created_unix_s: now_unix_s,
            sealed_secret,
            ..TurnKey::default()
        };
        Ok(Self { record, secret })
    }
}

/// Every key, oldest first.
#[must_use]
pub fn list(state: &State) -> Vec<Key> {
    let mut keys: Vec<Key> = state.turn_keys.values().map(|kept| view(&kept.record)).collect();
    keys.sort_by(|a, b| (a.created_unix_s, &a.id).cmp(&(b.created_unix_s, &b.id)));
    keys
}

/// Keeps a fresh key.
///
/// # Errors
/// There are as many as servers keep.
pub fn create(state: &State, fresh: &FreshKey, epoch: Epoch) -> Result<Plan<CreateKeyResponse>, Fault> {
    if state.turn_keys.len() >= KEYS_MAX {
        return Err(Fault::Exhausted(
            "there are 10,000 keys already, which is the most; delete some first".into(),
        ));
    }
    let TurnKey { id, name, .. } = &fresh.record;
    Ok(Plan {
        checks: Vec::new(),
        changes: vec![records::put(id, &fresh.record)],
        touches_configuration: true,
        answer: CreateKeyResponse {
            epoch: Some(epoch),
            key: Some(view(&fresh.record)),
            secret: fresh.secret.to_string(),
        },
        happening: Happening::new(format!("key {id}"), "", format!("name {name:?}")),
    })
}

/// Gives a key another name.
///
/// # Errors
/// A bad name or an unknown key.
pub fn rename(
    state: &State,
    request: &RenameKeyRequest,
    epoch: Epoch,
) -> Result<Plan<MutationResponse>, Fault> {
    check_name(&request.name)?;
    let record = known(state, &request.key_id)?;
    let renamed = TurnKey { name: request.name.clone(), ..record.clone() };
    Ok(Plan {
        checks: Vec::new(),
        changes: vec![records::put(&record.id, &renamed)],
        touches_configuration: true,
        answer: MutationResponse {
            epoch: Some(epoch),
            summary: format!("key {} is named {:?}", record.id, renamed.name),
        },
        happening: Happening::new(
            format!("key {}", record.id),
            format!("name {:?}", record.name),
            format!("name {:?}", renamed.name),
        ),
    })
}

/// Deletes a key: its credentials are refused and its allocations end.
///
/// # Errors
/// An unknown key.
pub fn delete(
    state: &State,
    request: &DeleteKeyRequest,
    epoch: Epoch,
) -> Result<Plan<MutationResponse>, Fault> {
    let TurnKey { id, name, .. } = known(state, &request.key_id)?;
    Ok(Plan {
        checks: Vec::new(),
        changes: vec![Change::Delete { key: records::key::<TurnKey>(id) }],
        touches_configuration: true,
        answer: MutationResponse {
            epoch: Some(epoch),
            summary: format!(
                "key {id} ({name:?}) is deleted; its credentials are refused and its allocations end"
            ),
        },
        happening: Happening::new(format!("key {id}"), format!("name {name:?}"), "deleted"),
    })
}

/// Refuses a username until it ends by itself. One that has ended or is refused already changes nothing.
///
/// # Errors
/// An unknown key; a username that is not one of it; as many revocations as servers keep.
pub fn revoke(
    state: &State,
    request: &RevokeCredentialRequest,
    now_unix_s: u64,
    epoch: Epoch,
) -> Result<Plan<MutationResponse>, Fault> {
    let id = &known(state, &request.key_id)?.id;
    let username = &request.username;
    let expires_unix_s = expiry_of(username, id).ok_or_else(|| {
        let problem =
            format!("it is not one of this key: expected expiry:{id} or expiry:{id}:customIdentifier");
        Fault::malformed("username", problem)
    })?;
    let (is_over, is_refused) = (expires_unix_s <= now_unix_s, state.revocations.contains_key(username));
    let is_new = !is_over && !is_refused;
    if is_new && state.revocations.len() >= REVOCATIONS_MAX {
        let problem = "there are 50,000 revocations already, which is the most; delete the key, which revokes everything \
                       that was minted with it";
        return Err(Fault::Exhausted(problem.into()));
    }
    let record = Revocation { username: username.clone(), expires_unix_s };
    let summary = match () {
        () if is_over => format!("{username} had ended by itself"),
        () if is_refused => format!("{username} is refused already"),
        () => format!("{username} is refused until {expires_unix_s}"),
    };
    let before = if is_over {
        "ended"
    } else if is_refused {
        "refused"
    } else {
        "accepted"
    };
    let after = if is_over { "ended".to_owned() } else { format!("refused until {expires_unix_s}") };
    Ok(Plan {
        checks: Vec::new(),
        changes: is_new.then(|| records::put(username, &record)).into_iter().collect(),
        touches_configuration: is_new,
        answer: members::answer(state, epoch, is_new, summary),
        happening: Happening::new(format!("username {username}"), before, after),
    })
}

/// The expiry of a username that was made with the key `id`.
fn expiry_of(username: &str, id: &str) -> Option<u64> {
    let (expiry, rest) = username.split_once(':')?;
    let of_this_key = rest == id || rest.strip_prefix(id).is_some_and(|custom| custom.starts_with(':'));
    let is_possible = of_this_key && username.len() <= USERNAME_BYTES_MAX;
    expiry.parse().ok().filter(|_| is_possible)
}

fn known<'a>(state: &'a State, id: &str) -> Result<&'a TurnKey, Fault> {
    let missing =
        || Fault::unknown("key_id", format!("there is no key {id:?}; `trunklinectl keys` lists them"));
    state.turn_keys.get(id).map(|kept| &kept.record).ok_or_else(missing)
}

fn check_name(name: &str) -> Result<(), Fault> {
    let is_bad = name.trim().is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control);
    if is_bad {
        let problem =
            format!("it must have 1 to {NAME_BYTES_MAX} bytes, not only spaces, and no control characters");
        return Err(Fault::malformed("name", problem));
    }
    Ok(())
}

fn view(key: &TurnKey) -> Key {
    Key { id: key.id.clone(), name: key.name.clone(), created_unix_s: key.created_unix_s }
}

const ID_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
/// Longest name of a key.
const NAME_BYTES_MAX: usize = 128;
/// Keys of a fleet; each is in the memory of every shard.
const KEYS_MAX: usize = 10_000;
/// Revocations at once. Beyond it, deleting the key revokes everything that was minted with it.
const REVOCATIONS_MAX: usize = 50_000;
/// USERNAME is below 509 bytes (RFC 8489 §14.3).
const USERNAME_BYTES_MAX: usize = 508;
