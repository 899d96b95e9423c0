//! The relay sockets of a shard: one UDP socket for each relayed transport address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use slab::Slab;
use socket2::{Domain, Socket, Type};
use trunkline_turn::{OpenError, RelaySockets};
use trunkline_wire::{AllocationId, RelayId};

use super::sys::{self, Epoll, Interest};
use super::token::{self, Token};

/// An open relay socket.
pub struct Relay {
    id: RelayId,
    fd: OwnedFd,
    /// Whose it is.
    pub allocation: AllocationId,
    /// Family of its address.
    pub is_ipv4: bool,
}

impl Relay {
    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The open relay sockets by id.
pub struct Relays {
    epoll: Epoll,
    open: Slab<Relay>,
    generation: u32,
    /// Closed by the core while datagrams for them may still wait in the egress.
    closing: Vec<RelayId>,
}

impl Relays {
    pub fn new(epoll: Epoll) -> Self {
        Self { epoll, open: Slab::new(), generation: 0, closing: Vec::new() }
    }

    /// An open socket; `None` when it was closed meanwhile.
    pub fn find(&self, id: RelayId) -> Option<&Relay> {
        self.open.get(token::index(id.0)).filter(|relay| relay.id == id)
    }

    /// Closes what the core closed. Call it when the egress is empty.
    pub fn close_released(&mut self) {
        for id in self.closing.drain(..) {
            if self.open.get(token::index(id.0)).is_some_and(|relay| relay.id == id) {
                self.open.remove(token::index(id.0));
            }
        }
    }

    fn try_open(&mut self, at: SocketAddr, allocation: AllocationId) -> io::Result<RelayId> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM.nonblocking().cloexec(), None)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        } else {
            sys::set_dont_fragment(socket.as_fd(), true, false)?;
        }
        socket.bind(&at.into())?;
        let entry = self.open.vacant_entry();
        self.generation = self.generation.wrapping_add(1);
        let id = RelayId(token::id(self.generation, entry.key()));
        let fd = OwnedFd::from(socket);
        self.epoll.add(&fd, Token::Relay(id).to_u64(), Interest::Read)?;
        entry.insert(Relay { id, fd, allocation, is_ipv4: at.is_ipv4() });
        Ok(id)
    }
}

impl RelaySockets for Relays {
    fn open(&mut self, at: SocketAddr, allocation: AllocationId) -> Result<RelayId, OpenError> {
        self.try_open(at, allocation).map_err(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                return OpenError::InUse;
            }
            tracing::warn!(%at, %error, "no relay socket could be opened");
            OpenError::Exhausted
        })
    }

    fn close(&mut self, relay: RelayId) {
        self.closing.push(relay);
    }
}
