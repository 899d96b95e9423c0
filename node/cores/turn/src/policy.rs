//! Which peers may be relayed to: the one policy point.
//!
//! Only [`PeerPolicy::permit`] makes a [`PermittedIp`], and nothing is sent to a peer without one. Every IPv6
//! encoding of an IPv4 address is brought to its IPv4 form first, and ranges are compared as 128-bit numbers.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

pub use crate::ranges::canonical;
use crate::ranges::{Range, Ranges};

/// A peer's address that the policy let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermittedIp {
    ip: IpAddr,
    own_relay: bool,
}

impl PermittedIp {
    /// The address as the client named it.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// With a port.
    #[must_use]
    pub const fn at(self, port: u16) -> PermittedPeer {
        PermittedPeer { address: SocketAddr::new(self.ip, port), own_relay: self.own_relay }
    }
}

/// A peer's transport address that the policy let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermittedPeer {
    address: SocketAddr,
    own_relay: bool,
}

impl PermittedPeer {
    /// The address.
    #[must_use]
    pub const fn address(self) -> SocketAddr {
        self.address
    }

    /// Whether it is a relay address of the fleet: delivered to a live allocation inside the fleet, never through
    /// the kernel's stack.
    #[must_use]
    pub const fn is_own_relay(self) -> bool {
        self.own_relay
    }
}

/// The policy denies the peer; answered with 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied;

/// A range that no configuration can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeverPermitted(pub IpNet);

/// Rules, in this order: our own relay addresses pass; our other addresses, loopback, link-local, multicast and
/// reserved ranges never do; then the operator's denials, the operator's permissions, the default denials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPolicy {
    relay_addresses: HashSet<IpAddr>,
    own_addresses: HashSet<IpAddr>,
    deny: Ranges,
    allow: Ranges,
}

impl PeerPolicy {
    /// A policy for a server with these relay addresses and these other addresses.
    ///
    /// # Errors
    /// [`NeverPermitted`] names a range in `allow` that lies wholly where no peer is ever permitted.
    pub fn new(
        relay_addresses: impl IntoIterator<Item = IpAddr>,
        own_addresses: impl IntoIterator<Item = IpAddr>,
        allow: Vec<IpNet>,
        deny: Vec<IpNet>,
    ) -> Result<Self, NeverPermitted> {
        let is_never = |net: &&IpNet| {
            NEVER.iter().any(|never| never.holds(net.network()) && never.holds(net.broadcast()))
        };
        if let Some(net) = allow.iter().find(is_never) {
            return Err(NeverPermitted(*net));
        }
        Ok(Self {
            relay_addresses: relay_addresses.into_iter().map(canonical).collect(),
            own_addresses: own_addresses.into_iter().map(canonical).collect(),
            deny: Ranges::new(&deny),
            allow: Ranges::new(&allow),
        })
    }

    /// Lets a peer's address pass or not.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn permit(&self, ip: IpAddr) -> Result<PermittedIp, Denied> {
        let plain = canonical(ip);
        if self.relay_addresses.contains(&plain) {
            // Only its plain form: another encoding would leave through the kernel.
            return if plain == ip { Ok(PermittedIp { ip, own_relay: true }) } else { Err(Denied) };
        }
        let in_range = |ranges: &[Range]| ranges.iter().any(|range| range.holds(plain));
        let denied = self.deny.hold(plain) || self.deny.hold(ip);
        if self.own_addresses.contains(&plain) || in_range(NEVER) || denied {
            return Err(Denied);
        }
        if self.allow.hold(plain) || !in_range(DENIED_BY_DEFAULT) {
            return Ok(PermittedIp { ip, own_relay: false });
        }
        Err(Denied)
    }
}

/// Never a peer, whatever the configuration says (RFC 6890; CVE-2020-26262).
const NEVER: &[Range] = &[
    Range::v4(0, 0, 0, 0, 8),      // "this network", unspecified
    Range::v4(127, 0, 0, 0, 8),    // loopback
    Range::v4(169, 254, 0, 0, 16), // link-local, cloud metadata
    Range::v4(224, 0, 0, 0, 4),    // multicast
    Range::v4(240, 0, 0, 0, 4),    // reserved and broadcast
    Range::v6(0, 127),             // unspecified and loopback
    Range::v6(0xFE80 << 48, 10),   // link-local
    Range::v6(0xFEC0 << 48, 10),   // site-local, deprecated
    Range::v6(0xFF00 << 48, 8),    // multicast
];

/// Denied unless the operator allows them.
const DENIED_BY_DEFAULT: &[Range] = &[
    Range::v4(10, 0, 0, 0, 8),             // private (RFC 1918)
    Range::v4(172, 16, 0, 0, 12),          // private
    Range::v4(192, 168, 0, 0, 16),         // private
    Range::v4(100, 64, 0, 0, 10),          // carrier NAT (RFC 6598)
    Range::v4(192, 0, 0, 0, 24),           // IETF protocol assignments
    Range::v4(192, 0, 2, 0, 24),           // documentation
    Range::v4(198, 51, 100, 0, 24),        // documentation
    Range::v4(203, 0, 113, 0, 24),         // documentation
    Range::v4(192, 88, 99, 0, 24),         // 6to4 relay anycast, deprecated
    Range::v4(198, 18, 0, 0, 15),          // benchmarking
    Range::v6(0xFC00 << 48, 7),            // unique-local
    Range::v6(0x2001_0DB8 << 32, 32),      // documentation
    Range::v6(0x3FFF << 48, 20),           // documentation (RFC 9637)
    Range::v6(0x0100 << 48, 64),           // discard-only
    Range::v6(0x2001 << 48, 23),           // IETF protocol assignments, Teredo included
    Range::v6(0x0064_FF9B_0001 << 16, 48), // local-use NAT64 (RFC 8215)
];
