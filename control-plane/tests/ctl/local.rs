//! Mistakes that no control plane is needed for.

use crate::command::Place;

#[test]
fn a_wrong_command_line_ends_with_code_2_and_the_usage() {
    let place = Place::new();
    for arguments in [
        &["no-such-command"][..],
        &["weight", "1.1"],
        &["weight", "one", "1"],
        &["drain"],
        &["drain", "1.1", "--site", "1"],
        &["nodes", "add", "1"],
        &["policy", "deny-asn", "add", "ASX"],
        &["usage", "--from", "yesterday"],
        &["ca", "issue", "operator", "alice", "--dir", "ca", "--out", "alice"],
        &["ca", "issue", "operator", "a/b", "--role", "admin", "--dir", "ca", "--out", "alice"],
        &["ca", "issue", "node", "0.1", "--dir", "ca", "--out", "node"],
        &["ca", "rotate", "switch", "--issuer", "--dir", "ca"],
    ] {
        let ended = place.run(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.out.is_empty(), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains("--help"), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn without_an_endpoint_it_says_what_to_give() {
    let fault = Place::new().fault(&["nodes"], 2);
    assert!(fault.contains("--endpoint https://HOST:PORT"), "{fault}");
    assert!(fault.contains("unix:"), "{fault}");
}

#[test]
fn an_endpoint_that_is_none_is_named() {
    let fault = Place::new().fault(&["--endpoint", "10.0.0.1:7443", "nodes"], 2);
    assert!(fault.contains("10.0.0.1:7443"), "{fault}");
}

#[test]
fn an_https_endpoint_wants_a_certificate() {
    let place = Place::new();
    let endpoint = ["--endpoint", "https://127.0.0.1:1"];
    let fault = place.fault(&[&endpoint[..], &["nodes"]].concat(), 2);
    assert!(fault.contains("--identity"), "{fault}");
    let fault = place.fault(&[&endpoint[..], &["--identity", "alice", "nodes"]].concat(), 1);
    assert!(fault.contains("alice/cert.pem"), "{fault}");
}

#[test]
fn nobody_at_the_endpoint_is_said_soon_and_says_where() {
    let place = Place::new();
    let begin = std::time::Instant::now();
    let fault = place.fault(&["--endpoint", "unix:nobody.sock", "nodes"], 1);
    assert!(fault.contains("unix:nobody.sock"), "{fault}");
    assert!(fault.contains("is it running"), "{fault}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn a_settings_file_with_a_fault_is_refused_before_anybody_is_asked() {
    let place = Place::new();
    place.write("bad.toml", "user-quota = 1\n\n[policy]\nclient-dney = []\n");
    let apply = ["--endpoint", "unix:nobody.sock", "config", "apply", "bad.toml"];
    let fault = place.fault(&apply, 1);
    assert!(fault.contains("bad.toml: line 4, column 1: policy.client-dney: unknown field"), "{fault}");
    place.write("bad.toml", "user-quota = -1\n");
    let fault = place.fault(&apply, 1);
    assert!(fault.contains("bad.toml: line 1, column 14: user-quota: "), "{fault}");
    std::fs::remove_file(place.path("bad.toml")).expect("the file");
    assert!(place.fault(&apply, 1).contains("bad.toml: cannot be read"), "a missing file");
}

#[test]
fn help_teaches_by_examples() {
    let place = Place::new();
    for command in
        ["nodes", "drain", "weight", "table", "slices", "keys", "policy", "allocations", "usage", "config"]
    {
        let help = place.text(&[command, "--help"]);
        assert!(help.contains("Example"), "{command}: {help}");
        assert!(help.contains("trunklinectl"), "{command}: {help}");
    }
}

#[test]
fn every_shell_gets_its_completions() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.text(&["completions", shell]).contains("rotate-fleet-key"), "{shell}");
    }
}
