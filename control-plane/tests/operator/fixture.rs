//! A replica over a fresh store, and servers of which only the records exist.

use std::collections::BTreeMap;

use tempfile::TempDir;
use tonic::{Code, Request};
use trunkline_control_plane::core::{Core, ReplicaInfo};
use trunkline_control_plane::identity::{Identity, Role};
use trunkline_control_plane::operator_service::{OperatorServiceImpl, Surroundings};
use trunkline_control_plane::records::{self, Record, node_message};
use trunkline_control_plane::sealing::Sealing;
use trunkline_control_plane::store::{AnyStore, Change, Embedded, Store, Transaction};
use trunkline_proto::node::v1::Report;
use trunkline_proto::operator::v1::Mutation;
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::store::v1::{NodeRecord, NodeStatus};
use trunkline_wire::NodeId;

/// The service and what is under it.
pub struct Fixture {
    pub service: OperatorServiceImpl,
    pub core: Core,
    pub store: AnyStore,
    _directory: TempDir,
}

impl Fixture {
    /// An empty fleet.
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = AnyStore::from(Embedded::open(directory.path()).expect("a store"));
        let sealing = Sealing::ephemeral().expect("random bytes");
        let replica = ReplicaInfo { name: "one".into(), address: "127.0.0.1:7443".into() };
        let core = Core::start(store.clone(), sealing, replica).await.expect("a core");
        let surroundings = Surroundings { root_sha256: Some([7; 32]), ..Surroundings::default() };
        let service = OperatorServiceImpl::new(core.clone(), surroundings);
        Self { service, core, store, _directory: directory }
    }

    /// With servers 1.1 to 1.`servers`, joined and reporting.
    pub async fn with_servers(servers: u16) -> Self {
        let fixture = Self::new().await;
        for server in 1..=servers {
            fixture.join(NodeId { site: 1, server }).await;
        }
        fixture
    }

    /// As if the server had joined and reported.
    pub async fn join(&self, node: NodeId) {
        let record = NodeRecord {
            node: Some(node_message(node)),
            weight: 1.0,
            joined: true,
            host_addresses: vec![format!("10.0.{}.{}", node.site, node.server)],
            ..NodeRecord::default()
        };
        let status = NodeStatus {
            version: "0.1.0".into(),
            report: Some(Report { allocations: 5, bits_per_s: 100, ..Report::default() }),
            replica: "one".into(),
            ..NodeStatus::default()
        };
        self.put([records::put(node, &record), records::put(node, &status)]).await;
    }

    /// Changes the store and waits until the replica has seen it.
    pub async fn put(&self, changes: impl IntoIterator<Item = Change>) {
        let transaction = Transaction { checks: Vec::new(), changes: changes.into_iter().collect() };
        let revision = self.store.commit(transaction).await.expect("committed");
        let _ = self.core.wait_for(revision).await;
    }

    /// Everything that operators caused: the store without what the replica itself keeps alive.
    pub async fn kept(&self) -> BTreeMap<String, Vec<u8>> {
        let own = ["replica/", "leader", "table/", "slices/", "fleet-key/"];
        let listing = self.store.list("").await.expect("a listing");
        let kept =
            listing.entries.into_iter().filter(|entry| !own.iter().any(|own| entry.key.starts_with(own)));
        kept.map(|entry| (entry.key, entry.value)).collect()
    }

    /// Records of a kind.
    pub async fn records<R: Record>(&self) -> BTreeMap<String, R> {
        let listing = self.store.list(R::PREFIX).await.expect("a listing");
        let record = |value: &[u8]| R::decode(value).expect("a record");
        listing.entries.iter().map(|entry| (entry.key.clone(), record(&entry.value))).collect()
    }

    /// Calls a method as an administrator and demands that it refuses and stores nothing.
    pub async fn refused<T, F: Future<Output = Result<T, tonic::Status>>>(
        &self,
        call: impl FnOnce(OperatorServiceImpl) -> F,
    ) -> (Code, String) {
        let before = self.kept().await;
        let status = call(self.service.clone()).await.err().expect("refused");
        assert!(self.kept().await == before, "something was stored: {}", status.message());
        (status.code(), status.message().to_owned())
    }

    /// The audit log, oldest first.
    pub async fn events(&self) -> Vec<trunkline_proto::operator::v1::Event> {
        use tokio_stream::StreamExt as _;
        let request = trunkline_proto::operator::v1::WatchEventsRequest { follow: false, last: 0 };
        let stream = self.service.watch_events(viewer(request)).await.expect("events").into_inner();
        stream.map(|event| event.expect("an event")).collect().await
    }
}

/// A request of operator alice, administrator.
pub fn admin<T>(message: T) -> Request<T> {
    by(Identity::Operator { name: "alice".into(), role: Role::Admin }, message)
}

/// A request of operator victor, viewer.
pub fn viewer<T>(message: T) -> Request<T> {
    by(Identity::Operator { name: "victor".into(), role: Role::Viewer }, message)
}

/// A request of somebody.
pub fn by<T>(identity: Identity, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(identity);
    request
}

/// A mutation with this key.
pub fn once(key: &str) -> Option<Mutation> {
    Some(Mutation { idempotency_key: key.to_owned(), reason: "because".into() })
}

/// Site and server as a message.
pub fn node(site: u32, server: u32) -> Option<trunkline_proto::fleet::v1::NodeId> {
    Some(trunkline_proto::fleet::v1::NodeId { site, server })
}
