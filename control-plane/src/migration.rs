//! Stores of version 0.1.0 held secrets in clear text: they are sealed when a replica opens the store.

use trunkline_proto::store::v1::{AdminToken, FleetKey, TurnKey};

use crate::records::{self, Record};
use crate::sealing::Sealing;
use crate::store::{AnyStore, Expected, Store, StoreError, Transaction};

/// A record that may hold a secret in clear text.
trait Unsealed: Record {
    /// Moves the secret into its sealed field; false where there is none to move.
    fn seal(&mut self, sealing: &Sealing, key: &str) -> bool;
}

impl Unsealed for TurnKey {
    fn seal(&mut self, sealing: &Sealing, key: &str) -> bool {
        let clear = zeroize::Zeroizing::new(std::mem::take(&mut self.clear_secret));
        sealed(&mut self.sealed_secret, sealing, key, clear.as_bytes())
    }
}

impl Unsealed for FleetKey {
    fn seal(&mut self, sealing: &Sealing, key: &str) -> bool {
        let clear = zeroize::Zeroizing::new(std::mem::take(&mut self.clear_secret));
        sealed(&mut self.sealed_secret, sealing, key, &clear)
    }
}

impl Unsealed for AdminToken {
    fn seal(&mut self, sealing: &Sealing, key: &str) -> bool {
        let clear = zeroize::Zeroizing::new(std::mem::take(&mut self.clear_token));
        sealed(&mut self.sealed_token, sealing, key, clear.as_bytes())
    }
}

fn sealed(place: &mut Vec<u8>, sealing: &Sealing, key: &str, clear: &[u8]) -> bool {
    if clear.is_empty() {
        return false;
    }
    *place = sealing.seal(key, clear);
    true
}

/// Seals every secret that is not, one transaction each.
///
/// # Errors
/// The store's. What was sealed until then stays sealed.
pub async fn seal_secrets(store: &AnyStore, sealing: &Sealing) -> Result<(), StoreError> {
    seal_kind::<TurnKey>(store, sealing).await?;
    seal_kind::<FleetKey>(store, sealing).await?;
    seal_kind::<AdminToken>(store, sealing).await
}

async fn seal_kind<R: Unsealed>(store: &AnyStore, sealing: &Sealing) -> Result<(), StoreError> {
    for entry in store.list(R::PREFIX).await?.entries {
        let kept = records::open::<R>(&entry).map_err(|damaged| StoreError::Failed(damaged.to_string()))?;
        let mut record = kept.record;
        if !record.seal(sealing, &entry.key) {
            continue;
        }
        let name = entry.key.strip_prefix(R::PREFIX).unwrap_or_default();
        let transaction = Transaction {
            checks: vec![(entry.key.clone(), Expected::At(entry.revision))],
            changes: vec![records::put(name, &record)],
        };
        match store.commit(transaction).await {
            // Another replica sealed it.
            Ok(_) | Err(StoreError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Embedded;

    #[tokio::test]
    async fn secrets_of_the_first_version_are_sealed_and_open_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = AnyStore::from(Embedded::open(directory.path()).unwrap());
        let sealing = Sealing::ephemeral().unwrap();
        let turn = TurnKey { id: "ab".into(), clear_secret: "canary-one".into(), ..TurnKey::default() };
        let fleet = FleetKey { id: 3, clear_secret: b"canary-two-bytes".to_vec(), ..FleetKey::default() };
        let admin = AdminToken { clear_token: "canary-three".into(), ..AdminToken::default() };
        let changes = vec![records::put("ab", &turn), records::put(3, &fleet), records::put("", &admin)];
        store.commit(Transaction { checks: vec![], changes }).await.unwrap();

        seal_secrets(&store, &sealing).await.unwrap();
        seal_secrets(&store, &sealing).await.unwrap();

        for entry in store.list("").await.unwrap().entries {
            assert!(!entry.value.windows(6).any(|bytes| bytes == b"canary"), "{}", entry.key);
        }
        let entry = store.get("turn-key/ab").await.unwrap().unwrap();
        let record: TurnKey = records::open(&entry).unwrap().record;
        assert_eq!(&sealing.open("turn-key/ab", &record.sealed_secret).unwrap()[..], b"canary-one");
    }
}
