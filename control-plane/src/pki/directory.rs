//! The directory of a certificate authority, kept by whoever runs `trunklinectl ca`.
//!
//! ```text
//! root.pem root.key       signs issuers; can be kept elsewhere once there is an issuer
//! issuer.pem issuer.key   signs leaves; issuer.pem carries the root behind it
//! roots.pem               every root that is trusted now
//! store.key               seals secrets in the store
//! next/ previous/         the other root and issuer while a rotation is under way
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertifiedIssuer, KeyPair};
use zeroize::Zeroizing;

use super::files::{self, Files, PRIVATE, PUBLIC};
use super::{ISSUER_LIFETIME, Issuer, PkiError, ROOT_LIFETIME, authority};
use crate::identity::Name;

/// A certificate authority on disk.
pub struct Directory(PathBuf);

/// A rotation of the root has three steps. Between them the operator brings files to every process.
///
/// 1. [`Begin`](Self::Begin) makes the next root and puts it into `roots.pem` beside the old one. Then every process
///    gets the new `roots.pem`: nothing is signed by the new root yet, so the order does not matter.
/// 2. [`Switch`](Self::Switch) makes the next issuer the one that signs. Then every process gets a new leaf, and every
///    replica the new issuer. Both kinds of leaf are trusted everywhere.
/// 3. [`Retire`](Self::Retire) takes the old root out of `roots.pem`. Then every process gets it. A leaf that was
///    forgotten in step 2 is refused from here on, on new connections.
///
/// Every process reads changed files within a second; no connection is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// Makes and trusts the next root.
    Begin,
    /// Signs with it.
    Switch,
    /// Trusts the old root no more.
    Retire,
}

impl Directory {
    /// Makes root, issuer and store key in a directory that has none of them.
    ///
    /// # Errors
    /// [`PkiError::Exists`] names what is in the way; nothing is written then.
    pub fn init(path: &Path) -> Result<Self, PkiError> {
        let this = Self(path.to_owned());
        for name in [ROOT, ROOT_KEY, ISSUER, ISSUER_KEY, ROOTS, STORE_KEY, NEXT, PREVIOUS] {
            files::absent(&this.0.join(name))?;
        }
        files::directory(path)?;
        let root = create_authority(path)?;
        files::create(&this.0.join(ROOTS), root.as_bytes(), PUBLIC)?;
        crate::sealing::create_file(&this.0.join(STORE_KEY))?;
        Ok(this)
    }

    /// A directory that was made before.
    ///
    /// # Errors
    /// [`PkiError::File`] when there is no authority in it.
    pub fn open(path: &Path) -> Result<Self, PkiError> {
        files::read(&path.join(ISSUER))?;
        Ok(Self(path.to_owned()))
    }

    /// What signs leaves now.
    ///
    /// # Errors
    /// [`PkiError`] names the file.
    pub fn issuer(&self) -> Result<Issuer, PkiError> {
        Issuer::from_files(&self.0.join(ISSUER), &self.0.join(ISSUER_KEY))
    }

