//! The store in etcd: the suite, what others have in the same etcd, snapshots, and members that die or hang.

use std::process::Command;
use std::time::{Duration, Instant};

use trunkline_control_plane::store::{
    AnyStore, Etcd, EtcdOptions, Expected, Revision, Store, StoreError, Watch,
};

use crate::cluster::Cluster;
use crate::harness::{Harness, change, checked, gone, increment, put, to, to_with, told, value};
use crate::suite::run_suite;

run_suite!(EtcdHarness);

/// An etcd of one member.
pub struct EtcdHarness {
    store: AnyStore,
    cluster: Cluster,
}

impl Harness for EtcdHarness {
    async fn start() -> Option<Self> {
        let cluster = Cluster::start(1).await?;
        Some(Self { store: cluster.store("trunkline/").await.into(), cluster })
    }

    fn store(&self) -> &AnyStore {
        &self.store
    }

    async fn compact(&self) {
        // etcd keeps what happened at the revision it compacts.
        let revision = put(&self.store, "compaction", "").await;
        self.cluster.etcdctl(&["compact", "--physical", &revision.0.to_string()]);
    }
}

#[tokio::test]
async fn it_sees_and_touches_its_own_keys_alone() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let (ours, others) = (cluster.store("trunkline/").await, cluster.store("trunkline0/").await);
    put(&others, "k", "theirs").await;
    put(&ours, "k", "ours").await;
    assert_eq!(value(&ours, "k").await.unwrap(), "ours");
    assert_eq!(cluster.etcdctl(&["get", "--print-value-only", "trunkline/k"]).trim(), "ours");
    assert_eq!(ours.list("").await.unwrap().entries.len(), 1);
    let everything = cluster.store("").await.list("trunkline/").await.unwrap();
    let keys: Vec<_> = everything.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert!(keys.contains(&"trunkline/k") && !keys.contains(&"trunkline0/k"));
    ours.commit(change(vec![gone("k")])).await.unwrap();
    assert_eq!(value(&others, "k").await.unwrap(), "theirs");
}

#[tokio::test]
async fn a_listing_larger_than_any_message_is_whole() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let store = cluster.store("trunkline/").await;
    for page in 0..5 {
        let small = (0..100).map(|number| to(&format!("a/{page}/{number:03}"), "small")).collect();
        store.commit(change(small)).await.unwrap();
    }
    for number in 0..90 {
        put(&store, &format!("b/{number:03}"), vec![b'x'; 800 * 1024]).await;
    }
    let listing = store.list("").await.unwrap();
    assert_eq!(listing.entries.len(), 590);
    assert!(listing.entries.is_sorted_by(|one, next| one.key < next.key), "none twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_snapshot_is_another_history() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let store = cluster.store("trunkline/").await;
    let old = put(&store, "k", "old").await;
    let snapshot = cluster.save();
    let mut newer = Revision::default();
    for _ in 0..50 {
        newer = put(&store, "k", "new").await;
    }
    let mut watch = store.watch("", newer).await.unwrap();
    cluster.restore(&snapshot).await;
    assert_eq!(told(&mut watch).await, Err(StoreError::Compacted), "a running watch");
    assert!(matches!(store.watch("", newer).await, Err(StoreError::Compacted)), "a new one");
    let entry = store.get("k").await.unwrap().unwrap();
    assert_eq!((entry.value.as_slice(), entry.revision), (b"old".as_slice(), old));
    let listing = store.list("").await.unwrap();
    let mut watch = store.watch("", listing.revision).await.unwrap();
    let stale = checked("k", Expected::At(newer), vec![to("k", "stale")]);
    assert_eq!(store.commit(stale).await, Err(StoreError::Conflict));
    store.commit(checked("k", Expected::At(old), vec![to("k", "other")])).await.unwrap();
    assert_eq!(told(&mut watch).await.unwrap(), ["k=other"]);
}

/// By the time the watch is opened again the restored etcd has reached the revision it goes on from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_snapshot_that_has_caught_up_is_another_history_too() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let store = cluster.store("trunkline/").await;
    put(&store, "k", "old").await;
    let snapshot = cluster.save();
    let newer = put(&store, "k", "new").await;
    drop(store.watch("", newer).await.unwrap());
    cluster.restore(&snapshot).await;
    let other = cluster.store("trunkline/").await;
    while put(&other, "other", "1").await <= newer {}
    assert!(matches!(store.watch("", newer).await, Err(StoreError::Compacted)));
    let listing = store.list("").await.unwrap();
    assert!(store.watch("", listing.revision).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_succeeds_within_3_s_of_the_death_of_the_leader() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let store = cluster.store("trunkline/").await;
    let start = put(&store, "before", "1").await;
    let mut watch = store.watch("", start).await.unwrap();
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let killed = Instant::now();
    put(&store, "after", "1").await;
    let waited = killed.elapsed();
    println!("a commit after {waited:?}");
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    assert_eq!(value(&store, "before").await.unwrap(), "1");
    assert_eq!(told(&mut watch).await.unwrap(), ["after=1"], "the watch goes on");
    let members = store.members().await;
    assert_eq!(members.iter().filter(|member| member.is_healthy).count(), 2);
    assert!(!members[leader].is_healthy);
    cluster.run(leader);
    cluster.whole().await;
}

