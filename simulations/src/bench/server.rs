//! The servers that are compared, and how each is started: one thread, one user, no logging to speak of.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use super::lab::{Lab, RELAY_IP, SERVER, SERVER_IP};
use crate::process::Running;
use crate::turn_client::{Credentials, TurnClient};

/// One of the compared servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// This project.
    Trunkline,
    /// The reference: every ratio is to it.
    Coturn,
    /// The floor: forwards datagrams and nothing else.
    Forwarder,
}

impl Server {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Self; 3] = [Self::Trunkline, Self::Coturn, Self::Forwarder];

    /// The name on the command line, in the table and in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trunkline => "trunkline",
            Self::Coturn => "coturn",
            Self::Forwarder => "forwarder",
        }
    }

    /// Whether it speaks TURN.
    pub fn speaks_turn(self) -> bool {
        match self {
            Self::Trunkline | Self::Coturn => true,
            Self::Forwarder => false,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which programs to run.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The `trunkline` binary.
    pub trunkline: PathBuf,
    /// Options for it besides those that the comparison needs.
    pub trunkline_options: Vec<String>,
    /// The `turnserver` binary.
    pub coturn: PathBuf,
    /// coturn's `--relay-threads`.
    pub coturn_relay_threads: u32,
}

/// A server that runs and answers. It ends when dropped.
pub struct Started {
    /// Which one.
    pub server: Server,
    process: Running,
    _data: Option<DataDirectory>,
}

impl Started {
    /// Starts a server and waits until it serves.
    pub fn new(server: Server, lab: &Lab, programs: &Programs) -> anyhow::Result<Self> {
        match server {
            Server::Trunkline => Self::trunkline(lab, programs),
            Server::Coturn => Self::coturn(lab, programs),
            Server::Forwarder => Self::forwarder(lab),
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What the server printed, for when something went wrong.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn trunkline(lab: &Lab, programs: &Programs) -> anyhow::Result<Self> {
        let data = DataDirectory::new()?;
        let mut command = lab.server_command(&programs.trunkline);
        command.args(["up", "--threads", "1", "--realm", REALM, "--user", &format!("{USER}:{PASSWORD}")]);
        command.args(["--address", &SERVER_IP.to_string(), "--relay-address", &RELAY_IP.to_string()]);
        command
            .args(["--http", "127.0.0.1:8080", "--allow-peer", "10.0.0.0/8", "--data-dir"])
            .arg(&data.path);
        // All clients of the generator share one address, which this limit would throttle. The others stay as they are.
        command.args(["--unauthenticated-rate", "0"]).args(&programs.trunkline_options);
        let process = Running::start("trunkline", &mut command)?;
        process.wait_for_line("ready", START_TIMEOUT).map_err(anyhow::Error::msg)?;
        let mut started = Self { server: Server::Trunkline, process, _data: Some(data) };
        started.wait_for_answer(lab)?;
        Ok(started)
    }

    fn coturn(lab: &Lab, programs: &Programs) -> anyhow::Result<Self> {
        let mut command = lab.server_command(&programs.coturn);
        // No configuration file, no database, no listeners but UDP, no log: only what the comparison needs.
        command.args(["-n", "--lt-cred-mech", "--realm", REALM, "--user", &format!("{USER}:{PASSWORD}")]);
        command.args(["--listening-ip", &SERVER_IP.to_string(), "--relay-ip", &RELAY_IP.to_string()]);
        command.args(["--relay-threads", &programs.coturn_relay_threads.to_string()]);
        command.args(["--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "--no-rfc5780", "--no-tcp-relay"]);
        command.args(["--log-file", "/dev/null", "--simple-log", "--pidfile", "/dev/null"]);
        command.args(["--no-dynamic-ip-list", "--no-dynamic-realms", "--userdb", ":memory:"]);
        let process = Running::start("coturn", &mut command)?;
        let mut started = Self { server: Server::Coturn, process, _data: None };
        started.wait_for_answer(lab)?;
        Ok(started)
    }

    fn forwarder(lab: &Lab) -> anyhow::Result<Self> {
        let mut command = lab.server_command(std::env::current_exe()?);
        command.args(["forward", "--address", &SERVER.to_string(), "--relay-address", &RELAY_IP.to_string()]);
        let process = Running::start("forwarder", &mut command)?;
        process.wait_for_line("ready", START_TIMEOUT).map_err(anyhow::Error::msg)?;
        Ok(Self { server: Server::Forwarder, process, _data: None })
    }

    /// A server has started when it answers a Binding request; until then the kernel refuses for it.
    fn wait_for_answer(&mut self, lab: &Lab) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let answer = lab.on_client(|| {
                let mut client = TurnClient::udp("0.0.0.0:0".parse()?, SERVER.into(), credentials())?;
                Ok::<_, anyhow::Error>(client.binding()?)
            })?;
            let Err(error) = answer else { return Ok(()) };
            if let Some(status) = self.process.status_now()? {
                bail!("{} ended at its start ({status})\n{}", self.server, self.log());
            }
            if Instant::now() > deadline {
                return Err(error)
                    .with_context(|| format!("{} does not answer\n{}", self.server, self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The one user of all servers.
pub fn credentials() -> Credentials {
    Credentials::new(USER, PASSWORD)
}

/// A directory of its own for one start of a server; removed when dropped.
struct DataDirectory {
    path: PathBuf,
}

impl DataDirectory {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("trunkline-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("{} was not removed: {error}", self.path.display());
        }
    }
}

/// User name on every server.
pub const USER: &str = "bench";
/// Its password.
pub const PASSWORD: &str = "bench";
/// The realm on every server.
pub const REALM: &str = "bench";
const START_TIMEOUT: Duration = Duration::from_secs(10);
