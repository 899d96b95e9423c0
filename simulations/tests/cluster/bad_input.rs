//! Bad input: a clear error that names the field, and nothing stored.

use trunkline_simulations::cluster::{Cluster, Node};

use crate::Named;
use crate::fleet::{Check, ensure, on_cluster, settled};

pub const TRIALS: &[Named] = &[
    ("bad_input_is_refused_by_name_and_stores_nothing", || on_cluster(1, 1, &["1.1"], refused)),
    ("a_second_server_under_one_name_or_address_is_told", || on_cluster(1, 1, &["1.1"], twice)),
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
    let token = cluster.ctl().token("1.2")?;
    let before = cluster.etcd.configuration_dump()?;
    // A second server that takes encapsulated packets where the first does.
    let place = ["--encapsulation-address", "10.80.0.11:6080"];
    told(cluster, &token, &place, &["10.80.0.11:6080", "1.1"])?;
    // One that shares an address whose relay ports are all the first one's.
    let shared = ["--encapsulation-address", "10.80.0.12:6080", "--shared-relay-address", "10.80.0.11"];
    told(cluster, &token, &shared, &["relay ports of 10.80.0.11", "1.1", "--shared-relay-address"])?;
    let after = cluster.etcd.configuration_dump()?;
    ensure(before == after, || format!("something was stored:\n{before}\n{after}"))
}

/// Starts node 1.2 with what clashes, until its log says so.
fn told(cluster: &Cluster, token: &str, arguments: &[&str], words: &[&str]) -> Check {
    let second = start_clashing(cluster, token, arguments)?;
    let clear = trunkline_simulations::cluster::wait_until(
        "the second server says what is wrong",
        std::time::Duration::from_secs(15),
        || {
            let log = second.log();
            Ok(words.iter().all(|word| log.contains(word)))
        },
    );
    clear.map(|_| ()).map_err(|fault| format!("{fault}\n{}", second.log()))
}

/// A server that need not become ready.
fn start_clashing(
    cluster: &Cluster,
    token: &str,
    arguments: &[&str],
) -> Result<trunkline_simulations::process::Running, String> {
    Node::launch(&cluster.machine, &cluster.path("clash"), "1.2", &cluster.endpoints(), token, arguments)
}
