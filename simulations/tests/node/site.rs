//! The little network of every trial, and the server in it.
//!
//! ```text
//! machine 10.60.0.1, fd60::1 ──────── 10.60.0.2, fd60::2   outside: clients and peers
//!         11.0.0.1, 2600:11::1 ────── 11.0.0.2, 2600:11::2   (public addresses: peers that the policy permits)
//! ```
//! A trial's own thread lives outside: whatever socket it opens is a client's or a peer's.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde_json::Value;
use trunkline_simulations::netns::{Namespace, Veth};
use trunkline_simulations::process::Running;
use trunkline_simulations::server::{ScratchDirectory, binary};
use trunkline_simulations::turn_client::message::attribute;
use trunkline_simulations::turn_client::{Allocated, Credentials, Received, TurnClient};

use crate::tls;

pub type Check = anyhow::Result<()>;

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Udp,
    Tcp,
    Tls,
}

/// A running `trunkline up`.
pub struct Node {
    pub running: Running,
    pub quickstart: Value,
}

/// A server, and the network around it.
pub struct Site {
    pub node: Node,
    pub outside: Arc<Namespace>,
    pub machine: Namespace,
    _data: ScratchDirectory,
}

/// `trunkline up` on a data directory, not started yet.
pub fn up(space: &Namespace, program: &Path, data: &Path) -> Command {
    let mut command = space.command(program);
    command.arg("up").arg("--data-dir").arg(data);
    command
}

impl Node {
    /// Starts a server and waits until it serves. Its data directory is `data`.
    pub fn start(mut command: Command, data: &Path) -> anyhow::Result<Self> {
        let running = Running::start("trunkline up", &mut command)?;
        running.wait_for_line("ready", READY).map_err(anyhow::Error::msg)?;
        let quickstart = serde_json::from_str(&std::fs::read_to_string(data.join("quickstart.json"))?)?;
        Ok(Self { running, quickstart })
    }

    /// The text at a JSON pointer of quickstart.json.
    pub fn text(&self, pointer: &str) -> anyhow::Result<&str> {
        self.quickstart.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer}"))
    }

    /// The most of [`Node::anonymous_kib`] in 6 quiet seconds: its own housekeeping comes and goes.
    pub fn quiet_kib(&self) -> anyhow::Result<u64> {
        let mut most = 0;
        for _ in 0..30 {
            std::thread::sleep(Duration::from_millis(200));
            most = most.max(self.anonymous_kib()?);
        }
        Ok(most)
    }

    /// Memory of the process in KiB that no file backs: its heap and stacks. VmRSS of `status` is off by as much as a few
    /// hundred KiB, and grows with each page of the program that is run for the first time.
    pub fn anonymous_kib(&self) -> anyhow::Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.running.pid()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).context("no Anonymous")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

/// Builds a site, runs `test` in its outside, and adds the server's log to the reason when the test fails.
pub fn on_site(arguments: &[&str], test: impl FnOnce(&mut Site) -> Check + Send) -> Result<(), String> {
    on_site_with(|_, _| Ok(()), arguments, test)
}

/// The same, where `prepare` adds to the network (machine, outside) before the server starts.
pub fn on_site_with(
    prepare: impl FnOnce(&Namespace, &Namespace) -> std::io::Result<()>,
    arguments: &[&str],
    test: impl FnOnce(&mut Site) -> Check + Send,
) -> Result<(), String> {
    let mut site = Site::new(prepare, arguments).map_err(|fault| format!("{fault:#}"))?;
    let outside = Arc::clone(&site.outside);
    let outcome = outside.enter(|| test(&mut site)).map_err(|error| error.to_string())?;
    outcome.map_err(|fault| format!("{fault:#}\n{}", site.node.running.log()))
}

/// The two namespaces and their link.
pub fn network() -> std::io::Result<(Namespace, Namespace)> {
    let (machine, outside) = (Namespace::new("machine")?, Namespace::new("outside")?);
    let link = Veth::connect(&machine, "10.60.0.1/24", &outside, "10.60.0.2/24")?;
    link.add_addresses("fd60::1/64", "fd60::2/64")?;
    link.add_addresses("11.0.0.1/24", "11.0.0.2/24")?;
    link.add_addresses("2600:11::1/64", "2600:11::2/64")?;
    Ok((machine, outside))
}

impl Site {
    fn new(
        prepare: impl FnOnce(&Namespace, &Namespace) -> std::io::Result<()>,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let (machine, outside) = network()?;
        prepare(&machine, &outside)?;
        let data = ScratchDirectory::new().map_err(anyhow::Error::msg)?;
        let mut command = up(&machine, &program()?, data.path());
        command.args(USUAL).args(arguments);
        let node = Node::start(command, data.path())?;
        Ok(Self { node, outside: Arc::new(outside), machine, _data: data })
    }

    /// A client with the static user's credentials.
    pub fn client(&self, carrier: Carrier) -> anyhow::Result<TurnClient> {
        self.client_as(carrier, alice())
    }

    pub fn client_as(&self, carrier: Carrier, credentials: Credentials) -> anyhow::Result<TurnClient> {
        Ok(match carrier {
            Carrier::Udp => TurnClient::udp((CLIENT, 0).into(), TURN, credentials)?,
            Carrier::Tcp => TurnClient::tcp(TURN, credentials)?,
            Carrier::Tls => TurnClient::tcp(tls::bridge(TURN_TLS)?, credentials)?,
        })
    }

