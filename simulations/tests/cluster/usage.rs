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
    ("usage_journalled_without_a_control_plane_is_counted_once_by_the_next", || {
        on_cluster(1, 2, &["1.1"], journalled)
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

/// The replicas are killed before the traffic and the server after it; what it wrote down is counted when all are back,
/// and once, although the first replica that counts is killed as well.
fn journalled(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1"])?;
    let key = cluster.ctl().json(&["keys", "create", "metered"])?;
    let (id, secret) = (text(&key, "/key/id")?, text(&key, "/secret")?);
    std::thread::sleep(Duration::from_secs(1));
    let mut call = Call::of(cluster.nodes[0].client_as(named(&id, &secret, "ann"))?)?;
    cluster.replicas.clear();
    let mut delivered = 0;
    for round in 0..5 {
        for number in 0..200 {
            delivered += u64::from(call.probe(round * 200 + number)?);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    // Two of the journal's seconds: all of it is written down.
    std::thread::sleep(Duration::from_millis(2_200));
    cluster.nodes[0].kill();
    let machine = cluster.machine.clone();
    cluster.nodes[0].start(&machine)?;
    let first = cluster.replica(0)?;
    std::thread::sleep(Duration::from_millis(700));
    drop(first);
    for number in 0..2 {
        let replica = cluster.replica(number)?;
        cluster.replicas.push(replica);
    }
    let expected = delivered * 4;
    ensure(delivered == 1_000, || format!("{delivered} of 1,000 probes came through"))?;
    let mut last = (0, 0);
    let found = wait_until("the usage is complete", Duration::from_secs(20), || {
        last = counted(cluster, &id)?;
        Ok(last == (expected, expected))
    });
    found.map_err(|fault| format!("{fault}: {last:?} of {expected}"))?;
    // Whatever is sent again is not counted again.
    std::thread::sleep(Duration::from_secs(3));
    let last = counted(cluster, &id)?;
    println!("{expected} payload bytes each way; counted {last:?}");
    ensure(last == (expected, expected), || format!("later {last:?} of {expected}"))
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
    let all = sent.len() as u64 * 4;
    let in_its_last_second = sent.iter().filter(|at| end - **at <= Duration::from_secs(1)).count() as u64 * 4;
    let mut last = (0, 0);
    wait_until("all but the last second is counted", Duration::from_secs(15), || {
        last = counted(cluster, &id)?;
        Ok(last.0.min(last.1) >= all - in_its_last_second)
    })
    .map_err(|fault| {
        format!("{fault}: counted {last:?} of {all}; {in_its_last_second} in the last second before the kill")
    })?;
    let lost = all - last.0.min(last.1).min(all);
    println!(
        "{} bytes/s each way; the kill cost {lost} of {all} bytes, {:.2} s of traffic",
        all / end.as_secs().max(1),
        lost as f64 / (all as f64 / end.as_secs_f64())
    );
    // A probe whose answer came too late was relayed all the same.
    let asked = u64::from(number) * 4;
    ensure(last.0 <= asked && last.1 <= asked, || format!("counted {last:?}, more than the {asked} sent"))
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
