//! Usage is summed by key, user and hour.

use prost::Message as _;
use tonic::Code;
use trunkline_control_plane::store::Change;
use trunkline_proto::node::v1::UsageEntry;
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::operator::v1::{QueryUsageRequest, query_usage_request::GroupBy};
use trunkline_proto::store::v1::UsageCount;

use super::fixture::{Fixture, viewer};

const HOUR: u64 = 3_600 * 500_000;

/// 1 allocation and `bytes` each way.
fn count(hour: u64, node: &str, key_id: &str, user: &str, bytes: u64) -> Change {
    let count = UsageCount {
        bytes_to_peer: bytes,
        bytes_to_client: 2 * bytes,
        allocations: 1,
        ..UsageCount::default()
    };
    Change::Put {
        key: format!("usage/{hour}/{node}/{key_id}/{user}"),
        value: count.encode_to_vec(),
        lease: None,
    }
}

async fn counted() -> Fixture {
    let fixture = Fixture::new().await;
    let counts = [
        count(HOUR, "1.1", "k1", "ann", 10),
        count(HOUR, "1.2", "k1", "ann", 5),
        count(HOUR, "1.1", "k2", "bob/home", 7),
        count(HOUR + 3_600, "1.1", "k1", "ann", 100),
        count(HOUR, "1.1", "", "static", 1),
        count(HOUR + 7_200, "1.1", "k1", "ann", 1_000),
    ];
    fixture.put(counts).await;
    fixture
}

async fn query(fixture: &Fixture, request: QueryUsageRequest) -> Vec<(u64, String, String, u64, u64)> {
    let request = QueryUsageRequest { from_unix_s: HOUR + 59, to_unix_s: HOUR + 7_201, ..request };
    let answer = fixture.service.query_usage(viewer(request)).await.expect("usage").into_inner();
    let told = |entry: UsageEntry| {
        assert_eq!(entry.bytes_to_client, 2 * entry.bytes_to_peer);
        (
            entry.hour_unix_s - HOUR.min(entry.hour_unix_s),
            entry.key_id,
            entry.user,
            entry.bytes_to_peer,
            entry.allocations,
        )
    };
    answer.entries.into_iter().map(told).collect()
}

fn entry(
    hour: u64,
    key_id: &str,
    user: &str,
    bytes: u64,
    allocations: u64,
) -> (u64, String, String, u64, u64) {
    (hour, key_id.to_owned(), user.to_owned(), bytes, allocations)
}

#[tokio::test]
async fn servers_are_added_up_for_each_key_user_and_hour() {
    let fixture = counted().await;
    let expected = [
        entry(0, "", "static", 1, 1),
        entry(0, "k1", "ann", 15, 2),
        entry(0, "k2", "bob/home", 7, 1),
        entry(3_600, "k1", "ann", 100, 1),
    ];
    assert_eq!(query(&fixture, QueryUsageRequest::default()).await, expected);
}

#[tokio::test]
async fn groups_leave_out_what_they_do_not_group_by() {
    let fixture = counted().await;
    let by =
        |group_by: GroupBy| QueryUsageRequest { group_by: group_by.into(), ..QueryUsageRequest::default() };
    let keys = [entry(0, "", "", 1, 1), entry(0, "k1", "", 115, 3), entry(0, "k2", "", 7, 1)];
    assert_eq!(query(&fixture, by(GroupBy::Key)).await, keys);
    let users = [entry(0, "", "ann", 115, 3), entry(0, "", "bob/home", 7, 1), entry(0, "", "static", 1, 1)];
    assert_eq!(query(&fixture, by(GroupBy::User)).await, users);
    let hours = [entry(0, "", "", 23, 4), entry(3_600, "", "", 100, 1)];
    assert_eq!(query(&fixture, by(GroupBy::Hour)).await, hours);
}

#[tokio::test]
async fn filters_by_key_and_user_hold_together() {
    let fixture = counted().await;
    let request = |key_id: &str, user: &str| QueryUsageRequest {
        key_id: key_id.into(),
        user: user.into(),
        group_by: GroupBy::Key.into(),
        ..QueryUsageRequest::default()
    };
    assert_eq!(query(&fixture, request("k1", "ann")).await, [entry(0, "k1", "", 115, 3)]);
    assert_eq!(query(&fixture, request("k2", "ann")).await, []);
}

#[tokio::test]
async fn periods_that_are_none_are_refused() {
    let fixture = Fixture::new().await;
    for (from_unix_s, to_unix_s) in [(HOUR, HOUR), (HOUR + 7_200, HOUR), (HOUR, HOUR + 32 * 86_400)] {
        let request = QueryUsageRequest { from_unix_s, to_unix_s, ..QueryUsageRequest::default() };
        let (code, text) = fixture.refused(async |service| service.query_usage(viewer(request)).await).await;
        assert_eq!((code, text.starts_with("from_unix_s: ")), (Code::InvalidArgument, true), "{text}");
    }
}

#[tokio::test]
async fn the_default_is_the_last_day_with_the_hour_that_runs() {
    let fixture = Fixture::new().await;
    let now = trunkline_control_plane::event::unix_ms() / 1_000;
    let hour = now - now % 3_600;
    fixture.put([count(hour, "1.1", "k", "ann", 1), count(hour - 24 * 3_600, "1.1", "k", "ann", 1)]).await;
    let answer = fixture.service.query_usage(viewer(QueryUsageRequest::default())).await.expect("usage");
    assert_eq!(answer.into_inner().entries.len(), 1);
}
