//! Keeps a [`State`] as new as the store.
//!
//! A watch is a hint: it can be late, lose its history, or end. So everything is read again every
//! [`FULL_READ_EVERY`], and where the two differ the full read is right. While the store cannot be reached the last
//! state stays.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::state::{MIRRORED, State};
use crate::store::{AnyStore, Entry, Event, Revision, Store, StoreError, Watch};

/// Reads all of it.
///
/// # Errors
/// The store's; damaged records are [`StoreError::Failed`].
pub async fn read(store: &AnyStore) -> Result<State, StoreError> {
    let mut state = State::default();
    let mut oldest: Option<Revision> = None;
    for prefix in MIRRORED {
        let listing = store.list(prefix).await?;
        for entry in &listing.entries {
            state.put(entry).map_err(|damaged| StoreError::Failed(damaged.to_string()))?;
        }
        // A kind that was read later may be newer: a watch from the oldest makes them one.
        oldest = Some(oldest.map_or(listing.revision, |oldest| oldest.min(listing.revision)));
    }
    state.revision = oldest.unwrap_or_default();
    // Last: where the store was put back in between, that is seen.
    state.lineage = store.lineage().await?;
    tracing::debug!(now = ?state.lineage, known = ?state.known_lineage(), "read the whole store");
    Ok(state)
}

/// The newest state, for whoever waits for changes of any record, and for whoever waits for a new epoch or leader.
pub struct States {
    all: watch::Sender<Arc<State>>,
    epochs: watch::Sender<Arc<State>>,
}

impl States {
    /// Begins with this one.
    #[must_use]
    pub fn new(state: State) -> Self {
        let state = Arc::new(state);
        Self { all: watch::Sender::new(Arc::clone(&state)), epochs: watch::Sender::new(state) }
    }

    /// The newest one.
    #[must_use]
    pub fn newest(&self) -> Arc<State> {
        Arc::clone(&self.all.borrow())
    }

    /// Now and after each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.all.subscribe()
    }

    /// Now and after each change of the epoch or the leader.
    #[must_use]
    pub fn subscribe_to_epochs(&self) -> watch::Receiver<Arc<State>> {
        self.epochs.subscribe()
    }

    fn modify(&self, change: impl FnOnce(&mut State)) {
        self.all.send_modify(|state| change(Arc::make_mut(state)));
        self.tell_of_epoch();
    }

    fn replace(&self, state: State) {
        self.all.send_replace(Arc::new(state));
        self.tell_of_epoch();
    }

    fn tell_of_epoch(&self) {
        let newest = self.newest();
        let version = |state: &State| {
            (state.epoch.as_ref().map(|kept| kept.revision), state.leader.as_ref().map(|kept| kept.revision))
        };
        self.epochs.send_if_modified(|known| {
            let is_news = version(known) != version(&newest);
            if is_news {
                *known = newest;
            }
            is_news
        });
    }
}

/// Follows the store for ever, from what `states` holds.
pub async fn follow(store: AnyStore, states: Arc<States>) {
    loop {
        let started = Instant::now();
        if let Err(error) = follow_once(&store, &states).await {
            tracing::warn!(%error, "the store cannot be followed; serving what is known");
            let again = read(&store).await;
            if let Ok(state) = again {
                states.replace(state);
            }
        }
        if started.elapsed() < RETRY_AFTER {
            sleep(RETRY_AFTER).await;
        }
    }
}

/// Watches until it is time for a full read, and does that.
async fn follow_once(store: &AnyStore, states: &States) -> Result<(), StoreError> {
    let from = states.newest().revision;
    let mut watch = store.watch("", from).await?;
    let until = Instant::now() + FULL_READ_EVERY;
    while let Ok(events) = timeout_at(until, watch.next()).await {
        take_over(states, &events?)?;
    }
    let state = read(store).await?;
    if state.is_put_back() {
        tracing::warn!("the store was put back to an older state; taking over what it holds");
        states.replace(state);
        return Ok(());
    }
    let known = states.newest();
    // What was written between the two reads is no fault of the watch: it will still come.
    if known.revision >= state.revision && fingerprint(&known) != fingerprint(&state) {
        tracing::warn!("what was watched is not what the store holds; taking over what it holds");
        states.replace(state);
    }
    Ok(())
}

/// The events of one transaction become visible together.
fn take_over(states: &States, events: &[Event]) -> Result<(), StoreError> {
    let is_mirrored = |event: &Event| {
        let key = match event {
            Event::Put(Entry { key, .. }) | Event::Deleted { key, .. } => key,
        };
        MIRRORED.iter().any(|prefix| key.starts_with(prefix))
    };
    let last = events.iter().map(|event| match event {
        Event::Put(entry) => entry.revision,
        Event::Deleted { revision, .. } => *revision,
    });
    let last = last.max().unwrap_or_default();
    let mut outcome = Ok(());
    states.modify(|state| {
        for event in events.iter().filter(|event| is_mirrored(event)) {
            if let Err(damaged) = state.apply(event) {
                outcome = Err(StoreError::Failed(damaged.to_string()));
            }
        }
        state.revision = state.revision.max(last);
    });
    outcome
}

/// SHA-256 over every record's kind, name and revision.
#[must_use]
pub fn fingerprint(state: &State) -> [u8; 32] {
    fn add(hash: &mut Sha256, kind: &str, name: &dyn std::fmt::Display, revision: Revision) {
        hash.update(format!("{kind}{name}={}\n", revision.0));
    }
    let mut hash = Sha256::new();
    let one = |hash: &mut Sha256, kind, revision: Option<Revision>| {
        add(hash, kind, &"", revision.unwrap_or_default());
    };
    one(&mut hash, "lineage", state.lineage_record.as_ref().map(|kept| kept.revision));
    one(&mut hash, "epoch", state.epoch.as_ref().map(|kept| kept.revision));
    one(&mut hash, "leader", state.leader.as_ref().map(|kept| kept.revision));
    one(&mut hash, "rollout", state.rollout.as_ref().map(|kept| kept.revision));
    macro_rules! maps {
        ($($map:ident)+) => { $(for (name, kept) in &state.$map {
            add(&mut hash, stringify!($map), name, kept.revision);
        })+ };
    }
    maps!(replicas nodes statuses tables slices turn_keys revocations fleet_keys settings);
    hash.finalize().into()
}

const FULL_READ_EVERY: Duration = Duration::from_secs(30);
const RETRY_AFTER: Duration = Duration::from_millis(200);
