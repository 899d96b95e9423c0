//! Replicas over three members of etcd, one of which dies.

use std::time::{Duration, Instant};

use trunkline_control_plane::core::Planned;
use trunkline_control_plane::records;
use trunkline_control_plane::state::State;
use trunkline_control_plane::store::StoreError;
use trunkline_proto::store::v1::NodeRecord;

use crate::cluster::Cluster;
use crate::fleet::{Fleet, until};

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_planning_go_on_within_3_s_of_the_death_of_etcds_leader_and_of_the_replica_that_led() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let fleet = Fleet::over(cluster.store("test/").await.into(), tempfile::tempdir().unwrap());
    let (_, first) = fleet.replica("first").await;
    until(first.core(), "the first leads", |state| state.leader.is_some()).await;
    let (_, second) = fleet.replica("second").await;
    until(second.core(), "the store has what it needs", |state| !state.fleet_keys.is_empty()).await;

    let leader = cluster.leader().await;
    let began = Instant::now();
    cluster.kill(leader);
    let plan = |_: &State| {
        let changes = vec![records::put("1.7", &NodeRecord { weight: 1.0, ..NodeRecord::default() })];
        Ok::<_, StoreError>(Planned { checks: vec![], changes, touches_configuration: true, answer: () })
    };
    second.core().change(plan).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());

    cluster.run(leader);
    cluster.whole().await;
    until(second.core(), "somebody leads", |state| state.leader.is_some()).await;
    let led = second.core().state().leader.as_ref().map(|kept| kept.record.replica.clone()).unwrap();
    let (died, lives) = if led == "first" { (first, second) } else { (second, first) };
    let began = Instant::now();
    drop(died);
    let other = if led == "first" { "second" } else { "first" };
    until(lives.core(), "the other leads", |state| {
        state.leader.as_ref().is_some_and(|kept| kept.record.replica == other)
    })
    .await;
    // etcd looks for leases that ended twice a second, and counts theirs from the last time they were kept alive.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
