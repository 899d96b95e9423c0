//! What becomes of a packet, and why.

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel's stack gets it: as it came, or freed of its encapsulation.
    Pass(Reason),
    /// It is sent, encapsulated, to a server of this site.
    Forward {
        /// The server.
        to: u16,
        /// Why there.
        reason: Reason,
    },
    /// It ends here.
    Drop(Reason),
}

impl Verdict {
    /// Why.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Forward { reason, .. } | Self::Drop(reason) => reason,
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $variant:ident = $number:literal, $name:literal,)+) => {
        /// Why a packet went where it went. The names are a label of the metrics; the numbers are those of `steer.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])+ $variant = $number,)+ }

        impl Reason {
            /// Every reason, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The label's value.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// Passed: ARP and the like.
    NotIp = 0, "not_ip",
    /// Passed: lengths that lie. The kernel counts and drops it.
    Malformed = 1, "malformed",
    /// Passed: an address or port that is not steered.
    NotOurs = 2, "not_ours",
    /// Passed: a flow of this server.
    OwnFlow = 3, "own_flow",
    /// Passed: a port of a slice of this server.
    OwnSlice = 4, "own_slice",
    /// Passed: it may begin a flow, and this server is the one to take it.
    Opener = 5, "opener",
    /// Passed: nobody on its way owned the flow, and here the way ends.
    WayEnds = 6, "way_ends",
    /// Passed: this server puts the fragments of this packet together.
    Reassembled = 7, "reassembled",
    /// Passed to our process: another site owns it.
    OtherSite = 8, "other_site",
    /// Passed to our process: encapsulated, it would not fit the site's fabric.
    TooLarge = 9, "too_large",
    /// Passed to our process: a message between two processes.
    BetweenServers = 10, "between_servers",
    /// Forwarded along the flow's row.
    Row = 11, "row",
    /// Forwarded: the owner before is asked before a flow begins.
    OpenerAsks = 12, "opener_asks",
    /// Forwarded to the owner of the relay port.
    Slice = 13, "slice",
    /// Forwarded to the server that its username fragment names.
    Ice = 14, "ice",
    /// Forwarded to the server that has the flow.
    KnownFlow = 15, "known_flow",
    /// Forwarded to the server that puts this packet's fragments together.
    Fragment = 16, "fragment",
    /// Forwarded to the next hop of its way.
    NextHop = 17, "next_hop",
    /// Forwarded along this server's row, which is newer than the sender's.
    NewerRow = 18, "newer_row",
    /// Dropped: encapsulated by somebody who is not a server of this site.
    Stranger = 19, "stranger",
    /// Dropped: an encapsulation whose header or MAC is wrong.
    BadEncapsulation = 20, "bad_encapsulation",
    /// Dropped: encapsulated and sent to this server, whose turn it is not or who does not own the port.
    WrongOwner = 21, "wrong_owner",
    /// Dropped: a fragment of TCP, which nobody sends.
    TcpFragment = 22, "tcp_fragment",
    /// Dropped: a TCP segment that does not fit the site's fabric when it is encapsulated.
    TcpTooLarge = 23, "tcp_too_large",
    /// Dropped: no way to the next server is known.
    NoNeighbour = 24, "no_neighbour",
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn numbers_are_places_and_names_differ() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            assert_eq!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }
}
