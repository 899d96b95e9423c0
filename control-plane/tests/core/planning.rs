//! What servers are told from an empty store on, and after the store was put back.

use trunkline_control_plane::configuration;
use trunkline_control_plane::core::Planned;
use trunkline_control_plane::records;
use trunkline_control_plane::replica::Replica;
use trunkline_control_plane::state::State;
use trunkline_control_plane::store::StoreError;
use trunkline_proto::fleet::v1::{Configuration, Epoch, Slice};
use trunkline_proto::node::v1::Report;
use trunkline_proto::store::v1::{EpochRecord, NodeRecord, NodeStatus, SliceRecord};
use trunkline_wire::NodeId;

use crate::fleet::{Fleet, Server, until};

const OTHER: NodeId = NodeId { site: 1, server: 2 };

fn rows_of(configuration: &Configuration, server: u16) -> usize {
    let Some(table) = &configuration.table else { return 0 };
    table.rows.chunks_exact(8).filter(|row| row[..2] == server.to_be_bytes()).count()
}

/// As an operator's call does.
async fn configure(replica: &Replica, node: NodeId, record: &NodeRecord) {
    let plan = |_: &State| {
        let changes = vec![records::put(node, record)];
        Ok::<_, StoreError>(Planned { checks: vec![], changes, touches_configuration: true, answer: () })
    };
    replica.core().change(plan).await.unwrap();
}

fn is_whole(configuration: &Configuration) -> bool {
    configuration.table.is_some() && configuration.slices.len() == 1 && configuration.settings.is_some()
}

#[tokio::test]
async fn a_server_of_an_empty_store_gets_keys_a_table_and_a_slice() {
    let fleet = Fleet::new();
    fleet.add(Server::NODE).await;
    let (endpoint, replica) = fleet.replica("only").await;
    let mut server = Server::open(&endpoint, Configuration::default(), 1).await;
    server.until("a whole configuration", is_whole).await;
    assert_eq!(rows_of(&server.configuration, 1), 16_384);
    assert_eq!(server.configuration.epoch.unwrap().generation, 1);

    server.differences = 0;
    let member = NodeRecord { joined: true, weight: 1.0, ..NodeRecord::default() };
    configure(&replica, OTHER, &member).await;
    server.until("another member", |now| now.members.len() == 2).await;
    assert!(server.differences > 0, "what follows the first is sent as differences");
    until(replica.core(), "it acknowledged", |state| {
        let status = state.statuses.get(&Server::NODE);
        status.is_some_and(|kept| kept.record.acknowledged == server.configuration.epoch)
    })
    .await;
}

#[tokio::test]
async fn a_drained_server_loses_its_rows_in_two_phases() {
    let fleet = Fleet::new();
    fleet.add(Server::NODE).await;
    fleet.add(OTHER).await;
    for node in [Server::NODE, OTHER] {
        fleet.report(node, &NodeStatus { reports: 1, ..NodeStatus::default() }).await;
    }
    let (endpoint, replica) = fleet.replica("only").await;
    let mut server = Server::open(&endpoint, Configuration::default(), 1).await;
    server.until("rows of both", |now| rows_of(now, 1) > 0 && rows_of(now, 2) > 0).await;
    let (kept, lost) = (rows_of(&server.configuration, 1), rows_of(&server.configuration, 2));
    assert_eq!((kept, lost), (8_192, 8_192));

    let record = replica.core().state().nodes[&OTHER].record.clone();
    let drained = NodeRecord { draining: true, ..record };
    configure(&replica, OTHER, &drained).await;
    let trailing = |now: &Configuration| {
        let rows = now.table.as_ref().map(|table| table.rows.clone()).unwrap_or_default();
        rows.chunks_exact(8).filter(|row| row[2..4] != [0, 0]).count()
    };
    server.until("the first phase", |now| trailing(now) == 8_192).await;
    assert_eq!(rows_of(&server.configuration, 2), 8_192, "nothing has moved yet");
    server.until("the second phase", |now| rows_of(now, 1) == 16_384).await;
    assert_eq!(trailing(&server.configuration), 0);
}