    /// A client with an allocation of the given family.
    pub fn allocated(&self, carrier: Carrier, family: Family) -> anyhow::Result<(TurnClient, Allocated)> {
        let mut client = self.client(carrier)?;
        let allocated = client.allocate_with(|request| {
            request.attribute(attribute::REQUESTED_ADDRESS_FAMILY, &[family.number(), 0, 0, 0])
        })?;
        Ok((client, allocated))
    }

    /// A request to the HTTP API: status and body.
    pub fn http(&self, method: &str, path: &str, bearer: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = agent.timeout_global(Some(HTTP_TIMEOUT)).build().new_agent();
        let request = ureq::http::Request::builder().method(method).uri(format!("http://{HTTP}{path}"));
        let request = request.header("Authorization", format!("Bearer {bearer}"));
        let request = request.header("Content-Type", "application/json");
        let mut response = agent.run(request.body(body.to_string())?)?;
        let text = response.body_mut().read_to_string()?;
        Ok((response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Live allocations as `GET /v1/allocations` lists them.
    pub fn allocations(&self) -> anyhow::Result<Vec<Value>> {
        let token = self.node.text("/adminToken")?;
        let (status, answer) = self.http("GET", "/v1/allocations", token, &Value::Null)?;
        ensure!(status == 200, "GET /v1/allocations answered {status} {answer}");
        answer["allocations"].as_array().cloned().context("no list")
    }

    /// The sum of all metrics whose line starts so. Up to a tenth of a second old.
    pub fn metric(&self, line_start: &str) -> anyhow::Result<u64> {
        let (_, text) = self.http("GET", "/metrics", "", &Value::Null)?;
        let lines = text.as_str().context("metrics are text")?.lines();
        let values = lines.filter(|line| line.starts_with(line_start));
        let sum: f64 = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        Ok(sum as u64)
    }

    /// Packets that were dropped so far, whatever the reason.
    pub fn drops(&self) -> anyhow::Result<u64> {
        self.metric("trunkline_turn_dropped_packets_total{")
    }

    /// Waits until a metric has reached `least`.
    pub fn wait_for_metric(&self, line_start: &str, least: u64) -> Check {
        let deadline = Instant::now() + METRIC_PATIENCE;
        loop {
            let value = self.metric(line_start)?;
            if value >= least {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{line_start} is {value}, not {least}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    /// A peer's socket at a permitted address of this family.
    pub fn peer(self) -> anyhow::Result<(UdpSocket, SocketAddr)> {
        let ip = match self {
            Self::V4 => PEER_V4,
            Self::V6 => PEER_V6,
        };
        let socket = UdpSocket::bind((ip, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    }
}

pub fn alice() -> Credentials {
    Credentials::new("alice", "secret")
}

/// The binary under test.
pub fn program() -> anyhow::Result<std::path::PathBuf> {
    binary().map_err(anyhow::Error::msg)
}

/// Sends one payload each way between a client with an allocation and a peer outside.
pub fn relays_both_ways(client: &mut TurnClient, relayed: SocketAddr) -> Check {
    let (peer, address) = Family::V4.peer()?;
    client.create_permission(&[address.ip()])?;
    client.send_indication(address, b"to the peer")?;
    expect_datagram(&peer, relayed, b"to the peer")?;
    peer.send_to(b"to the client", relayed)?;
    expect_data(client, address, b"to the client")
}

/// Waits for one datagram.
pub fn expect_datagram(socket: &UdpSocket, from: SocketAddr, expected: &[u8]) -> Check {
    let mut buffer = [0; 2_000];
    let (length, sender) = socket.recv_from(&mut buffer).context("nothing arrived at the peer")?;
    ensure!((sender, &buffer[..length]) == (from, expected), "{length} other bytes came from {sender}");
    Ok(())
}

/// Waits for data of a peer at a client.
pub fn expect_data(client: &mut TurnClient, from: SocketAddr, expected: &[u8]) -> Check {
    match client.receive(PATIENCE)? {
        Received::Data { peer, data } if peer == from && data == expected => Ok(()),
        other => Err(anyhow!("expected {} bytes from {from}, got {other:?}", expected.len())),
    }
}

/// Checks that a request was refused with `code`.
pub fn expect_refusal<T: std::fmt::Debug>(
    outcome: Result<T, trunkline_simulations::turn_client::ClientError>,
    code: u16,
) -> Check {
    match outcome {
        Err(error) if error.code() == Some(code) => Ok(()),
        other => Err(anyhow!("expected {code}, got {other:?}")),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d))
}

pub const SERVER: IpAddr = v4(10, 60, 0, 1);
pub const CLIENT: IpAddr = v4(10, 60, 0, 2);
pub const PEER_V4: IpAddr = v4(11, 0, 0, 2);
pub const PEER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2600, 0x11, 0, 0, 0, 0, 0, 2));
pub const TURN: SocketAddr = SocketAddr::new(SERVER, 3478);
pub const TURN_TLS: SocketAddr = SocketAddr::new(SERVER, 5349);
const HTTP: &str = "10.60.0.1:8080";
pub const USUAL: [&str; 10] = [
    "--address",
    "10.60.0.1",
    "--address",
    "fd60::1",
    "--http",
    HTTP,
    "--user",
    "alice:secret",
    "--log",
    "warn",
];
/// For what must come.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// For what must not come.
pub const SILENCE: Duration = Duration::from_millis(400);
const READY: Duration = Duration::from_secs(15);
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
const METRIC_PATIENCE: Duration = Duration::from_secs(3);
