//! Live allocations: asked of the servers themselves, by the replica that holds each one's session.
//!
//! A replica that is asked by another answers for its own sessions alone, so a question never goes in circles.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::Code;
use trunkline_proto::fleet::v1::{Allocation, AllocationFilter};
use trunkline_proto::node::v1::{Answer, question::Question};
use trunkline_proto::operator::v1::{
    CloseAllocationRequest, ListAllocationsRequest, ListAllocationsResponse, MutationResponse,
};
use trunkline_wire::NodeId;

use super::peers::Peers;
use super::{Fault, nodes};
use crate::core::Core;
use crate::event::Happening;
use crate::identity::{Identity, Role};
use crate::mutation::{Call, Retries, Told};
use crate::records::{node_id, node_message};
use crate::state::State;
use crate::store::{Change, Expected, Revision, Store, StoreError, Transaction};

/// Asks every server that may have what the filter wants, all at once.
///
/// # Errors
/// A filter that is not one; more allocations than one answer takes.
pub async fn list(
    core: &Core,
    peers: &Peers,
    caller: &Identity,
    request: ListAllocationsRequest,
) -> Result<ListAllocationsResponse, Fault> {
    let state = core.state();
    let filter = request.filter.unwrap_or_default();
    let mut found = gather(core, peers, caller, &state, filter).await?;
    if found.allocations.len() > ALLOCATIONS_MAX {
        return Err(Fault::Exhausted(format!(
            "filter: {} allocations match, {ALLOCATIONS_MAX} fit one answer; narrow it by user, key_id, address or node",
            found.allocations.len()
        )));
    }
    let place = |node: Option<&trunkline_proto::fleet::v1::NodeId>| node.map(|node| (node.site, node.server));
    found.allocations.sort_by(|a, b| (place(a.node.as_ref()), &a.id).cmp(&(place(b.node.as_ref()), &b.id)));
    found.silent.sort_by_key(|node| place(Some(node)));
    if matches!(caller, Identity::Operator { role: Role::Viewer, .. }) {
        found.allocations.iter_mut().for_each(|allocation| allocation.client.clear());
    }
    Ok(found)
}

async fn gather(
    core: &Core,
    peers: &Peers,
    caller: &Identity,
    state: &State,
    filter: AllocationFilter,
) -> Result<ListAllocationsResponse, Fault> {
    check(&filter)?;
    let only = filter.node.as_ref().map(|node| nodes::known(state, "filter.node", Some(node))).transpose()?;
    let mut by_replica = replicas_of(state, only);
    let ours = by_replica.remove(core.name()).unwrap_or_default();
    let mut answers = JoinSet::new();
    for node in ours {
        let (core, filter) = (core.clone(), filter.clone());
        answers.spawn(async move {
            match ask(&core, node, Question::ListAllocations(filter)).await {
                Some(answer) => {
                    ListAllocationsResponse { allocations: owned(node, answer), silent: Vec::new() }
                }
                None => silent([node]),
            }
        });
    }
    // Another replica asks about our sessions alone.
    let others = if matches!(caller, Identity::Replica(_)) { BTreeMap::new() } else { by_replica };
    for (name, nodes) in others {
        let (peers, filter) = (peers.clone(), filter.clone());
        let state = core.state();
        answers.spawn(async move { forwarded(&peers, &state, &name, nodes, filter).await });
    }
    let mut all = ListAllocationsResponse::default();
    while let Some(answer) = answers.join_next().await {
        let ListAllocationsResponse { allocations, silent } = answer.unwrap_or_default();
        all.allocations.extend(allocations);
        all.silent.extend(silent);
    }
    Ok(all)
}

/// Servers by the replica that they said they are connected to.
fn replicas_of(state: &State, only: Option<NodeId>) -> BTreeMap<String, BTreeSet<NodeId>> {
    let mut nodes: BTreeMap<String, BTreeSet<NodeId>> = BTreeMap::new();
    for (node, kept) in state.nodes.iter().filter(|(node, _)| only.is_none_or(|only| only == **node)) {
        let status = state.statuses.get(node).map(|kept| &kept.record);
        if kept.record.joined {
            nodes
                .entry(status.map(|status| status.replica.clone()).unwrap_or_default())
                .or_default()
                .insert(*node);
        }
    }
    nodes
}

