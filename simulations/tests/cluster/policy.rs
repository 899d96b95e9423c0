//! Client networks are refused where their packets arrive, and served again when the policy says so.

use std::time::Duration;

use trunkline_simulations::cluster::{Cluster, wait_until};
use trunkline_simulations::mmdb;

use crate::Named;
use crate::fleet::{Call, Check, ensure, on_cluster, settled};

pub const TRIALS: &[Named] = &[
    ("a_denied_client_network_is_cut_off_and_served_again", || on_cluster(1, 1, &["1.1"], denied)),
    ("a_denied_as_number_is_cut_off_and_served_again", || on_cluster(1, 1, &[], denied_by_number)),
];

/// The operator's database says whose address the client's is.
fn denied_by_number(cluster: &mut Cluster) -> Check {
    let database = cluster.path("asn.mmdb");
    let entries = [("10.80.0.2/32", 64_500), ("192.0.2.0/24", 64_501)];
    std::fs::write(&database, mmdb::write(&entries)?).map_err(|error| error.to_string())?;
    cluster.add_node("1.1", &["--asn-database", &database.to_string_lossy()])?;
    settled(&mut cluster.view()?, &["1.1"])?;
    cluster.ctl().json(&["policy", "deny-asn", "add", "64501"])?;
    let mut call = Call::begin(&cluster.nodes[0])?;
    ensure(call.probe(1)?, || "nothing is relayed".into())?;
    cluster.ctl().json(&["policy", "deny-asn", "add", "64500"])?;
    wait_until("the live call ends", Duration::from_secs(20), || Ok(!call.probe(2)?))?;
    ensure(Call::begin(&cluster.nodes[0]).is_err(), || "a denied client has an allocation".into())?;
    // The file is replaced: the address is another's now.
    let entries = [("10.80.0.0/24", 64_502), ("192.0.2.0/24", 64_500)];
    std::fs::write(&database, mmdb::write(&entries)?).map_err(|error| error.to_string())?;
    wait_until("the client is served by the new database", Duration::from_secs(30), || {
        Call::begin(&cluster.nodes[0]).map(|_| true)
    })?;
    cluster.ctl().json(&["policy", "deny-asn", "add", "64502"])?;
    wait_until("it is refused again", Duration::from_secs(20), || {
        Ok(Call::begin(&cluster.nodes[0]).is_err())
    })?;
    cluster.ctl().json(&["policy", "deny-asn", "remove", "64502"])?;
    wait_until("and served", Duration::from_secs(20), || Ok(Call::begin(&cluster.nodes[0]).is_ok()))
        .map(|_| ())
}

fn denied(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1"])?;
    let mut call = Call::begin(&cluster.nodes[0])?;
    ensure(call.probe(1)?, || "nothing is relayed".into())?;
    cluster.ctl().json(&["policy", "deny-client", "add", "10.80.0.2/32"])?;
    wait_until("the live call ends", Duration::from_secs(20), || Ok(!call.probe(2)?))?;
    let refused = Call::begin(&cluster.nodes[0]).err().ok_or("a denied client has an allocation")?;
    println!("refused: {refused}");
    let metrics = cluster.nodes[0].metrics()?;
    let counted = metrics.lines().any(|line| line.contains("client_denied") && !line.ends_with(" 0"));
    ensure(counted, || "the drops are not counted as client_denied".into())?;
    cluster.ctl().json(&["policy", "deny-client", "remove", "10.80.0.2/32"])?;
    wait_until("the client is served again", Duration::from_secs(20), || {
        Ok(Call::begin(&cluster.nodes[0]).is_ok())
    })
    .map(|_| ())
}