    /// PEM of every root that is trusted now.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn roots(&self) -> Result<String, PkiError> {
        files::read(&self.0.join(ROOTS))
    }

    /// Writes `cert.pem`, `key.pem` and `roots.pem` for this name into a directory that has none of them.
    ///
    /// # Errors
    /// [`PkiError::Exists`] names what is in the way; nothing is written then.
    pub fn issue_into(&self, name: &Name, lifetime: Option<Duration>, out: &Path) -> Result<Files, PkiError> {
        let files = Files::in_directory(out);
        for path in [&files.roots, &files.certificate, &files.key] {
            files::absent(path)?;
        }
        self.reissue_into(name, lifetime, out)
    }

    /// As [`Directory::issue_into`], over files that may be there: a process that runs with them takes the new ones.
    ///
    /// # Errors
    /// [`PkiError`] names the file.
    pub fn reissue_into(
        &self,
        name: &Name,
        lifetime: Option<Duration>,
        out: &Path,
    ) -> Result<Files, PkiError> {
        let issued = self.issuer()?.issue(name, lifetime)?;
        let files = Files::in_directory(out);
        files::directory(out)?;
        files.replace(&issued, &self.roots()?)?;
        Ok(files)
    }

    /// The step that is to be done next.
    #[must_use]
    pub fn next_step(&self) -> RotationStep {
        match (self.0.join(NEXT).exists(), self.0.join(PREVIOUS).exists()) {
            (true, _) => RotationStep::Switch,
            (false, true) => RotationStep::Retire,
            (false, false) => RotationStep::Begin,
        }
    }

    /// One step of a rotation; see [`RotationStep`] for what is to be done between them.
    ///
    /// # Errors
    /// [`PkiError::OutOfOrder`] when another step is due.
    pub fn rotate(&self, step: RotationStep) -> Result<(), PkiError> {
        if step != self.next_step() {
            return Err(PkiError::OutOfOrder(match self.next_step() {
                RotationStep::Begin => "no rotation is under way: begin one first",
                RotationStep::Switch => {
                    "a rotation is under way: the next step is to switch to the new issuer"
                }
                RotationStep::Retire => "a rotation is under way: the next step is to retire the old root",
            }));
        }
        match step {
            RotationStep::Begin => self.begin(),
            RotationStep::Switch => self.switch(),
            RotationStep::Retire => self.retire(),
        }
    }

    /// A new issuer under the same root, at once: every process trusts it already.
    ///
    /// # Errors
    /// [`PkiError`], also when the root's key is kept elsewhere.
    pub fn renew_issuer(&self) -> Result<(), PkiError> {
        let root = files::read(&self.0.join(ROOT))?;
        let key = KeyPair::from_pem(&files::read_private(&self.0.join(ROOT_KEY))?)?;
        let signer = rcgen::Issuer::from_ca_cert_pem(&root, key)?;
        let (chain, key) = create_issuer(&signer, &root)?;
        files::put(&self.0.join(ISSUER_KEY), key.as_bytes(), PRIVATE)?;
        files::put(&self.0.join(ISSUER), chain.as_bytes(), PUBLIC)
    }

    /// The next authority is made whole beside its place, so a crash leaves no half of it: the step is due again.
    fn begin(&self) -> Result<(), PkiError> {
        let making = self.0.join("next.new");
        if making.exists() {
            fs::remove_dir_all(&making).map_err(|error| files::failed(&making, error))?;
        }
        files::directory(&making)?;
        let root = create_authority(&making)?;
        files::put(&self.0.join(ROOTS), (files::read(&self.0.join(ROOT))? + &root).as_bytes(), PUBLIC)?;
        let next = self.0.join(NEXT);
        fs::rename(&making, &next).map_err(|error| files::failed(&next, error))
    }

    /// Copies first and removes last: after a crash the same step is due, and ends the same.
    fn switch(&self) -> Result<(), PkiError> {
        let (next, previous) = (self.0.join(NEXT), self.0.join(PREVIOUS));
        files::directory(&previous)?;
        for (name, mode) in AUTHORITY {
            let (now, kept) = (self.0.join(name), previous.join(name));
            if now.exists() && !kept.exists() {
                files::put(&kept, Zeroizing::new(files::read(&now)?).as_bytes(), mode)?;
            }
            files::put(&now, Zeroizing::new(files::read(&next.join(name))?).as_bytes(), mode)?;
        }
        fs::remove_dir_all(&next).map_err(|error| files::failed(&next, error))
    }

    fn retire(&self) -> Result<(), PkiError> {
        let previous = self.0.join(PREVIOUS);
        files::put(&self.0.join(ROOTS), files::read(&self.0.join(ROOT))?.as_bytes(), PUBLIC)?;
        fs::remove_dir_all(&previous).map_err(|error| files::failed(&previous, error))
    }
}

/// Root and issuer with their keys; gives the root's PEM.
fn create_authority(path: &Path) -> Result<String, PkiError> {
    let root =
        CertifiedIssuer::self_signed(authority("Trunkline root", 1, ROOT_LIFETIME)?, KeyPair::generate()?)?;
    let (chain, key) = create_issuer(&root, &root.pem())?;
    let root_key = Zeroizing::new(root.key().serialize_pem());
    files::create(&path.join(ROOT_KEY), root_key.as_bytes(), PRIVATE)?;
    files::create(&path.join(ROOT), root.pem().as_bytes(), PUBLIC)?;
    files::create(&path.join(ISSUER_KEY), key.as_bytes(), PRIVATE)?;
    files::create(&path.join(ISSUER), chain.as_bytes(), PUBLIC)?;
    Ok(root.pem())
}

/// The issuer's chain (issuer, root) and key, PEM.
fn create_issuer(
    root: &rcgen::Issuer<'_, KeyPair>,
    root_pem: &str,
) -> Result<(String, Zeroizing<String>), PkiError> {
    let key = KeyPair::generate()?;
    let mut params = authority("Trunkline issuer", 0, ISSUER_LIFETIME)?;
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, root)?;
    Ok((certificate.pem() + root_pem, Zeroizing::new(key.serialize_pem())))
}

const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
const ISSUER: &str = "issuer.pem";
const ISSUER_KEY: &str = "issuer.key";
const ROOTS: &str = "roots.pem";
const STORE_KEY: &str = "store.key";
const NEXT: &str = "next";
const PREVIOUS: &str = "previous";
/// Keys before certificates: whoever reads a new certificate finds its key.
const AUTHORITY: [(&str, u32); 4] =
    [(ROOT_KEY, PRIVATE), (ROOT, PUBLIC), (ISSUER_KEY, PRIVATE), (ISSUER, PUBLIC)];
