//! Files of certificates and keys: keys for their owner alone, nothing overwritten by accident, replaced whole.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Issued, PkiError};

/// Where a process finds what it shows and what it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM of every root that is trusted.
    pub roots: PathBuf,
    /// PEM of its own chain, the leaf first.
    pub certificate: PathBuf,
    /// PEM of its key.
    pub key: PathBuf,
}

impl Files {
    /// `roots.pem`, `cert.pem` and `key.pem` of a directory.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            roots: directory.join("roots.pem"),
            certificate: directory.join("cert.pem"),
            key: directory.join("key.pem"),
        }
    }

    /// Replaces chain, key and roots, each whole: what a server does that joined or renewed. Certificate and key are
    /// two files, so a reader may see a new certificate with the old key for a moment; the listener and the connector
    /// keep what they had until the two fit.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn replace(&self, issued: &Issued, roots: &str) -> Result<(), PkiError> {
        put(&self.roots, roots.as_bytes(), PUBLIC)?;
        put(&self.key, issued.key.as_bytes(), PRIVATE)?;
        put(&self.certificate, issued.chain.as_bytes(), PUBLIC)
    }
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|error| failed(path, error))
}

/// The text of a file that nobody but its owner may read.
///
/// # Errors
/// [`PkiError::Exposed`] says what to do.
pub fn read_private(path: &Path) -> Result<Zeroizing<String>, PkiError> {
    let mut file = fs::File::open(path).map_err(|error| failed(path, error))?;
    let mode = file.metadata().map_err(|error| failed(path, error))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PkiError::Exposed { path: path.display().to_string(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|error| failed(path, error))?;
    Ok(text)
}

/// Makes a directory for its owner alone, and those above it.
pub fn directory(path: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed(path, error))
}

/// Writes a new file.
pub(super) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    absent(path)?;
    put(path, bytes, mode)
}

/// Refuses where a file is already.
pub(super) fn absent(path: &Path) -> Result<(), PkiError> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(PkiError::Exists(path.display().to_string()));
    }
    Ok(())
}

/// Writes beside the file and moves over it: a reader sees the old or the new one.
pub(super) fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&beside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    write().map_err(|error| failed(path, error))
}

pub(super) fn failed(path: &Path, error: io::Error) -> PkiError {
    PkiError::File { path: path.display().to_string(), error }
}

pub(super) const PRIVATE: u32 = 0o600;
pub(super) const PUBLIC: u32 = 0o644;
