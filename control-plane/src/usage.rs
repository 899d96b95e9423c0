//! Usage that servers journalled, counted exactly once.
//!
//! A record and the cursor that says it is counted are one transaction, so it does not matter at what point a server,
//! a replica or the connection between them ends: whatever is sent again is known by its sequence.

use std::collections::HashMap;

use prost::Message;
use trunkline_proto::node::v1::{UsageAcknowledgement, UsageEntry, UsageRecord};
use trunkline_proto::store::v1::{UsageCount, UsageCursor};
use trunkline_wire::NodeId;

use crate::records::{self, Kept};
use crate::store::{AnyStore, Change, Expected, Store, StoreError, Transaction};

/// What one session of a server has counted.
pub struct Meter {
    store: AnyStore,
    node: NodeId,
    cursor: Option<Option<Kept<UsageCursor>>>,
    /// Counters that this session wrote: nobody else writes a server's counters without moving its cursor.
    known: HashMap<String, UsageCount>,
    /// The first record of a session may lie behind the cursor: a restored store has an older one.
    has_begun: bool,
}

impl Meter {
    /// A meter for a server's session.
    #[must_use]
    pub fn new(store: AnyStore, node: NodeId) -> Self {
        Self { store, node, cursor: None, known: HashMap::new(), has_begun: false }
    }

    /// Counts a record, once; says up to where everything is counted.
    ///
    /// # Errors
    /// The store's: the record may be counted or not, and is sent again.
    pub async fn count(&mut self, record: &UsageRecord) -> Result<UsageAcknowledgement, StoreError> {
        for _ in 0..TRIES_MAX {
            let cursor = self.cursor().await?;
            let counted = cursor.as_ref().map(|kept| kept.record).unwrap_or_default();
            if !self.is_next(&counted, record) {
                return Ok(UsageAcknowledgement {
                    usage_epoch: counted.usage_epoch,
                    sequence: counted.sequence,
                });
            }
            match self.commit(cursor, record).await {
                Ok(()) => {
                    self.has_begun = true;
                    let UsageRecord { usage_epoch, sequence, .. } = *record;
                    return Ok(UsageAcknowledgement { usage_epoch, sequence });
                }
                // Another session of this server counted something, or what failed before was done after all.
                Err(error) => {
                    self.cursor = None;
                    self.known.clear();
                    if error != StoreError::Conflict {
                        return Err(error);
                    }
                }
            }
        }
        Err(StoreError::Conflict)
    }

    fn is_next(&self, counted: &UsageCursor, record: &UsageRecord) -> bool {
        let is_new_epoch = record.usage_epoch > counted.usage_epoch;
        let is_later = record.usage_epoch == counted.usage_epoch && record.sequence > counted.sequence;
        let follows = record.sequence == counted.sequence.saturating_add(1) || !self.has_begun;
        record.entries.len() <= ENTRIES_MAX && record.sequence > 0 && (is_new_epoch || (is_later && follows))
    }

    async fn cursor(&mut self) -> Result<Option<Kept<UsageCursor>>, StoreError> {
        if let Some(cursor) = &self.cursor {
            return Ok(cursor.clone());
        }
        let entry = self.store.get(&records::key::<UsageCursor>(self.node)).await?;
        let cursor = entry.map(|entry| records::open(&entry)).transpose();
        let cursor = cursor.map_err(|damaged| StoreError::Failed(damaged.to_string()))?;
        self.cursor = Some(cursor.clone());
        Ok(cursor)
    }

    async fn commit(
        &mut self,
        cursor: Option<Kept<UsageCursor>>,
        record: &UsageRecord,
    ) -> Result<(), StoreError> {
        let next = UsageCursor { usage_epoch: record.usage_epoch, sequence: record.sequence };
        let expected = cursor.as_ref().map_or(Expected::Absent, |kept| Expected::At(kept.revision));
        let mut counts: HashMap<String, UsageCount> = HashMap::new();
        for entry in &record.entries {
            let key = self.key(entry);
            if !counts.contains_key(&key) {
                counts.insert(key.clone(), self.current(&key).await?);
            }
            if let Some(count) = counts.get_mut(&key) {
                add(count, entry);
            }
        }
        let put = |(key, count): (&String, &UsageCount)| Change::Put {
            key: key.clone(),
            value: count.encode_to_vec(),
            lease: None,
        };
        let mut changes: Vec<Change> = counts.iter().map(put).collect();
        changes.push(records::put(self.node, &next));
        let checks = vec![(records::key::<UsageCursor>(self.node), expected)];
        let revision = self.store.commit(Transaction { checks, changes }).await?;
        self.cursor = Some(Some(Kept { record: next, revision }));
        if self.known.len() + counts.len() > KNOWN_MAX {
            self.known.clear();
        }
        self.known.extend(counts);
        Ok(())
    }

