//! What the trials have in common: a cluster, clients of it, and what must always hold.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use trunkline_proto::fleet::v1::NodeId;
use trunkline_proto::operator::v1::{Node as NodeView, Row, RowShare, Table, node::State};
use trunkline_simulations::cluster::{Cluster, Node, PEER, View, wait_until};
use trunkline_simulations::turn_client::{Received, TurnClient};

pub type Check = Result<(), String>;

/// Four servers in two sites.
pub const FOUR: [&str; 4] = ["1.1", "1.2", "2.1", "2.2"];
/// For what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` outside a cluster, and adds the processes' logs to the reason when it fails.
pub fn on_cluster(
    members: usize,
    replicas: usize,
    nodes: &[&str],
    test: impl FnOnce(&mut Cluster) -> Check + Send,
) -> Check {
    let mut cluster = Cluster::start(members, replicas, nodes)?;
    let outside = Arc::clone(&cluster.outside);
    let outcome = outside.enter(|| test(&mut cluster)).map_err(|error| error.to_string())?;
    outcome.map_err(|fault| format!("{fault}\n{}", tail(&cluster.log())))
}

/// The end of a long log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(400)..].join("\n")
}

/// Turns `false` into an error.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Waits until every server reports and the tables of both sites are settled.
pub fn settled(view: &mut View, nodes: &[&str]) -> Check {
    wait_until("every node is ready, has slices, and no row moves", PATIENCE, || {
        let views = view.nodes()?;
        let ready = views.iter().filter(|node| node.state() == State::Ready && node.slices > 0).count();
        // A slice that the store has is of use once its server knows.
        let newest = view.status()?.epoch;
        let mut calm = views.iter().all(|node| node.epoch == newest);
        for site in sites(nodes) {
            let table = view.table(site)?;
            let near = |share: &RowShare| share.rows.abs_diff(share.quota) <= (share.quota / 100).max(1);
            calm &= !table.shares.is_empty() && table.rows.iter().all(|row| row.next == 0);
            calm &= table.shares.iter().all(near);
        }
        Ok(ready == nodes.len() && calm)
    })
    .map(|_| ())
}

/// The sites of these servers.
pub fn sites(nodes: &[&str]) -> Vec<u32> {
    let mut sites: Vec<u32> = nodes.iter().filter_map(|id| id.split_once('.')?.0.parse().ok()).collect();
    sites.dedup();
    sites
}

/// Rows of each server.
pub fn rows_by_server(table: &Table) -> BTreeMap<u32, u32> {
    let mut rows = BTreeMap::new();
    for row in &table.rows {
        *rows.entry(row.current).or_default() += 1;
    }
    rows
}

/// Rows that another server has in `after` than in `before`.
pub fn moved<'a>(before: &'a Table, after: &'a Table) -> Vec<(&'a Row, &'a Row)> {
    before.rows.iter().zip(&after.rows).filter(|(old, new)| old.current != new.current).collect()
}

/// What a server's node view says.
pub fn node_view(view: &mut View, id: &str) -> Result<NodeView, String> {
    let nodes = view.nodes()?;
    nodes.into_iter().find(|node| name(node.node) == id).ok_or_else(|| format!("there is no node {id}"))
}

/// "1.2".
pub fn name(node: Option<NodeId>) -> String {
    node.map_or_else(String::new, |node| format!("{}.{}", node.site, node.server))
}

/// No slice has two owners, and every owner is a server.
pub fn slices_are_disjoint(view: &mut View) -> Check {
    let slices = view.slices()?;
    let mut seen = BTreeMap::new();
    for slice in slices.into_iter().filter_map(|view| view.slice) {
        let place = (slice.address.clone(), slice.index);
        if let Some(other) = seen.insert(place, name(slice.owner)) {
            return Err(format!(
                "slice {} {} is there twice: {other}, {}",
                slice.address,
                slice.index,
                name(slice.owner)
            ));
        }
    }
    ensure(!seen.is_empty(), || "there are no slices".into())
}

/// A client with an allocation on the shared relay address that reaches a peer and is reached by it.
pub struct Call {
    pub client: TurnClient,
    pub relayed: std::net::SocketAddr,
    peer: UdpSocket,
}

impl Call {
    /// A new allocation of the static user.
    pub fn begin(node: &Node) -> Result<Self, String> {
        Self::of(node.client()?)
    }

    /// A new allocation of this client.
    pub fn of(mut client: TurnClient) -> Result<Self, String> {
        let relayed = client.allocate().map_err(|error| format!("Allocate: {error}"))?.relayed;
        let peer = UdpSocket::bind((PEER, 0)).map_err(|error| error.to_string())?;
        peer.set_read_timeout(Some(Duration::from_secs(1))).map_err(|error| error.to_string())?;
        client.create_permission(&[PEER]).map_err(|error| format!("CreatePermission: {error}"))?;
        Ok(Self { client, relayed, peer })
    }

    /// Ends the allocation, so that its 5-tuple can be used again.
    pub fn end(mut self) -> Check {
        self.client.refresh(0).map(|_| ()).map_err(|error| format!("Refresh: {error}"))
    }

    /// Sends one numbered payload to the peer and one back: whether both arrived.
    pub fn probe(&mut self, number: u32) -> Result<bool, String> {
        let at = self.peer.local_addr().map_err(|error| error.to_string())?;
        let payload = number.to_be_bytes();
        self.client.send_indication(at, &payload).map_err(|error| error.to_string())?;
        let mut buffer = [0; 64];
        match self.peer.recv_from(&mut buffer) {
            Ok((length, from)) if buffer[..length] == payload && from == self.relayed => {}
            _ => return Ok(false),
        }
        self.peer.send_to(&payload, self.relayed).map_err(|error| error.to_string())?;
        let back = self.client.receive(Duration::from_secs(1));
        Ok(matches!(back, Ok(Received::Data { peer, data }) if peer == at && data == payload))
    }
}
