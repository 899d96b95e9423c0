//! Allocations are asked of the servers; those that do not answer are named.

use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Status};
use trunkline_control_plane::core::{Core, ReplicaInfo};
use trunkline_control_plane::identity::Identity;
use trunkline_control_plane::operator_service::{Dial, OperatorServiceImpl, Surroundings};
use trunkline_control_plane::records;
use trunkline_proto::fleet::v1::{Allocation, AllocationFilter};
use trunkline_proto::node::v1::{Answer, question};
use trunkline_proto::operator::v1::operator_service_server::{OperatorService, OperatorServiceServer};
use trunkline_proto::operator::v1::{CloseAllocationRequest, ListAllocationsRequest};
use trunkline_proto::store::v1::{NodeStatus, ReplicaRecord};
use trunkline_wire::NodeId;

use super::fixture::{Fixture, admin, node, once, viewer};

const FIRST: NodeId = NodeId { site: 1, server: 1 };
const SECOND: NodeId = NodeId { site: 1, server: 2 };

type Live = Arc<Mutex<Vec<String>>>;

/// A server that is connected to this replica and has these allocations.
fn connect(core: &Core, node: NodeId, ids: &[&str]) -> Live {
    let live: Live = Arc::new(Mutex::new(ids.iter().map(|id| (*id).to_owned()).collect()));
    let mut session = core.sessions().register(node, 1).expect("registered");
    let kept = Arc::clone(&live);
    tokio::spawn(async move {
        while let Some(asked) = session.questions.recv().await {
            let mut ids = kept.lock().expect("a lock");
            let mut answer = Answer { id: asked.id, ..Answer::default() };
            match asked.question.expect("a question") {
                question::Question::ListAllocations(_) => {
                    let one = |id: &String| Allocation {
                        id: id.clone(),
                        client: "192.0.2.1:5000".into(),
                        node: Some(records::node_message(NodeId { site: 9, server: 9 })),
                        ..Allocation::default()
                    };
                    answer.allocations = ids.iter().map(one).collect();
                }
                question::Question::CloseAllocation(id) => {
                    answer.closed = ids.contains(&id);
                    ids.retain(|other| *other != id);
                }
            }
            drop(ids);
            session.answered(answer);
        }
    });
    live
}

