//! The one way of everything that an operator changes: done once however often it is sent, and written into the audit
//! log, all in one transaction.
//!
//! The transaction demands that nobody used the idempotency key yet and writes the answer under it. So a replica may be
//! killed at any point: either nothing happened and the repeated call does it, or everything did and the repeated call
//! is told the same answer.

use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::operator::v1 as api;
use trunkline_proto::store::v1::{EpochRecord, IdempotentAnswer};

use crate::core::{Core, next_epoch, transaction};
use crate::event::{self, Happening};
use crate::identity::Identity;
use crate::operator_service::Fault;
use crate::records;
use crate::state::State;
use crate::store::{Change, Entry, Expected, Revision, Store, StoreError, Transaction};

/// A request that changes something.
pub trait Mutating: Message {
    /// The method's name.
    const METHOD: &'static str;

    /// Takes the idempotency key and the reason out of it.
    fn take_mutation(&mut self) -> Option<api::Mutation>;
}

macro_rules! mutating {
    ($($request:ident => $method:literal,)+) => { $(
        impl Mutating for api::$request {
            const METHOD: &'static str = $method;

            fn take_mutation(&mut self) -> Option<api::Mutation> {
                self.mutation.take()
            }
        }
    )+ };
}

mutating! {
    AddNodeRequest => "AddNode",
    RemoveNodeRequest => "RemoveNode",
    SetDrainRequest => "SetDrain",
    SetWeightRequest => "SetWeight",
    CreateKeyRequest => "CreateKey",
    RenameKeyRequest => "RenameKey",
    DeleteKeyRequest => "DeleteKey",
    RevokeCredentialRequest => "RevokeCredential",
    RotateFleetKeyRequest => "RotateFleetKey",
    ApplySettingsRequest => "ApplySettings",
    CloseAllocationRequest => "CloseAllocation",
}

/// What a mutation wants done.
pub struct Plan<R> {
    /// What must be so besides the configuration's version.
    pub checks: Vec<(String, Expected)>,
    /// What is done.
    pub changes: Vec<Change>,
    /// Whether servers must be told.
    pub touches_configuration: bool,
    /// What the caller is told.
    pub answer: R,
    /// What the audit log is told.
    pub happening: Happening,
}

/// A mutating call: who calls, and under which key its answer is kept.
pub struct Call {
    who: String,
    method: &'static str,
    /// In the store.
    key: String,
    reason: String,
    request_sha256: Vec<u8>,
}

/// What is kept under an idempotency key.
pub enum Told<R> {
    /// Nobody used it.
    Nothing,
    /// The call was begun; its answer is not known yet.
    Begun(Revision),
    /// The call was done.
    Answer(R),
}

/// Does what `plan` says, once for each idempotency key. `plan` is called again with a newer state when another change
/// came first; the epoch it is given is the one that its change will have if it touches the configuration.
///
/// # Errors
/// What `plan` finds; a bad or reused idempotency key; a store that fails for [`RETRIED_FOR`].
pub async fn mutate<Q: Mutating, R: Message + Default + Clone>(
    core: &Core,
    caller: &Identity,
    mut request: Q,
    plan: impl Fn(&State, &Q, Epoch) -> Result<Plan<R>, Fault>,
) -> Result<R, Fault> {
    let call = Call::of(caller, &mut request)?;
    let retries = Retries::begin();
    loop {
        match attempt(core, &call, &request, &plan).await {
            Ok(decided) => return decided,
            Err(error) => retries.after(error).await?,
        }
    }
}

async fn attempt<Q: Mutating, R: Message + Default>(
    core: &Core,
    call: &Call,
    request: &Q,
    plan: &impl Fn(&State, &Q, Epoch) -> Result<Plan<R>, Fault>,
) -> Result<Result<R, Fault>, StoreError> {
    match call.told(core).await? {
        Ok(Told::Answer(answer)) => return Ok(Ok(answer)),
        Ok(Told::Nothing) => {}
        Ok(Told::Begun(_)) => return Err(StoreError::Conflict),
        Err(fault) => return Ok(Err(fault)),
    }
    let state = current(core).await?;
    match plan(&state, request, next_epoch(&state)) {
        Ok(plan) => call.commit(core, &state, plan).await,
        Err(fault) => Ok(Err(fault)),
    }
}

