//! Replicas over one embedded store, and servers that speak to them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use trunkline_control_plane::configuration;
use trunkline_control_plane::connector::{Endpoint, Trust, connect};
use trunkline_control_plane::core::{Core, ReplicaInfo};
use trunkline_control_plane::identity::LOCAL_NODE;
use trunkline_control_plane::operator_service::Surroundings;
use trunkline_control_plane::records;
use trunkline_control_plane::replica::{Parts, Replica};
use trunkline_control_plane::sealing::Sealing;
use trunkline_control_plane::state::State;
use trunkline_control_plane::store::{AnyStore, Change, Embedded, Store, Transaction};
use trunkline_proto::fleet::v1::Configuration;
use trunkline_proto::node::v1::control_message::Message as ToNode;
use trunkline_proto::node::v1::node_message::Message as FromNode;
use trunkline_proto::node::v1::node_service_client::NodeServiceClient;
use trunkline_proto::node::v1::{Acknowledgement, ControlMessage, Hello, NodeMessage, Report, SliceClaim};
use trunkline_proto::store::v1::{NodeRecord, NodeStatus};
use trunkline_wire::NodeId;

/// One store and what opens it.
pub struct Fleet {
    pub store: AnyStore,
    pub sealing: Sealing,
    _directory: tempfile::TempDir,
}

impl Fleet {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path()).unwrap();
        Self::over(store.into(), directory)
    }

    /// Over a store whose files are elsewhere.
    pub fn over(store: AnyStore, directory: tempfile::TempDir) -> Self {
        Self { store, sealing: Sealing::ephemeral().unwrap(), _directory: directory }
    }

    pub async fn replica(&self, name: &str) -> (Endpoint, Replica) {
        let (connector, incoming) = trunkline_control_plane::listener::memory_listener();
        let parts = Parts {
            store: self.store.clone(),
            sealing: self.sealing.clone(),
            info: ReplicaInfo { name: name.to_owned(), address: String::new() },
            signer: None,
            surroundings: Surroundings::default(),
        };
        (Endpoint::Memory(connector), Replica::start(parts, incoming).await.unwrap())
    }

    /// A member that has joined and reports nothing yet.
    pub async fn add(&self, node: NodeId) {
        let record = NodeRecord {
            node: Some(records::node_message(node)),
            weight: 1.0,
            joined: true,
            ..NodeRecord::default()
        };
        self.put(vec![records::put(node, &record)]).await;
    }

    /// A server whose reports come from elsewhere.
    pub async fn report(&self, node: NodeId, status: &NodeStatus) {
        self.put(vec![records::put(node, status)]).await;
    }

    pub async fn put(&self, changes: Vec<Change>) {
        self.store.commit(Transaction { checks: vec![], changes }).await.unwrap();
    }
}

/// The state once it is as wanted; the test ends where that takes long.
pub async fn until(core: &Core, what: &str, is_so: impl Fn(&State) -> bool) -> Arc<State> {
    let mut states = core.subscribe();
    let found = tokio::time::timeout(Duration::from_secs(20), states.wait_for(|state| is_so(state))).await;
    let state = found.unwrap_or_else(|_| panic!("never so: {what}")).unwrap();
    Arc::clone(&state)
}

/// Node 1.1 with its session.
pub struct Server {
    said: mpsc::Sender<NodeMessage>,
    heard: Streaming<ControlMessage>,
    pub configuration: Configuration,
    /// Messages that were differences.
    pub differences: usize,
    incarnation: u64,
}

impl Server {
    pub const NODE: NodeId = LOCAL_NODE;

    pub async fn open(endpoint: &Endpoint, before: Configuration, incarnation: u64) -> Self {
        let channel: Channel = connect(endpoint, &Trust::Local).await.unwrap();
        let (said, messages) = mpsc::channel(16);
        let hello = Hello {
            incarnation,
            epoch: before.epoch,
            digest: before.digest.clone(),
            relay_addresses: vec!["203.0.113.1".to_owned()],
            claims: claims(&before),
            ..Hello::default()
        };
        said.send(message(FromNode::Hello(hello))).await.unwrap();
        let mut client = NodeServiceClient::new(channel);
        let heard = client.open_session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Self { said, heard, configuration: before, differences: 0, incarnation }
    }

    /// Applies, acknowledges and reports until its configuration is as wanted.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Configuration) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !is_so(&self.configuration) {
            let next = tokio::time::timeout_at(deadline, self.heard.message()).await;
            let next = next.unwrap_or_else(|_| panic!("never so: {what}"));
            let Some(ToNode::Configuration(update)) = next.unwrap().and_then(|next| next.message) else {
                continue;
            };
            self.differences += usize::from(update.base.is_some());
            self.configuration = configuration::apply(&self.configuration, update).unwrap();
            self.report().await;
        }
    }

    /// How its session ended.
    pub async fn end(&mut self) -> tonic::Status {
        loop {
            match self.heard.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a word"),
                Err(status) => return status,
            }
        }
    }

    pub async fn report(&self) {
        let epoch = self.configuration.epoch;
        let acknowledgement = Acknowledgement { epoch, refusal: String::new() };
        let report = Report { epoch, claims: claims(&self.configuration), ..Report::default() };
        let _incarnation = self.incarnation;
        self.said.send(message(FromNode::Acknowledgement(acknowledgement))).await.unwrap();
        self.said.send(message(FromNode::Report(report))).await.unwrap();
    }
}

fn claims(configuration: &Configuration) -> Vec<SliceClaim> {
    let own = Some(records::node_message(Server::NODE));
    let slices = configuration.slices.iter().filter(|slice| slice.owner == own);
    slices
        .map(|slice| SliceClaim { address: slice.address.clone(), index: slice.index, lease: slice.lease })
        .collect()
}

fn message(message: FromNode) -> NodeMessage {
    NodeMessage { message: Some(message) }
}
