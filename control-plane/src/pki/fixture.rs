//! A fleet's certificates for tests, also such as no authority would make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::directory::Directory;
use super::files::Files;
use super::{Issued, leaf};
use crate::identity::Name;

/// An authority in a directory that goes with it.
pub(crate) struct Fleet {
    pub(crate) directory: TempDir,
    pub(crate) authority: Directory,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Directory::init(&directory.path().join("ca")).expect("an authority");
        Self { directory, authority }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Files of a name like `trunkline://node/1.2`, for five minutes.
    pub(crate) fn files(&self, name: &str) -> Files {
        let out = self.path(&name.replace(['/', ':'], "_"));
        let name: Name = name.parse().expect("a name");
        self.authority.reissue_into(&name, Some(Duration::from_secs(300)), &out).expect("issued")
    }

    /// Files of a certificate that was changed before it was signed.
    pub(crate) fn forged(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Files {
        let issuer = self.authority.issuer().expect("an issuer");
        let now = std::time::SystemTime::now();
        let name: Name = name.parse().expect("a name");
        let mut params = leaf(&name, now, now + Duration::from_secs(300)).expect("parameters");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer.issuer).expect("signed");
        let chain = certificate.pem() + &issuer.chain;
        self.write("forged", &Issued { chain, key: Zeroizing::new(key.serialize_pem()) })
    }

    /// Files with this chain and key, and the fleet's roots.
    pub(crate) fn write(&self, directory: &str, issued: &Issued) -> Files {
        let out = self.path(directory);
        super::files::directory(&out).expect("a directory");
        let files = Files::in_directory(&out);
        files.replace(issued, &self.authority.roots().expect("roots")).expect("written");
        files
    }
}

pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o777
}
