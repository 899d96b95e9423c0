//! Which peers may be relayed to: the one policy point.
//!
//! Only [`PeerPolicy::permit`] makes a [`PermittedIp`], and nothing is sent to a peer without one. Every IPv6
//! encoding of an IPv4 address is brought to its IPv4 form first, and ranges are compared as 128-bit numbers.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

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
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    relay_addresses: HashSet<IpAddr>,
    own_addresses: HashSet<IpAddr>,
    deny: Vec<IpNet>,
    allow: Vec<IpNet>,
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
            deny,
            allow,
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
        let in_net = |nets: &[IpNet]| nets.iter().any(|net| Range::of(net).holds(plain));
        if self.own_addresses.contains(&plain) || in_range(NEVER) || in_net(&self.deny) {
            return Err(Denied);
        }
        if in_net(&self.allow) || !in_range(DENIED_BY_DEFAULT) {
            return Ok(PermittedIp { ip, own_relay: false });
        }
        Err(Denied)
    }
}

/// The IPv4 address inside an IPv6 encoding of one (mapped, compatible, NAT64, 6to4), else the address itself.
#[must_use]
pub fn canonical(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let bits = u128::from(v6);
    let low =
        |shift: u32| IpAddr::V4(Ipv4Addr::from(u32::try_from((bits >> shift) & 0xFFFF_FFFF).unwrap_or(0)));
    let mapped = bits >> 32 == 0xFFFF;
    // `::` and `::1` are the unspecified and the loopback address, not encodings.
    let compatible = bits >> 32 == 0 && bits > 1;
    let nat64 = bits >> 32 == u128::from(NAT64) >> 32;
    let six_to_four = bits >> 112 == 0x2002;
    match () {
        () if mapped || compatible || nat64 => low(0),
        () if six_to_four => low(80),
        () => ip,
    }
}

/// The well-known NAT64 prefix 64:ff9b::/96 (RFC 6052 §2.1).
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xFF9B, 0, 0, 0, 0, 0, 0);

/// Inclusive bounds as 128-bit numbers; IPv4 in its mapped form so that the families never overlap.
#[derive(Clone, Copy, Debug)]
struct Range {
    min: u128,
    max: u128,
}

impl Range {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u32) -> Self {
        Self::new(0xFFFF_0000_0000 | u32::from_be_bytes([a, b, c, d]) as u128, prefix.saturating_add(96))
    }

    const fn v6(high: u64, prefix: u32) -> Self {
        Self::new((high as u128) << 64, prefix)
    }

    const fn new(min: u128, prefix: u32) -> Self {
        let host = match u128::MAX.checked_shr(prefix) {
            Some(host) => host,
            None => 0,
        };
        Self { min: min & !host, max: min | host }
    }

    fn of(net: &IpNet) -> Self {
        Self { min: number(net.network()), max: number(net.broadcast()) }
    }

    fn holds(&self, ip: IpAddr) -> bool {
        (self.min..=self.max).contains(&number(ip))
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
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
