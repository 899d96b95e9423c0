//! Client networks are refused where their packets arrive, and served again when the policy says so.

use std::time::Duration;

use trunkline_simulations::cluster::{Cluster, wait_until};

use crate::Named;
use crate::fleet::{Call, Check, ensure, on_cluster, settled};

pub const TRIALS: &[Named] =
    &[("a_denied_client_network_is_cut_off_and_served_again", || on_cluster(1, 1, &["1.1"], denied))];

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
