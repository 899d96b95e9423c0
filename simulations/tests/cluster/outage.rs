//! The store and the control plane go away, come back, and come back older. Nobody on a call notices.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use trunkline_simulations::cluster::{Cluster, Replica, View, wait_until};

use crate::Named;
use crate::fleet::{Call, Check, FOUR, ensure, node_view, on_cluster, settled, slices_are_disjoint};

pub const TRIALS: &[Named] = &[
    ("without_etcd_and_replicas_for_60_s_nobody_notices", || on_cluster(3, 2, &FOUR, without_everything)),
    ("an_operators_call_succeeds_within_3_s_of_the_etcd_leaders_death", || {
        on_cluster(3, 2, &["1.1"], etcd_leader)
    }),
    ("a_restored_older_snapshot_is_overtaken_and_never_applied", || {
        on_cluster(1, 2, &["1.1", "1.2"], restore)
    }),
    ("a_restore_is_noticed_although_the_only_server_ahead_is_cut_off", || {
        on_cluster(1, 2, &["1.1", "1.2"], |cluster| unreported(cluster, Replicas::BeginAnew))
    }),
    ("a_restore_under_replicas_that_run_on_is_noticed_although_the_only_server_ahead_is_cut_off", || {
        on_cluster(1, 2, &["1.1", "1.2"], |cluster| unreported(cluster, Replicas::RunOn))
    }),
];

const OUTAGE: Duration = Duration::from_secs(60);
/// Servers that connect anew are heard within two reports.
const RECONCILED_WITHIN: Duration = Duration::from_secs(5);
const CONTROL: Duration = Duration::from_secs(20);

