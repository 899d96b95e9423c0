//! What a replica shows and whom it trusts, read again when the files change.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use zeroize::Zeroizing;

use crate::identity::Name;
use crate::pki::files::{self, Files};
use crate::pki::{PkiError, certificates};

/// The newest files that fit together.
pub(super) struct Presented {
    files: Files,
    texts: Arc<Texts>,
    sender: watch::Sender<Arc<ServerConfig>>,
}

/// What was in the files.
#[derive(PartialEq, Eq)]
pub(crate) struct Texts {
    roots: String,
    chain: String,
    key: Zeroizing<String>,
}

impl Presented {
    /// Reads the files.
    pub(super) fn read(files: Files) -> Result<Self, PkiError> {
        let texts = Texts::read(&files)?;
        let sender = watch::Sender::new(Arc::new(server_config(&texts)?));
        Ok(Self { files, texts: Arc::new(texts), sender })
    }

    /// What is shown to new connections.
    pub(super) fn current(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.sender.subscribe()
    }

    /// Looks at the files each second. Files that do not fit together change nothing: they are being replaced, or
    /// somebody made a mistake and is told once.
    pub(super) async fn keep_current(mut self) {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fault = None;
        loop {
            tick.tick().await;
            let (files, texts) = (self.files.clone(), Arc::clone(&self.texts));
            let read = tokio::task::spawn_blocking(move || reread(&files, &texts)).await;
            let Ok(read) = read else { continue };
            let found = match read {
                Ok(read) => {
                    self.take(read);
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            if found.is_some() && found != fault {
                tracing::warn!(fault = found, "certificate, key and roots stay as they were");
            }
            fault = found;
        }
    }

    /// Shows what was read from here on; true when there was something new.
    fn take(&mut self, read: Option<(Texts, ServerConfig)>) -> bool {
        let Some((texts, config)) = read else { return false };
        self.texts = Arc::new(texts);
        self.sender.send_replace(Arc::new(config));
        tracing::info!("certificate, key and roots were read again");
        true
    }
}

impl Texts {
    pub(crate) fn read(files: &Files) -> Result<Self, PkiError> {
        Ok(Self {
            roots: files::read(&files.roots)?,
            chain: files::read(&files.certificate)?,
            key: files::read_private(&files.key)?,
        })
    }

    /// Every trusted root.
    pub(crate) fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut store = RootCertStore::empty();
        for root in certificates(&self.roots)? {
            store.add(root).map_err(|error| unusable("the roots", &error))?;
        }
        if store.is_empty() { Err(unusable("the roots", &"there is none")) } else { Ok(store) }
    }

    /// The own chain, the leaf first.
    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        certificates(&self.chain)
    }

    /// The own key.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| unusable("the private key", &error))
    }
}

/// One look at the files: whether they are others now.
#[cfg(test)]
pub(super) fn reread_now(presented: &mut Presented) -> Result<bool, PkiError> {
    let read = reread(&presented.files, &presented.texts)?;
    Ok(presented.take(read))
}

/// New texts with what they make; `None` when nothing changed.
fn reread(files: &Files, old: &Texts) -> Result<Option<(Texts, ServerConfig)>, PkiError> {
    let texts = Texts::read(files)?;
    if texts == *old {
        return Ok(None);
    }
    let config = server_config(&texts)?;
    Ok(Some((texts, config)))
}

fn server_config(texts: &Texts) -> Result<ServerConfig, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(texts.roots()?), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable("the roots", &error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable("TLS 1.3", &error))?
        .with_client_cert_verifier(Arc::new(Named(inner)))
        .with_single_cert(texts.chain()?, texts.key()?)
        .map_err(|error| unusable("certificate and key", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would not look at the client's certificate again, which may have expired.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

pub(crate) fn unusable(what: &str, fault: &dyn std::fmt::Display) -> PkiError {
    PkiError::Malformed { what: what.to_owned(), fault: fault.to_string() }
}

/// A chain to a root, not expired, good for clients, and with a name: whoever has none is told so in the handshake.
#[derive(Debug)]
struct Named(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(leaf, intermediates, now)?;
        match Name::of_certificate(leaf) {
            Ok(_) => Ok(verified),
            Err(fault) => {
                tracing::info!(%fault, "a client's certificate was refused");
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// How soon changed files are seen.
const POLL: Duration = Duration::from_secs(1);
