//! Every command against the real operator service.

use serde_json::Value;

use crate::command::Place;
use crate::replica::{Replica, now_ms};

fn fleet(servers: u16) -> (Replica, Place) {
    let replica = Replica::start(None);
    replica.join(servers, &[]);
    let place = Place::with(&replica.endpoint);
    (replica, place)
}

fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} in {document}"))
}

#[test]
fn what_there_is_is_shown() {
    let (_replica, place) = fleet(2);
    assert_eq!(place.json(&["status"])["store"], "embedded");
    assert!(place.text(&["status"]).contains("epoch"));
    assert_eq!(place.json(&["nodes"])["nodes"].as_array().map(Vec::len), Some(2));
    assert!(place.text(&["nodes", "--node", "1.2"]).contains("\n1.2   ready"));
    assert_eq!(place.json(&["sites"])["sites"][0]["nodes_ready"], 2);
    let table = place.text(&["table", "show", "1"]);
    assert!(table.contains("1.1       16      8          +8"), "{table}");
    assert_eq!(place.json(&["table", "show", "1", "--rows"])["rows"].as_array().map(Vec::len), Some(16));
    assert_eq!(place.json(&["table", "show", "1"])["rows"].as_array().map(Vec::len), Some(0));
    assert!(place.text(&["table", "diff", "1", "--since", "1h"]).starts_with("No row of site 1 moved"));
    assert!(place.text(&["slices"]).starts_with("There are no slices"));
    assert!(place.text(&["policy"]).contains("allow-client  (everybody)"));
    assert!(place.text(&["config", "show"]).contains("max-lifetime-s"));
}

#[test]
fn servers_are_added_weighed_drained_and_removed_and_all_that_is_in_the_log() {
    let (replica, place) = fleet(2);
    let token = place.json(&["nodes", "add", "1.3", "--weight", "2"]);
    assert!(text(&token, "/token").starts_with("tl1.1.3."));
    assert!(text(&token, "/command").contains(text(&token, "/token")));
    assert_eq!(place.json(&["nodes", "--node", "1.3"])["nodes"][0]["state"], "STATE_EXPECTED");
    assert!(place.fault(&["nodes", "add", "1.3"], 1).contains("1.3"));
    place.text(&["weight", "1.2", "0.25", "--reason", "slow disk"]);
    assert_eq!(place.json(&["nodes", "--node", "1.2"])["nodes"][0]["weight"], 0.25);
    for weight in ["0", "-1", "NaN", "1001"] {
        assert!(place.fault(&["weight", "1.2", weight], 1).contains("weight"), "{weight}");
    }
    place.text(&["drain", "1.1", "--no-wait"]);
    assert!(place.text(&["nodes"]).contains("\n1.1   draining"));
    place.text(&["undrain", "1.1"]);
    // 1.2 has no rows and no allocations: it is empty at once.
    assert_eq!(place.text(&["drain", "1.2"]), "1.2 is empty\n");
    place.text(&["nodes", "remove", "1.3"]);
    let events = place.text(&["events", "--last", "20", "--output", "json"]);
    let whats: Vec<String> = events
        .lines()
        .map(|line| text(&serde_json::from_str(line).expect("JSON"), "/what").to_owned())
        .collect();
    for what in ["AddNode", "SetWeight", "SetDrain", "RemoveNode"] {
        assert!(whats.iter().any(|other| other == what), "{what} in {whats:?}");
    }
    assert!(place.text(&["events"]).contains("(slow disk)"));
    drop(replica);
}

#[test]
fn a_drain_waits_for_the_rows_to_move() {
    let (replica, place) = fleet(2);
    let mut child = place.start(&["drain", "1.1"]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().expect("a pipe")));
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("16 rows left"))));
    replica.own(2);
    assert_eq!(child.wait().expect("an end").code(), Some(0));
}