fn without_everything(cluster: &mut Cluster) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &FOUR)?;
    drop(view);
    let mut calls = vec![];
    for node in &cluster.nodes[..3] {
        calls.push(Call::begin(node)?);
    }
    let control = probe_all(&mut calls, CONTROL)?;
    cluster.etcd.kill_all();
    cluster.replicas.clear();

    let victim = Mutex::new(cluster);
    let outcome: Result<(u32, u32), String> = std::thread::scope(|scope| {
        let outside = victim.lock().map_err(|_| "poisoned")?.outside.clone();
        let probes = scope
            .spawn(move || outside.enter(|| probe_all(&mut calls, OUTAGE)).map_err(|e| e.to_string())?);
        let mut cluster = victim.lock().map_err(|_| "poisoned")?;
        let since = Instant::now();
        // The fourth is killed and starts from what it kept.
        cluster.nodes[3].kill();
        let machine = cluster.machine.clone();
        cluster.nodes[3].start(&machine)?;
        let mut allocations = 0;
        while since.elapsed() < OUTAGE - Duration::from_secs(2) {
            for node in &cluster.nodes {
                let mut call = Call::begin(node)
                    .map_err(|fault| format!("{} after {:?}: {fault}", node.id, since.elapsed()))?;
                ensure(call.probe(1)?, || format!("nothing is relayed by {}", node.id))?;
                call.end()?;
                allocations += 1;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        println!("{allocations} new allocations in {OUTAGE:?} without a control plane");
        probes.join().map_err(|_| "the probes panicked")?
    });
    let (sent, lost) = outcome?;
    println!("control: {} of {} lost; outage: {lost} of {sent} lost", control.1, control.0);
    ensure(lost <= control.1, || {
        format!("{lost} of {sent} probes were lost; {} of {} without the fault", control.1, control.0)
    })
}

/// Probes each call in turn.
fn probe_all(calls: &mut [Call], time: Duration) -> Result<(u32, u32), String> {
    let until = Instant::now() + time;
    let (mut sent, mut lost) = (0, 0);
    while Instant::now() < until {
        for call in calls.iter_mut() {
            lost += u32::from(!call.probe(sent)?);
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((sent, lost))
}

fn etcd_leader(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1"])?;
    for round in 0..2 {
        let leader = cluster.etcd.leader()?;
        cluster.etcd.kill(leader);
        let since = Instant::now();
        cluster.ctl().json(&["weight", "1.1", if round == 0 { "2" } else { "3" }])?;
        println!("the call took {:?} with the leader gone", since.elapsed());
        ensure(since.elapsed() < Duration::from_secs(3), || format!("it took {:?}", since.elapsed()))?;
        cluster.etcd.start_all()?;
    }
    Ok(())
}

fn restore(cluster: &mut Cluster) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &["1.1", "1.2"])?;
    let snapshot = cluster.path("snapshot.db");
    cluster.etcd.snapshot(&snapshot)?;
    for weight in ["2", "3", "4", "1"] {
        cluster.ctl().json(&["weight", "1.1", weight])?;
    }
    cluster.ctl().json(&["keys", "create", "lost with the restore"])?;
    let newest = view.status()?.epoch.ok_or("no epoch")?;
    wait_until("every node has it", Duration::from_secs(10), || {
        Ok(view.nodes()?.iter().all(|node| node.epoch.is_some_and(|epoch| epoch.counter >= newest.counter)))
    })?;
    let reported = view
        .nodes()?
        .iter()
        .filter_map(|node| node.epoch)
        .map(|epoch| (epoch.generation, epoch.counter))
        .max();
    let reported = reported.ok_or("nobody reports an epoch")?;
    cluster.replicas.clear();
    cluster.etcd.restore(&snapshot)?;
    for number in 0..2 {
        let replica: Replica = cluster.replica(number)?;
        cluster.replicas.push(replica);
    }
    let mut view = cluster.view()?;
    let took = wait_until("the generation rises and every node follows", Duration::from_secs(15), || {
        let epoch = view.status()?.epoch.ok_or("no epoch")?;
        let nodes = view.nodes()?;
        let follow = |id: &str| {
            nodes.iter().any(|node| crate::fleet::name(node.node) == id && node.epoch == Some(epoch))
        };
        Ok(epoch.generation > reported.0 && follow("1.1") && follow("1.2"))
    })?;
    println!("reconciled {took:?} after the restored store was reachable");
    ensure(took < RECONCILED_WITHIN, || format!("reconciled only after {took:?}"))?;
    for node in &cluster.nodes {
        let log = node.running.as_ref().map(|running| running.log()).unwrap_or_default();
        epochs_rise(&log).map_err(|fault| format!("{}: {fault}", node.id))?;
    }
    slices_are_disjoint(&mut view)?;
    let mut call = Call::begin(&cluster.nodes[0])?;
    ensure(call.probe(1)?, || "nothing is relayed".into())?;
    node_view(&mut view, "1.2").map(|_| ())
}

/// What replicas do while etcd is restored.
enum Replicas {
    BeginAnew,
    RunOn,
}

/// Server 1.1 has nothing that the snapshot has not; 1.2 is told more, and hangs when the store is put back.
fn unreported(cluster: &mut Cluster, replicas: Replicas) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &["1.1", "1.2"])?;
    cluster.nodes[0].process()?.signal(libc::SIGSTOP).map_err(|error| error.to_string())?;
    let snapshot = cluster.path("snapshot.db");
    cluster.etcd.snapshot(&snapshot)?;
    for weight in ["2", "3", "4", "1"] {
        cluster.ctl().json(&["weight", "1.1", weight])?;
    }
    let newest = view.status()?.epoch.ok_or("no epoch")?;
    wait_until("server 1.2 has it", Duration::from_secs(10), || {
        Ok(node_view(&mut view, "1.2")?.epoch.is_some_and(|epoch| epoch.counter >= newest.counter))
    })?;
    cluster.nodes[1].process()?.signal(libc::SIGSTOP).map_err(|error| error.to_string())?;
    let began_unix_s = unix_s();
    match &replicas {
        Replicas::RunOn => cluster.etcd.restore(&snapshot)?,
        Replicas::BeginAnew => {
            cluster.replicas.clear();
            cluster.etcd.restore(&snapshot)?;
            for number in 0..2 {
                let replica: Replica = cluster.replica(number)?;
                cluster.replicas.push(replica);
            }
        }
    }
    cluster.nodes[0].process()?.signal(libc::SIGCONT).map_err(|error| error.to_string())?;
    let mut view = cluster.view()?;
    let took = follow(&mut view, "the generation rises and server 1.1 follows", began_unix_s, &["1.1"])?;
    println!("server 1.1 follows {took:?} after the restored store was reachable");
    // A replica that runs on still knows what 1.2 said last, and writes that down.
    let is_forgotten = matches!(replicas, Replicas::BeginAnew);
    let awaited = view.events()?.into_iter().any(|event| {
        event.what == "AwaitNode" && event.subject == "node 1.2" && event.reason.contains("nodes remove 1.2")
    });
    ensure(awaited || !is_forgotten, || "no operator is told whom slices wait for".into())?;
    wait_until("`slices` says whom they wait for", Duration::from_secs(5), || {
        let slices = cluster.ctl().json(&["slices"])?;
        let awaited = slices["awaited_nodes"].as_array().cloned().unwrap_or_default();
        Ok(awaited.len() == 1 && awaited[0]["server"] == 2)
    })?;
    let advice = cluster.ctl().run(&["doctor"])?.out;
    ensure(advice.contains("server 1.2 has not reported since the store was put back"), || advice.clone())?;
    cluster.nodes[1].process()?.signal(libc::SIGCONT).map_err(|error| error.to_string())?;
    follow(&mut view, "server 1.2 follows as well", began_unix_s, &["1.1", "1.2"])?;
    settled(&mut view, &["1.1", "1.2"])?;
    for node in &cluster.nodes {
        let log = node.running.as_ref().map(|running| running.log()).unwrap_or_default();
        epochs_rise(&log).map_err(|fault| format!("{}: {fault}", node.id))?;
        let mut call = Call::begin(node)?;
        ensure(call.probe(1)?, || format!("nothing is relayed by {}", node.id))?;
    }
    let raises = view.events()?.iter().filter(|event| event.what == "RaiseGeneration").count();
    ensure(raises == 1, || format!("the generation rose {raises} times"))?;
    slices_are_disjoint(&mut view)
}

