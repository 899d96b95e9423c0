//! What was relayed and is not written yet: one entry for each key, user and hour.

use std::collections::BTreeMap;

use trunkline_proto::node::v1::{UsageEntry, UsageRecord};

use super::segment::Name;

/// What one user relayed since the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Empty without a key.
    pub key_id: String,
    /// The name that quotas count by.
    pub user: String,
    /// Payload bytes from the client towards peers.
    pub bytes_to_peer: u64,
    /// Payload bytes to the client.
    pub bytes_to_client: u64,
    /// Packets from the client towards peers.
    pub packets_to_peer: u64,
    /// Packets to the client.
    pub packets_to_client: u64,
    /// Allocations that began.
    pub allocations: u64,
}

/// Entries by hour, key and user.
#[derive(Default)]
pub(super) struct Pending {
    entries: BTreeMap<(u64, String, String), UsageEntry>,
}

impl Pending {
    /// Adds a delta to its hour.
    pub fn add(&mut self, delta: Delta, now_unix_s: u64) {
        let hour_unix_s = now_unix_s / HOUR_S * HOUR_S;
        let mut key = (hour_unix_s, delta.key_id, delta.user);
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
            // The disk has refused for long: the key still pays for it, and the user is not told apart any more.
            key.2 = String::new();
        }
        let (key_id, user) = (key.1.clone(), key.2.clone());
        let fresh = || UsageEntry { key_id, user, hour_unix_s, ..UsageEntry::default() };
        let entry = self.entries.entry(key).or_insert_with(fresh);
        for (sum, more) in [
            (&mut entry.bytes_to_peer, delta.bytes_to_peer),
            (&mut entry.bytes_to_client, delta.bytes_to_client),
            (&mut entry.packets_to_peer, delta.packets_to_peer),
            (&mut entry.packets_to_client, delta.packets_to_client),
            (&mut entry.allocations, delta.allocations),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everything as records, the first of them called `first`.
    pub fn records(&self, first: Name) -> Vec<UsageRecord> {
        let entries: Vec<&UsageEntry> = self.entries.values().collect();
        let mut name = first;
        let mut records = vec![];
        for entries in entries.chunks(ENTRIES_OF_A_RECORD) {
            records.push(UsageRecord {
                usage_epoch: name.epoch,
                sequence: name.sequence,
                entries: entries.iter().copied().cloned().collect(),
            });
            name = name.next();
        }
        records
    }

    /// Everything is written.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

/// As `UsageRecord.entries` says.
const ENTRIES_OF_A_RECORD: usize = 100;
/// Entries that wait for the disk: some 40 MiB with long names.
const ENTRIES_MAX: usize = 100_000;
const HOUR_S: u64 = 3_600;
