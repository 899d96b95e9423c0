//! Management of TURN keys by the operator, through the control plane. A key's secret is shown once, when it is made.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::bearer::Operator;
use super::body::Body;
use super::error::{ApiError, Refusal};
use crate::keys::KeySummary;

/// A key's name.
#[derive(Deserialize, ToSchema)]
pub(super) struct KeyName {
    /// For people; 1 to 128 bytes.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
}

/// A key without its secret.
#[derive(Serialize, ToSchema)]
pub(super) struct Key {
    /// Part of every username made with it.
    id: String,
    /// For people.
    name: String,
    /// When it was made, in Unix seconds.
    created: u64,
}

/// A key that was just made.
#[derive(Serialize, ToSchema)]
pub(super) struct NewKey {
    #[serde(flatten)]
    key: Key,
    /// Told only now.
    secret: String,
}

/// All keys.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyList {
    /// Oldest first.
    keys: Vec<Key>,
}

impl From<KeySummary> for Key {
    fn from(summary: KeySummary) -> Self {
        Self { id: summary.id, name: summary.name, created: summary.created_unix_s }
    }
}

/// Make a key
#[utoipa::path(
    post, path = "/turn/keys", tag = "keys", request_body = KeyName, security(("adminToken" = [])),
    responses(
        (status = 201, body = NewKey), (status = 400, body = Refusal), (status = 401, body = Refusal), (status = 403, body = Refusal),
        (status = 503, body = Refusal),
    )
)]
pub(super) async fn create(
    State(api): Shared,
    _: Operator,
    Body(request): Body<KeyName>,
) -> Result<(StatusCode, Json<NewKey>), ApiError> {
    let made = api.keys.create(&request.name).await?;
    tracing::info!(key = made.summary.id, "key made");
    let secret = made.secret.reveal().to_owned();
    Ok((StatusCode::CREATED, Json(NewKey { key: made.summary.into(), secret })))
}

/// List all keys
#[utoipa::path(
    get, path = "/turn/keys", tag = "keys", security(("adminToken" = [])),
    responses((status = 200, body = KeyList), (status = 401, body = Refusal), (status = 403, body = Refusal))
)]
pub(super) async fn list(State(api): Shared, _: Operator) -> Result<Json<KeyList>, ApiError> {
    Ok(Json(KeyList { keys: api.keys.list().await?.into_iter().map(Key::from).collect() }))
}

/// Show a key
#[utoipa::path(
    get, path = "/turn/keys/{keyId}", tag = "keys", params(("keyId" = String, Path)), security(("adminToken" = [])),
    responses((status = 200, body = Key), (status = 401, body = Refusal), (status = 403, body = Refusal), (status = 404, body = Refusal))
)]
pub(super) async fn show(
    State(api): Shared,
    _: Operator,
    Path(key_id): Path<String>,
) -> Result<Json<Key>, ApiError> {
    Ok(Json(api.keys.show(&key_id).await?.into()))
}

/// Rename a key
#[utoipa::path(
    patch, path = "/turn/keys/{keyId}", tag = "keys", params(("keyId" = String, Path)), request_body = KeyName,
    security(("adminToken" = [])),
    responses(
        (status = 200, body = Key), (status = 400, body = Refusal), (status = 401, body = Refusal), (status = 403, body = Refusal),
        (status = 404, body = Refusal),
    )
)]
pub(super) async fn rename(
    State(api): Shared,
    _: Operator,
    Path(key_id): Path<String>,
    Body(request): Body<KeyName>,
) -> Result<Json<Key>, ApiError> {
    Ok(Json(api.keys.rename(&key_id, &request.name).await?.into()))
}

/// Delete a key, refuse all its credentials and end its allocations
#[utoipa::path(
    delete, path = "/turn/keys/{keyId}", tag = "keys", params(("keyId" = String, Path)),
    security(("adminToken" = [])),
    responses((status = 204), (status = 401, body = Refusal), (status = 403, body = Refusal), (status = 404, body = Refusal))
)]
pub(super) async fn delete(
    State(api): Shared,
    _: Operator,
    Path(key_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    api.keys.delete(&key_id).await?;
    tracing::info!(key = key_id, "key deleted");
    Ok(StatusCode::NO_CONTENT)
}
