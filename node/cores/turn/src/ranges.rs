//! Ranges of addresses, compared as 128-bit numbers: what the policies for peers and for clients are made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    min: u128,
    max: u128,
}

impl Range {
    pub const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u32) -> Self {
        Self::new(0xFFFF_0000_0000 | u32::from_be_bytes([a, b, c, d]) as u128, prefix.saturating_add(96))
    }

    pub const fn v6(high: u64, prefix: u32) -> Self {
        Self::new((high as u128) << 64, prefix)
    }

    const fn new(min: u128, prefix: u32) -> Self {
        let host = match u128::MAX.checked_shr(prefix) {
            Some(host) => host,
            None => 0,
        };
        Self { min: min & !host, max: min | host }
    }

    /// The addresses of a network: of its own family only, so that `::/0` is all of IPv6 and nothing of IPv4.
    fn of(net: &IpNet) -> impl Iterator<Item = Self> + use<> {
        let Self { min, max } = Self { min: number(net.network()), max: number(net.broadcast()) };
        let holds_mapped = min < MAPPED.min && MAPPED.max < max;
        let below = Self { min, max: if holds_mapped { MAPPED.min.saturating_sub(1) } else { max } };
        let above = holds_mapped.then_some(Self { min: MAPPED.max.saturating_add(1), max });
        std::iter::once(below).chain(above)
    }

    pub fn holds(&self, ip: IpAddr) -> bool {
        (self.min..=self.max).contains(&number(ip))
    }
}

/// Where IPv4 lies among the numbers: ::ffff:0:0/96.
const MAPPED: Range = Range::v4(0, 0, 0, 0, 0);

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// A set of addresses: ranges in order that do not overlap, so that a look-up is a binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range>);

impl Ranges {
    /// The addresses of these networks.
    pub fn new(nets: &[IpNet]) -> Self {
        let mut ranges: Vec<Range> = nets.iter().flat_map(Range::of).collect();
        ranges.sort_unstable();
        let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.min <= last.max => last.max = last.max.max(range.max),
                Some(_) | None => merged.push(range),
            }
        }
        Self(merged)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is one of them.
    pub fn hold(&self, ip: IpAddr) -> bool {
        let number = number(ip);
        let behind = self.0.partition_point(|range| range.min <= number);
        behind.checked_sub(1).and_then(|last| self.0.get(last)).is_some_and(|range| number <= range.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        // Few different numbers, so that networks touch, hold and repeat each other.
        let v4 = (0_u32..64, 24_u8..=32).prop_map(|(low, prefix)| {
            IpNet::new(Ipv4Addr::from(0x0A00_0000 | low << 4).into(), prefix).unwrap()
        });
        let v6 = (0_u128..64, 118_u8..=128).prop_map(|(low, prefix)| {
            IpNet::new(Ipv6Addr::from(0x2001_0DB8_u128 << 96 | low << 4).into(), prefix).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn a_set_holds_exactly_the_addresses_of_its_networks(
            nets in proptest::collection::vec(net(), 0..12), low in 0_u32..1_100, is_ipv4: bool,
        ) {
            let ip: IpAddr = if is_ipv4 {
                Ipv4Addr::from(0x0A00_0000 | low).into()
            } else {
                Ipv6Addr::from(0x2001_0DB8_u128 << 96 | u128::from(low)).into()
            };
            prop_assert_eq!(Ranges::new(&nets).hold(ip), nets.iter().any(|net| net.contains(&ip)));
        }
    }

    #[test]
    fn a_network_holds_nothing_of_the_other_family() {
        let all = Ranges::new(&["::/0".parse().unwrap()]);
        assert!(!all.hold("192.0.2.1".parse().unwrap()));
        assert!(["::", "::1", "2606:4700::1"].iter().all(|ip| all.hold(ip.parse().unwrap())));
    }

    #[test]
    fn the_whole_of_either_family_is_a_range() {
        let all = |text: &str| Ranges::new(&[text.parse().unwrap()]);
        assert!(all("0.0.0.0/0").hold("255.255.255.255".parse().unwrap()));
        assert!(!all("0.0.0.0/0").hold("2606:4700::1".parse().unwrap()));
        assert!(all("::/0").hold("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()));
    }
}
