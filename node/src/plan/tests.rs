//! Faults of options, each by itself, and what good options mean.

use super::*;

fn options(toml: &str) -> Options {
    toml::from_str(toml).unwrap_or_else(|error| panic!("{error}"))
}

fn fault(toml: &str) -> String {
    options(toml).check().err().map(|fault| fault.to_string()).unwrap_or_default()
}

fn fleet(slices: &str) -> String {
    format!(
        r#"
        [fleet]
        node = "1.1"
        encapsulation-address = "10.0.0.1:6080"
        key = "000102030405060708090a0b0c0d0e0f"
        members = [{{ node = "1.2", encapsulation-address = "10.0.0.2:6080" }}]
        slices = [{slices}]
        "#
    )
}

fn slice(first: u32, last: u32, node: &str) -> String {
    format!(r#"{{ address = "10.0.1.1", first-port = {first}, last-port = {last}, node = "{node}" }}"#)
}

#[test]
fn the_defaults_are_the_defaults_of_the_core() {
    let options = Options::default();
    assert_eq!(options.check(), Ok(()));
    let (ours, core) = (options.limits(&Settings::default()), Limits::default());
    assert_eq!(format!("{ours:?}"), format!("{core:?}"));
    assert!(options.threads() >= 1);
}

#[test]
fn each_fault_is_one_line_that_names_the_option() {
    for (toml, word) in [
        ("realm = \"\"", "--realm"),
        (&format!("realm = \"{}\"", "x".repeat(129)), "129 bytes"),
        ("tls-cert = \"a.pem\"", "--tls-key"),
        ("tls-key = \"a.pem\"", "--tls-cert"),
        ("turn-port = 0", "--turn-port 0"),
        ("turn-port = 5349", "both 5349"),
        ("threads = 65", "--threads 65"),
        ("max-lifetime = 599", "--max-lifetime 599"),
        ("max-permissions = 0", "--max-permissions 0"),
        ("max-channels = 16385", "--max-channels"),
        ("max-allocations = 0", "--max-allocations"),
        ("nonce-lifetime = 1", "--nonce-lifetime"),
        ("user = [\"a:b\", \"a:c\"]", "--user a"),
    ] {
        let fault = fault(toml);
        assert!(fault.contains(word) && !fault.contains('\n'), "{toml}: {fault}");
    }
}

#[test]
fn a_range_that_no_configuration_opens_is_explained() {
    for net in ["127.0.0.0/8", "169.254.169.254", "fe80::/64"] {
        let fault = fault(&format!("allow-peer = [\"{net}\"]"));
        assert!(fault.contains(net) && fault.contains("never peers"), "{fault}");
    }
    assert_eq!(fault("allow-peer = [\"10.0.0.0/8\"]"), "");
}

#[test]
fn slices_that_are_not_whole_overlap_or_have_no_owner_are_refused() {
    for (slices, word) in [
        (slice(10_241, 11_263, "1.1"), "multiple"),
        (slice(10_240, 11_262, "1.1"), "multiple"),
        (slice(11_264, 11_263, "1.1"), "multiple"),
        (slice(8_192, 9_215, "1.1"), "9216"),
        ([slice(10_240, 12_287, "1.1"), slice(11_264, 12_287, "1.2")].join(","), "overlaps"),
        (slice(10_240, 11_263, "1.3"), "1.3"),
    ] {
        let fault = fault(&fleet(&slices));
        assert!(fault.contains(word), "{slices}: {fault}");
    }
    let twice = fleet("").replace("\"1.2\"", "\"1.1\"");
    let listens_in_a_slice = fault(&format!("tls-port = 9216\n{}", fleet("")));
    assert!(listens_in_a_slice.contains("--tls-port 9216: must be 1 to 9215"), "{listens_in_a_slice}");
    assert_eq!(fault(&twice), "node 1.1 is named twice in the fleet");
}

#[test]
fn the_slice_table_is_that_of_the_fleet_and_other_addresses_are_ours() {
    let slices = [slice(10_240, 11_263, "1.1"), slice(64_512, 65_535, "1.2")].join(",");
    let options = options(&fleet(&slices));
    assert_eq!(options.check(), Ok(()));
    let (shared, own): (IpAddr, IpAddr) = ("10.0.1.1".parse().unwrap(), "10.0.0.1".parse().unwrap());
    let blocks = options.relay_blocks(&[shared, own]);
    assert_eq!(blocks.iter().map(|block| block.ip).collect::<Vec<_>>(), [shared, own]);
    let (ours, theirs) = (NodeId { site: 1, server: 1 }, NodeId { site: 1, server: 2 });
    assert_eq!(
        (blocks[0].owners[10], blocks[0].owners[63], blocks[0].owners[11]),
        (Some(ours), Some(theirs), None)
    );
    assert_eq!((blocks[1].owners[9], blocks[1].owners[8]), (Some(ours), None));
    assert_eq!(options.leased_addresses(), [shared]);
    assert_eq!(options.members()[&theirs], "10.0.0.2:6080".parse().unwrap());
}

#[test]
fn zero_is_no_limit() {
    let limits = options("max-bandwidth = 0\nnew-peers-per-second = 0").limits(&Settings::default());
    assert_eq!((limits.policer.bytes, limits.new_peers), (Rate::UNLIMITED, Rate::UNLIMITED));
    assert_eq!(limits.policer.packets.per_s, 20_000);
}

#[test]
fn options_of_the_other_command_are_refused_by_name() {
    for (toml, mode, word) in [
        (
            "control-plane = [\"https://10.0.0.5:7443\"]",
            Mode::Up,
            "--control-plane is an option of `trunkline node`",
        ),
        ("shared-relay-address = [\"192.0.2.1\"]", Mode::Up, "--shared-relay-address"),
        (
            "json = true\ncontrol-plane = [\"https://[::1]:7443/\"]",
            Mode::Node,
            "--json is an option of `trunkline up`",
        ),
        ("", Mode::Node, "--control-plane is missing"),
        (
            "control-plane = [\"https://a:1\"]\nrelay-address = [\"192.0.2.1\"]\nshared-relay-address = [\"192.0.2.1\"]",
            Mode::Node,
            "192.0.2.1 is both",
        ),
    ] {
        let fault = options(toml).check_for(mode).err().map(|fault| fault.to_string()).unwrap_or_default();
        assert!(fault.contains(word), "{toml}: {fault}");
    }
    let node = options(
        "control-plane = [\"https://replica.example:7443\"]\nencapsulation-address = \"10.0.0.1:6080\"",
    );
    assert_eq!(node.check_for(Mode::Node), Ok(()));
}
