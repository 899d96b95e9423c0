//! What operators ask and do: `OperatorService` over the state of a replica and its store.
//!
//! The access layer has decided who may call before a method begins. Each method reads the mirrored state or makes a
//! mutation of it; decisions are in the files beside this one, none of them here.

mod allocations;
mod fault;
mod fleet_keys;
mod keys;
mod members;
mod nodes;
mod peers;
mod rollout;
mod sightings;
pub(crate) mod slices;
mod status;
mod streams;
mod table;
mod usage;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prost::Message;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use trunkline_proto::operator::v1 as api;
use trunkline_proto::operator::v1::operator_service_server::OperatorService;
use trunkline_proto::store::v1::JoinToken as TokenRecord;
use trunkline_wire::NodeId;
use zeroize::Zeroizing;

use crate::access::caller;
use crate::core::Core;
use crate::event::unix_ms;
use crate::join_token::JoinToken;
use crate::mutation::mutate;
use crate::records::{Record, node_id};
use crate::store::Store;

pub use fault::Fault;
pub use keys::revoke;
pub use peers::{Connecting, Dial, dial};
pub use sightings::{DEAD_AFTER, Sightings};

/// What a replica is told besides its core.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// How other replicas are reached; none where there are no others.
    pub dial: Option<Dial>,
    /// SHA-256 of the root certificate (DER) that new servers will find; none without a certificate authority.
    pub root_sha256: Option<[u8; 32]>,
    /// When this replica's certificate ends, in Unix seconds; 0 without one. Changes with the certificate.
    pub certificate_expires_unix_s: Arc<AtomicU64>,
}

/// The service. Clones are handles to the same one.
#[derive(Clone)]
pub struct OperatorServiceImpl {
    core: Core,
    peers: peers::Peers,
    seen: Sightings,
    surroundings: Surroundings,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl OperatorServiceImpl {
    /// The service over a core.
    #[must_use]
    pub fn new(core: Core, surroundings: Surroundings) -> Self {
        let seen = Sightings::watch(core.subscribe());
        Self { core, peers: peers::Peers::new(surroundings.dial.clone()), seen, surroundings }
    }

    async fn added(&self, request: Request<api::AddNodeRequest>) -> Result<api::AddNodeResponse, Fault> {
        let caller = identity(&request)?;
        let request = request.into_inner();
        let node = nodes::named("node", request.node.as_ref())?;
        let now_unix_s = now_unix_s();
        let expires_unix_s = now_unix_s.saturating_add(members::token_lifetime_s(&request)?);
        let root = self.surroundings.root_sha256.ok_or_else(|| Fault::Unfit(NO_AUTHORITY.to_owned()))?;
        let token = JoinToken::generate(node, root)?;
        mutate(&self.core, &caller, request, |state, request, epoch| {
            members::add(state, request, &token, (now_unix_s, expires_unix_s), epoch)
        })
        .await
    }

    async fn removed(
        &self,
        request: Request<api::RemoveNodeRequest>,
    ) -> Result<api::MutationResponse, Fault> {
        let caller = identity(&request)?;
        let request = request.into_inner();
        let node = nodes::named("node", request.node.as_ref())?;
        let tokens = self.unused_tokens(node).await?;
        mutate(&self.core, &caller, request, |state, request, epoch| {
            members::remove(state, &self.seen, request, &tokens, epoch)
        })
        .await
    }

    /// Keys of the records of join tokens of a server.
    async fn unused_tokens(&self, node: NodeId) -> Result<Vec<String>, Fault> {
        let listing = self.core.store().list(TokenRecord::PREFIX).await?;
        let is_of_node = |value: &[u8]| {
            TokenRecord::decode(value).is_ok_and(|token| token.node.as_ref().and_then(node_id) == Some(node))
        };
        let tokens = listing.entries.into_iter().filter(|entry| is_of_node(&entry.value));
        Ok(tokens.map(|entry| entry.key).take(TOKENS_MAX).collect())
    }

    async fn made_key(
        &self,
        request: Request<api::CreateKeyRequest>,
    ) -> Result<api::CreateKeyResponse, Fault> {
        let caller = identity(&request)?;
        let request = request.into_inner();
        let fresh = keys::FreshKey::generate(&request.name, self.core.sealing(), now_unix_s())?;
        mutate(&self.core, &caller, request, |state, _, epoch| keys::create(state, &fresh, epoch)).await
    }

    async fn rotated(
        &self,
        request: Request<api::RotateFleetKeyRequest>,
    ) -> Result<api::MutationResponse, Fault> {
        let caller = identity(&request)?;
        let mut secret = Zeroizing::new([0; fleet_keys::SECRET_BYTES]);
        getrandom::fill(&mut *secret)?;
        let sealing = self.core.sealing();
        mutate(&self.core, &caller, request.into_inner(), |state, _, epoch| {
            fleet_keys::rotate(state, &secret, sealing, now_unix_s(), epoch)
        })
        .await
    }

    async fn applied(
        &self,
        request: Request<api::ApplySettingsRequest>,
    ) -> Result<api::ApplySettingsResponse, Fault> {
        let caller = identity(&request)?;
        let request = request.into_inner();
        let now = now_unix_s();
        if request.dry_run {
            return rollout::apply(&self.core.state(), &request, now).map(|plan| plan.answer);
        }
        mutate(&self.core, &caller, request, |state, request, _| rollout::apply(state, request, now)).await
    }
}

#[tonic::async_trait]
impl OperatorService for OperatorServiceImpl {
    type WatchNodesStream = Streamed<api::ListNodesResponse>;
    type WatchEventsStream = Streamed<api::Event>;

