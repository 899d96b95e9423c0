//! What the connector shows and whom it trusts.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    WantsVerifier,
};
use sha2::{Digest, Sha256};

use super::ConnectError;
use crate::listener::tls::{Texts, unusable};
use crate::pki::files::Files;

/// Trusts the roots of a file and shows a certificate.
pub(super) fn with_files(files: &Files) -> Result<ClientConfig, ConnectError> {
    let texts = Texts::read(files)?;
    let config = builder(provider())?
        .with_root_certificates(texts.roots()?)
        .with_client_auth_cert(texts.chain()?, texts.key()?)
        .map_err(|error| unusable("certificate and key", &error))?;
    Ok(finish(config))
}

/// Trusts one root that is known by its hash, and shows nothing.
pub(super) fn pinned(root_sha256: [u8; 32]) -> Result<ClientConfig, ConnectError> {
    let provider = provider();
    let verifier = PinnedRoot { root_sha256, provider: Arc::clone(&provider) };
    let config = builder(provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(finish(config))
}

/// What TLS found wrong; `None` when it was not TLS.
pub(super) fn fault(error: &std::io::Error) -> Option<String> {
    let fault = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match fault {
        rustls::Error::AlertReceived(alert) => format!("it said {alert:?}"),
        other => other.to_string(),
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, ConnectError> {
    let builder = ClientConfig::builder_with_provider(provider);
    Ok(builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable("TLS 1.3", &error))?)
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// The replica's chain carries its root (see [`crate::pki`]): the one with the right hash is the only one trusted.
#[derive(Debug)]
struct PinnedRoot {
    root_sha256: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_root = |certificate: &&CertificateDer<'_>| Sha256::digest(certificate)[..] == self.root_sha256;
        let root = intermediates.iter().find(is_root).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
