//! Credentials that end: revoked, expired, or gone with their key; and allocations that the operator ends.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use trunkline_simulations::turn_client::{Credentials, TurnClient};

use crate::Named;
use crate::site::{Carrier, Check, Family, Site, expect_refusal, on_site, relays_both_ways};

pub const TRIALS: &[Named] = &[
    ("a_revoked_username_is_cut_off_within_5_s", || on_site(&["--threads", "2"], revoked_username)),
    ("a_deleted_key_cuts_off_its_users_within_5_s", || on_site(&["--threads", "2"], deleted_key)),
    ("an_expired_credential_keeps_its_allocation_and_is_refused_a_refresh", || on_site(&[], expired)),
    ("allocations_are_listed_and_closed_over_the_api", || on_site(&["--threads", "2"], listed_and_closed)),
];

/// A key of the API.
struct Key {
    id: String,
    secret: String,
}

fn revoked_username(site: &mut Site) -> Check {
    let key = quickstart_key(site)?;
    let (doomed, other) = (mint(site, &key, 600, "doomed")?, mint(site, &key, 600, "other")?);
    let mut clients = clients_of(site, &doomed)?;
    let (mut bystander, at_bystander) = client_of(site, Carrier::Udp, &other)?;

    let path = format!("/v1/turn/keys/{}/credentials/{}/revoke", key.id, doomed.user);
    let revoked = Instant::now();
    let (status, answer) = site.http("POST", &path, &key.secret, &Value::Null)?;
    ensure!(status == 204, "revoke answered {status} {answer}");
    are_cut_off(&mut clients, revoked)?;

    expect_refusal(site.client_as(Carrier::Udp, doomed)?.allocate(), 401).context("Allocate")?;
    relays_both_ways(&mut bystander, at_bystander).context("another user of the key")
}

fn deleted_key(site: &mut Site) -> Check {
    let admin = site.node.text("/adminToken")?.to_owned();
    let (status, made) = site.http("POST", "/v1/turn/keys", &admin, &json!({ "name": "doomed" }))?;
    ensure!(status == 201, "making a key answered {status} {made}");
    let key = Key { id: text(&made, "/id")?, secret: text(&made, "/secret")? };
    let doomed = mint(site, &key, 600, "somebody")?;
    let mut clients = clients_of(site, &doomed)?;
    let other = mint(site, &quickstart_key(site)?, 600, "other")?;
    let (mut bystander, at_bystander) = client_of(site, Carrier::Tcp, &other)?;

    let deleted = Instant::now();
    let (status, answer) = site.http("DELETE", &format!("/v1/turn/keys/{}", key.id), &admin, &Value::Null)?;
    ensure!(status == 204, "DELETE answered {status} {answer}");
    are_cut_off(&mut clients, deleted)?;

    expect_refusal(site.client_as(Carrier::Tcp, doomed)?.allocate(), 401).context("Allocate")?;
    relays_both_ways(&mut bystander, at_bystander).context("a user of another key")
}

/// Clients on both shards, most likely, and of every transport.
fn clients_of(site: &Site, credentials: &Credentials) -> anyhow::Result<Vec<(TurnClient, SocketAddr)>> {
    let carriers = [Carrier::Udp, Carrier::Tcp, Carrier::Tls, Carrier::Udp, Carrier::Udp, Carrier::Tcp];
    carriers.into_iter().map(|carrier| client_of(site, carrier, credentials)).collect()
}

fn client_of(
    site: &Site,
    carrier: Carrier,
    credentials: &Credentials,
) -> anyhow::Result<(TurnClient, SocketAddr)> {
    let mut client = site.client_as(carrier, credentials.clone())?;
    let relayed = client.allocate()?.relayed;
    relays_both_ways(&mut client, relayed)?;
    Ok((client, relayed))
}

/// Waits until nothing is relayed any more for any of them, from and to the client, and Refresh is refused.
fn are_cut_off(clients: &mut [(TurnClient, SocketAddr)], since: Instant) -> Check {
    for (number, (client, relayed)) in clients.iter_mut().enumerate() {
        let (peer, address) = Family::V4.peer()?;
        peer.set_read_timeout(Some(Duration::from_millis(30)))?;
        loop {
            // The client may find its connection closed.
            let sent = client.send_indication(address, b"still there?").is_ok();
            let to_peer = sent && peer.recv_from(&mut [0; 100]).is_ok();
            peer.send_to(b"still there?", *relayed)?;
            let to_client = client.receive(Duration::from_millis(30)).is_ok();
            let refreshed = client.refresh(600);
            if !to_peer && !to_client && refreshed.is_err() {
                let code = refreshed.err().and_then(|error| error.code());
                ensure!(matches!(code, None | Some(401 | 437)), "Refresh was refused with {code:?}");
                break;
            }
            ensure!(
                since.elapsed() < CUT_OFF_WITHIN,
                "client {number} relays or refreshes after {CUT_OFF_WITHIN:?}"
            );
        }
    }
    let took = since.elapsed();
    println!("{} clients were cut off within {took:?}", clients.len());
    ensure!(took < CUT_OFF_WITHIN, "it took {took:?}");
    Ok(())
}

