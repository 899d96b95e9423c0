//! The types of option values: each is parsed once, from the command line or the file, into what it means.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use trunkline_turn::credentials::Secret;
use trunkline_wire::NodeId;

/// A shared secret; not empty.
#[derive(Clone)]
pub struct SharedSecret(pub Secret);

impl FromStr for SharedSecret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            Err("an empty secret protects nothing")
        } else {
            Ok(Self(Secret::new(text.to_owned())))
        }
    }
}

/// `NAME:PASSWORD`.
#[derive(Clone)]
pub struct StaticUser {
    /// Up to the first colon.
    pub name: String,
    /// Behind it.
    pub password: Secret,
}

impl FromStr for StaticUser {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None => Err("expected NAME:PASSWORD, with a colon between the two"),
            Some(("", _)) => Err("the name before the colon is empty"),
            Some((_, "")) => Err("the password behind the colon is empty"),
            Some((name, _)) if name.len() > USERNAME_BYTES_MAX => {
                Err("the name is longer than 508 bytes (RFC 8489)")
            }
            Some((name, password)) => {
                Ok(Self { name: name.to_owned(), password: Secret::new(password.to_owned()) })
            }
        }
    }
}

/// A range of addresses, `10.0.0.0/8`; an address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRange(pub IpNet);

impl FromStr for PeerRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(ip)));
        }
        let wrong = || format!("{text:?} is not a range of addresses such as 10.0.0.0/8 or fd00::/8");
        let net: IpNet = text.parse().map_err(|_| wrong())?;
        if net.trunc() == net {
            return Ok(Self(net));
        }
        Err(format!("{text:?} has bits behind its prefix; did you mean {}?", net.trunc()))
    }
}

/// `site.server`, such as `1.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeName(pub NodeId);

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts =
            text.split_once('.').and_then(|(site, server)| Some((site.parse().ok()?, server.parse().ok()?)));
        let Some((site, server)) = parts else {
            return Err(format!(
                "{text:?} is not a node's name: SITE.SERVER, each 0 to 65535, such as \"1.2\""
            ));
        };
        Ok(Self(NodeId { site, server }))
    }
}

/// 16 secret bytes as 32 hexadecimal digits.
#[derive(Clone)]
pub struct FleetSecret(pub [u8; 16]);

impl FromStr for FleetSecret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = (text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten();
        number.map(|number| Self(number.to_be_bytes())).ok_or("expected 32 hexadecimal digits")
    }
}

/// A replica's address, `https://ADDR:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane(pub String);

impl FromStr for ControlPlane {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim_end_matches('/');
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
        let authority = text.strip_prefix("https://").and_then(|rest| rest.rsplit_once(':'));
        if authority.is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && is_port(port)) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("{text:?} is not a replica such as https://10.0.0.5:7443"))
    }
}

/// Servers that share relay addresses, told by a file instead of a control plane.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Fleet {
    /// This server.
    pub node: NodeName,
    /// Where other servers send packets that landed on them and are ours.
    pub encapsulation_address: SocketAddr,
    /// Seals tokens and the packets between servers; the same on every server.
    pub key: FleetSecret,
    /// The other servers.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Which server owns which ports of which relay address.
    #[serde(default)]
    pub slices: Vec<SliceLease>,
}

/// Another server of the fleet.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Member {
    /// Its name.
    pub node: NodeName,
    /// Where it takes packets that are its own.
    pub encapsulation_address: SocketAddr,
}

/// Whole slices of a relay address, leased to one server.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SliceLease {
    /// The relay address.
    pub address: IpAddr,
    /// First port of the first slice.
    pub first_port: u16,
    /// Last port of the last slice.
    pub last_port: u16,
    /// The owner.
    pub node: NodeName,
}

macro_rules! deserialize_by_parsing {
    ($($type:ty),+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

deserialize_by_parsing!(ControlPlane, SharedSecret, StaticUser, PeerRange, NodeName, FleetSecret);

/// USERNAME is below 509 bytes (RFC 8489 §14.3).
const USERNAME_BYTES_MAX: usize = 508;
