//! Records of the store: which key holds what, bytes to typed record and back, and those that a node makes for
//! itself at its first start.

use prost::Message;
use trunkline_proto::store::v1::{AdminToken, FleetKey, Revocation, TurnKey};
use trunkline_turn::credentials::Secret;
use trunkline_wire::token;

use crate::secrets::{self, NoEntropy};
use crate::store::{Entry, Expected, Revision, Store, StoreError};

/// Why a record cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random bytes for a new secret.
    #[error(transparent)]
    NoEntropy(#[from] NoEntropy),
    /// Bytes that are not the record they should be.
    #[error("the store's record {key:?} is damaged: {fault}")]
    Damaged {
        /// The record's key.
        key: String,
        /// What is wrong with it.
        fault: String,
    },
}

/// A kind of record and where it lives.
pub(crate) trait Record: Message + Default {
    /// What every key of this kind starts with.
    const PREFIX: &'static str;
    /// What follows the prefix.
    fn name(&self) -> String;

    /// The record's key.
    fn key(&self) -> String {
        format!("{}{}", Self::PREFIX, self.name())
    }
}

impl Record for TurnKey {
    const PREFIX: &'static str = "turn-key/";

    fn name(&self) -> String {
        self.id.clone()
    }
}

impl Record for Revocation {
    const PREFIX: &'static str = "revocation/";

    fn name(&self) -> String {
        self.username.clone()
    }
}

impl Record for FleetKey {
    const PREFIX: &'static str = "fleet-key/";

    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Record for AdminToken {
    const PREFIX: &'static str = "admin-token";

    fn name(&self) -> String {
        String::new()
    }
}

/// A record and the revision it was read or written at.
pub(crate) struct Kept<R> {
    pub record: R,
    pub revision: Revision,
}

/// Every record of a kind.
pub(crate) async fn list<R: Record>(store: &impl Store) -> Result<Vec<Kept<R>>, RecordError> {
    store.list(R::PREFIX).await?.into_iter().map(open).collect()
}

/// Writes a record.
pub(crate) async fn put<R: Record>(
    store: &impl Store,
    record: R,
    expected: Expected,
) -> Result<Kept<R>, RecordError> {
    let revision = store.put(&record.key(), expected, record.encode_to_vec()).await?;
    Ok(Kept { record, revision })
}

/// The key that seals this node's tokens; made at the first start.
///
/// # Errors
/// [`RecordError`].
pub async fn fleet_key(store: &impl Store) -> Result<token::FleetKey, RecordError> {
    let secret = secrets::bytes::<16>()?.to_vec();
    let record =
        first(store, FleetKey { id: u32::from(FLEET_KEY_ID), clear_secret: secret, ..FleetKey::default() })
            .await?;
    let damaged = |fault: &str| RecordError::Damaged { key: record.key(), fault: fault.to_owned() };
    let id = u8::try_from(record.id).map_err(|_| damaged("its id is above 255"))?;
    let secret =
        <[u8; 16]>::try_from(&record.clear_secret[..]).map_err(|_| damaged("its secret has not 16 bytes"))?;
    Ok(token::FleetKey { id, secret })
}

/// What the operator's requests carry; made at the first start.
///
/// # Errors
/// [`RecordError`].
pub async fn admin_token(store: &impl Store) -> Result<Secret, RecordError> {
    let record =
        first(store, AdminToken { clear_token: secrets::hex::<32>()?, ..AdminToken::default() }).await?;
    Ok(Secret::new(record.clear_token))
}

/// The record that is there already, else this one, written.
async fn first<R: Record>(store: &impl Store, fresh: R) -> Result<R, RecordError> {
    let key = fresh.key();
    if let Some(entry) = store.get(&key).await? {
        return Ok(open(entry)?.record);
    }
    match put(store, fresh, Expected::Absent).await {
        Err(RecordError::Store(StoreError::Conflict)) => match store.get(&key).await? {
            Some(entry) => Ok(open(entry)?.record),
            None => Err(RecordError::Store(StoreError::Conflict)),
        },
        written => Ok(written?.record),
    }
}

fn open<R: Record>(entry: Entry) -> Result<Kept<R>, RecordError> {
    let record = R::decode(&entry.value[..])
        .map_err(|error| RecordError::Damaged { key: entry.key.clone(), fault: error.to_string() })?;
    Ok(Kept { record, revision: entry.revision })
}

/// The first key of a node that is alone; a fleet's keys come from elsewhere.
const FLEET_KEY_ID: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Embedded;

    #[tokio::test]
    async fn secrets_made_at_the_first_start_stay() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path()).unwrap();
        let (key, token) = (fleet_key(&store).await.unwrap(), admin_token(&store).await.unwrap());
        drop(store);
        let store = Embedded::open(directory.path()).unwrap();
        assert_eq!(fleet_key(&store).await.unwrap().secret, key.secret);
        assert_eq!(admin_token(&store).await.unwrap().reveal(), token.reveal());
        assert_eq!(token.reveal().len(), 64);
    }

    #[tokio::test]
    async fn a_damaged_record_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path()).unwrap();
        store.put("fleet-key/1", Expected::Absent, vec![0xFF; 3]).await.unwrap();
        let error = fleet_key(&store).await.err().unwrap().to_string();
        assert!(error.contains("fleet-key/1"), "{error}");
    }
}
