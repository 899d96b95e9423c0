//! Bad input: a clear error that names the field, and nothing stored.

use trunkline_simulations::cluster::{Cluster, Node};

use crate::Named;
use crate::fleet::{Check, ensure, on_cluster, settled};

pub const TRIALS: &[Named] = &[
    ("bad_input_is_refused_by_name_and_stores_nothing", || on_cluster(1, 1, &["1.1"], refused)),
    ("a_second_server_under_one_name_or_address_is_told", || on_cluster(1, 1, &["1.1"], twice)),
    ("a_relay_address_that_another_server_shares_is_refused", || on_cluster(1, 1, &["1.1"], overlapping)),
];

fn refused(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1"])?;
    let before = cluster.etcd.configuration_dump()?;
    let ctl = cluster.ctl();
    for (arguments, words) in [
        (&["weight", "1.1", "0"][..], &["weight", "drain"][..]),
        (&["weight", "1.1", "--", "-1"], &["weight"]),
        (&["weight", "1.1", "NaN"], &["weight"]),
        (&["weight", "9.9", "1"], &["9.9"]),
        (&["nodes", "add", "1.1"], &["1.1", "already"]),
        (&["nodes", "add", "0.1"], &["site", "0 is not"]),
        (&["nodes", "add", "70000.1"], &["70000"]),
        (&["nodes", "remove", "1.1", "--confirm-gone"], &["1.1"]),
        (&["keys", "create", ""], &["name"]),
        (&["keys", "delete", "no-such-key"], &["key"]),
        (&["policy", "allow-peer", "add", "10.0.0.1/8"], &["10.0.0.1/8"]),
        (&["policy", "allow-peer", "add", "127.0.0.0/8"], &["127.0.0.0/8"]),
    ] {
        ctl.refused(arguments, words)?;
    }
    for (text, words) in [
        ("user-quota = \n", &["line 1"][..]),
        ("user-quotta = 1\n", &["user-quotta"]),
        ("user-quota = -1\n", &["user-quota"]),
        ("max-lifetime = 5\n", &["max-lifetime"]),
        ("[policy]\npeer-allow = [\"300.0.0.0/8\"]\n", &["300.0.0.0/8"]),
    ] {
        let file = cluster.path("bad.toml");
        std::fs::write(&file, text).map_err(|error| error.to_string())?;
        ctl.refused(&["config", "apply", &file.to_string_lossy()], words)?;
    }
    let after = cluster.etcd.configuration_dump()?;
    ensure(before == after, || format!("something was stored:\n{before}\n{after}"))
}

fn twice(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1"])?;
    // A second server that takes encapsulated packets where the first does.
    let token = cluster.ctl().token("1.2")?;
    let clash = ["--encapsulation-address", "10.80.0.11:6080"];
    let mut second = start_clashing(cluster, &token, &clash)?;
    let clear = trunkline_simulations::cluster::wait_until(
        "the second server says what is wrong",
        std::time::Duration::from_secs(15),
        || {
            let log = second.as_ref().map(|running| running.log()).unwrap_or_default();
            Ok(log.contains("10.80.0.11:6080") && log.contains("1.1"))
        },
    );
    let log = second.take().map(|running| running.log()).unwrap_or_default();
    clear.map(|_| ()).map_err(|fault| format!("{fault}\n{log}"))
}

/// A second server that owns alone what the first shares.
fn overlapping(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1"])?;
    let token = cluster.ctl().token("1.2")?;
    let shared = trunkline_simulations::cluster::SHARED_RELAY.to_string();
    let second = Node::launch(
        &cluster.machine,
        &cluster.path("owner"),
        "1.2",
        &cluster.endpoints(),
        &token,
        &["--relay-address", &shared],
    )?;
    let words = [shared.as_str(), "node 1.1", "node 1.2", "--shared-relay-address"];
    let told = trunkline_simulations::cluster::wait_until(
        "the second server says what is wrong",
        std::time::Duration::from_secs(15),
        || Ok(words.iter().all(|word| second.log().contains(word))),
    );
    told.map(|_| ()).map_err(|fault| format!("{fault}\n{}", second.log()))?;
    let nodes = cluster.ctl().json(&["nodes"])?.to_string();
    let own = format!("\"own_relay_addresses\":[\"{shared}\"]");
    ensure(!nodes.contains(&own), || format!("it was stored: {nodes}"))
}

/// A server that need not become ready.
fn start_clashing(
    cluster: &Cluster,
    token: &str,
    arguments: &[&str],
) -> Result<Option<trunkline_simulations::process::Running>, String> {
    Node::launch(&cluster.machine, &cluster.path("clash"), "1.2", &cluster.endpoints(), token, arguments)
        .map(Some)
}
