//! The last transactions, for watches. A watch reads them at its own pace and holds nothing itself, so one that falls
//! behind costs no memory: it is told [`StoreError::Compacted`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::watch;

use super::super::{Event, Revision, StoreError, Watch};
use super::lock;

/// The last transactions.
pub(super) struct History {
    kept: Mutex<Kept>,
    newest: watch::Sender<Revision>,
}

struct Kept {
    /// Everything after this is here.
    after: Revision,
    transactions: VecDeque<(Revision, Vec<Event>)>,
    transactions_max: usize,
    bytes: usize,
}

impl History {
    pub(super) fn new(revision: Revision, transactions_max: usize) -> Self {
        let kept = Kept { after: revision, transactions: VecDeque::new(), transactions_max, bytes: 0 };
        Self { kept: Mutex::new(kept), newest: watch::Sender::new(revision) }
    }

    /// Adds what a transaction did.
    pub(super) fn append(&self, revision: Revision, events: Vec<Event>) {
        lock(&self.kept).append(revision, events);
        self.newest.send_replace(revision);
    }
}

impl Kept {
    fn append(&mut self, revision: Revision, events: Vec<Event>) {
        self.bytes = self.bytes.saturating_add(bytes(&events));
        self.transactions.push_back((revision, events));
        while self.transactions.len() > self.transactions_max || self.bytes > BYTES_MAX {
            let Some((dropped, events)) = self.transactions.pop_front() else { break };
            self.after = dropped;
            self.bytes = self.bytes.saturating_sub(bytes(&events));
        }
    }

    /// The first transaction after `seen` that touches the prefix, or the revision up to which none does.
    fn next(&self, prefix: &str, seen: Revision) -> Result<Found, StoreError> {
        if seen < self.after {
            return Err(StoreError::Compacted);
        }
        let first = self.transactions.partition_point(|(revision, _)| *revision <= seen);
        let mut seen = seen;
        for (revision, events) in self.transactions.iter().skip(first) {
            seen = *revision;
            let matching: Vec<_> =
                events.iter().filter(|event| event.key().starts_with(prefix)).cloned().collect();
            if !matching.is_empty() {
                return Ok(Found { seen, events: matching });
            }
        }
        Ok(Found { seen, events: vec![] })
    }
}

fn bytes(events: &[Event]) -> usize {
    let of = |event: &Event| match event {
        Event::Put(entry) => entry.key.len().saturating_add(entry.value.len()),
        Event::Deleted { key, .. } => key.len(),
    };
    events.iter().map(of).sum()
}

struct Found {
    seen: Revision,
    events: Vec<Event>,
}

/// A watch over the embedded store.
pub struct EmbeddedWatch {
    /// Weak, so that the watch ends when the store is closed.
    history: Weak<History>,
    newest: watch::Receiver<Revision>,
    prefix: String,
    seen: Revision,
}

impl EmbeddedWatch {
    pub(super) fn new(history: &Arc<History>, prefix: &str, after: Revision) -> Result<Self, StoreError> {
        let newest = history.newest.subscribe();
        let is_known = lock(&history.kept).after <= after && after <= *newest.borrow();
        if !is_known {
            // Older than what is kept, or of another store: a copy that has since been replaced by an older one.
            return Err(StoreError::Compacted);
        }
        Ok(Self { history: Arc::downgrade(history), newest, prefix: prefix.to_owned(), seen: after })
    }
}

impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        loop {
            self.newest.borrow_and_update();
            let history = self.history.upgrade().ok_or_else(closed)?;
            let found = lock(&history.kept).next(&self.prefix, self.seen)?;
            drop(history);
            self.seen = found.seen;
            if !found.events.is_empty() {
                return Ok(found.events);
            }
            self.newest.changed().await.map_err(|_| closed())?;
        }
    }
}

fn closed() -> StoreError {
    StoreError::Failed("the store was closed".to_owned())
}

/// Keys and values of the transactions that are kept.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// What is kept for watches that lag; records are small.
pub(super) const TRANSACTIONS_MAX: usize = 4_096;
