//! One server's session: it is told each epoch, and what it says is kept.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Status, Streaming};
use trunkline_proto::fleet::v1::{Epoch, slice};
use trunkline_proto::node::v1::control_message::Message as ToNode;
use trunkline_proto::node::v1::node_message::Message as FromNode;
use trunkline_proto::node::v1::{
    Acknowledgement, ControlMessage, Hello, NodeMessage, Report, SliceClaim, UsageRecord,
};
use trunkline_proto::store::v1::{NodeStatus, SliceRecord};
use trunkline_wire::NodeId;

use super::{bounds, hello, reporting};
use crate::configuration::{self, Personal};
use crate::configurations::{Built, Configurations};
use crate::core::Core;
use crate::operator_service::slices;
use crate::records::node_id;
use crate::session::Registered;
use crate::state::State;
use crate::usage::Meter;

/// Where messages to the server go.
pub type Outgoing = mpsc::Sender<Result<ControlMessage, Status>>;

/// A stream that a server opened.
pub struct Session {
    pub server: Server,
    pub incoming: Streaming<NodeMessage>,
    pub ending: watch::Receiver<bool>,
}

/// The server at the other end.
pub struct Server {
    pub core: Core,
    pub configurations: Arc<Configurations>,
    pub node: NodeId,
    pub outgoing: Outgoing,
}

/// Why a session is over, as the server is told.
enum Over {
    /// It went away.
    Gone,
    Told(Status),
}

impl Session {
    /// Serves until either side ends.
    pub async fn serve(mut self) {
        let (node, outgoing) = (self.server.node, self.server.outgoing.clone());
        if let Err(Over::Told(status)) = self.run().await {
            tracing::info!(%node, reason = status.message(), "session ended");
            // The server may have gone in the meantime.
            drop(outgoing.send(Err(status)).await);
        } else {
            tracing::info!(%node, "session ended by the server");
        }
    }

    async fn run(&mut self) -> Result<(), Over> {
        let hello = self.hello().await?;
        let Server { core, node, outgoing, .. } = &self.server;
        let node = *node;
        hello::welcome(core, node, &hello).await.map_err(|fault| Over::Told(fault.into()))?;
        let registered = core.sessions().register(node, hello.incarnation);
        let registered = registered.ok_or_else(|| Over::Told(replaced(node)))?;
        tracing::info!(%node, version = hello.version, "session open");
        let statuses = watch::Sender::new(hello::status(&core.state(), node, &hello, core.name()));
        tokio::spawn(reporting::write(core.clone(), node, statuses.subscribe()));
        let (records, counted) = mpsc::channel(RECORDS_MAX);
        tokio::spawn(count(Meter::new(core.store().clone(), node), counted, outgoing.clone()));
        let told = Told {
            hello: Some((hello.epoch, hello.digest)),
            sent: None,
            refused: None,
            known: hello.epoch,
            claims: hello.claims,
            is_held_back: false,
            generation: Generation {
                number: core.state().epoch().generation,
                heard_at: Some(Instant::now()),
            },
        };
        self.follow(registered, statuses, records, told).await
    }

    async fn hello(&mut self) -> Result<Hello, Over> {
        let first = tokio::time::timeout(HELLO_WITHIN, self.incoming.message()).await;
        match first {
            Ok(Ok(Some(NodeMessage { message: Some(FromNode::Hello(hello)) }))) => Ok(hello),
            Ok(Ok(Some(_))) => Err(Over::Told(Status::invalid_argument("the first message must be Hello"))),
            Ok(_) => Err(Over::Gone),
            Err(_) => Err(Over::Told(Status::deadline_exceeded("no Hello within 10 s"))),
        }
    }

    async fn follow(
        &mut self,
        mut registered: Registered,
        statuses: watch::Sender<NodeStatus>,
        records: mpsc::Sender<UsageRecord>,
        mut told: Told,
    ) -> Result<(), Over> {
        let Self { server, incoming, ending } = self;
        let mut states = server.core.subscribe_to_epochs();
        states.mark_changed();
        let mut leader = None;
        let mut again = tokio::time::interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(NodeMessage { message: Some(message) })) => {
                        server.heard(message, &registered, &statuses, &records, &mut told);
                    }
                    Ok(Some(NodeMessage { message: None })) => {}
                    Ok(None) | Err(_) => return Err(Over::Gone),
                },
                changed = states.changed() => {
                    changed.map_err(|_| Over::Gone)?;
                    let state = Arc::clone(&states.borrow_and_update());
                    let leads = state.leader.as_ref().map(|kept| kept.revision);
                    if leads.is_some() && leads != leader {
                        // A new leader believes what it sees being written: it need not wait for the next report.
                        statuses.send_modify(|status| status.reports = status.reports.saturating_add(1));
                        leader = leads;
                    }
                    server.tell(&state, &mut told).await?;
                }
                // What it says of itself is not in the state of an epoch.
                _ = again.tick(), if told.hello.is_some() || told.is_held_back => {
                    server.tell(&server.core.state(), &mut told).await?;
                }
                Some(question) = registered.questions.recv() => server.send(ToNode::Question(question)).await?,
                _ = &mut registered.replaced => return Err(Over::Told(replaced(server.node))),
                () = ended(ending) => {
                    return Err(Over::Told(Status::unavailable("this replica ends; connect to another")));
                }
            }
        }
    }
}

