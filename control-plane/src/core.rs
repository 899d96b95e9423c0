//! What every part of a replica shares: the store, the newest state, and the sessions of servers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::store::v1::EpochRecord;

use crate::follower::{self, States};
use crate::records;
use crate::sealing::Sealing;
use crate::session::Sessions;
use crate::state::State;
use crate::store::{AnyStore, Change, Expected, Revision, Store, StoreError, Transaction};

/// Who a replica is.
#[derive(Clone, Debug)]
pub struct ReplicaInfo {
    /// Unique among the replicas.
    pub name: String,
    /// Where other replicas reach it, "10.0.0.5:7443"; empty when there are none.
    pub address: String,
}

/// A replica's view of the fleet. Clones are handles to the same one.
#[derive(Clone)]
pub struct Core(Arc<Inner>);

struct Inner {
    store: AnyStore,
    sealing: Sealing,
    replica: ReplicaInfo,
    states: Arc<States>,
    sessions: Sessions,
    follower: JoinHandle<()>,
}

/// What a change does to the store.
pub struct Planned<T> {
    /// What must be so besides the configuration's version.
    pub checks: Vec<(String, Expected)>,
    /// What is done.
    pub changes: Vec<Change>,
    /// Whether servers must be told: then the epoch's counter rises in the same transaction.
    pub touches_configuration: bool,
    /// For the caller.
    pub answer: T,
}

impl Core {
    /// Reads the store and goes on following it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(store: AnyStore, sealing: Sealing, replica: ReplicaInfo) -> Result<Self, StoreError> {
        let state = follower::read(&store).await?;
        let states = Arc::new(States::new(state));
        let follower = tokio::spawn(follower::follow(store.clone(), Arc::clone(&states)));
        Ok(Self(Arc::new(Inner { store, sealing, replica, states, sessions: Sessions::default(), follower })))
    }

    /// The newest state that is known.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.0.states.newest()
    }

    /// The newest state, now and after each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.0.states.subscribe()
    }

    /// The state as it was when its epoch or leader was new, now and after each change of them. Servers report a thousand
    /// times as often as their configuration changes.
    #[must_use]
    pub fn subscribe_to_epochs(&self) -> watch::Receiver<Arc<State>> {
        self.0.states.subscribe_to_epochs()
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &AnyStore {
        &self.0.store
    }

    /// What secrets in the store are sealed with.
    #[must_use]
    pub fn sealing(&self) -> &Sealing {
        &self.0.sealing
    }

    /// This replica's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.replica.name
    }

    /// Where other replicas reach this one.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.0.replica.address
    }

    /// The servers that are connected to this replica.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// The state once it contains `revision`; what is known where that takes longer than a second.
    pub async fn wait_for(&self, revision: Revision) -> Arc<State> {
        let mut states = self.subscribe();
        let newer = states.wait_for(|state| state.revision >= revision);
        match tokio::time::timeout(CATCH_UP_MAX, newer).await {
            Ok(Ok(state)) => Arc::clone(&state),
            _ => self.state(),
        }
    }

    /// Does what `plan` makes of the newest state, in one transaction; again with a newer state when another change
    /// came first. Returns the epoch that contains it.
    ///
    /// # Errors
    /// What `plan` finds, and the store's.
    pub async fn change<T, E: From<StoreError>>(
        &self,
        plan: impl Fn(&State) -> Result<Planned<T>, E>,
    ) -> Result<(Epoch, T), E> {
        let mut state = self.state();
        for _ in 0..TRIES_MAX {
            let planned = plan(&state)?;
            if planned.changes.is_empty() {
                return Ok((state.epoch(), planned.answer));
            }
            let (epoch, transaction) =
                transaction(&state, planned.checks, planned.changes, planned.touches_configuration);
            match self.0.store.commit(transaction).await {
                Ok(revision) => {
                    self.wait_for(revision).await;
                    return Ok((epoch, planned.answer));
                }
                Err(StoreError::Conflict) => {
                    let fresh = follower::read(&self.0.store).await?;
                    state = Arc::new(fresh);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The transaction of a change that was planned from `state`, and the epoch that contains it.
#[must_use]
pub fn transaction(
    state: &State,
    mut checks: Vec<(String, Expected)>,
    mut changes: Vec<Change>,
    touches_configuration: bool,
) -> (Epoch, Transaction) {
    let mut epoch = state.epoch();
    if touches_configuration {
        epoch = next_epoch(state);
        let expected = state.epoch.as_ref().map_or(Expected::Absent, |kept| Expected::At(kept.revision));
        checks.push((records::key::<EpochRecord>(""), expected));
        changes.push(records::put("", &EpochRecord { epoch: Some(epoch) }));
    }
    (epoch, Transaction { checks, changes })
}

/// The epoch of the next change of configuration.
#[must_use]
pub fn next_epoch(state: &State) -> Epoch {
    let Epoch { generation, counter } = state.epoch();
    Epoch { generation, counter: counter.saturating_add(1) }
}

const CATCH_UP_MAX: Duration = Duration::from_secs(1);
const TRIES_MAX: usize = 20;
