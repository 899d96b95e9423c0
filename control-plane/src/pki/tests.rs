//! What the authority makes, and that it destroys nothing.

use rcgen::CertificateSigningRequest;

use super::directory::{Directory, RotationStep};
use super::fixture::{Fleet, mode};
use super::*;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

#[test]
fn keys_are_for_their_owner_alone() {
    let fleet = Fleet::new();
    let files = fleet.files("trunkline://node/1.2");
    for path in ["ca/root.key", "ca/issuer.key", "ca/store.key"] {
        assert_eq!(mode(&fleet.path(path)), 0o600, "{path}");
    }
    assert_eq!(mode(&files.key), 0o600);
    assert_eq!(mode(&fleet.path("ca")), 0o700);
    assert_eq!(mode(files.key.parent().expect("a directory")), 0o700);
}

#[test]
fn a_key_that_others_can_read_is_refused_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt;
    let fleet = Fleet::new();
    let key = fleet.path("ca/issuer.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    let error = fleet.authority.issuer().err().expect("refused").to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[test]
fn nothing_is_overwritten() {
    let fleet = Fleet::new();
    let before = std::fs::read(fleet.path("ca/root.key")).expect("a key");
    assert!(matches!(Directory::init(&fleet.path("ca")), Err(PkiError::Exists(_))));
    assert_eq!(std::fs::read(fleet.path("ca/root.key")).expect("a key"), before);

    let out = fleet.path("out");
    let node = name("trunkline://node/1.2");
    fleet.authority.issue_into(&node, None, &out).expect("issued");
    let before = std::fs::read(out.join("key.pem")).expect("a key");
    assert!(matches!(fleet.authority.issue_into(&node, None, &out), Err(PkiError::Exists(_))));
    assert_eq!(std::fs::read(out.join("key.pem")).expect("a key"), before);
}

#[test]
fn a_directory_without_an_authority_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    assert!(matches!(Directory::open(directory.path()), Err(PkiError::File { .. })));
}

#[test]
fn a_certificate_lasts_as_long_as_its_kind_unless_it_is_said() {
    let issuer = Fleet::new().authority.issuer().expect("an issuer");
    for (text, days) in [
        ("trunkline://node/1.2", 30),
        ("trunkline://replica/r1", 90),
        ("trunkline://operator/admin/alice", 365),
    ] {
        let left = |lifetime| {
            let issued = issuer.issue(&name(text), lifetime).expect("issued");
            let expires = expires(&issued.chain).expect("a date");
            expires.duration_since(SystemTime::now()).expect("in the future").as_secs()
        };
        assert!((days * DAY_S - 5..=days * DAY_S).contains(&left(None)), "{text}");
        assert!((295..=300).contains(&left(Some(Duration::from_secs(300)))), "{text}");
    }
}

#[test]
fn no_certificate_outlives_its_issuer() {
    let issuer = Fleet::new().authority.issuer().expect("an issuer");
    let issued = issuer.issue(&name("trunkline://node/1.2"), Some(Duration::from_secs(20 * 365 * DAY_S)));
    assert_eq!(expires(&issued.expect("issued").chain).expect("a date"), issuer.expires);
}

#[test]
fn an_issuer_with_another_key_is_refused() {
    let (one, other) = (Fleet::new(), Fleet::new());
    let error = Issuer::from_files(&one.path("ca/issuer.pem"), &other.path("ca/issuer.key"));
    assert!(matches!(error, Err(PkiError::Malformed { .. })));
}

#[test]
fn a_request_is_signed_with_the_name_it_is_given_and_none_of_its_own() {
    let issuer = Fleet::new().authority.issuer().expect("an issuer");
    let key = KeyPair::generate().expect("a key");
    let mut wish = CertificateParams::default();
    wish.subject_alt_names =
        vec![SanType::URI("trunkline://operator/admin/mallory".try_into().expect("ASCII"))];
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let csr: CertificateSigningRequest = wish.serialize_request(&key).expect("a request");

    let chain = issuer.sign_csr(csr.der(), &name("trunkline://node/1.2"), None).expect("signed");

    let leaf = certificates(&chain).expect("a chain").remove(0);
    assert_eq!(Name::of_certificate(&leaf), Ok(name("trunkline://node/1.2")));
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).expect("a certificate");
    assert!(!parsed.is_ca());
    assert_eq!(parsed.subject().iter_common_name().count(), 1);
    assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
    assert_eq!(parsed.key_usage().expect("valid").expect("there").value.flags, 1);
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let issuer = Fleet::new().authority.issuer().expect("an issuer");
    let (_, mut csr) = request().expect("a request");
    *csr.last_mut().expect("bytes") ^= 1;
    let node = name("trunkline://node/1.2");
    for bad in [csr.as_slice(), b"", b"not a request", &[0x30; 9_000]] {
        assert!(matches!(issuer.sign_csr(bad, &node, None), Err(PkiError::Malformed { .. })));
    }
}

