//! A canary: no secret appears in a log, a metric or the store.

use trunkline_simulations::cluster::Cluster;

use crate::Named;
use crate::fleet::{Call, Check, ensure, on_cluster, settled};
use crate::joining::{named, text};

pub const TRIALS: &[Named] =
    &[("no_secret_appears_in_a_log_a_metric_or_the_store", || on_cluster(1, 1, &["1.1"], canary))];

fn canary(cluster: &mut Cluster) -> Check {
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
    let canaries = [
        ("the key's secret", secret.as_str()),
        ("the credential's password", &credentials.password),
        ("the token", &token),
        ("the token's secret", token_secret),
        ("the static user's password", "static-canary-password"),
    ];
    for (what, canary) in canaries {
        ensure(canary.len() >= 16, || format!("{what} is too short to look for"))?;
        ensure(!log.contains(canary), || format!("{what} is in a log"))?;
        ensure(!metrics.contains(canary), || format!("{what} is in the metrics"))?;
        for form in forms(canary) {
            ensure(!contains(&store, &form), || format!("{what} is in the store"))?;
        }
    }
    // The search itself works: what is no secret is found.
    ensure(contains(&store, id.as_bytes()) && log.contains("ready") | log.contains("epoch"), || {
        "the search finds nothing at all".into()
    })
}

/// The text itself, and the bytes it stands for when it is hexadecimal.
fn forms(text: &str) -> Vec<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| {
        std::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.len() == 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    std::iter::once(text.as_bytes().to_vec()).chain(bytes).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