/// Leaders are killed and stopped in the midst of commits, whose answers are lost; each is done once all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_add_up_while_leaders_die_and_hang() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let endpoints = cluster.endpoints();
    let writers: Vec<_> = (0..4).map(|writer| tokio::spawn(write(endpoints.clone(), writer))).collect();
    for round in 0..4 {
        let leader = cluster.leader().await;
        if round % 2 == 0 {
            cluster.kill(leader);
            cluster.leader().await;
            cluster.run(leader);
        } else {
            signal("STOP", cluster.process_id(leader));
            // The two others elect one of them while this one hangs.
            let others = cluster.store("").await;
            put(&others, "round", "over").await;
            signal("CONT", cluster.process_id(leader));
        }
        cluster.whole().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let store = cluster.store("trunkline/").await;
    assert_eq!(value(&store, "counter").await.unwrap(), (4 * INCREMENTS).to_string());
    assert_eq!(store.list("blind/").await.unwrap().entries.len(), 4);
}

/// Increments, and puts without a check.
async fn write(endpoints: Vec<String>, writer: u32) {
    let prefix = "trunkline/".to_owned();
    let store = Etcd::connect(&EtcdOptions { endpoints, prefix, tls: None }).await.unwrap();
    for number in 0..INCREMENTS {
        increment(&store, "counter").await;
        put(&store, &format!("blind/{writer}"), number.to_string()).await;
    }
}

fn signal(name: &str, process_id: u32) {
    let status = Command::new("kill").args([format!("-{name}"), process_id.to_string()]).status();
    assert!(status.unwrap().success());
}

const INCREMENTS: u32 = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_leaves_a_member_that_hangs() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let store = cluster.store("trunkline/").await;
    let start = put(&store, "k", "1").await;
    // The store has used its first member alone so far, and watches there.
    let mut watch = store.watch("", start).await.unwrap();
    signal("STOP", cluster.process_id(0));
    let writer = cluster.store("trunkline/").await;
    put(&writer, "k", "2").await;
    assert_eq!(told(&mut watch).await.unwrap(), ["k=2"]);
    signal("CONT", cluster.process_id(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_it_fails_in_time_and_recovers() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let store = cluster.store("trunkline/").await;
    let start = put(&store, "k", "1").await;
    let mut watch = store.watch("", start).await.unwrap();
    cluster.kill(0);
    cluster.kill(1);
    let asked = Instant::now();
    assert!(matches!(store.commit(change(vec![to("k", "2")])).await, Err(StoreError::Failed(_))));
    assert!(matches!(store.get("k").await, Err(StoreError::Failed(_))), "no answer that may be old");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert!(matches!(watch.next().await, Err(StoreError::Failed(_))));
    cluster.run(0);
    cluster.run(1);
    while store.get("k").await.is_err() {}
    put(&store, "k", "3").await;
    let listing = store.list("").await.unwrap();
    assert_eq!(listing.entries.len(), 1);
}

#[tokio::test]
async fn the_lease_of_marks_may_end_unnoticed() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let store = cluster.store("trunkline/").await;
    put(&store, "k", "1").await;
    for lease in cluster.etcdctl(&["lease", "list"]).lines().skip(1) {
        cluster.etcdctl(&["lease", "revoke", lease]);
    }
    put(&store, "k", "2").await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    for lease in cluster.etcdctl(&["lease", "list"]).lines().skip(1) {
        cluster.etcdctl(&["lease", "revoke", lease]);
    }
    assert_eq!(store.commit(change(vec![to_with("k", lease)])).await, Err(StoreError::LeaseEnded));
    assert_eq!(value(&store, "k").await.unwrap(), "2");
}

#[tokio::test]
async fn what_is_no_endpoint_is_refused() {
    let none = Etcd::connect(&EtcdOptions::default()).await;
    assert!(matches!(none, Err(StoreError::Failed(text)) if text == "no etcd endpoint is given"));
    let endpoints = vec!["http://not an address".to_owned()];
    let refused = Etcd::connect(&EtcdOptions { endpoints, ..EtcdOptions::default() }).await;
    assert!(matches!(refused, Err(StoreError::Failed(text)) if text.contains("not an address")));
}
