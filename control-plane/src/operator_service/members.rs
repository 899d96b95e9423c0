//! Who belongs to the fleet, and what operators want of each server: added, removed, drained, weighed.

use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::operator::v1::{
    AddNodeRequest, AddNodeResponse, MutationResponse, RemoveNodeRequest, SetDrainRequest, SetWeightRequest,
    set_drain_request::Target,
};
use trunkline_proto::store::v1::{JoinToken as TokenRecord, NodeRecord, NodeStatus};
use trunkline_wire::NodeId;

use super::sightings::Sightings;
use super::{Fault, nodes, slices, table};
use crate::event::Happening;
use crate::join_token::JoinToken;
use crate::mutation::Plan;
use crate::records::{self, node_message};
use crate::state::State;
use crate::store::{CHANGES_MAX, Change};

/// How long a join token is good, in seconds.
///
/// # Errors
/// Longer than a day.
pub fn token_lifetime_s(request: &AddNodeRequest) -> Result<u64, Fault> {
    match request.token_lifetime_s {
        0 => Ok(TOKEN_S_DEFAULT.into()),
        asked @ 1..=TOKEN_S_MAX => Ok(asked.into()),
        asked => {
            let problem =
                format!("{asked} is above {TOKEN_S_MAX} seconds, a day; make the token when you need it");
            Err(Fault::malformed("token_lifetime_s", problem))
        }
    }
}

/// Makes room for a server, and the record of its token.
///
/// # Errors
/// A bad weight; a node that is there already.
pub fn add(
    state: &State,
    request: &AddNodeRequest,
    token: &JoinToken,
    (now_unix_s, expires_unix_s): (u64, u64),
    epoch: Epoch,
) -> Result<Plan<AddNodeResponse>, Fault> {
    let node = token.node();
    let weight = request.weight.unwrap_or(1.0);
    check_weight(weight)?;
    if state.nodes.contains_key(&node) {
        let problem = format!("{node} is there already; remove it first, or choose another number");
        return Err(Fault::Exists { field: "node", problem });
    }
    let record = NodeRecord {
        node: Some(node_message(node)),
        weight,
        added_unix_s: now_unix_s,
        ..NodeRecord::default()
    };
    let kept = TokenRecord {
        node: Some(node_message(node)),
        secret_sha256: token.secret_sha256().to_vec(),
        expires_unix_s,
        ..TokenRecord::default()
    };
    Ok(Plan {
        checks: Vec::new(),
        changes: vec![records::put(node, &record), records::put(token.id(), &kept)],
        touches_configuration: true,
        answer: AddNodeResponse {
            epoch: Some(epoch),
            token: token.to_text().to_string(),
            token_expires_unix_s: expires_unix_s,
        },
        happening: Happening::new(
            format!("node {node}"),
            "not a member",
            format!("expected, weight {weight}, token {} until {expires_unix_s}", token.id()),
        ),
    })
}

/// Forgets a server, and tokens that it has not used. The planner puts its slices into quarantine: a member that is
/// gone cannot claim them.
///
/// # Errors
/// It is unknown, still serves, or holds slices and nobody confirmed that it is gone.
pub fn remove(
    state: &State,
    seen: &Sightings,
    request: &RemoveNodeRequest,
    unused_tokens: &[String],
    epoch: Epoch,
) -> Result<Plan<MutationResponse>, Fault> {
    let node = nodes::known(state, "node", request.node.as_ref())?;
    may_go(state, seen, node, request.confirm_gone)?;
    let slices = slices::held(state, node);
    let mut changes = vec![
        Change::Delete { key: records::key::<NodeRecord>(node) },
        Change::Delete { key: records::key::<NodeStatus>(node) },
    ];
    changes.extend(unused_tokens.iter().map(|key| Change::Delete { key: key.clone() }));
    let gone = if request.confirm_gone { ", confirmed gone" } else { "" };
    Ok(Plan {
        checks: Vec::new(),
        changes,
        touches_configuration: true,
        answer: MutationResponse {
            epoch: Some(epoch),
            summary: format!(
                "node {node} is no longer a member; {slices} slices go to others after their quarantine"
            ),
        },
        happening: Happening::new(
            format!("node {node}"),
            format!("member with {} rows and {slices} slices", table::rows_of(state, node)),
            format!("not a member{gone}"),
        ),
    })
}

fn may_go(state: &State, seen: &Sightings, node: NodeId, confirm_gone: bool) -> Result<(), Fault> {
    let has_joined = state.nodes.get(&node).is_some_and(|kept| kept.record.joined);
    let slices = slices::held(state, node);
    if !has_joined && slices == 0 {
        return Ok(());
    }
    if seen.is_alive(state, node) {
        if confirm_gone {
            let ago = seen.silent_for(state, node).unwrap_or_default().as_secs();
            return Err(Fault::Unfit(format!(
                "confirm_gone: node {node} is not gone, it reported {ago} s ago; drain it and remove it when it is empty, \
                 or switch it off first"
            )));
        }
        let rows = table::rows_of(state, node);
        let reported = state.statuses.get(&node).and_then(|kept| kept.record.report.as_ref());
        let allocations = reported.map_or(0, |report| report.allocations);
        if rows != 0 || slices != 0 || allocations != 0 {
            return Err(Fault::Unfit(format!(
                "node: {node} still serves ({rows} rows, {slices} slices, {allocations} allocations); drain it and remove \
                 it when it is empty"
            )));
        }
        return Ok(());
    }
    if slices != 0 && !confirm_gone {
        return Err(Fault::Unfit(format!(
            "confirm_gone: node {node} does not answer and holds {slices} slices, which it may still use; start it and \
             drain it, or switch the machine off, make sure that it does not come back, and confirm that"
        )));
    }
    Ok(())
}