#[test]
fn a_whole_site_is_drained_although_nobody_takes_its_rows() {
    let (_replica, place) = fleet(2);
    let ended = place.run(&["drain", "--site", "1"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("no other server of the site"), "{}", ended.err);
    assert_eq!(ended.out, "1.1, 1.2 are empty\n");
}

#[test]
fn keys_live_and_their_secrets_are_told_once() {
    let (_replica, place) = fleet(1);
    let made = place.json(&["keys", "create", "video service"]);
    let (id, secret) = (text(&made, "/key/id").to_owned(), text(&made, "/secret").to_owned());
    let listed = place.text(&["keys"]);
    assert!(listed.contains(&id) && listed.contains("video service") && !listed.contains(&secret));
    place.text(&["keys", "rename", &id, "audio service"]);
    assert!(place.text(&["keys", "list"]).contains("audio service"));
    place.text(&["keys", "revoke", &id, &format!("4102444800:{id}:alice")]);
    place.text(&["keys", "rotate-fleet-key"]);
    assert!(!place.json(&["keys"])["fleet_keys"].as_array().expect("a list").is_empty());
    place.text(&["keys", "delete", &id]);
    assert!(place.fault(&["keys", "delete", &id], 1).contains(&id));
    assert!(!place.text(&["events"]).contains(&secret));
}

#[test]
fn a_command_given_twice_under_one_key_is_done_once() {
    let (_replica, place) = fleet(1);
    let create = ["--idempotency-key", "mine", "keys", "create", "once"];
    assert_eq!(place.json(&create), place.json(&create));
    assert_eq!(place.text(&["keys"]).matches("once").count(), 1);
    assert!(
        place.fault(&["--idempotency-key", "mine", "keys", "create", "other"], 1).contains("idempotency_key")
    );
}

#[test]
fn settings_are_checked_shown_by_field_and_applied() {
    let (_replica, place) = fleet(1);
    place.write("settings.toml", "user-quota = 7\n[policy]\npeer-allow = [\"10.0.0.0/8\"]\n");
    let dry = place.text(&["config", "apply", "settings.toml", "--dry-run"]);
    assert!(dry.contains("user_quota") && dry.contains("policy.peer_allow"), "{dry}");
    assert!(place.text(&["config", "show"]).contains("user-quota = 0"));
    let applied = place.json(&["config", "apply", "settings.toml", "--at-once", "--no-wait"]);
    let version = applied["version"].as_u64().expect("a version");
    let shown = place.text(&["config", "show"]);
    assert!(shown.contains("user-quota = 7") && shown.contains(&format!("version {version}")), "{shown}");
    let stale = (version - 1).to_string();
    if version > 1 {
        place.fault(&["config", "apply", "settings.toml", "--expected-version", &stale], 1);
    }
    place.write("settings.toml", "max-lifetime-s = 5\n");
    assert!(place.fault(&["config", "apply", "settings.toml"], 1).contains("max_lifetime_s"));
    let refused = place.fault(&["policy", "allow-peer", "add", "127.0.0.0/8"], 1);
    assert!(refused.contains("127.0.0.0/8"), "{refused}");
    place.text(&["policy", "deny-client", "add", "192.0.2.0/24", "--at-once", "--no-wait"]);
    assert!(place.text(&["policy", "show"]).contains("deny-client   192.0.2.0/24"));
    place.text(&["policy", "deny-client", "remove", "192.0.2.0/24", "--at-once", "--no-wait"]);
    assert!(place.text(&["policy", "show"]).contains("deny-client   (nobody)"));
    assert!(place.text(&["policy", "show"]).contains("10.0.0.0/8"));
}

#[test]
fn usage_is_shown_by_key_and_as_csv() {
    let (replica, place) = fleet(1);
    let hour = now_ms() / 1_000 / 3_600 * 3_600 - 3_600;
    replica.count(hour, "k1", "ann", 5_000_000);
    replica.count(hour, "k2", "bob", 7);
    let by_key = place.json(&["usage", "--by", "key"]);
    assert_eq!(by_key["entries"].as_array().map(Vec::len), Some(2));
    assert!(place.text(&["usage"]).contains("5.0 MB"));
    let csv = place.text(&["usage", "--csv", "--key", "k2"]);
    assert!(csv.ends_with(&format!("{hour},k2,bob,7,0,0,0,1\r\n")), "{csv}");
}

#[test]
fn an_allocation_that_is_not_there_is_not_closed() {
    let (_replica, place) = fleet(1);
    let ended = place.run(&["--timeout", "2s", "allocations", "close", "1.1", "none"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    // No server has a session here: the list says that it is not whole.
    assert!(place.fault(&["allocations"], 3).contains("1.1"));
}

#[test]
fn the_doctor_finds_what_servers_say_is_wrong() {
    let (replica, place) = fleet(1);
    let healthy = place.run(&["doctor", "--output", "json"]);
    let healthy: Value = serde_json::from_str(&healthy.out).expect("JSON");
    assert_eq!(healthy["problems"], 1, "nobody plans in this test: {healthy}");
    replica.join(1, &["the disk is full"]);
    let ended = place.run(&["doctor"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.contains("problem  servers       server 1.1: the disk is full"), "{}", ended.out);
    assert!(ended.err.ends_with("trunklinectl: 2 problems\n"), "{}", ended.err);
}

#[test]
fn roles_come_from_the_certificate() {
    let place = Place::new();
    place.text(&["ca", "init", "ca"]);
    place.text(&["ca", "issue", "replica", "one", "--dir", "ca", "--out", "one"]);
    for role in ["viewer", "operator", "admin"] {
        place.text(&["ca", "issue", "operator", role, "--role", role, "--dir", "ca", "--out", role]);
    }
    place.text(&["ca", "init", "others"]);
    place.text(&["ca", "issue", "operator", "eve", "--role", "admin", "--dir", "others", "--out", "eve"]);
    let replica = Replica::start(Some(&place.path("one")));
    replica.join(2, &[]);
    let by = |identity: &str, command: &[&str]| {
        place.run(&[&["--endpoint", &replica.endpoint, "--identity", identity], command].concat())
    };
    assert_eq!(by("viewer", &["nodes"]).code, Some(0));
    let refused = by("viewer", &["weight", "1.1", "2"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.starts_with("trunklinectl: not allowed: ") && refused.err.contains("operator"),
        "{refused:?}"
    );
    assert_eq!(by("operator", &["weight", "1.1", "2"]).code, Some(0));
    assert!(by("operator", &["keys", "create", "x"]).err.contains("admin"));
    assert_eq!(by("admin", &["keys", "create", "x"]).code, Some(0));
    assert!(by("admin", &["events"]).out.contains("admin"), "the log names who it was");
    let stranger = by("eve", &["nodes"]);
    assert!(stranger.err.contains("not a replica that is trusted here"), "{stranger:?}");
    std::fs::copy(place.path("one/roots.pem"), place.path("eve/roots.pem")).expect("a copy");
    let stranger = by("eve", &["nodes"]);
    assert!(stranger.err.contains("refused this certificate"), "{stranger:?}");
    let doctor = by("viewer", &["doctor"]);
    assert!(doctor.out.contains("ok       certificates"), "{doctor:?}");
}
