//! Credentials from the HTTP API and from a shared secret, used by a client that knows nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::site::{ALLOW_PEERS, Site, on_site};
use crate::uclient::{Route, Transport, Usage, be_refused, relay_everything};

/// `generate-ice-servers` issues credentials that work on every transport whose URL it names.
pub fn issued_credentials_relay() -> Result<(), String> {
    on_site(&ALLOW_PEERS, |site| {
        let (urls, username, credential) = issue(site)?;
        for (transport, url) in [
            (Transport::Udp, "turn:10.60.0.1:3478?transport=udp"),
            (Transport::Tcp, "turn:10.60.0.1:3478?transport=tcp"),
            (Transport::Tls, "turns:10.60.0.1:5349?transport=tcp"),
        ] {
            if !urls.iter().any(|candidate| candidate == url) {
                return Err(format!("{url} is not among the issued {urls:?}"));
            }
            let usage = Usage { transport, ..Usage::plain(Route::EchoingPeer) };
            relay_everything(site, usage, &["-u", &username, "-w", &credential])?;
        }
        Ok(())
    })
}

/// A revoked username is refused from then on.
pub fn revoked_credentials_are_refused() -> Result<(), String> {
    on_site(&ALLOW_PEERS, |site| {
        let (_, username, credential) = issue(site)?;
        let usage = Usage::plain(Route::EchoingPeer);
        relay_everything(site, usage, &["-u", &username, "-w", &credential])?;
        let (status, _) = post(site, &format!("credentials/{username}/revoke"), &json!({}))?;
        if status != 204 {
            return Err(format!("revoke answered {status}, not 204"));
        }
        be_refused(site, usage, &["-u", &username, "-w", &credential], "Cannot complete Allocation")
    })
}

/// `--static-auth-secret` accepts what an application makes by itself (uclient's `-W` does), and only that.
pub fn static_auth_secret_relays() -> Result<(), String> {
    let mut arguments = vec!["--static-auth-secret", "shared-with-the-application"];
    arguments.extend_from_slice(&ALLOW_PEERS);
    on_site(&arguments, |site| {
        let usage = Usage::plain(Route::EchoingPeer);
        relay_everything(site, usage, &["-u", "alice", "-W", "shared-with-the-application"])?;
        be_refused(site, usage, &["-u", "alice", "-W", "something-else"], "Cannot complete Allocation")
    })
}

/// Asks for credentials as an application's server would; returns the TURN URLs, the username and the
/// credential.
fn issue(site: &Site) -> Result<(Vec<String>, String, String), String> {
    let (status, answer) = post(site, "credentials/generate-ice-servers", &json!({ "ttl": 600 }))?;
    let unexpected = || format!("generate-ice-servers answered {status} {answer}");
    if status != 201 {
        return Err(unexpected());
    }
    let servers = answer["iceServers"].as_array().ok_or_else(unexpected)?;
    let turn = servers.iter().find(|server| server["credential"].is_string()).ok_or_else(unexpected)?;
    let urls: Option<Vec<String>> =
        turn["urls"].as_array().map(|urls| urls.iter().filter_map(text).collect());
    match (urls, text(&turn["username"]), text(&turn["credential"])) {
        (Some(urls), Some(username), Some(credential)) => Ok((urls, username, credential)),
        _ => Err(unexpected()),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Posts to a path under the quick-start key, from the client's namespace, with the key's secret.
fn post(site: &Site, path: &str, body: &Value) -> Result<(u16, Value), String> {
    let quickstart = |pointer| site.server.quickstart_text(pointer);
    let url = format!("{}/turn/keys/{}/{path}", quickstart("/api")?, quickstart("/turnKey/id")?);
    let bearer = format!("Bearer {}", quickstart("/turnKey/secret")?);
    let exchange = || -> Result<(u16, Value), ureq::Error> {
        let configuration = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = configuration.timeout_global(Some(HTTP_TIMEOUT)).build().new_agent();
        let mut response = agent.post(&url).header("Authorization", &bearer).send_json(body)?;
        let text = response.body_mut().read_to_string()?;
        Ok((response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null)))
    };
    let answer = site.client.enter(exchange).map_err(|error| error.to_string())?;
    answer.map_err(|error| format!("POST {url}: {error}"))
}

const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