#[tokio::test]
async fn a_store_that_was_put_back_gets_a_generation_above_every_report() {
    let fleet = Fleet::new();
    fleet.add(Server::NODE).await;
    fleet.add(OTHER).await;
    let (endpoint, replica) = fleet.replica("only").await;
    let mut server = Server::open(&endpoint, Configuration::default(), 1).await;
    server.until("a whole configuration", is_whole).await;

    let began = configuration::unix_now_s();
    let ahead = Epoch { generation: 3, counter: 900 };
    let report = Report { epoch: Some(ahead), ..Report::default() };
    fleet.report(OTHER, &NodeStatus { report: Some(report), ..NodeStatus::default() }).await;

    let above = |epoch: Epoch| configuration::is_newer(epoch, ahead);
    let state = until(replica.core(), "a higher generation", |state| above(state.epoch())).await;
    assert!(state.epoch().generation >= began, "at least the time of the raise, in Unix seconds");
    let free = state
        .slices
        .values()
        .flat_map(|kept| &kept.record.slices)
        .filter(|kept| kept.slice.as_ref().is_some_and(|slice| slice.state == 4));
    assert_eq!(free.count(), 0, "what looks free rests first");
    server.until("it is told", |now| now.epoch.is_some_and(above)).await;
}

/// The replica runs on while the store is put back to before the server's slice was leased.
#[tokio::test]
async fn a_session_that_lives_through_a_restore_keeps_what_the_store_has_forgotten() {
    let fleet = Fleet::new();
    fleet.add(Server::NODE).await;
    let (endpoint, replica) = fleet.replica("only").await;
    let mut server = Server::open(&endpoint, Configuration::default(), 1).await;
    server.until("a whole configuration", is_whole).await;
    let before = server.configuration.clone();
    let held = before.slices[0].clone();
    until(replica.core(), "it has said so", |state| {
        let report = state.statuses.get(&Server::NODE).and_then(|kept| kept.record.report.as_ref());
        report.is_some_and(|report| report.epoch == before.epoch)
    })
    .await;

    let state = replica.core().state();
    let mut forgetful = state.slices[&held.address].record.clone();
    let place = |kept: &&mut SliceRecord| kept.slice.as_ref().is_some_and(|slice| slice.index == held.index);
    *forgetful.slices.iter_mut().find(place).unwrap() = SliceRecord {
        slice: Some(Slice { state: 4, owner: None, lease: 0, ..held.clone() }),
        ..SliceRecord::default()
    };
    let older = EpochRecord { epoch: Some(Epoch { generation: 1, counter: 1 }) };
    fleet.put(vec![records::put("", &older), records::put(&held.address, &forgetful)]).await;

    let risen = |now: &Configuration| now.epoch.is_some_and(|epoch| epoch.generation > 1);
    server.until("the new generation", risen).await;
    let kept = |now: &Configuration| {
        now.slices.iter().any(|slice| (slice.index, slice.lease) == (held.index, held.lease))
    };
    assert!(kept(&server.configuration), "the first it is told already: {:?}", server.configuration.slices);
}

