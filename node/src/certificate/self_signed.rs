//! A self-signed certificate for the server's addresses and `localhost`, kept in the data directory so that people
//! who chose to trust it are asked only once.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{CertificateError, read_pair};

/// Certificate and key of a data directory.
pub(super) fn files(directory: &Path) -> [PathBuf; 2] {
    [directory.join("self-signed.crt"), directory.join("self-signed.key")]
}

/// Makes the certificate unless a good one is there.
pub(super) fn ensure(
    directory: &Path,
    addresses: &[IpAddr],
    provider: &CryptoProvider,
) -> Result<(), CertificateError> {
    if is_good(directory, addresses, provider) {
        return Ok(());
    }
    let (certificate, key) = make(addresses).map_err(|error| CertificateError::NotMade(error.to_string()))?;
    let [certificate_file, key_file] = files(directory);
    write(&key_file, &key)?;
    write(&certificate_file, &certificate)
}

/// Whether the pair there belongs together, names every address, and is good for another month.
pub(super) fn is_good(directory: &Path, addresses: &[IpAddr], provider: &CryptoProvider) -> bool {
    let [certificate, key] = files(directory);
    let Ok(certificate_pem) = fs::read(&certificate) else { return false };
    read_pair(&certificate, &key, provider).is_ok()
        && CertificateDer::from_pem_slice(&certificate_pem)
            .is_ok_and(|der| is_valid_for(&der, addresses, provider))
}

/// Asks the verifier that clients use too, a month ahead, trusting just this certificate.
fn is_valid_for(der: &CertificateDer<'static>, addresses: &[IpAddr], provider: &CryptoProvider) -> bool {
    let mut roots = RootCertStore::empty();
    let verifier = roots.add(der.clone()).ok().and_then(|()| {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider.clone())).build().ok()
    });
    let Some(verifier) = verifier else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let names = addresses.iter().map(|ip| ServerName::from(*ip)).chain(ServerName::try_from("localhost"));
    names.into_iter().all(|name| {
        let ahead = UnixTime::since_unix_epoch(now + RENEW_BEFORE);
        verifier.verify_server_cert(der, &[], &name, &[], ahead).is_ok()
    })
}

/// Certificate and key in PEM.
fn make(addresses: &[IpAddr]) -> Result<(String, String), rcgen::Error> {
    let names: Vec<String> =
        addresses.iter().map(IpAddr::to_string).chain(std::iter::once("localhost".to_owned())).collect();
    let mut params = CertificateParams::new(names)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "Trunkline (self-signed)");
    params.distinguished_name = subject;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Clocks differ: it was good yesterday.
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + LIFETIME).into();
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Replaces a file as a whole: who reads it sees the old content or the new.
fn write(path: &Path, text: &str) -> Result<(), CertificateError> {
    let unwritable = |cause| CertificateError::Unwritable { path: path.to_owned(), cause };
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(unwritable)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(unwritable)?;
    fs::rename(&new, path).map_err(unwritable)
}

const DAY: Duration = Duration::from_secs(86_400);
/// Clients refuse certificates that are good for longer than 398 days (CA/Browser Forum, §6.3.2).
const LIFETIME: Duration = Duration::from_secs(365 * 86_400);
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);