fn expired(site: &mut Site) -> Check {
    let credentials = mint(site, &quickstart_key(site)?, 2, "short")?;
    let expiry: u64 = credentials.user.split(':').next().context("no expiry")?.parse()?;
    let (mut client, relayed) = client_of(site, Carrier::Udp, &credentials)?;
    while SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() < expiry {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    // What was permitted goes on; nothing is permitted or prolonged any more.
    let (peer, address) = Family::V4.peer()?;
    client.send_indication(address, b"on")?;
    crate::site::expect_datagram(&peer, relayed, b"on")?;
    peer.send_to(b"and on", relayed)?;
    crate::site::expect_data(&mut client, address, b"and on")?;
    expect_refusal(client.refresh(600), 401).context("Refresh")?;
    ensure!(site.allocations()?.len() == 1, "the allocation ended with the credential");
    expect_refusal(site.client_as(Carrier::Udp, credentials)?.allocate(), 401).context("Allocate")
}

fn listed_and_closed(site: &mut Site) -> Check {
    let mut clients = Vec::new();
    for carrier in [Carrier::Udp, Carrier::Tcp, Carrier::Tls] {
        let (mut client, allocated) = site.allocated(carrier, Family::V4)?;
        relays_both_ways(&mut client, allocated.relayed)?;
        clients.push((client, allocated));
    }
    let listed = site.allocations()?;
    ensure!(listed.len() == clients.len(), "{listed:?}");
    let admin = site.node.text("/adminToken")?.to_owned();
    for ((client, allocated), transport) in clients.iter_mut().zip(["udp", "tcp", "tls"]) {
        let relayed = allocated.relayed.to_string();
        let found = listed.iter().find(|one| one["relays"][0] == relayed.as_str());
        let found = found.with_context(|| format!("{relayed} is not listed"))?;
        ensure!(found["transport"] == transport && found["username"] == "alice", "{found}");
        ensure!(found["client"] == allocated.mapped.to_string().as_str(), "{found}");
        ensure!(found["permissions"] == 1 && found["toPeer"]["packets"] == 1, "{found}");
        ensure!(found["toClient"]["bytes"] == b"to the client".len(), "{found}");

        let path = format!("/v1/allocations/{}", text(found, "/id")?);
        let (status, answer) = site.http("DELETE", &path, &admin, &Value::Null)?;
        ensure!(status == 204, "DELETE {path} answered {status} {answer}");
        ensure!(client.refresh(600).is_err(), "{transport}: refreshed after it was closed");
        ensure!(site.http("DELETE", &path, &admin, &Value::Null)?.0 == 404, "closed twice");
        ensure!(site.http("DELETE", &path, "guessed", &Value::Null)?.0 == 401, "closed by a stranger");
    }
    ensure!(site.allocations()?.is_empty(), "still listed");
    Ok(())
}

fn quickstart_key(site: &Site) -> anyhow::Result<Key> {
    Ok(Key {
        id: text(&site.node.quickstart, "/turnKey/id")?,
        secret: text(&site.node.quickstart, "/turnKey/secret")?,
    })
}

fn mint(site: &Site, key: &Key, ttl_s: u64, name: &str) -> anyhow::Result<Credentials> {
    let path = format!("/v1/turn/keys/{}/credentials/generate-ice-servers", key.id);
    let body = json!({ "ttl": ttl_s, "customIdentifier": name });
    let (status, answer) = site.http("POST", &path, &key.secret, &body)?;
    ensure!(status == 201, "generate-ice-servers answered {status} {answer}");
    Ok(Credentials::new(text(&answer, "/iceServers/1/username")?, text(&answer, "/iceServers/1/credential")?))
}

fn text(value: &Value, pointer: &str) -> anyhow::Result<String> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("no {pointer} in {value}"))?.to_owned())
}

/// What the documentation promises.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(5);
