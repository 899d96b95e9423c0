//! Commands that wait for the fleet: drains and roll-outs.

use std::io::{BufRead, BufReader};

use trunkline_proto::fleet::v1::NodeId;
use trunkline_proto::node::v1::Report;
use trunkline_proto::operator::v1::node::State;
use trunkline_proto::operator::v1::{
    ApplySettingsRequest, ApplySettingsResponse, Change, GetStatusRequest, ListNodesRequest,
    ListNodesResponse, MutationResponse, Node, Rollout, SetDrainRequest, rollout,
};

use crate::command::Place;
use crate::scripted::{ControlPlane, Scripted};

fn node(server: u32, state: State, rows: u32, allocations: u64) -> Node {
    let report = Some(Report { allocations, ..Report::default() });
    let id = Some(NodeId { site: 1, server });
    Node { node: id, state: state.into(), rows, report, ..Node::default() }
}

/// Server 1.2 goes through these looks, beside a server 1.1 that is ready.
fn draining(looks: Vec<Node>) -> Scripted {
    let server = Scripted::start();
    server.answers("set_drain", |_: SetDrainRequest| Ok(MutationResponse::default()));
    let mut looks = looks.into_iter().peekable();
    let mut at = looks.next().expect("a look");
    server.answers("list_nodes", move |_: ListNodesRequest| {
        let now = at.clone();
        at = looks.next().unwrap_or_else(|| now.clone());
        Ok(ListNodesResponse { nodes: vec![node(1, State::Ready, 9, 40), now] })
    });
    server
}

#[test]
fn a_drain_shows_how_far_it_is_until_the_server_is_empty() {
    let server = draining(vec![
        // A replica that has not seen the drain yet.
        node(2, State::Ready, 8, 3),
        node(2, State::Draining, 8, 3),
        node(2, State::Draining, 0, 1),
        node(2, State::Drained, 0, 0),
    ]);
    let ended = Place::at(&server.socket()).run(&["drain", "1.2"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("3 allocations, 8 rows left\n1 allocation, 0 rows left\n"), "{}", ended.err);
    assert_eq!(ended.out, "1.2 is empty\n");
}

#[test]
fn a_drain_for_programs_is_one_document() {
    let server = draining(vec![node(2, State::Draining, 8, 3), node(2, State::Drained, 0, 0)]);
    let place = Place::at(&server.socket());
    let document = place.json(&["drain", "1.2"]);
    assert_eq!(document["nodes"][0]["state"], "STATE_DRAINED");
    let document = place.json(&["drain", "1.2", "--no-wait"]);
    assert!(document["nodes"].is_null());
}

#[test]
fn a_drain_that_somebody_takes_back_is_not_waited_for() {
    let server = draining(vec![node(2, State::Draining, 8, 3), node(2, State::Ready, 8, 3)]);
    let fault = Place::at(&server.socket()).fault(&["drain", "1.2"], 3);
    assert!(fault.contains("undrained"), "{fault}");
}

#[test]
fn a_server_that_dies_in_its_drain_is_not_called_empty() {
    let server = draining(vec![node(2, State::Draining, 8, 3), node(2, State::Dead, 0, 3)]);
    let fault = Place::at(&server.socket()).fault(&["drain", "1.2"], 3);
    assert!(fault.contains("1.2 does not answer"), "{fault}");
}

#[test]
fn an_interrupted_wait_says_that_the_drain_stays() {
    let server = draining(vec![node(2, State::Draining, 8, 3)]);
    let mut child = Place::at(&server.socket()).start(&["drain", "1.2"]);
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    // From the progress on it waits.
    let waiting = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("8 rows left")));
    assert!(waiting.is_some());
    let pid = child.id().to_string();
    let killed = std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill");
    assert!(killed.success());
    let last = lines.last().expect("a line").expect("text");
    assert_eq!(child.wait().expect("an end").code(), Some(3));
    assert!(last.contains("the drain stays in place"), "{last}");
    assert_eq!(server.asked::<SetDrainRequest>("set_drain").len(), 1, "it is not taken back");
}

fn applying(rollouts: Vec<Rollout>) -> Scripted {
    let server = Scripted::start();
    server.answers("apply_settings", |request: ApplySettingsRequest| {
        assert_eq!(request.settings.map(|settings| settings.user_quota), Some(7));
        let change = Change { field: "user_quota".into(), before: "0".into(), after: "7".into() };
        Ok(ApplySettingsResponse { version: 3, changes: vec![change] })
    });
    let mut rollouts = rollouts.into_iter();
    let mut at = rollouts.next();
    server.answers("get_status", move |_: GetStatusRequest| {
        let now = at.clone();
        at = rollouts.next().or_else(|| now.clone());
        Ok(ControlPlane { rollout: now, ..ControlPlane::default() })
    });
    server
}

fn look(to_version: u64, state: rollout::State, nodes_done: u32) -> Rollout {
    let reason = "node 1.1 refused it".into();
    Rollout { from_version: 2, to_version, state: state.into(), nodes_done, nodes_total: 4, reason }
}

#[test]
fn a_roll_out_is_shown_until_it_is_done() {
    let server = applying(vec![
        look(2, rollout::State::Done, 4),
        look(3, rollout::State::Running, 1),
        look(3, rollout::State::Done, 4),
    ]);
    let place = Place::at(&server.socket());
    place.write("settings.toml", "user-quota = 7\n");
    let ended = place.run(&["config", "apply", "settings.toml"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.starts_with("FIELD       BEFORE  AFTER\nuser_quota  0       7\n"), "{}", ended.out);
    assert!(ended.out.ends_with("version 3 on all servers\n"), "{}", ended.out);
    assert!(ended.err.contains("1 of 4 servers have it"), "{}", ended.err);
}

#[test]
fn a_roll_out_that_stops_ends_with_code_3_and_says_why() {
    let server = applying(vec![look(3, rollout::State::Stopped, 1)]);
    let place = Place::at(&server.socket());
    place.write("settings.toml", "user-quota = 7\n");
    let fault = place.fault(&["config", "apply", "settings.toml"], 3);
    assert!(fault.contains("node 1.1 refused it"), "{fault}");
}

#[test]
fn a_roll_out_that_another_replaces_is_incomplete() {
    let server = applying(vec![look(4, rollout::State::Running, 1)]);
    let place = Place::at(&server.socket());
    place.write("settings.toml", "user-quota = 7\n");
    let fault = place.fault(&["config", "apply", "settings.toml"], 3);
    assert!(fault.contains("version 4 took the place of version 3"), "{fault}");
}

#[test]
fn a_dry_run_waits_for_nothing() {
    let server = applying(vec![]);
    let place = Place::at(&server.socket());
    place.write("settings.toml", "user-quota = 7\n");
    assert!(place.text(&["config", "apply", "settings.toml", "--dry-run"]).contains("Nothing was changed"));
    let asked = server.asked::<ApplySettingsRequest>("apply_settings");
    assert!(asked[0].dry_run && !asked[0].without_stages);
    assert!(server.asked::<GetStatusRequest>("get_status").is_empty());
}
