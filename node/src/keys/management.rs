//! Keys made, listed, renamed and deleted through the control plane of this process.

use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::operator::v1::operator_service_client::OperatorServiceClient;
use trunkline_proto::operator::v1::{
    CreateKeyRequest, DeleteKeyRequest, Key, ListKeysRequest, Mutation, RenameKeyRequest,
};
use trunkline_turn::credentials::Secret;

use super::{Channel, KeyError, KeySummary, Keys, Management, NAME_BYTES_MAX, NewKey, answered};
use crate::secrets;

impl Keys {
    /// The operator's view of every key, oldest first.
    ///
    /// # Errors
    /// [`KeyError::Elsewhere`], [`KeyError::Unavailable`].
    pub async fn list(&self) -> Result<Vec<KeySummary>, KeyError> {
        let listed = answered(self.operator()?.list_keys(ListKeysRequest {})).await?;
        let mut all: Vec<KeySummary> = listed.keys.into_iter().map(summary).collect();
        all.sort_by(|a, b| (a.created_unix_s, &a.id).cmp(&(b.created_unix_s, &b.id)));
        Ok(all)
    }

    /// One key.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], and those of [`Keys::list`].
    pub async fn show(&self, id: &str) -> Result<KeySummary, KeyError> {
        self.list().await?.into_iter().find(|key| key.id == id).ok_or(KeyError::NotFound)
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError::BadName`], [`KeyError::Unavailable`] when there are as many as there can be.
    pub async fn create(&self, name: &str) -> Result<NewKey, KeyError> {
        let mut operator = self.operator()?;
        check_name(name)?;
        let request = CreateKeyRequest { mutation: mutation()?, name: name.to_owned() };
        let made = answered(operator.create_key(request)).await?;
        self.until_epoch(made.epoch).await;
        Ok(NewKey { summary: summary(made.key.unwrap_or_default()), secret: Secret::new(made.secret) })
    }

    /// The oldest key of this name, secret included; made when there is none.
    ///
    /// # Errors
    /// As [`Keys::create`].
    pub async fn named(&self, name: &str) -> Result<NewKey, KeyError> {
        let oldest = self.list().await?.into_iter().find(|key| key.name == name);
        let credentials = self.credentials();
        let kept = oldest.and_then(|key| credentials.keys.get(&key.id).map(|secret| (key, secret.clone())));
        match kept {
            Some((summary, secret)) => Ok(NewKey { summary, secret }),
            None => self.create(name).await,
        }
    }

    /// Gives a key another name.
    ///
    /// # Errors
    /// [`KeyError::BadName`], [`KeyError::NotFound`], and those of [`Keys::list`].
    pub async fn rename(&self, id: &str, name: &str) -> Result<KeySummary, KeyError> {
        let mut operator = self.operator()?;
        check_name(name)?;
        let request =
            RenameKeyRequest { mutation: mutation()?, key_id: id.to_owned(), name: name.to_owned() };
        answered(operator.rename_key(request)).await?;
        self.show(id).await
    }

    /// Deletes a key: its credentials are refused from now on and its allocations end.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], and those of [`Keys::list`].
    pub async fn delete(&self, id: &str) -> Result<(), KeyError> {
        let request = DeleteKeyRequest { mutation: mutation()?, key_id: id.to_owned() };
        let deleted = answered(self.operator()?.delete_key(request)).await?;
        self.until_epoch(deleted.epoch).await;
        Ok(())
    }

    fn operator(&self) -> Result<OperatorServiceClient<Channel>, KeyError> {
        match self.management {
            Management::Here => Ok(OperatorServiceClient::new(self.channel()?)),
            Management::Elsewhere => Err(KeyError::Elsewhere),
        }
    }

    async fn until_epoch(&self, epoch: Option<Epoch>) {
        let order = |epoch: &Epoch| (epoch.generation, epoch.counter);
        let wanted = epoch.map_or((0, 0), |epoch| order(&epoch));
        self.until(|known| order(&known.epoch) >= wanted).await;
    }
}

fn mutation() -> Result<Option<Mutation>, KeyError> {
    let idempotency_key = secrets::hex::<16>().map_err(|error| KeyError::Failed(error.to_string()))?;
    Ok(Some(Mutation { idempotency_key, reason: "HTTP API".to_owned() }))
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let is_bad = name.trim().is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control);
    if is_bad { Err(KeyError::BadName) } else { Ok(()) }
}

fn summary(key: Key) -> KeySummary {
    KeySummary { id: key.id, name: key.name, created_unix_s: key.created_unix_s }
}
