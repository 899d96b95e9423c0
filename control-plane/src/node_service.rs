//! What servers of the fleet ask and say: `NodeService` over a replica's core.
//!
//! A server speaks for itself alone: its name is its certificate's, whatever a message says.

mod bounds;
mod hello;
mod joining;
mod overlap;
mod reporting;
mod serving;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trunkline_proto::node::v1::node_service_server::NodeService;
use trunkline_proto::node::v1::{
    ControlMessage, JoinRequest, JoinResponse, NodeMessage, RenewRequest, RenewResponse, RevokeRequest,
    RevokeResponse,
};
use trunkline_proto::operator::v1::{Mutation, RevokeCredentialRequest};
use trunkline_wire::NodeId;

use crate::access::caller;
use crate::configuration::unix_now_s;
use crate::configurations::Configurations;
use crate::core::Core;
use crate::identity::Identity;
use crate::mutation::mutate;
use crate::operator_service;
use crate::pki::Issuer;

/// What a replica signs servers' certificates with, and what it tells them to trust.
pub struct Signer {
    /// The issuer's key and chain.
    pub issuer: Issuer,
    /// PEM of every root, read for each new certificate.
    pub roots: PathBuf,
}

/// The service. Clones are handles to the same one.
#[derive(Clone)]
pub struct NodeServiceImpl {
    core: Core,
    signer: Option<Arc<Signer>>,
    configurations: Arc<Configurations>,
    /// Becomes true when the replica ends.
    ending: watch::Receiver<bool>,
}

impl NodeServiceImpl {
    /// The service over a core; sessions end when `ending` becomes true.
    #[must_use]
    pub fn new(core: Core, signer: Option<Arc<Signer>>, ending: watch::Receiver<bool>) -> Self {
        Self { core, signer, configurations: Arc::default(), ending }
    }
}

/// The server that calls.
fn calling_node<T>(request: &Request<T>) -> Result<NodeId, Status> {
    let identity = caller(request)?;
    let nobody =
        || Status::permission_denied(format!("{identity} is no server; its certificate must name one"));
    identity.node().ok_or_else(nobody)
}

#[tonic::async_trait]
impl NodeService for NodeServiceImpl {
    type OpenSessionStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let signer = self.signer.as_deref().ok_or_else(no_signer)?;
        joining::join(&self.core, signer, request.into_inner()).await.map(Response::new)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let node = calling_node(&request)?;
        let signer = self.signer.as_deref().ok_or_else(no_signer)?;
        joining::renew(&self.core, signer, node, &request.into_inner()).map(Response::new)
    }

    async fn open_session(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let node = calling_node(&request)?;
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let (core, configurations) = (self.core.clone(), Arc::clone(&self.configurations));
        let server = serving::Server { core, configurations, node, outgoing: sender };
        let session =
            serving::Session { server, incoming: request.into_inner(), ending: self.ending.clone() };
        tokio::spawn(session.serve());
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let node = calling_node(&request)?;
        let RevokeRequest { key_id, username } = request.into_inner();
        let now = unix_now_s();
        let mutation = Mutation {
            idempotency_key: format!("{now} {}", hex_of(&username)),
            reason: "asked over the HTTP API".to_owned(),
        };
        let wanted = RevokeCredentialRequest { mutation: Some(mutation), key_id, username };
        mutate(&self.core, &Identity::Node(node), wanted, |state, request, epoch| {
            operator_service::revoke(state, request, now, epoch)
        })
        .await?;
        Ok(Response::new(RevokeResponse {}))
    }
}

/// A short name of a text of any length.
fn hex_of(text: &str) -> String {
    use sha2::Digest;
    crate::hex::encode(&sha2::Sha256::digest(text)[..16])
}

fn no_signer() -> Status {
    Status::failed_precondition(
        "this replica issues no certificates: start it with --issuer-cert and --issuer-key, or ask another",
    )
}

/// Messages to a server that wait for the connection.
const MESSAGES_MAX: usize = 16;
