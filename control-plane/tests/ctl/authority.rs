//! `trunklinectl ca`: files and the names in them.

use std::os::unix::fs::PermissionsExt;

use trunkline_control_plane::identity::Name;
use x509_parser::pem::Pem;

use crate::command::Place;

fn certificates(place: &Place, file: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read(place.path(file)).expect(file);
    Pem::iter_from_buffer(&text).map(|pem| pem.expect("PEM").contents).collect()
}

fn name(place: &Place, identity: &str) -> String {
    let chain = certificates(place, &format!("{identity}/cert.pem"));
    Name::of_certificate(&chain[0]).expect("a name").to_string()
}

fn mode(place: &Place, file: &str) -> u32 {
    std::fs::metadata(place.path(file)).expect(file).permissions().mode() & 0o777
}

#[test]
fn a_fleets_first_minute() {
    let place = Place::new();
    place.text(&["ca", "init", "ca"]);
    place.text(&["ca", "issue", "replica", "a", "--dir", "ca", "--out", "a"]);
    place.text(&["ca", "issue", "operator", "alice", "--role", "viewer", "--dir", "ca", "--out", "alice"]);
    let issued =
        place.json(&["ca", "issue", "node", "1.2", "--dir", "ca", "--out", "node", "--lifetime", "5m"]);
    assert_eq!(name(&place, "a"), "trunkline://replica/a");
    assert_eq!(name(&place, "alice"), "trunkline://operator/viewer/alice");
    assert_eq!(name(&place, "node"), "trunkline://node/1.2");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let left = issued["expires_unix_s"].as_u64().expect("an expiry").saturating_sub(now);
    assert!((200..=300).contains(&left), "{left} s");
    for file in ["ca/root.key", "ca/issuer.key", "ca/store.key", "alice/key.pem"] {
        assert_eq!(mode(&place, file), 0o600, "{file}");
    }
    assert_eq!(certificates(&place, "alice/roots.pem"), certificates(&place, "ca/root.pem"));
}

#[test]
fn nothing_is_overwritten_by_accident() {
    let place = Place::new();
    place.text(&["ca", "init", "ca"]);
    let root = certificates(&place, "ca/root.pem");
    assert!(place.fault(&["ca", "init", "ca"], 1).contains("ca/root.pem is there already"), "a second init");
    assert_eq!(certificates(&place, "ca/root.pem"), root);
    let issue = ["ca", "issue", "replica", "a", "--dir", "ca", "--out", "a"];
    place.text(&issue);
    let first = certificates(&place, "a/cert.pem");
    assert!(place.fault(&issue, 1).contains("--replace"), "a second certificate");
    assert_eq!(certificates(&place, "a/cert.pem"), first);
    place.text(&[&issue[..], &["--replace"]].concat());
    assert_ne!(certificates(&place, "a/cert.pem"), first);
}

#[test]
fn a_directory_without_an_authority_says_how_to_make_one() {
    let fault = Place::new().fault(&["ca", "show", "--dir", "ca"], 1);
    assert!(fault.contains("trunklinectl ca init ca"), "{fault}");
}

#[test]
fn a_rotation_goes_step_by_step_and_says_what_to_do_between_them() {
    let place = Place::new();
    place.text(&["ca", "init", "ca"]);
    let due = |expected: &str, roots: u64| {
        let shown = place.json(&["ca", "show", "--dir", "ca"]);
        assert_eq!(shown["rotation_due"], expected);
        assert_eq!(shown["trusted_roots"], roots);
    };
    let old = certificates(&place, "ca/root.pem");
    due("none", 1);
    assert!(place.fault(&["ca", "rotate", "retire", "--dir", "ca"], 1).contains("begin"), "too early");
    assert!(place.text(&["ca", "rotate", "--dir", "ca"]).contains("ca rotate switch"), "the next step");
    due("switch", 2);
    assert!(place.fault(&["ca", "rotate", "--dir", "ca"], 1).contains("switch"), "it does not begin twice");
    assert!(
        place.text(&["ca", "rotate", "switch", "--dir", "ca"]).contains("ca rotate retire"),
        "the last step"
    );
    due("retire", 2);
    place.text(&["ca", "rotate", "retire", "--dir", "ca"]);
    due("none", 1);
    assert_ne!(certificates(&place, "ca/root.pem"), old);
    assert_eq!(certificates(&place, "ca/roots.pem"), certificates(&place, "ca/root.pem"));
}

#[test]
fn an_issuer_is_renewed_under_the_same_root() {
    let place = Place::new();
    place.text(&["ca", "init", "ca"]);
    let (root, issuer) = (certificates(&place, "ca/root.pem"), certificates(&place, "ca/issuer.pem"));
    place.text(&["ca", "rotate", "--issuer", "--dir", "ca"]);
    assert_eq!(certificates(&place, "ca/root.pem"), root);
    assert_ne!(certificates(&place, "ca/issuer.pem"), issuer);
}
