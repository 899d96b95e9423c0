//! The HTTP API under `/v1`, the metrics, the health checks and the demo page.
//!
//! Requests without a Content-Type and with unknown query parameters or fields are accepted; refusals are JSON
//! `{"errorCode", "errorDescription"}`. Handlers decide nothing about relaying: they call [`Keys`] and [`Relay`].

mod allocations;
mod bearer;
mod body;
mod credentials;
mod demo;
mod error;
mod health;
mod keys;
mod metrics;
pub mod serve;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::DefaultBodyLimit;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::routing::{any, get};
use axum::{Json, Router};
use tower_http::cors::{Any, CorsLayer};
use tower_http::timeout::TimeoutLayer;
use trunkline_turn::credentials::Secret;
use trunkline_turn::{AllocationSummary, Counters};
use trunkline_wire::AllocationId;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::report::Health;
use crate::ice::Reachable;
use crate::keys::Keys;

/// A future of a [`Relay`].
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the API asks of the threads that relay.
pub trait Relay: Send + Sync + 'static {
    /// Every live allocation.
    fn allocations(&self) -> Answer<'_, Vec<AllocationSummary>>;
    /// Ends an allocation; whether it was there.
    fn close_allocation(&self, shard: u8, id: AllocationId) -> Answer<'_, bool>;
    /// Sums over all threads.
    fn counters(&self) -> Counters;
    /// Live allocations.
    fn allocation_count(&self) -> u64;
    /// Relay ports in use, of those that there are.
    fn port_usage(&self) -> (usize, usize);
}

/// What the handlers share.
pub struct Api {
    /// TURN keys.
    pub keys: Arc<Keys>,
    /// The threads that relay.
    pub relay: Arc<dyn Relay>,
    /// What `iceServers` name.
    pub reachable: Reachable,
    /// What the operator's requests carry.
    pub admin_token: Secret,
    /// Set once the node ends: not ready any more.
    pub ending: Arc<AtomicBool>,
    /// What the control plane wants of this server.
    pub health: Arc<Health>,
    /// When the node started.
    pub started_unix_s: u64,
}

impl Api {
    fn is_draining(&self) -> bool {
        self.ending.load(Ordering::Relaxed) || self.health.is_draining()
    }
}

/// The handlers' view of [`Api`].
type Shared = axum::extract::State<Arc<Api>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Trunkline",
        description = "TURN credentials, keys and allocations of a Trunkline server. Credential requests carry the \
                       secret of the key they name, all others the operator's token, as `Authorization: Bearer …`."
    ),
    modifiers(&Schemes)
)]
struct Document;

struct Schemes;

impl utoipa::Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = |description: &str| {
            SecurityScheme::Http(
                HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build(),
            )
        };
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(KEY_SECRET, scheme("The secret of the TURN key in the path"));
        components
            .add_security_scheme(ADMIN_TOKEN, scheme("The operator's token, adminToken in quickstart.json"));
    }
}

/// Everything that is served over HTTP.
pub fn router(api: Arc<Api>) -> Router {
    let (routes, document) =
        OpenApiRouter::with_openapi(Document::openapi()).nest("/v1", v1()).split_for_parts();
    let document = Arc::new(document);
    let v1 = routes
        .route("/v1/openapi.json", get(move || async move { Json(Arc::unwrap_or_clone(document)) }))
        .route("/v1/", any(error::unknown_path))
        .route("/v1/{*rest}", any(error::unknown_path))
        .method_not_allowed_fallback(error::unknown_method)
        .layer(cors());
    Router::new()
        .merge(v1)
        .merge(demo::router())
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(api)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIME_MAX))
}

fn v1() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(credentials::generate_ice_servers))
        .routes(routes!(credentials::generate))
        .routes(routes!(credentials::revoke))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::show, keys::rename, keys::delete))
        .routes(routes!(allocations::list))
        .routes(routes!(allocations::close))
}

/// Any web application may ask with a secret that its user holds; no cookie or other ambient authority is accepted.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE])
        .max_age(Duration::from_secs(3_600))
}

/// Seconds since 1970-01-01 UTC.
#[must_use]
pub fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Largest body of a request.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// From the end of the request's header to the answer, the body included.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);
/// Names of the security schemes in the OpenAPI document.
const KEY_SECRET: &str = "keySecret";
const ADMIN_TOKEN: &str = "adminToken";

#[cfg(test)]
mod tests;
