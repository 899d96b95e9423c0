//! What is sent, what is shown, and what happens when an answer is lost.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::json;
use tonic::Status;
use trunkline_proto::fleet::v1::{Epoch, NodeId, Policy, Settings};
use trunkline_proto::operator::v1::{
    AddNodeRequest, AddNodeResponse, ApplySettingsRequest, ApplySettingsResponse, Event, GetSettingsRequest,
    GetSettingsResponse, GetStatusRequest, ListAllocationsRequest, ListAllocationsResponse, ListNodesRequest,
    ListNodesResponse, MutationResponse, Node, QueryUsageRequest, QueryUsageResponse, Replica,
    SetWeightRequest, WatchEventsRequest,
};

use crate::command::Place;
use crate::scripted::{ControlPlane, Scripted};

fn done() -> MutationResponse {
    let epoch = Some(Epoch { generation: 1, counter: 8 });
    MutationResponse { epoch, summary: "node 1.2: weight 1 → 0.5".into() }
}

#[test]
fn a_change_carries_a_random_key_and_the_reason() {
    let server = Scripted::start();
    server.answers("set_weight", |_: SetWeightRequest| Ok(done()));
    let place = Place::at(&server.socket());
    let text = place.text(&["weight", "1.2", "0.5", "--reason", "slow disk"]);
    assert_eq!(text, "node 1.2: weight 1 → 0.5 (epoch 1/8)\n");
    place.text(&["weight", "1.2", "-1"]);
    let asked = server.asked::<SetWeightRequest>("set_weight");
    let mutations: Vec<_> =
        asked.iter().map(|request| request.mutation.clone().unwrap_or_default()).collect();
    assert_eq!(asked[0].node, Some(NodeId { site: 1, server: 2 }));
    assert_eq!(mutations[0].reason, "slow disk");
    assert_eq!(mutations[0].idempotency_key.len(), 32);
    assert_ne!(mutations[0].idempotency_key, mutations[1].idempotency_key);
    assert!(asked[1].weight < 0.0, "whether a weight is good, the control plane says");
}

#[test]
fn a_change_whose_answer_is_lost_is_sent_again_under_the_same_key() {
    let server = Scripted::start();
    let mut left = 2;
    server.answers("set_weight", move |_: SetWeightRequest| {
        if left == 0 {
            return Ok(done());
        }
        left -= 1;
        Err(Status::unavailable("no leader"))
    });
    Place::at(&server.socket()).text(&["weight", "1.2", "0.5"]);
    let asked = server.asked::<SetWeightRequest>("set_weight");
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|request| request.mutation == asked[0].mutation));
}

#[test]
fn what_stays_lost_ends_when_the_time_is_over() {
    let server = Scripted::start();
    server.answers("set_weight", |_: SetWeightRequest| {
        Err::<MutationResponse, _>(Status::unavailable("no leader"))
    });
    let fault = Place::at(&server.socket()).fault(&["weight", "1.2", "0.5", "--timeout", "1s"], 1);
    assert!(fault.contains("not done within 1s: no leader"), "{fault}");
    assert!(server.asked::<SetWeightRequest>("set_weight").len() > 2);
}

/// Takes connections at a socket in `place`, and does this with each.
fn broken(place: &Place, name: &str, with: impl Fn(UnixStream) + Send + 'static) -> String {
    let socket = place.path(name);
    let listener = UnixListener::bind(&socket).expect("a socket");
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(with));
    format!("unix:{}", socket.display())
}

#[test]
fn a_replica_that_dies_under_a_call_is_left_for_another() {
    let server = Scripted::start();
    server.answers("set_weight", |_: SetWeightRequest| Ok(done()));
    let place = Place::new();
    // It reads the beginning of the call.
    let dying = broken(&place, "dying.sock", |mut stream| drop(stream.read(&mut [0; 64])));
    let both = format!("{dying},unix:{}", server.socket().display());
    place.text(&["--endpoint", &both, "weight", "1.2", "0.5"]);
    assert_eq!(server.asked::<SetWeightRequest>("set_weight").len(), 1);
}

#[test]
fn a_replica_that_hangs_is_left_for_another() {
    let server = Scripted::start();
    server.answers("set_weight", |_: SetWeightRequest| Ok(done()));
    let place = Place::new();
    let hanging = broken(&place, "hanging.sock", std::mem::forget);
    let both = format!("{hanging},unix:{}", server.socket().display());
    let begin = std::time::Instant::now();
    place.text(&["--endpoint", &both, "weight", "1.2", "0.5"]);
    assert!(begin.elapsed() < std::time::Duration::from_secs(8));
}

#[test]
fn a_refusal_is_not_sent_again() {
    let server = Scripted::start();
    server.answers("set_weight", |_: SetWeightRequest| {
        Err::<MutationResponse, _>(Status::permission_denied("SetWeight needs the role operator"))
    });
    let fault = Place::at(&server.socket()).fault(&["weight", "1.2", "0.5"], 1);
    assert_eq!(fault, "trunklinectl: not allowed: SetWeight needs the role operator");
    assert_eq!(server.asked::<SetWeightRequest>("set_weight").len(), 1);
}

#[test]
fn a_key_that_is_given_is_sent() {
    let server = Scripted::start();
    server.answers("set_weight", |_: SetWeightRequest| Ok(done()));
    Place::at(&server.socket()).text(&["--idempotency-key", "mine", "weight", "1.2", "0.5"]);
    let asked = server.asked::<SetWeightRequest>("set_weight");
    assert_eq!(asked[0].mutation.clone().unwrap_or_default().idempotency_key, "mine");
}

