//! Credentials: minted with a key and revoked, as in the Calls API.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bearer::KeyHolder;
use super::body::Body;
use super::error::{ApiError, Refusal};
use super::{Shared, unix_now_s};
use crate::ice::IceServer;

/// What credentials are asked for.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GenerateRequest {
    /// Seconds until the credentials end, 1 to 172800.
    #[serde(default = "ttl_s_default")]
    #[schema(default = 86_400, minimum = 1, maximum = 172_800)]
    ttl: u64,
    /// Names the user behind the credentials: part of the username, and what quotas count by.
    #[schema(max_length = 256)]
    custom_identifier: Option<String>,
}

/// Everything an `RTCPeerConnection` needs.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct IceServers {
    ice_servers: Vec<IceServer>,
}

/// The same in one element.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OneIceServer {
    ice_servers: IceServer,
}

/// Mint credentials, as a list of ICE servers
#[utoipa::path(
    post, path = "/turn/keys/{keyId}/credentials/generate-ice-servers", tag = "credentials",
    params(("keyId" = String, Path)), request_body = GenerateRequest, security(("keySecret" = [])),
    responses(
        (status = 201, body = IceServers), (status = 400, body = Refusal), (status = 401, body = Refusal),
        (status = 404, body = Refusal), (status = 413, body = Refusal),
    )
)]
pub(super) async fn generate_ice_servers(
    State(api): Shared,
    KeyHolder(key_id): KeyHolder,
    Body(request): Body<GenerateRequest>,
) -> Result<(StatusCode, Json<IceServers>), ApiError> {
    let minted = api.keys.mint(&key_id, request.ttl, request.custom_identifier.as_deref(), unix_now_s())?;
    Ok((StatusCode::CREATED, Json(IceServers { ice_servers: api.reachable.ice_servers(minted) })))
}

/// Mint credentials, as one ICE server
#[utoipa::path(
    post, path = "/turn/keys/{keyId}/credentials/generate", tag = "credentials",
    params(("keyId" = String, Path)), request_body = GenerateRequest, security(("keySecret" = [])),
    responses(
        (status = 201, body = OneIceServer), (status = 400, body = Refusal), (status = 401, body = Refusal),
        (status = 404, body = Refusal), (status = 413, body = Refusal),
    )
)]
pub(super) async fn generate(
    State(api): Shared,
    KeyHolder(key_id): KeyHolder,
    Body(request): Body<GenerateRequest>,
) -> Result<(StatusCode, Json<OneIceServer>), ApiError> {
    let minted = api.keys.mint(&key_id, request.ttl, request.custom_identifier.as_deref(), unix_now_s())?;
    Ok((StatusCode::CREATED, Json(OneIceServer { ice_servers: api.reachable.ice_server(minted) })))
}

/// Refuse a username from now on and end its allocations
#[utoipa::path(
    post, path = "/turn/keys/{keyId}/credentials/{username}/revoke", tag = "credentials",
    params(("keyId" = String, Path), ("username" = String, Path)), security(("keySecret" = [])),
    responses(
        (status = 204), (status = 400, body = Refusal), (status = 401, body = Refusal),
        (status = 404, body = Refusal), (status = 503, body = Refusal),
    )
)]
pub(super) async fn revoke(
    State(api): Shared,
    KeyHolder(key_id): KeyHolder,
    Path((_, username)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    api.keys.revoke(&key_id, &username, unix_now_s()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A day: longer than most calls, shorter than a leak is useful.
const fn ttl_s_default() -> u64 {
    86_400
}