    async fn get_status(&self, _: Request<api::GetStatusRequest>) -> Result<Response<api::Status>, Status> {
        Ok(Response::new(status::view(&self.core, &self.surroundings).await))
    }

    async fn list_nodes(
        &self,
        request: Request<api::ListNodesRequest>,
    ) -> Result<Response<api::ListNodesResponse>, Status> {
        Ok(Response::new(nodes::list(&self.core.state(), &self.seen, request.get_ref())?))
    }

    async fn watch_nodes(
        &self,
        request: Request<api::ListNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let stream = streams::nodes(self.core.clone(), self.seen.clone(), request.into_inner())?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn add_node(
        &self,
        request: Request<api::AddNodeRequest>,
    ) -> Result<Response<api::AddNodeResponse>, Status> {
        Ok(Response::new(self.added(request).await?))
    }

    async fn remove_node(
        &self,
        request: Request<api::RemoveNodeRequest>,
    ) -> Result<Response<api::MutationResponse>, Status> {
        Ok(Response::new(self.removed(request).await?))
    }

    async fn set_drain(
        &self,
        request: Request<api::SetDrainRequest>,
    ) -> Result<Response<api::MutationResponse>, Status> {
        let caller = identity(&request)?;
        Ok(Response::new(mutate(&self.core, &caller, request.into_inner(), members::drain).await?))
    }

    async fn set_weight(
        &self,
        request: Request<api::SetWeightRequest>,
    ) -> Result<Response<api::MutationResponse>, Status> {
        let caller = identity(&request)?;
        Ok(Response::new(mutate(&self.core, &caller, request.into_inner(), members::weigh).await?))
    }

    async fn list_sites(
        &self,
        _: Request<api::ListSitesRequest>,
    ) -> Result<Response<api::ListSitesResponse>, Status> {
        Ok(Response::new(table::sites(&self.core.state(), &self.seen)))
    }

    async fn get_table(
        &self,
        request: Request<api::GetTableRequest>,
    ) -> Result<Response<api::Table>, Status> {
        Ok(Response::new(table::view(&self.core.state(), &self.seen, request.get_ref())?))
    }

    async fn list_slices(
        &self,
        request: Request<api::ListSlicesRequest>,
    ) -> Result<Response<api::ListSlicesResponse>, Status> {
        Ok(Response::new(slices::list(&self.core.state(), request.get_ref())?))
    }

    async fn list_keys(
        &self,
        _: Request<api::ListKeysRequest>,
    ) -> Result<Response<api::ListKeysResponse>, Status> {
        let state = self.core.state();
        let fleet_keys = fleet_keys::list(&state);
        Ok(Response::new(api::ListKeysResponse { keys: keys::list(&state), fleet_keys }))
    }

    async fn create_key(
        &self,
        request: Request<api::CreateKeyRequest>,
    ) -> Result<Response<api::CreateKeyResponse>, Status> {
        Ok(Response::new(self.made_key(request).await?))
    }

    async fn rename_key(
        &self,
        request: Request<api::RenameKeyRequest>,
    ) -> Result<Response<api::MutationResponse>, Status> {
        let caller = identity(&request)?;
        Ok(Response::new(mutate(&self.core, &caller, request.into_inner(), keys::rename).await?))
    }

    async fn delete_key(
        &self,
        request: Request<api::DeleteKeyRequest>,
    ) -> Result<Response<api::MutationResponse>, Status> {
        let caller = identity(&request)?;
        Ok(Response::new(mutate(&self.core, &caller, request.into_inner(), keys::delete).await?))
    }

    async fn revoke_credential(
        &self,
        request: Request<api::RevokeCredentialRequest>,
    ) -> Result<Response<api::MutationResponse>, Status> {
        let caller = identity(&request)?;
        let now = now_unix_s();
        let revoked = mutate(&self.core, &caller, request.into_inner(), |state, request, epoch| {
            keys::revoke(state, request, now, epoch)
        });
        Ok(Response::new(revoked.await?))
    }

    async fn rotate_fleet_key(
        &self,
        request: Request<api::RotateFleetKeyRequest>,
    ) -> Result<Response<api::MutationResponse>, Status> {
        Ok(Response::new(self.rotated(request).await?))
    }

    async fn get_settings(
        &self,
        _: Request<api::GetSettingsRequest>,
    ) -> Result<Response<api::GetSettingsResponse>, Status> {
        Ok(Response::new(rollout::current(&self.core.state())))
    }

    async fn apply_settings(
        &self,
        request: Request<api::ApplySettingsRequest>,
    ) -> Result<Response<api::ApplySettingsResponse>, Status> {
        Ok(Response::new(self.applied(request).await?))
    }

    async fn list_allocations(
        &self,
        request: Request<api::ListAllocationsRequest>,
    ) -> Result<Response<api::ListAllocationsResponse>, Status> {
        let caller = identity(&request)?;
        let found = allocations::list(&self.core, &self.peers, &caller, request.into_inner());
        Ok(Response::new(found.await?))
    }

    async fn close_allocation(
        &self,
        request: Request<api::CloseAllocationRequest>,
    ) -> Result<Response<api::MutationResponse>, Status> {
        let caller = identity(&request)?;
        let closed = allocations::close(&self.core, &self.peers, &caller, request.into_inner());
        Ok(Response::new(closed.await?))
    }

    async fn query_usage(
        &self,
        request: Request<api::QueryUsageRequest>,
    ) -> Result<Response<api::QueryUsageResponse>, Status> {
        Ok(Response::new(usage::query(self.core.store(), request.get_ref(), now_unix_s()).await?))
    }

    async fn watch_events(
        &self,
        request: Request<api::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let stream = streams::events(self.core.clone(), request.into_inner())?;
        Ok(Response::new(Box::pin(stream)))
    }
}

fn identity<T>(request: &Request<T>) -> Result<crate::identity::Identity, Fault> {
    caller(request).map_err(|status| Fault::Nameless(status.message().to_owned()))
}

fn now_unix_s() -> u64 {
    unix_ms() / 1_000
}

const NO_AUTHORITY: &str = "this control plane has no certificate authority, so no server can join it; run `trunkline \
                            control-plane` with --issuer-cert and --issuer-key";
/// Join tokens of one server that are deleted with it; more than that expire.
const TOKENS_MAX: usize = 50;
