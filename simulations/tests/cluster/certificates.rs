//! Roles, and certificates that are replaced while everybody is connected.

use std::time::Duration;

use trunkline_simulations::cluster::{Cluster, wait_until};

use crate::Named;
use crate::fleet::{Call, Check, ensure, on_cluster, settled};

pub const TRIALS: &[Named] = &[
    ("roles_may_do_what_they_may_and_strangers_nothing", || on_cluster(1, 1, &["1.1"], roles)),
    ("certificates_are_replaced_without_a_dropped_connection", || on_cluster(1, 1, &["1.1"], replaced)),
];

fn roles(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1"])?;
    let (viewer, operator) = (cluster.ctl_as("viewer"), cluster.ctl_as("operator"));
    viewer.json(&["nodes"])?;
    viewer.refused(&["weight", "1.1", "2"], &["operator"])?;
    operator.json(&["weight", "1.1", "2"])?;
    operator.refused(&["keys", "create", "x"], &["admin"])?;
    operator.refused(&["nodes", "add", "3.3"], &["admin"])?;
    // Another fleet's operator.
    let strangers = trunkline_simulations::cluster::Authority::init(&cluster.path("strangers"))?;
    let identity = strangers.operator("admin");
    std::fs::copy(cluster.authority.operator("admin").join("roots.pem"), identity.join("roots.pem"))
        .map_err(|error| error.to_string())?;
    let stranger =
        trunkline_simulations::cluster::Ctl::new(cluster.outside.clone(), cluster.endpoints(), identity);
    let outcome = stranger.run(&["nodes"])?;
    ensure(outcome.code != Some(0), || format!("a stranger sees the nodes: {outcome:?}"))
}

fn replaced(cluster: &mut Cluster) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &["1.1"])?;
    let session = |cluster: &Cluster| cluster.replicas[0].running.log().matches("session open").count();
    let sessions = session(cluster);
    ensure(sessions == 1, || format!("{sessions} sessions before the change"))?;
    let before = view.status()?.certificate_expires_unix_s;
    let mut call = Call::begin(&cluster.nodes[0])?;
    let (mut number, mut lost) = (0, false);
    let fresh = cluster.path("fresh");
    cluster.authority.issue(&["replica", "r0", "--lifetime", "31536000"], &fresh)?;
    for name in ["key.pem", "cert.pem", "roots.pem"] {
        let to = cluster.path("r0").join(name);
        std::fs::copy(fresh.join(name), to).map_err(|error| error.to_string())?;
    }
    wait_until("new connections see the new certificate", Duration::from_secs(10), || {
        number += 1;
        ensure(call.probe(number)?, || format!("probe {number} is lost")).inspect_err(|_| lost = true)?;
        Ok(cluster.view()?.status()?.certificate_expires_unix_s > before)
    })?;
    ensure(!lost && call.probe(0)?, || "a packet was lost while the certificate was replaced".into())?;
    // The connection from before still answers, and the node's session is the same.
    view.status()?;
    ensure(session(cluster) == sessions, || "the node's session was dropped".into())
}
