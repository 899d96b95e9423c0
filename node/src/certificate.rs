//! The certificate of the TLS listener: the operator's, or a self-signed one; replaced without a restart.
//!
//! Handshakes take whatever [`Current`] holds. A task looks at the files every few seconds; a new certificate that is
//! broken is reported and the old one stays.

mod self_signed;

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why there is no certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {cause}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// No certificate in the file.
    #[error("{} holds no certificate in PEM (\"-----BEGIN CERTIFICATE-----\")", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// No key in the file.
    #[error("{} holds no private key in PEM (\"-----BEGIN PRIVATE KEY-----\")", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The two do not belong together, or are of a kind that is not supported.
    #[error("cannot use the certificate {} with the key {}: {cause}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A self-signed one cannot be made.
    #[error("cannot make a self-signed certificate: {0}")]
    NotMade(String),
}

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Files of the operator.
    Files {
        /// Chain in PEM.
        certificate: PathBuf,
        /// Private key in PEM.
        key: PathBuf,
    },
    /// Made here for these addresses, kept in this directory.
    SelfSigned {
        /// The data directory.
        directory: PathBuf,
        /// What it is good for.
        addresses: Vec<IpAddr>,
    },
}

/// The certificate that handshakes are answered with.
#[derive(Debug)]
pub struct Current {
    certified: ArcSwap<CertifiedKey>,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified.load_full())
    }
}

/// A certificate that follows its source.
pub struct Certificate {
    source: Source,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    seen: Option<Stamp>,
}

impl Certificate {
    /// Loads the certificate, or makes it.
    ///
    /// # Errors
    /// [`CertificateError`] says in one line what is wrong.
    pub fn load(source: Source) -> Result<Self, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (seen, certified) = source.load(&provider)?;
        let current = Arc::new(Current { certified: ArcSwap::from_pointee(certified) });
        Ok(Self { source, provider, current, seen })
    }

    /// What the TLS listener is configured with: TLS 1.2 and 1.3, ALPN for clients that ask (RFC 7443).
    ///
    /// # Errors
    /// [`CertificateError::NotMade`] when the provider lacks a protocol version.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| CertificateError::NotMade(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"stun.turn".to_vec(), b"stun.nat-discovery".to_vec()];
        Ok(Arc::new(config))
    }

    /// Follows the source for ever.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.refresh();
        }
    }

    /// Loads the certificate again if its source changed.
    fn refresh(&mut self) {
        if self.source.stamp() == self.seen && !self.source.is_ending(&self.provider) {
            return;
        }
        match self.source.load(&self.provider) {
            Ok((seen, certified)) => {
                self.seen = seen;
                self.current.certified.store(Arc::new(certified));
                tracing::info!("TLS certificate loaded again");
            }
            Err(error) => {
                // Not again until the files change again.
                self.seen = self.source.stamp();
                tracing::warn!(%error, "the new TLS certificate cannot be used; the old one stays");
            }
        }
    }
}

/// When both files were changed last, and their lengths: enough to notice a renewal.
type Stamp = [(SystemTime, u64); 2];

impl Source {
    fn files(&self) -> [PathBuf; 2] {
        match self {
            Self::Files { certificate, key } => [certificate.clone(), key.clone()],
            Self::SelfSigned { directory, .. } => self_signed::files(directory),
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        let [certificate, key] = self.files().map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        });
        Some([certificate?, key?])
    }

    /// The stamp is taken first: a file that changes meanwhile is read again.
    fn load(&self, provider: &CryptoProvider) -> Result<(Option<Stamp>, CertifiedKey), CertificateError> {
        if let Self::SelfSigned { directory, addresses } = self {
            self_signed::ensure(directory, addresses, provider)?;
        }
        let stamp = self.stamp();
        let [certificate, key] = self.files();
        Ok((stamp, read_pair(&certificate, &key, provider)?))
    }

    /// Whether the certificate is ours to renew and it is time.
    fn is_ending(&self, provider: &CryptoProvider) -> bool {
        match self {
            Self::Files { .. } => false,
            Self::SelfSigned { directory, addresses } => {
                !self_signed::is_good(directory, addresses, provider)
            }
        }
    }
}

fn read_pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|chain: &Vec<_>| !chain.is_empty())
        .ok_or_else(|| CertificateError::NoCertificate { path: certificate.to_owned() })?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|_| CertificateError::NoKey { path: key.to_owned() })?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| CertificateError::Unusable {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        cause: match error {
            rustls::Error::InconsistentKeys(_) => "they do not belong together".to_owned(),
            other => other.to_string(),
        },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |cause| CertificateError::Unreadable { path: path.to_owned(), cause };
    let mut bytes = vec![];
    File::open(path).map_err(unreadable)?.take(PEM_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Renewals may take this long to be seen, and a minute more does not matter to anybody.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A chain of dozens of certificates.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests;
