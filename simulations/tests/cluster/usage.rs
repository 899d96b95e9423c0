//! Usage adds up exactly over restarts of both sides, but for the last second of a killed server.

use std::time::{Duration, Instant};

use trunkline_simulations::cluster::{Cluster, wait_until};

use crate::Named;
use crate::fleet::{Call, Check, ensure, on_cluster, settled};
use crate::joining::{named, text};

pub const TRIALS: &[Named] = &[
    ("usage_adds_up_exactly_over_restarts_of_replicas_and_nodes", || {
        on_cluster(1, 2, &["1.1", "2.1"], exact)
    }),
    ("a_killed_node_loses_at_most_its_last_second_of_usage", || on_cluster(1, 1, &["1.1"], killed)),
];

fn exact(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1", "2.1"])?;
    let key = cluster.ctl().json(&["keys", "create", "metered"])?;
    let (id, secret) = (text(&key, "/key/id")?, text(&key, "/secret")?);
    std::thread::sleep(Duration::from_secs(1));
    let mut calls = vec![];
    for node in &cluster.nodes {
        calls.push(Call::of(node.client_as(named(&id, &secret, "ann"))?)?);
    }
    let mut delivered = 0;
    for round in 0..6 {
        for call in &mut calls {
            for number in 0..200 {
                delivered += u64::from(call.probe(number)?);
            }
        }
        // One replica after the other, and in the end a server that ends in order.
        let number = round % 2;
        cluster.replicas.remove(0);
        let replica = cluster.replica(number)?;
        cluster.replicas.push(replica);
    }
    let machine = cluster.machine.clone();
    cluster.nodes[0].process()?.terminate().map_err(|error| error.to_string())?;
    cluster.nodes[0].process()?.wait_for_exit(Duration::from_secs(20))?;
    cluster.nodes[0].kill();
    cluster.nodes[0].start(&machine)?;
    let expected = delivered * 4;
    ensure(delivered == 2_400, || format!("{delivered} of 2,400 probes came through"))?;
    let mut last = (0, 0);
    let found = wait_until("the usage is complete", Duration::from_secs(20), || {
        last = counted(cluster, &id)?;
        Ok(last == (expected, expected))
    });
    println!("{expected} payload bytes each way; counted {last:?}");
    found.map(|_| ()).map_err(|fault| format!("{fault}: {last:?} of {expected}"))
}

fn killed(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1"])?;
    let key = cluster.ctl().json(&["keys", "create", "metered"])?;
    let (id, secret) = (text(&key, "/key/id")?, text(&key, "/secret")?);
    std::thread::sleep(Duration::from_secs(1));
    let mut call = Call::of(cluster.nodes[0].client_as(named(&id, &secret, "ann"))?)?;
    let mut sent = vec![];
    let since = Instant::now();
    let mut number = 0;
    while since.elapsed() < Duration::from_secs(5) {
        if call.probe(number)? {
            sent.push(since.elapsed());
        }
        number += 1;
    }
    cluster.nodes[0].kill();
    let end = since.elapsed();
    let machine = cluster.machine.clone();
    cluster.nodes[0].start(&machine)?;
    // What was sent more than a second (and the journal's write) before the end must be counted.
    let sure = sent.iter().filter(|at| end - **at > Duration::from_millis(1_300)).count() as u64 * 4;
    let all = sent.len() as u64 * 4;
    let mut last = (0, 0);
    wait_until("what is sure is counted", Duration::from_secs(15), || {
        last = counted(cluster, &id)?;
        Ok(last.0 >= sure && last.1 >= sure)
    })
    .map_err(|fault| format!("{fault}: counted {last:?}, sure {sure}, sent {all}"))?;
    println!(
        "sent {all} bytes each way, counted {last:?}: the kill cost {} bytes of {}",
        all - last.0.min(all),
        all
    );
    ensure(last.0 <= all && last.1 <= all, || format!("counted {last:?}, more than the {all} sent"))
}

/// Payload bytes to peers and to clients of a key, all of today.
fn counted(cluster: &Cluster, key: &str) -> Result<(u64, u64), String> {
    let usage = cluster.ctl().json(&["usage", "--key", key, "--by", "key"])?;
    let entries = usage["entries"].as_array().cloned().unwrap_or_default();
    let sum = |name: &str| entries.iter().map(|entry| number(&entry[name])).sum();
    Ok((sum("bytes_to_peer"), sum("bytes_to_client")))
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}
