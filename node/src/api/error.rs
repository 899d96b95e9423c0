//! Refusals: `{"errorCode", "errorDescription"}` with the codes of the Calls API.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::keys::KeyError;

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum ApiError {
    /// No bearer token, or a wrong one.
    Unauthorized,
    /// Not by this server.
    Forbidden(String),
    /// What the path names is not there.
    NotFound(&'static str),
    /// The path knows no such method.
    UnknownMethod,
    /// The body is not JSON, or not read.
    Decoding(String),
    /// The body is JSON and says something wrong.
    InvalidParams(String),
    /// The body is too large.
    PayloadTooLarge,
    /// Not now.
    Unavailable(String),
    /// Our fault; the log says more.
    Internal,
}

/// The body of every refusal.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Refusal {
    /// For programs.
    #[schema(example = "invalid_params")]
    error_code: &'static str,
    /// For people.
    #[schema(example = "ttl must be 1 to 172800 seconds")]
    error_description: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, error_code, error_description) = match self {
            Self::Unauthorized => {
                let description = "a valid `Authorization: Bearer …` header is needed".to_owned();
                (StatusCode::UNAUTHORIZED, "unauthorized", description)
            }
            Self::Forbidden(what) => (StatusCode::FORBIDDEN, "forbidden", what),
            Self::NotFound(what) => (StatusCode::NOT_FOUND, "not_found", what.to_owned()),
            Self::UnknownMethod => (
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_params",
                "this path knows no such method".to_owned(),
            ),
            Self::Decoding(what) => (StatusCode::BAD_REQUEST, "decoding_error", what),
            Self::InvalidParams(what) => (StatusCode::BAD_REQUEST, "invalid_params", what),
            Self::PayloadTooLarge => {
                let description = format!("the body is larger than {} bytes", super::BODY_BYTES_MAX);
                (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", description)
            }
            Self::Unavailable(what) => {
                (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable_error", what)
            }
            Self::Internal => {
                let description = "the server failed; its log says why".to_owned();
                (StatusCode::INTERNAL_SERVER_ERROR, "internal_error", description)
            }
        };
        let mut response = (status, Json(Refusal { error_code, error_description })).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::NotFound => Self::NotFound("there is no TURN key with this id"),
            KeyError::WrongSecret => Self::Unauthorized,
            KeyError::BadName
            | KeyError::BadTtl
            | KeyError::BadCustomIdentifier
            | KeyError::BadUsername(_)
            | KeyError::Refused(_) => Self::InvalidParams(error.to_string()),
            KeyError::Elsewhere => Self::Forbidden(error.to_string()),
            KeyError::Unavailable(_) => Self::Unavailable(error.to_string()),
            KeyError::Failed(fault) => {
                tracing::error!(fault, "a request could not be done");
                Self::Internal
            }
        }
    }
}

/// A path under `/v1` that is not there.
pub(super) async fn unknown_path() -> ApiError {
    ApiError::NotFound("there is no such path; /v1/openapi.json lists all")
}

/// A path with a method that it does not know.
pub(super) async fn unknown_method() -> ApiError {
    ApiError::UnknownMethod
}
