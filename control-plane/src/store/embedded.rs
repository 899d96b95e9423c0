//! The store in one file of the data directory. A crash at any point leaves the last complete transaction.

mod history;
mod leases;
mod tables;

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Database, DatabaseError};
use tokio::time::Instant;

use super::{Entry, LeaseId, Lineage, Listing, Revision, Store, StoreError, StoreMember, Transaction};
use history::History;
use leases::Leases;
use tables::Done;

pub use history::EmbeddedWatch;

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

/// The embedded store. One process has it open; its leases are held by that process and end with it.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    database: Database,
    /// Held from before a transaction begins until its events are in the history, so that both have one order.
    writing: Mutex<()>,
    history: Arc<History>,
    leases: Mutex<Leases>,
}

impl Embedded {
    /// Opens the store of a data directory, and makes both where they are missing: the directory with mode 0700, the
    /// file with mode 0600. Leases of the process that had it open before end here.
    ///
    /// # Errors
    /// [`OpenError`] says in one line what is wrong.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::open_with_history(directory, history::TRANSACTIONS_MAX)
    }

    /// As [`Embedded::open`], with room for fewer or more past transactions; watches from before them are refused.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_with_history(directory: &Path, transactions_max: usize) -> Result<Self, OpenError> {
        let path = directory.join(FILE_NAME);
        let database = open_database(directory, &path)?;
        let in_file = |error: StoreError| OpenError::File { path: path.clone(), cause: error.to_string() };
        tables::create(&database).map_err(in_file)?;
        let done = tables::end_leases(&database, None).map_err(in_file)?;
        let history = Arc::new(History::new(done.revision, transactions_max));
        let shared = Shared {
            path,
            database,
            writing: Mutex::new(()),
            history,
            leases: Mutex::new(Leases::default()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs `work` where it may block for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared)).await.map_err(failed)?
    }
}

impl Shared {
    /// Writes alone, and shows watches what was written. The default revision where nothing was.
    fn write(&self, work: impl FnOnce(&Self) -> Result<Done, StoreError>) -> Result<Revision, StoreError> {
        let _alone = lock(&self.writing);
        let done = work(self)?;
        if done.events.is_empty() {
            return Ok(Revision::default());
        }
        self.history.append(done.revision, done.events);
        Ok(done.revision)
    }

    fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        self.write(|shared| {
            // A lease that ends while this is written ends after it, and takes what was written with it.
            lock(&shared.leases).hold(&transaction)?;
            tables::commit(&shared.database, transaction)
        })
    }

    fn end_lease(&self, lease: LeaseId) -> Result<Revision, StoreError> {
        self.write(|shared| tables::end_leases(&shared.database, Some(lease)))
    }
}

impl Store for Embedded {
    type Watch = EmbeddedWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |shared| tables::get(&shared.database, &key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(move |shared| tables::list(&shared.database, &prefix)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        transaction.validate()?;
        self.blocking(move |shared| shared.commit(transaction)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = lock(&self.shared.leases).grant(ttl)?;
        tokio::spawn(leases::end_when_due(Arc::downgrade(&self.shared), lease));
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        lock(&self.shared.leases).keep_alive(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        lock(&self.shared.leases).end(lease)?;
        self.blocking(move |shared| shared.end_lease(lease)).await.map(drop)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Self::Watch, StoreError> {
        EmbeddedWatch::new(&self.shared.history, prefix, after)
    }

    /// A file that was put back looks like one that was never written since. Its servers run in the same process, and
    /// report what it has forgotten before they are told anything.
    async fn lineage(&self) -> Result<Option<Lineage>, StoreError> {
        Ok(None)
    }

    async fn members(&self) -> Vec<StoreMember> {
        let asked = Instant::now();
        let is_healthy = self.get("epoch").await.is_ok();
        let database_bytes = std::fs::metadata(&self.shared.path).map_or(0, |file| file.len());
        let address = self.shared.path.display().to_string();
        vec![StoreMember { address, is_healthy, is_leader: true, latency: asked.elapsed(), database_bytes }]
    }
}

fn open_database(directory: &Path, path: &Path) -> Result<Database, OpenError> {
    let in_directory = |cause| OpenError::Directory { path: directory.to_owned(), cause };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(in_directory)?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(in_directory)?;
    // The file may come from a backup that did not keep its mode.
    file.set_permissions(Permissions::from_mode(0o600)).map_err(in_directory)?;
    let in_file = |error: DatabaseError| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: directory.to_owned() },
        other => OpenError::File { path: path.to_owned(), cause: other.to_string() },
    };
    let backend = FileBackend::new(file).map_err(in_file)?;
    Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(in_file)
}

/// A panic while it was held left nothing half-done: what it guards is changed in single steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// The store's file in the data directory.
pub const FILE_NAME: &str = "trunkline.redb";
/// Records are few and small; the default cache of a gibibyte is for other databases.
const CACHE_BYTES: usize = 4 * 1024 * 1024;
