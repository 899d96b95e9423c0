//! The audit log: what operators did and what the control plane did by itself, one record each.
//!
//! A record is written in the transaction of what it tells. Its key begins with the time, so keys stand roughly in
//! order; the store's revision is the exact one. Texts never hold secrets.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use tokio::sync::mpsc::Sender;
use tonic::Status;
use trunkline_proto::operator::v1::Event as Line;
use trunkline_proto::store::v1::EventRecord;

use crate::store::{Change, Entry, Event, Expected, Listing, Store, StoreError, Transaction, Watch};

/// What happened, without who and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Happening {
    /// The thing it is about: "node 1.2", "key ab12".
    pub subject: String,
    /// How it was, for people.
    pub before: String,
    /// How it is now.
    pub after: String,
}

impl Happening {
    /// What happened to `subject`.
    pub fn new(subject: impl Into<String>, before: impl Into<String>, after: impl Into<String>) -> Self {
        Self { subject: subject.into(), before: before.into(), after: after.into() }
    }
}

/// The change that writes an event, for the transaction of what it tells. `what` is the method's name or, for what the
/// control plane did by itself, "NodeDied" and the like.
///
/// # Errors
/// The operating system has no random bytes.
pub fn put(who: &str, what: &str, happening: &Happening, reason: &str) -> Result<Change, getrandom::Error> {
    let now = unix_ms();
    let record = EventRecord {
        unix_ms: now,
        who: who.to_owned(),
        what: what.to_owned(),
        subject: happening.subject.clone(),
        before: shortened(&happening.before),
        after: shortened(&happening.after),
        reason: shortened(reason),
    };
    Ok(Change::Put { key: fresh_key(now)?, value: record.encode_to_vec(), lease: None })
}

/// Deletes the oldest events beyond [`EVENTS_KEPT`], a bounded number in one go. The leader calls it now and then.
///
/// # Errors
/// [`StoreError`].
pub async fn prune<S: Store>(store: &S) -> Result<usize, StoreError> {
    let listing = store.list(PREFIX).await?;
    let surplus = listing.entries.len().saturating_sub(EVENTS_KEPT);
    let mut done = 0;
    for entries in listing.entries.get(..surplus).unwrap_or_default().chunks(DELETED_AT_ONCE) {
        let delete = |entry: &Entry| Change::Delete { key: entry.key.clone() };
        let unchanged = |entry: &Entry| (entry.key.clone(), Expected::At(entry.revision));
        let transaction = Transaction {
            checks: entries.iter().map(unchanged).collect(),
            changes: entries.iter().map(delete).collect(),
        };
        store.commit(transaction).await?;
        done += entries.len();
    }
    Ok(done)
}

/// Sends the newest `last` events, oldest of them first.
///
/// # Errors
/// [`StoreError`].
pub async fn tell<S: Store>(
    store: &S,
    last: usize,
    lines: &Sender<Result<Line, Status>>,
) -> Result<(), StoreError> {
    for line in tail(&store.list(PREFIX).await?, last, 0) {
        if lines.send(Ok(line)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Sends the newest `last` events, then each that comes, until nobody listens. What a broken watch missed is read from
/// the store: nothing is left out or told twice.
///
/// # Errors
/// [`StoreError`] when the store cannot even be listed.
pub async fn follow<S: Store>(
    store: &S,
    last: usize,
    lines: &Sender<Result<Line, Status>>,
) -> Result<(), StoreError> {
    let mut told = 0;
    let mut first = last;
    loop {
        let listing = store.list(PREFIX).await?;
        for line in tail(&listing, first, told) {
            if lines.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        told = listing.revision.0;
        // From now on everything that was not told is told.
        first = EVENTS_KEPT;
        let watch = tokio::select! {
            () = lines.closed() => return Ok(()),
            watch = store.watch(PREFIX, listing.revision) => watch,
        };
        let Ok(watch) = watch else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if !forward(watch, &mut told, lines).await {
            return Ok(());
        }
    }
}

/// Sends what a watch says until it ends (true) or nobody listens any more (false).
async fn forward<W: Watch>(mut watch: W, told: &mut u64, lines: &Sender<Result<Line, Status>>) -> bool {
    loop {
        let events = tokio::select! {
            () = lines.closed() => return false,
            events = watch.next() => events,
        };
        let Ok(events) = events else { return true };
        for event in events {
            let Event::Put(entry) = event else { continue };
            *told = (*told).max(entry.revision.0);
            let Some(line) = line(&entry) else { continue };
            if lines.send(Ok(line)).await.is_err() {
                return false;
            }
        }
    }
}

/// The newest `last` of a listing that are newer than revision `after`, in the order in which they happened.
fn tail(listing: &Listing, last: usize, after: u64) -> Vec<Line> {
    let newer = listing.entries.iter().filter(|entry| entry.revision.0 > after);
    let mut entries: Vec<&Entry> = newer.collect();
    entries.sort_by(|a, b| (a.revision, &a.key).cmp(&(b.revision, &b.key)));
    let skipped = entries.len().saturating_sub(last);
    entries.into_iter().skip(skipped).filter_map(line).collect()
}

/// A damaged record is left out: it must not hide the others.
fn line(entry: &Entry) -> Option<Line> {
    let record = EventRecord::decode(&entry.value[..]).ok()?;
    let EventRecord { unix_ms, who, what, subject, before, after, reason } = record;
    Some(Line { unix_ms, who, what, subject, before, after, reason, revision: entry.revision.0 })
}

/// 13 digits of milliseconds, 7 of chance: replicas that write in the same millisecond do not meet.
fn fresh_key(unix_ms: u64) -> Result<String, getrandom::Error> {
    let chance = u64::from(getrandom::u32()?) % 10_000_000;
    Ok(format!("{PREFIX}{:013}{chance:07}", unix_ms % 10_000_000_000_000))
}

/// Up to [`TEXT_BYTES_MAX`], cut between characters.
fn shortened(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// The time of this machine, in Unix milliseconds.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What every key of an event starts with.
pub const PREFIX: &str = "event/";
/// Events that are kept; at a busy fleet's hundred changes a day more than half a year.
pub const EVENTS_KEPT: usize = 20_000;
/// A list of 10,000 networks is not told in full.
const TEXT_BYTES_MAX: usize = 2_048;
/// Before a watch that could not begin is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// Each is a check and a change, of at most `CHANGES_MAX` together.
const DELETED_AT_ONCE: usize = 50;
