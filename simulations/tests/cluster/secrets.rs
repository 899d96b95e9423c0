//! A canary: no secret appears in a log, a metric or the store.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use trunkline_control_plane::records;
use trunkline_control_plane::sealing::Sealing;
use trunkline_control_plane::store::{Entry, Revision};
use trunkline_proto::store::v1::FleetKey;
use trunkline_simulations::cluster::Cluster;

use crate::Named;
use crate::fleet::{Call, Check, ensure, on_cluster, settled};
use crate::joining::{named, text};

pub const TRIALS: &[Named] =
    &[("no_secret_appears_in_a_log_a_metric_or_the_store", || on_cluster(1, 1, &[], canary))];

/// Everybody logs all there is.
fn canary(cluster: &mut Cluster) -> Check {
    cluster.replicas.clear();
    let replica = cluster.replica_that_logs(0, "trace")?;
    cluster.replicas.push(replica);
    cluster.add_node("1.1", &["--log", "trace"])?;
    settled(&mut cluster.view()?, &["1.1"])?;
    let key = cluster.ctl().json(&["keys", "create", "canary"])?;
    let (id, secret) = (text(&key, "/key/id")?, text(&key, "/secret")?);
    let token = cluster.ctl().token("2.2")?;
    cluster.ctl().json(&["keys", "rotate-fleet-key"])?;
    let credentials = named(&id, &secret, "bird");
    trunkline_simulations::cluster::wait_until("the key works", std::time::Duration::from_secs(5), || {
        let call = Call::of(cluster.nodes[0].client_as(credentials.clone())?);
        Ok(call.is_ok())
    })?;
    let metrics = cluster.nodes[0].metrics()?;
    let store = cluster.etcd.dump()?;
    let log = cluster.log();
    let token_secret = token.split('.').nth(4).ok_or("an odd token")?;
    let keys = fleet_keys(cluster)?;
    let fleet = keys.iter().map(|key| ("a fleet key", key.clone()));
    let canaries = [
        ("the key's secret", secret.as_str()),
        ("the credential's password", &credentials.password),
        ("the token", &token),
        ("the token's secret", token_secret),
        ("the static user's password", "static-canary-password"),
    ];
    let canaries = canaries.map(|(what, text)| (what, text.as_bytes().to_vec()));
    for (what, canary) in canaries.into_iter().chain(fleet) {
        ensure(canary.len() >= 16, || format!("{what} is too short to look for"))?;
        for form in forms(&canary) {
            ensure(!contains(log.as_bytes(), &form), || format!("{what} is in a log"))?;
            ensure(!contains(metrics.as_bytes(), &form), || format!("{what} is in the metrics"))?;
            ensure(!contains(&store, &form), || format!("{what} is in the store"))?;
        }
    }
    // The search itself works: what is no secret is found.
    ensure(contains(&store, id.as_bytes()) && log.contains("ready") | log.contains("epoch"), || {
        "the search finds nothing at all".into()
    })
}

/// The fleet's keys in clear, as a replica opens them.
fn fleet_keys(cluster: &Cluster) -> Result<Vec<Vec<u8>>, String> {
    let sealing =
        Sealing::from_file(&cluster.authority.file("store.key")).map_err(|error| error.to_string())?;
    let mut keys = vec![];
    for id in 0..2 {
        let name = records::key::<FleetKey>(id);
        let mut value = cluster.etcd.etcdctl(&["get", &format!("trunkline/{name}"), "--print-value-only"])?;
        // etcdctl ends it with a line.
        value.pop();
        let entry = Entry { key: name.clone(), value, revision: Revision(1) };
        let kept = records::open::<FleetKey>(&entry).map_err(|error| error.to_string())?;
        let secret = sealing.open(&name, &kept.record.sealed_secret).map_err(|error| error.to_string())?;
        ensure(secret.len() == 16, || format!("fleet key {id} is none"))?;
        keys.push(secret.to_vec());
    }
    Ok(keys)
}

/// A secret itself, the bytes that it stands for where it is hexadecimal or Base64, and what either is written as.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut meant = vec![secret.to_vec()];
    if let Ok(text) = std::str::from_utf8(secret) {
        meant.extend(from_hexadecimal(text));
        meant.extend([STANDARD.decode(text), URL_SAFE_NO_PAD.decode(text)].into_iter().flatten());
    }
    let written = |bytes: &Vec<u8>| {
        let lower: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let upper = lower.to_uppercase();
        // Without padding it is found with padding as well.
        let base64 = [STANDARD_NO_PAD.encode(bytes), URL_SAFE_NO_PAD.encode(bytes)].map(String::into_bytes);
        let list = format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
        [lower.into_bytes(), upper.into_bytes(), list.into_bytes()]
            .into_iter()
            .chain(base64)
            .collect::<Vec<_>>()
    };
    let all = meant.iter().flat_map(written).collect::<Vec<_>>();
    meant.into_iter().chain(all).collect()
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs.collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
