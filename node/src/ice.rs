//! The `iceServers` that an application hands to WebRTC (RFC 7064, RFC 7065).

use std::net::IpAddr;

use serde::Serialize;
use utoipa::ToSchema;

use crate::keys::Minted;

/// Where this server can be reached.
#[derive(Clone, Debug)]
pub struct Reachable {
    /// Addresses that clients talk to.
    pub addresses: Vec<IpAddr>,
    /// UDP and TCP.
    pub turn_port: u16,
    /// TLS.
    pub tls_port: u16,
}

/// One element of `iceServers`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct IceServer {
    /// `stun:`, `turn:` and `turns:` URLs.
    pub urls: Vec<String>,
    /// `expiry:keyId` or `expiry:keyId:customIdentifier`; absent for STUN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password that belongs to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl Reachable {
    /// One element for STUN, one for TURN.
    #[must_use]
    pub fn ice_servers(&self, minted: Minted) -> Vec<IceServer> {
        let stun = IceServer { urls: self.stun_urls(), username: None, credential: None };
        vec![stun, with_credentials(self.turn_urls(), minted)]
    }

    /// STUN and TURN in one element.
    #[must_use]
    pub fn ice_server(&self, minted: Minted) -> IceServer {
        let urls = self.stun_urls().into_iter().chain(self.turn_urls()).collect();
        with_credentials(urls, minted)
    }

    fn stun_urls(&self) -> Vec<String> {
        self.addresses.iter().map(|ip| format!("stun:{}:{}", host(*ip), self.turn_port)).collect()
    }

    /// By transport first: browsers look at few URLs, and all addresses over UDP matter more than TCP to one.
    fn turn_urls(&self) -> Vec<String> {
        let url = |scheme: &'static str, port: u16, transport: &'static str| {
            self.addresses
                .iter()
                .map(move |ip| format!("{scheme}:{}:{port}?transport={transport}", host(*ip)))
        };
        url("turn", self.turn_port, "udp")
            .chain(url("turn", self.turn_port, "tcp"))
            .chain(url("turns", self.tls_port, "tcp"))
            .collect()
    }
}

fn with_credentials(urls: Vec<String>, minted: Minted) -> IceServer {
    IceServer { urls, username: Some(minted.username), credential: Some(minted.password) }
}

fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_every_address_over_every_transport() {
        let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let reachable = Reachable { addresses, turn_port: 3478, tls_port: 5349 };
        let servers = reachable.ice_servers(Minted { username: "u".into(), password: "p".into() });
        let json = serde_json::to_value(&servers).unwrap();
        assert_eq!(
            json,
            serde_json::json!([
                { "urls": ["stun:192.0.2.1:3478", "stun:[2001:db8::1]:3478"] },
                { "urls": [
                    "turn:192.0.2.1:3478?transport=udp", "turn:[2001:db8::1]:3478?transport=udp",
                    "turn:192.0.2.1:3478?transport=tcp", "turn:[2001:db8::1]:3478?transport=tcp",
                    "turns:192.0.2.1:5349?transport=tcp", "turns:[2001:db8::1]:5349?transport=tcp",
                ], "username": "u", "credential": "p" },
            ])
        );
    }
}