/// Takes new allocations away from a server or a site, or gives them back.
///
/// # Errors
/// No target, an unknown one, or a site of too many servers for one transaction.
pub fn drain(
    state: &State,
    request: &SetDrainRequest,
    epoch: Epoch,
) -> Result<Plan<MutationResponse>, Fault> {
    let (subject, targets) = match &request.target {
        None => return Err(Fault::malformed("target", "neither node nor site is set; name what to drain")),
        Some(Target::Node(message)) => {
            let node = nodes::known(state, "node", Some(message))?;
            (format!("node {node}"), vec![node])
        }
        Some(Target::Site(site)) => (format!("site {site}"), servers_of(state, *site)?),
    };
    let different =
        |node: &&NodeId| state.nodes.get(*node).is_some_and(|kept| kept.record.draining != request.drain);
    let moved: Vec<NodeId> = targets.iter().filter(different).copied().collect();
    if moved.len() > NODES_AT_ONCE_MAX {
        return Err(Fault::Exhausted(format!(
            "site: {} servers would change, {NODES_AT_ONCE_MAX} can at once; name servers one by one",
            moved.len()
        )));
    }
    let record = |node: &NodeId| {
        let record = state.nodes.get(node).map(|kept| kept.record.clone()).unwrap_or_default();
        records::put(node, &NodeRecord { draining: request.drain, ..record })
    };
    let (before, after) = if request.drain { ("serving", "draining") } else { ("draining", "serving") };
    let told = |word: &str| match moved.as_slice() {
        [] => format!("{after} already"),
        [_] if targets.len() == 1 => word.to_owned(),
        several => format!("{word}: {}", listed(several)),
    };
    let happening = Happening::new(&subject, told(before), told(after));
    Ok(Plan {
        checks: Vec::new(),
        changes: moved.iter().map(record).collect(),
        touches_configuration: !moved.is_empty(),
        answer: answer(state, epoch, !moved.is_empty(), format!("{subject} is {}", happening.after)),
        happening,
    })
}

/// Gives a server another share of its site's flows.
///
/// # Errors
/// A bad weight or an unknown node.
pub fn weigh(
    state: &State,
    request: &SetWeightRequest,
    epoch: Epoch,
) -> Result<Plan<MutationResponse>, Fault> {
    check_weight(request.weight)?;
    let node = nodes::known(state, "node", request.node.as_ref())?;
    let record = state.nodes.get(&node).map(|kept| kept.record.clone()).unwrap_or_default();
    let (before, after) = (record.weight, request.weight);
    let is_other = before.to_bits() != after.to_bits();
    Ok(Plan {
        checks: Vec::new(),
        changes: is_other
            .then(|| records::put(node, &NodeRecord { weight: after, ..record }))
            .into_iter()
            .collect(),
        touches_configuration: is_other,
        answer: answer(state, epoch, is_other, format!("node {node} has weight {after}; it had {before}")),
        happening: Happening::new(
            format!("node {node}"),
            format!("weight {before}"),
            format!("weight {after}"),
        ),
    })
}

/// The answer of a mutation that may have found everything as it should be.
pub fn answer(state: &State, epoch: Epoch, has_changed: bool, summary: String) -> MutationResponse {
    MutationResponse { epoch: Some(if has_changed { epoch } else { state.epoch() }), summary }
}

fn check_weight(weight: f64) -> Result<(), Fault> {
    if weight > 0.0 && weight <= WEIGHT_MAX {
        return Ok(());
    }
    Err(Fault::malformed(
        "weight",
        format!("{weight} is not above 0 and up to 1,000; to take load away use drain"),
    ))
}

fn servers_of(state: &State, site: u32) -> Result<Vec<NodeId>, Fault> {
    let servers: Vec<NodeId> =
        state.nodes.keys().filter(|node| u32::from(node.site) == site).copied().collect();
    if servers.is_empty() {
        return Err(Fault::unknown(
            "site",
            format!("there is no site {site}; `trunklinectl sites` lists them"),
        ));
    }
    Ok(servers)
}

fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

const WEIGHT_MAX: f64 = 1_000.0;
const TOKEN_S_DEFAULT: u32 = 3_600;
const TOKEN_S_MAX: u32 = 86_400;
/// What one transaction takes, besides the epoch, the answer and the event.
const NODES_AT_ONCE_MAX: usize = CHANGES_MAX - 10;
