//! Servers are added, removed, drained and weighed.

use tonic::Code;
use trunkline_control_plane::join_token::JoinToken;
use trunkline_control_plane::records;
use trunkline_proto::fleet::v1::{Slice, slice};
use trunkline_proto::node::v1::Report;
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::operator::v1::{
    AddNodeRequest, RemoveNodeRequest, SetDrainRequest, SetWeightRequest, set_drain_request::Target,
};
use trunkline_proto::store::v1::{
    JoinToken as TokenRecord, NodeRecord, NodeStatus, SliceRecord, SlicesRecord,
};
use trunkline_wire::NodeId;

use super::fixture::{Fixture, admin, node, once};

fn add(key: &str, server: u32) -> AddNodeRequest {
    AddNodeRequest { mutation: once(key), node: node(1, server), weight: Some(2.5), token_lifetime_s: 0 }
}

fn weigh(key: &str, server: u32, weight: f64) -> SetWeightRequest {
    SetWeightRequest { mutation: once(key), node: node(1, server), weight }
}

fn remove(key: &str, server: u32, confirm_gone: bool) -> RemoveNodeRequest {
    RemoveNodeRequest { mutation: once(key), node: node(1, server), confirm_gone }
}

fn drain(key: &str, target: Target, drain: bool) -> SetDrainRequest {
    SetDrainRequest { mutation: once(key), target: Some(target), drain }
}

/// One slice of a shared address, of server 1.`server`.
fn slices(server: u32) -> SlicesRecord {
    let slice = Slice {
        address: "192.0.2.9".into(),
        index: 9,
        state: slice::State::Owned.into(),
        owner: node(1, server),
        lease: 1,
    };
    SlicesRecord {
        address: "192.0.2.9".into(),
        slices: vec![SliceRecord { slice: Some(slice), ..SliceRecord::default() }],
    }
}

#[tokio::test]
async fn an_added_server_is_expected_and_its_token_proves_itself_against_the_store() {
    let fixture = Fixture::new().await;
    let answer = fixture.service.add_node(admin(add("a", 4))).await.expect("added").into_inner();
    let token: JoinToken = answer.token.parse().expect("a token");
    let kept = fixture.records::<TokenRecord>().await;
    let record = kept.get(&records::key::<TokenRecord>(token.id())).expect("its record");
    assert!(token.proves(&record.secret_sha256));
    assert_eq!(token.root_sha256(), [7; 32]);
    assert_eq!(record.expires_unix_s, answer.token_expires_unix_s);
    let nodes = fixture.records::<NodeRecord>().await;
    let record = nodes.get("node/1.4").expect("a member");
    assert_eq!((record.weight, record.joined), (2.5, false));
    assert_eq!(fixture.core.state().epoch(), answer.epoch.expect("an epoch"));
}

#[tokio::test]
async fn a_server_is_not_added_twice() {
    let fixture = Fixture::with_servers(1).await;
    let (code, text) = fixture.refused(async |service| service.add_node(admin(add("a", 1))).await).await;
    assert_eq!(code, Code::AlreadyExists);
    assert!(text.starts_with("node: 1.1 is there already"), "{text}");
}

#[tokio::test]
async fn a_weight_becomes_part_of_the_configuration() {
    let fixture = Fixture::with_servers(2).await;
    let before = fixture.core.state().epoch();
    let answer = fixture.service.set_weight(admin(weigh("w", 2, 0.5))).await.expect("set").into_inner();
    let epoch = answer.epoch.expect("an epoch");
    assert_eq!(epoch.counter, before.counter + 1);
    assert_eq!(answer.summary, "node 1.2 has weight 0.5; it had 1");
    let again = fixture.service.set_weight(admin(weigh("w2", 2, 0.5))).await.expect("set").into_inner();
    assert_eq!(again.epoch, Some(epoch), "nothing changed, so nobody is told");
}

