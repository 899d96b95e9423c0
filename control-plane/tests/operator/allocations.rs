//! Allocations are asked of the servers; those that do not answer are named.

use tonic::Code;
use trunkline_proto::fleet::v1::AllocationFilter;
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::operator::v1::{CloseAllocationRequest, ListAllocationsRequest};

use super::fixture::{Fixture, admin, node, once, viewer};

fn list(filter: AllocationFilter) -> ListAllocationsRequest {
    ListAllocationsRequest { filter: Some(filter) }
}

#[tokio::test]
async fn servers_without_a_session_are_silent() {
    let fixture = Fixture::with_servers(2).await;
    let answer = fixture.service.list_allocations(viewer(list(AllocationFilter::default()))).await;
    let answer = answer.expect("an answer").into_inner();
    assert_eq!(answer.allocations, []);
    assert_eq!(answer.silent.iter().map(|node| node.server).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn filters_that_match_nothing_by_mistake_are_refused() {
    let fixture = Fixture::with_servers(1).await;
    for (filter, field, code) in [
        (
            AllocationFilter { node: node(9, 9), ..AllocationFilter::default() },
            "filter.node: ",
            Code::NotFound,
        ),
        (
            AllocationFilter { node: node(0, 9), ..AllocationFilter::default() },
            "filter.node.site: ",
            Code::InvalidArgument,
        ),
        (
            AllocationFilter { limit: 10_001, ..AllocationFilter::default() },
            "filter.limit: ",
            Code::InvalidArgument,
        ),
        (
            AllocationFilter { address: "home".into(), ..AllocationFilter::default() },
            "filter.address: ",
            Code::InvalidArgument,
        ),
    ] {
        let request = list(filter);
        let (told, text) =
            fixture.refused(async |service| service.list_allocations(viewer(request)).await).await;
        assert_eq!((told, text.starts_with(field)), (code, true), "{text}");
    }
}

#[tokio::test]
async fn closing_at_a_silent_server_is_not_called_done_and_may_be_repeated() {
    let fixture = Fixture::with_servers(1).await;
    let close = || CloseAllocationRequest { mutation: once("c"), node: node(1, 1), id: "a".into() };
    for _ in 0..2 {
        let status = fixture.service.close_allocation(admin(close())).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unavailable, "{}", status.message());
    }
    let [event] = fixture.events().await.try_into().expect("one event");
    assert_eq!(
        (event.what.as_str(), event.subject.as_str()),
        ("CloseAllocation", "allocation a of node 1.1")
    );
}

#[tokio::test]
async fn closing_what_has_no_name_or_no_server_is_refused() {
    let fixture = Fixture::with_servers(1).await;
    let close = |server, id: &str| CloseAllocationRequest {
        mutation: once("c"),
        node: node(1, server),
        id: id.into(),
    };
    for (request, code) in [(close(1, ""), Code::InvalidArgument), (close(7, "a"), Code::NotFound)] {
        let (told, text) =
            fixture.refused(async |service| service.close_allocation(admin(request)).await).await;
        assert_eq!(told, code, "{text}");
    }
}
