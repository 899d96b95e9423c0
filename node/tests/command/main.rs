//! The `trunkline` command as a user runs it: the built binary, on loopback.

mod client;
mod node;

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use client::Client;
use node::{Node, Ports, command};

/// Runs `trunkline` with `args`: exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = command().args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn bad_input_is_one_clear_line_and_a_non_zero_exit() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unknown_key = file("unknown.toml", "realm = \"x\"\nturn-prot = 1\n");
    let not_a_certificate = file("not.pem", "nothing");
    let data = directory.path().join("data").to_str().unwrap().to_owned();
    for (args, code, words) in [
        (vec!["up", "--turn-prot", "1"], 2, "'--turn-port'"),
        (vec!["up", "--user", "alice"], 2, "NAME:PASSWORD"),
        (vec!["up", "--turn-port", "99999"], 2, "--turn-port"),
        (vec!["down"], 2, "down"),
        (
            vec!["up", "--config", &unknown_key],
            1,
            "unknown.toml:2: unknown key \"turn-prot\"; did you mean \"turn-port\"?",
        ),
        (vec!["up", "--config", "/nonexistent.toml"], 1, "/nonexistent.toml"),
        (vec!["up", "--address", "192.0.2.77"], 1, "address 192.0.2.77 (--address) is not on this machine"),
        (vec!["up", "--relay-address", "0.0.0.0"], 1, "wildcard"),
        (vec!["up", "--realm", ""], 1, "--realm"),
        (vec!["up", "--allow-peer", "127.0.0.1"], 1, "never peers"),
        (vec!["up", "--tls-cert", "c.pem"], 1, "--tls-key"),
        (
            vec!["up", "--tls-cert", "/nonexistent.pem", "--tls-key", "/nonexistent.pem"],
            1,
            "/nonexistent.pem",
        ),
        (
            vec!["up", "--tls-cert", &not_a_certificate, "--tls-key", &not_a_certificate],
            1,
            "holds no certificate",
        ),
        (vec!["up", "--http", "192.0.2.77:80"], 1, "--http"),
        (vec!["up", "--join", "tl1"], 1, "--join is an option of `trunkline node` alone"),
        (vec!["up", "--asn-database", "/nonexistent.mmdb"], 1, "/nonexistent.mmdb"),
        (vec!["up", "--log", "a=b=c"], 1, "--log"),
        (vec!["up", "--data-dir", "/proc/none"], 1, "/proc/none"),
    ] {
        let is_up = args[0] == "up" && code == 1;
        let mut all = args.clone();
        let quiet = is_up && !args.contains(&"--log");
        all.extend(if quiet { &["--log", "error"][..] } else { &[] });
        all.extend(if is_up && !args.contains(&"--data-dir") { vec!["--data-dir", &data] } else { vec![] });
        all.extend(if is_up && !args.contains(&"--address") { &["--address", "127.0.0.1"][..] } else { &[] });
        assert_refused_in_one_line(&all, code, words);
    }
}

fn assert_refused_in_one_line(args: &[&str], code: i32, words: &str) {
    let (exit, out, err) = run(args);
    assert_eq!(exit, code, "{args:?}: {err}");
    assert_eq!(out, "", "{args:?}");
    assert!(err.starts_with("trunkline: ") && err.contains(words), "{args:?}: {err}");
    assert_eq!(err.trim_end().lines().count(), 1, "{args:?}: {err}");
}

#[test]
fn a_server_of_a_fleet_says_in_one_line_what_it_needs() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data").to_str().unwrap().to_owned();
    for (args, code, words) in [
        (&["node", "--data-dir", &data][..], 1, "--control-plane is missing"),
        (&["node", "--control-plane", "10.0.0.5"], 2, "https://10.0.0.5:7443"),
        (&["node", "--control-plane", "https://127.0.0.1:9", "--json"], 1, "option of `trunkline up` alone"),
        (&["node", "--control-plane", "https://127.0.0.1:9", "--data-dir", &data], 1, "no --join"),
        (
            &["node", "--control-plane", "https://127.0.0.1:9", "--data-dir", &data, "--join", "tl1.1"],
            1,
            "--join: not a join token",
        ),
        (&["control-plane"], 2, "--etcd"),
    ] {
        assert_refused_in_one_line(args, code, words);
    }
}

