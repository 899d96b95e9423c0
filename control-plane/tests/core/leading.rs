//! One leader at a time, soon after the last, and nothing is written by one that was.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use trunkline_control_plane::core::{Core, ReplicaInfo};
use trunkline_control_plane::leader::{Term, stand};
use trunkline_control_plane::records;
use trunkline_control_plane::store::{Store, StoreError, Transaction};
use trunkline_proto::store::v1::{Leader, NodeRecord};

use crate::fleet::{Fleet, until};

fn leader_is(state: &trunkline_control_plane::state::State, name: &str) -> bool {
    state.leader.as_ref().is_some_and(|kept| kept.record.replica == name)
}

#[tokio::test]
async fn the_second_replica_leads_as_soon_as_the_first_has_ended() {
    let fleet = Fleet::new();
    let (_, first) = fleet.replica("first").await;
    until(first.core(), "the first leads", |state| leader_is(state, "first")).await;
    let (_, second) = fleet.replica("second").await;
    until(second.core(), "both are known", |state| state.replicas.len() == 2).await;
    assert!(leader_is(&second.core().state(), "first"));
    let began = Instant::now();
    first.end().await;
    until(second.core(), "the second leads", |state| leader_is(state, "second")).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    until(second.core(), "the first is forgotten", |state| state.replicas.len() == 1).await;
}

#[tokio::test]
async fn the_second_replica_leads_within_3_s_of_the_firsts_death() {
    let fleet = Fleet::new();
    let (_, first) = fleet.replica("first").await;
    until(first.core(), "the first leads", |state| leader_is(state, "first")).await;
    let (_, second) = fleet.replica("second").await;
    let began = Instant::now();
    // Without a word: its lease is left to end.
    drop(first);
    until(second.core(), "the second leads", |state| leader_is(state, "second")).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_an_old_leader_writes_is_refused() {
    let fleet = Fleet::new();
    let info = |name: &str| ReplicaInfo { name: name.to_owned(), address: String::new() };
    let core = Core::start(fleet.store.clone(), fleet.sealing.clone(), info("old")).await.unwrap();
    let (terms, ending) = (watch::Sender::new(None), watch::Sender::new(false));
    let mut term = terms.subscribe();
    let standing = tokio::spawn(stand(core.clone(), terms, ending.subscribe()));
    let old: Term = term.wait_for(Option::is_some).await.unwrap().unwrap();
    let write = |term: Term| Transaction {
        checks: vec![term.check()],
        changes: vec![records::put("1.9", &NodeRecord::default())],
    };
    fleet.store.commit(write(old)).await.unwrap();

    ending.send_replace(true);
    standing.await.unwrap();
    assert_eq!(fleet.store.commit(write(old)).await, Err(StoreError::Conflict), "nobody leads");
    let (_, new) = fleet.replica("new").await;
    until(new.core(), "the new one leads", |state| leader_is(state, "new")).await;
    assert_eq!(fleet.store.commit(write(old)).await, Err(StoreError::Conflict), "another leads");
    let entry = fleet.store.get(&records::key::<Leader>("")).await.unwrap().unwrap();
    assert_ne!(entry.revision, old.fence);
}