/// Waits until these servers have the store's epoch, of a generation that began after `began_unix_s`. Meanwhile no slice
/// is used by two.
fn follow(view: &mut View, what: &str, began_unix_s: u64, servers: &[&str]) -> Result<Duration, String> {
    let mut twice = None;
    let took = wait_until(what, Duration::from_secs(15), || {
        let epoch = view.status()?.epoch.ok_or("no epoch")?;
        let nodes = view.nodes()?;
        let mut claimed = BTreeSet::new();
        for claim in nodes.iter().filter_map(|node| node.report.as_ref()).flat_map(|report| &report.claims) {
            if !claimed.insert((&claim.address, claim.index)) {
                twice = Some(format!("slice {} {} has two users", claim.address, claim.index));
            }
        }
        let is_newest = |id: &&str| {
            nodes.iter().any(|node| crate::fleet::name(node.node) == **id && node.epoch == Some(epoch))
        };
        Ok(epoch.generation >= began_unix_s && servers.iter().all(is_newest))
    })?;
    twice.map_or(Ok(took), Err)
}

fn unix_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// Every epoch that a node says it applied is greater than the one before: `epoch in force generation=G counter=C`.
fn epochs_rise(log: &str) -> Check {
    let number = |line: &str, name: &str| -> Option<u64> {
        let rest = line.split_once(&format!("{name}="))?.1;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let applied: Vec<(u64, u64)> = log
        .lines()
        .filter(|line| line.contains("epoch in force"))
        .filter_map(|line| Some((number(line, "generation")?, number(line, "counter")?)))
        .collect();
    ensure(applied.len() > 1 && applied.windows(2).all(|pair| pair[0] < pair[1]), || {
        format!("epochs {applied:?}")
    })
}
