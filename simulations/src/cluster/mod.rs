//! A whole cluster as processes: etcd, control-plane replicas, nodes, and the operator's command.
//!
//! ```text
//! machine  10.80.0.1            etcd (loopback), replicas (ports 7443…)        outside: clients, peers, operators
//!          10.80.0.11 … 14      nodes 1.1, 1.2, 2.1, 2.2            ────────── 10.80.0.2
//!          10.80.0.100          relay address that the nodes share             11.0.0.2 (a peer that is permitted)
//! ```
//! Every process is killed when its value is dropped. A trial's own thread lives outside.

mod certificates;
mod ctl;
mod etcd;
mod node;
mod replica;
mod view;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::netns::{Namespace, Veth};
use crate::server::ScratchDirectory;

pub use certificates::Authority;
pub use ctl::{Ctl, Outcome};
pub use etcd::{Etcd, Member};
pub use node::Node;
pub use replica::Replica;
pub use view::View;

/// A cluster of a trial.
pub struct Cluster {
    /// Certificates of everybody.
    pub authority: Authority,
    /// The store.
    pub etcd: Etcd,
    /// The control plane.
    pub replicas: Vec<Replica>,
    /// Servers, in the order of their ids.
    pub nodes: Vec<Node>,
    /// Where the servers run.
    pub machine: Arc<Namespace>,
    /// Where clients and peers are.
    pub outside: Arc<Namespace>,
    scratch: ScratchDirectory,
}

impl Cluster {
    /// etcd members, replicas, and nodes that have joined with a token each.
    pub fn start(members: usize, replicas: usize, nodes: &[&str]) -> Result<Self, String> {
        let scratch = ScratchDirectory::new()?;
        let (machine, outside) = network().map_err(|error| format!("network: {error}"))?;
        let (machine, outside) = (Arc::new(machine), Arc::new(outside));
        let authority = Authority::init(&scratch.path().join("ca"))?;
        let etcd = Etcd::start(Arc::clone(&machine), scratch.path(), members)?;
        let mut cluster =
            Self { authority, etcd, replicas: vec![], nodes: vec![], machine, outside, scratch };
        for number in 0..replicas {
            let replica = cluster.replica(number)?;
            cluster.replicas.push(replica);
        }
        for id in nodes {
            cluster.add_node(id, &[])?;
        }
        Ok(cluster)
    }

    /// Starts a replica, or starts it again.
    pub fn replica(&self, number: usize) -> Result<Replica, String> {
        self.replica_that_logs(number, replica::LOG)
    }

    /// The same with another `--log`.
    pub fn replica_that_logs(&self, number: usize, log: &str) -> Result<Replica, String> {
        let identity = self.path(&format!("r{number}"));
        Replica::start(&self.machine, &self.authority, &identity, number, &self.etcd, log)
    }

    /// Adds a server and lets it join.
    pub fn add_node(&mut self, id: &str, arguments: &[&str]) -> Result<(), String> {
        let token = self.ctl().token(id)?;
        let node = Node::join(
            &self.machine,
            &self.path(&format!("n{id}")),
            id,
            &self.endpoints(),
            &token,
            arguments,
        )?;
        self.nodes.push(node);
        Ok(())
    }

    /// A directory of this cluster.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Every replica's address as nodes and operators are given it.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.replicas.len().max(1)).map(replica::endpoint).collect()
    }

    /// The operator's command, as an admin, from outside.
    pub fn ctl(&self) -> Ctl {
        self.ctl_as("admin")
    }

    /// The operator's command with another role.
    pub fn ctl_as(&self, role: &str) -> Ctl {
        Ctl::new(Arc::clone(&self.outside), self.endpoints(), self.authority.operator(role))
    }

    /// The state as any gRPC client sees it.
    pub fn view(&self) -> Result<View, String> {
        View::connect(&self.endpoints(), &self.authority.operator("viewer"))
    }

    /// The log of every process, for a person who reads why a trial failed.
    pub fn log(&self) -> String {
        let replicas = self.replicas.iter().map(|replica| replica.running.log());
        let nodes = self.nodes.iter().filter_map(|node| node.running.as_ref().map(|running| running.log()));
        replicas.chain(nodes).collect()
    }
}

/// Waits until `holds` says yes, asking every 50 ms, and says how long that took.
pub fn wait_until(
    what: &str,
    patience: Duration,
    mut holds: impl FnMut() -> Result<bool, String>,
) -> Result<Duration, String> {
    let since = Instant::now();
    loop {
        let answer = holds();
        if matches!(answer, Ok(true)) {
            return Ok(since.elapsed());
        }
        if since.elapsed() > patience {
            let fault = answer.err().map_or_else(String::new, |fault| format!(": {fault}"));
            return Err(format!("not within {patience:?}: {what}{fault}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn network() -> io::Result<(Namespace, Namespace)> {
    let (machine, outside) = (Namespace::new("cluster")?, Namespace::new("outside")?);
    let link = Veth::connect(&machine, "10.80.0.1/24", &outside, "10.80.0.2/24")?;
    link.add_addresses("11.0.0.1/24", "11.0.0.2/24")?;
    for address in [11, 12, 13, 14, 15, 16, 100] {
        machine.add_address(&link.a.1, &format!("10.80.0.{address}/24"))?;
    }
    Ok((machine, outside))
}

/// Relay address that all servers share by slices.
pub const SHARED_RELAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 80, 0, 100));
/// A client.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 80, 0, 2));
/// A peer that the policy permits.
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(11, 0, 0, 2));
