//! Whose autonomous system an address is in, from a database in MMDB format that the operator supplies.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use maxminddb::Reader;
use serde::Deserialize;
use trunkline_turn::client_policy::AutonomousSystems;

/// A database that is read again when its file changes.
pub struct AsnDatabase {
    path: PathBuf,
    reader: ArcSwap<Reader<Vec<u8>>>,
}

/// A database that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the AS number database {path} (--asn-database): {cause}")]
pub struct AsnError {
    path: String,
    cause: String,
}

/// What is looked at of a record.
#[derive(Deserialize)]
struct Record {
    autonomous_system_number: Option<u32>,
}

impl AsnDatabase {
    /// Reads a database.
    ///
    /// # Errors
    /// [`AsnError`] names the file.
    pub fn open(path: &Path) -> Result<Arc<Self>, AsnError> {
        let reader = ArcSwap::from_pointee(read(path)?);
        Ok(Arc::new(Self { path: path.to_owned(), reader }))
    }

    /// Follows the file for ever. One that is damaged or gone changes nothing. After another one `renewed` is told: what
    /// shards concluded from the old one is not true any more.
    pub async fn follow<F: Future<Output = ()>>(self: Arc<Self>, renewed: impl Fn() -> F) {
        let mut seen = modified(&self.path);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = modified(&self.path);
            if now == seen || now.is_none() {
                continue;
            }
            seen = now;
            let path = self.path.clone();
            let Ok(outcome) = tokio::task::spawn_blocking(move || read(&path)).await else { continue };
            match outcome {
                Ok(reader) => {
                    self.reader.store(Arc::new(reader));
                    renewed().await;
                    tracing::info!(path = %self.path.display(), "AS number database read again");
                }
                Err(error) => tracing::warn!(%error, "the AS number database stays as it was"),
            }
        }
    }
}

impl AutonomousSystems for AsnDatabase {
    fn number_of(&self, ip: IpAddr) -> Option<u32> {
        let reader = self.reader.load();
        let record: Record = reader.lookup(ip).ok()?.decode().ok()??;
        record.autonomous_system_number
    }
}

fn read(path: &Path) -> Result<Reader<Vec<u8>>, AsnError> {
    Reader::open_readfile(path)
        .map_err(|error| AsnError { path: path.display().to_string(), cause: error.to_string() })
}

fn modified(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

const LOOK_EVERY: Duration = Duration::from_secs(5);