#[test]
fn the_root_at_the_end_of_a_chain_is_what_a_token_names() {
    let fleet = Fleet::new();
    let issuer = fleet.authority.issuer().expect("an issuer");
    let root = certificates(&fleet.authority.roots().expect("roots")).expect("PEM").remove(0);
    let expected: [u8; 32] = Sha256::digest(&root).into();
    assert_eq!(issuer.root_sha256().expect("a root"), expected);
    let issued = issuer.issue(&name("trunkline://replica/r1"), None).expect("issued");
    assert_eq!(root_sha256(&issued.chain).expect("a root"), expected);

    let without_root =
        issued.chain.split_inclusive("-----END CERTIFICATE-----\n").take(2).collect::<String>();
    assert!(root_sha256(&without_root).is_err());
    assert!(root_sha256("").is_err());
}

#[test]
fn a_rotation_trusts_both_roots_until_the_old_one_is_retired() {
    let fleet = Fleet::new();
    let root = |authority: &Directory| authority.issuer().expect("an issuer").root_sha256().expect("a root");
    let trusted = |authority: &Directory| -> Vec<[u8; 32]> {
        let roots = certificates(&authority.roots().expect("roots")).expect("PEM");
        roots.iter().map(|root| Sha256::digest(root).into()).collect()
    };
    let old = root(&fleet.authority);

    fleet.authority.rotate(RotationStep::Begin).expect("begun");
    assert_eq!(root(&fleet.authority), old);
    assert_eq!(trusted(&fleet.authority).len(), 2);

    fleet.authority.rotate(RotationStep::Switch).expect("switched");
    let new = root(&fleet.authority);
    assert_ne!(new, old);
    assert_eq!(trusted(&fleet.authority), [old, new]);

    fleet.authority.rotate(RotationStep::Retire).expect("retired");
    assert_eq!(trusted(&fleet.authority), [new]);
    assert_eq!(fleet.authority.next_step(), RotationStep::Begin);
    assert_eq!(mode(&fleet.path("ca/issuer.key")), 0o600);
}

#[test]
fn the_steps_of_a_rotation_keep_their_order() {
    let fleet = Fleet::new();
    let out_of_order = |step| matches!(fleet.authority.rotate(step), Err(PkiError::OutOfOrder(_)));
    assert!(out_of_order(RotationStep::Switch) && out_of_order(RotationStep::Retire));
    fleet.authority.rotate(RotationStep::Begin).expect("begun");
    assert!(out_of_order(RotationStep::Begin) && out_of_order(RotationStep::Retire));
    fleet.authority.rotate(RotationStep::Switch).expect("switched");
    assert!(out_of_order(RotationStep::Begin) && out_of_order(RotationStep::Switch));
}

#[test]
fn a_rotation_that_was_interrupted_ends_the_same() {
    let fleet = Fleet::new();
    let old = std::fs::read(fleet.path("ca/root.pem")).expect("a root");
    std::fs::create_dir(fleet.path("ca/next.new")).expect("a half of the first step");
    fleet.authority.rotate(RotationStep::Begin).expect("begun");
    // Half of the second step: the old root was kept and replaced, its issuer not yet.
    std::fs::create_dir(fleet.path("ca/previous")).expect("a directory");
    for name in ["root.key", "root.pem"] {
        let (now, next) = (fleet.path("ca").join(name), fleet.path("ca/next").join(name));
        std::fs::rename(&now, fleet.path("ca/previous").join(name)).expect("kept");
        std::fs::copy(next, now).expect("replaced");
    }
    fleet.authority.rotate(RotationStep::Switch).expect("switched");
    assert_eq!(std::fs::read(fleet.path("ca/previous/root.pem")).expect("kept"), old);
    assert!(fleet.authority.issuer().is_ok());
}

#[test]
fn a_new_issuer_under_the_same_root_signs() {
    let fleet = Fleet::new();
    let before = fleet.authority.issuer().expect("an issuer");
    fleet.authority.renew_issuer().expect("renewed");
    let after = fleet.authority.issuer().expect("an issuer");
    assert_eq!(before.root_sha256().expect("a root"), after.root_sha256().expect("a root"));
    assert_ne!(before.chain, after.chain);
}
