//! The accept loops. They end when nobody takes connections any more, and for nothing else.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{Bounds, Connection, tls};
use crate::identity::Identity;

/// Accepts and shakes hands; connections whose other end is known go to `sender`.
pub(super) async fn accept_tls(
    listener: TcpListener,
    presented: tls::Presented,
    bounds: Bounds,
    sender: mpsc::Sender<Connection>,
) {
    let mut tasks = JoinSet::new();
    let current = presented.current();
    tasks.spawn(presented.keep_current());
    let mut handshakes = Handshakes { running: VecDeque::new(), max: bounds.handshakes_max };
    let places = Places {
        known: Arc::new(Semaphore::new(bounds.connections_max)),
        newcomers: Arc::new(Semaphore::new(bounds.newcomers_max)),
        bounds,
    };
    while !sender.is_closed() {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        let acceptor = TlsAcceptor::from(current.borrow().clone());
        let (places, sender) = (places.clone(), sender.clone());
        handshakes.add(tasks.spawn(async move {
            let known = tokio::time::timeout(places.bounds.handshake, shake_hands(stream, acceptor)).await;
            match known.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(connection) => places.seat(connection, &sender).await,
                Err(error) => tracing::debug!(%error, "handshake failed"),
            }
        }));
    }
}

/// Accepts on a Unix socket: the file's mode has decided who may.
pub(super) async fn accept_unix(listener: UnixListener, sender: mpsc::Sender<Connection>) {
    while !sender.is_closed() {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = sender.send(Connection::new(stream, Identity::Local)).await;
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Without descriptors `accept` fails at once, again and again; the connection stays in the backlog meanwhile.
/// Other errors are of one connection that is gone already.
async fn pause(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {}
        _ => {
            tracing::warn!(%error, "cannot accept; trying again");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn shake_hands(stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let identity = match stream.get_ref().1.peer_certificates() {
        None | Some([]) => Identity::Newcomer,
        Some([leaf, ..]) => Identity::of_certificate(leaf).map_err(io::Error::other)?,
    };
    Ok(Connection::new(stream, identity))
}

/// Handshakes that run, oldest first.
struct Handshakes {
    running: VecDeque<AbortHandle>,
    max: usize,
}

impl Handshakes {
    /// Where there are too many, the oldest is given up: an honest one takes less time than a flood needs to fill up.
    fn add(&mut self, handshake: AbortHandle) {
        self.running.push_back(handshake);
        if self.running.len() > self.max {
            self.running.retain(|handshake| !handshake.is_finished());
        }
        if self.running.len() > self.max
            && let Some(oldest) = self.running.pop_front()
        {
            oldest.abort();
        }
    }
}

/// What is left of the listener's places. Those without a certificate cannot take the places of those with one.
#[derive(Clone)]
struct Places {
    known: Arc<Semaphore>,
    newcomers: Arc<Semaphore>,
    bounds: Bounds,
}

impl Places {
    async fn seat(&self, connection: Connection, sender: &mpsc::Sender<Connection>) {
        let is_newcomer = *connection.identity() == Identity::Newcomer;
        let places = if is_newcomer { &self.newcomers } else { &self.known };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            tracing::info!(caller = %connection.identity(), "too many connections: one was dropped");
            return;
        };
        let connection = connection.placed(place);
        let connection = if is_newcomer { connection.ending_after(self.bounds.newcomer) } else { connection };
        let _ = sender.send(connection).await;
    }
}

/// How long a listener without descriptors waits.
const PAUSE: Duration = Duration::from_millis(100);
