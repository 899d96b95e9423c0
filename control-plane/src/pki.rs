//! Certificates of the fleet: a root, an issuer under it, and leaves that name one server, replica or operator.
//!
//! The root signs issuers alone and can lie in a drawer. An issuer's file carries the root behind the issuer, and so
//! does each chain: a server that joins knows nothing but the hash of the root.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::identity::Name;

pub mod directory;
pub mod files;
#[cfg(test)]
pub(crate) mod fixture;

/// Signs certificates of servers, replicas and operators. No `Debug`: it holds the key.
pub struct Issuer {
    issuer: rcgen::Issuer<'static, KeyPair>,
    /// Issuer, then root.
    chain: String,
    expires: SystemTime,
}

/// A certificate with its key.
pub struct Issued {
    /// PEM: the leaf, the issuer, the root.
    pub chain: String,
    /// PEM, PKCS #8.
    pub key: Zeroizing<String>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What happened.
        error: std::io::Error,
    },
    /// A file is there that would have been overwritten.
    #[error("{0} is there already: move it away, or choose another directory")]
    Exists(String),
    /// Others than its owner can read a private key.
    #[error("{path} can be read by others (mode {mode:03o}): run `chmod 600 {path}`")]
    Exposed {
        /// Which.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// A file or request does not hold what it should.
    #[error("{what}: {fault}")]
    Malformed {
        /// Which.
        what: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The issuer's own time is over.
    #[error("the issuer's certificate has expired: run `trunklinectl ca rotate`")]
    Expired,
    /// A step of a rotation at the wrong time.
    #[error("{0}")]
    OutOfOrder(&'static str),
    /// The store key could not be made.
    #[error(transparent)]
    StoreKey(#[from] crate::sealing::SealingError),
    /// A certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Failed(#[from] rcgen::Error),
}

impl Issuer {
    /// From an issuer's certificate (the root behind it) and its key.
    ///
    /// # Errors
    /// [`PkiError`] names the file.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let chain = files::read(certificate)?;
        let key_text = files::read_private(key)?;
        let malformed = |path: &Path, error: &dyn std::fmt::Display| PkiError::Malformed {
            what: path.display().to_string(),
            fault: error.to_string(),
        };
        let key_pair = KeyPair::from_pem(&key_text).map_err(|error| malformed(key, &error))?;
        Self::new(chain, key_pair).map_err(|error| match error {
            PkiError::Malformed { fault, .. } => malformed(certificate, &fault),
            other => other,
        })
    }

    fn new(chain: String, key: KeyPair) -> Result<Self, PkiError> {
        let malformed =
            |fault: String| PkiError::Malformed { what: "the issuer's certificate".to_owned(), fault };
        let first =
            certificates(&chain)?.into_iter().next().ok_or_else(|| malformed("it is empty".to_owned()))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&first).map_err(|error| malformed(error.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(malformed("the key is another certificate's".to_owned()));
        }
        let expires = unix(parsed.validity().not_after.timestamp());
        let issuer = rcgen::Issuer::from_ca_cert_der(&first, key)?;
        Ok(Self { issuer, chain, expires })
    }

    /// A certificate with a fresh key; `lifetime` of `None` is the default of its kind.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn issue(&self, name: &Name, lifetime: Option<Duration>) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        let chain = self.sign(&key, name, lifetime)?;
        Ok(Issued { chain, key: Zeroizing::new(key.serialize_pem()) })
    }

    /// A certificate for the key of a request (PKCS #10, DER), whose own signature must be good. What the request
    /// wishes for is ignored: the name comes from whoever proved to be it. PEM: the leaf, the issuer, the root.
    ///
    /// # Errors
    /// [`PkiError::Malformed`] for the request, else what is wrong with the issuer.
    pub fn sign_csr(&self, csr: &[u8], name: &Name, lifetime: Option<Duration>) -> Result<String, PkiError> {
        let malformed =
            |fault: String| PkiError::Malformed { what: "the certificate request".to_owned(), fault };
        if csr.len() > CSR_BYTES_MAX {
            return Err(malformed(format!("it is longer than {CSR_BYTES_MAX} bytes")));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
            .map_err(|error| malformed(error.to_string()))?;
        self.sign(&request.public_key, name, lifetime)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        name: &Name,
        lifetime: Option<Duration>,
    ) -> Result<String, PkiError> {
        let now = SystemTime::now();
        if self.expires <= now {
            return Err(PkiError::Expired);
        }
        let until = (now + lifetime.unwrap_or_else(|| default_lifetime(name))).min(self.expires);
        let leaf = leaf(name, now, until)?.signed_by(key, &self.issuer)?;
        Ok(leaf.pem() + &self.chain)
    }

    /// SHA-256 of the root (DER): what a join token names.
    ///
    /// # Errors
    /// The issuer's file does not carry its root.
    pub fn root_sha256(&self) -> Result<[u8; 32], PkiError> {
        root_sha256(&self.chain)
    }
}

/// How long a certificate of this kind lasts unless it is said.
#[must_use]
pub const fn default_lifetime(name: &Name) -> Duration {
    match name {
        Name::Node(_) => Duration::from_secs(30 * DAY_S),
        Name::Replica(_) => Duration::from_secs(90 * DAY_S),
        Name::Operator { .. } => Duration::from_secs(365 * DAY_S),
    }
}

/// A key and the request (DER) for its certificate: what a server that joins or renews sends.
///
/// # Errors
/// [`PkiError::Failed`].
pub fn request() -> Result<(Zeroizing<String>, Vec<u8>), PkiError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?;
    Ok((Zeroizing::new(key.serialize_pem()), csr.der().to_vec()))
}

/// SHA-256 of the root (DER) at the end of a chain: what a join token names.
///
/// # Errors
/// The chain is not PEM, or has no root.
pub fn root_sha256(chain: &str) -> Result<[u8; 32], PkiError> {
    let malformed =
        |fault: &str| PkiError::Malformed { what: "the chain".to_owned(), fault: fault.to_owned() };
    let certificates = certificates(chain)?;
    let root = certificates.last().ok_or_else(|| malformed("it is empty"))?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(root).map_err(|error| malformed(&error.to_string()))?;
    if parsed.subject() != parsed.issuer() || !parsed.is_ca() {
        return Err(malformed("it does not end with its root"));
    }
    Ok(Sha256::digest(root).into())
}

/// When the first certificate of a chain (PEM) ends.
///
/// # Errors
/// [`PkiError::Malformed`].
pub fn expires(chain: &str) -> Result<SystemTime, PkiError> {
    let malformed = |fault: String| PkiError::Malformed { what: "the chain".to_owned(), fault };
    let certificates = certificates(chain)?;
    let first = certificates.first().ok_or_else(|| malformed("it is empty".to_owned()))?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(first).map_err(|error| malformed(error.to_string()))?;
    Ok(unix(parsed.validity().not_after.timestamp()))
}

/// The certificates of a PEM text, in order.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let malformed = |error: rustls_pki_types::pem::Error| PkiError::Malformed {
        what: "PEM".to_owned(),
        fault: error.to_string(),
    };
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(malformed)
}

