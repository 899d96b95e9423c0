//! Threats 1 to 4: special addresses in every encoding, and ranges as numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::policy::{Denied, PeerPolicy, canonical};

fn policy(allow: &[&str], deny: &[&str]) -> PeerPolicy {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let relays = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    PeerPolicy::new(relays, ["192.0.2.9".parse().unwrap()], nets(allow), nets(deny)).unwrap()
}

fn encodings(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
    let low = u128::from(u32::from(v4));
    vec![
        Ipv6Addr::from(0xFFFF_0000_0000 | low),
        Ipv6Addr::from(low),
        Ipv6Addr::from((0x0064_FF9B_u128 << 96) | low),
        Ipv6Addr::from((0x2002_u128 << 112) | (low << 80) | 1),
    ]
}

#[test]
fn special_addresses_are_denied_in_every_encoding() {
    let policy = policy(&[], &[]);
    for text in [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "100.64.0.1",
        "192.0.2.200",
        "192.0.2.9",
        "198.18.0.1",
        "240.0.0.1",
    ] {
        let v4: Ipv4Addr = text.parse().unwrap();
        assert_eq!(policy.permit(v4.into()), Err(Denied), "{text}");
        for v6 in encodings(v4) {
            assert_eq!(policy.permit(v6.into()), Err(Denied), "{text} as {v6}");
        }
    }
    for text in [
        "::",
        "::1",
        "fe80::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::2",
        "fec0::1",
        "2001::1",
        "64:ff9b:1::1",
    ] {
        assert_eq!(policy.permit(text.parse().unwrap()), Err(Denied), "{text}");
    }
}

#[test]
fn ordinary_addresses_pass() {
    let policy = policy(&[], &[]);
    for text in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::808:808", "2a00::1"] {
        assert!(policy.permit(text.parse().unwrap()).is_ok(), "{text}");
    }
}

#[test]
fn own_relay_addresses_pass_only_in_their_plain_form() {
    let policy = policy(&[], &[]);
    assert!(policy.permit("192.0.2.1".parse().unwrap()).unwrap().at(5).is_own_relay());
    assert!(policy.permit("2001:db8::1".parse().unwrap()).unwrap().at(5).is_own_relay());
    for v6 in encodings(Ipv4Addr::new(192, 0, 2, 1)) {
        assert_eq!(policy.permit(v6.into()), Err(Denied), "{v6}");
    }
}

#[test]
fn the_operator_opens_private_ranges_but_never_loopback_or_own_addresses() {
    let open = policy(&["10.0.0.0/8", "0.0.0.0/0", "::/0"], &["10.9.0.0/16"]);
    assert!(open.permit("10.1.2.3".parse().unwrap()).is_ok());
    assert!(open.permit("192.168.0.1".parse().unwrap()).is_ok());
    for text in [
        "10.9.1.1",
        "::ffff:10.9.1.1",
        "127.0.0.1",
        "::1",
        "169.254.169.254",
        "192.0.2.9",
        "fe80::1",
        "0.0.0.0",
    ] {
        assert_eq!(open.permit(text.parse().unwrap()), Err(Denied), "{text}");
    }
}

#[test]
fn allowing_loopback_is_refused_when_the_policy_is_made() {
    for text in ["127.0.0.0/8", "127.0.0.1/32", "::1/128", "169.254.0.0/16", "fe80::/64"] {
        assert!(PeerPolicy::new([], [], vec![text.parse().unwrap()], vec![]).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn every_encoding_of_a_denied_v4_is_denied_and_other_v6_are_unaffected(bits in any::<u32>(), prefix in 0_u8..=32) {
        let v4 = Ipv4Addr::from(bits);
        let net = ipnet::Ipv4Net::new(v4, prefix).unwrap().trunc();
        let policy = PeerPolicy::new([], [], vec![], vec![net.into()]).unwrap();
        prop_assert_eq!(policy.permit(v4.into()), Err(Denied));
        for v6 in encodings(v4) {
            prop_assert_eq!(policy.permit(v6.into()), Err(Denied), "{}", v6);
        }
        prop_assert!(policy.permit("2606:4700::1".parse().unwrap()).is_ok());
    }

    #[test]
    fn in_a_range_means_between_its_ends(ip in any::<u128>(), base in any::<u128>(), prefix in 8_u8..=128) {
        let base = Ipv6Addr::from(base | (0x2600 << 112));
        let net = ipnet::Ipv6Net::new(base, prefix).unwrap().trunc();
        let policy = PeerPolicy::new([], [], vec![], vec![net.into()]).unwrap();
        let near = Ipv6Addr::from(u128::from(net.network()).wrapping_add(ip >> prefix.min(127)));
        for candidate in [Ipv6Addr::from(ip), near, net.network(), net.broadcast()] {
            let between = (u128::from(net.network())..=u128::from(net.broadcast())).contains(&u128::from(candidate));
            if between && canonical(IpAddr::V6(candidate)) == IpAddr::V6(candidate) {
                prop_assert_eq!(policy.permit(candidate.into()), Err(Denied));
            }
        }
    }
}
