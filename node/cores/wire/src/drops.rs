//! Why something was not passed on. Nothing is ever dropped uncounted.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet went no further. The names are the `reason` label of the metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason { $($(#[$doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The label's value.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Neither STUN nor ChannelData.
    NotTurn = "not_turn",
    /// Starts like STUN and is not.
    MalformedStun = "malformed_stun",
    /// A FINGERPRINT that is wrong.
    BadFingerprint = "bad_fingerprint",
    /// A ChannelData header that is wrong.
    MalformedChannelData = "malformed_channel_data",
    /// A method that this server does not know.
    UnknownMethod = "unknown_method",
    /// An indication without what it needs, or with attributes that are not understood.
    BadIndication = "bad_indication",
    /// A response: this server never asks.
    Response = "response",
    /// The source address used up its budget of unauthenticated answers.
    UnauthenticatedBudget = "unauthenticated_budget",
    /// A client of a network that is not served.
    ClientDenied = "client_denied",
    /// Data of a client without an allocation.
    NoAllocation = "no_allocation",
    /// ChannelData for a channel that is not bound.
    NoChannel = "no_channel",
    /// No permission for the peer.
    NoPermission = "no_permission",
    /// A peer that the policy denies.
    PeerDenied = "peer_denied",
    /// A peer of a family that the allocation has no address of.
    PeerFamily = "peer_family",
    /// One of our own relay addresses, but no live allocation at that port.
    NoSuchRelay = "no_such_relay",
    /// Above the allocation's bandwidth or packet rate.
    RateLimit = "rate_limit",
    /// Does not fit the message it would have to travel in.
    TooLarge = "too_large",
    /// Larger than the receive buffer.
    Truncated = "truncated",
    /// The kernel refused to send: the datagram is larger than the path or the protocol allows.
    SendTooLarge = "send_too_large",
    /// The kernel's send buffer is full.
    SendBufferFull = "send_buffer_full",
    /// The kernel refused to send for another reason (no route, firewall).
    SendRefused = "send_refused",
    /// The client reads its connection too slowly and its queue is full.
    StreamQueueFull = "stream_queue_full",
    /// The connection or relay socket was closed meanwhile.
    Gone = "gone",
    /// The queue to another shard is full.
    ShardQueueFull = "shard_queue_full",
    /// The batch's egress is full.
    EgressFull = "egress_full",
    /// No server owns the port, or the owner's address is not known.
    NoOwner = "no_owner",
    /// An encapsulated packet of a stranger, or with a wrong MAC.
    BadEncapsulation = "bad_encapsulation",
    /// An encapsulated packet for a port that another server owns: it is not passed on a second time.
    WrongOwner = "wrong_owner",
}

/// A count for each [`DropReason`].
#[derive(Clone, Debug)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Drops {
    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count = count.wrapping_add(1);
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(to, from)| *to = to.wrapping_add(*from));
    }

    /// How many so far.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// How many so far for all reasons together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }
}
