//! Health checks. Alive: the process answers. Ready: it takes new allocations.

use axum::extract::State;
use axum::http::StatusCode;

use super::Shared;

/// 200 as long as the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 while new allocations are taken, 503 once the node ends.
pub(super) async fn readyz(State(api): Shared) -> (StatusCode, &'static str) {
    if api.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}
