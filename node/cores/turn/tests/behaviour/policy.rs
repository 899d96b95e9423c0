//! The peer policy's ranges to the last address, and ranges as numbers (threats 1 to 4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use trunkline_turn::policy::PeerPolicy;

/// Never a peer (RFC 6890).
const NEVER: [&str; 10] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];
/// Denied unless the operator allows them.
const BY_DEFAULT: [&str; 15] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "fc00::/7",
    "2001:db8::/32",
    "3fff::/20",
    "100::/64",
    "64:ff9b:1::/48",
];

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The addresses before, at and behind the ends of a range.
fn ends(net: &IpNet) -> Vec<IpAddr> {
    let (first, last) = (number(net.network()), number(net.broadcast()));
    let near = [first.checked_sub(1), Some(first), Some(last), last.checked_add(1)];
    let ip = |number: u128| match net {
        IpNet::V4(_) => u32::try_from(number).ok().map(|bits| IpAddr::V4(bits.into())),
        IpNet::V6(_) => Some(IpAddr::V6(number.into())),
    };
    near.into_iter().flatten().filter_map(ip).collect()
}

/// Encodings of IPv4 are another test's matter.
fn is_encoding(ip: IpAddr) -> bool {
    let IpAddr::V6(v6) = ip else { return false };
    v6.segments()[..6] == [0; 6] || v6.segments()[0] == 0x2002 || v6.segments()[..2] == [0x64, 0xff9b]
}

#[test]
fn every_special_range_is_denied_from_its_first_to_its_last_address_and_no_further() {
    let special = [nets(&NEVER), nets(&BY_DEFAULT), nets(&["2001::/23"])].concat();
    let policy = PeerPolicy::new([], [], vec![], vec![]).unwrap();
    let mut outside = 0;
    for net in &special {
        for ip in ends(net) {
            let denied = special.iter().any(|net| net.contains(&ip));
            if denied || !is_encoding(ip) {
                assert_eq!(policy.permit(ip).is_err(), denied, "{ip}, at an end of {net}");
                outside += usize::from(!denied);
            }
        }
    }
    assert!(outside > 25, "{outside}");
}

#[test]
fn an_operator_that_allows_everything_still_never_opens_what_must_never_be() {
    let policy = PeerPolicy::new([], [], nets(&["0.0.0.0/0", "::/0"]), vec![]).unwrap();
    let within = |net: &IpNet| ends(net).into_iter().filter(|ip| net.contains(ip)).collect::<Vec<_>>();
    assert!(nets(&NEVER).iter().flat_map(within).all(|ip| policy.permit(ip).is_err()));
    assert!(nets(&BY_DEFAULT).iter().flat_map(within).all(|ip| policy.permit(ip).is_ok()));
}

proptest! {
    #[test]
    fn a_denied_v6_range_is_all_numbers_between_its_ends_and_no_others(
        base in any::<u128>(), prefix in 12_u8..=128, far in any::<u128>(), near in -2_i64..=2,
    ) {
        // 2a00::/12 holds no special range.
        let inside = |bits: u128| Ipv6Addr::from((0x2a0 << 116) | (bits >> 12));
        let net = Ipv6Net::new(inside(base), prefix).unwrap().trunc();
        let policy = PeerPolicy::new([], [], vec![], vec![net.into()]).unwrap();
        let (min, max) = (u128::from(net.network()), u128::from(net.broadcast()));
        let beside = |end: u128| inside(end.wrapping_add_signed(near.into()) << 12);
        for candidate in [inside(far), beside(min), beside(max)] {
            let between = (min..=max).contains(&u128::from(candidate));
            prop_assert_eq!(policy.permit(candidate.into()).is_err(), between, "{} in {}", candidate, net);
        }
    }

    #[test]
    fn a_denied_v4_range_is_all_numbers_between_its_ends_and_no_others(
        base in any::<u32>(), prefix in 4_u8..=32, far in any::<u32>(), near in -2_i32..=2,
    ) {
        // 64.0.0.0/4 holds no special range.
        let inside = |bits: u32| Ipv4Addr::from(0x4000_0000 | (bits & 0x0FFF_FFFF));
        let net = Ipv4Net::new(inside(base), prefix).unwrap().trunc();
        let policy = PeerPolicy::new([], [], vec![], vec![net.into()]).unwrap();
        let (min, max) = (u32::from(net.network()), u32::from(net.broadcast()));
        let beside = |end: u32| inside(end.wrapping_add_signed(near));
        for candidate in [inside(far), beside(min), beside(max)] {
            let between = (min..=max).contains(&u32::from(candidate));
            prop_assert_eq!(policy.permit(candidate.into()).is_err(), between, "{} in {}", candidate, net);
            let mapped = policy.permit(candidate.to_ipv6_mapped().into());
            prop_assert_eq!(mapped.is_err(), between, "{} mapped", candidate);
        }
    }
}
