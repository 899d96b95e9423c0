//! The way in to a replica: TLS over TCP, a Unix socket, or memory. Each connection carries its [`Identity`].
//!
//! Nobody outside can stop it from accepting: handshakes and connections without a certificate are bounded in number
//! and time, separately from those with one, and running out of descriptors makes it wait, not end.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::transport::Server;

use crate::identity::Identity;
use crate::pki::PkiError;
use crate::pki::files::Files;

mod accept;
pub mod connection;
pub mod tls;
mod unix;

pub use connection::Connection;

/// A socket that is bound; nothing is accepted yet.
pub struct Listener(Kind);

enum Kind {
    Tls(TcpListener, tls::Presented, Bounds),
    Unix(UnixListener),
}

/// How much of strangers a listener bears.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A handshake ends within this time.
    pub handshake: Duration,
    /// Handshakes at once; beyond it the oldest is dropped.
    pub handshakes_max: usize,
    /// Connections with a certificate; beyond it new ones are dropped.
    pub connections_max: usize,
    /// Connections without a certificate; beyond it new ones are dropped.
    pub newcomers_max: usize,
    /// A connection without a certificate ends after this time: a join takes one call.
    pub newcomer: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            handshakes_max: 1_024,
            connections_max: 16_384,
            newcomers_max: 256,
            newcomer: Duration::from_secs(30),
        }
    }
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address or path cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// What was asked for.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// Roots, chain and key cannot be used.
    #[error(transparent)]
    Files(#[from] PkiError),
}

impl Listener {
    /// TLS over TCP. The files are read again when they change; connections that are there go on.
    ///
    /// # Errors
    /// [`ListenError`] names the address or the file.
    pub async fn tcp(address: SocketAddr, files: Files) -> Result<Self, ListenError> {
        Self::tcp_with(address, files, Bounds::default()).await
    }

    /// As [`Listener::tcp`], with other bounds.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn tcp_with(address: SocketAddr, files: Files, bounds: Bounds) -> Result<Self, ListenError> {
        let presented = tls::Presented::read(files)?;
        let bind = |error| ListenError::Bind { address: address.to_string(), error };
        Ok(Self(Kind::Tls(TcpListener::bind(address).await.map_err(bind)?, presented, bounds)))
    }

    /// A Unix socket that its owner alone can open; whoever can is [`Identity::Local`]. A socket that a dead process
    /// left is replaced. Must be called within a runtime.
    ///
    /// # Errors
    /// [`ListenError::Bind`], also when a living process listens there.
    pub fn unix(path: &Path) -> Result<Self, ListenError> {
        let bind = |error| ListenError::Bind { address: path.display().to_string(), error };
        Ok(Self(Kind::Unix(unix::bind(path).map_err(bind)?)))
    }

    /// The address that it is bound to; `None` for a Unix socket.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tls(listener, ..) => listener.local_addr().ok(),
            Kind::Unix(_) => None,
        }
    }

    /// Begins to accept. Dropping the stream ends that, not the connections.
    #[must_use]
    pub fn incoming(self) -> Incoming {
        let (sender, receiver) = mpsc::channel(PENDING_MAX);
        let task = match self.0 {
            Kind::Tls(listener, presented, bounds) => {
                tokio::spawn(accept::accept_tls(listener, presented, bounds, sender))
            }
            Kind::Unix(listener) => tokio::spawn(accept::accept_unix(listener, sender)),
        };
        Incoming { receiver, task: Some(task) }
    }
}

/// Connections whose other end is known, for `serve_with_incoming_shutdown`. Several are joined by
/// `tokio_stream::StreamExt::merge`.
pub struct Incoming {
    receiver: mpsc::Receiver<Connection>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A way in that is no socket, for a node and a replica in one process.
#[must_use]
pub fn memory_listener() -> (MemoryConnector, Incoming) {
    let (sender, receiver) = mpsc::channel(PENDING_MAX);
    (MemoryConnector(sender), Incoming { receiver, task: None })
}

/// The other side of [`memory_listener`].
#[derive(Clone, Debug)]
pub struct MemoryConnector(mpsc::Sender<Connection>);

impl MemoryConnector {
    /// A new connection, which is [`Identity::Local`] at the other end.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens any more.
    pub async fn connect(&self) -> io::Result<tokio::io::DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(MEMORY_BYTES);
        let connection = Connection::new(theirs, Identity::Local);
        self.0.send(connection).await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(ours)
    }
}

/// A gRPC server with the bounds that every replica has. Layers and services are the caller's.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(RESETS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

/// Calls at once on one connection: a session, some calls and watches.
const STREAMS_MAX: u32 = 128;
const HEADER_BYTES_MAX: u32 = 16 * 1_024;
/// Streams that were reset before they were looked at (CVE-2023-44487), and that we reset (CVE-2025-8671).
const RESETS_MAX: usize = 32;
/// A peer that does not answer a ping for this long is gone.
const KEEPALIVE: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 256 * 1_024;
const CONNECTION_WINDOW_BYTES: u32 = 1_024 * 1_024;
/// Connections that are known and that the server has not taken yet.
const PENDING_MAX: usize = 64;
const MEMORY_BYTES: usize = 64 * 1_024;

#[cfg(test)]
mod tests;