/// A second replica over the same store, with server 1.2 connected to it, and a way there.
async fn second_replica(fixture: &Fixture) -> (Core, Dial) {
    let info = ReplicaInfo { name: "two".into(), address: String::new() };
    let core =
        Core::start(fixture.store.clone(), fixture.core.sealing().clone(), info).await.expect("a core");
    let service = OperatorServiceImpl::new(core.clone(), Surroundings::default());
    let from_replica = |mut request: Request<()>| -> Result<Request<()>, Status> {
        request.extensions_mut().insert(Identity::Replica("one".into()));
        Ok(request)
    };
    let service = OperatorServiceServer::with_interceptor(service, from_replica);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(
        Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let record = ReplicaRecord { name: "two".into(), address, ..ReplicaRecord::default() };
    let status = NodeStatus { replica: "two".into(), ..NodeStatus::default() };
    fixture.put([records::put("two", &record), records::put(SECOND, &status)]).await;
    let dial: Dial = Arc::new(|address| {
        Box::pin(async move {
            let endpoint =
                Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
            endpoint.connect().await.map_err(|error| error.to_string())
        })
    });
    (core, dial)
}

fn close(key: &str, server: u32, id: &str) -> CloseAllocationRequest {
    CloseAllocationRequest { mutation: once(key), node: node(1, server), id: id.into() }
}

async fn found(service: &OperatorServiceImpl) -> (Vec<(u32, String)>, Vec<u32>) {
    let answer = service.list_allocations(admin(list(AllocationFilter::default()))).await.expect("an answer");
    let answer = answer.into_inner();
    let server = |node: Option<trunkline_proto::fleet::v1::NodeId>| node.map_or(0, |node| node.server);
    let allocations = answer.allocations.iter().map(|one| (server(one.node), one.id.clone())).collect();
    (allocations, answer.silent.iter().map(|node| node.server).collect())
}

#[tokio::test]
async fn a_server_speaks_for_itself_and_viewers_see_no_client_addresses() {
    let fixture = Fixture::with_servers(2).await;
    connect(&fixture.core, FIRST, &["b", "a"]);
    let expected = vec![(1, "a".to_owned()), (1, "b".to_owned())];
    assert_eq!(found(&fixture.service).await, (expected, vec![2]));
    let clients = async |request| {
        let answer = fixture.service.list_allocations(request).await.expect("an answer").into_inner();
        answer.allocations.iter().map(|one| one.client.clone()).collect::<Vec<_>>()
    };
    assert_eq!(clients(admin(list(AllocationFilter::default()))).await, ["192.0.2.1:5000", "192.0.2.1:5000"]);
    assert_eq!(clients(viewer(list(AllocationFilter::default()))).await, ["", ""]);
}

#[tokio::test]
async fn servers_of_another_replica_are_asked_through_it() {
    let fixture = Fixture::with_servers(2).await;
    let (core, dial) = second_replica(&fixture).await;
    let service = OperatorServiceImpl::new(
        fixture.core.clone(),
        Surroundings { dial: Some(dial), ..Surroundings::default() },
    );
    connect(&fixture.core, FIRST, &["a"]);
    assert_eq!(found(&service).await, (vec![(1, "a".to_owned())], vec![2]), "it knows the server is silent");
    let live = connect(&core, SECOND, &["c"]);
    assert_eq!(found(&service).await, (vec![(1, "a".to_owned()), (2, "c".to_owned())], vec![]));
    let answer = service.close_allocation(admin(close("k", 2, "c"))).await.expect("closed").into_inner();
    assert_eq!(answer.summary, "allocation c of node 1.2 is closed");
    assert!(live.lock().expect("a lock").is_empty());
    let status = service.close_allocation(admin(close("l", 2, "c"))).await.expect_err("refused");
    assert_eq!(status.code(), Code::NotFound, "{}", status.message());
    assert_eq!(fixture.events().await.len(), 2, "the replica that was asked first tells, the other does not");
}

#[tokio::test]
async fn a_replica_that_is_gone_leaves_its_servers_silent() {
    let fixture = Fixture::with_servers(2).await;
    let status = NodeStatus { replica: "gone".into(), ..NodeStatus::default() };
    fixture.put([records::put(SECOND, &status)]).await;
    connect(&fixture.core, FIRST, &["a"]);
    assert_eq!(found(&fixture.service).await, (vec![(1, "a".to_owned())], vec![2]));
}

#[tokio::test]
async fn closing_twice_with_one_key_is_told_the_same() {
    let fixture = Fixture::with_servers(1).await;
    connect(&fixture.core, FIRST, &["a"]);
    let first =
        fixture.service.close_allocation(admin(close("k", 1, "a"))).await.expect("closed").into_inner();
    let again = fixture.service.close_allocation(admin(close("k", 1, "a"))).await.expect("told").into_inner();
    assert_eq!(first, again);
}

#[tokio::test]
async fn closing_what_is_not_there_is_not_found_however_often() {
    let fixture = Fixture::with_servers(1).await;
    connect(&fixture.core, FIRST, &["a"]);
    for _ in 0..2 {
        let status = fixture.service.close_allocation(admin(close("k", 1, "z"))).await.expect_err("refused");
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().starts_with("id: node 1.1 has no allocation \"z\""), "{}", status.message());
    }
}

#[tokio::test]
async fn a_close_whose_answer_was_lost_is_not_called_unknown() {
    let fixture = Fixture::with_servers(1).await;
    // The replica asked the server and was killed: the call is begun, and the allocation is closed.
    fixture.service.close_allocation(admin(close("k", 1, "a"))).await.expect_err("silent");
    connect(&fixture.core, FIRST, &[]);
    let answer =
        fixture.service.close_allocation(admin(close("k", 1, "a"))).await.expect("told").into_inner();
    assert_eq!(answer.summary, "allocation a of node 1.1 is gone: closed by this call before, or ended");
    let again = fixture.service.close_allocation(admin(close("k", 1, "a"))).await.expect("told").into_inner();
    assert_eq!(answer, again);
}

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
