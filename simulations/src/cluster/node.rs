//! A server's process: `trunkline node`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CLIENT, SHARED_RELAY};
use crate::netns::Namespace;
use crate::process::Running;
use crate::server::program;
use crate::turn_client::{Credentials, TurnClient};

/// A server of a cluster.
pub struct Node {
    /// Its process; `None` while it is stopped.
    pub running: Option<Running>,
    /// "1.2".
    pub id: String,
    /// Where clients reach it.
    pub turn: SocketAddr,
    /// Its HTTP API.
    pub http: SocketAddr,
    data: PathBuf,
    arguments: Vec<String>,
}

impl Node {
    /// Starts a server that joins with a token, and waits until it serves.
    pub fn join(
        space: &Namespace,
        data: &Path,
        id: &str,
        endpoints: &[String],
        token: &str,
        extra: &[&str],
    ) -> Result<Self, String> {
        let mut node = Self::new(data, id, endpoints, extra)?;
        node.start_with(space, &["--join", token])?;
        Ok(node)
    }

    /// Starts a server that joins with a token and need not become ready.
    pub fn launch(
        space: &Namespace,
        data: &Path,
        id: &str,
        endpoints: &[String],
        token: &str,
        extra: &[&str],
    ) -> Result<Running, String> {
        Self::new(data, id, endpoints, extra)?.run(space, &["--join", token])
    }

    fn new(data: &Path, id: &str, endpoints: &[String], extra: &[&str]) -> Result<Self, String> {
        let (site, server) = id.split_once('.').ok_or("odd id")?;
        let number = 10 + (site.parse::<u8>().unwrap_or(1) - 1) * 2 + server.parse::<u8>().unwrap_or(0);
        let ip = format!("10.80.0.{number}");
        let address =
            |port: u16| format!("{ip}:{port}").parse::<SocketAddr>().map_err(|error| error.to_string());
        let (turn, http) = (address(3478)?, address(8080)?);
        let mut arguments: Vec<String> = vec![];
        for endpoint in endpoints {
            arguments.extend(["--control-plane".into(), endpoint.clone()]);
        }
        if !extra.contains(&"--encapsulation-address") {
            arguments.extend(["--encapsulation-address".into(), format!("{ip}:6080")]);
        }
        arguments.extend(["--address".into(), ip, "--http".into(), http.to_string()]);
        if !extra.contains(&"--relay-address") {
            arguments.extend(["--shared-relay-address".into(), SHARED_RELAY.to_string()]);
        }
        if !extra.contains(&"--log") {
            arguments.extend(["--log".into(), LOG.into()]);
        }
        arguments.extend(USUAL.iter().chain(extra).map(|text| (*text).to_owned()));
        Ok(Self { running: None, id: id.to_owned(), turn, http, data: data.to_owned(), arguments })
    }

    /// Starts the process again, on what it kept.
    pub fn start(&mut self, space: &Namespace) -> Result<(), String> {
        self.start_with(space, &[])
    }

    fn start_with(&mut self, space: &Namespace, arguments: &[&str]) -> Result<(), String> {
        let running = self.run(space, arguments)?;
        running.wait_for_line("ready", READY)?;
        self.running = Some(running);
        Ok(())
    }

    fn run(&self, space: &Namespace, arguments: &[&str]) -> Result<Running, String> {
        // All servers of a trial run on one machine: a raw socket of one would see the packets of all.
        let mut command = space.command("setpriv");
        command.args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"]).arg(program("trunkline")?);
        command.arg("node").arg("--data-dir").arg(&self.data).args(&self.arguments).args(arguments);
        Running::start(&self.id, &mut command).map_err(|error| error.to_string())
    }

    /// Kills the process (SIGKILL).
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Its process.
    pub fn process(&mut self) -> Result<&mut Running, String> {
        self.running.as_mut().ok_or_else(|| format!("node {} does not run", self.id))
    }

    /// A client of this server with the static user's credentials; call it outside.
    pub fn client(&self) -> Result<TurnClient, String> {
        self.client_as(Credentials::new("alice", "static-canary-password"))
    }

    /// A client of this server; call it outside.
    pub fn client_as(&self, credentials: Credentials) -> Result<TurnClient, String> {
        TurnClient::udp((CLIENT, 0).into(), self.turn, credentials).map_err(|error| error.to_string())
    }

    /// What `/metrics` says; call it outside.
    pub fn metrics(&self) -> Result<String, String> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(READY)).build().new_agent();
        let response = agent.get(format!("http://{}/metrics", self.http)).call();
        let mut response = response.map_err(|error| error.to_string())?;
        response.body_mut().read_to_string().map_err(|error| error.to_string())
    }
}

const USUAL: [&str; 4] = ["--user", "alice:static-canary-password", "--threads", "1"];
const LOG: &str = "info,trunkline_node=debug";
const READY: Duration = Duration::from_secs(20);