/// What it had drains meanwhile, and everything else rests for minutes.
#[tokio::test]
async fn a_server_that_was_cut_off_during_a_restore_goes_on_with_its_slice() {
    let fleet = Fleet::new();
    fleet.add(Server::NODE).await;
    fleet.add(OTHER).await;
    let (endpoint, replica) = fleet.replica("only").await;
    let mut server = Server::open(&endpoint, Configuration::default(), 1).await;
    server.until("a whole configuration", is_whole).await;
    let before = server.configuration.clone();
    drop(server);
    let report = Report { epoch: Some(Epoch { generation: 3, counter: 900 }), ..Report::default() };
    fleet.report(OTHER, &NodeStatus { report: Some(report), ..NodeStatus::default() }).await;
    let risen = |epoch: Epoch| epoch.generation > 3;
    until(replica.core(), "a higher generation", |state| risen(state.epoch())).await;

    let mut server = Server::open(&endpoint, before.clone(), 2).await;
    server.until("the new generation", |now| now.epoch.is_some_and(risen)).await;
    let slices = &server.configuration.slices;
    assert!(
        slices.iter().any(|slice| slice.state == 1 && slice.lease == before.slices[0].lease),
        "{slices:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_ahead_is_told_nothing_older() {
    let fleet = Fleet::new();
    fleet.add(Server::NODE).await;
    let (endpoint, _replica) = fleet.replica("only").await;
    let before =
        Configuration { epoch: Some(Epoch { generation: 7, counter: 5 }), ..Configuration::default() };
    let mut server = Server::open(&endpoint, before, 1).await;
    // `Server::until` applies what comes, and applying anything that is not newer fails.
    server.until("a higher generation", |now| now.epoch.is_some_and(|epoch| epoch.generation > 7)).await;
}

#[tokio::test]
async fn the_newer_of_two_processes_with_one_name_stays() {
    let fleet = Fleet::new();
    fleet.add(Server::NODE).await;
    let (endpoint, _replica) = fleet.replica("only").await;
    let mut older = Server::open(&endpoint, Configuration::default(), 1).await;
    older.until("a configuration", |now| now.epoch.is_some()).await;
    let mut newer = Server::open(&endpoint, Configuration::default(), 2).await;
    newer.until("a configuration", |now| now.epoch.is_some()).await;
    let status = older.end().await;
    assert_eq!(status.code(), tonic::Code::AlreadyExists, "{status}");
    assert!(status.message().contains("1.1"), "{status}");
    let mut late = Server::open(&endpoint, Configuration::default(), 1).await;
    assert_eq!(late.end().await.code(), tonic::Code::AlreadyExists);
}

#[tokio::test]
async fn a_stranger_is_told_what_to_do() {
    let fleet = Fleet::new();
    let (endpoint, _replica) = fleet.replica("only").await;
    let mut server = Server::open(&endpoint, Configuration::default(), 1).await;
    let status = server.end().await;
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().contains("trunklinectl nodes add 1.1"), "{status}");
}

#[tokio::test]
async fn a_late_session_leaves_nothing_behind_of_a_removed_server() {
    let fleet = Fleet::new();
    fleet.add(Server::NODE).await;
    let (endpoint, replica) = fleet.replica("only").await;
    let mut server = Server::open(&endpoint, Configuration::default(), 1).await;
    server.until("a whole configuration", is_whole).await;
    until(replica.core(), "it reported", |state| state.statuses.contains_key(&Server::NODE)).await;

    let delete = |key: String| trunkline_control_plane::store::Change::Delete { key };
    let (node, status) = (records::key::<NodeRecord>(Server::NODE), records::key::<NodeStatus>(Server::NODE));
    // The second waits until the first is written and some time has passed; the session has ended by then.
    server.report().await;
    server.report().await;
    fleet.put(vec![delete(node), delete(status)]).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let state = replica.core().state();
    assert!(!state.nodes.contains_key(&Server::NODE));
    assert!(!state.statuses.contains_key(&Server::NODE), "the report of a server that is no member");
}

#[tokio::test]
async fn a_server_that_shares_what_another_owns_alone_is_told_and_nothing_is_stored() {
    let fleet = Fleet::new();
    fleet.add(Server::NODE).await;
    let owner = NodeRecord {
        node: Some(records::node_message(OTHER)),
        joined: true,
        weight: 1.0,
        own_relay_addresses: vec!["203.0.113.1".to_owned()],
        ..NodeRecord::default()
    };
    fleet.put(vec![records::put(OTHER, &owner)]).await;
    let (endpoint, replica) = fleet.replica("only").await;
    let mut server = Server::open(&endpoint, Configuration::default(), 1).await;
    let status = server.end().await;
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    for word in ["203.0.113.1", "node 1.1", "node 1.2", "--shared-relay-address"] {
        assert!(status.message().contains(word), "{word}: {status}");
    }
    let state = replica.core().state();
    assert!(state.nodes[&Server::NODE].record.relay_addresses.is_empty(), "nothing is stored");
}
