//! The API as an application and an operator see it, without a network.

use std::sync::Mutex;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use serde_json::{Value, json};
use tower::ServiceExt;
use trunkline_turn::Traffic;
use trunkline_turn::credentials::time_limited_password;
use trunkline_wire::{DropReason, Now, Transport};

use super::*;
use crate::keys::{Management, fixture};

const ADMIN: &str = "the operator's token";

/// Threads that relay, as far as the API can tell.
struct Relayed {
    allocations: Mutex<Vec<AllocationSummary>>,
}

impl Relay for Relayed {
    fn allocations(&self) -> Answer<'_, Vec<AllocationSummary>> {
        Box::pin(async { self.allocations.lock().unwrap().clone() })
    }

    fn close_allocation(&self, shard: u8, id: AllocationId) -> Answer<'_, bool> {
        Box::pin(async move {
            let mut allocations = self.allocations.lock().unwrap();
            let before = allocations.len();
            allocations.retain(|allocation| (allocation.shard, allocation.id) != (shard, id));
            allocations.len() < before
        })
    }

    fn counters(&self) -> Counters {
        let mut counters =
            Counters { requests: [1, 2, 3, 4, 5], allocations_opened: 9, ..Counters::default() };
        counters.drops.count(DropReason::NoPermission);
        counters.to_peer = Traffic { packets: 7, bytes: 700 };
        counters
    }

    fn allocation_count(&self) -> u64 {
        self.allocations.lock().unwrap().len() as u64
    }

    fn port_usage(&self) -> (usize, usize) {
        (0, 56_320)
    }
}

struct Server {
    api: Arc<Api>,
    id: String,
    secret: String,
    _directory: tempfile::TempDir,
}

struct Response {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Status and errorCode, which a description must accompany.
    fn refusal(&self) -> (u16, String) {
        let json = self.json();
        assert!(json["errorDescription"].as_str().is_some_and(|text| !text.is_empty()), "{json}");
        (self.status, json["errorCode"].as_str().unwrap_or_default().to_owned())
    }
}

fn summary(shard: u8, index: u32, username: &str) -> AllocationSummary {
    AllocationSummary {
        id: AllocationId { index, generation: 4 },
        shard,
        username: username.to_owned(),
        key_id: Some("k1".to_owned()),
        transport: Transport::Tls,
        client: "192.0.2.50:50000".parse().unwrap(),
        relays: vec!["[2001:db8::1]:50001".parse().unwrap()],
        expires_in_s: 599,
        age_s: u64::from(index),
        permissions: 2,
        channels: 1,
        to_peer: Traffic { packets: 1, bytes: 100 },
        to_client: Traffic::default(),
    }
}

async fn server() -> Server {
    let directory = tempfile::tempdir().unwrap();
    let keys = fixture::open(directory.path(), Management::Here).await;
    let key = keys.create("test").await.unwrap();
    let ip = "192.0.2.1".parse().unwrap();
    let allocations = vec![summary(0, 17, "a"), summary(1, 17, "b"), summary(1, 18, "b")];
    let api = Arc::new(Api {
        keys: Arc::new(keys),
        relay: Arc::new(Relayed { allocations: Mutex::new(allocations) }),
        reachable: Reachable { addresses: vec![ip], turn_port: 3478, tls_port: 5349 },
        admin_token: Secret::new(ADMIN.to_owned()),
        ending: Arc::default(),
        health: Arc::new(Health::new(None, vec![])),
        started_unix_s: 1_700_000_000,
    });
    Server { api, id: key.summary.id, secret: key.secret.reveal().to_owned(), _directory: directory }
}

