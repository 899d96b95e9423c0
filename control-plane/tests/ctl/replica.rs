//! The real operator service in this process, over an embedded store, behind the real listener.

use std::path::Path;

use prost::Message;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use trunkline_control_plane::access::access_layer;
use trunkline_control_plane::core::{Core, ReplicaInfo};
use trunkline_control_plane::listener::{Listener, server};
use trunkline_control_plane::operator_service::{OperatorServiceImpl, Surroundings};
use trunkline_control_plane::pki::files::Files;
use trunkline_control_plane::records::{self, node_message};
use trunkline_control_plane::sealing::Sealing;
use trunkline_control_plane::store::{AnyStore, Change, Embedded, Store, Transaction};
use trunkline_proto::node::v1::{Facts, Report};
use trunkline_proto::operator::v1::operator_service_server::OperatorServiceServer;
use trunkline_proto::store::v1::{NodeRecord, NodeStatus, TableRecord, UsageCount};
use trunkline_wire::NodeId;

/// A replica; it ends with this value.
pub struct Replica {
    pub endpoint: String,
    core: Core,
    store: AnyStore,
    _directory: TempDir,
    runtime: Runtime,
}

impl Replica {
    /// Behind a Unix socket, or with the files of this identity behind TLS.
    pub fn start(identity: Option<&Path>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let store = AnyStore::from(Embedded::open(&directory.path().join("store")).expect("a store"));
        let (core, endpoint) = runtime.block_on(async {
            let (listener, endpoint) = listen(directory.path(), identity).await;
            let info = ReplicaInfo { name: "one".into(), address: String::new() };
            let sealing = Sealing::ephemeral().expect("random bytes");
            let core = Core::start(store.clone(), sealing, info).await.expect("a core");
            let surroundings = Surroundings { root_sha256: Some([7; 32]), ..Surroundings::default() };
            let service = OperatorServiceServer::new(OperatorServiceImpl::new(core.clone(), surroundings));
            let server = server().layer(access_layer()).add_service(service);
            tokio::spawn(server.serve_with_incoming(listener.incoming()));
            (core, endpoint)
        });
        Self { endpoint, core, store, _directory: directory, runtime }
    }

    fn put(&self, changes: impl IntoIterator<Item = Change>) {
        let transaction = Transaction { checks: vec![], changes: changes.into_iter().collect() };
        self.runtime.block_on(async {
            let revision = self.store.commit(transaction).await.expect("committed");
            let _ = self.core.wait_for(revision).await;
        });
    }

    /// As if servers 1.1 to 1.`servers` had joined and reported now; together they have a table of 16 rows.
    pub fn join(&self, servers: u16, faults: &[&str]) {
        for server in 1..=servers {
            let node = NodeId { site: 1, server };
            let record = NodeRecord {
                node: Some(node_message(node)),
                weight: 1.0,
                joined: true,
                ..NodeRecord::default()
            };
            let report = Report {
                allocations: 0,
                unix_ms: now_ms(),
                faults: faults.iter().map(ToString::to_string).collect(),
                facts: Some(Facts { listening: vec!["udp 10.0.0.1:3478".into()], ..Facts::default() }),
                ..Report::default()
            };
            let status =
                NodeStatus { version: "0.1.0".into(), report: Some(report), ..NodeStatus::default() };
            self.put([records::put(node, &record), records::put(node, &status)]);
        }
        self.own(1);
    }

    /// Server 1.`server` owns every row of its site.
    pub fn own(&self, server: u16) {
        let mut row = [0; 12];
        row[..2].copy_from_slice(&server.to_be_bytes());
        let table = TableRecord { site: 1, rows: row.repeat(16), ..TableRecord::default() };
        self.put([records::put(1, &table)]);
    }

    /// Usage in the hour that began then.
    pub fn count(&self, hour_unix_s: u64, key: &str, user: &str, bytes_to_peer: u64) {
        let count = UsageCount { bytes_to_peer, allocations: 1, ..UsageCount::default() };
        let key = format!("usage/{hour_unix_s}/1.1/{key}/{user}");
        self.put([Change::Put { key, value: count.encode_to_vec(), lease: None }]);
    }
}

async fn listen(directory: &Path, identity: Option<&Path>) -> (Listener, String) {
    match identity {
        Some(identity) => {
            let address = "127.0.0.1:0".parse().expect("an address");
            let listener = Listener::tcp(address, Files::in_directory(identity)).await.expect("a listener");
            let address = listener.local_address().expect("an address");
            (listener, format!("https://{address}"))
        }
        None => {
            let socket = directory.join("run/operator.sock");
            (Listener::unix(&socket).expect("a socket"), format!("unix:{}", socket.display()))
        }
    }
}

/// Now, as servers report it.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    u64::try_from(since.as_millis()).expect("not that late")
}
