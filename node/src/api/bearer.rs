//! `Authorization: Bearer …`, compared in constant time.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use subtle::ConstantTimeEq;

use super::Api;
use super::error::ApiError;

/// The token of a request. Whose it is, is still to be checked.
struct Bearer(String);

impl<S: Send + Sync> FromRequestParts<S> for Bearer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.split_once(' ')).and_then(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
        token.filter(|token| !token.is_empty()).map(Self).ok_or(ApiError::Unauthorized)
    }
}

/// Proof that a request carries the secret of the key that its path names, and that key's id.
pub(super) struct KeyHolder(pub String);

impl FromRequestParts<Arc<Api>> for KeyHolder {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let Bearer(secret) = Bearer::from_request_parts(parts, api).await?;
        let params = RawPathParams::from_request_parts(parts, api).await;
        let params = params.map_err(|_| ApiError::InvalidParams("the path is not UTF-8".to_owned()))?;
        let key_id =
            params.iter().find(|(name, _)| *name == "keyId").map(|(_, key_id)| key_id).unwrap_or_default();
        api.keys.authenticate(key_id, &secret)?;
        Ok(Self(key_id.to_owned()))
    }
}

/// Proof that a request carries the operator's token.
pub(super) struct Operator;

impl FromRequestParts<Arc<Api>> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let Bearer(token) = Bearer::from_request_parts(parts, api).await?;
        let is_right = bool::from(token.as_bytes().ct_eq(api.admin_token.reveal().as_bytes()));
        if is_right { Ok(Self) } else { Err(ApiError::Unauthorized) }
    }
}
