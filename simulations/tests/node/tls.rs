//! TLS for clients that speak TCP: connections that accept any certificate, and a bridge in front of one.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A connection whose handshake is done.
pub fn connect(server: SocketAddr) -> anyhow::Result<TlsStream> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::from(server.ip()))?;
    let socket = TcpStream::connect_timeout(&server, HANDSHAKE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(HANDSHAKE))?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).context("TLS handshake")?;
    }
    Ok(stream)
}

/// The certificate that a new connection is shown, in DER.
pub fn certificate_of(server: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let stream = connect(server)?;
    let shown = stream.conn.peer_certificates().and_then(<[_]>::first);
    Ok(shown.context("no certificate was shown")?.to_vec())
}

/// A TCP address behind which one connection goes on to `server` over TLS.
pub fn bridge(server: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?;
    let address = listener.local_addr()?;
    let stream = connect(server)?;
    // Ends with either connection.
    std::thread::spawn(move || listener.accept().and_then(|(plain, _)| pump(plain, stream)));
    Ok(address)
}

fn pump(mut plain: TcpStream, mut secure: TlsStream) -> std::io::Result<()> {
    plain.set_nodelay(true)?;
    secure.sock.set_read_timeout(Some(TURN_ABOUT))?;
    let mut buffer = vec![0; 65_536];
    loop {
        plain.set_nonblocking(true)?;
        let read = some(plain.read(&mut buffer))?;
        plain.set_nonblocking(false)?;
        match read {
            Some(0) => return Ok(()),
            Some(length) => secure.write_all(&buffer[..length])?,
            None => {}
        }
        match some(secure.read(&mut buffer))? {
            Some(0) => return Ok(()),
            Some(length) => plain.write_all(&buffer[..length])?,
            None => {}
        }
    }
}

/// What was read, or `None` when nothing came in time.
fn some(read: std::io::Result<usize>) -> std::io::Result<Option<usize>> {
    match read {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Trusts every certificate: who shows it is known from the network.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the server is listened to before the client is looked at again.
const TURN_ABOUT: Duration = Duration::from_millis(1);