impl Server {
    async fn send(&self, request: Request<Body>) -> Response {
        let response = router(Arc::clone(&self.api)).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 16 * 1024 * 1024).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Response { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// A request without a Content-Type.
    async fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> Response {
        let request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn admin(&self, method: &str, path: &str, body: &str) -> Response {
        self.ask(method, path, ADMIN, body).await
    }

    async fn key(&self, path: &str, body: &str) -> Response {
        self.ask("POST", &format!("/v1/turn/keys/{}/credentials/{path}", self.id), &self.secret, body).await
    }

    fn accepts(&self, username: &str) -> bool {
        let credentials = self.api.keys.credentials();
        credentials.lookup(username.as_bytes(), "r", Now { monotonic_ns: 0, unix_s: unix_now_s() }).is_ok()
    }
}

#[tokio::test]
async fn ice_servers_hold_credentials_that_the_relay_accepts() {
    let server = server().await;
    let response =
        server.key("generate-ice-servers?unknown=1", r#"{"ttl":3600,"customIdentifier":"bob","x":1}"#).await;
    assert_eq!(response.status, 201);
    let servers = &response.json()["iceServers"];
    assert_eq!(servers[0], json!({ "urls": ["stun:192.0.2.1:3478"] }));
    let urls = json!([
        "turn:192.0.2.1:3478?transport=udp",
        "turn:192.0.2.1:3478?transport=tcp",
        "turns:192.0.2.1:5349?transport=tcp"
    ]);
    assert_eq!(servers[1]["urls"], urls);
    let username = servers[1]["username"].as_str().unwrap();
    let (expiry, rest) = username.split_once(':').unwrap();
    assert_eq!(rest, format!("{}:bob", server.id));
    assert!(expiry.parse::<u64>().unwrap().abs_diff(unix_now_s() + 3600) <= 2);
    let password = time_limited_password(&Secret::new(server.secret.clone()), username).unwrap();
    assert_eq!(servers[1]["credential"], password.as_str());
    assert!(server.accepts(username));
}

#[tokio::test]
async fn generate_answers_with_one_ice_server() {
    let server = server().await;
    let response = server.key("generate", "").await;
    let one = &response.json()["iceServers"];
    assert_eq!((response.status, one["urls"].as_array().unwrap().len()), (201, 4));
    assert!(server.accepts(one["username"].as_str().unwrap()));
}

#[tokio::test]
async fn a_revoked_username_is_refused_by_the_relay() {
    let server = server().await;
    let minted = server.key("generate", r#"{"ttl":60,"customIdentifier":"a/b ü"}"#).await.json();
    let username = minted["iceServers"]["username"].as_str().unwrap().to_owned();
    assert!(server.accepts(&username));
    let encoded = percent_encoding::utf8_percent_encode(&username, percent_encoding::NON_ALPHANUMERIC);
    for _ in 0..2 {
        let response = server.key(&format!("{encoded}/revoke"), "").await;
        assert_eq!((response.status, response.text.as_str()), (204, ""));
    }
    assert!(!server.accepts(&username));
    assert_eq!(server.key("alice/revoke", "").await.refusal(), (400, "invalid_params".to_owned()));
}

#[tokio::test]
async fn bad_bodies_are_refused_by_their_fault() {
    let server = server().await;
    for (body, status, code) in [
        ("{", 400, "decoding_error"),
        ("\u{0}", 400, "decoding_error"),
        (r#"{"ttl":0}"#, 400, "invalid_params"),
        (r#"{"ttl":172801}"#, 400, "invalid_params"),
        (r#"{"ttl":-1}"#, 400, "invalid_params"),
        (r#"{"ttl":"60"}"#, 400, "invalid_params"),
        (r#"[]"#, 400, "invalid_params"),
        (r#"{"customIdentifier":"a\u0007"}"#, 400, "invalid_params"),
    ] {
        assert_eq!(server.key("generate", body).await.refusal(), (status, code.to_owned()), "{body}");
    }
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(BODY_BYTES_MAX));
    assert_eq!(server.key("generate", &large).await.refusal(), (413, "payload_too_large".to_owned()));
}

#[tokio::test]
async fn only_the_keys_secret_mints_and_only_the_operators_token_manages() {
    let server = server().await;
    let path = format!("/v1/turn/keys/{}/credentials/generate", server.id);
    let refused = (401, "unauthorized".to_owned());
    for token in ["", "guess", ADMIN] {
        let response = server.ask("POST", &path, token, "{").await;
        assert_eq!(response.refusal(), refused, "{token}");
        assert_eq!(response.headers["www-authenticate"], "Bearer");
    }
    let bare = Request::post(&path).body(Body::empty()).unwrap();
    assert_eq!(server.send(bare).await.refusal(), refused);
    let basic = Request::post(&path).header("authorization", format!("Basic {}", server.secret));
    assert_eq!(server.send(basic.body(Body::empty()).unwrap()).await.refusal(), refused);
    for (method, path) in [
        ("GET", "/v1/turn/keys".to_owned()),
        ("POST", "/v1/turn/keys".to_owned()),
        ("GET", format!("/v1/turn/keys/{}", server.id)),
        ("PATCH", format!("/v1/turn/keys/{}", server.id)),
        ("DELETE", format!("/v1/turn/keys/{}", server.id)),
        ("GET", "/v1/allocations".to_owned()),
        ("DELETE", "/v1/allocations/0-17-4".to_owned()),
    ] {
        assert_eq!(
            server.ask(method, &path, &server.secret, "{}").await.refusal(),
            refused,
            "{method} {path}"
        );
    }
    let unknown = server.ask("POST", "/v1/turn/keys/none/credentials/generate", &server.secret, "").await;
    assert_eq!(unknown.refusal(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a_key_lives_from_create_to_delete_and_shows_its_secret_once() {
    let server = server().await;
    let made = server.admin("POST", "/v1/turn/keys", r#"{"name":"app"}"#).await;
    assert_eq!(made.status, 201);
    let (id, secret) =
        (made.json()["id"].as_str().unwrap().to_owned(), made.json()["secret"].as_str().unwrap().to_owned());
    let path = format!("/v1/turn/keys/{id}");
    let shown = server.admin("GET", &path, "").await;
    assert_eq!((shown.status, shown.json()["name"].as_str()), (200, Some("app")));
    let renamed = server.admin("PATCH", &path, r#"{"name":"web"}"#).await;
    assert_eq!((renamed.status, renamed.json()["name"].as_str()), (200, Some("web")));
    let list = server.admin("GET", "/v1/turn/keys", "").await;
    assert_eq!(list.json()["keys"].as_array().unwrap().len(), 2);
    for response in [&shown, &renamed, &list] {
        assert!(
            !response.text.contains(&secret) && !response.text.contains(&server.secret),
            "{}",
            response.text
        );
    }
    assert_eq!(
        server.admin("PATCH", &path, r#"{"name":""}"#).await.refusal(),
        (400, "invalid_params".to_owned())
    );
    assert_eq!(server.admin("PATCH", &path, "{}").await.refusal(), (400, "invalid_params".to_owned()));
    assert_eq!(server.admin("DELETE", &path, "").await.status, 204);
    for (method, body) in [("DELETE", ""), ("GET", ""), ("PATCH", r#"{"name":"x"}"#)] {
        assert_eq!(
            server.admin(method, &path, body).await.refusal(),
            (404, "not_found".to_owned()),
            "{method}"
        );
    }
}

#[tokio::test]
async fn allocations_are_listed_and_ended() {
    let server = server().await;
    let all = server.admin("GET", "/v1/allocations", "").await.json();
    assert_eq!((all["total"].as_u64(), all["allocations"][0]["id"].as_str()), (Some(3), Some("1-18-4")));
    assert_eq!(
        all["allocations"][1],
        json!({
            "id": "0-17-4", "username": "a", "keyId": "k1", "transport": "tls", "client": "192.0.2.50:50000",
            "relays": ["[2001:db8::1]:50001"], "age": 17, "expiresIn": 599, "permissions": 2, "channels": 1,
            "toPeer": { "packets": 1, "bytes": 100 }, "toClient": { "packets": 0, "bytes": 0 },
        })
    );
    let one = server.admin("GET", "/v1/allocations?username=b&limit=1&other=x", "").await.json();
    assert_eq!((one["total"].as_u64(), one["allocations"].as_array().map(Vec::len)), (Some(2), Some(1)));
    assert_eq!(server.admin("GET", "/v1/allocations?keyId=k2", "").await.json()["total"], 0);
    for limit in ["0", "10001", "x", "-1"] {
        let response = server.admin("GET", &format!("/v1/allocations?limit={limit}"), "").await;
        assert_eq!(response.refusal(), (400, "invalid_params".to_owned()), "{limit}");
    }
    assert_eq!(server.admin("DELETE", "/v1/allocations/0-17-4", "").await.status, 204);
    for id in ["0-17-4", "0-17-5", "0-17", "x", "300-1-1", "0-17-4-1"] {
        let response = server.admin("DELETE", &format!("/v1/allocations/{id}"), "").await;
        assert_eq!(response.refusal(), (404, "not_found".to_owned()), "{id}");
    }
    assert_eq!(server.api.relay.allocation_count(), 2);
}

#[tokio::test]
async fn a_web_application_of_any_origin_may_ask() {
    let server = server().await;
    let preflight = Request::options(format!("/v1/turn/keys/{}/credentials/generate", server.id))
        .header("origin", "https://app.example.org")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type");
    let response = server.send(preflight.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.headers["access-control-allow-origin"], "*");
    assert!(response.headers["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    assert!(response.headers["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    let refused = server.key("generate", "{").await;
    assert_eq!(refused.headers["access-control-allow-origin"], "*", "a refusal must be readable too");
}

#[tokio::test]
async fn the_openapi_document_describes_every_route() {
    let server = server().await;
    let request = Request::get("/v1/openapi.json").body(Body::empty()).unwrap();
    let document = server.send(request).await.json();
    let mut described: Vec<String> = vec![];
    for (path, methods) in document["paths"].as_object().unwrap() {
        described.extend(methods.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
    }
    described.sort();
    assert_eq!(
        described,
        [
            "delete /v1/allocations/{allocationId}",
            "delete /v1/turn/keys/{keyId}",
            "get /v1/allocations",
            "get /v1/turn/keys",
            "get /v1/turn/keys/{keyId}",
            "patch /v1/turn/keys/{keyId}",
            "post /v1/turn/keys",
            "post /v1/turn/keys/{keyId}/credentials/generate",
            "post /v1/turn/keys/{keyId}/credentials/generate-ice-servers",
            "post /v1/turn/keys/{keyId}/credentials/{username}/revoke",
        ]
    );
    assert!(document["components"]["securitySchemes"]["keySecret"].is_object());
    assert!(document["components"]["schemas"]["IceServer"].is_object());
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_in_json() {
    let server = server().await;
    for path in ["/v1/nothing", "/v1/turn/keys/x/y", "/v1/"] {
        assert_eq!(server.admin("GET", path, "").await.refusal(), (404, "not_found".to_owned()), "{path}");
    }
    let response = server.admin("PUT", "/v1/turn/keys", "").await;
    assert_eq!(response.refusal(), (405, "invalid_params".to_owned()));
}

#[tokio::test]
async fn ready_until_it_drains_and_alive_until_it_ends() {
    let server = server().await;
    let status = async |path: &str| server.send(Request::get(path).body(Body::empty()).unwrap()).await.status;
    assert_eq!((status("/healthz").await, status("/readyz").await), (200, 200));
    server.api.ending.store(true, Ordering::Relaxed);
    assert_eq!((status("/healthz").await, status("/readyz").await), (200, 503));
}

#[tokio::test]
async fn every_metric_is_described_and_counted() {
    let server = server().await;
    let response = server.send(Request::get("/metrics").body(Body::empty()).unwrap()).await;
    assert_eq!(response.status, 200);
    assert!(response.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    for line in [
        "trunkline_turn_requests_total{method=\"binding\"} 1",
        "trunkline_turn_requests_total{method=\"channel_bind\"} 5",
        "trunkline_turn_error_responses_total{code=\"437\"} 0",
        "trunkline_turn_dropped_packets_total{reason=\"no_permission\"} 1",
        "trunkline_turn_relayed_bytes_total{direction=\"to_peer\"} 700",
        "trunkline_turn_allocations_opened_total 9",
        "trunkline_turn_allocations 3",
        "trunkline_turn_relay_ports{state=\"free\"} 56320",
        "trunkline_node_draining 0",
    ] {
        assert!(response.text.lines().any(|found| found == line), "{line} is not in\n{}", response.text);
    }
    for line in response.text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(response.text.contains(&format!("# HELP {name} ")), "{name} has no description");
    }
}

#[tokio::test]
async fn the_demo_page_is_served_with_a_strict_policy() {
    let server = server().await;
    let page = server.send(Request::get("/").body(Body::empty()).unwrap()).await;
    assert_eq!(
        (page.status, page.headers["content-type"].to_str().unwrap()),
        (200, "text/html; charset=utf-8")
    );
    assert!(page.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    assert!(page.headers.get("access-control-allow-origin").is_none());
    let mut parts = 0;
    for link in page.text.split(['"', '\'']).filter(|text| text.starts_with("demo/")) {
        let part = server.send(Request::get(format!("/{link}")).body(Body::empty()).unwrap()).await;
        assert_eq!(part.status, 200, "{link}");
        assert_eq!(part.headers["x-content-type-options"], "nosniff");
        parts += 1;
    }
    assert!(parts >= 3, "{parts}");
    assert_eq!(server.send(Request::get("/demo/none.js").body(Body::empty()).unwrap()).await.status, 404);
}
