//! The store in one file of the data directory. A crash at any point leaves the last complete change.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Entry, Expected, Revision, Store, StoreError, check_size};

/// Why the store's file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be made or entered.
    #[error("cannot use the data directory {}: {cause}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Another process has it open.
    #[error("the data directory {} is in use by another trunkline process; stop it, or give --data-dir another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file is there and is not what this version writes.
    #[error("cannot open {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// The embedded store.
pub struct Embedded {
    database: Arc<Database>,
}

impl Embedded {
    /// Opens the store of a data directory, and makes both where they are missing: the directory with mode 0700, the
    /// file with mode 0600.
    ///
    /// # Errors
    /// [`OpenError`] says in one line what is wrong.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let in_directory = |cause| OpenError::Directory { path: directory.to_owned(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(in_directory)?;
        let path = directory.join(FILE_NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(in_directory)?;
        // The file may come from a backup that did not keep its mode.
        file.set_permissions(Permissions::from_mode(0o600)).map_err(in_directory)?;
        let in_file = |error: DatabaseError| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: directory.to_owned() },
            other => OpenError::File { path: path.clone(), cause: other.to_string() },
        };
        let backend = FileBackend::new(file).map_err(in_file)?;
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(in_file)?;
        create_tables(&database).map_err(|error| OpenError::File { path, cause: error.to_string() })?;
        Ok(Self { database: Arc::new(database) })
    }

    /// Runs `work` where it may block for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || work(&database)).await.map_err(failed)?
    }
}

impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |database| {
            let table = database.begin_read().map_err(failed)?.open_table(ENTRIES).map_err(failed)?;
            let found = table.get(key.as_str()).map_err(failed)?;
            Ok(found.map(|guard| entry(&key, guard.value())))
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(move |database| {
            let table = database.begin_read().map_err(failed)?.open_table(ENTRIES).map_err(failed)?;
            let mut entries = vec![];
            for row in table.range(prefix.as_str()..).map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                entries.push(entry(key.value(), value.value()));
            }
            Ok(entries)
        })
        .await
    }

    async fn put(&self, key: &str, expected: Expected, value: Vec<u8>) -> Result<Revision, StoreError> {
        check_size(key, &value)?;
        let key = key.to_owned();
        self.blocking(move |database| change(database, &key, expected, Some(&value))).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.blocking(move |database| change(database, &key, Expected::At(expected), None).map(|_| ())).await
    }
}

fn create_tables(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    transaction.open_table(ENTRIES).map_err(failed)?;
    transaction.open_table(REVISION).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Puts (`Some`) or deletes (`None`) one key in one transaction. What is not committed is rolled back when the
/// transaction is dropped.
fn change(
    database: &Database,
    key: &str,
    expected: Expected,
    value: Option<&[u8]>,
) -> Result<Revision, StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    let revision = {
        let mut entries = transaction.open_table(ENTRIES).map_err(failed)?;
        let current = entries.get(key).map_err(failed)?.map(|guard| Revision(guard.value().0));
        if current.map_or(Expected::Absent, Expected::At) != expected {
            return Err(StoreError::Conflict);
        }
        let mut counter = transaction.open_table(REVISION).map_err(failed)?;
        let last = counter.get(()).map_err(failed)?.map_or(0, |guard| guard.value());
        let revision = last + 1;
        counter.insert((), revision).map_err(failed)?;
        match value {
            Some(value) => drop(entries.insert(key, (revision, value)).map_err(failed)?),
            None => drop(entries.remove(key).map_err(failed)?),
        }
        Revision(revision)
    };
    transaction.commit().map_err(failed)?;
    Ok(revision)
}

fn entry(key: &str, (revision, value): (u64, &[u8])) -> Entry {
    Entry { key: key.to_owned(), value: value.to_owned(), revision: Revision(revision) }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

const FILE_NAME: &str = "trunkline.redb";
const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
const REVISION: TableDefinition<'_, (), u64> = TableDefinition::new("revision");
/// Records are few and small; the default cache of a gibibyte is for other databases.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_embedded_store_passes_the_suite() {
        let directory = tempfile::tempdir().unwrap();
        super::super::suite::run(&Embedded::open(directory.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn entries_and_revisions_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path()).unwrap();
        let first = store.put("a", Expected::Absent, b"1".to_vec()).await.unwrap();
        store.delete("a", first).await.unwrap();
        let second = store.put("a", Expected::Absent, b"2".to_vec()).await.unwrap();
        drop(store);
        let store = Embedded::open(directory.path()).unwrap();
        let entry = store.get("a").await.unwrap().unwrap();
        assert_eq!((entry.value, entry.revision), (b"2".to_vec(), second));
        assert!(store.put("b", Expected::Absent, vec![]).await.unwrap() > second);
    }

    #[test]
    fn a_second_process_is_told_that_the_directory_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Embedded::open(directory.path()).unwrap();
        let error = Embedded::open(directory.path()).err().unwrap();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }

    #[test]
    fn only_the_owner_may_read_it() {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("deep/data");
        drop(Embedded::open(&directory).unwrap());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(FILE_NAME))), (0o700, 0o600));
    }

    #[test]
    fn what_is_no_store_and_no_directory_is_refused_in_one_line() {
        let outer = tempfile::tempdir().unwrap();
        let file = outer.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(Embedded::open(&file), Err(OpenError::Directory { .. })));
        std::fs::write(
            outer.path().join(FILE_NAME),
            "this is not a database, but long enough to be read as one",
        )
        .unwrap();
        let error = Embedded::open(outer.path()).err().unwrap();
        assert!(matches!(error, OpenError::File { .. }) && !error.to_string().contains('\n'), "{error}");
    }
}
