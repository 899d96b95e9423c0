//! Keys over a control plane of this process, as `trunkline up` has them, without shards: what the control plane
//! hands out is in force at once.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use trunkline_control_plane::access::access_layer;
use trunkline_control_plane::configuration;
use trunkline_control_plane::connector::{Endpoint, Trust, connect};
use trunkline_control_plane::core::{Core, ReplicaInfo};
use trunkline_control_plane::identity::LOCAL_NODE;
use trunkline_control_plane::listener::{memory_listener, server};
use trunkline_control_plane::node_service::NodeServiceImpl;
use trunkline_control_plane::operator_service::{OperatorServiceImpl, Surroundings};
use trunkline_control_plane::sealing::Sealing;
use trunkline_control_plane::store::{AnyStore, Embedded};
use trunkline_proto::node::v1::node_service_server::NodeServiceServer;
use trunkline_proto::operator::v1::operator_service_server::OperatorServiceServer;

use super::*;

/// Opens the keys of a directory.
pub async fn open(directory: &Path, management: Management) -> Keys {
    let store = AnyStore::Embedded(Embedded::open(directory).unwrap());
    let sealing =
        Sealing::open_or_create(&directory.join("store.key")).unwrap_or_else(|error| panic!("{error}"));
    let replica = ReplicaInfo { name: "local".into(), address: String::new() };
    let core = Core::start(store, sealing, replica).await.unwrap_or_else(|error| panic!("{error}"));
    let (_, ending) = watch::channel(false);
    let (connector, incoming) = memory_listener();
    let serving = server()
        .layer(access_layer())
        .add_service(NodeServiceServer::new(NodeServiceImpl::new(core.clone(), None, ending)))
        .add_service(OperatorServiceServer::new(OperatorServiceImpl::new(
            core.clone(),
            Surroundings::default(),
        )));
    tokio::spawn(serving.serve_with_incoming(incoming));
    let channel = connect(&Endpoint::Memory(connector), &Trust::Local).await.unwrap();
    let known = watch::Sender::new(in_force(&core));
    let receiver = known.subscribe();
    tokio::spawn(async move {
        let mut states = core.subscribe();
        while states.changed().await.is_ok() {
            known.send_replace(in_force(&core));
        }
    });
    let (_, channel) = watch::channel(Some(channel));
    Keys::new(receiver, channel, management)
}

fn in_force(core: &Core) -> InForce {
    let built = configuration::build(&core.state(), core.sealing(), LOCAL_NODE);
    let built = built.unwrap_or_else(|error| panic!("{error}"));
    let credentials = Credentials {
        keys: built.keys.into_iter().map(|key| (key.id, Secret::new(key.secret))).collect(),
        revoked: built.revocations.into_iter().map(|revocation| revocation.username).collect(),
        ..Credentials::default()
    };
    InForce { epoch: built.epoch.unwrap_or_default(), credentials: Arc::new(credentials) }
}
