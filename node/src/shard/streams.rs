//! The connections of a shard: accepting them, holding those without an allocation to a deadline, and to a number.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};
use slab::Slab;
use trunkline_wire::{ClientFlow, ListenerId, Now, StreamId, Transport};

use super::stream::Stream;
use super::sys::{Epoll, Interest};
use super::token::{self, Token};

/// Connections of one shard.
pub const STREAMS_MAX: usize = 16_384;
/// Connections of one shard over which no allocation was made yet; beyond it the oldest of them is closed.
const UNAUTHENTICATED_MAX: usize = 4_096;
/// How long a connection may be without an allocation, in seconds: a client allocates within two round trips.
const WITHOUT_ALLOCATION_S: u64 = 15;
/// Connections accepted from one listener before others get their turn.
pub const ACCEPTS_PER_EVENT: usize = 32;

/// The open connections by id.
pub struct Streams {
    epoll: Epoll,
    tls_config: Arc<ServerConfig>,
    open: Slab<Stream>,
    generation: u32,
    /// When each connection is looked at next, oldest first: every check is the same time ahead.
    checks: VecDeque<(u64, StreamId)>,
    /// Connections without an allocation so far, oldest first; stale entries are skipped.
    unauthenticated: VecDeque<StreamId>,
    /// A descriptor kept back, to accept and close a connection when there are no more.
    reserve: Option<File>,
    /// Connections with something to write.
    pub dirty: Vec<StreamId>,
}

/// What came of trying to accept.
pub enum Accepted {
    /// A connection, taken or refused at once.
    One,
    /// Nobody is waiting.
    Nobody,
}

impl Streams {
    pub fn new(epoll: Epoll, tls_config: Arc<ServerConfig>) -> Self {
        Self {
            epoll,
            tls_config,
            open: Slab::new(),
            generation: 0,
            checks: VecDeque::new(),
            unauthenticated: VecDeque::new(),
            reserve: File::open("/dev/null").ok(),
            dirty: Vec::new(),
        }
    }

    /// An open connection; `None` when it was closed meanwhile.
    pub fn find(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.open.get_mut(token::index(id.0)).filter(|stream| stream.id == id)
    }

    /// Accepts one connection. The loop survives whatever accepting fails with.
    pub fn accept(
        &mut self,
        now: Now,
        socket: &TcpListener,
        listener: ListenerId,
        transport: Transport,
        admits: impl FnOnce(SocketAddr) -> bool,
    ) -> Accepted {
        let (socket, remote) = match socket.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Accepted::Nobody,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                self.shed(socket);
                return Accepted::Nobody;
            }
        };
        if !admits(remote) || self.open.len() >= STREAMS_MAX {
            return Accepted::One;
        }
        if let Err(error) = self.insert(now, socket, remote, listener, transport) {
            tracing::debug!(%error, "a connection could not be set up");
        }
        Accepted::One
    }

    /// With no descriptor left, closes the one kept back, takes the waiting connection and closes it, so that the
    /// listener does not stay ready for ever.
    fn shed(&mut self, socket: &TcpListener) {
        self.reserve = None;
        drop(socket.accept());
        self.reserve = File::open("/dev/null").ok();
    }

    fn insert(
        &mut self,
        now: Now,
        socket: TcpStream,
        remote: SocketAddr,
        listener: ListenerId,
        transport: Transport,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let tls = match transport {
            Transport::Tls => {
                Some(ServerConnection::new(Arc::clone(&self.tls_config)).map_err(io::Error::other)?)
            }
            Transport::Udp | Transport::Tcp => None,
        };
        let entry = self.open.vacant_entry();
        self.generation = self.generation.wrapping_add(1);
        let id = StreamId(token::id(self.generation, entry.key()));
        self.epoll.add(&socket, Token::Stream(id).to_u64(), Interest::Read)?;
        entry.insert(Stream::new(id, ClientFlow { transport, listener, remote, stream: id }, socket, tls));
        self.checks.push_back((now.after_s(WITHOUT_ALLOCATION_S), id));
        self.unauthenticated.push_back(id);
        Ok(())
    }

    /// The oldest connection without an allocation, where there are too many of them.
    pub fn surplus(&mut self) -> Option<StreamId> {
        if self.unauthenticated.len() <= UNAUTHENTICATED_MAX {
            return None;
        }
        let open = &self.open;
        self.unauthenticated.retain(|id| {
            open.get(token::index(id.0)).is_some_and(|stream| stream.id == *id && !stream.authenticated)
        });
        if self.unauthenticated.len() > UNAUTHENTICATED_MAX { self.unauthenticated.pop_front() } else { None }
    }

    /// The next connection that is due for a look.
    pub fn due(&mut self, now: Now) -> Option<ClientFlow> {
        loop {
            let (at_ns, id) = *self.checks.front()?;
            if !now.reached(at_ns) {
                return None;
            }
            self.checks.pop_front();
            if let Some(stream) = self.find(id) {
                return Some(stream.flow);
            }
        }
    }

    /// Looks at the connection again later.
    pub fn check_later(&mut self, now: Now, id: StreamId) {
        self.checks.push_back((now.after_s(WITHOUT_ALLOCATION_S), id));
    }

    /// When the next connection is due, in monotonic nanoseconds.
    pub fn next_check_ns(&self) -> Option<u64> {
        self.checks.front().map(|(at_ns, _)| *at_ns)
    }

    /// Writes what waits on a connection; `false` when it is broken and must be closed.
    pub fn pump(&mut self, id: StreamId) -> bool {
        let epoll = self.epoll.clone();
        let Some(stream) = self.find(id) else { return true };
        let Ok(interest) = stream.pump() else { return false };
        if interest == stream.interest {
            return true;
        }
        stream.interest = interest;
        epoll.modify(stream.socket(), Token::Stream(id).to_u64(), interest).is_ok()
    }

    /// Closes a connection; its flow, if it was open.
    pub fn remove(&mut self, id: StreamId) -> Option<ClientFlow> {
        self.find(id)?;
        Some(self.open.remove(token::index(id.0)).flow)
    }
}