/// Tries again while that can help. A failed transaction may have been done all the same: the next attempt finds its
/// answer.
pub struct Retries {
    until: Instant,
}

impl Retries {
    /// The time for it begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self { until: Instant::now() + RETRIED_FOR }
    }

    /// Returns when it is time for the next attempt.
    ///
    /// # Errors
    /// Another attempt would not help, or the time is over.
    pub async fn after(&self, error: StoreError) -> Result<(), Fault> {
        match error {
            StoreError::Conflict if Instant::now() < self.until => {
                tokio::task::yield_now().await;
                Ok(())
            }
            StoreError::Failed(_) if Instant::now() < self.until => {
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            error => Err(error.into()),
        }
    }
}

impl Call {
    /// Takes the mutation out of a request and checks it.
    ///
    /// # Errors
    /// [`Fault::Malformed`] names `mutation.idempotency_key` or `mutation.reason`.
    pub fn of<Q: Mutating>(caller: &Identity, request: &mut Q) -> Result<Self, Fault> {
        let mutation = request.take_mutation().unwrap_or_default();
        check_mutation(&mutation)?;
        let who = who(caller);
        Ok(Self {
            key: format!("{PREFIX}{who}/{}", mutation.idempotency_key),
            who,
            method: Q::METHOD,
            reason: mutation.reason,
            request_sha256: Sha256::digest(request.encode_to_vec()).to_vec(),
        })
    }

    /// What this call was told before.
    ///
    /// # Errors
    /// Outside: the store; inside: another request was made under the key.
    pub async fn told<R: Message + Default>(
        &self,
        core: &Core,
    ) -> Result<Result<Told<R>, Fault>, StoreError> {
        let entry = core.store().get(&self.key).await?;
        Ok(entry.map_or(Ok(Told::Nothing), |entry| self.open(core, &entry)))
    }

    fn open<R: Message + Default>(&self, core: &Core, entry: &Entry) -> Result<Told<R>, Fault> {
        let damaged = |error: prost::DecodeError| {
            Fault::Broken(format!("the store's record {:?} is damaged: {error}", self.key))
        };
        let kept = IdempotentAnswer::decode(&entry.value[..]).map_err(damaged)?;
        if kept.method != full_name(self.method) || kept.request_sha256 != self.request_sha256 {
            let problem = format!(
                "it was used for another request ({}); make up a new one for each thing you want done",
                kept.method
            );
            return Err(Fault::malformed("mutation.idempotency_key", problem));
        }
        if kept.sealed_response.is_empty() {
            return Ok(Told::Begun(entry.revision));
        }
        let clear = core.sealing().open(&self.key, &kept.sealed_response)?;
        R::decode(&clear[..]).map(Told::Answer).map_err(damaged)
    }

    /// Change, answer and event in one transaction.
    async fn commit<R: Message>(
        &self,
        core: &Core,
        state: &State,
        plan: Plan<R>,
    ) -> Result<Result<R, Fault>, StoreError> {
        let Plan { mut checks, mut changes, touches_configuration, answer, happening } = plan;
        checks.push((self.key.clone(), Expected::Absent));
        changes.push(self.put(core, Some(&answer)));
        match self.event(&happening) {
            Ok(event) => changes.push(event),
            Err(fault) => return Ok(Err(fault)),
        }
        let (_, transaction) = transaction(state, checks, changes, touches_configuration);
        let revision = core.store().commit(transaction).await?;
        if touches_configuration {
            // So that whoever asks this replica next sees the change. It is done even if that takes too long.
            core.wait_for(revision).await;
        }
        Ok(Ok(answer))
    }