#[test]
fn adding_a_server_shows_the_command_to_run_on_it() {
    let server = Scripted::start();
    server.answers("add_node", |request: AddNodeRequest| {
        assert_eq!(request.weight, Some(0.5));
        assert_eq!(request.token_lifetime_s, 600);
        Ok(AddNodeResponse {
            token: "tl1.1.3.aa".into(),
            token_expires_unix_s: 5,
            ..AddNodeResponse::default()
        })
    });
    server.answers("get_status", |_: GetStatusRequest| {
        let replica = Replica { name: "a".into(), address: "10.0.0.5:7443".into(), ..Replica::default() };
        Ok(ControlPlane { replicas: vec![replica], ..ControlPlane::default() })
    });
    let place = Place::at(&server.socket());
    let add = ["nodes", "add", "1.3", "--weight", "0.5", "--token-lifetime", "600"];
    let command =
        "trunkline node --control-plane https://10.0.0.5:7443 --join tl1.1.3.aa --data-dir trunkline-data";
    assert!(place.text(&add).contains(command));
    let document = place.json(&add);
    assert_eq!(document["token"], "tl1.1.3.aa");
    assert_eq!(document["command"], command);
}

#[test]
fn lists_are_tables_for_people_and_documents_for_programs() {
    let server = Scripted::start();
    server.answers("list_nodes", |request: ListNodesRequest| {
        assert_eq!(request.site, Some(1));
        Ok(ListNodesResponse {
            nodes: vec![Node { node: Some(NodeId { site: 1, server: 2 }), ..Node::default() }],
        })
    });
    let place = Place::at(&server.socket());
    let text = place.text(&["nodes", "--site", "1"]);
    assert!(text.starts_with("NODE  STATE"), "{text}");
    assert!(!text.contains('\x1b'), "no colours where there is no terminal");
    let document = place.json(&["nodes", "--site", "1"]);
    assert_eq!(document["nodes"][0]["node"], json!({"site": 1, "server": 2}));
    assert_eq!(document["nodes"][0]["state"], "STATE_UNSPECIFIED");
}

#[test]
fn events_are_one_line_each_for_programs_too() {
    let server = Scripted::start();
    server.answers("watch_events", |request: WatchEventsRequest| {
        assert!(!request.follow);
        Ok(Event { who: "operator alice".into(), revision: u64::from(request.last), ..Event::default() })
    });
    let place = Place::at(&server.socket());
    let out = place.text(&["events", "--last", "7", "--output", "json"]);
    assert_eq!(out.lines().count(), 1);
    let event: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&event["who"], &event["revision"]), (&json!("operator alice"), &json!(7)));
}

#[test]
fn usage_is_filtered_and_grouped_and_written_as_csv() {
    let server = Scripted::start();
    server.answers("query_usage", |_: QueryUsageRequest| Ok(QueryUsageResponse::default()));
    let place = Place::at(&server.socket());
    let by_user =
        ["--from", "2026-11-01", "--to", "2026-11-02", "--key", "ab", "--user", "bob", "--by", "user"];
    let csv = place.text(&[&["usage", "--csv"], &by_user[..]].concat());
    assert!(csv.starts_with("hour_unix_s,key_id,user,"), "{csv}");
    let asked = server.asked::<QueryUsageRequest>("query_usage").remove(0);
    assert_eq!((asked.from_unix_s, asked.to_unix_s), (1_793_491_200, 1_793_577_600));
    assert_eq!((asked.key_id.as_str(), asked.user.as_str(), asked.group_by), ("ab", "bob", 2));
}

#[test]
fn servers_that_do_not_answer_make_a_list_incomplete() {
    let server = Scripted::start();
    server.answers("list_allocations", |request: ListAllocationsRequest| {
        assert_eq!(request.filter.map(|filter| filter.key_id), Some("ab".into()));
        let silent = vec![NodeId { site: 1, server: 2 }];
        Ok(ListAllocationsResponse { silent, ..ListAllocationsResponse::default() })
    });
    let fault = Place::at(&server.socket()).fault(&["allocations", "--key", "ab"], 3);
    assert!(fault.contains("1.2"), "{fault}");
}

#[test]
fn a_policy_is_edited_from_the_newest_settings() {
    let server = Scripted::start();
    let mut version = 6;
    server.answers("get_settings", move |_: GetSettingsRequest| {
        version += 1;
        let policy = Policy { peer_allow: vec!["10.0.0.0/8".into()], ..Policy::default() };
        let settings = Settings { user_quota: 5, policy: Some(policy), ..Settings::default() };
        Ok(GetSettingsResponse { settings: Some(settings), version })
    });
    server.answers("apply_settings", |request: ApplySettingsRequest| match request.expected_version {
        7 => Err(Status::failed_precondition("the settings have version 8 by now")),
        _ => Ok(ApplySettingsResponse { version: 9, changes: vec![] }),
    });
    let place = Place::at(&server.socket());
    place.text(&["policy", "deny-client", "add", "192.0.2.0/24", "--no-wait"]);
    let asked = server.asked::<ApplySettingsRequest>("apply_settings");
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].mutation, asked[1].mutation, "another request is another change");
    let settings = asked[1].settings.clone().unwrap_or_default();
    assert_eq!(asked[1].expected_version, 8);
    assert_eq!(settings.user_quota, 5, "nothing else is touched");
    let policy = settings.policy.unwrap_or_default();
    assert_eq!(policy.client_deny, ["192.0.2.0/24"]);
    assert_eq!(policy.peer_allow, ["10.0.0.0/8"]);
    place.text(&["policy", "allow-peer", "add", "10.0.0.0/8"]);
    assert_eq!(server.asked::<ApplySettingsRequest>("apply_settings").len(), 2, "it is in there already");
}
