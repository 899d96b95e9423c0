//! Which certificates are good for a client, and which for a replica (threat 28).

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use zeroize::Zeroizing;

use super::*;
use crate::pki::Issued;

type Change = fn(&mut CertificateParams);

const DAY: Duration = Duration::from_secs(86_400);

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// What is changed in the certificate of node 1.2, and whether a replica takes it.
const CLIENTS: &[(&str, bool, Change)] = &[
    ("nothing", true, |_| {}),
    ("clientAuth alone", true, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
    ("serverAuth alone", false, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
    ("codeSigning alone", false, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
    ("expired", false, |p| {
        p.not_before = (std::time::SystemTime::now() - 2 * DAY).into();
        p.not_after = (std::time::SystemTime::now() - DAY).into();
    }),
    ("not yet valid", false, |p| p.not_before = (std::time::SystemTime::now() + DAY).into()),
    ("an authority", false, |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }),
    ("no name", false, |p| p.subject_alt_names.clear()),
    ("a name in the subject alone", false, |p| {
        p.subject_alt_names.clear();
        p.distinguished_name.push(rcgen::DnType::CommonName, "trunkline://node/1.2");
    }),
    ("a DNS name alone", false, |p| {
        p.subject_alt_names = vec![SanType::DnsName("node.1.2".try_into().expect("ASCII"))];
    }),
    ("another scheme alone", false, |p| p.subject_alt_names = vec![uri("spiffe://node/1.2")]),
    ("another scheme besides", true, |p| p.subject_alt_names.push(uri("spiffe://node/1.2"))),
    ("two names", false, |p| p.subject_alt_names.push(uri("trunkline://node/1.3"))),
    ("the same name twice", false, |p| p.subject_alt_names.push(uri("trunkline://node/1.2"))),
    ("an unknown kind", false, |p| p.subject_alt_names = vec![uri("trunkline://robot/1.2")]),
    ("an unknown role", false, |p| p.subject_alt_names = vec![uri("trunkline://operator/root/a")]),
    ("site 0", false, |p| p.subject_alt_names = vec![uri("trunkline://node/0.2")]),
    ("another spelling", false, |p| p.subject_alt_names = vec![uri("trunkline://node/01.2")]),
];

#[tokio::test]
async fn a_client_has_one_name_of_its_kind_and_a_certificate_for_clients() {
    let fleet = Fleet::new();
    let replica = replica(fleet.files("trunkline://replica/r1"), Bounds::default()).await;
    for (what, is_good, change) in CLIENTS {
        let files = fleet.forged("trunkline://node/1.2", change);
        let connected = connect(&replica.endpoint, &Trust::Files(files)).await;
        match connected {
            Ok(channel) => assert!(*is_good && check(channel).await.is_ok(), "{what}"),
            Err(ConnectError::Refused { fault, .. }) => assert!(!is_good, "{what}: {fault}"),
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

/// What is changed in the certificate of replica r1, and whether a client takes it.
const REPLICAS: &[(&str, bool, Change)] = &[
    ("nothing", true, |_| {}),
    ("clientAuth alone", false, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
    ("expired", false, |p| {
        p.not_before = (std::time::SystemTime::now() - 2 * DAY).into();
        p.not_after = (std::time::SystemTime::now() - DAY).into();
    }),
    ("another DNS name", false, |p| {
        p.subject_alt_names = vec![SanType::DnsName("example.com".try_into().expect("ASCII"))];
    }),
];

#[tokio::test]
async fn a_replica_has_the_server_name_and_a_certificate_for_servers() {
    let fleet = Fleet::new();
    let trust = Trust::Files(fleet.files("trunkline://node/1.2"));
    for (what, is_good, change) in REPLICAS {
        let replica = replica(fleet.forged("trunkline://replica/r1", change), Bounds::default()).await;
        match connect(&replica.endpoint, &trust).await {
            Ok(_) => assert!(is_good, "{what}"),
            Err(ConnectError::Untrusted { fault, .. }) => assert!(!is_good, "{what}: {fault}"),
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

#[tokio::test]
async fn neither_a_server_nor_an_operator_passes_for_a_replica() {
    let fleet = Fleet::new();
    let trust = Trust::Files(fleet.files("trunkline://node/1.2"));
    for name in ["trunkline://node/1.3", "trunkline://operator/admin/mallory"] {
        let replica = replica(fleet.files(name), Bounds::default()).await;
        let refused = connect(&replica.endpoint, &trust).await;
        assert!(matches!(refused, Err(ConnectError::Untrusted { .. })), "{name}");
    }
}

/// A chain that is longer than the issuer may make it: node 1.2 signs node 1.3.
fn signed_by_a_leaf(fleet: &Fleet) -> Issued {
    let middle = fleet.forged("trunkline://node/1.2", |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let chain = std::fs::read_to_string(&middle.certificate).expect("a chain");
    let key = KeyPair::from_pem(&std::fs::read_to_string(&middle.key).expect("a key")).expect("a key");
    let signer = rcgen::Issuer::from_ca_cert_pem(&chain, key).expect("a signer");
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![uri("trunkline://node/1.3")];
    let key = KeyPair::generate().expect("a key");
    let leaf = params.signed_by(&key, &signer).expect("signed");
    Issued { chain: leaf.pem() + &chain, key: Zeroizing::new(key.serialize_pem()) }
}

fn self_signed() -> Issued {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![uri("trunkline://node/1.2")];
    let key = KeyPair::generate().expect("a key");
    let leaf = params.self_signed(&key).expect("signed");
    Issued { chain: leaf.pem(), key: Zeroizing::new(key.serialize_pem()) }
}

#[tokio::test]
async fn only_a_chain_of_the_fleets_own_issuer_is_good() {
    let fleet = Fleet::new();
    let replica = replica(fleet.files("trunkline://replica/r1"), Bounds::default()).await;
    let name = "trunkline://node/1.2".parse().expect("a name");
    let strangers = Fleet::new().authority.issuer().expect("an issuer").issue(&name, None).expect("issued");
    let strange = [
        ("another fleet", strangers),
        ("nobody", self_signed()),
        ("a leaf that would be an authority", signed_by_a_leaf(&fleet)),
    ];
    for (issuer, issued) in strange {
        let refused = connect(&replica.endpoint, &Trust::Files(fleet.write("strange", &issued))).await;
        assert!(matches!(refused, Err(ConnectError::Refused { .. })), "signed by {issuer}: {refused:?}");
    }
}

#[tokio::test]
async fn an_expired_certificate_ends_new_connections_and_no_old_one() {
    let fleet = Fleet::new();
    let replica = replica(fleet.files("trunkline://replica/r1"), Bounds::default()).await;
    let expires = std::time::SystemTime::now() + Duration::from_secs(2);
    let files = fleet.forged("trunkline://node/1.2", |p| p.not_after = expires.into());
    let channel = connect(&replica.endpoint, &Trust::Files(files.clone())).await.expect("still good");
    let refused = async {
        while connect(&replica.endpoint, &Trust::Files(files.clone())).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await.expect("it expires");
    assert!(check(channel).await.is_ok());
}
