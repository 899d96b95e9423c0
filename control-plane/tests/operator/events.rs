//! The audit log tells who did what, how it was before, and how it is now.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use trunkline_control_plane::identity::Identity;
use trunkline_control_plane::{event, mutation};
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::operator::v1::{CreateKeyRequest, SetWeightRequest, WatchEventsRequest};

use super::fixture::{Fixture, admin, by, node, once, viewer};

fn weigh(weight: u32) -> SetWeightRequest {
    SetWeightRequest { mutation: once(&weight.to_string()), node: node(1, 1), weight: weight.into() }
}

#[tokio::test]
async fn a_change_is_told_with_who_what_before_after_and_why() {
    let fixture = Fixture::with_servers(1).await;
    fixture.service.set_weight(admin(weigh(4))).await.expect("set");
    let [event] = fixture.events().await.try_into().expect("one event");
    assert_eq!(
        [&event.who, &event.what, &event.subject, &event.before, &event.after, &event.reason],
        ["operator alice", "SetWeight", "node 1.1", "weight 1", "weight 4", "because"]
    );
    assert!(event.unix_ms > 1_500_000_000_000 && event.revision > 0);
}

#[tokio::test]
async fn the_local_operator_has_a_name_too() {
    let fixture = Fixture::with_servers(1).await;
    fixture.service.set_weight(by(Identity::Local, weigh(4))).await.expect("set");
    assert_eq!(fixture.events().await.pop().expect("an event").who, "local operator");
}

#[tokio::test]
async fn the_newest_events_come_first_in_order_then_each_that_happens() {
    let fixture = Fixture::with_servers(1).await;
    for weight in 2..=6 {
        fixture.service.set_weight(admin(weigh(weight))).await.expect("set");
    }
    let request = WatchEventsRequest { follow: true, last: 2 };
    let mut stream = fixture.service.watch_events(viewer(request)).await.expect("a stream").into_inner();
    let mut next = async || {
        let event = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("in time");
        event.expect("one more").expect("an event").after
    };
    assert_eq!([next().await, next().await], ["weight 5", "weight 6"]);
    for weight in 7..=9 {
        fixture.service.set_weight(admin(weigh(weight))).await.expect("set");
        assert_eq!(next().await, format!("weight {weight}"));
    }
}

#[tokio::test]
async fn answers_are_forgotten_after_a_day_and_their_events_are_not() {
    let fixture = Fixture::with_servers(1).await;
    fixture.service.set_weight(admin(weigh(4))).await.expect("set");
    let now = event::unix_ms() / 1_000;
    assert_eq!(mutation::prune_answers(&fixture.store, now + 86_000).await, Ok(0));
    assert_eq!(mutation::prune_answers(&fixture.store, now + 86_500).await, Ok(1));
    assert_eq!(event::prune(&fixture.store).await, Ok(0));
    assert_eq!(fixture.events().await.len(), 1);
}

#[tokio::test]
async fn a_long_text_is_cut() {
    let fixture = Fixture::new().await;
    let long = event::Happening::new("thing", "", "ä".repeat(5_000));
    fixture.put([event::put("somebody", "Test", &long, "").expect("an event")]).await;
    let event = fixture.events().await.pop().expect("an event");
    assert!(event.after.len() < 2_100 && event.after.ends_with('…'), "{}", event.after.len());
}

#[tokio::test]
async fn a_refused_call_is_no_event() {
    let fixture = Fixture::new().await;
    let request = CreateKeyRequest { mutation: once("a"), name: String::new() };
    fixture.refused(async |service| service.create_key(admin(request)).await).await;
    assert!(fixture.events().await.is_empty());
}
