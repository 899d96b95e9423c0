//! The last good configuration, on disk: what a server starts from when no control plane answers.
//!
//! It holds secrets, so it is encrypted, and authenticated, under a key of the data directory that only its owner may
//! read. A file that was changed does not open, and then it is as if there were none: nothing of it is ever applied.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use prost::Message;
use trunkline_control_plane::sealing::{Sealing, SealingError};
use trunkline_proto::fleet::v1::Configuration;
use trunkline_wire::NodeId;

/// Where a server's configuration is kept.
#[derive(Clone)]
pub struct Cache {
    path: PathBuf,
    sealing: Sealing,
    /// Part of the seal: the file of another server does not open.
    context: String,
}

/// Why there is no configuration on disk.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The key or the seal.
    #[error("the configuration kept in {path} is not used: {cause}")]
    Sealing {
        /// The file.
        path: String,
        /// What is wrong.
        cause: SealingError,
    },
    /// Sealed by us, and yet no configuration.
    #[error("the configuration kept in {path} is not used: {cause}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        cause: prost::DecodeError,
    },
    /// The file.
    #[error("the configuration in {path} cannot be read or written: {cause}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
}

impl Cache {
    /// The cache of a server's data directory; its key is made when there is none.
    ///
    /// # Errors
    /// [`CacheError::Sealing`].
    pub fn open(directory: &Path, node: NodeId) -> Result<Self, CacheError> {
        let (key, path) = (directory.join(KEY_FILE), directory.join(FILE));
        let sealing = Sealing::open_or_create(&key)
            .map_err(|cause| CacheError::Sealing { path: path.display().to_string(), cause })?;
        Ok(Self { path, sealing, context: format!("configuration of {node}") })
    }

    /// What was kept last; `None` before the first time.
    ///
    /// # Errors
    /// [`CacheError`]: then nothing of the file may be used.
    pub fn load(&self) -> Result<Option<Configuration>, CacheError> {
        let sealed = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|cause| self.failed(cause))?,
        };
        let opened = self.sealing.open(&self.context, &sealed);
        let clear = opened.map_err(|cause| CacheError::Sealing { path: self.name(), cause })?;
        let configuration = Configuration::decode(&clear[..]);
        configuration.map(Some).map_err(|cause| CacheError::Malformed { path: self.name(), cause })
    }

    /// Keeps a configuration in the place of the last one, whole or not at all; durable when this returns.
    ///
    /// # Errors
    /// [`CacheError::File`]: the last one is still there.
    pub fn keep(&self, configuration: &Configuration) -> Result<(), CacheError> {
        let sealed = self.sealing.seal(&self.context, &configuration.encode_to_vec());
        self.replace(&sealed).map_err(|cause| self.failed(cause))
    }

    fn replace(&self, sealed: &[u8]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(sealed)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }

    fn failed(&self, cause: io::Error) -> CacheError {
        CacheError::File { path: self.name(), cause }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

const FILE: &str = "configuration.sealed";
const KEY_FILE: &str = "configuration.key";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use trunkline_proto::fleet::v1::{Epoch, TurnKey};

    use super::*;

    const NODE: NodeId = NodeId { site: 1, server: 2 };

    fn configuration() -> Configuration {
        Configuration {
            epoch: Some(Epoch { generation: 2, counter: 7 }),
            keys: vec![TurnKey { id: "k".into(), secret: "canary".into() }],
            ..Configuration::default()
        }
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart_and_shows_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path(), NODE).unwrap_or_else(|error| panic!("{error}"));
        assert!(cache.load().is_ok_and(|kept| kept.is_none()));
        cache.keep(&Configuration::default()).unwrap();
        cache.keep(&configuration()).unwrap();
        let again = Cache::open(directory.path(), NODE).unwrap_or_else(|error| panic!("{error}"));
        assert!(again.load().is_ok_and(|kept| kept == Some(configuration())));
        let bytes = fs::read(directory.path().join(FILE)).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"));
        for file in [FILE, KEY_FILE] {
            let mode = fs::metadata(directory.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn a_changed_cut_or_foreign_file_is_refused_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path(), NODE).unwrap_or_else(|error| panic!("{error}"));
        cache.keep(&configuration()).unwrap();
        let path = directory.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, changed).unwrap();
            assert!(cache.load().is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(cache.load().is_err(), "cut at {at}");
        }
        fs::write(&path, &whole).unwrap();
        let other = Cache::open(directory.path(), NodeId { site: 1, server: 3 });
        let error = other.and_then(|other| other.load()).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains(FILE)), "another server's file");
        assert!(cache.load().is_ok());
    }
}
