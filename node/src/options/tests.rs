//! The command line over the file, and what is refused.

use super::*;

fn matches(args: &[&str]) -> Result<ArgMatches, clap::Error> {
    let all = std::iter::once("up").chain(args.iter().copied());
    Options::augment_args(clap::Command::new("up")).try_get_matches_from(all)
}

fn parse(text: &str) -> Result<Options, FileError> {
    file::parse("t.toml", text)
}

fn refusal(text: &str) -> String {
    parse(text).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn the_command_line_wins_over_the_file_and_the_file_over_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.toml");
    std::fs::write(
        &path,
        "turn-port = 1111\ntls-port = 2222\naddress = [\"192.0.2.1\"]\nuser = [\"a:b:c\"]\njson = true\n",
    )
    .unwrap();
    let matches = matches(&["--config", path.to_str().unwrap(), "--turn-port", "3333"]).unwrap();
    let options = Options::from_matches(&matches).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((options.turn_port, options.tls_port, options.grace), (3333, 2222, 10));
    assert_eq!(options.address, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!((options.user[0].name.as_str(), options.user[0].password.reveal()), ("a", "b:c"));
    assert!(options.json);
}

#[test]
fn a_repeatable_option_of_the_command_line_replaces_that_of_the_file() {
    let file = parse("address = [\"192.0.2.1\", \"192.0.2.2\"]").ok().unwrap();
    let line = Options { address: vec!["192.0.2.9".parse().unwrap()], ..Options::default() };
    let merged = line.over(file, |field| field == "address");
    assert_eq!(merged.address, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_near_key() {
    assert_eq!(
        refusal("realm = \"x\"\n\nturn-prot = 3478\n"),
        "t.toml:3: unknown key \"turn-prot\"; did you mean \"turn-port\"?"
    );
    assert!(refusal("config = \"other.toml\"").contains("unknown key \"config\""));
    assert!(refusal("zzz = 1").starts_with("t.toml:1: unknown key \"zzz\"; `trunkline reference`"));
    let nested = "[fleet]\nnode = \"1.1\"\nencapsulation-adress = \"192.0.2.1:1\"\n";
    assert!(refusal(nested).contains("did you mean \"encapsulation-address\"?"), "{}", refusal(nested));
}

#[test]
fn a_wrong_type_or_value_is_refused_with_its_line_and_key() {
    for (text, line, word) in [
        ("realm = 5", 1, "realm"),
        ("\nturn-port = \"3478\"", 2, "turn-port"),
        ("turn-port = 70000", 1, "turn-port"),
        ("address = \"192.0.2.1\"", 1, "address"),
        ("address = [\"192.0.2.300\"]", 1, "address"),
        ("allow-peer = [\"10.0.0.0/33\"]", 1, "allow-peer"),
        ("allow-peer = [\"10.1.0.0/8\"]", 1, "10.0.0.0/8"),
        ("user = [\"alice\"]", 1, "NAME:PASSWORD"),
        ("static-auth-secret = \"\"", 1, "static-auth-secret"),
        ("realm", 1, "expected"),
        ("realm = \"x\"\nrealm = \"y\"", 2, "realm"),
    ] {
        let refusal = refusal(text);
        assert!(
            refusal.starts_with(&format!("t.toml:{line}: ")) && refusal.contains(word),
            "{text:?}: {refusal}"
        );
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = file::read(std::path::Path::new("/nonexistent/t.toml")).err().unwrap().to_string();
    assert!(error.contains("/nonexistent/t.toml") && error.contains("No such file"), "{error}");
}

#[test]
fn a_fleet_table_is_read() {
    let text = r#"
        [fleet]
        node = "1.1"
        encapsulation-address = "10.0.0.1:6080"
        key = "000102030405060708090a0b0c0d0e0f"
        members = [{ node = "1.2", encapsulation-address = "10.0.0.2:6080" }]
        slices = [{ address = "10.0.1.1", first-port = 10240, last-port = 11263, node = "1.2" }]
    "#;
    let fleet = parse(text).ok().unwrap().fleet.unwrap();
    assert_eq!(fleet.key.0[15], 15);
    assert_eq!(fleet.members[0].node, "1.2".parse().unwrap());
    assert_eq!(fleet.slices[0].first_port, 10_240);
    for (from, to) in [("\"1.1\"", "\"1\""), ("0f\"", "0\""), ("10240", "-1")] {
        assert!(parse(&text.replacen(from, to, 1)).is_err(), "{from} as {to}");
    }
}

#[test]
fn bad_values_on_the_command_line_are_refused() {
    for args in [
        ["--user", "alice"],
        ["--user", ":x"],
        ["--user", "a:"],
        ["--allow-peer", "10.0.0.0/99"],
        ["--turn-port", "x"],
        ["--address", "example.org"],
        ["--http", "8080"],
        ["--static-auth-secret", ""],
        ["--fleet", "1"],
    ] {
        assert!(matches(&args).is_err(), "{args:?}");
    }
    assert!(matches(&["--allow-peer", "10.1.2.3", "--allow-peer", "fd00::/8"]).is_ok());
}
