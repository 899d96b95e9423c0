//! The control plane of `trunkline up`: a replica in this process over the embedded store of the data directory.

use std::path::Path;

use trunkline_control_plane::connector::Endpoint;
use trunkline_control_plane::core::{Core, Planned};
use trunkline_control_plane::identity::LOCAL_NODE;
use trunkline_control_plane::records::{self, node_message};
use trunkline_control_plane::replica::Replica;
use trunkline_control_plane::sealing::Sealing;
use trunkline_control_plane::state::State;
use trunkline_control_plane::store::{AnyStore, Embedded, Expected, Store, StoreError, Transaction};
use trunkline_proto::store::v1::{AdminToken, NodeRecord};
use trunkline_turn::credentials::Secret;

use crate::secrets;
use crate::start::Failure;
use crate::usage::unix_now;

/// A replica that runs.
pub struct OwnControlPlane {
    /// The way to it.
    pub endpoint: Endpoint,
    /// What the operator's requests to the HTTP API carry.
    pub admin_token: Secret,
    /// It ends with this value.
    pub replica: Replica,
}

impl OwnControlPlane {
    /// Opens the store of a data directory and starts the replica; both are made at the first start. Whoever can open
    /// `operator.sock` there is an administrator.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn start(directory: &Path) -> Result<Self, Failure> {
        let store = AnyStore::Embedded(Embedded::open(directory)?);
        let sealing = Sealing::open_or_create(&directory.join(STORE_KEY))?;
        let socket = directory.join(SOCKET);
        let started = Replica::in_process(store.clone(), sealing.clone(), Some(&socket));
        let (endpoint, replica) = started.await.map_err(|error| Failure::ControlPlane(error.to_string()))?;
        admit_this_server(replica.core()).await?;
        let admin_token = admin_token(&store, &sealing).await?;
        Ok(Self { endpoint, admin_token, replica })
    }
}

/// The one server is a member from the first start on.
async fn admit_this_server(core: &Core) -> Result<(), StoreError> {
    let plan = |state: &State| -> Result<Planned<()>, StoreError> {
        let record = NodeRecord {
            node: Some(node_message(LOCAL_NODE)),
            weight: 1.0,
            added_unix_s: unix_now().as_secs(),
            ..NodeRecord::default()
        };
        let is_member = state.nodes.contains_key(&LOCAL_NODE);
        let changes = if is_member { vec![] } else { vec![records::put(LOCAL_NODE, &record)] };
        Ok(Planned { checks: vec![], changes, touches_configuration: true, answer: () })
    };
    core.change(plan).await.map(drop)
}

/// The operator's token; made at the first start. A replica that opened the store has sealed an older version's.
async fn admin_token(store: &AnyStore, sealing: &Sealing) -> Result<Secret, Failure> {
    let key = records::key::<AdminToken>("");
    if let Some(entry) = store.get(&key).await? {
        let damaged = |fault: String| Failure::ControlPlane(format!("the store's record {key:?}: {fault}"));
        let kept = records::open::<AdminToken>(&entry).map_err(|error| damaged(error.to_string()))?;
        let clear = sealing.open(&key, &kept.record.sealed_token)?;
        let text = String::from_utf8(clear.to_vec()).map_err(|error| damaged(error.to_string()))?;
        return Ok(Secret::new(text));
    }
    let token = secrets::hex::<32>()?;
    let record = AdminToken { sealed_token: sealing.seal(&key, token.as_bytes()), ..AdminToken::default() };
    let changes = vec![records::put("", &record)];
    store.commit(Transaction { checks: vec![(key, Expected::Absent)], changes }).await?;
    Ok(Secret::new(token))
}

const STORE_KEY: &str = "store.key";
const SOCKET: &str = "operator.sock";