#[test]
fn a_busy_port_is_named() {
    let ports = Ports::free();
    let directory = tempfile::tempdir().unwrap();
    let refusal = || {
        let (exit, out, err) =
            run(&ports.arguments(directory.path()).iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((exit, out.as_str()), (1, ""), "{err}");
        assert_eq!(err.trim_end().lines().count(), 1, "{err}");
        assert!(err.contains("in use by another process"), "{err}");
        err
    };
    let http = TcpListener::bind(("127.0.0.1", ports.http)).unwrap();
    assert!(refusal().contains(&format!("127.0.0.1:{}", ports.http)));
    drop(http);
    let udp = UdpSocket::bind(("127.0.0.1", ports.turn)).unwrap();
    assert!(refusal().contains(&format!("127.0.0.1:{}/udp", ports.turn)));
    drop(udp);
    let tls = TcpListener::bind(("127.0.0.1", ports.tls)).unwrap();
    assert!(refusal().contains(&format!("127.0.0.1:{}", ports.tls)));
    drop(tls);
}

#[test]
fn help_and_reference_name_every_option() {
    let (exit, reference, _) = run(&["reference"]);
    assert_eq!(exit, 0);
    let mut help = String::new();
    for command in ["up", "node", "control-plane"] {
        let (exit, text, _) = run(&[command, "--help"]);
        assert_eq!(exit, 0);
        help += &text;
    }
    let options: Vec<&str> =
        reference.lines().filter_map(|line| line.strip_prefix("## `--")?.split([' ', '`']).next()).collect();
    assert!(options.len() > 25, "{options:?}");
    for option in options {
        assert!(help.contains(&format!("--{option}")), "{option}");
    }
    assert!(help.contains("Examples:"));
}

#[test]
fn a_second_start_keeps_keys_and_secrets_and_a_second_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = Node::start(directory.path(), &[]);
    let path = directory.path().join("quickstart.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(written, first.quickstart, "--json prints what the file holds");

    let other = Ports::free().arguments(directory.path());
    let (exit, _, err) = run(&other.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(exit, 1);
    assert!(err.contains("in use by another trunkline process"), "{err}");

    let (key, token) = (first.quickstart["turnKey"].clone(), first.quickstart["adminToken"].clone());
    assert!(first.stop().success());
    let second = Node::start(directory.path(), &[]);
    assert_eq!((&second.quickstart["turnKey"], &second.quickstart["adminToken"]), (&key, &token));
}

#[test]
fn the_words_for_a_person_end_with_ready_and_hold_what_they_need() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start_for_a_person(directory.path());
    let path = directory.path().join("quickstart.json");
    let quickstart: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let text = node.said();
    let link = format!(
        "/#key={}:{}",
        quickstart["turnKey"]["id"].as_str().unwrap(),
        quickstart["turnKey"]["secret"].as_str().unwrap()
    );
    for words in [link.as_str(), "\"iceServers\"", "Ctrl-C", "self-signed.crt", "quickstart.json"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    let json = &text[text.find("\n{").unwrap()..=text.find("\n}").unwrap() + 1];
    let ice: serde_json::Value = serde_json::from_str(json).unwrap();
    let server = &ice["iceServers"][1];
    let client = Client::new(node.ports.turn);
    client.allocate(server["username"].as_str().unwrap(), server["credential"].as_str().unwrap()).unwrap();
}

#[test]
fn a_revoked_credential_loses_its_allocation_within_five_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path(), &[]);
    let (id, secret) = node.key();
    let minted =
        node.http("POST", &format!("/v1/turn/keys/{id}/credentials/generate"), &secret, "{\"ttl\":60}");
    assert_eq!(minted.status, 201, "{}", minted.body);
    let minted: serde_json::Value = serde_json::from_str(&minted.body).unwrap();
    let (username, password) = (
        minted["iceServers"]["username"].as_str().unwrap(),
        minted["iceServers"]["credential"].as_str().unwrap(),
    );
    let client = Client::new(node.ports.turn);
    client.allocate(username, password).unwrap();
    assert_eq!(node.allocations(), 1);

    let revoked =
        node.http("POST", &format!("/v1/turn/keys/{id}/credentials/{username}/revoke"), &secret, "");
    assert_eq!(revoked.status, 204);
    let deadline = Instant::now() + Duration::from_secs(5);
    while node.allocations() > 0 {
        assert!(Instant::now() < deadline, "the allocation lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(Client::new(node.ports.turn).allocate(username, password), Err(401));
}

#[test]
fn the_operator_ends_an_allocation_and_deletes_a_key_with_all_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path(), &[]);
    let admin = node.quickstart["adminToken"].as_str().unwrap().to_owned();
    let (first, second) = (Client::new(node.ports.turn), Client::new(node.ports.turn));
    first.allocate("alice", "secret").unwrap();
    let listed: serde_json::Value =
        serde_json::from_str(&node.http("GET", "/v1/allocations", &admin, "").body).unwrap();
    assert_eq!(listed["allocations"][0]["username"], "alice");
    let path = format!("/v1/allocations/{}", listed["allocations"][0]["id"].as_str().unwrap());
    assert_eq!(node.http("DELETE", &path, &admin, "").status, 204);
    assert_eq!(node.http("DELETE", &path, &admin, "").status, 404);

    let made = node.http("POST", "/v1/turn/keys", &admin, "{\"name\":\"app\"}");
    let made: serde_json::Value = serde_json::from_str(&made.body).unwrap();
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    let minted = node.http("POST", &format!("/v1/turn/keys/{id}/credentials/generate"), secret, "");
    let minted: serde_json::Value = serde_json::from_str(&minted.body).unwrap();
    let server = &minted["iceServers"];
    second.allocate(server["username"].as_str().unwrap(), server["credential"].as_str().unwrap()).unwrap();
    assert_eq!(node.http("DELETE", &format!("/v1/turn/keys/{id}"), &admin, "").status, 204);
    let deadline = Instant::now() + Duration::from_secs(5);
    while node.allocations() > 0 {
        assert!(Instant::now() < deadline, "the allocation lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn sigterm_refuses_new_allocations_and_ends_with_the_grace() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::start(directory.path(), &["--grace", "2"]);
    let client = Client::new(node.ports.turn);
    client.allocate("alice", "secret").unwrap();
    assert_eq!(node.http("GET", "/readyz", "", "").status, 200);

    let signalled = Instant::now();
    node.terminate();
    while node.http("GET", "/readyz", "", "").status != 503 {
        assert!(signalled.elapsed() < Duration::from_secs(1), "still ready");
    }
    assert!(Client::new(node.ports.turn).allocate("alice", "secret").is_err());
    assert!(node.wait().success());
    let took = signalled.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

#[test]
fn sigterm_ends_at_once_where_nothing_is_left_and_so_does_a_second_signal() {
    let directory = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let node = Node::start(directory.path(), &["--grace", "60"]);
    assert!(node.stop().success());
    let mut node = Node::start(directory.path(), &["--grace", "60"]);
    Client::new(node.ports.turn).allocate("alice", "secret").unwrap();
    node.terminate();
    while node.http("GET", "/readyz", "", "").status != 503 {}
    node.terminate();
    assert!(node.wait().success());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}
