//! What the file holds: entries, the revision, and which lease a key is bound to. Blocks for the disk.

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::super::{Change, Entry, Event, Expected, LeaseId, Listing, Revision, StoreError, Transaction};
use super::failed;

/// What a transaction did.
pub(super) struct Done {
    /// The store's revision after it.
    pub(super) revision: Revision,
    /// In the order of the changes; none where nothing changed.
    pub(super) events: Vec<Event>,
}

/// Makes the tables where they are missing.
pub(super) fn create(database: &Database) -> Result<(), StoreError> {
    let writing = database.begin_write().map_err(failed)?;
    drop(Tables::open(&writing)?);
    writing.commit().map_err(failed)
}

pub(super) fn get(database: &Database, key: &str) -> Result<Option<Entry>, StoreError> {
    let table = database.begin_read().map_err(failed)?.open_table(ENTRIES).map_err(failed)?;
    let found = table.get(key).map_err(failed)?;
    Ok(found.map(|guard| entry(key, guard.value())))
}

pub(super) fn list(database: &Database, prefix: &str) -> Result<Listing, StoreError> {
    let reading = database.begin_read().map_err(failed)?;
    let table = reading.open_table(ENTRIES).map_err(failed)?;
    let mut entries = vec![];
    for row in table.range(prefix..).map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        if !key.value().starts_with(prefix) {
            break;
        }
        entries.push(entry(key.value(), value.value()));
    }
    let counter = reading.open_table(REVISION).map_err(failed)?;
    let revision = counter.get(()).map_err(failed)?.map_or(0, |guard| guard.value());
    Ok(Listing { entries, revision: Revision(revision) })
}

/// Does a transaction. What is not committed is rolled back when the writer is dropped.
pub(super) fn commit(database: &Database, transaction: Transaction) -> Result<Done, StoreError> {
    let writing = database.begin_write().map_err(failed)?;
    let done = {
        let mut tables = Tables::open(&writing)?;
        for (key, expected) in &transaction.checks {
            if tables.current(key)? != *expected {
                return Err(StoreError::Conflict);
            }
        }
        tables.apply(transaction.changes)?
    };
    keep(writing, done)
}

/// Deletes the keys of one lease, or of all.
pub(super) fn end_leases(database: &Database, ended: Option<LeaseId>) -> Result<Done, StoreError> {
    let writing = database.begin_write().map_err(failed)?;
    let done = {
        let mut tables = Tables::open(&writing)?;
        let changes = tables.bound_to(ended)?.into_iter().map(|key| Change::Delete { key }).collect();
        tables.apply(changes)?
    };
    keep(writing, done)
}

/// Where nothing changed the writer is dropped instead: no write to the disk for nothing.
fn keep(writing: WriteTransaction, done: Done) -> Result<Done, StoreError> {
    if !done.events.is_empty() {
        writing.commit().map_err(failed)?;
    }
    Ok(done)
}

struct Tables<'a> {
    entries: Table<'a, &'static str, (u64, &'static [u8])>,
    revision: Table<'a, (), u64>,
    lease_of: Table<'a, &'static str, i64>,
}

impl<'a> Tables<'a> {
    fn open(writing: &'a WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            entries: writing.open_table(ENTRIES).map_err(failed)?,
            revision: writing.open_table(REVISION).map_err(failed)?,
            lease_of: writing.open_table(LEASE_OF).map_err(failed)?,
        })
    }

    fn current(&self, key: &str) -> Result<Expected, StoreError> {
        let revision = self.entries.get(key).map_err(failed)?.map(|guard| Revision(guard.value().0));
        Ok(revision.map_or(Expected::Absent, Expected::At))
    }

    fn bound_to(&self, lease: Option<LeaseId>) -> Result<Vec<String>, StoreError> {
        let mut keys = vec![];
        for row in self.lease_of.iter().map_err(failed)? {
            let (key, of) = row.map_err(failed)?;
            if lease.is_none_or(|lease| lease.0 == of.value()) {
                keys.push(key.value().to_owned());
            }
        }
        Ok(keys)
    }

    fn apply(&mut self, changes: Vec<Change>) -> Result<Done, StoreError> {
        let last = self.revision.get(()).map_err(failed)?.map_or(0, |guard| guard.value());
        let revision = Revision(last.saturating_add(1));
        let mut events = vec![];
        for change in changes {
            events.extend(self.change(change, revision)?);
        }
        if events.is_empty() {
            return Ok(Done { revision: Revision(last), events });
        }
        self.revision.insert((), revision.0).map_err(failed)?;
        Ok(Done { revision, events })
    }

    fn change(&mut self, change: Change, revision: Revision) -> Result<Option<Event>, StoreError> {
        self.lease_of.remove(change.key()).map_err(failed)?;
        match change {
            Change::Put { key, value, lease } => {
                self.entries.insert(key.as_str(), (revision.0, value.as_slice())).map_err(failed)?;
                if let Some(lease) = lease {
                    self.lease_of.insert(key.as_str(), lease.0).map_err(failed)?;
                }
                Ok(Some(Event::Put(Entry { key, value, revision })))
            }
            Change::Delete { key } => {
                let was_there = self.entries.remove(key.as_str()).map_err(failed)?.is_some();
                Ok(was_there.then_some(Event::Deleted { key, revision }))
            }
        }
    }
}

fn entry(key: &str, (revision, value): (u64, &[u8])) -> Entry {
    Entry { key: key.to_owned(), value: value.to_owned(), revision: Revision(revision) }
}

const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
const REVISION: TableDefinition<'_, (), u64> = TableDefinition::new("revision");
/// Not in files of version 0.1.0.
const LEASE_OF: TableDefinition<'_, &str, i64> = TableDefinition::new("lease_of");
