//! Secrets at rest: XChaCha20-Poly1305 under the store key.
//!
//! A sealed value is `key id (1 byte) ‖ nonce (24) ‖ ciphertext and tag`. Its context, the name of the record and
//! field, is authenticated with it: a value that was moved to another record does not open.
//!
//! The key file holds one key a line, 64 hexadecimal digits each. The first seals, all of them open, so a key is
//! replaced by putting a new line on top. Nothing in here has `Debug`.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The store key. Clones are handles to the same one.
#[derive(Clone)]
pub struct Sealing(Arc<Vec<Key>>);

struct Key {
    id: u8,
    cipher: XChaCha20Poly1305,
}

/// Why there is no store key, or a value does not open.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// The key file cannot be read or written.
    #[error("the store key {path}: {error}")]
    File {
        /// Which file.
        path: String,
        /// What happened.
        error: io::Error,
    },
    /// Others than its owner may read the key file.
    #[error("the store key {path} can be read by others (mode {mode:03o}): run `chmod 600 {path}`")]
    Exposed {
        /// Which file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// The key file is not what it should be.
    #[error("the store key {path}, line {line}: each line is one key of 64 hexadecimal digits")]
    Malformed {
        /// Which file.
        path: String,
        /// From 1.
        line: usize,
    },
    /// The value was sealed with a key that is not in the file.
    #[error("{context} was sealed with a store key that is not in the key file")]
    OtherKey {
        /// Where the value stands.
        context: String,
    },
    /// The value was changed, moved from another record, or is none.
    #[error("{context} is damaged: its seal is broken")]
    Broken {
        /// Where the value stands.
        context: String,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes: {0}")]
    NoEntropy(getrandom::Error),
}

impl Sealing {
    /// The keys of a file, which nobody but its owner may read.
    ///
    /// # Errors
    /// [`SealingError`] names the file.
    pub fn from_file(path: &Path) -> Result<Self, SealingError> {
        let failed = |error| SealingError::File { path: path.display().to_string(), error };
        let mut file = fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealingError::Exposed { path: path.display().to_string(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text, path)
    }

    /// The keys of a file; it is made with a fresh key when there is none.
    ///
    /// # Errors
    /// [`SealingError`] names the file.
    pub fn open_or_create(path: &Path) -> Result<Self, SealingError> {
        match create_file(path) {
            Err(SealingError::File { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Ok(()) => {}
            Err(error) => return Err(error),
        }
        Self::from_file(path)
    }

    /// A fresh key that is in no file: for stores that end with the process.
    ///
    /// # Errors
    /// [`SealingError::NoEntropy`].
    pub fn ephemeral() -> Result<Self, SealingError> {
        Ok(Self(Arc::new(vec![Key::new(&*fresh_key()?)])))
    }

    /// Seals a value. The context names where it stands, `turn-key/ab12 secret`; it is not a secret.
    ///
    /// # Panics
    /// When the operating system has no random bytes: a value sealed with a predictable nonce is not sealed.
    #[must_use]
    #[allow(clippy::expect_used, reason = "neither depends on input; there is no safe way on")]
    pub fn seal(&self, context: &str, clear: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the operating system has random bytes");
        let key = self.0.first().expect("there is at least one key");
        let payload = Payload { msg: clear, aad: context.as_bytes() };
        let sealed =
            key.cipher.encrypt(&XNonce::from(nonce), payload).expect("values are shorter than 256 GiB");
        [&[key.id][..], &nonce, &sealed].concat()
    }

    /// Opens what [`Sealing::seal`] sealed in the same context.
    ///
    /// # Errors
    /// [`SealingError::OtherKey`] or [`SealingError::Broken`], with the context.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealingError> {
        let broken = || SealingError::Broken { context: context.to_owned() };
        let (id, rest) = sealed.split_first().ok_or_else(broken)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(broken)?;
        if !self.0.iter().any(|key| key.id == *id) {
            return Err(SealingError::OtherKey { context: context.to_owned() });
        }
        let open = |key: &Key| {
            key.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: rest, aad: context.as_bytes() }).ok()
        };
        let clear = self.0.iter().filter(|key| key.id == *id).find_map(open).ok_or_else(broken)?;
        Ok(Zeroizing::new(clear))
    }

    /// True for what the first key sealed: the rest waits to be sealed again after a new key was put on top.
    #[must_use]
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        matches!((self.0.first(), sealed.first()), (Some(key), Some(id)) if key.id == *id)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, SealingError> {
        let malformed = |line| SealingError::Malformed { path: path.display().to_string(), line };
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            keys.push(Key::new(&*parse_key(line.trim()).ok_or_else(|| malformed(index + 1))?));
        }
        if keys.is_empty() { Err(malformed(1)) } else { Ok(Self(Arc::new(keys))) }
    }
}

impl Key {
    /// The id is derived from the key, so that it stays the same wherever the key stands in the file.
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        let id =
            Sha256::digest([&b"trunkline store key"[..], key].concat()).first().copied().unwrap_or_default();
        Self { id, cipher: XChaCha20Poly1305::new(&(*key).into()) }
    }
}

/// Writes a key file with a fresh key. A file that is there is left alone: without its keys the store cannot be read.
///
/// # Errors
/// [`SealingError::File`] with `AlreadyExists`, or what the system said.
pub fn create_file(path: &Path) -> Result<(), SealingError> {
    let failed = |error| SealingError::File { path: path.display().to_string(), error };
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let text = Zeroizing::new(crate::hex::encode(&*fresh_key()?) + "\n");
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn fresh_key() -> Result<Zeroizing<[u8; KEY_BYTES]>, SealingError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *key).map_err(SealingError::NoEntropy)?;
    Ok(key)
}

fn parse_key(digits: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let bytes = Zeroizing::new(crate::hex::decode(digits)?);
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

#[cfg(test)]
mod tests;