    /// The record of the answer; without one the call has begun.
    pub fn put<R: Message>(&self, core: &Core, answer: Option<&R>) -> Change {
        let seal = |answer: &R| {
            let clear = zeroize::Zeroizing::new(answer.encode_to_vec());
            core.sealing().seal(&self.key, &clear)
        };
        let record = IdempotentAnswer {
            method: full_name(self.method),
            request_sha256: self.request_sha256.clone(),
            sealed_response: answer.map(seal).unwrap_or_default(),
            unix_s: event::unix_ms() / 1_000,
        };
        Change::Put { key: self.key.clone(), value: record.encode_to_vec(), lease: None }
    }

    /// The event of this call.
    ///
    /// # Errors
    /// The operating system has no random bytes.
    pub fn event(&self, happening: &Happening) -> Result<Change, Fault> {
        Ok(event::put(&self.who, self.method, happening, &self.reason)?)
    }

    /// Where the answer is kept.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// The state at least as new as the newest change of the configuration anywhere.
async fn current(core: &Core) -> Result<std::sync::Arc<State>, StoreError> {
    let Some(epoch) = core.store().get(&records::key::<EpochRecord>("")).await? else {
        return Ok(core.state());
    };
    let state = core.wait_for(epoch.revision).await;
    if state.revision < epoch.revision {
        return Err(StoreError::Failed("this replica is behind the store".to_owned()));
    }
    Ok(state)
}

/// Forgets answers after a day. The leader calls it now and then.
///
/// # Errors
/// [`StoreError`].
pub async fn prune_answers<S: Store>(store: &S, now_unix_s: u64) -> Result<usize, StoreError> {
    let listing = store.list(PREFIX).await?;
    let is_over = |entry: &&Entry| {
        IdempotentAnswer::decode(&entry.value[..])
            .map_or(true, |kept| kept.unix_s.saturating_add(KEPT_S) <= now_unix_s)
    };
    let over: Vec<&Entry> = listing.entries.iter().filter(is_over).collect();
    for entries in over.chunks(DELETED_AT_ONCE) {
        let transaction = Transaction {
            checks: entries.iter().map(|entry| (entry.key.clone(), Expected::At(entry.revision))).collect(),
            changes: entries.iter().map(|entry| Change::Delete { key: entry.key.clone() }).collect(),
        };
        store.commit(transaction).await?;
    }
    Ok(over.len())
}

/// As the audit log names a caller.
#[must_use]
pub fn who(caller: &Identity) -> String {
    match caller {
        Identity::Operator { name, .. } => format!("operator {name}"),
        Identity::Local => "local operator".to_owned(),
        Identity::Node(_) | Identity::Replica(_) | Identity::Newcomer => caller.to_string(),
    }
}

fn check_mutation(mutation: &api::Mutation) -> Result<(), Fault> {
    let bytes = mutation.idempotency_key.len();
    if !(1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&bytes) {
        let problem = format!(
            "it has {bytes} bytes; make up a text of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes for each thing you \
             want done, and send the same one when you repeat it"
        );
        return Err(Fault::malformed("mutation.idempotency_key", problem));
    }
    if mutation.reason.len() > REASON_BYTES_MAX {
        let problem = format!("it has {} bytes, {REASON_BYTES_MAX} at most", mutation.reason.len());
        return Err(Fault::malformed("mutation.reason", problem));
    }
    Ok(())
}

fn full_name(method: &str) -> String {
    format!("trunkline.operator.v1.OperatorService/{method}")
}

/// How long a store that fails or others that change the same are borne: etcd elects a new leader within 3 s.
pub const RETRIED_FOR: Duration = Duration::from_secs(8);
/// Between two tries of a store that fails.
const PAUSE: Duration = Duration::from_millis(100);
const PREFIX: &str = "idempotency/";
/// How long answers are kept.
const KEPT_S: u64 = 86_400;
/// As `Mutation.idempotency_key` says.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Longest reason.
const REASON_BYTES_MAX: usize = 1_024;
/// Each is a check and a change, of at most `CHANGES_MAX` together.
const DELETED_AT_ONCE: usize = 50;