/// A root that signs issuers, or an issuer that signs leaves.
fn authority(common_name: &str, path: u8, lifetime: Duration) -> Result<CertificateParams, PkiError> {
    let now = SystemTime::now();
    let mut params = params(common_name, now, now + lifetime)?;
    // Two roots of one fleet are told apart by their subjects.
    let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
    let distinct = crate::hex::encode(serial.get(..4).unwrap_or_default());
    params.distinguished_name.push(DnType::OrganizationalUnitName, distinct);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf(name: &Name, from: SystemTime, until: SystemTime) -> Result<CertificateParams, PkiError> {
    let common_name = match name {
        Name::Node(node) => node.to_string(),
        Name::Replica(name) | Name::Operator { name, .. } => name.clone(),
    };
    let mut params = params(&common_name, from, until)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(name.to_string().try_into()?)];
    params.use_authority_key_identifier_extension = true;
    match name {
        Name::Operator { .. } => {}
        Name::Node(_) => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
        Name::Replica(_) => {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.push(SanType::DnsName(SERVER_NAME.try_into()?));
        }
    }
    Ok(params)
}

fn params(common_name: &str, from: SystemTime, until: SystemTime) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.not_before = (from - CLOCK_SKEW).into();
    params.not_after = until.into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let mut serial = [0; SERIAL_BYTES];
    getrandom::fill(&mut serial).map_err(crate::sealing::SealingError::NoEntropy)?;
    // RFC 5280 §4.1.2.2: a serial number is positive.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn unix(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// What every replica's certificate is good for as a server, whatever its address is.
pub const SERVER_NAME: &str = "control-plane.trunkline";
const DAY_S: u64 = 86_400;
const ROOT_LIFETIME: Duration = Duration::from_secs(3_650 * DAY_S);
const ISSUER_LIFETIME: Duration = Duration::from_secs(1_825 * DAY_S);
/// A certificate is good from this long before it was made: clocks may be wrong by 10 minutes.
const CLOCK_SKEW: Duration = Duration::from_secs(900);
/// An RSA key of 8,192 bits and every extension that makes sense.
const CSR_BYTES_MAX: usize = 8_192;
/// RFC 5280 §4.1.2.2: 20 bytes at most.
const SERIAL_BYTES: usize = 16;

#[cfg(test)]
mod tests;
