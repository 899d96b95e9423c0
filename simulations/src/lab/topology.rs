//! The topology file: what a lab consists of. `simulations/README.md` teaches it, `topologies/` holds examples.
//!
//! Everything but a name, one site and its servers has a default. What is written here is only read and checked;
//! [`super::plan`] makes machines, cables and addresses of it.

mod checks;

pub use checks::lab_name as check_lab_name;

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A lab as its file describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The lab's name, unless `lab up` is given another one.
    pub name: String,
    /// What the wires' and NATs' random decisions derive from.
    #[serde(default = "one")]
    pub seed: u64,
    /// The addresses that every server announces.
    #[serde(default)]
    pub anycast: Anycast,
    /// How fast routers notice a dead neighbour.
    #[serde(default)]
    pub bfd: Bfd,
    /// Routers of the internet between sites and clients. Without any, there is one with the name `internet`.
    #[serde(default)]
    pub routers: Vec<Router>,
    /// Links between routers of the internet.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Datacenters.
    pub sites: Vec<Site>,
    /// Machines of users.
    #[serde(default)]
    pub clients: Vec<Host>,
    /// Machines that clients talk to through a relay.
    #[serde(default)]
    pub peers: Vec<Host>,
}

/// Addresses that every server of every site announces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Anycast {
    /// Clients talk to these.
    pub service: Vec<IpAddr>,
    /// Peers talk to these.
    pub relay: Vec<IpAddr>,
}

/// Bidirectional forwarding detection (RFC 5880) between neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bfd {
    /// Time between two packets.
    pub interval_ms: u32,
    /// So many packets missing mean that the neighbour is dead.
    pub multiplier: u32,
}

/// A router of the internet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Its name.
    pub name: String,
}

/// A link between two routers of the internet. The fields behind `between` are those of [`Quality`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The routers' names.
    pub between: [String; 2],
    /// See [`Quality::cost`].
    pub cost: Option<u32>,
    /// See [`Quality::delay_ms`].
    pub delay_ms: Option<f64>,
    /// See [`Quality::jitter_ms`].
    pub jitter_ms: Option<f64>,
    /// See [`Quality::loss`].
    pub loss: Option<f64>,
    /// See [`Quality::rate_mbit`].
    pub rate_mbit: Option<f64>,
}

/// What a link does to packets. A link with any of delay, jitter, loss or rate is carried by a user-space wire; others
/// are plain veth pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quality {
    /// What crossing the link counts for when routers choose the nearest site. Without it: a hundred for each
    /// millisecond of delay, and at least 1.
    pub cost: Option<u32>,
    /// Time from one end to the other.
    pub delay_ms: Option<f64>,
    /// Each packet takes up to so much longer.
    pub jitter_ms: Option<f64>,
    /// Share of packets that get lost, 0 to 1.
    pub loss: Option<f64>,
    /// Bits per second in each direction.
    pub rate_mbit: Option<f64>,
}

/// A datacenter: a router and the servers behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name, which is its router's as well.
    pub name: String,
    /// The first half of its servers' ids. Without it: its place in the file, from 1.
    pub number: Option<u16>,
    /// How many servers there are, or a list of them.
    pub servers: Servers,
    /// The router of the internet that it is connected to. Without it: the first one.
    pub at: Option<String>,
    /// The way there.
    #[serde(default)]
    pub link: Quality,
}

/// The servers of a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of servers, or a list such as [{ weight = 2.0 }, {}]")]
pub enum Servers {
    /// So many alike.
    Count(u16),
    /// Each by itself.
    List(Vec<Server>),
}

/// A server. It is called SITE-NUMBER, its number being its place in the list, from 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Its share of the site's flows, compared with its neighbours'.
    pub weight: f64,
    /// Whether a stand-in announces the anycast addresses from the start. A node does that by itself.
    pub announce: bool,
}

/// A client or a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The router of the internet that it is connected to. Without it: the first one.
    pub at: Option<String>,
    /// The NAT that it is behind; `nat = {}` is one that maps and filters as RFC 4787 asks.
    pub nat: Option<Nat>,
    /// The way to the router.
    #[serde(default)]
    pub link: Quality,
}

/// A NAT between a client and its router, in the words of RFC 4787.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nat {
    /// When an inside socket keeps its outside port.
    pub mapping: Dependence,
    /// Who may answer.
    pub filtering: Dependence,
}

/// What a NAT's decision depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dependence {
    /// The inside socket only.
    #[default]
    EndpointIndependent,
    /// The other side's address as well.
    AddressDependent,
    /// The other side's address and port as well.
    AddressAndPortDependent,
}

impl Topology {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|fault| format!("{}: {fault}", path.display()))
    }

    /// Understands a file's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let topology: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        checks::check(&topology)?;
        Ok(topology)
    }

    /// The routers of the internet by name, the implied one among them.
    pub fn router_names(&self) -> Vec<&str> {
        if self.routers.is_empty() {
            return vec![IMPLIED_ROUTER];
        }
        self.routers.iter().map(|router| router.name.as_str()).collect()
    }

    /// The router that something is connected to.
    pub fn router_of<'a>(&'a self, at: Option<&'a str>) -> &'a str {
        at.unwrap_or_else(|| self.router_names().first().copied().unwrap_or(IMPLIED_ROUTER))
    }
}

impl Site {
    /// Its servers one by one.
    pub fn server_list(&self) -> Vec<Server> {
        match &self.servers {
            Servers::Count(count) => vec![Server::default(); usize::from(*count)],
            Servers::List(list) => list.clone(),
        }
    }
}

impl Link {
    /// What the link does to packets.
    pub fn quality(&self) -> Quality {
        Quality {
            cost: self.cost,
            delay_ms: self.delay_ms,
            jitter_ms: self.jitter_ms,
            loss: self.loss,
            rate_mbit: self.rate_mbit,
        }
    }
}

impl Quality {
    /// Whether a user-space wire has to carry the link.
    pub fn needs_wire(&self) -> bool {
        [self.delay_ms, self.jitter_ms, self.loss, self.rate_mbit].iter().any(Option::is_some)
    }

    /// What crossing the link counts for.
    pub fn route_cost(&self) -> u32 {
        let of_delay = self.delay_ms.map_or(0.0, |delay| delay * COST_PER_MS).round() as u32;
        self.cost.unwrap_or(of_delay).max(1)
    }
}

impl Dependence {
    /// As the file and the NAT's options spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

impl Anycast {
    /// All of them: service addresses first.
    pub fn all(&self) -> Vec<IpAddr> {
        self.service.iter().chain(&self.relay).copied().collect()
    }
}

impl Default for Anycast {
    fn default() -> Self {
        let addresses = |last: u16| {
            vec![
                IpAddr::from([198, 18, 0, last as u8]),
                IpAddr::from([0x2001, 0xdb8, 0x18, 0, 0, 0, 0, last]),
            ]
        };
        Self { service: addresses(1), relay: addresses(2) }
    }
}

impl Default for Bfd {
    /// Half a second until a silent neighbour counts as dead: short enough for a test to wait for, long enough for a
    /// machine with other work.
    fn default() -> Self {
        Self { interval_ms: 100, multiplier: 5 }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self { weight: 1.0, announce: true }
    }
}

fn one() -> u64 {
    1
}

const IMPLIED_ROUTER: &str = "internet";
const COST_PER_MS: f64 = 100.0;
