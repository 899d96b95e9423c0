//! A commit whose answer, or whose request, is lost on the way is done once or not at all.

use std::time::Duration;

use trunkline_control_plane::store::{Etcd, EtcdOptions, Expected, Store, StoreError};

use crate::cluster::Cluster;
use crate::harness::{change, checked, gone, put, to, to_with, value};
use crate::proxy::Proxy;

/// One etcd that is reached on a way that loses things, and on another that does not.
struct TwoWays {
    cluster: Cluster,
    proxy: Proxy,
    store: Etcd,
}

impl TwoWays {
    async fn start() -> Option<Self> {
        let cluster = Cluster::start(1).await?;
        let direct = cluster.endpoints().remove(0);
        let proxy = Proxy::start(&direct).await;
        let endpoints = vec![proxy.endpoint(), direct];
        let prefix = "trunkline/".to_owned();
        let store = Etcd::connect(&EtcdOptions { endpoints, prefix, tls: None }).await.unwrap();
        Some(Self { cluster, proxy, store })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_done_once_and_known_to_be() {
    let Some(TwoWays { cluster, proxy, store }) = TwoWays::start().await else { return };
    let first = put(&store, "k", "1").await;
    proxy.let_answers_through(false);
    let second = store.commit(checked("k", Expected::At(first), vec![to("k", "2")])).await.unwrap();
    let entry = store.get("k").await.unwrap().unwrap();
    assert_eq!((entry.value.as_slice(), entry.revision), (b"2".as_slice(), second));
    let versions = cluster.etcdctl(&["get", "trunkline/k", "--write-out", "fields"]);
    assert!(versions.contains("\"Version\" : 2"), "put twice in all: {versions}");
    put(&store, "k", "3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_checks_whose_answer_is_lost_is_done_once() {
    let Some(TwoWays { cluster, proxy, store }) = TwoWays::start().await else { return };
    put(&store, "k", "1").await;
    proxy.let_answers_through(false);
    let done = store.commit(change(vec![to("k", "2"), gone("nothing")])).await.unwrap();
    assert_eq!(store.get("k").await.unwrap().unwrap().revision, done);
    let versions = cluster.etcdctl(&["get", "trunkline/k", "--write-out", "fields"]);
    assert!(versions.contains("\"Version\" : 2"), "{versions}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_refused_is_not_done_by_a_request_that_comes_late() {
    let Some(TwoWays { cluster, proxy, store }) = TwoWays::start().await else { return };
    put(&store, "warm", "1").await;
    let other = cluster.store("trunkline/").await;
    let taken = put(&other, "k", "other").await;
    proxy.let_requests_through(false);
    let put_if_absent = checked("k", Expected::Absent, vec![to("k", "late")]);
    assert_eq!(store.commit(put_if_absent).await, Err(StoreError::Conflict));
    // Now its check would hold.
    other.commit(checked("k", Expected::At(taken), vec![gone("k")])).await.unwrap();
    proxy.let_requests_through(true);
    for _ in 0..20 {
        put(&store, "warm", "2").await;
    }
    assert!(value(&other, "k").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_revocation_is_not_answered_is_revoked() {
    let Some(TwoWays { cluster: _cluster, proxy, store }) = TwoWays::start().await else { return };
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store.commit(change(vec![to_with("leased", lease)])).await.unwrap();
    proxy.let_answers_through(false);
    store.revoke(lease).await.unwrap();
    assert!(value(&store, "leased").await.is_none());
    assert_eq!(store.revoke(lease).await, Err(StoreError::LeaseEnded));
}