async fn forwarded(
    peers: &Peers,
    state: &State,
    replica: &str,
    nodes: BTreeSet<NodeId>,
    filter: AllocationFilter,
) -> ListAllocationsResponse {
    let request = ListAllocationsRequest { filter: Some(filter) };
    let answer = async {
        let mut client = peers.connect(state, replica).await?;
        let answer = client.list_allocations(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| Fault::Silent(status.message().to_owned()))
    };
    match tokio::time::timeout(FORWARDED_FOR, answer).await {
        Ok(Ok(mut answer)) => {
            let ours = |message: &trunkline_proto::fleet::v1::NodeId| {
                node_id(message).is_some_and(|node| nodes.contains(&node))
            };
            answer.silent.retain(ours);
            answer
        }
        Ok(Err(fault)) => {
            tracing::warn!(replica, %fault, "a replica did not pass a question on");
            silent(nodes)
        }
        Err(_) => silent(nodes),
    }
}

/// Closes an allocation.
///
/// The audit log is told before the server is asked, and the answer is kept afterwards: a call that is repeated after a
/// crash between them asks again, and is told that it is gone.
///
/// # Errors
/// An unknown server or allocation; a server that does not answer.
pub async fn close(
    core: &Core,
    peers: &Peers,
    caller: &Identity,
    mut request: CloseAllocationRequest,
) -> Result<MutationResponse, Fault> {
    let node = nodes::named("node", request.node.as_ref())?;
    if request.id.is_empty() || request.id.len() > ID_BYTES_MAX {
        return Err(Fault::malformed("id", format!("it must have 1 to {ID_BYTES_MAX} bytes")));
    }
    if matches!(caller, Identity::Replica(_)) {
        return match close_here(core, node, &request.id).await? {
            true => Ok(closed(&core.state(), node, &request.id)),
            false => Err(missing(node, &request.id)),
        };
    }
    let call = Call::of(caller, &mut request)?;
    let retries = Retries::begin();
    loop {
        match attempt(core, peers, &call, node, &request.id).await {
            Ok(decided) => return decided,
            Err(error) => retries.after(error).await?,
        }
    }
}

async fn attempt(
    core: &Core,
    peers: &Peers,
    call: &Call,
    node: NodeId,
    id: &str,
) -> Result<Result<MutationResponse, Fault>, StoreError> {
    let state = core.state();
    let (begun, is_repeated) = match call.told(core).await? {
        Ok(Told::Answer(answer)) => return Ok(Ok(answer)),
        Ok(Told::Begun(revision)) => (revision, true),
        Ok(Told::Nothing) => {
            if let Err(fault) = nodes::known(&state, "node", Some(&node_message(node))) {
                return Ok(Err(fault));
            }
            match begin(core, call, node, id).await? {
                Ok(revision) => (revision, false),
                Err(fault) => return Ok(Err(fault)),
            }
        }
        Err(fault) => return Ok(Err(fault)),
    };
    let is_closed = match close_anywhere(core, peers, &state, node, id).await {
        Ok(is_closed) => is_closed,
        Err(fault) => return Ok(Err(fault)),
    };
    let answer = match (is_closed, is_repeated) {
        (true, _) => closed(&state, node, id),
        (false, true) => {
            let summary =
                format!("allocation {id} of node {node} is gone: closed by this call before, or ended");
            MutationResponse { epoch: Some(state.epoch()), summary }
        }
        (false, false) => {
            finish(core, call, begun, Change::Delete { key: call.key().to_owned() }).await?;
            return Ok(Err(missing(node, id)));
        }
    };
    finish(core, call, begun, call.put(core, Some(&answer))).await?;
    Ok(Ok(answer))
}

async fn begin(
    core: &Core,
    call: &Call,
    node: NodeId,
    id: &str,
) -> Result<Result<Revision, Fault>, StoreError> {
    let happening = Happening::new(format!("allocation {id} of node {node}"), "", "asked to close");
    let event = match call.event(&happening) {
        Ok(event) => event,
        Err(fault) => return Ok(Err(fault)),
    };
    let transaction = Transaction {
        checks: vec![(call.key().to_owned(), Expected::Absent)],
        changes: vec![call.put::<MutationResponse>(core, None), event],
    };
    core.store().commit(transaction).await.map(Ok)
}