#[tokio::test]
async fn a_site_is_drained_and_given_back_as_a_whole() {
    let fixture = Fixture::with_servers(3).await;
    fixture
        .service
        .set_drain(admin(drain("a", Target::Node(node(1, 2).expect("a node")), true)))
        .await
        .expect("set");
    let answer = fixture.service.set_drain(admin(drain("b", Target::Site(1), true))).await.expect("set");
    assert_eq!(answer.into_inner().summary, "site 1 is draining: 1.1, 1.3");
    assert!(fixture.core.state().nodes.values().all(|kept| kept.record.draining));
    fixture.service.set_drain(admin(drain("c", Target::Site(1), false))).await.expect("set");
    assert!(fixture.core.state().nodes.values().all(|kept| !kept.record.draining));
}

#[tokio::test]
async fn a_site_of_too_many_servers_is_not_drained_by_halves() {
    let fixture = Fixture::with_servers(130).await;
    let request = drain("a", Target::Site(1), true);
    let (code, text) = fixture.refused(async |service| service.set_drain(admin(request)).await).await;
    assert_eq!(code, Code::ResourceExhausted, "{text}");
}

#[tokio::test]
async fn a_server_that_serves_is_not_removed_and_not_believed_gone() {
    let fixture = Fixture::with_servers(1).await;
    let (code, text) =
        fixture.refused(async |service| service.remove_node(admin(remove("a", 1, false))).await).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(text.contains("5 allocations"), "{text}");
    let (code, text) =
        fixture.refused(async |service| service.remove_node(admin(remove("b", 1, true))).await).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(text.starts_with("confirm_gone: node 1.1 is not gone"), "{text}");
}

#[tokio::test]
async fn an_empty_server_is_removed() {
    let fixture = Fixture::with_servers(1).await;
    let status = NodeStatus { report: Some(Report::default()), ..NodeStatus::default() };
    fixture.put([records::put(NodeId { site: 1, server: 1 }, &status)]).await;
    fixture.service.remove_node(admin(remove("a", 1, false))).await.expect("removed");
    assert!(fixture.records::<NodeRecord>().await.is_empty());
    assert!(fixture.records::<NodeStatus>().await.is_empty());
}

#[tokio::test]
async fn an_expected_server_is_removed_with_its_token() {
    let fixture = Fixture::new().await;
    fixture.service.add_node(admin(add("a", 1))).await.expect("added");
    fixture.service.add_node(admin(add("b", 2))).await.expect("added");
    fixture.service.remove_node(admin(remove("c", 1, false))).await.expect("removed");
    let tokens = fixture.records::<TokenRecord>().await;
    assert_eq!(tokens.values().map(|token| token.node).collect::<Vec<_>>(), [node(1, 2)]);
}

#[tokio::test(start_paused = true)]
async fn slices_of_a_silent_server_are_taken_only_on_the_operators_word() {
    let fixture = Fixture::with_servers(1).await;
    fixture.put([records::put("192.0.2.9", &slices(1))]).await;
    silence().await;
    let (code, text) =
        fixture.refused(async |service| service.remove_node(admin(remove("a", 1, false))).await).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(text.contains("holds 1 slices"), "{text}");
    fixture.service.remove_node(admin(remove("b", 1, true))).await.expect("removed");
    let event = fixture.events().await.pop().expect("an event");
    assert_eq!(
        (event.before.as_str(), event.after.as_str()),
        ("member with 0 rows and 1 slices", "not a member, confirmed gone")
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_shown_as_dead_and_a_new_report_revives_it() {
    use trunkline_proto::operator::v1::{ListNodesRequest, node::State};
    let fixture = Fixture::with_servers(1).await;
    let condition = async || {
        let list = fixture.service.list_nodes(admin(ListNodesRequest::default())).await.expect("a list");
        list.into_inner().nodes.first().expect("a node").state()
    };
    assert_eq!(condition().await, State::Ready);
    silence().await;
    assert_eq!(condition().await, State::Dead);
    fixture.join(NodeId { site: 1, server: 1 }).await;
    assert_eq!(condition().await, State::Ready);
}

/// Longer than a living server is silent, in the test's own time.
async fn silence() {
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
}
