//! What a TURN server is told, before it starts and later, and what the shards of a node share.

use std::net::SocketAddr;
use std::sync::Arc;

use trunkline_wire::NodeId;
use trunkline_wire::token::Keyring;

use crate::client_policy::ClientPolicy;
use crate::credentials::Credentials;
use crate::policer::{PolicerLimits, Rate};
use crate::policy::PeerPolicy;
use crate::ports::{PortTable, Reservations};
use crate::quota::Ledger;

/// Configuration of a server; the same for every shard of a node and immutable.
#[derive(Clone, Debug)]
pub struct Config {
    /// This server, sealed into its tokens.
    pub node: NodeId,
    /// REALM of the long-term credential mechanism. Up to 12 bytes keep a 401 within twice the smallest Allocate.
    pub realm: String,
    /// SOFTWARE in success responses to Allocate; empty for none.
    pub software: String,
    /// Keys that seal nonces and reservation tokens.
    pub keyring: Keyring,
    /// Which peers may be relayed to.
    pub policy: PeerPolicy,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of an allocation and of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Allocations of one shard; beyond it 508.
    pub allocations_max: usize,
    /// Longest lifetime granted, in seconds (RFC 8656 §7.2 suggests 3,600).
    pub lifetime_s_max: u32,
    /// How long a nonce is good, in seconds.
    pub nonce_lifetime_s: u64,
    /// Permissions of one allocation; beyond it 508.
    pub permissions_max: usize,
    /// Channels of one allocation; beyond it 508.
    pub channels_max: usize,
    /// New peer addresses of one allocation; beyond it 508.
    pub new_peers: Rate,
    /// Each direction of one allocation.
    pub policer: PolicerLimits,
    /// Bytes of unauthenticated answers to one source address.
    pub unauthenticated: Rate,
}

/// Lifetime of an allocation when the client asks for none or for less (RFC 8656 §7.2), in seconds.
pub const LIFETIME_S_DEFAULT: u32 = 600;
/// Lifetime of a permission (RFC 8656 §9), in seconds.
pub const PERMISSION_S: u64 = 300;
/// Lifetime of a channel binding (RFC 8656 §12), in seconds.
pub const CHANNEL_S: u64 = 600;
/// How long neither the channel nor the peer of an ended binding can be bound otherwise (RFC 8656 §12), in seconds.
pub const CHANNEL_REST_S: u64 = 300;

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations_max: 100_000,
            lifetime_s_max: 3_600,
            nonce_lifetime_s: 3_600,
            permissions_max: 256,
            channels_max: 256,
            new_peers: Rate { per_s: 10, burst: 64 },
            // 100 Mbit/s and 20,000 packets/s: above any call, below a nuisance.
            policer: PolicerLimits {
                bytes: Rate { per_s: 12_500_000, burst: 2_500_000 },
                packets: Rate { per_s: 20_000, burst: 4_000 },
            },
            unauthenticated: Rate { per_s: 65_536, burst: 262_144 },
        }
    }
}

/// What the shards of a node share. Touched when allocations come and go, never for a packet between a client
/// and an outside peer.
pub struct Shared {
    /// Relay ports, as they are divided when a server starts.
    pub ports: Arc<PortTable>,
    /// Ports kept for reservation tokens.
    pub reservations: Reservations,
    /// Quotas.
    pub ledger: Arc<Ledger>,
}

/// Everything that can change while a server runs; it goes from one set to the next between two packets.
#[derive(Clone)]
pub struct Terms {
    /// Configuration. The node and the realm never change: they are part of live tokens and keys.
    pub config: Arc<Config>,
    /// Which credentials are good.
    pub credentials: Arc<Credentials>,
    /// Relay ports; made of the table before by [`PortTable::successor`].
    pub ports: Arc<PortTable>,
    /// Which clients are served.
    pub clients: Arc<ClientPolicy>,
    /// Refuse new allocations.
    pub draining: bool,
}

/// What one shard is told about itself.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its index in the node.
    pub shard: u8,
    /// Seed of everything unpredictable that this shard makes; from the operating system's random source.
    pub seed: [u8; 32],
    /// Our end of each client flow, by listener.
    pub listeners: Vec<SocketAddr>,
}
