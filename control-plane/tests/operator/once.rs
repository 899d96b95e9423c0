//! However often a call is sent, and wherever the replica is killed: it is done once and told the same.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tonic::Code;
use trunkline_control_plane::identity::{Identity, Role};
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::operator::v1::{AddNodeRequest, CreateKeyRequest, SetWeightRequest};
use trunkline_proto::store::v1::{JoinToken, NodeRecord, TurnKey};

use super::fixture::{Fixture, admin, by, node, once};

fn create(key: &str) -> CreateKeyRequest {
    CreateKeyRequest { mutation: once(key), name: "app".into() }
}

fn weigh(key: &str, server: u32, weight: f64) -> SetWeightRequest {
    SetWeightRequest { mutation: once(key), node: node(1, server), weight }
}

#[tokio::test]
async fn the_same_call_twice_makes_one_key_and_tells_its_secret_again() {
    let fixture = Fixture::new().await;
    let first = fixture.service.create_key(admin(create("k"))).await.expect("made").into_inner();
    let second = fixture.service.create_key(admin(create("k"))).await.expect("told").into_inner();
    assert!(first == second);
    assert_eq!(fixture.records::<TurnKey>().await.len(), 1);
    assert_eq!(fixture.events().await.len(), 1);
}

#[tokio::test]
async fn another_reason_is_the_same_request() {
    let fixture = Fixture::new().await;
    let first = fixture.service.create_key(admin(create("k"))).await.expect("made").into_inner();
    let mut again = create("k");
    again.mutation.as_mut().expect("a mutation").reason = "in other words".into();
    let second = fixture.service.create_key(admin(again)).await.expect("told").into_inner();
    assert!(first == second);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let fixture = Fixture::with_servers(1).await;
    fixture.service.set_weight(admin(weigh("k", 1, 2.0))).await.expect("set");
    let other = weigh("k", 1, 3.0);
    let (code, text) = fixture.refused(async |service| service.set_weight(admin(other)).await).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.starts_with("mutation.idempotency_key: it was used for another request"), "{text}");
    let (code, _) = fixture.refused(async |service| service.create_key(admin(create("k"))).await).await;
    assert_eq!(code, Code::InvalidArgument);
}

#[tokio::test]
async fn callers_do_not_share_keys() {
    let fixture = Fixture::new().await;
    let bob = Identity::Operator { name: "bob".into(), role: Role::Admin };
    let first = fixture.service.create_key(admin(create("k"))).await.expect("made").into_inner();
    let second = fixture.service.create_key(by(bob, create("k"))).await.expect("made").into_inner();
    assert!(first.secret != second.secret);
    assert_eq!(fixture.records::<TurnKey>().await.len(), 2);
}

#[tokio::test]
async fn twenty_calls_at_once_with_one_key_are_one() {
    let fixture = Fixture::new().await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let service = fixture.service.clone();
            tokio::spawn(async move { service.create_key(admin(create("k"))).await })
        })
        .collect();
    let mut secrets = BTreeSet::new();
    for call in calls {
        secrets.insert(call.await.expect("ran").expect("told").into_inner().secret);
    }
    assert_eq!(secrets.len(), 1);
    assert_eq!(fixture.records::<TurnKey>().await.len(), 1);
    assert_eq!(fixture.events().await.len(), 1);
}

#[tokio::test]
async fn twenty_changes_at_once_are_all_made() {
    let fixture = Fixture::with_servers(20).await;
    let before = fixture.core.state().epoch().counter;
    let calls: Vec<_> = (1..=20)
        .map(|server| {
            let service = fixture.service.clone();
            tokio::spawn(
                async move { service.set_weight(admin(weigh(&format!("{server}"), server, 7.0))).await },
            )
        })
        .collect();
    let mut epochs = BTreeSet::new();
    for call in calls {
        epochs.insert(call.await.expect("ran").expect("set").into_inner().epoch.expect("an epoch").counter);
    }
    assert_eq!(epochs, (before + 1..=before + 20).collect(), "each has its own epoch");
    assert!(fixture.records::<NodeRecord>().await.values().all(|record| record.weight == 7.0));
}

#[tokio::test]
async fn a_call_that_is_killed_anywhere_and_sent_again_is_done_once() {
    let mut killed = 0;
    for round in 0..50 {
        let fixture = Fixture::new().await;
        let request =
            || AddNodeRequest { mutation: once("k"), node: node(1, 1), ..AddNodeRequest::default() };
        let first = killed_after(round % 5, fixture.service.add_node(admin(request()))).await;
        let again = fixture.service.add_node(admin(request())).await.expect("added").into_inner();
        assert_eq!(fixture.records::<NodeRecord>().await.len(), 1, "round {round}");
        assert_eq!(fixture.records::<JoinToken>().await.len(), 1, "round {round}");
        assert_eq!(fixture.events().await.len(), 1, "round {round}");
        assert_eq!(fixture.core.state().epoch().counter, 1, "round {round}");
        match first {
            Some(first) => assert!(first.expect("added").into_inner() == again, "told something else"),
            None => killed += 1,
        }
    }
    assert!(killed >= 10, "{killed} of 50 were killed");
}

/// Runs a future until it has been woken so often, then drops it where it stands: what it began goes on or not, as
/// when a process is killed.
async fn killed_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(move |context| {
        let Some(fewer) = left.checked_sub(1) else { return Poll::Ready(None) };
        left = fewer;
        future.as_mut().poll(context).map(Some)
    })
    .await
}