    async fn current(&self, key: &str) -> Result<UsageCount, StoreError> {
        if let Some(count) = self.known.get(key) {
            return Ok(*count);
        }
        let Some(entry) = self.store.get(key).await? else { return Ok(UsageCount::default()) };
        UsageCount::decode(&entry.value[..]).map_err(|error| StoreError::Failed(format!("{key}: {error}")))
    }

    fn key(&self, entry: &UsageEntry) -> String {
        let hour = entry.hour_unix_s - entry.hour_unix_s % HOUR_S;
        // A user's name may contain anything, and stands last; a key's id has no slash.
        format!("usage/{hour}/{}/{}/{}", self.node, entry.key_id.replace('/', "_"), entry.user)
    }
}

fn add(count: &mut UsageCount, entry: &UsageEntry) {
    count.bytes_to_peer = count.bytes_to_peer.saturating_add(entry.bytes_to_peer);
    count.bytes_to_client = count.bytes_to_client.saturating_add(entry.bytes_to_client);
    count.packets_to_peer = count.packets_to_peer.saturating_add(entry.packets_to_peer);
    count.packets_to_client = count.packets_to_client.saturating_add(entry.packets_to_client);
    count.allocations = count.allocations.saturating_add(entry.allocations);
}

const HOUR_S: u64 = 3_600;
/// As `UsageRecord.entries` says: with the cursor they fit a transaction.
const ENTRIES_MAX: usize = 100;
/// Counters kept in memory for one session.
const KNOWN_MAX: usize = 10_000;
const TRIES_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Embedded;

    fn record(usage_epoch: u64, sequence: u64, bytes: u64) -> UsageRecord {
        let entry = UsageEntry {
            key_id: "key".into(),
            user: "ann/é".into(),
            hour_unix_s: 7_200 + sequence % 2 * 3_600,
            bytes_to_peer: bytes,
            ..UsageEntry::default()
        };
        UsageRecord { usage_epoch, sequence, entries: vec![entry] }
    }

    async fn total(store: &AnyStore) -> u64 {
        let listing = store.list("usage/").await.unwrap();
        let counts = listing.entries.iter().map(|entry| UsageCount::decode(&entry.value[..]).unwrap());
        counts.map(|count| count.bytes_to_peer).sum()
    }

    #[tokio::test]
    async fn a_record_that_is_sent_again_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = AnyStore::from(Embedded::open(directory.path()).unwrap());
        let node = NodeId { site: 1, server: 2 };
        for _session in 0..3 {
            let mut meter = Meter::new(store.clone(), node);
            for sequence in 1..=4 {
                let answer = meter.count(&record(9, sequence, 10)).await.unwrap();
                assert!(answer.sequence >= sequence);
            }
        }
        assert_eq!(total(&store).await, 40);
        let mut meter = Meter::new(store.clone(), node);
        let gap = meter.count(&record(9, 5, 1)).await.unwrap();
        let after = meter.count(&record(9, 7, 1)).await.unwrap();
        assert_eq!((gap.sequence, after.sequence), (5, 5), "a gap is not counted");
        let older = meter.count(&record(8, 50, 1)).await.unwrap();
        assert_eq!((older.usage_epoch, older.sequence), (9, 5), "nor is a journal that has ended");
        assert_eq!(meter.count(&record(10, 1, 1)).await.unwrap().usage_epoch, 10);
        assert_eq!(total(&store).await, 42);
    }

    /// A million increments in records of a thousand, with sessions that end before and after their transaction.
    #[tokio::test]
    async fn a_million_increments_add_up_over_crashes_of_both_sides() {
        let directory = tempfile::tempdir().unwrap();
        let store = AnyStore::from(Embedded::open(directory.path()).unwrap());
        let node = NodeId { site: 1, server: 2 };
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut meter = Meter::new(store.clone(), node);
        let mut acknowledged = 0;
        while acknowledged < 1_000 {
            let next_record = record(3, acknowledged + 1, 1_000);
            let counted = meter.count(&next_record);
            match next(4) {
                // The replica ends somewhere in the middle.
                0 => {
                    let _ = tokio::time::timeout(std::time::Duration::from_micros(next(400)), counted).await;
                    meter = Meter::new(store.clone(), node);
                }
                // The answer is lost, and the server starts again from what it knows.
                1 => {
                    counted.await.unwrap();
                    meter = Meter::new(store.clone(), node);
                }
                _ => acknowledged = counted.await.unwrap().sequence,
            }
        }
        assert_eq!(total(&store).await, 1_000_000);
    }
}
