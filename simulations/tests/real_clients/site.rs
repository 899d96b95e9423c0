//! The little network of every trial: a client and a peer, each on a link of its own to the server.
//!
//! ```text
//! client 10.60.0.2  ────  10.60.0.1 server 10.61.0.1  ────  10.61.0.2 peer
//!        fd60::2          fd60::1          fd61::1          fd61::2
//! ```
//! The server does not forward packets, so what the client and the peer exchange has been relayed.

use std::time::Duration;

use trunkline_simulations::netns::{Namespace, Veth};
use trunkline_simulations::process::Running;
use trunkline_simulations::server::Trunkline;

/// A way to start the server: by its binary or by `deploy/up`.
type Start = fn(&Namespace, &[&str]) -> Result<Trunkline, String>;

/// Server, client and peer of one trial.
pub struct Site {
    pub server: Trunkline,
    pub client: Namespace,
    pub peer: Namespace,
    _server_namespace: Namespace,
}

impl Site {
    /// Builds the network and starts the server in it; `arguments` come after the usual ones.
    pub fn new(start: Start, arguments: &[&str]) -> Result<Self, String> {
        let (server_namespace, client, peer) = build_network().map_err(|error| error.to_string())?;
        let mut all =
            vec!["--address", SERVER_V4, "--address", SERVER_V6, "--http", HTTP, "--user", "alice:secret"];
        all.extend_from_slice(arguments);
        let server = start(&server_namespace, &all)?;
        Ok(Self { server, client, peer, _server_namespace: server_namespace })
    }

    /// Runs a client program to its end; returns its exit code and its process, whose log tells the rest.
    pub fn run_client(
        &self,
        label: &str,
        program: &str,
        arguments: &[&str],
    ) -> Result<(i32, Running), String> {
        let mut command = self.client.command(program);
        command.args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut running = Running::start(label, &mut command).map_err(|error| error.to_string())?;
        let status = running.wait_for_exit(CLIENT_TIMEOUT)?;
        let code = status.code().ok_or_else(|| format!("{label} was killed\n{}", running.log()))?;
        Ok((code, running))
    }
}

/// Builds a site, runs `test` on it, and adds the server's log to the reason when the test fails.
pub fn on_site(arguments: &[&str], test: impl FnOnce(&Site) -> Result<(), String>) -> Result<(), String> {
    check(Site::new(Trunkline::start, arguments)?, test)
}

/// The same, with a server that was started by `deploy/up`.
pub fn on_site_of_deploy_up(test: impl FnOnce(&Site) -> Result<(), String>) -> Result<(), String> {
    check(Site::new(Trunkline::start_by_deploy_up, &[])?, test)
}

fn check(site: Site, test: impl FnOnce(&Site) -> Result<(), String>) -> Result<(), String> {
    test(&site).map_err(|fault| format!("{fault}\n{}", site.server.log()))
}

fn build_network() -> std::io::Result<(Namespace, Namespace, Namespace)> {
    let (server, client, peer) =
        (Namespace::new("server")?, Namespace::new("client")?, Namespace::new("peer")?);
    let link = Veth::connect(&server, "10.60.0.1/24", &client, "10.60.0.2/24")?;
    link.add_addresses("fd60::1/64", "fd60::2/64")?;
    let link = Veth::connect(&server, "10.61.0.1/24", &peer, "10.61.0.2/24")?;
    link.add_addresses("fd61::1/64", "fd61::2/64")?;
    for gateway in ["10.60.0.1", "fd60::1"] {
        client.default_route(parse(gateway)?)?;
    }
    for gateway in ["10.61.0.1", "fd61::1"] {
        peer.default_route(parse(gateway)?)?;
    }
    Ok((server, client, peer))
}

fn parse(address: &str) -> std::io::Result<std::net::IpAddr> {
    address.parse().map_err(std::io::Error::other)
}

pub const SERVER_V4: &str = "10.60.0.1";
pub const SERVER_V6: &str = "fd60::1";
pub const PEER_V4: &str = "10.61.0.2";
pub const PEER_V6: &str = "fd61::2";
/// Peers at private addresses are refused unless they are allowed by name.
pub const ALLOW_PEERS: [&str; 4] = ["--allow-peer", "10.61.0.0/24", "--allow-peer", "fd61::/64"];
const HTTP: &str = "10.60.0.1:8080";
/// The longest client run takes 15 s on an idle machine.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(90);
