//! The way to a replica. What is shown and trusted is read from its files at each connection, so renewed ones are used
//! from the next connection on.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;
use tower::service_fn;

use crate::listener::MemoryConnector;
use crate::pki::files::Files;
use crate::pki::{PkiError, SERVER_NAME};

mod tls;

/// Where a replica is.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// `https://host:port`: the host and port.
    Tls(String),
    /// `unix:PATH`.
    Unix(PathBuf),
    /// In this process.
    Memory(MemoryConnector),
}

/// Whom a connection trusts, and what it shows.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Nothing: for Unix sockets and memory, where the way in says who it is.
    Local,
    /// Roots, and the own certificate and key.
    Files(Files),
    /// A server that joins: the root with this SHA-256, and no certificate of its own.
    Pinned {
        /// From the join token.
        root_sha256: [u8; 32],
    },
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not an endpoint.
    #[error("{0:?} is neither https://HOST:PORT nor unix:PATH")]
    Malformed(String),
    /// The endpoint is TLS and there is nothing to trust.
    #[error("{0} needs a certificate: --cert, --key and --roots, or --identity")]
    NoCertificate(String),
    /// Own roots, chain or key cannot be used.
    #[error("{0}")]
    Files(String),
    /// Nobody answers there.
    #[error("cannot reach {endpoint}: {fault}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the system said.
        fault: String,
    },
    /// The other end is not whom we trust.
    #[error("{endpoint} is not a replica that is trusted here: {fault}")]
    Untrusted {
        /// Where.
        endpoint: String,
        /// What is wrong with its certificate.
        fault: String,
    },
    /// The other end does not trust us.
    #[error("{endpoint} refused this certificate: {fault}")]
    Refused {
        /// Where.
        endpoint: String,
        /// What it said.
        fault: String,
    },
    /// It took too long.
    #[error("{0} did not answer within 2 seconds")]
    TimedOut(String),
    /// None of several.
    #[error("no replica can be reached:{}", .0.iter().map(|error| format!("\n  {error}")).collect::<String>())]
    None(Vec<ConnectError>),
}

impl FromStr for Endpoint {
    type Err = ConnectError;

    fn from_str(text: &str) -> Result<Self, ConnectError> {
        let malformed = || ConnectError::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.as_os_str().is_empty() { Err(malformed()) } else { Ok(Self::Unix(path)) };
        }
        let authority = text.strip_prefix("https://").ok_or_else(malformed)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let parsed: http::uri::Authority = authority.parse().map_err(|_| malformed())?;
        let is_whole = parsed.port_u16().is_some_and(|port| port != 0) && !parsed.host().is_empty();
        if is_whole && !authority.contains('@') {
            Ok(Self::Tls(authority.to_owned()))
        } else {
            Err(malformed())
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(authority) => write!(f, "https://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Memory(_) => f.write_str("this process"),
        }
    }
}

/// Connects, and connects again by itself when the connection is lost and another call is made.
///
/// # Errors
/// [`ConnectError`] says what was wrong and where. The other end has accepted our certificate when this returns.
pub async fn connect(endpoint: &Endpoint, trust: &Trust) -> Result<Channel, ConnectError> {
    let fault = Arc::new(std::sync::Mutex::new(None));
    let connector = {
        let (endpoint, trust, fault) = (endpoint.clone(), trust.clone(), Arc::clone(&fault));
        service_fn(move |_: Uri| {
            let (endpoint, trust, fault) = (endpoint.clone(), trust.clone(), Arc::clone(&fault));
            async move {
                let opened = open_in_time(&endpoint, &trust).await;
                opened.inspect_err(|error| *lock(&fault) = Some(error.clone()))
            }
        })
    };
    tonic::transport::Endpoint::from_static(ORIGIN)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            let fault = lock(&fault).take();
            fault.unwrap_or_else(|| ConnectError::Unreachable {
                endpoint: endpoint.to_string(),
                fault: innermost(&error),
            })
        })
}

/// Connects to one of several: each is tried once, from a random one on.
///
/// # Errors
/// [`ConnectError::None`] with what was wrong with each.
pub async fn connect_any(endpoints: &[Endpoint], trust: &Trust) -> Result<Channel, ConnectError> {
    let mut random = [0; 8];
    let _ = getrandom::fill(&mut random);
    let first = u64::from_le_bytes(random) % u64::try_from(endpoints.len().max(1)).unwrap_or(1);
    let (before, from) = endpoints.split_at(usize::try_from(first).unwrap_or(0).min(endpoints.len()));
    let mut faults = Vec::new();
    for endpoint in from.iter().chain(before) {
        match connect(endpoint, trust).await {
            Ok(channel) => return Ok(channel),
            Err(error) => faults.push(error),
        }
    }
    Err(ConnectError::None(faults))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn open_in_time(endpoint: &Endpoint, trust: &Trust) -> Result<TokioIo<Box<dyn Stream>>, ConnectError> {
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, open(endpoint, trust)).await;
    opened.unwrap_or_else(|_| Err(ConnectError::TimedOut(endpoint.to_string()))).map(TokioIo::new)
}

async fn open(endpoint: &Endpoint, trust: &Trust) -> Result<Box<dyn Stream>, ConnectError> {
    let unreachable = |error: std::io::Error| ConnectError::Unreachable {
        endpoint: endpoint.to_string(),
        fault: error.to_string(),
    };
    match endpoint {
        Endpoint::Memory(connector) => Ok(Box::new(connector.connect().await.map_err(unreachable)?)),
        Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(unreachable)?)),
        Endpoint::Tls(authority) => {
            let config = match trust {
                Trust::Local => return Err(ConnectError::NoCertificate(endpoint.to_string())),
                Trust::Files(files) => tls::with_files(files)?,
                Trust::Pinned { root_sha256 } => tls::pinned(*root_sha256)?,
            };
            let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            shake_hands(endpoint, stream, config).await
        }
    }
}

/// In TLS 1.3 a client has finished before the server looks at its certificate. A replica speaks first in HTTP/2, so
/// its first bytes, or its alert, say whether it took ours.
async fn shake_hands(
    endpoint: &Endpoint,
    stream: TcpStream,
    config: rustls::ClientConfig,
) -> Result<Box<dyn Stream>, ConnectError> {
    let name = rustls::pki_types::ServerName::try_from(SERVER_NAME)
        .map_err(|error| ConnectError::Files(error.to_string()))?;
    let untrusted = |error: std::io::Error| match tls::fault(&error) {
        Some(fault) => ConnectError::Untrusted { endpoint: endpoint.to_string(), fault },
        None => ConnectError::Unreachable { endpoint: endpoint.to_string(), fault: error.to_string() },
    };
    let refused = |fault: String| ConnectError::Refused { endpoint: endpoint.to_string(), fault };
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(untrusted)?;
    match stream.fill_buf().await {
        Ok([]) => Err(refused("it closed the connection without a word; it may have too many".to_owned())),
        Ok(_) => Ok(Box::new(stream)),
        Err(error) => Err(refused(tls::fault(&error).unwrap_or_else(|| error.to_string()))),
    }
}

impl From<PkiError> for ConnectError {
    fn from(error: PkiError) -> Self {
        Self::Files(error.to_string())
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

/// Plain for `tonic`, which knows nothing of our TLS.
const ORIGIN: &str = "http://control-plane.trunkline";
/// TCP, TLS and the first bytes together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
