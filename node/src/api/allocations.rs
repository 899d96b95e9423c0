//! Live allocations, for the operator: listed, and ended.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use trunkline_turn::{AllocationSummary, Traffic};
use utoipa::ToSchema;

use super::Shared;
use super::bearer::Operator;
use super::error::{ApiError, Refusal};
use crate::allocation_name;

/// An allocation.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Allocation {
    /// Names it in this server until it ends.
    #[schema(example = "0-17-4")]
    id: String,
    /// Whose it is.
    username: String,
    /// The key that the username was made with.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    /// How the client reaches the server: `udp`, `tcp` or `tls`.
    transport: &'static str,
    /// The client's address as the server sees it.
    #[schema(value_type = String)]
    client: SocketAddr,
    /// The relayed transport addresses.
    #[schema(value_type = Vec<String>)]
    relays: Vec<SocketAddr>,
    /// Seconds since it was made.
    age: u64,
    /// Seconds until it ends unless it is refreshed.
    expires_in: u64,
    /// Permissions it holds.
    permissions: usize,
    /// Channels it holds.
    channels: usize,
    /// Relayed to peers.
    to_peer: Relayed,
    /// Relayed to the client.
    to_client: Relayed,
}

/// Packets and payload bytes.
#[derive(Serialize, ToSchema)]
pub(super) struct Relayed {
    packets: u64,
    bytes: u64,
}

/// Allocations, and how many there are.
#[derive(Serialize, ToSchema)]
pub(super) struct AllocationList {
    /// The oldest first, at most `limit`.
    allocations: Vec<Allocation>,
    /// How many match, listed or not.
    total: usize,
}

/// List live allocations
#[utoipa::path(
    get, path = "/allocations", tag = "allocations", security(("adminToken" = [])),
    params(
        ("keyId" = Option<String>, Query, description = "Only those of this key"),
        ("username" = Option<String>, Query, description = "Only those of this username"),
        ("limit" = Option<usize>, Query, description = "How many to list, 1 to 10000; 1000 by default"),
    ),
    responses((status = 200, body = AllocationList), (status = 400, body = Refusal), (status = 401, body = Refusal))
)]
pub(super) async fn list(
    State(api): Shared,
    _: Operator,
    RawQuery(query): RawQuery,
) -> Result<Json<AllocationList>, ApiError> {
    let wanted = Wanted::parse(query.as_deref().unwrap_or_default())?;
    let mut found = api.relay.allocations().await;
    found.retain(|allocation| wanted.matches(allocation));
    found.sort_by_key(|allocation| (std::cmp::Reverse(allocation.age_s), allocation.shard, allocation.id));
    let total = found.len();
    let allocations = found.into_iter().take(wanted.limit).map(Allocation::from).collect();
    Ok(Json(AllocationList { allocations, total }))
}

/// End an allocation
#[utoipa::path(
    delete, path = "/allocations/{allocationId}", tag = "allocations", params(("allocationId" = String, Path)),
    security(("adminToken" = [])),
    responses((status = 204), (status = 401, body = Refusal), (status = 404, body = Refusal))
)]
pub(super) async fn close(
    State(api): Shared,
    _: Operator,
    Path(allocation_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let gone = ApiError::NotFound("there is no such allocation");
    let Some((shard, id)) = allocation_name::parse(&allocation_id) else { return Err(gone) };
    if !api.relay.close_allocation(shard, id).await {
        return Err(gone);
    }
    tracing::info!(allocation = allocation_id, "allocation ended by the operator");
    Ok(StatusCode::NO_CONTENT)
}

impl From<AllocationSummary> for Allocation {
    fn from(summary: AllocationSummary) -> Self {
        Self {
            id: allocation_name::text(summary.shard, summary.id),
            username: summary.username,
            key_id: summary.key_id,
            transport: summary.transport.name(),
            client: summary.client,
            relays: summary.relays,
            age: summary.age_s,
            expires_in: summary.expires_in_s,
            permissions: summary.permissions,
            channels: summary.channels,
            to_peer: summary.to_peer.into(),
            to_client: summary.to_client.into(),
        }
    }
}

impl From<Traffic> for Relayed {
    fn from(traffic: Traffic) -> Self {
        Self { packets: traffic.packets, bytes: traffic.bytes }
    }
}

/// Which allocations a request asks for.
struct Wanted {
    key_id: Option<String>,
    username: Option<String>,
    limit: usize,
}

impl Wanted {
    /// Unknown parameters are passed over.
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut wanted = Self { key_id: None, username: None, limit: LIMIT_DEFAULT };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "keyId" => wanted.key_id = Some(value),
                "username" => wanted.username = Some(value),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    let wrong = || ApiError::InvalidParams(format!("limit must be 1 to {LIMIT_MAX}"));
                    wanted.limit = limit.ok_or_else(wrong)?;
                }
                _ => {}
            }
        }
        Ok(wanted)
    }

    fn matches(&self, allocation: &AllocationSummary) -> bool {
        self.key_id.as_ref().is_none_or(|key_id| allocation.key_id.as_ref() == Some(key_id))
            && self.username.as_ref().is_none_or(|username| allocation.username == *username)
    }
}

const LIMIT_DEFAULT: usize = 1_000;
const LIMIT_MAX: usize = 10_000;
