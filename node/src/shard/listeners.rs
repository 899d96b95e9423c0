//! The listening sockets: which there are, whether they are free, and each shard's share of them.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use socket2::{Domain, Socket, Type};
use trunkline_wire::{ListenerId, Transport};

use super::event_loop::Acceptor;
use super::{Listen, StartError, UDP_BUFFER_BYTES, sys};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// A listening endpoint; its place in the list is its [`ListenerId`].
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// What is spoken there.
    pub transport: Transport,
}

/// The node's listeners in the order of their ids.
pub fn plan(listen: &Listen) -> Vec<Listener> {
    let all = |addresses: &[SocketAddr], transport| {
        addresses.iter().map(move |address| Listener { address: *address, transport }).collect::<Vec<_>>()
    };
    [all(&listen.turn, Transport::Udp), all(&listen.turn, Transport::Tcp), all(&listen.tls, Transport::Tls)]
        .concat()
}

/// Makes sure that nobody else listens there: with SO_REUSEPORT a second process of the same user would quietly
/// share the port.
pub fn check_free(listeners: &[Listener]) -> Result<(), StartError> {
    listeners.iter().try_for_each(|listener| open(listener, Sharing::Alone).map(drop))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    WithSiblings,
}

fn open(listener: &Listener, sharing: Sharing) -> Result<Socket, StartError> {
    let failed =
        |error| StartError::Listen { address: listener.address, protocol: listener.transport.name(), error };
    let is_stream = listener.transport.is_stream();
    let kind = if is_stream { Type::STREAM } else { Type::DGRAM };
    let bind = || {
        let socket = Socket::new(Domain::for_address(listener.address), kind.nonblocking().cloexec(), None)?;
        if listener.address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if is_stream {
            socket.set_reuse_address(true)?;
        }
        if sharing == Sharing::WithSiblings {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&listener.address.into())?;
        if is_stream {
            socket.listen(BACKLOG)?;
        }
        Ok(socket)
    };
    bind().map_err(failed)
}

/// One shard's sockets for all listeners.
pub struct ShardSockets {
    /// UDP sockets by listener; none for those of other transports.
    pub udp: Vec<Option<OwnedFd>>,
    /// Accepting sockets.
    pub acceptors: Vec<Acceptor>,
}

impl ShardSockets {
    /// Opens them.
    pub fn open(listeners: &[Listener]) -> Result<Self, StartError> {
        let mut sockets = Self { udp: Vec::new(), acceptors: Vec::new() };
        for (id, listener) in (0_u16..).map(ListenerId).zip(listeners) {
            let socket = open(listener, Sharing::WithSiblings)?;
            if listener.transport.is_stream() {
                let socket = TcpListener::from(socket);
                sockets.acceptors.push(Acceptor { listener: id, transport: listener.transport, socket });
                sockets.udp.push(None);
            } else {
                sys::set_buffers(socket.as_fd(), UDP_BUFFER_BYTES);
                if listener.address.is_ipv4() {
                    sys::set_dont_fragment(socket.as_fd(), true, false)?;
                }
                sockets.udp.push(Some(socket.into()));
            }
        }
        Ok(sockets)
    }
}