impl Server {
    /// Sends the newest configuration where the server does not have it.
    async fn tell(&self, state: &State, told: &mut Told) -> Result<(), Over> {
        // A member may be younger than the epoch.
        if !state.nodes.contains_key(&self.node) && !self.core.state().nodes.contains_key(&self.node) {
            let text = format!("node {} is not a member any more: an operator removed it", self.node);
            return Err(Over::Told(Status::failed_precondition(text)));
        }
        told.look_at(state);
        let (epoch, personal) = (state.epoch(), Personal::of(state, self.node));
        if told
            .sent
            .as_ref()
            .is_some_and(|(sent, known)| !configuration::is_newer(epoch, sent.epoch()) && *known == personal)
        {
            return Ok(());
        }
        told.is_held_back = told.waits_for_claims(state, self.node);
        // A server that is ahead of the store waits until the generation rises above it.
        let is_ahead =
            matches!(&told.hello, Some((Some(known), _)) if configuration::is_newer(*known, epoch));
        if state.fleet_keys.is_empty() || told.refused == Some(epoch) || told.is_held_back || is_ahead {
            return Ok(());
        }
        let built = self.configurations.of(state, self.core.sealing(), self.node.site);
        let built = built.map_err(|error| Over::Told(Status::internal(error.to_string())))?;
        let base = told.sent.as_ref().map(|(sent, _)| &**sent);
        let update = self.configurations.update(self.node.site, base, &built, personal.clone());
        told.sent = Some((built, personal));
        let has_it =
            |(known, digest): (Option<Epoch>, Vec<u8>)| known == Some(epoch) && digest == update.digest;
        if told.hello.take().is_some_and(has_it) {
            return Ok(());
        }
        self.send(ToNode::Configuration(update)).await
    }

    async fn send(&self, message: ToNode) -> Result<(), Over> {
        self.outgoing.send(Ok(ControlMessage { message: Some(message) })).await.map_err(|_| Over::Gone)
    }

    fn heard(
        &self,
        message: FromNode,
        registered: &Registered,
        statuses: &watch::Sender<NodeStatus>,
        records: &mpsc::Sender<UsageRecord>,
        told: &mut Told,
    ) {
        match message {
            FromNode::Hello(_) => tracing::debug!(node = %self.node, "Hello twice"),
            FromNode::Acknowledgement(acknowledgement) => {
                if !acknowledgement.refusal.is_empty() {
                    // It goes on with what it had: the next epoch is sent whole.
                    told.sent = None;
                    told.refused = acknowledgement.epoch;
                }
                statuses.send_modify(|status| {
                    acknowledged(status, acknowledgement, &self.core.state(), self.node)
                });
            }
            FromNode::Report(report) => {
                told.heard(&report);
                statuses.send_modify(|status| reported(status, report));
            }
            // What does not fit is sent again: the server does so until it is counted.
            FromNode::Usage(record) => drop(records.try_send(record)),
            FromNode::Answer(answer) => registered.answered(answer),
        }
    }
}

/// Resolves when the replica ends.
async fn ended(ending: &mut watch::Receiver<bool>) {
    // Whoever would tell is gone: that is the end as well.
    drop(ending.wait_for(|ending| *ending).await);
}

fn replaced(node: NodeId) -> Status {
    Status::already_exists(format!(
        "node {node}: a newer process speaks under this name; two servers must not have one name"
    ))
}

/// What the server has or was sent.
struct Told {
    /// As in its Hello, until the first configuration was compared with it.
    hello: Option<(Option<Epoch>, Vec<u8>)>,
    sent: Option<(Arc<Built>, Personal)>,
    /// It will not be better when it is sent again.
    refused: Option<Epoch>,
    /// What it has in force, and uses, as it said last.
    known: Option<Epoch>,
    claims: Vec<SliceClaim>,
    /// The planner has not yet taken over what it claims.
    is_held_back: bool,
    generation: Generation,
}

impl Told {
    /// One that comes without any configuration is told none as long as the store gives it slices: it has lost them with
    /// its disk, and in what a restored store does not know others may have got them. The planner takes them back.
    ///
    /// One that has an older generation is told nothing before the planner has taken over what it claims: its flows in
    /// slices that a restored store has forgotten would end. Where the planner lets the claims lie, it is told some time
    /// after it was heard: one that hangs is not told behind its back that it has lost what nobody asked it about. That no
    /// port has two users does not hang on any of this.
    fn waits_for_claims(&self, state: &State, node: NodeId) -> bool {
        if matches!(self.hello, Some((None, _))) {
            return slices::held(state, node) != 0;
        }
        let newest = state.epoch().generation;
        let was_told = self.sent.as_ref().is_some_and(|(sent, _)| sent.epoch().generation == newest);
        let Some(known) = self.known.filter(|known| known.generation < newest && !was_told) else {
            return false;
        };
        let has_waited = self.generation.heard_at.is_some_and(|at| at.elapsed() >= CLAIMS_WITHIN);
        let is_settled = self
            .claims
            .iter()
            .all(|claim| is_believed(state, node, claim) && serves(state, node, &claim.address));
        let is_settled =
            is_settled && given(state, node).all(|record| is_claimed(record, &self.claims, known));
        !is_settled && !has_waited
    }