async fn finish(core: &Core, call: &Call, begun: Revision, change: Change) -> Result<(), StoreError> {
    let checks = vec![(call.key().to_owned(), Expected::At(begun))];
    core.store().commit(Transaction { checks, changes: vec![change] }).await.map(|_| ())
}

/// Whether there was such an allocation and it is closed now.
async fn close_anywhere(
    core: &Core,
    peers: &Peers,
    state: &State,
    node: NodeId,
    id: &str,
) -> Result<bool, Fault> {
    let replica = state.statuses.get(&node).map(|kept| kept.record.replica.clone()).unwrap_or_default();
    if replica == core.name() || replica.is_empty() {
        return close_here(core, node, id).await;
    }
    let mut client = peers.connect(state, &replica).await?;
    let request =
        CloseAllocationRequest { mutation: None, node: Some(node_message(node)), id: id.to_owned() };
    match tokio::time::timeout(FORWARDED_FOR, client.close_allocation(request)).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(status)) if status.code() == Code::NotFound => Ok(false),
        Ok(Err(status)) => Err(Fault::Silent(format!("replica {replica}: {}", status.message()))),
        Err(_) => Err(Fault::Silent(format!("replica {replica} does not answer; send it again"))),
    }
}

async fn close_here(core: &Core, node: NodeId, id: &str) -> Result<bool, Fault> {
    let answer = ask(core, node, Question::CloseAllocation(id.to_owned())).await;
    let silent = || {
        let again = "send it again with the same idempotency key";
        Fault::Silent(format!(
            "node {node} does not answer; whether the allocation is closed is not known; {again}"
        ))
    };
    answer.map(|answer| answer.closed).ok_or_else(silent)
}

async fn ask(core: &Core, node: NodeId, question: Question) -> Option<Answer> {
    let answer = core.sessions().ask(node, question);
    tokio::time::timeout(ASKED_FOR, answer).await.ok()?.ok()
}

/// A server speaks for itself alone, whatever it wrote into its answer.
fn owned(node: NodeId, answer: Answer) -> Vec<Allocation> {
    let own = |allocation| Allocation { node: Some(node_message(node)), ..allocation };
    answer.allocations.into_iter().map(own).collect()
}

fn silent(nodes: impl IntoIterator<Item = NodeId>) -> ListAllocationsResponse {
    let silent = nodes.into_iter().map(node_message).collect();
    ListAllocationsResponse { allocations: Vec::new(), silent }
}

fn closed(state: &State, node: NodeId, id: &str) -> MutationResponse {
    MutationResponse {
        epoch: Some(state.epoch()),
        summary: format!("allocation {id} of node {node} is closed"),
    }
}

fn missing(node: NodeId, id: &str) -> Fault {
    Fault::unknown(
        "id",
        format!("node {node} has no allocation {id:?}; `trunklinectl allocations` lists them"),
    )
}

fn check(filter: &AllocationFilter) -> Result<(), Fault> {
    if filter.limit > LIMIT_MAX {
        let problem = format!("{} is above {LIMIT_MAX}; narrow the filter instead", filter.limit);
        return Err(Fault::malformed("filter.limit", problem));
    }
    let address = &filter.address;
    let is_address =
        address.parse::<std::net::IpAddr>().is_ok() || address.parse::<std::net::SocketAddr>().is_ok();
    if !address.is_empty() && !is_address {
        let problem =
            format!("{address:?} is not an address; write 192.0.2.1, 192.0.2.1:5000 or [2001:db8::1]:5000");
        return Err(Fault::malformed("filter.address", problem));
    }
    Ok(())
}

/// How long one server is waited for.
pub const ASKED_FOR: Duration = Duration::from_secs(2);
/// How long another replica is waited for: it waits for its servers.
const FORWARDED_FOR: Duration = Duration::from_secs(3);
/// Allocations of one answer: it stays below the 4 MiB that a gRPC message has by default.
const ALLOCATIONS_MAX: usize = 10_000;
/// Of each server.
const LIMIT_MAX: u32 = 10_000;
/// Longest id of an allocation.
const ID_BYTES_MAX: usize = 128;
