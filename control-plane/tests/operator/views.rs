//! What operators see: status, servers, sites, tables, slices.

use tokio_stream::StreamExt as _;
use trunkline_control_plane::records;
use trunkline_proto::fleet::v1::{Slice, slice};
use trunkline_proto::node::v1::Report;
use trunkline_proto::operator::v1::node::State;
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::operator::v1::{
    GetStatusRequest, GetTableRequest, ListNodesRequest, ListSitesRequest, ListSlicesRequest, Node, Site,
};
use trunkline_proto::store::v1::{NodeRecord, NodeStatus, SliceRecord, SlicesRecord, TableRecord};
use trunkline_wire::NodeId;

use super::fixture::{Fixture, node, viewer};

/// Rows of 12 bytes: current, next, no previous, moved at.
fn table(rows: &[(u16, u16, u32)]) -> TableRecord {
    let row = |(current, next, moved): &(u16, u16, u32)| {
        [&current.to_be_bytes()[..], &next.to_be_bytes(), &[0; 4], &moved.to_be_bytes()].concat()
    };
    TableRecord { site: 1, rows: rows.iter().flat_map(row).collect(), ..TableRecord::default() }
}

/// Four rows, of which one moves from 1.1 to 1.2.
async fn with_table() -> Fixture {
    let fixture = Fixture::with_servers(2).await;
    fixture.put([records::put(1, &table(&[(1, 0, 10), (1, 2, 20), (2, 0, 30), (1, 0, 40)]))]).await;
    fixture
}

async fn node_view(fixture: &Fixture, server: u32) -> Node {
    let request = ListNodesRequest { site: None, node: node(1, server) };
    let list = fixture.service.list_nodes(viewer(request)).await.expect("a list").into_inner();
    let [view] = list.nodes.try_into().expect("one");
    view
}

#[tokio::test]
async fn a_table_shows_rows_shares_and_what_the_weights_ask_for() {
    let fixture = with_table().await;
    let heavy = NodeRecord { weight: 3.0, joined: true, node: node(1, 2), ..NodeRecord::default() };
    fixture.put([records::put(NodeId { site: 1, server: 2 }, &heavy)]).await;
    let table = fixture.service.get_table(viewer(GetTableRequest { site: 1, moved_since_unix_s: 0 })).await;
    let table = table.expect("a table").into_inner();
    assert_eq!((table.row_count, table.rows.len()), (4, 4));
    let shares: Vec<_> = table.shares.iter().map(|share| (share.server, share.rows, share.quota)).collect();
    assert_eq!(shares, [(1, 3, 1), (2, 1, 3)]);
    let moving = table.rows.get(1).expect("a row");
    assert_eq!((moving.index, moving.current, moving.next, moving.moved_unix_s), (1, 1, 2, 20));
}

#[tokio::test]
async fn only_rows_that_moved_since_are_told() {
    let fixture = with_table().await;
    let table = fixture.service.get_table(viewer(GetTableRequest { site: 1, moved_since_unix_s: 30 })).await;
    let table = table.expect("a table").into_inner();
    assert_eq!(table.rows.iter().map(|row| row.index).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(table.row_count, 4);
}

#[tokio::test]
async fn a_site_adds_up_what_its_servers_report() {
    let fixture = with_table().await;
    let sites = fixture.service.list_sites(viewer(ListSitesRequest {})).await.expect("sites").into_inner();
    let expected =
        Site { site: 1, nodes: 2, nodes_ready: 2, allocations: 10, bits_per_s: 200, rows: 4, rows_moving: 1 };
    assert_eq!(sites.sites, [expected]);
}

#[tokio::test]
async fn the_word_for_a_server_follows_what_it_is_asked_and_what_it_reports() {
    let fixture = Fixture::with_servers(1).await;
    let id = NodeId { site: 1, server: 1 };
    let record = |draining, joined| NodeRecord { weight: 1.0, joined, draining, ..NodeRecord::default() };
    let status = |allocations, faults: &[&str]| NodeStatus {
        report: Some(Report {
            allocations,
            faults: faults.iter().map(|fault| (*fault).to_owned()).collect(),
            ..Report::default()
        }),
        ..NodeStatus::default()
    };
    for (record, status, expected) in [
        (record(false, false), status(0, &[]), State::Expected),
        (record(false, true), status(5, &[]), State::Ready),
        (record(false, true), status(5, &["its disk is full"]), State::Faulty),
        (record(true, true), status(5, &["its disk is full"]), State::Draining),
        (record(true, true), status(0, &[]), State::Drained),
    ] {
        fixture.put([records::put(id, &record), records::put(id, &status)]).await;
        assert_eq!(node_view(&fixture, 1).await.state(), expected);
    }
    fixture.put([records::put(1, &table(&[(1, 0, 10)]))]).await;
    assert_eq!(node_view(&fixture, 1).await.state(), State::Draining, "a row still leads to it");
    assert_eq!(node_view(&fixture, 1).await.rows, 1);
}

#[tokio::test]
async fn slices_are_listed_by_owner_and_address() {
    let fixture = Fixture::with_servers(2).await;
    let slice = |index, owner, state: slice::State| SliceRecord {
        slice: Some(Slice { address: "2001:db8::9".into(), index, state: state.into(), owner, lease: 1 }),
        ..SliceRecord::default()
    };
    let record = SlicesRecord {
        address: "2001:db8::9".into(),
        slices: vec![
            slice(9, node(1, 1), slice::State::Owned),
            slice(10, node(1, 2), slice::State::Draining),
            slice(11, None, slice::State::Free),
        ],
    };
    fixture.put([records::put("2001:db8::9", &record)]).await;
    let list = async |node, address: &str| {
        let request = ListSlicesRequest { node, address: address.into() };
        let list = fixture.service.list_slices(viewer(request)).await.expect("a list").into_inner();
        list.slices.iter().map(|view| view.slice.as_ref().expect("a slice").index).collect::<Vec<_>>()
    };
    assert_eq!(list(None, "").await, [9, 10, 11]);
    assert_eq!(list(node(1, 2), "").await, [10]);
    assert_eq!(list(None, "2001:DB8:0::9").await, [9, 10, 11], "another spelling of the address");
    assert_eq!(node_view(&fixture, 2).await.slices, 1);
}

#[tokio::test]
async fn the_status_names_store_and_version() {
    let fixture = Fixture::new().await;
    let status =
        fixture.service.get_status(viewer(GetStatusRequest {})).await.expect("a status").into_inner();
    assert_eq!(status.store, "embedded");
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!(status.store_members.iter().all(|member| member.is_healthy) && status.store_members.len() == 1);
    assert!(status.epoch.is_some() && status.rollout.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watched_list_comes_again_when_it_changed() {
    let fixture = Fixture::with_servers(1).await;
    let watch = fixture.service.watch_nodes(viewer(ListNodesRequest::default())).await.expect("a stream");
    let mut lists = watch.into_inner();
    assert_eq!(lists.next().await.expect("one").expect("a list").nodes.len(), 1);
    fixture.join(NodeId { site: 1, server: 2 }).await;
    let changed = lists.next().await.expect("one more").expect("a list");
    assert_eq!(changed.nodes.len(), 2);
}
