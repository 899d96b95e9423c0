//! `trunkline up`: the same control plane in one process, driven over its Unix socket.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use trunkline_simulations::cluster::{Ctl, wait_until};
use trunkline_simulations::netns::{Namespace, Veth};
use trunkline_simulations::server::{ScratchDirectory, Trunkline};
use trunkline_simulations::turn_client::TurnClient;

use crate::Named;
use crate::fleet::{Check, ensure};
use crate::joining::{named, text};

pub const TRIALS: &[Named] = &[
    ("trunkline_up_is_driven_over_its_socket_and_its_http_api_alike", alone),
    ("a_data_directory_of_version_0_1_0_keeps_its_keys", older),
];

fn alone() -> Check {
    let space = Arc::new(Namespace::new("alone").map_err(|error| error.to_string())?);
    let other = Namespace::new("beside").map_err(|error| error.to_string())?;
    Veth::connect(&space, "10.81.0.1/24", &other, "10.81.0.2/24").map_err(|error| error.to_string())?;
    let server = Trunkline::start(&space, &["--address", "10.81.0.1", "--http", "127.0.0.1:8080"])?;
    let ctl = Ctl::local(Arc::clone(&space), &server.data_directory().join("operator.sock"));
    let admin = server.quickstart_text("/adminToken")?.to_owned();
    let in_space = |method: &str, path: &str, body: &str| http(&space, &admin, method, path, body);

    // What is made on one side is seen on the other.
    let made = ctl.json(&["keys", "create", "from the command line"])?;
    let listed = in_space("GET", "/v1/turn/keys", "")?.to_string();
    ensure(listed.contains(&text(&made, "/key/id")?), || format!("the HTTP API lists {listed}"))?;
    let made = in_space("POST", "/v1/turn/keys", r#"{"name":"from the API"}"#)?;
    let listed = ctl.json(&["keys", "list"])?.to_string();
    ensure(listed.contains(&text(&made, "/id")?), || format!("trunklinectl lists {listed}"))?;

    let nodes = ctl.json(&["nodes"])?.to_string();
    ensure(nodes.contains("READY") || nodes.to_lowercase().contains("ready"), || nodes.clone())?;
    ctl.json(&["drain", "1.1", "--no-wait"])?;
    wait_until("it is not ready any more", Duration::from_secs(10), || Ok(ready_status(&space)? == 503))?;
    ctl.json(&["undrain", "1.1"])?;
    wait_until("it is ready again", Duration::from_secs(10), || Ok(ready_status(&space)? == 200))?;
    ctl.json(&["status"])?;
    ctl.json(&["usage"])?;
    ctl.json(&["allocations"])?;
    ctl.json(&["table", "show", "1"])?;
    ctl.json(&["slices"])?;
    let client = in_process_call(&server, &other)?;
    closed(&ctl, &other, client)?;
    applied(&ctl, server.data_directory())
}

fn in_process_call(server: &Trunkline, other: &Namespace) -> Result<TurnClient, String> {
    let key = |pointer| server.quickstart_text(pointer).map(str::to_owned);
    let credentials = named(&key("/turnKey/id")?, &key("/turnKey/secret")?, "ann");
    let allocated = other.enter(|| -> Result<TurnClient, String> {
        let (from, to) =
            ((Ipv4Addr::new(10, 81, 0, 2), 0).into(), (Ipv4Addr::new(10, 81, 0, 1), 3478).into());
        let mut client = TurnClient::udp(from, to, credentials).map_err(|error| error.to_string())?;
        client.allocate().map_err(|error| format!("Allocate: {error}"))?;
        Ok(client)
    });
    allocated.map_err(|error| error.to_string())?
}

/// An operator finds an allocation by its user and ends it; its client can make another.
fn closed(ctl: &Ctl, other: &Namespace, mut client: TurnClient) -> Check {
    let listed = ctl.json(&["allocations"])?;
    let id = text(&listed, "/allocations/0/id")?;
    ctl.json(&["allocations", "close", "1.1", &id])?;
    let left = ctl.json(&["allocations"])?;
    ensure(left["allocations"].as_array().is_none_or(Vec::is_empty), || format!("still there: {left}"))?;
    let refused = other.enter(|| client.refresh(600).err().map(|error| error.to_string()));
    let refused = refused.map_err(|error| error.to_string())?.ok_or("a closed allocation is refreshed")?;
    ensure(refused.contains("437"), || format!("refused otherwise: {refused}"))?;
    let again = other.enter(|| client.allocate().map(|_| ()).map_err(|error| error.to_string()));
    again.map_err(|error| error.to_string())?
}

/// Settings are shown first and changed then.
fn applied(ctl: &Ctl, directory: &std::path::Path) -> Check {
    let file = directory.join("settings.toml");
    std::fs::write(&file, "user-quota = 77\n").map_err(|error| error.to_string())?;
    let file = file.to_string_lossy().into_owned();
    let version = |ctl: &Ctl| ctl.json(&["config", "show"]).map(|shown| shown["version"].clone());
    let before = version(ctl)?;
    let would = ctl.json(&["config", "apply", &file, "--dry-run"])?.to_string();
    ensure(would.contains("77"), || format!("the dry run does not say what would change: {would}"))?;
    ensure(version(ctl)? == before, || "a dry run changed something".into())?;
    ctl.json(&["config", "apply", &file])?;
    let shown = ctl.json(&["config", "show"])?;
    ensure(shown.to_string().contains("77") && shown["version"] != before, || shown.to_string())
}

/// The fixture was written by version 0.1.0: a key of the quickstart and one that was made over the HTTP API.
fn older() -> Check {
    let space = Arc::new(Namespace::new("older").map_err(|error| error.to_string())?);
    let other = Namespace::new("beside").map_err(|error| error.to_string())?;
    Veth::connect(&space, "10.81.0.1/24", &other, "10.81.0.2/24").map_err(|error| error.to_string())?;
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/0.1.0");
    let data = ScratchDirectory::new()?;
    for name in ["trunkline.redb", "quickstart.json"] {
        let from = std::path::Path::new(fixture).join(name);
        std::fs::copy(from, data.path().join(name)).map_err(|error| error.to_string())?;
    }
    let database = data.path().join("trunkline.redb");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&database, mode).map_err(|error| error.to_string())?;
    let before = std::fs::read_to_string(data.path().join("quickstart.json"));
    let before: Value = serde_json::from_str(&before.map_err(|error| error.to_string())?)
        .map_err(|error| error.to_string())?;

    let server = Trunkline::start_on(&space, data, &["--address", "10.81.0.1", "--http", "127.0.0.1:8080"])?;
    for pointer in ["/turnKey/id", "/turnKey/secret", "/adminToken"] {
        let (now, then) = (server.quickstart_text(pointer)?, text(&before, pointer)?);
        ensure(now == then, || format!("{pointer} has changed"))?;
    }
    let ctl = Ctl::local(Arc::clone(&space), &server.data_directory().join("operator.sock"));
    let listed = ctl.json(&["keys", "list"])?.to_string();
    for kept in [&text(&before, "/turnKey/id")?, "45fba493ba4f4cfa7bdd3c9a22ddcb08", "kept from 0.1.0"] {
        ensure(listed.contains(kept), || format!("{kept} is not among the keys: {listed}"))?;
    }
    let admin = text(&before, "/adminToken")?;
    let listed = http(&space, &admin, "GET", "/v1/turn/keys", "")?.to_string();
    ensure(listed.contains("kept from 0.1.0"), || format!("the HTTP API lists {listed}"))?;
    let credentials = named(&text(&before, "/turnKey/id")?, &text(&before, "/turnKey/secret")?, "ann");
    let allocated = other.enter(|| -> Result<(), String> {
        let (from, to) =
            ((Ipv4Addr::new(10, 81, 0, 2), 0).into(), (Ipv4Addr::new(10, 81, 0, 1), 3478).into());
        let mut client = TurnClient::udp(from, to, credentials).map_err(|error| error.to_string())?;
        client.allocate().map(|_| ()).map_err(|error| format!("Allocate: {error}"))
    });
    allocated.map_err(|error| error.to_string())?
}

fn ready_status(space: &Namespace) -> Result<u16, String> {
    let asked = space.enter(|| {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        agent.get("http://127.0.0.1:8080/readyz").call().map(|response| response.status().as_u16())
    });
    asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn http(space: &Namespace, bearer: &str, method: &str, path: &str, body: &str) -> Result<Value, String> {
    let asked = space.enter(|| {
        let request =
            ureq::http::Request::builder().method(method).uri(format!("http://127.0.0.1:8080{path}"));
        let request = request.header("Authorization", format!("Bearer {bearer}")).body(body.to_owned());
        let request = request.map_err(|error| error.to_string())?;
        let mut response =
            ureq::Agent::new_with_defaults().run(request).map_err(|error| error.to_string())?;
        response.body_mut().read_to_string().map_err(|error| error.to_string())
    });
    let text = asked.map_err(|error| error.to_string())??;
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}
