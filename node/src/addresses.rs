//! The addresses of this machine: which ones a server can use, and whether those it was given are here.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, UdpSocket};

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The system does not tell its addresses.
    #[error("cannot list this machine's addresses: {0}")]
    NotListed(io::Error),
    /// Not one that clients or peers can send to.
    #[error("{ip} ({option}) is {what}, which nobody can send to; name an address of this machine")]
    NotUnicast {
        /// The address.
        ip: IpAddr,
        /// The option that named it.
        option: &'static str,
        /// What it is instead.
        what: &'static str,
    },
    /// On another machine, or on none.
    #[error("address {ip} ({option}) is not on this machine; it has {}", list(present))]
    NotHere {
        /// The address.
        ip: IpAddr,
        /// The option that named it.
        option: &'static str,
        /// What is here.
        present: Vec<IpAddr>,
    },
    /// Here, but not to be used.
    #[error("cannot use address {ip} ({option}): {cause}")]
    Unusable {
        /// The address.
        ip: IpAddr,
        /// The option that named it.
        option: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}

/// All addresses of this machine, loopback and link-local ones too, those of interfaces that are up first.
///
/// # Errors
/// [`AddressError::NotListed`].
pub fn all() -> Result<Vec<IpAddr>, AddressError> {
    Ok(interfaces()?.into_iter().map(|interface| interface.ip()).collect())
}

/// The addresses a server uses when it is told none: of interfaces that are up, without loopback and link-local
/// ones, public before private, IPv4 before IPv6; loopback alone where there is nothing else.
///
/// # Errors
/// [`AddressError::NotListed`].
pub fn usable() -> Result<Vec<IpAddr>, AddressError> {
    let up: Vec<IpAddr> = interfaces()?
        .into_iter()
        .filter(if_addrs::Interface::is_oper_up)
        .map(|interface| interface.ip())
        .collect();
    let mut outside: Vec<IpAddr> = up
        .iter()
        .copied()
        .filter(|ip| not_unicast(*ip).is_none() && !ip.is_loopback() && bind(*ip).is_ok())
        .collect();
    outside.sort_by_key(|ip| (is_private(*ip), ip.is_ipv6()));
    if !outside.is_empty() {
        return Ok(distinct(outside));
    }
    tracing::warn!("no address but loopback: only programs on this machine can reach this server");
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    Ok(loopback.into_iter().filter(|ip| bind(*ip).is_ok()).collect())
}

/// Checks that a server can be reached at `ip`, which `option` named.
///
/// # Errors
/// [`AddressError`] says why not.
pub fn check(ip: IpAddr, option: &'static str) -> Result<(), AddressError> {
    if let Some(what) = not_unicast(ip) {
        return Err(AddressError::NotUnicast { ip, option, what });
    }
    bind(ip).or_else(|cause| match cause.kind() {
        io::ErrorKind::AddrNotAvailable => Err(AddressError::NotHere { ip, option, present: usable()? }),
        _ => Err(AddressError::Unusable { ip, option, cause }),
    })
}

/// The same addresses without repetitions, in the same order.
#[must_use]
pub fn distinct(ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    ips.into_iter().filter(|ip| seen.insert(*ip)).collect()
}

fn interfaces() -> Result<Vec<if_addrs::Interface>, AddressError> {
    if_addrs::get_if_addrs().map_err(AddressError::NotListed)
}

/// An address of this machine can be bound; the port that is taken is free again at once.
fn bind(ip: IpAddr) -> io::Result<()> {
    UdpSocket::bind((ip, 0)).map(drop)
}

/// What an address is when it cannot be an endpoint.
fn not_unicast(ip: IpAddr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some("the wildcard address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 form"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

fn list(ips: &[IpAddr]) -> String {
    ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_addresses_can_be_bound_and_are_not_mixed_with_loopback() {
        let usable = usable().unwrap();
        assert!(!usable.is_empty());
        let loopback = usable.iter().filter(|ip| ip.is_loopback()).count();
        assert!(loopback == 0 || loopback == usable.len(), "{usable:?}");
        for ip in usable {
            assert!(check(ip, "--address").is_ok(), "{ip}");
            assert!(all().unwrap().contains(&ip), "{ip}");
        }
    }

    #[test]
    fn an_address_that_is_not_here_is_refused_in_one_line() {
        let error = check("192.0.2.77".parse().unwrap(), "--address").unwrap_err().to_string();
        assert!(
            error.starts_with("address 192.0.2.77 (--address) is not on this machine; it has "),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "169.254.1.1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            let outcome = check(text.parse().unwrap(), "--relay-address");
            assert!(matches!(outcome, Err(AddressError::NotUnicast { .. })), "{text}");
        }
    }

    #[test]
    fn repetitions_go_and_the_order_stays() {
        let ips: Vec<IpAddr> =
            ["192.0.2.2", "192.0.2.1", "192.0.2.2"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(distinct(ips.clone()), ips[..2]);
    }
}
