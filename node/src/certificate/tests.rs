//! Certificates that are read, made, kept, and replaced while the server runs.

use std::os::unix::fs::PermissionsExt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConnection, SignatureScheme};
use rustls_pki_types::{ServerName, UnixTime};

use super::*;

fn addresses() -> Vec<IpAddr> {
    vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]
}

fn self_signed(directory: &tempfile::TempDir, addresses: Vec<IpAddr>) -> Certificate {
    Certificate::load(Source::SelfSigned { directory: directory.path().to_owned(), addresses }).unwrap()
}

fn leaf(certificate: &Certificate) -> CertificateDer<'static> {
    certificate.current.certified.load().cert[0].clone()
}

fn operators_pair(directory: &Path) -> Source {
    let pair = rcgen::generate_simple_self_signed(vec!["turn.example.org".to_owned()]).unwrap();
    let (certificate, key) = (directory.join("c.pem"), directory.join("k.pem"));
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    Source::Files { certificate, key }
}

#[test]
fn a_self_signed_certificate_is_kept_and_only_the_owner_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let first = leaf(&self_signed(&directory, addresses()));
    assert_eq!(leaf(&self_signed(&directory, addresses())), first);
    assert_eq!(
        leaf(&self_signed(&directory, addresses()[..1].to_vec())),
        first,
        "fewer addresses need no other one"
    );
    for file in self_signed::files(directory.path()) {
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            file.display()
        );
    }
}

#[test]
fn a_self_signed_certificate_is_made_again_for_other_addresses_or_when_its_key_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let first = leaf(&self_signed(&directory, addresses()));
    let second = leaf(&self_signed(&directory, vec!["192.0.2.7".parse().unwrap()]));
    assert_ne!(first, second);
    std::fs::remove_file(&self_signed::files(directory.path())[1]).unwrap();
    let third = leaf(&self_signed(&directory, vec!["192.0.2.7".parse().unwrap()]));
    assert_ne!(second, third);
}

#[test]
fn a_changed_file_replaces_the_certificate_and_a_broken_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut certificate = Certificate::load(operators_pair(directory.path())).unwrap();
    let first = leaf(&certificate);
    certificate.refresh();
    assert_eq!(leaf(&certificate), first);

    operators_pair(directory.path());
    certificate.seen = None; // Two writes may fall into one tick of the file system's clock.
    certificate.refresh();
    let second = leaf(&certificate);
    assert_ne!(first, second);

    std::fs::write(directory.path().join("c.pem"), "broken").unwrap();
    certificate.refresh();
    assert_eq!(leaf(&certificate), second);
    operators_pair(directory.path());
    certificate.refresh();
    assert_ne!(leaf(&certificate), second);
}

#[test]
fn files_that_cannot_be_used_are_named_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let Source::Files { certificate, key } = operators_pair(directory.path()) else { unreachable!() };
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let other = directory.path().join("other.pem");
    std::fs::write(&other, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let missing = directory.path().join("missing.pem");
    for (certificate, key, words) in [
        (&missing, &key, "missing.pem: No such file"),
        (&certificate, &missing, "missing.pem: No such file"),
        (&empty, &key, "empty.pem holds no certificate"),
        (&certificate, &certificate, "c.pem holds no private key"),
        (&certificate, &other, "do not belong together"),
    ] {
        let source = Source::Files { certificate: certificate.clone(), key: key.clone() };
        let error = Certificate::load(source).err().unwrap().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
}

#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Shakes hands in memory; the protocol that ALPN agreed on.
fn handshake(
    server: Arc<ServerConfig>,
    version: &'static rustls::SupportedProtocolVersion,
    alpn: &[&str],
) -> Option<Option<String>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::from(addresses()[0])).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..10 {
        let mut wire = vec![];
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets().ok()?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets().ok()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Some(client.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()))
}

#[test]
fn handshakes_of_both_versions_succeed_with_and_without_alpn() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = self_signed(&directory, addresses());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let shake = |alpn: &[&str]| handshake(certificate.server_config().unwrap(), version, alpn);
        assert_eq!(shake(&[]), Some(None));
        assert_eq!(shake(&["stun.turn"]), Some(Some("stun.turn".to_owned())));
        assert_eq!(shake(&["h2"]), None);
    }
}