    /// What the server uses, as it says.
    fn heard(&mut self, report: &Report) {
        self.known = report.epoch.or(self.known);
        self.claims.clone_from(&report.claims);
        self.generation.heard_at.get_or_insert_with(Instant::now);
    }

    /// Takes note of the generation that a state has, and of who leads in it.
    fn look_at(&mut self, state: &State) {
        let number = state.epoch().generation;
        if self.generation.number != number {
            self.generation = Generation { number, heard_at: None };
        }
        if state.leader.is_none() {
            // Nobody can take over what it claims.
            self.generation.heard_at = self.generation.heard_at.map(|_| Instant::now());
        }
    }
}

/// The store's generation.
struct Generation {
    number: u64,
    /// The server's first word since it began, or the last moment without a leader after that.
    heard_at: Option<Instant>,
}

/// The slices that the store gives to a server.
fn given(state: &State, node: NodeId) -> impl Iterator<Item = &SliceRecord> {
    let records = state.slices.values().flat_map(|kept| &kept.record.slices);
    records.filter(move |record| {
        record.slice.as_ref().and_then(|slice| slice.owner.as_ref()).and_then(node_id) == Some(node)
    })
}

/// Whether a server that has slices of this address may take new ports of one, or is to take none. What a restore made
/// drain the planner lets it take up again once it has heard that the server uses it; told before that, the server would
/// give it back, and find nothing else while the others rest.
fn serves(state: &State, node: NodeId, address: &str) -> bool {
    let is_owned = |record: &SliceRecord| {
        record
            .slice
            .as_ref()
            .is_some_and(|slice| slice.address == address && slice.state() == slice::State::Owned)
    };
    state.nodes.get(&node).is_none_or(|kept| kept.record.draining) || given(state, node).any(is_owned)
}

/// What the server was given before its last epoch, and does not claim, it gave back after the snapshot was taken:
/// another may have it by now.
fn is_claimed(record: &SliceRecord, claims: &[SliceClaim], known: Epoch) -> bool {
    let Some(slice) = &record.slice else { return true };
    let is_newer = record.granted.is_some_and(|granted| configuration::is_newer(granted, known));
    let is_it = |claim: &SliceClaim| {
        (&claim.address, claim.index, claim.lease) == (&slice.address, slice.index, slice.lease)
    };
    is_newer || claims.iter().any(is_it)
}

fn is_believed(state: &State, node: NodeId, claim: &SliceClaim) -> bool {
    let slices =
        state.slices.get(&claim.address).map(|kept| kept.record.slices.as_slice()).unwrap_or_default();
    let known =
        slices.iter().filter_map(|record| record.slice.as_ref()).find(|slice| slice.index == claim.index);
    // One that was leased to another since is not the server's any more.
    known.is_some_and(|slice| {
        slice.lease > claim.lease
            || (slice.lease == claim.lease && slice.owner.as_ref().and_then(node_id) == Some(node))
    })
}

fn acknowledged(status: &mut NodeStatus, said: Acknowledgement, state: &State, node: NodeId) {
    if said.refusal.is_empty() {
        status.acknowledged = said.epoch;
        if said.epoch == Some(state.epoch()) {
            status.settings_version = configuration::settings_version(state, node);
        }
    } else {
        let refusal = bounds::text(said.refusal);
        tracing::warn!(%node, refusal, "a server refused a configuration");
        status.refused = said.epoch;
        status.refusal = refusal;
    }
}

fn reported(status: &mut NodeStatus, report: Report) {
    let report = bounds::report(report);
    status.reports = status.reports.saturating_add(1);
    if report.epoch.is_some() {
        status.acknowledged = report.epoch;
    }
    status.report = Some(report);
}

/// Counts usage as fast as the store takes it, and says so.
async fn count(mut meter: Meter, mut records: mpsc::Receiver<UsageRecord>, outgoing: Outgoing) {
    while let Some(record) = records.recv().await {
        match meter.count(&record).await {
            Ok(counted) => {
                let message = ControlMessage { message: Some(ToNode::UsageAcknowledgement(counted)) };
                if outgoing.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "usage was not counted; it will be sent again"),
        }
    }
}

/// How long the planner may take to believe what a server claims.
const CLAIMS_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);
/// Until a server has its first configuration of a generation.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);
const HELLO_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);
/// Usage records of one server that wait for the store.
const RECORDS_MAX: usize = 64;
