//! Who is talking: servers, listening endpoints, client flows, relay sockets.

use std::fmt;
use std::net::SocketAddr;

/// Names one server of the fleet; carried in every token that a server chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodeId {
    /// The site (one datacenter).
    pub site: u16,
    /// The server within its site.
    pub server: u16,
}

impl NodeId {
    /// Big-endian site, then server.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        let [a, b] = self.site.to_be_bytes();
        let [c, d] = self.server.to_be_bytes();
        [a, b, c, d]
    }

    /// The inverse of [`NodeId::to_bytes`].
    #[must_use]
    pub const fn from_bytes([a, b, c, d]: [u8; 4]) -> Self {
        Self { site: u16::from_be_bytes([a, b]), server: u16::from_be_bytes([c, d]) }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.site, self.server)
    }
}

/// How a client reached us. Part of the 5-tuple (RFC 8656 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// STUN over UDP.
    Udp,
    /// STUN over TCP, messages framed by their length.
    Tcp,
    /// STUN over TLS over TCP.
    Tls,
}

impl Transport {
    /// Whether messages arrive in a byte stream and ChannelData is padded to 4 (RFC 8656 §12.5).
    #[must_use]
    pub const fn is_stream(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// The name that metrics and the HTTP API show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Index of a listening endpoint (local address, port and transport) in the node's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u16);

/// Names one accepted connection of a shard; zero for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct StreamId(pub u64);

/// The client side of an allocation: the 5-tuple of RFC 8656, with our end named by its listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientFlow {
    /// How the client reached us.
    pub transport: Transport,
    /// Our end.
    pub listener: ListenerId,
    /// The client's end as we see it (server-reflexive).
    pub remote: SocketAddr,
    /// The connection, where there is one.
    pub stream: StreamId,
}

/// Names one relay socket of a shard's shell; stale ids are recognised by their generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelayId(pub u64);

/// Names one allocation of a shard; stale ids are recognised by their generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId {
    /// Index in the shard's table.
    pub index: u32,
    /// Rises with every allocation of the shard, so that an index can be used again.
    pub generation: u32,
}
